/** Following a picture's edges, as in instdiff_core/maps.py. */

import { Maps, TINY, mixedAcross, resized, taps } from "./maps.js";

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
    const meanMap = means.map(channels);
    functions.map(channels).set(meanMap);
    for (let d = 0; d < channels; d++) {
      const covariance = means.map(d);
      takeProduct(covariance, mean.map(d), meanMap);
      for (let c = 0; c < channels; c++) {
        addProduct(functions.map(c), inverses.map(c * channels + d), covariance);
      }
    }
    for (let c = 0; c < channels; c++) takeProduct(functions.map(channels), functions.map(c), mean.map(c));
    return functions;
  }

  /** @param {Maps} functions */
  _apply(functions) {
    const { count: channels, height, width, data: guide } = this._guide;
    const { data } = mixedAcross(functions, this._across);
    const { indices, weights } = this._down;
    const result = new Float32Array(height * width);
    const cells = functions.height * width;
    for (let y = 0, i = 0; y < height; y++) {
      const [near, far] = [weights[2 * y], weights[2 * y + 1]];
      let above = indices[2 * y] * width;
      let below = indices[2 * y + 1] * width;
      for (let x = 0; x < width; x++, i++, above++, below++) {
        let value = near * data[channels * cells + above] + far * data[channels * cells + below];
        for (let c = 0; c < channels; c++) {
          value += (near * data[c * cells + above] + far * data[c * cells + below]) * guide[c * result.length + i];
        }
        result[i] = Math.min(Math.max(value, 0), 1);
      }
    }
    return result;
  }
}

/**
 * Add the product of two maps to a third.
 *
 * @param {Float32Array} sum
 * @param {Float32Array} one
 * @param {Float32Array} other
 */
function addProduct(sum, one, other) {
  for (let i = 0; i < sum.length; i++) sum[i] += one[i] * other[i];
}

/**
 * Take the product of two maps off a third.
 *
 * @param {Float32Array} rest
 * @param {Float32Array} one
 * @param {Float32Array} other
 */
function takeProduct(rest, one, other) {
  for (let i = 0; i < rest.length; i++) rest[i] -= one[i] * other[i];
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
  const result = new Maps(guide.count, guide.height, guide.width);
  for (let i = 0; i < data.length; i++) result.data[i] = (data[i] - mean) / deviation;
  return result;
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
  const { data } = mean;
  const inverted = new Maps(products.count, small.height, small.width);
  const matrix = Array.from({ length: channels }, () => new Float64Array(2 * channels));
  for (let i = 0; i < cells; i++) {
    for (let c = 0; c < channels; c++) {
      for (let d = 0; d < channels; d++) {
        const variance = means[(c * channels + d) * cells + i] - data[c * cells + i] * data[d * cells + i];
        matrix[c][d] = variance + (c === d ? EDGE : 0);
        matrix[c][channels + d] = c === d ? 1 : 0;
      }
    }
    eliminate(matrix);
    for (let c = 0; c < channels; c++) {
      for (let d = 0; d < channels; d++) inverted.data[(c * channels + d) * cells + i] = matrix[c][channels + d];
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
  for (let c = 0; c < matrix.length; c++) {
    const row = matrix[c];
    const pivot = row[c];
    for (let k = 0; k < row.length; k++) row[k] /= pivot;
    for (const other of matrix) {
      if (other === row) continue;
      const factor = other[c];
      for (let k = 0; k < row.length; k++) other[k] -= factor * row[k];
    }
  }
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
  const means = new Maps(maps.count, height, width);
  // the sums over all that lies above and to the left
  const sums = new Float64Array((height + 1) * (width + 1));
  const [down, across] = maps.size.map((length) => windows(length, radius));
  for (let number = 0; number < maps.count; number++) {
    const map = maps.map(number);
    const mean = means.map(number);
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0, sum = 0, at = (y + 1) * (width + 1) + 1; x < width; x++, i++, at++) {
        sum += map[i];
        sums[at] = sums[at - width - 1] + sum;
      }
    }
    for (let y = 0, i = 0; y < height; y++) {
      const top = down.first[y] * (width + 1);
      const bottom = down.end[y] * (width + 1);
      const rows = down.end[y] - down.first[y];
      for (let x = 0; x < width; x++, i++) {
        const left = across.first[x];
        const right = across.end[x];
        const sum = sums[bottom + right] - sums[bottom + left] - sums[top + right] + sums[top + left];
        mean[i] = sum / (rows * (right - left));
      }
    }
  }
  return means;
}

/** Where the window around each place of a line begins and ends. @param {number} length @param {number} radius */
function windows(length, radius) {
  return {
    first: Int32Array.from({ length }, (_, i) => Math.max(i - radius, 0)),
    end: Int32Array.from({ length }, (_, i) => Math.min(i + radius + 1, length)),
  };
}
