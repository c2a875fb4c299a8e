// Which events the page shows: topics and types, each a list of names or patterns, empty for all.

import { byId, element, show } from "./dom.js";
import { queryOf } from "./hub.js";

export class Filter {
  constructor(topics = [], types = []) {
    this.topics = topics;
    this.types = types;
  }

  static from(parameters) {
    return new Filter(parameters.getAll("topic"), parameters.getAll("type"));
  }

  /** As query parameters of the hub. */
  parameters() {
    return [...this.topics.map((topic) => ["topic", topic]), ...this.types.map((type) => ["type", type])];
  }

  isEmpty() {
    return this.topics.length + this.types.length === 0;
  }

  equals(other) {
    return queryOf(this.parameters()) === queryOf(other.parameters());
  }

  describe() {
    const parts = [];
    if (this.topics.length > 0) parts.push(`topic ${this.topics.join(" or ")}`);
    if (this.types.length > 0) parts.push(`type ${this.types.join(" or ")}`);
    return parts.join(", and ") || "every event";
  }
}

/** The filter on screen. `onChange` is called with a new one when the person changed it. */
export class FilterBar {
  constructor(onChange) {
    this.filter = new Filter();
    this.onChange = onChange;
    this.wire("topic", "topics");
    this.wire("type", "types");
    byId("filter-clear").addEventListener("click", () => onChange(new Filter()));
  }

  wire(name, list) {
    const input = byId(`${name}-input`);
    const add = () => {
      // Names have no white space in them, so it parts several that were pasted together.
      const given = input.value.split(/\s+/).filter((text) => text && !this.filter[list].includes(text));
      input.value = "";
      if (given.length > 0) this.change(list, [...this.filter[list], ...given]);
    };
    input.addEventListener("change", add);
    input.addEventListener("keydown", (key) => {
      if (key.key === "Enter") add();
      if (key.key === "Backspace" && input.value === "" && this.filter[list].length > 0) this.change(list, this.filter[list].slice(0, -1));
    });
  }

  change(list, names) {
    this.onChange(Object.assign(new Filter(this.filter.topics, this.filter.types), { [list]: names }));
  }

  show(filter) {
    this.filter = filter;
    this.showChips("topic", "topics");
    this.showChips("type", "types");
    show(byId("filter-clear"), !filter.isEmpty());
  }

  showChips(name, list) {
    const input = byId(`${name}-input`);
    for (const chip of byId(`${name}-filter`).querySelectorAll(".chip")) chip.remove();
    // What stands in the page is kept at the first look: after that the field may say something else.
    input.dataset.placeholder ??= input.placeholder;
    input.placeholder = this.filter[list].length > 0 ? "or …" : input.dataset.placeholder;
    for (const text of this.filter[list]) {
      const remove = () => {
        this.change(list, this.filter[list].filter((other) => other !== text));
        input.focus();
      };
      const button = element("button", { type: "button", "aria-label": `Remove ${name} ${text}`, onclick: remove }, "×");
      input.before(element("span", { class: "chip", title: text }, element("span", {}, text), button));
    }
  }
}

/** Suggests names, and for each family of topics the pattern that takes it whole. */
export function suggest(listId, names) {
  const patterns = new Set();
  for (const name of names) {
    const end = name.search(/[./]/);
    if (end > 0) patterns.add(`${name.slice(0, end + 1)}**`);
  }
  byId(listId).replaceChildren(...[...names, ...patterns].map((value) => element("option", { value })));
}
