//! What `segno bench` says at the end.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{latency::Latency, run::Run, sequence::Faults};

/// The report, as JSON with `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// What was measured: `publish`, `follow` or `replay`.
    pub(super) bench: &'static str,
    pub(super) connections: u32,
    /// How long it took.
    pub(super) seconds: f64,
    /// Events that the hub acknowledged.
    pub(super) published: u64,
    /// Events that were received, on all connections, the final check not counted.
    pub(super) delivered: u64,
    /// Publishes a second, or deliveries a second: what the run was about.
    pub(super) per_second: f64,
    /// Requests that the hub refused for now; they were sent again.
    pub(super) refused: u64,
    pub(super) latency: Latency,
    #[serde(flatten)]
    pub(super) faults: Faults,
}

impl Report {
    pub(super) fn new(
        bench: &'static str,
        run: &Run,
        connections: u32,
        took: Duration,
        faults: Faults,
    ) -> Self {
        let (published, delivered) = (run.published(), run.delivered());
        let (events, latency) = match bench {
            "publish" => (published, run.answer_latency()),
            _ => (delivered, run.receipt_latency()),
        };
        Self {
            bench,
            connections,
            seconds: took.as_secs_f64(),
            published,
            delivered,
            per_second: as_f64(events) / took.as_secs_f64(),
            refused: run.refused(),
            latency: latency.summary(),
            faults,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, until) = match self.bench {
            "publish" => ("publishes", "answer"),
            "follow" => ("deliveries", "receipt"),
            _ => ("deliveries", "first event"),
        };
        let Latency {
            p50_us,
            p99_us,
            p999_us,
            max_us,
        } = self.latency;
        let Faults {
            missing,
            duplicated,
            reordered,
        } = self.faults;
        let millis = |micros| as_f64(micros) / 1000.0;
        writeln!(
            out,
            "{}: {} connections, {:.1} s, {} events published, {} received",
            self.bench, self.connections, self.seconds, self.published, self.delivered
        )?;
        writeln!(out, "  {what:<11} {:.0} a second", self.per_second)?;
        writeln!(
            out,
            "  to {until:<8} p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
            millis(p50_us),
            millis(p99_us),
            millis(p999_us),
            millis(max_us)
        )?;
        if self.refused > 0 {
            writeln!(out, "  refused     {} requests, sent again", self.refused)?;
        }
        writeln!(
            out,
            "  events      {missing} missing, {duplicated} duplicated, {reordered} reordered"
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rounded figure for people")]
fn as_f64(count: u64) -> f64 {
    count as f64
}
