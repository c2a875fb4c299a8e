//! Where the log begins and ends, as far as it is committed and announced.
//!
//! The writer alone stores; everybody may read at any time, without a lock.

use std::sync::atomic::{
    AtomicI64, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::event::EventId;

/// The oldest and the newest event. The log is empty when `first_id` is above `last_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Id of the oldest event kept.
    pub first_id: EventId,
    /// Id of the newest event committed; zero if there never was one.
    pub last_id: EventId,
}

#[derive(Debug)]
pub(super) struct Position {
    /// The oldest id kept; one above the newest when nothing is.
    first_id: AtomicI64,
    /// The newest id committed. Raised before the event is announced, so no subscriber has a newer one.
    committed: AtomicI64,
    /// The newest id announced. Raised after the announcement: every feed has been handed all events up to here.
    announced: AtomicI64,
    /// Number of events kept: counted once when the file is opened, and kept up to date from then on.
    events: AtomicU64,
}

impl Position {
    pub(super) fn new(bounds: Bounds, events: u64) -> Self {
        Self {
            first_id: AtomicI64::new(bounds.first_id.as_i64()),
            committed: AtomicI64::new(bounds.last_id.as_i64()),
            announced: AtomicI64::new(bounds.last_id.as_i64()),
            events: AtomicU64::new(events),
        }
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            first_id: self.first_id(),
            last_id: self.committed(),
        }
    }

    pub(super) fn first_id(&self) -> EventId {
        EventId::from_row(self.first_id.load(Acquire))
    }

    pub(super) fn committed(&self) -> EventId {
        EventId::from_row(self.committed.load(Acquire))
    }

    pub(super) fn announced(&self) -> EventId {
        EventId::from_row(self.announced.load(Acquire))
    }

    pub(super) fn events(&self) -> u64 {
        self.events.load(Relaxed)
    }

    pub(super) fn set_first_id(&self, first_id: EventId) {
        self.first_id.store(first_id.as_i64(), Release);
    }

    /// `events` more are committed, the newest of them `last_id`.
    pub(super) fn set_committed(&self, last_id: EventId, events: usize) {
        let events = u64::try_from(events).expect("a commit is small");
        self.events.fetch_add(events, Relaxed);
        self.committed.store(last_id.as_i64(), Release);
    }

    pub(super) fn set_announced(&self, last_id: EventId) {
        self.announced.store(last_id.as_i64(), Release);
    }

    pub(super) fn count_trimmed(&self, events: u64) {
        self.events.fetch_sub(events, Relaxed);
    }
}
