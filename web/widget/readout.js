import { make } from "./dom.js";

/** The words that act at a place, strongest first, each with its share and a bar; and a line to be read out. */
export class Readout {
  /** @param {import("./texts.js").Texts} texts */
  constructor(texts) {
    this._texts = texts;
    this._hint = make("p", {}, texts.point);
    this._bars = make("div", { class: "instdiff-bars", "aria-hidden": "true" });
    this._spoken = make("p", { class: "instdiff-unseen", "aria-live": "polite" });
    this.element = make("div", { class: "instdiff-readout" }, this._hint, this._bars, this._spoken);
  }

  /**
   * @param {{ text: string, value: number }[]} words strongest first; none where nothing is pointed at
   * @param {boolean} aloud whether screen readers shall say them
   */
  show(words, aloud) {
    this._hint.hidden = words.length > 0;
    this._bars.replaceChildren(
      ...words.map(({ text, value }) => {
        const bar = make("span", { class: "instdiff-bar" });
        bar.style.width = `${percent(value)}%`;
        const said = this._texts.acting(text, percent(value));
        return make("span", { class: "instdiff-acting", title: said }, make("span", {}, said), bar);
      }),
    );
    const said = words.map(({ text, value }) => this._texts.acting(text, percent(value)));
    if (aloud) this.say(said.join(", "));
  }

  /** @param {string} text to be read out by screen readers */
  say(text) {
    this._spoken.textContent = text;
  }
}

/** @param {number} value */
function percent(value) {
  return Math.round(value * 100);
}
