//! The bytes of the stream. Pure.
//!
//! Nothing a publisher can put into a topic, type or data forges a field or an event: names have no line breaks, and every
//! line of data gets a `data: ` of its own, whichever of the three line breaks of the standard ends it.

use std::{io::Write, time::Duration};

use serde_json::json;

use crate::{
    event::{Event, EventId},
    hub::Gap,
};

/// What stands in the `data` of an event's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Format {
    /// Its data.
    #[default]
    Data,
    /// The whole event as JSON.
    Event,
}

/// `id:`, `event:` where there is one, `data:` for each line, and a blank line.
///
/// The data alone has `event:` beside it, unless the type is `message`. The whole event has its type in it, and no
/// `event:`: a browser hands a named event only to who listens for just that name, and a page that wants all types cannot
/// know their names before.
pub(crate) fn write_event(event: &Event, format: Format, out: &mut Vec<u8>) {
    write_id(event.id, out);
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
    out.push(b'\n');
}

/// The first block: how soon to come back, and from where. An `id` without data moves a browser's cursor and fires nothing.
pub(crate) fn write_opening(retry: Duration, cursor: EventId, out: &mut Vec<u8>) {
    write_retry(retry, out);
    write_id(cursor, out);
    out.push(b'\n');
}

/// A sign of life, with the cursor if it has moved.
pub(crate) fn write_heartbeat(moved_to: Option<EventId>, out: &mut Vec<u8>) {
    out.extend_from_slice(b":\n");
    if let Some(cursor) = moved_to {
        write_id(cursor, out);
    }
    out.push(b'\n');
}

/// `event: segno.gap`. Its id moves the cursor behind the gap in the same moment as it is told.
pub(crate) fn write_gap(gap: &Gap, out: &mut Vec<u8>) {
    let data = json!({
        "reason": gap.reason.as_str(),
        "requested": gap.requested,
        "first_id": gap.bounds.first_id,
        "last_id": gap.bounds.last_id,
    });
    write_id(gap.cursor, out);
    out.extend_from_slice(b"event: segno.gap\n");
    write_data(data.to_string().as_bytes(), out);
    out.push(b'\n');
}

/// `event: segno.error` with a problem as data. It has no id, so that the cursor stays where it was.
pub(crate) fn write_error(problem: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: segno.error\n");
    write_data(problem.as_bytes(), out);
    out.push(b'\n');
}

/// The last block before the hub ends the stream.
pub(crate) fn write_farewell(retry: Duration, out: &mut Vec<u8>) {
    write_retry(retry, out);
    out.push(b'\n');
}

fn write_id(id: EventId, out: &mut Vec<u8>) {
    writeln!(out, "id: {id}").expect("memory takes every byte");
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
