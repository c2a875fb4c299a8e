//! What is being deleted, for whoever wants to know how far it is.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::{
    db::Trim,
    event::{EventId, Topic},
};

/// Deletions that are under way, each under the number in which it began.
#[derive(Debug, Default)]
pub(super) struct Deletions(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    begun: u64,
    running: BTreeMap<u64, Running>,
}

#[derive(Debug)]
struct Running {
    trim: Trim,
    deleted_events: u64,
    since: Instant,
}

/// A deletion that is under way, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// The topic whose events are deleted; `None`: the oldest of all.
    pub topic: Option<Topic>,
    /// The newest event to be deleted.
    pub through: EventId,
    /// Events that are gone so far.
    pub deleted_events: u64,
    /// Since it began.
    pub running: Duration,
}

impl Deletions {
    /// One begins. It ends when what is returned is dropped.
    pub(super) fn begin(&self, trim: &Trim) -> Progress<'_> {
        let mut state = self.lock();
        state.begun += 1;
        let number = state.begun;
        let running = Running {
            trim: trim.clone(),
            deleted_events: 0,
            since: Instant::now(),
        };
        state.running.insert(number, running);
        Progress { of: self, number }
    }

    /// All that are under way, the oldest first.
    pub(super) fn all(&self) -> Vec<Deletion> {
        let state = self.lock();
        let told = state.running.values().map(|running| Deletion {
            topic: running.trim.topic.clone(),
            through: running.trim.through,
            deleted_events: running.deleted_events,
            running: running.since.elapsed(),
        });
        told.collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics while counting")
    }
}

/// One deletion, as whoever does it tells how far it is.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    of: &'a Deletions,
    number: u64,
}

impl Progress<'_> {
    /// `events` more are gone.
    pub(super) fn deleted(&self, events: u64) {
        let mut state = self.of.lock();
        let running = state.running.get_mut(&self.number);
        running.expect("it ends with this").deleted_events += events;
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.of.lock().running.remove(&self.number);
    }
}
