//! The rules for what is kept. Pure.

use std::{fmt, num::NonZeroU64, str::FromStr, time::Duration};

use humantime::{format_duration, parse_duration};

use crate::filter::Pattern;

/// What is kept. Whatever one of the rules calls old is trimmed; without a rule everything is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    /// Events older than this go.
    pub age: Option<Duration>,
    /// All but the newest *N* events go.
    pub events: Option<NonZeroU64>,
    /// The oldest events go until the rest fits into this part of the file.
    pub bytes: Option<u64>,
    /// Some topics keep less than the rest.
    pub topics: Vec<KeepTopics>,
}

impl Keep {
    /// Whether nothing is ever trimmed.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Each rule in words, such as `30days`; none where everything is kept.
    pub fn in_words(&self) -> Vec<String> {
        let mut rules = in_words(self.age, self.events);
        rules.extend(self.bytes.map(|bytes| format!("{bytes} bytes")));
        rules.extend(self.topics.iter().map(|topics| {
            let of_topics = in_words(topics.age, topics.events).join(", ");
            format!("{} for {of_topics}", topics.topics)
        }));
        rules
    }
}

impl fmt::Display for Keep {
    /// In words, such as `30days, 1000000 events, debug.** 1h`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("everything");
        }
        f.write_str(&self.in_words().join("; "))
    }
}

fn in_words(age: Option<Duration>, events: Option<NonZeroU64>) -> Vec<String> {
    let age = age.map(|age| format_duration(age).to_string());
    let events = events.map(|events| format!("the newest {events} events"));
    age.into_iter().chain(events).collect()
}

/// What is kept of some topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepTopics {
    /// A topic or a pattern.
    pub topics: Pattern,
    /// Events older than this go.
    pub age: Option<Duration>,
    /// All but the newest N of each topic go.
    pub events: Option<NonZeroU64>,
}

/// Text that is not a rule for topics.
#[derive(Debug, thiserror::Error)]
#[error("a rule looks like debug.**=1h, status/*=100 or debug.**=1h,1000")]
pub struct InvalidRule;

impl FromStr for KeepTopics {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        let (topics, limits) = text.rsplit_once('=').ok_or(InvalidRule)?;
        let mut rule = Self {
            topics: Pattern::new(topics).map_err(|_| InvalidRule)?,
            age: None,
            events: None,
        };
        for limit in limits.split(',') {
            let is_new = match limit.parse() {
                Ok(events) => rule.events.replace(events).is_none(),
                Err(_) => {
                    let age = parse_age(limit).map_err(|_| InvalidRule)?;
                    rule.age.replace(age).is_none()
                }
            };
            if !is_new {
                return Err(InvalidRule);
            }
        }
        Ok(rule)
    }
}

/// Shortest age that can be asked for: the timer looks no more often.
const AGE_MIN: Duration = Duration::from_secs(1);

/// Reads an age, such as `30d`.
pub(crate) fn parse_age(text: &str) -> Result<Duration, String> {
    let age = parse_duration(text).map_err(|_| "an age looks like 90s, 12h or 30d")?;
    if age < AGE_MIN {
        return Err("the shortest age is 1s".into());
    }
    Ok(age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_for_topics_is_an_age_a_number_of_events_or_both() {
        let rule = |text: &str| text.parse::<KeepTopics>().ok();
        let expected = |topics, age, events: Option<u64>| {
            Some(KeepTopics {
                topics: Pattern::new(topics).unwrap(),
                age,
                events: events.and_then(NonZeroU64::new),
            })
        };
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(rule("debug.**=1h"), expected("debug.**", hour, None));
        assert_eq!(rule("status/*=1"), expected("status/*", None, Some(1)));
        assert_eq!(rule("a=b=1h,20"), expected("a=b", hour, Some(20)));
        for bad in [
            "debug", "debug=", "=1h", "a=0", "a=1h,2h", "a=1,2", "a b=1h", "a=1ms", "a=x",
        ] {
            assert_eq!(rule(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_kept_is_told_in_words() {
        let keep = Keep {
            age: Some(Duration::from_secs(30 * 86400)),
            events: NonZeroU64::new(1000),
            bytes: None,
            topics: vec!["debug.**=1h,10".parse().unwrap()],
        };
        assert_eq!(
            keep.to_string(),
            "30days; the newest 1000 events; debug.** for 1h, the newest 10 events"
        );
        assert_eq!(Keep::default().to_string(), "everything");
    }
}
