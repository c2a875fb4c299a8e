//! What the writer is asked to do beside publishing.
//!
//! A [`Change`] belongs to the order of events: whoever reads the log can tell whether it was before or after an event. A
//! [`Chore`] is the business of this file alone, and no reader sees a difference. Each is small, because a publisher may have
//! to wait for it.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::{
    db::{self, Trim},
    event::{Event, EventId, Topic},
};

/// Where somebody waits for the end of a piece of work.
pub(super) type WorkReply<T> = oneshot::Sender<Result<T, Arc<db::Error>>>;

/// One piece of work.
#[derive(Debug)]
pub(super) enum Work {
    Change(Change),
    Chore(Chore),
}

/// Work that belongs to the order of events.
#[derive(Debug)]
pub(super) enum Change {
    /// Delete the first few of these events and reply how many; `None` if there are none left.
    Trim {
        trim: Trim,
        reply: WorkReply<Option<u64>>,
    },
    /// Note that events of a topic will be gone.
    MarkTrimmed {
        topic: Topic,
        through: EventId,
        reply: WorkReply<()>,
    },
    /// Erase an event and announce it. The reply is what is left of the event; `None` if there is no such event.
    Erase {
        id: EventId,
        reply: WorkReply<Option<Arc<Event>>>,
    },
    /// Append and announce an event that tells that a topic was erased.
    TellErased {
        topic: Topic,
        through: EventId,
        events: u64,
        reply: WorkReply<Arc<Event>>,
    },
}

/// Work on this file alone.
#[derive(Debug)]
pub(super) enum Chore {
    /// Find out whether commits work.
    Probe(WorkReply<()>),
    /// Drop the marks of trimmed topics that the first id tells as well.
    ForgetMarks(WorkReply<()>),
    /// Give free pages back to the system.
    Shrink(WorkReply<()>),
    /// Empty the WAL into the file, if no reader is in the way.
    CleanWal(WorkReply<()>),
}

/// Why the writer did not do a piece of work.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The hub stops.
    #[error("the hub is draining")]
    Draining,
    /// The file refused.
    #[error("the file of the event log could not be changed")]
    Log(#[source] Arc<db::Error>),
}

impl From<db::Error> for WorkError {
    fn from(error: db::Error) -> Self {
        Self::Log(error.into())
    }
}

/// Where work for the writer is handed in: one piece at a time, in the order in which it was asked for.
#[derive(Debug)]
pub(super) struct WorkQueue(mpsc::Sender<Work>);

impl WorkQueue {
    pub(super) fn new() -> (Self, mpsc::Receiver<Work>) {
        let (sender, waiting) = mpsc::channel(1);
        (Self(sender), waiting)
    }

    /// Has the writer make a change between two commits, and waits for it.
    pub(super) async fn change<T>(
        &self,
        change: impl FnOnce(WorkReply<T>) -> Change,
    ) -> Result<T, WorkError> {
        self.ask(|reply| Work::Change(change(reply))).await
    }

    /// Has the writer do a chore between two commits, and waits for it.
    pub(super) async fn chore<T>(
        &self,
        chore: impl FnOnce(WorkReply<T>) -> Chore,
    ) -> Result<T, WorkError> {
        self.ask(|reply| Work::Chore(chore(reply))).await
    }

    async fn ask<T>(&self, work: impl FnOnce(WorkReply<T>) -> Work) -> Result<T, WorkError> {
        let (reply, done) = oneshot::channel();
        if self.0.send(work(reply)).await.is_err() {
            return Err(WorkError::Draining);
        }
        let done = done.await.map_err(|_| WorkError::Draining)?;
        done.map_err(WorkError::Log)
    }
}
