// Light, dark, or as the system has it. The page of the API reads the same note.

import { byId } from "./dom.js";

const KEPT_AS = "segno.theme";
const NEXT = { system: "light", light: "dark", dark: "system" };
const SIGNS = { system: "◐", light: "☀", dark: "☾" };

const button = byId("theme");

const theme = () => {
  const kept = localStorage.getItem(KEPT_AS);
  return kept in NEXT ? kept : "system";
};

function show() {
  const now = theme();
  if (now === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = now;
  button.textContent = SIGNS[now];
  button.title = `Theme: ${now}`;
  button.setAttribute("aria-label", `Theme: ${now}`);
}

button.addEventListener("click", () => {
  const next = NEXT[theme()];
  if (next === "system") localStorage.removeItem(KEPT_AS);
  else localStorage.setItem(KEPT_AS, next);
  show();
});
addEventListener("storage", show);
show();
