//! The words of the hub: what an event is and what its parts may be.
//!
//! Everything here is pure. A value of one of these types has passed its rule, so the code behind trusts it: a [`Topic`]
//! has no control character, [`Data`] is one line of valid JSON. Nothing here knows of files, channels or HTTP.

mod data;
mod timestamp;

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::{
    data::{DATA_MAX_BYTES, DATA_MAX_LEVELS, Data, InvalidData},
    timestamp::{InvalidTimestamp, Timestamp},
};

/// Longest topic, type or key, in bytes of UTF-8. Source: the hub's HTTP contract.
pub const NAME_MAX_BYTES: usize = 255;

/// One stored fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its position in the event log.
    pub id: EventId,
    /// The name that groups events.
    pub topic: Topic,
    /// What happened.
    pub event_type: EventType,
    /// The JSON that was published.
    pub data: Data,
    /// When it was committed. Never goes backwards along the ids.
    pub created_at: Timestamp,
    /// The publisher's own name for it, if it gave one.
    pub key: Option<Key>,
}

impl Event {
    /// Appends the event as one line of JSON, without a line end.
    ///
    /// Shape: `{"id":1,"topic":"orders","type":"message","data":…,"created_at":"2026-01-31T12:00:00.000Z"}`, and `"key"`
    /// at the end where there is one. `data` stands as it was published, digit by digit.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"id\":");
        out.extend_from_slice(self.id.to_string().as_bytes());
        out.extend_from_slice(b",\"topic\":");
        write_json_string(self.topic.as_str(), out);
        out.extend_from_slice(b",\"type\":");
        write_json_string(self.event_type.as_str(), out);
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(self.data.as_str().as_bytes());
        out.extend_from_slice(b",\"created_at\":\"");
        out.extend_from_slice(self.created_at.to_string().as_bytes());
        out.push(b'"');
        if let Some(key) = &self.key {
            out.extend_from_slice(b",\"key\":");
            write_json_string(key.as_str(), out);
        }
        out.push(b'}');
    }
}

/// Text that is not an event as [`Event::write_json`] writes it.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEvent {
    /// Not the JSON of an event.
    #[error("it is not an event")]
    Json(#[from] serde_json::Error),
    /// A topic or type out of rule.
    #[error("its topic or type is out of rule: {0}")]
    Name(#[from] InvalidName),
    /// A key out of rule.
    #[error(transparent)]
    Key(#[from] InvalidKey),
    /// Data out of rule.
    #[error(transparent)]
    Data(#[from] InvalidData),
    /// Its id is not one that an event can have.
    #[error(
        "its id is not a whole number from 1 to {}, the last id there can be",
        EventId::LAST
    )]
    Id,
    /// Its time is not one.
    #[error(transparent)]
    Time(#[from] InvalidTimestamp),
}

impl FromStr for Event {
    type Err = InvalidEvent;

    /// Reads what [`Event::write_json`] wrote.
    fn from_str(line: &str) -> Result<Self, InvalidEvent> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Line<'a> {
            #[serde(borrow)]
            id: &'a RawValue,
            #[serde(borrow)]
            topic: Cow<'a, str>,
            #[serde(borrow, rename = "type")]
            event_type: Cow<'a, str>,
            #[serde(borrow)]
            data: &'a RawValue,
            #[serde(borrow)]
            created_at: Cow<'a, str>,
            #[serde(borrow)]
            key: Option<Cow<'a, str>>,
        }
        let line: Line<'_> = serde_json::from_str(line)?;
        Ok(Self {
            id: id_of_log(line.id.get())?,
            topic: Topic::of_log(&line.topic)?,
            event_type: EventType::of_log(&line.event_type)?,
            data: Data::of_log(line.data)?,
            created_at: line.created_at.parse()?,
            key: line.key.as_deref().map(Key::new).transpose()?,
        })
    }
}

fn id_of_log(text: &str) -> Result<EventId, InvalidEvent> {
    match text.parse() {
        Ok(id) if EventId::ZERO < id && id <= EventId::LAST => Ok(id),
        Ok(_) | Err(InvalidEventId) => Err(InvalidEvent::Id),
    }
}

fn write_json_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a string always serializes into memory");
}

/// An event as a publisher gives it: everything but what the hub adds when it commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// The name that groups events.
    pub topic: Topic,
    /// What happened.
    pub event_type: EventType,
    /// The JSON to keep.
    pub data: Data,
    /// The publisher's own name for the event; publishing it again on the same topic is not a second event.
    pub key: Option<Key>,
}

impl NewEvent {
    /// About how many bytes the event takes while it waits for the writer.
    pub fn size_bytes(&self) -> usize {
        let key_bytes = self.key.as_ref().map_or(0, |key| key.as_str().len());
        size_of::<Self>()
            + self.topic.0.len()
            + self.event_type.0.len()
            + self.data.as_str().len()
            + key_bytes
    }
}

/// Position of an event in the event log. Grows along the log and is never used again; there may be holes.
///
/// As a cursor it is the id of the last event a subscriber has: reading goes on after it, and [`EventId::ZERO`] stands
/// before the first event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct EventId(i64);

impl EventId {
    /// Before the first event.
    pub const ZERO: Self = Self(0);

    /// After the last event there can be.
    pub const MAX: Self = Self(i64::MAX);

    /// The last id there can be, 2^53 - 1: JavaScript, and most readers of JSON, round what is above. A log that takes a
    /// million events a second gets there after 285 years.
    pub const LAST: Self = Self((1 << 53) - 1);

    /// The id that SQLite holds as `value`. A negative one, which only a hand could have written, becomes zero.
    pub const fn from_row(value: i64) -> Self {
        Self(if value < 0 { 0 } else { value })
    }

    /// The id as SQLite holds it.
    pub const fn as_i64(self) -> i64 {
        self.0
    }

    /// The id after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The id before this one; zero stays zero.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self::from_row(self.0 - 1)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Text that is not an id.
#[derive(Debug, thiserror::Error)]
#[error("an id is a whole number from 0 to 9223372036854775807, such as 42")]
pub struct InvalidEventId;

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidEventId); // `i64` alone would take "+1".
        }
        text.parse().map(Self).map_err(|_| InvalidEventId)
    }
}

/// The name that groups events: 1 to 255 bytes of UTF-8 without control characters, white space or `*`. Publishers cannot
/// use one that begins with `segno.`, which is the hub's own.
///
/// Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Takes `name` as a topic to publish on.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        check_new_name(name)?;
        Ok(Self(name.into()))
    }

    /// Takes `name` as the topic of an event that is in a log: one written before may begin with `segno.`.
    pub fn of_log(name: &str) -> Result<Self, InvalidName> {
        check_name(name)?;
        Ok(Self(name.into()))
    }

    /// The topic a row of the file holds. It passed its rule when it was published.
    pub fn from_row(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What happened: the same rule as a [`Topic`]. Publishers cannot use `open` and `error`, which a browser's `EventSource` uses for
/// itself: a page would take such an event for a lost connection.
///
/// Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct EventType(Arc<str>);

impl EventType {
    /// The type of an event that was published without one. Browsers call it `message` too.
    pub const DEFAULT: &'static str = "message";

    /// The type of an event whose data was erased, and of the event that tells of it.
    pub const ERASED: &'static str = "segno.erased";

    /// Takes `name` as the type of an event to publish.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        check_new_name(name)?;
        if BROWSER_TYPES.contains(&name) {
            return Err(InvalidName::BrowserType);
        }
        Ok(Self(name.into()))
    }

    /// Takes `name` as the type of an event that is in a log: one written before may be one that a browser uses.
    pub fn of_log(name: &str) -> Result<Self, InvalidName> {
        match name {
            Self::ERASED => Ok(Self::erased()),
            name => check_new_name(name).map(|()| Self(name.into())),
        }
    }

    /// The type a row of the file holds. It passed its rule when it was published.
    pub fn from_row(name: &str) -> Self {
        Self(name.into())
    }

    /// The type of what tells that something was erased. Publishers cannot use it.
    pub fn erased() -> Self {
        Self(Self::ERASED.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the type of what tells that something was erased.
    pub fn is_erased(&self) -> bool {
        &*self.0 == Self::ERASED
    }

    /// Whether it is the type of events that were published without one.
    pub fn is_default(&self) -> bool {
        &*self.0 == Self::DEFAULT
    }
}

impl Default for EventType {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

/// A topic, type or pattern out of rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing at all.
    #[error("it is empty")]
    Empty,
    /// More than [`NAME_MAX_BYTES`].
    #[error("it is longer than {NAME_MAX_BYTES} bytes")]
    TooLong,
    /// A control character or white space.
    #[error("it has white space or a control character in it")]
    Character,
    /// `*`, which stands for any characters where events are read.
    #[error("it has a '*' in it, which only a subscription may have")]
    Wildcard,
    /// A name of the hub's own.
    #[error("names that begin with '{RESERVED_PREFIX}' are the hub's own")]
    Reserved,
    /// A type that a browser's `EventSource` uses for itself.
    #[error("browsers use 'open' and 'error' for the connection itself; take another type")]
    BrowserType,
}

/// Types of the events that an `EventSource` fires by itself. Source: WHATWG HTML, 9.2.2.
const BROWSER_TYPES: [&str; 2] = ["open", "error"];

/// What the hub's own topics and types begin with.
const RESERVED_PREFIX: &str = "segno.";

/// The rule for the names of an event that is published.
fn check_new_name(name: &str) -> Result<(), InvalidName> {
    check_name(name)?;
    if name.starts_with(RESERVED_PREFIX) {
        return Err(InvalidName::Reserved);
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), InvalidName> {
    check_pattern(name)?;
    if name.contains('*') {
        return Err(InvalidName::Wildcard);
    }
    Ok(())
}

/// The rule for names, but that `*` may be in it.
pub(crate) fn check_pattern(pattern: &str) -> Result<(), InvalidName> {
    if pattern.is_empty() {
        return Err(InvalidName::Empty);
    }
    if pattern.len() > NAME_MAX_BYTES {
        return Err(InvalidName::TooLong);
    }
    if pattern.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(InvalidName::Character);
    }
    Ok(())
}

/// A publisher's own name for an event: 1 to 255 bytes of UTF-8 without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Key(Box<str>);

/// A key out of rule.
#[derive(Debug, thiserror::Error)]
#[error("a key is 1 to {NAME_MAX_BYTES} bytes of UTF-8 without control characters")]
pub struct InvalidKey;

impl Key {
    /// Takes `text` as a key.
    pub fn new(text: &str) -> Result<Self, InvalidKey> {
        if text.is_empty() || text.len() > NAME_MAX_BYTES || text.chars().any(char::is_control) {
            return Err(InvalidKey);
        }
        Ok(Self(text.into()))
    }

    /// The key a row of the file holds. It passed its rule when it was published.
    pub fn from_row(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_names_without_space_control_or_wildcard() {
        for good in [
            "events",
            "orders.created",
            "sensors/kitchen/1",
            "ünï",
            "a",
            &"x".repeat(255),
        ] {
            assert_eq!(Topic::new(good).unwrap().as_str(), good);
        }
        let bad = [
            ("", InvalidName::Empty),
            (&"x".repeat(256), InvalidName::TooLong),
            ("a b", InvalidName::Character),
            ("a\nb", InvalidName::Character),
            ("a\u{a0}b", InvalidName::Character),
            ("a\u{85}", InvalidName::Character),
            ("a\0", InvalidName::Character),
            ("orders.*", InvalidName::Wildcard),
        ];
        for (name, reason) in bad {
            assert_eq!(Topic::new(name), Err(reason), "{name:?}");
        }
    }

    #[test]
    fn topics_and_types_of_the_hub_are_reserved() {
        assert_eq!(EventType::new("segno.gap"), Err(InvalidName::Reserved));
        for name in ["open", "error"] {
            assert_eq!(EventType::new(name), Err(InvalidName::BrowserType));
            assert!(EventType::of_log(name).is_ok(), "what was stored is kept");
            assert!(Topic::new(name).is_ok() && EventType::new(&format!("{name}s")).is_ok());
        }
        assert_eq!(Topic::new("segno.canary"), Err(InvalidName::Reserved));
        assert_eq!(Topic::new("segno.x"), Err(InvalidName::Reserved));
        assert_eq!(Topic::of_log("segno.x").unwrap().as_str(), "segno.x");
        assert!(Topic::new("segno").is_ok());
        assert!(EventType::new("segnora").is_ok());
        assert!(EventType::default().is_default());
    }

    #[test]
    fn ids_are_plain_digits() {
        assert_eq!("42".parse::<EventId>().unwrap().as_i64(), 42);
        for bad in [
            "",
            "+1",
            "-1",
            "1.0",
            " 1",
            "1 ",
            "9223372036854775808",
            "abc",
        ] {
            assert!(bad.parse::<EventId>().is_err(), "{bad:?}");
        }
    }
}
