//! What a feed wants of a commit, as long as there is time to test it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{super::batch::Batch, Announcement, Feed};
use crate::{
    event::Event,
    filter::{Filter, Verdicts},
};

/// Time that an announcement spends on filters at the most; those with patterns, cheap ones first.
///
/// As long as a commit takes on a fast disk, so that a publisher waits twice that in the worst case.
const MATCH_MAX: Duration = Duration::from_millis(1);

/// [Cost](Filter::cost) of tests between two looks at the clock: 20 µs, at worst 120 µs.
const UNTIMED_MAX_COST: usize = 2048;

/// Cost of a test that takes no pattern: to find the names of an event among those that are listed or remembered.
const LOOK_UP_COST: usize = 8;

/// The tests of filters in one announcement.
pub(super) struct Matching {
    begun: Instant,
    /// Cost of the tests since the last look at the clock.
    untimed_cost: usize,
    is_over: bool,
}

impl Matching {
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            untimed_cost: 0,
            is_over: false,
        }
    }

    /// What a feed is to be sent; `None` if it wants nothing of `events`.
    pub(super) fn announcement(
        &mut self,
        feed: &Feed,
        events: &[Arc<Event>],
    ) -> Option<Announcement> {
        let mut verdicts = feed.verdicts.as_ref().map(|verdicts| {
            let verdicts = verdicts.lock();
            verdicts.expect("nobody panics while testing names")
        });
        let mut wanted = Vec::new();
        for event in events {
            if self.is_over {
                return Some(Announcement::Look);
            }
            if self.test(&feed.filter, verdicts.as_deref_mut(), event) {
                wanted.push(event.clone());
            }
        }
        (!wanted.is_empty()).then(|| Announcement::Events(Batch::new(wanted)))
    }

    /// Whether a feed wants `event`, as its filter says now or said before.
    fn test(&mut self, filter: &Filter, verdicts: Option<&mut Verdicts>, event: &Event) -> bool {
        let (topic, event_type) = (event.topic.as_str(), event.event_type.as_str());
        let Some(verdicts) = verdicts else {
            self.count(filter.cost());
            return filter.matches_names(topic, event_type);
        };
        if let Some(known) = verdicts.find(topic, event_type) {
            self.count(0);
            return known;
        }
        self.count(filter.cost());
        verdicts.ask(filter, topic, event_type)
    }

    /// Notes a test that takes patterns of this cost.
    fn count(&mut self, cost: usize) {
        self.untimed_cost += cost + LOOK_UP_COST;
        if self.untimed_cost >= UNTIMED_MAX_COST {
            self.untimed_cost = 0;
            self.is_over = self.begun.elapsed() >= MATCH_MAX;
        }
    }
}
