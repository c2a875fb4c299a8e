//! Who puts commands in order. Here is the writer, the one task that does so; [`local`] is the order of a hub that is alone,
//! [`replicated`] that of a hub of a cluster.

#[cfg(feature = "cluster")]
mod beats;
#[cfg(feature = "cluster")]
mod comparison;
#[cfg(feature = "cluster")]
mod gathering;
mod local;
#[cfg(feature = "cluster")]
mod removal;
#[cfg(feature = "cluster")]
mod replicated;
#[cfg(feature = "cluster")]
mod syncing;
#[cfg(feature = "cluster")]
mod wire;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "cluster")]
pub use self::beats::{NewestBeat, find_beats};
#[cfg(feature = "cluster")]
pub(super) use self::replicated::Replicated;
use super::{applier::Applier, queue::Publication, work::Work};
use crate::db;

/// Publications that go into one commit at most. Commits grow with the load by themselves: this bounds the wait of the
/// first in a burst.
const COMMIT_MAX_PUBLICATIONS: usize = 1024;

/// The one that writes. [`run`](Self::run) it in a task, and wait for that task after [draining](super::Hub::drain).
///
/// Because one task puts in order, applies, announces and answers, announce order is commit order is id order, and a request
/// that is dropped half-way cannot separate a commit from its announcement.
#[derive(Debug)]
pub struct Writer {
    pub(super) intake: Intake,
    pub(super) applier: Applier,
    pub(super) order: Order,
}

/// Who puts commands in order.
#[derive(Debug)]
pub(super) enum Order {
    Local,
    #[cfg(feature = "cluster")]
    Replicated(Box<Replicated>),
}

/// Where what is asked for comes from.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) publications: mpsc::Receiver<Publication>,
    pub(super) work: mpsc::Receiver<Work>,
    pub(super) draining: CancellationToken,
}

impl Writer {
    /// Commits what comes until the hub drains, then what was taken by then, and ends the feeds. To be [closed](Self::close)
    /// when nobody reads any more.
    pub async fn run(mut self) -> Self {
        let (intake, applier) = (&mut self.intake, &mut self.applier);
        match &mut self.order {
            Order::Local => local::run(intake, applier).await,
            #[cfg(feature = "cluster")]
            Order::Replicated(order) => order.run(intake, applier).await,
        }
        // Who waits for a piece of work learns at once that it is not done.
        self.intake.work.close();
        while self.intake.work.try_recv().is_ok() {}
        self.applier.end_feeds();
        self
    }

    /// Ends all reading, empties the WAL into the file and lets go of it.
    pub async fn close(self) -> Result<(), db::Error> {
        self.applier.close().await
    }
}
