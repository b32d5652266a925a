/** The shape of a mask, as in instdiff_core/shape.py: holes filled, edges smoothed, all of it grown or shrunk. */

import { components, rootOf } from "./components.js";

/** @typedef {{ fillHoles: boolean, smooth: number, grow: number }} Shape */

/**
 * A mask of 0 and 1 in this shape: filled, then smoothed, then grown.
 *
 * @param {Uint8Array} mask
 * @param {number} width
 * @param {Shape} shape
 */
export function shaped(mask, width, { fillHoles, smooth, grow }) {
  if (fillHoles) mask = filled(mask, width);
  if (smooth) mask = fromSquares(mask, width, smooth, (count, pixels) => 2 * count > pixels);
  if (grow > 0) mask = fromSquares(mask, width, grow, (count) => count > 0);
  if (grow < 0) mask = fromSquares(mask, width, -grow, (count, pixels) => count === pixels);
  return mask;
}

/** @param {Uint8Array} mask @param {number} width */
function filled(mask, width) {
  const { starts, ends, parents } = components(mask, width, 0);
  const outside = new Set();
  starts.forEach((start, run) => {
    const atBorder = start % width === 0 || ends[run] % width === 0 || start < width || start >= mask.length - width;
    if (atBorder) outside.add(rootOf(parents, run));
  });
  const made = mask.slice();
  starts.forEach((start, run) => {
    if (!outside.has(rootOf(parents, run))) made.fill(1, start, ends[run]);
  });
  return made;
}

/**
 * What becomes of each pixel by how much of the mask, and how many pixels in all, are in the picture up to
 * `radius` from it, diagonals too.
 *
 * @param {Uint8Array} mask
 * @param {number} width
 * @param {number} radius
 * @param {(count: number, pixels: number) => boolean} keep
 */
function fromSquares(mask, width, radius, keep) {
  const height = mask.length / width;
  const row = width + 1;
  const sums = new Int32Array(row * (height + 1));
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0, sum = 0; x < width; x++, at++) {
      sum += mask[at];
      sums[(y + 1) * row + x + 1] = sums[y * row + x + 1] + sum;
    }
  }
  const made = new Uint8Array(mask.length);
  for (let y = 0, at = 0; y < height; y++) {
    const [top, bottom] = [Math.max(y - radius, 0), Math.min(y + radius + 1, height)];
    for (let x = 0; x < width; x++, at++) {
      const [left, right] = [Math.max(x - radius, 0), Math.min(x + radius + 1, width)];
      const count = sums[bottom * row + right] - sums[top * row + right] - sums[bottom * row + left] + sums[top * row + left];
      made[at] = keep(count, (bottom - top) * (right - left)) ? 1 : 0;
    }
  }
  return made;
}
