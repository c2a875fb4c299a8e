// Fills the form with an event that was published before. The form wires itself in; rows do not know it.

let fill = () => {};

export function onPublishAgain(listener) {
  fill = listener;
}

/** Shows the form with the topic, the type and the data of `event`. */
export function publishAgain(event) {
  fill(event);
  location.hash = "#/send";
}
