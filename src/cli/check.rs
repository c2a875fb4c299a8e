//! `segno check`.

use anyhow::bail;

use super::print;
use crate::{config::CheckConfig, db};

pub(super) async fn run(config: CheckConfig) -> anyhow::Result<()> {
    let db = &config.log.db;
    let findings = db::check(db).await?;
    let faults: String = findings
        .faults
        .iter()
        .map(|fault| format!("{fault}\n"))
        .collect();
    print(&format!(
        "{}: {} events, up to {}, of the log {}\n{faults}",
        db.display(),
        findings.events,
        findings.last_id,
        findings.log_id
    ))?;
    match findings.faults.len() {
        0 => print("sound\n"),
        _ => bail!("{} is not sound", db.display()),
    }
}
