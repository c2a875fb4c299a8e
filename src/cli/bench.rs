//! `segno bench`: a load on a hub that runs, what it takes, and a check that nothing was lost.
//!
//! Each event says in its data which publisher sent it on which topic, its sequence number, and when it was due.
//! So a reader knows what is missing, came twice or came out of order, and how long it took.

mod follow;
mod latency;
mod publish;
mod publisher;
mod reader;
mod replay;
mod report;
mod run;
mod sequence;

use std::sync::Arc;

use anyhow::bail;
use clap::Subcommand;

use self::{follow::FollowFlags, publish::PublishFlags, replay::ReplayFlags, run::Run};
use super::print;

/// What `segno bench` may be told.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Bench {
    /// Publish, as fast as the hub answers or at a rate, and check that everything is in the log.
    Publish(PublishFlags),
    /// Follow with many connections what is published at a rate, and measure how long each event takes.
    Follow(FollowFlags),
    /// Publish events, then replay them over and over.
    Replay(ReplayFlags),
}

pub(super) async fn run(bench: Bench) -> anyhow::Result<()> {
    // A subscriber is a file descriptor, and most systems allow 1,024 until they are asked for more.
    _ = rlimit::increase_nofile_limit(u64::MAX);
    let (run, report) = match bench {
        Bench::Publish(flags) => {
            let run = Arc::new(Run::new(flags.run.clone()));
            let report = run.show_progress_of(publish::run(&run, &flags)).await?;
            (run, report)
        }
        Bench::Follow(flags) => {
            let run = Arc::new(Run::new(flags.run.clone()));
            let report = run.show_progress_of(follow::run(&run, &flags)).await?;
            (run, report)
        }
        Bench::Replay(flags) => {
            let run = Arc::new(Run::new(flags.run.clone()));
            let report = run.show_progress_of(replay::run(&run, &flags)).await?;
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
