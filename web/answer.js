/**
 * The server's answer to the question for a mask: a soft mask, which is yet to be cut at a threshold, and what it rests on.
 *
 * @typedef {object} Answer
 * @property {Uint8Array} soft how many of the `levels` each pixel reaches
 * @property {number} width of the picture
 * @property {number} height
 * @property {number[]} levels the thresholds that `soft` tells apart, lowest first
 * @property {Uint8Array} [noiseMask] 1 where the mask may be; none: everywhere
 * @property {{ data: Uint8Array, width: number, height: number }} wordMaps where each word acts, 0 to 255, one map after the other
 * @property {string[]} edits the words of each edit of the run, in one text; the answer is of the one that was asked for
 * @property {string[]} words of the edit prompt
 * @property {Record<string, number[]>} numbers of the words that a name covers: each of `words`, the names that were asked for, and `target`; none: it is not in the edit prompt
 * @property {string | null} nearest to the first name that is not in the edit prompt
 * @property {string[]} target the words that the settings name
 * @property {number} threshold of the settings
 * @property {number} min_area of the settings
 * @property {number} steps of the run
 * @property {number} batch
 * @property {number} index the number of the index word
 * @property {number[]} weights of the words: +1 goes with the mask, -1 against it, 0 neither
 * @property {boolean} fits whether the prompt contradicts nothing that stands out, so that the mask is the rest
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
    const [first, end] = tensors[name].data_offsets;
    return new Uint8Array(buffer, 8 + length + first, end - first);
  };
  const [height, width] = tensors.soft.shape;
  const [, down, across] = tensors.word_maps.shape;
  return {
    ...JSON.parse(metadata.answer),
    ...{ width, height, soft: data("soft") },
    wordMaps: { width: across, height: down, data: data("word_maps") },
    noiseMask: tensors.noise_mask && data("noise_mask"),
  };
}
