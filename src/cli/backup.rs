//! `segno backup`.

use std::path::PathBuf;

use clap::Args;

use super::{LogFile, print};
use crate::db;

/// What `segno backup` may be told.
#[derive(Debug, Clone, Args)]
pub(super) struct BackupFlags {
    /// The copy; there must be no file yet.
    file: PathBuf,

    /// The log.
    #[command(flatten)]
    log: LogFile,
}

pub(super) async fn run(flags: BackupFlags) -> anyhow::Result<()> {
    let findings = db::backup(&flags.log.db, &flags.file).await?;
    print(&format!(
        "{}: {} events, up to {}, of the log {}\n",
        flags.file.display(),
        findings.events,
        findings.last_id,
        findings.log_id
    ))
}
