// Client of segno, a persistent event hub: publish events, follow them, and resume where you were.
//
// One module without dependencies, for browsers, Node from 18 on, Deno and Bun. It reads streams with `fetch` and not with
// `EventSource`, which can send no token and gives up for good at the first answer that is no stream.

/** Milliseconds until it comes back, until the hub says otherwise. */
const RETRY_MS = 2000;
/** Waits double up to this while nothing comes. */
const RETRY_MAX_MS = 30_000;
/** The hub sends a line after 15 s of silence, so after this the connection is dead. */
const SILENCE_MS = 60_000;
/** Half of what a hub takes by default. */
const BATCH_MAX_BYTES = 8 * 1024 * 1024;
/** Statuses after which it is worth to ask again; 502 and 504 are of a proxy whose hub is away. */
const PASSING = new Set([408, 425, 429, 500, 502, 503, 504, 507]);
/** How the types begin that are the hub's own: who does not know one skips it. */
const OWN = "segno.";

/** The hub refused for good: asking again does not help. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? `the answer is ${status}`);
    this.name = "Refused";
    this.status = status;
    this.code = problem?.code;
    this.problem = problem;
  }
}

/** An event could not be published in time. Whether it was stored is not known; sent again with the same key it is one event. */
export class GaveUp extends Error {
  name = "GaveUp";
}

/** The stored cursor is of another event log than the hub has now. */
export class LogChanged extends Error {
  name = "LogChanged";
}

export class Segno {
  /**
   * A hub at `url`; without one, the hub that served the page.
   *
   * `token` is sent as `Authorization: Bearer`: a text, or a function that gives one or a promise of one, asked before each request.
   * `parse` reads JSON: a hub keeps every digit of a number, and `JSON.parse` does not.
   */
  constructor(url = "", { token, headers = {}, parse = JSON.parse, fetch: ask = globalThis.fetch } = {}) {
    this.url = String(url).replace(/\/+$/, "");
    this.token = token;
    this.headers = headers;
    this.parse = parse;
    this.ask = (...request) => ask(...request);
  }

  /** Publishes one event. When this is resolved, the event is stored. */
  async publish(data, { topic, type, key, retryForMs, signal } = {}) {
    const [stored] = await this.publishMany([{ data, topic, type, key }], { retryForMs, signal });
    return stored;
  }

  /**
   * Publishes events in their order, in batches that are each stored whole or not at all.
   *
   * A batch is tried again for `retryForMs` (60,000). An event without a key gets one, so that a lost answer never makes a second
   * event.
   */
  async publishMany(events, { batchEvents = 1000, retryForMs = 60_000, signal } = {}) {
    const stored = [];
    for await (const body of batches(events, batchEvents, retryForMs > 0)) {
      const answer = await this.#send(body, retryForMs, signal);
      const duplicates = new Set(answer.duplicates);
      stored.push(...answer.ids.map((id) => ({ id, duplicate: duplicates.has(id) })));
    }
    return stored;
  }

  /**
   * Yields events for ever, each once and in order, and comes back by itself after whatever happens to the stream.
   *
   * It begins now, or with one of `since` (`"15m"`, a time, `"start"`), `last` (N) and `after` (an id); a cursor in `store` wins. An event
   * counts as had when the next one is asked for.
   */
  async *follow(options = {}) {
    const { signal, store, silenceMs = SILENCE_MS } = options;
    const following = new Following(options, await store?.load());
    while (!signal?.aborted) {
      const watch = new Watch(silenceMs, signal);
      let waitMs;
      try {
        const response = await this.#request(`/sse?${following.query()}`, {
          headers: { accept: "application/x-ndjson, application/problem+json" },
          cache: "no-store",
          signal: watch.signal,
        });
        if (isOf(response, "application/x-ndjson") && response.ok) {
          following.begin();
          options.onOpen?.();
          for await (const line of lines(response.body, () => watch.alive())) {
            const event = following.take(this.parse(line));
            if (event) yield event;
            await following.save();
          }
          waitMs = following.backOff();
        } else {
          waitMs = following.refused(response, await problemOf(response));
        }
      } catch (error) {
        if (signal?.aborted) return;
        if (!(error instanceof Broken)) throw error;
        waitMs = following.backOff();
      } finally {
        watch.end();
      }
      if (!signal?.aborted) options.onCut?.({ waitMs });
      await sleep(waitMs, signal);
    }
  }

  /** Calls `handle` with each event of `follow`, which takes the same options, until it gives `false`. `stop()` ends it as well. */
  followWith(handle, options = {}) {
    const stopping = new AbortController();
    options.signal?.addEventListener("abort", () => stopping.abort(), { once: true });
    const run = async () => {
      for await (const event of this.follow({ ...options, signal: stopping.signal })) {
        if ((await handle(event)) === false) return;
      }
    };
    return { done: run(), stop: () => stopping.abort() };
  }

  /**
   * Yields stored events, page by page: the oldest first or, with `order: "desc"`, the newest. What stands in the place of erased
   * events is left out.
   *
   * `onGap` hears of events that should be among them and are gone.
   */
  async *history({ topic, type, after, before, since, until, order, pageEvents = 1000, onGap, signal } = {}) {
    const query = queryOf({ topic, type, after, before, since, until, order, limit: pageEvents });
    let path = `/events?${query}`;
    while (path) {
      const page = await this.#get(path, signal);
      if (page.gap) onGap?.(page.gap);
      yield* page.events.filter((event) => !event.type.startsWith(OWN));
      path = page.next && page.next.slice(page.next.indexOf("/events?"));
    }
  }

  /** One event; `Refused` with status 404 if there is none. */
  event(id, { signal } = {}) {
    return this.#get(`/events/${id}`, signal);
  }

  async #get(path, signal) {
    const response = await this.#request(path, { headers: { accept: "application/json" }, signal });
    if (!response.ok) throw new Refused(response.status, await problemOf(response));
    return this.parse(await whole(response.text()));
  }

  async #send(body, retryForMs, signal) {
    const until = Date.now() + retryForMs;
    for (let waitMs = 100; ; waitMs = Math.min(2 * waitMs, 5000)) {
      let cause;
      let askedMs = 0;
      try {
        const headers = { "content-type": "application/json", accept: "application/json" };
        const response = await this.#request("/events", { method: "POST", headers, body, signal });
        if (response.ok) return await whole(response.json());
        cause = new Refused(response.status, await problemOf(response));
        if (!PASSING.has(response.status)) throw cause;
        askedMs = retryAfterMs(response);
      } catch (error) {
        if (signal?.aborted || !(error instanceof Broken)) throw error;
        cause = error;
      }
      const pauseMs = jittered(Math.max(waitMs, askedMs));
      if (Date.now() + pauseMs > until) {
        throw new GaveUp(`the events could not be published in time: ${cause.message}`, { cause });
      }
      await sleep(pauseMs, signal);
      signal?.throwIfAborted();
    }
  }

  async #request(path, { headers, ...options }) {
    const token = typeof this.token === "function" ? await this.token() : this.token;
    const authorization = token ? { authorization: `Bearer ${token}` } : {};
    const asked = { ...options, headers: { ...this.headers, ...authorization, ...headers } };
    return whole(this.ask(this.url + path, asked));
  }
}

/** One follower: its cursor, when it comes back, and whom it tells. */
class Following {
  constructor(options, kept) {
    const { topic, type, since, last, after, store, onGap, onRefused, onExpired, onErased, onCursor } = options;
    if ([since, last, after].filter((start) => start !== undefined).length > 1) {
      throw new TypeError("since, last and after are different starts; give one");
    }
    this.filter = queryOf({ topic, type });
    this.start = queryOf({ since, last });
    this.store = store;
    this.cursor = kept?.cursor ?? after;
    this.saved = kept?.cursor;
    this.log = kept?.log;
    this.told = { gap: onGap, refused: onRefused, expired: onExpired, erased: onErased };
    this.onCursor = onCursor;
    this.retryMs = RETRY_MS;
    this.failures = 0;
    this.connected = false;
  }

  query() {
    const start = this.cursor === undefined ? this.start : queryOf({ last_event_id: this.cursor });
    return [this.filter, start].filter(String).join("&");
  }

  begin() {
    this.connected = true;
  }

  /** Takes a line, and gives the event that it is, if it is one for the reader. */
  take(line) {
    this.failures = 0;
    if (line.segno === undefined) {
      this.cursor = line.id;
      if (!line.type.startsWith(OWN)) return line;
      if (line.type === "segno.erased") this.told.erased?.(line);
      return undefined;
    }
    const { segno, cursor, ...rest } = line;
    if (segno === "cursor") this.#stayIn(line.log);
    if (line.retry_ms) this.retryMs = line.retry_ms;
    this.told[segno]?.(segno === "expired" ? { reason: rest.reason } : rest);
    if (cursor !== undefined) {
      this.cursor = cursor;
      this.onCursor?.(cursor);
    }
    return undefined;
  }

  async save() {
    if (this.store && this.cursor !== undefined && this.cursor !== this.saved) {
      await this.store.save({ cursor: this.cursor, log: this.log });
      this.saved = this.cursor;
    }
  }

  /** Milliseconds to wait after an answer that is no stream; throws where waiting does not help. */
  refused(response, problem) {
    // Who answers 200 with something else, or 404, in place of a hub that was there, is a proxy without its hub.
    const ofProxy = this.connected && !problem && [200, 403, 404].includes(response.status);
    if (!PASSING.has(response.status) && !ofProxy && !isOf(response, "text/event-stream")) {
      throw new Refused(response.status, problem);
    }
    if (problem) this.told.refused?.(problem);
    return Math.max(this.backOff(), retryAfterMs(response));
  }

  /** The hub's own wait after the first failure, then twice it, and so on. */
  backOff() {
    const waitMs = this.retryMs * 2 ** Math.min(this.failures, 10);
    this.failures += 1;
    return this.failures === 1 ? waitMs : jittered(Math.min(waitMs, Math.max(RETRY_MAX_MS, this.retryMs)));
  }

  #stayIn(log) {
    if (this.store && this.log !== undefined && log !== this.log) {
      throw new LogChanged(
        `the stored cursor is of the log ${this.log}, and the hub has the log ${log}; remove it to begin anew`,
      );
    }
    this.log = log;
  }
}

/** Cuts a request that has been silent for too long, or that its caller has ended. */
class Watch {
  constructor(silenceMs, outer) {
    this.cutting = new AbortController();
    this.signal = this.cutting.signal;
    this.silenceMs = silenceMs;
    this.outer = outer;
    this.cut = () => this.cutting.abort();
    outer?.addEventListener("abort", this.cut);
    this.alive();
  }

  alive() {
    clearTimeout(this.timer);
    this.timer = setTimeout(this.cut, this.silenceMs);
  }

  end() {
    clearTimeout(this.timer);
    this.outer?.removeEventListener("abort", this.cut);
    this.cutting.abort();
  }
}

/** No answer came, or not all of it: an error of the connection, and not of the reader's own code. */
class Broken extends Error {
  name = "Broken";
}

/** What comes over the connection, or `Broken`. */
async function whole(coming) {
  try {
    return await coming;
  } catch (error) {
    throw new Broken(`the connection broke: ${error.message}`, { cause: error });
  }
}

/** The whole lines of a body. Half a line at its end is of a cut, and is dropped. */
async function* lines(body, onChunk) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const chunk = await whole(reader.read());
      if (chunk.done) return;
      onChunk();
      const parts = (rest + decoder.decode(chunk.value, { stream: true })).split("\n");
      rest = parts.pop();
      for (const line of parts) if (line !== "") yield line;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Bodies with at most this many events each, and, but for one large event, this many bytes. */
async function* batches(events, batchEvents, withKeys) {
  const name = globalThis.crypto?.randomUUID?.() ?? Array.from({ length: 4 }, () => Math.random().toString(36).slice(2)).join("");
  const bytes = new TextEncoder();
  let [waiting, size, number] = [[], 0, 0];
  const body = () => `[${waiting.join(",")}]`;
  for await (const { data, topic, type, key } of events) {
    number += 1;
    if (data === undefined) throw new TypeError("an event has data; undefined is none");
    const event = JSON.stringify({ topic, type, data, key: key ?? (withKeys ? `${name}/${number}` : undefined) });
    const eventBytes = bytes.encode(event).length;
    if (waiting.length > 0 && (waiting.length === batchEvents || size + eventBytes > BATCH_MAX_BYTES)) {
      yield body();
      [waiting, size] = [[], 0];
    }
    waiting.push(event);
    size += eventBytes + 1;
  }
  if (waiting.length > 0) yield body();
}

/** A query of what was given: a value, or several in an array. */
function queryOf(parameters) {
  const query = new URLSearchParams();
  for (const [name, values] of Object.entries(parameters)) {
    for (const value of [values].flat()) if (value !== undefined) query.append(name, String(value));
  }
  return query.toString();
}

function isOf(response, mediaType) {
  return (response.headers.get("content-type") ?? "").startsWith(mediaType);
}

/** The problem that a hub tells; `undefined` if it is no hub's. What else comes is not read: it may have no end. */
async function problemOf(response) {
  if (isOf(response, "application/problem+json")) return response.json().catch(() => undefined);
  await response.body?.cancel().catch(() => {});
  return undefined;
}

function retryAfterMs(response) {
  const seconds = response.headers.get("retry-after") ?? "";
  return /^\d{1,6}$/.test(seconds) ? Number(seconds) * 1000 : 0;
}

/** Spread, so that many clients do not come back in the same moment. */
function jittered(ms) {
  return ms * (0.8 + 0.4 * Math.random());
}

function sleep(ms, signal) {
  if (signal?.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", done);
  });
}

/** Keeps the cursor in the browser, under `key`. */
export function browserStore(key, storage = globalThis.localStorage) {
  return {
    load: () => JSON.parse(storage.getItem(key) ?? "null") ?? undefined,
    save: (kept) => storage.setItem(key, JSON.stringify(kept)),
  };
}

/** Keeps the cursor in a file, which `segno tail --state` reads and writes as well. For Node, Deno and Bun. */
export function fileStore(path) {
  const files = import("node:fs/promises");
  return {
    async load() {
      const { readFile } = await files;
      const text = await readFile(path, "utf8").catch((error) => {
        if (error.code === "ENOENT") return undefined;
        throw error;
      });
      if (text === undefined) return undefined;
      const [cursor, log, ...more] = text.split(/\s+/).filter(String);
      if (more.length > 0 || !/^\d+$/.test(cursor ?? "")) {
        throw new TypeError(`${path} does not hold a cursor; remove it to begin anew`);
      }
      return { cursor, log };
    },
    async save({ cursor, log }) {
      const { rename, rm, writeFile } = await files;
      const unfinished = `${path}.new`;
      // Of a write that was broken off, or a link that somebody put there: not to be followed.
      await rm(unfinished, { force: true });
      // In one step, so that a crash leaves the old cursor or the new one.
      await writeFile(unfinished, `${cursor}\n${log ?? ""}\n`, { flag: "wx" });
      await rename(unfinished, path);
    },
  };
}
