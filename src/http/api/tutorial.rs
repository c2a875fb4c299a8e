//! The two ways to publish of the tutorial the hub grew out of: a message, which is told how it came.

use poem::{IntoResponse, Request, RequestBody, Response};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions, OpenApi,
    registry::{MetaMediaType, MetaRequest, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{
    Api, Tag,
    body::{count, fit, is_json, limits_of, media_type, parse_object, read_event, unsupported},
    publish::{json_response, publish_codes},
};
use crate::event::{Data, EventId, EventType, NewEvent, Topic};
use crate::http::{
    origin_of,
    problem::{Code, Codes, Problem, ProblemOf},
};

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
        body: MessageBody,
        request: &Request,
    ) -> Result<MessageAnswer, ProblemOf<PublishMessage>> {
        self.send(&body, MessageStatus::Received, request).await
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
        body: MessageBody,
        request: &Request,
    ) -> Result<MessageAnswer, ProblemOf<PublishMessage>> {
        self.send(&body, MessageStatus::ReceivedViaRest, request)
            .await
    }
}

impl TutorialApi {
    async fn send(
        &self,
        body: &MessageBody,
        status: MessageStatus,
        request: &Request,
    ) -> Result<MessageAnswer, ProblemOf<PublishMessage>> {
        let events = vec![body.to_event(status)?];
        let stored = self.0.hub.publish(events, origin_of(request)).await?;
        Ok(body.answer(status, stored[0].event.id))
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

/// The refusals of `POST /messages` and `POST /send_rest`.
#[derive(Debug)]
pub(super) struct PublishMessage;

impl Codes for PublishMessage {
    const CODES: &'static [Code] = publish_codes![
        MissingField,
        UnknownField,
        InvalidField,
        UnsupportedContentType
    ];
}
