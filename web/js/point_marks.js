// Clicks and boxes as the text of Point Mask's widgets, "10,20; 30,40 | 12: 5,6 | 12#2: 7,8", and as rows
// { frame, object, at } where frame is null for the node's own; vision/marks.py reads the same.

export const NAMES = ["positive", "negative", "boxes"];
const KEYS = { positive: ["x", "y"], negative: ["x", "y"], boxes: ["x", "y", "width", "height"] };
const HEAD = /^\s*(\d*)\s*(?:#\s*(\d+))?\s*:(.*)$/s;

// What cannot be read is being typed and left alone: null.
export function parse(text, name) {
  text = (text ?? "").trim();
  try {
    const rows = "[{".includes(text[0] ?? " ") ? fromJson(text, KEYS[name]) : fromText(text);
    const length = KEYS[name].length;
    return rows.every(({ at }) => at.length === length && at.every(Number.isFinite)) ? rows : null;
  } catch {
    return null;
  }
}

function fromJson(text, keys) {
  return [JSON.parse(text)].flat().map((row) => ({
    frame: row.frame ?? null, object: row.object ?? 1, at: keys.map((key) => Number(row[key])),
  }));
}

function fromText(text) {
  const number = (word) => (word.trim() ? Number(word) : NaN);
  return text.split("|").flatMap((part) => {
    const [, frame, object, rest] = part.match(HEAD) ?? [null, "", undefined, part];
    return rest.split(";").filter((row) => row.trim()).map((row) => ({
      frame: frame ? Number(frame) : null, object: Number(object ?? 1), at: row.split(",").map(number),
    }));
  });
}

// Parts in the order of frames and objects; those of the node's own frame have no number before them.
export function format(rows, home) {
  const parts = new Map();
  for (const { frame, object, at } of rows) {
    const key = `${frame === null || frame === home ? -1 : frame} ${object}`;
    parts.set(key, [...(parts.get(key) ?? []), at.map((value) => Math.round(value * 10) / 10).join(",")]);
  }
  const keys = [...parts.keys()].map((key) => key.split(" ").map(Number));
  keys.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const head = (frame, object) => (frame < 0 ? "" : `${frame}`) + (object > 1 ? `#${object}` : "");
  return keys.map(([frame, object]) => {
    const before = head(frame, object);
    return (before ? `${before}: ` : "") + parts.get(`${frame} ${object}`).join("; ");
  }).join(" | ");
}

// The states of the three texts one after another, and which of them is shown.
export class History {
  states = [];
  place = -1;

  note(state) {
    const text = JSON.stringify(state);
    if (this.states[this.place] === text) return;
    this.states = [...this.states.slice(0, this.place + 1), text].slice(-200);
    this.place = this.states.length - 1;
  }

  // A graph was loaded: the host's own undo and redo bring back a neighbour; all else begins anew.
  found(state) {
    const text = JSON.stringify(state);
    const near = [this.place, this.place - 1, this.place + 1].find((place) => this.states[place] === text);
    if (near === undefined) this.states = [text];
    this.place = near ?? 0;
  }

  step(by) {
    const text = this.states[this.place + by];
    if (text === undefined) return null;
    this.place += by;
    return JSON.parse(text);
  }
}
