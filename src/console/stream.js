// Following the hub, with the client that it serves to everybody: what the page shows is what any client gets.
//
// The client comes back by itself, from where it was. Only where it gives up, which it does when it is refused for good (the page
// may not follow, or its filter is out of rule), the page says why, and tries again.

import { Segno } from "../segno.js";
import { HUB, askJson, fetchAsCaller } from "./hub.js";
import { renew } from "./session.js";

/** Newest events to begin with, where no other start is asked for. */
const BEGIN_WITH_EVENTS = 200;

/** Wait before the page tries what the client gave up. */
const RETRY_MS = 2000;

/** Events between the hub's newest and ours that do not count as being behind: they are on their way. */
const ON_THE_WAY_EVENTS = 5000;

/**
 * States: `connecting`; `replaying` (`behind`: how many ids there are up to the newest that matches, 0 where that is not known
 * yet); `live`; `reconnecting` and `paused` (`cursor`: the id it goes on after, if it has had one). `onState` hears of each
 * change; how far a replay is, `describe` tells.
 */
export class Stream {
  /** `filter` is a list of query parameters; `start` is an id to begin after, or null for the newest events. */
  constructor({ filter, start, onEvent, onGap, onState, onProblem }) {
    Object.assign(this, { filter, start, onEvent, onGap, onState, onProblem });
    this.cursor = null;
    this.target = null;
    this.state = "connecting";
    this.connect();
  }

  /** Goes on where it was. */
  connect() {
    this.close();
    this.running = new AbortController();
    this.run(this.running.signal);
  }

  async run(signal) {
    const hub = new Segno(HUB, { fetch: fetchAsCaller, parse: readLine });
    const heard = {
      signal,
      onOpen: () => this.opened(signal),
      onCut: () => this.enter("reconnecting"),
      onCursor: (cursor) => this.reached(cursor),
      onGap: (gap) => this.onGap(gap),
      onRefused: ({ detail }) => this.onProblem(detail),
      onExpired: () => this.expired(),
    };
    while (!signal.aborted) {
      try {
        for await (const { id, text } of hub.follow({ ...this.wanted(), ...heard })) {
          if (signal.aborted) return;
          this.cursor = id;
          this.settle();
          this.onEvent(text);
        }
      } catch (error) {
        if (signal.aborted) return;
        this.enter("reconnecting");
        // Who is not let in at all is asked for a token.
        if (error.status !== 401) this.onProblem(error.message);
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }

  /** The right to follow is another now. Goes on from where the stream was, when the page knows which. */
  async expired() {
    this.close();
    this.enter("connecting");
    const running = (this.running = new AbortController());
    await renew().catch(() => {});
    // Who may not follow any more has closed it.
    if (running === this.running) this.connect();
  }

  /** All up to `cursor` has come. In the first block of a start that is no id, it is where the stream begins. */
  reached(cursor) {
    if (this.cursor === null && this.start === null && this.state !== "live") return;
    this.cursor = cursor;
    this.settle();
  }

  /** What the client is asked for: the filter, and where to begin. */
  wanted() {
    const values = (name) => this.filter.filter(([other]) => other === name).map(([, value]) => value);
    const after = this.cursor ?? this.start;
    return { topic: values("topic"), type: values("type"), ...(after === null ? { last: BEGIN_WITH_EVENTS } : { after }) };
  }

  /** Ends, and remembers where it was. */
  close() {
    this.running?.abort();
    this.running = null;
  }

  pause() {
    this.close();
    this.enter("paused");
  }

  resume() {
    this.enter("connecting");
    this.connect();
  }

  /** Connected: what is there to replay is the newest event that matches now. */
  async opened(signal) {
    this.target = null; // Until it is known, nothing that comes makes the stream live.
    this.enter("replaying");
    try {
      const { events, last_id } = await askJson("events", [...this.filter, ["order", "desc"], ["limit", 1]]);
      if (signal.aborted) return;
      this.target = events[0]?.id ?? 0;
      // Nothing that matches yet: all up to here is settled, and this is the place to come back to.
      if (this.target === 0 && this.cursor === null) this.cursor = Math.min(this.start ?? last_id, last_id);
    } catch {
      if (signal.aborted) return;
      this.target = 0; // The stream itself is up; how far behind it is, nobody could tell.
    }
    this.settle();
  }

  settle() {
    if (this.state === "replaying" && this.target !== null && (this.cursor ?? 0) >= this.target) this.enter("live");
  }

  /** `last_id` is the hub's newest: a page that does not keep up with a burst is behind, and says so. */
  compare(last_id) {
    const isBehind = this.cursor !== null && last_id - this.cursor > ON_THE_WAY_EVENTS;
    if (this.state !== "live" || this.filter.length > 0 || !isBehind) return;
    this.target = last_id;
    this.enter("replaying");
  }

  enter(state) {
    this.state = state;
    if (state === "live") this.onProblem(null);
    this.onState(this.describe());
  }

  describe() {
    return { state: this.state, cursor: this.cursor, behind: Math.max(0, this.target - (this.cursor ?? 0)) };
  }
}

/** A line, with the id of an event and else its text: what it means is read when it is shown, and its numbers keep their digits. */
const readLine = (line) => (line.startsWith('{"segno":') ? JSON.parse(line) : { id: Number.parseInt(line.slice('{"id":'.length), 10), type: "", text: line });
