// Follows a stream with a client of others: `node follow.mjs <client> <url>`. Prints a line of JSON for each event.
//
// Each client is used as its own documentation says. HURRY divides the waits that a client chooses for itself.

const [client, url] = process.argv.slice(2);

const setTimer = globalThis.setTimeout;
const hurry = Number(process.env.HURRY ?? 1);
globalThis.setTimeout = (callback, ms = 0, ...rest) => setTimer(callback, ms / hurry, ...rest);
const sleep = (ms) => new Promise((resolve) => setTimer(resolve, ms));

const tell = (id, type, data) => console.log(JSON.stringify({ id, type, data }));

/** The rule for readers: types that begin with `segno.` are the hub's own. */
const tellUnlessOwn = ({ id, event, data }) => {
  if (!event?.startsWith("segno.")) tell(id, event || "message", data);
};

/** For all that have the interface of a browser's EventSource. */
function listen(source) {
  for (const type of ["message", "tick"]) {
    source.addEventListener(type, (event) => tell(event.lastEventId, type, event.data));
  }
  source.addEventListener("error", (event) => {
    const closed = source.readyState === 2 ? "; it gave up" : "";
    console.error(`error ${event.message ?? event.error ?? ""}${closed}`);
  });
}

const clients = {
  "eventsource 2": async () => {
    const { default: EventSource } = await import("eventsource-2");
    listen(new EventSource(url));
  },
  "eventsource 3": async () => {
    const { EventSource } = await import("eventsource-3");
    listen(new EventSource(url));
  },
  "eventsource 4": async () => {
    const { EventSource } = await import("eventsource-4");
    listen(new EventSource(url));
  },
  "segno js": async () => {
    const { Segno } = await import(process.env.SEGNO_JS);
    const { origin, searchParams } = new URL(url);
    const hub = new Segno(origin);
    const one = (name) => searchParams.get(name) ?? undefined;
    const options = { topic: searchParams.getAll("topic"), since: one("since"), last: one("last") };
    for await (const { id, type, data } of hub.follow(options)) tell(String(id), type, JSON.stringify(data));
  },
  undici: async () => {
    const { EventSource } = await import("undici");
    listen(new EventSource(url));
  },
  "event-source-polyfill": async () => {
    const { EventSourcePolyfill } = (await import("event-source-polyfill")).default;
    // Longer than any silence here, also in a hurry.
    listen(new EventSourcePolyfill(url, { heartbeatTimeout: 10_000_000 }));
  },
  "reconnecting-eventsource": async () => {
    const { EventSource } = await import("eventsource-4");
    const { default: loaded } = await import("reconnecting-eventsource");
    const Reconnecting = loaded.default ?? loaded;
    listen(new Reconnecting(url, { eventSourceClass: EventSource }));
  },
  "fetch-event-source": async () => {
    // Written for pages: what it asks of one.
    globalThis.window = globalThis;
    globalThis.document = { addEventListener() {}, removeEventListener() {} };
    const { fetchEventSource } = (await import("@microsoft/fetch-event-source")).default;
    await fetchEventSource(url, {
      openWhenHidden: true,
      onmessage: tellUnlessOwn,
      onclose() {
        throw new Error("the stream ended; come back");
      },
      onerror(error) {
        console.error(`error ${error}`);
      },
    });
  },
  "eventsource-client": async () => {
    const { createEventSource } = await import("eventsource-client");
    createEventSource({ url, onMessage: tellUnlessOwn });
  },
  "eventsource-parser": async () => {
    const { createParser } = await import("eventsource-parser");
    let lastId;
    let retry = 1000;
    for (;;) {
      try {
        const headers = { accept: "text/event-stream" };
        if (lastId !== undefined) headers["last-event-id"] = lastId;
        const response = await fetch(url, { headers });
        if (!response.ok) throw new Error(`status ${response.status}`);
        const parser = createParser({
          onEvent(event) {
            if (event.id !== undefined) lastId = event.id;
            tellUnlessOwn(event);
          },
          onRetry(ms) {
            retry = ms;
          },
        });
        const decoder = new TextDecoder();
        for await (const chunk of response.body) {
          parser.feed(decoder.decode(chunk, { stream: true }));
        }
      } catch (error) {
        console.error(`error ${error} ${error.cause ?? ""}`);
      }
      await sleep(retry);
    }
  },
};

// A client that has nothing to wait for would let Node end.
setInterval(() => {}, 1_000_000);
await clients[client]();
