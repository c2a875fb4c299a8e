// What came in the last minutes before the page began to follow: for the graph, which would otherwise begin empty.

import { timeOf } from "./event.js";
import { ask, lines } from "./hub.js";

/** Bounds of what is read: a busy hub has more in five minutes than a page should ask for. */
const EVENTS_MAX = 20_000;
const BYTES_MAX = 8_000_000;

/** Tells `onTime` the time of each event before the id `before`, newest first, back to `since`. */
export async function readPast(filter, before, since, onTime, signal) {
  const parameters = [...filter, ["before", before], ["since", since], ["order", "desc"], ["format", "ndjson"]];
  let events = 0;
  let bytes = 0;
  for await (const line of lines(await ask("events", parameters, { signal }))) {
    if (line === "") continue;
    onTime(timeOf(line));
    events += 1;
    bytes += line.length;
    if (events >= EVENTS_MAX || bytes >= BYTES_MAX) return;
  }
}
