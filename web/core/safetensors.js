/** Reading safetensors files, which nobody vouches for: all that a file says of itself is checked before use. */

/**
 * @typedef {object} Tensor
 * @property {number[]} shape
 * @property {Float32Array} data row by row
 */

/**
 * How numbers of a type are read.
 *
 * @type {Map<unknown, { bytes: number, read: (buffer: ArrayBuffer) => Float32Array }>}
 */
const READERS = new Map([
  ["F16", { bytes: 2, read: (buffer) => fromHalf(new Uint16Array(buffer)) }],
  ["F32", { bytes: 4, read: (buffer) => new Float32Array(buffer) }],
  ["BOOL", { bytes: 1, read: (buffer) => Float32Array.from(new Uint8Array(buffer)) }],
]);

/**
 * The tensors of a file by name, and its metadata.
 *
 * @param {ArrayBuffer} buffer
 * @returns {{ tensors: Map<string, Tensor>, metadata: Map<string, string> }}
 * @throws {Error} with a sentence, for anything that is no safetensors file of F16, F32 and BOOL.
 */
export function readSafetensors(buffer) {
  if (buffer.byteLength < 8) throw new Error("The file is too short.");
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const start = 8 + length;
  if (start > buffer.byteLength) throw new Error("The file ends within its header.");
  const header = parseHeader(new Uint8Array(buffer, 8, length));
  const tensors = new Map();
  let metadata = new Map();
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") metadata = readMetadata(entry);
    else tensors.set(name, readTensor(name, entry, buffer, start));
  }
  return { tensors, metadata };
}

/** @param {Uint8Array} bytes */
function parseHeader(bytes) {
  let header;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new Error("The file's header is not JSON.");
  }
  if (!isObject(header)) throw new Error("The file's header is not a table of tensors.");
  return header;
}

/** @param {unknown} entry */
function readMetadata(entry) {
  if (!isObject(entry) || Object.values(entry).some((value) => typeof value !== "string")) {
    throw new Error("The file's metadata is not text.");
  }
  return new Map(Object.entries(entry));
}

/**
 * @param {string} name
 * @param {any} entry what the header says of the tensor
 * @param {ArrayBuffer} buffer
 * @param {number} start where the tensors begin
 * @returns {Tensor}
 */
function readTensor(name, entry, buffer, start) {
  const { dtype, shape, data_offsets: offsets } = isObject(entry) ? entry : {};
  const reader = READERS.get(dtype);
  if (!reader) throw new Error(`The file's tensor ${name} is neither F16, F32 nor BOOL.`);
  if (!areCounts(shape)) throw new Error(`The file's tensor ${name} has no shape.`);
  if (!areCounts(offsets) || offsets.length !== 2) throw new Error(`The file's tensor ${name} has no place.`);
  const [first, end] = offsets;
  const size = shape.reduce((product, side) => product * side, reader.bytes);
  if (first > end || start + end > buffer.byteLength || end - first !== size) {
    throw new Error(`The file's tensor ${name} does not fill its place.`);
  }
  return { shape, data: reader.read(buffer.slice(start + first, start + end)) };
}

/** @param {unknown} value @returns {value is Record<string, any>} */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** @param {unknown} value @returns {value is number[]} */
const areCounts = (value) => Array.isArray(value) && value.every((each) => Number.isSafeInteger(each) && each >= 0);

/** @type {Float32Array | undefined} */
let halves;

/**
 * Float16 numbers, whose bits are given. (`Float16Array` is missing in many browsers.)
 *
 * @param {Uint16Array} bits
 */
function fromHalf(bits) {
  halves ??= Float32Array.from({ length: 1 << 16 }, (_, number) => halfValue(number));
  const values = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) values[i] = halves[bits[i]];
  return values;
}

/** @param {number} bits */
function halfValue(bits) {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24);
}
