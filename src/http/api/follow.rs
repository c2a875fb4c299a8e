//! `GET /sse` and `GET /topics/{topic}`: replay, then live, as a stream.

use std::{future::pending, time::Duration};

use futures_util::{StreamExt, stream};
use poem::{
    Body, IntoResponse, Request, Response,
    http::{HeaderName, HeaderValue, header},
};
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Header, Path, Query},
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
};
use tokio_util::sync::CancellationToken;

use super::{
    Api, Tag, filter,
    parameter::{Checked, Count, Cursor, Newest, Since, TopicPattern, TypePattern, optional},
    start::{FollowQuery, Reconnect, Starts},
};
use crate::http::{
    answer::Answer,
    caller::Caller,
    event_stream::EventStream,
    frame::Format,
    problem::{Code, Codes, Problem, ProblemOf},
    refused_stream::RefusedStream,
};
use crate::{
    auth::Pass,
    hub::{CountedSubscriber, Start},
    limits::StreamPermit,
};

/// How long the system of a client that has gone may take to answer a probe.
const SECOND_PROBE_AFTER: Duration = Duration::from_secs(1);

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
        reason = "each is a parameter of the request, which is read from it, here only documented"
    )]
    async fn follow(
        &self,
        /// Topics to follow; all if not given. `*` stands for any characters but `.` and `/`, `**` for any at all.
        #[oai(name = "topic")]
        _topic: Query<Vec<Checked<TopicPattern>>>,
        /// Types to follow; all if not given. Patterns as for topics.
        #[oai(name = "type")]
        _event_type: Query<Vec<Checked<TypePattern>>>,
        /// The id of the last event you have. Browsers send it by themselves when they reconnect. Wins over the query. Never refused:
        /// where it is no id of this hub, the stream begins with a `segno.gap`.
        #[oai(name = "Last-Event-ID")]
        _last_event_id_header: Header<Option<Checked<Reconnect>>>,
        /// The same for clients that cannot send headers. Polyfills of `EventSource` send `lastEventId` or `Last-Event-ID` instead; these
        /// are taken too, and win as the header does.
        #[oai(name = "last_event_id")]
        _last_event_id: Query<Option<Checked<Cursor>>>,
        /// What polyfills of `EventSource` add to the address when they reconnect. Counts as the header does.
        #[oai(name = "lastEventId", deprecated)]
        _last_event_id_camel: Query<Option<Checked<Reconnect>>>,
        /// As `lastEventId`.
        #[oai(name = "Last-Event-ID", deprecated)]
        _last_event_id_kebab: Query<Option<Checked<Reconnect>>>,
        /// Events of this time or later: `15m` ago, an RFC 3339 time, or `start` for all that is kept.
        #[oai(name = "since")]
        _since: Query<Option<Checked<Since>>>,
        /// The newest N that match.
        #[oai(name = "last")]
        _last: Query<Option<Checked<Newest>>>,
        /// End after N events. A stream without it does not end by itself. A page that shows an answer when it is whole, such as Swagger
        /// UI, needs it.
        #[oai(name = "count")]
        _count: Query<Option<Checked<Count>>>,
        /// `data`: server-sent events with the event's data. `event`: with the whole event, and without `event:` beside it. `text`: with
        /// the text itself where the data is a JSON string. `ndjson`: no server-sent events, but a line of JSON for each event, as with
        /// `Accept: application/x-ndjson`.
        #[oai(name = "format")]
        _format: Query<Option<Checked<Format>>>,
        /// A ticket, for a page, which can set no header.
        #[oai(name = "ticket")]
        _ticket: Query<Option<String>>,
        request: &Request,
    ) -> Result<Following, ProblemOf<Subscribing>> {
        Ok(self
            .begin(FollowQuery::of(request)?, Caller::of(request))
            .await?)
    }

    /// Follow a topic
    ///
    /// `GET /sse?topic=…` under the address that one publishes to, patterns too. Needs `Accept: text/event-stream`, or
    /// `application/x-ndjson`, or a `format`.
    #[oai(
        path = "/topics/:topic",
        method = "get",
        tag = "Tag::Stream",
        operation_id = "follow_topic"
    )]
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a parameter of the request, which is read from it, here only documented"
    )]
    async fn follow_topic(
        &self,
        /// The topic, or a pattern. It may have slashes.
        #[oai(name = "topic")]
        _topic: Path<Checked<TopicPattern>>,
        /// Types to follow; all if not given. Patterns as for topics.
        #[oai(name = "type")]
        _event_type: Query<Vec<Checked<TypePattern>>>,
        /// The id of the last event you have. Browsers send it by themselves when they reconnect. Wins over the query. Never refused:
        /// where it is no id of this hub, the stream begins with a `segno.gap`.
        #[oai(name = "Last-Event-ID")]
        _last_event_id_header: Header<Option<Checked<Reconnect>>>,
        /// The same for clients that cannot send headers. Polyfills of `EventSource` send `lastEventId` or `Last-Event-ID` instead; these
        /// are taken too, and win as the header does.
        #[oai(name = "last_event_id")]
        _last_event_id: Query<Option<Checked<Cursor>>>,
        /// What polyfills of `EventSource` add to the address when they reconnect. Counts as the header does.
        #[oai(name = "lastEventId", deprecated)]
        _last_event_id_camel: Query<Option<Checked<Reconnect>>>,
        /// As `lastEventId`.
        #[oai(name = "Last-Event-ID", deprecated)]
        _last_event_id_kebab: Query<Option<Checked<Reconnect>>>,
        /// Events of this time or later: `15m` ago, an RFC 3339 time, or `start` for all that is kept.
        #[oai(name = "since")]
        _since: Query<Option<Checked<Since>>>,
        /// The newest N that match.
        #[oai(name = "last")]
        _last: Query<Option<Checked<Newest>>>,
        /// End after N events. A stream without it does not end by itself. A page that shows an answer when it is whole, such as Swagger
        /// UI, needs it.
        #[oai(name = "count")]
        _count: Query<Option<Checked<Count>>>,
        /// `data`: server-sent events with the event's data. `event`: with the whole event, and without `event:` beside it. `text`: with
        /// the text itself where the data is a JSON string. `ndjson`: no server-sent events, but a line of JSON for each event, as with
        /// `Accept: application/x-ndjson`.
        #[oai(name = "format")]
        _format: Query<Option<Checked<Format>>>,
        /// A ticket, for a page, which can set no header.
        #[oai(name = "ticket")]
        _ticket: Query<Option<String>>,
        request: &Request,
    ) -> Result<Following, ProblemOf<SubscribingTopic>> {
        Ok(self
            .begin(FollowQuery::of(request)?, Caller::of(request))
            .await?)
    }
}

impl FollowApi {
    /// What follows, as the routes answer it, without the layers between, and with the stream still a stream.
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
        let filter = caller.reads(filter(&self.0.hub, query.topics, query.types).await?)?;
        let count = optional(query.count)?.map(|count| count.0);
        let reconnects = query.reconnects.into_iter().flatten();
        let starts = Starts {
            reconnects: reconnects.map(Checked::get).collect::<Result<_, _>>()?,
            cursor: optional(query.last_event_id)?,
            since: optional(query.since)?.map(|since| since.0),
            last: optional(query.last)?.map(|newest| Start::Last(newest.0)),
        };
        let start = starts.choose()?;
        let pass = caller.pass(&self.0.settings.access)?;
        let permit = caller.open_stream(&filter)?;
        let peer = caller.peer;
        let subscription = self.0.hub.subscribe(filter.into(), start, peer).await?;
        Ok(Following {
            counted: subscription.count_subscriber(),
            stream: EventStream::new(subscription, query.format, self.0.settings.heartbeat)
                .ending_after(count),
            permit,
            pass,
        })
    }
}

/// A stream that an answer consists of.
#[derive(Debug)]
pub struct Following {
    /// What is sent.
    pub(crate) stream: EventStream,
    /// That it may be sent.
    pub(crate) permit: StreamPermit,
    /// That its reader counts as a subscriber of what it wants.
    pub(crate) counted: CountedSubscriber,
    /// That its reader may go on; `None` if nothing can end that.
    pub(crate) pass: Option<Pass>,
}

impl Following {
    /// The head of the answer.
    pub(crate) fn head(&self) -> Response {
        let mut head = Response::default();
        set_stream_headers(&mut head, self.stream.format());
        head.headers_mut()
            .insert(header::VARY, HeaderValue::from_static("accept"));
        head
    }

    /// The stream as the body of an answer. When its reader has closed its side, which `half_closed` tells, it shows that it is
    /// alive: if the reader has gone, a write fails.
    pub(crate) fn into_body(self, half_closed: Option<CancellationToken>) -> Body {
        let probing = Probing {
            half_closed,
            probes: 0,
        };
        let blocks = stream::unfold(Some((self, probing)), |state| async move {
            let (mut following, mut probing) = state?;
            let Following { stream, pass, .. } = &mut following;
            // What there is to send shows as well that somebody reads, or nobody.
            let bytes = tokio::select! {
                biased;
                reason = Pass::wait(pass.as_ref()) => return Some((stream.expired(&reason), None)),
                bytes = stream.next() => bytes,
                () = probing.due() => {
                    probing.probes += 1;
                    Some(stream.sign_of_life())
                }
            };
            let Some(bytes) = bytes else {
                let is_told = following.stream.has_given_all();
                return (!is_told).then(|| (following.stream.farewell(), None));
            };
            following.stream.count_delivery(bytes.len(), 1);
            Some((bytes, Some((following, probing))))
        });
        Body::from_bytes_stream(blocks.map(Ok::<_, std::io::Error>))
    }
}

/// Finds out whether a reader that has closed its side has gone.
struct Probing {
    /// `None` where the client tells that it has gone.
    half_closed: Option<CancellationToken>,
    /// How many were sent. The first is answered with a reset, with which the second fails.
    probes: u32,
}

impl Probing {
    /// Waits until it is time to send another.
    async fn due(&self) {
        match (&self.half_closed, self.probes) {
            (Some(half_closed), 0) => half_closed.cancelled().await,
            (Some(_), 1) => tokio::time::sleep(SECOND_PROBE_AFTER).await,
            (Some(_) | None, _) => pending().await,
        }
    }
}

/// What every stream says of itself: what it is, and that nobody may hold it back.
pub(in crate::http) fn set_stream_headers(head: &mut Response, format: Format) {
    for (name, value) in [
        (header::CONTENT_TYPE, format.content_type()),
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        head.headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
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
                 * `segno.error` with a problem, then the end: the log cannot be read, or the hub does not catch up with its \
                 cluster. Your cursor stays before what could not be read.\n\n\
                 When the hub stops, the last block is a `segno.cursor` whose `retry:` differs from stream to stream.",
            ),
            example: Some(
                ":\nretry: 2000\nevent: segno.cursor\ndata: {\"cursor\":41,\"log\":\"5f6c1d0e-8f0b-4c7e-9d43-0b8a0d6f5a11\"}\nid: 41\n\n\
                 data: {\"text\":\"hello\"}\nid: 42\n\n"
                    .into(),
            ),
            ..MetaSchema::new_with_format("string", "event-stream")
        };
        let lines = MetaSchema {
            description: Some(
                "An event a line, each with all its fields. Lines with a field `segno` are the hub's own; skip those you don't know. \
                 First, and after a silence, comes `{\"segno\":\"cursor\",\"cursor\":…,\"log\":\"…\"}`. `gap`, `error` and `expired` say \
                 what the server-sent events of the same names do. Every line of the hub's has the `cursor` to come back with, in \
                 `last_event_id`.",
            ),
            ..MetaSchema::new("string")
        };
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The events, as they come. It does not end: follow it with `curl -N` or an `EventSource`.",
                status: Some(200),
                status_range: None,
                content: vec![
                    MetaMediaType {
                        content_type: "text/event-stream",
                        schema: MetaSchemaRef::Inline(Box::new(schema)),
                    },
                    MetaMediaType {
                        content_type: "application/x-ndjson",
                        schema: MetaSchemaRef::Inline(Box::new(lines)),
                    },
                ],
                headers: vec![],
            }],
        }
    }

    fn register(_: &mut Registry) {}
}

/// The codes of both ways to follow, and more.
macro_rules! follow_codes {
    ($($more:ident),*) => {
        &[
            $(Code::$more,)*
            Code::InvalidTopic, Code::InvalidType, Code::FilterTooLarge, Code::InvalidCursor, Code::InvalidTime, Code::InvalidLimit,
            Code::InvalidFormat, Code::InvalidHeader, Code::ConflictingStarts, Code::TooManyStreamsOfAddress, Code::TooManyStreamsOfCaller,
            Code::FiltersOfAddressTooLarge, Code::Internal, Code::Draining, Code::NotJoined, Code::LogBusy, Code::LogCorrupt, Code::DiskFailed,
        ]
    };
}

/// The refusals of `GET /sse`.
#[derive(Debug)]
pub(super) struct Subscribing;

impl Codes for Subscribing {
    const CODES: &'static [Code] = follow_codes![];
}

/// The refusals of `GET /topics/{topic}`.
#[derive(Debug)]
pub(super) struct SubscribingTopic;

impl Codes for SubscribingTopic {
    const CODES: &'static [Code] = follow_codes![NotAcceptable];
}
