//! Refusals: one shape, and the only table of codes and statuses.

mod of_hub;

use std::{fmt, marker::PhantomData, net::IpAddr, sync::Arc, time::Duration};

use poem::{
    IntoResponse, Response,
    error::ResponseError,
    http::{HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiResponse, Object,
    registry::{MetaMediaType, MetaResponse, MetaResponses, Registry},
    types::{Example, Type},
};
use serde::Serialize;

use crate::{
    event::InvalidKey,
    filter::FilterTooLarge,
    limits::{Limit, LimitHit},
};

/// Content type of a [`Problem`]. Source: RFC 9457.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// When a client that found the hub busy may try again.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);

/// When a client that found the hub draining may try again: by then another may run.
const DRAINING_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Makes [`Code`] of a table: its variant, status, word, and what it means, which the OpenAPI document says of it.
macro_rules! codes {
    ($($code:ident, $status:ident, $word:literal, $meaning:literal;)*) => {
        /// What went wrong, in a word for programs. The words are part of the API and do not change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Code {
            $($code,)*
        }

        impl Code {
            const ALL: &[Self] = &[$(Self::$code,)*];

            const fn entry(self) -> (StatusCode, &'static str, &'static str) {
                match self {
                    $(Self::$code => (StatusCode::$status, $word, $meaning),)*
                }
            }
        }
    };
}

codes! {
    InvalidJson, BAD_REQUEST, "invalid_json", "the body is not JSON; the detail says where";
    InvalidText, BAD_REQUEST, "invalid_text", "the body is not UTF-8 text";
    MissingField, BAD_REQUEST, "missing_field", "a required field is missing";
    UnknownField, BAD_REQUEST, "unknown_field", "an object has an unknown field";
    InvalidField, BAD_REQUEST, "invalid_field", "a field has the wrong type of JSON value";
    InvalidTopic, BAD_REQUEST, "invalid_topic", "a topic breaks the rule for topics; the detail says how";
    InvalidType, BAD_REQUEST, "invalid_type", "an event type breaks the rule for types; the detail says how";
    InvalidKey, BAD_REQUEST, "invalid_key", "a key breaks the rule for keys; the detail says how";
    EmptyBatch, BAD_REQUEST, "empty_batch", "the body has no event";
    DataTooDeep, BAD_REQUEST, "data_too_deep", "data has more than 1,000 levels of arrays and objects";
    InvalidId, BAD_REQUEST, "invalid_id", "an id is not a whole number";
    InvalidCursor, BAD_REQUEST, "invalid_cursor", "a cursor is not a whole number";
    InvalidTime, BAD_REQUEST, "invalid_time", "a time is neither an age such as 15m nor RFC 3339";
    InvalidLimit, BAD_REQUEST, "invalid_limit", "a limit is not a whole number in its range";
    InvalidOrder, BAD_REQUEST, "invalid_order", "the order is neither asc nor desc";
    FilterTooLarge, BAD_REQUEST, "filter_too_large", "the filter has too many topics, types or wildcards";
    InvalidFormat, BAD_REQUEST, "invalid_format", "the format is unknown";
    InvalidHeader, BAD_REQUEST, "invalid_header", "a header cannot be read, or is given more than once";
    InvalidHost, BAD_REQUEST, "invalid_host", "an HTTP/1.1 request has no `Host` header, or more than one, or one that is not ASCII";
    TlsRequired, BAD_REQUEST, "tls_required", "the hub speaks TLS at this port; use `https://`";
    InvalidEncoding, BAD_REQUEST, "invalid_encoding", "the body is not what its `Content-Encoding` says";
    InvalidParameter, BAD_REQUEST, "invalid_parameter", "a parameter cannot be read";
    UnknownParameter, BAD_REQUEST, "unknown_parameter", "a query parameter is unknown; the detail lists those of the operation";
    ConflictingStarts, BAD_REQUEST, "conflicting_starts", "the query has more than one start";
    CredentialMissing, UNAUTHORIZED, "credential_missing", "the operation needs a credential, and the request shows none";
    CredentialInvalid, UNAUTHORIZED, "credential_invalid", "the credential is refused; the detail says why";
    NotAllowed, FORBIDDEN, "not_allowed", "the credential lacks a right; the detail names it";
    CrossSite, FORBIDDEN, "cross_site", "a page of another site may not change anything here; see `--cors-origin`";
    WrongHost, MISDIRECTED_REQUEST, "wrong_host", "the name in `Host` may be anybody's; see `--public-url`";
    UnknownPath, NOT_FOUND, "unknown_path", "no such path";
    UnknownEvent, NOT_FOUND, "unknown_event", "no event has this id, or it was trimmed";
    UnknownTopic, NOT_FOUND, "unknown_topic", "no stored event has this topic";
    NotAcceptable, NOT_ACCEPTABLE, "not_acceptable", "`Accept` names no form that there is; the detail lists them";
    MethodNotAllowed, METHOD_NOT_ALLOWED, "method_not_allowed", "the path has other methods; see `Allow`";
    RequestTimeout, REQUEST_TIMEOUT, "request_timeout", "the body did not arrive in time";
    KeyConflict, CONFLICT, "key_conflict", "the key was used on this topic for an event with other content";
    EventTooLarge, PAYLOAD_TOO_LARGE, "event_too_large", "an event is larger than `--max-event-bytes` (at most 1 MiB)";
    BatchTooLarge, PAYLOAD_TOO_LARGE, "batch_too_large", "a batch is over `--max-batch-bytes` (at most 16 MiB) or `--max-batch-events` (at most 10,000)";
    UnsupportedContentType, UNSUPPORTED_MEDIA_TYPE, "unsupported_content_type", "the operation does not take this media type";
    UnsupportedContentEncoding, UNSUPPORTED_MEDIA_TYPE, "unsupported_content_encoding", "the operation takes the content encodings of `Accept-Encoding` only";
    TooManyConnectionsOfAddress, TOO_MANY_REQUESTS, "too_many_connections_of_address", "the address reached its limit of connections; try again after `Retry-After`";
    FiltersOfAddressTooLarge, TOO_MANY_REQUESTS, "filters_of_address_too_large", "the streams of the address have too many topics and types in their filters; ask for fewer, or use patterns";
    TooManyStreamsOfAddress, TOO_MANY_REQUESTS, "too_many_streams_of_address", "the address reached its limit of open streams; try again after `Retry-After`";
    TooManyEventsOfAddress, TOO_MANY_REQUESTS, "too_many_events_of_address", "the address publishes above its rate; try again after `Retry-After`";
    TooManyStreamsOfCaller, TOO_MANY_REQUESTS, "too_many_streams_of_caller", "the caller reached its limit of open streams, `streams` in the access file; try again after `Retry-After`";
    TooManyEventsOfCaller, TOO_MANY_REQUESTS, "too_many_events_of_caller", "the caller publishes above its rate, `rate` in the access file; try again after `Retry-After`";
    TooManyBodyBytesOfAddress, TOO_MANY_REQUESTS, "too_many_body_bytes_of_address", "the address has a quarter of `--max-body-memory` in unfinished requests; try again after `Retry-After`";
    Internal, INTERNAL_SERVER_ERROR, "internal", "the hub failed; its log says why";
    TooManyConnections, SERVICE_UNAVAILABLE, "too_many_connections", "the hub reached its limit of connections; try again after `Retry-After`";
    TooManyBodyBytes, SERVICE_UNAVAILABLE, "too_many_body_bytes", "unfinished requests fill `--max-body-memory`; try again after `Retry-After`";
    Starting, SERVICE_UNAVAILABLE, "starting", "the hub is opening its file; try again after `Retry-After`";
    Busy, SERVICE_UNAVAILABLE, "busy", "the publish queue is full; try again after `Retry-After`";
    Draining, SERVICE_UNAVAILABLE, "draining", "the hub is stopping; try again after `Retry-After`";
    LogBusy, SERVICE_UNAVAILABLE, "log_busy", "another process holds the file; try again after `Retry-After`";
    CommitsFail, SERVICE_UNAVAILABLE, "commits_fail", "the last commits failed; the detail says why";
    LogMoved, SERVICE_UNAVAILABLE, "log_moved", "the file was moved, deleted or replaced while the hub runs";
    Unordered, SERVICE_UNAVAILABLE, "unordered", "the cluster puts nothing in order now, or this hub does not follow it any more; nothing was stored";
    OutcomeUnknown, SERVICE_UNAVAILABLE, "outcome_unknown", "the cluster did not say in time whether it was stored; send it again with the same key";
    NotJoined, SERVICE_UNAVAILABLE, "not_joined", "the hub is behind its cluster, or apart from it; the detail says why";
    CommandTooLarge, PAYLOAD_TOO_LARGE, "command_too_large", "the events are more than `max_payload` of the servers that order the cluster";
    LogChanged, SERVICE_UNAVAILABLE, "log_changed", "another program changed the file while the hub runs";
    LogCorrupt, INTERNAL_SERVER_ERROR, "log_corrupt", "the file is damaged; `segno check` says where";
    DiskFailed, SERVICE_UNAVAILABLE, "disk_failed", "the disk failed to read, write or sync; try again after `Retry-After`";
    CanaryLate, SERVICE_UNAVAILABLE, "canary_late", "the writer did not answer the hub's own ping in time";
    Stuck, SERVICE_UNAVAILABLE, "stuck", "the writer stopped working; restart the hub";
    DiskFull, INSUFFICIENT_STORAGE, "disk_full", "the disk is full";
    IdsExhausted, INSUFFICIENT_STORAGE, "ids_exhausted", "the last id there can be was given";
    ReadOnly, INSUFFICIENT_STORAGE, "read_only", "the file cannot be written";
}

/// Every code, as its status, its word and what it means.
pub fn codes() -> impl Iterator<Item = (u16, &'static str, &'static str)> {
    Code::ALL.iter().map(|code| {
        let (status, word, meaning) = code.entry();
        (status.as_u16(), word, meaning)
    })
}

impl Code {
    /// The code of a limit.
    pub(super) fn of(limit: Limit) -> Self {
        match limit {
            Limit::Connections => Self::TooManyConnections,
            Limit::ConnectionsOfAddress => Self::TooManyConnectionsOfAddress,
            Limit::StreamsOfAddress => Self::TooManyStreamsOfAddress,
            Limit::FilterBytesOfAddress => Self::FiltersOfAddressTooLarge,
            Limit::EventsOfAddress => Self::TooManyEventsOfAddress,
            Limit::StreamsOfCaller => Self::TooManyStreamsOfCaller,
            Limit::EventsOfCaller => Self::TooManyEventsOfCaller,
            Limit::BodyBytes => Self::TooManyBodyBytes,
            Limit::BodyBytesOfAddress => Self::TooManyBodyBytesOfAddress,
        }
    }

    pub(super) fn status(self) -> StatusCode {
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

/// What a refusal carries for metrics and log lines.
#[derive(Debug, Clone)]
pub(super) struct ProblemCause {
    pub(super) code: Code,
    /// What the client is not told.
    pub(super) cause: Option<String>,
    pub(super) caller: Option<Arc<RefusedCaller>>,
}

/// Whose credential is refused, or not enough.
#[derive(Debug)]
pub(super) struct RefusedCaller {
    pub(super) address: IpAddr,
    /// The name of the token or the subject, where that is sure.
    pub(super) name: Option<String>,
    /// What the caller is told.
    pub(super) detail: String,
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
    allow: Option<Box<str>>,
    /// The value of `WWW-Authenticate`.
    challenge: Option<Box<str>>,
    limit: Option<u32>,
    retry_after: Option<Duration>,
    /// For log lines alone.
    cause: Option<String>,
    caller: Option<Arc<RefusedCaller>>,
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl fmt::Display) -> Self {
        Self {
            code,
            detail: detail.to_string(),
            allow: None,
            challenge: None,
            limit: None,
            retry_after: code.retry_after(),
            cause: None,
            caller: None,
        }
    }

    /// The same, with whose credential it is about, for the log.
    pub(super) fn of_caller(self, address: IpAddr, name: Option<String>) -> Self {
        let detail = self.detail.clone();
        let caller = RefusedCaller {
            address,
            name,
            detail,
        };
        Self {
            caller: Some(Arc::new(caller)),
            ..self
        }
    }

    /// The path has other methods, `allow` of them. `advice` says what may have been meant.
    pub(crate) fn method_not_allowed(allow: String, advice: &str) -> Self {
        let detail = format!("this path has the methods {allow}{advice}");
        Self {
            allow: Some(allow.into()),
            ..Self::new(Code::MethodNotAllowed, detail)
        }
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> Code {
        self.code
    }

    /// The whole in one line, for people.
    pub(super) fn in_words(&self) -> String {
        format!("{} ({})", self.detail, self.code.as_str())
    }

    /// The same, with what it says of credentials in `WWW-Authenticate`.
    pub(super) fn challenging(self, challenge: String) -> Self {
        Self {
            challenge: Some(challenge.into()),
            ..self
        }
    }

    /// The same, with the place where it was found.
    pub(crate) fn at(mut self, place: impl fmt::Display) -> Self {
        self.detail = format!("{place}: {}", self.detail);
        self
    }

    /// Keeps `error` with its causes for the log, and from the client.
    pub(super) fn because(self, error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = std::iter::successors(Some(error), |error| error.source());
        let causes: Vec<_> = causes.map(ToString::to_string).collect();
        Self {
            cause: Some(causes.join(": ")),
            ..self
        }
    }

    /// The body of the answer.
    pub(crate) fn to_json(&self) -> String {
        let problem = ProblemJson::from(self);
        serde_json::to_string(&problem).expect("a problem always serializes into memory")
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
            .body(self.to_json() + "\n");
        response.extensions_mut().insert(ProblemCause {
            code: self.code,
            cause: self.cause.clone(),
            caller: self.caller.clone(),
        });
        if self.code == Code::UnsupportedContentEncoding {
            let supported = HeaderValue::from_static("gzip, deflate");
            response
                .headers_mut()
                .insert(header::ACCEPT_ENCODING, supported);
        }
        if let Some(wait) = self.retry_after {
            // Whole seconds, and not a moment too early.
            let seconds = wait.as_millis().div_ceil(1000);
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX).max(1);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(challenge) = self
            .challenge
            .as_ref()
            .and_then(|challenge| HeaderValue::from_str(challenge).ok())
        {
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, challenge);
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

impl From<InvalidKey> for Problem {
    fn from(error: InvalidKey) -> Self {
        Self::new(Code::InvalidKey, error)
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

impl From<FilterTooLarge> for Problem {
    fn from(error: FilterTooLarge) -> Self {
        Self::new(Code::FilterTooLarge, error)
    }
}

/// A refusal of poem's own, in our shape.
pub(crate) fn translate(status: StatusCode, text: &str, allow: Option<String>) -> Problem {
    match status {
        StatusCode::NOT_FOUND => Problem::new(
            Code::UnknownPath,
            "no such path; publish with POST /events or /topics/{topic}, follow with GET /sse; see /docs",
        ),
        StatusCode::METHOD_NOT_ALLOWED => {
            Problem::method_not_allowed(allow.unwrap_or_default(), text)
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(Code::UnsupportedContentType, text),
        status if status.is_client_error() => Problem::new(Code::InvalidParameter, text),
        _ => Problem {
            cause: Some(text.into()),
            ..Problem::new(Code::Internal, "internal error")
        },
    }
}

/// Refusals that any request may get.
const EVERYWHERE: [Code; 8] = [
    Code::InvalidHost,
    Code::TlsRequired,
    Code::WrongHost,
    Code::CrossSite,
    Code::TooManyConnectionsOfAddress,
    Code::TooManyConnections,
    Code::InvalidParameter,
    Code::UnknownParameter,
];

/// What a request may be refused with wherever a right is needed.
const RIGHTS: [Code; 3] = [
    Code::CredentialMissing,
    Code::CredentialInvalid,
    Code::NotAllowed,
];

/// The codes an operation may refuse with, for its documentation, beside those of [`EVERYWHERE`].
pub(crate) trait Codes {
    const CODES: &'static [Code];
    /// Those about credentials: none where everybody is let in.
    const RIGHTS: &'static [Code] = &RIGHTS;
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
        let codes = [O::CODES, &EVERYWHERE, O::RIGHTS].concat();
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
        ProblemJson::register(registry);
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
            schema: ProblemJson::schema_ref(),
        }],
        headers: vec![],
    }
}

/// An example of what `description` tells first, one of those that [`ProblemOf`] makes; none if it is another.
pub(super) fn example_of(description: &str) -> Option<serde_json::Value> {
    let word = description.strip_prefix('`')?.split('`').next()?;
    let code = Code::ALL.iter().find(|code| code.as_str() == word)?;
    let mut problem = Problem::new(*code, code.entry().2);
    problem.limit = word.starts_with("too_many_").then_some(1000);
    serde_json::to_value(ProblemJson::from(&problem)).ok()
}

/// A refusal, as RFC 9457 has it.
#[derive(Serialize, Object)]
#[oai(rename = "Problem", example)]
struct ProblemJson {
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// What went wrong, for programs. The codes do not change.
    code: String,
    /// What went wrong and what to do, for people.
    detail: String,
    /// The value of the limit that was reached, where the code is `too_many_…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    limit: Option<u32>,
}

impl From<&Problem> for ProblemJson {
    fn from(problem: &Problem) -> Self {
        let status = problem.code.status();
        Self {
            title: status.canonical_reason().unwrap_or_default().into(),
            status: status.as_u16(),
            code: problem.code.as_str().into(),
            detail: problem.detail.clone(),
            limit: problem.limit,
        }
    }
}

impl Example for ProblemJson {
    fn example() -> Self {
        Self::from(&Problem::new(Code::InvalidTopic, "topic: it is empty"))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.as_response()
    }
}
