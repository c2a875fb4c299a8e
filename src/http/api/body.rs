//! Reading bodies: bounds, time, memory, encodings and media types.

use std::{
    collections::VecDeque,
    io::{self, Read},
    ops::Deref,
};

use bytes::Bytes;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use futures_util::StreamExt;
use poem::{
    Body, Request, RequestBody,
    http::{HeaderMap, header},
};
use serde::{Deserialize, de::IgnoredAny};

use super::headers;
use crate::http::{
    Turn,
    caller::Caller,
    problem::{Code, Problem},
};
use crate::{
    event::{DATA_MAX_BYTES, InvalidData},
    limits::{self, BodyPermit},
    turns::Turns,
};

/// Bytes of a body that holds one event, beyond those of its data: room for white space, and for the fields around it.
const AROUND_DATA_MAX_BYTES: usize = 64 * 1024;

/// Bytes of a too large body that are read and thrown away, so that the client reads the refusal.
const DISCARD_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Some editors write it at the start of a file. Source: Unicode, byte order mark in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A body that was read. While this lives, its bytes count as [memory of bodies](BodyPermit).
#[derive(Debug)]
pub(super) struct Received {
    bytes: Bytes,
    _memory: BodyPermit,
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of `POST /events`, which may be a batch.
pub(super) async fn read_batch(
    request: &Request,
    body: &mut RequestBody,
) -> Result<Received, Problem> {
    let limits = limits_of(request);
    let event_bytes = limits.max_event_bytes + AROUND_DATA_MAX_BYTES;
    let max_bytes = limits.max_batch_bytes.max(event_bytes);
    read_body(request, body, max_bytes, TooLarge::Batch(max_bytes)).await
}

/// A body of JSON that is one object. Refused before it is read if it says that it is something else.
pub(super) async fn read_json(
    request: &Request,
    body: &mut RequestBody,
) -> Result<Received, Problem> {
    if let Some(other) = media_type(request)?.filter(|media_type| !is_json(media_type)) {
        return Err(unsupported(&other, "application/json"));
    }
    read_event(request, body).await
}

/// A body that holds one event.
pub(super) async fn read_event(
    request: &Request,
    body: &mut RequestBody,
) -> Result<Received, Problem> {
    let max_event_bytes = limits_of(request).max_event_bytes;
    let max_bytes = max_event_bytes + AROUND_DATA_MAX_BYTES;
    let too_large = TooLarge::Event(max_event_bytes);
    read_body(request, body, max_bytes, too_large).await
}

/// Reads the whole body and decodes it, if it is no longer than `max_bytes` before and after, comes in time, and finds memory.
async fn read_body(
    request: &Request,
    body: &mut RequestBody,
    max_bytes: usize,
    too_large: TooLarge,
) -> Result<Received, Problem> {
    let headers = request.headers();
    headers::refuse_cloudevents(headers)?;
    let encoding = Encoding::of(headers)?;
    let length = content_length(headers);
    if length.is_some_and(|length| length > max_bytes) && headers::expects_continue(headers) {
        // Unread: with the first look at the body hyper would ask for it.
        return Err(too_large.into());
    }
    let body = body
        .take()
        .map_err(|error| Problem::new(Code::InvalidParameter, error))?;
    let mut memory = Caller::of(request).hold_body(length.unwrap_or(0).min(max_bytes))?;
    let timeout = limits_of(request).body_timeout;
    let turns = &Caller::of(request).limits().turns;
    let reading = collect(body, length, max_bytes, too_large, &mut memory, turns);
    let reading = Turn::lend(request, tokio::time::timeout(timeout, reading));
    let bytes = reading.await.map_err(|_| {
        let timeout = humantime::format_duration(timeout);
        let detail = format!("the body did not arrive within {timeout} (--body-timeout)");
        Problem::new(Code::RequestTimeout, detail)
    })??;
    let (mut bytes, memory) = match encoding {
        None => (bytes, memory),
        Some(encoding) => {
            let decoding = move || encoding.decode(&bytes, max_bytes, too_large, memory);
            // 16 MiB take some 50 ms, which others on this thread would wait.
            turns.beside(decoding).await?
        }
    };
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes = bytes.slice(BYTE_ORDER_MARK.len()..);
    }
    Ok(Received {
        bytes,
        _memory: memory,
    })
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

/// Bytes of a body that lie together until all of it is there.
const PIECE_BYTES: usize = 64 * 1024;

/// Bytes of a body that are read before others have their turn: 0.1 ms of work. Smaller bodies wait for nobody, and are parsed where they
/// were read: to parse 16 MiB takes 30 ms, which others on this thread would wait.
pub(super) const TURN_BYTES: usize = 256 * 1024;

/// What arrives. Memory grows with it, and never with the announced length, which costs a client nothing.
async fn collect(
    body: Body,
    length: Option<usize>,
    max_bytes: usize,
    too_large: TooLarge,
    memory: &mut BodyPermit,
    turns: &Turns,
) -> Result<Bytes, Problem> {
    let mut chunks = body.into_bytes_stream();
    let mut pieces = Pieces::default();
    let (mut bytes, mut turn_ends) = (0, TURN_BYTES);
    let mut is_too_large = length.is_some_and(|length| length > max_bytes);
    while let Some(chunk) = chunks.next().await {
        // The client went away in the middle: nobody will read this.
        let chunk = chunk.map_err(|_| {
            let detail = "the body ended before its announced length";
            Problem::new(Code::InvalidJson, detail)
        })?;
        bytes += chunk.len();
        if bytes >= turn_ends {
            turns.next().await;
            turn_ends = bytes + TURN_BYTES;
        }
        is_too_large |= bytes > max_bytes;
        if is_too_large {
            pieces = Pieces::default();
            if bytes.max(length.unwrap_or(0)) > DISCARD_MAX_BYTES {
                break;
            }
            continue;
        }
        memory.grow(chunk.len())?;
        pieces.push(chunk);
    }
    if is_too_large {
        return Err(too_large.into());
    }
    Ok(pieces.join(bytes))
}

/// The beginning of a body.
///
/// One buffer that doubles would leave the smaller ones behind it: with a budget of 256 MiB unfinished bodies took 540 MB. So it lies in
/// pieces of one size until it is complete.
#[derive(Default)]
struct Pieces {
    /// The first chunk, which is all there is of most bodies, and is not copied then.
    first: Bytes,
    copied: VecDeque<Vec<u8>>,
}

impl Pieces {
    fn push(&mut self, chunk: Bytes) {
        if self.first.is_empty() && self.copied.is_empty() {
            self.first = chunk;
            return;
        }
        let first = std::mem::take(&mut self.first);
        self.copy(&first);
        self.copy(&chunk);
    }

    fn copy(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() {
            let piece = match self.copied.back_mut() {
                Some(piece) if piece.len() < PIECE_BYTES => piece,
                _ => self.copied.push_back_mut(Vec::with_capacity(PIECE_BYTES)),
            };
            let (fits, rest) = chunk.split_at(chunk.len().min(PIECE_BYTES - piece.len()));
            piece.extend_from_slice(fits);
            chunk = rest;
        }
    }

    /// The whole. Each piece is freed when it was copied.
    fn join(mut self, bytes: usize) -> Bytes {
        if self.copied.is_empty() {
            return self.first;
        }
        let mut whole = Vec::with_capacity(bytes);
        while let Some(piece) = self.copied.pop_front() {
            whole.extend_from_slice(&piece);
        }
        whole.into()
    }
}

/// How a body may be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Gzip,
    Deflate,
}

impl Encoding {
    /// What `Content-Encoding` says; `None` is a body as it is.
    fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let value = headers::text(headers, &header::CONTENT_ENCODING)?.unwrap_or_default();
        match value.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Self::Gzip)),
            "deflate" => Ok(Some(Self::Deflate)),
            other => Err(Problem::new(
                Code::UnsupportedContentEncoding,
                format_args!(
                    "the content encoding '{other}' is not supported; send gzip, deflate, or the body as it is"
                ),
            )),
        }
    }

    /// The content of `bytes`, no longer than `max_bytes`, which holds `memory` in their place.
    fn decode(
        self,
        bytes: &[u8],
        max_bytes: usize,
        too_large: TooLarge,
        mut memory: BodyPermit,
    ) -> Result<(Bytes, BodyPermit), Problem> {
        let mut decoder: Box<dyn Read> = match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(bytes)),
            Self::Deflate => Box::new(ZlibDecoder::new(bytes)),
        };
        let (mut content, mut decoded) = (Pieces::default(), vec![0; PIECE_BYTES]);
        let mut length = 0;
        loop {
            let read = decoder.read(&mut decoded).map_err(not_decodable)?;
            if read == 0 {
                memory.shrink(bytes.len());
                return Ok((content.join(length), memory));
            }
            length += read;
            if length > max_bytes {
                return Err(too_large.into());
            }
            memory.grow(read)?;
            content.copy(&decoded[..read]);
        }
    }
}

fn not_decodable(error: io::Error) -> Problem {
    let detail = format!("the body is not what its content-encoding says: {error}");
    Problem::new(Code::InvalidEncoding, detail)
}

/// The media type of the body without its parameters, in lower case; `None` if the request does not say.
///
/// Refuses what would be read wrong: another character set than UTF-8, and CloudEvents.
pub(super) fn media_type(request: &Request) -> Result<Option<String>, Problem> {
    let Some(value) = headers::text(request.headers(), &header::CONTENT_TYPE)? else {
        return Ok(None);
    };
    let mut parts = value
        .split(';')
        .map(|part| part.trim().to_ascii_lowercase());
    let media_type = parts.next().unwrap_or_default();
    for charset in parts.filter_map(|part| Some(part.strip_prefix("charset=")?.to_owned())) {
        let charset = charset.trim_matches('"');
        if !["utf-8", "utf8", "us-ascii"].contains(&charset) {
            let detail =
                format!("the character set '{charset}' is not supported; send the body as UTF-8");
            return Err(Problem::new(Code::UnsupportedContentType, detail));
        }
    }
    if media_type.starts_with("application/cloudevents") {
        let detail = "CloudEvents are not supported; send topic, type and data as application/json";
        return Err(Problem::new(Code::UnsupportedContentType, detail));
    }
    Ok(Some(media_type))
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
            InvalidData::TooLarge(_) => TooLarge::Event(DATA_MAX_BYTES).into(),
            InvalidData::TooDeep => Self::new(Code::DataTooDeep, error),
        }
    }
}

/// What a body is too large to be, with the most bytes it may have. Its words are made when it is told: few bodies are too large.
#[derive(Debug, Clone, Copy)]
enum TooLarge {
    Event(usize),
    Batch(usize),
}

impl From<TooLarge> for Problem {
    fn from(too_large: TooLarge) -> Self {
        match too_large {
            TooLarge::Event(max_bytes) => Self::new(
                Code::EventTooLarge,
                format_args!(
                    "the event is larger than --max-event-bytes ({}); store large content elsewhere and publish its address",
                    in_units(max_bytes)
                ),
            ),
            TooLarge::Batch(max_bytes) => Self::new(
                Code::BatchTooLarge,
                format_args!(
                    "the batch is larger than --max-batch-bytes ({}); send several",
                    in_units(max_bytes)
                ),
            ),
        }
    }
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
        true => Err(TooLarge::Event(limits.max_event_bytes).into()),
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
