//! Passes: what a stream holds for as long as it may go on. Each is told when the right under it ends.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use super::{Identity, Reason};
use crate::{event::Timestamp, rights::Right};

/// Lets one stream go on until the credential under it ends, or no longer gives the same right to follow.
#[derive(Debug)]
pub struct Pass(Mutex<oneshot::Receiver<String>>);

impl Pass {
    /// Ready with the reason when it has ended.
    pub fn poll_ended(&self, context: &mut Context<'_>) -> Poll<String> {
        let mut ended = self.0.lock().expect("nobody panics while holding it");
        match Pin::new(&mut *ended).poll(context) {
            Poll::Ready(Ok(reason)) => Poll::Ready(reason),
            // Nobody judges any more: the hub is stopping.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

/// All passes there are. Their number is that of the streams.
#[derive(Debug, Default)]
pub(super) struct Passes(Mutex<Vec<Held>>);

#[derive(Debug)]
struct Held {
    identity: Arc<Identity>,
    tell: oneshot::Sender<String>,
}

impl Held {
    /// Why it ends now that its credential is judged so; `None` if it goes on.
    fn ends(&self, judged: &Result<Arc<Identity>, Reason>) -> Option<String> {
        match judged {
            Err(reason) => Some(reason.to_string()),
            Ok(now) => {
                let follow = |identity: &Identity| identity.rights.allowed(Right::Follow).clone();
                (follow(now) != follow(&self.identity))
                    .then(|| "the right to follow has changed".into())
            }
        }
    }
}

impl Passes {
    /// A pass for who was identified as `identity` a moment ago. `judge` says who it is now: the rules may have changed meanwhile,
    /// and those who held a pass may have been told.
    pub(super) fn give(
        &self,
        identity: &Arc<Identity>,
        judge: impl FnOnce() -> Result<Arc<Identity>, Reason>,
    ) -> Result<Pass, Reason> {
        let (tell, ended) = oneshot::channel();
        // Held over the judgement, so that a change comes either before it or to a pass that is in the list.
        let mut passes = self.lock();
        judge()?;
        passes.push(Held {
            identity: identity.clone(),
            tell,
        });
        Ok(Pass(Mutex::new(ended)))
    }

    /// Tells those whose time is over at `now`, and forgets those that are gone.
    pub(super) fn end_expired(&self, now: Timestamp) {
        self.sweep(|held| {
            let expires = held.identity.expires.filter(|expires| *expires <= now)?;
            Some(Reason::Expired(expires).to_string())
        });
    }

    /// Tells those that may not go on by new rules. `judge` is asked once for each identity, which many may share.
    pub(super) fn judge_all(&self, judge: impl Fn(&Identity) -> Result<Arc<Identity>, Reason>) {
        let mut judged = HashMap::new();
        self.sweep(|held| {
            let known = judged
                .entry(Arc::as_ptr(&held.identity))
                .or_insert_with(|| judge(&held.identity));
            held.ends(known)
        });
    }

    fn sweep(&self, mut ends: impl FnMut(&Held) -> Option<String>) {
        let mut passes = self.lock();
        let mut place = 0;
        while let Some(held) = passes.get(place) {
            if held.tell.is_closed() {
                passes.swap_remove(place);
            } else if let Some(reason) = ends(held) {
                // That it has just gone is as good.
                _ = passes.swap_remove(place).tell.send(reason);
            } else {
                place += 1;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Held>> {
        self.0.lock().expect("nobody panics while holding it")
    }
}
