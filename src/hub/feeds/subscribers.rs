//! How many subscribers a topic has.
//!
//! An audience shares one subscription, so a feed cannot tell it from its receivers: each subscriber counts at its feed by itself.
//! What that adds up to for a topic is found when somebody asks, over the filters there are. An event or a subscriber costs nothing
//! for it, and the work of an answer is bounded.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{FeedReceiver, Feeds};
use crate::scan::Scans;

/// Feeds that are looked at for one answer, of all that name one of its topics; one that names ten of them counts ten times.
///
/// About 10 ms of work where none of it is in a cache.
const LOOKS_MAX_FEEDS: usize = 100_000;

/// Feeds that are looked at before others have the table.
const LOCKED_MAX_FEEDS: usize = 1000;

/// What the tests of topics may cost for one answer, as [`Filter::cost`](crate::filter::Filter::cost) counts it: 5 ms, at worst
/// 30 ms.
const TESTS_MAX_COST: usize = 500_000;

/// How many subscribers a topic has: those whose filter wants it and may have it, whatever types they want.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SubscriberCount {
    /// Those that were counted.
    pub least: u32,
    /// Whether not all were looked at, so that there may be more.
    pub may_be_more: bool,
}

/// One subscriber, which counts at its feed until this is dropped.
#[derive(Debug)]
pub struct CountedSubscriber(Arc<AtomicU32>);

impl Drop for CountedSubscriber {
    fn drop(&mut self) {
        let before = self.0.fetch_sub(1, Relaxed);
        assert!(before > 0, "only a subscriber that was counted leaves");
    }
}

impl FeedReceiver {
    /// Counts one subscriber, which gets what is received here, or by another receiver of the same feed.
    pub(in super::super) fn count_subscriber(&self) -> CountedSubscriber {
        self.subscribers.fetch_add(1, Relaxed);
        CountedSubscriber(self.subscribers.clone())
    }
}

impl Feeds {
    /// How many subscribers each of `topics` has, in their order. Who comes or leaves meanwhile is counted or not.
    ///
    /// Lets others work, and takes turns with what is searched in the log.
    pub(in super::super) async fn subscribers_of(
        &self,
        topics: &[&str],
        scans: &Scans,
    ) -> Vec<SubscriberCount> {
        let mut counts = vec![SubscriberCount::default(); topics.len()];
        let wide = self.table().wide_feeds();
        let cost_of_topic: usize = wide.iter().map(|feed| 1 + feed.filter.cost()).sum();
        let mut scan = scans
            .begin_work(cost_of_topic.saturating_mul(topics.len()))
            .await;
        let mut looks = LOOKS_MAX_FEEDS;
        for (topic, count) in topics.iter().zip(&mut counts) {
            let mut seen = 0;
            while let Some(feeds) = self.count_named(topic, seen, looks, count) {
                seen += feeds;
                looks -= feeds;
                scan.pause().await;
            }
        }
        // Cheap ones come first: a costly filter hides none but those that are as costly.
        let mut tests = TESTS_MAX_COST;
        for feed in &*wide {
            let subscribers = feed.subscribers.load(Relaxed);
            if subscribers == 0 {
                continue;
            }
            let cost = (1 + feed.filter.cost()) * topics.len();
            if cost > tests {
                for count in &mut counts {
                    count.may_be_more = true;
                }
                break;
            }
            tests -= cost;
            for (topic, count) in topics.iter().zip(&mut counts) {
                if feed.filter.wants_topic(topic) {
                    count.least += subscribers;
                }
                scan.pause().await;
            }
        }
        counts
    }

    /// Counts some more of the feeds that name `topic`: those after the first `seen`, `looks` at the most. Tells how many these were;
    /// `None` if no more are to be counted.
    fn count_named(
        &self,
        topic: &str,
        seen: usize,
        looks: usize,
        count: &mut SubscriberCount,
    ) -> Option<usize> {
        let table = self.table();
        // Feeds move towards the front alone, so none is counted twice.
        let rest = table.by_topic.get(topic)?.get(seen..)?;
        let some = &rest[..rest.len().min(looks).min(LOCKED_MAX_FEEDS)];
        count.may_be_more |= some.is_empty() && !rest.is_empty();
        let subscribers = some
            .iter()
            .map(|&(index, _)| table.entries[index].subscribers.load(Relaxed));
        count.least += subscribers.sum::<u32>();
        (!some.is_empty()).then_some(some.len())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        task::{Context, Poll, Waker},
        time::Duration,
    };

    use super::{super::tests::filter, *};
    use crate::process::thread_cpu_time;

    async fn counts(feeds: &Feeds, topics: &[&str]) -> Vec<(u32, bool)> {
        let counts = feeds.subscribers_of(topics, &Scans::default()).await;
        let pairs = counts.iter().map(|count| (count.least, count.may_be_more));
        pairs.collect()
    }

    #[tokio::test]
    async fn all_who_want_a_topic_are_counted_until_they_leave() {
        let feeds = Feeds::new();
        let join = |topics: &[&str], types: &[&str]| feeds.join(&filter(topics, types)).unwrap();
        let receivers = [
            join(&["a", "b"], &[]),
            join(&["b"], &["x"]),
            join(&["b*"], &[]),
            join(&[], &[]),
        ];
        let topics = ["a", "b", "b1", "c"];
        assert_eq!(counts(&feeds, &topics).await, [(0, false); 4]);
        let counted: Vec<_> = receivers
            .iter()
            .enumerate()
            .map(|(n, receiver)| {
                let counted = (0..10_usize.pow(u32::try_from(n).unwrap()))
                    .map(|_| receiver.count_subscriber())
                    .collect::<Vec<_>>();
                feeds.leave(&feeds.join_again(receiver));
                counted
            })
            .collect();
        let all = [(1001, false), (1111, false), (1100, false), (1000, false)];
        assert_eq!(counts(&feeds, &topics).await, all);
        let mut counted = counted.into_iter();
        drop(counted.next());
        assert_eq!(
            counts(&feeds, &["b", "a"]).await,
            [(1110, false), (1000, false)]
        );
        // Who is sent its last block is there a little longer than the feeds.
        feeds.close();
        assert_eq!(counts(&feeds, &topics).await, [(0, false); 4]);
        drop(counted);
    }

    /// Every subscriber may follow something of its own beside what all follow.
    #[tokio::test]
    #[expect(clippy::print_stdout, reason = "the figures")]
    async fn what_many_filters_name_is_counted_up_to_a_bound_that_is_told() {
        let feeds = Feeds::new();
        let join = |n: usize| {
            let receiver = feeds
                .join(&filter(&["all", &format!("own.{n}")], &[]))
                .unwrap();
            (receiver.count_subscriber(), receiver)
        };
        let mut joined: Vec<_> = (0..LOOKS_MAX_FEEDS).map(join).collect();
        let begun = thread_cpu_time();
        assert_eq!(counts(&feeds, &["all"]).await, [(100_000, false)]);
        println!(
            "100,000 feeds were looked at in {:?}",
            thread_cpu_time() - begun
        );
        joined.push(join(LOOKS_MAX_FEEDS));
        let topics = ["own.7", "all", "own.8", "nobody"];
        assert_eq!(
            counts(&feeds, &topics).await,
            [(1, false), (99_999, true), (0, true), (0, false)]
        );
    }

    #[tokio::test]
    #[expect(clippy::print_stdout, reason = "the figures")]
    async fn costly_patterns_are_tested_up_to_a_bound_that_is_told() {
        let feeds = Feeds::new();
        let hostile = |n: usize| {
            let run = "a".repeat(170);
            let patterns = (0..100).map(|m| format!("*{run}*{n}.{m}x*"));
            let patterns: Vec<String> = patterns.collect();
            let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
            feeds.join(&filter(&patterns, &[])).unwrap()
        };
        let costly: Vec<_> = (0..200).map(hostile).collect();
        let costly_cost = feeds.table().wide_feeds()[0].filter.cost();
        let cheap = feeds.join(&filter(&["a*"], &[])).unwrap();
        let counted = cheap.count_subscriber();
        let topics: Vec<String> = (0..1000)
            .map(|n| format!("{}{n}", "a".repeat(250)))
            .collect();
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        // A feed that nobody is at costs nothing.
        assert_eq!(counts(&feeds, &topics).await, [(1, false); 1000]);
        let all_counted: Vec<_> = costly.iter().map(FeedReceiver::count_subscriber).collect();
        assert_eq!(counts(&feeds, &topics).await, [(1, true); 1000]);
        // As many as are tested for some of the filters.
        let topics = &topics[..TESTS_MAX_COST / costly_cost / 5];
        let scans = Scans::default();
        let mut counting = Box::pin(feeds.subscribers_of(topics, &scans));
        let (begun, mut longest, mut times) = (thread_cpu_time(), Duration::ZERO, 0);
        let found = loop {
            let polled = thread_cpu_time();
            times += 1;
            match counting
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
            {
                Poll::Ready(found) => break found,
                Poll::Pending => longest = longest.max(thread_cpu_time() - polled),
            }
            tokio::task::yield_now().await;
        };
        let took = thread_cpu_time() - begun;
        println!(
            "{} topics against some costly filters took {took:?}, {longest:?} at a time, {times} times",
            topics.len()
        );
        let expected = SubscriberCount {
            least: 1,
            may_be_more: true,
        };
        assert!(found.iter().all(|count| *count == expected), "{found:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert!(longest < Duration::from_millis(10), "{longest:?}");
        drop((counted, all_counted));
    }
}
