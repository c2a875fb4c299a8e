// An event as the hub writes it.

/** Where the JSON of an event has its data. */
function dataOf(text) {
  // The hub writes id, topic, type, data, created_at and perhaps key, in this order. A quote inside a JSON string is always
  // escaped, so no topic or type before the data, and no key behind the time, can look like these two.
  const from = text.indexOf(',"data":');
  const to = text.lastIndexOf(',"created_at":"');
  return { from, to };
}

/**
 * Reads one event. `data` stays the JSON text it is: parsed into numbers of JavaScript, 12345678901234567890 and 1.10 would
 * be shown as something that nobody published.
 */
export function readEvent(text) {
  const { from, to } = dataOf(text);
  const event = JSON.parse(text.slice(0, from) + text.slice(to));
  event.data = text.slice(from + ',"data":'.length, to);
  return event;
}

/** When it was committed, in milliseconds. Reads no more than that: it is asked for every event of a burst. */
export function timeOf(text) {
  const at = text.lastIndexOf(',"created_at":"') + ',"created_at":"'.length;
  return Date.parse(text.slice(at, text.indexOf('"', at)));
}
