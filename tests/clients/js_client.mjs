// What clients/js does, asked by a test: `node js_client.mjs <what> <url> …`.

const { Segno, Refused, GaveUp, LogChanged, fileStore } = await import(process.env.SEGNO_JS);
const [what, url, ...rest] = process.argv.slice(2);
const hub = new Segno(url);
const print = (...values) => console.log(...values.map((value) => JSON.stringify(value)));

const asked = {
  /** Starts before the hub does. */
  async publish() {
    print(await hub.publish("first"));
    const options = { topic: "t", type: "paid", key: "k" };
    print(await hub.publish({ n: 1 }, options), await hub.publish({ n: 1 }, options));
  },

  async publishTicks() {
    const [count] = rest.map(Number);
    const ticks = Array.from({ length: count }, (_, n) => ({ topic: "ticks", type: "tick", data: n }));
    const stored = await hub.publishMany(ticks, { batchEvents: 200 });
    print(stored.length);
  },

  async followTicks() {
    const [count] = rest.map(Number);
    let next = 0;
    for await (const { data } of hub.follow({ topic: "ticks", since: "start" })) {
      if (data !== next) throw new Error(`${data} came where ${next} should`);
      next += 1;
      if (next === count) break;
    }
    print(next);
  },

  async refuse() {
    const told = async (asking) => {
      try {
        await asking;
        print("not refused");
      } catch (error) {
        print([error instanceof Refused, error instanceof GaveUp, error.status, error.code]);
      }
    };
    await told(hub.publish("x", { topic: "a b" }));
    await told(hub.event(99));
    await told(hub.follow({ topic: "a b" }).next());
    await told(new Segno("http://127.0.0.1:1").publish("x", { retryForMs: 200 }));
  },

  async look() {
    const ids = async (options) => {
      const found = [];
      for await (const event of hub.history(options)) found.push(event.id);
      return found;
    };
    print(await ids({ pageEvents: 2 }), await ids({ topic: ["a", "b*"], order: "desc", pageEvents: 1 }));
    print((await hub.event(1)).data);
  },

  /** Takes N events and remembers where it is. */
  async remember() {
    const [path, count] = rest;
    const gaps = [];
    const got = [];
    const options = { since: "start", store: fileStore(path), onGap: (gap) => gaps.push(gap.reason) };
    try {
      for await (const event of hub.follow(options)) {
        got.push(event.data);
        if (got.length === Number(count)) break;
      }
      print(got, gaps);
    } catch (error) {
      print(error instanceof LogChanged, error.message.includes("remove it"));
    }
  },

  /** What the callbacks hear until the event `end`. */
  async callbacks() {
    const options = {
      after: 1,
      onGap: (gap) => print("gap", gap.reason),
      onRefused: (problem) => print("refused", problem.code),
      onErased: (event) => print("erased", event.data.id),
    };
    for await (const { data } of hub.follow(options)) {
      print(data);
      if (data === "end") break;
    }
  },

  /** Follows with a token, which is taken away. */
  async expire() {
    const reader = new Segno(url, { token: async () => process.env.TOKEN });
    try {
      for await (const { data } of reader.follow({ since: "start", onExpired: ({ reason }) => print("expired", reason) })) print(data);
    } catch (error) {
      print(error instanceof Refused, error.status, error.code);
    }
  },

  /** What is left, and what is told of the rest. */
  async lookAtWhatIsLeft() {
    const found = [];
    for await (const event of hub.history({ after: 1, onGap: (gap) => found.push(gap.reason) })) found.push(event.id);
    print(found);
  },

  async gap() {
    const gaps = [];
    for await (const { data } of hub.follow({ after: 900, onGap: (gap) => gaps.push(gap) })) {
      print(...gaps, data);
      break;
    }
  },

  async handle() {
    const got = [];
    const { done } = hub.followWith((event) => got.push(event.data) < 2, { since: "start" });
    await done;
    const { done: stopped, stop } = hub.followWith(() => {});
    setTimeout(stop, 100);
    await stopped;
    print(got);
  },
};

await asked[what]();
