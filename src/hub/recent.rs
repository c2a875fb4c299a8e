//! The newest events in memory, so that subscribers who come back together do not each read the file.

use std::{
    collections::VecDeque,
    sync::{Arc, RwLock},
};

use crate::{
    db::{self, EventLog, Order, Range},
    event::{Event, EventId, Topic},
    filter::Filter,
    scan::Scans,
};

/// Memory the window takes, about.
const RECENT_MAX_BYTES: usize = 8 * 1024 * 1024;

/// Events that one page looks at.
const SCAN_MAX_EVENTS: usize = 4096;

/// Events that are taken out of the window at a time, so that the writer never waits long for it.
const LOOK_MAX_EVENTS: usize = 128;

/// A window over the end of the log: every event kept that lies after `after`.
#[derive(Debug)]
pub(super) struct Recent {
    window: RwLock<Window>,
}

/// A [`Page`](db::Page) whose events are shared.
#[derive(Debug)]
pub(super) struct RecentPage {
    /// Those that match, in id order. May be none though there is more to read.
    pub(super) events: Vec<Arc<Event>>,
    /// The last id that was looked at, if there is more to read behind it.
    pub(super) read_on: Option<EventId>,
}

#[derive(Debug)]
struct Window {
    after: EventId,
    events: VecDeque<Arc<Event>>,
    bytes: usize,
}

impl Recent {
    /// Fills the window from the end of the file, whose newest id is `last_id`.
    pub(super) async fn load(log: &EventLog, last_id: EventId) -> Result<Self, db::Error> {
        let mut window = Window {
            after: last_id,
            events: VecDeque::new(),
            bytes: 0,
        };
        let mut range = Range {
            after: EventId::ZERO,
            before: EventId::MAX,
        };
        loop {
            let page = log
                .page(&Arc::default(), range, Order::Descending, SCAN_MAX_EVENTS)
                .await;
            let page = match page {
                Ok(page) => page,
                Err(db::Error::Corrupt(error)) => {
                    tracing::error!(
                        error = &*error as &dyn std::error::Error,
                        before = range.before.as_i64(),
                        "the file is damaged: `segno check` says where; what can be read is served"
                    );
                    return Ok(Self {
                        window: RwLock::new(window),
                    });
                }
                Err(error) => return Err(error),
            };
            for event in page.events {
                let bytes = size_bytes(&event);
                if window.bytes + bytes > RECENT_MAX_BYTES {
                    return Ok(Self {
                        window: RwLock::new(window),
                    });
                }
                window.after = event.id.previous();
                window.bytes += bytes;
                window.events.push_front(event.into());
            }
            match page.read_on {
                Some(id) => range.before = id,
                None => {
                    return Ok(Self {
                        window: RwLock::new(window),
                    });
                }
            }
        }
    }

    /// Adds committed events, in id order, and lets the oldest go.
    pub(super) fn push(&self, events: &[Arc<Event>]) {
        let mut window = self
            .window
            .write()
            .expect("nobody panics while holding the window");
        for event in events {
            window.bytes += size_bytes(event);
            window.events.push_back(event.clone());
        }
        while window.bytes > RECENT_MAX_BYTES {
            let Some(oldest) = window.events.pop_front() else {
                break;
            };
            window.bytes -= size_bytes(&oldest);
            window.after = oldest.id;
        }
    }

    /// Puts what is left of an erased event where the event was.
    pub(super) fn replace(&self, erased: &Arc<Event>) {
        let mut window = self
            .window
            .write()
            .expect("nobody panics while holding the window");
        if let Ok(at) = window
            .events
            .binary_search_by_key(&erased.id, |event| event.id)
        {
            let old = std::mem::replace(&mut window.events[at], erased.clone());
            window.bytes = window.bytes - size_bytes(&old) + size_bytes(erased);
        }
    }

    /// Lets go of events up to `through` that were trimmed: a topic's, or all.
    pub(super) fn forget(&self, topic: Option<&Topic>, through: EventId) {
        let mut window = self
            .window
            .write()
            .expect("nobody panics while holding the window");
        let Window {
            after,
            events,
            bytes,
        } = &mut *window;
        let old = events.partition_point(|event| event.id <= through);
        match topic {
            None => {
                *bytes -= events
                    .drain(..old)
                    .map(|event| size_bytes(&event))
                    .sum::<usize>();
                *after = through.max(*after);
            }
            Some(_) if old == 0 => (),
            Some(topic) => events.retain(|event| {
                let goes = event.id <= through && event.topic == *topic;
                if goes {
                    *bytes -= size_bytes(event);
                }
                !goes
            }),
        }
    }

    /// The first of the events in `range` that `filter` wants, at most `limit`, and no more data than a
    /// [page of the log](db::PAGE_MAX_BYTES) has: its frames are made for one subscriber, which may be slow. `None` if some of them
    /// may lie before the window.
    ///
    /// Takes a few events at a time out of the window and tests them outside of its lock, so that the writer never waits for a
    /// filter. Dropping the future is safe.
    pub(super) async fn page(
        &self,
        scans: &Scans,
        filter: &Filter,
        range: Range,
        limit: usize,
    ) -> Option<RecentPage> {
        let mut scan = scans.begin(filter).await;
        let mut page = RecentPage {
            events: Vec::new(),
            read_on: None,
        };
        let (mut looked_at, mut data_bytes, mut rest) = (0, 0, range);
        loop {
            let Some(events) = self.first_events(rest) else {
                // The window has moved on meanwhile. What was read is good; the next page is read from the file.
                return page.read_on.is_some().then_some(page);
            };
            if events.is_empty() {
                page.read_on = None;
                return Some(page);
            }
            for event in events {
                let is_full = page.events.len() == limit || data_bytes >= db::PAGE_MAX_BYTES;
                if is_full || looked_at == SCAN_MAX_EVENTS || scan.is_over() {
                    return Some(page);
                }
                looked_at += 1;
                rest.after = event.id;
                page.read_on = Some(event.id);
                if scan.matches(filter, event.topic.as_str(), event.event_type.as_str()) {
                    data_bytes += event.data.as_str().len();
                    page.events.push(event);
                }
                scan.pause().await;
            }
        }
    }

    /// The first few events in `range`. `None` if some of them may lie before the window.
    fn first_events(&self, range: Range) -> Option<Vec<Arc<Event>>> {
        let window = self
            .window
            .read()
            .expect("nobody panics while holding the window");
        if range.after < window.after {
            return None;
        }
        let first = window
            .events
            .partition_point(|event| event.id <= range.after);
        let events = window.events.range(first..).take(LOOK_MAX_EVENTS);
        let events = events.take_while(|event| event.id < range.before);
        Some(events.cloned().collect())
    }
}

fn size_bytes(event: &Event) -> usize {
    let key_bytes = event.key.as_ref().map_or(0, |key| key.as_str().len());
    size_of::<Event>()
        + event.topic.as_str().len()
        + event.event_type.as_str().len()
        + event.data.as_str().len()
        + key_bytes
}
