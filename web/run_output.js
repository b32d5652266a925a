/**
 * What Refine Instant Mask leaves for the browser after a run.
 *
 * References to it travel in saved workflows, which anyone may have written: nothing in them is
 * trusted, and what is missing or malformed counts as "no run".
 */

import { readRecord } from "./core/evidence.js";
import { Refinery } from "./core/refine.js";

const KEPT = 4;

/** @type {Map<string, Promise<Run | null>>} the latest runs, for nodes that undo makes anew */
const loaded = new Map();

/**
 * @typedef {{ filename: string, subfolder: string, type: "temp" }} Reference a file as the host's /view names it
 * @typedef {{ record: Reference, pictures: Reference[] }} References
 * @typedef {(reference: Reference) => Promise<Response>} FetchFile
 * @typedef {{ record: import("./core/evidence.js").AttentionRecord, pictures: ImageData[], refinery: Refinery }} Run
 */

/**
 * @param {any} value from a run's output or a saved workflow
 * @returns {References | null}
 */
export function readReferences(value) {
  const pictures = value?.pictures;
  if (!Array.isArray(pictures) || ![value.record, ...pictures].every(isReference)) return null;
  return { record: reference(value.record), pictures: pictures.map(reference) };
}

/**
 * @param {References} references
 * @param {FetchFile} fetchFile
 * @returns {Promise<Run | null>}
 */
export function loadRun(references, fetchFile) {
  const name = JSON.stringify(references);
  const run = loaded.get(name) ?? load(references, fetchFile).catch(() => (loaded.delete(name), null));
  loaded.delete(name);
  loaded.set(name, run);
  for (const oldest of loaded.keys()) if (loaded.size > KEPT) loaded.delete(oldest);
  return run;
}

/**
 * @param {References} references
 * @param {FetchFile} fetchFile
 * @returns {Promise<Run>}
 */
async function load(references, fetchFile) {
  const fetchWhole = (/** @type {Reference} */ reference) => fetchFile(reference).then(whole);
  const record = readRecord(await (await fetchWhole(references.record)).arrayBuffer());
  if (references.pictures.length > record.batch) throw new Error("there are more pictures than masks");
  const responses = await Promise.all(references.pictures.map(fetchWhole));
  const pictures = await Promise.all(responses.map(readPicture));
  return { record, pictures, refinery: new Refinery(record, pictures) };
}

/** @param {Response} response */
function whole(response) {
  if (!response.ok) throw new Error(`the host answered ${response.status}`);
  return response;
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
