//! The topics that somebody may name: what a reader is allowed, beside what it wants. Pure.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, de};

use super::{Pattern, Topics, common, normalized};

/// The topics that a right covers.
///
/// It is a conjunction: a topic is covered if every scope covers it. No scope at all covers every topic, and a scope
/// without patterns covers none, so *everything* and *nothing* cannot be taken for each other. A ticket has two scopes,
/// its own and that of the credential it came from; they are never merged into one list, because patterns have no
/// intersection that is a list of patterns.
///
/// Two that were put together in another order are equal, so readers with equal rights share a feed. A clone is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Allowed(Arc<[Scope]>);

/// Topics that one source of rights covers: what its credential names, and what everybody has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Scope {
    named: Box<[Pattern]>,
    everybody: Box<[Pattern]>,
    /// Whether one of the patterns is `**`. Spares the match.
    is_everything: bool,
}

/// Why a topic is covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Everybody has the right to it, also who shows no credential.
    Everybody,
    /// The credential names it.
    Credential,
}

impl Allowed {
    /// Covers every topic, as the hub itself may.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Covers no topic.
    pub fn nothing() -> Self {
        Self::new(vec![], vec![])
    }

    /// Covers what one of the patterns stands for: those that a credential names, and those that everybody has.
    pub fn new(named: Vec<Pattern>, everybody: Vec<Pattern>) -> Self {
        let is_everything = |pattern: &Pattern| pattern.to_string() == "**";
        // Neutral beside any other scope.
        if named.iter().any(is_everything) {
            return Self::everything();
        }
        Self(Arc::new([Scope {
            is_everything: everybody.iter().any(is_everything),
            named: normalized(named).into(),
            everybody: normalized(everybody).into(),
        }]))
    }

    /// Covers what both cover.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut scopes: Vec<Scope> = self.0.iter().chain(&*other.0).cloned().collect();
        scopes.sort();
        scopes.dedup();
        Self(scopes.into())
    }

    /// Whether `topic` is covered.
    pub fn covers(&self, topic: &str) -> bool {
        self.0.iter().all(|scope| scope.covers(topic))
    }

    /// Why `topic` is covered: the credential names it only if it does so in every scope. `None` if it is not covered.
    pub fn source(&self, topic: &str) -> Option<Source> {
        let mut by_scope = self.0.iter().map(|scope| scope.source(topic));
        by_scope.try_fold(Source::Credential, |all, one| Some(all.min(one?)))
    }

    /// Whether every topic is covered.
    pub fn is_everything(&self) -> bool {
        self.0.iter().all(|scope| scope.is_everything)
    }

    /// Whether no topic at all is covered.
    pub fn is_nothing(&self) -> bool {
        self.0.iter().any(|scope| scope.patterns().next().is_none())
    }

    /// The patterns of which one must match, in their order; `None` where more than one list must cover a topic.
    pub fn as_patterns(&self) -> Option<Vec<String>> {
        match &*self.0 {
            [] => Some(vec![Pattern::everything().to_string()]),
            [scope] => {
                let mut patterns: Vec<String> = scope.patterns().map(Pattern::to_string).collect();
                patterns.sort();
                patterns.dedup();
                Some(patterns)
            }
            _ => None,
        }
    }

    /// What all topics begin with that are covered; perhaps nothing.
    pub fn prefix(&self) -> &str {
        let scopes = self.0.iter().filter(|scope| !scope.is_everything);
        let prefixes = scopes.map(|scope| {
            let prefixes = scope.patterns().map(Pattern::literal_prefix);
            prefixes.reduce(common).unwrap_or_default()
        });
        // Each scope must cover it, so the longest of their prefixes is that of all.
        prefixes
            .max_by_key(|prefix| prefix.len())
            .unwrap_or_default()
    }

    /// What a test of a topic costs; see [`Filter::cost`](super::Filter::cost).
    pub(super) fn cost(&self) -> usize {
        let scopes = self.0.iter().filter(|scope| !scope.is_everything);
        scopes.flat_map(Scope::patterns).map(Pattern::cost).sum()
    }

    /// The topics that may be covered, as far as an index can use it. Others that it names are still to be
    /// [tested](Self::covers).
    pub(super) fn topics(&self) -> Topics<'_> {
        let Some(scope) = self.0.iter().find(|scope| !scope.is_everything) else {
            return Topics::All;
        };
        let exact: Option<Vec<&str>> = scope.patterns().map(Pattern::as_exact).collect();
        match exact {
            Some(mut exact) => {
                exact.retain(|topic| self.covers(topic));
                exact.sort_unstable();
                exact.dedup();
                Topics::Exact(exact)
            }
            None => Topics::Matching(self.prefix()),
        }
    }
}

impl fmt::Display for Allowed {
    /// In words, such as `orders.**, public.**`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_nothing() {
            return f.write_str("nothing");
        }
        if self.0.is_empty() {
            return f.write_str("**");
        }
        for (number, scope) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str(" and also within ")?;
            }
            let mut patterns: Vec<String> = scope.patterns().map(Pattern::to_string).collect();
            patterns.dedup();
            f.write_str(&patterns.join(", "))?;
        }
        Ok(())
    }
}

impl Scope {
    fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.named.iter().chain(&self.everybody)
    }

    fn covers(&self, topic: &str) -> bool {
        self.is_everything || self.patterns().any(|pattern| pattern.matches(topic))
    }

    fn source(&self, topic: &str) -> Option<Source> {
        let has = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(topic));
        match (has(&self.named), has(&self.everybody)) {
            (true, _) => Some(Source::Credential),
            (false, true) => Some(Source::Everybody),
            (false, false) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Pattern {
    /// Reads the text of a topic or a pattern.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text)
            .map_err(|error| de::Error::custom(format!("`{text}` is no topic or pattern: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filter::{Filter, patterns};

    fn named(texts: &[&str]) -> Allowed {
        Allowed::new(patterns(texts), vec![])
    }

    #[test]
    fn nothing_and_everything_are_not_taken_for_each_other() {
        assert!(Allowed::everything().covers("a"));
        assert!(!Allowed::nothing().covers("a"));
        assert_ne!(Allowed::everything(), Allowed::nothing());
        assert_eq!(named(&[]), Allowed::nothing());
        assert!(named(&["a"]).and(&Allowed::nothing()).is_nothing());
        assert_eq!(Allowed::nothing().topics(), Topics::Exact(vec![]));
        assert_eq!(Allowed::everything().topics(), Topics::All);
        let everybody = Allowed::new(vec![], patterns(&["**"]));
        assert_eq!(everybody.topics(), Topics::All);
    }

    #[test]
    fn equal_rights_are_equal_however_they_were_put_together() {
        assert_eq!(named(&["a", "b", "a"]), named(&["b", "a"]));
        let (one, other) = (named(&["a.**"]), named(&["**.b"]));
        assert_eq!(one.and(&other), other.and(&one));
        assert_eq!(one.and(&one), one);
        assert_eq!(one.and(&Allowed::everything()), one);
        assert_ne!(one, Allowed::new(vec![], patterns(&["a.**"])));
    }

    #[test]
    fn a_right_knows_who_has_it() {
        let allowed = Allowed::new(patterns(&["mine.*"]), patterns(&["public.*", "mine.too"]));
        assert_eq!(allowed.source("mine.1"), Some(Source::Credential));
        assert_eq!(allowed.source("mine.too"), Some(Source::Credential));
        assert_eq!(allowed.source("public.1"), Some(Source::Everybody));
        assert_eq!(allowed.source("other"), None);
        // A ticket that names what its parent has only as everybody does.
        let ticket = named(&["public.1"]).and(&allowed);
        assert_eq!(ticket.source("public.1"), Some(Source::Everybody));
    }

    #[test]
    fn the_index_gets_what_may_be_read() {
        assert_eq!(named(&["b", "a"]).topics(), Topics::Exact(vec!["a", "b"]));
        assert_eq!(named(&["a.x", "a.*"]).topics(), Topics::Matching("a."));
        let both = named(&["a", "b"]).and(&named(&["b", "c"]));
        assert_eq!(both.topics(), Topics::Exact(vec!["b"]));
        let wanted = |texts: &[&str]| {
            Filter::new(patterns(texts), vec![])
                .unwrap()
                .within(both.clone())
        };
        assert_eq!(wanted(&["a", "b"]).topics(), Topics::Exact(vec!["b"]));
        assert_eq!(wanted(&["a"]).topics(), Topics::Exact(vec![]));
        assert_eq!(wanted(&["b*"]).topics(), Topics::Matching("b"));
        assert_eq!(wanted(&[]).topics(), Topics::Exact(vec!["b"]));
        assert!(wanted(&[]).is_served_by_index());
    }

    fn any_patterns() -> impl Strategy<Value = Vec<Pattern>> {
        let text = "[ab.*]{1,4}".prop_map(|text| Pattern::new(&text).unwrap());
        prop::collection::vec(text, 0..3)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        /// The rule as it is said, against what filter and index make of it.
        #[test]
        fn a_reader_gets_what_it_wants_and_may(
            wanted in any_patterns(),
            scopes in prop::collection::vec((any_patterns(), any_patterns()), 0..3),
            topic in "[ab.]{1,4}",
        ) {
            let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(&topic));
            let may = scopes.iter().all(|(named, everybody)| any(named) || any(everybody));
            let expected = may && (wanted.is_empty() || any(&wanted));

            let scopes = scopes.into_iter().map(|(named, everybody)| Allowed::new(named, everybody));
            let allowed = scopes.fold(Allowed::everything(), |all, scope| scope.and(&all));
            prop_assert_eq!(allowed.covers(&topic), may);
            prop_assert_eq!(allowed.source(&topic).is_some(), may);
            let filter = Filter::new(wanted, vec![]).unwrap().within(allowed);
            prop_assert_eq!(filter.matches_names(&topic, "message"), expected);
            prop_assert_eq!(filter.wants_topic(&topic), expected);
            match filter.topics() {
                Topics::All => prop_assert!(!filter.is_served_by_index() || expected),
                Topics::Exact(topics) => prop_assert_eq!(topics.contains(&&*topic), expected),
                Topics::Matching(prefix) => prop_assert!(!expected || topic.starts_with(prefix)),
            }
        }
    }
}
