//! How long a command waits for the publications that will be in it.
//!
//! Publishers that were answered together come again together, but not at the same instant. A command that went with the first of
//! them alone would let the others wait a whole round to the servers: every second command would be nearly empty.

use std::{future::pending, time::Duration};

use tokio::time::{Instant, sleep_until};

/// Longest wait. The runtime counts in milliseconds, so that it may be one more.
const LONGEST: Duration = Duration::from_millis(1);

/// What is waited for before the next command.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    publications: usize,
    until: Option<Instant>,
}

impl Gathering {
    /// So many publications were answered together, with a command that took so long. Nothing is waited for where that is less than
    /// the wait.
    pub(super) fn answered(&mut self, publications: usize, took: Duration) {
        let is_worth_it = publications > 1 && took > LONGEST;
        self.publications = publications;
        self.until = is_worth_it.then(|| Instant::now() + LONGEST);
    }

    /// Whether a command may go with these.
    pub(super) fn is_done(&self, publications: usize) -> bool {
        publications >= self.publications || self.until.is_none_or(|until| until <= Instant::now())
    }

    /// Waits until it may go with what there is.
    pub(super) async fn ended(&self) {
        match self.until {
            Some(until) => sleep_until(until).await,
            None => pending().await,
        }
    }
}
