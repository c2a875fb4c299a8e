//! The bytes of the stream, one function for each kind of block. Pure.
//!
//! Nothing a publisher can put into a topic, type or data forges a field or an event: names have no line breaks, and every
//! line of data gets a `data: ` of its own, whichever of the three line breaks of the standard ends it.
//!
//! `id:` is the last field of every block. Several clients take the id as soon as they have read its line: if the connection
//! is cut after an id and before the data, they never ask for that event again. No block is without an id either: by the
//! standard a stream begins with an empty id, and the first blank line makes it the client's cursor.

use std::{borrow::Cow, io::Write, time::Duration};

use memchr::memchr2;
use serde_json::{Value, json};

use crate::{
    event::{Event, EventId},
    hub::Gap,
};

/// How a stream is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Format {
    /// Server-sent events. `data` is the event's data.
    #[default]
    Data,
    /// Server-sent events. `data` is the whole event as JSON.
    Event,
    /// Server-sent events. `data` is the text where the event's data is a JSON string, else its data.
    Text,
    /// Newline-delimited JSON: the whole event on a line.
    Ndjson,
}

impl Format {
    /// Those there are, in the order they are documented in.
    pub(crate) const ALL: [Self; 4] = [Self::Data, Self::Event, Self::Text, Self::Ndjson];

    /// Its name in the query.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Event => "event",
            Self::Text => "text",
            Self::Ndjson => "ndjson",
        }
    }

    /// The content type of a stream. Clients built on Python's `requests` read Latin-1 from text without the charset.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Data | Self::Event | Self::Text => "text/event-stream; charset=utf-8",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

/// What the hub says of a stream itself. Its type begins with `segno.` among server-sent events; on a line of its own the rest of
/// that name is the value of `segno`, a field that no event has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Notice<'a> {
    /// The client has everything up to `cursor`.
    Cursor {
        cursor: EventId,
        log_id: &'a str,
        /// Where the stream ends now or begins: how soon to come back after the end.
        retry: Option<Duration>,
    },
    /// Events are missing. Its cursor moves behind the gap in the moment the gap is told.
    Gap(&'a Gap),
    /// The log cannot be read: a problem as JSON. `cursor` is where the client is, for the error moves nothing.
    Error { problem: &'a str, cursor: EventId },
    /// The right to read has ended. The cursor is told again, so that who comes back with another ticket goes on from there.
    Expired { reason: &'a str, cursor: EventId },
}

impl Notice<'_> {
    /// Its type without `segno.`, what is told, and the cursor.
    fn parts(self) -> (&'static str, Value, EventId) {
        match self {
            Self::Cursor { cursor, log_id, .. } => {
                ("cursor", json!({"cursor": cursor, "log": log_id}), cursor)
            }
            Self::Gap(gap) => ("gap", gap_json(gap), gap.cursor),
            Self::Error { problem, cursor } => {
                let data = serde_json::from_str(problem).expect("a problem is JSON");
                ("error", data, cursor)
            }
            Self::Expired { reason, cursor } => ("expired", json!({"reason": reason}), cursor),
        }
    }

    /// Writes it as a block, or as a line.
    pub(crate) fn write(self, format: Format, out: &mut Vec<u8>) {
        match format {
            Format::Data | Format::Event | Format::Text => self.write_block(out),
            Format::Ndjson => self.write_line(out),
        }
    }

    fn write_block(self, out: &mut Vec<u8>) {
        if let Self::Cursor {
            retry: Some(retry), ..
        } = self
        {
            write_retry(retry, out);
        }
        let (name, data, cursor) = self.parts();
        write_own(name, &data.to_string(), out);
        write_end(cursor, out);
    }

    /// `{"segno":"cursor","cursor":41,…}`: every line has the cursor to come back with.
    fn write_line(self, out: &mut Vec<u8>) {
        let (name, data, cursor) = self.parts();
        let mut line = json!({"segno": name, "cursor": cursor});
        match (name, data) {
            ("error", problem) => line["problem"] = problem,
            (_, Value::Object(fields)) => {
                line.as_object_mut().expect("made as one").extend(fields);
            }
            (_, other) => unreachable!("{other} is no object"),
        }
        if let Self::Cursor {
            retry: Some(retry), ..
        } = self
        {
            line["retry_ms"] = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX).into();
        }
        writeln!(out, "{line}").expect("memory takes every byte");
    }
}

/// An event: `event:` if it has one, `data:` for each line, `id:`.
///
/// The data alone has `event:` beside it, unless the type is `message`. The whole event has its type in it, and no
/// `event:`: a browser hands a named event only to listeners for that very name, and a page that wants all types cannot
/// know their names in advance.
pub(crate) fn write_event(event: &Event, format: Format, out: &mut Vec<u8>) {
    let data = event.data.as_str();
    match format {
        Format::Data => {
            write_type(event, out);
            write_data(data.as_bytes(), out);
        }
        Format::Text => {
            write_type(event, out);
            write_data(as_text(data).as_bytes(), out);
        }
        Format::Event => {
            let mut json = Vec::with_capacity(data.len() + 128);
            event.write_json(&mut json);
            write_data(&json, out);
        }
        Format::Ndjson => {
            event.write_json(out);
            out.push(b'\n');
            return;
        }
    }
    write_end(event.id, out);
}

/// A gap, wherever it is told.
pub(crate) fn gap_json(gap: &Gap) -> Value {
    json!({
        "reason": gap.reason.as_str(),
        "requested": gap.requested,
        "first_id": gap.bounds.first_id,
        "last_id": gap.bounds.last_id,
    })
}

/// What stands before the first block.
///
/// The comment ends what a cut left behind in clients that keep half a line or half a block. The cursor, which follows, comes as an
/// event, because several clients ignore the id of a block without data; its type keeps it from pages that do not ask for it.
pub(crate) fn write_opening(format: Format, out: &mut Vec<u8>) {
    match format {
        Format::Data | Format::Event | Format::Text => out.extend_from_slice(COMMENT),
        Format::Ndjson => (),
    }
}

fn write_type(event: &Event, out: &mut Vec<u8>) {
    if !event.event_type.is_default() {
        out.extend_from_slice(b"event: ");
        write_on_one_line(event.event_type.as_str(), out);
        out.push(b'\n');
    }
}

/// The text of a JSON string; other JSON as it is, and so is a string that no text can hold (a lone surrogate).
fn as_text(json: &str) -> Cow<'_, str> {
    match json.starts_with('"') {
        true => serde_json::from_str(json).map_or(json.into(), Cow::Owned),
        false => json.into(),
    }
}

/// A comment, to show that the stream is alive. No blank line: some clients hand out an empty event for it.
pub(crate) const COMMENT: &[u8] = b":\n";

/// All of a stream that is refused: `event: segno.refused` with a problem as data. `cursor` is the request's own, as the client
/// sent it; a client without one is left without one.
pub(crate) fn write_refusal(
    retry: Duration,
    problem: &str,
    cursor: Option<&str>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(COMMENT);
    write_retry(retry, out);
    write_own("refused", problem, out);
    // By the standard an id with a NUL is ignored, and so is one that the client cannot have.
    if let Some(cursor) = cursor.filter(|cursor| !cursor.contains('\0')) {
        out.extend_from_slice(b"id: ");
        write_on_one_line(cursor, out);
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// Type and data of a block of the hub's own.
fn write_own(name: &str, data: &str, out: &mut Vec<u8>) {
    writeln!(out, "event: segno.{name}").expect("memory takes every byte");
    write_data(data.as_bytes(), out);
}

/// The id, which is the last field, and the end of the block.
fn write_end(id: EventId, out: &mut Vec<u8>) {
    write!(out, "id: {id}\n\n").expect("memory takes every byte");
}

fn write_retry(retry: Duration, out: &mut Vec<u8>) {
    writeln!(out, "retry: {}", retry.as_millis()).expect("memory takes every byte");
}

fn write_data(text: &[u8], out: &mut Vec<u8>) {
    for line in lines(text) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
}

/// Splits at CRLF, LF and CR, which end a line of the stream. Source: WHATWG HTML, 9.2.6.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = memchr2(b'\n', b'\r', text) else {
            rest = None;
            return Some(text);
        };
        let break_bytes = if text[end..].starts_with(b"\r\n") {
            2
        } else {
            1
        };
        rest = Some(&text[end + break_bytes..]);
        Some(&text[..end])
    })
}

/// A type has no line break; one that a hand wrote into the file must not forge a field either.
fn write_on_one_line(name: &str, out: &mut Vec<u8>) {
    for line in lines(name.as_bytes()) {
        out.extend_from_slice(line);
    }
}
