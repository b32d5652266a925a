/** Puts the mask editor on every Refine Instant Mask, and connects it to the node's inputs and runs. */

// @ts-ignore: the host's own modules, which come without types
import { api } from "../../scripts/api.js";
// @ts-ignore
import { app } from "../../scripts/app.js";
import { loadRun, readReferences } from "./run_output.js";
import { MaskEditor } from "./widget/mask_editor.js";
import { textsFor } from "./widget/texts.js";

/**
 * @typedef {any} HostNode a node of the host
 * @typedef {{ name: keyof typeof INPUTS, value: unknown, label?: string, callback?: Function, hidden?: boolean, options: any }} Widget
 *   an input of it
 * @typedef {import("./widget/mask_editor.js").Choice} Choice
 */

/** What the editor needs, and what a new node gets. */
const LEAST_HEIGHT = 390;
const SIZE = [420, 820];

/** Where the references to the latest run are kept in a saved workflow. */
const PROPERTY = "instdiff_record";

/** The value of an input, which other nodes may set, as a number. */
const toNumber = (/** @type {unknown} */ value) => Number(value) || 0;

const asIs = (/** @type {unknown} */ value) => value;

/**
 * How the editor's choices are written in the node's inputs.
 *
 * @type {Record<string, { choice: keyof Choice, read(value: unknown): any, write(value: any): unknown }>}
 */
const INPUTS = {
  steps: { choice: "steps", read: toNumber, write: asIs },
  threshold: { choice: "threshold", read: toNumber, write: asIs },
  words: {
    choice: "words",
    read: (value) => String(value ?? "").split(/[,，、]/).map((word) => word.trim()).filter(Boolean),
    write: (words) => words.join(", "),
  },
  grow: { choice: "grow", read: toNumber, write: asIs },
  smooth: { choice: "smooth", read: toNumber, write: asIs },
  fill_holes: { choice: "fillHoles", read: Boolean, write: asIs },
  edit: { choice: "edit", read: toNumber, write: asIs },
  corrections: { choice: "corrections", read: (value) => String(value ?? ""), write: asIs },
};

/** @type {import("./run_output.js").Host} */
const HOST = {
  fetchFile: (reference) => api.fetchApi(`/view?${new URLSearchParams(reference)}`),
  fetchMask: (question) =>
    api.fetchApi("/instdiff/mask", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(question),
    }),
};

/** The canvas' own handlers: with the middle button it is moved from here too. */
const PANNING = { pointerdown: "processMouseDown", pointermove: "processMouseMove", pointerup: "processMouseUp" };

app.registerExtension({
  name: "InstDiffEdit.RefineMask",
  init() {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("./widget/mask_editor.css", import.meta.url).href;
    document.head.append(style);
    api.addEventListener("execution_success", noteChange); // else a reload would not know of the run
  },
  nodeCreated(/** @type {HostNode} */ node) {
    if (node.constructor.comfyClass === "InstDiffRefineMask") mount(node);
  },
});

let mounted = 0;

/** @param {HostNode} node */
function mount(node) {
  /** @type {Widget[]} */
  const widgets = node.widgets.filter((/** @type {Widget} */ { name }) => name in INPUTS);
  const texts = textsFor(app.extensionManager.setting.get("Comfy.Locale"));
  for (const widget of widgets) {
    widget.label = texts.inputs[widget.name] ?? widget.label; // what its 0 means, which the editor shows
    if (widget.name === "corrections") widget.hidden = widget.options.hidden = true; // nothing to be read by people
  }
  const editor = new MaskEditor(texts, {
    onChange: (choice) => write(node, widgets, choice),
    onCommit: noteChange,
  });
  editor.element.style.minHeight = `${LEAST_HEIGHT}px`; // for Vue nodes, which do not ask below
  // after undo, Vue nodes keep on showing the element of a widget of the same name and type
  const type = `instdiff_mask_editor_${++mounted}`;
  const own = node.addDOMWidget("mask_editor", type, editor.element, {
    serialize: false, // not in the prompt
    hideOnZoom: false,
    getMinHeight: () => LEAST_HEIGHT,
  });
  own.serialize = false; // nor in the saved workflow
  node.setSize([Math.max(node.size[0], SIZE[0]), Math.max(node.size[1], SIZE[1])]);

  // the editor shows the mask: Vue nodes and the canvas need not do it again
  node.hideOutputImages = true;
  node.onDrawBackground = () => {};

  const sync = () => {
    const fixed = linked(node);
    editor.set(read(widgets, fixed, readReferences(node.properties[PROPERTY])?.inputs), fixed.map(choiceOf));
  };
  for (const widget of widgets) after(widget, "callback", sync);
  after(node, "onConnectionsChange", sync);

  const load = () => {
    const references = readReferences(node.properties[PROPERTY]);
    editor.show(references ? loadRun(references, HOST) : Promise.resolve(null));
  };
  after(node, "onConfigure", () => {
    sync();
    load();
  });
  after(node, "onExecuted", (/** @type {any} */ output) => {
    node.properties[PROPERTY] = readReferences(output?.instdiff_record?.[0]);
    load();
    sync();
  });
  api.addEventListener("reconnected", load); // what was asked meanwhile got no answer
  after(node, "onRemoved", () => {
    api.removeEventListener("reconnected", load);
    editor.dispose();
  });
  keepEvents(editor.element);
}

/**
 * What the inputs say; those that other nodes set, as the latest run had them.
 *
 * @param {Widget[]} widgets
 * @param {string[]} fixed
 * @param {Record<string, unknown>} [ran]
 * @returns {Choice}
 */
function read(widgets, fixed, ran = {}) {
  const values = widgets.map(({ name, value }) => {
    const used = fixed.includes(name) ? ran[name] ?? value : value;
    return [choiceOf(name), INPUTS[name].read(used)];
  });
  return /** @type {Choice} */ (Object.fromEntries(values));
}

const choiceOf = (/** @type {string} */ name) => INPUTS[name].choice;

/**
 * @param {HostNode} node
 * @param {Widget[]} widgets
 * @param {Choice} choice
 */
function write(node, widgets, choice) {
  const fixed = linked(node);
  for (const widget of widgets.filter(({ name }) => !fixed.includes(name))) {
    const input = INPUTS[widget.name];
    const value = input.write(choice[input.choice]);
    if (widget.value === value) continue;
    widget.value = value;
    widget.callback?.(value, app.canvas, node);
  }
  node.setDirtyCanvas(true);
}

/**
 * The names of the editor's inputs that another node sets.
 *
 * @param {HostNode} node
 */
function linked(node) {
  const inputs = /** @type {{ link: unknown, widget?: Widget }[]} */ (node.inputs ?? []);
  const names = inputs.filter(({ link }) => link != null).map(({ widget }) => widget?.name);
  return Object.keys(INPUTS).filter((name) => names.includes(name));
}

/** Makes what happened since the last call one step for undo. */
function noteChange() {
  app.canvas.emitBeforeChange();
  app.canvas.emitAfterChange();
}

/**
 * Keeps what is done in the editor from the canvas behind it, except what is meant for that.
 *
 * @param {HTMLElement} element
 */
function keepEvents(element) {
  element.addEventListener("keydown", (event) => {
    const target = /** @type {HTMLInputElement} */ (event.target);
    const command = event.ctrlKey || event.metaKey;
    if (!command) event.stopPropagation();
    // the host leaves undo in an input to the browser, which has none for sliders
    if (command && target.type === "range" && ["z", "y"].includes(event.key.toLowerCase())) {
      const redo = event.shiftKey || event.key.toLowerCase() === "y";
      app.extensionManager.command.execute(redo ? "Comfy.Redo" : "Comfy.Undo");
    }
  });
  for (const [name, method] of Object.entries(PANNING)) {
    element.addEventListener(/** @type {keyof typeof PANNING} */ (name), (event) => {
      const middle = name === "pointermove" ? event.buttons & 4 : event.button === 1;
      if (middle) app.canvas[method](event);
    });
  }
  element.addEventListener("wheel", (event) => {
    const list = /** @type {Element} */ (event.target).closest(".instdiff-words");
    if (list && list.scrollHeight > list.clientHeight && !event.ctrlKey) {
      event.stopPropagation();
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    app.canvas.processMouseWheel(event);
  });
}

/**
 * Calls `action` after the method or callback `name` of `owner`, with the same arguments.
 *
 * @param {any} owner
 * @param {string} name
 * @param {Function} action
 */
function after(owner, name, action) {
  const before = owner[name];
  owner[name] = /** @this {unknown} */ function (/** @type {unknown[]} */ ...values) {
    const result = before?.apply(this, values);
    action(...values);
    return result;
  };
}
