//! `segno publish`.

use anyhow::Context;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin, stdin};
use uuid::Uuid;

use super::print;
use crate::{client::Client, config::PublishConfig};

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

pub(super) async fn run(config: PublishConfig) -> anyhow::Result<()> {
    let client = Client::new(&config.hub.url)?;
    if let Some(data) = &config.data {
        return send(&client, &config, std::slice::from_ref(data)).await;
    }
    let mut lines = BufReader::new(stdin()).lines();
    loop {
        let batch = next_batch(&mut lines).await?;
        if batch.is_empty() {
            return Ok(());
        }
        send(&client, &config, &batch).await?;
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

async fn send(client: &Client, config: &PublishConfig, batch: &[String]) -> anyhow::Result<()> {
    let mut ndjson = String::new();
    for data in batch {
        let key = config
            .key
            .clone()
            .unwrap_or_else(|| Uuid::now_v7().to_string());
        ndjson.push_str(&event_line(config, data, &key)?);
        ndjson.push('\n');
    }
    let ids = client.publish(&ndjson, config.retry_for).await?;
    let ids: String = ids.iter().map(|id| format!("{id}\n")).collect();
    print(&ids)
}

fn event_line(config: &PublishConfig, data: &str, key: &str) -> anyhow::Result<String> {
    let json = match serde_json::from_str::<&RawValue>(data) {
        Ok(json) if !json.get().contains(['\n', '\r']) => json.to_owned(),
        // A line break would end the line of the batch; outside of strings it means nothing.
        Ok(json) => RawValue::from_string(json.get().replace(['\n', '\r'], " "))?,
        Err(_) => serde_json::value::to_raw_value(data)?,
    };
    let line = EventLine {
        topic: &config.topic,
        event_type: config.event_type.as_deref(),
        data: &json,
        key,
    };
    Ok(serde_json::to_string(&line)?)
}
