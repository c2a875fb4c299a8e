// Publishes the rows of a CSV file, each once however often it is run: `node import.mjs orders.csv`.
//
// Row by row, the first column is the key, so a row that the hub has already is not stored again. After a crash, or with a longer
// file, run it again. SEGNO_URL says where the hub is, SEGNO_TOKEN who you are.

import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";

import { Segno } from "../clients/js/segno.js"; // From a package: "segno".

const [file, topic = "orders.import"] = process.argv.slice(2);
if (file === undefined) {
  console.error("usage: node import.mjs FILE.csv [TOPIC]");
  process.exit(2);
}

/** The rows as events. Fields are parted by commas; quotes are not understood. */
async function* events() {
  let names;
  for await (const line of createInterface({ input: createReadStream(file) })) {
    const fields = line.split(",");
    if (names === undefined) {
      names = fields;
    } else if (line !== "") {
      const data = Object.fromEntries(names.map((name, column) => [name, fields[column]]));
      yield { topic, type: "row", data, key: fields[0] };
    }
  }
}

const hub = new Segno(process.env.SEGNO_URL ?? "http://localhost:8000", { token: process.env.SEGNO_TOKEN });
const stored = await hub.publishMany(events());
const known = stored.filter(({ duplicate }) => duplicate).length;
console.log(`${stored.length - known} stored, ${known} were there already`);
