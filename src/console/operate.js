// The hub for those who run it: what `/stats` and `/metrics` know, as a page.

import { byId, bytes, element, number, plural, rate, span } from "./dom.js";
import { ask } from "./hub.js";

const POLL_MS = 3000;

/** The figures of the last looks, over which rates are taken. */
const LOOKS_MAX = 100;

let timer = null;
let looks = [];

/** Samples by name, each with its labels; of a name without labels the one value. */
export function readMetrics(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const [, name, labels = "", value] = /^([a-z_]+)(?:\{(.*)\})? ([^ ]+)/.exec(line) ?? [];
    if (name === undefined || name.endsWith("_bucket")) continue;
    const label = /="([^"]*)"/.exec(labels)?.[1] ?? "";
    if (!samples.has(name)) samples.set(name, new Map());
    samples.get(name).set(label, Number(value));
  }
  return { value: (name) => samples.get(name)?.get(""), of: (name) => [...(samples.get(name) ?? [])] };
}

export function showHub() {
  hideHub();
  poll();
}

export function hideHub() {
  clearTimeout(timer);
  timer = null;
}

export function clearHub() {
  hideHub();
  looks = [];
  byId("hub-cards").replaceChildren();
  byId("tiles").replaceChildren();
}

async function poll() {
  const self = (timer = setTimeout(() => {}, 0));
  try {
    const [metrics, stats] = await Promise.all([ask("metrics"), ask("stats")]);
    const look = { at: performance.now(), metrics: readMetrics(await metrics.text()), stats: await stats.json() };
    if (timer !== self) return;
    looks = [...looks.slice(1 - LOOKS_MAX), look];
    draw();
    byId("hub-lead").textContent = `Event log ${look.stats.log_id}`;
  } catch {
    if (timer !== self) return;
    byId("hub-lead").textContent = "The hub cannot be reached; these are the last figures.";
  }
  timer = setTimeout(poll, POLL_MS);
}

/** Change a second of `read(look)` over the looks there are; null where there is one only, or the hub began anew. */
function perSecond(read) {
  const [first, last] = [looks[0], looks.at(-1)];
  const change = read(last) - read(first);
  return last.at - first.at < 1000 || change < 0 ? null : change / ((last.at - first.at) / 1000);
}

const orDash = (value, show) => (value === null || value === undefined || Number.isNaN(value) ? "–" : show(value));

function card(title, facts, note = null) {
  const rows = facts.filter(Boolean).map(([name, value, isBad]) => element("div", {}, element("dt", {}, name), element("dd", { class: isBad ? "bad" : null }, value)));
  return element("section", { class: "card" }, element("h2", {}, title), rows.length > 0 ? element("dl", {}, ...rows) : null, note && element("p", { class: "hint" }, note));
}

function draw() {
  const { metrics, stats } = looks.at(-1);
  const value = (name) => metrics.value(`segno_${name}`);
  const speed = (name) => orDash(perSecond((look) => look.metrics.value(`segno_${name}`)), (found) => `${rate(found)}/s`);
  const refusals = metrics.of("segno_refusals_total").filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1]);
  const gaps = metrics.of("segno_gaps_total").filter(([, count]) => count > 0);
  const commits = value("commit_seconds_count");
  const behind = value("subscribers_behind");
  byId("hub-cards").replaceChildren(
    card("Subscribers", [
      ["Open streams", number(value("subscribers"))],
      ["Behind the newest event", number(behind), behind > 0],
      ["Furthest behind", plural(value("lag_events"), "event", "events"), value("lag_events") > 0],
      ["Events delivered", speed("delivered_events_total")],
      ["Bytes delivered", orDash(perSecond((look) => look.metrics.value("segno_delivered_bytes_total")), (found) => `${bytes(found)}/s`)],
      ...gaps.map(([reason, count]) => [`Gaps told, ${reason}`, number(count), true]),
    ]),
    ...cluster(stats.cluster),
    card("Publishing", [
      ["Events stored", speed("published_events_total")],
      ["A commit takes", commits > 0 ? `${(1000 * value("commit_seconds_sum") / commits).toFixed(1)} ms` : "–"],
      ["Waiting for the writer", plural(value("queue_publications"), "request", "requests")],
      ["Failed commits", number(value("failed_commits_total")), value("failed_commits_total") > 0],
      ["The writer answered", `${value("canary_age_seconds").toFixed(1)} s ago`],
    ]),
    card("Disk", disk(value), "Free space within the file is used before the file grows."),
    card("Retention", retention(value, stats), stats.kept.length > 0 ? null : "Everything is kept. The flags --keep-age, --keep-events, --keep-bytes and --keep say what to keep."),
    card("Limits", limits(stats, metrics)),
    card("Refusals since the start", refusals.map(([code, count]) => [element("code", {}, code), number(count)]), refusals.length === 0 ? "None." : null),
    card("Backups", [], element("span", {}, element("code", {}, "segno backup FILE"), " copies the log of a hub that runs. The hub does not know what was copied: watch the age of your newest copy where you keep it.")),
  );
}

/** What a hub says of itself and of the others it hears of; nothing where it is alone. */
function cluster(known) {
  if (!known) return [];
  const behind = known.known_sequence - known.applied_sequence;
  return [
    card("Cluster", [
      ["This hub", known.state, known.state !== "ok"],
      ["Commands applied", number(known.applied_sequence)],
      ["Behind the order", behind > 0 ? `${plural(behind, "command", "commands")}, ${span(known.lag_seconds)}` : "no", known.lag_seconds > 5],
      ...known.hubs.map((hub) => hubOfCluster(hub, known)),
    ], known.why ?? null),
  ];
}

function hubOfCluster({ hub, url, applied_sequence, age_seconds, clock_ahead_seconds, agrees, other_rules }, known) {
  const name = `${url ?? hub.slice(0, 8)}${hub === known.hub ? " (this one)" : ""}`;
  const faults = [
    agrees === false && "its file differs",
    ...other_rules.map((rule) => ({ retention: "other retention flags", access: "another access file" })[rule] ?? `other ${rule}`),
    age_seconds > 6 && `silent for ${span(age_seconds)}`,
    Math.abs(clock_ahead_seconds) > 2 && `clock ${clock_ahead_seconds > 0 ? "ahead" : "behind"} by ${span(Math.abs(clock_ahead_seconds))}`,
  ].filter(Boolean);
  return [name, faults.length > 0 ? faults.join(", ") : `at ${number(applied_sequence)}`, faults.length > 0];
}

const DAY_SECONDS = 86_400;

/** How fast the log grows: by what is written, for the file itself grows in steps. */
function disk(value) {
  const size = (look) => look.metrics.value("segno_file_bytes") + look.metrics.value("segno_wal_bytes") - look.metrics.value("segno_free_bytes");
  const growth = looks.length > 1 ? (size(looks.at(-1)) - size(looks[0])) / ((looks.at(-1).at - looks[0].at) / 1000) : null;
  const free = value("disk_free_bytes");
  const left = free === undefined || growth === null ? null : growth > 0 ? free / growth : Infinity;
  return [
    ["File", bytes(value("file_bytes"))],
    ["WAL", bytes(value("wal_bytes"))],
    ["Free within the file", bytes(value("free_bytes"))],
    ["Free on the disk", orDash(free, bytes), free < 1e9],
    ["Full at this rate in", orDash(left, (seconds) => (seconds > 3650 * DAY_SECONDS ? "more than 10 years" : span(seconds))), left !== null && left < DAY_SECONDS],
  ];
}

function retention(value, { kept, events, first_id, last_id }) {
  return [
    ...kept.map((rule) => ["Keeps", rule]),
    ["Events kept", events > 0 ? `${number(events)}, ${number(first_id)} to ${number(last_id)}` : "none"],
    ["The oldest is from", events > 0 ? `${span(value("oldest_event_age_seconds"))} ago` : "–"],
    ["Deleted since the start", plural(value("trimmed_events_total"), "event", "events")],
  ];
}

function limits({ limits: allowed, connections, subscribers }, metrics) {
  const files = [metrics.value("process_open_fds"), metrics.value("process_max_fds")];
  const memory = metrics.value("process_resident_memory_bytes");
  const of = (now, most) => [`${number(now)} of ${number(most)}`, now > 0.8 * most];
  return [
    ["Connections", ...of(connections, allowed.connections)],
    ["Streams", number(subscribers)],
    ["Connections of an address", `at most ${number(allowed.connections_per_address)}`],
    ["Streams of an address", `at most ${number(allowed.streams_per_address)}`],
    ["Events of an address", allowed.rate_per_address ? `at most ${number(allowed.rate_per_address)}/s` : "no limit"],
    ["An event", `at most ${bytes(allowed.event_bytes)}`],
    ["A batch", `at most ${bytes(allowed.batch_bytes)}`],
    files[1] !== undefined && ["Open files", ...of(...files)],
    memory !== undefined && ["Memory", bytes(memory)],
  ];
}
