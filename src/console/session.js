// Who is at the page: the token of this tab, what it may do, and tickets for links, which can send no header.

import { ask, askJson, onRefusal, showToken } from "./hub.js";

/** Where the tab keeps its token; closing the tab forgets it. */
const KEPT_AS = "segno.token";

/** Wait before the page asks a hub that does not answer again who is there. */
const RETRY_MS = 2000;

/** A ticket is good for an hour. It is not used any more when less than this part of its life is left. */
const TICKET_REST = 0.1;

/** Least time between two questions about rights, where refusals come in numbers. */
const RENEW_MS = 2000;

/** What the hub says of the caller: `{name, open, publish, follow, erase, operate, expires_at}`. */
let caller = null;
let token = null;
let ticket = null;
let renewed = -Infinity;
let listener = {};

/** Where the page shows a token, and so must take a ticket for a link. */
export const isSignedIn = () => token !== null && caller?.open === false;

/**
 * Finds out who is there, with the token that the tab has kept. `listener` hears by
 * - `onCaller(caller)` of a caller who is let in, and again when its rights have changed;
 * - `onRefused(reason)` why nobody is: null where a credential is needed, or wanted by the person, and none was shown yet;
 * - `onGone()` that the caller has left, and another may come;
 * - `onAway()` that the hub does not answer; it is asked again.
 */
export async function begin(newListener) {
  listener = newListener;
  onRefusal(refused);
  await enter(sessionStorage.getItem(KEPT_AS));
}

/** Enters with `given`, or as who shows nothing if it is null. Waits for a hub that is away. */
async function enter(given) {
  leave();
  token = given;
  showToken(given);
  for (;;) {
    try {
      caller = await askJson("whoami");
      break;
    } catch (error) {
      if (token !== given || error.status === 401) return; // `refused` has heard of it.
      listener.onAway();
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      if (token !== given) return;
    }
  }
  if (given !== null) sessionStorage.setItem(KEPT_AS, given);
  listener.onCaller(caller);
}

export const signIn = (given) => enter(given);

/** Goes on as who shows nothing. */
export function signOut() {
  sessionStorage.removeItem(KEPT_AS);
  return enter(null);
}

/** Lets who shows nothing and may do something show a token. */
export function offerSignIn() {
  leave();
  listener.onRefused(null, true);
}

function leave() {
  if (caller !== null) listener.onGone();
  caller = null;
  ticket = null;
}

/** The hub has refused something that was asked with `shown`. */
function refused(refusal, shown) {
  if (shown !== token) return; // Of a caller who has left.
  if (refusal.status === 401) {
    sessionStorage.removeItem(KEPT_AS);
    token = null;
    showToken(null);
    leave();
    listener.onRefused(refusal.code === "credential_missing" ? null : refusal.message);
  } else if (refusal.code === "not_allowed") {
    // What the page shows may be out of date.
    if (performance.now() - renewed > RENEW_MS) renew().catch(() => {});
  }
}

/** Asks again what the caller may do, and takes no ticket from before. */
export async function renew() {
  ticket = null;
  if (caller === null) return;
  renewed = performance.now();
  const shown = token;
  const told = await askJson("whoami");
  if (shown !== token || JSON.stringify(told) === JSON.stringify(caller)) return;
  caller = told;
  listener.onCaller(caller);
}

/** Whether there is a ticket that is good for a while. */
const hasTicket = () => ticket !== null && Date.now() <= ticket.until;

/** A ticket that reads all that the caller may, as a list of query parameters; empty where none is needed. */
async function ticketParameters() {
  if (!isSignedIn()) return [];
  if (!hasTicket()) {
    const asked = Date.now();
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: '{"follow":["**"]}' };
    const answer = await ask("tickets", [], options);
    const made = await answer.json();
    // By the hub's own clock: how long it is good, whatever this machine thinks that the time is.
    const life = Date.parse(made.expires_at) - Date.parse(answer.headers.get("date") ?? new Date(asked).toUTCString());
    ticket = { text: made.ticket, until: asked + (1 - TICKET_REST) * life };
  }
  return [["ticket", ticket.text]];
}

/** Makes a link to the hub go with a ticket, which is taken when it is used, in whatever way a link is used. */
export function makeTicketed(anchor) {
  const withTicket = ([name, text]) => {
    const url = new URL(anchor.href);
    url.searchParams.set(name, text);
    return url.href;
  };
  const open = async (click) => {
    const isMenu = click.button > 1;
    if (!isSignedIn() || isMenu) return;
    click.preventDefault();
    const isAside = click.button === 1 || click.ctrlKey || click.metaKey || click.shiftKey;
    const link = anchor.cloneNode();
    try {
      const [parameter] = await ticketParameters();
      link.href = withTicket(parameter);
      link.removeAttribute("id");
      if (isAside) Object.assign(link, { target: "_blank", rel: "noreferrer" });
      link.click();
    } catch {
      // Refusals are told by `refused`; where the hub is away, the state of the stream says so.
    }
  };
  anchor.addEventListener("click", open);
  anchor.addEventListener("auxclick", open);
  // What the menu of the browser opens, it reads now.
  anchor.addEventListener("contextmenu", () => {
    if (!isSignedIn() || !hasTicket()) return;
    const plain = anchor.href;
    anchor.href = withTicket(["ticket", ticket.text]);
    setTimeout(() => (anchor.href = plain));
  });
  const prepare = () => isSignedIn() && ticketParameters().catch(() => {});
  anchor.addEventListener("pointerenter", prepare);
  anchor.addEventListener("focus", prepare);
}

/** Whether the caller may erase events of `topic`. */
export const mayErase = (topic) => caller !== null && covers(caller.erase, topic);

/** Whether the caller may publish on `topic`. */
export const mayPublish = (topic) => caller !== null && covers(caller.publish, topic);

/** Whether one of the topics and patterns stands for `topic`. */
export function covers(patterns, topic) {
  return patterns.some((pattern) => {
    const literal = (text) => text.replace(/[.+?^${}()|[\]\\/]/g, "\\$&");
    const parts = pattern.split(/(\*+)/).map((part) => (part === "*" ? "[^./]*" : part.startsWith("*") ? "[^]*" : literal(part)));
    return new RegExp(`^${parts.join("")}$`, "u").test(topic);
  });
}
