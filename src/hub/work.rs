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

/// Where somebody waits for what comes of a command.
pub(super) type WorkReply<T> = oneshot::Sender<Result<T, NotApplied>>;

/// Where somebody waits for the end of a chore.
pub(super) type ChoreReply = oneshot::Sender<Result<(), Arc<db::Error>>>;

/// Why a command was not applied.
#[derive(Debug, Clone)]
pub(super) enum NotApplied {
    /// The file refused.
    Log(Arc<db::Error>),
    /// It was not put in order, and is not in it.
    #[cfg(feature = "cluster")]
    Unordered(Arc<str>),
    /// It may be in the order, or come into it.
    #[cfg(feature = "cluster")]
    OutcomeUnknown,
    /// It cannot be put in order: more than this many bytes.
    #[cfg(feature = "cluster")]
    TooLarge(usize),
}

impl From<NotApplied> for PublishError {
    fn from(error: NotApplied) -> Self {
        match error {
            NotApplied::Log(error) => Self::Log(error),
            #[cfg(feature = "cluster")]
            NotApplied::Unordered(why) => Self::Unordered(why),
            #[cfg(feature = "cluster")]
            NotApplied::OutcomeUnknown => Self::OutcomeUnknown,
            #[cfg(feature = "cluster")]
            NotApplied::TooLarge(max_bytes) => Self::TooLarge(max_bytes),
        }
    }
}

impl From<NotApplied> for WorkError {
    fn from(error: NotApplied) -> Self {
        match error {
            NotApplied::Log(error) => Self::Log(error),
            #[cfg(feature = "cluster")]
            NotApplied::Unordered(why) => Self::Unordered(why),
            #[cfg(feature = "cluster")]
            NotApplied::OutcomeUnknown => Self::OutcomeUnknown,
            #[cfg(feature = "cluster")]
            NotApplied::TooLarge(_) => unreachable!("work is small"),
        }
    }
}

/// One piece of work.
#[derive(Debug)]
pub(super) enum Work {
    Change(Change),
    Chore(Chore),
    /// Apply all that is in order by now.
    #[cfg(feature = "cluster")]
    Barrier(WorkReply<()>),
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
    /// For a [beat](Act::Beat), each of them.
    #[cfg(feature = "cluster")]
    Barriers(Vec<WorkReply<()>>),
}

impl Waiting {
    /// Tells them. Who has gone needs no answer.
    pub(super) fn answer(self, applied: Result<Applied, NotApplied>) {
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
            #[cfg(feature = "cluster")]
            (Self::Barriers(replies), Applied::Beat) => {
                for reply in replies {
                    _ = reply.send(Ok(()));
                }
            }
            (waiting, applied) => unreachable!("{waiting:?} does not wait for {applied:?}"),
        }
    }

    fn refuse(self, error: &NotApplied) {
        let error = || error.clone();
        match self {
            Self::Publishers(replies) => {
                for reply in replies {
                    reply.send(Err(error().into()));
                }
            }
            Self::TrimStep(reply) => _ = reply.send(Err(error())),
            Self::MarkTrimmed(reply) => _ = reply.send(Err(error())),
            Self::Erase(reply) => _ = reply.send(Err(error())),
            Self::TellErased(reply) => _ = reply.send(Err(error())),
            #[cfg(feature = "cluster")]
            Self::Barriers(replies) => {
                for reply in replies {
                    _ = reply.send(Err(error()));
                }
            }
        }
    }
}

/// Work on this file alone.
#[derive(Debug)]
pub(super) enum Chore {
    /// Find out whether commits work.
    Probe(ChoreReply),
    /// Drop the marks of trimmed topics that the first id tells as well.
    ForgetMarks(ChoreReply),
    /// Give free pages back to the system.
    Shrink(ChoreReply),
    /// Empty the WAL into the file, if no reader is in the way.
    CleanWal(ChoreReply),
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
    /// The cluster puts nothing in order. Nothing was done.
    #[error("the cluster takes no changes: {0}")]
    Unordered(Arc<str>),
    /// The cluster may have put it in order, and then it is done.
    #[error("the cluster did not say whether it was done")]
    OutcomeUnknown,
}

impl From<Arc<db::Error>> for WorkError {
    fn from(error: Arc<db::Error>) -> Self {
        Self::Log(error)
    }
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
    pub(super) async fn chore(
        &self,
        chore: impl FnOnce(ChoreReply) -> Chore,
    ) -> Result<(), WorkError> {
        self.ask(|reply| Work::Chore(chore(reply))).await
    }

    /// Waits until all that is in order by now is applied.
    #[cfg(feature = "cluster")]
    pub(super) async fn barrier(&self) -> Result<(), WorkError> {
        self.ask(Work::Barrier).await
    }

    async fn ask<T, E: Into<WorkError>>(
        &self,
        work: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Work,
    ) -> Result<T, WorkError> {
        let (reply, done) = oneshot::channel();
        if self.0.send(work(reply)).await.is_err() {
            return Err(WorkError::Draining);
        }
        let done = done.await.map_err(|_| WorkError::Draining)?;
        done.map_err(Into::into)
    }
}
