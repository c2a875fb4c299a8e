//! What the hubs of a cluster told last, for those who ask from outside.

use std::time::Duration;

use super::{
    super::{
        cluster::{Beat, GONE_AFTER},
        command::{Act, Command},
    },
    wire,
};
use crate::jetstream::{self, JetStream};

/// What a hub told last.
#[derive(Debug)]
pub struct NewestBeat {
    /// What it said.
    pub beat: Beat,
    /// How long ago.
    pub age: Duration,
    /// How far its clock is ahead of that of NATS, in milliseconds.
    pub clock_ahead_ms: i64,
}

/// What the hubs of the cluster told last, in the order of their addresses. Hubs that tell nothing any more are not among them.
pub async fn find_beats(stream: &JetStream) -> Result<Vec<NewestBeat>, jetstream::Error> {
    let told = stream.newest_beats().await?.into_iter();
    let mut found: Vec<_> = told
        .filter(|told| told.age < GONE_AFTER)
        .filter_map(|told| {
            let Command { at, act } = wire::decode(&told.payload).ok()?.command;
            let Act::Beat(beat) = act else { return None };
            Some(NewestBeat {
                beat,
                age: told.age,
                clock_ahead_ms: at.as_millis() - told.published_ms,
            })
        })
        .collect();
    found.sort_by(|a, b| (&a.beat.url, &a.beat.hub).cmp(&(&b.beat.url, &b.beat.hub)));
    Ok(found)
}
