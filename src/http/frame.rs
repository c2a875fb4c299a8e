//! The bytes of the stream, one function for each kind of block. Pure.
//!
//! Nothing a publisher can put into a topic, type or data forges a field or an event: names have no line breaks, and every
//! line of data gets a `data: ` of its own, whichever of the three line breaks of the standard ends it.
//!
//! `id:` is the last field of every block. Several clients take the id as soon as they have read its line: if the connection
//! is cut after an id and before the data, they never ask for that event again. No block is without an id either: by the
//! standard a stream begins with an empty id, and the first blank line makes it the client's cursor.

use std::{io::Write, time::Duration};

use serde_json::json;

use crate::{
    event::{Event, EventId},
    hub::Gap,
};

/// What an event's `data` field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Format {
    /// Its data.
    #[default]
    Data,
    /// The whole event as JSON.
    Event,
}

/// An event: `event:` if it has one, `data:` for each line, `id:`.
///
/// The data alone has `event:` beside it, unless the type is `message`. The whole event has its type in it, and no
/// `event:`: a browser hands a named event only to listeners for that very name, and a page that wants all types cannot
/// know their names in advance.
pub(crate) fn write_event(event: &Event, format: Format, out: &mut Vec<u8>) {
    match format {
        Format::Data => {
            if !event.event_type.is_default() {
                out.extend_from_slice(b"event: ");
                write_on_one_line(event.event_type.as_str(), out);
                out.push(b'\n');
            }
            write_data(event.data.as_str().as_bytes(), out);
        }
        Format::Event => {
            let mut json = Vec::with_capacity(event.data.as_str().len() + 128);
            event.write_json(&mut json);
            write_data(&json, out);
        }
    }
    write_end(event.id, out);
}

/// The first block: how soon to come back, and from where.
///
/// The comment in front ends what a cut left behind in clients that keep half a line or half a block. The cursor comes as an
/// event, because several clients ignore the id of a block without data; its type keeps it from pages that do not ask for it.
pub(crate) fn write_opening(retry: Duration, cursor: EventId, log_id: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(COMMENT);
    write_retry(retry, out);
    write_cursor(cursor, log_id, out);
}

/// A comment, to show that the stream is alive. No blank line: some clients hand out an empty event for it.
pub(crate) const COMMENT: &[u8] = b":\n";

/// `event: segno.cursor`: the client has everything up to `cursor`.
pub(crate) fn write_cursor(cursor: EventId, log_id: &str, out: &mut Vec<u8>) {
    let data = json!({"cursor": cursor, "log": log_id});
    write_own("segno.cursor", &data.to_string(), out);
    write_end(cursor, out);
}

/// `event: segno.gap`. Its id moves the cursor behind the gap in the moment the gap is told.
pub(crate) fn write_gap(gap: &Gap, out: &mut Vec<u8>) {
    let data = json!({
        "reason": gap.reason.as_str(),
        "requested": gap.requested,
        "first_id": gap.bounds.first_id,
        "last_id": gap.bounds.last_id,
    });
    write_own("segno.gap", &data.to_string(), out);
    write_end(gap.cursor, out);
}

/// `event: segno.error` with a problem as data. `cursor` is where the client is: the error moves nothing.
pub(crate) fn write_error(problem: &str, cursor: EventId, out: &mut Vec<u8>) {
    write_own("segno.error", problem, out);
    write_end(cursor, out);
}

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
    write_own("segno.refused", problem, out);
    // By the standard an id with a NUL is ignored, and so is one that the client cannot have.
    if let Some(cursor) = cursor.filter(|cursor| !cursor.contains('\0')) {
        out.extend_from_slice(b"id: ");
        write_on_one_line(cursor, out);
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// `event: segno.expired` with the reason as data: the right to read has ended. The cursor is told again, so that who comes back
/// with another ticket goes on from there.
pub(crate) fn write_expired(reason: &str, cursor: EventId, out: &mut Vec<u8>) {
    let data = json!({"reason": reason});
    write_own("segno.expired", &data.to_string(), out);
    write_end(cursor, out);
}

/// The last block before the hub ends the stream.
pub(crate) fn write_farewell(retry: Duration, cursor: EventId, log_id: &str, out: &mut Vec<u8>) {
    write_retry(retry, out);
    write_cursor(cursor, log_id, out);
}

/// Type and data of a block of the hub's own.
fn write_own(event_type: &str, data: &str, out: &mut Vec<u8>) {
    writeln!(out, "event: {event_type}").expect("memory takes every byte");
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
        let Some(end) = text.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
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
