//! Tickets: the right to follow, in a form that fits into the URL of an `EventSource`.

use std::time::Duration;

use humantime::parse_duration;
use poem::{Request, RequestBody};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions, Object, OpenApi,
    registry::{MetaMediaType, MetaRequest, Registry},
    types::{Example, Type},
};
use serde::{Deserialize, Serialize};

use super::{
    Api, Tag,
    body::{parse_object, read_json},
};
use crate::{
    auth::{TICKET_MAX_PATTERNS, TicketError},
    event::Timestamp,
    filter::Pattern,
    http::{
        caller::Caller,
        problem::{Code, Codes, Problem, ProblemOf},
        schema::Json,
    },
    rights::Right,
};

/// Life of a ticket when none was asked for.
const DEFAULT_AGE: Duration = Duration::from_secs(60 * 60);

/// The operation that makes tickets.
#[derive(Clone)]
pub(in crate::http) struct TicketApi(pub(in crate::http) Api);

#[OpenApi]
impl TicketApi {
    /// Make a ticket
    ///
    /// For pages: a browser's `EventSource` can set no header, and a token does not belong into a URL. `/sse?ticket=…`,
    /// `/topics/{topic}?ticket=…` and `/events?ticket=…` have the rights that the ticket names and no more, until it expires or what it was made with does. A
    /// pattern gives what of it you may follow.
    #[oai(
        path = "/tickets",
        method = "post",
        tag = "Tag::Stream",
        operation_id = "make_ticket"
    )]
    async fn make_ticket(
        &self,
        body: TicketBody,
        request: &Request,
    ) -> Result<TicketMade, ProblemOf<MakeTicket>> {
        let caller = Caller::of(request);
        for topic in body.follow.iter().filter_map(Pattern::as_exact) {
            caller.must(Right::Follow, topic)?;
        }
        let access = &self.0.settings.access;
        let made = access
            .new_ticket(caller.identity(), body.follow, body.expires_in)
            .map_err(|error| caller.noted(error.into()))?;
        Ok(TicketMade::Made(Json::of(&Ticket {
            ticket: made.ticket,
            expires_at: made.expires,
        })))
    }
}

/// What a ticket is asked for.
#[derive(Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(rename = "NewTicket", deny_unknown_fields, example)]
struct NewTicket {
    /// Topics or patterns to follow, 20 at most.
    follow: Vec<String>,
    /// How long it is good, such as `10m`; an hour if not given, a day at most.
    #[serde(default)]
    #[oai(nullable)]
    expires_in: Option<String>,
}

impl Example for NewTicket {
    fn example() -> Self {
        serde_json::from_str(r#"{"follow":["orders.eu"],"expires_in":"10m"}"#).expect("it is one")
    }
}

/// The body of `POST /tickets`.
#[derive(Debug)]
struct TicketBody {
    follow: Vec<Pattern>,
    expires_in: Duration,
}

impl TicketBody {
    fn of(json: &[u8]) -> Result<Self, Problem> {
        let wish = parse_object::<NewTicket>(json)?;
        // Before any of them is compiled: a body has room for very many.
        if wish.follow.len() > TICKET_MAX_PATTERNS {
            return Err(TicketError::Number.into());
        }
        let patterns = wish.follow.iter().map(|text| {
            Pattern::new(text).map_err(|error| {
                Problem::new(Code::InvalidTopic, format_args!("'{text}': {error}"))
            })
        });
        let expires_in = match wish.expires_in {
            None => DEFAULT_AGE,
            Some(text) => parse_duration(&text).map_err(|_| {
                let detail = format!("expires_in '{text}': it looks like 10m or 12h");
                Problem::new(Code::InvalidTime, detail)
            })?,
        };
        Ok(Self {
            follow: patterns.collect::<Result<_, _>>()?,
            expires_in,
        })
    }
}

impl<'a> ApiExtractor<'a> for TicketBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        NewTicket::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![MetaMediaType {
                content_type: "application/json",
                schema: NewTicket::schema_ref(),
            }],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Ok(Self::of(&read_json(request, body).await?)?)
    }
}

/// A ticket.
#[derive(Debug, Serialize, Object)]
#[oai(example)]
pub(super) struct Ticket {
    /// What goes into `?ticket=`.
    ticket: String,
    /// When it ends.
    expires_at: Timestamp,
}

impl Example for Ticket {
    fn example() -> Self {
        Self {
            ticket: "eyJncmFudHMiOnsiZm9sbG93IjpbIm9yZGVycy5ldSJdfX0.c2lnbmF0dXJl".into(),
            expires_at: Timestamp::from_millis(1_769_860_800_000),
        }
    }
}

/// The answer of `POST /tickets`.
#[derive(Debug, ApiResponse)]
pub(super) enum TicketMade {
    /// Made. It is stored nowhere.
    #[oai(status = 200)]
    Made(Json<Ticket>),
}

impl From<TicketError> for Problem {
    fn from(error: TicketError) -> Self {
        match &error {
            TicketError::FromTicket | TicketError::NotAllowed(_) => {
                Self::new(Code::NotAllowed, error)
            }
            TicketError::Number => Self::new(Code::InvalidField, error),
            TicketError::Key(key) => Self::new(Code::Internal, "internal error").because(key),
        }
    }
}

/// The refusals of `POST /tickets`.
#[derive(Debug)]
pub(super) struct MakeTicket;

impl Codes for MakeTicket {
    const CODES: &'static [Code] = &[
        Code::InvalidJson,
        Code::InvalidHeader,
        Code::InvalidEncoding,
        Code::MissingField,
        Code::UnknownField,
        Code::InvalidField,
        Code::InvalidTopic,
        Code::InvalidTime,
        Code::RequestTimeout,
        Code::EventTooLarge,
        Code::UnsupportedContentType,
        Code::UnsupportedContentEncoding,
        Code::TooManyBodyBytesOfAddress,
        Code::TooManyBodyBytes,
        Code::Internal,
    ];
}
