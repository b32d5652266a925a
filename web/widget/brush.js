/** A button of a pen's rear end, in `PointerEvent.buttons`. */
const REAR = 32;

/** The least part of the brush's size that a pen's pressure leaves. */
const LEAST = 0.1;

/**
 * @typedef {{ name: "add" | "erase", points: number[][] }} Stroke `points`: x, y and radius
 * @typedef {object} Listeners
 * @property {() => "add" | "erase" | null} toolOf the brush that is chosen
 * @property {(event: PointerEvent) => [number, number]} placeOf where an event is
 * @property {() => number} radiusOf the brush
 * @property {() => void} onDraw at every move
 * @property {(stroke: Stroke) => void} onEnd
 */

/** Makes strokes of what a mouse, a pen, a finger or the keyboard does on an element. */
export class Brush {
  /**
   * @param {HTMLElement} element
   * @param {Listeners} listeners
   */
  constructor(element, { toolOf, placeOf, radiusOf, onDraw, onEnd }) {
    this._radiusOf = radiusOf;
    this._onDraw = onDraw;
    this._onEnd = onEnd;
    /** @type {Stroke | null} the stroke that is being drawn */
    this.stroke = null;
    /** @type {number | null} null: the keyboard draws */
    this._pointer = null;

    element.addEventListener("pointerdown", (event) => {
      const name = toolOf();
      if (!name || this.stroke || (event.button !== 0 && !(event.buttons & REAR))) return;
      element.setPointerCapture(event.pointerId);
      this._pointer = event.pointerId;
      this.start(event.buttons & REAR ? "erase" : name, placeOf(event), pressureOf(event));
    });
    element.addEventListener("pointermove", (event) => {
      if (event.pointerId !== this._pointer) return;
      const events = event.getCoalescedEvents?.() ?? [];
      for (const part of events.length ? events : [event]) this.move(placeOf(part), pressureOf(part));
    });
    element.addEventListener("pointerup", (event) => this._finish(event, () => this.end()));
    element.addEventListener("pointercancel", (event) => this._finish(event, () => this.cancel()));
  }

  /**
   * @param {"add" | "erase"} name
   * @param {[number, number]} place
   * @param {number} [pressure]
   */
  start(name, place, pressure = 1) {
    this.stroke = { name, points: [] };
    this.move(place, pressure);
  }

  /**
   * @param {[number, number]} place
   * @param {number} [pressure]
   */
  move(place, pressure = 1) {
    this.stroke?.points.push([...place, this._radiusOf() * pressure]);
    this._onDraw();
  }

  end() {
    const { stroke } = this;
    this.cancel();
    if (stroke) this._onEnd(stroke);
  }

  cancel() {
    this.stroke = null;
    this._pointer = null;
    this._onDraw();
  }

  /** @param {PointerEvent} event @param {() => void} action */
  _finish(event, action) {
    if (event.pointerId === this._pointer) action();
  }
}

/** @param {PointerEvent} event */
function pressureOf({ pointerType, pressure }) {
  return pointerType === "pen" ? Math.max(pressure, LEAST) : 1;
}
