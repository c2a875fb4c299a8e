// How rows of events are shown: which columns, which clock, and which of them the person searches for.

import { byId, clock, element, show } from "./dom.js";

const KEPT_AS = "segno.columns";
const COLUMNS = [["id", "Id"], ["time", "Time"], ["topic", "Topic"], ["type", "Type"], ["data", "Data"]];

let choice = { hidden: [], utc: false, ...read() };
let wanted = "";

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEPT_AS)) ?? {};
  } catch {
    return {};
  }
}

/** A time as the person wants to read it. */
export const shownTime = (time) => clock(time, choice.utc);

/** Hides a row that the person does not search for. `row.data` is the JSON of its event. */
export function search(row) {
  row.hidden = wanted !== "" && !(row.data ?? "").toLowerCase().includes(wanted);
}

export const isSearching = () => wanted !== "";

/** The line above the rows, with the menu that chooses what is in them. */
function heading(container) {
  const labels = COLUMNS.map(([name, label]) => element("span", { class: name }, name === "time" ? element("span", { "data-clock": true }) : label));
  const boxes = COLUMNS.map(([name, label]) => {
    const box = element("input", { type: "checkbox", "data-column": name, onchange: () => choose(name, box.checked) });
    return element("label", {}, box, label);
  });
  const utc = element("input", { type: "checkbox", "data-utc": true, onchange: () => keep({ utc: utc.checked }) });
  const menu = element("details", { class: "menu" }, element("summary", {}, "Columns"), element("div", {}, ...boxes, element("hr"), element("label", {}, utc, "Times in UTC")));
  container.append(element("span", { class: "cells", "aria-hidden": "true" }, element("span", { class: "chevron" }), ...labels), menu);
}

function choose(name, visible) {
  keep({ hidden: visible ? choice.hidden.filter((other) => other !== name) : [...choice.hidden, name] });
}

function keep(change) {
  choice = { ...choice, ...change };
  localStorage.setItem(KEPT_AS, JSON.stringify(choice));
  draw();
}

function draw() {
  for (const [name] of COLUMNS) document.documentElement.classList.toggle(`without-${name}`, choice.hidden.includes(name));
  for (const box of document.querySelectorAll("[data-column]")) box.checked = !choice.hidden.includes(box.dataset.column);
  for (const box of document.querySelectorAll("[data-utc]")) box.checked = choice.utc;
  for (const label of document.querySelectorAll("[data-clock]")) label.textContent = choice.utc ? "Time (UTC)" : "Time (local)";
  for (const time of document.querySelectorAll(".row summary time")) time.textContent = shownTime(new Date(time.dateTime));
}

/** Wires a list of rows with its field for what is searched. */
function wire(view) {
  const rows = byId(`${view}-rows`);
  const field = byId(`${view}-search`);
  heading(byId(`${view}-columns`));
  const apply = () => {
    wanted = field.value.trim().toLowerCase();
    for (const other of document.querySelectorAll("[data-search]")) if (other !== field) other.value = field.value;
    for (const row of document.querySelectorAll(".row[data-id]")) search(row);
    tellNone(view);
  };
  field.addEventListener("input", apply);
  new MutationObserver(() => wanted !== "" && tellNone(view)).observe(rows, { childList: true });
}

/** Says so where rows are there, and none is what is searched. */
function tellNone(view) {
  const rows = byId(`${view}-rows`);
  const isNone = wanted !== "" && rows.childElementCount > 0 && rows.querySelector(":scope > li:not([hidden])") === null;
  byId(`${view}-none`).textContent = isNone ? `None of the ${rows.childElementCount} events here has “${byId(`${view}-search`).value.trim()}” in its data.` : "";
  show(byId(`${view}-none`), isNone);
}

for (const view of ["live", "history"]) wire(view);
draw();
// A click elsewhere closes a menu, and so does the escape key.
addEventListener("click", ({ target }) => {
  for (const menu of document.querySelectorAll(".menu[open]")) if (!menu.contains(target)) menu.open = false;
});
addEventListener("keydown", ({ key }) => {
  if (key === "Escape") for (const menu of document.querySelectorAll(".menu[open]")) menu.open = false;
});
