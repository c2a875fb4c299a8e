//! `segno publish`.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use humantime::parse_duration;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin, stdin};
use uuid::Uuid;

use super::{HubAddress, print, usage};
use crate::client::Client;

/// Lines of standard input that go into one batch at most.
const BATCH_MAX_LINES: usize = 1000;

/// Bytes of lines after which a batch is sent.
const BATCH_MAX_BYTES: usize = 4 * 1024 * 1024;

/// An event of a batch, on the wire.
#[derive(Serialize)]
struct EventLine<'a> {
    topic: &'a str,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    event_type: Option<&'a str>,
    data: &'a RawValue,
    key: &'a str,
}

/// The flags of `segno publish`.
#[derive(Debug, Clone, Args)]
pub(super) struct PublishFlags {
    /// Data of the event: JSON is kept as it is, anything else becomes a JSON string. If not given, each line of standard input is
    /// an event.
    data: Option<String>,

    /// Topic to publish on.
    #[arg(long, short, env = "SEGNO_TOPIC", default_value = "events", value_parser = usage::topic)]
    topic: String,

    /// Type of the events; `message` if not given.
    #[arg(long = "type", value_name = "TYPE", value_parser = usage::event_type)]
    event_type: Option<String>,

    /// Key of the event; generated if not given. Publishing the same key on the same topic again stores no second event.
    #[arg(long, requires = "data", value_parser = usage::key)]
    key: Option<String>,

    /// How long to try again while the hub is unreachable or busy.
    #[arg(long, env = "SEGNO_RETRY_FOR", default_value = "1m", value_name = "DURATION", value_parser = parse_duration)]
    retry_for: Duration,

    /// Where the hub is.
    #[command(flatten)]
    hub: HubAddress,
}

pub(super) async fn run(flags: PublishFlags) -> anyhow::Result<()> {
    let client = flags.hub.client()?;
    if let Some(data) = &flags.data {
        return send(&client, &flags, std::slice::from_ref(data)).await;
    }
    let mut lines = BufReader::new(stdin()).lines();
    loop {
        let batch = next_batch(&mut lines).await?;
        if batch.is_empty() {
            return Ok(());
        }
        send(&client, &flags, &batch).await?;
    }
}

/// Waits for a line, then takes those that are there already. Empty at the end of the input.
async fn next_batch(lines: &mut Lines<BufReader<Stdin>>) -> anyhow::Result<Vec<String>> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while batch.len() < BATCH_MAX_LINES && bytes < BATCH_MAX_BYTES {
        let line = if batch.is_empty() || lines.get_ref().buffer().contains(&b'\n') {
            lines
                .next_line()
                .await
                .context("cannot read standard input")?
        } else {
            break;
        };
        match line {
            Some(line) if line.is_empty() => (),
            Some(line) => {
                bytes += line.len();
                batch.push(line);
            }
            None => break,
        }
    }
    Ok(batch)
}

async fn send(client: &Client, flags: &PublishFlags, batch: &[String]) -> anyhow::Result<()> {
    let mut ndjson = String::new();
    for data in batch {
        let key = flags
            .key
            .clone()
            .unwrap_or_else(|| Uuid::now_v7().to_string());
        ndjson.push_str(&event_line(flags, data, &key)?);
        ndjson.push('\n');
    }
    let ids = client.publish(&ndjson, flags.retry_for).await?;
    let ids: String = ids.iter().map(|id| format!("{id}\n")).collect();
    print(&ids)
}

fn event_line(flags: &PublishFlags, data: &str, key: &str) -> anyhow::Result<String> {
    let json = match serde_json::from_str::<&RawValue>(data) {
        Ok(json) if !json.get().contains(['\n', '\r']) => json.to_owned(),
        // A line break would end the line of the batch; outside of strings it means nothing.
        Ok(json) => RawValue::from_string(json.get().replace(['\n', '\r'], " "))?,
        Err(_) => serde_json::value::to_raw_value(data)?,
    };
    let line = EventLine {
        topic: &flags.topic,
        event_type: flags.event_type.as_deref(),
        data: &json,
        key,
    };
    Ok(serde_json::to_string(&line)?)
}
