/** What a run says about where the prompt acts, as in instdiff_core/evidence.py. */

import { Maps } from "./maps.js";
import { readSafetensors } from "./safetensors.js";

export const [START, FIRST_WORD] = [0, 2];
export const [CHANGE, ERROR, ERROR_WITHOUT, FIRST_EXTENT] = [0, 1, 2, 3];
const FULL_NOISE = 2;

/** What the host allows for the side of a picture. */
const LARGEST_SIDE = 16384;

/**
 * How evidence becomes a mask: MaskSettings in instdiff_core/refine.py says what each means.
 *
 * @typedef {object} MaskSettings
 * @property {"attention" | "change"} method
 * @property {number} threshold
 * @property {string[]} target
 * @property {boolean} share
 * @property {number} blur
 * @property {number} positive
 * @property {number} negative
 */

/**
 * @typedef {import("./safetensors.js").Tensor} Tensor
 * @typedef {Record<"maps" | "extents" | "guide" | "sigmas", Tensor>} Tensors
 */

/** The evidence of a run step by step. Pictures are given by their numbers in the batch; several give their mean. */
export class AttentionRecord {
  /**
   * @param {Tensors} tensors
   * @param {string[]} words
   * @param {number} scale the image pixels in one latent pixel
   * @param {MaskSettings} settings
   */
  constructor(tensors, words, scale, settings) {
    this.words = words;
    this.settings = settings;
    [this.steps, this.batch] = tensors.maps.shape;
    const [height, width] = tensors.guide.shape.slice(-2);
    /** Height and width in latent pixels. @type {[number, number]} */
    this.latentSize = [height, width];
    /** Height and width of the picture. @type {[number, number]} */
    this.imageSize = [height * scale, width * scale];
    this._tensors = tensors;
  }

  /**
   * Cross-attention of the start token, the end token and the words: the mean over the first `steps`.
   *
   * @param {number} steps
   * @param {number[]} pictures
   */
  maps(steps, pictures) {
    return this._mean(this._tensors.maps, Array(steps).fill(1), pictures);
  }

  /**
   * The signals and the words' extents after the first `steps`, which count by their noise level.
   *
   * @param {number} steps
   * @param {number[]} pictures
   */
  extents(steps, pictures) {
    const sigmas = this._tensors.sigmas.data.subarray(0, steps);
    return this._mean(this._tensors.extents, Array.from(sigmas, (sigma) => Math.min(sigma, FULL_NOISE) ** 4), pictures);
  }

  /**
   * The latent of the picture.
   *
   * @param {number[]} pictures
   */
  guide(pictures) {
    return this._mean(this._tensors.guide, [1], pictures);
  }

  /**
   * @param {Tensor} tensor ``[steps, batch, maps, h, w]``, the steps left out where there is one
   * @param {number[]} weights of the steps
   * @param {number[]} pictures
   */
  _mean({ shape, data }, weights, pictures) {
    const [count, height, width] = shape.slice(-3);
    const size = count * height * width;
    const total = weights.reduce((sum, weight) => sum + weight) * pictures.length;
    const sums = new Float64Array(size);
    weights.forEach((weight, step) => {
      for (const picture of pictures) {
        const start = (step * this.batch + picture) * size;
        for (let i = 0; i < size; i++) sums[i] += weight * data[start + i];
      }
    });
    return new Maps(count, height, width, Float32Array.from(sums, (sum) => sum / total));
  }
}

/**
 * Read the file that Refine Instant Mask leaves for the browser.
 *
 * @param {ArrayBuffer} buffer
 * @throws {Error} with a sentence, for anything else.
 */
export function readRecord(buffer) {
  const { tensors, metadata } = readSafetensors(buffer);
  const words = readJson(metadata, "words");
  const scale = readJson(metadata, "scale");
  const settings = readJson(metadata, "settings");
  if (!areTexts(words) || !words.length) throw new Error("The record has no words.");
  if (!Number.isInteger(scale) || scale < 1) throw new Error("The record has no scale.");
  checkSettings(settings);
  const named = /** @type {Tensors} */ (Object.fromEntries(tensors));
  checkShapes(named, words.length);
  const sides = named.guide.shape.slice(-2).map((side) => side * scale);
  if (sides.some((side) => side > LARGEST_SIDE)) throw new Error("The record's picture is too large.");
  return new AttentionRecord(named, words, scale, settings);
}

/** @param {Map<string, string>} metadata @param {string} name */
function readJson(metadata, name) {
  try {
    return JSON.parse(metadata.get(name) ?? "");
  } catch {
    throw new Error(`The record has no ${name}.`);
  }
}

/** @param {unknown} value */
const areTexts = (value) => Array.isArray(value) && value.every((each) => typeof each === "string");

/** @param {any} settings */
function checkSettings(settings) {
  const within = (/** @type {unknown} */ value, /** @type {number} */ low, /** @type {number} */ high) =>
    typeof value === "number" && value >= low && value <= high;
  const right =
    ["attention", "change"].includes(settings?.method) &&
    within(settings.threshold, 0, 1) &&
    areTexts(settings.target) &&
    typeof settings.share === "boolean" &&
    within(settings.blur, 0, 16) &&
    Number.isInteger(settings.blur) &&
    within(settings.positive, -1, 1) &&
    within(settings.negative, -1, 1);
  if (!right) throw new Error("The record's settings are wrong.");
}

/** @param {Tensors} tensors @param {number} words */
function checkShapes({ maps, extents, guide, sigmas }, words) {
  const [steps, batch, , height, width] = maps?.shape ?? [];
  const expected = [
    [maps, [steps, batch, FIRST_WORD + words, height, width]],
    [extents, [steps, batch, FIRST_EXTENT + words, height, width]],
    [guide, [batch, ...(guide?.shape.slice(1, 4) ?? []), ...Array(4).fill(0)].slice(0, 4)],
    [sigmas, [steps]],
  ];
  const right = expected.every(
    ([tensor, shape]) => tensor && String(tensor.shape) === String(shape) && tensor.shape.every((side) => side > 0),
  );
  if (!right) throw new Error("The record's maps do not fit together.");
  if (!sigmas.data.every((sigma) => sigma > 0)) throw new Error("The record's noise levels are wrong.");
}
