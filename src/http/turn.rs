//! The turn of a request among those whose answers its connection may hold at once.
//!
//! What waits for something that is not there yet, such as a body or the next event, holds no answer. So it lets others go first
//! meanwhile: some clients, proxies among them, send everything over one connection.

use std::sync::{Arc, Mutex};

use poem::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A request's turn. Cheap to clone; the clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    turns: Arc<Semaphore>,
    held: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Turn {
    /// Waits until one of `turns`, which are never closed, is free.
    pub(crate) async fn take(turns: Arc<Semaphore>) -> Self {
        let turn = Self {
            turns,
            held: Arc::default(),
        };
        turn.take_again().await;
        turn
    }

    async fn take_again(&self) {
        let turn = self.turns.clone().acquire_owned().await;
        *self.held.lock().expect("nobody panics while holding it") =
            Some(turn.expect("they are never closed"));
    }

    /// What holds it, to be dropped when the client has the answer.
    pub(crate) fn into_permit(self) -> Option<OwnedSemaphorePermit> {
        let mut held = self.held.lock().expect("nobody panics while holding it");
        held.take()
    }

    /// Waits for what `request` needs. Others have its turn until then, and then it waits for another.
    ///
    /// Does nothing more than wait where a connection has one request at a time. Dropping the future is safe.
    pub(super) async fn lend<T>(request: &Request, waiting: impl Future<Output = T>) -> T {
        let turn = request.data::<Self>();
        drop(turn.and_then(|turn| turn.clone().into_permit()));
        let ready = waiting.await;
        if let Some(turn) = turn {
            turn.take_again().await;
        }
        ready
    }
}
