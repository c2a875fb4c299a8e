//! When an event was stored.

use std::{fmt, str::FromStr};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

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

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        let time: Timestamp = "2026-01-31T13:00:00.1239+01:00".parse().unwrap();
        assert_eq!(time.to_string(), "2026-01-31T12:00:00.123Z");
        assert!("yesterday".parse::<Timestamp>().is_err());
    }
}
