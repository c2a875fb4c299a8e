// The stream as it arrives, newest first.

import { byId, code, element, number, show, tell } from "./dom.js";
import { readEvent, timeOf } from "./event.js";
import { HUB, askJson, queryOf } from "./hub.js";
import { countNews } from "./news.js";
import { readPast } from "./past.js";
import { SPAN, countEvent, drawRate, forgetRate } from "./rate.js";
import { eventRow, gapRow, gapText, showErased } from "./rows.js";
import { Stream } from "./stream.js";

/** Rows that are kept. What is older is in the history. */
const ROWS_MAX = 500;

/** Most that are counted while it is paused, where a filter is set. */
const MISSED_MAX = 100;

/** Rows made in one frame, newest first; more than fit on most screens. In a burst the older ones wait for a calmer moment. */
const FRAME_ROWS = 50;

/** Drawing rests this many times as long as it took, so that a burst leaves the page free for the person before it. */
const REST_FACTOR = 4;

const rows = byId("live-rows");
let stream = null;
let filter = null;
/** The newest that came, oldest first: what rows are made of. */
let kept = [];
/** How many came that are newer than the uppermost row. The rows are the newest of all others, without a hole. */
let newerEvents = 0;
let drawing = null;
/** Whether rows are kept where they are, because the person is reading them. */
let held = false;
let stateListener = () => {};
let arrivals = [];
let lastStats = null;
let state = { state: "connecting" };
/** Where the stream has begun: the id of the first event that came, and what reads those before it for the graph. */
let firstId = null;
let past = null;
/** How many match that came while it was paused. */
let missed = null;

/** Follows what `newFilter` wants, from after `start`, or from the newest events if that is null. */
export function follow(newFilter, start) {
  filter = newFilter;
  forget();
  tell(byId("filter-problem"), null);
  show(byId("gap"), false); // It is about what was followed before.
  stream = new Stream({ filter: filter.parameters(), start, onEvent, onGap, onState, onProblem: (problem) => tell(byId("filter-problem"), problem) });
  update();
}

/** Follows nothing, and shows nothing of what was followed. */
export function unfollow() {
  forget();
  stream = null;
}

function forget() {
  stream?.close();
  past?.abort();
  past = null;
  firstId = null;
  kept = [];
  newerEvents = 0;
  rows.replaceChildren();
  forgetRate();
}

/** The filter that is followed, and whether what it takes is shown at once. */
export const following = () => ({ filter, isPaused: state.state === "paused" });

export const isFollowing = () => stream !== null;

export function onStateChange(listener) {
  stateListener = listener;
}

/** Resolves when the event comes back on the stream; rejects after `ms`. */
export function arrival(id, ms) {
  const start = `{"id":${id},`;
  if (kept.some((item) => item.text?.startsWith(start))) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const timer = setTimeout(reject, ms);
    arrivals.push({ start, resolve: () => (clearTimeout(timer), resolve()) });
  });
}

/** Takes the figures of the hub, which come every two seconds. */
export function compare(stats) {
  lastStats = stats;
  stream?.compare(stats.last_id);
  countMissed();
  update();
}

/** Ids have few holes, so the difference says how many came; what a filter takes is counted, up to a hundred. */
async function countMissed() {
  if (state.state !== "paused" || state.cursor === null) return void (missed = null);
  if (filter.isEmpty()) return void (missed = Math.max(0, lastStats.last_id - state.cursor));
  const paused = state;
  const parameters = [...filter.parameters(), ["after", state.cursor], ["limit", MISSED_MAX]];
  const { events } = await askJson("events", parameters).catch(() => ({ events: [] }));
  if (state !== paused) return;
  missed = events.length;
  update();
}

/** The graph begins with what was before the first event that came. */
async function fillPast() {
  if (past !== null || firstId === null) return;
  past = new AbortController();
  await readPast(filter.parameters(), firstId, SPAN, countEvent, past.signal).catch(() => {});
  drawRate();
}

function onEvent(text) {
  if (firstId === null) firstId = Number.parseInt(text.slice('{"id":'.length), 10);
  if (text.includes('"type":"segno.erased"')) noteErased(text);
  countEvent(timeOf(text));
  countNews();
  if (arrivals.length > 0) {
    arrivals = arrivals.filter(({ start, resolve }) => !text.startsWith(start) || resolve());
  }
  enqueue({ text });
}

/** An event that is no more, unless it is a whole topic that is gone. */
function noteErased(text) {
  const { type, data } = readEvent(text);
  const { id } = type === "segno.erased" ? JSON.parse(data) : {};
  if (id !== undefined) showErased(id);
}

function onGap(gap) {
  tell(byId("gap-text"), gapText(gap));
  show(byId("gap"), true);
  enqueue({ gap });
}

function enqueue(item) {
  newerEvents += 1;
  // Cut in strides, so that a burst does not move the whole list for each event.
  if (kept.push(item) >= 2 * ROWS_MAX) kept = kept.slice(-ROWS_MAX);
  drawSoon();
}

function onState(newState) {
  if (newState.state !== "paused") missed = null;
  state = newState;
  stateListener(newState);
  if (newState.state === "live") fillPast();
  update();
}

/** Scrolled down, or a row is open, or the keyboard is in one. */
function isRead() {
  return rows.getBoundingClientRect().top < -40 || rows.querySelector(":scope > li > details[open], :focus-visible") !== null;
}

function drawSoon() {
  drawing ??= requestAnimationFrame(draw);
}

function draw() {
  const begin = performance.now();
  held = isRead();
  if (!held) drawNewer();
  const isWhole = drawOlder();
  if (stream && state.state === "replaying") onState(stream.describe());
  else update();
  void rows.offsetHeight; // Layout is most of the cost, and is to be in the measure.
  drawing = setTimeout(() => {
    drawing = null;
    if (!isWhole || (newerEvents > 0 && !held)) drawSoon();
  }, REST_FACTOR * (performance.now() - begin));
}

const made = (items) => items.reverse().map((item) => (item.gap ? gapRow(item.gap) : eventRow(readEvent(item.text))));

/** Makes rows of what came, above the others. If that is more than a frame's, it begins anew from the newest. */
function drawNewer() {
  if (newerEvents > FRAME_ROWS) rows.replaceChildren();
  rows.prepend(...made(kept.slice(kept.length - Math.min(newerEvents, FRAME_ROWS))));
  newerEvents = 0;
  while (rows.childElementCount > ROWS_MAX) rows.lastElementChild.remove();
}

/** Makes rows of what is older than the lowest, as many as a frame may; says whether there are all that can be. */
function drawOlder() {
  const room = ROWS_MAX - rows.childElementCount;
  const end = Math.max(0, kept.length - newerEvents - rows.childElementCount);
  const begin = Math.max(0, end - Math.min(room, FRAME_ROWS));
  rows.append(...made(kept.slice(begin, end)));
  return begin === 0 || end - begin === room;
}

function showNewer() {
  const newer = byId("newer");
  show(newer, held && newerEvents > 0);
  // Where there is no room for words, a number and an arrow say it.
  newer.replaceChildren(number(newerEvents), element("span", {}, newerEvents === 1 ? " newer event" : " newer events"), " ↑");
}

/** Brings all but the rows up to date. */
function update() {
  const isEmpty = rows.childElementCount === 0;
  const paused = state.state === "paused";
  showNewer();
  const waiting = missed > 0 ? ` (${!filter.isEmpty() && missed === MISSED_MAX ? `${MISSED_MAX} or more` : number(missed)} new)` : "";
  byId("pause").textContent = paused ? `Continue${waiting}` : "Pause";
  byId("pause").classList.toggle("primary", paused && missed > 0);
  show(byId("live-columns"), !isEmpty);
  show(byId("jump"), paused || state.state === "replaying");
  const lowest = rows.lastElementChild?.dataset.id;
  show(byId("live-foot"), !isEmpty && !(lastStats && Number(lowest) <= lastStats.first_id));
  show(byId("live-empty"), isEmpty && ["live", "replaying", "paused"].includes(state.state));
  if (isEmpty) showEmpty();
  else byId("live-older").href = `#/history?${queryOf([...filter.parameters(), ["before", lowest]])}`;
  byId("live-lead").textContent = lead();
}

function lead() {
  switch (state.state) {
    case "paused": {
      const held = state.cursor === null ? "Paused." : `Paused after event ${number(state.cursor)}.`;
      return lastStats ? `${held} The hub is at event ${number(lastStats.last_id)}.` : held;
    }
    case "replaying":
      return "Stored events come first, then new ones.";
    case "reconnecting":
      return state.cursor === null ? "No connection. Trying again." : `No connection. Trying again, from after event ${number(state.cursor)}.`;
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
      element("p", {}, "Publish the first one from a terminal. It appears here at once, and is stored."),
      code(`curl -d hello ${HUB}/topics/greetings`, "Publish by curl"),
      element("p", {}, "Or ", element("a", { href: "#/send" }, "send one from this page"), "."),
    );
  } else if (kind === "quiet") {
    empty.replaceChildren(element("h2", {}, "Waiting for the next event"), element("p", {}, "Earlier events are in the ", element("a", { href: "#/history" }, "history"), "."));
  } else {
    empty.replaceChildren(
      element("h2", {}, "No matching events yet"),
      element("p", {}, "The filter matches ", element("code", {}, filter.describe()), ". A matching event appears here at once."),
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

// Back at the top, a row closed or the keyboard gone from it: what waited is drawn.
const drawWhatWaited = () => newerEvents > 0 && drawSoon();
addEventListener("scroll", drawWhatWaited, { passive: true });
rows.addEventListener("toggle", drawWhatWaited, true);
rows.addEventListener("focusout", drawWhatWaited);

// A browser keeps pages that were left, with their streams, and opens no more than six to a host.
addEventListener("pagehide", () => stream?.close());
addEventListener("pageshow", ({ persisted }) => {
  if (persisted && state.state !== "paused") stream?.resume();
});

setInterval(drawRate, 1000);
