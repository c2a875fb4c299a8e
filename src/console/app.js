// The page: who is at it, which view the address bar asks for, the filter all of them share, and the state of the connection.
//
//   app ── live ── stream        follows the hub
//    │       ├──── rows ── json  shows events, in chosen columns
//    │       ├──── rate
//    │       └──── news        for screen readers
//    ├── history, topics, send, subscribe, operate
//    ├── signin                who is there, and what it may do
//    └── filter ── session ── hub ── dom

import { byId, number, show } from "./dom.js";
import { Filter, FilterBar, suggest } from "./filter.js";
import { clearHistory, showHistory, wireHistory } from "./history.js";
import { askStats, queryOf } from "./hub.js";
import { compare, follow, onStateChange, unfollow } from "./live.js";
import { stateNews } from "./news.js";
import { clearHub, hideHub, showHub } from "./operate.js";
import { showForm, showSender } from "./send.js";
import { begin } from "./session.js";
import { askToken, showCaller, tellAway } from "./signin.js";
import { showSnippets } from "./subscribe.js";
import "./theme.js";
import { clearTopics, hideTopics, readTopics, showStats, showTopics, topicNames } from "./topics.js";

/** How often the figures of the hub are asked for. */
const STATS_MS = 2000;

const VIEWS = ["live", "history", "send", "topics", "subscribe", "hub"];
const FILTERED = ["live", "history", "subscribe"];

/** Who is at the page; null while nobody was let in. */
let caller = null;
let view = null;
let filter = new Filter();
/** What the stream follows: the filter and where it began. */
let following = null;

const bar = new FilterBar((changed) => {
  const kept = view === "live" && following?.start !== null ? [["after", following.start]] : [];
  go(view, [...changed.parameters(), ...kept]);
});
wireHistory((parameters) => go("history", [...filter.parameters(), ...parameters]));

const link = (name, parameters) => {
  const query = queryOf(parameters);
  return `#/${name}${query ? `?${query}` : ""}`;
};

function go(name, parameters) {
  location.hash = link(name, parameters);
}

/** The views that the caller can use. */
const allowedViews = () => VIEWS.filter((name) => (name === "hub" ? caller.operate : (name === "send" ? caller.publish : caller.follow).length > 0));

function route() {
  if (caller === null) return;
  const allowed = allowedViews();
  const address = new URL(location.hash.slice(1) || "/live", "http://page");
  const name = address.pathname.slice(1);
  if (allowed.length === 0) {
    view = null;
    for (const other of VIEWS) show(byId(other), false);
    show(byId("filter"), false);
    return;
  }
  if (!allowed.includes(name)) {
    location.replace(`#/${allowed[0]}`);
    return;
  }
  const changed = view !== null && view !== name;
  view = name;
  const parameters = address.searchParams;
  if (FILTERED.includes(view)) {
    filter = Filter.from(parameters);
    bar.show(filter);
  }
  for (const other of VIEWS) show(byId(other), other === view);
  show(byId("filter"), FILTERED.includes(view));
  document.title = `${view === "live" ? "" : `${view[0].toUpperCase()}${view.slice(1)} · `}segno`;
  if (changed) window.scrollTo({ top: 0 });
  followAsAsked(parameters);
  linkViews();
  if (view === "history") showHistory(filter, parameters);
  if (view === "topics") showTopics();
  else hideTopics();
  if (view === "subscribe") showSnippets(filter);
  if (view === "send") showForm();
  if (view === "hub") showHub();
  else hideHub();
}

/** The stream runs whatever is on screen, and begins anew only when something else is to be followed. */
function followAsAsked(parameters) {
  if (caller.follow.length === 0) return;
  const after = /^\d+$/.test(parameters.get("after") ?? "") ? Number(parameters.get("after")) : null;
  const start = view === "live" ? after : (following?.start ?? null);
  if (following && following.start === start && following.filter.equals(filter)) return;
  following = { filter, start };
  follow(filter, start);
}

function linkViews() {
  const start = (following?.start ?? null) === null ? [] : [["after", following.start]];
  for (const anchor of document.querySelectorAll("[data-view]")) {
    const name = anchor.dataset.view;
    anchor.href = link(name, FILTERED.includes(name) ? [...filter.parameters(), ...(name === "live" ? start : [])] : []);
    if (name === view) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
    // On a phone the menu is wider than the screen.
    if (name === view) byId("views").scrollLeft = anchor.offsetLeft - byId("views").offsetLeft - 60;
  }
}

const STATES = {
  connecting: () => "Connecting",
  live: () => "Live",
  replaying: ({ behind }) => (behind > 0 ? `Replaying, ${number(behind)} behind` : "Replaying"),
  reconnecting: ({ cursor }) => (cursor === null ? "Reconnecting" : `Reconnecting after ${number(cursor)}`),
  paused: ({ cursor }) => (cursor === null ? "Paused" : `Paused after ${number(cursor)}`),
};

let shownState = null;
let stateTimer = null;

onStateChange((state) => {
  byId("state").dataset.state = state.state;
  stateNews(STATES[state.state]({ cursor: null, behind: 0 }));
  shownState = state;
  // A replay counts down with every event; the words follow a few times a second.
  stateTimer ??= setTimeout(() => {
    stateTimer = null;
    byId("state-text").textContent = STATES[shownState.state](shownState);
  }, state.state === "replaying" ? 200 : 0);
});

byId("jump").addEventListener("click", () => {
  following = null;
  if (location.hash === link("live", filter.parameters())) route();
  else go("live", filter.parameters());
});

// The address bar holds the view, so the link only says where it leads.
document.querySelector(".skip").addEventListener("click", (click) => {
  click.preventDefault();
  byId("main").focus();
});

async function pollStats() {
  try {
    if (caller?.operate || caller?.follow.length > 0) {
      const stats = await askStats(caller.operate);
      compare(stats);
      if (caller?.operate) showStats(stats);
    }
  } catch {
    // The state of the stream says that the hub is away.
  }
  setTimeout(pollStats, document.hidden ? 10 * STATS_MS : STATS_MS);
}

/** The names are read when they are about to be needed. */
for (const id of ["topic-input", "send-topic"]) {
  byId(id).addEventListener("focus", async () => {
    await readTopics().catch(() => {});
    suggest("topic-names", topicNames());
  });
}
byId("type-input").addEventListener("focus", () => {
  const types = new Set([...document.querySelectorAll(".row .type")].map((type) => type.textContent));
  suggest("type-names", [...types].sort());
});

/** Shows what a caller may see, who has come or whose rights have changed. */
function enter(newCaller) {
  const before = caller;
  caller = newCaller;
  const { follow, publish, operate } = caller;
  showCaller(caller);
  showSender(caller);
  const allowed = allowedViews();
  for (const anchor of document.querySelectorAll("[data-view]")) show(anchor, allowed.includes(anchor.dataset.view));
  show(byId("views"), true);
  show(byId("state"), follow.length > 0);
  show(byId("tiles"), operate && byId("tiles").childElementCount > 0);
  show(byId("nothing-allowed"), allowed.length === 0);
  if (follow.length === 0) stop();
  // The same person with other rights stays where it is.
  if (before === null || JSON.stringify([before.follow, before.publish, before.operate]) !== JSON.stringify([follow, publish, operate])) route();
}

/** Shows nothing of what was read. */
function leave() {
  caller = null;
  view = null;
  stop();
  for (const id of [...VIEWS, "filter", "views", "state", "gap", "nothing-allowed", "tiles"]) show(byId(id), false);
}

function refuse(reason, mayStay = false) {
  leave();
  askToken(reason, mayStay);
}

function stop() {
  following = null;
  unfollow();
  clearHistory();
  clearTopics();
  clearHub();
}

addEventListener("hashchange", route);
begin({ onCaller: enter, onRefused: refuse, onGone: leave, onAway: tellAway });
pollStats();
