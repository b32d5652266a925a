import { make } from "./dom.js";
import { Toolbar } from "./toolbar.js";

/** @type {Record<number, string>} */
const SIGNS = { "1": "+", "0": "", "-1": "−" };
/** @type {Record<number, string>} */
const WEIGHTS = { "1": "+1", "0": "0", "-1": "−1" };

/** The words of the edit prompt as buttons. */
export class Words {
  /**
   * @param {import("./texts.js").Texts} texts
   * @param {(number: number) => void} onToggle called with the number of a word
   */
  constructor(texts, onToggle) {
    this._texts = texts;
    /** @type {{ word: string, button: HTMLButtonElement, sign: HTMLElement }[]} */
    this._chips = [];
    this._toolbar = new Toolbar({ class: "instdiff-words", "aria-label": texts.words }, onToggle);
    this.element = this._toolbar.element;
  }

  /** @param {string[]} words in prompt order */
  list(words) {
    this._chips = words.map((word) => {
      const sign = make("span", { class: "instdiff-sign", "aria-hidden": "true" });
      const button = make(
        "button",
        { type: "button", "aria-pressed": "false" },
        sign,
        make("span", { class: "instdiff-word" }, word),
      );
      return { word, button, sign };
    });
    this._toolbar.list(this._chips.map(({ button }) => button));
  }

  /**
   * @param {{ weights: number[], indices: number[] }} mask
   * @param {boolean[]} named whether the user, or the settings, named each word
   * @param {boolean} fixed whether they cannot be changed
   */
  update({ weights, indices }, named, fixed) {
    this._chips.forEach(({ word, button, sign }, number) => {
      const weight = weights[number];
      const isIndex = indices.includes(number);
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
}
