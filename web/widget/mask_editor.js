import { folded, nearest } from "../core/words.js";
import { make } from "./dom.js";
import { Picture } from "./picture.js";
import { Readout } from "./readout.js";
import { Words } from "./words.js";

const MOST_ACTING = 5;

/**
 * @typedef {{ threshold: number, words: string[], steps: number }} Choice
 *   What the user chose; 0 and no words: as the settings have it, all steps.
 * @typedef {{ words: string[], steps: number, batch: number }} RunRecord
 * @typedef {import("./picture.js").Mask & {
 *   index: number, weights: Int8Array, fits: boolean, area: number, threshold: number, words: string[]
 * }} Refined
 * @typedef {{
 *   refine(choice: Choice, picture: number): Refined,
 *   wordsAt(x: number, y: number, steps: number, picture: number): { number: number, value: number }[]
 * }} Refinery
 * @typedef {{ record: RunRecord, pictures: ImageData[], refinery: Refinery }} Run
 * @typedef {import("./picture.js").Place} Place
 */

/** Shows the mask of a run, and lets the user change what it is made from. */
export class MaskEditor {
  /**
   * @param {import("./texts.js").Texts} texts
   * @param {{ onChange: (choice: Choice) => void, onCommit: () => void }} listeners
   *   `onChange` at every move, `onCommit` when the user lets go
   */
  constructor(texts, { onChange, onCommit }) {
    this._texts = texts;
    this._onChange = onChange;
    this._onCommit = onCommit;
    /** @type {Choice} */
    this._choice = { threshold: 0, words: [], steps: 0 };
    /** @type {(keyof Choice)[]} */
    this._fixed = [];
    /** @type {Run | null} */
    this._run = null;
    /** @type {Refined | null} */
    this._mask = null;
    this._number = 0;
    /** @type {Place | null} */
    this._place = null;
    this._scheduled = 0;

    this._picture = new Picture(texts, (place, byKeyboard) => this._point(place, byKeyboard));
    this._readout = new Readout(texts);
    this._words = new Words(texts, (number) => this._toggle(number));
    this._origin = make("span", { role: "status" });
    this._forget = button(texts.forget, () => this._commit({ words: [] }));
    this._area = make("span", { class: "instdiff-area" });
    this._pages = this._pager();
    this._threshold = this._slider(texts.threshold, { min: "0.01", max: "1", step: "0.01" }, "threshold");
    this._reset = button("↺", () => this._commit({ threshold: 0 }), texts.reset);
    this._threshold.value.before(this._reset);
    this._steps = this._slider(texts.step, { min: "1", max: "1", step: "1" }, "steps");

    this._waiting = make("p", { class: "instdiff-waiting" }, texts.waiting);
    this._body = make(
      "div",
      { class: "instdiff-body", hidden: "" },
      this._picture.element,
      this._readout.element,
      this._pages.row,
      make("div", { class: "instdiff-row" }, this._origin, this._forget, this._area),
      this._words.element,
      make("p", { class: "instdiff-legend" }, texts.legend),
      this._threshold.row,
      this._steps.row,
    );
    this.element = make(
      "div",
      { class: "instdiff-editor", role: "group", "aria-label": texts.editor },
      this._waiting,
      this._body,
    );
  }

  /**
   * Show a run; null: there is none.
   *
   * @param {Run | null} run
   */
  show(run) {
    const words = this._run?.record.words;
    this._run = run;
    this._waiting.hidden = Boolean(run);
    this._body.hidden = !run;
    if (!run) return;
    const { record } = run;
    if (String(words) !== String(record.words)) this._words.list(record.words);
    this._number = Math.min(this._number, record.batch - 1);
    this._schedule();
  }

  /**
   * Show another choice; `onChange` is not called.
   *
   * @param {Choice} choice
   * @param {(keyof Choice)[]} [fixed] what the user cannot change here
   */
  set(choice, fixed = []) {
    this._choice = { ...choice };
    this._fixed = fixed;
    this._schedule();
  }

  dispose() {
    cancelAnimationFrame(this._scheduled);
    this._scheduled = 0;
    this._picture.dispose();
  }

  /**
   * @param {string} label
   * @param {Record<string, string>} limits
   * @param {"threshold" | "steps"} name
   */
  _slider(label, limits, name) {
    const input = make("input", { type: "range", ...limits });
    const value = make("span", { class: "instdiff-value", "aria-hidden": "true" }); // the slider says it itself
    const row = make(
      "div",
      { class: "instdiff-row" },
      make("label", {}, make("span", { class: "instdiff-label" }, label), input),
      value,
    );
    input.addEventListener("input", () => this._change({ [name]: this._valueOf(name, input.valueAsNumber) }));
    input.addEventListener("change", () => this._onCommit());
    return { row, input, value };
  }

  /**
   * The last step stands for all of them, also in a longer run.
   *
   * @param {"threshold" | "steps"} name
   * @param {number} value
   */
  _valueOf(name, value) {
    return name === "steps" && value === this._run?.record.steps ? 0 : value;
  }

  _pager() {
    const value = make("span", { role: "status" });
    const turn = (/** @type {number} */ by) => {
      this._number += by;
      this._schedule();
    };
    const previous = button("‹", () => turn(-1), this._texts.previous);
    const next = button("›", () => turn(1), this._texts.next);
    return { row: make("div", { class: "instdiff-row" }, previous, value, next), previous, next, value };
  }

  /** @param {Partial<Choice>} part */
  _commit(part) {
    this._change(part);
    this._onCommit();
  }

  /** @param {Partial<Choice>} part */
  _change(part) {
    this._choice = { ...this._choice, ...part };
    this._onChange(this._choice);
    this._schedule();
  }

  /**
   * Name a word or no longer name it; one starts from what the settings name.
   *
   * @param {number} number
   */
  _toggle(number) {
    if (!this._run || !this._mask) return;
    const word = this._run.record.words[number];
    const named = this._choice.words.length ? this._choice.words.filter((name) => this._knows(name)) : this._mask.words;
    const others = named.filter((name) => !same(name, word));
    this._commit({ words: others.length < named.length ? others : [...named, word] });
  }

  /** @param {string} name */
  _knows(name) {
    return Boolean(this._run?.record.words.some((word) => same(word, name)));
  }

  /**
   * @param {Place | null} place
   * @param {boolean} byKeyboard
   */
  _point(place, byKeyboard) {
    this._place = place;
    this._readOut(byKeyboard);
  }

  /** What is seen changes at most once a frame. */
  _schedule() {
    this._scheduled ||= requestAnimationFrame(() => {
      this._scheduled = 0;
      if (this._run) this._render(this._run);
    });
  }

  /** @param {Run} run */
  _render({ record, pictures, refinery }) {
    const words = this._choice.words.filter((name) => this._knows(name));
    const mask = refinery.refine({ ...this._choice, words }, this._number);
    this._mask = mask;
    this._picture.show(mask, pictures[Math.min(this._number, pictures.length - 1)]);
    this._renderWords(record, mask);
    this._renderThreshold(mask);
    this._renderSteps(record);
    this._renderPages(record);
    this._readOut(false);
  }

  /**
   * @param {RunRecord} record
   * @param {Refined} mask
   */
  _renderWords(record, mask) {
    const { words, area } = mask;
    const fixed = this._fixed.includes("words");
    const named = record.words.map((word) => words.some((name) => same(name, word)));
    this._words.update(mask, named, fixed);
    this._origin.textContent = this._originOf(record, mask);
    this._forget.hidden = fixed || !this._choice.words.length;
    this._area.textContent = this._texts.area((area * 100).toFixed(1));
  }

  /**
   * @param {RunRecord} record
   * @param {Refined} mask
   */
  _originOf(record, { words, fits }) {
    const unknown = this._choice.words.find((name) => !this._knows(name));
    if (unknown !== undefined) return this._texts.unknown(unknown, nearest(unknown, record.words));
    if (this._choice.words.length) return this._texts.named;
    if (words.length) return this._texts.namedInSettings;
    return fits ? this._texts.fits : this._texts.foundByItself;
  }

  /** @param {Refined} mask */
  _renderThreshold({ threshold }) {
    const { input, value } = this._threshold;
    input.value = String(threshold);
    const shown = threshold.toFixed(2);
    value.textContent = this._choice.threshold ? shown : this._texts.ofSettings(shown);
    input.setAttribute("aria-valuetext", value.textContent);
    input.disabled = this._fixed.includes("threshold");
    this._reset.disabled = input.disabled || !this._choice.threshold;
  }

  /** @param {RunRecord} record */
  _renderSteps(record) {
    const { input, value } = this._steps;
    const step = Math.min(this._choice.steps || record.steps, record.steps);
    input.max = String(record.steps);
    input.value = String(step);
    value.textContent = this._texts.stepOf(step, record.steps);
    input.setAttribute("aria-valuetext", value.textContent);
    input.disabled = this._fixed.includes("steps") || record.steps === 1;
  }

  /** @param {RunRecord} record */
  _renderPages(record) {
    const { row, previous, next, value } = this._pages;
    row.hidden = record.batch === 1;
    value.textContent = this._texts.pictureOf(this._number + 1, record.batch);
    previous.disabled = this._number === 0;
    next.disabled = this._number === record.batch - 1;
  }

  /** @param {boolean} aloud */
  _readOut(aloud) {
    if (!this._run) return;
    const { record, refinery } = this._run;
    const words = this._place ? refinery.wordsAt(...this._place, this._choice.steps, this._number) : [];
    const acting = words.slice(0, MOST_ACTING).filter(({ value }) => value > 0);
    this._words.highlight(acting.map(({ number }) => number));
    this._readout.show(acting.map(({ number, value }) => ({ text: record.words[number], value })), aloud);
  }
}

/**
 * @param {string} text
 * @param {() => void} onClick
 * @param {string} [label]
 */
function button(text, onClick, label = text) {
  const element = make("button", { type: "button", "aria-label": label, title: label }, text);
  element.addEventListener("click", onClick);
  return element;
}

/**
 * Case does not count.
 *
 * @param {string} word
 * @param {string} other
 */
function same(word, other) {
  return folded(word) === folded(other);
}
