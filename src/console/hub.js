// The hub as the page asks it. Paths are relative, so that it also works behind a proxy under a path of its own.

export const HUB = new URL(".", document.baseURI).href.replace(/\/$/, "");

/** The address of `path` with `parameters`, which may be repeated; those without a value are left out. */
export function address(path, parameters = []) {
  const query = queryOf(parameters);
  return `${HUB}/${path}${query ? `?${query}` : ""}`;
}

/** As it stands behind a `?`, with what is harmless there left readable. */
export function queryOf(parameters) {
  const given = parameters.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return new URLSearchParams(given).toString().replaceAll("%2F", "/").replaceAll("%3A", ":").replaceAll("%2C", ",");
}

/** What the hub said when it refused. */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? `the hub answered ${status}`);
    this.status = status;
    this.code = problem?.code;
  }
}

let token = null;
let refusalListener = () => {};

/** Shows `shown` to the hub from now on; nothing if it is null. */
export function showToken(shown) {
  token = shown;
}

/** `listener` hears of each refusal, and which token was shown. */
export function onRefusal(listener) {
  refusalListener = listener;
}

/** Asks, and gives whatever is answered. */
export const request = (path, parameters, options) => fetchAsCaller(address(path, parameters), options);

/** `fetch`, as who is at the page. */
export async function fetchAsCaller(url, { headers = {}, ...options } = {}) {
  const shown = token;
  const credential = shown === null ? {} : { Authorization: `Bearer ${shown}` };
  const answer = await fetch(url, { ...options, headers: { ...headers, ...credential } });
  if (answer.status === 401 || answer.status === 403) refusalListener(await refusalOf(answer.clone()), shown);
  return answer;
}

const refusalOf = async (answer) => new Refusal(answer.status, await answer.json().catch(() => null));

export async function ask(path, parameters, options) {
  const answer = await request(path, parameters, options);
  if (answer.ok) return answer;
  throw await refusalOf(answer);
}

export const askJson = async (path, parameters, options) => (await ask(path, parameters, options)).json();

/** Whether the clock of the hub and that of the browser differ; in milliseconds, to add to the browser's. */
let clockOffset = 0;

export const hubNow = () => Date.now() + clockOffset;

/** The figures of the hub; who may not read those gets `first_id` and `last_id` alone. */
export async function askStats(operate) {
  // Above the last id there can be, so that nothing is read.
  const answer = await (operate ? ask("stats") : ask("events", [["after", Number.MAX_SAFE_INTEGER]]));
  const date = Date.parse(answer.headers.get("date"));
  // The header has whole seconds: what is below that is not a difference.
  if (Math.abs(date - Date.now()) > 1500) clockOffset = date - Date.now();
  else clockOffset = 0;
  return answer.json();
}

/** Lines of an NDJSON answer, as they arrive. */
export async function* lines(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts;
  }
}
