/**
 * The soft mask of an edit, which is yet to be cut at a threshold.
 *
 * @typedef {object} Layer
 * @property {Uint8Array} soft how many of the `levels` each pixel reaches
 * @property {Uint8Array} [noiseMask] 1 where the mask may be; none: everywhere
 * @property {Uint8Array} [own] 0 where a pixel belongs to another edit; none: nowhere
 * @property {number} threshold of the settings
 * @property {number} minArea of the settings
 */

/**
 * The server's answer to the question for a mask: a layer for each edit that was asked for, and what they rest on.
 *
 * @typedef {object} Answer
 * @property {Layer[]} layers
 * @property {Uint8Array} soft how many of the `levels` each pixel reaches in any of them
 * @property {number} width of the picture
 * @property {number} height
 * @property {number[]} levels the thresholds that `soft` tells apart, lowest first
 * @property {{ data: Uint8Array, width: number, height: number }} wordMaps where each word acts, 0 to 255, one map after the other
 * @property {string[]} edits the words of each edit of the run, in one text
 * @property {string[]} words of the edit prompts of the layers, one after the other
 * @property {Record<string, number[]>} numbers of the words that a name covers: each of `words`, the names that were asked for, and `target`; none: it is in none of the prompts
 * @property {string | null} nearest to the first name that is in none of the prompts
 * @property {string[]} target the words that the settings name
 * @property {number} steps of the run
 * @property {number} batch
 * @property {number[]} indices the number of each layer's index word
 * @property {number[]} weights of the words: +1 goes with the mask, -1 against it, 0 neither
 * @property {boolean} fits whether the prompts contradict nothing that stands out, so that the mask is the rest
 */

/** The server's refusal, with its reason: asked again, it would refuse again. */
export class Refusal extends Error {
  /**
   * @param {string} reason
   * @param {boolean} gone whether there is nothing any more that could be asked about
   */
  constructor(reason, gone) {
    super(reason);
    this.gone = gone;
  }
}

/**
 * Read what the server sends: a safetensors file of bytes, with everything else as JSON in its metadata.
 *
 * @param {ArrayBuffer} buffer
 * @returns {Answer}
 */
export function readAnswer(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const { __metadata__: metadata, ...tensors } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const data = (/** @type {string} */ name) => {
    if (!tensors[name]) return undefined;
    const [first, end] = tensors[name].data_offsets;
    return new Uint8Array(buffer, 8 + length + first, end - first);
  };
  const bytes = (/** @type {string} */ name) => /** @type {Uint8Array} */ (data(name));
  const [count, height, width] = tensors.soft.shape;
  const [, down, across] = tensors.word_maps.shape;
  const { thresholds, min_areas: minAreas, ...rest } = JSON.parse(metadata.answer);
  const size = height * width;
  const [soft, noiseMask, own] = [bytes("soft"), data("noise_mask"), data("own")];
  const layers = Array.from({ length: count }, (_, number) => ({
    soft: soft.subarray(number * size, (number + 1) * size),
    noiseMask: noiseMask?.subarray(number * size, (number + 1) * size),
    own,
    threshold: thresholds[number],
    minArea: minAreas[number],
  }));
  return {
    ...rest,
    ...{ layers, width, height, soft: largest(layers) },
    wordMaps: { width: across, height: down, data: bytes("word_maps") },
  };
}

/** @param {Layer[]} layers */
function largest([first, ...others]) {
  if (!others.length) return first.soft;
  const soft = first.soft.slice();
  for (const other of others) for (let at = 0; at < soft.length; at++) soft[at] = Math.max(soft[at], other.soft[at]);
  return soft;
}
