//! `GET /sse`: replay, then live, as a stream of server-sent events.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use poem::{Body, IntoResponse, Request, Response, http::header};
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
    frame::{self, Format},
    problem::{Code, Codes, Problem, ProblemOf},
};
use crate::{
    event::EventId,
    filter::Filter,
    hub::{Batch, Delivery, Start, Subscription},
    limits::StreamPermit,
};

/// How soon a client comes back after a cut: about 2 s, spread so that they do not come together.
const RETRY: std::ops::Range<u64> = 1500..2500;

/// How soon a client comes back after the hub has ended its stream: spread over a few seconds, because all streams end at
/// once and the next hub needs a moment to start.
const FAREWELL_RETRY: std::ops::Range<u64> = 1000..5000;

fn spread(millis: std::ops::Range<u64>) -> Duration {
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

/// The operation that follows.
#[derive(Clone)]
pub(in crate::http) struct FollowApi(pub(in crate::http) Api);

#[OpenApi]
impl FollowApi {
    /// Follow events
    ///
    /// First everything after the start, then live, with no seam. A start is, in this order: the header `Last-Event-ID`, one
    /// of the queries `last_event_id`, `since` and `last`, or none, which is live from now. A subscriber that comes back
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
        /// The id of the last event you have. Browsers send it by themselves when they reconnect. Wins over the queries.
        #[oai(name = "Last-Event-ID")]
        last_event_id_header: Header<Option<Checked<Cursor>>>,
        /// The same for clients that cannot send headers; also spelled `lastEventId` and `Last-Event-ID`.
        last_event_id: Query<Option<Checked<Cursor>>>,
        #[oai(name = "lastEventId", deprecated)] last_event_id_camel: Query<
            Option<Checked<Cursor>>,
        >,
        #[oai(name = "Last-Event-ID", deprecated)] last_event_id_kebab: Query<
            Option<Checked<Cursor>>,
        >,
        /// Events of this time or later: `15m` ago, an RFC 3339 time, or `start` for all that is kept.
        since: Query<Option<Checked<Since>>>,
        /// The newest so many that match.
        last: Query<Option<Checked<Newest>>>,
        /// What stands in `data:`: the event's data, or the whole event, then without `event:` beside it.
        format: Query<Option<Checked<Format>>>,
        request: &Request,
    ) -> Result<Following, ProblemOf<Subscribing>> {
        let query = FollowQuery {
            topics: topic.0,
            types: event_type.0,
            last_event_id_header: last_event_id_header.0,
            last_event_ids: [
                last_event_id.0,
                last_event_id_camel.0,
                last_event_id_kebab.0,
            ],
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
        // It holds the buffer that the connection reads into; a stream lasts for hours.
        drop(request);
        let following = match query {
            Ok(query) => self.begin(query, &caller).await,
            Err(problem) => Err(problem),
        };
        match following {
            Ok(following) => following.into(),
            Err(problem) => problem.into_response().into(),
        }
    }

    /// Begins the stream that `query` asks for.
    async fn begin(&self, query: FollowQuery, caller: &Caller) -> Result<Following, Problem> {
        let filter = filter(query.topics, query.types)?;
        let format = optional(query.format)?.unwrap_or_default();
        let [last_event_id, camel, kebab] = query.last_event_ids;
        let starts = Starts {
            header: optional(query.last_event_id_header)?,
            cursors: [optional(last_event_id)?, optional(camel)?, optional(kebab)?],
            since: optional(query.since)?.map(|since| since.0),
            last: optional(query.last)?.map(|newest| Start::Last(newest.0)),
        };
        let start = starts.choose()?;
        let permit = caller.open_stream()?;
        let address = caller.address;
        let subscription = self.0.hub.subscribe(filter, start, address).await?;
        Ok(Following {
            stream: EventStream::new(subscription, format, self.0.settings.heartbeat),
            permit,
        })
    }
}

/// The parameters of a request to follow, as they were read.
#[derive(Debug)]
pub(super) struct FollowQuery {
    pub(super) topics: Vec<Checked<TopicPattern>>,
    pub(super) types: Vec<Checked<TypePattern>>,
    pub(super) last_event_id_header: Option<Checked<Cursor>>,
    /// The spellings of the query parameter.
    pub(super) last_event_ids: [Option<Checked<Cursor>>; 3],
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
        let header = request.headers().get("last-event-id");
        Ok(Self {
            topics: query.all("topic"),
            types: query.all("type"),
            last_event_id_header: header
                .and_then(|cursor| cursor.to_str().ok())
                .map(Checked::read),
            last_event_ids: ["last_event_id", "lastEventId", "Last-Event-ID"]
                .map(|name| query.first(name)),
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

/// The places a request may name a start in.
#[derive(Debug)]
pub(super) struct Starts {
    /// The header, which wins: a browser that reconnects sends it beside the query it began with.
    pub(super) header: Option<Cursor>,
    /// The spellings of the query parameter.
    pub(super) cursors: [Option<Cursor>; 3],
    /// `since=`.
    pub(super) since: Option<Start>,
    /// `last=`.
    pub(super) last: Option<Start>,
}

impl Starts {
    /// The one start that was meant; none is live from now.
    pub(super) fn choose(self) -> Result<Start, Problem> {
        if let Some(Cursor(Some(cursor))) = self.header {
            return Ok(Start::After(cursor));
        }
        let mut cursors: Vec<EventId> = self
            .cursors
            .into_iter()
            .flatten()
            .filter_map(|cursor| cursor.0)
            .collect();
        cursors.dedup();
        let cursors = cursors.into_iter().map(Start::After);
        let starts: Vec<Start> = cursors.chain(self.since).chain(self.last).collect();
        match starts[..] {
            [] => Ok(Start::Live),
            [start] => Ok(start),
            _ => Err(Problem::new(
                Code::ConflictingStarts,
                "give one of last_event_id, since and last",
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

    /// Counts what was rendered last, `bytes` in all, as handed to so many sockets.
    pub(crate) fn count_delivery(&mut self, bytes: usize, sockets: usize) {
        let times = |count: usize| u64::try_from(count * sockets).expect("a block is small");
        let metrics = self.subscription.metrics();
        metrics.delivered_bytes.inc_by(times(bytes));
        metrics
            .delivered_events
            .inc_by(times(std::mem::take(&mut self.rendered_events)));
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
                encode(|out| {
                    frame::write_opening(spread(RETRY), self.told, out);
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
        let moved_to = (cursor > self.told).then_some(cursor);
        self.told = cursor;
        encode(|out| frame::write_heartbeat(moved_to, out))
    }

    /// What lies behind an event that cannot be read is not sent: it would look as if there were nothing between.
    fn fail(&mut self, problem: &Problem) -> Bytes {
        self.stage = Stage::Ended;
        encode(|out| frame::write_error(&problem.to_json(), out))
    }

    /// The last block, for one subscriber: when to come back, which is another time for each.
    pub(crate) fn farewell(&self) -> Bytes {
        encode(|out| frame::write_farewell(spread(FAREWELL_RETRY), out))
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
}

impl Following {
    /// The head of the answer.
    pub(crate) fn head(&self) -> Response {
        Response::builder()
            .content_type("text/event-stream")
            .header(header::CACHE_CONTROL, "no-cache, no-transform")
            .header("x-accel-buffering", "no")
            .finish()
    }

    /// The stream as the body of an answer.
    pub(crate) fn into_body(self) -> Body {
        let blocks = stream::unfold(Some(self), |following| async move {
            let mut following = following?;
            let Some(bytes) = following.stream.next().await else {
                return Some((following.stream.farewell(), None));
            };
            following.stream.count_delivery(bytes.len(), 1);
            Some((bytes, Some(following)))
        });
        Body::from_bytes_stream(blocks.map(Ok::<_, std::io::Error>))
    }
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
                "Server-sent events. First a block with `retry:` and `id:` alone, the cursor it goes on from. Then, for each \
                 event, `id:`, `event:` (its type, unless that is `message`) and `data:` (its data). With `format=event` the \
                 data is the whole event as JSON, and there is no `event:`, so that the `onmessage` of a browser gets events \
                 of every type. After a silence of 15 s a comment, with an `id:` line if the cursor has moved over \
                 events that did not match. `event: segno.gap` with \
                 `{\"reason\":\"trimmed\"|\"ahead\"|\"lost\",\"requested\":…,\"first_id\":…,\"last_id\":…}` where events that were asked \
                 for are gone. `event: segno.erased` with `{\"id\":…}`, in the place of an event that was erased and again when \
                 it is, or with `{\"topic\":…,\"through\":…,\"events\":…}`, whatever types were asked for. The stream ends only when the hub stops, or with `event: segno.error` and a problem \
                 as data where the log cannot be read; the cursor stays before what could not be.",
            ),
            example: Some("retry: 2000\nid: 41\n\nid: 42\ndata: {\"text\":\"hello\"}\n\n".into()),
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
        Code::InvalidCursor,
        Code::InvalidTime,
        Code::InvalidLimit,
        Code::InvalidFormat,
        Code::ConflictingStarts,
        Code::TooManyStreamsOfAddress,
        Code::Internal,
        Code::Draining,
        Code::LogBusy,
        Code::LogCorrupt,
        Code::DiskFailed,
    ];
}
