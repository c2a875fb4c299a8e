//! Ids, times and verdicts on keys: what turns events as they were published into events of the log. Pure.

use std::{collections::HashMap, sync::Arc};

use crate::event::{Event, EventId, Key, NewEvent, Timestamp, Topic};

/// An event that a publisher gave, where it now stands.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The event in the log.
    pub event: Arc<Event>,
    /// Whether its key was there before, so that nothing was added.
    pub duplicate: bool,
}

/// A key that stands in the log with another type or other data.
#[derive(Debug, Clone, thiserror::Error)]
#[error("key '{}' was used on topic '{}' for another event, {id}", key.as_str(), topic.as_str())]
pub struct KeyConflict {
    /// The topic that both events have.
    pub topic: Topic,
    /// The key that both events have.
    pub key: Key,
    /// The event that has it.
    pub id: EventId,
}

/// The events that were published together, or why none of them was stored.
pub type Outcome = Result<Vec<Stored>, KeyConflict>;

/// Events by their key, which is unique on a topic.
pub(super) type KeyedEvents = HashMap<(Topic, Key), Arc<Event>>;

/// The end of the log: what comes next has a higher id, and a time that is not earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) last_id: EventId,
    pub(super) last_created_at: Timestamp,
}

impl End {
    /// The end of a log whose newest event is `last`.
    pub(super) fn of(last: &Event) -> Self {
        Self {
            last_id: last.id,
            last_created_at: last.created_at,
        }
    }
}

/// Events that will be inserted together.
#[derive(Debug)]
pub(super) struct Draft {
    end: End,
    /// The events to insert, in id order.
    fresh: Vec<Arc<Event>>,
    /// The events whose keys may come up: those that the log has, and the fresh ones.
    keyed: KeyedEvents,
}

impl Draft {
    /// `keyed` has to hold every stored event whose key will be [taken](Self::take).
    pub(super) fn new(end: End, keyed: KeyedEvents) -> Self {
        Self {
            end,
            fresh: Vec::new(),
            keyed,
        }
    }

    /// Adds events that belong together and were put in order at `now`, all of them or none.
    pub(super) fn take(&mut self, events: Vec<NewEvent>, now: Timestamp) -> Outcome {
        let (end, fresh_events) = (self.end, self.fresh.len());
        self.end.last_created_at = end.last_created_at.max(now);
        let mut stored = Vec::with_capacity(events.len());
        for event in events {
            match self.take_one(event) {
                Ok(event) => stored.push(event),
                Err(conflict) => {
                    self.end = end;
                    for undone in self.fresh.drain(fresh_events..) {
                        if let Some(key) = &undone.key {
                            self.keyed.remove(&(undone.topic.clone(), key.clone()));
                        }
                    }
                    return Err(conflict);
                }
            }
        }
        Ok(stored)
    }

    fn take_one(&mut self, new: NewEvent) -> Result<Stored, KeyConflict> {
        let NewEvent {
            topic,
            event_type,
            data,
            key,
        } = new;
        let known = key
            .as_ref()
            .and_then(|key| self.keyed.get(&(topic.clone(), key.clone())));
        if let (Some(key), Some(event)) = (&key, known) {
            if event.event_type != event_type || !event.data.is_same_as(&data) {
                return Err(KeyConflict {
                    topic,
                    key: key.clone(),
                    id: event.id,
                });
            }
            return Ok(Stored {
                event: event.clone(),
                duplicate: true,
            });
        }
        self.end.last_id = self.end.last_id.next();
        let event = Arc::new(Event {
            id: self.end.last_id,
            topic,
            event_type,
            data,
            created_at: self.end.last_created_at,
            key,
        });
        if let Some(key) = &event.key {
            self.keyed
                .insert((event.topic.clone(), key.clone()), event.clone());
        }
        self.fresh.push(event.clone());
        Ok(Stored {
            event,
            duplicate: false,
        })
    }

    /// The events to insert, in id order, each with the id and the time it was given.
    pub(super) fn into_fresh(self) -> Vec<Arc<Event>> {
        self.fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Data, EventType};

    fn keyed(key: &str, data: &str) -> NewEvent {
        NewEvent {
            topic: Topic::new("t").unwrap(),
            event_type: EventType::default(),
            data: Data::from_text(data).unwrap(),
            key: Some(Key::new(key).unwrap()),
        }
    }

    fn empty() -> Draft {
        let end = End {
            last_id: EventId::ZERO,
            last_created_at: Timestamp::from_millis(0),
        };
        Draft::new(end, KeyedEvents::new())
    }

    /// Two publishers in one commit: what the refused list named is free for the other, and so are its ids.
    #[test]
    fn a_list_that_is_refused_leaves_nothing_in_its_transaction() {
        let now = Timestamp::from_millis(1);
        let mut draft = empty();
        draft.take(vec![keyed("known", "a")], now).unwrap();
        let later = Timestamp::from_millis(9);
        let refused = draft.take(vec![keyed("new", "b"), keyed("known", "other")], later);
        assert_eq!(refused.unwrap_err().id, EventId::ZERO.next());
        let stored = draft.take(vec![keyed("new", "b")], now).unwrap();
        assert!(!stored[0].duplicate);
        let placed = |event: &Arc<Event>| (event.id.as_i64(), event.created_at.as_millis());
        let fresh: Vec<_> = draft.into_fresh().iter().map(placed).collect();
        assert_eq!(fresh, [(1, 1), (2, 1)]);
    }

    #[test]
    fn each_list_has_a_time_of_its_own_and_times_never_go_backwards() {
        let mut draft = empty();
        for (key, now) in [("a", 5), ("b", 7), ("c", 6)] {
            let now = Timestamp::from_millis(now);
            draft.take(vec![keyed(key, "x")], now).unwrap();
        }
        let fresh = draft.into_fresh();
        let times: Vec<_> = fresh.iter().map(|e| e.created_at.as_millis()).collect();
        assert_eq!(times, [5, 7, 7]);
    }
}
