//! Which events a reader wants, and which it may have. Pure.

mod allowed;

use std::fmt;

use serde::{Serialize, Serializer};

pub use self::allowed::{Allowed, Source};
use crate::event::{Event, EventType, InvalidName, Topic, check_pattern};

/// The topics and types a reader wants, and the topics it is allowed. Empty lists want everything; within a list one match is
/// enough. What is wanted *and* allowed is read; the two are kept apart.
///
/// Two filters that were asked for in another order, or with repetitions, are equal, so readers that want the same
/// thing can share one feed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Filter {
    topics: Vec<Pattern>,
    types: Vec<Pattern>,
    allowed: Allowed,
}

/// Which topics a filter wants, as far as an index can use it.
#[derive(Debug, PartialEq, Eq)]
pub enum Topics<'a> {
    /// All there are.
    All,
    /// These and no others; none if the reader is allowed none of those it wants.
    Exact(Vec<&'a str>),
    /// Those that match a pattern; all of them begin with this, which may be empty.
    Matching(&'a str),
}

impl Filter {
    /// A filter of patterns over topics and over types, by somebody who is allowed everything.
    pub fn new(topics: Vec<Pattern>, types: Vec<Pattern>) -> Self {
        Self {
            topics: normalized(topics),
            types: normalized(types),
            allowed: Allowed::everything(),
        }
    }

    /// The same by somebody who is allowed no more than `allowed`.
    #[must_use]
    pub fn within(self, allowed: Allowed) -> Self {
        Self { allowed, ..self }
    }

    /// Whether the reader wants `event`.
    pub fn matches(&self, event: &Event) -> bool {
        self.matches_names(event.topic.as_str(), event.event_type.as_str())
    }

    /// Whether the reader wants an event of this topic and type.
    ///
    /// What tells that something was erased is wanted whatever the types: the reader may have had it.
    pub fn matches_names(&self, topic: &str, event_type: &str) -> bool {
        self.wants_topic(topic)
            && (matches_any(&self.types, event_type) || event_type == EventType::ERASED)
    }

    /// Whether the reader wants events of this topic, and is allowed them.
    pub fn wants_topic(&self, topic: &str) -> bool {
        matches_any(&self.topics, topic) && self.allowed.covers(topic)
    }

    /// The topics that the reader wants by their names, allowed or not.
    pub fn named_topics(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().filter_map(Pattern::as_exact)
    }

    /// The topics it wants and is allowed.
    pub fn topics(&self) -> Topics<'_> {
        // Sorted: what the first and the last have in common, all have.
        let (Some(first), Some(last)) = (self.topics.first(), self.topics.last()) else {
            return self.allowed.topics();
        };
        let exact: Option<Vec<&str>> = self.topics.iter().map(Pattern::as_exact).collect();
        match exact {
            Some(mut topics) => {
                topics.retain(|topic| self.allowed.covers(topic));
                Topics::Exact(topics)
            }
            None => Topics::Matching(common(first.literal_prefix(), last.literal_prefix())),
        }
    }

    /// Whether the log's indexes find just what it wants, so that no row is read in vain.
    pub fn is_served_by_index(&self) -> bool {
        self.types.is_empty() && !matches!(self.topics(), Topics::Matching(_))
    }

    /// Whether it wants events of any type.
    pub fn wants_any_type(&self) -> bool {
        self.types.is_empty()
    }
}

/// What both begin with.
fn common<'a>(a: &'a str, b: &'a str) -> &'a str {
    let differ = a
        .char_indices()
        .zip(b.chars())
        .find(|((_, a), b)| a != b)
        .map(|((at, _), _)| at);
    &a[..differ.unwrap_or(a.len().min(b.len()))]
}

fn normalized(mut patterns: Vec<Pattern>) -> Vec<Pattern> {
    patterns.sort();
    patterns.dedup();
    patterns
}

fn matches_any(patterns: &[Pattern], name: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name))
}

/// A name in which `*` stands for any run of characters but `.` and `/`, and `**` for any run at all.
///
/// A run may be empty: `orders.*` matches `orders.created` and `orders.`, not `orders.eu.created`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Takes `text` as a pattern; it obeys the rule of a [`Topic`], but that it may have `*` in it, and may begin with
    /// `segno.`.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        check_pattern(text)?;
        Ok(Self(text.into()))
    }

    /// The one that stands for every name.
    pub fn everything() -> Self {
        Self("**".into())
    }

    /// The name it stands for, if it stands for just one.
    pub fn as_exact(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(&*self.0)
    }

    /// What all it stands for begin with.
    fn literal_prefix(&self) -> &str {
        self.0.split('*').next().unwrap_or_default()
    }

    /// Whether `name` is one of those it stands for.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        // Where to go on if what follows a star fails: one byte further into the name. The leftmost match of what
        // follows is enough, so only the last star of each kind is kept, and `**` gives up on the `*` behind it.
        let mut star: Option<(usize, usize)> = None;
        let mut double_star: Option<(usize, usize)> = None;
        loop {
            if pattern[p..].starts_with(b"**") {
                p += 2;
                (double_star, star) = (Some((p, n)), None);
            } else if pattern[p..].starts_with(b"*") {
                p += 1;
                star = Some((p, n));
            } else if n < name.len() && pattern.get(p) == Some(&name[n]) {
                p += 1;
                n += 1;
            } else if n == name.len() && p == pattern.len() {
                return true;
            } else if let Some((after, at)) =
                star.filter(|&(_, at)| at < name.len() && !is_separator(name[at]))
            {
                (p, n) = (after, at + 1);
                star = Some((p, n));
            } else if let Some((after, at)) = double_star.filter(|&(_, at)| at < name.len()) {
                (p, n) = (after, at + 1);
                (double_star, star) = (Some((p, n)), None);
            } else {
                return false;
            }
        }
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b'.' | b'/')
}

impl From<&Topic> for Pattern {
    fn from(topic: &Topic) -> Self {
        Self(topic.as_str().into())
    }
}

impl From<&EventType> for Pattern {
    fn from(event_type: &EventType) -> Self {
        Self(event_type.as_str().into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    /// The rule as it is said, with no thought for speed.
    fn naive(pattern: &[u8], name: &[u8]) -> bool {
        if let Some(rest) = pattern.strip_prefix(b"**") {
            return (0..=name.len()).any(|run| naive(rest, &name[run..]));
        }
        if let Some(rest) = pattern.strip_prefix(b"*") {
            let longest = name
                .iter()
                .position(|&byte| is_separator(byte))
                .unwrap_or(name.len());
            return (0..=longest).any(|run| naive(rest, &name[run..]));
        }
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((p, pattern)), Some((n, name))) => p == n && naive(pattern, name),
            _ => false,
        }
    }

    #[test]
    fn a_star_stops_at_separators_and_two_do_not() {
        for (text, name, expected) in [
            ("orders.*", "orders.created", true),
            ("orders.*", "orders.eu.created", false),
            ("orders.**", "orders.eu.created", true),
            ("sensors/**", "sensors/kitchen/1", true),
            ("sensors/*/1", "sensors/kitchen/1", true),
            ("**.created", "orders.eu.created", true),
            ("*", "orders", true),
            ("*", "a.b", false),
            ("**", "a.b/c", true),
            ("orders", "orders", true),
            ("orders", "orders2", false),
        ] {
            assert_eq!(pattern(text).matches(name), expected, "{text} {name}");
        }
    }

    #[test]
    fn order_and_repetition_do_not_make_another_filter() {
        let filter = |names: [&str; 3]| Filter::new(names.map(pattern).into(), vec![]);
        assert_eq!(filter(["a", "b", "a"]), filter(["b", "a", "b"]));
        assert_eq!(
            filter(["a", "b", "a"]).topics(),
            Topics::Exact(vec!["a", "b"])
        );
        assert_eq!(filter(["a", "b*", "a"]).topics(), Topics::Matching(""));
        assert_eq!(Filter::default().topics(), Topics::All);
    }

    #[test]
    fn the_prefix_is_what_all_that_match_begin_with() {
        for (names, prefix) in [
            (vec!["orders.*"], "orders."),
            (vec!["orders.eu.*", "orders.us.*", "orders.eu"], "orders."),
            (vec!["orders.*", "orders"], "orders"),
            (vec!["**.created", "orders"], ""),
            (vec!["größe.*", "grün"], "gr"),
            (vec!["tä*", "tö"], "t"),
        ] {
            let filter = Filter::new(names.into_iter().map(pattern).collect(), vec![]);
            assert_eq!(filter.topics(), Topics::Matching(prefix));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn patterns_match_what_the_rule_says(text in "[ab./*]{1,12}", name in "[ab./]{1,14}") {
            prop_assert_eq!(pattern(&text).matches(&name), naive(text.as_bytes(), name.as_bytes()));
        }
    }
}
