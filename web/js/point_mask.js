// Puts the clip into Point Mask, and keeps it there through saving, copying, undo and cached runs.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { Editor } from "./point_editor.js";
import { History, NAMES } from "./point_marks.js";

const NODE = "SteadyEditPointMask";
const CLIP = "steadyedit_frame", MASKS = "steadyedit_masks"; // keys of the node's output
const LAST = "steadyedit_last"; // property: what the last run showed

// What is shown, by graph and node: the host's undo makes every node anew.
const kept = new Map();
const started = () => ({ object: 1, zoom: 1, pan: [0, 0], overlay: true, history: new History() });
const key = (node) => `${node.graph?.rootGraph?.id ?? node.graph?.id ?? ""}:${node.graph?.id ?? ""}:${node.id}`;

function address({ filename, subfolder, type }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder: subfolder ?? "", type: type ?? "temp" })}`);
}

// A step of the host's own undo for every edit.
function remember() {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
}

function hostOf(node) {
  const widget = (name) => node.widgets?.find((one) => one.name === name);
  return {
    address,
    value: (name) => widget(name)?.value,
    set: (name, value) => {
      const found = widget(name);
      if (!found) return;
      found.value = value;
      found.callback?.(value);
    },
    edited: () => {
      node.graph?.setDirtyCanvas?.(true, true);
      remember();
    },
  };
}

app.registerExtension({
  name: "SteadyEdit.PointMask",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const editor = new Editor(hostOf(node), started());
    const shown = node.addDOMWidget("picture", "steadyedit_points", editor.root, {
      serialize: false, hideOnZoom: false, getMinHeight: () => 300,
    });
    shown.serialize = false;
    for (const name of [...NAMES, "frame"]) {
      const widget = node.widgets?.find((one) => one.name === name), before = widget?.callback;
      if (widget)
        widget.callback = function (...values) {
          before?.apply(this, values);
          if (name === "frame") editor.goto(null);
          else editor.typed();
        };
    }
    const { onExecuted, onConfigure } = node;
    node.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      const [clip] = output?.[CLIP] ?? [];
      if (!clip?.count) return;
      const last = { clip, masks: output[MASKS] ?? [], asked: JSON.stringify([...editor.state(), editor.home]) };
      // Kept with the node, so that the clip is there again after a reload and in a copy.
      this.properties[LAST] = last;
      Object.assign(editor.kept, last);
      kept.set(key(this), editor.kept);
      editor.refresh();
    };
    node.onConfigure = function () {
      onConfigure?.apply(this, arguments);
      const before = kept.get(key(this)), saved = this.properties?.[LAST];
      editor.kept = before ?? editor.kept;
      if (saved && (!before?.clip || saved.clip.subfolder !== before.clip.subfolder)) Object.assign(editor.kept, saved);
      kept.set(key(this), editor.kept);
      editor.kept.history.found(editor.state());
      editor.refresh();
    };
    const [width, height] = node.computeSize();
    node.setSize([Math.max(node.size[0], width, 360), Math.max(node.size[1], height)]);
  },
});
