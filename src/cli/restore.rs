//! `segno restore`.

use super::print;
use crate::{config::RestoreConfig, db};

pub(super) async fn run(config: RestoreConfig) -> anyhow::Result<()> {
    let db = &config.log.db;
    let (findings, kept) = db::restore(&config.file, db, config.replace).await?;
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
