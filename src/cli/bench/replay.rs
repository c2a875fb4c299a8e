//! `segno bench replay`.

use std::sync::Arc;

use clap::Args;
use tokio::{sync::watch, task::JoinSet, time::Instant};

use super::{
    publisher::{End, Pace, Sent, publish_all},
    reader::{Measure, Reader},
    report::Report,
    run::{Run, RunFlags},
    sequence::Faults,
};

/// Events of a request that fills the log.
const BATCH_EVENTS: u32 = 1000;

/// The flags of `segno bench replay`.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct ReplayFlags {
    /// Number of connections that replay.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) connections: u32,

    /// Number of events to publish first, then to replay.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) events: u32,

    /// What every run may be told.
    #[command(flatten)]
    pub(super) run: RunFlags,
}

/// Publishes, then replays all of it on each connection, over and over until the time is up; each replay is whole.
pub(super) async fn run(run: &Arc<Run>, flags: &ReplayFlags) -> anyhow::Result<Report> {
    let before = Reader::open(run, Measure::Nothing, None, None).await?;
    let cursor: Arc<str> = before.cursor().into();
    drop(before);
    let pace = Pace {
        publishers: 1,
        batch: BATCH_EVENTS.min(flags.events),
        rate: None,
        end: End::AfterEvents(flags.events),
    };
    let (sent, _) = publish_all(run, pace).await?;
    let sent = Arc::new(sent);
    let start = Instant::now();
    let mut readers = JoinSet::new();
    for _ in 0..flags.connections {
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
        flags.connections,
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
