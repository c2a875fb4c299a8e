//! What a client is told when it is refused: one shape, and the only table of codes and statuses.

use std::{fmt, marker::PhantomData, time::Duration};

use poem::{
    IntoResponse, Response,
    error::ResponseError,
    http::{HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiResponse,
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
};
use serde_json::json;

use crate::{
    db, hub,
    limits::{Limit, LimitHit},
};

/// Content type of a [`Problem`]. Source: RFC 9457.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// When a client that found the hub busy may try again.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);

/// When a client that found the hub draining may try again: by then another may run.
const DRAINING_RETRY_AFTER: Duration = Duration::from_secs(5);

/// What went wrong, in a word for programs. The words are part of the API and do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Code {
    InvalidJson,
    InvalidText,
    MissingField,
    UnknownField,
    InvalidField,
    InvalidTopic,
    InvalidType,
    InvalidKey,
    EmptyBatch,
    InvalidId,
    InvalidCursor,
    InvalidTime,
    InvalidLimit,
    InvalidOrder,
    InvalidFormat,
    InvalidParameter,
    UnknownParameter,
    ConflictingStarts,
    UnknownPath,
    UnknownEvent,
    UnknownTopic,
    MethodNotAllowed,
    RequestTimeout,
    KeyConflict,
    EventTooLarge,
    BatchTooLarge,
    UnsupportedContentType,
    TooManyConnectionsOfAddress,
    TooManyStreamsOfAddress,
    TooManyEventsOfAddress,
    Internal,
    TooManyConnections,
    Starting,
    Busy,
    Draining,
    LogBusy,
    CommitsFail,
    LogMoved,
    LogCorrupt,
    DiskFailed,
    CanaryLate,
    Stuck,
    DiskFull,
    ReadOnly,
}

impl Code {
    /// What one is told who hits a limit.
    pub(super) fn of(limit: Limit) -> Self {
        match limit {
            Limit::Connections => Self::TooManyConnections,
            Limit::ConnectionsOfAddress => Self::TooManyConnectionsOfAddress,
            Limit::StreamsOfAddress => Self::TooManyStreamsOfAddress,
            Limit::EventsOfAddress => Self::TooManyEventsOfAddress,
        }
    }

    /// The table: status, word, and what it means.
    const fn entry(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::InvalidJson => (
                StatusCode::BAD_REQUEST,
                "invalid_json",
                "the body is not JSON; the detail says where",
            ),
            Self::InvalidText => (
                StatusCode::BAD_REQUEST,
                "invalid_text",
                "the body is not UTF-8",
            ),
            Self::MissingField => (
                StatusCode::BAD_REQUEST,
                "missing_field",
                "a field that is needed is not there",
            ),
            Self::UnknownField => (
                StatusCode::BAD_REQUEST,
                "unknown_field",
                "there is a field that nobody knows",
            ),
            Self::InvalidField => (
                StatusCode::BAD_REQUEST,
                "invalid_field",
                "a field has another type of JSON",
            ),
            Self::InvalidTopic => (
                StatusCode::BAD_REQUEST,
                "invalid_topic",
                "a topic is out of rule",
            ),
            Self::InvalidType => (
                StatusCode::BAD_REQUEST,
                "invalid_type",
                "an event type is out of rule",
            ),
            Self::InvalidKey => (
                StatusCode::BAD_REQUEST,
                "invalid_key",
                "a key is out of rule",
            ),
            Self::EmptyBatch => (
                StatusCode::BAD_REQUEST,
                "empty_batch",
                "there is no event in the body",
            ),
            Self::InvalidId => (
                StatusCode::BAD_REQUEST,
                "invalid_id",
                "an id is not a whole number",
            ),
            Self::InvalidCursor => (
                StatusCode::BAD_REQUEST,
                "invalid_cursor",
                "a cursor is not a whole number",
            ),
            Self::InvalidTime => (
                StatusCode::BAD_REQUEST,
                "invalid_time",
                "a time cannot be read",
            ),
            Self::InvalidLimit => (
                StatusCode::BAD_REQUEST,
                "invalid_limit",
                "a limit is out of range",
            ),
            Self::InvalidOrder => (
                StatusCode::BAD_REQUEST,
                "invalid_order",
                "the order is neither asc nor desc",
            ),
            Self::InvalidFormat => (
                StatusCode::BAD_REQUEST,
                "invalid_format",
                "there is no such format",
            ),
            Self::InvalidParameter => (
                StatusCode::BAD_REQUEST,
                "invalid_parameter",
                "a parameter cannot be read",
            ),
            Self::UnknownParameter => (
                StatusCode::BAD_REQUEST,
                "unknown_parameter",
                "there is a query parameter that nobody knows; the detail says which there are",
            ),
            Self::ConflictingStarts => (
                StatusCode::BAD_REQUEST,
                "conflicting_starts",
                "more than one start was given",
            ),
            Self::UnknownPath => (
                StatusCode::NOT_FOUND,
                "unknown_path",
                "there is nothing at this path",
            ),
            Self::UnknownEvent => (
                StatusCode::NOT_FOUND,
                "unknown_event",
                "there is no event with this id, or no longer",
            ),
            Self::UnknownTopic => (
                StatusCode::NOT_FOUND,
                "unknown_topic",
                "there is no event on this topic, or no longer",
            ),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "the path has other methods; see `Allow`",
            ),
            Self::RequestTimeout => (
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                "the body took too long to arrive",
            ),
            Self::KeyConflict => (
                StatusCode::CONFLICT,
                "key_conflict",
                "the key was used for another event",
            ),
            Self::EventTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "event_too_large",
                "the data of an event is over 1 MiB, or what the hub is set to",
            ),
            Self::BatchTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "batch_too_large",
                "a batch is over 16 MiB or 10,000 events, or what the hub is set to",
            ),
            Self::UnsupportedContentType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_content_type",
                "the body is of a type that is not taken here",
            ),
            Self::TooManyConnectionsOfAddress => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_connections_of_address",
                "the address has as many connections as it may; try again after `Retry-After`",
            ),
            Self::TooManyStreamsOfAddress => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_streams_of_address",
                "the address has as many streams open as it may; try again after `Retry-After`",
            ),
            Self::TooManyEventsOfAddress => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_events_of_address",
                "the address publishes faster than it may; try again after `Retry-After`",
            ),
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the hub failed; its trace says why",
            ),
            Self::TooManyConnections => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_connections",
                "the hub has as many connections as it may; try again after `Retry-After`",
            ),
            Self::Starting => (
                StatusCode::SERVICE_UNAVAILABLE,
                "starting",
                "the hub is opening its file; try again after `Retry-After`",
            ),
            Self::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                "too many events wait; try again after `Retry-After`",
            ),
            Self::Draining => (
                StatusCode::SERVICE_UNAVAILABLE,
                "draining",
                "the hub is stopping; try again after `Retry-After`",
            ),
            Self::LogBusy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "log_busy",
                "another process holds the file; try again after `Retry-After`",
            ),
            Self::CommitsFail => (
                StatusCode::SERVICE_UNAVAILABLE,
                "commits_fail",
                "events cannot be stored; the detail says why",
            ),
            Self::LogMoved => (
                StatusCode::SERVICE_UNAVAILABLE,
                "log_moved",
                "the file was moved, deleted or replaced while the hub runs",
            ),
            Self::LogCorrupt => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "log_corrupt",
                "the file is damaged; `segno check` says where",
            ),
            Self::DiskFailed => (
                StatusCode::SERVICE_UNAVAILABLE,
                "disk_failed",
                "the disk did not read, write or sync; try again after `Retry-After`",
            ),
            Self::CanaryLate => (
                StatusCode::SERVICE_UNAVAILABLE,
                "canary_late",
                "what the hub published to itself did not come back in time",
            ),
            Self::Stuck => (
                StatusCode::SERVICE_UNAVAILABLE,
                "stuck",
                "nothing has come back for so long that only a restart will help",
            ),
            Self::DiskFull => (
                StatusCode::INSUFFICIENT_STORAGE,
                "disk_full",
                "there is no room to store the event",
            ),
            Self::ReadOnly => (
                StatusCode::INSUFFICIENT_STORAGE,
                "read_only",
                "the file may not be written",
            ),
        }
    }

    fn status(self) -> StatusCode {
        self.entry().0
    }

    /// The word.
    pub(super) fn as_str(self) -> &'static str {
        self.entry().1
    }

    fn retry_after(self) -> Option<Duration> {
        match self.status() {
            _ if self == Self::Draining => Some(DRAINING_RETRY_AFTER),
            StatusCode::SERVICE_UNAVAILABLE => Some(BUSY_RETRY_AFTER),
            _ => None,
        }
    }
}

/// What an answer that refuses carries for the figures and the traces.
#[derive(Debug, Clone)]
pub(super) struct ProblemCause {
    pub(super) code: Code,
    /// What the client is not told.
    pub(super) cause: Option<String>,
}

/// A refusal, on the wire as RFC 9457 `application/problem+json`.
///
/// Shape: `{"title":"Bad Request","status":400,"code":"invalid_topic","detail":"…"}`. `code` is for programs, `detail` says
/// to a person what to do. Each with the status 503, and the limits, `too_many_…`, come with `Retry-After`, in seconds; limits have
/// their value beside the code, as `"limit":10000`.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    code: Code,
    detail: String,
    allow: Option<String>,
    limit: Option<u32>,
    retry_after: Option<Duration>,
    /// What is for the traces alone.
    cause: Option<String>,
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl fmt::Display) -> Self {
        Self {
            code,
            detail: detail.to_string(),
            allow: None,
            limit: None,
            retry_after: code.retry_after(),
            cause: None,
        }
    }

    /// The path has other methods, `allow` of them.
    pub(crate) fn method_not_allowed(allow: String) -> Self {
        let detail = format!("this path takes {allow}");
        Self {
            allow: Some(allow),
            ..Self::new(Code::MethodNotAllowed, detail)
        }
    }

    /// The same, with the place where it was found.
    pub(crate) fn at(mut self, place: impl fmt::Display) -> Self {
        self.detail = format!("{place}: {}", self.detail);
        self
    }

    /// Keeps `error` with its causes for the traces, and from the client.
    fn because(self, error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = std::iter::successors(Some(error), |error| error.source());
        let causes: Vec<_> = causes.map(ToString::to_string).collect();
        Self {
            cause: Some(causes.join(": ")),
            ..self
        }
    }

    /// The body of the answer.
    pub(crate) fn to_json(&self) -> String {
        let status = self.code.status();
        let mut problem = json!({
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "code": self.code.as_str(),
            "detail": self.detail,
        });
        if let Some(limit) = self.limit {
            problem["limit"] = limit.into();
        }
        problem.to_string()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        self.code.status()
    }

    fn as_response(&self) -> Response {
        let mut response = Response::builder()
            .status(self.status())
            .content_type(PROBLEM_JSON)
            .body(self.to_json());
        response.extensions_mut().insert(ProblemCause {
            code: self.code,
            cause: self.cause.clone(),
        });
        if let Some(wait) = self.retry_after {
            // Whole seconds, and not a moment too early.
            let seconds = wait.as_millis().div_ceil(1000);
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX).max(1);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(allow) = self
            .allow
            .as_ref()
            .and_then(|allow| HeaderValue::from_str(allow).ok())
        {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }
}

impl From<&db::Error> for Problem {
    fn from(error: &db::Error) -> Self {
        match error {
            db::Error::Full(_) => {
                Self::new(Code::DiskFull, "the disk is full; nothing was stored")
            }
            db::Error::ReadOnly(_) => Self::new(
                Code::ReadOnly,
                "the file may not be written; nothing was stored",
            ),
            db::Error::Busy(_) => Self::new(
                Code::LogBusy,
                "another process holds the file; nothing was stored",
            ),
            db::Error::Moved(_) => Self::new(
                Code::LogMoved,
                "the file was moved, deleted or replaced while the hub runs; nothing was stored. Put that very file back, or \
                 stop the hub, look what is there, and start it",
            ),
            db::Error::Corrupt(_) => Self::new(
                Code::LogCorrupt,
                "the file is damaged, here at least: `segno check` says where, `segno restore` puts a backup in its place. \
                 Nothing was stored",
            )
            .because(error),
            db::Error::Disk(_) => Self::new(
                Code::DiskFailed,
                "the disk did not read, write or sync. What was to be stored counts as refused, but a crash of the machine \
                 may bring it back: send it again with a key, and it is one event",
            )
            .because(error),
            db::Error::Other(_) => {
                Self::new(Code::Internal, "internal error").because(error)
            }
        }
    }
}

impl From<db::Error> for Problem {
    fn from(error: db::Error) -> Self {
        Self::from(&error)
    }
}

impl From<hub::PublishError> for Problem {
    fn from(error: hub::PublishError) -> Self {
        match &error {
            hub::PublishError::Busy(_) => Self::new(
                Code::Busy,
                format_args!("{error}, as --max-queue and --max-queue-bytes say"),
            ),
            hub::PublishError::Draining => Self::new(Code::Draining, error),
            hub::PublishError::KeyConflict(conflict) => Self::new(Code::KeyConflict, conflict),
            hub::PublishError::Log(log_error) => Self::from(&**log_error),
        }
    }
}

impl From<LimitHit> for Problem {
    fn from(hit: LimitHit) -> Self {
        Self {
            limit: Some(hit.max),
            retry_after: Some(hit.retry_after),
            ..Self::new(Code::of(hit.limit), hit)
        }
    }
}

impl From<hub::WorkError> for Problem {
    fn from(error: hub::WorkError) -> Self {
        match &error {
            hub::WorkError::Draining => Self::new(Code::Draining, error),
            hub::WorkError::Log(log_error) => Self::from(&**log_error),
        }
    }
}

impl From<hub::SubscribeError> for Problem {
    fn from(error: hub::SubscribeError) -> Self {
        match &error {
            hub::SubscribeError::Draining => Self::new(Code::Draining, error),
            hub::SubscribeError::Log(log_error) => Self::from(log_error),
        }
    }
}

impl From<hub::NotReady> for Problem {
    fn from(error: hub::NotReady) -> Self {
        match &error {
            hub::NotReady::Draining => Self::new(Code::Draining, error),
            hub::NotReady::Busy => Self::new(Code::Busy, error),
            hub::NotReady::Late(_) => Self::new(Code::CanaryLate, error),
            hub::NotReady::CommitsFail(_) => Self::new(Code::CommitsFail, error),
        }
    }
}

/// What poem itself refused, told in our shape.
pub(crate) fn translate(status: StatusCode, text: &str, allow: Option<String>) -> Problem {
    match status {
        StatusCode::NOT_FOUND => Problem::new(
            Code::UnknownPath,
            "there is nothing at this path; /docs lists what there is",
        ),
        StatusCode::METHOD_NOT_ALLOWED => Problem::method_not_allowed(allow.unwrap_or_default()),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(Code::UnsupportedContentType, text),
        status if status.is_client_error() => Problem::new(Code::InvalidParameter, text),
        _ => Problem {
            cause: Some(text.into()),
            ..Problem::new(Code::Internal, "internal error")
        },
    }
}

/// What any request may be refused with: its connection has no place, or it has a parameter that nobody knows.
const EVERYWHERE: [Code; 3] = [
    Code::TooManyConnectionsOfAddress,
    Code::TooManyConnections,
    Code::UnknownParameter,
];

/// The codes an operation may refuse with, for its documentation, beside those of [`EVERYWHERE`].
pub(crate) trait Codes {
    const CODES: &'static [Code];
}

/// A [`Problem`] of the operation `O`.
#[derive(Debug)]
pub(crate) struct ProblemOf<O> {
    problem: Problem,
    operation: PhantomData<fn() -> O>,
}

impl<O, E: Into<Problem>> From<E> for ProblemOf<O> {
    fn from(error: E) -> Self {
        Self {
            problem: error.into(),
            operation: PhantomData,
        }
    }
}

impl<O> From<ProblemOf<O>> for poem::Error {
    fn from(refused: ProblemOf<O>) -> Self {
        refused.problem.into()
    }
}

impl<O: Codes> ApiResponse for ProblemOf<O> {
    fn meta() -> MetaResponses {
        let codes = [O::CODES, &EVERYWHERE].concat();
        let mut statuses: Vec<StatusCode> = codes.iter().map(|code| code.status()).collect();
        statuses.sort();
        statuses.dedup();
        MetaResponses {
            responses: statuses
                .into_iter()
                .map(|status| describe(status, &codes))
                .collect(),
        }
    }

    fn register(registry: &mut Registry) {
        registry.create_schema::<Problem, _>("Problem".into(), |_| problem_schema());
    }
}

fn describe(status: StatusCode, codes: &[Code]) -> MetaResponse {
    let of_status = codes.iter().filter(|code| code.status() == status);
    let lines: Vec<_> = of_status
        .map(|code| format!("`{}`: {}", code.as_str(), code.entry().2))
        .collect();
    MetaResponse {
        // Made once for each run, when the document is built.
        description: lines.join("; ").leak(),
        status: Some(status.as_u16()),
        status_range: None,
        content: vec![MetaMediaType {
            content_type: PROBLEM_JSON,
            schema: MetaSchemaRef::Reference("Problem".into()),
        }],
        headers: vec![],
    }
}

fn problem_schema() -> MetaSchema {
    let field = |ty, description, example: serde_json::Value| {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            description: Some(description),
            example: Some(example),
            ..MetaSchema::new(ty)
        }))
    };
    MetaSchema {
        description: Some("A refusal, as RFC 9457 has it."),
        required: vec!["title", "status", "code", "detail"],
        properties: vec![
            (
                "title",
                field("string", "The status in words.", json!("Bad Request")),
            ),
            ("status", field("integer", "The status.", json!(400))),
            (
                "code",
                field(
                    "string",
                    "What went wrong, for programs. The codes do not change.",
                    json!("invalid_topic"),
                ),
            ),
            (
                "detail",
                field(
                    "string",
                    "What went wrong and what to do, for people.",
                    json!("topic: it is empty"),
                ),
            ),
            (
                "limit",
                field(
                    "integer",
                    "The value of the limit that was hit, where the code says `too_many_…`.",
                    json!(10_000),
                ),
            ),
        ],
        ..MetaSchema::new("object")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.as_response()
    }
}
