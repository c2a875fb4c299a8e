//! What an event carries.

use memchr::memchr2;
use serde_json::value::RawValue;

use super::write_json_string;

/// Longest data of one event, in bytes of JSON text. Source: the hub's HTTP contract.
pub const DATA_MAX_BYTES: usize = 1024 * 1024;

/// Levels of arrays and objects that the data of one event may have inside each other. Source: SQLite's JSON functions read no
/// deeper, and people ask the file with them.
pub const DATA_MAX_LEVELS: usize = 1000;

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
        // A level takes a byte at least, so that short data needs no look.
        if json.get().len() > DATA_MAX_LEVELS && levels(json.get()) > DATA_MAX_LEVELS {
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
    if memchr2(b'\n', b'\r', json.as_bytes()).is_none() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn data(json: &str) -> Data {
        Data::from_json(serde_json::from_str(json).unwrap()).unwrap()
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
}
