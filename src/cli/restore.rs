//! `segno restore`.

use std::path::PathBuf;

use clap::Args;

use super::{LogFile, counted, print};
use crate::db;

/// The flags of `segno restore`.
#[derive(Debug, Clone, Args)]
pub(super) struct RestoreFlags {
    /// Copy that `segno backup` made.
    file: PathBuf,

    /// Move an existing file aside, to another name beside it.
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
        "{}: {}, up to {}, of the log {}\n",
        db.display(),
        counted(findings.events),
        findings.last_id,
        findings.log_id
    ))?;
    match kept {
        Some(kept) => print(&format!("what was there is kept as {}\n", kept.display())),
        None => Ok(()),
    }
}
