/**
 * What Refine Instant Mask leaves after a run: pictures, and a record that the server makes masks of.
 *
 * References to it travel in saved workflows, which anyone may have written: nothing in them is
 * trusted, and what is missing or malformed counts as "no run".
 */

import { Refusal, readAnswer } from "./answer.js";

const [KEPT_RUNS, KEPT_ANSWERS] = [4, 8];

/** @type {Map<string, Promise<Run>>} the latest runs, for nodes that undo makes anew */
const loaded = new Map();

/**
 * @typedef {{ filename: string, subfolder: string, type: "temp" }} Reference a file as the host's /view names it
 * @typedef {{ record: Reference, pictures: Reference[], inputs: Record<string, unknown> }} References
 *   and the values that the node's inputs had, which other nodes may have set
 * @typedef {import("./widget/mask_editor.js").Question} Question
 * @typedef {import("./widget/mask_editor.js").Run} Run
 * @typedef {object} Host
 * @property {(reference: Reference) => Promise<Response>} fetchFile
 * @property {(question: Question & { record: string }) => Promise<Response>} fetchMask
 */

/**
 * @param {any} value from a run's output or a saved workflow
 * @returns {References | null}
 */
export function readReferences(value) {
  const pictures = value?.pictures;
  if (!Array.isArray(pictures) || ![value.record, ...pictures].every(isReference)) return null;
  const inputs = Object.entries(value.inputs ?? {}).filter(([, input]) => typeof input !== "object");
  return { record: reference(value.record), pictures: pictures.map(reference), inputs: Object.fromEntries(inputs) };
}

/**
 * The run that was left; null where it is gone.
 *
 * @param {References} references
 * @param {Host} host
 * @returns {Promise<Run | null>}
 */
export function loadRun(references, host) {
  const name = JSON.stringify(references);
  return keep(loaded, KEPT_RUNS, name, () => load(references, host)).catch(() => null);
}

/**
 * @param {References} references
 * @param {Host} host
 * @returns {Promise<Run>}
 */
async function load({ record, pictures }, host) {
  const responses = await Promise.all(pictures.map((picture) => host.fetchFile(picture).then(whole)));
  /** @type {Map<string, Promise<import("./answer.js").Answer>>} */
  const answers = new Map();
  return {
    pictures: await Promise.all(responses.map(readPicture)),
    ask: (question) =>
      keep(answers, KEPT_ANSWERS, JSON.stringify(question), async () => {
        const response = await host.fetchMask({ ...question, record: record.filename }).then(whole);
        return readAnswer(await response.arrayBuffer());
      }),
  };
}

/**
 * What a cache holds under a name, else what `make` gives; of what did not fail the latest are kept.
 *
 * @template T
 * @param {Map<string, Promise<T>>} cache
 * @param {number} size
 * @param {string} name
 * @param {() => Promise<T>} make
 * @returns {Promise<T>}
 */
function keep(cache, size, name, make) {
  const value = cache.get(name) ?? make();
  cache.delete(name);
  cache.set(name, value);
  for (const oldest of cache.keys()) if (cache.size > size) cache.delete(oldest);
  value.catch(() => cache.delete(name));
  return value;
}

/**
 * @param {Response} response
 * @throws {Error} for an answer that says that there is none.
 */
async function whole(response) {
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  const reason = String(error ?? `the host answered ${response.status}`);
  throw response.status < 500 ? new Refusal(reason, response.status === 404) : new Error(reason);
}

/** @param {Response} response */
async function readPicture(response) {
  const image = await createImageBitmap(await response.blob(), { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (
    canvas.getContext("2d", { willReadFrequently: true })
  );
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, image.width, image.height);
}

/** @param {any} value */
function isReference(value) {
  return isPlainName(value?.filename) && value.filename && isPlainName(value.subfolder) && value.type === "temp";
}

/** @param {unknown} value */
function isPlainName(value) {
  return typeof value === "string" && !/[/\\]|\.\./.test(value);
}

/** @param {Reference} value */
function reference({ filename, subfolder, type }) {
  return { filename, subfolder, type };
}
