//! `segno check`.

use anyhow::bail;
use clap::Args;

use super::{LogFile, counted, print};
use crate::db;

/// The flags of `segno check`.
#[derive(Debug, Clone, Args)]
pub(super) struct CheckFlags {
    /// The log.
    #[command(flatten)]
    log: LogFile,
}

pub(super) async fn run(flags: CheckFlags) -> anyhow::Result<()> {
    let db = &flags.log.db;
    let findings = db::check(db).await?;
    let faults: String = findings
        .faults
        .iter()
        .map(|fault| format!("{fault}\n"))
        .collect();
    print(&format!(
        "{}: {}, up to {}, of the log {}\n{faults}",
        db.display(),
        counted(findings.events),
        findings.last_id,
        findings.log_id
    ))?;
    match findings.faults.len() {
        0 => print("sound\n"),
        _ => bail!("{} is not sound", db.display()),
    }
}
