//! Long scans let others work: each yields to the runtime, and those with a costly filter wait for each other.
//!
//! On two processors one runtime thread serves everything, so what one scan takes all others wait for. A scan that yields
//! every few milliseconds is not noticed; a hundred of them that yield in turn would be. So of those that are costly only one
//! runs at a time, and it gives its turn away after a while.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::filter::Filter;

/// Time that a scan holds its runtime thread at the most.
///
/// Source: the contract, which allows 10 ms between two yields; half of it leaves room for the event that is being looked at.
const HOLD_MAX: Duration = Duration::from_millis(5);

/// Time after which a scan should end with what it has found so far.
const TURN_MAX: Duration = Duration::from_millis(50);

/// All scans of a log. Clones are one.
#[derive(Debug, Clone)]
pub struct Scans(Arc<Semaphore>);

/// One scan.
#[derive(Debug)]
pub struct Scan {
    begun: Instant,
    resumed: Instant,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Default for Scans {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Scans {
    /// Begins a scan with `filter`; waits for its turn if that is costly. What else it needs, such as a connection to the
    /// file, is to be taken after this.
    pub async fn begin(&self, filter: &Filter) -> Scan {
        let turn = match filter.is_costly() {
            true => {
                let turn = self.0.clone().acquire_owned().await;
                Some(turn.expect("nobody closes it"))
            }
            false => None,
        };
        let now = Instant::now();
        Scan {
            begun: now,
            resumed: now,
            _turn: turn,
        }
    }
}

impl Scan {
    /// Lets others work if it is time to. To be called after each event that was looked at.
    pub async fn pause(&mut self) {
        if self.resumed.elapsed() >= HOLD_MAX {
            tokio::task::yield_now().await;
            self.resumed = Instant::now();
        }
    }

    /// Whether the scan should end with what it has found so far, and go on as another one.
    pub fn is_over(&self) -> bool {
        self._turn.is_some() && self.begun.elapsed() >= TURN_MAX
    }
}
