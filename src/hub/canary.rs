//! What the hub publishes to itself, to see that it works: through the queue, the writer and a feed to a subscription.
//!
//! It is not stored, and costs no look at the disk, so that an idle hub lets the disk sleep. Nobody but the hub can ask for
//! it. That commits work is told by the commits; after one that failed, by a [try](Hub::ready).

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
    time::{Duration, Instant},
};

use super::{Delivery, Hub, Start, SubscribeError, writer::Publication};
use crate::{
    db,
    event::{Data, Event, EventId, EventType, Timestamp, Topic},
    filter::Filter,
};

/// Intervals after which a canary that has not come back is late.
const LATE_INTERVALS: u32 = 3;

/// Intervals after which the hub is taken for stuck.
const STUCK_INTERVALS: u32 = 12;

/// Why the canary did not come back.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// Nothing came in time.
    #[error("nothing came back within {0:?}")]
    Late(Duration),
    /// So many wait for the writer that there was no room for it.
    #[error("the queue of the writer is full")]
    Busy,
    /// The hub stops.
    #[error("the hub is draining")]
    Draining,
    /// The subscription failed.
    #[error("it could not be listened for")]
    Log(#[from] db::Error),
}

impl From<SubscribeError> for CanaryError {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::Draining => Self::Draining,
            SubscribeError::Log(error) => Self::Log(error),
        }
    }
}

/// When the canary came back.
#[derive(Debug)]
pub(super) struct Canary {
    opened: Instant,
    /// Milliseconds from the opening to the last time.
    back_millis: AtomicU64,
    /// How long it took then.
    took_micros: AtomicU64,
}

impl Canary {
    pub(super) fn new(opened: Instant) -> Self {
        Self {
            opened,
            back_millis: AtomicU64::new(0),
            took_micros: AtomicU64::new(0),
        }
    }

    fn is_back(&self, took: Duration) {
        let millis = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.took_micros.store(micros, Release);
        self.back_millis.store(millis, Release);
    }

    /// How long ago it came back, or the hub was opened.
    pub(super) fn age(&self) -> Duration {
        let back = Duration::from_millis(self.back_millis.load(Acquire));
        self.opened.elapsed().saturating_sub(back)
    }

    /// How long it took the last time.
    pub(super) fn took(&self) -> Duration {
        Duration::from_micros(self.took_micros.load(Acquire))
    }
}

/// What is announced: it stands after all events, and is none of them.
pub(super) fn event() -> Arc<Event> {
    Arc::new(Event {
        id: EventId::MAX,
        topic: Topic::canary(),
        event_type: EventType::default(),
        data: Data::from_row("null".into()),
        created_at: Timestamp::now(),
        key: None,
    })
}

impl Hub {
    /// How long the canary may be away before it is late.
    pub(super) fn canary_late_after(&self) -> Duration {
        self.shared.settings.canary * LATE_INTERVALS
    }

    /// How long ago the canary came back.
    pub fn canary_age(&self) -> Duration {
        self.shared.canary.age()
    }

    /// Whether the hub does not work any more, and only a restart will help: the canary has been away for so long.
    pub fn is_stuck(&self) -> bool {
        let draining = self.shared.draining.is_cancelled();
        !draining && self.shared.canary.age() > self.shared.settings.canary * STUCK_INTERVALS
    }

    /// Publishes to itself and waits until it comes back.
    pub async fn send_canary(&self) -> Result<(), CanaryError> {
        let late_after = self.canary_late_after();
        let sent = Instant::now();
        let round = tokio::time::timeout(late_after, self.canary_round()).await;
        match round.unwrap_or(Err(CanaryError::Late(late_after))) {
            Ok(()) => {
                let took = sent.elapsed();
                self.shared.canary.is_back(took);
                self.metrics().canary_seconds.observe(took.as_secs_f64());
                Ok(())
            }
            Err(error) => {
                self.metrics().canary_failures.inc();
                Err(error)
            }
        }
    }

    async fn canary_round(&self) -> Result<(), CanaryError> {
        let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut subscription = self
            .subscribe(Filter::canary(), Start::Live, nobody)
            .await?;
        self.shared
            .publications
            .try_send(Publication::Canary)
            .map_err(|error| match error {
                tokio::sync::mpsc::error::TrySendError::Full(_) => CanaryError::Busy,
                tokio::sync::mpsc::error::TrySendError::Closed(_) => CanaryError::Draining,
            })?;
        loop {
            match subscription.next().await? {
                Some(Delivery::Events(_)) => return Ok(()),
                // Trimming has nothing to do with it.
                Some(Delivery::Gap(_)) => (),
                None => return Err(CanaryError::Draining),
            }
        }
    }
}
