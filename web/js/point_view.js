// How a frame with its marks looks: where its pixels are on the screen, and the drawing of it.

export const COLOURS = ["#39d353", "#4aa8ff", "#ffd400", "#ff7de9", "#ff8c42", "#7df9ff", "#b18cff", "#c8ff5c"];
export const GRAB = 8; // screen pixels from a mark that still hit it; a drag longer than this is a box
const HINT = ["Run once to see the clip,", "then click on the object"];

export const colour = (object) => COLOURS[(object - 1) % COLOURS.length];

// Pixels of the frame -> pixels of the canvas, `rect` being its place on the screen.
export function viewOf(rect, { width, height }, zoom, pan) {
  const fit = Math.min(rect.width / width, rect.height / height), scale = fit * zoom;
  const left = rect.width / 2 - (width / 2 + pan[0]) * scale, top = rect.height / 2 - (height / 2 + pan[1]) * scale;
  return { scale, left, top };
}

// The mark at a place of the frame, the last drawn first; of a box a corner (0..3), or its edge.
export function hit(rows, x, y, unit) {
  const near = (a, b) => Math.hypot(a - x, b - y) <= GRAB * unit;
  for (const name of ["positive", "negative", "boxes"])
    for (let index = rows[name].length - 1; index >= 0; index--) {
      const { at, here } = rows[name][index];
      if (!here) continue;
      if (name !== "boxes") {
        if (near(...at)) return { name, index };
        continue;
      }
      const [x1, y1, width, height] = at, x2 = x1 + width, y2 = y1 + height;
      const corner = [[x1, y1], [x2, y1], [x1, y2], [x2, y2]].findIndex(([a, b]) => near(a, b));
      if (corner >= 0) return { name, index, corner };
      const edge = (GRAB / 2) * unit, inX = x >= x1 - edge && x <= x2 + edge, inY = y >= y1 - edge && y <= y2 + edge;
      const onX = Math.min(Math.abs(x - x1), Math.abs(x - x2)) <= edge;
      const onY = Math.min(Math.abs(y - y1), Math.abs(y - y2)) <= edge;
      if (inX && inY && (onX || onY)) return { name, index };
    }
  return null;
}

export function draw(canvas, { image, size, zoom, pan, rows, selected, drag, masks, fresh, object }) {
  const rect = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(rect.width * ratio)), height = Math.max(1, Math.round(rect.height * ratio));
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, rect.width, rect.height);
  if (!image) {
    // As large as the node's other words at every zoom: this is drawn before the editor's zoom is settled, too.
    const unit = rect.width / (canvas.offsetWidth || rect.width);
    Object.assign(context, { fillStyle: "#9a9a9a", font: `${12 * unit}px sans-serif`, textAlign: "center" });
    HINT.forEach((line, i) => context.fillText(line, rect.width / 2, rect.height / 2 + (18 * i - 4) * unit));
    return;
  }
  const { scale, left, top } = viewOf(rect, size, zoom, pan);
  context.imageSmoothingEnabled = scale < 3;
  context.drawImage(image, left, top, size.width * scale, size.height * scale);
  for (const { picture, object } of masks) {
    context.globalAlpha = fresh ? 0.5 : 0.2;
    context.drawImage(tinted(picture, colour(object)), left, top, size.width * scale, size.height * scale);
    context.globalAlpha = 1;
  }
  const place = (x, y) => [left + x * scale, top + y * scale];
  const chosen = (name, index) => selected?.name === name && selected.index === index;
  rows.boxes.forEach(({ at, here, object }, index) => {
    if (here) box(context, place, at, scale, colour(object), chosen("boxes", index));
  });
  if (drag?.box) box(context, place, drag.box, scale, colour(object), false);
  for (const name of ["positive", "negative"])
    rows[name].forEach(({ at, here, object }, index) => {
      if (here) point(context, place(...at), name === "positive", colour(object), chosen(name, index));
    });
}

function box(context, place, [x, y, width, height], scale, stroke, chosen) {
  context.strokeStyle = stroke;
  context.lineWidth = chosen ? 4 : 2;
  context.strokeRect(...place(x, y), width * scale, height * scale);
}

function point(context, [x, y], positive, fill, chosen) {
  context.beginPath();
  context.arc(x, y, 6, 0, 2 * Math.PI);
  context.fillStyle = positive ? fill : "#1b1b1b";
  context.fill();
  context.lineWidth = chosen ? 4 : 2;
  context.strokeStyle = chosen ? "#fff" : positive ? "#000" : fill;
  context.stroke();
  context.fillStyle = positive ? "#000" : "#ff5c5c";
  context.fillRect(x - 3, y - 1, 6, 2);
  if (positive) context.fillRect(x - 1, y - 3, 2, 6);
}

const tints = new WeakMap();

// A mask whose alpha says where, in one colour.
function tinted(picture, fill) {
  const known = tints.get(picture);
  if (known) return known;
  const canvas = document.createElement("canvas");
  canvas.width = picture.naturalWidth;
  canvas.height = picture.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = fill;
  context.fillRect(0, 0, canvas.width, canvas.height);
  tints.set(picture, canvas);
  return canvas;
}
