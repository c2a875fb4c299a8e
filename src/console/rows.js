// Events as rows that open.

import { clock, copyButton, element, number } from "./dom.js";
import { address, queryOf } from "./hub.js";
import { preview, whole } from "./json.js";

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
      element("a", { href: address(`events/${event.id}`) }, "As JSON"),
    ),
  );
}

/** What was lost, in a sentence. */
export function gapText(gap) {
  const goesOn = gap.first_id > gap.last_id ? "Going on with the next event." : `Going on from event ${number(gap.first_id)}.`;
  if (gap.reason === "trimmed") {
    const lost = gap.requested + 1 === gap.first_id - 1 ? `Event ${number(gap.first_id - 1)} is` : `Events ${number(gap.requested + 1)} to ${number(gap.first_id - 1)} are`;
    return `Gap: ${lost} no longer kept. ${goesOn}`;
  }
  return `Gap: asked to go on after event ${number(gap.requested)}, but the hub's newest is ${number(gap.last_id)}: its file is another one, or an older one. ${goesOn}`;
}

export const gapRow = (gap) => element("li", { class: "row gap" }, gapText(gap));
