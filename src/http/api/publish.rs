//! Publishing: an event, a batch, a raw body.

use poem::{IntoResponse, Request, RequestBody, Response};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions, Object, OpenApi,
    param::{Path, Query},
    registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry},
    types::{Example, ToJSON, Type},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    Api, Tag,
    body::{
        TURN_BYTES, count, fit, is_json, json_problem, limits_of, media_type, parse_object,
        read_batch, read_event, unsupported,
    },
    headers::{IdempotencyKey, KeyHeader},
    parameter::{Checked, optional},
    receipt::{Published, Receipt, ReceiptOrIds, StoredAs},
};
use crate::http::{
    caller::Caller,
    origin_of,
    problem::{Code, Codes, Problem, ProblemOf},
    schema::{Raw, Text},
};
use crate::{
    event::{Data, EventType, Key, NewEvent, Topic},
    hub::Origin,
    limits,
    rights::Right,
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
    /// published on the topic before is not stored again: the answer is 200 with the first event's id.
    #[oai(
        path = "/events",
        method = "post",
        tag = "Tag::Publish",
        operation_id = "publish"
    )]
    async fn publish(
        &self,
        /// Your own name for an event without a `key`. In a batch, the events without a `key` get this one and their place in
        /// the batch, such as `order-1001/2`. A quoted string means its content.
        #[oai(name = "Idempotency-Key")]
        key: KeyHeader,
        body: EventsBody,
        request: &Request,
    ) -> Result<Published<ReceiptOrIds>, ProblemOf<PublishEvents>> {
        Ok(self.publish_events(body, key.0, origin_of(request)).await?)
    }

    /// Publish a body as it is
    ///
    /// `curl -d hello localhost:8000/topics/greetings` publishes `"hello"`. A topic may contain slashes.
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
        /// Your own name for the event. The same key again on the same topic is not a second event. A quoted string means its
        /// content.
        #[oai(name = "Idempotency-Key")]
        key: KeyHeader,
        body: RawData,
        request: &Request,
    ) -> Result<Published<Receipt>, ProblemOf<PublishRaw>> {
        let topic = topic.0.get()?;
        Caller::of(request).must(Right::Publish, topic.as_str())?;
        let mut event = NewEvent {
            topic,
            event_type: optional(event_type.0)?.unwrap_or_default(),
            data: body.data,
            key: None,
        };
        self.0.add_key(&mut event, key.0).await?;
        let stored = self.0.hub.publish(vec![event], origin_of(request)).await?;
        Ok(self
            .0
            .published(&stored, |receipt| receipt.stored_as(body.stored_as)))
    }
}

impl PublishApi {
    /// `POST /events` as the routes answer it, without the layers between: each copies the request and puts what it does into
    /// a box of its own, which together took as long as all the hub does for an event.
    pub(in crate::http) async fn answer_publish(&self, request: Request) -> Response {
        let (request, mut body) = request.split();
        let published = async move {
            let origin = origin_of(&request);
            let key = IdempotencyKey::of(request.headers())?;
            let events = EventsBody::read(&request, &mut body).await?;
            // Before the wait for the commit: they hold the buffer that the next request is read into.
            drop((request, body));
            self.publish_events(events, key, origin).await
        };
        match published.await {
            Ok(published) => published.into_response(),
            Err(problem) => problem.into_response(),
        }
    }

    async fn publish_events(
        &self,
        events: EventsBody,
        key: Option<IdempotencyKey>,
        origin: Origin,
    ) -> Result<Published<ReceiptOrIds>, Problem> {
        let hub = &self.0.hub;
        Ok(match events {
            EventsBody::One(mut event) => {
                self.0.add_key(&mut event, key).await?;
                let stored = hub.publish(vec![event], origin).await?;
                self.0.published(&stored, ReceiptOrIds::Receipt)
            }
            EventsBody::Batch(mut events) => {
                if let Some(key) = key {
                    key.number(&mut events)?;
                }
                Published::batch(&hub.publish(events, origin).await?)
            }
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

/// An event to publish. Only `data` is required.
#[derive(Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(rename = "NewEvent", deny_unknown_fields, example)]
struct NewEventJson<'b> {
    /// The name that groups events; `events` if not given. 1 to 255 bytes without white space, control characters or `*`.
    #[serde(borrow, default)]
    #[oai(nullable)]
    topic: Option<Text<'b, Topic>>,
    /// What happened; `message` if not given. The rule of topics, and not beginning with `segno.`.
    #[serde(borrow, default, rename = "type")]
    #[oai(nullable, rename = "type")]
    event_type: Option<Text<'b, EventType>>,
    /// Any JSON, at most 1 MiB. It is kept as it is, digit by digit.
    #[serde(borrow)]
    data: Raw<'b>,
    /// Your own name for the event. The same key again on the same topic is not a second event.
    #[serde(borrow, default)]
    #[oai(nullable, skip_serializing_if_is_none)]
    key: Option<Text<'b, Key>>,
}

impl Example for NewEventJson<'_> {
    fn example() -> Self {
        let text = r#"{"topic":"greetings","type":"message","data":{"text":"hello"}}"#;
        serde_json::from_str(text).expect("it is an event")
    }
}

impl NewEventJson<'_> {
    fn into_event(self, limits: &limits::Settings) -> Result<NewEvent, Problem> {
        let topic = self
            .topic
            .as_ref()
            .map_or(DEFAULT_TOPIC, |topic| topic.as_str());
        let data = Data::from_json(&self.data.0)?;
        fit(data.as_str().len(), limits)?;
        Ok(NewEvent {
            topic: Topic::new(topic).map_err(|error| {
                Problem::new(Code::InvalidTopic, format_args!("topic: {error}"))
            })?,
            event_type: match self.event_type {
                None => EventType::default(),
                Some(name) => EventType::new(name.as_str()).map_err(|error| {
                    Problem::new(Code::InvalidType, format_args!("type: {error}"))
                })?,
            },
            data,
            key: self
                .key
                .map(|key| Key::new(key.as_str()))
                .transpose()
                .map_err(|error| Problem::new(Code::InvalidKey, format_args!("key: {error}")))?,
        })
    }
}

fn parse_event(json: &[u8], limits: &limits::Settings) -> Result<NewEvent, Problem> {
    parse_object::<NewEventJson<'_>>(json)?.into_event(limits)
}

fn parse_json(body: &[u8], limits: &limits::Settings) -> Result<EventsBody, Problem> {
    if body.trim_ascii_start().first() != Some(&b'[') {
        return parse_event(body, limits).map(EventsBody::One);
    }
    let events: Vec<&RawValue> =
        serde_json::from_slice(body).map_err(|error| json_problem(&error, body))?;
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
        return Err(Problem::new(Code::EmptyBatch, "the body has no event"));
    }
    if events.len() > max {
        return Err(Problem::new(
            Code::BatchTooLarge,
            format_args!("a batch has at most {max} events (--max-batch-events); send several"),
        ));
    }
    Ok(EventsBody::Batch(events))
}

impl EventsBody {
    /// Reads an event or a batch, and counts it for the client.
    async fn read(request: &Request, body: &mut RequestBody) -> Result<Self, Problem> {
        let parse = match media_type(request)?.as_deref() {
            Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => {
                parse_ndjson
            }
            None => parse_json,
            Some(media_type) if is_json(media_type) => parse_json,
            Some(other) => return Err(unsupported(other, "application/json")),
        };
        let body = read_batch(request, body).await?;
        let events = match body.len() < TURN_BYTES {
            true => parse(&body, limits_of(request))?,
            false => {
                let limits = limits_of(request).clone();
                let turns = &Caller::of(request).limits().turns;
                turns.beside(move || parse(&body, &limits)).await?
            }
        };
        let caller = Caller::of(request);
        for event in events.as_slice() {
            caller.must(Right::Publish, event.topic.as_str())?;
        }
        count(request, events.as_slice().len())?;
        Ok(events)
    }

    fn as_slice(&self) -> &[NewEvent] {
        match self {
            Self::One(event) => std::slice::from_ref(event),
            Self::Batch(events) => events,
        }
    }
}

/// A body of this media type, and what stands in it.
pub(super) fn media(content_type: &'static str, schema: MetaSchema) -> MetaMediaType {
    MetaMediaType {
        content_type,
        schema: MetaSchemaRef::Inline(Box::new(schema)),
    }
}

impl<'a> ApiExtractor<'a> for EventsBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        NewEventJson::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let many = MetaSchema {
            items: Some(Box::new(NewEventJson::schema_ref())),
            min_items: Some(1),
            max_items: Some(limits::BATCH_MAX_EVENTS),
            ..MetaSchema::new("array")
        };
        let json = MetaSchema {
            one_of: vec![
                NewEventJson::schema_ref(),
                MetaSchemaRef::Inline(Box::new(many)),
            ],
            example: NewEventJson::example().to_json(),
            ..MetaSchema::ANY
        };
        let ndjson = MetaSchema {
            description: Some("One event a line."),
            example: Some(json!("{\"data\":\"first\"}\n{\"data\":\"second\"}\n")),
            ..MetaSchema::new("string")
        };
        Some(MetaRequest {
            description: Some(
                "An event, or a batch: a JSON array, or NDJSON with one event a line. `Content-Encoding` may be gzip or deflate.",
            ),
            content: vec![
                media("application/json", json),
                media("application/x-ndjson", ndjson),
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

/// The body of `POST /topics/{topic}`, whatever it is.
#[derive(Debug)]
pub(super) struct RawData {
    data: Data,
    stored_as: Option<StoredAs>,
}

impl<'a> ApiExtractor<'a> for RawData {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn request_meta() -> Option<MetaRequest> {
        let json = Raw::schema_ref().unwrap_inline().clone();
        let text = MetaSchema {
            example: Some(json!("hello")),
            ..MetaSchema::new("string")
        };
        Some(MetaRequest {
            description: Some(
                "The data, at most 1 MiB, of any content type but multipart. JSON is kept as JSON, anything else becomes a JSON string; \
                 an empty body becomes the empty string. `Content-Encoding` may be gzip or deflate.",
            ),
            content: vec![media("application/json", json), media("text/plain", text)],
            required: false,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let media_type = media_type(request)?.unwrap_or_default();
        if media_type.starts_with("multipart/") {
            let detail = "a multipart body is not read; send the data alone, with curl by -d or --data-binary @file instead of -F";
            return Err(Problem::new(Code::UnsupportedContentType, detail).into());
        }
        let body = read_event(request, body).await?;
        let says_json = is_json(&media_type);
        let mut stored_as = None;
        let data = match serde_json::from_slice::<&RawValue>(&body) {
            Ok(json) => Data::from_json(json),
            Err(error) if says_json => return Err(json_problem(&error, &body).into()),
            Err(_) => {
                let looks_like_json = matches!(body.trim_ascii_start().first(), Some(b'{' | b'['));
                // Who sends text/plain says what it is; the types that curl and others send by themselves say nothing.
                if looks_like_json && !media_type.starts_with("text/") {
                    stored_as = Some(StoredAs::String);
                }
                Data::from_text(as_text(&body)?)
            }
        };
        let data = data.map_err(Problem::from)?;
        fit(data.as_str().len(), limits_of(request))?;
        count(request, 1)?;
        Ok(Self { data, stored_as })
    }
}

fn as_text(body: &[u8]) -> Result<&str, Problem> {
    str::from_utf8(body).map_err(|error| {
        let detail = format!(
            "the body is not UTF-8 text (byte {}); encode binary data, such as with base64",
            error.valid_up_to()
        );
        Problem::new(Code::InvalidText, detail)
    })
}

impl Api {
    /// Gives an event without a key of its own the key of the request's header.
    pub(super) async fn add_key(
        &self,
        event: &mut NewEvent,
        header: Option<IdempotencyKey>,
    ) -> Result<(), Problem> {
        let Some(header) = header.filter(|_| event.key.is_none()) else {
            return Ok(());
        };
        let (key, raw) = header.into_spellings();
        event.key = Some(match raw {
            Some(raw) if self.hub.log().has_key(&event.topic, &raw).await? => raw,
            _ => key,
        });
        Ok(())
    }
}

/// The codes of every way to publish, and more.
macro_rules! publish_codes {
    ($($more:ident),*) => {
        &[
            $(Code::$more,)*
            Code::InvalidJson, Code::InvalidHeader, Code::InvalidKey, Code::InvalidEncoding, Code::DataTooDeep, Code::RequestTimeout,
            Code::KeyConflict, Code::EventTooLarge, Code::UnsupportedContentType, Code::UnsupportedContentEncoding,
            Code::TooManyBodyBytesOfAddress, Code::TooManyEventsOfAddress, Code::TooManyEventsOfCaller, Code::Internal, Code::TooManyBodyBytes, Code::Busy,
            Code::Draining, Code::LogBusy, Code::LogMoved, Code::LogChanged, Code::LogCorrupt, Code::DiskFailed, Code::DiskFull, Code::Unordered, Code::OutcomeUnknown, Code::CommandTooLarge,
            Code::IdsExhausted, Code::ReadOnly,
        ]
    };
}
pub(super) use publish_codes;

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
        EmptyBatch,
        BatchTooLarge
    ];
}

/// The refusals of `POST /topics/{topic}`.
#[derive(Debug)]
pub(super) struct PublishRaw;

impl Codes for PublishRaw {
    const CODES: &'static [Code] = publish_codes![InvalidText, InvalidTopic, InvalidType];
}
