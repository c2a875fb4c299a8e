// Making and finding elements. Text goes in as text: nothing here, or anywhere on the page, reads HTML out of a string.

export const byId = (id) => document.getElementById(id);

/** An element with attributes and children; `null` children are left out, strings become text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (attribute.startsWith("on")) made.addEventListener(attribute.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(attribute, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function show(node, visible) {
  node.hidden = !visible;
}

/** Shows `text` in `node`, or hides it when there is none. */
export function tell(node, text) {
  node.textContent = text ?? "";
  node.hidden = !text;
}

/** A block of code with a button that copies it. */
export function code(text, label) {
  const pre = element("pre", { tabindex: 0, role: "group", "aria-label": label }, text);
  return element("div", { class: "code" }, copyButton(() => pre.textContent), pre);
}

export function copyButton(text, label = "Copy") {
  const button = element("button", { type: "button", class: "quiet" }, label);
  makeCopy(button, text);
  return button;
}

/** Makes `button` copy what `text()` gives. */
export function makeCopy(button, text) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    button.textContent = (await copy(text())) ? "Copied" : "Not copied";
    setTimeout(() => (button.textContent = label), 1500);
  });
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Over plain HTTP from another machine there is no clipboard object; the old way still works.
    const area = element("textarea", { class: "unseen" });
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}

const wholeNumber = new Intl.NumberFormat("en");
const fraction = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export const number = (value) => wholeNumber.format(value);

/** A number of events a second. */
export const rate = (value) => (value > 0 && value < 10 ? fraction.format(value) : wholeNumber.format(Math.round(value)));

export const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;

export function bytes(count) {
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${fraction.format(count)} ${units[unit]}`;
}

const UNITS = [["day", "d", 86400], ["hour", "h", 3600], ["minute", "min", 60], ["second", "s", 1]];

const unitOf = (seconds) => UNITS.find(([, , length]) => seconds >= length) ?? UNITS.at(-1);

export function span(seconds) {
  const [unit, , length] = unitOf(seconds);
  return plural(Math.max(0, Math.floor(seconds / length)), unit, `${unit}s`);
}

/** The same in a few characters, for tables. */
export function shortSpan(seconds) {
  const [, unit, length] = unitOf(seconds);
  return `${number(Math.max(0, Math.floor(seconds / length)))} ${unit}`;
}

const pad = (value, digits = 2) => String(value).padStart(digits, "0");

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** The time of day, local or in UTC; of another day its date too, and of another year that alone. None is longer than 12 characters. */
export function clock(time, isUtc = false) {
  const shift = (date) => new Date(date.getTime() - (isUtc ? 0 : date.getTimezoneOffset() * 60_000));
  const [at, now] = [shift(time), shift(new Date())];
  const minute = `${pad(at.getUTCHours())}:${pad(at.getUTCMinutes())}`;
  const day = (date) => date.toISOString().slice(0, 10);
  if (day(at) === day(now)) return `${minute}:${pad(at.getUTCSeconds())}.${pad(at.getUTCMilliseconds(), 3)}`;
  if (at.getUTCFullYear() === now.getUTCFullYear()) return `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]} ${minute}`;
  return day(at);
}
