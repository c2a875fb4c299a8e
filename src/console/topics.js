// The topics there are, and the tiles with the hub in figures.

import { bytes, byId, code, element, number, plural, rate, shortSpan, show, span } from "./dom.js";
import { HUB, askJson, hubNow, queryOf } from "./hub.js";

/** Wait between two looks at the topics; longer where the hub takes long to count them. */
const POLL_MS = 3000;
const POLL_REST_FACTOR = 20;

let topics = [];
let pages = 1;
let next = null;
let sort = { by: "topic", descending: false };
/** Of each topic: what was counted the last time, and when. */
let counted = new Map();
let timer = null;
let problem = null;

/** All that was read of them, for suggestions. */
export const topicNames = () => topics.map(({ topic }) => topic);

export async function readTopics() {
  const begin = performance.now();
  const read = [];
  let after = null;
  for (let page = 0; page < pages; page += 1) {
    const answer = await askJson("topics", [["after", after], ["limit", 1000]]);
    read.push(...answer.topics);
    after = answer.next;
    if (after === null) break;
  }
  next = after;
  const now = performance.now();
  topics = read.map((topic) => ({ ...topic, rate: rateOf(counted.get(topic.topic), topic, now) }));
  counted = new Map(topics.map((topic) => [topic.topic, { ...topic, at: now }]));
  return now - begin;
}

/** Events a second since it was last counted; null where that cannot be said. */
function rateOf(before, topic, now) {
  // Where events were trimmed in between, the difference is not what was published.
  if (!before || before.first_id !== topic.first_id) return null;
  return (topic.events - before.events) / ((now - before.at) / 1000);
}

export function showTopics() {
  hideTopics();
  poll();
}

export function hideTopics() {
  clearTimeout(timer);
  timer = null;
}

async function poll() {
  const self = (timer = setTimeout(() => {}, 0));
  let took = 0;
  try {
    took = await readTopics();
    problem = null;
  } catch {
    problem = "The hub cannot be reached; these are the last figures.";
  }
  if (timer !== self) return;
  draw();
  timer = setTimeout(poll, Math.max(POLL_MS, POLL_REST_FACTOR * took));
}

function draw() {
  const find = byId("topics-find").value.trim().toLowerCase();
  const found = topics.filter(({ topic }) => topic.toLowerCase().includes(find));
  const value = (topic) => topic[sort.by] ?? -1;
  found.sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (sort.descending ? -1 : 1));
  byId("topics-body").replaceChildren(...found.map(row));
  const count = next ? `the first ${number(topics.length)}` : plural(topics.length, "topic", "topics");
  byId("topics-lead").textContent = problem ?? (topics.length === 0 ? "" : find ? `${number(found.length)} of ${count}` : count);
  show(byId("topics-more"), next !== null);
  show(byId("topics-table"), topics.length > 0);
  show(byId("topics-empty"), topics.length === 0 && !problem);
  for (const button of document.querySelectorAll("[data-sort]")) {
    const isSorted = button.dataset.sort === sort.by;
    button.parentElement.setAttribute("aria-sort", isSorted ? (sort.descending ? "descending" : "ascending") : "none");
  }
  if (byId("topics-empty").childElementCount === 0) {
    byId("topics-empty").append(
      element("h2", {}, "No topics yet"),
      element("p", {}, "A topic begins with the first event on it; there is nothing to set up."),
      code(`curl -d '{"total": 9.90}' ${HUB}/topics/orders.created`, "Publish by curl"),
    );
  }
}

function row(topic) {
  const query = queryOf([["topic", topic.topic]]);
  const ago = (hubNow() - Date.parse(topic.last_created_at)) / 1000;
  return element(
    "tr",
    {},
    element("td", { class: "topic" }, element("a", { href: `#/live?${query}`, title: topic.topic }, topic.topic)),
    element("td", { class: "number" }, number(topic.events)),
    element("td", { class: "number" }, topic.rate === null ? "–" : `${rate(topic.rate)}/s`),
    element("td", { class: "number" }, subscribers(topic)),
    element("td", {}, element("a", { href: `#/history?${queryOf([["id", topic.last_id]])}`, title: topic.last_created_at }, `${number(topic.last_id)}`), element("span", { class: "hint" }, ` ${shortSpan(ago)} ago`)),
  );
}

function subscribers({ subscribers: least, subscribers_at_least: mayBeMore }) {
  return mayBeMore ? element("span", { title: "The filters are too many, or too costly, to look at all of them" }, `at least ${number(least)}`) : number(least);
}

/** Shows nothing of what was read. */
export function clearTopics() {
  hideTopics();
  topics = [];
  counted = new Map();
  byId("topics-body").replaceChildren();
}

/** The hub in figures; comes every two seconds. */
export function showStats(stats) {
  show(byId("tiles"), true);
  const wal = stats.wal_bytes > 0 ? ` + ${bytes(stats.wal_bytes)} WAL` : "";
  const tile = (name, value, more) => element("div", {}, element("dt", {}, name), element("dd", {}, value, more ? element("small", {}, more) : null));
  byId("tiles").replaceChildren(
    tile("Subscribers", number(stats.subscribers), "with this page"),
    tile("Events kept", number(stats.events), stats.events > 0 ? `from ${number(stats.first_id)}` : null),
    tile("Last id", number(stats.last_id)),
    tile("File", bytes(stats.file_bytes), wal),
    tile("Running for", span(stats.uptime_seconds)),
    tile("Version", stats.version),
  );
}

byId("topics-find").addEventListener("input", draw);
byId("topics-more").addEventListener("click", () => {
  pages += 1;
  showTopics();
});
for (const button of document.querySelectorAll("[data-sort]")) {
  button.addEventListener("click", () => {
    const by = button.dataset.sort;
    sort = { by, descending: sort.by === by ? !sort.descending : by !== "topic" };
    draw();
  });
}
