//! `segno bench follow`.

use std::sync::Arc;

use tokio::{sync::watch, task::JoinSet, time::Instant};

use super::{
    publisher::{End, Pace, publish_all},
    reader::{Measure, Reader},
    report::Report,
    run::Run,
    sequence::Faults,
};
use crate::config::BenchFollowConfig;

/// Opens all streams, then publishes, and waits until everything has come to everybody.
pub(super) async fn run(run: &Arc<Run>, config: &BenchFollowConfig) -> anyhow::Result<Report> {
    let (publishing, published) = watch::channel(None);
    let mut readers = JoinSet::new();
    for number in 0..config.connections {
        let topic = Some(number % run.topics());
        let reader = Reader::open(run, Measure::EachEvent, topic, None).await?;
        readers.spawn(reader.read_all(published.clone()));
    }
    let start = Instant::now();
    let pace = Pace {
        publishers: config.publishers,
        batch: 1,
        rate: (config.rate > 0).then_some(config.rate),
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
        config.connections,
        start.elapsed(),
        faults,
    ))
}
