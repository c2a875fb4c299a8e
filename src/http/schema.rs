//! How the words of the hub stand in the OpenAPI document, each described once, and the one payload that answers are made of.
//!
//! poem-openapi reads and writes JSON by way of `serde_json::Value`, which changes digits. So its derived types only describe
//! here: requests are read and answers written by serde, or by hand where the data of events is raw text.

use std::{borrow::Cow, fmt, marker::PhantomData};

use poem::{Body, IntoResponse, Response};
use poem_openapi::{
    payload::Payload,
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::event::{EventId, EventType, Key, NAME_MAX_BYTES, Timestamp, Topic};

/// An answer of JSON that is described as a `T`.
pub(super) struct Json<T> {
    body: Body,
    described_as: PhantomData<fn() -> T>,
}

impl<T> Json<T> {
    /// JSON that was written by hand, or is still to be, with a line end behind it.
    pub(super) fn written(body: impl Into<Body>) -> Self {
        Self {
            body: body.into(),
            described_as: PhantomData,
        }
    }
}

impl<T: Serialize> Json<T> {
    /// A value as serde writes it, digit by digit.
    pub(super) fn of(value: &T) -> Self {
        let mut json = serde_json::to_vec(value).expect("answers always serialize into memory");
        json.push(b'\n');
        Self::written(json)
    }
}

impl<T> fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Json").finish_non_exhaustive()
    }
}

impl<T> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        Response::builder()
            .content_type("application/json")
            .body(self.body)
    }
}

impl<T: Type> Payload for Json<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// Text of a request that is to become a `T`, and is described as one. Borrowed from the body where nothing is escaped in it.
#[derive(Debug)]
pub(super) struct Text<'a, T> {
    text: Cow<'a, str>,
    described_as: PhantomData<fn() -> T>,
}

impl<T> Text<'_, T> {
    /// The text.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

impl<'a, T> From<Cow<'a, str>> for Text<'a, T> {
    fn from(text: Cow<'a, str>) -> Self {
        Self {
            text,
            described_as: PhantomData,
        }
    }
}

impl<'de: 'a, 'a, T> Deserialize<'de> for Text<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// serde borrows what is a field of this type, and copies what is only within an `Option`.
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);
        Ok(Borrowed::deserialize(deserializer)?.0.into())
    }
}

impl<T> Serialize for Text<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// Any JSON, as the text it came as.
#[derive(Debug, Clone)]
pub(super) struct Raw<'a>(pub(super) Cow<'a, RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|json| Self(Cow::Borrowed(json)))
    }
}

impl Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// A value that may be null and is never left out.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(super) struct Nullable<T>(pub(super) Option<T>);

/// Has poem-openapi know a type by a name, a schema and how it is read from a value, with which it checks and shows examples.
macro_rules! describe {
    ([$($generics:tt)*] $type:ty, $name:expr, $schema:expr, $read:expr) => {
        impl<$($generics)*> Type for $type {
            const IS_REQUIRED: bool = true;
            type RawValueType = Self;
            type RawElementValueType = Self;

            fn name() -> Cow<'static, str> {
                $name.into()
            }

            fn schema_ref() -> MetaSchemaRef {
                MetaSchemaRef::Inline(Box::new($schema))
            }

            fn as_raw_value(&self) -> Option<&Self> {
                Some(self)
            }

            fn raw_element_iter<'e>(&'e self) -> Box<dyn Iterator<Item = &'e Self> + 'e> {
                Box::new(std::iter::once(self))
            }
        }

        impl<$($generics)*> ParseFromJSON for $type {
            fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
                let value = value.unwrap_or_default();
                let read: fn(&Value) -> Option<Self> = $read;
                read(&value).ok_or_else(|| ParseError::expected_type(value))
            }
        }

        impl<$($generics)*> ToJSON for $type {
            fn to_json(&self) -> Option<Value> {
                serde_json::to_value(self).ok()
            }
        }
    };
}

describe!([] EventId, "id", id_schema(), |value| value
    .as_i64()
    .map(EventId::from_row));
describe!(
    [] Topic,
    "topic",
    MetaSchema {
        example: Some(json!("greetings")),
        ..name_schema()
    },
    |value| Topic::of_log(value.as_str()?).ok()
);
describe!(
    [] EventType,
    "type",
    MetaSchema {
        example: Some(json!("message")),
        ..name_schema()
    },
    |value| Some(EventType::from_row(value.as_str()?))
);
describe!(
    [] Key,
    "key",
    MetaSchema {
        example: Some(json!("order-1001-paid")),
        pattern: Some(r"^[^\u0000-\u001f\u007f-\u009f]+$".into()),
        ..name_schema()
    },
    |value| Key::new(value.as_str()?).ok()
);
describe!(
    [] Timestamp,
    "time",
    MetaSchema {
        example: Some(json!("2026-01-31T12:00:00.000Z")),
        ..MetaSchema::new_with_format("string", "date-time")
    },
    |value| value.as_str()?.parse().ok()
);
describe!(
    [] Raw<'_>,
    "json",
    MetaSchema {
        description: Some("Any JSON."),
        example: Some(json!({"text": "hello"})),
        ..MetaSchema::ANY
    },
    |value| Some(Raw(Cow::Owned(serde_json::value::to_raw_value(value).ok()?)))
);
describe!(
    [T: Type] Text<'_, T>,
    T::name(),
    T::schema_ref().unwrap_inline().clone(),
    |value| Some(Cow::Owned::<str>(value.as_str()?.to_owned()).into())
);

describe!(
    [T: ParseFromJSON + Serialize] Nullable<T>,
    T::name(),
    MetaSchema {
        nullable: true,
        ..T::schema_ref().unwrap_inline().clone()
    },
    |value| Some(Self((!value.is_null()).then(|| T::parse_from_json(Some(value.clone())).ok())?))
);

/// An id, or a cursor.
pub(super) fn id_schema() -> MetaSchema {
    MetaSchema {
        minimum: Some(0.0),
        example: Some(json!(1)),
        ..MetaSchema::new_with_format("integer", "int64")
    }
}

/// A name that can be published: no white space, no control character, no `*`, and none of the hub's own.
pub(super) const NEW_NAME_PATTERN: &str = r"^(?!segno\.)[^\s*\u0000-\u001f\u007f-\u009f]+$";

/// A name in the log, which may be one of the hub's own.
pub(super) const KEPT_NAME_PATTERN: &str = r"^[^\s*\u0000-\u001f\u007f-\u009f]+$";

/// A topic or a type of a filter, which may be a pattern.
pub(super) fn pattern_schema() -> MetaSchema {
    MetaSchema {
        pattern: Some(r"^[^\s\u0000-\u001f\u007f-\u009f]+$".into()),
        ..name_schema()
    }
}

/// A type that can be published. A browser's `EventSource` has events of its own called `error` and `open`.
pub(super) const NEW_TYPE_PATTERN: &str =
    r"^(?!segno\.|error$|open$)[^\s*\u0000-\u001f\u007f-\u009f]+$";

/// A topic, a type, a key or a pattern.
pub(super) fn name_schema() -> MetaSchema {
    MetaSchema {
        min_length: Some(1),
        max_length: Some(NAME_MAX_BYTES),
        ..MetaSchema::new("string")
    }
}
