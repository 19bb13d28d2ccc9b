// Before and after in the node: one video holds both pictures beside each other, so that they cannot drift apart; a
// canvas shows them side by side, parted by a wipe, as their difference, or one over the other.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const NODE = "SteadyEditCompare";
const PLAYED = "steadyedit_compare"; // key of the node's output and of its property
const HINT = "Run to see before and after";
const MODES = {
  side: ["Side by side", "Both pictures beside each other"],
  wipe: ["Wipe", "Before at the left of the line, after at the right; drag the line"],
  difference: ["Difference", "What changed, four times as bright"],
  onion: ["Onion", "After over before; drag to mix them"],
};
const BAR = { display: "flex", gap: "4px", alignItems: "center", flex: "0 0 auto", padding: "4px 0" };
const BUTTON = {
  font: "11px sans-serif", padding: "2px 7px", border: "1px solid #555", borderRadius: "4px", color: "#ddd",
  background: "#2a2a2a", cursor: "pointer", whiteSpace: "nowrap",
};

const LABEL = {
  position: "absolute", font: "12px sans-serif", padding: "1px 4px", color: "#fff", background: "rgba(0, 0, 0, 0.55)",
  pointerEvents: "none", whiteSpace: "nowrap",
};

function made(tag, style, attributes = {}) {
  const element = document.createElement(tag);
  Object.assign(element.style, style);
  return Object.assign(element, attributes);
}

class Comparison {
  constructor(node) {
    this.node = node;
    this.ready = false;
    this.element = made("div", {
      display: "flex", flexDirection: "column", width: "100%", height: "100%", minHeight: "0", position: "relative",
    }, { className: "steadyedit-compare" });
    // Out of the flow, so that the node does not grow and shrink with the shape of what is shown.
    this.canvas = made("canvas", {
      position: "absolute", inset: "0", width: "100%", height: "100%", objectFit: "contain", background: "#1b1b1b",
      touchAction: "none",
    }, { tabIndex: 0 });
    this.stage = made("div", { position: "relative", flex: "1 1 auto", minHeight: "220px", overflow: "hidden" });
    // Beside the canvas, whose pixels are the clip's: letters in those of a small clip could not be read.
    this.labels = [made("span", LABEL), made("span", LABEL)];
    this.stage.append(this.canvas, ...this.labels);
    this.sized = new ResizeObserver(() => this.draw());
    this.sized.observe(this.stage);
    this.video = made("video", { position: "absolute", width: "1px", height: "1px", opacity: "0" },
      { muted: true, loop: true, playsInline: true, preload: "auto" });
    this.element.append(this.stage, this.modes(), this.times(), this.video);
    this.listen();
    this.draw();
  }

  get state() {
    const kept = (this.node.properties[PLAYED] ??= {});
    return { mode: kept.mode in MODES ? kept.mode : "wipe", position: kept.position ?? 0.5, file: kept.file };
  }

  set(changed) {
    this.node.properties[PLAYED] = { ...this.state, ...changed };
    this.draw();
  }

  modes() {
    const bar = made("div", { ...BAR, flexWrap: "wrap" });
    this.buttons = Object.entries(MODES).map(([mode, [label, title]]) => {
      const button = made("button", BUTTON, { type: "button", textContent: label, title });
      button.dataset.mode = mode;
      button.addEventListener("click", () => this.set({ mode }));
      return button;
    });
    bar.append(...this.buttons);
    return bar;
  }

  times() {
    const bar = made("div", BAR);
    this.play = made("button", { ...BUTTON, minWidth: "44px" }, { type: "button", title: "Play or stop (space)" });
    this.play.addEventListener("click", () => this.toggle());
    this.scrub = made("input", { flex: "1 1 auto", minWidth: "40px" },
      { type: "range", min: 0, max: 0, step: 1, value: 0, title: "Frame (arrow keys)" });
    this.scrub.addEventListener("input", () => this.seek(Number(this.scrub.value)));
    this.text = made("span", { font: "11px monospace", color: "#aaa", whiteSpace: "nowrap" });
    bar.append(this.play, this.scrub, this.text);
    return bar;
  }

  listen() {
    for (const [event, handler] of Object.entries({
      pointerdown: this.down, pointermove: this.move, pointerup: this.up, keydown: this.key,
    }))
      this.canvas.addEventListener(event, handler.bind(this));
    for (const event of ["play", "pause", "seeked", "loadeddata"])
      this.video.addEventListener(event, () => this.draw());
    this.video.addEventListener("loadeddata", () => {
      this.ready = true;
      this.canvas.dataset.ready = `${this.video.videoWidth}x${this.video.videoHeight}`;
      this.video.play().catch(() => {});
      this.draw();
    });
    this.video.addEventListener("error", () => {
      // A file of an earlier session of the host.
      this.ready = false;
      delete this.canvas.dataset.ready;
      this.draw();
    });
    const each = () => {
      this.draw();
      this.video.requestVideoFrameCallback?.(each);
    };
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(each);
    else this.video.addEventListener("timeupdate", () => this.draw());
  }

  show(file) {
    this.set({ file });
    this.scrub.max = Math.max(file.frames - 1, 0);
    const { filename, subfolder, type } = file;
    this.video.src = api.apiURL(`/view?${new URLSearchParams({ filename, subfolder: subfolder ?? "", type })}`);
  }

  toggle() {
    if (this.video.paused) this.video.play().catch(() => {});
    else this.video.pause();
  }

  get frame() {
    const { file } = this.state;
    return file ? Math.min(Math.floor(this.video.currentTime * file.fps + 1e-3), file.frames - 1) : 0;
  }

  seek(frame) {
    const { file } = this.state;
    if (!file) return;
    this.video.pause();
    // The middle of a frame: its start may round to the one before.
    this.video.currentTime = (((frame + file.frames) % file.frames) + 0.5) / file.fps;
  }

  key(event) {
    const { position } = this.state;
    const steps = { ArrowLeft: -1, ArrowRight: 1 };
    if (event.key === " ") this.toggle();
    else if (event.key in steps && event.shiftKey) this.set({ position: limited(position + steps[event.key] * 0.05) });
    else if (event.key in steps) this.seek(this.frame + steps[event.key]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  down(event) {
    if (!this.ready || event.button !== 0) return;
    event.stopPropagation();
    this.canvas.setPointerCapture?.(event.pointerId);
    this.canvas.focus({ preventScroll: true });
    this.dragging = true;
    this.moved = false;
  }

  move(event) {
    if (!this.dragging) return;
    event.stopPropagation();
    this.moved = true;
    this.place(event);
  }

  up(event) {
    if (!this.dragging) return;
    event.stopPropagation();
    this.dragging = false;
    if (this.moved) return;
    if (["wipe", "onion"].includes(this.state.mode)) this.place(event);
    else this.toggle();
  }

  // Where the pointer is along the picture's width, as the wipe's place or the onion's mix.
  place(event) {
    if (!["wipe", "onion"].includes(this.state.mode)) return;
    const rect = this.canvas.getBoundingClientRect();
    const width = this.canvas.width * Math.min(rect.width / this.canvas.width, rect.height / this.canvas.height);
    this.set({ position: limited((event.clientX - rect.left - (rect.width - width) / 2) / width) });
  }

  draw() {
    const { mode, position, file } = this.state;
    for (const button of this.buttons) {
      const on = button.dataset.mode === mode;
      button.setAttribute("aria-pressed", on);
      button.style.background = on ? "#2f5f9e" : BUTTON.background;
    }
    this.play.textContent = this.video.paused ? "Play" : "Stop";
    this.canvas.dataset.mode = mode;
    const context = this.canvas.getContext("2d");
    for (const one of this.labels) one.style.display = "none";
    if (!this.ready || !file) return this.empty(context);
    const { width, height } = file;
    const stacked = mode === "side" && this.stacks(width, height);
    const size = mode !== "side" ? [width, height] : stacked ? [width, 2 * height] : [2 * width, height];
    if (this.canvas.width !== size[0]) this.canvas.width = size[0];
    if (this.canvas.height !== size[1]) this.canvas.height = size[1];
    const part = (after, x, y) => context.drawImage(this.video, after * width, 0, width, height, x, y, width, height);
    this[mode](context, part, { width, height, position, stacked });
    this.canvas.dataset.frame = this.frame;
    this.scrub.value = this.frame;
    const cut = file.before === file.after ? "" : " (the shorter clip)";
    this.text.textContent = `${this.frame + 1}/${file.frames}${cut}`;
  }

  empty(context) {
    Object.assign(this.canvas, { width: 360, height: 200 });
    context.fillStyle = "#9a9a9a";
    context.font = "13px sans-serif";
    context.textAlign = "center";
    context.fillText(HINT, 180, 104);
    this.text.textContent = "";
  }

  // Whether two pictures under each other are shown larger than beside each other.
  stacks(width, height) {
    const { clientWidth, clientHeight } = this.stage;
    if (!clientWidth) return false;
    const scale = (w, h) => Math.min(clientWidth / w, clientHeight / h);
    return scale(width, 2 * height) > scale(2 * width, height);
  }

  side(context, part, { width, height, stacked }) {
    part(0, 0, 0);
    part(1, stacked ? 0 : width, stacked ? height : 0);
    this.label(0, "before");
    this.label(1, "after", stacked ? 0 : width, stacked ? height : 0);
  }

  wipe(context, part, { width, height, position }) {
    part(1, 0, 0);
    context.save();
    context.beginPath();
    context.rect(0, 0, width * position, height);
    context.clip();
    part(0, 0, 0);
    context.restore();
    context.fillStyle = "#fff";
    const line = 1 / this.fit.scale;
    context.fillRect(width * position - line, 0, 2 * line, height);
    if (position > 0.2) this.label(0, "before");
    if (position < 0.8) this.label(1, "after", width, 0, true);
  }

  difference(context, part) {
    part(0, 0, 0);
    context.globalCompositeOperation = "difference";
    part(1, 0, 0);
    context.globalCompositeOperation = "lighter";
    // Twice the sum with itself.
    for (let i = 0; i < 2; i++) context.drawImage(this.canvas, 0, 0);
    context.globalCompositeOperation = "source-over";
  }

  onion(context, part, { position }) {
    part(0, 0, 0);
    context.globalAlpha = position;
    part(1, 0, 0);
    context.globalAlpha = 1;
    this.label(0, `after ${Math.round(100 * position)} %`);
  }

  // Where the picture lies in its stage, in the node's own pixels, whatever the graph's zoom is.
  get fit() {
    const { clientWidth, clientHeight } = this.stage, { width, height } = this.canvas;
    const scale = Math.min(clientWidth / width, clientHeight / height) || 1;
    return { scale, left: (clientWidth - width * scale) / 2, top: (clientHeight - height * scale) / 2 };
  }

  // Letters at a place of the picture, in its pixels; or, with right, to the left of it.
  label(which, text, x = 0, y = 0, right = false) {
    const { scale, left, top } = this.fit, across = left + x * scale;
    Object.assign(this.labels[which].style, {
      display: "", top: `${top + y * scale}px`, left: right ? "" : `${across}px`,
      right: right ? `${this.stage.clientWidth - across}px` : "",
    });
    this.labels[which].textContent = text;
  }

  stop() {
    this.sized.disconnect();
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load();
  }
}

const limited = (value) => Math.min(Math.max(value, 0), 1);

app.registerExtension({
  name: "SteadyEdit.Compare",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    // The plain picture beside it is for editors that do not play the clip: kept away in Nodes 2.0, and on the canvas,
    // where it would be drawn as the node's background.
    node.hideOutputImages = true;
    node.onDrawBackground = () => {};
    const comparison = new Comparison(node);
    const shown = node.addDOMWidget("comparison", "steadyedit_compare", comparison.element, {
      serialize: false, hideOnZoom: false, getMinHeight: () => 290,
    });
    shown.serialize = false;
    const { onExecuted, onConfigure, onRemoved } = node;
    node.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      const [file] = output?.[PLAYED] ?? [];
      if (file) comparison.show(file);
    };
    node.onConfigure = function () {
      onConfigure?.apply(this, arguments);
      const { file } = comparison.state;
      if (file) comparison.show(file);
      else comparison.draw();
    };
    node.onRemoved = function () {
      comparison.stop();
      onRemoved?.apply(this, arguments);
    };
    const [width, height] = node.computeSize();
    node.setSize([Math.max(node.size[0], width, 380), Math.max(node.size[1], height)]);
  },
});
