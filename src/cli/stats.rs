//! `segno stats`: the figures of a hub, once or live.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::bail;
use clap::Args;
use humantime::{format_duration, parse_duration};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    HubAddress,
    output::{self, Reader, print, reader_gone},
    terminal::{is_output_a_terminal, padded},
};
use crate::client::Client;

/// Moves to the upper left corner and clears the screen. Source: ECMA-48, 8.3.21 (CUP) and 8.3.39 (ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// The flags of `segno stats`.
#[derive(Debug, Clone, Args)]
pub(super) struct StatsFlags {
    /// Ask again and again, and show the newest figures and the events per second, until ctrl-C. Where standard output is no terminal,
    /// each answer is a line of JSON.
    #[arg(long, short)]
    watch: bool,

    /// How often to ask with `--watch`.
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = parse_duration)]
    interval: Duration,

    /// Print the hub's answer as JSON.
    #[arg(long)]
    json: bool,

    /// Where the hub is.
    #[command(flatten)]
    hub: HubAddress,
}

pub(super) async fn run(flags: StatsFlags) -> anyhow::Result<()> {
    let client = flags.hub.client()?;
    if !flags.watch {
        let stats = client.stats().await?;
        return print(&match flags.json {
            true => format!("{stats}\n"),
            false => told(&stats, None),
        });
    }
    if flags.interval < Duration::from_millis(100) {
        bail!("--interval is at least 100ms");
    }
    tokio::select! {
        watched = watch(&client, &flags) => watched,
        // The next answer may be far, or never come.
        () = reader_gone() => Ok(()),
    }
}

/// Shows the figures again and again, until nobody reads them.
async fn watch(client: &Client, flags: &StatsFlags) -> anyhow::Result<()> {
    let as_lines = flags.json || !is_output_a_terminal();
    let mut before: Option<(u64, Instant)> = None;
    loop {
        match client.stats().await {
            Ok(stats) => {
                let now = Instant::now();
                let last_id = stats["last_id"].as_u64();
                let rate = match (before, last_id) {
                    (Some((before, then)), Some(last_id)) => {
                        let events = u32::try_from(last_id.saturating_sub(before));
                        Some(f64::from(events.unwrap_or(u32::MAX)) / (now - then).as_secs_f64())
                    }
                    _ => None,
                };
                before = last_id.map(|last_id| (last_id, now));
                let shown = match as_lines {
                    true => format!("{stats}\n"),
                    false => format!("{CLEAR}{}", told(&stats, rate)),
                };
                if output::write(&shown)? == Reader::Gone {
                    return Ok(());
                }
            }
            // A hub that starts again comes back; what will be refused again ends the view.
            Err(error) if error.may_pass() => {
                before = None;
                _ = writeln!(io::stderr(), "segno: {error}; trying again");
            }
            Err(error) => return Err(error.into()),
        }
        sleep(flags.interval).await;
    }
}

/// The figures, a line each, in the order in which the hub gives them.
fn told(stats: &Value, events_per_second: Option<f64>) -> String {
    let mut lines = Vec::new();
    flatten("", stats, &mut lines);
    if let Some(rate) = events_per_second {
        lines.push(("events per second".into(), format!("{rate:.1}")));
    }
    let width = lines.iter().map(|(name, _)| name.chars().count()).max();
    let width = width.unwrap_or_default();
    let lines = lines
        .iter()
        .map(|(name, value)| format!("{}  {value}\n", padded(name, width)));
    lines.collect()
}

fn flatten(prefix: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    let Some(object) = value.as_object() else {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        lines.push(unit(prefix, value).unwrap_or_else(|| (prefix.replace('_', " "), text)));
        return;
    };
    for (name, value) in object {
        let name = match prefix {
            "" => name.clone(),
            _ => format!("{prefix} {name}"),
        };
        flatten(&name, value, lines);
    }
}

/// The name without its unit, and the value with it; `None` if the name has none.
fn unit(name: &str, value: &Value) -> Option<(String, String)> {
    let (name, value) = if let Some(name) = name.strip_suffix("_bytes") {
        (name, bytes(value.as_u64()?))
    } else if let Some(name) = name.strip_suffix("_seconds") {
        let time = Duration::from_secs(value.as_u64()?);
        (name, format_duration(time).to_string())
    } else {
        (name.strip_suffix("_ms")?, format!("{value} ms"))
    };
    Some((name.replace('_', " "), value))
}

/// A size for people, rounded down to a tenth of its unit.
fn bytes(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(size, _)| bytes >= *size);
    match unit {
        Some((size, unit)) => format!("{}.{} {unit}", bytes / size, bytes % size * 10 / size),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_their_units() {
        let stats = serde_json::json!({
            "version": "1", "uptime_seconds": 61, "last_id": 7, "file_bytes": 1_572_864, "canary_ms": 0.5,
            "refused": {"late_heads": 2}
        });
        let expected = "version             1\n\
                        uptime              1m 1s\n\
                        last id             7\n\
                        file                1.5 MiB\n\
                        canary              0.5 ms\n\
                        refused late heads  2\n\
                        events per second   3.2\n";
        assert_eq!(told(&stats, Some(3.25)), expected);
    }
}
