//! `segno ready`: what the health check of a container runs, where there is no curl.

use std::time::Duration;

use clap::Args;
use humantime::parse_duration;

use super::HubAddress;

/// The flags of `segno ready`.
#[derive(Debug, Clone, Args)]
pub(super) struct ReadyFlags {
    /// How long to ask again while the hub is not ready, such as `30s`; asks once if not given.
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = parse_duration)]
    wait: Duration,

    /// Where the hub is.
    #[command(flatten)]
    hub: HubAddress,
}

pub(super) async fn run(flags: ReadyFlags) -> anyhow::Result<()> {
    flags.hub.client()?.ready(flags.wait).await?;
    Ok(())
}
