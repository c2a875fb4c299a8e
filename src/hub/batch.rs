//! Events that travel together.

use std::{
    any::Any,
    sync::{Arc, OnceLock},
};

use crate::event::{Event, EventId};

/// Events that the subscriptions of one feed get together: of one commit, or of one page. Never empty, in id order.
#[derive(Debug)]
pub struct Batch {
    events: Box<[Arc<Event>]>,
    attached: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Batch {
    pub(super) fn new(events: Vec<Arc<Event>>) -> Arc<Self> {
        assert!(!events.is_empty(), "a batch has an event");
        Arc::new(Self {
            events: events.into(),
            attached: OnceLock::new(),
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

    /// What readers keep beside the batch, such as its bytes in each of their formats: empty at first, and shared by all who
    /// have the batch.
    ///
    /// The hub does not look into it. Everybody asks for the same `T`.
    pub fn attached<T: Any + Send + Sync + Default>(&self) -> &T {
        let attached = self.attached.get_or_init(|| Box::new(T::default()));
        attached
            .downcast_ref()
            .expect("everybody attaches the same type")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Data, EventType, Timestamp, Topic};

    #[test]
    fn what_is_attached_is_shared_by_all_who_have_the_batch() {
        let event = Event {
            id: EventId::ZERO.next(),
            topic: Topic::from_row("a"),
            event_type: EventType::default(),
            data: Data::from_text("x").unwrap(),
            created_at: Timestamp::from_millis(0),
            key: None,
        };
        let batch = Batch::new(vec![event.into()]);
        let made = batch
            .attached::<OnceLock<String>>()
            .get_or_init(|| "bytes".into());
        let found = batch.clone();
        assert_eq!(found.attached::<OnceLock<String>>().get(), Some(made));
    }
}
