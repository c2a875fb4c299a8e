//! Parameters of requests: how each is read, refused and described.

use std::{borrow::Cow, time::Duration};

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseFromParameter, ParseResult, Type},
};
use serde_json::json;

use crate::http::{
    problem::{Code, Problem},
    schema::{
        KEPT_NAME_PATTERN, NEW_NAME_PATTERN, NEW_TYPE_PATTERN, id_schema, name_schema,
        pattern_schema,
    },
};
use crate::{
    db::Order,
    event::{EventId, EventType, InvalidName, Timestamp, Topic},
    filter::PatternText,
    hub::Start,
};

/// Most events in one answer of the history. Source: the hub's HTTP contract.
pub(super) const LIMIT_MAX_EVENTS: usize = 1000;

/// Something that can be read from a parameter.
pub(super) trait Parameter: Sized + Send + Sync {
    /// What the document says of it.
    fn schema() -> MetaSchema;

    /// Reads it; the problem says what was expected.
    fn read(text: &str) -> Result<Self, Problem>;
}

/// A parameter that was read, or why it was not.
///
/// poem-openapi would answer a bad parameter in plain text; this carries the problem to the handler, which answers it
/// like any other.
#[derive(Debug)]
pub(super) struct Checked<T>(Result<T, Problem>);

impl<T: Parameter> Checked<T> {
    pub(super) fn read(text: &str) -> Self {
        Self(T::read(text))
    }
}

impl<T> Checked<T> {
    pub(super) fn get(self) -> Result<T, Problem> {
        self.0
    }
}

/// The value of a parameter that may be left out.
pub(super) fn optional<T>(parameter: Option<Checked<T>>) -> Result<Option<T>, Problem> {
    parameter.map(Checked::get).transpose()
}

/// The values of a parameter that may be repeated.
pub(super) fn all<T>(parameters: Vec<Checked<T>>) -> Result<Vec<T>, Problem> {
    parameters.into_iter().map(Checked::get).collect()
}

impl<T: Parameter> Type for Checked<T> {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "parameter".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(T::schema()))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl<T: Parameter> ParseFromParameter for Checked<T> {
    fn parse_from_parameter(value: &str) -> ParseResult<Self> {
        Ok(Self::read(value))
    }
}

/// Longest value that a refusal repeats, in bytes. What is longer is no number, time or word, but perhaps a credential that was put
/// in the wrong place.
const SHOWN_MAX_BYTES: usize = 40;

/// A value as a refusal repeats it.
pub(super) fn shown(text: &str) -> &str {
    match text.len() <= SHOWN_MAX_BYTES {
        true => text,
        false => "…",
    }
}

fn invalid_topic(text: &str, error: InvalidName) -> Problem {
    Problem::new(Code::InvalidTopic, format_args!("topic '{text}': {error}"))
}

fn invalid_type(text: &str, error: InvalidName) -> Problem {
    Problem::new(Code::InvalidType, format_args!("type '{text}': {error}"))
}

impl Parameter for Topic {
    fn schema() -> MetaSchema {
        MetaSchema {
            example: Some(json!("greetings")),
            pattern: Some(NEW_NAME_PATTERN.into()),
            ..name_schema()
        }
    }

    fn read(text: &str) -> Result<Self, Problem> {
        Self::new(text).map_err(|error| invalid_topic(text, error))
    }
}

/// The topic of stored events, which may be one that nobody can publish on any more.
#[derive(Debug)]
pub(super) struct KeptTopic(pub(super) Topic);

impl Parameter for KeptTopic {
    fn schema() -> MetaSchema {
        MetaSchema {
            example: Some(json!("greetings")),
            pattern: Some(KEPT_NAME_PATTERN.into()),
            ..name_schema()
        }
    }

    fn read(text: &str) -> Result<Self, Problem> {
        match Topic::of_log(text) {
            Ok(topic) => Ok(Self(topic)),
            Err(error) => Err(invalid_topic(text, error)),
        }
    }
}

impl Parameter for EventType {
    fn schema() -> MetaSchema {
        MetaSchema {
            pattern: Some(NEW_TYPE_PATTERN.into()),
            ..name_schema()
        }
    }

    fn read(text: &str) -> Result<Self, Problem> {
        Self::new(text).map_err(|error| invalid_type(text, error))
    }
}

/// A pattern over topics, which is yet to be compiled.
#[derive(Debug)]
pub(super) struct TopicPattern(pub(super) PatternText);

impl Parameter for TopicPattern {
    fn schema() -> MetaSchema {
        pattern_schema()
    }

    fn read(text: &str) -> Result<Self, Problem> {
        PatternText::new(text)
            .map(Self)
            .map_err(|error| invalid_topic(text, error))
    }
}

/// A pattern over types, which is yet to be compiled.
#[derive(Debug)]
pub(super) struct TypePattern(pub(super) PatternText);

impl Parameter for TypePattern {
    fn schema() -> MetaSchema {
        pattern_schema()
    }

    fn read(text: &str) -> Result<Self, Problem> {
        PatternText::new(text)
            .map(Self)
            .map_err(|error| invalid_type(text, error))
    }
}

/// The id in a path.
impl Parameter for EventId {
    fn schema() -> MetaSchema {
        id_schema()
    }

    fn read(text: &str) -> Result<Self, Problem> {
        text.parse().map_err(|error| {
            Problem::new(Code::InvalidId, format_args!("'{}': {error}", shown(text)))
        })
    }
}

/// An id as a cursor. An empty one is none, as some clients send it.
#[derive(Debug)]
pub(super) struct Cursor(pub(super) Option<EventId>);

impl Parameter for Cursor {
    fn schema() -> MetaSchema {
        // Without an example: a page fills those in, and two of them contradict each other.
        MetaSchema {
            example: None,
            ..id_schema()
        }
    }

    fn read(text: &str) -> Result<Self, Problem> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self(None));
        }
        let cursor = text.parse().map_err(|error| {
            Problem::new(
                Code::InvalidCursor,
                format_args!("'{}': {error}", shown(text)),
            )
        })?;
        Ok(Self(Some(cursor)))
    }
}

/// A number of events that `last=` asks for.
#[derive(Debug)]
pub(super) struct Newest(pub(super) u64);

impl Parameter for Newest {
    fn schema() -> MetaSchema {
        MetaSchema {
            example: Some(5.into()),
            ..id_schema()
        }
    }

    fn read(text: &str) -> Result<Self, Problem> {
        let number: EventId = text.parse().map_err(|_| {
            Problem::new(
                Code::InvalidLimit,
                format_args!(
                    "last '{}' is not a whole number of events, such as 10",
                    shown(text)
                ),
            )
        })?;
        Ok(Self(number.as_i64().unsigned_abs()))
    }
}

/// A number of events after which a stream ends.
#[derive(Debug)]
pub(super) struct Count(pub(super) usize);

impl Parameter for Count {
    fn schema() -> MetaSchema {
        MetaSchema {
            minimum: Some(1.0),
            example: Some(5.into()),
            ..MetaSchema::new_with_format("integer", "int32")
        }
    }

    fn read(text: &str) -> Result<Self, Problem> {
        // Within 32 bits, as the document says.
        let number = text.parse().ok().filter(|&number: &i32| number > 0);
        let number = number.and_then(|number| usize::try_from(number).ok());
        number.map(Self).ok_or_else(|| {
            Problem::new(
                Code::InvalidLimit,
                format_args!(
                    "count '{}' is not a whole number of events from 1 up, such as 5",
                    shown(text)
                ),
            )
        })
    }
}

/// An age or an RFC 3339 time, as the document promises to take them. Ages may be longer, such as `1h 30m`, and times of all days.
const TIME_PATTERN: &str = concat!(
    "0|[1-9][0-9]{0,3}(s|m|h|d|w)|",
    "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3])(:[0-5][0-9]){2}",
    r"(\.[0-9]{1,9})?(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])",
);

/// A moment: `15m` ago, an RFC 3339 time, or `start`.
#[derive(Debug)]
pub(super) struct Since(pub(super) Start);

impl Parameter for Since {
    fn schema() -> MetaSchema {
        MetaSchema {
            pattern: Some(format!("^(start|{TIME_PATTERN})$")),
            ..MetaSchema::new("string")
        }
    }

    fn read(text: &str) -> Result<Self, Problem> {
        if text == "start" {
            return Ok(Self(Start::First));
        }
        Moment::read(text).map(|moment| Self(Start::Since(moment.0)))
    }
}

/// A moment: `15m` ago or an RFC 3339 time.
#[derive(Debug)]
pub(super) struct Moment(pub(super) Timestamp);

impl Parameter for Moment {
    fn schema() -> MetaSchema {
        MetaSchema {
            pattern: Some(format!("^({TIME_PATTERN})$")),
            ..MetaSchema::new("string")
        }
    }

    fn read(text: &str) -> Result<Self, Problem> {
        // In a query "+" stands for a space, and people write offsets like "+02:00" as they are.
        let time = text.replace(' ', "+").parse().ok();
        let age = || -> Option<Timestamp> {
            let age: Duration = humantime::parse_duration(text).ok()?;
            Some(Timestamp::now().before(age))
        };
        time.or_else(age).map(Self).ok_or_else(|| {
            let detail = format!("'{}' is not a time; use an age such as 15m, 2h or 7d, or a time such as 2026-01-31T12:00:00Z", shown(text));
            Problem::new(Code::InvalidTime, detail)
        })
    }
}

/// Most entries in an answer.
#[derive(Debug)]
pub(super) struct PageSize(pub(super) usize);

impl Parameter for PageSize {
    fn schema() -> MetaSchema {
        MetaSchema {
            minimum: Some(1.0),
            maximum: Some(1000.0),
            ..MetaSchema::new_with_format("integer", "int32")
        }
    }

    fn read(text: &str) -> Result<Self, Problem> {
        let limit = text
            .parse()
            .ok()
            .filter(|limit| (1..=LIMIT_MAX_EVENTS).contains(limit));
        limit.map(Self).ok_or_else(|| {
            Problem::new(
                Code::InvalidLimit,
                format_args!(
                    "limit '{}' is not a whole number from 1 to {LIMIT_MAX_EVENTS}",
                    shown(text)
                ),
            )
        })
    }
}

impl Parameter for Order {
    fn schema() -> MetaSchema {
        MetaSchema {
            enum_items: vec![json!("asc"), json!("desc")],
            default: Some(json!("asc")),
            ..MetaSchema::new("string")
        }
    }

    fn read(text: &str) -> Result<Self, Problem> {
        match text {
            "asc" => Ok(Self::Ascending),
            "desc" => Ok(Self::Descending),
            _ => Err(Problem::new(
                Code::InvalidOrder,
                format_args!("order '{}' is unknown; use asc or desc", shown(text)),
            )),
        }
    }
}
