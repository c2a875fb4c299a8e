//! Removes from the stream what published events that were erased.

use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::super::applier::Applier;
use crate::{event::Timestamp, jetstream::JetStream};

/// How often it is looked for commands whose events were erased.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What is to be done next.
pub(super) enum Next {
    /// [Begin](Removal::begin).
    Look,
    /// [Note](Removed::note) what is gone.
    Note(Removed),
}

/// Commands that are gone from the stream.
pub(super) struct Removed {
    sequences: Vec<u64>,
    /// Where the stream begins.
    first_sequence: u64,
}

/// What is removed, and when. Every hub does so: it is done also where one is away.
pub(super) struct Removal {
    stream: JetStream,
    /// A hub that was started again meanwhile still finds the commands.
    after: Duration,
    looks: Interval,
    running: Option<BoxFuture<'static, Removed>>,
}

impl Removal {
    /// Removes what was erased this long ago.
    pub(super) fn new(stream: JetStream, after: Duration) -> Self {
        let mut looks = interval(LOOK_EVERY.min(after));
        looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self {
            stream,
            after,
            looks,
            running: None,
        }
    }

    /// Waits until it is time to look for more, or until what was begun has ended.
    pub(super) async fn next(&mut self) -> Next {
        let Some(running) = &mut self.running else {
            self.looks.tick().await;
            return Next::Look;
        };
        let removed = running.await;
        self.running = None;
        Next::Note(removed)
    }

    /// Begins to remove what was erased by a command that all hubs have `kept`.
    pub(super) async fn begin(&mut self, kept: u64, applier: &mut Applier) {
        let age_ms = i64::try_from(self.after.as_millis()).unwrap_or(i64::MAX);
        let before = Timestamp::from_millis(Timestamp::now().as_millis().saturating_sub(age_ms));
        let found = applier
            .find_removals(kept, before)
            .await
            .unwrap_or_default();
        let stream = self.stream.clone();
        let removing = async move {
            let mut sequences = Vec::new();
            for sequence in found {
                match stream.delete(sequence).await {
                    Ok(()) => sequences.push(sequence),
                    Err(error) => {
                        tracing::debug!(%error, sequence, "an erased event is not yet gone from the stream");
                        break;
                    }
                }
            }
            let about = stream.about().await;
            Removed {
                sequences,
                first_sequence: about.map_or(0, |about| about.first_sequence),
            }
        };
        self.running = Some(removing.boxed());
    }
}

impl Removed {
    /// Notes in the file what is gone.
    pub(super) async fn note(self, applier: &mut Applier) {
        let noted = applier.forget_commands(&self.sequences, self.first_sequence);
        if let Err(error) = noted.await {
            tracing::debug!(%error, "what was removed from the stream is tried again");
        }
    }
}
