// The stream as it arrives, newest first.

import { byId, code, element, number, plural, show, tell } from "./dom.js";
import { readEvent, timeOf } from "./event.js";
import { HUB, queryOf } from "./hub.js";
import { countEvent, drawRate, forgetRate } from "./rate.js";
import { eventRow, gapRow, gapText } from "./rows.js";
import { Stream } from "./stream.js";

/** Rows that are kept. What is older is in the history. */
const ROWS_MAX = 500;

/** Drawing rests this many times as long as it took, so that a burst leaves the page free for the person before it. */
const REST_FACTOR = 4;

/** Least time between two announcements to a screen reader. */
const NEWS_MS = 5000;

const rows = byId("live-rows");
let stream = null;
let filter = null;
/** What came and is not drawn, oldest first; never more than there are rows. */
let waiting = [];
/** How many came that are not drawn. */
let waitingEvents = 0;
let drawing = null;
/** Whether rows are kept where they are, because the person is reading them. */
let held = false;
let stateListener = () => {};
let arrivals = [];
let lastStats = null;
let state = { state: "connecting" };
let unannounced = 0;

/** Follows what `newFilter` wants, from after `start`, or from the newest events if that is null. */
export function follow(newFilter, start) {
  filter = newFilter;
  stream?.close();
  waiting = [];
  waitingEvents = 0;
  rows.replaceChildren();
  forgetRate();
  tell(byId("filter-problem"), null);
  stream = new Stream({ filter: filter.parameters(), start, onEvent, onGap, onState, onProblem: (problem) => tell(byId("filter-problem"), problem) });
  update();
}

export function onStateChange(listener) {
  stateListener = listener;
}

/** Resolves when the event comes back on the stream; rejects after `ms`. */
export function arrival(id, ms) {
  const seen = rows.querySelector(`[data-id="${id}"]`) || waiting.some((item) => item.text?.startsWith(`{"id":${id},`));
  if (seen) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const timer = setTimeout(reject, ms);
    arrivals.push({ start: `{"id":${id},`, resolve: () => (clearTimeout(timer), resolve()) });
  });
}

/** Takes the figures of the hub, which come every two seconds. */
export function compare(stats) {
  lastStats = stats;
  stream?.compare(stats.last_id);
  update();
}

function onEvent(text) {
  countEvent(timeOf(text));
  unannounced += 1;
  if (arrivals.length > 0) {
    arrivals = arrivals.filter(({ start, resolve }) => !text.startsWith(start) || resolve());
  }
  enqueue({ text });
}

function onGap(gap) {
  tell(byId("gap-text"), gapText(gap));
  show(byId("gap"), true);
  enqueue({ gap });
}

function enqueue(item) {
  waitingEvents += 1;
  // Cut in strides, so that a burst does not move the whole list for each event.
  if (waiting.push(item) >= 2 * ROWS_MAX) waiting = waiting.slice(-ROWS_MAX);
  drawSoon();
}

function onState(newState) {
  state = newState;
  stateListener(newState);
  update();
}

/** Scrolled down, or a row is open. */
function isRead() {
  return rows.getBoundingClientRect().top < -40 || rows.querySelector(":scope > li > details[open]") !== null;
}

function drawSoon() {
  drawing ??= requestAnimationFrame(draw);
}

function draw() {
  const begin = performance.now();
  held = isRead();
  if (held) {
    drawing = null;
    showNewer();
    return;
  }
  const fresh = waiting.slice(-ROWS_MAX);
  waiting = [];
  waitingEvents = 0;
  const made = fresh.reverse().map((item) => (item.gap ? gapRow(item.gap) : eventRow(readEvent(item.text))));
  if (made.length === ROWS_MAX) rows.replaceChildren(...made);
  else rows.prepend(...made);
  while (rows.childElementCount > ROWS_MAX) rows.lastElementChild.remove();
  update();
  void rows.offsetHeight; // Layout is most of the cost, and is to be in the measure.
  const rest = REST_FACTOR * (performance.now() - begin);
  drawing = setTimeout(() => {
    drawing = null;
    if (waiting.length > 0) drawSoon();
  }, rest);
}

function showNewer() {
  const newer = byId("newer");
  show(newer, held && waitingEvents > 0);
  newer.textContent = `${plural(waitingEvents, "newer event", "newer events")} ↑`;
}

/** Brings all but the rows up to date. */
function update() {
  const isEmpty = rows.childElementCount === 0;
  const paused = state.state === "paused";
  showNewer();
  byId("pause").textContent = paused ? "Continue" : "Pause";
  show(byId("jump"), paused || state.state === "replaying");
  show(byId("live-foot"), !isEmpty);
  show(byId("live-empty"), isEmpty && ["live", "replaying", "paused"].includes(state.state));
  if (isEmpty) showEmpty();
  else byId("live-older").href = `#/history?${queryOf([...filter.parameters(), ["before", rows.lastElementChild.dataset.id]])}`;
  byId("live-lead").textContent = lead();
}

function lead() {
  switch (state.state) {
    case "paused": {
      const held = state.cursor === null ? "Paused." : `Paused after event ${number(state.cursor)}.`;
      return lastStats ? `${held} The hub is at event ${number(lastStats.last_id)}.` : held;
    }
    case "replaying":
      return state.behind > 0 ? `Replaying: up to ${plural(state.behind, "event", "events")} behind.` : "Replaying.";
    case "reconnecting":
      return state.cursor === null ? "No connection. It is tried again by itself." : `No connection. It goes on after event ${number(state.cursor)}.`;
    default:
      return "";
  }
}

let emptyKind = null;

/** A page with nothing on it says what to do next. */
function showEmpty() {
  const kind = filter.isEmpty() ? (lastStats && lastStats.last_id === 0 ? "new" : "quiet") : `filter ${queryOf(filter.parameters())}`;
  if (kind === emptyKind) return;
  emptyKind = kind;
  const empty = byId("live-empty");
  if (kind === "new") {
    empty.replaceChildren(
      element("h2", {}, "No events yet"),
      element("p", {}, "Publish the first one from a terminal. It appears here at once, and is kept."),
      code(`curl -d hello ${HUB}/topics/greetings`, "Publish by curl"),
      element("p", {}, "Or ", element("a", { href: "#/send" }, "send one from this page"), "."),
    );
  } else if (kind === "quiet") {
    empty.replaceChildren(element("h2", {}, "Waiting for the next event"), element("p", {}, "What came before is in the ", element("a", { href: "#/history" }, "history"), "."));
  } else {
    empty.replaceChildren(
      element("h2", {}, "Nothing that matches yet"),
      element("p", {}, "The filter lets through: ", element("code", {}, filter.describe()), ". An event that matches appears here at once."),
      element("p", {}, element("a", { href: "#/live" }, "Show all events")),
    );
  }
}

byId("pause").addEventListener("click", () => {
  if (state.state === "paused") stream.resume();
  else stream.pause();
});

byId("newer").addEventListener("click", () => {
  for (const opened of rows.querySelectorAll(":scope > li > details[open]")) opened.open = false;
  window.scrollTo({ top: 0 });
  drawSoon();
});

byId("gap-dismiss").addEventListener("click", () => show(byId("gap"), false));

// Back at the top, or a row closed: what waited is drawn.
addEventListener("scroll", () => waiting.length > 0 && drawSoon(), { passive: true });
rows.addEventListener("toggle", () => waiting.length > 0 && drawSoon(), true);

setInterval(drawRate, 1000);
setInterval(() => {
  if (unannounced > 0 && !byId("live").hidden) byId("live-news").textContent = plural(unannounced, "new event", "new events");
  unannounced = 0;
}, NEWS_MS);
