//! `segno bench replay`.

use std::sync::Arc;

use tokio::{sync::watch, task::JoinSet, time::Instant};

use super::{
    publisher::{End, Pace, Sent, publish_all},
    reader::{Measure, Reader},
    report::Report,
    run::Run,
    sequence::Faults,
};
use crate::config::BenchReplayConfig;

/// Events of a request that fills the log.
const BATCH_EVENTS: u32 = 1000;

/// Publishes, then replays all of it on each connection, over and over until the time is up; each replay is whole.
pub(super) async fn run(run: &Arc<Run>, config: &BenchReplayConfig) -> anyhow::Result<Report> {
    let before = Reader::open(run, Measure::Nothing, None, None).await?;
    let cursor: Arc<str> = before.cursor().into();
    drop(before);
    let pace = Pace {
        publishers: 1,
        batch: BATCH_EVENTS.min(config.events),
        rate: None,
        end: End::AfterEvents(config.events),
    };
    let (sent, _) = publish_all(run, pace).await?;
    let sent = Arc::new(sent);
    let start = Instant::now();
    let mut readers = JoinSet::new();
    for _ in 0..config.connections {
        let end = start + run.duration();
        readers.spawn(replay_until(run.clone(), cursor.clone(), sent.clone(), end));
    }
    let mut faults = Faults::default();
    while let Some(reader) = readers.join_next().await {
        faults += reader??;
    }
    Ok(Report::new(
        "replay",
        run,
        config.connections,
        start.elapsed(),
        faults,
    ))
}

async fn replay_until(
    run: Arc<Run>,
    cursor: Arc<str>,
    sent: Arc<Sent>,
    end: Instant,
) -> anyhow::Result<Faults> {
    let (_publishing, published) = watch::channel(Some(sent));
    let mut faults = Faults::default();
    loop {
        let reader = Reader::open(&run, Measure::FirstEvent, None, Some(&cursor)).await?;
        faults += reader.read_all(published.clone()).await?;
        if Instant::now() >= end {
            return Ok(faults);
        }
    }
}
