//! `segno bench follow`.

use std::sync::Arc;

use clap::Args;
use tokio::{sync::watch, task::JoinSet, time::Instant};

use super::{
    publisher::{End, Pace, publish_all},
    reader::{Measure, Reader},
    report::Report,
    run::{Run, RunFlags},
    sequence::Faults,
};

/// The flags of `segno bench follow`.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct FollowFlags {
    /// Number of connections that follow, each a topic.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) connections: u32,

    /// Number of connections that publish.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) publishers: u32,

    /// Events per second in all; 0 is as fast as the hub answers.
    #[arg(long, default_value_t = 25)]
    pub(super) rate: u32,

    /// What every run may be told.
    #[command(flatten)]
    pub(super) run: RunFlags,
}

/// Opens all streams, then publishes, and waits until everything has come to everybody.
pub(super) async fn run(run: &Arc<Run>, flags: &FollowFlags) -> anyhow::Result<Report> {
    let (publishing, published) = watch::channel(None);
    let mut readers = JoinSet::new();
    for number in 0..flags.connections {
        let topic = Some(number % run.topics());
        let reader = Reader::open(run, Measure::EachEvent, topic, None).await?;
        readers.spawn(reader.read_all(published.clone()));
    }
    let start = Instant::now();
    let pace = Pace {
        publishers: flags.publishers,
        batch: 1,
        rate: (flags.rate > 0).then_some(flags.rate),
        end: End::After(run.duration()),
    };
    let (sent, _) = publish_all(run, pace).await?;
    publishing.send_replace(Some(Arc::new(sent)));
    let mut faults = Faults::default();
    while let Some(reader) = readers.join_next().await {
        faults += reader??;
    }
    Ok(Report::new(
        "follow",
        run,
        flags.connections,
        start.elapsed(),
        faults,
    ))
}
