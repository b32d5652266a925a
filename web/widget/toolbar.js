import { make } from "./dom.js";

/** Buttons in a row: one stop for Tab, arrow keys move within. */
export class Toolbar {
  /**
   * @param {Record<string, string>} attributes
   * @param {(number: number) => void} onPress called with the number of a button
   */
  constructor(attributes, onPress) {
    /** @type {HTMLButtonElement[]} */
    this._buttons = [];
    this._current = 0;
    this.element = make("div", { role: "toolbar", ...attributes });
    this.element.addEventListener("click", (event) => {
      const number = this._numberOf(event.target);
      if (number >= 0) onPress(number);
    });
    this.element.addEventListener("focusin", (event) => this._enter(this._numberOf(event.target)));
    this.element.addEventListener("keydown", (event) => this._onKey(event));
  }

  /** @param {HTMLButtonElement[]} buttons */
  list(buttons) {
    this._buttons = buttons;
    for (const button of buttons) button.setAttribute("tabindex", "-1");
    this.element.replaceChildren(...buttons);
    this._enter(0);
  }

  /** What is written on the buttons. */
  get texts() {
    return String(this._buttons.map(({ textContent }) => textContent));
  }

  /**
   * @param {number[]} numbers of the buttons that are pressed
   * @param {boolean} fixed whether the user cannot press others
   */
  press(numbers, fixed) {
    this._buttons.forEach((button, number) => {
      button.setAttribute("aria-pressed", String(numbers.includes(number)));
      button.disabled = fixed;
    });
  }

  /** @param {EventTarget | null} target */
  _numberOf(target) {
    return this._buttons.findIndex((button) => button.contains(/** @type {Node | null} */ (target)));
  }

  /**
   * Make a button the one that Tab comes to.
   *
   * @param {number} number
   */
  _enter(number) {
    if (!this._buttons[number]) return;
    this._buttons[this._current]?.setAttribute("tabindex", "-1");
    this._buttons[number].setAttribute("tabindex", "0");
    this._current = number;
  }

  /** @param {KeyboardEvent} event */
  _onKey(event) {
    const last = this._buttons.length - 1;
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
    this._buttons[number].focus();
  }
}
