//! `GET /metrics`: the figures in the format of Prometheus.

use std::time::SystemTime;

use poem::{IntoResponse, Response};
use poem_openapi::{
    ApiResponse,
    payload::Payload,
    registry::{MetaSchema, MetaSchemaRef},
};
use prometheus_client::{
    encoding::prometheus_text,
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry as Exposition, Unit},
};

use super::{
    cluster,
    problem::{Code, Codes},
};
use crate::{
    db::{self, Room},
    event::Timestamp,
    hub::Hub,
    limits::Limits,
    process::Usage,
};

/// What the exposition says the version of its format is. Source: Prometheus, Exposition formats.
const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// The figures in the text exposition format of Prometheus.
#[derive(Debug)]
pub(super) struct Figures(String);

impl Figures {
    /// Reads the figures. Costs a few reads of the file, however large the log is.
    pub(super) async fn of(hub: &Hub, limits: &Limits) -> Result<Self, db::Error> {
        let mut exposition = Exposition::default();
        register_process(&mut exposition, hub);
        let segno = exposition.sub_registry_with_prefix("segno");
        register_counters(segno, hub);
        cluster::register(segno, hub);
        segno.register(
            "connections",
            "Open connections, streams included",
            ConstGauge::new(limits.connections()),
        );
        if let Some(expiry) = hub.metrics().certificate_expiry.get() {
            segno.register_with_unit(
                "tls_certificate_expiry_timestamp",
                "End of the certificate that new connections are shown, in seconds since 1970; not there without TLS",
                Unit::Seconds,
                ConstGauge::new(expiry),
            );
        }
        register_moment(segno, hub, limits);
        register_log(segno, hub).await?;
        let mut text = String::new();
        prometheus_text::encode(&mut text, &exposition).expect("memory takes every byte");
        Ok(Self(text))
    }
}

fn register_process(exposition: &mut Exposition, hub: &Hub) {
    let started = hub.metrics().started;
    let since_1970 = started.duration_since(SystemTime::UNIX_EPOCH);
    exposition.register_with_unit(
        "process_start_time",
        "Start time of the hub, in seconds since 1970",
        Unit::Seconds,
        ConstGauge::new(since_1970.map_or(0.0, |time| time.as_secs_f64())),
    );
    if let Some(usage) = Usage::now() {
        register_usage(exposition, usage);
    }
}

/// The names are those that every client library of Prometheus uses. Source: Prometheus, "Writing client libraries", standard and
/// runtime collectors.
fn register_usage(exposition: &mut Exposition, usage: Usage) {
    exposition.register_with_unit(
        "process_cpu",
        "Processor time of the hub, its own and the kernel's for it",
        Unit::Seconds,
        ConstCounter::new(usage.cpu_seconds),
    );
    exposition.register_with_unit(
        "process_resident_memory",
        "Memory that the hub holds",
        Unit::Bytes,
        ConstGauge::new(usage.resident_bytes),
    );
    exposition.register_with_unit(
        "process_virtual_memory",
        "Addresses that the hub has reserved, which is more than it holds",
        Unit::Bytes,
        ConstGauge::new(usage.virtual_bytes),
    );
    exposition.register(
        "process_open_fds",
        "Open files, connections included",
        ConstGauge::new(usage.open_files),
    );
    exposition.register(
        "process_max_fds",
        "Files that may be open",
        ConstGauge::new(usage.max_open_files),
    );
}

fn register_counters(segno: &mut Exposition, hub: &Hub) {
    let metrics = hub.metrics().clone();
    segno.register(
        "published_requests",
        "Publish requests that succeeded, those answered from known keys included",
        metrics.published_requests,
    );
    segno.register(
        "published_events",
        "Events stored",
        metrics.published_events,
    );
    segno.register(
        "refusals",
        "Refused requests and connections, by the code of the answer",
        metrics.refusals,
    );
    segno.register(
        "late_heads",
        "Connections that ended because no head of a request came in time, those that were idle too",
        metrics.late_heads,
    );
    segno.register(
        "failed_commits",
        "Failed commits; their events were refused",
        metrics.failed_commits,
    );
    segno.register(
        "commit_events",
        "Events stored by one commit",
        metrics.commit_events,
    );
    segno.register_with_unit(
        "commit",
        "Duration of a commit: the insert and SQLite's commit, including the fsync of the WAL",
        Unit::Seconds,
        metrics.commit_seconds,
    );
    segno.register(
        "delivered_events",
        "Events handed to the sockets of subscribers; an event that goes to ten counts ten times",
        metrics.delivered_events,
    );
    segno.register_with_unit(
        "delivered",
        "Bytes of streams handed to the sockets of subscribers, heartbeats included",
        Unit::Bytes,
        metrics.delivered_bytes,
    );
    segno.register(
        "replayed_pages",
        "Pages read for subscribers that were behind, by source: the newest events in memory, or the file for older ones",
        metrics.replayed_pages,
    );
    segno.register(
        "gaps",
        "Gaps reported to subscribers, by reason",
        metrics.gaps,
    );
    segno.register(
        "trim_steps",
        "Steps in which retention or erasing deleted events",
        metrics.trim_steps,
    );
    segno.register(
        "trimmed_events",
        "Events deleted by retention or erasing",
        metrics.trimmed_events,
    );
    segno.register(
        "snapshots",
        "Copies of the log that were given by GET /snapshot",
        metrics.snapshots,
    );
    segno.register_with_unit(
        "canary",
        "Time in which the writer answered the hub's own ping",
        Unit::Seconds,
        metrics.canary_seconds,
    );
    segno.register(
        "canary_failures",
        "Pings that were not answered in time",
        metrics.canary_failures,
    );
}

fn register_moment(segno: &mut Exposition, hub: &Hub, limits: &Limits) {
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    segno.register("build", "The version of the hub", version);
    let queue = hub.waiting();
    segno.register(
        "queue_publications",
        "Publish requests that wait for the writer; at --max-queue the next is refused as busy",
        ConstGauge::new(queue.publications),
    );
    segno.register_with_unit(
        "queue",
        "Bytes of events that wait for the writer; at --max-queue-bytes the next is refused as busy",
        Unit::Bytes,
        ConstGauge::new(queue.bytes),
    );
    segno.register_with_unit(
        "canary_age",
        "Time since the writer last answered a ping",
        Unit::Seconds,
        ConstGauge::new(hub.canary_age().as_secs_f64()),
    );
    let behind = hub.behind();
    segno.register(
        "subscribers",
        "Open streams",
        ConstGauge::new(limits.streams()),
    );
    segno.register(
        "subscribers_behind",
        "Subscribers behind the newest event, because they replay or their client is slow; subscribers that share a stream count once",
        ConstGauge::new(behind.subscribers),
    );
    segno.register(
        "lag_events",
        "Ids between the newest event and the cursor of the subscriber furthest behind",
        ConstGauge::new(behind.lag_events),
    );
}

async fn register_log(segno: &mut Exposition, hub: &Hub) -> Result<(), db::Error> {
    let (size, bounds) = (hub.log().size().await, hub.bounds());
    let Room { free_bytes, .. } = hub.log().room().await?;
    let oldest = hub.log().event(bounds.first_id).await?;
    let age_millis = oldest.map_or(0, |oldest| {
        Timestamp::now().as_millis() - oldest.created_at.as_millis()
    });
    segno.register_with_unit(
        "file",
        "Size of the file, without the WAL",
        Unit::Bytes,
        ConstGauge::new(size.file_bytes),
    );
    segno.register_with_unit(
        "wal",
        "Size of the WAL: the newest commits, until SQLite copies them into the file",
        Unit::Bytes,
        ConstGauge::new(size.wal_bytes),
    );
    segno.register_with_unit(
        "free",
        "Free bytes within the file, which new events will use",
        Unit::Bytes,
        ConstGauge::new(free_bytes),
    );
    if let Some(disk_free_bytes) = hub.log().disk_free_bytes().await {
        segno.register_with_unit(
            "disk_free",
            "Bytes that the hub can still write to the disk that the file is on",
            Unit::Bytes,
            ConstGauge::new(disk_free_bytes),
        );
    }
    segno.register(
        "kept_events",
        "Events kept",
        ConstGauge::new(hub.kept_events()),
    );
    segno.register(
        "first_id",
        "Id of the oldest event kept; above the last id when none is kept",
        ConstGauge::new(bounds.first_id.as_i64()),
    );
    segno.register(
        "last_id",
        "Id of the newest event",
        ConstGauge::new(bounds.last_id.as_i64()),
    );
    let age = std::time::Duration::from_millis(u64::try_from(age_millis).unwrap_or(0));
    segno.register_with_unit(
        "oldest_event_age",
        "Age of the oldest event kept; 0 when none is kept",
        Unit::Seconds,
        ConstGauge::new(age.as_secs_f64()),
    );
    Ok(())
}

impl IntoResponse for Figures {
    fn into_response(self) -> Response {
        Response::builder().content_type(CONTENT_TYPE).body(self.0)
    }
}

impl Payload for Figures {
    const CONTENT_TYPE: &'static str = CONTENT_TYPE;

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            example: Some("# TYPE segno_last_id gauge\nsegno_last_id 1000\n".into()),
            ..MetaSchema::new("string")
        }))
    }
}

/// The answer of `GET /metrics`.
#[derive(Debug, ApiResponse)]
pub(super) enum MetricsText {
    /// The text exposition format of Prometheus.
    #[oai(status = 200)]
    Read(Figures, #[oai(header = "Cache-Control")] String),
}

/// The refusals of `GET /metrics`.
#[derive(Debug)]
pub(super) struct ReadMetrics;

impl Codes for ReadMetrics {
    const CODES: &'static [Code] = &[
        Code::Internal,
        Code::LogBusy,
        Code::LogCorrupt,
        Code::DiskFailed,
    ];
}
