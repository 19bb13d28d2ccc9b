// The clip inside of Point Mask: scrub, click, right-click, drag, zoom. What is marked stands in the node's own text
// widgets, so that it is saved, copied and queued as any typed value is; this only shows and edits them.

import { format, NAMES, parse } from "./point_marks.js";
import { colour, draw, GRAB, hit, viewOf } from "./point_view.js";

const OBJECTS = 8;
const HELP = "Click: on the object. Right click or Shift-click: not part of it, or take a mark away. Drag: a box; a "
  + "mark: move it. Wheel: zoom; middle button: shift. Keys: arrows for frames, or to move the mark that Tab chose; "
  + "P, N, B set a point, a negative one, a box; Delete takes away; 1-8 the object; + - 0 zoom; M the mask.";

function element(tag, properties, style = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  Object.assign(made.style, style);
  return made;
}

export class Editor {
  drag = null;
  selected = null;
  image = null;
  masks = [];
  pictures = new Map();

  // `host` reads and writes the widgets: value(name), set(name, value), edited(), address(file).
  constructor(host, kept) {
    this.host = host;
    this.kept = kept;
    this.root = element("div", { className: "steadyedit-point-editor" },
      { display: "flex", flexDirection: "column", width: "100%", height: "100%", minHeight: "0", gap: "2px" });
    this.bar = element("div", {}, { display: "flex", flexWrap: "wrap", gap: "2px", flex: "none" });
    this.canvas = element("canvas", { className: "steadyedit-points", tabIndex: 0, title: HELP }, {
      flex: "1 1 0", minHeight: "0", width: "100%", cursor: "crosshair", background: "#1b1b1b", touchAction: "none",
    });
    this.canvas.setAttribute("aria-label", HELP);
    // Nodes 2.0 then leaves the wheel to it while it has the focus.
    this.canvas.dataset.captureWheel = "true";
    this.slider = element("input", { type: "range", min: 0, max: 0, step: 1, title: "Which frame is shown" },
      { flex: "1", minWidth: "0" });
    this.slider.setAttribute("list", `steadyedit-${Math.random().toString(36).slice(2)}`);
    this.ticks = element("datalist", { id: this.slider.getAttribute("list") });
    this.told = element("span", {}, { flex: "none", fontSize: "11px", color: "#bbb", minWidth: "5.5em" });
    const scrub = element("div", {}, { display: "flex", gap: "4px", flex: "none", alignItems: "center" });
    scrub.append(this.slider, this.ticks, this.told);
    this.root.append(this.bar, this.canvas, scrub);
    this.slider.addEventListener("input", () => this.goto(Number(this.slider.value)));
    const events = { pointerdown: this.down, pointermove: this.move, pointerup: this.up, keydown: this.key,
      wheel: this.wheel, pointerenter: this.draw, lostpointercapture: this.cancelled };
    for (const [event, handler] of Object.entries(events))
      this.canvas.addEventListener(event, handler.bind(this), { passive: false });
    for (const event of ["contextmenu", "dblclick"])
      this.root.addEventListener(event, (e) => (e.preventDefault(), e.stopPropagation()));
    // What is done in here neither drags the node nor opens the host's menus.
    for (const event of ["pointerdown", "mousedown"]) this.root.addEventListener(event, (e) => e.stopPropagation());
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    this.refresh();
  }

  get home() { return Number(this.host.value("frame")) || 0; }
  get frame() { return Math.min(this.kept.frame ?? this.home, Math.max(0, (this.kept.clip?.count ?? 1) - 1)); }
  get size() { return this.kept.clip; }

  // Rows of each text with `here`: of the frame that is shown. null for a text that is being typed.
  rows() {
    return Object.fromEntries(NAMES.map((name) => {
      const rows = parse(this.host.value(name), name);
      return [name, rows?.map((row) => ({ ...row, here: (row.frame ?? this.home) === this.frame })) ?? null];
    }));
  }

  known() {
    return Object.fromEntries(Object.entries(this.rows()).map(([name, rows]) => [name, rows ?? []]));
  }

  state() {
    return NAMES.map((name) => this.host.value(name) ?? "");
  }

  // Texts of our own making: one step of the history, whatever the widgets' callbacks do.
  put(texts, edited = true) {
    if (this.kept.history.place < 0) this.kept.history.note(this.state());
    this.writing = true;
    for (const [name, text] of Object.entries(texts)) this.host.set(name, text);
    this.writing = false;
    if (edited) this.kept.history.note(this.state());
    this.host.edited();
    this.refresh();
  }

  typed() {
    if (this.writing) return;
    this.selected = null;
    this.kept.history.note(this.state());
    this.refresh();
  }

  write(name, rows) {
    this.put({ [name]: format(rows, this.home) });
  }

  step(by) {
    const state = this.kept.history.step(by);
    if (!state) return;
    this.selected = null;
    this.put(Object.fromEntries(NAMES.map((name, index) => [name, state[index]])), false);
  }

  add(name, at) {
    const rows = this.rows()[name];
    // Text that cannot be read is being typed: it is not overwritten.
    if (!rows) return;
    this.selected = { name, index: rows.length };
    this.write(name, [...rows, { frame: this.frame, object: this.kept.object, at }]);
    // Writing sorts by frames: the new mark is found again by its place.
    const sorted = this.known()[name];
    this.selected.index = sorted.findLastIndex((row) => row.here && row.object === this.kept.object);
  }

  remove({ name, index }) {
    this.selected = null;
    this.write(name, this.rows()[name].filter((_, i) => i !== index));
  }

  clear() {
    this.selected = null;
    this.put(Object.fromEntries(NAMES.map((name) => [name, ""])));
  }

  goto(frame) {
    // null: the one of the widget.
    this.kept.frame = frame === null ? null : Math.max(0, Math.min(frame, (this.kept.clip?.count ?? 1) - 1));
    this.selected = null;
    this.refresh();
  }

  choose(object) {
    this.kept.object = object;
    this.refresh();
  }

  zoom(factor, at) {
    const zoom = factor ? Math.min(Math.max(this.kept.zoom * factor, 1), 40) : 1;
    const pan = this.kept.pan;
    if (at) {
      // The pixel under the pointer stays there.
      const ratio = this.kept.zoom / zoom;
      const centre = [this.size.width / 2 + pan[0], this.size.height / 2 + pan[1]];
      pan[0] += (at.x - centre[0]) * (1 - ratio);
      pan[1] += (at.y - centre[1]) * (1 - ratio);
    }
    this.kept.zoom = zoom;
    if (zoom === 1) this.kept.pan = [0, 0];
    this.draw();
  }

  // Screen -> pixels of the frame, and how many of these a screen pixel is.
  place(event) {
    const rect = this.canvas.getBoundingClientRect();
    const { scale, left, top } = viewOf(rect, this.size, this.kept.zoom, this.kept.pan);
    const x = (event.clientX - rect.left - left) / scale, y = (event.clientY - rect.top - top) / scale;
    return { x, y, unit: 1 / scale, inside: x >= 0 && y >= 0 && x <= this.size.width && y <= this.size.height };
  }

  down(event) {
    event.stopPropagation();
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    if (!this.image) return;
    const from = this.place(event);
    this.canvas.setPointerCapture?.(event.pointerId);
    if (event.button === 1) {
      this.drag = { pan: [...this.kept.pan], screen: [event.clientX, event.clientY], unit: from.unit };
      return;
    }
    if (!from.inside) return;
    const other = event.shiftKey || event.button === 2, found = hit(this.known(), from.x, from.y, from.unit);
    if (found && other) this.remove(found);
    else if (found) this.drag = { from, found, old: this.known()[found.name][found.index].at };
    else this.drag = { from, negative: other };
    this.selected = other ? null : found;
    this.draw();
  }

  move(event) {
    if (!this.drag) return;
    event.stopPropagation();
    const { drag } = this;
    if (drag.pan) {
      this.kept.pan = [drag.pan[0] + (drag.screen[0] - event.clientX) * drag.unit,
        drag.pan[1] + (drag.screen[1] - event.clientY) * drag.unit];
    } else {
      const to = this.place(event);
      drag.far ||= Math.hypot(to.x - drag.from.x, to.y - drag.from.y) > (drag.found ? 2 : GRAB) * drag.from.unit;
      if (drag.far && drag.found) drag.moved = this.moved(drag, to);
      else if (drag.far) drag.box = this.box([drag.from.x, drag.from.y], [to.x, to.y]);
    }
    this.draw();
  }

  up(event) {
    if (!this.drag) return;
    event.stopPropagation();
    this.move(event);
    const { from, found, moved, box, negative, pan } = this.drag;
    this.drag = null;
    if (moved) this.write(found.name, this.rows()[found.name].map((row, i) => (i === found.index ? { ...row, at: moved } : row)));
    else if (box) box[2] && box[3] && this.add("boxes", box);
    else if (!found && !pan) this.add(negative ? "negative" : "positive", [from.x, from.y]);
    this.draw();
  }

  cancelled() {
    this.drag = null;
    this.draw();
  }

  moved({ from, found, old }, to) {
    const { width, height } = this.size, limit = (value, most) => Math.min(Math.max(value, 0), most);
    const dx = to.x - from.x, dy = to.y - from.y;
    if (found.name !== "boxes") return [limit(old[0] + dx, width), limit(old[1] + dy, height)];
    const [x, y, w, h] = old;
    if (found.corner === undefined) return [limit(x + dx, width - w), limit(y + dy, height - h), w, h];
    const right = found.corner % 2, low = found.corner > 1;
    return this.box([right ? x : x + w, low ? y : y + h], [(right ? x + w : x) + dx, (low ? y + h : y) + dy]);
  }

  box(a, b) {
    const inside = [a, b].map(([x, y]) => [Math.min(Math.max(x, 0), this.size.width), Math.min(Math.max(y, 0), this.size.height)]);
    const [x1, x2] = inside.map(([x]) => x).sort((p, q) => p - q), [y1, y2] = inside.map(([, y]) => y).sort((p, q) => p - q);
    return [x1, y1, x2 - x1, y2 - y1];
  }

  wheel(event) {
    // Only where the picture was clicked: else the wheel goes on zooming the graph.
    if (!this.image || document.activeElement !== this.canvas) return;
    event.preventDefault();
    event.stopPropagation();
    this.zoom(event.deltaY < 0 ? 1.25 : 0.8, this.place(event));
  }

  key(event) {
    if (!this.image || event.ctrlKey || event.metaKey || event.altKey) return;
    const many = event.shiftKey ? 10 : 1, { width, height } = this.size;
    const centre = [width / 2 + this.kept.pan[0], height / 2 + this.kept.pan[1]];
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const actions = {
      Home: () => this.goto(0), End: () => this.goto(Infinity), "+": () => this.zoom(1.25), "=": () => this.zoom(1.25),
      "-": () => this.zoom(0.8), 0: () => this.zoom(0), p: () => this.add("positive", centre),
      n: () => this.add("negative", centre), m: () => this.toggle(),
      b: () => this.add("boxes", [centre[0] - width / 8, centre[1] - height / 8, width / 4, height / 4]),
    };
    for (const name of ["Delete", "Backspace"]) actions[name] = () => this.selected && this.remove(this.selected);
    for (let object = 1; object <= OBJECTS; object++) actions[object] = () => this.choose(object);
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    let action = actions[name];
    if (arrows[name] && this.selected) action = () => this.nudge(arrows[name].map((d) => d * many));
    else if (arrows[name]?.[0]) action = () => this.goto(this.frame + arrows[name][0] * many);
    else if (name === "Tab") action = this.next(event.shiftKey ? -1 : 1);
    else if (name === "Escape" && this.selected) action = () => ((this.selected = null), this.draw());
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  nudge([dx, dy]) {
    const { name, index } = this.selected, rows = this.rows()[name];
    const at = this.moved({ from: { x: 0, y: 0 }, found: { name }, old: rows[index].at }, { x: dx, y: dy });
    this.write(name, rows.map((row, i) => (i === index ? { ...row, at } : row)));
  }

  // Chooses the next mark of this frame; after the last one the focus goes on.
  next(by) {
    const rows = this.known();
    const all = NAMES.flatMap((name) => rows[name].map((row, index) => ({ name, index, here: row.here }))).filter((one) => one.here);
    const now = all.findIndex(({ name, index }) => this.selected?.name === name && this.selected.index === index);
    const then = now < 0 ? all[by > 0 ? 0 : all.length - 1] : all[now + by];
    return (then || now >= 0) && (() => ((this.selected = then ?? null), this.draw()));
  }

  toggle() {
    this.kept.overlay = !this.kept.overlay;
    this.refresh();
  }

  load(file) {
    const url = this.host.address(file);
    let picture = this.pictures.get(url);
    if (!picture) {
      picture = new Image();
      picture.onload = () => this.refresh();
      picture.src = url;
      this.pictures.set(url, picture);
      if (this.pictures.size > 64) this.pictures.delete(this.pictures.keys().next().value);
    }
    return picture.complete && picture.naturalWidth ? picture : null;
  }

  refresh() {
    const { clip, masks = [], overlay, asked } = this.kept, frame = this.frame;
    const file = { filename: `${String(frame).padStart(5, "0")}.jpg`, subfolder: clip?.subfolder, type: clip?.type };
    const image = clip?.count ? this.load(file) : null;
    // While another frame loads the last one stays, but only over the same clip.
    this.image = image ?? (this.clip === clip ? this.image : null);
    this.clip = clip;
    if (image) this.canvas.dataset.ready = `${clip.width}x${clip.height}`;
    this.canvas.dataset.frame = image ? frame : "";
    this.masks = overlay === false ? [] : masks.filter((mask) => mask.frame === frame)
      .map((mask) => ({ object: mask.object, picture: this.load(mask) })).filter(({ picture }) => picture);
    this.canvas.dataset.masks = this.masks.length;
    this.fresh = asked === JSON.stringify([...this.state(), this.home]);
    const most = (clip?.count ?? 1) - 1;
    Object.assign(this.slider, { max: most, disabled: most < 1 });
    this.slider.value = frame;
    this.told.textContent = `frame ${frame} / ${most}`;
    const rows = this.known(), all = NAMES.flatMap((name) => rows[name]);
    const marked = [...new Set(all.map((row) => row.frame ?? this.home))];
    this.ticks.replaceChildren(...marked.map((value) => element("option", { value })));
    this.buttons(Math.max(this.kept.object, ...all.map((row) => row.object)));
    this.canvas.dataset.marks = NAMES.map((name) => rows[name].length).join(",");
    this.draw();
  }

  buttons(objects) {
    const { history, overlay } = this.kept;
    const button = (text, title, click, { pressed, enabled = true, tint } = {}) => {
      const made = element("button", { type: "button", textContent: text, title, disabled: !enabled }, {
        font: "11px sans-serif", minWidth: "22px", padding: "1px 5px", borderRadius: "4px", cursor: "pointer",
        border: pressed ? "2px solid #fff" : "1px solid #555", background: tint ?? "#2b2b2b",
        color: tint ? "#000" : "#ddd", opacity: enabled ? "1" : "0.4",
      });
      made.setAttribute("aria-label", title);
      if (pressed !== undefined) made.setAttribute("aria-pressed", pressed);
      made.addEventListener("click", () => click());
      return made;
    };
    const chips = Array.from({ length: Math.min(objects, OBJECTS) }, (_, i) => button(`${i + 1}`, `Object ${i + 1}`,
      () => this.choose(i + 1), { tint: colour(i + 1), pressed: this.kept.object === i + 1 }));
    this.bar.replaceChildren(...chips,
      button("+", "Another object", () => this.choose(Math.min(objects + 1, OBJECTS)), { enabled: objects < OBJECTS }),
      button("↶", "Undo", () => this.step(-1), { enabled: history.place > 0 }),
      button("↷", "Redo", () => this.step(1), { enabled: history.place < history.states.length - 1 }),
      button("clear", "Take all marks away", () => this.clear()),
      button("mask", "Show the mask of the last run", () => this.toggle(), { pressed: overlay !== false }),
      button("−", "Zoom out", () => this.zoom(0.8), { enabled: !!this.image }),
      button("100%", "The whole frame", () => this.zoom(0), { enabled: !!this.image }),
      button("+", "Zoom in", () => this.zoom(1.25), { enabled: !!this.image }));
  }

  draw() {
    const rows = this.known(), { drag } = this;
    if (drag?.moved) rows[drag.found.name][drag.found.index].at = drag.moved;
    draw(this.canvas, { image: this.image, size: this.size, zoom: this.kept.zoom, pan: this.kept.pan, rows, drag,
      selected: this.selected, masks: this.masks, fresh: this.fresh, object: this.kept.object });
  }
}
