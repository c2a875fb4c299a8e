//! `segno restore`.

use std::path::PathBuf;

use clap::Args;

use super::{LogFile, print};
use crate::db;

/// What `segno restore` may be told.
#[derive(Debug, Clone, Args)]
pub(super) struct RestoreFlags {
    /// The copy that `segno backup` made.
    file: PathBuf,

    /// Replace the file that is there; it is kept under another name.
    #[arg(long)]
    replace: bool,

    /// The log.
    #[command(flatten)]
    log: LogFile,
}

pub(super) async fn run(flags: RestoreFlags) -> anyhow::Result<()> {
    let db = &flags.log.db;
    let (findings, kept) = db::restore(&flags.file, db, flags.replace).await?;
    print(&format!(
        "{}: {} events, up to {}, of the log {}\n",
        db.display(),
        findings.events,
        findings.last_id,
        findings.log_id
    ))?;
    match kept {
        Some(kept) => print(&format!("what was there is kept as {}\n", kept.display())),
        None => Ok(()),
    }
}
