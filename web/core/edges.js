/** Following a picture's edges, as in instdiff_core/maps.py. */

import { Maps, TINY, mixRows, resized, taps } from "./maps.js";

const EDGE = 0.01;

/**
 * The fast guided filter (He and Sun 2015): brings a map to the size of a guide, with its edges.
 *
 * All that does not depend on the map is computed once.
 */
export class EdgeFilter {
  /**
   * @param {Maps} guide its channels
   * @param {[number, number]} size height and width of the maps to come
   * @param {number} radius of the windows, in pixels of those maps
   */
  constructor(guide, size, radius) {
    this._guide = standardised(guide);
    this._small = resized(this._guide, size, "area");
    this._radius = radius;
    this._mean = boxes(this._small, radius);
    this._inverses = inverses(this._small, this._mean, radius);
    this._down = taps(size[0], guide.height, "bilinear");
    this._across = taps(size[1], guide.width, "bilinear");
  }

  /**
   * @param {Maps} map one in 0..1, of the size that was promised
   * @returns {Maps} it at the size of the guide, in 0..1
   */
  follow(map) {
    return this._guide.alone(this._apply(boxes(this._functions(map.data), this._radius)));
  }

  /** Height and width of the guide. */
  get size() {
    return this._guide.size;
  }

  /**
   * The linear functions of the guide that fit the map best: a slope for each channel, then the offset.
   *
   * @param {Float32Array} map
   */
  _functions(map) {
    const { _small: small, _mean: mean, _inverses: inverses, _radius: radius } = this;
    const channels = small.count;
    const products = new Maps(channels + 1, small.height, small.width);
    for (let c = 0; c < channels; c++) multiply(small.map(c), map, products.map(c));
    products.map(channels).set(map);
    const means = boxes(products, radius);
    const functions = new Maps(channels + 1, small.height, small.width);
    const cells = map.length;
    const offsets = functions.map(channels);
    offsets.set(means.map(channels));
    for (let c = 0; c < channels; c++) {
      const slopes = functions.map(c);
      for (let d = 0; d < channels; d++) {
        for (let i = 0, at = channels * cells; i < cells; i++, at++) {
          const covariance = means.data[d * cells + i] - mean.data[d * cells + i] * means.data[at];
          slopes[i] += inverses[(c * channels + d) * cells + i] * covariance;
        }
      }
      for (let i = 0; i < cells; i++) offsets[i] -= slopes[i] * mean.data[c * cells + i];
    }
    return functions;
  }

  /** @param {Maps} functions */
  _apply(functions) {
    const { _guide: guide, _down: down, _across: across } = this;
    const { height, width, count: channels } = guide;
    const result = new Float32Array(height * width);
    const row = new Float32Array(functions.width);
    for (let y = 0; y < height; y++) {
      const line = result.subarray(y * width, (y + 1) * width);
      for (let c = 0; c <= channels; c++) {
        mixRows(functions.map(c), functions.width, down, y, row);
        addRow(line, row, across, c < channels ? guide.data.subarray((c * height + y) * width) : null);
      }
      for (let x = 0; x < width; x++) line[x] = Math.min(Math.max(line[x], 0), 1);
    }
    return result;
  }
}

/**
 * Add a row to a wider one, times that of a channel.
 *
 * @param {Float32Array} line
 * @param {Float32Array} row
 * @param {import("./maps.js").Taps} across of two values each
 * @param {Float32Array | null} channel
 */
function addRow(line, row, { indices, weights }, channel) {
  for (let x = 0, tap = 0; x < line.length; x++, tap += 2) {
    const value = row[indices[tap]] * weights[tap] + row[indices[tap + 1]] * weights[tap + 1];
    line[x] += channel ? value * channel[x] : value;
  }
}

/** The guide with mean 0 and deviation 1, over all channels. @param {Maps} guide */
function standardised(guide) {
  const { data } = guide;
  let sum = 0;
  for (let i = 0; i < data.length; i++) sum += data[i];
  const mean = sum / data.length;
  let squares = 0;
  for (let i = 0; i < data.length; i++) squares += (data[i] - mean) ** 2;
  const deviation = Math.max(Math.sqrt(squares / (data.length - 1)), TINY);
  return guide.each((map) => map.map((value) => (value - mean) / deviation));
}

/**
 * The inverse of the guide's covariance in each window, an entry after the other: ``[C, C, h, w]``.
 *
 * @param {Maps} small
 * @param {Maps} mean
 * @param {number} radius
 */
function inverses(small, mean, radius) {
  const channels = small.count;
  const cells = small.height * small.width;
  const products = new Maps(channels * channels, small.height, small.width);
  for (let c = 0; c < channels; c++) {
    for (let d = 0; d < channels; d++) multiply(small.map(c), small.map(d), products.map(c * channels + d));
  }
  const means = boxes(products, radius).data;
  const inverted = new Float64Array(means.length);
  const matrix = Array.from({ length: channels }, () => new Float64Array(2 * channels));
  for (let i = 0; i < cells; i++) {
    for (let c = 0; c < channels; c++) {
      for (let d = 0; d < channels; d++) {
        const variance = means[(c * channels + d) * cells + i] - mean.map(c)[i] * mean.map(d)[i];
        matrix[c][d] = variance + (c === d ? EDGE : 0);
        matrix[c][channels + d] = c === d ? 1 : 0;
      }
    }
    eliminate(matrix);
    for (let c = 0; c < channels; c++) {
      for (let d = 0; d < channels; d++) inverted[(c * channels + d) * cells + i] = matrix[c][channels + d];
    }
  }
  return inverted;
}

/**
 * Turn ``[A | I]`` into ``[I | inverse of A]`` (Gauss and Jordan), for a positive definite A.
 *
 * @param {Float64Array[]} matrix its rows
 */
function eliminate(matrix) {
  matrix.forEach((row, c) => {
    const pivot = row[c];
    for (let k = 0; k < row.length; k++) row[k] /= pivot;
    for (const other of matrix) {
      if (other === row) continue;
      const factor = other[c];
      for (let k = 0; k < row.length; k++) other[k] -= factor * row[k];
    }
  });
}

/**
 * @param {Float32Array} one
 * @param {Float32Array} other
 * @param {Float32Array} product what is written
 */
function multiply(one, other, product) {
  for (let i = 0; i < one.length; i++) product[i] = one[i] * other[i];
}

/** The mean over windows, cut at the border. @param {Maps} maps @param {number} radius */
function boxes(maps, radius) {
  const { height, width } = maps;
  return maps.each((map) => box(box(map, height, width, radius, width, 1), width, height, radius, 1, width));
}

/**
 * The mean over windows along one axis: `lines` lines of `length` values each.
 *
 * @param {Float32Array} map
 * @param {number} length
 * @param {number} lines
 * @param {number} radius
 * @param {number} step from a value to the next of its line
 * @param {number} stride from a line to the next
 */
function box(map, length, lines, radius, step, stride) {
  const means = new Float32Array(map.length);
  const sums = new Float64Array(length + 1);
  for (let line = 0; line < lines; line++) {
    const start = line * stride;
    for (let i = 0; i < length; i++) sums[i + 1] = sums[i] + map[start + i * step];
    for (let i = 0; i < length; i++) {
      const first = Math.max(i - radius, 0);
      const end = Math.min(i + radius + 1, length);
      means[start + i * step] = (sums[end] - sums[first]) / (end - first);
    }
  }
  return means;
}
