// The form that asks for a token, and what the one who is there may do.

import { byId, element, show, tell } from "./dom.js";
import { address } from "./hub.js";
import { offerSignIn, signIn, signOut } from "./session.js";

/** Asks for a token. `reason` says why one was refused, if one was; `mayStay` whether everybody may do something. */
export async function askToken(reason, mayStay) {
  show(byId("who"), false);
  show(byId("sign-in"), true);
  tell(byId("sign-in-problem"), reason && sentence(reason));
  show(byId("stay-out"), mayStay);
  document.title = "Sign in · segno";
  byId("token").focus();
  if (reason === null) return;
  // Whose token is refused can perhaps go on without one. Asked without the session, which is not to hear of a refusal.
  const answer = await fetch(address("whoami")).catch(() => null);
  if (answer?.ok) show(byId("stay-out"), true);
}

/** The hub does not answer, and is asked again. */
export function tellAway() {
  if (!byId("sign-in").hidden) tell(byId("sign-in-problem"), "The hub does not answer. Trying again.");
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

/** Shows who is there. Where everybody may do everything there is nothing to show. */
export function showCaller(caller) {
  const { name, open, publish, follow, erase, operate, expires_at } = caller;
  show(byId("sign-in"), false);
  byId("token").value = "";
  const who = byId("who");
  show(who, !open);
  who.open = false;
  byId("who-name").textContent = name ?? "Not signed in";
  const fact = (label, value) => [element("dt", {}, label), element("dd", {}, value)];
  const topics = (patterns) => (patterns.length > 0 ? patterns.join(", ") : "nothing");
  byId("who-may").replaceChildren(
    ...fact("Publish", topics(publish)),
    ...fact("Follow", topics(follow)),
    ...fact("Erase", topics(erase)),
    ...fact("Operate", operate ? "yes" : "no"),
    ...(expires_at ? fact("Until", new Date(expires_at).toLocaleString()) : []),
  );
  byId("sign-out").textContent = name === null ? "Sign in" : "Sign out";
  byId("sign-out").onclick = () => (name === null ? offerSignIn() : signOut());
  byId("nothing-allowed").replaceChildren(
    element("h2", {}, "Nothing to see here"),
    element("p", {}, `${name === null ? "Who shows no token" : `'${name}'`} may neither follow nor publish events of this hub. Whoever runs it can allow that in its access file.`),
  );
}

byId("sign-in-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  tell(byId("sign-in-problem"), null);
  const given = byId("token").value.trim();
  if (/^[\x21-\x7e]+$/.test(given)) signIn(given);
  else tell(byId("sign-in-problem"), "A token is one line of letters, digits and signs, without white space in it.");
});

byId("stay-out").addEventListener("click", () => signOut());

// A click elsewhere closes it, and so does the escape key.
addEventListener("click", ({ target }) => {
  if (!byId("who").contains(target)) byId("who").open = false;
});
addEventListener("keydown", ({ key }) => {
  if (key === "Escape") byId("who").open = false;
});
