//! Who is listening to what: a broadcast channel for each distinct filter.
//!
//! One channel for all would wake every subscriber for every event. Subscribers that want the same thing share a feed, and
//! an announcement costs one look at the event's topic, one test of each filter that is wider than a list of topics, and
//! one send for each feed that wants something of the commit.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use bytes::Bytes;
use slab::Slab;
use tokio::sync::broadcast;

use crate::{
    event::{Event, EventId, Topic},
    filter::{Filter, Topics},
};

/// Commits a subscriber may fall behind before it reads pages again instead.
///
/// Small, because every feed holds room for so many, and because the way back is short: the newest events are in memory.
const FEED_BUFFER_COMMITS: usize = 16;

/// Ways in which readers may render a batch; see [`Batch::rendered`].
const RENDERINGS: usize = 4;

/// Events that subscribers of one feed get together: of one commit, or of one page. Never empty, in id order.
#[derive(Debug)]
pub struct Batch {
    events: Box<[Arc<Event>]>,
    rendered: [OnceLock<Bytes>; RENDERINGS],
}

impl Batch {
    pub(super) fn new(events: Vec<Arc<Event>>) -> Arc<Self> {
        assert!(!events.is_empty(), "a batch has an event");
        Arc::new(Self {
            events: events.into(),
            rendered: Default::default(),
        })
    }

    /// The events, in id order.
    pub fn events(&self) -> &[Arc<Event>] {
        &self.events
    }

    /// The id of its last event.
    pub fn last_id(&self) -> EventId {
        self.events.last().expect("a batch has an event").id
    }

    /// What the batch looks like to readers of one kind: made by the first that asks, shared by the rest.
    ///
    /// The hub does not look into it. `kind` is below 4, and the same `kind` always comes with the same `render`.
    pub fn rendered(&self, kind: usize, render: impl FnOnce(&[Arc<Event>]) -> Bytes) -> Bytes {
        self.rendered[kind]
            .get_or_init(|| render(&self.events))
            .clone()
    }

    /// The batch without the events up to `cursor`; `None` if that leaves none.
    pub(super) fn after(self: Arc<Self>, cursor: EventId) -> Option<Arc<Self>> {
        let known = self.events.partition_point(|event| event.id <= cursor);
        match &self.events[known..] {
            [] => None,
            _ if known == 0 => Some(self),
            rest => Some(Self::new(rest.to_vec())),
        }
    }
}

/// Who got something of a commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Announced {
    /// Feeds it was sent to.
    pub(super) feeds: usize,
    /// Receivers of those feeds.
    pub(super) receivers: usize,
}

/// All feeds. A feed is born with its first listener and goes with its last.
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
    listeners: usize,
    /// What it wants of the commit that is being announced. Empty between announcements.
    batch: Vec<Arc<Event>>,
}

/// A place at a feed. Leaves it when dropped.
#[derive(Debug)]
pub(super) struct Listener {
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
    pub(super) fn join(&self, filter: &Arc<Filter>) -> Option<Listener> {
        let mut table = self.table();
        if !table.open {
            return None;
        }
        let index = match table.by_filter.get(filter) {
            Some(&index) => index,
            None => table.add(filter.clone()),
        };
        let feed = &mut table.feeds[index];
        feed.listeners += 1;
        let receiver = feed.sender.subscribe();
        Some(Listener {
            receiver,
            feed: index,
        })
    }

    /// Takes another place at the feed of `listener`; it hears what is sent from now on.
    pub(super) fn join_again(&self, listener: &Listener) -> Listener {
        // Once closed, the table is empty and stays so, and the receiver says that it is closed.
        if let Some(feed) = self.table().feeds.get_mut(listener.feed) {
            feed.listeners += 1;
        }
        Listener {
            receiver: listener.receiver.resubscribe(),
            feed: listener.feed,
        }
    }

    pub(super) fn leave(&self, listener: &Listener) {
        let mut table = self.table();
        // Once closed, the table is empty and stays so.
        let Some(feed) = table.feeds.get_mut(listener.feed) else {
            return;
        };
        feed.listeners -= 1;
        if feed.listeners == 0 {
            table.remove(listener.feed);
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

    /// Sends the hub's own feed what the hub published to itself; nobody else gets it.
    pub(super) fn announce_canary(&self, canary: Arc<Event>) {
        if let Some(feed) = self.table().canary() {
            _ = feed.sender.send(Batch::new(vec![canary]));
        }
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
    /// The hub's own feed, while the hub listens.
    fn canary(&self) -> Option<&Feed> {
        let index = self.by_topic.get(Topic::CANARY)?.first()?;
        self.feeds.get(*index)
    }

    fn add(&mut self, filter: Arc<Filter>) -> usize {
        let feed = Feed {
            filter: filter.clone(),
            sender: broadcast::Sender::new(FEED_BUFFER_COMMITS),
            listeners: 0,
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
        event::{Data, EventType, Timestamp, Topic},
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

    fn ids(listener: &mut Listener) -> Vec<i64> {
        let batch = listener.receiver.try_recv().unwrap();
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
    fn the_canary_is_for_the_hub_alone() {
        let feeds = Feeds::new();
        let mut all = feeds.join(&filter(&[])).unwrap();
        let mut pattern = feeds.join(&filter(&["segno.*"])).unwrap();
        feeds.announce_canary(event(1, Topic::CANARY));
        let mut own = feeds.join(&Arc::new(Filter::canary())).unwrap();
        feeds.announce_canary(event(2, Topic::CANARY));
        assert_eq!(ids(&mut own), [2]);
        assert!(all.receiver.try_recv().is_err() && pattern.receiver.try_recv().is_err());
        assert!(Pattern::new(Topic::CANARY).is_err());
    }

    #[test]
    fn a_feed_goes_with_its_last_listener() {
        let feeds = Feeds::new();
        let listeners = [&["a", "b"][..], &["b", "a"], &["a"], &["x*"]]
            .map(|topics| feeds.join(&filter(topics)).unwrap());
        for listener in &listeners {
            feeds.leave(listener);
        }
        let table = feeds.table();
        assert!(
            table.feeds.is_empty()
                && table.by_filter.is_empty()
                && table.by_topic.is_empty()
                && table.wide.is_empty()
        );
    }

    #[test]
    fn a_rendering_is_made_once_for_all() {
        let batch = Batch::new(vec![event(1, "a")]);
        let first = batch.rendered(0, |_| Bytes::from_static(b"first"));
        let second = batch.rendered(0, |_| unreachable!("made once"));
        assert_eq!(first.as_ptr(), second.as_ptr());
        assert_eq!(batch.rendered(1, |_| Bytes::from_static(b"other")), "other");
    }
}
