"use strict";
// One person's answers to a study. Everything is in this page; answers stay in the browser until they are saved.

const study = JSON.parse(document.getElementById("study").textContent);
const KEPT = `steadyedit-study-${study.study}`;
const COLUMNS = ["study", "participant", "pair", "question", "left", "right", "answer", "seconds", "at"];
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", t: "tie", T: "tie" };
const byId = (id) => document.getElementById(id);
const players = { left: byId("left"), right: byId("right"), source: document.querySelector("#source video") };

let person = restored();
let shown = null; // the pair whose videos are in the players
let there = false; // whether its videos were all ready once: a jump to the beginning takes that back for a moment
let begun = 0; // when the question could first be answered; 0: not yet

// ---- what is kept ----

function restored() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT));
    const known = new Set(study.pairs.map((pair) => pair.pair));
    const sound = kept && kept.participant && kept.order.every((turn) => known.has(turn.pair)) && kept.answers.length >= 0;
    return sound ? kept : null;
  } catch { // nothing kept, no storage, or something else under this name
    return null;
  }
}

function keep() {
  try {
    localStorage.setItem(KEPT, JSON.stringify(person));
  } catch {
    byId("unkept").hidden = false;
  }
}

// ---- who sees what, in which order ----

function random(count) {
  return crypto.getRandomValues(new Uint32Array(1))[0] % count;
}

function shuffled(list) {
  const result = [...list];
  for (let last = result.length - 1; last > 0; last--) {
    const other = random(last + 1);
    [result[last], result[other]] = [result[other], result[last]];
  }
  return result;
}

function newPerson(name) {
  const plain = name.normalize().replace(/[^\p{L}\p{N} ._-]/gu, "").trim().replace(/^[-.]+/, "");
  const mark = [...crypto.getRandomValues(new Uint8Array(4))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return {
    participant: plain ? `${plain}-${mark}` : mark,
    order: shuffled(study.pairs).slice(0, study.show).map((pair) => ({ pair: pair.pair, swapped: random(2) === 1 })),
    answers: [],
  };
}

/** Every question of every pair in this person's order. */
function turns() {
  return person.order.flatMap((turn) => {
    const pair = study.pairs.find((other) => other.pair === turn.pair);
    const [left, right] = turn.swapped ? [...pair.videos].reverse() : pair.videos;
    return pair.questions.map((question) => ({ ...pair, question, left, right }));
  });
}

// ---- pages ----

function show() {
  const current = person && turns()[person.answers.length];
  byId("start").hidden = Boolean(person);
  byId("compare").hidden = !current;
  byId("end").hidden = !person || Boolean(current);
  if (current) {
    ask(current);
  } else {
    leave();
  }
}

function leave() {
  shown = null;
  for (const player of Object.values(players)) {
    player.removeAttribute("src");
    player.load();
  }
}

function ask(turn) {
  const all = turns().length, done = person.answers.length;
  byId("text").textContent = turn.text;
  byId("question").textContent = study.questions[turn.question];
  byId("count").textContent = `${done + 1} of ${all}`;
  byId("back").disabled = done === 0;
  const bar = document.querySelector(".progress");
  bar.setAttribute("aria-valuemax", all);
  bar.setAttribute("aria-valuenow", done);
  bar.firstElementChild.style.width = `${(100 * done) / all}%`;
  begun = 0;
  const side = `${turn.left} ${turn.right}`;
  if (side !== shown) {
    shown = side;
    load(turn);
  }
  ready();
}

function load(turn) {
  there = false;
  byId("trouble").textContent = "";
  byId("source").hidden = !turn.source;
  for (const [place, player] of Object.entries(players)) {
    if (turn[place]) {
      player.src = `videos/${turn[place]}`;
    } else {
      player.removeAttribute("src");
    }
    player.load();
  }
}

function used() {
  return Object.values(players).filter((player) => player.hasAttribute("src"));
}

/** Answers are taken once both videos are there. */
function ready() {
  const broken = used().some((player) => player.error);
  const first = !there && used().every((player) => player.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA);
  there ||= first;
  for (const button of document.querySelectorAll(".answers button")) {
    const skips = button.dataset.answer === "unseen";
    button.hidden = skips && !broken;
    button.disabled = skips ? !broken : broken || !there;
  }
  if (broken) {
    byId("trouble").textContent = "A video of this pair cannot be played here.";
  }
  if ((there || broken) && !begun) {
    begun = performance.now();
  }
  if (first && !broken) {
    play();
  }
}

function play() {
  for (const player of used()) {
    player.currentTime = 0;
    player.play().catch(() => {}); // a player that was given another file meanwhile
  }
}

// ---- answers ----

function answer(choice) {
  const button = document.querySelector(`.answers button[data-answer=${choice}]`);
  const turn = person && turns()[person.answers.length];
  if (!turn || !button || button.disabled || button.hidden || (choice === "tie" && !study.tie)) {
    return;
  }
  const seconds = Math.round(performance.now() - begun) / 1000;
  const { pair, question, left, right } = turn;
  person.answers.push({ pair, question, left, right, answer: choice, seconds, at: new Date().toISOString() });
  keep();
  show();
}

function back() {
  if (person && person.answers.length) {
    person.answers.pop();
    keep();
    show();
  }
}

function save(format) {
  const rows = person.answers.map((row) => ({ study: study.study, participant: person.participant, ...row }));
  const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;
  const words = format === "json"
    ? JSON.stringify({ study: study.study, participant: person.participant, questions: turns().length, answers: rows }, null, 1)
    : [COLUMNS, ...rows.map((row) => COLUMNS.map((column) => row[column]))]
      .map((row) => row.map(quoted).join(",")).join("\r\n") + "\r\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([words], { type: format === "json" ? "application/json" : "text/csv" }));
  link.download = `answers_${study.study}_${person.participant.replaceAll(" ", "_")}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// ---- what is listened to ----

byId("begin").onclick = () => {
  person = newPerson(byId("name").value);
  keep();
  show();
};
byId("name").onkeydown = (event) => event.key === "Enter" && byId("begin").click();
byId("back").onclick = byId("undo").onclick = back;
byId("again").onclick = () => {
  if (confirm("Are the answers saved? Another person's take their place.")) {
    person = null;
    localStorage.removeItem(KEPT);
    byId("name").value = "";
    show();
  }
};
for (const button of document.querySelectorAll(".answers button")) {
  button.onclick = () => {
    answer(button.dataset.answer);
    button.blur();
  };
}
for (const button of document.querySelectorAll(".save")) {
  button.onclick = () => save(button.dataset.format);
}
for (const player of Object.values(players)) {
  player.addEventListener("loadeddata", ready);
  player.addEventListener("error", ready);
  // Together again from the beginning, so that none runs ahead.
  player.addEventListener("ended", () => used().every((other) => other.ended) && play());
  player.oncontextmenu = (event) => event.preventDefault();
}
addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "INPUT"
      || byId("compare").hidden) {
    return;
  }
  if (event.key in KEYS) {
    event.preventDefault();
    answer(KEYS[event.key]);
  } else if (event.key === "Backspace") {
    event.preventDefault();
    back();
  } else if (event.key === "r" || event.key === "R") {
    play();
  }
});

document.querySelector("#start h1").textContent = study.title;
document.body.classList.toggle("forced", !study.tie);
if (person) {
  keep(); // says so where the browser keeps nothing
}
show();
