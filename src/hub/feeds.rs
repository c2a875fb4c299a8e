//! Who is listening to what: a broadcast channel for each distinct filter.
//!
//! One channel for all would wake every subscriber for every event. Subscribers that want the same thing share a feed, and
//! an announcement costs one look at the event's topic, one test of each filter that is wider than a list of topics, and
//! one send for each feed that wants something of the commit.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard},
};

use slab::Slab;
use tokio::sync::broadcast;

use super::batch::Batch;
use crate::{
    event::Event,
    filter::{Filter, Topics},
};

/// Commits a subscriber may fall behind before it reads pages again instead.
///
/// Small, because every feed holds room for so many, and because the way back is short: the newest events are in memory.
const FEED_BUFFER_COMMITS: usize = 16;

/// Who got something of a commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Announced {
    /// Feeds it was sent to.
    pub(super) feeds: usize,
    /// Receivers of those feeds.
    pub(super) receivers: usize,
}

/// All feeds. A feed is born with its first receiver and goes with its last.
#[derive(Debug)]
pub(super) struct Feeds {
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    open: bool,
    feeds: Slab<Feed>,
    by_filter: HashMap<Arc<Filter>, usize>,
    /// Feeds that want just some topics, under each of them.
    by_topic: HashMap<Box<str>, Vec<usize>>,
    /// Feeds that want patterns, or everything.
    wide: Vec<usize>,
    /// Feeds that want something of the commit that is being announced. Empty between announcements.
    touched: Vec<usize>,
}

#[derive(Debug)]
struct Feed {
    filter: Arc<Filter>,
    sender: broadcast::Sender<Arc<Batch>>,
    receivers: usize,
    /// What it wants of the commit that is being announced. Empty between announcements.
    batch: Vec<Arc<Event>>,
}

/// A place at a feed. Leaves it when dropped.
#[derive(Debug)]
pub(super) struct FeedReceiver {
    pub(super) receiver: broadcast::Receiver<Arc<Batch>>,
    feed: usize,
}

impl Feeds {
    pub(super) fn new() -> Self {
        let table = Table {
            open: true,
            feeds: Slab::new(),
            by_filter: HashMap::new(),
            by_topic: HashMap::new(),
            wide: Vec::new(),
            touched: Vec::new(),
        };
        Self {
            table: Mutex::new(table),
        }
    }

    /// Takes a place at the feed for `filter`. `None` when the feeds are closed.
    pub(super) fn join(&self, filter: &Arc<Filter>) -> Option<FeedReceiver> {
        let mut table = self.table();
        if !table.open {
            return None;
        }
        let index = match table.by_filter.get(filter) {
            Some(&index) => index,
            None => table.add(filter.clone()),
        };
        let feed = &mut table.feeds[index];
        feed.receivers += 1;
        let receiver = feed.sender.subscribe();
        Some(FeedReceiver {
            receiver,
            feed: index,
        })
    }

    /// Takes another place at the feed of `receiver`; it hears what is sent from now on.
    pub(super) fn join_again(&self, receiver: &FeedReceiver) -> FeedReceiver {
        // Once closed, the table is empty and stays so, and the receiver says that it is closed.
        if let Some(feed) = self.table().feeds.get_mut(receiver.feed) {
            feed.receivers += 1;
        }
        FeedReceiver {
            receiver: receiver.receiver.resubscribe(),
            feed: receiver.feed,
        }
    }

    pub(super) fn leave(&self, receiver: &FeedReceiver) {
        let mut table = self.table();
        // Once closed, the table is empty and stays so.
        let Some(feed) = table.feeds.get_mut(receiver.feed) else {
            return;
        };
        feed.receivers -= 1;
        if feed.receivers == 0 {
            table.remove(receiver.feed);
        }
    }

    /// Sends each feed what it wants of a commit, as one batch.
    pub(super) fn announce(&self, events: &[Arc<Event>]) -> Announced {
        let table = &mut *self.table();
        for event in events {
            let of_topic = table
                .by_topic
                .get(event.topic.as_str())
                .map_or(&[][..], Vec::as_slice);
            for &index in of_topic.iter().chain(&table.wide) {
                let feed = &mut table.feeds[index];
                if feed.filter.matches(event) {
                    if feed.batch.is_empty() {
                        table.touched.push(index);
                    }
                    feed.batch.push(event.clone());
                }
            }
        }
        let mut announced = Announced::default();
        for index in table.touched.drain(..) {
            let feed = &mut table.feeds[index];
            // No receiver is no fault: the last one may be about to leave.
            let sent = feed.sender.send(Batch::new(mem::take(&mut feed.batch)));
            announced.feeds += 1;
            announced.receivers += sent.unwrap_or(0);
        }
        announced
    }

    /// Ends all feeds; what was sent is still received.
    pub(super) fn close(&self) {
        let mut table = self.table();
        table.open = false;
        table.feeds.clear();
        table.by_filter.clear();
        table.by_topic.clear();
        table.wide.clear();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table
            .lock()
            .expect("nobody panics while holding the feeds")
    }
}

impl Table {
    fn add(&mut self, filter: Arc<Filter>) -> usize {
        let feed = Feed {
            filter: filter.clone(),
            sender: broadcast::Sender::new(FEED_BUFFER_COMMITS),
            receivers: 0,
            batch: Vec::new(),
        };
        let index = self.feeds.insert(feed);
        match filter.topics() {
            Topics::Exact(topics) => {
                for topic in topics {
                    self.by_topic.entry(topic.into()).or_default().push(index);
                }
            }
            Topics::All | Topics::Matching(_) => self.wide.push(index),
        }
        self.by_filter.insert(filter, index);
        index
    }

    fn remove(&mut self, index: usize) {
        let feed = self.feeds.remove(index);
        self.by_filter.remove(&feed.filter);
        match feed.filter.topics() {
            Topics::Exact(topics) => {
                for topic in topics {
                    let of_topic = self
                        .by_topic
                        .get_mut(topic)
                        .expect("filed under each of its topics");
                    of_topic.retain(|&other| other != index);
                    if of_topic.is_empty() {
                        self.by_topic.remove(topic);
                    }
                }
            }
            Topics::All | Topics::Matching(_) => self.wide.retain(|&other| other != index),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Data, EventId, EventType, Timestamp, Topic},
        filter::Pattern,
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

    fn filter(topics: &[&str]) -> Arc<Filter> {
        let topics = topics
            .iter()
            .map(|topic| Pattern::new(topic).unwrap())
            .collect();
        Arc::new(Filter::new(topics, vec![]))
    }

    fn ids(receiver: &mut FeedReceiver) -> Vec<i64> {
        let batch = receiver.receiver.try_recv().unwrap();
        batch
            .events()
            .iter()
            .map(|event| event.id.as_i64())
            .collect()
    }

    #[test]
    fn each_feed_gets_what_it_wants_of_a_commit_in_one_batch() {
        let feeds = Feeds::new();
        let mut some = feeds.join(&filter(&["a", "c"])).unwrap();
        let mut same = feeds.join(&filter(&["c", "a"])).unwrap();
        let mut wide = feeds.join(&filter(&["b*"])).unwrap();
        let mut all = feeds.join(&filter(&[])).unwrap();
        assert_eq!(feeds.table().feeds.len(), 3);
        feeds.announce(&[event(1, "a"), event(2, "b1"), event(3, "c"), event(4, "d")]);
        assert_eq!(ids(&mut some), [1, 3]);
        assert_eq!(ids(&mut same), [1, 3]);
        assert_eq!(ids(&mut wide), [2]);
        assert_eq!(ids(&mut all), [1, 2, 3, 4]);
        assert!(some.receiver.is_empty());
    }

    #[test]
    fn a_feed_goes_with_its_last_receiver() {
        let feeds = Feeds::new();
        let receivers = [&["a", "b"][..], &["b", "a"], &["a"], &["x*"]]
            .map(|topics| feeds.join(&filter(topics)).unwrap());
        for receiver in &receivers {
            feeds.leave(receiver);
        }
        let table = feeds.table();
        assert!(
            table.feeds.is_empty()
                && table.by_filter.is_empty()
                && table.by_topic.is_empty()
                && table.wide.is_empty()
        );
    }
}
