//! `segno backup`.

use super::print;
use crate::{config::BackupConfig, event_log};

pub(super) async fn run(config: BackupConfig) -> anyhow::Result<()> {
    let findings = event_log::backup(&config.log.db, &config.file).await?;
    print(&format!(
        "{}: {} events, up to {}, of the log {}\n",
        config.file.display(),
        findings.events,
        findings.last_id,
        findings.log_id
    ))
}
