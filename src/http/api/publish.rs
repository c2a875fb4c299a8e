//! The five ways to publish: an event, a batch, a raw body, and the two of the tutorial the hub grew out of.

use std::{borrow::Cow, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use poem::{
    Body, IntoResponse, Request, RequestBody, Response,
    http::{HeaderMap, StatusCode, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions,
    registry::{
        MetaHeader, MetaMediaType, MetaRequest, MetaResponse, MetaResponses, MetaSchema,
        MetaSchemaRef, Registry,
    },
};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{json, value::RawValue};

use crate::http::{
    forwarded, place_of,
    problem::{Code, Problem, Refusals},
};
use crate::{
    db::Stored,
    event::{Data, DataTooLarge, Event, EventId, EventType, Key, NewEvent, Topic},
    limits,
};

/// Bytes of a body that holds one event, beyond those of its data: room for white space, and for the fields around it.
const AROUND_DATA_MAX_BYTES: usize = 64 * 1024;

/// Bytes of a body too large that are read and thrown away, so that the client is still listening when it is told.
const DISCARD_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Topic of an event that was published without one.
const DEFAULT_TOPIC: &str = "events";

/// Topic of what comes in over `/messages` and `/send_rest`.
const MESSAGES_TOPIC: &str = "messages";

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

impl From<DataTooLarge> for Problem {
    fn from(error: DataTooLarge) -> Self {
        Self::new(Code::EventTooLarge, error)
    }
}

/// Whether data of so many bytes is no longer than the hub is set to take.
fn fit(bytes: usize, limits: &limits::Settings) -> Result<(), Problem> {
    let max = limits.max_event_bytes;
    match bytes > max {
        true => Err(Problem::new(
            Code::EventTooLarge,
            format_args!("the data of one event is at most {max} bytes of JSON; this is {bytes}"),
        )),
        false => Ok(()),
    }
}

/// Tells apart what serde found: not JSON, or not an event.
fn json_problem(error: &serde_json::Error) -> Problem {
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
    Problem::new(code, error)
}

/// Reads a JSON object. serde would take an array for a struct as well.
fn parse_object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Problem> {
    if json.trim_ascii_start().first() == Some(&b'{') {
        return serde_json::from_slice(json).map_err(|error| json_problem(&error));
    }
    match serde_json::from_slice::<IgnoredAny>(json) {
        Ok(_) => Err(Problem::new(Code::InvalidField, "it is not a JSON object")),
        Err(error) => Err(json_problem(&error)),
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

/// Reads the whole body, if it is no longer than `max_bytes` and comes in time.
async fn read_body(
    request: &Request,
    body: &mut RequestBody,
    max_bytes: usize,
    too_large: Code,
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
async fn read_batch(request: &Request, body: &mut RequestBody) -> Result<Bytes, Problem> {
    let limits = limits_of(request);
    let event_bytes = limits.max_event_bytes + AROUND_DATA_MAX_BYTES;
    let max_bytes = limits.max_batch_bytes.max(event_bytes);
    read_body(request, body, max_bytes, Code::BatchTooLarge).await
}

/// A body that holds one event.
async fn read_event(request: &Request, body: &mut RequestBody) -> Result<Bytes, Problem> {
    let max_bytes = limits_of(request).max_event_bytes + AROUND_DATA_MAX_BYTES;
    read_body(request, body, max_bytes, Code::EventTooLarge).await
}

fn limits_of(request: &Request) -> &limits::Settings {
    &place_of(request).limits().settings
}

/// Has the client publish so many events, if its rate allows it.
fn count(request: &Request, events: usize) -> Result<(), Problem> {
    let headers = request.headers();
    Ok(place_of(request).publish(events, || forwarded(headers))?)
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
    too_large: Code,
) -> Result<Bytes, Problem> {
    let mut chunks = body.into_bytes_stream();
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    let mut bytes = 0;
    let mut is_too_large = length.is_some_and(|length| length > max_bytes);
    while let Some(chunk) = chunks.next().await {
        // The client went away in the middle: nobody will read this.
        let chunk =
            chunk.map_err(|_| Problem::new(Code::InvalidJson, "the body ended too soon"))?;
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
        return Err(Problem::new(
            too_large,
            format_args!("the body is longer than {max_bytes} bytes"),
        ));
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// The media type of the body without its parameters, in lower case.
fn media_type(request: &Request) -> Option<String> {
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

fn is_json(media_type: &str) -> bool {
    media_type == "application/json"
        || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

fn unsupported(found: &str, expected: &str) -> Problem {
    Problem::new(
        Code::UnsupportedContentType,
        format_args!("the body is '{found}'; send it with `content-type: {expected}`"),
    )
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

/// The body of `POST /messages` and `POST /send_rest`: the JSON of its `message`.
#[derive(Debug)]
pub(super) struct MessageBody(pub(super) Box<RawValue>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageJson {
    message: Box<RawValue>,
}

impl<'a> ApiExtractor<'a> for MessageBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        registry.create_schema::<MessageBody, _>("NewMessage".into(), |_| {
            let message = MetaSchema {
                description: Some("Any JSON."),
                example: Some(json!("hello")),
                ..MetaSchema::ANY
            };
            MetaSchema {
                description: Some("A message to publish on the topic `messages`."),
                required: vec!["message"],
                properties: vec![("message", MetaSchemaRef::Inline(Box::new(message)))],
                example: Some(json!({"message": "hello"})),
                ..MetaSchema::new("object")
            }
        });
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![MetaMediaType {
                content_type: "application/json",
                schema: MetaSchemaRef::Reference("NewMessage".into()),
            }],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        if let Some(other) = media_type(request).filter(|media_type| !is_json(media_type)) {
            return Err(unsupported(&other, "application/json").into());
        }
        let body = read_event(request, body).await?;
        let message = parse_object::<MessageJson>(&body)?.message;
        fit(message.get().len(), limits_of(request))?;
        count(request, 1)?;
        Ok(Self(message))
    }
}

/// How a message came, in the words of the tutorial.
#[derive(Debug, Clone, Copy)]
pub(super) enum MessageStatus {
    /// Over `/messages`.
    Received,
    /// Over `/send_rest`.
    ReceivedViaRest,
}

impl MessageStatus {
    fn as_str(self) -> &'static str {
        match self {
            Self::Received => "Received",
            Self::ReceivedViaRest => "Received via REST",
        }
    }
}

/// The data of a message, and the answer but for its id.
#[derive(Serialize)]
struct MessageData<'a> {
    status: &'static str,
    message: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<EventId>,
}

impl MessageBody {
    fn with_status(&self, status: MessageStatus, id: Option<EventId>) -> Box<RawValue> {
        serde_json::value::to_raw_value(&MessageData {
            status: status.as_str(),
            message: &self.0,
            id,
        })
        .expect("JSON always serializes into memory")
    }

    /// The event that a message is stored as.
    pub(super) fn to_event(&self, status: MessageStatus) -> Result<NewEvent, Problem> {
        Ok(NewEvent {
            topic: Topic::new(MESSAGES_TOPIC).expect("a topic in rule"),
            event_type: EventType::default(),
            data: Data::from_json(&self.with_status(status, None))?,
            key: None,
        })
    }

    /// The answer to who sent it.
    pub(super) fn answer(&self, status: MessageStatus, id: EventId) -> MessageAnswer {
        MessageAnswer(self.with_status(status, Some(id)).get().to_owned())
    }
}

/// `{"status":"Received","message":…,"id":1}`.
#[derive(Debug)]
pub(super) struct MessageAnswer(String);

impl IntoResponse for MessageAnswer {
    fn into_response(self) -> Response {
        Response::builder()
            .content_type("application/json")
            .body(self.0)
    }
}

impl ApiResponse for MessageAnswer {
    fn meta() -> MetaResponses {
        let schema = MetaSchema {
            example: Some(json!({"status": "Received", "message": "hello", "id": 1})),
            ..MetaSchema::new("object")
        };
        MetaResponses {
            responses: vec![json_response(
                200,
                "Stored; its id is the event's.",
                schema,
                vec![],
            )],
        }
    }

    fn register(_: &mut Registry) {}
}

fn json_response(
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

impl Refusals for PublishEvents {
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

impl Refusals for PublishRaw {
    const CODES: &'static [Code] = publish_codes![
        InvalidText,
        InvalidTopic,
        InvalidType,
        InvalidKey,
        KeyConflict
    ];
}

/// The refusals of `POST /messages` and `POST /send_rest`.
#[derive(Debug)]
pub(super) struct PublishMessage;

impl Refusals for PublishMessage {
    const CODES: &'static [Code] = publish_codes![
        MissingField,
        UnknownField,
        InvalidField,
        UnsupportedContentType
    ];
}
