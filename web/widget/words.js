import { make } from "./dom.js";

/** @type {Record<number, string>} */
const SIGNS = { "1": "+", "0": "", "-1": "−" };
/** @type {Record<number, string>} */
const WEIGHTS = { "1": "+1", "0": "0", "-1": "−1" };

/** The words of the edit prompt as buttons: one stop for Tab, arrow keys move within. */
export class Words {
  /**
   * @param {import("./texts.js").Texts} texts
   * @param {(number: number) => void} onToggle called with the number of a word
   */
  constructor(texts, onToggle) {
    this._texts = texts;
    /** @type {{ word: string, button: HTMLButtonElement, sign: HTMLElement }[]} */
    this._chips = [];
    this._current = 0;
    this.element = make("div", {
      class: "instdiff-words",
      role: "toolbar",
      "aria-label": texts.words,
      "data-capture-wheel": "true", // asks Vue nodes to let a focused list scroll
    });
    this.element.addEventListener("click", (event) => {
      const number = this._numberOf(event.target);
      if (number >= 0) onToggle(number);
    });
    this.element.addEventListener("focusin", (event) => this._enter(this._numberOf(event.target)));
    this.element.addEventListener("keydown", (event) => this._onKey(event));
  }

  /** @param {string[]} words in prompt order */
  list(words) {
    this._chips = words.map((word) => {
      const sign = make("span", { class: "instdiff-sign", "aria-hidden": "true" });
      const button = make(
        "button",
        { type: "button", tabindex: "-1", "aria-pressed": "false" },
        sign,
        make("span", { class: "instdiff-word" }, word),
      );
      return { word, button, sign };
    });
    this.element.replaceChildren(...this._chips.map((chip) => chip.button));
    this._enter(0);
  }

  /**
   * @param {{ weights: number[], index: number }} mask
   * @param {boolean[]} named whether the user, or the settings, named each word
   * @param {boolean} fixed whether they cannot be changed
   */
  update({ weights, index }, named, fixed) {
    this._chips.forEach(({ word, button, sign }, number) => {
      const weight = weights[number];
      const isIndex = number === index;
      button.setAttribute("aria-pressed", String(named[number]));
      button.disabled = fixed;
      button.dataset.weight = String(weight);
      button.dataset.index = String(isIndex);
      sign.textContent = `${isIndex ? "★" : ""}${SIGNS[weight]}`;
      const roles = [
        ...(isIndex ? [this._texts.index] : []),
        ...(weight > 0 ? [this._texts.with] : []),
        ...(weight < 0 ? [this._texts.against] : []),
      ];
      const said = this._texts.weight(word, WEIGHTS[weight], roles);
      button.title = said;
      button.setAttribute("aria-label", said);
    });
  }

  /** @param {number[]} numbers of the words to highlight */
  highlight(numbers) {
    this._chips.forEach(({ button }, number) => button.toggleAttribute("data-acting", numbers.includes(number)));
  }

  /** @param {EventTarget | null} target */
  _numberOf(target) {
    return this._chips.findIndex(({ button }) => button.contains(/** @type {Node | null} */ (target)));
  }

  /**
   * Make a word the one that Tab comes to.
   *
   * @param {number} number
   */
  _enter(number) {
    if (!this._chips[number]) return;
    this._chips[this._current]?.button.setAttribute("tabindex", "-1");
    this._chips[number].button.setAttribute("tabindex", "0");
    this._current = number;
  }

  /** @param {KeyboardEvent} event */
  _onKey(event) {
    const last = this._chips.length - 1;
    /** @type {Record<string, number>} */
    const places = {
      ArrowLeft: Math.max(0, this._current - 1),
      ArrowRight: Math.min(last, this._current + 1),
      Home: 0,
      End: last,
    };
    const number = places[event.key];
    if (number === undefined) return;
    event.preventDefault();
    this._chips[number].button.focus();
  }
}
