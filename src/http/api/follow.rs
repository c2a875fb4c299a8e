//! `GET /sse`: replay, then live, as a stream of server-sent events.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use poem::{
    Body, IntoResponse, Request, Response,
    http::{HeaderName, HeaderValue, header},
};
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Header, Query},
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
};
use tokio::time::{Instant, Sleep};

use super::{
    Api, Tag, filter,
    parameter::{Checked, Cursor, Newest, Parameter, Since, TopicPattern, TypePattern, optional},
};
use crate::http::{
    answer::Answer,
    caller::Caller,
    credential,
    frame::{self, Format},
    problem::{Code, Codes, Problem, ProblemOf},
    refused_stream::RefusedStream,
};
use crate::{
    auth::Pass,
    event::EventId,
    filter::Filter,
    hub::{Batch, Delivery, Start, Subscription},
    limits::StreamPermit,
};

/// Content type of a stream. Clients built on Python's `requests` read Latin-1 without the charset.
const CONTENT_TYPE: &str = "text/event-stream; charset=utf-8";

/// How soon a client comes back after a cut: about 2 s, spread so that they do not come together.
const RETRY: std::ops::Range<u64> = 1500..2500;

/// How soon a client comes back after the hub has ended its stream: spread over a few seconds, because all streams end at
/// once and the next hub needs a moment to start.
const FAREWELL_RETRY: std::ops::Range<u64> = 1000..5000;

pub(in crate::http) fn spread(millis: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(fastrand::u64(millis))
}

impl Parameter for Format {
    fn schema() -> MetaSchema {
        MetaSchema {
            enum_items: vec!["data".into(), "event".into()],
            default: Some("data".into()),
            ..MetaSchema::new("string")
        }
    }

    fn read(text: &str) -> Result<Self, Problem> {
        match text {
            "data" => Ok(Self::Data),
            "event" => Ok(Self::Event),
            _ => Err(Problem::new(
                Code::InvalidFormat,
                format_args!("format '{text}': it is data or event"),
            )),
        }
    }
}

/// The header with a client's cursor. Source: WHATWG HTML, 9.2.4.
const LAST_EVENT_ID: &str = "last-event-id";

/// Query parameters that polyfills of `EventSource` use in its place.
const RECONNECT_PARAMETERS: [&str; 2] = ["lastEventId", "Last-Event-ID"];

/// The operation that follows.
#[derive(Clone)]
pub(in crate::http) struct FollowApi(pub(in crate::http) Api);

#[OpenApi]
impl FollowApi {
    /// Follow events
    ///
    /// First everything after the start, then live, with no seam. The start is the header `Last-Event-ID` (or what polyfills put
    /// into the query in its place), else one of `last_event_id`, `since` and `last`, else now. A subscriber that comes back
    /// with the id of the last event it has gets every later one that matches, once, in order.
    #[oai(
        path = "/sse",
        method = "get",
        tag = "Tag::Stream",
        operation_id = "follow"
    )]
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a parameter of the request"
    )]
    async fn follow(
        &self,
        /// Topics to follow; all if not given. `*` stands for any characters but `.` and `/`, `**` for any at all.
        topic: Query<Vec<Checked<TopicPattern>>>,
        /// Types to follow; all if not given. Patterns as for topics.
        #[oai(name = "type")]
        event_type: Query<Vec<Checked<TypePattern>>>,
        /// The id of the last event you have. Browsers send it by themselves when they reconnect. Wins over the query. Never refused:
        /// where it is no id of this hub, the stream begins with a `segno.gap`.
        #[oai(name = "Last-Event-ID")]
        last_event_id_header: Header<Option<Checked<Reconnect>>>,
        /// The same for clients that cannot send headers.
        last_event_id: Query<Option<Checked<Cursor>>>,
        /// What polyfills of `EventSource` add to the address when they reconnect. Counts as the header does.
        #[oai(name = "lastEventId", deprecated)]
        last_event_id_camel: Query<Option<Checked<Reconnect>>>,
        /// As `lastEventId`.
        #[oai(name = "Last-Event-ID", deprecated)]
        last_event_id_kebab: Query<Option<Checked<Reconnect>>>,
        /// Events of this time or later: `15m` ago, an RFC 3339 time, or `start` for all that is kept.
        since: Query<Option<Checked<Since>>>,
        /// The newest N that match.
        last: Query<Option<Checked<Newest>>>,
        /// What `data:` holds: the event's data, or the whole event, then without `event:` beside it.
        format: Query<Option<Checked<Format>>>,
        /// A ticket, for a page, which can set no header. Read with the request, and not by this.
        #[oai(name = "ticket")]
        _ticket: Query<Option<String>>,
        request: &Request,
    ) -> Result<Following, ProblemOf<Subscribing>> {
        let query = FollowQuery {
            topics: topic.0,
            types: event_type.0,
            reconnects: [
                last_event_id_header.0,
                last_event_id_camel.0,
                last_event_id_kebab.0,
            ],
            last_event_id: last_event_id.0,
            since: since.0,
            last: last.0,
            format: format.0,
        };
        Ok(self.begin(query, Caller::of(request)).await?)
    }
}

impl FollowApi {
    /// `GET /sse` as the routes answer it, without the layers between, and with the stream still a stream.
    pub(in crate::http) async fn answer_follow(&self, request: Request) -> Answer {
        let caller = Caller::of(&request).clone();
        let query = FollowQuery::of(&request);
        let refused_stream = RefusedStream::of(&request);
        // It holds the buffer that the connection reads into; a stream lasts for hours.
        drop(request);
        let following = match query {
            Ok(query) => self.begin(query, &caller).await,
            Err(problem) => Err(problem),
        };
        match (following, refused_stream) {
            (Ok(following), _) => following.into(),
            (Err(problem), Some(stream)) => stream.answer(&problem).into(),
            (Err(problem), None) => problem.into_response().into(),
        }
    }

    /// Begins the stream that `query` asks for.
    async fn begin(&self, query: FollowQuery, caller: &Caller) -> Result<Following, Problem> {
        let filter = caller.reads(filter(query.topics, query.types)?)?;
        let format = optional(query.format)?.unwrap_or_default();
        let reconnects = query.reconnects.into_iter().flatten();
        let starts = Starts {
            reconnects: reconnects.map(Checked::get).collect::<Result<_, _>>()?,
            cursor: optional(query.last_event_id)?,
            since: optional(query.since)?.map(|since| since.0),
            last: optional(query.last)?.map(|newest| Start::Last(newest.0)),
        };
        let start = starts.choose()?;
        let access = &self.0.settings.access;
        let pass = access.pass(caller.identity());
        let pass = pass.map_err(|reason| credential::refused(&reason))?;
        let permit = caller.open_stream(&filter)?;
        let address = caller.address;
        let subscription = self.0.hub.subscribe(filter, start, address).await?;
        Ok(Following {
            stream: EventStream::new(subscription, format, self.0.settings.heartbeat),
            permit,
            pass,
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
    pub(super) format: Option<Checked<Format>>,
}

impl FollowQuery {
    /// Reads what poem-openapi would read for the operation `follow`.
    pub(super) fn of(request: &Request) -> Result<Self, Problem> {
        let query = QueryValues(
            request
                .params()
                .map_err(|error| Problem::new(Code::InvalidParameter, error))?,
        );
        let header = request.headers().get(LAST_EVENT_ID);
        let header = header.map(|cursor| String::from_utf8_lossy(cursor.as_bytes()));
        Ok(Self {
            topics: query.all("topic"),
            types: query.all("type"),
            reconnects: [
                header.map(|cursor| Checked::read(&cursor)),
                query.first(RECONNECT_PARAMETERS[0]),
                query.first(RECONNECT_PARAMETERS[1]),
            ],
            last_event_id: query.first("last_event_id"),
            since: query.first("since"),
            last: query.first("last"),
            format: query.first("format"),
        })
    }
}

/// Names and values of a query.
struct QueryValues(Vec<(String, String)>);

impl QueryValues {
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let of_name = self.0.iter().filter(move |(other, _)| other == name);
        of_name.map(|(_, value)| value.as_str())
    }

    fn first<T: Parameter>(&self, name: &str) -> Option<Checked<T>> {
        self.values(name).next().map(Checked::read)
    }

    fn all<T: Parameter>(&self, name: &str) -> Vec<Checked<T>> {
        self.values(name).map(Checked::read).collect()
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
struct Starts {
    /// These win: a client that reconnects adds them to the query it began with.
    reconnects: Vec<Reconnect>,
    /// `last_event_id=`.
    cursor: Option<Cursor>,
    /// `since=`.
    since: Option<Start>,
    /// `last=`.
    last: Option<Start>,
}

impl Starts {
    /// The one start that was meant; none is live from now.
    fn choose(self) -> Result<Start, Problem> {
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

/// What a stream is of. Streams of one kind that have the same cursor are sent the same bytes from there on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct StreamKind {
    filter: Arc<Filter>,
    format: Format,
}

/// What is sent to a subscriber, or to several that have the same cursor.
#[derive(Debug)]
pub(crate) struct EventStream {
    subscription: Subscription,
    format: Format,
    heartbeat: Duration,
    /// The cursor the client has.
    told: EventId,
    stage: Stage,
    quiet: Pin<Box<Sleep>>,
    last_sent: Instant,
    /// Events that were rendered and not yet [counted](Self::count_delivery).
    rendered_events: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opening,
    Following,
    Ended,
}

impl EventStream {
    pub(super) fn new(subscription: Subscription, format: Format, heartbeat: Duration) -> Self {
        let now = Instant::now();
        Self {
            told: subscription.cursor(),
            subscription,
            format,
            heartbeat,
            stage: Stage::Opening,
            quiet: Box::pin(tokio::time::sleep_until(now + heartbeat)),
            last_sent: now,
            rendered_events: 0,
        }
    }

    /// Another stream, for the subscriber at `address`, that goes on where this one is.
    pub(crate) fn fork(&self, address: SocketAddr) -> Self {
        Self {
            told: self.told,
            stage: self.stage,
            ..Self::new(self.subscription.fork(address), self.format, self.heartbeat)
        }
    }

    /// Where the subscriber is that it was made for.
    pub(crate) fn address(&self) -> SocketAddr {
        self.subscription.address()
    }

    /// Counts what was rendered last, `bytes` in all, as handed to `sockets` sockets.
    pub(crate) fn count_delivery(&mut self, bytes: usize, sockets: usize) {
        let times = |count: usize| u64::try_from(count * sockets).expect("a block is small");
        let metrics = self.subscription.metrics();
        metrics.delivered_bytes.inc_by(times(bytes));
        metrics
            .delivered_events
            .inc_by(times(std::mem::take(&mut self.rendered_events)));
    }

    /// What shows that the stream is alive.
    pub(crate) fn comment() -> Bytes {
        Bytes::from_static(frame::COMMENT)
    }

    /// What it is a stream of.
    pub(crate) fn kind(&self) -> StreamKind {
        StreamKind {
            filter: self.subscription.filter().clone(),
            format: self.format,
        }
    }

    /// Whether it follows what is announced, and has nothing to replay.
    pub(crate) fn is_live(&self) -> bool {
        self.stage == Stage::Following && self.subscription.is_live()
    }

    /// The cursor it has reached, moved over events that it did not want.
    pub(crate) fn settle(&mut self) -> EventId {
        self.subscription.settle();
        self.subscription.cursor()
    }

    /// The next bytes, if they were announced already.
    pub(crate) fn next_waiting(&mut self) -> Option<Bytes> {
        if !self.is_live() {
            return None;
        }
        let batch = self.subscription.next_waiting()?;
        self.last_sent = Instant::now();
        Some(self.render(&batch))
    }

    /// The next block or blocks for the client; `None` when nothing comes any more but the [farewell](Self::farewell).
    ///
    /// Dropping the future is safe: the next call goes on where this one was.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let bytes = match self.stage {
            Stage::Opening => {
                self.stage = Stage::Following;
                // In one write with the first block, whose id is a cursor that the client never asked for: a cut between the two
                // would hide the gap.
                let gap = self.subscription.take_unknown_start();
                encode(|out| {
                    frame::write_opening(spread(RETRY), self.told, self.subscription.log_id(), out);
                    if let Some(gap) = gap {
                        frame::write_gap(&gap, out);
                    }
                })
            }
            Stage::Following => self.follow().await?,
            Stage::Ended => return None,
        };
        self.last_sent = Instant::now();
        Some(bytes)
    }

    async fn follow(&mut self) -> Option<Bytes> {
        loop {
            tokio::select! {
                biased;
                delivery = self.subscription.next() => return match delivery {
                    Ok(Some(Delivery::Events(batch))) => Some(self.render(&batch)),
                    Ok(Some(Delivery::Gap(gap))) => {
                        self.told = gap.cursor;
                        Some(encode(|out| frame::write_gap(&gap, out)))
                    }
                    Ok(None) => {
                        self.stage = Stage::Ended;
                        None
                    }
                    Err(error) => Some(self.fail(&error.into())),
                },
                () = &mut self.quiet => {
                    // The timer is set anew only here: an event costs no timer.
                    let due = self.last_sent + self.heartbeat;
                    let now = Instant::now();
                    self.quiet.as_mut().reset(if due > now { due } else { now + self.heartbeat });
                    if due <= now {
                        return Some(self.beat());
                    }
                }
            }
        }
    }

    fn beat(&mut self) -> Bytes {
        let cursor = self.settle();
        if cursor == self.told {
            return Self::comment();
        }
        self.told = cursor;
        encode(|out| frame::write_cursor(cursor, self.subscription.log_id(), out))
    }

    /// What lies behind an event that cannot be read is not sent: it would look as if there were nothing between.
    fn fail(&mut self, problem: &Problem) -> Bytes {
        self.stage = Stage::Ended;
        let cursor = self.subscription.cursor();
        encode(|out| frame::write_error(&problem.to_json(), cursor, out))
    }

    /// The last block, for one subscriber: when to come back, which is another time for each.
    pub(crate) fn farewell(&mut self) -> Bytes {
        let cursor = self.settle();
        let log_id = self.subscription.log_id();
        encode(|out| frame::write_farewell(spread(FAREWELL_RETRY), cursor, log_id, out))
    }

    /// The last block, for a subscriber who may not go on.
    pub(crate) fn expired(&self, reason: &str) -> Bytes {
        encode(|out| frame::write_expired(reason, self.told, out))
    }

    fn render(&mut self, batch: &Batch) -> Bytes {
        self.told = batch.last_id();
        self.rendered_events += batch.events().len();
        render(batch, self.format)
    }
}

/// The answer of `GET /sse`.
#[derive(Debug)]
pub struct Following {
    /// What is sent.
    pub(crate) stream: EventStream,
    /// That it may be sent.
    pub(crate) permit: StreamPermit,
    /// That its reader may go on; `None` if nothing can end that.
    pub(crate) pass: Option<Pass>,
}

impl Following {
    /// The head of the answer.
    pub(crate) fn head(&self) -> Response {
        let mut head = Response::default();
        set_stream_headers(&mut head);
        head
    }

    /// The stream as the body of an answer.
    pub(crate) fn into_body(self) -> Body {
        let blocks = stream::unfold(Some(self), |following| async move {
            let mut following = following?;
            let Following { stream, pass, .. } = &mut following;
            let bytes = tokio::select! {
                bytes = stream.next() => bytes,
                reason = ended(pass) => return Some((stream.expired(&reason), None)),
            };
            let Some(bytes) = bytes else {
                return Some((following.stream.farewell(), None));
            };
            following.stream.count_delivery(bytes.len(), 1);
            Some((bytes, Some(following)))
        });
        Body::from_bytes_stream(blocks.map(Ok::<_, std::io::Error>))
    }
}

/// What every stream says of itself: that it is text, and that nobody may hold it back.
pub(in crate::http) fn set_stream_headers(head: &mut Response) {
    for (name, value) in [
        (header::CONTENT_TYPE, CONTENT_TYPE),
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        head.headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
}

/// The cursor that a request to follow came with, as the client wrote it.
pub(in crate::http) fn cursor_of(request: &Request) -> Option<String> {
    let header = request.headers().get(LAST_EVENT_ID);
    let header = header.map(|cursor| String::from_utf8_lossy(cursor.as_bytes()).into_owned());
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

async fn ended(pass: &Option<Pass>) -> String {
    poll_fn(|context| match pass {
        Some(pass) => pass.poll_ended(context),
        None => Poll::Pending,
    })
    .await
}

fn encode(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(64);
    write(&mut out);
    out.into()
}

/// The bytes of a batch, each made by the first that asks and shared by the rest.
#[derive(Debug, Default)]
struct Rendered {
    data: OnceLock<Bytes>,
    event: OnceLock<Bytes>,
}

/// The frames of a batch, encoded once for all who get it in this format.
fn render(batch: &Batch, format: Format) -> Bytes {
    let rendered: &Rendered = batch.attached();
    let bytes = match format {
        Format::Data => &rendered.data,
        Format::Event => &rendered.event,
    };
    let render = || {
        let events = batch.events();
        let bytes = events
            .iter()
            .map(|event| event.data.as_str().len() + 64)
            .sum();
        let mut out = Vec::with_capacity(bytes);
        for event in events {
            frame::write_event(event, format, &mut out);
        }
        out.into()
    };
    bytes.get_or_init(render).clone()
}

impl IntoResponse for Following {
    fn into_response(self) -> Response {
        Answer::from(self).into_response()
    }
}

impl ApiResponse for Following {
    fn meta() -> MetaResponses {
        let schema = MetaSchema {
            description: Some(
                "Server-sent events. `id:` is the last field of every block. First comes a block of the type `segno.cursor` with \
                 `retry:` and the cursor that the stream goes on from. Then, for each event, `event:` (its type, unless that is \
                 `message`), `data:` (its data) and `id:`. With `format=event` the data is the whole event as JSON, and there is \
                 no `event:`, so that the `onmessage` of a browser gets events of every type. After a silence of 15 s comes the \
                 line `:`, or a `segno.cursor` if the cursor has moved over events that did not match.\n\nTypes that begin with \
                 `segno.` are the hub's own; skip those you don't know:\n\n\
                 * `segno.cursor`, `{\"cursor\":…,\"log\":\"…\"}`: you have everything up to the cursor; `log` is the id of the log.\n\
                 * `segno.gap`, `{\"reason\":\"trimmed\"|\"ahead\"|\"lost\"|\"unknown\",\"requested\":…,\"first_id\":…,\"last_id\":…}`: \
                 events after the cursor you came with are gone, or the cursor is none of this hub's (`requested` is then `null`).\n\
                 * `segno.erased`, `{\"id\":…}`: stands in the place of an event that was erased, and comes again when it is; or \
                 `{\"topic\":…,\"through\":…,\"events\":…}`. Comes whatever types were asked for.\n\
                 * `segno.refused` with a problem: the whole answer, in place of a 429 or 503, where `Accept` names \
                 `text/event-stream` and not `application/problem+json`. A browser's `EventSource` comes back only after a 200.\n\
                 * `segno.error` with a problem, then the end: the log cannot be read. Your cursor stays before what could not be.\n\n\
                 When the hub stops, the last block is a `segno.cursor` whose `retry:` differs from stream to stream.",
            ),
            example: Some(
                ":\nretry: 2000\nevent: segno.cursor\ndata: {\"cursor\":41,\"log\":\"5f6c1d0e-8f0b-4c7e-9d43-0b8a0d6f5a11\"}\nid: 41\n\n\
                 data: {\"text\":\"hello\"}\nid: 42\n\n"
                    .into(),
            ),
            ..MetaSchema::new_with_format("string", "event-stream")
        };
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The events, as they come. It does not end: follow it with `curl -N` or an `EventSource`.",
                status: Some(200),
                status_range: None,
                content: vec![MetaMediaType {
                    content_type: "text/event-stream",
                    schema: MetaSchemaRef::Inline(Box::new(schema)),
                }],
                headers: vec![],
            }],
        }
    }

    fn register(_: &mut Registry) {}
}

/// The refusals of `GET /sse`.
#[derive(Debug)]
pub(super) struct Subscribing;

impl Codes for Subscribing {
    const CODES: &'static [Code] = &[
        Code::InvalidTopic,
        Code::InvalidType,
        Code::FilterTooLarge,
        Code::InvalidCursor,
        Code::InvalidTime,
        Code::InvalidLimit,
        Code::InvalidFormat,
        Code::ConflictingStarts,
        Code::TooManyStreamsOfAddress,
        Code::FiltersOfAddressTooLarge,
        Code::Internal,
        Code::Draining,
        Code::LogBusy,
        Code::LogCorrupt,
        Code::DiskFailed,
    ];
}
