//! Which events a reader wants, and which it may have. Pure.

mod allowed;
mod pattern;
mod verdicts;

use std::{
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::LazyLock,
};

pub use self::{
    allowed::{Allowed, Source},
    pattern::{Pattern, PatternText},
    verdicts::Verdicts,
};
use crate::event::{Event, EventType, NAME_MAX_BYTES};

/// Names without a wildcard that a filter may have, topics and types together. Source: the hub's HTTP contract.
pub const FILTER_MAX_NAMES: usize = 1000;

/// Patterns that a filter may have, topics and types together. Source: the hub's HTTP contract.
pub const FILTER_MAX_PATTERNS: usize = 100;

/// `*` that a pattern of a filter may have. Source: the hub's HTTP contract.
pub const PATTERN_MAX_STARS: usize = 8;

/// The [cost](Filter::cost) from which on scans with a filter wait for each other: 2.5 µs an event, about as much as it takes to
/// read one from the file.
const COSTLY: usize = 256;

/// Topics, and types, that are remembered for each [costly](Filter::is_costly) filter that is followed.
pub const REMEMBERED_NAMES: usize = 32;

/// Memory for a topic that is followed by its name, beside the name itself, which is there twice. Measured: 200 streams of 700 topics
/// of 10 bytes, which nobody else follows, took 163 KB each.
const FOLLOWED_NAME_BYTES: usize = 210;

/// The topics and types a reader wants, and the topics it is allowed. Empty lists want everything; within a list one match is
/// enough. What is wanted *and* allowed is read; the two are kept apart.
///
/// Two filters that were asked for in another order, or with repetitions, are equal, so readers that want the same
/// thing can share one feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Of all the rest: a table that grows hashes all its keys again, and a thousand filters may have a thousand names each.
    hash: u64,
    cost: usize,
    topics: Names,
    types: Names,
    allowed: Allowed,
}

/// Its keys are random, so that nobody can send filters with one hash.
static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Hash for Filter {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.hash.hash(hasher);
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::of(Names::default(), Names::default(), Allowed::everything())
    }
}

/// Names that are wanted: those that stand here and those that match a pattern. All, if there are neither.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Names {
    /// Sorted, without repetitions.
    exact: Box<[Box<str>]>,
    /// Sorted, without repetitions.
    patterns: Box<[Pattern]>,
}

/// Which topics a filter wants, as far as an index can use it.
#[derive(Debug, PartialEq, Eq)]
pub enum Topics<'a> {
    /// All there are.
    All,
    /// These and no others, sorted; none if the reader is allowed none of those it wants.
    Exact(Vec<&'a str>),
    /// Those that match; all of them begin with this, which may be empty.
    Matching(&'a str),
}

/// Why a filter asks for too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterTooLarge {
    /// Over [`FILTER_MAX_NAMES`].
    #[error(
        "{0} topics and types; a filter may have {FILTER_MAX_NAMES}: use patterns, or several requests"
    )]
    Names(usize),
    /// Over [`FILTER_MAX_PATTERNS`].
    #[error(
        "{0} patterns; a filter may have {FILTER_MAX_PATTERNS}: use wider patterns, or several requests"
    )]
    Patterns(usize),
    /// A pattern is over [`PATTERN_MAX_STARS`].
    #[error("{0} times '*' in a pattern; it may have {PATTERN_MAX_STARS}")]
    Stars(usize),
}

impl Filter {
    /// A filter of patterns over topics and over types, by a reader that is allowed everything.
    pub fn new(topics: Vec<Pattern>, types: Vec<Pattern>) -> Result<Self, FilterTooLarge> {
        let filter = Self::of(Names::of(topics), Names::of(types), Allowed::everything());
        let both = [&filter.topics, &filter.types];
        let names = both.map(|names| names.exact.len()).iter().sum();
        let patterns = both.map(|names| names.patterns.len()).iter().sum();
        let stars = both
            .iter()
            .flat_map(|names| &names.patterns)
            .map(Pattern::stars);
        match stars.max() {
            _ if names > FILTER_MAX_NAMES => Err(FilterTooLarge::Names(names)),
            _ if patterns > FILTER_MAX_PATTERNS => Err(FilterTooLarge::Patterns(patterns)),
            Some(stars) if stars > PATTERN_MAX_STARS => Err(FilterTooLarge::Stars(stars)),
            Some(_) | None => Ok(filter),
        }
    }

    /// The same by a reader that is allowed no more than `allowed`.
    #[must_use]
    pub fn within(self, allowed: Allowed) -> Self {
        Self::of(self.topics, self.types, allowed)
    }

    fn of(topics: Names, types: Names, allowed: Allowed) -> Self {
        Self {
            hash: HASHES.hash_one((&topics, &types, &allowed)),
            cost: topics.cost() + types.cost() + allowed.cost(),
            topics,
            types,
            allowed,
        }
    }

    /// Whether the reader wants `event`.
    pub fn matches(&self, event: &Event) -> bool {
        self.matches_names(event.topic.as_str(), event.event_type.as_str())
    }

    /// Whether the reader wants an event of this topic and type.
    pub fn matches_names(&self, topic: &str, event_type: &str) -> bool {
        self.wants_topic(topic) && self.wants_type(event_type)
    }

    /// Whether the reader wants events of this topic, and is allowed them.
    pub fn wants_topic(&self, topic: &str) -> bool {
        self.topics.want(topic) && self.allowed.covers(topic)
    }

    /// The topics that the reader wants by their names, allowed or not.
    pub fn named_topics(&self) -> impl Iterator<Item = &str> {
        self.topics.exact.iter().map(|name| &**name)
    }

    /// Whether the reader wants events of this type.
    ///
    /// What tells that something was erased is wanted whatever the types: the reader may have had it.
    pub fn wants_type(&self, event_type: &str) -> bool {
        self.types.want(event_type) || event_type == EventType::ERASED
    }

    /// The topics it wants and is allowed.
    pub fn topics(&self) -> Topics<'_> {
        if self.topics.are_all() {
            return self.allowed.topics();
        }
        if self.topics.patterns.is_empty() {
            let allowed = self.named_topics();
            return Topics::Exact(allowed.filter(|name| self.allowed.covers(name)).collect());
        }
        Topics::Matching(self.topics.common_prefix())
    }

    /// Whether the log's indexes find just what it wants, so that no row is read in vain.
    pub fn is_served_by_index(&self) -> bool {
        self.wants_any_type() && !matches!(self.topics(), Topics::Matching(_))
    }

    /// Whether it wants events of any type.
    pub fn wants_any_type(&self) -> bool {
        self.types.are_all()
    }

    /// What a test of an event costs for the patterns, in units of about 10 ns; up to six times that for the longest names. Lists
    /// of names cost nothing to speak of.
    pub const fn cost(&self) -> usize {
        self.cost
    }

    /// Whether many events cannot be looked at without being noticed by others.
    pub const fn is_costly(&self) -> bool {
        self.cost() >= COSTLY
    }

    /// Memory that it takes to follow it, about: the filter, its topics in the table of all who follow, and what is remembered of it.
    pub fn followed_bytes(&self) -> usize {
        let remembered = match self.is_costly() {
            true => 2 * REMEMBERED_NAMES * (NAME_MAX_BYTES + size_of::<Box<str>>()),
            false => 0,
        };
        size_of::<Self>() + self.topics.followed_bytes() + self.types.followed_bytes() + remembered
    }
}

impl Names {
    fn of(patterns: Vec<Pattern>) -> Self {
        let (exact, patterns): (Vec<_>, Vec<_>) = normalized(patterns)
            .into_iter()
            .partition(|pattern| pattern.as_exact().is_some());
        Self {
            exact: exact.iter().map(|name| name.as_str().into()).collect(),
            patterns: patterns.into(),
        }
    }

    fn are_all(&self) -> bool {
        self.exact.is_empty() && self.patterns.is_empty()
    }

    fn want(&self, name: &str) -> bool {
        self.are_all()
            || self
                .exact
                .binary_search_by(|exact| (**exact).cmp(name))
                .is_ok()
            || self.patterns.iter().any(|pattern| pattern.matches(name))
    }

    /// What all of them begin with.
    fn common_prefix(&self) -> &str {
        let exact = self.exact.iter().map(|name| &**name);
        let mut begins = exact.chain(self.patterns.iter().map(Pattern::literal_prefix));
        let first = begins.next().unwrap_or_default();
        begins.fold(first, common)
    }

    fn cost(&self) -> usize {
        self.patterns.iter().map(Pattern::cost).sum()
    }

    fn followed_bytes(&self) -> usize {
        let exact = self
            .exact
            .iter()
            .map(|name| FOLLOWED_NAME_BYTES + 2 * name.len());
        exact
            .chain(self.patterns.iter().map(Pattern::size_bytes))
            .sum()
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

/// What `texts` say, each of which is right.
#[cfg(test)]
pub(crate) fn patterns(texts: &[&str]) -> Vec<Pattern> {
    let patterns = texts.iter().map(|text| Pattern::new(text).unwrap());
    patterns.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(topics: &[&str], types: &[&str]) -> Result<Filter, FilterTooLarge> {
        Filter::new(patterns(topics), patterns(types))
    }

    #[test]
    fn order_and_repetition_do_not_make_another_filter() {
        let topics = |names: [&str; 3]| filter(&names, &[]).unwrap();
        assert_eq!(topics(["a", "b", "a"]), topics(["b", "a", "b"]));
        assert_eq!(
            topics(["a", "b", "a"]).topics(),
            Topics::Exact(vec!["a", "b"])
        );
        assert_eq!(topics(["a", "b*", "a"]).topics(), Topics::Matching(""));
        assert_eq!(Filter::default().topics(), Topics::All);
    }

    #[test]
    fn names_and_patterns_are_wanted_together() {
        let filter = filter(&["b", "a", "c.*"], &["x"]).unwrap();
        for (topic, event_type, wanted) in [
            ("a", "x", true),
            ("b", "x", true),
            ("c.d", "x", true),
            ("c", "x", false),
            ("a", "y", false),
            ("a", EventType::ERASED, true),
            ("d", EventType::ERASED, false),
        ] {
            assert_eq!(
                filter.matches_names(topic, event_type),
                wanted,
                "{topic} {event_type}"
            );
        }
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
            let filter = filter(&names, &[]).unwrap();
            assert_eq!(filter.topics(), Topics::Matching(prefix));
        }
    }

    #[test]
    fn a_filter_has_bounds() {
        let names: Vec<String> = (0..=FILTER_MAX_NAMES).map(|n| format!("t{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let patterns: Vec<String> = names.iter().map(|name| format!("{name}.*")).collect();
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        assert!(filter(&names[1..], &patterns[..100]).is_ok());
        assert_eq!(
            filter(&names[1..], &["x"]),
            Err(FilterTooLarge::Names(1001))
        );
        assert_eq!(
            filter(&patterns[..100], &["x*"]),
            Err(FilterTooLarge::Patterns(101))
        );
        assert!(filter(&["**a**b**c**"], &[]).is_ok());
        assert_eq!(
            filter(&["**a**b**c***"], &[]),
            Err(FilterTooLarge::Stars(9))
        );
    }
}
