// Events a second over the last minutes, by the time they were committed: a replay fills in what was before the page opened.

import { byId, plural, rate } from "./dom.js";
import { hubNow } from "./hub.js";

const BUCKET_MS = 2000;
const BUCKETS = 150;

const path = byId("rate-path");
/** Events by the number of their bucket since 1970. */
const counts = new Map();

export function countEvent(time) {
  const bucket = Math.floor(time / BUCKET_MS);
  counts.set(bucket, (counts.get(bucket) ?? 0) + 1);
}

/** How far back it shows, as the hub reads a `since`. */
export const SPAN = `${(BUCKETS * BUCKET_MS) / 1000}s`;

export function forgetRate() {
  counts.clear();
  drawRate();
}

export function drawRate() {
  const current = Math.floor(hubNow() / BUCKET_MS);
  const first = current - BUCKETS;
  for (const bucket of counts.keys()) if (bucket < first) counts.delete(bucket);
  // The bucket that is being filled is left out: it would always look like a drop.
  const heights = Array.from({ length: BUCKETS }, (_, index) => counts.get(first + index) ?? 0);
  const peak = Math.max(...heights);
  let line = "M0 40";
  heights.forEach((height, index) => {
    if (height === 0) return;
    const top = 40 - Math.max(1, (38 * height) / peak);
    line += `M${index} 40V${top.toFixed(1)}h.85V40z`;
  });
  path.setAttribute("d", line);
  byId("rate").classList.toggle("idle", peak === 0);
  const now = (heights.at(-1) + heights.at(-2)) / (2 * (BUCKET_MS / 1000));
  byId("rate-now").textContent = rate(now);
  byId("rate-peak").textContent = peak > 0 ? `peak ${rate(peak / (BUCKET_MS / 1000))}/s` : "";
  byId("rate").setAttribute("aria-label", `${plural(Math.round(now), "event", "events")} a second now, over the last five minutes at most ${rate(peak / (BUCKET_MS / 1000))}`);
}
