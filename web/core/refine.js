/** From a record to the instant mask, as `refine_record` in instdiff_core/refine.py. */

import { clean } from "./components.js";
import { EdgeFilter } from "./edges.js";
import { Maps, centred, resized, rounded, taps } from "./maps.js";
import { byAttention, byChange, readAttention, readChange } from "./methods.js";
import { targetNumbers } from "./words.js";

const PICTURE_RADIUS = 2;

/**
 * What moves. Zero and no words stand for those of the settings, zero steps for all.
 *
 * @typedef {object} Choice
 * @property {number} threshold
 * @property {string[]} words
 * @property {number} steps
 */

/**
 * @typedef {object} InstantMask
 * @property {Float32Array} soft in 0..1; not to be changed
 * @property {Uint8Array} binary 1 where `soft` reaches the threshold, without specks and holes
 * @property {number} width
 * @property {number} height
 * @property {number} index the number of the index word
 * @property {Int8Array} weights of the words: +1 goes with the mask, -1 against it, 0 neither
 * @property {boolean} fits whether the prompt contradicts nothing that stands out, so that the mask is the rest
 * @property {number} area the part of the picture that is in the mask
 * @property {number} threshold that was used
 * @property {string[]} words that were named
 */

/** Makes masks from a record. What does not depend on what moved is kept from the last time. */
export class Refinery {
  /**
   * @param {import("./evidence.js").AttentionRecord} record
   * @param {ImageData[]} pictures none, one for all, or one for each of the batch, at the record's size
   * @throws {Error} for pictures of another number or size.
   */
  constructor(record, pictures = []) {
    const [height, width] = record.imageSize;
    if (![0, 1, record.batch].includes(pictures.length)) throw new Error("The record has another number of pictures.");
    if (pictures.some((picture) => picture.height !== height || picture.width !== width)) {
      throw new Error("The picture has another size than the record.");
    }
    const { latentSize: size, settings } = record;
    this._record = record;
    this._change = latest((steps, group) => readChange(record.extents(steps, group)));
    this._first = latest((group) => readAttention(record.maps(1, group), size));
    this._attention = latest((steps, group) => readAttention(record.maps(steps, group), size));
    this._latentFilter = latest((group, height) => {
      const radius = 2 * Math.max(1, rounded(size[0] / height));
      return new EdgeFilter(record.guide(group), size, radius);
    });
    this._pictureFilter = latest((picture) => new EdgeFilter(channels(pictures[picture]), size, PICTURE_RADIUS));
    this._found = latest((steps, chosen, group) => {
      if (settings.method === "attention") {
        return byAttention(this._first(group), this._attention(steps, group), chosen, settings);
      }
      const evidence = this._change(steps, group);
      return byChange(evidence, this._latentFilter(group, evidence.words.height), chosen, settings);
    });
    this._soft = latest((steps, chosen, picture) => {
      const { soft } = this._found(steps, chosen, this._group(picture));
      if (settings.method === "attention") return resized(soft, record.imageSize).data;
      const followed = pictures.length ? this._pictureFilter(picture % pictures.length).follow(soft) : null;
      return centred((followed ?? resized(soft, record.imageSize)).data);
    });
    this._noiseMask = latest((picture) => {
      const noiseMask = record.noiseMask(picture);
      return noiseMask && resized(noiseMask, record.imageSize, "nearest").data;
    });
    this._softWithin = latest((steps, chosen, picture) => {
      const noiseMask = this._noiseMask(picture);
      const soft = this._soft(steps, chosen, picture);
      return noiseMask ? soft.map((value, i) => (noiseMask[i] ? value : 0)) : soft;
    });
  }

  /**
   * The mask at the size of the picture.
   *
   * @param {Choice} choice
   * @param {number} picture its number in the batch
   * @returns {InstantMask}
   * @throws {Error} for a word that is not in the edit prompt.
   */
  refine({ threshold, words, steps }, picture = 0) {
    const { settings, imageSize } = this._record;
    const named = words.length ? words : settings.target;
    const chosen = targetNumbers(this._record.words, named);
    const count = this._count(steps);
    const { roles, fits } = this._found(count, chosen, this._group(picture));
    const level = threshold || settings.threshold;
    const [height, width] = imageSize;
    const binary = cutAt(this._soft(count, chosen, picture), level);
    clean(binary, width, settings.min_area ?? 0);
    const area = keepWithin(this._noiseMask(picture), binary) / binary.length;
    const soft = this._softWithin(count, chosen, picture);
    return { soft, binary, width, height, ...roles, fits, area, threshold: level, words: named };
  }

  /**
   * The words that act at a pixel of the picture, strongest first: their extents there, in 0..1.
   *
   * @param {number} x
   * @param {number} y
   * @param {number} steps zero for all
   * @param {number} picture its number in the batch
   * @returns {{ number: number, value: number }[]}
   */
  wordsAt(x, y, steps = 0, picture = 0) {
    const { words } = this._change(this._count(steps), this._group(picture));
    const [height, width] = this._record.imageSize;
    const rows = tapsAt(words.height, height, y);
    const columns = tapsAt(words.width, width, x);
    return this._record.words
      .map((_, number) => {
        const map = words.map(number);
        let value = 0;
        for (const [row, down] of rows) {
          for (const [column, across] of columns) value += down * across * map[row * words.width + column];
        }
        return { number, value };
      })
      .filter(({ value }) => value > 0)
      .sort((one, other) => other.value - one.value);
  }

  /** @param {number} steps */
  _count(steps) {
    return Math.min(steps || this._record.steps, this._record.steps);
  }

  /** The pictures of which this one's mask is made. @param {number} picture */
  _group(picture) {
    return this._record.settings.share ? [...Array(this._record.batch).keys()] : [picture];
  }
}

/** @param {Float32Array} soft @param {number} threshold */
function cutAt(soft, threshold) {
  const level = Math.fround(threshold);
  const binary = new Uint8Array(soft.length);
  for (let i = 0; i < soft.length; i++) binary[i] = soft[i] >= level ? 1 : 0;
  return binary;
}

/**
 * Take what is outside a noise mask, if there is one, out of a mask.
 *
 * @param {Float32Array | undefined} noiseMask
 * @param {Uint8Array} binary
 * @returns {number} the pixels that are left
 */
function keepWithin(noiseMask, binary) {
  let count = 0;
  for (let i = 0; i < binary.length; i++) {
    if (noiseMask && !noiseMask[i]) binary[i] = 0;
    count += binary[i];
  }
  return count;
}

/** A picture's red, green and blue, in 0..1. @param {ImageData} picture */
function channels({ data, height, width }) {
  const maps = new Maps(3, height, width);
  for (let c = 0; c < 3; c++) {
    const map = maps.map(c);
    for (let i = 0; i < map.length; i++) map[i] = data[4 * i + c] / 255;
  }
  return maps;
}

/**
 * The two places of `length` between which pixel `i` of `wanted` lies, and their weights.
 *
 * @param {number} length
 * @param {number} wanted
 * @param {number} i
 */
function tapsAt(length, wanted, i) {
  const { count, indices, weights } = taps(length, wanted, "bilinear");
  const first = Math.min(Math.max(Math.floor(i), 0), wanted - 1) * count;
  return [0, 1].map((k) => [indices[first + k], weights[first + k]]);
}

/**
 * `make`, called again only with other arguments than the last time.
 *
 * @template {any[]} A
 * @template R
 * @param {(...given: A) => R} make
 * @returns {(...given: A) => R}
 */
function latest(make) {
  /** @type {string | undefined} */
  let key;
  /** @type {R} */
  let value;
  return (...given) => {
    const wanted = JSON.stringify(given);
    if (wanted !== key) {
      value = make(...given);
      key = wanted;
    }
    return value;
  };
}
