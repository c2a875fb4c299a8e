//! Who follows what: a broadcast channel for each distinct filter.
//!
//! One channel for all would wake every subscription for every event. Subscriptions that want the same thing share a feed, and
//! an announcement costs one look at the event's topic, one test of each filter that no list of topics finds, and one send for
//! each feed that wants something of the commit.
//!
//! The table is locked only to find feeds, never while a filter is tested. The work for a commit is bounded: feeds for which there
//! was no time are told to [look for themselves](Announcement::Look), so that no subscriber can make a publish slow by what it asks
//! for.

mod matching;
mod subscribers;

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicU32},
};

use slab::Slab;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use self::matching::Matching;
pub use self::subscribers::{CountedSubscriber, SubscriberCount};
use super::batch::Batch;
use crate::{
    event::Event,
    filter::{self, Filter, Topics, Verdicts},
};

/// Announcements that a subscription may fall behind before it reads pages again instead.
///
/// Small, because every feed has room for this many, and because the way back is short: the newest events are in memory.
const FEED_BUFFER_COMMITS: usize = 16;

/// Events that are handed to feeds of just some topics, each counted for each feed: 1 ms. Where a commit has more, all of those feeds
/// look for themselves.
const CANDIDATES_MAX: usize = 100_000;

/// What a feed is sent for a commit.
#[derive(Debug, Clone)]
pub(super) enum Announcement {
    /// What it wants of the commit.
    Events(Arc<Batch>),
    /// There may be something that it wants; it is to read the log.
    Look,
}

/// Who got something of a commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Announced {
    /// Feeds it was sent to.
    pub(super) feeds: usize,
    /// Subscriptions of those feeds.
    pub(super) receivers: usize,
}

/// All feeds. A feed is made for its first subscription and goes with its last.
#[derive(Debug)]
pub(super) struct Feeds {
    table: Mutex<Table>,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    closed: bool,
    entries: Slab<Entry>,
    by_filter: HashMap<Arc<Filter>, usize>,
    /// Feeds that want just some topics, under each of them: the index of the feed's entry, and the number of the topic among
    /// the feed's own. A tree, because a hash table moves all that it has when it grows: a million topics, while a publish waits.
    by_topic: BTreeMap<Box<str>, Vec<(usize, usize)>>,
    /// Entries of feeds that want patterns, or everything.
    wide: Slab<usize>,
    /// Those feeds in the order of their cost; made anew when it is needed after one came or went.
    wide_feeds: Option<Arc<[Arc<Feed>]>>,
    /// Entries whose feeds may want something of the commit that is being announced. Empty between announcements.
    touched: Vec<usize>,
}

/// A feed in the table.
#[derive(Debug)]
struct Entry {
    feed: Arc<Feed>,
    receivers: usize,
    /// The same as the feed's.
    subscribers: Arc<AtomicU32>,
    /// Whether it wants patterns, or everything.
    is_wide: bool,
    /// Where it stands under each of its topics, or in the list of wide ones: to leave costs what it asked for, however many
    /// others ask for the same.
    places: Vec<usize>,
    /// Events of its topics in the commit that is being announced. Empty between announcements.
    candidates: Vec<Arc<Event>>,
}

/// What a feed of just some topics may want of a commit.
struct Candidates {
    feed: Arc<Feed>,
    /// The events of its topics; `None` where there are too many for all such feeds.
    events: Option<Vec<Arc<Event>>>,
}

/// A filter, and the channel to those who follow it.
#[derive(Debug)]
struct Feed {
    filter: Arc<Filter>,
    /// What its filter said, if that is costly. Locked by announcements alone, one at a time.
    verdicts: Option<Mutex<Verdicts>>,
    sender: broadcast::Sender<Announcement>,
    /// Those who get what is sent here. Not its receivers: many subscribers may share one.
    subscribers: Arc<AtomicU32>,
}

/// A subscription's end of a feed. To be [given back](Feeds::leave).
#[derive(Debug)]
pub(super) struct FeedReceiver {
    pub(super) receiver: broadcast::Receiver<Announcement>,
    entry: usize,
    subscribers: Arc<AtomicU32>,
}

impl Feeds {
    pub(super) fn new() -> Self {
        Self {
            table: Mutex::default(),
            closed: CancellationToken::new(),
        }
    }

    /// Follows the feed for `filter`. `None` when the feeds are closed.
    pub(super) fn join(&self, filter: &Arc<Filter>) -> Option<FeedReceiver> {
        let mut table = self.table();
        if table.closed {
            return None;
        }
        let index = match table.by_filter.get(filter) {
            Some(&index) => index,
            None => table.add(filter.clone()),
        };
        let entry = &mut table.entries[index];
        entry.receivers += 1;
        Some(FeedReceiver {
            receiver: entry.feed.sender.subscribe(),
            entry: index,
            subscribers: entry.subscribers.clone(),
        })
    }

    /// Follows the feed of `other` as well, from what is announced next.
    pub(super) fn join_again(&self, other: &FeedReceiver) -> FeedReceiver {
        // Once closed, the table is empty and stays so, and the receiver says that it is closed.
        if let Some(entry) = self.table().entries.get_mut(other.entry) {
            entry.receivers += 1;
        }
        FeedReceiver {
            receiver: other.receiver.resubscribe(),
            entry: other.entry,
            subscribers: other.subscribers.clone(),
        }
    }

    pub(super) fn leave(&self, receiver: &FeedReceiver) {
        let mut table = self.table();
        // Once closed, the table is empty and stays so.
        let Some(entry) = table.entries.get_mut(receiver.entry) else {
            return;
        };
        entry.receivers -= 1;
        if entry.receivers == 0 {
            table.remove(receiver.entry);
        }
    }

    /// Sends each feed what it wants of a commit, as one batch.
    ///
    /// A feed that comes meanwhile may miss it: the commit is in the log already, where its subscription looks first.
    pub(super) fn announce(&self, events: &[Arc<Event>]) -> Announced {
        let (of_topics, wide) = {
            let mut table = self.table();
            (table.take_candidates(events), table.wide_feeds())
        };
        let mut announced = Announced::default();
        let mut send = |feed: &Feed, announcement| {
            // No receiver is no fault: the last one may be about to leave.
            let sent = feed.sender.send(announcement);
            announced.feeds += 1;
            announced.receivers += sent.unwrap_or(0);
        };
        let mut matching = Matching::begin();
        for Candidates { feed, events } in of_topics {
            let announcement = match events {
                None => Some(Announcement::Look),
                Some(events) if feed.filter.wants_any_type() => {
                    Some(Announcement::Events(Batch::new(events)))
                }
                Some(events) => matching.announcement(&feed, &events),
            };
            if let Some(announcement) = announcement {
                send(&feed, announcement);
            }
        }
        for feed in &*wide {
            if let Some(announcement) = matching.announcement(feed, events) {
                send(feed, announcement);
            }
        }
        announced
    }

    /// Ends all feeds; what was sent is still received.
    pub(super) fn close(&self) {
        let mut table = self.table();
        *table = Table {
            closed: true,
            ..Table::default()
        };
        self.closed.cancel();
    }

    /// Waits until the feeds are closed.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table
            .lock()
            .expect("nobody panics while holding the feeds")
    }
}

impl Table {
    /// The feeds that want just some topics.
    fn take_candidates(&mut self, events: &[Arc<Event>]) -> Vec<Candidates> {
        let mut count = 0;
        for event in events {
            let Some(of_topic) = self.by_topic.get(event.topic.as_str()) else {
                continue;
            };
            count += of_topic.len();
            if count > CANDIDATES_MAX {
                return self.feeds_of_topics();
            }
            for &(index, _) in of_topic {
                let candidates = &mut self.entries[index].candidates;
                if candidates.is_empty() {
                    self.touched.push(index);
                }
                candidates.push(event.clone());
            }
        }
        let take = |index| {
            let entry: &mut Entry = &mut self.entries[index];
            Candidates {
                feed: entry.feed.clone(),
                events: Some(mem::take(&mut entry.candidates)),
            }
        };
        self.touched.drain(..).map(take).collect()
    }

    /// All of them, without events.
    fn feeds_of_topics(&mut self) -> Vec<Candidates> {
        for index in self.touched.drain(..) {
            self.entries[index].candidates = Vec::new();
        }
        let of_topics = self.entries.iter().filter(|(_, entry)| !entry.is_wide);
        let without_events = |entry: &Entry| Candidates {
            feed: entry.feed.clone(),
            events: None,
        };
        of_topics.map(|(_, entry)| without_events(entry)).collect()
    }

    fn wide_feeds(&mut self) -> Arc<[Arc<Feed>]> {
        let (wide, entries) = (&self.wide, &self.entries);
        let feeds = self.wide_feeds.get_or_insert_with(|| {
            let feeds = wide.iter().map(|(_, &index)| entries[index].feed.clone());
            let mut feeds: Vec<_> = feeds.collect();
            feeds.sort_by_cached_key(|feed| feed.filter.cost());
            feeds.into()
        });
        feeds.clone()
    }

    fn add(&mut self, filter: Arc<Filter>) -> usize {
        let slot = self.entries.vacant_entry();
        let index = slot.key();
        let topics = filter.topics();
        let is_wide = !matches!(topics, Topics::Exact(_));
        let places = match topics {
            Topics::Exact(topics) => {
                let mut places = Vec::with_capacity(topics.len());
                for (number, topic) in topics.into_iter().enumerate() {
                    let of_topic = match self.by_topic.get_mut(topic) {
                        Some(of_topic) => of_topic,
                        None => self.by_topic.entry(topic.into()).or_default(),
                    };
                    places.push(of_topic.len());
                    of_topic.push((index, number));
                }
                places
            }
            Topics::All | Topics::Matching(_) => {
                self.wide_feeds = None;
                vec![self.wide.insert(index)]
            }
        };
        let subscribers = Arc::new(AtomicU32::new(0));
        slot.insert(Entry {
            feed: Arc::new(Feed {
                filter: filter.clone(),
                verdicts: filter
                    .is_costly()
                    .then(|| Mutex::new(Verdicts::new(filter::REMEMBERED_NAMES))),
                sender: broadcast::Sender::new(FEED_BUFFER_COMMITS),
                subscribers: subscribers.clone(),
            }),
            receivers: 0,
            subscribers,
            is_wide,
            places,
            candidates: Vec::new(),
        });
        self.by_filter.insert(filter, index);
        index
    }

    fn remove(&mut self, index: usize) {
        let Entry { feed, places, .. } = self.entries.remove(index);
        self.by_filter.remove(&feed.filter);
        match feed.filter.topics() {
            Topics::Exact(topics) => {
                for (topic, place) in topics.iter().zip(places) {
                    self.remove_from_topic(topic, place);
                }
            }
            Topics::All | Topics::Matching(_) => {
                self.wide_feeds = None;
                self.wide.remove(places[0]);
            }
        }
    }

    /// Takes one feed out of those of a topic, and puts the last of them into its place.
    fn remove_from_topic(&mut self, topic: &str, place: usize) {
        let of_topic = self
            .by_topic
            .get_mut(topic)
            .expect("filed under each of its topics");
        of_topic.swap_remove(place);
        if let Some(&(moved, number)) = of_topic.get(place) {
            self.entries[moved].places[number] = place;
        } else if of_topic.is_empty() {
            self.by_topic.remove(topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::process::thread_cpu_time;
    use crate::{
        event::{Data, EventId, EventType, Timestamp, Topic},
        filter::patterns,
    };

    fn event(id: i64, topic: &str) -> Arc<Event> {
        Arc::new(Event {
            id: EventId::from_row(id),
            topic: Topic::from_row(topic),
            event_type: EventType::default(),
            data: Data::from_text("x").unwrap(),
            created_at: Timestamp::from_millis(0),
            key: None,
        })
    }

    pub(super) fn filter(topics: &[&str], types: &[&str]) -> Arc<Filter> {
        Arc::new(Filter::new(patterns(topics), patterns(types)).unwrap())
    }

    fn ids(feed: &mut FeedReceiver) -> Vec<i64> {
        let Announcement::Events(batch) = feed.receiver.try_recv().unwrap() else {
            panic!("it is to look for itself");
        };
        let ids = batch.events().iter().map(|event| event.id.as_i64());
        ids.collect()
    }

    #[test]
    fn each_feed_gets_what_it_wants_of_a_commit_in_one_batch() {
        let feeds = Feeds::new();
        let mut some = feeds.join(&filter(&["a", "c"], &[])).unwrap();
        let mut same = feeds.join(&filter(&["c", "a"], &[])).unwrap();
        let mut typed = feeds.join(&filter(&["c", "a"], &["x"])).unwrap();
        let mut wide = feeds.join(&filter(&["b*"], &["m*"])).unwrap();
        let mut all = feeds.join(&filter(&[], &[])).unwrap();
        assert_eq!(feeds.table().entries.len(), 4);
        feeds.announce(&[event(1, "a"), event(2, "b1"), event(3, "c"), event(4, "d")]);
        assert_eq!(ids(&mut some), [1, 3]);
        assert_eq!(ids(&mut same), [1, 3]);
        assert_eq!(ids(&mut wide), [2]);
        assert_eq!(ids(&mut all), [1, 2, 3, 4]);
        assert!(some.receiver.is_empty() && typed.receiver.try_recv().is_err());
    }

    #[test]
    fn a_feed_goes_with_its_last_receiver_and_the_others_stay() {
        let feeds = Feeds::new();
        let filters = [&["a", "b"][..], &["b", "a", "c"], &["a"], &["x*"], &["y*"]];
        let receivers = filters.map(|topics| feeds.join(&filter(topics, &[])).unwrap());
        let mut stays = feeds.join(&filter(&["c", "a"], &[])).unwrap();
        for receiver in &receivers {
            feeds.leave(receiver);
            feeds.announce(&[event(1, "a"), event(2, "b"), event(3, "c")]);
            assert_eq!(ids(&mut stays), [1, 3]);
        }
        feeds.leave(&stays);
        let table = feeds.table();
        assert!(
            table.entries.is_empty()
                && table.by_filter.is_empty()
                && table.by_topic.is_empty()
                && table.wide.is_empty()
        );
    }

    /// Each used to look through all that followed the same topics, so that leaving took time with the square of their number.
    #[test]
    #[expect(clippy::print_stdout, reason = "the figures")]
    fn two_thousand_feeds_of_the_same_topics_leave_at_once() {
        let feeds = Feeds::new();
        let topics: Vec<String> = (0..700).map(|n| format!("topic.{n}")).collect();
        let mut joined = Vec::new();
        for own in 0..2000 {
            let own = format!("own.{own}");
            let topics: Vec<&str> = topics.iter().map(String::as_str).chain([&*own]).collect();
            joined.push(feeds.join(&filter(&topics, &[])).unwrap());
        }
        let begun = thread_cpu_time();
        feeds.announce(&[event(1, "topic.0")]);
        let announced = thread_cpu_time() - begun;
        for receiver in &joined {
            feeds.leave(receiver);
        }
        let left = thread_cpu_time() - begun - announced;
        println!("announced to 2,000 feeds of 701 topics in {announced:?}; they left in {left:?}");
        assert!(left < Duration::from_secs(3), "{left:?}");
        assert!(announced < Duration::from_secs(1), "{announced:?}");
    }

    /// Tables moved all topics, and hashed all filters anew, when they grew: 9 ms for 70,000 topics, while everybody waited.
    #[test]
    #[expect(clippy::print_stdout, reason = "the figures")]
    fn to_follow_takes_no_longer_because_of_what_others_follow() {
        const FEEDS: u32 = 1000;
        let feeds = Feeds::new();
        let (mut all, mut longest) = (Duration::ZERO, Duration::ZERO);
        for own in 0..FEEDS {
            let topics: Vec<String> = (0..700).map(|n| format!("{own}.{n}")).collect();
            let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
            let filter = filter(&topics, &[]);
            let begun = thread_cpu_time();
            feeds.join(&filter).unwrap();
            let took = thread_cpu_time() - begun;
            (all, longest) = (all + took, longest.max(took));
        }
        let mean = all / FEEDS;
        println!("700 topics were followed in {mean:?}, and in {longest:?} at most");
        // The system counts in steps of some milliseconds.
        let expected = 5 * mean + Duration::from_millis(10);
        assert!(longest < expected, "{longest:?}, and {mean:?} as a rule");
    }

    /// As many looks at a list, at a memory or at a feed as there are events and feeds took seconds, and gigabytes, in one piece.
    #[test]
    #[expect(clippy::print_stdout, reason = "the figures")]
    fn a_large_commit_costs_no_more_because_many_follow() {
        const FEEDS: usize = 3000;
        let commit: Vec<_> = (1..=10_000).map(|id| event(id, "topic")).collect();
        let of_own_topic = |n: usize| filter(&["topic", &format!("own{n}")], &[]);
        let of_types = |n: usize| filter(&[], &["message", &format!("own{n}")]);
        let costly = |n: usize| {
            let patterns: Vec<_> = (0..16).map(|m| format!("*o*c{n}.{m}*")).collect();
            let mut patterns: Vec<_> = patterns.iter().map(String::as_str).collect();
            patterns.push("t*");
            filter(&patterns, &[])
        };
        for (kind, filter) in [
            ("of a topic", of_own_topic as fn(usize) -> Arc<Filter>),
            ("of types", of_types),
            ("that are costly", costly),
        ] {
            let feeds = Feeds::new();
            let mut joined: Vec<_> = (0..FEEDS)
                .map(|n| feeds.join(&filter(n)).unwrap())
                .collect();
            let clear = |joined: &mut Vec<FeedReceiver>| {
                for feed in joined {
                    while feed.receiver.try_recv().is_ok() {}
                }
            };
            // What is costly is known after some small commits.
            for _ in 0..100 {
                feeds.announce(&commit[..1]);
                clear(&mut joined);
            }
            let begun = thread_cpu_time();
            let announced = feeds.announce(&commit);
            let took = thread_cpu_time() - begun;
            println!("10,000 events to {FEEDS} feeds {kind} took {took:?}");
            assert_eq!(announced.feeds, FEEDS);
            assert!(took < Duration::from_millis(500), "{kind}: {took:?}");
            clear(&mut joined);
            assert_eq!(feeds.announce(&commit[..1]).feeds, FEEDS, "{kind}");
            if kind == "of a topic" {
                assert!(joined.iter_mut().all(|feed| ids(feed) == [1]), "as ever");
            }
        }
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "the figures")]
    fn filters_that_cannot_be_tested_in_time_are_told_to_look() {
        let feeds = Feeds::new();
        let hostile = |n: usize| {
            let runs = format!("*{}", "a".repeat(90)).repeat(2);
            let patterns = (0..100).map(|m| format!("{runs}*{n}.{m}x*"));
            let patterns: Vec<String> = patterns.collect();
            filter(
                &patterns.iter().map(String::as_str).collect::<Vec<_>>(),
                &[],
            )
        };
        let mut dear: Vec<_> = (0..200).map(|n| feeds.join(&hostile(n)).unwrap()).collect();
        let mut cheap = feeds.join(&filter(&["a*"], &[])).unwrap();
        let mut listed = feeds.join(&filter(&["b"], &["x", "message"])).unwrap();
        let commit = [event(1, &"a".repeat(255)), event(2, "b")];
        let begun = Instant::now();
        feeds.announce(&commit);
        let took = begun.elapsed();
        println!("an announcement to 200 feeds of 100 costly patterns took {took:?}");
        assert_eq!(ids(&mut cheap), [1]);
        assert_eq!(ids(&mut listed), [2]);
        let mut told_to_look = || {
            let told = dear
                .iter_mut()
                .filter_map(|feed| feed.receiver.try_recv().ok());
            told.filter(|told| matches!(told, Announcement::Look))
                .count()
        };
        assert!(told_to_look() > 100);
        assert!(took < Duration::from_millis(500), "{took:?}");
        // What was tested is known from then on.
        let within = "filters to be tested, a part of them with each commit";
        let known = (0..500).position(|_| {
            feeds.announce(&commit);
            told_to_look() == 0
        });
        println!("all were tested after {:?} more", known.expect(within));
    }
}
