//! What has been committed and handed out: the position, the newest events, the feeds and the newest trims.
//!
//! The writer announces; subscriptions join a feed, read the newest events, and ask how far the log goes.

use std::sync::Arc;

use super::{
    feeds::{Announced, Feeds},
    position::Position,
    recent::Recent,
    trim_marks::TrimMarks,
};
use crate::event::Event;

#[derive(Debug)]
pub(super) struct Announcements {
    pub(super) position: Position,
    pub(super) recent: Recent,
    pub(super) feeds: Feeds,
    pub(super) trim_marks: TrimMarks,
}

impl Announcements {
    /// Hands committed events to everybody who wants them. Only the writer calls this, in id order.
    pub(super) fn announce(&self, events: &[Arc<Event>]) -> Announced {
        let Some(last) = events.last() else {
            return Announced::default();
        };
        assert!(
            events[0].id > self.position.announced(),
            "announced in id order"
        );
        // In this order: whoever sees the new position finds the events, and whoever is sent an event sees the new position.
        self.recent.push(events);
        self.position.set_committed(last.id, events.len());
        let announced = self.feeds.announce(events);
        self.position.set_announced(last.id);
        announced
    }
}
