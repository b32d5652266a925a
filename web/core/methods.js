/** The two methods that make a mask of evidence, as in instdiff_core/refine.py. */

import { CHANGE, ERROR, ERROR_WITHOUT, FIRST_EXTENT, FIRST_WORD, START } from "./evidence.js";
import { Maps, TINY, blurred, centred, range, resized, unitRange } from "./maps.js";

const [FITS, CONTRADICTS] = [0.9, 1.2];
const FITTING = 1.03;
const SALIENT = 0.5;

/** @typedef {import("./evidence.js").MaskSettings} MaskSettings */

/**
 * What each word is to the mask: `weights` is +1 for words that go with it, -1 for words against it.
 *
 * @typedef {{ index: number, weights: Int8Array }} WordRoles
 */

/**
 * The soft mask in latent pixels, and whether the prompt contradicts nothing that stands out.
 *
 * @typedef {{ soft: Maps, roles: WordRoles, fits: boolean }} Found
 */

/**
 * What the extents say before any words are named: where the mask would be, and where the words are.
 *
 * @param {Maps} extents
 */
export function readChange(extents) {
  const salient = unitRange(extents.map(CHANGE));
  const [error, without] = [extents.map(ERROR), extents.map(ERROR_WITHOUT)];
  const ratio = error.map((value, i) => value / Math.max(without[i], TINY));
  const contradicts = (/** @type {number} */ value) => clamp((value - FITS) / (CONTRADICTS - FITS));
  const contradicted = unitRange(salient.map((value, i) => value * contradicts(ratio[i])));
  // a constant map says nothing: it fits, but leaves no rest
  const fits = range(salient)[1] > 0 && salient.every((value, i) => value < SALIENT || ratio[i] < Math.fround(FITTING));
  const place = fits ? salient.map((value) => 1 - value) : contradicted;
  return { place, fits, words: extents.slice(FIRST_EXTENT).each(unitRange) };
}

/**
 * Where the prompt would change the picture and contradicts it; where it contradicts nothing, all the rest.
 *
 * @param {ReturnType<typeof readChange>} evidence
 * @param {import("./edges.js").EdgeFilter} filter that follows the picture's latent
 * @param {number[]} chosen the numbers of the named words
 * @param {MaskSettings} settings
 * @returns {Found}
 */
export function byChange({ place, fits, words }, filter, chosen, settings) {
  const roles = findRoles(place, words, chosen, settings);
  const found = chosen.length ? unitRange(mean(words, chosen)) : place;
  const soft = filter.follow(resized(words.alone(found), filter.size));
  return { soft: blurred(soft, settings.blur).each(unitRange).each(centred), roles, fits: fits && !chosen.length };
}

/**
 * The rough foreground and the words' maps, each in 0..1, in latent pixels.
 *
 * @param {Maps} maps
 * @param {[number, number]} size
 */
export function readAttention(maps, size) {
  const start = finite(maps.map(START));
  const highest = range(start)[1];
  const rough = maps.alone(start.map((value) => highest - value));
  const [foreground, words] = [rough, maps.slice(FIRST_WORD)].map((part) =>
    resized(part.each(finite).each(ofHighest), size, "bicubic").each(unitRange),
  );
  return { rough: foreground.data, words };
}

/** A map with zeros for what is no number. @param {Float32Array} map */
function finite(map) {
  const result = new Float32Array(map.length);
  for (let i = 0; i < map.length; i++) result[i] = Number.isFinite(map[i]) ? map[i] : 0;
  return result;
}

/** A map in parts of its highest value. @param {Float32Array} map */
function ofHighest(map) {
  const highest = Math.max(range(map)[1], TINY);
  const result = new Float32Array(map.length);
  for (let i = 0; i < map.length; i++) result[i] = map[i] / highest;
  return result;
}

/**
 * The published method; the words get their roles from the first step.
 *
 * @param {ReturnType<typeof readAttention>} first
 * @param {ReturnType<typeof readAttention>} all
 * @param {number[]} chosen the numbers of the named words
 * @param {MaskSettings} settings
 * @returns {Found}
 */
export function byAttention(first, { words }, chosen, settings) {
  const roles = findRoles(first.rough, first.words, chosen, settings);
  const [inside, outside] = [1, -1].map((sign) => {
    const numbers = [...roles.weights.keys()].filter((number) => roles.weights[number] === sign);
    return unitRange(mean(words, numbers));
  });
  const difference = words.alone(inside.map((value, i) => Math.max(value - outside[i], 0)));
  return { soft: blurred(difference, settings.blur).each(unitRange), roles, fits: false };
}

/**
 * Index word and weights by cosine similarity.
 *
 * @param {Float32Array} rough
 * @param {Maps} words
 * @param {number[]} chosen the numbers of the named words
 * @param {MaskSettings} settings
 * @returns {WordRoles}
 */
function findRoles(rough, words, chosen, { positive, negative }) {
  const lengths = [...Array(words.count).keys()].map((number) => length(words.map(number)));
  const candidates = chosen.length ? chosen : [...lengths.keys()];
  const likeness = candidates.map((number) => dot(words.map(number), rough) / lengths[number]);
  const index = candidates[likeness.indexOf(Math.max(...likeness))];
  const weights = new Int8Array(words.count).map((_, number) => {
    if (number === index || chosen.includes(number)) return 1;
    const similarity = Math.fround(dot(words.map(number), words.map(index)) / (lengths[number] * lengths[index]));
    const against = similarity <= Math.fround(negative) ? 1 : 0;
    return (similarity >= Math.fround(positive) && !chosen.length ? 1 : 0) - against;
  });
  return { index, weights };
}

/** @param {Float32Array} map */
const length = (map) => Math.max(Math.sqrt(dot(map, map)), TINY);

/** @param {Float32Array} one @param {Float32Array} other */
function dot(one, other) {
  let sum = 0;
  for (let i = 0; i < one.length; i++) sum += one[i] * other[i];
  return sum;
}

/** The mean of some of the maps; zero of none. @param {Maps} maps @param {number[]} numbers */
function mean(maps, numbers) {
  const total = new Float32Array(maps.height * maps.width);
  for (const number of numbers) {
    const map = maps.map(number);
    for (let i = 0; i < total.length; i++) total[i] += map[i] / numbers.length;
  }
  return total;
}

/** @param {number} value */
const clamp = (value) => Math.min(Math.max(value, 0), 1);
