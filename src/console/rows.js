// Events as rows that open.

import { shownTime, search } from "./columns.js";
import { copyButton, element, number } from "./dom.js";
import { address, ask, queryOf } from "./hub.js";
import { preview, whole } from "./json.js";
import { publishAgain } from "./again.js";
import { isSignedIn, makeTicketed, mayErase, mayPublish } from "./session.js";

/** Events that are known to be erased. What came before is still in the memory of the page. */
const erased = new Set();

const erasedRow = (id) => element("li", { class: "row erased", "data-id": id }, `Event ${number(id)} was erased.`);

/** Shows nothing of an event any more. */
export function showErased(id) {
  erased.add(id);
  for (const row of document.querySelectorAll(`.row[data-id="${id}"]`)) row.replaceWith(erasedRow(id));
}

/** A row. What is inside is made when it is opened. */
export function eventRow(event, { open = false } = {}) {
  if (erased.has(event.id)) return erasedRow(event.id);
  const time = new Date(event.created_at);
  const summary = element(
    "summary",
    { class: "cells" },
    element("span", { class: "chevron", "aria-hidden": "true" }),
    element("span", { class: "id" }, String(event.id)),
    element("time", { datetime: event.created_at, title: event.created_at }, shownTime(time)),
    element("span", { class: "topic", title: event.topic }, event.topic),
    element("span", { class: event.type === "message" ? "type default" : "type", title: event.type }, event.type),
    element("span", { class: "data" }, preview(event.data)),
  );
  const details = element("details", {}, summary);
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(inside(event));
  });
  details.open = open;
  const row = element("li", { class: "row", "data-id": event.id }, details);
  row.data = event.data;
  search(row);
  return row;
}

/** A link to the event alone; who needs a ticket gets it as a page of history, which takes one. */
function linkToJson({ id }) {
  const alone = [["after", id - 1], ["before", id + 1]];
  const link = element("a", { href: isSignedIn() ? address("events", alone) : address(`events/${id}`) }, "As JSON");
  makeTicketed(link);
  return link;
}

/** What follows events of this name alone. */
const only = (name, value) => element("a", { href: `#/live?${queryOf([[name, value]])}`, title: `Follow this ${name} only` }, value);

/** Erases an event, after the person was asked. */
function eraser({ id }) {
  const place = element("span", { class: "erase" });
  const button = (label, act, more = "") => element("button", { type: "button", class: `quiet ${more}`, onclick: act }, label);
  const offer = () => place.replaceChildren(button("Erase …", confirm, "danger"));
  const confirm = () => {
    const no = button("Cancel", offer);
    place.replaceChildren(element("span", { role: "alert" }, `Erase event ${number(id)} for good? Every subscriber is told. `), button("Erase", erase, "danger"), no);
    no.focus();
  };
  const erase = async () => {
    try {
      await ask(`events/${id}`, [], { method: "DELETE" });
      showErased(id);
    } catch (error) {
      place.replaceChildren(element("span", { class: "problem", role: "alert" }, `Not erased: ${error.message}. `), button("Try again", erase));
    }
  };
  offer();
  return place;
}

function inside(event) {
  const fact = (name, value) => [element("dt", {}, name), element("dd", {}, value)];
  return element(
    "div",
    { class: "opened" },
    element("dl", {}, ...fact("Topic", only("topic", event.topic)), ...fact("Type", only("type", event.type)), ...fact("Committed", event.created_at), ...(event.key ? fact("Key", event.key) : [])),
    whole(event.data),
    element(
      "p",
      { class: "links" },
      copyButton(() => event.data, "Copy data"),
      mayPublish(event.topic) ? element("button", { type: "button", class: "quiet", onclick: () => publishAgain(event) }, "Publish again") : null,
      element("a", { href: `#/live?${queryOf([["after", event.id]])}` }, "Follow from here"),
      element("a", { href: `#/history?${queryOf([["id", event.id]])}` }, "In the history"),
      linkToJson(event),
      mayErase(event.topic) ? eraser(event) : null,
    ),
  );
}

/** What was lost, in a sentence. */
export function gapText({ reason, requested, first_id, last_id }) {
  const goesOn = first_id > last_id ? "Going on with the next event." : `Going on from event ${number(first_id)}.`;
  if (reason === "lost") return `Gap: the hub's file was replaced by an older copy, and events after ${number(requested)} are lost. Going on with the events there are.`;
  if (reason === "unknown") return `Gap: the cursor is not one of this hub's. ${goesOn}`;
  if (reason === "ahead") {
    return `Gap: asked to go on after event ${number(requested)}, but the hub's newest is ${number(last_id)}: its file is another one, or an older one. ${goesOn}`;
  }
  // Where the rule of one topic took them, older events of others may still be there.
  if (first_id <= requested + 1) return `Gap: some events after ${number(requested)} are no longer kept. Going on with those that are.`;
  const lost = requested + 1 === first_id - 1 ? `Event ${number(first_id - 1)} is` : `Events ${number(requested + 1)} to ${number(first_id - 1)} are`;
  return `Gap: ${lost} no longer kept. ${goesOn}`;
}

export const gapRow = (gap) => element("li", { class: "row gap" }, gapText(gap));
