import { make } from "./dom.js";

const LIGHT = 0xffffffff;
const DARK = 0xff000000;
const DIMMED = 0xa0000000;
const STRIPE = 0x60000000;
const CLEAR = 0;

/** What a shown mask has where a part was dropped. */
export const DROPPED = 2;

/** Width of each line of the outline. */
const LINE = 1.5;

/** Arrow presses that cross the picture; with Shift an eighth of them. */
const STRIDES = 64;

/** @type {Record<string, Place>} */
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * @typedef {{ binary: Uint8Array, soft: Uint8Array, levels: number[], width: number, height: number }} Mask
 * @typedef {[number, number]} Place
 */

/**
 * The picture with its mask, and the place on it that the user points at.
 *
 * What is outside the mask is dimmed; its outline is light inside and dark outside, so that it is
 * seen on any picture. Without a picture the soft mask is shown in grey.
 */
export class Picture {
  /**
   * @param {import("./texts.js").Texts} texts
   * @param {(place: Place | null, byKeyboard: boolean) => void} onPoint
   *   called with image pixels, or with null where the user points at nothing
   */
  constructor(texts, onPoint) {
    this._onPoint = onPoint;
    this._canvas = make("canvas", { "aria-hidden": "true" });
    this._cursor = make("div", { class: "instdiff-cursor", hidden: "" });
    this._brush = make("div", { class: "instdiff-brush", hidden: "" });
    this.frame = make(
      "div",
      { class: "instdiff-picture", tabindex: "0", role: "application", "aria-label": texts.picture },
      this._canvas,
      this._cursor,
      this._brush,
    );
    this.element = make("div", { class: "instdiff-stage" }, this.frame);
    this._base = document.createElement("canvas");
    this._overlay = document.createElement("canvas");
    /** @type {ImageData | null} */
    this._image = null;
    this._dimmed = CLEAR;
    /** @type {Mask | null} */
    this._mask = null;
    /** @type {Place | null} */
    this.place = null;
    /** @type {number | null} */
    this._radius = null;

    this.frame.addEventListener("pointermove", (event) => this._point(this._pixelOf(event), false));
    this.frame.addEventListener("pointerleave", () => this._point(null, false));
    this.frame.addEventListener("blur", () => this._point(null, false));
    this.frame.addEventListener("keydown", (event) => this._onKey(event));
    this._resizes = new ResizeObserver(() => this._fit());
    this._resizes.observe(this.element);
  }

  /**
   * @param {Mask} mask
   * @param {ImageData | undefined} picture of the mask's size
   */
  show(mask, picture) {
    const resized = this._mask?.width !== mask.width || this._mask?.height !== mask.height;
    this._mask = mask;
    this._dimmed = picture ? DIMMED : CLEAR;
    const image = picture ?? grey(mask);
    if (image !== this._image) {
      this._image = image;
      Object.assign(this._base, { width: mask.width, height: mask.height });
      contextOf(this._base).putImageData(image, 0, 0);
    }
    if (resized) this._point(null, false);
    resized ? this._fit() : this._paint();
  }

  dispose() {
    this._resizes.disconnect();
  }

  /** Make the canvas as large as the room and the picture's aspect ratio let it be. */
  _fit() {
    const { clientWidth, clientHeight } = this.element;
    if (!this._mask || !clientWidth || !clientHeight) return;
    const scale = Math.min(clientWidth / this._mask.width, clientHeight / this._mask.height);
    const size = [this._mask.width * scale, this._mask.height * scale];
    [this.frame.style.width, this.frame.style.height] = size.map((length) => `${length}px`);
    [this._canvas.width, this._canvas.height] = size.map((length) =>
      Math.max(1, Math.round(length * devicePixelRatio)),
    );
    this._paint();
  }

  _paint() {
    if (!this._mask) return;
    const { width, height } = this._canvas;
    const drawn = overlay(this._mask, width, height, Math.round(LINE * devicePixelRatio), this._dimmed);
    Object.assign(this._overlay, { width, height });
    contextOf(this._overlay).putImageData(drawn, 0, 0);
    const context = contextOf(this._canvas);
    context.drawImage(this._base, 0, 0, width, height);
    context.drawImage(this._overlay, 0, 0);
  }

  /**
   * Show how large a brush is where the user points.
   *
   * @param {number | null} radius as part of the picture's longer side; null: there is no brush
   */
  showBrush(radius) {
    this._radius = radius;
    this.frame.toggleAttribute("data-brush", radius !== null);
    this._moveBrush();
  }

  _moveBrush() {
    this._brush.hidden = this._radius === null || !this.place;
    if (this._brush.hidden || !this._mask) return;
    const { width, height } = this._mask;
    this._brush.style.width = `${((2 * (this._radius ?? 0) * Math.max(width, height)) / width) * 100}%`;
    moveTo(this._brush, this.place, this._mask);
  }

  /**
   * Where an event is, in pixels of the picture, and beyond it where the event is.
   *
   * @param {{ clientX: number, clientY: number }} event
   * @returns {[number, number]}
   */
  placeOf({ clientX, clientY }) {
    const box = this.frame.getBoundingClientRect();
    const { width, height } = this._mask ?? { width: 1, height: 1 };
    return [((clientX - box.left) / box.width) * width, ((clientY - box.top) / box.height) * height];
  }

  /**
   * @param {PointerEvent} event
   * @returns {Place | null}
   */
  _pixelOf(event) {
    if (!this._mask) return null;
    const [x, y] = this.placeOf(event).map(Math.floor);
    return [clamp(x, 0, this._mask.width - 1), clamp(y, 0, this._mask.height - 1)];
  }

  /** @param {KeyboardEvent} event */
  _onKey(event) {
    const move = MOVES[event.key];
    if (!this._mask || !move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const { width, height } = this._mask;
    const stride = Math.max(1, Math.round(Math.max(width, height) / STRIDES)) * (event.shiftKey ? 8 : 1);
    const [x, y] = this.place ?? [width >> 1, height >> 1];
    this._point([clamp(x + move[0] * stride, 0, width - 1), clamp(y + move[1] * stride, 0, height - 1)], true);
  }

  /**
   * @param {Place | null} place
   * @param {boolean} byKeyboard
   */
  _point(place, byKeyboard) {
    if (!place && !this.place) return;
    this.place = place;
    this._cursor.hidden = !byKeyboard;
    if (place && this._mask) moveTo(this._cursor, place, this._mask);
    this._moveBrush();
    this._onPoint(place, byKeyboard);
  }
}

/**
 * What lies over a picture of `width` x `height`: nothing inside the mask, `dimmed` outside, and
 * between them a light and a dark line, each `line` pixels wide; stripes where a part was dropped.
 *
 * @param {Mask} mask
 * @param {number} width
 * @param {number} height
 * @param {number} line
 * @param {number} dimmed
 */
function overlay(mask, width, height, line, dimmed) {
  const inside = enlarged(mask, width, height);
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let y = 0, at = 0; y < height; y++) {
    const up = y >= line ? line * width : 0;
    const down = y + line < height ? line * width : 0;
    for (let x = 0; x < width; x++, at++) {
      const here = inside[at];
      const left = x >= line ? line : 0;
      const right = x + line < width ? line : 0;
      const edge =
        inside[at - up] !== here ||
        inside[at + down] !== here ||
        inside[at - left] !== here ||
        inside[at + right] !== here;
      if (edge) pixels[at] = here === 1 ? LIGHT : DARK;
      else if (here === DROPPED) pixels[at] = (x + y) % (6 * line) < 2 * line ? STRIPE : dimmed || DIMMED;
      else pixels[at] = here ? CLEAR : dimmed;
    }
  }
  return image;
}

/**
 * @param {Mask} mask
 * @param {number} width
 * @param {number} height
 */
function enlarged(mask, width, height) {
  const inside = new Uint8Array(width * height);
  const columns = Uint32Array.from({ length: width }, (_, x) => Math.floor(((x + 0.5) * mask.width) / width));
  for (let y = 0, at = 0; y < height; y++) {
    const row = Math.floor(((y + 0.5) * mask.height) / height) * mask.width;
    for (let x = 0; x < width; x++, at++) inside[at] = mask.binary[row + columns[x]];
  }
  return inside;
}

/** @param {Mask} mask */
function grey(mask) {
  const image = new ImageData(mask.width, mask.height);
  const pixels = new Uint32Array(image.data.buffer);
  const greys = [0, ...mask.levels].map((level) => Math.round(level * 255));
  for (let at = 0; at < pixels.length; at++) pixels[at] = 0xff000000 | (greys[mask.soft[at]] * 0x010101);
  return image;
}

/**
 * Put an element's middle on a pixel.
 *
 * @param {HTMLElement} element
 * @param {Place | null} place
 * @param {Mask} mask
 */
function moveTo(element, place, mask) {
  if (!place) return;
  element.style.left = `${((place[0] + 0.5) / mask.width) * 100}%`;
  element.style.top = `${((place[1] + 0.5) / mask.height) * 100}%`;
}

/** @param {HTMLCanvasElement} canvas */
function contextOf(canvas) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
}

/**
 * @param {number} value
 * @param {number} least
 * @param {number} most
 */
function clamp(value, least, most) {
  return Math.min(most, Math.max(least, value));
}
