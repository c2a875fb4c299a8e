// Following the hub, with the browser's own EventSource: what the page shows is what any client gets.
//
// The browser reconnects by itself and resumes by `Last-Event-ID`. Only where it gives up, which it does when it is answered
// with an error instead of a stream (a proxy without its hub, say), the page connects anew, from the same place.

import { address, askJson } from "./hub.js";
import { forgetTicket, isSignedIn, renew, ticketParameters } from "./session.js";

/** Newest events to begin with, where no other start is asked for. */
const BEGIN_WITH_EVENTS = 200;

/** Wait before the page tries what the browser gave up. */
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
  async connect() {
    this.close();
    // Without a token nothing is waited for.
    const ticket = isSignedIn() ? await this.takeTicket() : [];
    if (ticket === null) return;
    this.source = new EventSource(address("sse", [["format", "event"], ...this.filter, ...this.startParameters(), ...ticket]));
    this.source.onopen = () => this.opened(this.source);
    this.source.onmessage = (message) => {
      this.cursor = Number(message.lastEventId);
      this.settle();
      this.onEvent(message.data);
    };
    // Of the hub's own types these are of use here; others may come, and are left out by not listening to them.
    this.source.addEventListener("segno.gap", (message) => {
      this.cursor = Number(message.lastEventId);
      this.onGap(JSON.parse(message.data));
    });
    this.source.addEventListener("segno.refused", (message) => {
      this.enter("reconnecting");
      this.onProblem(JSON.parse(message.data).detail);
    });
    this.source.addEventListener("segno.expired", (message) => this.expired(message));
    this.source.addEventListener("segno.cursor", (message) => this.reached(JSON.parse(message.data).cursor));
    this.source.onerror = () => this.failed(this.source);
  }

  /** A ticket for the stream; null if the stream was closed meanwhile, or none is to be had now. */
  async takeTicket() {
    const wanted = (this.wanted = {});
    try {
      const ticket = await ticketParameters();
      return wanted === this.wanted ? ticket : null;
    } catch (error) {
      if (wanted !== this.wanted) return null;
      this.tryAgain();
      if (error.status) this.onProblem(error.message);
      return null;
    }
  }

  /** The ticket has ended, or the right to follow is another now. Goes on from where the stream was, with a new ticket. */
  async expired(message) {
    if (message.lastEventId !== "") this.cursor = Number(message.lastEventId);
    this.close();
    this.enter("connecting");
    const wanted = (this.wanted = {});
    forgetTicket();
    await renew().catch(() => {});
    // Who may not follow any more has closed it.
    if (wanted === this.wanted) this.connect();
  }

  tryAgain() {
    this.enter("reconnecting");
    this.retry = setTimeout(() => this.connect(), RETRY_MS);
  }

  /** All up to `cursor` has come. In the first block of a start that is no id, it is where the stream begins. */
  reached(cursor) {
    if (this.cursor === null && this.start === null && this.state !== "live") return;
    this.cursor = cursor;
    this.settle();
  }

  startParameters() {
    const after = this.cursor ?? this.start;
    return after === null ? [["last", BEGIN_WITH_EVENTS]] : [["last_event_id", after]];
  }

  /** Ends, and remembers where it was. */
  close() {
    this.source?.close();
    this.source = null;
    this.wanted = null;
    clearTimeout(this.retry);
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
  async opened(source) {
    this.target = null; // Until it is known, nothing that comes makes the stream live.
    this.enter("replaying");
    try {
      const { events, last_id } = await askJson("events", [...this.filter, ["order", "desc"], ["limit", 1]]);
      if (source !== this.source) return;
      this.target = events[0]?.id ?? 0;
      // Nothing that matches yet: all up to here is settled, and this is the place to come back to.
      if (this.target === 0 && this.cursor === null) this.cursor = Math.min(this.start ?? last_id, last_id);
    } catch {
      if (source !== this.source) return;
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

  failed(source) {
    if (source !== this.source) return;
    if (source.readyState !== EventSource.CLOSED) return this.enter("reconnecting");
    // Perhaps the hub does not know it any more.
    forgetTicket();
    this.findProblem();
    this.tryAgain();
  }

  /** An EventSource does not tell why it was refused; the history takes the same filter and does. */
  async findProblem() {
    try {
      await askJson("events", [...this.filter, ["limit", 1]]);
    } catch (error) {
      if (error.status === 400 || error.status === 403) this.onProblem(error.message);
    }
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
