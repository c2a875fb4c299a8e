// What a screen reader is told: that events came, and that the state of the connection changed; never oftener than it can say.

import { byId, plural } from "./dom.js";

/** Least time between two announcements. A sentence takes a few seconds to be said. */
const NEWS_MS = 5000;

let events = 0;
let state = null;
let toldState = null;

export function countNews() {
  events += 1;
}

/** `word` is the state without its figures, which change too often. */
export function stateNews(word) {
  state = word;
}

setInterval(() => {
  const news = [];
  if (state !== toldState) news.push(state);
  if (events > 0 && !byId("live").hidden) news.push(plural(events, "new event", "new events"));
  toldState = state;
  events = 0;
  if (news.length > 0) byId("news").textContent = news.join(", ");
}, NEWS_MS);
