//! `GET /stats`: the figures that the console shows.

use poem_openapi::{ApiResponse, Object};
use serde::Serialize;

use super::{Settings, cluster::ClusterFigures, milliseconds, problem::Code, schema::Json};
use crate::{
    event::{EventId, Topic},
    hub::{self, Deletion},
    limits::{self, Limit},
    metrics::Metrics,
};

/// Figures of this moment.
#[derive(Debug, Serialize, Object)]
pub(super) struct Stats {
    /// The version of the hub.
    version: String,
    /// The UUID of the event log. A cursor is valid only in the log it came from.
    log_id: String,
    /// Time since the hub started, in seconds.
    uptime_seconds: u64,
    /// Open streams.
    subscribers: u32,
    /// Events kept.
    events: u64,
    /// The oldest event kept. Above `last_id` when none is kept.
    first_id: EventId,
    /// The newest event committed; 0 if there never was one.
    last_id: EventId,
    /// Size of the file.
    file_bytes: u64,
    /// Size of the WAL: the newest commits, until SQLite copies them into the file.
    wal_bytes: u64,
    /// Time in which the writer answered the hub's own ping last, in milliseconds; 0 before the first one.
    canary_ms: f64,
    /// Open connections.
    connections: u32,
    /// Refusals since the start, by limit.
    refused: Refused,
    /// The limits that are set.
    limits: SetLimits,
    /// The cluster that the hub belongs to; left out where it is alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterFigures>,
    /// What is kept, a rule each, such as `30days` or `the newest 1000 events`; empty where everything is.
    kept: Vec<String>,
    /// What is being deleted at this moment, by retention or because a topic is erased, the oldest first.
    deletions: Vec<DeletionJson>,
}

/// A deletion that is under way. It goes in small steps between commits, and takes a minute for a GB.
#[derive(Debug, Serialize, Object)]
#[oai(rename = "Deletion", deny_unknown_fields)]
struct DeletionJson {
    /// The topic whose events are deleted; left out where they are the oldest of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    topic: Option<Topic>,
    /// The newest event to be deleted.
    through: EventId,
    /// Events that are gone so far.
    deleted_events: u64,
    /// Since it began, in seconds.
    running_seconds: u64,
}

impl From<&Deletion> for DeletionJson {
    fn from(deletion: &Deletion) -> Self {
        Self {
            topic: deletion.topic.clone(),
            through: deletion.through,
            deleted_events: deletion.deleted_events,
            running_seconds: deletion.running.as_secs(),
        }
    }
}

/// The limits that are set.
#[derive(Debug, Serialize, Object)]
struct SetLimits {
    /// `--max-connections`.
    connections: u32,
    /// `--max-connections-per-address`.
    connections_per_address: u32,
    /// `--max-streams-per-address`.
    streams_per_address: u32,
    /// `--max-rate-per-address`, in events a second; left out where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_per_address: Option<u32>,
    /// `--max-event-bytes`.
    event_bytes: u64,
    /// `--max-batch-bytes`.
    batch_bytes: u64,
}

impl SetLimits {
    fn of(limits: &limits::Settings) -> Self {
        let bytes = |bytes| u64::try_from(bytes).expect("a number of bytes has 64 bits at most");
        Self {
            connections: limits.max_connections.get(),
            connections_per_address: limits.max_connections_per_address.get(),
            streams_per_address: limits.max_streams_per_address.get(),
            rate_per_address: limits.rate_per_address,
            event_bytes: bytes(limits.max_event_bytes),
            batch_bytes: bytes(limits.max_batch_bytes),
        }
    }
}

/// Refusals since the start, by limit.
#[derive(Debug, Serialize, Object)]
struct Refused {
    /// Connections over `--max-connections`.
    connections: u64,
    /// Connections over `--max-connections-per-address`.
    connections_of_address: u64,
    /// Streams over `--max-streams-per-address`.
    streams_of_address: u64,
    /// Publish requests over `--max-rate-per-address`.
    events_of_address: u64,
    /// Streams over `streams` of a caller in the access file.
    streams_of_caller: u64,
    /// Publish requests over `rate` of a caller in the access file.
    events_of_caller: u64,
    /// Connections closed because no complete request head arrived in time, idle ones included.
    late_heads: u64,
}

impl Stats {
    fn of(
        stats: &hub::Stats,
        cluster: Option<ClusterFigures>,
        settings: &Settings,
        metrics: &Metrics,
    ) -> Self {
        let limits = &settings.limits;
        let refused = |limit| {
            let code = Code::of(limit).as_str();
            metrics.refusals.get_or_create(&[("code", code)]).get()
        };
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            log_id: stats.log_id.to_string(),
            uptime_seconds: stats.uptime.as_secs(),
            subscribers: limits.streams(),
            events: stats.events,
            first_id: stats.bounds.first_id,
            last_id: stats.bounds.last_id,
            file_bytes: stats.size.file_bytes,
            wal_bytes: stats.size.wal_bytes,
            canary_ms: milliseconds(stats.canary),
            connections: limits.connections(),
            refused: Refused {
                connections: refused(Limit::Connections),
                connections_of_address: refused(Limit::ConnectionsOfAddress),
                streams_of_address: refused(Limit::StreamsOfAddress),
                events_of_address: refused(Limit::EventsOfAddress),
                streams_of_caller: refused(Limit::StreamsOfCaller),
                events_of_caller: refused(Limit::EventsOfCaller),
                late_heads: metrics.late_heads.get(),
            },
            limits: SetLimits::of(&limits.settings),
            cluster,
            kept: settings.kept.clone(),
            deletions: stats.deletions.iter().map(DeletionJson::from).collect(),
        }
    }
}

/// The answer of `GET /stats`.
#[derive(Debug, ApiResponse)]
pub(super) enum HubStats {
    /// The figures of this moment.
    #[oai(status = 200)]
    Read(Json<Stats>, #[oai(header = "Cache-Control")] String),
}

impl HubStats {
    /// Reads the figures.
    pub(super) fn of(
        stats: &hub::Stats,
        cluster: Option<ClusterFigures>,
        settings: &Settings,
        metrics: &Metrics,
    ) -> Self {
        Self::Read(
            Json::of(&Stats::of(stats, cluster, settings, metrics)),
            "no-store".into(),
        )
    }
}
