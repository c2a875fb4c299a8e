//! Where each subscriber is, for whoever watches the hub. Those that share a subscription are one here; one that is slow has
//! its own.
//!
//! A subscriber tells its cursor, and whether it waits for an event or is at work, by two stores of its own: no clock, no
//! lock. Who is behind is found out by looking at all of them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{
            AtomicI64, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

use slab::Slab;

use crate::{event::EventId, peer_address::PeerAddress};

/// All subscribers there are.
#[derive(Debug, Default)]
pub(super) struct ProgressTable {
    table: Mutex<Slab<Watched>>,
}

/// A subscriber and what was seen of it.
#[derive(Debug)]
struct Watched {
    progress: Arc<Progress>,
    episode: Option<Episode>,
}

/// A time in which a subscriber was behind without a rest.
#[derive(Debug)]
struct Episode {
    /// The turn it is at.
    turn: u64,
    /// When it was first seen behind in it.
    since: Instant,
    told: bool,
}

/// A subscriber that has been behind for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slow {
    /// Who it is.
    pub peer: PeerAddress,
    /// What it has.
    pub cursor: EventId,
    /// Ids between that and the newest event.
    pub lag_events: u64,
    /// For how long it has been seen behind.
    pub behind_for: Duration,
}

/// Where a subscriber is. Only its subscription changes it.
#[derive(Debug)]
struct Progress {
    peer: PeerAddress,
    cursor: AtomicI64,
    /// How often it went to rest or back to work: odd while it is at work, which is everything but waiting for an event.
    turns: AtomicU64,
}

/// A subscriber's place among them. To be given back.
#[derive(Debug)]
pub(super) struct ProgressHandle {
    index: usize,
    progress: Arc<Progress>,
}

/// How far those are behind who are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Behind {
    /// Subscriptions that are at work while there is more after their cursor: they replay, or their client is slow.
    pub subscribers: usize,
    /// The most ids between the cursor of one of them and the newest event. Ids that its filter does not want count.
    pub lag_events: u64,
}

impl ProgressTable {
    pub(super) fn join(&self, peer: PeerAddress) -> ProgressHandle {
        let progress = Arc::new(Progress {
            peer,
            cursor: AtomicI64::new(0),
            turns: AtomicU64::new(1),
        });
        ProgressHandle {
            index: self.table().insert(Watched {
                progress: progress.clone(),
                episode: None,
            }),
            progress,
        }
    }

    pub(super) fn leave(&self, place: &ProgressHandle) {
        self.table().remove(place.index);
    }

    /// Looks at all of them; `committed` is the newest event there is.
    pub(super) fn behind(&self, committed: EventId) -> Behind {
        let mut behind = Behind::default();
        for (_, watched) in self.table().iter() {
            if let Some(lag_events) = watched.progress.lag_events(committed) {
                behind.subscribers += 1;
                behind.lag_events = behind.lag_events.max(lag_events);
            }
        }
        behind
    }

    /// Those that have been behind for `slow_after` since they were first seen so, each once.
    pub(super) fn find_slow(&self, committed: EventId, slow_after: Duration) -> Vec<Slow> {
        let now = Instant::now();
        let mut slow = Vec::new();
        for (_, Watched { progress, episode }) in self.table().iter_mut() {
            let turn = progress.turns.load(Acquire);
            let Some(lag_events) = progress.lag_events(committed) else {
                *episode = None;
                continue;
            };
            let episode = match episode {
                Some(episode) if episode.turn == turn => episode,
                episode => episode.insert(Episode {
                    turn,
                    since: now,
                    told: false,
                }),
            };
            let behind_for = now - episode.since;
            if behind_for >= slow_after && !episode.told {
                episode.told = true;
                slow.push(Slow {
                    peer: progress.peer,
                    cursor: EventId::from_row(progress.cursor.load(Relaxed)),
                    lag_events,
                    behind_for,
                });
            }
        }
        slow
    }

    fn table(&self) -> MutexGuard<'_, Slab<Watched>> {
        self.table
            .lock()
            .expect("nobody panics while holding the subscribers")
    }
}

impl Progress {
    /// `None`: it is not behind.
    fn lag_events(&self, committed: EventId) -> Option<u64> {
        let at_work = self.turns.load(Acquire) % 2 == 1;
        let lag = committed.as_i64() - self.cursor.load(Relaxed);
        u64::try_from(lag).ok().filter(|&lag| at_work && lag > 0)
    }
}

impl ProgressHandle {
    pub(super) fn peer(&self) -> PeerAddress {
        self.progress.peer
    }

    /// The subscriber has all it wants up to `cursor`.
    pub(super) fn reached(&self, cursor: EventId) {
        self.progress.cursor.store(cursor.as_i64(), Relaxed);
    }

    /// It has nothing to do until an event comes.
    pub(super) fn rest(&self) {
        self.turn(0);
    }

    /// It has something to do.
    pub(super) fn work(&self) {
        self.turn(1);
    }

    fn turn(&self, parity: u64) {
        let turns = self.progress.turns.load(Relaxed);
        if turns % 2 != parity {
            // Nobody else stores.
            self.progress.turns.store(turns + 1, Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_is_who_is_at_work_with_events_to_come() {
        let subscribers = ProgressTable::default();
        let peer = PeerAddress::Unix;
        let places = [0, 4, 10, 10].map(|cursor| {
            let place = subscribers.join(peer);
            place.reached(EventId::from_row(cursor));
            place
        });
        let committed = EventId::from_row(10);
        let behind = |subscribers, lag_events| Behind {
            subscribers,
            lag_events,
        };
        assert_eq!(subscribers.behind(committed), behind(2, 10));
        places[0].rest();
        places[0].rest();
        assert_eq!(subscribers.behind(committed), behind(1, 6));
        places[0].work();
        assert_eq!(subscribers.behind(committed), behind(2, 10));
        subscribers.leave(&places[0]);
        subscribers.leave(&places[1]);
        assert_eq!(subscribers.behind(committed), behind(0, 0));
    }

    #[test]
    fn a_slow_one_is_found_once_until_it_has_had_a_rest() {
        let subscribers = ProgressTable::default();
        let place = subscribers.join(PeerAddress::Unix);
        place.reached(EventId::from_row(3));
        let find = |millis| {
            let slow_after = Duration::from_millis(millis);
            let slow = subscribers.find_slow(EventId::from_row(10), slow_after);
            slow.iter()
                .map(|slow| (slow.cursor.as_i64(), slow.lag_events))
                .collect::<Vec<_>>()
        };
        assert_eq!(find(60_000), []);
        assert_eq!(find(0), [(3, 7)]);
        assert_eq!(find(0), []);
        place.rest();
        place.work();
        assert_eq!(find(60_000), []);
        assert_eq!(find(0), [(3, 7)]);
    }
}
