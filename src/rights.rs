//! What a caller may do. Pure: where callers come from is known to [`auth`](crate::auth) alone.

use std::{fmt, num::NonZeroU32};

use serde::{Deserialize, Serialize};

use crate::filter::{Allowed, Pattern};

/// Something that may be done to a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Publish events on it.
    Publish,
    /// Read its events, new and old.
    Follow,
    /// Erase its events.
    Erase,
}

impl Right {
    /// The word for it, in the access file and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Follow => "follow",
            Self::Erase => "erase",
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Rights as they are written down: in the access file, in a claim of a JSON Web Token, in a ticket. What is left out is not
/// granted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Topics and patterns to publish on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Pattern>,
    /// Topics and patterns to follow, and to read the history of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub follow: Vec<Pattern>,
    /// Topics and patterns whose events may be erased.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub erase: Vec<Pattern>,
    /// Whether the figures of the hub may be read: metrics, statistics and details of its health.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub operate: bool,
}

impl Grants {
    /// Everything there is.
    pub fn everything() -> Self {
        let all = || vec![Pattern::everything()];
        Self {
            publish: all(),
            follow: all(),
            erase: all(),
            operate: true,
        }
    }
}

/// More events a second than this are no limit: a bucket counts in whole nanoseconds.
pub const RATE_MAX_EVENTS: u32 = 1_000_000;

/// How much a caller may take at a time, from whatever addresses it comes, beside the limits of these. `None` is no such limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Streams that it may have open.
    pub streams: Option<NonZeroU32>,
    /// Events a second that it may publish, at most [`RATE_MAX_EVENTS`].
    pub rate: Option<NonZeroU32>,
    /// Events that it may publish at once before its rate counts; the events of ten seconds if not given.
    pub burst: Option<NonZeroU32>,
}

/// What one caller may do. Equal rights are equal. A clone is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    publish: Allowed,
    follow: Allowed,
    erase: Allowed,
    operate: bool,
}

impl Rights {
    /// What a credential that names `named` may do where everybody may do `everybody`.
    pub fn new(named: &Grants, everybody: &Grants) -> Self {
        let allowed = |list: fn(&Grants) -> &Vec<Pattern>| {
            Allowed::new(list(named).clone(), list(everybody).clone())
        };
        Self {
            publish: allowed(|grants| &grants.publish),
            follow: allowed(|grants| &grants.follow),
            erase: allowed(|grants| &grants.erase),
            operate: named.operate || everybody.operate,
        }
    }

    /// What both may do.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            publish: self.publish.and(&other.publish),
            follow: self.follow.and(&other.follow),
            erase: self.erase.and(&other.erase),
            operate: self.operate && other.operate,
        }
    }

    /// The topics that `right` covers.
    pub fn allowed(&self, right: Right) -> &Allowed {
        match right {
            Right::Publish => &self.publish,
            Right::Follow => &self.follow,
            Right::Erase => &self.erase,
        }
    }

    /// Whether this may be done to `topic`.
    pub fn may(&self, right: Right, topic: &str) -> bool {
        self.allowed(right).covers(topic)
    }

    /// Whether nothing at all may be done.
    pub fn are_none(&self) -> bool {
        let topics = [&self.publish, &self.follow, &self.erase];
        !self.operate && topics.iter().all(|allowed| allowed.is_nothing())
    }

    /// Whether the figures of the hub may be read.
    pub fn may_operate(&self) -> bool {
        self.operate
    }
}

impl fmt::Display for Rights {
    /// In words, one right a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for right in [Right::Publish, Right::Follow, Right::Erase] {
            writeln!(f, "{:<8} {}", right.as_str(), self.allowed(right))?;
        }
        write!(f, "operate  {}", if self.operate { "yes" } else { "no" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(json: &str) -> Grants {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_left_out_is_not_granted() {
        let rights = Rights::new(&grants(r#"{"follow":["orders.*"]}"#), &Grants::default());
        assert!(rights.may(Right::Follow, "orders.eu"));
        assert!(!rights.may(Right::Follow, "orders.eu.north"));
        for right in [Right::Publish, Right::Erase] {
            assert!(!rights.may(right, "orders.eu"), "{right}");
            assert!(rights.allowed(right).is_nothing(), "{right}");
        }
        assert!(!rights.may_operate());
    }

    #[test]
    fn who_shows_a_credential_may_also_do_what_everybody_may() {
        let everybody = grants(r#"{"follow":["public.**"],"operate":true}"#);
        let rights = Rights::new(&grants(r#"{"publish":["a"]}"#), &everybody);
        assert!(rights.may(Right::Follow, "public.1"));
        assert!(rights.may(Right::Publish, "a"));
        assert!(!rights.may(Right::Publish, "public.1"));
        assert!(rights.may_operate());
    }

    #[test]
    fn both_may_do_only_what_each_may() {
        let nobody = Grants::default();
        let parent = Rights::new(&Grants::everything(), &nobody);
        let child = Rights::new(&grants(r#"{"follow":["a","b"]}"#), &nobody);
        assert_eq!(parent.and(&child), child);
        let narrower = Rights::new(&grants(r#"{"follow":["b.*","b"],"operate":true}"#), &nobody);
        let both = narrower.and(&child);
        let may = |topic| both.may(Right::Follow, topic);
        assert!(may("b") && !may("a") && !may("b.x"));
        assert!(!both.may_operate());
    }

    #[test]
    fn a_right_that_does_not_exist_is_refused() {
        let read = |json| serde_json::from_str::<Grants>(json).map_err(|error| error.to_string());
        assert!(read(r#"{"folow":["a"]}"#).unwrap_err().contains("folow"));
        let error = read(r#"{"follow":["a b"]}"#).unwrap_err();
        assert!(error.contains("`a b` is no topic or pattern"), "{error}");
        assert_eq!(read("{}"), Ok(Grants::default()));
    }

    #[test]
    fn rights_are_told_in_words() {
        let rights = Rights::new(
            &grants(r#"{"publish":["orders.**"]}"#),
            &grants(r#"{"follow":["public.**"]}"#),
        );
        assert_eq!(
            rights.to_string(),
            "publish  orders.**\nfollow   public.**\nerase    nothing\noperate  no"
        );
    }
}
