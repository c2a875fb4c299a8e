//! Puts on the disk what a hub is about to tell that it has: commits of a hub of a cluster are not synced, the order is.

use std::{future::pending, io};

use futures_util::future::{BoxFuture, FutureExt};

use super::super::{applier::Applier, cluster::Synced};

/// At most one sync runs.
#[derive(Default)]
pub(super) struct Syncing {
    running: Option<BoxFuture<'static, io::Result<Synced>>>,
}

impl Syncing {
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Begins to sync what is applied by now.
    pub(super) fn begin(&mut self, applier: &Applier) {
        let synced = Synced {
            reached: applier.reached().clone(),
            last_id: applier.last_id(),
        };
        let syncing = applier.sync();
        let running = async move { syncing.await.map(|()| synced) };
        self.running = Some(running.boxed());
    }

    /// Waits for the end of it: what the disk has.
    pub(super) async fn ended(&mut self) -> io::Result<Synced> {
        let Some(running) = &mut self.running else {
            return pending().await;
        };
        let synced = running.await;
        self.running = None;
        synced
    }
}
