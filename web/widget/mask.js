import { clean } from "./components.js";
import { shaped } from "./shape.js";

/** @typedef {import("../answer.js").Answer} Answer */

/**
 * The mask of each layer of an answer, cut at a threshold, without specks and holes, inside the noise mask, and then in a shape.
 *
 * @param {Answer} answer
 * @param {number} threshold 0: that of each layer's settings
 * @param {import("./shape.js").Shape} shape
 * @returns {Uint8Array[]} 1 where the mask is
 */
export function cut({ layers, width, levels }, threshold, shape) {
  return layers.map(({ soft, noiseMask, threshold: ofSettings, minArea }) => {
    const least = levels.filter((level) => level <= (threshold || ofSettings)).length;
    const mask = new Uint8Array(soft.length);
    for (let i = 0; i < mask.length; i++) mask[i] = soft[i] >= least ? 1 : 0;
    clean(mask, width, minArea);
    keepInside(mask, noiseMask);
    return shaped(mask, width, shape);
  });
}

/**
 * One mask of several.
 *
 * @param {Uint8Array[]} masks
 */
export function join([first, ...others]) {
  const joined = first.slice();
  for (const other of others) for (let i = 0; i < joined.length; i++) joined[i] |= other[i];
  return joined;
}

/**
 * Take out of a mask what is outside another one, if there is one.
 *
 * @param {Uint8Array} mask
 * @param {Uint8Array | undefined} other
 */
export function keepInside(mask, other) {
  if (!other) return;
  for (let i = 0; i < mask.length; i++) mask[i] &= other[i];
}

/**
 * The words that act at a pixel of the picture, strongest first, each with its share from 0 to 1.
 *
 * @param {Answer} answer
 * @param {number} x
 * @param {number} y
 * @returns {{ number: number, value: number }[]}
 */
export function wordsAt({ words, wordMaps, width, height }, x, y) {
  const columns = neighbours(((x + 0.5) / width) * wordMaps.width - 0.5, wordMaps.width);
  const rows = neighbours(((y + 0.5) / height) * wordMaps.height - 0.5, wordMaps.height);
  const valueOf = (/** @type {number} */ number) => {
    let value = 0;
    for (const [row, down] of rows) {
      const start = (number * wordMaps.height + row) * wordMaps.width;
      for (const [column, across] of columns) value += down * across * wordMaps.data[start + column];
    }
    return value / 255;
  };
  return words
    .map((_, number) => ({ number, value: valueOf(number) }))
    .filter(({ value }) => value > 0)
    .sort((one, other) => other.value - one.value);
}

/**
 * The two cells around a place in a row of `length`, and their weights.
 *
 * @param {number} place
 * @param {number} length
 * @returns {[number, number][]}
 */
function neighbours(place, length) {
  const inside = Math.min(Math.max(place, 0), length - 1);
  const first = Math.floor(inside);
  return [
    [first, 1 - (inside - first)],
    [Math.min(first + 1, length - 1), inside - first],
  ];
}
