/** Puts the mask editor on every Refine Instant Mask, and connects it to the node's inputs and runs. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { loadRun, readReferences } from "./run_output.js";
import { MaskEditor } from "./widget/mask_editor.js";
import { textsFor } from "./widget/texts.js";

/** What the editor needs, and what a new node gets. */
const LEAST_HEIGHT = 380;
const SIZE = [420, 640];

/** Where the references to the latest run are kept in a saved workflow. */
const PROPERTY = "instdiff_record";

/** How the editor's choices are written in the node's inputs. */
const INPUTS = {
  threshold: { read: (value) => Number(value) || 0, write: (threshold) => threshold },
  words: {
    read: (value) => String(value ?? "").split(",").map((word) => word.trim()).filter(Boolean),
    write: (words) => words.join(", "),
  },
  steps: { read: (value) => Number(value) || 0, write: (steps) => steps },
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
  nodeCreated(node) {
    if (node.constructor.comfyClass === "InstDiffRefineMask") mount(node);
  },
});

let mounted = 0;

function mount(node) {
  const widgets = Object.keys(INPUTS).map((name) => node.widgets.find((widget) => widget.name === name));
  const editor = new MaskEditor(textsFor(app.extensionManager.setting.get("Comfy.Locale")), {
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

  const sync = () => editor.set(read(widgets), linked(node));
  for (const widget of widgets) after(widget, "callback", sync);
  after(node, "onConnectionsChange", sync);

  let wanted = 0;
  const load = async () => {
    const number = ++wanted;
    const references = readReferences(node.properties[PROPERTY]);
    const run = references && (await loadRun(references, fetchFile));
    if (number === wanted) editor.show(run);
  };
  after(node, "onConfigure", () => {
    sync();
    load();
  });
  after(node, "onExecuted", (output) => {
    node.properties[PROPERTY] = readReferences(output?.instdiff_record?.[0]);
    load();
  });
  after(node, "onRemoved", () => editor.dispose());
  keepEvents(editor.element);
}

function read(widgets) {
  return Object.fromEntries(widgets.map(({ name, value }) => [name, INPUTS[name].read(value)]));
}

function write(node, widgets, choice) {
  for (const widget of widgets) {
    const value = INPUTS[widget.name].write(choice[widget.name]);
    if (widget.value === value) continue;
    widget.value = value;
    widget.callback?.(value, app.canvas, node);
  }
  node.setDirtyCanvas(true);
}

/** Those of the editor's inputs that another node sets. */
function linked(node) {
  const names = (node.inputs ?? []).filter(({ link }) => link != null).map(({ widget }) => widget?.name);
  return Object.keys(INPUTS).filter((name) => names.includes(name));
}

/** Makes what happened since the last call one step for undo. */
function noteChange() {
  app.canvas.emitBeforeChange();
  app.canvas.emitAfterChange();
}

function fetchFile(reference) {
  return api.fetchApi(`/view?${new URLSearchParams(reference)}`);
}

/** Keeps what is done in the editor from the canvas behind it, except what is meant for that. */
function keepEvents(element) {
  element.addEventListener("keydown", (event) => {
    const command = event.ctrlKey || event.metaKey;
    if (!command) event.stopPropagation();
    // the host leaves undo in an input to the browser, which has none for sliders
    if (command && event.target.type === "range" && ["z", "y"].includes(event.key.toLowerCase())) {
      const redo = event.shiftKey || event.key.toLowerCase() === "y";
      app.extensionManager.command.execute(redo ? "Comfy.Redo" : "Comfy.Undo");
    }
  });
  for (const [name, method] of Object.entries(PANNING)) {
    element.addEventListener(name, (event) => {
      const middle = name === "pointermove" ? event.buttons & 4 : event.button === 1;
      if (middle) app.canvas[method](event);
    });
  }
  element.addEventListener("wheel", (event) => {
    const list = event.target.closest(".instdiff-words");
    if (list && list.scrollHeight > list.clientHeight && !event.ctrlKey) {
      event.stopPropagation();
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    app.canvas.processMouseWheel(event);
  });
}

/** Calls `action` after the method or callback `name` of `owner`, with the same arguments. */
function after(owner, name, action) {
  const before = owner[name];
  owner[name] = function (...values) {
    const result = before?.apply(this, values);
    action(...values);
    return result;
  };
}
