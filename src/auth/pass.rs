//! Passes: what a stream, or an export, holds for as long as it may go on. Each is told when the right under it ends.

use std::{
    collections::HashMap,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use super::{Identity, Reason};
use crate::{event::Timestamp, rights::Right};

/// Lets one stream, or one export, go on until the credential under it ends, or no longer gives the same right to follow.
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

    /// Waits until `pass` has ended, and gives the reason; for ever without one, because then nothing can end.
    pub async fn wait(pass: Option<&Self>) -> String {
        poll_fn(|context| match pass {
            Some(pass) => pass.poll_ended(context),
            None => Poll::Pending,
        })
        .await
    }

    /// The reason, if it has ended. For who looks now and then, and does not wait for it.
    pub fn ended(&self) -> Option<String> {
        let mut ended = self.0.lock().expect("nobody panics while holding it");
        ended.try_recv().ok()
    }
}

/// All passes there are. Their number is that of the streams.
#[derive(Debug, Default)]
pub(super) struct Passes(Mutex<Vec<Held>>);

#[derive(Debug)]
struct Held {
    /// As it was judged last: when it ends may have changed since the stream began.
    identity: Arc<Identity>,
    tell: oneshot::Sender<String>,
}

impl Held {
    /// Why it ends now that its credential is judged so; `None` if it goes on, from now on as long as was judged.
    fn judged(&mut self, judged: &Result<Arc<Identity>, Reason>) -> Option<String> {
        let now = match judged {
            Err(reason) => return Some(reason.to_string()),
            Ok(now) => now,
        };
        let follow = |identity: &Identity| identity.rights.allowed(Right::Follow).clone();
        if follow(now) != follow(&self.identity) {
            return Some("the right to follow has changed".into());
        }
        // What is equal stays shared: each is judged once.
        if **now != *self.identity {
            self.identity = now.clone();
        }
        None
    }
}

impl Passes {
    /// A pass for who was identified as `identity` a moment ago. `judge` says who it is now: the rules may have changed meanwhile,
    /// and those who held a pass may have been told. Where the right to follow is another by now, the pass has ended already.
    pub(super) fn give(
        &self,
        identity: &Arc<Identity>,
        judge: impl FnOnce() -> Result<Arc<Identity>, Reason>,
    ) -> Result<Pass, Reason> {
        let (tell, ended) = oneshot::channel();
        // Held over the judgement, so that a change comes either before it or to a pass that is in the list.
        let mut passes = self.lock();
        let judged = judge()?;
        let mut held = Held {
            identity: identity.clone(),
            tell,
        };
        match held.judged(&Ok(judged)) {
            // The receiver is here.
            Some(reason) => _ = held.tell.send(reason),
            None => passes.push(held),
        }
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
        // With each the identity that it was judged for, so that no other comes to have its address.
        let mut judged = HashMap::new();
        self.sweep(|held| {
            let identity = held.identity.clone();
            let (_, now) = judged
                .entry(Arc::as_ptr(&identity))
                .or_insert_with(|| (identity.clone(), judge(&identity)));
            held.judged(now)
        });
    }

    fn sweep(&self, mut ends: impl FnMut(&mut Held) -> Option<String>) {
        let mut passes = self.lock();
        let mut place = 0;
        while let Some(held) = passes.get_mut(place) {
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
