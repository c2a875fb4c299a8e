//! `segno backup`.

use super::print;
use crate::{config::BackupConfig, db};

pub(super) async fn run(config: BackupConfig) -> anyhow::Result<()> {
    let findings = db::backup(&config.log.db, &config.file).await?;
    print(&format!(
        "{}: {} events, up to {}, of the log {}\n",
        config.file.display(),
        findings.events,
        findings.last_id,
        findings.log_id
    ))
}
