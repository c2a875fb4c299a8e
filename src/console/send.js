// Sending an event, three ways; the answer as it came; the same request for a terminal.

import { byId, makeCopy, plural, show } from "./dom.js";
import { address, request } from "./hub.js";
import { onPublishAgain } from "./again.js";
import { arrival, following, isFollowing } from "./live.js";
import { covers } from "./session.js";

/** How long an event may take to come back before the page says that it did not. */
const COME_BACK_MS = 10_000;

const buttons = ["publish", "send-sse", "send-rest"].map(byId);
let path = "events";
let sending = 0;
/** Who sends, as the hub tells. */
let sender = null;

/** Offers what `caller` may do. */
export function showSender(caller) {
  sender = caller;
  const isBounded = !covers(caller.publish, "any");
  byId("send-may").textContent = isBounded ? `You may publish on ${caller.publish.join(", ")}.` : "";
  show(byId("send-may"), isBounded);
  const mayMessage = covers(caller.publish, "messages");
  show(byId("send-about"), mayMessage);
  check();
}

/** The data as JSON text, or why it is none. Numbers keep their digits: the text is sent as it was typed. */
function data() {
  const text = byId("send-data").value;
  if (byId("send-plain").checked) return { json: JSON.stringify(text) };
  try {
    JSON.parse(text);
    return { json: text.trim() };
  } catch (error) {
    return { problem: explain(text, error) };
  }
}

function explain(text, error) {
  if (text.trim() === "") return "There is no data yet; null, \"text\", 1 or {} would do.";
  const at = / at position (\d+)/.exec(error.message);
  const what = error.message.replace(/ in JSON at position.*| at position.*|JSON\.parse: /, "").replace(/, "[\s\S]*" is not valid JSON$/, "");
  if (!at) return `Not JSON: ${what}`;
  const before = text.slice(0, Number(at[1])).split("\n");
  return `Not JSON, line ${before.length}, column ${before.at(-1).length + 1}: ${what}`;
}

function bodyFor(target, json) {
  if (target !== "events") return `{"message": ${json}}`;
  const topic = JSON.stringify(byId("send-topic").value.trim());
  const type = JSON.stringify(byId("send-type").value.trim() || "message");
  return `{"topic": ${topic}, "type": ${type}, "data": ${json}}`;
}

/** What is sent has this topic and this type. */
function namesFor(target) {
  if (target !== "events") return { topic: "messages", type: "message" };
  return { topic: byId("send-topic").value.trim() || "events", type: byId("send-type").value.trim() || "message" };
}

/** Why the live view does not show what is sent; null if it does. */
function whyHidden() {
  if (!isFollowing()) return null;
  const { filter, isPaused } = following();
  const { topic, type } = namesFor(path);
  const takes = (patterns, name) => patterns.length === 0 || covers(patterns, name);
  if (!takes(filter.topics, topic) || !takes(filter.types, type)) return `The live view will not show it: its filter takes ${filter.describe()} only.`;
  return isPaused ? "The live view will show it when it goes on: it is paused." : null;
}

/** Brings what hangs on the live view up to date. */
export const showForm = () => check();

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** Checks what is typed, and brings the command up to date. */
function check() {
  const { json, problem } = data();
  const note = byId("send-check");
  const isText = byId("send-plain").checked;
  note.textContent = problem ?? (isText ? "It is stored as a JSON string." : `Valid JSON, ${plural(new TextEncoder().encode(json).length, "byte", "bytes")}.`);
  note.classList.toggle("bad", problem !== undefined);
  byId("send-data").setAttribute("aria-invalid", problem !== undefined);
  for (const button of buttons) button.disabled = problem !== undefined;
  byId("send-names").classList.toggle("unused", path !== "events");
  // Its room is always there: a button that moves when one aims at it is missed.
  byId("send-hidden").textContent = whyHidden() ?? "";
  byId("send-curl").textContent =
    problem === undefined
      ? `curl ${address(path)} \\\n${sender?.name ? '  -H "Authorization: Bearer $SEGNO_TOKEN" \\\n' : ""}  -H 'Content-Type: application/json' \\\n  -d ${quoted(bodyFor(path, json))}`
      : "The command appears when the data is JSON.";
}

async function send(target) {
  path = target;
  check();
  const { json, problem } = data();
  if (problem) return;
  const turn = (sending += 1);
  const begin = performance.now();
  let status;
  let text;
  let ok = false;
  try {
    const answer = await request(target, [], { method: "POST", headers: { "Content-Type": "application/json" }, body: bodyFor(target, json) });
    text = await answer.text();
    ok = answer.ok;
    status = `${answer.status} ${answer.statusText}`.trim();
  } catch (error) {
    status = "No answer";
    text = String(error.message ?? error);
  }
  if (turn !== sending) return;
  const took = performance.now() - begin;
  show(byId("answer-none"), false);
  show(byId("answer"), true);
  byId("answer").classList.toggle("bad", !ok);
  byId("answer-status").textContent = status;
  byId("answer-time").textContent = `POST /${target}, ${took.toFixed(1)} ms`;
  byId("answer-body").textContent = text.trimEnd();
  await tellArrival(ok ? JSON.parse(text).id : null, begin, turn);
}

async function tellArrival(id, begin, turn) {
  const note = byId("answer-back");
  note.textContent = id === null ? "Nothing was stored." : "Waiting for it to come back on the stream …";
  if (id === null) return;
  if (!isFollowing()) {
    note.textContent = `Event ${id} is stored.`;
    return;
  }
  const hidden = whyHidden();
  if (hidden !== null) {
    note.textContent = `Event ${id} is stored. ${hidden.replace("will not show", "does not show").replace("will show", "shows")}`;
    return;
  }
  let told;
  try {
    await arrival(id, COME_BACK_MS);
    told = `Event ${id} was back on the live stream ${(performance.now() - begin).toFixed(1)} ms after it was sent.`;
  } catch {
    told = `Event ${id} is stored. The live view has not shown it: it is paused, or its filter leaves it out.`;
  }
  if (turn === sending) note.textContent = told;
}

byId("send-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  send("events");
});
for (const id of ["send-sse", "send-rest"]) byId(id).addEventListener("click", () => send(byId(id).dataset.path));
// The command is that of the button at hand.
for (const button of buttons) {
  for (const at of ["focus", "pointerenter"]) {
    button.addEventListener(at, () => {
      path = button.dataset.path;
      check();
    });
  }
}
for (const id of ["send-topic", "send-type"]) {
  byId(id).addEventListener("focus", () => {
    path = "events";
    check();
  });
}
onPublishAgain(({ topic, type, data: json }) => {
  path = "events";
  byId("send-json").checked = true;
  byId("send-topic").value = topic;
  byId("send-type").value = type;
  byId("send-data").value = json;
  check();
});
byId("send-form").addEventListener("input", check);
makeCopy(document.querySelector("[data-copy=send-curl]"), () => byId("send-curl").textContent);
check();
