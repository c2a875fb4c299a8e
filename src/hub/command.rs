//! What the log does next, and what came of it.
//!
//! A command holds all that it does: what comes of it depends on the file and on the command alone, not on who asked, when, or
//! with which others it was committed. So whoever applies the same commands to equal files, in one order, has equal files.

use std::sync::Arc;

#[cfg(feature = "cluster")]
use super::cluster::Beat;
use crate::{
    db::{Outcome, Trim},
    event::{Event, EventId, NewEvent, Timestamp, Topic},
};

/// One command.
#[derive(Debug, Clone)]
pub(super) struct Command {
    /// When it was put in order: the time of the events that it appends, unless an earlier one has a later time.
    pub(super) at: Timestamp,
    pub(super) act: Act,
}

/// What is to be done. Each is small, because a publisher may have to wait for it.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Append what was published: each list whole or not at all.
    Publish(Vec<Vec<NewEvent>>),
    /// Delete the first few of these events.
    TrimStep(Trim),
    /// Note that events of a topic will be gone.
    MarkTrimmed { topic: Topic, through: EventId },
    /// Erase an event, and append one that tells of it.
    Erase(EventId),
    /// Append an event that tells that a topic was erased.
    TellErased {
        topic: Topic,
        through: EventId,
        events: u64,
    },
    /// Tell the others that this hub is there, and how far it is.
    #[cfg(feature = "cluster")]
    Beat(Beat),
}

/// What came of a command.
#[derive(Debug)]
pub(super) enum Applied {
    /// For each list what stands in the log, or why it was refused.
    Published(Vec<Outcome>),
    /// How many events were deleted; `None` if there were none left.
    Trimmed(Option<u64>),
    MarkedTrimmed,
    /// What is left of the event; `None` if there is no such event.
    Erased(Option<Arc<Event>>),
    /// The event that tells of it.
    ToldErased(Arc<Event>),
    #[cfg(feature = "cluster")]
    Beat,
}

impl Command {
    /// A command that is put in order now.
    pub(super) fn now(act: Act) -> Self {
        Self {
            at: Timestamp::now(),
            act,
        }
    }
}
