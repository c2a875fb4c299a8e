//! `segno ready`: what the health check of a container runs, where there is no curl.

use crate::{client::Client, config::ReadyConfig};

pub(super) async fn run(config: ReadyConfig) -> anyhow::Result<()> {
    Client::new(&config.hub.url)?.ready(config.wait).await?;
    Ok(())
}
