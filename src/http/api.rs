//! The operations of the API: what each takes, answers and refuses. The OpenAPI document is derived from them.

mod follow;
mod history;
mod parameter;
mod publish;

use std::collections::HashMap;

use poem::{IntoResponse, Request, Response, endpoint::BoxEndpoint, http::Method};
use poem_openapi::{
    OpenApi, OpenApiService, Tags,
    param::{Header, Path, Query},
    registry::{MetaApi, Registry},
};

pub(crate) use self::follow::{EventStream, Following, Framing, StreamKind, farewell, take_stream};
use self::{
    follow::{Starts, Subscribing},
    history::{
        EraseEvent, EraseTopic, History, HistoryFormat, HistoryLines, HistoryQuery, OneEvent,
        ReadEvent, ReadHistory, ReadTopics, TopicList,
    },
    parameter::{
        Checked, Cursor, KeptTopic, LIMIT_MAX_EVENTS, Limit, Moment, Newest, Since, TopicPattern,
        TypePattern, all, optional,
    },
    publish::{
        EventsBody, MessageAnswer, MessageBody, MessageStatus, PublishEvents, PublishMessage,
        PublishRaw, Published, PublishedAny, RawData,
    },
};
use super::{
    Settings, forwarded,
    frame::Format,
    health::{Healthy, Liveness, Looking, Readiness},
    metrics::{Figures, ReadMetrics},
    place_of,
    problem::{Code, Problem, Refused},
    stats::HubStats,
};
use crate::{
    db::{Order, Range},
    event::{EventId, EventType, Key, NewEvent, Topic},
    filter::Filter,
    hub::{Hub, Start},
};

/// The OpenAPI document, as it stands under `openapi/`.
pub fn openapi_document() -> String {
    let mut document = service(ApiDescription).spec();
    document.push('\n');
    document
}

pub(super) fn service<A: OpenApi>(api: A) -> OpenApiService<A, ()> {
    OpenApiService::new(api, "segno", env!("CARGO_PKG_VERSION")).description(
        "A persistent event hub. Publish over REST; follow over Server-Sent Events; resume where you were. Every answer has \
         the header `segno-log-id`, the log's own UUID: a cursor of one log means nothing in another, and `x-request-id`, which \
         is the request's own if it has one of 1 to 128 visible ASCII characters.",
    )
}

/// The API without a hub behind it: enough to describe it.
struct ApiDescription;

impl OpenApi for ApiDescription {
    fn meta() -> Vec<MetaApi> {
        Api::meta()
    }

    fn register(registry: &mut Registry) {
        Api::register(registry);
    }

    fn add_routes(self, _: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {}
}

#[derive(Tags)]
enum Tag {
    /// Send events. A 2xx means: committed, synced to disk and announced.
    Publish,
    /// Follow events as they come, from where you were.
    Stream,
    /// Look back.
    History,
    /// Take back, for good, and tell everybody.
    Erase,
    /// For whoever runs the hub.
    Health,
}

#[derive(Clone)]
pub(super) struct Api {
    pub(super) hub: Hub,
    pub(super) settings: Settings,
}

#[OpenApi]
impl Api {
    /// Publish an event or a batch
    ///
    /// A batch is stored whole or not at all, and its events follow each other in the log. An event with a `key` that was
    /// published on the topic before is not stored again: the answer is 200 with the first one's id.
    #[oai(
        path = "/events",
        method = "post",
        tag = "Tag::Publish",
        operation_id = "publish"
    )]
    async fn publish(&self, body: EventsBody) -> Result<PublishedAny, Refused<PublishEvents>> {
        Ok(PublishedAny(self.publish_events(body).await?))
    }

    /// Publish a body as it is
    ///
    /// `curl -d hello localhost:8000/topics/greetings` publishes `"hello"`. A topic may have slashes in it.
    #[oai(
        path = "/topics/:topic",
        method = "post",
        tag = "Tag::Publish",
        operation_id = "publish_raw"
    )]
    async fn publish_raw(
        &self,
        /// The topic.
        topic: Path<Checked<Topic>>,
        /// What happened; `message` if not given.
        #[oai(name = "type")]
        event_type: Query<Option<Checked<EventType>>>,
        /// Your own name for the event. The same key again on the same topic is not a second event.
        #[oai(name = "Idempotency-Key")]
        key: Header<Option<Checked<Key>>>,
        body: RawData,
    ) -> Result<Published, Refused<PublishRaw>> {
        let event = NewEvent {
            topic: topic.0.get()?,
            event_type: optional(event_type.0)?.unwrap_or_default(),
            data: body.0,
            key: optional(key.0)?,
        };
        Ok(Published::one(self.hub.publish(vec![event]).await?))
    }

    /// Send a message
    ///
    /// Stored on the topic `messages` with the data `{"status":"Received","message":…}`.
    #[oai(
        path = "/messages",
        method = "post",
        tag = "Tag::Publish",
        operation_id = "send_message"
    )]
    async fn send_message(
        &self,
        body: MessageBody,
    ) -> Result<MessageAnswer, Refused<PublishMessage>> {
        self.send(&body, MessageStatus::Received).await
    }

    /// Send a message as REST
    ///
    /// Stored on the topic `messages` with the data `{"status":"Received via REST","message":…}`.
    #[oai(
        path = "/send_rest",
        method = "post",
        tag = "Tag::Publish",
        operation_id = "send_rest"
    )]
    async fn send_rest(&self, body: MessageBody) -> Result<MessageAnswer, Refused<PublishMessage>> {
        self.send(&body, MessageStatus::ReceivedViaRest).await
    }

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
    ) -> Result<Following, Refused<Subscribing>> {
        let filter = filter(topic.0, event_type.0)?;
        let format = optional(format.0)?.unwrap_or_default();
        let starts = Starts {
            header: optional(last_event_id_header.0)?,
            cursors: [
                optional(last_event_id.0)?,
                optional(last_event_id_camel.0)?,
                optional(last_event_id_kebab.0)?,
            ],
            since: optional(since.0)?.map(|since| since.0),
            last: optional(last.0)?.map(|newest| Start::Last(newest.0)),
        };
        let start = starts.choose()?;
        let open = place_of(request).open_stream(|| forwarded(request.headers()))?;
        let address = request.remote_addr().as_socket_addr();
        let address = *address.expect("connections are TCP");
        let subscription = self.hub.subscribe(filter, start, address).await?;
        Ok(Following {
            stream: EventStream::new(subscription, format, self.settings.heartbeat),
            subscriber: self.hub.count_subscriber(),
            open,
        })
    }

    /// Look back
    ///
    /// A page of events, oldest first unless `order=desc`; follow `next`, or the `Link` header, for more. With
    /// `Accept: application/x-ndjson` the whole range comes as a stream, one event a line.
    #[oai(
        path = "/events",
        method = "get",
        tag = "Tag::History",
        operation_id = "history"
    )]
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a parameter of the request"
    )]
    async fn history(
        &self,
        /// Topics; all if not given. Patterns as for `/sse`.
        topic: Query<Vec<Checked<TopicPattern>>>,
        /// Types; all if not given. Patterns as for `/sse`.
        #[oai(name = "type")]
        event_type: Query<Vec<Checked<TypePattern>>>,
        /// Only events above this id.
        after: Query<Option<Checked<Cursor>>>,
        /// Only events below this id.
        before: Query<Option<Checked<Cursor>>>,
        /// Only events of this time or later: `15m` ago or an RFC 3339 time.
        since: Query<Option<Checked<Since>>>,
        /// Only events before this time.
        until: Query<Option<Checked<Moment>>>,
        /// Oldest or newest first.
        order: Query<Option<Checked<Order>>>,
        /// How many; 100 if not given, or all with NDJSON.
        limit: Query<Option<Checked<Limit>>>,
        /// `ndjson` does what the header `Accept: application/x-ndjson` does, for a link, which cannot have a header.
        format: Query<Option<Checked<HistoryFormat>>>,
        request: &Request,
    ) -> Result<History, Refused<ReadHistory>> {
        let mut range = Range {
            after: optional(after.0)?
                .and_then(|cursor| cursor.0)
                .unwrap_or(EventId::ZERO),
            before: optional(before.0)?
                .and_then(|cursor| cursor.0)
                .unwrap_or(EventId::MAX),
        };
        if let Some(Since(Start::Since(time))) = optional(since.0)? {
            range.after = range
                .after
                .max(self.hub.first_id_since(time).await?.previous());
        }
        if let Some(Moment(time)) = optional(until.0)? {
            range.before = range.before.min(self.hub.first_id_since(time).await?);
        }
        let query = HistoryQuery {
            filter: filter(topic.0, event_type.0)?,
            range,
            order: optional(order.0)?.unwrap_or_default(),
            limit: optional(limit.0)?.map(|limit| limit.0),
        };
        let format = optional(format.0)?.unwrap_or_else(|| HistoryFormat::accepted_by(request));
        if format == HistoryFormat::Ndjson {
            return Ok(History::Lines(HistoryLines::new(self.hub.clone(), query)));
        }
        Ok(history::read_page(&self.hub, query, request.uri()).await?)
    }

    /// One event
    #[oai(
        path = "/events/:id",
        method = "get",
        tag = "Tag::History",
        operation_id = "event"
    )]
    async fn event(
        &self,
        /// Its id.
        id: Path<Checked<EventId>>,
    ) -> Result<OneEvent, Refused<ReadEvent>> {
        let id = id.0.get()?;
        match self.hub.event(id).await? {
            Some(event) => Ok(OneEvent(event.into())),
            None => Err(unknown_event(id).into()),
        }
    }

    /// Erase an event
    ///
    /// Its data, type and key are gone for good; its id, topic and time stay. In its place stands an event of the type
    /// `segno.erased` with the data `{"id":…}`, which is the answer, and an event of the same type and data is announced on
    /// its topic, whatever types a subscriber asked for. Erasing it again changes nothing.
    #[oai(
        path = "/events/:id",
        method = "delete",
        tag = "Tag::Erase",
        operation_id = "erase_event"
    )]
    async fn erase_event(
        &self,
        /// Its id.
        id: Path<Checked<EventId>>,
    ) -> Result<OneEvent, Refused<EraseEvent>> {
        let id = id.0.get()?;
        match self.hub.erase(id).await? {
            Some(event) => Ok(OneEvent(event)),
            None => Err(unknown_event(id).into()),
        }
    }

    /// Erase a topic
    ///
    /// All its events are gone for good. The answer is the event that tells of it: of the type `segno.erased`, on the topic,
    /// with the data `{"topic":…,"through":…,"events":…}`. A subscriber who comes back with an older cursor is told by
    /// `segno.gap`.
    #[oai(
        path = "/topics/:topic",
        method = "delete",
        tag = "Tag::Erase",
        operation_id = "erase_topic"
    )]
    async fn erase_topic(
        &self,
        /// The topic; it may have slashes in it.
        topic: Path<Checked<KeptTopic>>,
    ) -> Result<OneEvent, Refused<EraseTopic>> {
        let KeptTopic(topic) = topic.0.get()?;
        match self.hub.erase_topic(topic.clone()).await? {
            Some(notice) => Ok(OneEvent(notice)),
            None => Err(Problem::new(
                Code::UnknownTopic,
                format_args!(
                    "there is no event on the topic '{}', or no longer",
                    topic.as_str()
                ),
            )
            .into()),
        }
    }

    /// Topics
    ///
    /// Each topic that has events, in the order of the names.
    #[oai(
        path = "/topics",
        method = "get",
        tag = "Tag::History",
        operation_id = "topics"
    )]
    async fn topics(
        &self,
        /// Only topics whose name comes after this one.
        after: Query<Option<String>>,
        /// How many; 1000 if not given.
        limit: Query<Option<Checked<Limit>>>,
    ) -> Result<TopicList, Refused<ReadTopics>> {
        let limit = optional(limit.0)?.map_or(LIMIT_MAX_EVENTS, |limit| limit.0);
        let after = after.0.unwrap_or_default();
        let topics = self
            .hub
            .topics_after(&after, u32::try_from(limit).expect("a limit is small"))
            .await?;
        Ok(TopicList::new(topics, limit))
    }

    /// Does it run?
    ///
    /// 503 when the process should be restarted: the hub publishes to itself, and nothing has come back for twelve times
    /// `--canary`, which is a minute unless it was changed.
    #[oai(
        path = "/health/live",
        method = "get",
        tag = "Tag::Health",
        operation_id = "live"
    )]
    async fn live(&self) -> Result<Healthy, Refused<Liveness>> {
        match self.hub.is_stuck() {
            true => Err(Problem::new(Code::Stuck, "the writer does not work any more").into()),
            false => Ok(Healthy),
        }
    }

    /// Would it take an event now?
    ///
    /// 503 with the reason when it would not: it stops, too many events wait, the last commit failed and so does another try,
    /// or what the hub publishes to itself has not come back for three times `--canary`.
    #[oai(
        path = "/health/ready",
        method = "get",
        tag = "Tag::Health",
        operation_id = "ready"
    )]
    async fn ready(&self) -> Result<Healthy, Refused<Readiness>> {
        self.hub.ready().await?;
        Ok(Healthy)
    }

    /// The hub in figures
    ///
    /// Cheap to ask for, however many events there are: the page at `/` asks every two seconds.
    #[oai(
        path = "/stats",
        method = "get",
        tag = "Tag::Health",
        operation_id = "stats"
    )]
    async fn stats(&self) -> Result<HubStats, Refused<Looking>> {
        Ok(HubStats {
            hub: self.hub.stats().await,
            limits: self.settings.limits.clone(),
        })
    }

    /// The hub in figures, for Prometheus
    ///
    /// To be scraped every few seconds. Counters begin at zero when the hub starts.
    #[oai(
        path = "/metrics",
        method = "get",
        tag = "Tag::Health",
        operation_id = "metrics"
    )]
    async fn metrics(&self) -> Result<Figures, Refused<ReadMetrics>> {
        Ok(Figures::of(&self.hub, &self.settings.limits).await?)
    }
}

impl Api {
    /// `POST /events` as the routes answer it, without the layers between: each copies the request and puts what it does into
    /// a box of its own, which together took as long as all the hub does for an event.
    pub(super) async fn answer_publish(&self, request: Request) -> Response {
        let (request, mut body) = request.split();
        let published = async move {
            let events = EventsBody::read(&request, &mut body).await?;
            // Before the wait for the commit: they hold the buffer that the next request is read into.
            drop((request, body));
            self.publish_events(events).await
        };
        match published.await {
            Ok(published) => published.into_response(),
            Err(problem) => problem.into_response(),
        }
    }

    async fn publish_events(&self, events: EventsBody) -> Result<Published, Problem> {
        Ok(match events {
            EventsBody::One(event) => Published::one(self.hub.publish(vec![event]).await?),
            EventsBody::Batch(events) => Published::Batch(self.hub.publish(events).await?),
        })
    }

    async fn send(
        &self,
        body: &MessageBody,
        status: MessageStatus,
    ) -> Result<MessageAnswer, Refused<PublishMessage>> {
        let stored = self.hub.publish(vec![body.to_event(status)?]).await?;
        Ok(body.answer(status, stored[0].event.id))
    }
}

fn unknown_event(id: EventId) -> Problem {
    Problem::new(
        Code::UnknownEvent,
        format_args!("there is no event {id}, or no longer"),
    )
}

fn filter(
    topics: Vec<Checked<TopicPattern>>,
    types: Vec<Checked<TypePattern>>,
) -> Result<Filter, Problem> {
    let topics = all(topics)?.into_iter().map(|topic| topic.0).collect();
    let types = all(types)?
        .into_iter()
        .map(|event_type| event_type.0)
        .collect();
    Ok(Filter::new(topics, types))
}
