import { button, make } from "./dom.js";

/** Which picture of a batch is shown, and buttons for the one before and the next. */
export class Pager {
  /**
   * @param {import("./texts.js").Texts} texts
   * @param {() => void} onTurn
   */
  constructor(texts, onTurn) {
    this._texts = texts;
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

  /** @param {number} count of the pictures */
  show(count) {
    this.element.hidden = count === 1;
    this._value.textContent = this._texts.pictureOf(this.number + 1, count);
    this._previous.disabled = this.number === 0;
    this._next.disabled = this.number === count - 1;
  }
}
