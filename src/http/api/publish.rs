//! Publishing: an event, a batch, a raw body.

use std::{borrow::Cow, sync::Arc};

use poem::{
    IntoResponse, Request, RequestBody, Response,
    http::{StatusCode, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions, OpenApi,
    param::{Header, Path, Query},
    registry::{
        MetaHeader, MetaMediaType, MetaRequest, MetaResponse, MetaResponses, MetaSchema,
        MetaSchemaRef, Registry,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{
    Api, Tag,
    body::{
        count, fit, is_json, json_problem, limits_of, media_type, parse_object, read_batch,
        read_event, unsupported,
    },
    parameter::{Checked, optional},
};
use crate::http::{
    origin_of,
    problem::{Code, Codes, Problem, ProblemOf},
};
use crate::{
    db::Stored,
    event::{Data, Event, EventId, EventType, Key, NewEvent, Topic},
    hub::Origin,
    limits,
};

/// Topic of an event that was published without one.
const DEFAULT_TOPIC: &str = "events";

/// The operations that publish.
#[derive(Clone)]
pub(in crate::http) struct PublishApi(pub(in crate::http) Api);

#[OpenApi]
impl PublishApi {
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
    async fn publish(
        &self,
        body: EventsBody,
        request: &Request,
    ) -> Result<PublishedAny, ProblemOf<PublishEvents>> {
        let origin = origin_of(request);
        Ok(PublishedAny(self.publish_events(body, origin).await?))
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
        request: &Request,
    ) -> Result<Published, ProblemOf<PublishRaw>> {
        let event = NewEvent {
            topic: topic.0.get()?,
            event_type: optional(event_type.0)?.unwrap_or_default(),
            data: body.0,
            key: optional(key.0)?,
        };
        let published = self.0.hub.publish(vec![event], origin_of(request));
        Ok(Published::one(published.await?))
    }
}

impl PublishApi {
    /// `POST /events` as the routes answer it, without the layers between: each copies the request and puts what it does into
    /// a box of its own, which together took as long as all the hub does for an event.
    pub(in crate::http) async fn answer_publish(&self, request: Request) -> Response {
        let (request, mut body) = request.split();
        let published = async move {
            let origin = origin_of(&request);
            let events = EventsBody::read(&request, &mut body).await?;
            // Before the wait for the commit: they hold the buffer that the next request is read into.
            drop((request, body));
            self.publish_events(events, origin).await
        };
        match published.await {
            Ok(published) => published.into_response(),
            Err(problem) => problem.into_response(),
        }
    }

    async fn publish_events(
        &self,
        events: EventsBody,
        origin: Origin,
    ) -> Result<Published, Problem> {
        let hub = &self.0.hub;
        Ok(match events {
            EventsBody::One(event) => Published::one(hub.publish(vec![event], origin).await?),
            EventsBody::Batch(events) => Published::Batch(hub.publish(events, origin).await?),
        })
    }
}

/// The body of `POST /events`.
#[derive(Debug)]
pub(super) enum EventsBody {
    /// A JSON object.
    One(NewEvent),
    /// A JSON array, or NDJSON.
    Batch(Vec<NewEvent>),
}

impl EventsBody {
    fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Batch(events) => events.len(),
        }
    }
}

/// One event as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventJson<'a> {
    #[serde(borrow, default)]
    topic: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type")]
    event_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
}

impl EventJson<'_> {
    fn into_event(self, limits: &limits::Settings) -> Result<NewEvent, Problem> {
        let topic = self.topic.as_deref().unwrap_or(DEFAULT_TOPIC);
        let data = Data::from_json(self.data)?;
        fit(data.as_str().len(), limits)?;
        Ok(NewEvent {
            topic: Topic::new(topic).map_err(|error| {
                Problem::new(Code::InvalidTopic, format_args!("topic: {error}"))
            })?,
            event_type: match self.event_type {
                None => EventType::default(),
                Some(name) => EventType::new(&name).map_err(|error| {
                    Problem::new(Code::InvalidType, format_args!("type: {error}"))
                })?,
            },
            data,
            key: self
                .key
                .map(|key| Key::new(&key))
                .transpose()
                .map_err(|error| Problem::new(Code::InvalidKey, format_args!("key: {error}")))?,
        })
    }
}

fn parse_event(json: &[u8], limits: &limits::Settings) -> Result<NewEvent, Problem> {
    parse_object::<EventJson>(json)?.into_event(limits)
}

fn parse_json(body: &[u8], limits: &limits::Settings) -> Result<EventsBody, Problem> {
    if body.trim_ascii_start().first() != Some(&b'[') {
        return parse_event(body, limits).map(EventsBody::One);
    }
    let events: Vec<&RawValue> =
        serde_json::from_slice(body).map_err(|error| json_problem(&error))?;
    let events = events.into_iter().enumerate().map(|(index, event)| {
        parse_event(event.get().as_bytes(), limits)
            .map_err(|problem| problem.at(format_args!("event {} of the array", index + 1)))
    });
    batch(events, limits)
}

fn parse_ndjson(body: &[u8], limits: &limits::Settings) -> Result<EventsBody, Problem> {
    let lines = body
        .split(|&byte| byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.trim_ascii().is_empty());
    let events = lines.map(|(index, line)| {
        parse_event(line, limits)
            .map_err(|problem| problem.at(format_args!("line {} of the body", index + 1)))
    });
    batch(events, limits)
}

fn batch(
    events: impl Iterator<Item = Result<NewEvent, Problem>>,
    limits: &limits::Settings,
) -> Result<EventsBody, Problem> {
    let max = limits.max_batch_events;
    let events: Vec<_> = events.take(max + 1).collect::<Result<_, _>>()?;
    if events.is_empty() {
        return Err(Problem::new(
            Code::EmptyBatch,
            "there is no event in the body",
        ));
    }
    if events.len() > max {
        return Err(Problem::new(
            Code::BatchTooLarge,
            format_args!("a batch has at most {max} events"),
        ));
    }
    Ok(EventsBody::Batch(events))
}

impl<'a> ApiExtractor<'a> for EventsBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        registry.create_schema::<EventsBody, _>("NewEvent".into(), |_| new_event_schema());
    }

    fn request_meta() -> Option<MetaRequest> {
        let one = || MetaSchemaRef::Reference("NewEvent".into());
        let many = MetaSchema {
            items: Some(Box::new(one())),
            max_items: Some(limits::BATCH_MAX_EVENTS),
            ..MetaSchema::new("array")
        };
        let json = MetaSchema {
            one_of: vec![one(), MetaSchemaRef::Inline(Box::new(many))],
            example: Some(new_event_example()),
            ..MetaSchema::ANY
        };
        let ndjson = MetaSchema {
            description: Some("One event a line."),
            example: Some(json!("{\"data\":\"first\"}\n{\"data\":\"second\"}\n")),
            ..MetaSchema::new("string")
        };
        Some(MetaRequest {
            description: Some("An event, or many: as a JSON array or as NDJSON, one event a line."),
            content: vec![
                MetaMediaType {
                    content_type: "application/json",
                    schema: MetaSchemaRef::Inline(Box::new(json)),
                },
                MetaMediaType {
                    content_type: "application/x-ndjson",
                    schema: MetaSchemaRef::Inline(Box::new(ndjson)),
                },
            ],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Ok(Self::read(request, body).await?)
    }
}

impl EventsBody {
    /// Reads an event or a batch, and counts it for the client.
    pub(super) async fn read(request: &Request, body: &mut RequestBody) -> Result<Self, Problem> {
        let parse = match media_type(request).as_deref() {
            Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => {
                parse_ndjson
            }
            None => parse_json,
            Some(media_type) if is_json(media_type) => parse_json,
            Some(other) => return Err(unsupported(other, "application/json")),
        };
        let events = parse(&read_batch(request, body).await?, limits_of(request))?;
        count(request, events.len())?;
        Ok(events)
    }
}

fn new_event_example() -> serde_json::Value {
    json!({"topic": "greetings", "type": "message", "data": {"text": "hello"}})
}

fn text_field(description: &'static str, example: &str) -> MetaSchemaRef {
    MetaSchemaRef::Inline(Box::new(MetaSchema {
        description: Some(description),
        example: Some(json!(example)),
        max_length: Some(255),
        ..MetaSchema::new("string")
    }))
}

fn new_event_schema() -> MetaSchema {
    let data = MetaSchema {
        description: Some("Any JSON, at most 1 MiB. It is kept as it is, digit by digit."),
        example: Some(json!({"text": "hello"})),
        ..MetaSchema::ANY
    };
    MetaSchema {
        description: Some("An event to publish. Only `data` is needed."),
        required: vec!["data"],
        properties: vec![
            (
                "topic",
                text_field(
                    "The name that groups events; `events` if not given. 1 to 255 bytes without white space, control characters or `*`.",
                    "greetings",
                ),
            ),
            (
                "type",
                text_field(
                    "What happened; `message` if not given. The rule of topics, and not beginning with `segno.`.",
                    "message",
                ),
            ),
            ("data", MetaSchemaRef::Inline(Box::new(data))),
            (
                "key",
                text_field(
                    "Your own name for the event. The same key again on the same topic is not a second event.",
                    "order-1001-paid",
                ),
            ),
        ],
        additional_properties: None,
        example: Some(new_event_example()),
        ..MetaSchema::new("object")
    }
}

/// The body of `POST /topics/{topic}`, whatever it is.
#[derive(Debug)]
pub(super) struct RawData(pub(super) Data);

impl<'a> ApiExtractor<'a> for RawData {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn request_meta() -> Option<MetaRequest> {
        let of = |content_type, schema| MetaMediaType {
            content_type,
            schema: MetaSchemaRef::Inline(Box::new(schema)),
        };
        let json = MetaSchema {
            example: Some(json!({"text": "hello"})),
            ..MetaSchema::ANY
        };
        let text = MetaSchema {
            example: Some(json!("hello")),
            ..MetaSchema::new("string")
        };
        Some(MetaRequest {
            description: Some(
                "The data, at most 1 MiB, of any content type. JSON is kept as JSON, anything else becomes a JSON string.",
            ),
            content: vec![of("application/json", json), of("text/plain", text)],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let body = read_event(request, body).await?;
        let says_json = media_type(request).is_some_and(|media_type| is_json(&media_type));
        let data = match serde_json::from_slice::<&RawValue>(&body) {
            Ok(json) => Data::from_json(json),
            Err(error) if says_json => return Err(Problem::new(Code::InvalidJson, error).into()),
            Err(_) => {
                let text = str::from_utf8(&body)
                    .map_err(|error| Problem::new(Code::InvalidText, error))?;
                Data::from_text(text)
            }
        };
        let data = data.map_err(Problem::from)?;
        fit(data.as_str().len(), limits_of(request))?;
        count(request, 1)?;
        Ok(Self(data))
    }
}

pub(super) fn json_response(
    status: u16,
    description: &'static str,
    schema: MetaSchema,
    headers: Vec<MetaHeader>,
) -> MetaResponse {
    MetaResponse {
        description,
        status: Some(status),
        status_range: None,
        content: vec![MetaMediaType {
            content_type: "application/json",
            schema: MetaSchemaRef::Inline(Box::new(schema)),
        }],
        headers,
    }
}

/// What is told of a stored event: all of it but its data.
#[derive(Debug, Serialize)]
struct Receipt<'a> {
    id: EventId,
    topic: &'a str,
    #[serde(rename = "type")]
    event_type: &'a str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "is_false")]
    duplicate: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl<'a> Receipt<'a> {
    fn new(event: &'a Event, duplicate: bool) -> Self {
        Self {
            id: event.id,
            topic: event.topic.as_str(),
            event_type: event.event_type.as_str(),
            created_at: event.created_at.to_string(),
            key: event.key.as_ref().map(Key::as_str),
            duplicate,
        }
    }
}

/// The answer to who published.
#[derive(Debug)]
pub(super) enum Published {
    /// One event: 201, or 200 if its key was there before.
    One(Stored),
    /// A batch: 201, or 200 if all its keys were there before.
    Batch(Vec<Stored>),
}

impl Published {
    pub(super) fn one(stored: Vec<Stored>) -> Self {
        Self::One(stored.into_iter().next().expect("one event gives one"))
    }
}

impl IntoResponse for Published {
    fn into_response(self) -> Response {
        match self {
            Self::One(Stored { event, duplicate }) => one_published(&event, duplicate),
            Self::Batch(stored) => batch_published(&stored),
        }
    }
}

fn one_published(event: &Arc<Event>, duplicate: bool) -> Response {
    let body = serde_json::to_vec(&Receipt::new(event, duplicate))
        .expect("a receipt always serializes into memory");
    Response::builder()
        .status(created_or_known(duplicate))
        .header(header::LOCATION, format!("/events/{}", event.id))
        .content_type("application/json")
        .body(body)
}

fn batch_published(stored: &[Stored]) -> Response {
    let ids: Vec<_> = stored.iter().map(|stored| stored.event.id).collect();
    let duplicates: Vec<_> = stored
        .iter()
        .filter(|stored| stored.duplicate)
        .map(|stored| stored.event.id)
        .collect();
    let all_known = duplicates.len() == ids.len();
    let mut answer = json!({"ids": ids});
    if !duplicates.is_empty() {
        answer["duplicates"] = json!(duplicates);
    }
    Response::builder()
        .status(created_or_known(all_known))
        .content_type("application/json")
        .body(answer.to_string())
}

fn created_or_known(known: bool) -> StatusCode {
    if known {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    }
}

/// The document's description of [`Published`], for the operations that may answer with a batch.
#[derive(Debug)]
pub(super) struct PublishedAny(pub(super) Published);

impl IntoResponse for PublishedAny {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

fn receipt_schema() -> MetaSchema {
    let id = MetaSchema {
        example: Some(json!(1)),
        ..MetaSchema::new_with_format("integer", "int64")
    };
    let time = MetaSchema {
        example: Some(json!("2026-01-31T12:00:00.000Z")),
        ..MetaSchema::new_with_format("string", "date-time")
    };
    let duplicate = MetaSchema {
        description: Some(
            "Whether the key was there before, so that nothing was added. Left out if not.",
        ),
        ..MetaSchema::new("boolean")
    };
    MetaSchema {
        description: Some("A stored event without its data."),
        required: vec!["id", "topic", "type", "created_at"],
        properties: vec![
            ("id", MetaSchemaRef::Inline(Box::new(id))),
            (
                "topic",
                text_field("The name that groups events.", "greetings"),
            ),
            ("type", text_field("What happened.", "message")),
            ("created_at", MetaSchemaRef::Inline(Box::new(time))),
            (
                "key",
                text_field("The key it was published with, if any.", "order-1001-paid"),
            ),
            ("duplicate", MetaSchemaRef::Inline(Box::new(duplicate))),
        ],
        ..MetaSchema::new("object")
    }
}

fn ids_schema() -> MetaSchema {
    let id = || {
        Box::new(MetaSchemaRef::Inline(Box::new(
            MetaSchema::new_with_format("integer", "int64"),
        )))
    };
    let ids = |description| {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            description: Some(description),
            items: Some(id()),
            ..MetaSchema::new("array")
        }))
    };
    MetaSchema {
        description: Some("The ids of a stored batch."),
        required: vec!["ids"],
        properties: vec![
            ("ids", ids("One for each event, in the order of the batch.")),
            (
                "duplicates",
                ids("Those of events whose key was there before. Left out if there are none."),
            ),
        ],
        example: Some(json!({"ids": [1, 2, 3]})),
        ..MetaSchema::new("object")
    }
}

fn location_header() -> MetaHeader {
    MetaHeader {
        name: "LOCATION".into(),
        description: Some("Where one event can be read: `/events/{id}`.".into()),
        required: false,
        deprecated: false,
        schema: MetaSchemaRef::Inline(Box::new(MetaSchema::new("string"))),
    }
}

fn published_meta(schema: fn() -> MetaSchema) -> MetaResponses {
    MetaResponses {
        responses: vec![
            json_response(
                201,
                "Committed, synced and announced.",
                schema(),
                vec![location_header()],
            ),
            json_response(
                200,
                "Known by its key: the first event's id, and nothing was added.",
                schema(),
                vec![location_header()],
            ),
        ],
    }
}

impl ApiResponse for Published {
    fn meta() -> MetaResponses {
        published_meta(|| MetaSchema {
            example: Some(
                json!({"id": 1, "topic": "greetings", "type": "message", "created_at": "2026-01-31T12:00:00.000Z"}),
            ),
            ..receipt_schema()
        })
    }

    fn register(_: &mut Registry) {}
}

impl ApiResponse for PublishedAny {
    fn meta() -> MetaResponses {
        published_meta(|| MetaSchema {
            one_of: vec![
                MetaSchemaRef::Inline(Box::new(receipt_schema())),
                MetaSchemaRef::Inline(Box::new(ids_schema())),
            ],
            ..MetaSchema::ANY
        })
    }

    fn register(_: &mut Registry) {}
}

/// What every way to publish may be refused with.
macro_rules! publish_codes {
    ($($more:ident),*) => {
        &[
            $(Code::$more,)*
            Code::InvalidJson, Code::RequestTimeout, Code::EventTooLarge, Code::TooManyEventsOfAddress, Code::Internal, Code::Busy, Code::Draining,
            Code::LogBusy, Code::LogMoved, Code::LogCorrupt, Code::DiskFailed, Code::DiskFull, Code::ReadOnly,
        ]
    };
}

/// The refusals of `POST /events`.
#[derive(Debug)]
pub(super) struct PublishEvents;

impl Codes for PublishEvents {
    const CODES: &'static [Code] = publish_codes![
        MissingField,
        UnknownField,
        InvalidField,
        InvalidTopic,
        InvalidType,
        InvalidKey,
        EmptyBatch,
        KeyConflict,
        BatchTooLarge,
        UnsupportedContentType
    ];
}

/// The refusals of `POST /topics/{topic}`.
#[derive(Debug)]
pub(super) struct PublishRaw;

impl Codes for PublishRaw {
    const CODES: &'static [Code] = publish_codes![
        InvalidText,
        InvalidTopic,
        InvalidType,
        InvalidKey,
        KeyConflict
    ];
}

pub(super) use publish_codes;
