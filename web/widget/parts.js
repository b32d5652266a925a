import { components, rootOf } from "./components.js";
import { make } from "./dom.js";
import { Toolbar } from "./toolbar.js";

/** How many parts are told apart, the largest ones. */
const MOST_PARTS = 12;

/**
 * @typedef {import("./corrections.js").Action} Action
 * @typedef {{ runs: number[], size: number, place: [number, number], action?: Action }} Part
 *   `runs`: starts and ends of runs of pixels; `place`: where most speaks for it; `action`: what dropped it, if any
 */

/**
 * The separate parts of a mask, from top to bottom, with those that were dropped.
 *
 * @param {Uint8Array} mask of 0 and 1
 * @param {Uint8Array} soft
 * @param {number} width
 * @param {import("./corrections.js").Piece[]} pieces of several masks too, where one action may have dropped something of each
 * @returns {Part[]}
 */
export function findParts(mask, soft, width, pieces) {
  const { starts, ends, parents } = components(mask, width, 1);
  /** @type {Map<number, number[]>} */
  const kept = new Map();
  starts.forEach((start, run) => {
    const root = rootOf(parents, run);
    const runs = kept.get(root) ?? [];
    kept.set(root, runs);
    runs.push(start, ends[run]);
  });
  const parts = [...kept.values()].map((runs) => toPart(runs, soft, width));
  const dropped = [...joined(pieces)].map(([action, runs]) => ({ ...toPart(without(runs, mask), soft, width), action }));
  return [...parts, ...dropped]
    .filter(({ size }) => size > 0)
    .sort((one, other) => other.size - one.size)
    .slice(0, MOST_PARTS)
    .sort((one, other) => one.place[1] - other.place[1] || one.place[0] - other.place[0]);
}

/**
 * A part, and of its pixels that reach most levels the one that is nearest to their middle: a higher threshold leaves it.
 *
 * @param {number[]} runs
 * @param {Uint8Array} soft
 * @param {number} width
 * @returns {Part}
 */
function toPart(runs, soft, width) {
  let [size, most] = [0, 0];
  each(runs, (at) => {
    size++;
    most = Math.max(most, soft[at]);
  });
  let [count, across, down] = [0, 0, 0];
  each(runs, (at) => {
    if (soft[at] < most) return;
    count++;
    across += at % width;
    down += Math.floor(at / width);
  });
  /** @type {[number, number]} */
  let place = [0, 0];
  let least = Infinity;
  each(runs, (at) => {
    const [x, y] = [at % width, Math.floor(at / width)];
    const distance = (x - across / count) ** 2 + (y - down / count) ** 2;
    if (soft[at] === most && distance < least) [least, place] = [distance, [x, y]];
  });
  return { runs, size, place };
}

/** @param {number[]} runs @param {(at: number) => void} action called with each pixel */
function each(runs, action) {
  for (let run = 0; run < runs.length; run += 2) for (let at = runs[run]; at < runs[run + 1]; at++) action(at);
}

/**
 * The runs of each action.
 *
 * @param {import("./corrections.js").Piece[]} pieces
 */
function joined(pieces) {
  /** @type {Map<Action, number[]>} */
  const byAction = new Map();
  for (const { action, runs } of pieces) {
    const before = byAction.get(action);
    byAction.set(action, before ? joinedRuns([...before, ...runs]) : runs);
  }
  return byAction;
}

/** Runs that may overlap, as some that do not. @param {number[]} runs */
function joinedRuns(runs) {
  const pairs = runs.flatMap((start, run) => (run % 2 ? [] : [[start, runs[run + 1]]]));
  /** @type {number[]} */
  const apart = [];
  for (const [start, end] of pairs.sort((one, other) => one[0] - other[0])) {
    if (apart.length && start <= apart[apart.length - 1]) apart.push(Math.max(/** @type {number} */ (apart.pop()), end));
    else apart.push(start, end);
  }
  return apart;
}

/** What of some runs is not in a mask. @param {number[]} runs @param {Uint8Array} mask */
function without(runs, mask) {
  /** @type {number[]} */
  const rest = [];
  for (let run = 0; run < runs.length; run += 2) {
    for (let at = runs[run], open = false; at <= runs[run + 1]; at++) {
      const free = at < runs[run + 1] && !mask[at];
      if (free !== open) rest.push(at);
      open = free;
    }
  }
  return rest;
}

/** The parts as buttons, and as numbers on the picture. */
export class Parts {
  /**
   * @param {import("./texts.js").Texts} texts
   * @param {(number: number) => void} onToggle called with the number of a part
   */
  constructor(texts, onToggle) {
    this._texts = texts;
    /** @type {HTMLButtonElement[]} */
    this._buttons = [];
    this._toolbar = new Toolbar({ class: "instdiff-parts", "aria-label": texts.parts }, onToggle);
    this.element = this._toolbar.element;
    this.labels = make("div", { class: "instdiff-labels", "aria-hidden": "true" });
  }

  /**
   * @param {Part[]} parts
   * @param {number} width
   * @param {number} height
   * @param {boolean} fixed whether they cannot be changed
   */
  show(parts, width, height, fixed) {
    if (parts.length !== this._buttons.length) this._list(parts.length);
    const keptCount = parts.filter(({ action }) => !action).length;
    parts.forEach(({ size, action }, number) => {
      const button = this._buttons[number];
      const share = `${((size / (width * height)) * 100).toFixed(1)} %`;
      const said = this._texts.part(number + 1, share, !action);
      button.textContent = `${number + 1} · ${share}`;
      button.title = said;
      button.setAttribute("aria-label", said);
      button.setAttribute("aria-pressed", String(!action));
      button.disabled = fixed || (!action && keptCount === 1);
    });
    this.labels.replaceChildren(
      ...(parts.length > 1 ? parts : []).map(({ place: [x, y], action }, number) => {
        const label = make("span", action ? { "data-dropped": "" } : {}, String(number + 1));
        label.style.left = `${((x + 0.5) / width) * 100}%`;
        label.style.top = `${((y + 0.5) / height) * 100}%`;
        return label;
      }),
    );
  }

  /** @param {number} count */
  _list(count) {
    const focused = this._buttons.findIndex((button) => button === document.activeElement);
    this._buttons = Array.from({ length: count }, () => make("button", { type: "button" }));
    this._toolbar.list(this._buttons);
    this._buttons[Math.min(focused, count - 1)]?.focus();
  }
}
