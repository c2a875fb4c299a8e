//! What is asked for beside publishing, and where whoever asked waits.
//!
//! A [`Change`] belongs to the order of events: whoever reads the log can tell whether it was before or after an event. A
//! [`Chore`] is the business of this file alone, and no reader sees a difference. Each is small, because a publisher may have
//! to wait for it.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{
    command::{Act, Applied},
    queue::{PublishError, Reply},
};
use crate::{db, event::Event};

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
pub(super) struct Change {
    pub(super) act: Act,
    pub(super) waiting: Waiting,
}

/// Who waits for what comes of a command.
#[derive(Debug)]
pub(super) enum Waiting {
    /// For the lists of [`Act::Publish`], one by one.
    Publishers(Vec<Reply>),
    TrimStep(WorkReply<Option<u64>>),
    MarkTrimmed(WorkReply<()>),
    Erase(WorkReply<Option<Arc<Event>>>),
    TellErased(WorkReply<Arc<Event>>),
}

impl Waiting {
    /// Tells them. Who has gone needs no answer.
    pub(super) fn answer(self, applied: Result<Applied, Arc<db::Error>>) {
        let applied = match applied {
            Ok(applied) => applied,
            Err(error) => return self.refuse(&error),
        };
        match (self, applied) {
            (Self::Publishers(replies), Applied::Published(outcomes)) => {
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    reply.send(outcome.map_err(PublishError::from));
                }
            }
            (Self::TrimStep(reply), Applied::Trimmed(events)) => _ = reply.send(Ok(events)),
            (Self::MarkTrimmed(reply), Applied::MarkedTrimmed) => _ = reply.send(Ok(())),
            (Self::Erase(reply), Applied::Erased(event)) => _ = reply.send(Ok(event)),
            (Self::TellErased(reply), Applied::ToldErased(notice)) => _ = reply.send(Ok(notice)),
            (waiting, applied) => unreachable!("{waiting:?} does not wait for {applied:?}"),
        }
    }

    fn refuse(self, error: &Arc<db::Error>) {
        let error = || error.clone();
        match self {
            Self::Publishers(replies) => {
                for reply in replies {
                    reply.send(Err(PublishError::Log(error())));
                }
            }
            Self::TrimStep(reply) => _ = reply.send(Err(error())),
            Self::MarkTrimmed(reply) => _ = reply.send(Err(error())),
            Self::Erase(reply) => _ = reply.send(Err(error())),
            Self::TellErased(reply) => _ = reply.send(Err(error())),
        }
    }
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

/// Why a piece of work was not done.
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

    /// Has `act` done between two commits, and waits for what comes of it.
    pub(super) async fn change<T>(
        &self,
        act: Act,
        waiting: impl FnOnce(WorkReply<T>) -> Waiting,
    ) -> Result<T, WorkError> {
        self.ask(|reply| {
            Work::Change(Change {
                act,
                waiting: waiting(reply),
            })
        })
        .await
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
