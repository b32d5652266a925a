/** What a run says about where the prompt acts, as in instdiff_core/evidence.py. */

import { Maps } from "./maps.js";
import { readSafetensors } from "./safetensors.js";

export const [START, FIRST_WORD] = [0, 2];
export const [CHANGE, ERROR, ERROR_WITHOUT, FIRST_EXTENT] = [0, 1, 2, 3];

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
 * @property {number} [min_area]
 */

/**
 * @typedef {import("./safetensors.js").Tensor} Tensor
 * @typedef {Record<"maps" | "extents" | "guide" | "weights", Tensor> & { noise_mask?: Tensor }} Tensors
 */

/** The evidence of a run step by step. Pictures are given by their numbers in the batch; several give their mean. */
export class AttentionRecord {
  /**
   * @param {Tensors} tensors
   * @param {string[]} words
   * @param {number} scale the image pixels in one latent pixel
   * @param {MaskSettings} settings
   */
  constructor({ maps, extents, guide, weights, noise_mask: noiseMask }, words, scale, settings) {
    const [height, width] = guide.shape.slice(-2);
    this.words = words;
    this.settings = settings;
    this.steps = maps.shape[0];
    this.batch = maps.shape[1];
    /** Height and width in latent pixels. @type {[number, number]} */
    this.latentSize = [height, width];
    /** Height and width of the picture. @type {[number, number]} */
    this.imageSize = [height * scale, width * scale];
    this._noiseMasks = noiseMask && new Maps(this.batch, height, width, noiseMask.data);
    this._maps = new RunningMean(maps, weights.data.map(() => 1));
    this._extents = new RunningMean(extents, weights.data);
    this._guide = new RunningMean({ shape: [1, ...guide.shape], data: guide.data }, Float32Array.of(1));
  }

  /**
   * Cross-attention of the start token, the end token and the words: the mean over the first `steps`.
   *
   * @param {number} steps
   * @param {number[]} pictures
   */
  maps(steps, pictures) {
    return this._maps.after(steps, pictures);
  }

  /**
   * The signals and the words' extents: a mean over the first `steps`, each of which has its weight.
   *
   * @param {number} steps
   * @param {number[]} pictures
   */
  extents(steps, pictures) {
    return this._extents.after(steps, pictures);
  }

  /**
   * The latent of the picture.
   *
   * @param {number[]} pictures
   */
  guide(pictures) {
    return this._guide.after(1, pictures);
  }

  /**
   * Where the latent's own noise mask lets the sampler edit, not zero there; none: everywhere.
   *
   * @param {number} picture
   */
  noiseMask(picture) {
    return this._noiseMasks?.slice(picture, picture + 1);
  }
}

/** The mean of maps after each step, at hand for any of them. */
class RunningMean {
  /**
   * @param {Tensor} tensor ``[steps, batch, maps, h, w]``
   * @param {Float32Array} weights of the steps
   */
  constructor({ shape, data }, weights) {
    this._batch = shape[1];
    this._shape = shape.slice(2);
    this._sums = new Float32Array(data.length);
    this._totals = weights.slice();
    const size = data.length / weights.length;
    for (let i = 0; i < size; i++) this._sums[i] = weights[0] * data[i];
    for (let step = 1; step < weights.length; step++) {
      this._totals[step] += this._totals[step - 1];
      for (let i = step * size; i < (step + 1) * size; i++) {
        this._sums[i] = this._sums[i - size] + weights[step] * data[i];
      }
    }
  }

  /**
   * @param {number} steps
   * @param {number[]} pictures of which the mean is taken too
   */
  after(steps, pictures) {
    const [count, height, width] = this._shape;
    const mean = new Maps(count, height, width);
    const size = mean.data.length;
    const total = this._totals[steps - 1] * pictures.length;
    for (const picture of pictures) {
      const start = ((steps - 1) * this._batch + picture) * size;
      for (let i = 0; i < size; i++) mean.data[i] += this._sums[start + i] / total;
    }
    return mean;
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
    within(settings.negative, -1, 1) &&
    within(settings.min_area ?? 0, 0, 1);
  if (!right) throw new Error("The record's settings are wrong.");
}

/** @param {Partial<Tensors>} tensors @param {number} words */
function checkShapes({ maps, extents, guide, weights, noise_mask: noiseMask }, words) {
  const [steps, batch, , height, width] = maps?.shape ?? [];
  const [, channels, down, across] = guide?.shape ?? [];
  /** @type {[Tensor | undefined, number[]][]} */
  const expected = [
    [maps, [steps, batch, FIRST_WORD + words, height, width]],
    [extents, [steps, batch, FIRST_EXTENT + words, height, width]],
    [guide, [batch, channels, down, across]],
    [weights, [steps]],
  ];
  if (noiseMask) expected.push([noiseMask, [batch, down, across]]);
  const fit = expected.every(
    ([tensor, shape]) => String(tensor?.shape) === String(shape) && shape.every((side) => side > 0),
  );
  if (!fit) throw new Error("The record's maps do not fit together.");
  if (!weights?.data.every((weight) => weight >= 0)) throw new Error("The record's weights are wrong.");
}
