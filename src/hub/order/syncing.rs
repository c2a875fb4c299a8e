//! Puts on the disk what a hub is about to tell that it has: commits of a hub of a cluster are not synced, the order is.

use std::{future::pending, io};

use futures_util::future::{BoxFuture, FutureExt};

use super::super::applier::Applier;
use crate::{db::Reached, event::EventId};

/// What was applied when a sync began, and what came of it.
pub(super) struct Synced {
    pub(super) reached: Reached,
    pub(super) last_id: EventId,
    pub(super) outcome: io::Result<()>,
}

/// At most one sync runs.
#[derive(Default)]
pub(super) struct Syncing {
    running: Option<BoxFuture<'static, Synced>>,
}

impl Syncing {
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Begins to sync what is applied by now.
    pub(super) fn begin(&mut self, applier: &Applier) {
        let (reached, last_id) = (applier.reached().clone(), applier.last_id());
        let syncing = applier.sync();
        let running = async move {
            Synced {
                reached,
                last_id,
                outcome: syncing.await,
            }
        };
        self.running = Some(running.boxed());
    }

    /// Waits for the end of it.
    pub(super) async fn ended(&mut self) -> Synced {
        let Some(running) = &mut self.running else {
            return pending().await;
        };
        let synced = running.await;
        self.running = None;
        synced
    }
}
