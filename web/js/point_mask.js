// The frame inside of Point Mask: click on the object, Shift-click (or right click) beside it, drag a box, click a mark
// to take it away. What is clicked stands in the node's own text widgets, so that it is saved, copied and queued as
// any typed value is; this picture only shows and edits them.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const NODE = "SteadyEditPointMask";
const PICTURE = "steadyedit_frame"; // key of the node's output and of its property
const TEXTS = ["positive", "negative", "boxes"];
const COLOURS = { positive: "#39d353", negative: "#ff5c5c", boxes: "#ffd400" };
const GRAB = 8; // screen pixels from a mark that still hit it; a drag longer than this is a box
const HINT = "Run once to see the frame, then click on the object";

// "10,20; 30,40", or the JSON of the host's nodes -> [[10, 20], [30, 40]]; what cannot be read is left alone: null.
export function parse(text, keys) {
  text = (text ?? "").trim();
  if (!text) return [];
  try {
    const number = (word) => (word.trim() ? Number(word) : NaN);
    const rows = "[{".includes(text[0])
      ? [JSON.parse(text)].flat().map((row) => keys.map((key) => Number(row[key])))
      : text.split(";").filter((part) => part.trim()).map((part) => part.split(",").map(number));
    return rows.every((row) => row.length === keys.length && row.every(Number.isFinite)) ? rows : null;
  } catch {
    return null;
  }
}

export function format(rows) {
  return rows.map((row) => row.map((value) => Math.round(value * 10) / 10).join(",")).join("; ");
}

const KEYS = { positive: ["x", "y"], negative: ["x", "y"], boxes: ["x", "y", "width", "height"] };

class Picture {
  constructor(node) {
    this.node = node;
    this.image = null;
    this.drag = null;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "steadyedit-points";
    this.canvas.tabIndex = 0;
    this.canvas.title = "Click: on the object. Shift-click: not part of it. Drag: a box. Click a mark: take it away.";
    Object.assign(this.canvas.style, {
      width: "100%", height: "100%", objectFit: "contain", cursor: "crosshair", background: "#1b1b1b", display: "block",
    });
    for (const [event, handler] of Object.entries({
      pointerdown: this.down, pointermove: this.move, pointerup: this.up, contextmenu: (e) => e.preventDefault(),
    }))
      this.canvas.addEventListener(event, handler.bind(this));
    this.draw();
  }

  widget(name) {
    return this.node.widgets?.find((widget) => widget.name === name);
  }

  rows(name) {
    return parse(this.widget(name)?.value, KEYS[name]);
  }

  set(name, rows) {
    const widget = this.widget(name);
    if (!widget) return;
    widget.value = format(rows);
    widget.callback?.(widget.value);
    this.node.graph?.change?.();
    this.draw();
  }

  show(url) {
    const image = new Image();
    image.onload = () => {
      this.image = image;
      this.canvas.dataset.ready = `${image.naturalWidth}x${image.naturalHeight}`;
      this.draw();
    };
    image.src = url;
  }

  // Screen pixels -> pixels of the frame, and how many of these a screen pixel is.
  place(event) {
    const rect = this.canvas.getBoundingClientRect();
    const { naturalWidth: width, naturalHeight: height } = this.image;
    const scale = Math.min(rect.width / width, rect.height / height);
    const x = (event.clientX - rect.left - (rect.width - width * scale) / 2) / scale;
    const y = (event.clientY - rect.top - (rect.height - height * scale) / 2) / scale;
    return { x, y, unit: 1 / scale, inside: x >= 0 && y >= 0 && x < width && y < height };
  }

  down(event) {
    if (!this.image || event.button === 1) return;
    const at = this.place(event);
    event.preventDefault();
    event.stopPropagation();
    if (!at.inside) return;
    this.canvas.setPointerCapture?.(event.pointerId);
    this.drag = { from: at, to: at, negative: event.shiftKey || event.button === 2 };
  }

  move(event) {
    if (!this.drag) return;
    event.stopPropagation();
    this.drag.to = this.place(event);
    this.draw();
  }

  up(event) {
    if (!this.drag) return;
    event.stopPropagation();
    const { from, negative } = this.drag;
    const to = this.place(event);
    this.drag = null;
    if (Math.hypot(to.x - from.x, to.y - from.y) > GRAB * from.unit) this.add("boxes", this.box(from, to));
    else if (!this.remove(from)) this.add(negative ? "negative" : "positive", [from.x, from.y]);
    this.draw();
  }

  box(from, to) {
    const limit = (value, most) => Math.min(Math.max(value, 0), most);
    const { naturalWidth: width, naturalHeight: height } = this.image;
    const [x1, x2] = [from.x, to.x].map((x) => limit(x, width)).sort((a, b) => a - b);
    const [y1, y2] = [from.y, to.y].map((y) => limit(y, height)).sort((a, b) => a - b);
    return [x1, y1, x2 - x1, y2 - y1];
  }

  add(name, row) {
    const rows = this.rows(name);
    // Text that cannot be read is being typed: it is not overwritten.
    if (rows) this.set(name, [...rows, row]);
  }

  // Take away the mark at a place; a box is held by its upper left corner.
  remove(at) {
    for (const name of TEXTS) {
      const rows = this.rows(name) ?? [];
      const index = rows.findIndex(([x, y]) => Math.hypot(x - at.x, y - at.y) <= GRAB * at.unit);
      if (index < 0) continue;
      this.set(name, rows.filter((_, i) => i !== index));
      return true;
    }
    return false;
  }

  draw() {
    const width = this.image?.naturalWidth ?? 320;
    const height = this.image?.naturalHeight ?? 180;
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    if (!this.image) {
      context.fillStyle = "#9a9a9a";
      context.font = "12px sans-serif";
      context.textAlign = "center";
      context.fillText(HINT, width / 2, height / 2);
      return;
    }
    context.drawImage(this.image, 0, 0);
    const rect = this.canvas.getBoundingClientRect();
    const unit = rect.width ? 1 / Math.min(rect.width / width, rect.height / height) : 1;
    context.lineWidth = 2 * unit;
    const boxes = this.rows("boxes") ?? [];
    if (this.drag) boxes.push(this.box(this.drag.from, this.drag.to));
    context.strokeStyle = COLOURS.boxes;
    for (const box of boxes) context.strokeRect(...box);
    for (const name of ["positive", "negative"]) {
      context.fillStyle = COLOURS[name];
      context.strokeStyle = "#000";
      for (const [x, y] of this.rows(name) ?? []) {
        context.beginPath();
        context.arc(x, y, 5 * unit, 0, 2 * Math.PI);
        context.fill();
        context.stroke();
      }
    }
    this.canvas.dataset.marks = TEXTS.map((name) => (this.rows(name) ?? []).length).join(",");
  }
}

function address({ filename, subfolder, type }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder: subfolder ?? "", type: type ?? "temp" })}`);
}

app.registerExtension({
  name: "SteadyEdit.PointMask",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const picture = new Picture(node);
    const shown = node.addDOMWidget("picture", "steadyedit_points", picture.canvas, {
      serialize: false, hideOnZoom: false, getMinHeight: () => 220,
    });
    shown.serialize = false;
    for (const name of TEXTS) {
      const widget = picture.widget(name);
      const before = widget?.callback;
      if (widget)
        widget.callback = function (...values) {
          before?.apply(this, values);
          picture.draw();
        };
    }
    const { onExecuted, onConfigure } = node;
    node.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      const [file] = output?.[PICTURE] ?? [];
      if (!file) return;
      // Kept with the node, so that the frame is there again after a reload and in a copy.
      this.properties[PICTURE] = { filename: file.filename, subfolder: file.subfolder, type: file.type };
      picture.show(address(file));
    };
    node.onConfigure = function () {
      onConfigure?.apply(this, arguments);
      if (this.properties?.[PICTURE]) picture.show(address(this.properties[PICTURE]));
      picture.draw();
    };
    const [width, height] = node.computeSize();
    node.setSize([Math.max(node.size[0], width, 340), Math.max(node.size[1], height)]);
  },
});
