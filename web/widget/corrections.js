/** What a person corrects in a mask by hand, as in instdiff_core/corrections.py, which says what each part means. */

import { components, rootOf } from "./components.js";

/** Lengths and places are whole numbers of this part of the picture's longer side. */
export const UNITS = 4096;

/** Characters that the node takes. */
const LONGEST = 10_000;

const FARTHEST = 4 * UNITS;

/** How many numbers an action has for a place. */
const NUMBERS = { add: 3, erase: 3, drop: 2 };

/** How far, in units and in radii of the brush, a point of a stroke may be from where it is left out. */
const [TOLERANCE, SHARE] = [4, 1 / 16];

/**
 * @typedef {keyof typeof NUMBERS} Name
 * @typedef {{ name: Name, places: number[][] }} Action `places`: x, y and, of strokes, the brush's radius
 * @typedef {Record<string, Action[]>} Corrections by the number of the picture
 * @typedef {{ action: Action, runs: number[] }} Piece what an action dropped: starts and ends of runs of pixels
 */

/**
 * @param {string} text
 * @returns {Corrections | null} null for what is none: anyone may have written it
 */
export function readCorrections(text) {
  if (!text.trim()) return {};
  if (text.length > LONGEST) return null;
  try {
    const values = JSON.parse(text);
    const entries = Object.entries(values).map(([number, actions]) => [number, actions.map(readAction)]);
    const isObject = typeof values === "object" && !Array.isArray(values);
    return isObject && entries.every(([number]) => /^\d{1,4}$/.test(number)) ? Object.fromEntries(entries) : null;
  } catch {
    return null;
  }
}

/**
 * @param {any} value
 * @returns {Action}
 */
function readAction([name, numbers, ...rest]) {
  const count = typeof name === "string" && Object.hasOwn(NUMBERS, name) ? NUMBERS[/** @type {Name} */ (name)] : 0;
  const valid = (/** @type {unknown} */ number) => Number.isInteger(number) && Math.abs(Number(number)) <= FARTHEST;
  if (rest.length || !count || !numbers.length || numbers.length % count || !numbers.every(valid)) throw new Error("no action");
  /** @type {number[][]} */
  const places = [];
  for (let at = 0; at < numbers.length; at += count) {
    const last = name === "drop" ? undefined : places.at(-1);
    places.push(numbers.slice(at, at + count).map((/** @type {number} */ number, /** @type {number} */ axis) => number + (last?.[axis] ?? 0)));
  }
  if (!places.every((place) => place.every(valid) && !(place[2] < 0))) throw new Error("too far");
  return { name, places };
}

/**
 * @param {Corrections} corrections
 * @returns {string | null} null where it is longer than the node takes
 */
export function writeCorrections(corrections) {
  const entries = Object.entries(corrections).filter(([, actions]) => actions.length);
  if (!entries.length) return "";
  const text = JSON.stringify(Object.fromEntries(entries.map(([number, actions]) => [number, actions.map(writeAction)])));
  return text.length <= LONGEST ? text : null;
}

/** @param {Action} action */
function writeAction({ name, places }) {
  const toNumbers = (/** @type {number[]} */ place, /** @type {number} */ index) =>
    name === "drop" || !index ? place : place.map((number, axis) => number - places[index - 1][axis]);
  return [name, places.flatMap(toNumbers)];
}

/**
 * A stroke with as few points as show it.
 *
 * @param {Name} name
 * @param {number[][]} points
 * @returns {Action}
 */
export function toStroke(name, points) {
  return { name, places: thinned(points.map((point) => point.map(Math.round))) };
}

/**
 * Douglas and Peucker's algorithm.
 *
 * @param {number[][]} points
 * @returns {number[][]}
 */
function thinned(points) {
  const [start, end] = [points[0], points[points.length - 1]];
  if (points.length < 3) return String(start) === String(end) ? [start] : points;
  let [farthest, most] = [0, 0];
  points.forEach((point, index) => {
    const distance = distanceToLine(point, start, end) / Math.max(TOLERANCE, point[2] * SHARE);
    if (distance > most) [farthest, most] = [index, distance];
  });
  if (most <= 1) return thinned([start, end]);
  return [...thinned(points.slice(0, farthest + 1)).slice(0, -1), ...thinned(points.slice(farthest))];
}

/** In place and radius. @param {number[]} point @param {number[]} start @param {number[]} end */
function distanceToLine(point, start, end) {
  const along = start.map((number, axis) => end[axis] - number);
  const length = along.reduce((sum, number) => sum + number ** 2, 0);
  const product = along.reduce((sum, number, axis) => sum + number * (point[axis] - start[axis]), 0);
  const share = length ? Math.min(Math.max(product / length, 0), 1) : 0;
  return Math.hypot(...point.map((number, axis) => number - start[axis] - share * along[axis]));
}

/**
 * Correct a mask of 0 and 1, which is changed.
 *
 * @param {Uint8Array} mask
 * @param {number} width
 * @param {Action[]} actions
 * @returns {Piece[]} what was dropped, in the order of the actions
 */
export function correct(mask, width, actions) {
  /** @type {Piece[]} */
  const pieces = [];
  for (const action of actions) {
    if (action.name === "drop") {
      pieces.push({ action, runs: drop(mask, width, action.places) });
    } else {
      const runs = runsOf(action, width, mask.length / width);
      for (let at = 0; at < runs.length; at += 2) mask.fill(action.name === "add" ? 1 : 0, runs[at], runs[at + 1]);
    }
  }
  return pieces;
}

/** @type {WeakMap<Action, { size: string, runs: number[] }>} the pixels of strokes, which the threshold does not move */
const drawn = new WeakMap();

/**
 * The runs of pixels that a stroke covers: their starts and ends, one after the other.
 *
 * @param {Action} stroke
 * @param {number} width
 * @param {number} height
 */
function runsOf(stroke, width, height) {
  const size = `${width} ${height}`;
  const kept = drawn.get(stroke);
  if (kept?.size === size) return kept.runs;
  const unit = Math.max(width, height) / UNITS;
  const points = stroke.places.map((place) => place.map((number) => number * unit));
  /** @type {number[]} */
  const runs = [];
  points.forEach((point, index) => {
    if (index || points.length === 1) addLine(runs, width, height, points[Math.max(index - 1, 0)], point);
  });
  drawn.set(stroke, { size, runs });
  return runs;
}

/**
 * The pixels from one point of a stroke to the next; the same numbers in the same order as in Python.
 *
 * @param {number[]} runs
 * @param {number} width
 * @param {number} height
 * @param {number[]} start
 * @param {number[]} end
 */
function addLine(runs, width, height, [x, y, radius], [endX, endY, endRadius]) {
  const most = Math.max(radius, endRadius);
  const [left, right] = [clip(Math.min(x, endX) - most, width), clip(Math.max(x, endX) + most + 1, width)];
  const [top, bottom] = [clip(Math.min(y, endY) - most, height), clip(Math.max(y, endY) + most + 1, height)];
  const [across, down] = [endX - x, endY - y];
  const length = across * across + down * down;
  for (let row = top; row < bottom; row++) {
    const offY = row + 0.5 - y;
    let open = false;
    for (let column = left; column < right; column++) {
      const offX = column + 0.5 - x;
      const share = length ? Math.min(Math.max((offX * across + offY * down) / length, 0), 1) : 0;
      const [restX, restY] = [offX - share * across, offY - share * down];
      const reach = radius + share * (endRadius - radius);
      const inside = restX * restX + restY * restY <= reach * reach;
      if (inside !== open) runs.push(row * width + column);
      open = inside;
    }
    if (open) runs.push(row * width + right);
  }
}

/** @param {number} place @param {number} length */
function clip(place, length) {
  return Math.min(Math.max(Math.floor(place), 0), length);
}

/**
 * Take a part out of a mask, but for what is nearer to the places of others in it.
 *
 * @param {Uint8Array} mask
 * @param {number} width
 * @param {number[][]} places
 * @returns {number[]} the runs of pixels that went
 */
function drop(mask, width, places) {
  const height = mask.length / width;
  const unit = Math.max(width, height) / UNITS;
  const pixels = places.map((place) => place.map((number) => Math.floor(number * unit)));
  const parts = components(mask, width, 1);
  const partOf = (/** @type {number[]} */ [x, y]) => {
    const at = x >= 0 && x < width && y >= 0 && y < height ? y * width + x : -1;
    const run = parts.starts.findIndex((start, number) => start <= at && at < parts.ends[number]);
    return run < 0 ? -1 : rootOf(parts.parents, run);
  };
  const part = partOf(pixels[0]);
  /** @type {number[]} */
  const runs = [];
  if (part < 0) return runs;
  const others = pixels.slice(1).filter((pixel) => partOf(pixel) === part);
  parts.starts.forEach((start, run) => {
    if (rootOf(parts.parents, run) !== part) return;
    for (let at = start, open = false; at <= parts.ends[run]; at++) {
      const goes = at < parts.ends[run] && isNearest(at % width, Math.floor(at / width), pixels[0], others);
      if (goes !== open) runs.push(at);
      if (goes) mask[at] = 0;
      open = goes;
    }
  });
  return runs;
}

/** @param {number} x @param {number} y @param {number[]} pixel @param {number[][]} others */
function isNearest(x, y, pixel, others) {
  const distance = (x - pixel[0]) ** 2 + (y - pixel[1]) ** 2;
  return others.every((other) => distance < (x - other[0]) ** 2 + (y - other[1]) ** 2);
}
