//! What the hub counts while it works, for whoever watches it.
//!
//! Counters are plain atomics, so that they may stand on the way of an event. Histograms take a lock and are fed once a
//! commit at most. Nothing here knows where the figures are read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use prometheus_client::metrics::{
    counter::Counter,
    family::Family,
    histogram::{Histogram, exponential_buckets},
};

/// A label with its value, such as `code` and `busy`.
pub type Label = [(&'static str, &'static str); 1];

/// Counters of one name, told apart by a label.
pub type Counters = Family<Label, Counter>;

/// All there is to count. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// When the process began to serve.
    pub started: SystemTime,
    /// Requests whose events were stored, those that a key makes known included.
    pub published_requests: Counter,
    /// Events that were stored.
    pub published_events: Counter,
    /// Answers that refused, by their code.
    pub refusals: Counters,
    /// Connections that ended because no head of a request came in time, those that were idle too.
    pub late_heads: Counter,
    /// Commits that failed, each with all its events.
    pub failed_commits: Counter,
    /// Events of a commit.
    pub commit_events: Histogram,
    /// Seconds that a commit took.
    pub commit_seconds: Histogram,
    /// Events handed to streams.
    pub delivered_events: Counter,
    /// Bytes handed to streams.
    pub delivered_bytes: Counter,
    /// Pages read for subscribers that were behind, by where they came from.
    pub replayed_pages: Counters,
    /// Gaps that subscribers were told of, by the reason.
    pub gaps: Counters,
    /// Steps of trimming.
    pub trim_steps: Counter,
    /// Events that were trimmed.
    pub trimmed_events: Counter,
    /// Seconds that the canary took to come back.
    pub canary_seconds: Histogram,
    /// Canaries that did not come back in time.
    pub canary_failures: Counter,
    /// When the certificate ends that new connections are shown.
    pub certificate_expiry: CertificateExpiry,
    /// Copies of the log that were made to be sent.
    pub snapshots: Counter,
    /// What a hub of a cluster counts.
    pub cluster: ClusterMetrics,
}

/// What a hub of a cluster counts of the order that it follows. Clones count together.
#[derive(Debug, Clone)]
pub struct ClusterMetrics {
    /// Seconds until a command of this hub was put in order.
    pub order_seconds: Histogram,
    /// Commands that were sent again because nobody acknowledged them.
    pub order_retries: Counter,
    /// Consumers that were made anew, by the reason.
    pub consumers: Counters,
    /// Commands that were asked for one by one because no consumer brought them.
    pub fetched_commands: Counter,
}

impl Default for ClusterMetrics {
    fn default() -> Self {
        Self {
            // 256 µs to 17 s: from a server on the same machine to longer than an election.
            order_seconds: Histogram::new(exponential_buckets(256e-6, 4.0, 9)),
            order_retries: Counter::default(),
            consumers: from_zero("reason", ["hole", "silent", "refused"]),
            fetched_commands: Counter::default(),
        }
    }
}

/// When a certificate ends, if there is one. Clones share it.
#[derive(Debug, Clone)]
pub struct CertificateExpiry(Arc<AtomicI64>);

/// Not a time: there is no certificate.
const NO_CERTIFICATE: i64 = i64::MIN;

impl Default for CertificateExpiry {
    fn default() -> Self {
        Self(Arc::new(NO_CERTIFICATE.into()))
    }
}

impl CertificateExpiry {
    /// It ends then, in seconds since 1970; `None` where that cannot be told.
    pub fn set(&self, seconds: Option<i64>) {
        self.0.store(seconds.unwrap_or(NO_CERTIFICATE), Relaxed);
    }

    /// In seconds since 1970.
    pub fn get(&self) -> Option<i64> {
        Some(self.0.load(Relaxed)).filter(|seconds| *seconds != NO_CERTIFICATE)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            published_requests: Counter::default(),
            published_events: Counter::default(),
            refusals: Counters::default(),
            late_heads: Counter::default(),
            failed_commits: Counter::default(),
            // 1 to 16,384: a batch is at most 10,000.
            commit_events: Histogram::new(exponential_buckets(1.0, 4.0, 8)),
            // 64 µs to 17 s: from a commit in memory to three waits for a file that is held.
            commit_seconds: Histogram::new(exponential_buckets(64e-6, 4.0, 10)),
            delivered_events: Counter::default(),
            delivered_bytes: Counter::default(),
            replayed_pages: from_zero("source", ["memory", "file"]),
            gaps: from_zero("reason", ["trimmed", "ahead", "lost", "unknown"]),
            trim_steps: Counter::default(),
            trimmed_events: Counter::default(),
            // As a commit, for it may have to wait for one.
            canary_seconds: Histogram::new(exponential_buckets(64e-6, 4.0, 10)),
            canary_failures: Counter::default(),
            certificate_expiry: CertificateExpiry::default(),
            snapshots: Counter::default(),
            cluster: ClusterMetrics::default(),
        }
    }
}

/// Counters that are there before there was anything to count, so that the first of it is a change.
fn from_zero<const N: usize>(label: &'static str, values: [&'static str; N]) -> Counters {
    let counters = Counters::default();
    for value in values {
        drop(counters.get_or_create(&[(label, value)]));
    }
    counters
}
