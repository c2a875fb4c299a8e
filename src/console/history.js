// What is kept, page by page, newest first. The address bar says which page: whoever opens the link sees the same.

import { byId, code, element, number, plural, show, tell } from "./dom.js";
import { readEvent } from "./event.js";
import { HUB, address, ask, lines, queryOf } from "./hub.js";
import { eventRow } from "./rows.js";
import { makeTicketed } from "./session.js";

const PAGE_EVENTS = 50;

const rows = byId("history-rows");
let reading = null;

/** Shows nothing of what was read. */
export function clearHistory() {
  reading?.abort();
  rows.replaceChildren();
}

/**
 * Shows the page that `parameters` name: `id` (that event and those before it), `before` or `after` an id, `until` a time,
 * or the newest.
 */
export async function showHistory(filter, parameters) {
  reading?.abort();
  reading = new AbortController();
  const { signal } = reading;
  const at = Object.fromEntries(["id", "before", "after", "until"].map((name) => [name, parameters.get(name)]));
  byId("history-id").value = at.id ?? "";
  byId("history-time").value = at.until ? localTime(new Date(at.until)) : "";
  rows.replaceChildren();
  tell(byId("history-problem"), null);
  show(byId("history-empty"), false);
  byId("history-lead").textContent = "Reading …";
  const page = { filter, at, events: [], hasMore: false };
  try {
    await read(page, signal);
  } catch (error) {
    if (signal.aborted) return;
    byId("history-lead").textContent = "";
    tell(byId("history-problem"), error.status ? `The hub says: ${error.message}.` : "The hub does not answer.");
  }
  if (signal.aborted) return;
  finish(page);
}

async function read(page, signal) {
  const { filter, at } = page;
  if (at.id) {
    const event = readEvent(await (await ask(`events/${encodeURIComponent(at.id)}`, [], { signal })).text());
    add(page, event, { open: true });
  }
  const backwards = !at.after;
  const parameters = [
    ...filter.parameters(),
    ["before", at.id ?? at.before],
    ["after", at.after],
    ["until", at.until],
    ["order", backwards ? "desc" : "asc"],
    ["limit", PAGE_EVENTS + 1],
    ["format", "ndjson"],
  ];
  let read = 0;
  for await (const line of lines(await ask("events", parameters, { signal }))) {
    if (signal.aborted) return;
    read += 1;
    if (read > PAGE_EVENTS) page.hasMore = true;
    else add(page, readEvent(line), { backwards });
  }
}

function add(page, event, { open = false, backwards = true }) {
  const row = eventRow(event, { open });
  if (backwards) {
    page.events.push(event);
    rows.append(row);
  } else {
    page.events.unshift(event);
    rows.prepend(row);
  }
}

function finish({ filter, at, events, hasMore }) {
  const newest = events[0];
  const oldest = events.at(-1);
  const isNewest = !at.id && !at.before && !at.after && !at.until;
  if (events.length > 0) {
    byId("history-lead").textContent =
      events.length === 1 ? `Event ${number(newest.id)}` : `${plural(events.length, "event", "events")}, ${number(oldest.id)} to ${number(newest.id)}`;
  } else if (byId("history-problem").hidden) {
    byId("history-lead").textContent = "";
    showEmpty(filter, isNewest);
  }
  const link = (id, parameters) => {
    const anchor = byId(id);
    if (parameters === null) anchor.removeAttribute("href");
    else anchor.href = `#/history${withQuery([...filter.parameters(), ...parameters])}`;
    // A link without a place to go is not one: it keeps its room, and is out of the tab order.
    if (parameters === null) anchor.setAttribute("aria-disabled", "true");
    else anchor.removeAttribute("aria-disabled");
  };
  show(byId("history-columns"), events.length > 0);
  const hasNewer = newest && (at.after ? hasMore : !isNewest);
  const hasOlder = oldest && (at.after ? true : hasMore);
  link("history-newest", isNewest ? null : []);
  link("history-newer", hasNewer ? [["after", newest.id]] : null);
  link("history-older", hasOlder ? [["before", oldest.id]] : null);
  const everything = [...filter.parameters(), ["format", "ndjson"]];
  show(byId("download-range").parentElement, events.length > 0);
  if (events.length > 0) {
    const range = byId("download-range");
    range.href = address("events", [...everything, ["after", oldest.id - 1], ["before", newest.id + 1]]);
    range.download = `segno-${oldest.id}-${newest.id}.ndjson`;
  }
  byId("download-all").href = address("events", everything);
  byId("download-all").download = "segno.ndjson";
}

const withQuery = (parameters) => {
  const query = queryOf(parameters);
  return query ? `?${query}` : "";
};

function showEmpty(filter, isNewest) {
  const empty = byId("history-empty");
  show(empty, true);
  if (filter.isEmpty() && isNewest) {
    empty.replaceChildren(element("h2", {}, "No stored events yet"), element("p", {}, "The first event that is published appears here."), code(`curl -d hello ${HUB}/topics/greetings`, "Publish by curl"));
  } else {
    const what = filter.isEmpty() ? "There is no stored event in this range." : `No stored event matches ${filter.describe()}${isNewest ? "" : " in this range"}.`;
    empty.replaceChildren(element("h2", {}, "No events"), element("p", {}, `${what} `, element("a", { href: "#/history" }, "Show the newest events")));
  }
}

/** As an input of the type datetime-local wants it. */
function localTime(time) {
  return new Date(time - time.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

/** Wires the forms; `go` takes query parameters. */
export function wireHistory(go) {
  for (const id of ["download-range", "download-all"]) makeTicketed(byId(id));
  byId("history-id-form").addEventListener("submit", (submit) => {
    submit.preventDefault();
    const id = byId("history-id").value.trim();
    go(id ? [["id", id]] : []);
  });
  byId("history-time-form").addEventListener("submit", (submit) => {
    submit.preventDefault();
    const time = byId("history-time").value;
    go(time ? [["until", new Date(time).toISOString()]] : []);
  });
}
