import { button, make } from "./dom.js";

/** Which picture of a batch is shown, and buttons for the one before and the next. */
export class Pager {
  /**
   * @param {import("./texts.js").Texts} texts
   * @param {() => void} onTurn
   */
  constructor(texts, onTurn) {
    this._texts = texts;
    /** The picture that is wanted; until its mask is there another one is shown. */
    this.number = 0;
    this._value = make("span", { role: "status" });
    const turn = (/** @type {number} */ by) => {
      this.number += by;
      onTurn();
    };
    this._previous = button("‹", () => turn(-1), texts.previous);
    this._next = button("›", () => turn(1), texts.next);
    this.element = make("div", { class: "instdiff-row" }, this._previous, this._value, this._next);
  }

  /**
   * @param {number} shown the number of the picture that is shown
   * @param {number} count of the pictures
   */
  show(shown, count) {
    this.element.hidden = count === 1;
    this._value.textContent = this._texts.pictureOf(shown + 1, count);
    this._previous.disabled = this.number === 0;
    this._next.disabled = this.number === count - 1;
  }
}
