//! A ping through the queue and the writer, to see that they work.
//!
//! It stores nothing and costs no look at the disk, so that an idle hub lets the disk sleep. That commits work is told by the
//! commits, and after one that failed by a [probe](super::Hub::ready).

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
    time::{Duration, Instant},
};

use super::queue::{PublishError, Queue};
use crate::metrics::Metrics;

/// Intervals without an answer after which the canary is late.
const LATE_INTERVALS: u32 = 3;

/// Intervals without an answer after which the hub is considered stuck.
const STUCK_INTERVALS: u32 = 12;

/// Why a canary was not answered.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// No answer in time.
    #[error("the writer did not answer within {0:?}")]
    Late(Duration),
    /// The writer could not be asked.
    #[error("the writer could not be asked")]
    Unasked(#[source] PublishError),
}

/// When the canary was last answered.
#[derive(Debug)]
pub(super) struct Canary {
    every: Duration,
    opened: Instant,
    /// Milliseconds from the opening to the last answer.
    answered_ms: AtomicU64,
    /// How long that answer took.
    took_us: AtomicU64,
}

impl Canary {
    /// A canary that is sent `every` so often; its age counts from `opened`.
    pub(super) fn new(every: Duration, opened: Instant) -> Self {
        Self {
            every,
            opened,
            answered_ms: AtomicU64::new(0),
            took_us: AtomicU64::new(0),
        }
    }

    /// Time since the last answer, or since the hub was opened.
    pub(super) fn age(&self) -> Duration {
        let answered = Duration::from_millis(self.answered_ms.load(Acquire));
        self.opened.elapsed().saturating_sub(answered)
    }

    /// How long the last answer took.
    pub(super) fn took(&self) -> Duration {
        Duration::from_micros(self.took_us.load(Acquire))
    }

    /// The age from which on it is late.
    pub(super) fn late_after(&self) -> Duration {
        self.every * LATE_INTERVALS
    }

    /// Whether the last answer is so old that only a restart will help.
    pub(super) fn is_stuck(&self) -> bool {
        self.age() > self.every * STUCK_INTERVALS
    }

    /// Asks the writer and waits for its answer.
    pub(super) async fn send(&self, queue: &Queue, metrics: &Metrics) -> Result<(), CanaryError> {
        let sent = Instant::now();
        let answered = tokio::time::timeout(self.late_after(), queue.ping()).await;
        let answered = match answered {
            Ok(answered) => answered.map_err(CanaryError::Unasked),
            Err(_) => Err(CanaryError::Late(self.late_after())),
        };
        match &answered {
            Ok(()) => {
                let took = sent.elapsed();
                self.note(took);
                metrics.canary_seconds.observe(took.as_secs_f64());
            }
            Err(_) => _ = metrics.canary_failures.inc(),
        }
        answered
    }

    fn note(&self, took: Duration) {
        let millis = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.took_us.store(micros, Release);
        self.answered_ms.store(millis, Release);
    }
}
