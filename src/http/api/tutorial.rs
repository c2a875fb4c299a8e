//! The two ways to publish of the tutorial the hub grew out of: a message, whose answer says how it came.

use std::borrow::Cow;

use poem::{Request, RequestBody};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, Enum, ExtractParamOptions, Object, OpenApi,
    registry::{MetaMediaType, MetaRequest, Registry},
    types::{Example, Type},
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    Api, Tag,
    body::{count, fit, limits_of, parse_object, read_json},
    headers::KeyHeader,
    publish::publish_codes,
};
use crate::event::{Data, EventId, EventType, NewEvent, Topic};
use crate::http::{
    caller::Caller,
    origin_of,
    problem::{Code, Codes, Problem, ProblemOf},
    schema::{Json, Raw},
};
use crate::rights::Right;

/// Topic of what comes in over `/messages` and `/send_rest`.
const MESSAGES_TOPIC: &str = "messages";

/// The operations of the tutorial.
#[derive(Clone)]
pub(in crate::http) struct TutorialApi(pub(in crate::http) Api);

#[OpenApi]
impl TutorialApi {
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
        /// Your own name for the message. The same key again is not a second message. A quoted string means its content.
        #[oai(name = "Idempotency-Key")]
        key: KeyHeader,
        body: MessageBody,
        request: &Request,
    ) -> Result<MessageStored, ProblemOf<PublishMessage>> {
        self.send(body, MessageStatus::Received, key, request).await
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
    async fn send_rest(
        &self,
        /// Your own name for the message. The same key again is not a second message. A quoted string means its content.
        #[oai(name = "Idempotency-Key")]
        key: KeyHeader,
        body: MessageBody,
        request: &Request,
    ) -> Result<MessageStored, ProblemOf<PublishMessage>> {
        self.send(body, MessageStatus::ReceivedViaRest, key, request)
            .await
    }
}

impl TutorialApi {
    async fn send(
        &self,
        body: MessageBody,
        status: MessageStatus,
        key: KeyHeader,
        request: &Request,
    ) -> Result<MessageStored, ProblemOf<PublishMessage>> {
        let mut event = body.to_event(status)?;
        self.0.add_key(&mut event, key.0).await?;
        let events = vec![event];
        let stored = self.0.hub.publish(events, origin_of(request)).await?;
        Ok(body.answer(status, stored[0].event.id))
    }
}

/// How a message came, in the words of the tutorial.
#[derive(Debug, Clone, Copy, Serialize, Enum)]
pub(super) enum MessageStatus {
    /// Over `/messages`.
    Received,
    /// Over `/send_rest`.
    #[serde(rename = "Received via REST")]
    #[oai(rename = "Received via REST")]
    ReceivedViaRest,
}

/// A message to publish on the topic `messages`.
#[derive(Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(rename = "NewMessage", deny_unknown_fields, example)]
struct NewMessage<'b> {
    /// Any JSON, at most 1 MiB.
    #[serde(borrow)]
    message: Raw<'b>,
}

/// The body of both.
#[derive(Debug)]
pub(super) struct MessageBody(Box<RawValue>);

impl Example for NewMessage<'_> {
    fn example() -> Self {
        serde_json::from_str(r#"{"message":"hello"}"#).expect("it is a message")
    }
}

impl<'a> ApiExtractor<'a> for MessageBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        NewMessage::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![MetaMediaType {
                content_type: "application/json",
                schema: NewMessage::schema_ref(),
            }],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Caller::of(request).must(Right::Publish, MESSAGES_TOPIC)?;
        let body = read_json(request, body).await?;
        let message = parse_object::<NewMessage<'_>>(&body)?
            .message
            .0
            .into_owned();
        fit(message.get().len(), limits_of(request))?;
        count(request, 1)?;
        Ok(Self(message))
    }
}

/// The data of the event that a message is stored as.
#[derive(Serialize)]
struct MessageData<'a> {
    status: MessageStatus,
    message: &'a RawValue,
}

impl MessageBody {
    /// The event that a message is stored as.
    fn to_event(&self, status: MessageStatus) -> Result<NewEvent, Problem> {
        let data = to_raw_value(&MessageData {
            status,
            message: &self.0,
        });
        Ok(NewEvent {
            topic: Topic::new(MESSAGES_TOPIC).expect("a topic in rule"),
            event_type: EventType::default(),
            data: Data::from_json(&data.expect("JSON always serializes into memory"))?,
            key: None,
        })
    }

    /// The answer to who sent it.
    fn answer(self, status: MessageStatus, id: EventId) -> MessageStored {
        MessageStored::Stored(Json::of(&MessageAnswer {
            status,
            message: Raw(Cow::Owned(self.0)),
            id,
        }))
    }
}

/// A message as it was stored.
#[derive(Debug, Serialize, Object)]
#[oai(rename = "StoredMessage", example)]
pub(super) struct MessageAnswer<'b> {
    /// How it came.
    status: MessageStatus,
    /// The message.
    message: Raw<'b>,
    /// The event's id.
    id: EventId,
}

impl Example for MessageAnswer<'_> {
    fn example() -> Self {
        Self {
            status: MessageStatus::Received,
            message: NewMessage::example().message,
            id: EventId::ZERO.next(),
        }
    }
}

/// The answer of both.
#[derive(Debug, ApiResponse)]
pub(super) enum MessageStored {
    /// Stored. `id` is the event's id.
    #[oai(status = 200)]
    Stored(Json<MessageAnswer<'static>>),
}

/// The refusals of `POST /messages` and `POST /send_rest`.
#[derive(Debug)]
pub(super) struct PublishMessage;

impl Codes for PublishMessage {
    const CODES: &'static [Code] = publish_codes![MissingField, UnknownField, InvalidField];
}
