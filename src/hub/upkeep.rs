//! What the writer does for its own file alone, beside the order of events: whether commits work, and what the file takes on
//! the disk. No reader of the log sees a difference.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    time::Duration,
};

use super::{position::Position, work::Chore};
use crate::{
    db::{self, Appender, EventLog},
    event::EventId,
};

/// How often the highest id is noted beside the file, if it has changed.
const NOTE_HIGHEST_EVERY: Duration = Duration::from_secs(1);

/// Whether the WAL holds what should be gone from the disk. Clones are one.
#[derive(Debug, Clone)]
pub(super) struct StaleWal(Arc<AtomicBool>);

impl StaleWal {
    /// Stale, because a hub that was killed may have left something.
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    pub(super) fn is_stale(&self) -> bool {
        self.0.load(Acquire)
    }
}

/// The state of the file, as the writer knows it.
#[derive(Debug)]
pub(super) struct Upkeep {
    stale_wal: StaleWal,
    /// Why the last commit failed, if it did.
    failure: Option<Arc<db::Error>>,
    /// Whether any commit worked since the file was opened. A file on a full disk opens as well as any other.
    has_worked: bool,
}

impl Upkeep {
    pub(super) fn new(stale_wal: StaleWal) -> Self {
        Self {
            stale_wal,
            failure: None,
            has_worked: false,
        }
    }

    /// The WAL holds what should be gone from the disk.
    pub(super) fn wal_is_stale(&self) {
        self.stale_wal.0.store(true, Release);
    }

    pub(super) fn commit_worked(&mut self) {
        self.has_worked = true;
        if self.failure.take().is_some() {
            tracing::info!("commits work again");
        }
    }

    /// Logs the first of consecutive failures: a full disk would else fill the log files as well.
    pub(super) fn commit_failed(&mut self, error: db::Error) -> Arc<db::Error> {
        if self.failure.is_none() {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a commit failed; its events were refused"
            );
        }
        let error = Arc::new(error);
        self.failure = Some(error.clone());
        error
    }

    pub(super) async fn run(&mut self, chore: Chore, appender: &mut Appender) {
        // Who asked and has gone needs no reply.
        match chore {
            Chore::Probe(reply) => _ = reply.send(self.probe(appender).await),
            Chore::ForgetMarks(reply) => {
                _ = reply.send(appender.forget_marks().await.map_err(Arc::new));
            }
            Chore::Shrink(reply) => {
                self.wal_is_stale();
                _ = reply.send(appender.shrink().await.map_err(Arc::new));
            }
            Chore::CleanWal(reply) => {
                _ = reply.send(self.clean_wal(appender).await.map_err(Arc::new));
            }
        }
    }

    async fn clean_wal(&self, appender: &mut Appender) -> Result<(), db::Error> {
        if appender.clean_wal().await? {
            self.stale_wal.0.store(false, Release);
        }
        Ok(())
    }

    /// Checks that commits go into the right file, and after a start or a failure that they work, so that no publisher has to find
    /// out.
    async fn probe(&mut self, appender: &mut Appender) -> Result<(), Arc<db::Error>> {
        let probed = match (self.has_worked, &self.failure) {
            (true, None) => appender.look_in_place().await,
            (false, _) | (true, Some(_)) => appender.probe().await,
        };
        match probed {
            Ok(()) => {
                self.commit_worked();
                Ok(())
            }
            Err(error) => Err(self.commit_failed(error)),
        }
    }
}

/// Notes the highest id beside the file, once a second, for ever.
pub(super) async fn note_highest(log: &EventLog, position: &Position) {
    let mut noted = EventId::ZERO;
    let mut failing = false;
    loop {
        let last_id = position.committed();
        if last_id != noted {
            match log.note_highest(last_id).await {
                Ok(()) => (noted, failing) = (last_id, false),
                Err(error) => {
                    // The first of consecutive failures: a full disk would else fill the log files as well.
                    if !failing {
                        tracing::error!(%error, "the highest id cannot be noted beside the file");
                    }
                    failing = true;
                }
            }
        }
        tokio::time::sleep(NOTE_HIGHEST_EVERY).await;
    }
}
