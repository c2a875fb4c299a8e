//! Request headers that mean something: each is read whole or refused, and never taken for absent.

use poem::{
    Request, RequestBody,
    http::{HeaderMap, HeaderName, HeaderValue, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaParamIn, MetaSchemaRef},
    types::Type,
};

use crate::{
    event::{Key, NewEvent},
    http::problem::{Code, Problem},
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The value of a header that may be there once, as UTF-8.
pub(super) fn text<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(invalid(name, "is given more than once; send it once"));
    }
    as_text(name, value).map(Some)
}

/// A value of the header `name`, as UTF-8.
fn as_text<'h>(name: &HeaderName, value: &'h HeaderValue) -> Result<&'h str, Problem> {
    str::from_utf8(value.as_bytes()).map_err(|_| invalid(name, "is not UTF-8"))
}

fn invalid(name: &HeaderName, what: &str) -> Problem {
    Problem::new(Code::InvalidHeader, format_args!("header {name} {what}"))
}

/// Refuses what CloudEvents says in headers: to drop it would lose a part of the event.
pub(super) fn refuse_cloudevents(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.keys().find(|name| name.as_str().starts_with("ce-")) {
        None => Ok(()),
        Some(name) => Err(invalid(
            name,
            "belongs to CloudEvents, which this hub does not read; send topic, type and data as this API describes them",
        )),
    }
}

/// Whether the client waits for a `100 Continue` before it sends the body.
pub(super) fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// What the header `Idempotency-Key` says.
#[derive(Debug)]
pub(super) struct IdempotencyKey {
    key: Key,
    /// The value as it was sent, if it was a quoted string: before quotes were understood, it was stored so.
    raw: Option<Key>,
}

impl IdempotencyKey {
    /// Reads it from a request, if it has one.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let Some(value) = text(headers, &IDEMPOTENCY_KEY)? else {
            return Ok(None);
        };
        let content = unquoted(value);
        let key = Key::new(content.as_deref().unwrap_or(value))?;
        let raw = content.and_then(|_| Key::new(value).ok());
        Ok(Some(Self { key, raw }))
    }

    /// The key, and its raw spelling if that is another.
    pub(super) fn into_spellings(self) -> (Key, Option<Key>) {
        (self.key, self.raw)
    }

    /// Gives each event of a batch that has no key of its own one that is made of this and its place in the batch.
    pub(super) fn number(&self, events: &mut [NewEvent]) -> Result<(), Problem> {
        for (index, event) in events.iter_mut().enumerate() {
            if event.key.is_none() {
                event.key = Some(Key::new(&format!("{}/{}", self.key.as_str(), index + 1))?);
            }
        }
        Ok(())
    }
}

/// The content of a quoted string, if `value` is one. Source: RFC 9651, 3.3.3, but for non-ASCII characters, which are kept.
fn unquoted(value: &str) -> Option<String> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    let mut content = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        content.push(match character {
            '"' => return None,
            '\\' => characters.next().filter(|next| "\"\\".contains(*next))?,
            character => character,
        });
    }
    Some(content)
}

/// The header as a parameter of an operation.
#[derive(Debug)]
pub(super) struct KeyHeader(pub(super) Option<IdempotencyKey>);

impl<'a> ApiExtractor<'a> for KeyHeader {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    type ParamType = ();
    type ParamRawType = ();

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(Key::schema_ref())
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Ok(Self(IdempotencyKey::of(request.headers())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_well_formed_quoted_string_means_its_content() {
        for (value, content) in [
            (r#""order-1""#, Some("order-1")),
            (r#""a \"b\" \\ c""#, Some(r#"a "b" \ c"#)),
            (r#""""#, Some("")),
            ("order-1", None),
            (r#""order-1"#, None),
            (r#""a"b""#, None),
            (r#""a\n""#, None),
            (r#""a\""#, None),
            ("\"", None),
        ] {
            assert_eq!(unquoted(value).as_deref(), content, "{value}");
        }
    }
}
