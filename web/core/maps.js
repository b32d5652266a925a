/** Operations on maps, as in instdiff_core/maps.py: stretching, resizing, smoothing, and cutting. */

export const TINY = 1e-6;
const ROUNDING = 1e-5;
const LEVELS = 256;

/** A stack of maps of one size, one after the other, each row by row. */
export class Maps {
  /**
   * @param {number} count
   * @param {number} height
   * @param {number} width
   * @param {Float32Array} data
   */
  constructor(count, height, width, data = new Float32Array(count * height * width)) {
    this.count = count;
    this.height = height;
    this.width = width;
    this.data = data;
  }

  /** @returns {[number, number]} height and width */
  get size() {
    return [this.height, this.width];
  }

  /**
   * One of the maps. It shares its numbers with the stack.
   *
   * @param {number} number
   */
  map(number) {
    const cells = this.height * this.width;
    return this.data.subarray(number * cells, (number + 1) * cells);
  }

  /**
   * The maps from `first` on, to `end`. They share their numbers with the stack.
   *
   * @param {number} first
   * @param {number} end
   */
  slice(first, end = this.count) {
    const cells = this.height * this.width;
    return new Maps(end - first, this.height, this.width, this.data.subarray(first * cells, end * cells));
  }

  /**
   * Another map of this size, as a stack of one.
   *
   * @param {Float32Array} map
   */
  alone(map) {
    return new Maps(1, this.height, this.width, map);
  }

  /**
   * Every map as `change` makes it.
   *
   * @param {(map: Float32Array) => Float32Array} change
   */
  each(change) {
    const changed = new Maps(this.count, this.height, this.width);
    for (let number = 0; number < this.count; number++) changed.map(number).set(change(this.map(number)));
    return changed;
  }
}

/**
 * A map stretched to 0..1; a constant map becomes zero, and so does one with NaN.
 *
 * @param {Float32Array} map
 */
export function unitRange(map) {
  const [low, high] = range(map);
  const spread = high - low;
  const stretched = new Float32Array(map.length);
  if (spread > Math.max(ROUNDING * Math.max(Math.abs(high), Math.abs(low)), TINY)) {
    for (let i = 0; i < map.length; i++) stretched[i] = (map[i] - low) / spread;
  }
  return stretched;
}

/**
 * The smallest and the largest value of a map; NaN where it holds any.
 *
 * @param {Float32Array} map
 * @returns {[number, number]}
 */
export function range(map) {
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < map.length; i++) {
    low = Math.min(low, map[i]);
    high = Math.max(high, map[i]);
  }
  return [low, high];
}

/**
 * Which values each place of a new row is made of: `count` of them, with their weights.
 *
 * @typedef {{ count: number, indices: Int32Array, weights: Float32Array }} Taps
 * @typedef {"nearest" | "bilinear" | "bicubic" | "area"} Mode
 */

/**
 * How torch resizes a row, with `align_corners=False`.
 *
 * @param {number} length
 * @param {number} wanted
 * @param {Mode} mode
 * @returns {Taps}
 */
export function taps(length, wanted, mode) {
  const ratio = length / wanted;
  const count = { nearest: 1, bilinear: 2, bicubic: 4, area: Math.ceil(ratio) + 1 }[mode];
  const indices = new Int32Array(wanted * count);
  const weights = new Float32Array(wanted * count);
  for (let i = 0; i < wanted; i++) {
    const [first, row] = tapsAt(i, ratio, length, wanted, mode);
    row.forEach((weight, k) => {
      indices[i * count + k] = Math.min(Math.max(first + k, 0), length - 1);
      weights[i * count + k] = weight;
    });
  }
  return { count, indices, weights };
}

/**
 * The first value that place `i` is made of, and the weights of that and the next ones.
 *
 * @param {number} i
 * @param {number} ratio
 * @param {number} length
 * @param {number} wanted
 * @param {Mode} mode
 * @returns {[number, number[]]}
 */
function tapsAt(i, ratio, length, wanted, mode) {
  if (mode === "nearest") return [Math.floor(i * ratio), [1]];
  if (mode === "area") {
    const first = Math.floor((i * length) / wanted);
    const size = Math.ceil(((i + 1) * length) / wanted) - first;
    return [first, Array(size).fill(1 / size)];
  }
  const centre = (i + 0.5) * ratio - 0.5;
  const place = mode === "bilinear" ? Math.max(centre, 0) : centre;
  const first = Math.floor(place);
  const t = place - first;
  if (mode === "bilinear") return [first, [1 - t, t]];
  return [first - 1, [farWeight(1 + t), nearWeight(t), nearWeight(1 - t), farWeight(2 - t)]];
}

/** Torch's parameter of bicubic interpolation. */
const BEND = -0.75;

/** @param {number} t the distance, up to 1 */
const nearWeight = (t) => ((BEND + 2) * t - (BEND + 3)) * t * t + 1;

/** @param {number} t the distance, from 1 to 2 */
const farWeight = (t) => ((BEND * t - 5 * BEND) * t + 8 * BEND) * t - 4 * BEND;

/**
 * Maps at another size, by torch's interpolation `mode`.
 *
 * @param {Maps} maps
 * @param {[number, number]} size height and width
 * @param {Mode} mode
 */
export function resized(maps, [height, width], mode = "bilinear") {
  if (height === maps.height && width === maps.width) return maps;
  return mixed(maps, taps(maps.height, height, mode), taps(maps.width, width, mode));
}

/**
 * Maps under OpenCV's 5x5 Gaussian (sigma 1.1) with repeated borders, `times` over.
 *
 * @param {Maps} maps
 * @param {number} times
 */
export function blurred(maps, times) {
  const [down, across] = maps.size.map(gaussianTaps);
  let smooth = maps;
  for (let time = 0; time < times; time++) smooth = mixed(smooth, down, across);
  return smooth;
}

/** @param {number} length @returns {Taps} */
function gaussianTaps(length) {
  const count = 5;
  const row = Array.from({ length: count }, (_, k) => Math.exp(-((k - 2) ** 2) / (2 * 1.1 ** 2)));
  const total = row.reduce((sum, weight) => sum + weight);
  const clamped = (/** @type {number} */ place) => Math.min(Math.max(place, 0), length - 1);
  const places = [...Array(length * count).keys()];
  return {
    count,
    indices: Int32Array.from(places, (tap) => clamped(Math.floor(tap / count) + (tap % count) - 2)),
    weights: Float32Array.from(places, (tap) => row[tap % count] / total),
  };
}

/**
 * Maps of which every row, then every column is made anew.
 *
 * @param {Maps} maps
 * @param {Taps} down
 * @param {Taps} across
 */
function mixed(maps, down, across) {
  const wide = mixedAcross(maps, across);
  const height = down.indices.length / down.count;
  const { count, width } = wide;
  const result = new Maps(count, height, width);
  for (let number = 0; number < count; number++) {
    const from = wide.map(number);
    const to = result.map(number);
    for (let tap = 0; tap < down.indices.length; tap++) {
      const weight = down.weights[tap];
      const target = Math.floor(tap / down.count) * width;
      const source = down.indices[tap] * width;
      for (let x = 0; x < width; x++) to[target + x] += weight * from[source + x];
    }
  }
  return result;
}

/**
 * Maps of which every row is made anew.
 *
 * @param {Maps} maps
 * @param {Taps} across
 */
export function mixedAcross(maps, { count, indices, weights }) {
  const wide = new Maps(maps.count, maps.height, indices.length / count);
  const { data, width } = wide;
  for (let to = 0, from = 0; to < data.length; to += width, from += maps.width) {
    for (let x = 0, tap = 0; x < width; x++) {
      let sum = 0;
      for (let k = 0; k < count; k++, tap++) sum += weights[tap] * maps.data[from + indices[tap]];
      data[to + x] = sum;
    }
  }
  return wide;
}

/** The whole number next to a positive one, the even one of two: as Python and torch round. @param {number} value */
export const rounded = (value) => value + 2 ** 52 - 2 ** 52;

/**
 * The threshold that parts a map in 0..1 best in two (Otsu 1979).
 *
 * @param {Float32Array} map
 */
export function bestCut(map) {
  const counts = new Float64Array(LEVELS);
  for (let i = 0; i < map.length; i++) counts[rounded(Math.fround(map[i] * (LEVELS - 1)))]++;
  // float32 as in Python, so that of two cuts that are almost as good both choose the same
  const below = new Float32Array(LEVELS);
  const sums = new Float32Array(LEVELS);
  let share = 0;
  let sum = 0;
  counts.forEach((count, level) => {
    const part = Math.fround(count / map.length);
    below[level] = share += part;
    sums[level] = sum += Math.fround(part * Math.fround(level / (LEVELS - 1)));
  });
  let best = 0;
  let most = -Infinity;
  for (let level = 0; level < LEVELS; level++) {
    const away = Math.fround(Math.fround(sums[LEVELS - 1] * below[level]) - sums[level]);
    const parted = Math.fround(below[level] * Math.fround(1 - below[level]));
    const between = Math.fround(Math.fround(away * away) / Math.max(parted, Math.fround(TINY)));
    if (between > most) [best, most] = [level, between];
  }
  return (best + 0.5) / (LEVELS - 1);
}

/**
 * A map in 0..1 bent so that one half is where it parts best in two.
 *
 * @param {Float32Array} map
 */
export function centred(map) {
  const cut = bestCut(map);
  const above = Math.max(2 * (1 - cut), TINY);
  const bent = new Float32Array(map.length);
  for (let i = 0; i < map.length; i++) {
    const value = map[i];
    bent[i] = value < cut ? value / (2 * cut) : Math.min(Math.max(1 - (1 - value) / above, 0), 1);
  }
  return bent;
}
