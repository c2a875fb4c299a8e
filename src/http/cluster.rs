//! The cluster, as `/stats` and `/metrics` tell of it.

use poem_openapi::{Enum, Object};
#[cfg(feature = "cluster")]
use prometheus_client::{
    metrics::gauge::ConstGauge,
    registry::{Registry as Exposition, Unit},
};
use serde::Serialize;

#[cfg(feature = "cluster")]
use crate::hub::{ClusterStatus, Peer, Rules};
use crate::{event::EventId, hub::Hub};

/// What a hub knows of the cluster that it belongs to.
#[derive(Debug, Serialize, Object)]
pub(super) struct ClusterFigures {
    /// The name of this hub, another one after each start.
    hub: String,
    /// Whether it follows the order of the cluster.
    state: ClusterState,
    /// Why it does not, in a sentence; left out where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Sequence of the newest command that it has applied.
    applied_sequence: u64,
    /// Sequence of the newest command that it knows of.
    known_sequence: u64,
    /// How long it has been behind that, in seconds.
    lag_seconds: f64,
    /// The hubs that told of themselves in the last 15 s, this one too.
    hubs: Vec<HubOfCluster>,
}

/// Whether a hub follows the order of its cluster.
#[derive(Debug, Clone, Copy, Serialize, Enum)]
#[serde(rename_all = "lowercase")]
#[oai(rename_all = "lowercase")]
enum ClusterState {
    /// It does, and takes publishes.
    Ok,
    /// It was started and has not yet applied all that was in order then.
    Joining,
    /// NATS acknowledges nothing.
    Unordered,
    /// Its file differs from those of the majority.
    Diverged,
    /// It cannot go on, and serves what it has.
    Stopped,
}

/// A hub of the cluster, as it told of itself last.
#[derive(Debug, Serialize, Object)]
struct HubOfCluster {
    /// Its name.
    hub: String,
    /// Where the others reach it; left out if it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// Its version.
    version: String,
    /// Sequence of the newest command that it had applied.
    applied_sequence: u64,
    /// Its newest event.
    last_id: EventId,
    /// How long ago, in seconds.
    age_seconds: f64,
    /// How far its clock is ahead of this hub's, in seconds; negative where it is behind.
    clock_ahead_seconds: f64,
    /// Whether its file is as this one's; left out where that cannot be told yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    agrees: Option<bool>,
    /// Which of its rules are other than this hub's; all hubs of a cluster should have the same.
    other_rules: Vec<OtherRule>,
}

/// What a hub may be told otherwise than another.
#[derive(Debug, Clone, Copy, Serialize, Enum)]
#[serde(rename_all = "lowercase")]
#[oai(rename_all = "lowercase")]
enum OtherRule {
    /// The flags that say what is kept.
    Retention,
    /// The access file.
    Access,
}

impl ClusterFigures {
    /// `None` where the hub is alone.
    #[cfg(feature = "cluster")]
    pub(super) fn of(hub: &Hub) -> Option<Self> {
        let status = hub.cluster()?;
        let (state, why) = state_of(&status);
        Some(Self {
            hub: status.hub,
            state,
            why,
            applied_sequence: status.reached.sequence,
            known_sequence: status.known_sequence,
            lag_seconds: to_milliseconds(status.lag.as_secs_f64()),
            hubs: status
                .peers
                .into_iter()
                .map(|peer| HubOfCluster::of(peer, &status.rules))
                .collect(),
        })
    }

    /// No hub of this build is one of a cluster.
    #[cfg(not(feature = "cluster"))]
    pub(super) fn of(_: &Hub) -> Option<Self> {
        None
    }
}

#[cfg(feature = "cluster")]
impl HubOfCluster {
    fn of(peer: Peer, mine: &Rules) -> Self {
        let theirs = &peer.beat.rules;
        let differences = [
            (theirs.kept != mine.kept, OtherRule::Retention),
            (theirs.access != mine.access, OtherRule::Access),
        ];
        let other_rules = differences
            .into_iter()
            .filter_map(|(differs, rule)| differs.then_some(rule))
            .collect();
        Self {
            hub: peer.beat.hub,
            url: peer.beat.url,
            version: peer.beat.version,
            applied_sequence: peer.beat.sequence,
            last_id: EventId::from_row(peer.beat.last_id),
            age_seconds: to_milliseconds(peer.age.as_secs_f64()),
            clock_ahead_seconds: seconds(peer.clock_ahead_ms),
            agrees: peer.agrees,
            other_rules,
        }
    }
}

#[cfg(feature = "cluster")]
fn state_of(status: &ClusterStatus) -> (ClusterState, Option<String>) {
    let because = |why: &str| Some(why.to_owned());
    match status {
        ClusterStatus {
            stopped: Some(why), ..
        } => (ClusterState::Stopped, Some(why.clone())),
        ClusterStatus {
            is_diverged: true, ..
        } => (
            ClusterState::Diverged,
            because("the files of the hubs differ"),
        ),
        ClusterStatus {
            has_order: false, ..
        } => (
            ClusterState::Unordered,
            because("NATS acknowledges nothing"),
        ),
        ClusterStatus {
            is_joined: false, ..
        } => (
            ClusterState::Joining,
            because("it has not yet applied all that was in order when it was started"),
        ),
        _ => (ClusterState::Ok, None),
    }
}

#[cfg(feature = "cluster")]
fn to_milliseconds(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

#[cfg(feature = "cluster")]
fn seconds(milliseconds: i64) -> f64 {
    // Exact: clocks do not differ by 100,000 years.
    milliseconds as f64 / 1e3
}

/// Adds the figures of a hub of a cluster; nothing where it is alone.
#[cfg(feature = "cluster")]
pub(super) fn register(segno: &mut Exposition, hub: &Hub) {
    let Some(status) = hub.cluster() else { return };
    let cluster = segno.sub_registry_with_prefix("cluster");
    let counted = hub.metrics().cluster.clone();
    cluster.register_with_unit(
        "order",
        "Time until a command of this hub was put in order",
        Unit::Seconds,
        counted.order_seconds,
    );
    cluster.register(
        "order_retries",
        "Commands that were sent again because nobody acknowledged them",
        counted.order_retries,
    );
    cluster.register(
        "consumers",
        "Consumers of the stream that were made anew, by reason: a command was left out, nothing came, or none could be made",
        counted.consumers,
    );
    cluster.register(
        "fetched_commands",
        "Commands that were asked for by their sequence because no consumer brought them",
        counted.fetched_commands,
    );
    cluster.register(
        "applied_sequence",
        "Sequence of the newest command that this hub has applied",
        ConstGauge::new(status.reached.sequence),
    );
    cluster.register(
        "known_sequence",
        "Sequence of the newest command that this hub knows of",
        ConstGauge::new(status.known_sequence),
    );
    cluster.register_with_unit(
        "lag",
        "Time for which this hub has been behind what it knows of",
        Unit::Seconds,
        ConstGauge::new(status.lag.as_secs_f64()),
    );
    for (name, help, is) in [
        (
            "has_order",
            "1 where commands are put in order, 0 where NATS acknowledges nothing",
            status.has_order,
        ),
        (
            "stopped",
            "1 where this hub cannot go on and serves what it has",
            status.stopped.is_some(),
        ),
        (
            "diverged",
            "1 where the file of this hub differs from those of the majority",
            status.is_diverged,
        ),
    ] {
        cluster.register(name, help, ConstGauge::new(u32::from(is)));
    }
    cluster.register(
        "hubs",
        "Hubs that told of themselves in the last 15 s, this one too",
        ConstGauge::new(u32::try_from(status.peers.len()).unwrap_or(u32::MAX)),
    );
    let skews = status.peers.iter().map(|peer| peer.clock_ahead_ms.abs());
    cluster.register_with_unit(
        "clock_skew",
        "How far the clock of another hub is from this one's, the furthest of them",
        Unit::Seconds,
        ConstGauge::new(seconds(skews.max().unwrap_or(0))),
    );
}

/// No hub of this build is one of a cluster.
#[cfg(not(feature = "cluster"))]
pub(super) fn register(_: &mut prometheus_client::registry::Registry, _: &Hub) {}
