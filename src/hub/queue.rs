//! The bounded queue of what publishers wait for.

use std::sync::Arc;

use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    mpsc::{self, error::TrySendError},
    oneshot,
};

use super::origin::Origin;
use crate::{
    db::{self, KeyConflict, Stored},
    event::NewEvent,
};

/// How much may wait for the writer. What is more is refused as busy.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Publications. At 50,000 events a second, each in its own, 8,192 are a wait of about a sixth of a second.
    pub publications: usize,
    /// Bytes of their events, at most [`QUEUE_MAX_BYTES`]. Four batches of the largest size fit into 64 MiB.
    pub bytes: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            publications: 8192,
            bytes: 64 * 1024 * 1024,
        }
    }
}

/// Largest [`QueueLimits::bytes`]. Source: a semaphore counts them, and takes 32 bits at once.
pub const QUEUE_MAX_BYTES: usize = 4 * 1024 * 1024 * 1024 - 1;

/// What waits for the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Publications, each one or more events.
    pub publications: usize,
    /// Bytes of their events.
    pub bytes: usize,
}

/// Why events were not taken. None of them is stored then.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// The queue is full. Later there may be room.
    #[error("the publish queue is full: {} requests, or {} bytes of events", .0.publications, .0.bytes)]
    Busy(QueueLimits),
    /// The hub takes no more events.
    #[error("the hub is draining")]
    Draining,
    /// A key stands for another event.
    #[error(transparent)]
    KeyConflict(#[from] KeyConflict),
    /// The commit failed.
    #[error("the events could not be committed")]
    Log(#[source] Arc<db::Error>),
    /// The cluster puts nothing in order.
    #[error("the cluster takes no events: {0}")]
    Unordered(Arc<str>),
    /// The cluster may have put them in order: they are stored then, or will be.
    #[error("the cluster did not say whether the events are stored")]
    OutcomeUnknown,
    /// They cannot be put in order together: more bytes than the servers of the cluster take.
    #[error("together the events are more than the {0} bytes that NATS takes")]
    TooLarge(usize),
}

/// What the writer takes from the queue.
#[derive(Debug)]
pub(super) enum Publication {
    /// Events to commit.
    Events(NewEvents),
    /// To be answered after the commit that it came with.
    Ping(oneshot::Sender<()>),
}

/// Events that wait for the writer, and where their publisher waits.
#[derive(Debug)]
pub(super) struct NewEvents {
    pub(super) events: Vec<NewEvent>,
    pub(super) origin: Origin,
    pub(super) reply: Reply,
    bytes: usize,
}

impl Publication {
    /// Bytes of its events.
    pub(super) fn size_bytes(&self) -> usize {
        match self {
            Self::Events(new) => new.bytes,
            Self::Ping(_) => 0,
        }
    }
}

/// Where a publisher waits, and its share of the queue's bytes.
#[derive(Debug)]
pub(super) struct Reply {
    sender: oneshot::Sender<Result<Vec<Stored>, PublishError>>,
    _room: OwnedSemaphorePermit,
}

impl Reply {
    /// A publisher that went away has lost its answer, not its events.
    pub(super) fn send(self, stored: Result<Vec<Stored>, PublishError>) {
        _ = self.sender.send(stored);
    }
}

/// The publishers' end of the queue.
#[derive(Debug)]
pub(super) struct Queue {
    limits: QueueLimits,
    publications: mpsc::Sender<Publication>,
    room: Arc<Semaphore>,
}

impl Queue {
    pub(super) fn new(limits: QueueLimits) -> (Self, mpsc::Receiver<Publication>) {
        let (publications, waiting) = mpsc::channel(limits.publications);
        let room = Arc::new(Semaphore::new(limits.bytes));
        let queue = Self {
            limits,
            publications,
            room,
        };
        (queue, waiting)
    }

    /// Waits for the commit of `events`, all of them or none.
    ///
    /// When the future is dropped the events are stored and announced all the same, if they were taken at all.
    pub(super) async fn publish(
        &self,
        events: Vec<NewEvent>,
        origin: Origin,
    ) -> Result<Vec<Stored>, PublishError> {
        let bytes: usize = events.iter().map(NewEvent::size_bytes).sum();
        let busy = || PublishError::Busy(self.limits);
        // What is larger than the queue takes all of it, when it is empty: it could never be taken otherwise.
        let room_bytes = u32::try_from(bytes.min(self.limits.bytes)).map_err(|_| busy())?;
        let room = self.room.clone().try_acquire_many_owned(room_bytes);
        let (sender, stored) = oneshot::channel();
        let reply = Reply {
            sender,
            _room: room.map_err(|_| busy())?,
        };
        self.put(Publication::Events(NewEvents {
            events,
            origin,
            reply,
            bytes,
        }))?;
        // The writer answers every publication it took; it is gone without an answer only when it panicked.
        stored.await.unwrap_or(Err(PublishError::Draining))
    }

    /// Waits until the writer has come to it: what was in the queue before is committed then, or waits as a large batch for its turn.
    pub(super) async fn ping(&self) -> Result<(), PublishError> {
        let (reply, answered) = oneshot::channel();
        self.put(Publication::Ping(reply))?;
        answered.await.map_err(|_| PublishError::Draining)
    }

    pub(super) fn waiting(&self) -> Waiting {
        Waiting {
            publications: self.publications.max_capacity() - self.publications.capacity(),
            bytes: self.limits.bytes - self.room.available_permits(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.publications.capacity() == 0
    }

    fn put(&self, publication: Publication) -> Result<(), PublishError> {
        self.publications
            .try_send(publication)
            .map_err(|error| match error {
                TrySendError::Full(_) => PublishError::Busy(self.limits),
                TrySendError::Closed(_) => PublishError::Draining,
            })
    }
}
