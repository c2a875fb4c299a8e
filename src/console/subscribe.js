// How other programs follow what is on screen, and resume where they were.

import { byId, code, element } from "./dom.js";
import { HUB, address } from "./hub.js";
import { isSignedIn } from "./session.js";

const quoted = (text) => (/^[\w./:*-]+$/.test(text) && !text.includes("*") ? text : `'${text.replaceAll("'", `'\\''`)}'`);

function curl(filter) {
  return `while true; do
  curl -sN ${isSignedIn() ? '-H "Authorization: Bearer $SEGNO_TOKEN" ' : ""}-H "Last-Event-ID: $(cat segno.cursor 2>/dev/null)" \\
    ${quoted(address("sse", filter.parameters()))} |
  while IFS= read -r line; do
    case $line in
      'event: segno.gap') own=yes; echo 'events were lost' >&2 ;;
      'event: segno.'*) own=yes ;;
      data:*) [ "$own" ] || printf '%s\\n' "\${line#data: }" ;;
      id:*) cursor=\${line#id: } ;;
      '') own=; [ -z "$cursor" ] || printf '%s\\n' "$cursor" > segno.cursor ;;
    esac
  done
  sleep 1
done`;
}

function javascript(filter) {
  const url = address("sse", [["format", "event"], ...filter.parameters()]);
  if (isSignedIn()) return javascriptWithTickets(url);
  return `const url = new URL(${JSON.stringify(url)});
const cursor = localStorage.getItem("segno.cursor");
if (cursor) url.searchParams.set("last_event_id", cursor);

const events = new EventSource(url);
events.onmessage = ({ data, lastEventId }) => {
  const event = JSON.parse(data);
  console.log(event.id, event.topic, event.type, event.data);
  localStorage.setItem("segno.cursor", lastEventId);
};
events.addEventListener("segno.gap", ({ data }) => console.warn("events were lost", data));`;
}

/** An EventSource can send no header: it goes with a ticket, and when that ends with the next one. */
function javascriptWithTickets(url) {
  return `const token = prompt("Token");

async function follow() {
  const answer = await fetch(${JSON.stringify(address("tickets"))}, {
    method: "POST",
    headers: { Authorization: \`Bearer \${token}\`, "Content-Type": "application/json" },
    body: JSON.stringify({ follow: ["**"] }),
  });
  const { ticket, detail } = await answer.json();
  if (!answer.ok) throw new Error(detail);

  const url = new URL(${JSON.stringify(url)});
  url.searchParams.set("ticket", ticket);
  const cursor = localStorage.getItem("segno.cursor");
  if (cursor) url.searchParams.set("last_event_id", cursor);

  const events = new EventSource(url);
  events.onmessage = ({ data, lastEventId }) => {
    const event = JSON.parse(data);
    console.log(event.id, event.topic, event.type, event.data);
    localStorage.setItem("segno.cursor", lastEventId);
  };
  events.addEventListener("segno.gap", ({ data }) => console.warn("events were lost", data));
  events.addEventListener("segno.expired", () => { events.close(); follow(); });
}
follow();`;
}

function python(filter) {
  const url = address("sse", [["format", "event"], ...filter.parameters()]);
  const signed = isSignedIn();
  return `import http.client, json,${signed ? " os," : ""} pathlib, time, urllib.request

url = ${JSON.stringify(url)}
state = pathlib.Path("segno.cursor")
cursor = state.read_text() if state.exists() else None

while True:
    try:
        headers = {"Last-Event-ID": cursor} if cursor else {}
${signed ? '        headers["Authorization"] = "Bearer " + os.environ["SEGNO_TOKEN"]\n' : ""}        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as stream:
            kind, data, seen = "message", [], cursor
            for line in stream:
                name, _, value = line.decode().rstrip("\\r\\n").partition(":")
                value = value.removeprefix(" ")
                if name == "data":
                    data.append(value)
                elif name == "event":
                    kind = value
                elif name == "id":
                    seen = value
                elif line.strip() == b"":
                    if data and kind == "segno.gap":
                        print("events were lost:", data, flush=True)
                    elif data and not kind.startswith("segno."):
                        event = json.loads("\\n".join(data))
                        print(event["id"], event["topic"], event["type"], event["data"], flush=True)
                    kind, data, cursor = "message", [], seen
                    if cursor:
                        state.write_text(cursor)
    except (OSError, http.client.HTTPException) as error:
        print("reconnecting:", error, flush=True)
    time.sleep(1)`;
}

function tail(filter) {
  const names = filter.parameters().map(([name, value]) => ` --${name} ${quoted(value)}`);
  return `segno tail --url ${quoted(HUB)}${names.join("")} --json --state segno.cursor`;
}

const SNIPPETS = [
  ["segno tail", "The program that comes with the hub. It keeps its cursor in a file, and writes it after the output.", tail],
  ["curl", "Only a shell. It keeps the id of the last event in a file, and goes on from there.", curl],
  ["JavaScript", "The browser reconnects and resumes by itself; the cursor in localStorage also survives a reload of the page.", javascript],
  ["Python", "The standard library is enough.", python],
];

export function showSnippets(filter) {
  byId("subscribe-lead").textContent = `Programs that follow ${filter.describe()}, and resume where they were after a cut or a restart.${isSignedIn() ? " They read your token from the variable SEGNO_TOKEN; the page asks for it." : ""}`;
  byId("snippets").replaceChildren(
    ...SNIPPETS.map(([name, about, make]) =>
      element("section", { class: "snippet", "data-snippet": name }, element("h2", {}, name), element("p", { class: "hint" }, about), code(make(filter), name)),
    ),
  );
}
