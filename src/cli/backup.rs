//! `segno backup`.

use std::path::PathBuf;

use clap::Args;

use super::{LogFile, counted, print};
use crate::db;

/// The flags of `segno backup`.
#[derive(Debug, Clone, Args)]
pub(super) struct BackupFlags {
    /// Path of the copy; must not exist.
    file: PathBuf,

    /// The log.
    #[command(flatten)]
    log: LogFile,
}

pub(super) async fn run(flags: BackupFlags) -> anyhow::Result<()> {
    let findings = db::backup(&flags.log.db, &flags.file).await?;
    print(&format!(
        "{}: {}, up to {}, of the log {}\n",
        flags.file.display(),
        counted(findings.events),
        findings.last_id,
        findings.log_id
    ))
}
