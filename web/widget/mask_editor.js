import { Refusal } from "../answer.js";
import { Corrector } from "./corrector.js";
import { button, make } from "./dom.js";
import { cut, wordsAt } from "./mask.js";
import { Pager } from "./pager.js";
import { Picture } from "./picture.js";
import { Questions } from "./questions.js";
import { Readout } from "./readout.js";
import { Toolbar } from "./toolbar.js";
import { Words } from "./words.js";

const MOST_ACTING = 5;

/**
 * @typedef {import("./shape.js").Shape} Shape
 * @typedef {Shape & { threshold: number, words: string[], steps: number, corrections: string, edit: number }} Choice
 *   What the user chose; 0 and no words: as the settings have it, all steps, all edits.
 * @typedef {{ words: string[], steps: number, picture: number, edit: number }} Question
 *   What a soft mask depends on; `picture` is its number in the batch, `edit` that of the edit, from 1 on; 0: all.
 * @typedef {import("../answer.js").Answer} Answer
 * @typedef {{ pictures: ImageData[], ask: (question: Question) => Promise<Answer> }} Run
 *   `pictures`: none, one for all, or one for each of the batch; `ask` rejects with a `Refusal` where there is no mask.
 * @typedef {{ run: Run, question: Question }} Asked
 * @typedef {Asked & { answer: Answer }} Shown
 * @typedef {import("./picture.js").Place} Place
 */

/**
 * Shows the mask of a run, and lets the user change what it is made from.
 *
 * The threshold moves at once. For other words, steps and pictures the run is asked for another soft
 * mask; until it is there, the last one stays.
 */
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
    this._choice = { threshold: 0, words: [], steps: 0, grow: 0, smooth: 0, fillHoles: false, corrections: "", edit: 0 };
    /** @type {(keyof Choice)[]} */
    this._fixed = [];
    /** @type {Promise<Run | null> | null} the latest run, which may not be there yet */
    this._loading = null;
    /** @type {Run | null} what can be asked; null until the latest run is there */
    this._run = null;
    /** @type {string | undefined} what the latest run was last asked for */
    this._asked = undefined;
    /** @type {Shown | null} */
    this._shown = null;
    /** @type {Map<string, number[]>} the words that each name covers; none: it is not in the edit prompt */
    this._numbers = new Map();
    this._refusal = ""; // why there is no other mask than the one that is shown
    /** @type {Place | null} */
    this._place = null;
    /** @type {{ answer: Answer, name: string, masks: Uint8Array[] } | null} the masks before corrections, which move faster */
    this._cut = null;
    this._scheduled = 0;
    /** @type {Questions<Asked, Answer>} */
    this._questions = new Questions(
      ({ run, question }) => run.ask(question),
      (asked, answer) => this._receive(asked, answer),
      (asked, error) => this._miss(asked, error),
    );

    this._picture = new Picture(texts, (place, byKeyboard) => this._point(place, byKeyboard));
    this._readout = new Readout(texts);
    this._corrector = new Corrector(texts, this._picture, {
      onDraw: () => this._schedule(),
      onChange: (corrections) => this._commit({ corrections }),
      say: (text) => this._readout.say(text),
    });
    this._edits = new Toolbar({ class: "instdiff-words", "aria-label": texts.edits, hidden: "" }, (number) =>
      this._commit({ edit: number }),
    );
    this._words = new Words(texts, (number) => this._toggle(number));
    this._origin = make("span", { role: "status" });
    this._forget = button(texts.forget, () => this._commit({ words: [] }));
    this._area = make("span", { class: "instdiff-area" });
    this._pages = new Pager(texts, () => this._schedule());
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
      ...this._corrector.elements,
      this._pages.element,
      make("div", { class: "instdiff-row" }, this._origin, this._forget, this._area),
      this._edits.element,
      this._words.element,
      make("p", { class: "instdiff-legend" }, texts.legend),
      this._threshold.row,
      this._steps.row,
    );
    this.element = make(
      "div",
      {
        class: "instdiff-editor",
        role: "group",
        "aria-label": texts.editor,
        "data-capture-wheel": "true", // asks Vue nodes to let lists scroll and the brush grow in an editor with the focus
      },
      this._waiting,
      this._body,
    );
  }

  /**
   * Show a run; null: there is none. Until it is there the last mask stays, and its run is asked no more.
   *
   * @param {Promise<Run | null>} loading
   */
  async show(loading) {
    this._loading = loading;
    this._run = null;
    this.element.toggleAttribute("data-asking", true);
    const run = await loading;
    if (loading !== this._loading) return;
    this._run = run;
    this._asked = undefined;
    if (run) this._schedule();
    else this._clear();
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
    this._corrector.load(choice.corrections, fixed.includes("corrections"));
    this._schedule();
  }

  dispose() {
    cancelAnimationFrame(this._scheduled);
    this._scheduled = 0;
    this._loading = null;
    this._run = null;
    this._questions.drop();
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
    return name === "steps" && value === this._shown?.answer.steps ? 0 : value;
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
    if (!this._shown) return;
    const { answer } = this._shown;
    const named = this._names(answer).filter((name) => !this._isUnknown(name));
    const others = named.filter((name) => !this._numbers.get(name)?.includes(number));
    this._commit({ words: others.length < named.length ? others : [...named, answer.words[number]] });
  }

  /**
   * The words that the user names, else the settings.
   *
   * @param {Answer} answer
   */
  _names(answer) {
    return this._choice.words.length ? this._choice.words : answer.target;
  }

  /** @param {string} name whether the server said that it is not in the edit prompt */
  _isUnknown(name) {
    return this._numbers.get(name)?.length === 0;
  }

  /**
   * @param {Place | null} place
   * @param {boolean} byKeyboard
   */
  _point(place, byKeyboard) {
    this._place = place;
    this._corrector.point(place, byKeyboard);
    this._readOut(byKeyboard);
  }

  /** What is seen changes at most once a frame. */
  _schedule() {
    this._scheduled ||= requestAnimationFrame(() => {
      this._scheduled = 0;
      this._ask();
      if (this._shown) this._render(this._shown);
    });
  }

  /** Ask for the mask of the choice, once. */
  _ask() {
    const { words, steps, edit } = this._choice;
    const question = { words, steps, picture: this._pages.number, edit };
    const asked = JSON.stringify(question);
    if (!this._run || asked === this._asked) return;
    this._asked = asked;
    this.element.toggleAttribute("data-asking", true);
    this._questions.put({ run: this._run, question });
  }

  /**
   * Show an answer; a late one is dropped. While the user scrubs, those of the steps on the way are none too late.
   *
   * @param {Asked} asked
   * @param {Answer} answer
   */
  _receive(asked, answer) {
    if (this._isLate(asked)) return;
    if (JSON.stringify(asked.question) === this._asked) this.element.removeAttribute("data-asking");
    if (String(this._shown?.answer.words) !== String(answer.words)) {
      this._words.list(answer.words);
      this._numbers = new Map();
    }
    for (const [name, covered] of Object.entries(answer.numbers)) this._numbers.set(name, covered);
    this._shown = { ...asked, answer };
    this._refusal = "";
    this._waiting.hidden = true;
    this._body.hidden = false;
    this._schedule();
  }

  /** @param {Asked} asked */
  _isLate({ run, question: { words, picture, edit } }) {
    const otherWords = JSON.stringify(words) !== JSON.stringify(this._choice.words);
    return run !== this._run || picture !== this._pages.number || edit !== this._choice.edit || otherWords;
  }

  /**
   * Without an answer the last mask stays, unless the run is gone. A new run may only lack the picture.
   *
   * @param {Asked} asked
   * @param {unknown} error
   */
  _miss(asked, error) {
    if (this._isLate(asked) || !(error instanceof Refusal)) return;
    if (error.gone || this._shown?.run !== asked.run) {
      if (error.gone || !this._pages.number) return this._clear();
      this._pages.number = 0;
    } else {
      this._refusal = error.message;
      this.element.removeAttribute("data-asking");
    }
    this._schedule();
  }

  _clear() {
    this._run = null;
    this._shown = null;
    this._questions.drop();
    this.element.removeAttribute("data-asking");
    this._waiting.hidden = false;
    this._body.hidden = true;
  }

  /** @param {Shown} shown */
  _render({ run, question, answer }) {
    const masks = this._masksOf(answer).map((mask) => mask.slice());
    const { mask, shown } = this._corrector.correct(masks, answer, question.picture);
    this._picture.show({ ...answer, binary: shown }, run.pictures[Math.min(question.picture, run.pictures.length - 1)]);
    const area = mask.reduce((sum, pixel) => sum + pixel, 0) / mask.length;
    this._area.textContent = this._texts.area((area * 100).toFixed(1));
    this._renderEdits(answer);
    this._renderWords(answer);
    this._renderThreshold(answer);
    this._renderSteps(answer);
    this._pages.show(question.picture, answer.batch);
    this._readOut(false);
  }

  /** @param {Answer} answer */
  _renderEdits({ edits }) {
    this._edits.element.hidden = edits.length === 1;
    const texts = [this._texts.allEdits, ...edits];
    if (this._edits.texts !== String(texts)) this._edits.list(texts.map((text) => button(text, () => {})));
    this._edits.press([this._choice.edit], this._fixed.includes("edit"));
  }

  /** @param {Answer} answer */
  _masksOf(answer) {
    const { threshold, grow, smooth, fillHoles } = this._choice;
    const name = String([threshold, grow, smooth, fillHoles]);
    if (this._cut?.answer !== answer || this._cut.name !== name) {
      this._cut = { answer, name, masks: cut(answer, threshold, { grow, smooth, fillHoles }) };
    }
    return this._cut.masks;
  }

  /** @param {Answer} answer */
  _renderWords(answer) {
    const fixed = this._fixed.includes("words");
    const numbers = this._names(answer).flatMap((name) => this._numbers.get(name) ?? []);
    const named = answer.words.map((_, number) => numbers.includes(number));
    this._words.update(answer, named, fixed);
    this._origin.textContent = this._originOf(answer);
    this._forget.hidden = fixed || !this._choice.words.length;
  }

  /** @param {Answer} answer */
  _originOf(answer) {
    const unknown = this._names(answer).find((name) => this._isUnknown(name));
    if (this._refusal) return this._refusal;
    if (unknown !== undefined) return this._texts.unknown(unknown, answer.nearest);
    if (this._choice.words.length) return this._texts.named;
    if (answer.target.length) return this._texts.namedInSettings;
    return answer.fits ? this._texts.fits : this._texts.foundByItself;
  }

  /** @param {Answer} answer */
  _renderThreshold({ layers }) {
    const { input, value } = this._threshold;
    const chosen = this._choice.threshold;
    input.value = String(chosen || layers[0].threshold);
    const ofSettings = [...new Set(layers.map(({ threshold }) => threshold.toFixed(2)))].join(" / ");
    value.textContent = chosen ? chosen.toFixed(2) : this._texts.ofSettings(ofSettings);
    input.setAttribute("aria-valuetext", value.textContent);
    input.disabled = this._fixed.includes("threshold");
    this._reset.disabled = input.disabled || !this._choice.threshold;
  }

  /** @param {Answer} answer */
  _renderSteps({ steps }) {
    const { input, value } = this._steps;
    const step = Math.min(this._choice.steps || steps, steps);
    input.max = String(steps);
    input.value = String(step);
    value.textContent = this._texts.stepOf(step, steps);
    input.setAttribute("aria-valuetext", value.textContent);
    input.disabled = this._fixed.includes("steps") || steps === 1;
  }

  /** @param {boolean} aloud */
  _readOut(aloud) {
    if (!this._shown) return;
    const { answer } = this._shown;
    const words = this._place ? wordsAt(answer, ...this._place) : [];
    const acting = words.slice(0, MOST_ACTING).filter(({ value }) => value > 0);
    this._words.highlight(acting.map(({ number }) => number));
    this._readout.show(acting.map(({ number, value }) => ({ text: answer.words[number], value })), aloud);
  }
}
