//! What a request to follow asks for, and where it starts.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use poem::{Request, http::HeaderMap};
use poem_openapi::registry::MetaSchema;

use super::parameter::{
    Checked, Count, Cursor, Newest, Parameter, Since, TopicPattern, TypePattern, optional, shown,
};
use crate::http::{
    TOPIC_PREFIX, accept,
    frame::Format,
    problem::{Code, Problem},
};
use crate::{event::EventId, hub::Start};

/// The header with a client's cursor. Source: WHATWG HTML, 9.2.4.
const LAST_EVENT_ID: &str = "last-event-id";

/// Query parameters that polyfills of `EventSource` use in its place.
const RECONNECT_PARAMETERS: [&str; 2] = ["lastEventId", "Last-Event-ID"];

impl Parameter for Format {
    fn schema() -> MetaSchema {
        MetaSchema {
            enum_items: Format::ALL.map(|format| format.as_str().into()).into(),
            default: Some("data".into()),
            ..MetaSchema::new("string")
        }
    }

    fn read(text: &str) -> Result<Self, Problem> {
        let format = Format::ALL
            .into_iter()
            .find(|format| format.as_str() == text);
        format.ok_or_else(|| {
            Problem::new(
                Code::InvalidFormat,
                format_args!(
                    "format '{}' is unknown; use data, event, text or ndjson",
                    shown(text)
                ),
            )
        })
    }
}

/// The parameters of a request to follow, as they were read.
#[derive(Debug)]
pub(super) struct FollowQuery {
    pub(super) topics: Vec<Checked<TopicPattern>>,
    pub(super) types: Vec<Checked<TypePattern>>,
    /// What clients add by themselves when they reconnect: the header, and what polyfills put into the query in its place.
    pub(super) reconnects: [Option<Checked<Reconnect>>; 3],
    pub(super) last_event_id: Option<Checked<Cursor>>,
    pub(super) since: Option<Checked<Since>>,
    pub(super) last: Option<Checked<Newest>>,
    pub(super) count: Option<Checked<Count>>,
    pub(super) format: Format,
}

impl FollowQuery {
    /// Reads what poem-openapi would read for the operation `follow`.
    pub(super) fn of(request: &Request) -> Result<Self, Problem> {
        let query = QueryValues::of(request);
        let topic = request.uri().path().strip_prefix(TOPIC_PREFIX);
        // Read in any case: a header that means something is refused where it cannot be read.
        let accepted = Self::accepted_format(request)?;
        let format = optional(query.first("format"))?.or(accepted);
        let format = match (format, topic) {
            (Some(format), _) => format,
            (None, None) => Format::default(),
            (None, Some(topic)) => return Err(not_acceptable(topic)),
        };
        let topic = topic.map(read_topic).transpose()?;
        let header = reconnect_header(request.headers());
        Ok(Self {
            topics: topic.map_or_else(|| query.all("topic"), |topic| vec![topic]),
            types: query.all("type"),
            reconnects: [
                header.map(|cursor| Checked::read(&cursor)),
                query.first(RECONNECT_PARAMETERS[0]),
                query.first(RECONNECT_PARAMETERS[1]),
            ],
            last_event_id: query.first("last_event_id"),
            since: query.first("since"),
            last: query.first("last"),
            count: query.first("count"),
            format,
        })
    }

    /// The format that `Accept` names.
    fn accepted_format(request: &Request) -> Result<Option<Format>, Problem> {
        let named = |media_type| accept::names(request.headers(), media_type);
        if named("text/event-stream")? {
            return Ok(Some(Format::Data));
        }
        Ok(named("application/x-ndjson")?.then_some(Format::Ndjson))
    }
}

/// The topic or pattern of a path, as it stands there.
fn read_topic(encoded: &str) -> Result<Checked<TopicPattern>, Problem> {
    let topic = percent_decode_str(encoded).decode_utf8().map_err(|_| {
        let detail = format!("the topic '{encoded}' is not UTF-8 when it is decoded");
        Problem::new(Code::InvalidParameter, detail)
    })?;
    Ok(Checked::read(&topic))
}

fn not_acceptable(topic: &str) -> Problem {
    Problem::new(
        Code::NotAcceptable,
        format_args!(
            "follow this topic with `Accept: text/event-stream` or `application/x-ndjson`; read what is stored with \
             GET /events?topic={topic}"
        ),
    )
}

/// Names and values of a query.
struct QueryValues<'r>(Vec<(Cow<'r, str>, Cow<'r, str>)>);

impl<'r> QueryValues<'r> {
    fn of(request: &'r Request) -> Self {
        let query = request.uri().query().unwrap_or_default();
        Self(form_urlencoded::parse(query.as_bytes()).collect())
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let of_name = self.0.iter().filter(move |(other, _)| other == name);
        of_name.map(|(_, value)| &**value)
    }

    fn first<T: Parameter>(&self, name: &str) -> Option<Checked<T>> {
        self.values(name).next().map(Checked::read)
    }

    fn all<T: Parameter>(&self, name: &str) -> Vec<Checked<T>> {
        self.values(name).map(Checked::read).collect()
    }
}

/// What the header says that a client adds when it reconnects. Of two cursors that differ nobody knows which one is right: together
/// they are no id, as they are where a proxy joins the two headers. Source: RFC 9110, 5.3.
fn reconnect_header(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let values = headers.get_all(LAST_EVENT_ID).iter();
    let mut cursors: Vec<_> = values
        .map(|cursor| String::from_utf8_lossy(cursor.as_bytes()))
        .collect();
    cursors.dedup();
    match cursors.len() {
        0 | 1 => cursors.pop(),
        _ => Some(cursors.join(", ").into()),
    }
}

/// The cursor of a client that reconnects: what the last stream gave it, which may have been another hub's.
///
/// It is never refused. A browser's `EventSource` that is answered with an error never asks again, and a page cannot remove the
/// header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reconnect {
    /// It has none, and says so.
    None,
    /// After an event, which may be one that this hub does not have.
    After(EventId),
    /// It is no id of this hub: a word, a UUID, a fraction.
    Unknown,
}

impl Parameter for Reconnect {
    fn schema() -> MetaSchema {
        MetaSchema::new("string")
    }

    fn read(text: &str) -> Result<Self, Problem> {
        let text = text.trim();
        Ok(match text.parse::<i64>() {
            _ if text.is_empty() => Self::None,
            // A sign is not what this hub writes.
            Ok(id) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Self::After(EventId::from_row(id))
            }
            Ok(_) | Err(_) => Self::Unknown,
        })
    }
}

/// The places a request may name a start in.
#[derive(Debug)]
pub(super) struct Starts {
    /// These win: a client that reconnects adds them to the query it began with.
    pub(super) reconnects: Vec<Reconnect>,
    /// `last_event_id=`.
    pub(super) cursor: Option<Cursor>,
    /// `since=`.
    pub(super) since: Option<Start>,
    /// `last=`.
    pub(super) last: Option<Start>,
}

impl Starts {
    /// The one start that was meant; none is live from now.
    pub(super) fn choose(self) -> Result<Start, Problem> {
        for reconnect in self.reconnects {
            match reconnect {
                Reconnect::None => (),
                Reconnect::After(cursor) => return Ok(Start::After(cursor)),
                Reconnect::Unknown => return Ok(Start::Unknown),
            }
        }
        let cursor = self.cursor.and_then(|cursor| cursor.0).map(Start::After);
        let starts = [cursor, self.since, self.last];
        let starts: Vec<Start> = starts.into_iter().flatten().collect();
        match starts[..] {
            [] => Ok(Start::Live),
            [start] => Ok(start),
            _ => Err(Problem::new(
                Code::ConflictingStarts,
                "more than one start; give one of last_event_id, since and last",
            )),
        }
    }
}

/// The cursor that a request to follow came with, as the client wrote it.
pub(in crate::http) fn cursor_of(request: &Request) -> Option<String> {
    let header = reconnect_header(request.headers()).map(Cow::into_owned);
    let query = QueryValues(request.params().unwrap_or_default());
    let parameters = [
        RECONNECT_PARAMETERS[0],
        RECONNECT_PARAMETERS[1],
        "last_event_id",
    ];
    let parameters = parameters.iter().flat_map(|name| query.values(name));
    let cursors = header.into_iter().chain(parameters.map(str::to_owned));
    let mut cursors = cursors.map(|cursor| cursor.trim().to_owned());
    cursors.find(|cursor| !cursor.is_empty())
}
