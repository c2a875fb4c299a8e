//! One run of `segno bench`: its hub and topics, its counters, and the line that shows them.

use std::{
    convert::Infallible,
    io::{self, IsTerminal, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use humantime::parse_duration;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use uuid::Uuid;

use super::latency::{Latencies, micros};
use crate::{
    cli::HubAddress,
    client::{Wire, WireSettings},
};

/// The flags of every `segno bench`.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct RunFlags {
    /// How long to measure.
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = parse_duration)]
    pub(super) duration: Duration,

    /// Size of the data of an event, in bytes.
    #[arg(long, default_value_t = 100)]
    pub(super) bytes: usize,

    /// Number of topics that the events are spread over, named `bench.<run>.<number>`.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) topics: u32,

    /// Speak HTTP/2, each connection with one request or stream at a time.
    #[arg(long)]
    pub(super) http2: bool,

    /// Print the report as JSON.
    #[arg(long)]
    pub(super) json: bool,

    /// Where the hub is.
    #[command(flatten)]
    pub(super) hub: HubAddress,
}

/// How often the progress is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// A run, shared by all its connections.
#[derive(Debug)]
pub(super) struct Run {
    flags: RunFlags,
    id: String,
    start: Instant,
    /// Events that were acknowledged.
    published: AtomicU64,
    /// Events that were received, on all connections.
    delivered: AtomicU64,
    /// Requests that were refused for now, and sent again.
    refused: AtomicU64,
    /// What connections are opened with, read once.
    wire: OnceLock<WireSettings>,
    answer_latency: Latencies,
    receipt_latency: Latencies,
}

/// The data of an event.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BenchData {
    pub(super) publisher: u32,
    pub(super) topic: u32,
    /// Sequence number of the event, of this publisher on this topic, from 0.
    pub(super) number: u64,
    /// When it was due, in microseconds since the run began.
    pub(super) due: u64,
}

impl Run {
    pub(super) fn new(flags: RunFlags) -> Self {
        Self {
            flags,
            id: Uuid::new_v4().simple().to_string()[..8].to_owned(),
            start: Instant::now(),
            published: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            wire: OnceLock::new(),
            answer_latency: Latencies::new(),
            receipt_latency: Latencies::new(),
        }
    }

    pub(super) fn json(&self) -> bool {
        self.flags.json
    }

    pub(super) fn duration(&self) -> Duration {
        self.flags.duration
    }

    pub(super) fn topics(&self) -> u32 {
        self.flags.topics
    }

    pub(super) async fn connect(&self) -> anyhow::Result<Wire> {
        let url = &self.flags.hub.url;
        let settings = match self.wire.get() {
            Some(settings) => settings.clone(),
            None => {
                let new = WireSettings {
                    token: self.flags.hub.token()?,
                    authorities: self.flags.hub.authorities()?,
                    http2: self.flags.http2,
                };
                self.wire.get_or_init(|| new).clone()
            }
        };
        // In a box: a TLS handshake takes much, and a connection is opened once.
        Box::pin(Wire::open(url, settings))
            .await
            .with_context(|| format!("cannot reach {url}"))
    }

    pub(super) fn topic(&self, number: u32) -> String {
        format!("bench.{}.{number}", self.id)
    }

    /// A pattern for all topics of the run, or the topic if there is one.
    pub(super) fn all_topics(&self) -> String {
        match self.flags.topics {
            1 => self.topic(0),
            _ => format!("bench.{}.*", self.id),
        }
    }

    /// Microseconds since the run began.
    pub(super) fn micros(&self, moment: Instant) -> u64 {
        micros(moment.duration_since(self.start))
    }

    /// Writes the data of an event, filled up to the length that was asked for.
    pub(super) fn write_data(&self, data: &BenchData, out: &mut Vec<u8>) {
        let begin = out.len();
        serde_json::to_writer(&mut *out, data).expect("numbers always serialize into memory");
        const FILLING: &[u8] = b",\"pad\":\"\"}";
        let bytes = out.len() - begin + FILLING.len() - 1;
        if let Some(missing) = self.flags.bytes.checked_sub(bytes) {
            out.pop();
            out.extend_from_slice(&FILLING[..FILLING.len() - 2]);
            out.resize(out.len() + missing, b'x');
            out.extend_from_slice(b"\"}");
        }
    }

    pub(super) fn count_published(&self, events: u64) {
        self.published.fetch_add(events, Relaxed);
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(super) fn count_delivered(&self, events: u64) {
        self.delivered.fetch_add(events, Relaxed);
    }

    /// From when a request was due to its answer.
    pub(super) fn answer_latency(&self) -> &Latencies {
        &self.answer_latency
    }

    /// From when an event was due, or asked for, to its receipt.
    pub(super) fn receipt_latency(&self) -> &Latencies {
        &self.receipt_latency
    }

    pub(super) fn published(&self) -> u64 {
        self.published.load(Relaxed)
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Relaxed)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Does `work`, and tells on standard error how far it is.
    pub(super) async fn show_progress_of<T>(
        &self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let done = tokio::select! {
            done = work => done,
            never = self.show_progress() => match never {},
        };
        if io::stderr().is_terminal() {
            show("\r\x1b[K");
        }
        done
    }

    async fn show_progress(&self) -> Infallible {
        let mut ticks = interval_at(Instant::now() + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let is_terminal = io::stderr().is_terminal();
        let (mut published, mut delivered) = (0, 0);
        loop {
            ticks.tick().await;
            let line = format!(
                "{:4} s  {:>9} published/s  {:>10} received/s",
                self.start.elapsed().as_secs(),
                self.published() - published,
                self.delivered() - delivered,
            );
            show(&match is_terminal {
                true => format!("\r{line}\x1b[K"),
                false => format!("{line}\n"),
            });
            (published, delivered) = (self.published(), self.delivered());
        }
    }
}

/// Where standard error is closed nobody looks at the progress.
fn show(text: &str) {
    let mut stderr = io::stderr();
    _ = stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush());
}
