import { readCorrections, writeCorrections } from "./corrections.js";

/** @typedef {import("./corrections.js").Action} Action */

/** The corrections of a node's pictures, with those that were undone: each picture has its own past. */
export class History {
  constructor() {
    /** @type {import("./corrections.js").Corrections} */
    this._corrections = {};
    /** @type {Record<string, { past: Action[][], future: Action[][] }>} */
    this._times = {};
    this.text = "";
  }

  /**
   * Begin anew with a text, unless it is the present one. What cannot be read counts as none.
   *
   * @param {string} text
   */
  load(text) {
    if (text === this.text) return;
    this.text = text;
    this._corrections = readCorrections(text) ?? {};
    this._times = {};
  }

  /** @param {number} number of the picture */
  actions(number) {
    return this._corrections[number] ?? [];
  }

  /**
   * @param {number} number
   * @param {Action[]} actions in place of those before
   * @returns {boolean} whether there was room for them
   */
  change(number, actions) {
    const { past } = this._timesOf(number);
    const before = this.actions(number);
    if (!this._set(number, actions)) return false;
    this._times[number] = { past: [...past, before], future: [] };
    return true;
  }

  /** @param {number} number */
  canUndo(number) {
    return this._timesOf(number).past.length > 0;
  }

  /** @param {number} number */
  canRedo(number) {
    return this._timesOf(number).future.length > 0;
  }

  /** @param {number} number */
  undo(number) {
    const { past, future } = this._timesOf(number);
    this._times[number] = { past: past.slice(0, -1), future: [...future, this.actions(number)] };
    this._set(number, past[past.length - 1]);
  }

  /** @param {number} number */
  redo(number) {
    const { past, future } = this._timesOf(number);
    this._times[number] = { past: [...past, this.actions(number)], future: future.slice(0, -1) };
    this._set(number, future[future.length - 1]);
  }

  /**
   * What was loaded was done one action after the other.
   *
   * @param {number} number
   */
  _timesOf(number) {
    const actions = this.actions(number);
    return this._times[number] ?? { past: actions.map((_, count) => actions.slice(0, count)), future: [] };
  }

  /** @param {number} number @param {Action[]} actions */
  _set(number, actions) {
    const corrections = { ...this._corrections, [number]: actions };
    const text = writeCorrections(corrections);
    if (text === null) return false;
    this._corrections = corrections;
    this.text = text;
    return true;
  }
}
