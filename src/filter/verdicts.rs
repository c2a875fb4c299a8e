//! What a filter said of the names that it was asked for last.

use std::collections::HashMap;

use super::Filter;

/// Whether one filter wants the topics and types that it was asked for.
///
/// A log has many events, and few topics and types. For a [costly](Filter::is_costly) filter, which takes a hundred times as long to ask
/// as this.
#[derive(Debug)]
pub struct Verdicts {
    topics: Names,
    types: Names,
}

#[derive(Debug)]
struct Names {
    wanted: HashMap<Box<str>, bool>,
    max: usize,
}

impl Verdicts {
    /// Remembers up to `max_names` topics, and as many types.
    pub fn new(max_names: usize) -> Self {
        let names = || Names {
            wanted: HashMap::new(),
            max: max_names,
        };
        Self {
            topics: names(),
            types: names(),
        }
    }

    /// Whether the filter wants an event of this topic and type. `None`: it must be [asked](Self::ask).
    pub fn find(&self, topic: &str, event_type: &str) -> Option<bool> {
        match self.topics.find(topic)? {
            true => self.types.find(event_type),
            false => Some(false),
        }
    }

    /// The same; `filter` is asked where it is not known.
    pub fn ask(&mut self, filter: &Filter, topic: &str, event_type: &str) -> bool {
        self.topics.ask(topic, |topic| filter.wants_topic(topic))
            && self
                .types
                .ask(event_type, |of_type| filter.wants_type(of_type))
    }
}

impl Names {
    fn find(&self, name: &str) -> Option<bool> {
        self.wanted.get(name).copied()
    }

    fn ask(&mut self, name: &str, judge: impl FnOnce(&str) -> bool) -> bool {
        if let Some(wanted) = self.find(name) {
            return wanted;
        }
        let wanted = judge(name);
        // All at once: to know which was not asked for would take longer than to ask again.
        if self.wanted.len() >= self.max {
            self.wanted.clear();
        }
        self.wanted.insert(name.into(), wanted);
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{filter::patterns, process::thread_cpu_time};

    /// A scan of 2,000 events of one topic took 7 ms for 10 patterns that nearly match it.
    #[test]
    fn a_name_is_judged_once_and_as_the_filter_says() {
        let topics: Vec<_> = (0..90).map(|n| format!("**a*a{n}**b*")).collect();
        let topics: Vec<_> = topics.iter().map(String::as_str).collect();
        let filter = Filter::new(patterns(&topics), patterns(&["t*"])).unwrap();
        assert!(filter.is_costly());
        let mut verdicts = Verdicts::new(4);
        let topic = "a".repeat(255);
        let begun = thread_cpu_time();
        for _ in 0..20_000 {
            assert!(!verdicts.ask(&filter, &topic, "t"));
        }
        let took = thread_cpu_time() - begun;
        assert!(took.as_millis() < 500, "{took:?}");
        for round in 0..3 {
            for (topic, event_type, wanted) in [
                ("aa7/b", "t", true),
                ("aa7/b", "u", false),
                ("aa7/c", "t", false),
                ("aa7/b", "t", true),
                ("aa8/b", "t2", true),
                ("aa9/b", "segno.erased", true),
            ] {
                let asked = verdicts.ask(&filter, topic, event_type);
                assert_eq!(asked, wanted, "{round}: {topic} {event_type}");
                assert_eq!(asked, filter.matches_names(topic, event_type));
                assert_eq!(verdicts.find(topic, event_type), Some(wanted));
            }
            assert!(verdicts.topics.wanted.len() <= 4 && verdicts.types.wanted.len() <= 4);
        }
        assert_eq!(verdicts.find("never asked", "t"), None);
        assert_eq!(verdicts.find("aa9/b", "never asked"), None);
    }
}
