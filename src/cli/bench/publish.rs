//! `segno bench publish`.

use std::sync::Arc;

use clap::Args;
use tokio::sync::watch;

use super::{
    publisher::{End, Pace, publish_all},
    reader::{Measure, Reader},
    report::Report,
    run::{Run, RunFlags},
};

/// The flags of `segno bench publish`.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct PublishFlags {
    /// Number of connections that publish.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) connections: u32,

    /// Events per second in all; as fast as the hub answers if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rate: Option<u32>,

    /// Events per request.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) batch: u32,

    /// What every run may be told.
    #[command(flatten)]
    pub(super) run: RunFlags,
}

/// Publishes, then reads everything back.
pub(super) async fn run(run: &Arc<Run>, flags: &PublishFlags) -> anyhow::Result<Report> {
    let before = Reader::open(run, Measure::Nothing, None, None).await?;
    let cursor = before.cursor().to_owned();
    drop(before);
    let pace = Pace {
        publishers: flags.connections,
        batch: flags.batch,
        rate: flags.rate,
        end: End::After(run.duration()),
    };
    let (sent, took) = publish_all(run, pace).await?;
    let (_publishing, published) = watch::channel(Some(Arc::new(sent)));
    let reader = Reader::open(run, Measure::Nothing, None, Some(&cursor)).await?;
    let faults = reader.read_all(published).await?;
    Ok(Report::new("publish", run, flags.connections, took, faults))
}
