//! A transaction that is being put together: which id and time each event gets, and what its key says of it. Pure.

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

/// The events that were given together, or why none of them was taken.
pub type Outcome = Result<Vec<Stored>, KeyConflict>;

pub(super) type KeyedEvents = HashMap<(Topic, Key), Arc<Event>>;

/// A transaction that is being put together.
pub(super) struct Draft {
    pub(super) last_id: EventId,
    pub(super) created_at: Timestamp,
    /// The events to insert, in id order.
    pub(super) fresh: Vec<Arc<Event>>,
    /// The events that have a key which this transaction names, stored ones and fresh ones.
    pub(super) keyed: KeyedEvents,
}

impl Draft {
    /// Adds a list of events that belong together, or none of them.
    pub(super) fn take(&mut self, events: Vec<NewEvent>) -> Outcome {
        let (last_id, fresh_events) = (self.last_id, self.fresh.len());
        let mut stored = Vec::with_capacity(events.len());
        for event in events {
            match self.take_one(event) {
                Ok(event) => stored.push(event),
                Err(conflict) => {
                    self.last_id = last_id;
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
            if event.event_type != event_type || event.data != data {
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
        self.last_id = self.last_id.next();
        let event = Event {
            id: self.last_id,
            topic,
            event_type,
            data,
            created_at: self.created_at,
            key,
        };
        let event = Arc::new(event);
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

    /// Two publishers in one commit: what the refused list named is free for the other, and so are its ids.
    #[test]
    fn a_list_that_is_refused_leaves_nothing_in_its_transaction() {
        let mut draft = Draft {
            last_id: EventId::ZERO,
            created_at: Timestamp::from_millis(0),
            fresh: Vec::new(),
            keyed: KeyedEvents::new(),
        };
        draft.take(vec![keyed("known", "a")]).unwrap();
        let refused = draft.take(vec![keyed("new", "b"), keyed("known", "other")]);
        assert_eq!(refused.unwrap_err().id, EventId::ZERO.next());
        let stored = draft.take(vec![keyed("new", "b")]).unwrap();
        assert!(!stored[0].duplicate);
        let ids: Vec<i64> = draft.fresh.iter().map(|event| event.id.as_i64()).collect();
        assert_eq!(ids, [1, 2]);
    }
}
