//! A name with wildcards, compiled so that matching costs pattern times name at most, whatever the pattern.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

use serde::{Serialize, Serializer};

use crate::event::{EventType, InvalidName, Topic, check_pattern};

/// A name in which `*` stands for any run of characters but `.` and `/`, and `**` for any run at all.
///
/// A run may be empty: `orders.*` matches `orders.created` and `orders.`, not `orders.eu.created`.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: Box<str>,
    /// Bytes before the first star; the whole text where there is none.
    prefix_bytes: usize,
    /// Bytes after the last star.
    suffix_bytes: usize,
    middle: Middle,
}

/// What stands between the first and the last star, both included.
#[derive(Debug, Clone)]
enum Middle {
    /// No star at all.
    Exact,
    /// One `*`.
    Segment,
    /// One `**`.
    Any,
    /// Several, with something between them.
    States(States),
}

/// The text of a [`Pattern`], which obeys its rule. It is compiled by [`Pattern::of`], which for many of them takes a while.
#[derive(Debug, Clone)]
pub struct PatternText(Box<str>);

impl PatternText {
    /// Takes `text` if it obeys the rule that [`Pattern::new`] has.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        check_pattern(text)?;
        Ok(Self(text.into()))
    }

    /// Bytes that are to be compiled.
    pub fn len_bytes(&self) -> usize {
        self.0.len()
    }
}

impl Pattern {
    /// Takes `text` as a pattern; it obeys the rule of a [`Topic`], but that it may have `*` in it, and may begin with
    /// `segno.`.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        check_pattern(text)?;
        Ok(Self::compile(text))
    }

    /// Compiles `text`: 4 µs for the longest. Source: release build, 100 patterns of 8 stars and 248 bytes.
    pub fn of(text: &PatternText) -> Self {
        Self::compile(&text.0)
    }

    /// The one that stands for every name.
    pub fn everything() -> Self {
        Self::compile("**")
    }

    fn compile(text: &str) -> Self {
        let (Some(first), Some(last)) = (text.find('*'), text.rfind('*')) else {
            return Self {
                text: text.into(),
                prefix_bytes: text.len(),
                suffix_bytes: 0,
                middle: Middle::Exact,
            };
        };
        let middle = &text[first..=last];
        Self {
            text: text.into(),
            prefix_bytes: first,
            suffix_bytes: text.len() - last - 1,
            middle: match middle {
                "*" => Middle::Segment,
                _ if middle.bytes().all(|byte| byte == b'*') => Middle::Any,
                _ => Middle::States(States::of(middle.as_bytes())),
            },
        }
    }

    /// The text that it was made of.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name it stands for, if it stands for just one.
    pub fn as_exact(&self) -> Option<&str> {
        matches!(self.middle, Middle::Exact).then_some(&*self.text)
    }

    /// How many `*` it has.
    pub(super) fn stars(&self) -> usize {
        self.text.bytes().filter(|&byte| byte == b'*').count()
    }

    /// What all names that match begin with.
    pub(super) fn literal_prefix(&self) -> &str {
        &self.text[..self.prefix_bytes]
    }

    /// What a test costs, in units of about 10 ns; up to six times that for the longest name.
    pub(super) fn cost(&self) -> usize {
        match &self.middle {
            Middle::Exact | Middle::Segment | Middle::Any => 1,
            Middle::States(states) => 16 * states.words,
        }
    }

    /// Memory that it takes, about.
    pub(super) fn size_bytes(&self) -> usize {
        let states = match &self.middle {
            Middle::Exact | Middle::Segment | Middle::Any => 0,
            Middle::States(states) => size_of_val(&*states.sets),
        };
        size_of::<Self>() + self.text.len() + states
    }

    /// Whether `name` is one of those it stands for.
    pub fn matches(&self, name: &str) -> bool {
        let (prefix, suffix) = (
            &self.text[..self.prefix_bytes],
            &self.text[self.text.len() - self.suffix_bytes..],
        );
        let run = name
            .as_bytes()
            .strip_prefix(prefix.as_bytes())
            .and_then(|rest| rest.strip_suffix(suffix.as_bytes()));
        match (run, &self.middle) {
            (None, _) => false,
            (Some(run), Middle::Exact) => run.is_empty(),
            (Some(run), Middle::Segment) => !run.iter().any(|&byte| is_separator(byte)),
            (Some(_), Middle::Any) => true,
            (Some(run), Middle::States(states)) => states.match_all(run),
        }
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// Words of 64 states that the longest pattern takes: 255 bytes and the state behind them.
const MAX_WORDS: usize = 4;

/// The automaton of a pattern: in state *n*, its first *n* literal bytes have been matched. Sets of states are bits.
///
/// It is made in one pass over the pattern, with no sorting and no search: a request may bring a hundred of the longest.
#[derive(Debug, Clone)]
struct States {
    /// Words of a set.
    words: usize,
    /// The bytes that occur in the pattern.
    bytes: ByteSet,
    /// Sets of states: those that any byte leaves as they are, those that all but separators do, and for each of `bytes`
    /// those that it takes to the next state.
    sets: Box<[u64]>,
    /// The state in which everything has been matched.
    last: usize,
}

/// A set of bytes that knows the place of each among those in it.
#[derive(Debug, Clone, Copy, Default)]
struct ByteSet {
    words: [u64; 4],
    /// How many are in the words before each.
    before: [u8; 4],
}

impl ByteSet {
    fn of(bytes: impl Iterator<Item = u8>) -> Self {
        let mut words = [0; 4];
        for byte in bytes {
            words[usize::from(byte / 64)] |= 1 << (byte % 64);
        }
        let mut before = [0; 4];
        for word in 1..4 {
            before[word] = before[word - 1] + ones(words[word - 1]);
        }
        Self { words, before }
    }

    fn len(&self) -> usize {
        usize::from(self.before[3]) + usize::from(ones(self.words[3]))
    }

    /// How many smaller ones are in it; `None` if `byte` is not.
    fn place(&self, byte: u8) -> Option<usize> {
        let word = usize::from(byte / 64);
        let bit = 1 << (byte % 64);
        let smaller = self.before[word] + ones(self.words[word] & (bit - 1));
        (self.words[word] & bit != 0).then_some(usize::from(smaller))
    }
}

fn ones(word: u64) -> u8 {
    u8::try_from(word.count_ones()).expect("a word has 64 bits")
}

impl States {
    /// `pattern` begins and ends with a star.
    fn of(pattern: &[u8]) -> Self {
        let is_star = |&byte: &u8| byte == b'*';
        let literals = pattern.iter().copied().filter(|byte| !is_star(byte));
        let bytes = ByteSet::of(literals.clone());
        let words = literals.count() / 64 + 1;
        let mut sets = vec![0; (2 + bytes.len()) * words];
        let mut add = |set: usize, state: usize| {
            sets[set * words + state / 64] |= 1 << (state % 64);
        };
        let mut state = 0;
        for run in pattern.chunk_by(|a, b| is_star(a) == is_star(b)) {
            match run {
                b"*" => add(1, state),
                [b'*', ..] => add(0, state),
                literals => {
                    for &literal in literals {
                        add(2 + bytes.place(literal).expect("it is one of them"), state);
                        state += 1;
                    }
                }
            }
        }
        Self {
            words,
            bytes,
            sets: sets.into(),
            last: state,
        }
    }

    fn match_all(&self, name: &[u8]) -> bool {
        let mut reached = [0; MAX_WORDS];
        reached[0] = 1;
        for &byte in name {
            self.step(byte, &mut reached);
        }
        reached[self.last / 64] & 1 << (self.last % 64) != 0
    }

    fn step(&self, byte: u8, reached: &mut [u64; MAX_WORDS]) {
        let advancing = self.bytes.place(byte);
        let is_separator = is_separator(byte);
        let mut carried = 0;
        for (word, states) in reached.iter_mut().enumerate().take(self.words) {
            let before = *states;
            let of_set = |set: usize| self.sets[set * self.words + word];
            let mut after = before & of_set(0);
            if !is_separator {
                after |= before & of_set(1);
            }
            after |= carried;
            carried = 0;
            if let Some(set) = advancing {
                let advanced = before & of_set(2 + set);
                after |= advanced << 1;
                carried = advanced >> 63;
            }
            *states = after;
        }
    }
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b'.' | b'/')
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<&Topic> for Pattern {
    fn from(topic: &Topic) -> Self {
        Self::compile(topic.as_str())
    }
}

impl From<&EventType> for Pattern {
    fn from(event_type: &EventType) -> Self {
        Self::compile(event_type.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

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

    /// Longer than a word of states, and a star in each word.
    #[test]
    fn a_long_pattern_matches_across_words() {
        let run = |letter: &str| letter.repeat(61);
        let text = format!("*{}**{}*{}*", run("a"), run("b"), run("c"));
        let name = |between: &str| format!("x{}{between}{}y{}", run("a"), run("b"), run("c"));
        assert!(pattern(&text).matches(&name("/./")));
        assert!(!pattern(&text).matches(&name("/./").replace('y', ".")));
        assert!(!pattern(&text).matches(&name("").replacen('a', "b", 1)));
    }

    /// A matcher that tries one place after the other for what follows a star takes time that multiplies with each star.
    #[test]
    fn a_name_that_nearly_matches_costs_no_more_than_another() {
        // In the name, each run of letters a can stand in many places, and for each choice the `b` is looked for in vain.
        let text = format!("{}*b*", format!("*{}", "a".repeat(60)).repeat(3));
        let (pattern, name) = (pattern(&text), "a".repeat(255));
        let begun = Instant::now();
        for _ in 0..100 {
            assert!(!pattern.matches(&name));
            let elapsed = begun.elapsed();
            assert!(elapsed < Duration::from_millis(500), "{elapsed:?}");
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
