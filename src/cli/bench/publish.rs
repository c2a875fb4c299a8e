//! `segno bench publish`.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    publisher::{End, Pace, publish_all},
    reader::{Measure, Reader},
    report::Report,
    run::Run,
};
use crate::config::BenchPublishConfig;

/// Publishes, then reads everything back.
pub(super) async fn run(run: &Arc<Run>, config: &BenchPublishConfig) -> anyhow::Result<Report> {
    let before = Reader::open(run, Measure::Nothing, None, None).await?;
    let cursor = before.cursor().to_owned();
    drop(before);
    let pace = Pace {
        publishers: config.connections,
        batch: config.batch,
        rate: config.rate,
        end: End::After(run.duration()),
    };
    let (sent, took) = publish_all(run, pace).await?;
    let (_publishing, published) = watch::channel(Some(Arc::new(sent)));
    let reader = Reader::open(run, Measure::Nothing, None, Some(&cursor)).await?;
    let faults = reader.read_all(published).await?;
    Ok(Report::new(
        "publish",
        run,
        config.connections,
        took,
        faults,
    ))
}
