// JSON shown to people: coloured, folded, and character by character what was published.

import { element, plural } from "./dom.js";

/** Above this, data is shown as plain text. */
const TREE_MAX_TOKENS = 4000;
const TREE_MAX_DEPTH = 48;

/** Above this, all but the outermost level is folded at first. */
const OPEN_MAX_TOKENS = 300;

const PREVIEW_MAX_CHARS = 260;
const PLAIN_MAX_CHARS = 200_000;

/** Cuts JSON into tokens. A text that ends in the middle of one, such as a preview, ends with that part. */
function* tokens(text) {
  let at = 0;
  while (at < text.length) {
    const first = text[at];
    let end = at + 1;
    let kind = "mark";
    if (first === '"') {
      end = endOfString(text, at);
      kind = "string";
    } else if (first === " " || first === "\t" || first === "\n" || first === "\r") {
      at += 1;
      continue;
    } else if (!"{}[],:".includes(first)) {
      while (end < text.length && !'{}[],:" \t\n\r'.includes(text[end])) end += 1;
      kind = first === "-" || (first >= "0" && first <= "9") ? "number" : "word";
    }
    yield { kind, text: text.slice(at, end) };
    at = end;
  }
}

function endOfString(text, start) {
  for (let at = start + 1; at < text.length; at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === '"') return at + 1;
  }
  return text.length;
}

const shown = (token, isKey) => element("span", { class: isKey ? "key" : token.kind }, token.text);

/** One line of it, coloured. */
export function preview(text) {
  const line = element("span", { class: "json" });
  const cut = [...tokens(text.slice(0, PREVIEW_MAX_CHARS))];
  cut.forEach((token, index) => {
    if (token.kind === "mark") line.append(token.text === "," || token.text === ":" ? `${token.text} ` : token.text);
    else line.append(shown(token, cut[index + 1]?.text === ":"));
  });
  if (text.length > PREVIEW_MAX_CHARS) line.append("…");
  return line;
}

/** All of it: as a tree with folds, or as plain text where it is too large for that. */
export function whole(text) {
  return tree(text) ?? plain(text);
}

function plain(text) {
  const pre = element("pre", { class: "json flat", tabindex: 0, role: "group", "aria-label": "Data" }, text.slice(0, PLAIN_MAX_CHARS));
  if (text.length > PLAIN_MAX_CHARS) pre.append(element("em", {}, ` … ${plural(text.length - PLAIN_MAX_CHARS, "character", "characters")} more`));
  return pre;
}

function tree(text) {
  const all = [];
  let depth = 0;
  for (const token of tokens(text)) {
    if (token.text === "{" || token.text === "[") depth += 1;
    if (token.text === "}" || token.text === "]") depth -= 1;
    if (all.push(token) > TREE_MAX_TOKENS || depth > TREE_MAX_DEPTH) return null;
  }
  const root = element("div", { class: "json tree" });
  const open = [{ into: root, items: 0 }];
  let line = root.appendChild(element("div"));
  all.forEach((token, index) => {
    const level = open.at(-1);
    if (token.kind !== "mark") {
      const isKey = all[index + 1]?.text === ":";
      if (!isKey) level.items += 1;
      line.append(shown(token, isKey));
    } else if (token.text === ":") {
      line.append(": ");
    } else if (token.text === ",") {
      line.append(",");
      line = level.into.appendChild(element("div"));
    } else if (token.text === "{" || token.text === "[") {
      level.items += 1;
      const next = all[index + 1]?.text;
      if (next === "}" || next === "]") {
        line.append(token.text);
        open.push({ empty: true });
        return;
      }
      const isOpen = open.length === 1 || all.length <= OPEN_MAX_TOKENS;
      const count = element("span", { class: "count" });
      const summary = element("summary", {}, ...line.childNodes, token.text, count);
      const into = element("div", { class: "inside" });
      const fold = element("details", { open: isOpen }, summary, into);
      line.replaceChildren(fold);
      open.push({ into, items: 0, count, after: line, of: token.text });
      line = into.appendChild(element("div"));
    } else {
      const closed = open.pop();
      if (closed.empty) {
        line.append(token.text);
        return;
      }
      closed.count.textContent = closed.of === "{" ? plural(closed.items, " key", " keys") : plural(closed.items, " item", " items");
      line = closed.after;
      line.append(element("span", { class: "end" }, token.text));
    }
  });
  return root;
}
