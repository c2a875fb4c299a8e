// Events as rows that open.

import { clock, copyButton, element, number } from "./dom.js";
import { address, queryOf } from "./hub.js";
import { preview, whole } from "./json.js";
import { isSignedIn, makeTicketed } from "./session.js";

/** A row. What is inside is made when it is opened. */
export function eventRow(event, { open = false } = {}) {
  const time = new Date(event.created_at);
  const summary = element(
    "summary",
    {},
    element("span", { class: "id" }, String(event.id)),
    element("time", { datetime: event.created_at, title: event.created_at }, clock(time)),
    element("span", { class: "topic", title: event.topic }, event.topic),
    element("span", { class: event.type === "message" ? "type default" : "type", title: event.type }, event.type),
    element("span", { class: "data" }, preview(event.data)),
  );
  const details = element("details", {}, summary);
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(inside(event));
  });
  details.open = open;
  return element("li", { class: "row", "data-id": event.id }, details);
}

/** A link to the event alone; who needs a ticket gets it as a page of history, which takes one. */
function linkToJson({ id }) {
  const alone = [["after", id - 1], ["before", id + 1]];
  const link = element("a", { href: isSignedIn() ? address("events", alone) : address(`events/${id}`) }, "As JSON");
  makeTicketed(link);
  return link;
}

function inside(event) {
  const fact = (name, value) => [element("dt", {}, name), element("dd", {}, value)];
  return element(
    "div",
    { class: "opened" },
    element("dl", {}, ...fact("Topic", event.topic), ...fact("Type", event.type), ...fact("Committed", event.created_at), ...(event.key ? fact("Key", event.key) : [])),
    whole(event.data),
    element(
      "p",
      { class: "links" },
      copyButton(() => event.data, "Copy data"),
      element("a", { href: `#/live?${queryOf([["topic", event.topic]])}` }, "Only this topic"),
      element("a", { href: `#/live?${queryOf([["after", event.id]])}` }, "Follow from here"),
      element("a", { href: `#/history?${queryOf([["id", event.id]])}` }, "In the history"),
      linkToJson(event),
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
