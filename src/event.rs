//! The words of the hub: what an event is and what its parts may be.
//!
//! Everything here is pure. A value of one of these types has passed its rule, so the code behind trusts it: a [`Topic`]
//! has no control character, [`Data`] is one line of valid JSON. Nothing here knows of files, channels or HTTP.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Longest topic, type or key, in bytes of UTF-8. Source: the hub's HTTP contract.
pub const NAME_MAX_BYTES: usize = 255;

/// Longest data of one event, in bytes of JSON text. Source: the hub's HTTP contract.
pub const DATA_MAX_BYTES: usize = 1024 * 1024;

/// Levels of arrays and objects that the data of one event may have inside each other. Source: SQLite's JSON functions read no
/// deeper, and people ask the file with them.
pub const DATA_MAX_LEVELS: usize = 1000;

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
            + self.data.0.len()
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

/// One line of valid JSON of at most [`DATA_MAX_BYTES`], kept as the text it came as.
///
/// Numbers keep their digits and objects the order of their keys. Only line breaks, which in JSON are never part of a
/// value, are taken out with the indentation around them, so that an event is one line wherever it goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Data(Box<str>);

/// Data out of rule.
#[derive(Debug, thiserror::Error)]
pub enum InvalidData {
    /// More than [`DATA_MAX_BYTES`].
    #[error("the data of one event is at most {DATA_MAX_BYTES} bytes of JSON; this is {0}")]
    TooLarge(usize),
    /// More than [`DATA_MAX_LEVELS`].
    #[error(
        "the data of one event has at most {DATA_MAX_LEVELS} levels of arrays and objects; this has more"
    )]
    TooDeep,
}

impl Data {
    /// Takes JSON that was parsed as such.
    pub fn from_json(json: &RawValue) -> Result<Self, InvalidData> {
        if levels(json.get()) > DATA_MAX_LEVELS {
            return Err(InvalidData::TooDeep);
        }
        Self::bounded(without_line_breaks(json.get()))
    }

    /// Takes JSON of an event that is in a log: it may be deeper than what can be published now.
    pub fn of_log(json: &RawValue) -> Result<Self, InvalidData> {
        Self::bounded(without_line_breaks(json.get()))
    }

    /// Takes any text as a JSON string.
    pub fn from_text(text: &str) -> Result<Self, InvalidData> {
        let mut json = Vec::with_capacity(text.len() + 2);
        write_json_string(text, &mut json);
        Self::bounded(String::from_utf8(json).expect("JSON is UTF-8").into())
    }

    /// Whether both are the same JSON text but for white space between tokens.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self == other || tokens(&self.0).eq(tokens(&other.0))
    }

    fn bounded(json: Box<str>) -> Result<Self, InvalidData> {
        if json.len() > DATA_MAX_BYTES {
            return Err(InvalidData::TooLarge(json.len()));
        }
        Ok(Self(json))
    }

    /// The data a row of the file holds.
    pub fn from_row(json: String) -> Self {
        Self(json.into())
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How deep arrays and objects stand inside each other in valid JSON; 0 for a number, string or word.
fn levels(json: &str) -> usize {
    let (mut level, mut deepest) = (0, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => (),
            b'[' | b'{' => {
                level += 1;
                deepest = deepest.max(level);
            }
            b']' | b'}' => level -= 1,
            _ => (),
        }
    }
    deepest
}

/// Takes out each line break with the white space beside it.
///
/// In valid JSON a raw line break stands only between tokens, and tokens that white space alone parts do not exist.
fn without_line_breaks(json: &str) -> Box<str> {
    const LINE_BREAKS: [char; 2] = ['\n', '\r'];
    const WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];
    if !json.contains(LINE_BREAKS) {
        return json.into();
    }
    json.split(LINE_BREAKS)
        .map(|line| line.trim_matches(WHITE_SPACE))
        .collect()
}

/// The bytes of JSON without the white space between its tokens.
fn tokens(json: &str) -> impl Iterator<Item = u8> {
    let (mut in_string, mut escaped) = (false, false);
    json.bytes().filter(move |&byte| {
        if in_string {
            in_string = byte != b'"' || escaped;
            escaped = byte == b'\\' && !escaped;
            return true;
        }
        in_string = byte == b'"';
        !b" \t\n\r".contains(&byte)
    })
}

/// A moment in UTC, in whole milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The computer's clock.
    pub fn now() -> Self {
        Self(Utc::now().timestamp_millis())
    }

    /// The moment `value` milliseconds after 1970 began.
    pub const fn from_millis(value: i64) -> Self {
        Self(value)
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The moment `time` after this one.
    #[must_use]
    pub fn after(self, time: std::time::Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// The moment `age` before this one.
    #[must_use]
    pub fn before(self, age: std::time::Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
        )
    }
}

/// Text that is not a moment.
#[derive(Debug, thiserror::Error)]
#[error("a time looks like 2026-01-31T12:00:00Z (RFC 3339)")]
pub struct InvalidTimestamp;

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    /// Reads RFC 3339 of any offset.
    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        DateTime::parse_from_rfc3339(text)
            .map(|time| Self(time.timestamp_millis()))
            .map_err(|_| InvalidTimestamp)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds: `2026-01-31T12:00:00.000Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A time no calendar holds can only come from a hand in the file; it is shown as the nearest there is.
        let time =
            DateTime::<Utc>::from_timestamp_millis(self.0).unwrap_or(DateTime::<Utc>::MAX_UTC);
        f.write_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(json: &str) -> Data {
        Data::from_json(serde_json::from_str(json).unwrap()).unwrap()
    }

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

    #[test]
    fn data_keeps_its_digits_and_loses_only_line_breaks() {
        let exact = r#"{"z": 12345678901234567890123, "a": 1.10, "a": "\ud800 \u0000 é\n"}"#;
        assert_eq!(data(exact).as_str(), exact);
        assert_eq!(
            data("{\r\n  \"a\": [1,\n\n\t2],\r\"b\" : null }").as_str(),
            r#"{"a": [1,2],"b" : null }"#
        );
    }

    #[test]
    fn data_is_no_deeper_than_what_sqlite_reads() {
        let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        let raw = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
        assert!(Data::from_json(&raw(&nested(DATA_MAX_LEVELS))).is_ok());
        let deep = raw(&nested(DATA_MAX_LEVELS + 1));
        assert!(matches!(Data::from_json(&deep), Err(InvalidData::TooDeep)));
        assert!(Data::of_log(&deep).is_ok(), "it was taken once");
        assert_eq!(levels(r#"{"a[": ["\"[[{", {}], "\\": [[]]}"#), 3);
    }

    #[test]
    fn data_is_the_same_whatever_white_space_is_between_its_tokens() {
        for (a, b, same) in [
            (r#"{"a":[1,2]}"#, "{ \"a\" : [ 1,\t2 ] }", true),
            (r#"{"a":" \" , x"}"#, r#"{ "a": " \" , x" }"#, true),
            (r#""a b""#, r#""ab""#, false),
            (r#""\\" "#, r#""\\""#, true),
            (r#"["\\", " "]"#, r#"["\\",""]"#, false),
            ("1.10", "1.1", false),
            (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, false),
        ] {
            assert_eq!(data(a).is_same_as(&data(b)), same, "{a} {b}");
        }
    }

    #[test]
    fn text_becomes_a_json_string() {
        assert_eq!(
            Data::from_text("a \"b\"\r\n\0").unwrap().as_str(),
            r#""a \"b\"\r\n\u0000""#
        );
    }

    #[test]
    fn data_has_a_bound() {
        assert!(Data::from_text(&"x".repeat(DATA_MAX_BYTES - 2)).is_ok());
        assert!(Data::from_text(&"x".repeat(DATA_MAX_BYTES - 1)).is_err());
    }

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        let time: Timestamp = "2026-01-31T13:00:00.1239+01:00".parse().unwrap();
        assert_eq!(time.to_string(), "2026-01-31T12:00:00.123Z");
        assert!("yesterday".parse::<Timestamp>().is_err());
    }
}
