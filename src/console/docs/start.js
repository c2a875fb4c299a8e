// Swagger UI over the hub's own document, in the colours that the console was left in.
const root = location.pathname.replace(/docs\/?$/, "");
document.getElementById("back").href = root;

const dark = matchMedia("(prefers-color-scheme: dark)");
const showTheme = () => {
  document.documentElement.dataset.theme = localStorage.getItem("segno.theme") ?? (dark.matches ? "dark" : "light");
};
dark.addEventListener("change", showTheme);
addEventListener("storage", showTheme);
showTheme();

const ui = SwaggerUIBundle({
  dom_id: "#ui",
  url: `${root}openapi.json`,
  validatorUrl: null,
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  // What deletes for good is not opened by accident. A link to one of its operations opens it.
  onComplete: () => location.hash.startsWith("#/Erase") || ui.layoutActions.show(["operations-tag", "Erase"], false),
});
