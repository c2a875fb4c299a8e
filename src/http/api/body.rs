//! Reading bodies: bounds, time and media types.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use poem::{
    Body, Request, RequestBody,
    http::{HeaderMap, header},
};
use serde::{Deserialize, de::IgnoredAny};

use crate::http::{
    caller::Caller,
    problem::{Code, Problem},
};
use crate::{
    event::{DATA_MAX_BYTES, InvalidData},
    limits,
};

/// Bytes of a body that holds one event, beyond those of its data: room for white space, and for the fields around it.
const AROUND_DATA_MAX_BYTES: usize = 64 * 1024;

/// Bytes of a too large body that are read and thrown away, so that the client reads the refusal.
const DISCARD_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Reads the whole body, if it is no longer than `max_bytes` and comes in time.
async fn read_body(
    request: &Request,
    body: &mut RequestBody,
    max_bytes: usize,
    too_large: Problem,
) -> Result<Bytes, Problem> {
    let timeout = limits_of(request).body_timeout;
    let body = body
        .take()
        .map_err(|error| Problem::new(Code::InvalidParameter, error))?;
    let length = content_length(request.headers());
    let reading = collect(body, length, max_bytes, too_large);
    tokio::time::timeout(timeout, reading)
        .await
        .unwrap_or_else(|_| {
            Err(Problem::new(
                Code::RequestTimeout,
                format_args!(
                    "the body did not arrive within {}",
                    humantime::format_duration(timeout)
                ),
            ))
        })
}

/// The body of `POST /events`, which may be a batch.
pub(super) async fn read_batch(
    request: &Request,
    body: &mut RequestBody,
) -> Result<Bytes, Problem> {
    let limits = limits_of(request);
    let event_bytes = limits.max_event_bytes + AROUND_DATA_MAX_BYTES;
    let max_bytes = limits.max_batch_bytes.max(event_bytes);
    read_body(
        request,
        body,
        max_bytes,
        batch_too_large(limits.max_batch_bytes),
    )
    .await
}

/// A body that holds one event.
pub(super) async fn read_event(
    request: &Request,
    body: &mut RequestBody,
) -> Result<Bytes, Problem> {
    let max_event_bytes = limits_of(request).max_event_bytes;
    let max_bytes = max_event_bytes + AROUND_DATA_MAX_BYTES;
    read_body(request, body, max_bytes, event_too_large(max_event_bytes)).await
}

pub(super) fn limits_of(request: &Request) -> &limits::Settings {
    &Caller::of(request).limits().settings
}

/// Counts `events` events for the client, if its rate allows them.
pub(super) fn count(request: &Request, events: usize) -> Result<(), Problem> {
    Ok(Caller::of(request).publish(events)?)
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

async fn collect(
    body: Body,
    length: Option<usize>,
    max_bytes: usize,
    too_large: Problem,
) -> Result<Bytes, Problem> {
    let mut chunks = body.into_bytes_stream();
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    let mut bytes = 0;
    let mut is_too_large = length.is_some_and(|length| length > max_bytes);
    while let Some(chunk) = chunks.next().await {
        // The client went away in the middle: nobody will read this.
        let chunk = chunk.map_err(|_| {
            Problem::new(
                Code::InvalidJson,
                "the body ended before its announced length",
            )
        })?;
        bytes += chunk.len();
        is_too_large |= bytes > max_bytes;
        if is_too_large {
            if bytes.max(length.unwrap_or(0)) > DISCARD_MAX_BYTES {
                break;
            }
        } else if bytes == chunk.len() {
            first = chunk;
        } else {
            if all.is_empty() {
                all.reserve(length.unwrap_or(2 * bytes));
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&chunk);
        }
    }
    if is_too_large {
        return Err(too_large);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// The media type of the body without its parameters, in lower case.
pub(super) fn media_type(request: &Request) -> Option<String> {
    let value = request.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(
        value
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase(),
    )
}

pub(super) fn is_json(media_type: &str) -> bool {
    media_type == "application/json"
        || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

pub(super) fn unsupported(found: &str, expected: &str) -> Problem {
    Problem::new(
        Code::UnsupportedContentType,
        format_args!("the media type '{found}' is not supported; send {expected}"),
    )
}

impl From<InvalidData> for Problem {
    fn from(error: InvalidData) -> Self {
        match error {
            InvalidData::TooLarge(_) => event_too_large(DATA_MAX_BYTES),
            InvalidData::TooDeep => Self::new(Code::DataTooDeep, error),
        }
    }
}

fn event_too_large(max_bytes: usize) -> Problem {
    let detail = format!(
        "the event is larger than --max-event-bytes ({}); store large content elsewhere and publish its address",
        in_units(max_bytes)
    );
    Problem::new(Code::EventTooLarge, detail)
}

fn batch_too_large(max_bytes: usize) -> Problem {
    let detail = format!(
        "the batch is larger than --max-batch-bytes ({}); send several",
        in_units(max_bytes)
    );
    Problem::new(Code::BatchTooLarge, detail)
}

/// A size as people write it: `1 MiB`, `1500 bytes`.
fn in_units(bytes: usize) -> String {
    const MIB: usize = 1024 * 1024;
    match bytes {
        bytes if bytes >= MIB && bytes.is_multiple_of(MIB) => format!("{} MiB", bytes / MIB),
        bytes if bytes >= 1024 && bytes.is_multiple_of(1024) => format!("{} KiB", bytes / 1024),
        _ => format!("{bytes} bytes"),
    }
}

/// Refuses an event with more data than the hub is set to take.
pub(super) fn fit(bytes: usize, limits: &limits::Settings) -> Result<(), Problem> {
    match bytes > limits.max_event_bytes {
        true => Err(event_too_large(limits.max_event_bytes)),
        false => Ok(()),
    }
}

/// What serde found wrong with `json`: not JSON, or not an object of the right fields.
pub(super) fn json_problem(error: &serde_json::Error, json: &[u8]) -> Problem {
    let message = error.to_string();
    let code = if !error.is_data() {
        Code::InvalidJson
    } else if message.starts_with("missing field") {
        Code::MissingField
    } else if message.starts_with("unknown field") {
        Code::UnknownField
    } else {
        Code::InvalidField
    };
    // cmd.exe takes no single quotes away: the most common first mistake.
    match json.trim_ascii_start().first() {
        Some(b'\'') if code == Code::InvalidJson => Problem::new(
            code,
            format_args!("{error}: the body begins with `'`: on Windows, quote JSON with \\\""),
        ),
        _ => Problem::new(code, error),
    }
}

/// Reads a JSON object. serde would take an array for a struct as well.
pub(super) fn parse_object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Problem> {
    if json.trim_ascii_start().first() == Some(&b'{') {
        return serde_json::from_slice(json).map_err(|error| json_problem(&error, json));
    }
    match serde_json::from_slice::<IgnoredAny>(json) {
        Ok(_) => Err(Problem::new(
            Code::InvalidField,
            "the body or line is JSON, but not an object",
        )),
        Err(error) => Err(json_problem(&error, json)),
    }
}
