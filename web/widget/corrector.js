import { Brush } from "./brush.js";
import { UNITS, correct, readCorrections, toStroke } from "./corrections.js";
import { History } from "./history.js";
import { join, keepInside } from "./mask.js";
import { Parts, findParts } from "./parts.js";
import { DROPPED } from "./picture.js";
import { Tools } from "./tools.js";

/** How many other parts a dropped one is told apart from. */
const MOST_OTHERS = 8;

/** How far the pointer may move in a click, in pixels of the page. */
const STILL = 4;

/** @type {Record<string, import("./tools.js").Tool>} */
const TOOL_KEYS = { b: "add", e: "erase", v: "parts", Escape: "parts" };

/** @type {Record<string, number>} */
const SIZE_KEYS = { "[": -2, "]": 2, BracketLeft: -2, BracketRight: 2 };

/**
 * @typedef {import("./picture.js").Place} Place
 * @typedef {{ onDraw: () => void, onChange: (text: string) => void, say: (text: string) => void }} Listeners
 *   `onDraw`: the mask has to be drawn again; `onChange`: there are other corrections
 */

/** What the user corrects in the mask by hand: parts that are dropped and kept, strokes, and their undoing. */
export class Corrector {
  /**
   * @param {import("./texts.js").Texts} texts
   * @param {import("./picture.js").Picture} picture on which it is done
   * @param {Listeners} listeners
   */
  constructor(texts, picture, { onDraw, onChange, say }) {
    this._texts = texts;
    this._picture = picture;
    this._onDraw = onDraw;
    this._onChange = onChange;
    this._say = say;
    this._history = new History();
    this._number = 0;
    this._fixed = false;
    /** @type {import("./parts.js").Part[]} */
    this._parts = [];
    /** @type {[number, number]} */
    this._size = [1, 1];

    this._tools = new Tools(texts, {
      onChoose: () => this._choose(),
      onUndo: () => this._turn("undo"),
      onRedo: () => this._turn("redo"),
      onClear: () => this._change([]),
    });
    this._buttons = new Parts(texts, (number) => this._toggle(this._parts[number]));
    this.elements = [this._tools.element, this._buttons.element];
    picture.frame.append(this._buttons.labels);
    this._brush = new Brush(picture.frame, {
      toolOf: () => (this._fixed ? null : this._tool),
      placeOf: (event) => this._toUnits(picture.placeOf(event)),
      radiusOf: () => this._tools.radius,
      onDraw,
      onEnd: ({ name, points }) => this._change([...this._actions, toStroke(name, points)]),
    });
    this._listen(picture.frame);
    this._choose();
  }

  /**
   * @param {string} text
   * @param {boolean} fixed whether it cannot be changed here
   */
  load(text, fixed) {
    this._history.load(text);
    this._fixed = fixed;
  }

  /**
   * Correct the masks of 0 and 1 of an answer's layers, which are changed, and show the parts of all of them together.
   *
   * @param {Uint8Array[]} masks
   * @param {import("../answer.js").Answer} answer that they were cut from
   * @param {number} number of the picture
   * @returns {{ mask: Uint8Array, shown: Uint8Array }} one mask; and the same with `DROPPED` where parts were dropped
   */
  correct(masks, { layers, soft, width, height }, number) {
    if (number !== this._number) this._brush.end(); // what was begun on the picture before belongs to it
    this._number = number;
    this._size = [width, height];
    const { stroke } = this._brush;
    const drawn = stroke ? [{ name: stroke.name, places: stroke.points.map((point) => point.map(Math.round)) }] : [];
    const pieces = layers.flatMap(({ noiseMask, own }, layer) => {
      const gone = correct(masks[layer], width, [...this._actions, ...drawn]);
      keepInside(masks[layer], noiseMask);
      keepInside(masks[layer], own);
      return gone;
    });
    const mask = join(masks);
    this._parts = findParts(mask, soft, width, pieces);
    this._buttons.show(this._parts, width, height, this._fixed);
    this._tools.show({
      fixed: this._fixed,
      canUndo: this._history.canUndo(number),
      canRedo: this._history.canRedo(number),
      canClear: this._actions.length > 0 || !readCorrections(this._history.text),
    });
    const shown = mask.slice();
    for (const { action, runs } of this._parts) {
      for (let run = 0; action && run < runs.length; run += 2) shown.fill(DROPPED, runs[run], runs[run + 1]);
    }
    return { mask, shown };
  }

  /**
   * The user points at another place.
   *
   * @param {Place | null} place
   * @param {boolean} byKeyboard
   */
  point(place, byKeyboard) {
    if (place && byKeyboard && this._brush.stroke) this._brush.move(this._toUnits(middleOf(place)));
  }

  get _actions() {
    return this._history.actions(this._number);
  }

  /** The brush that is chosen; null: none. */
  get _tool() {
    return this._tools.tool === "parts" ? null : this._tools.tool;
  }

  /** @param {HTMLElement} frame */
  _listen(frame) {
    let down = [0, 0];
    frame.addEventListener("pointerdown", ({ clientX, clientY }) => (down = [clientX, clientY]));
    frame.addEventListener("click", ({ clientX, clientY }) => {
      const moved = Math.max(Math.abs(clientX - down[0]), Math.abs(clientY - down[1])) > STILL;
      if (!this._tool && !moved) this._toggleAt(this._picture.placeOf({ clientX, clientY }));
    });
    frame.addEventListener("keydown", (event) => {
      // with Ctrl they are the host's, which hears them first
      if (this._fixed || event.ctrlKey || event.metaKey || event.altKey || !this._onKey(event)) return;
      event.preventDefault();
      event.stopPropagation();
    });
    frame.addEventListener("blur", () => this._brush.end());
    frame.addEventListener("wheel", (event) => {
      if (!this._tool || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      this._tools.resize(-Math.sign(event.deltaY));
    });
  }

  /**
   * @param {KeyboardEvent} event
   * @returns {boolean} whether it meant something here
   */
  _onKey({ key, code, shiftKey }) {
    const by = SIZE_KEYS[key] ?? SIZE_KEYS[code];
    const way = key.toLowerCase() === "z" ? (shiftKey ? "redo" : "undo") : null;
    if (way) {
      this._turn(way);
    } else if (by) {
      this._tools.resize(by);
    } else if (key === "Escape" && this._brush.stroke) {
      this._brush.cancel();
    } else if (TOOL_KEYS[key]) {
      this._tools.choose(TOOL_KEYS[key]);
      this._say(this._texts.tools[TOOL_KEYS[key]].title);
    } else if (key === "Enter" || key === " ") {
      this._press();
    } else {
      return false;
    }
    return true;
  }

  /** Do at the crosshair what a click does there; a brush is put down, and up again. */
  _press() {
    const place = this._picture.place ?? /** @type {Place} */ (this._size.map((length) => length >> 1));
    if (!this._tool) {
      this._toggleAt(place);
    } else if (this._brush.stroke) {
      this._brush.end();
      this._say(this._texts.brushUp);
    } else {
      this._brush.start(this._tool, this._toUnits(middleOf(place)));
      this._say(this._texts.brushDown);
    }
  }

  _choose() {
    this._picture.showBrush(this._tool && this._tools.radius / UNITS);
    this._onDraw();
  }

  /** @param {"undo" | "redo"} way */
  _turn(way) {
    const can = way === "undo" ? this._history.canUndo(this._number) : this._history.canRedo(this._number);
    if (!can) return;
    this._history[way](this._number);
    this._tell();
  }

  /** @param {import("./corrections.js").Action[]} actions */
  _change(actions) {
    this._tools.warn(!this._history.change(this._number, actions));
    this._tell();
  }

  _tell() {
    this._onChange(this._history.text);
    this._onDraw();
  }

  /** @param {[number, number]} place in pixels of the picture */
  _toggleAt([x, y]) {
    const at = Math.floor(y) * this._size[0] + Math.floor(x);
    const holds = (/** @type {number[]} */ runs) => runs.some((start, run) => run % 2 === 0 && start <= at && at < runs[run + 1]);
    const part = this._parts.find(({ runs }) => holds(runs));
    const isLast = part && !part.action && this._parts.filter(({ action }) => !action).length === 1;
    if (part && !isLast) this._toggle(part);
  }

  /**
   * Drop a part, or keep it again.
   *
   * @param {import("./parts.js").Part} part
   */
  _toggle(part) {
    const number = this._parts.indexOf(part) + 1;
    const share = `${((part.size / (this._size[0] * this._size[1])) * 100).toFixed(1)} %`;
    if (part.action) {
      this._change(this._actions.filter((action) => action !== part.action));
    } else {
      const others = this._parts.filter((other) => other !== part && !other.action).slice(0, MOST_OTHERS);
      const places = [part, ...others].map(({ place }) => this._toUnits(middleOf(place)).map(Math.floor));
      this._change([...this._actions, { name: "drop", places }]);
    }
    this._say(this._texts.part(number, share, Boolean(part.action)));
  }

  /**
   * @param {[number, number]} place in pixels of the picture
   * @returns {[number, number]}
   */
  _toUnits([x, y]) {
    const scale = UNITS / Math.max(...this._size);
    return [x * scale, y * scale];
  }
}

/**
 * @param {Place} pixel
 * @returns {[number, number]}
 */
function middleOf([x, y]) {
  return [x + 0.5, y + 0.5];
}
