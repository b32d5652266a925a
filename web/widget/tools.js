import { UNITS } from "./corrections.js";
import { button, make } from "./dom.js";

/** @typedef {"parts" | "add" | "erase"} Tool */

/** @type {Tool[]} */
const TOOLS = ["parts", "add", "erase"];

/** The sizes of the brush: each is so much larger than the one before. */
const [SMALLEST, RATIO, LARGEST, FIRST] = [8, 1.1, 50, 24];

/** The tools for corrections by hand: which one, how large its brush is, and what undoes it. */
export class Tools {
  /**
   * @param {import("./texts.js").Texts} texts
   * @param {{ onChoose: () => void, onUndo: () => void, onRedo: () => void, onClear: () => void }} listeners
   */
  constructor(texts, { onChoose, onUndo, onRedo, onClear }) {
    this._texts = texts;
    this._onChoose = onChoose;
    /** @type {Tool} */
    this.tool = "parts";
    this._choices = TOOLS.map((tool) => {
      const { name, title } = texts.tools[tool];
      return button(name, () => this.choose(tool), title);
    });
    this._size = make("input", {
      type: "range",
      min: "0",
      max: String(LARGEST),
      step: "1",
      value: String(FIRST),
      "aria-label": texts.size,
      title: texts.size,
    });
    this._size.addEventListener("input", () => this._change());
    this._undo = button("↶", onUndo, texts.undo);
    this._redo = button("↷", onRedo, texts.redo);
    this._clear = button("✕", onClear, texts.clear);
    this._full = make("p", { role: "alert", hidden: "" }, texts.full);
    const row = { class: "instdiff-row", role: "group", "aria-label": texts.hand };
    this.element = make(
      "div",
      { class: "instdiff-tools" },
      make("div", row, ...this._choices, this._size, this._undo, this._redo, this._clear),
      this._full,
    );
    this._render();
  }

  /** The radius of the brush, in units of corrections. */
  get radius() {
    return Math.round(SMALLEST * RATIO ** this._size.valueAsNumber);
  }

  /** @param {Tool} tool */
  choose(tool) {
    this.tool = tool;
    this._change();
  }

  /** @param {number} by how many sizes larger */
  resize(by) {
    this._size.valueAsNumber += by;
    this._change();
  }

  _change() {
    this._render();
    this._onChoose();
  }

  _render() {
    this._choices.forEach((choice, number) => choice.setAttribute("aria-pressed", String(TOOLS[number] === this.tool)));
    const percent = ((200 * this.radius) / UNITS).toFixed(1);
    this._size.setAttribute("aria-valuetext", this._texts.sizeOf(percent));
  }

  /** @param {{ fixed: boolean, canUndo: boolean, canRedo: boolean, canClear: boolean }} state */
  show({ fixed, canUndo, canRedo, canClear }) {
    for (const choice of this._choices) choice.disabled = fixed;
    this._undo.disabled = fixed || !canUndo;
    this._redo.disabled = fixed || !canRedo;
    this._clear.disabled = fixed || !canClear;
  }

  /** @param {boolean} full whether there was no room for another correction */
  warn(full) {
    this._full.hidden = !full;
  }
}
