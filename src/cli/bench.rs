//! `segno bench`: a load on a hub that runs, what it takes, and a check that nothing was lost.
//!
//! Each event says in its data which publisher sent it on which topic, the how-manieth of them it is, and when it was due.
//! So whoever reads it knows what is missing, came twice or out of order, and how long it took.

mod follow;
mod publish;
mod publisher;
mod reader;
mod replay;
mod report;
mod run;
mod sequence;

use std::sync::Arc;

use anyhow::bail;

use self::run::Run;
use super::print;
use crate::config::BenchConfig;

pub(super) async fn run(config: BenchConfig) -> anyhow::Result<()> {
    // A subscriber is a file descriptor, and most systems allow 1,024 until they are asked for more.
    _ = rlimit::increase_nofile_limit(u64::MAX);
    let (run, report) = match config {
        BenchConfig::Publish(config) => {
            let run = Arc::new(Run::new(config.run.clone()));
            let report = run.show_progress_of(publish::run(&run, &config)).await?;
            (run, report)
        }
        BenchConfig::Follow(config) => {
            let run = Arc::new(Run::new(config.run.clone()));
            let report = run.show_progress_of(follow::run(&run, &config)).await?;
            (run, report)
        }
        BenchConfig::Replay(config) => {
            let run = Arc::new(Run::new(config.run.clone()));
            let report = run.show_progress_of(replay::run(&run, &config)).await?;
            (run, report)
        }
    };
    if run.json() {
        print(&format!("{}\n", serde_json::to_string(&report)?))?;
    } else {
        print(&report.to_string())?;
    }
    if !report.faults.is_none() {
        bail!("the hub did not deliver each event once and in order");
    }
    Ok(())
}
