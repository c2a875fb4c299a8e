//! The flags of `segno serve`, each with its variable.
//!
//! They are read whole before anything is opened, then turned into the plain settings of the rooms below. The doc comments are the
//! help, and the tables of flags in the docs.

mod cluster;
mod listen;
mod tls;

use std::{
    num::{NonZeroU32, NonZeroU64},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use humantime::parse_duration;

pub use self::cluster::{ClusterFlags, PeerFlags, ReachFlags};
pub use self::listen::ListenFlags;
pub use self::tls::TlsFlags;
use crate::{
    event::DATA_MAX_BYTES,
    http::CorsOrigin,
    hub::{self, QUEUE_MAX_BYTES, QueueLimits},
    limits::{
        self, BATCH_MAX_BYTES, BATCH_MAX_EVENTS, BODY_MEMORY_MAX_BYTES, BODY_MEMORY_MIN_BYTES,
        RATE_MAX_EVENTS,
    },
    retention::{Keep, KeepTopics, parse_age},
    server::{self, ListenAddress},
};

/// The flags of `segno serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeFlags {
    /// Where the hub listens, and how long it waits.
    #[command(flatten, next_help_heading = "Listen")]
    pub listen: ListenFlags,

    /// How connections are encrypted.
    #[command(flatten, next_help_heading = "TLS")]
    pub tls: TlsFlags,

    /// Who may do what.
    #[command(flatten, next_help_heading = "Access")]
    pub access: AccessFlags,

    /// File that holds the events; created if it does not exist.
    #[arg(
        long,
        env = "SEGNO_DB",
        default_value = "segno.db",
        help_heading = "Storage"
    )]
    pub db: PathBuf,

    /// The cluster that the hub belongs to.
    #[command(flatten, next_help_heading = "Cluster")]
    pub cluster: ClusterFlags,

    /// How the hubs of the cluster reach each other.
    #[command(flatten, next_help_heading = "Cluster")]
    pub reach: ReachFlags,

    /// What is kept.
    #[command(flatten, next_help_heading = "Retention")]
    pub keep: KeepFlags,

    /// How much is taken.
    #[command(flatten, next_help_heading = "Limits")]
    pub limits: LimitsFlags,

    /// How the hub watches itself, and what it logs.
    #[command(flatten, next_help_heading = "Observe")]
    pub observe: ObserveFlags,

    /// Print the configuration and everything that is wrong with it, and exit. A hub may be running.
    #[arg(long, help_heading = "Observe")]
    pub check_config: bool,
}

/// Who may do what.
#[derive(Debug, Clone, Args)]
pub struct AccessFlags {
    /// Access file: who may publish, follow, erase and look; `segno token add` creates it. Read again when it changes. Without it
    /// everybody may do everything.
    #[arg(long = "access", env = "SEGNO_ACCESS", value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Let everybody do everything on an address that other machines can reach. `--access` wins over it.
    #[arg(long, env = "SEGNO_OPEN")]
    pub open: bool,

    /// File with the keys that tickets are signed with, one per line. Hubs that share it accept each other's tickets. Created beside
    /// the event log with the first ticket if not given.
    #[arg(long, env = "SEGNO_TICKET_KEY_FILE", value_name = "FILE")]
    pub ticket_key_file: Option<PathBuf>,
}

/// What is kept. Events that any of the rules calls old are trimmed; without a rule everything is kept.
#[derive(Debug, Clone, Args)]
pub struct KeepFlags {
    /// Keep events of this age or younger, such as `30d`. Without any `--keep…` flag everything is kept.
    #[arg(long = "keep-age", env = "SEGNO_KEEP_AGE", value_name = "AGE", value_parser = parse_age)]
    pub age: Option<Duration>,

    /// Keep the newest *N* events.
    #[arg(long = "keep-events", env = "SEGNO_KEEP_EVENTS", value_name = "N")]
    pub events: Option<NonZeroU64>,

    /// Keep the newest events that fit into this size of the file, such as `10GB`; at least 10MB.
    #[arg(
        long = "keep-bytes",
        env = "SEGNO_KEEP_BYTES",
        value_name = "SIZE",
        value_parser = parse_kept_bytes
    )]
    pub bytes: Option<u64>,

    /// Keep less of some topics: by age as `debug.**=1h`, the newest *N* of each topic as `status/*=100`, or both as
    /// `debug.**=1h,1000`. Repeat the flag for more rules; separate them by spaces in the variable.
    #[arg(
        long = "keep",
        env = "SEGNO_KEEP",
        value_name = "TOPIC=RULE",
        value_delimiter = ' '
    )]
    pub topics: Vec<KeepTopics>,
}

/// How much is taken. A request over a limit gets an answer that names it.
#[derive(Debug, Clone, Args)]
pub struct LimitsFlags {
    /// Connections in all; fewer where the system allows fewer open files.
    #[arg(
        long,
        env = "SEGNO_MAX_CONNECTIONS",
        default_value = "50000",
        value_name = "N"
    )]
    pub max_connections: NonZeroU32,

    /// Connections per client address. An IPv6 address counts as its /64 network, here and below.
    #[arg(
        long,
        env = "SEGNO_MAX_CONNECTIONS_PER_ADDRESS",
        default_value = "10000",
        value_name = "N"
    )]
    pub max_connections_per_address: NonZeroU32,

    /// Open streams per client address.
    #[arg(
        long,
        env = "SEGNO_MAX_STREAMS_PER_ADDRESS",
        default_value = "10000",
        value_name = "N"
    )]
    pub max_streams_per_address: NonZeroU32,

    /// Events per second that a client address may publish; unlimited if not given.
    #[arg(
        long = "max-rate-per-address",
        env = "SEGNO_MAX_RATE_PER_ADDRESS",
        value_name = "EVENTS",
        value_parser = clap::value_parser!(u32).range(1..=RATE_MAX_EVENTS)
    )]
    pub rate_per_address: Option<u32>,

    /// Burst size of that rate, in events; ten seconds' worth if not given.
    #[arg(
        long = "max-burst-per-address",
        env = "SEGNO_MAX_BURST_PER_ADDRESS",
        value_name = "EVENTS",
        requires = "rate_per_address"
    )]
    pub burst_per_address: Option<NonZeroU32>,

    /// Requests in the publish queue.
    #[arg(
        long,
        env = "SEGNO_MAX_QUEUE",
        default_value = "8192",
        value_name = "REQUESTS"
    )]
    pub max_queue: NonZeroU32,

    /// Size of the events in the publish queue.
    #[arg(
        long,
        env = "SEGNO_MAX_QUEUE_BYTES",
        default_value = "64MiB",
        value_name = "SIZE",
        value_parser = parse_queue_bytes
    )]
    pub max_queue_bytes: usize,

    /// Size of the data of an event; at most 1MiB.
    #[arg(
        long,
        env = "SEGNO_MAX_EVENT_BYTES",
        default_value = "1MiB",
        value_name = "SIZE",
        value_parser = |text: &str| parse_bytes_within(text, 1, DATA_MAX_BYTES)
    )]
    pub max_event_bytes: usize,

    /// Size of the body of a batch; at most 16MiB.
    #[arg(
        long,
        env = "SEGNO_MAX_BATCH_BYTES",
        default_value = "16MiB",
        value_name = "SIZE",
        value_parser = |text: &str| parse_bytes_within(text, 1, BATCH_MAX_BYTES)
    )]
    pub max_batch_bytes: usize,

    /// Bytes of all request bodies that are being read; a client address has a quarter of it.
    #[arg(
        long,
        env = "SEGNO_MAX_BODY_MEMORY",
        default_value = "256MiB",
        value_name = "SIZE",
        value_parser = |text: &str| parse_bytes_within(text, BODY_MEMORY_MIN_BYTES, BODY_MEMORY_MAX_BYTES)
    )]
    pub max_body_memory: usize,

    /// Events in a batch; at most 10000.
    #[arg(
        long,
        env = "SEGNO_MAX_BATCH_EVENTS",
        default_value = "10000",
        value_name = "EVENTS",
        value_parser = parse_batch_events
    )]
    pub max_batch_events: usize,
}

/// How the hub watches itself, and what it logs.
#[derive(Debug, Clone, Args)]
pub struct ObserveFlags {
    /// How often the hub sends a canary through its writer. Without an answer for three intervals the hub is not ready, for
    /// twelve not live.
    #[arg(long, env = "SEGNO_CANARY", default_value = "5s", value_name = "INTERVAL", value_parser = parse_canary)]
    pub canary: Duration,

    /// A commit that takes longer is logged.
    #[arg(long, env = "SEGNO_SLOW_COMMIT", default_value = "1s", value_name = "DURATION", value_parser = parse_duration)]
    pub slow_commit: Duration,

    /// A subscriber that is behind for longer is logged.
    #[arg(long, env = "SEGNO_SLOW_SUBSCRIBER", default_value = "1m", value_name = "DURATION", value_parser = parse_duration)]
    pub slow_subscriber: Duration,

    /// OpenTelemetry collector that takes spans by OTLP over HTTP, such as `http://localhost:4318`; no spans are made if not
    /// given. Needs a build with `--features otlp`.
    #[arg(long, env = "SEGNO_OTLP_ENDPOINT", value_name = "URL", value_parser = parse_collector)]
    pub otlp_endpoint: Option<String>,

    /// Format of the log lines on standard error. The variable `SEGNO_LOG` sets their level, such as `debug`.
    #[arg(
        long,
        env = "SEGNO_LOG_FORMAT",
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

/// Format of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

impl ServeFlags {
    /// What the server is started with.
    pub fn settings(&self) -> server::Settings {
        let (listen, limits) = (&self.listen, &self.limits);
        let (keep, observe) = (&self.keep, &self.observe);
        server::Settings {
            listen: listen.addresses.clone(),
            listen_mode: listen.listen_mode,
            db: self.db.clone(),
            heartbeat: listen.heartbeat,
            cors_origins: listen.cors_origins.clone(),
            cors_credentials: listen.cors_credentials,
            packs_pages: !listen.no_compression,
            access: self.access.file.clone(),
            ticket_key: self.access.ticket_key_file.clone(),
            tls: self.tls.source(&self.db),
            public_url: listen.public_url.clone().or_else(|| self.tls.url()),
            #[cfg(feature = "cluster")]
            cluster: self.cluster.stream().map(|stream| hub::ClusterSettings {
                stream,
                advertise: self.reach.advertise.as_ref().map(ToString::to_string),
                remove_after: hub::REMOVE_AFTER,
            }),
            #[cfg(feature = "cluster")]
            peers: self.reach.peers.access(),
            drain_timeout: listen.drain_timeout,
            limits: limits::Settings {
                header_timeout: listen.header_timeout,
                body_timeout: listen.body_timeout,
                write_timeout: listen.write_timeout,
                max_connections: limits.max_connections,
                max_connections_per_address: limits.max_connections_per_address,
                max_streams_per_address: limits.max_streams_per_address,
                rate_per_address: limits.rate_per_address,
                burst_per_address: limits.burst_per_address,
                max_event_bytes: limits.max_event_bytes,
                max_batch_bytes: limits.max_batch_bytes,
                max_body_memory: limits.max_body_memory,
                max_batch_events: limits.max_batch_events,
                trusted_proxies: listen.trusted_proxies.clone(),
            },
            hub: hub::Settings {
                queue: QueueLimits {
                    publications: usize::try_from(limits.max_queue.get()).unwrap_or(usize::MAX),
                    bytes: limits.max_queue_bytes,
                },
                canary: observe.canary,
                slow_commit: observe.slow_commit,
                slow_subscriber: observe.slow_subscriber,
            },
            keep: Keep {
                age: keep.age,
                events: keep.events,
                bytes: keep.bytes,
                topics: keep.topics.clone(),
            },
        }
    }
}

/// Refuses to let everybody in from other machines, unless that was asked for.
pub(crate) fn refuse_unasked_openness(
    listen: &[ListenAddress],
    access: Option<&Path>,
    open: bool,
) -> Result<(), String> {
    let mut listen = listen.iter();
    let Some(reachable) = listen.find(|address| !address.is_of_this_machine()) else {
        return Ok(());
    };
    if open || access.is_some() {
        return Ok(());
    }
    Err(format!(
        "other machines can reach {reachable}, and everybody there could publish, read and erase everything; say who may do what with \
         --access FILE (`segno token add NAME` creates one), or start with --open if that is meant"
    ))
}

/// Refuses credentials for pages of all origins.
pub(crate) fn refuse_credentials_of_all(
    origins: &[CorsOrigin],
    credentials: bool,
) -> Result<(), String> {
    match credentials && origins.contains(&CorsOrigin::Any) {
        true => Err(
            "--cors-credentials does not go with --cors-origin '*': any page could then act as whoever has it open; name the origins"
                .into(),
        ),
        false => Ok(()),
    }
}

/// Refuses a queue that the largest batch could never get into.
pub(crate) fn refuse_small_queue(queue_bytes: usize, batch_bytes: usize) -> Result<(), String> {
    match queue_bytes < batch_bytes {
        true => Err(format!(
            "--max-queue-bytes {queue_bytes} is less than --max-batch-bytes {batch_bytes}; raise the one or lower the other, or the \
             largest batch never fits into the queue"
        )),
        false => Ok(()),
    }
}

/// A file that is smaller has little but its tables and one event of 1 MiB; it would keep nothing.
const KEEP_MIN_BYTES: u64 = 10_000_000;

/// A shorter interval is work for nothing.
const CANARY_MIN: Duration = Duration::from_millis(100);

fn parse_collector(text: &str) -> Result<String, String> {
    match cfg!(feature = "otlp") {
        true => Ok(text.into()),
        false => Err(
            "this build cannot send spans; build it with `--features otlp`, or `--features full` for everything".into(),
        ),
    }
}

/// Source: chmod(1); what lies above the last three digits means nothing for a socket.
fn parse_canary(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(interval) if interval >= CANARY_MIN => Ok(interval),
        Ok(_) => Err("the shortest is 100ms".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_batch_events(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|events| (1..=BATCH_MAX_EVENTS).contains(events))
        .ok_or_else(|| format!("a batch has 1 to {BATCH_MAX_EVENTS} events"))
}

/// Two of the largest events fit, whatever is asked for.
fn parse_queue_bytes(text: &str) -> Result<usize, String> {
    parse_bytes_within(text, 2 * DATA_MAX_BYTES, QUEUE_MAX_BYTES)
}

fn parse_kept_bytes(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes if bytes >= KEEP_MIN_BYTES => Ok(bytes),
        _ => Err("the least is 10MB".into()),
    }
}

fn parse_bytes_within(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let bytes = parse_bytes(text)?;
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| (least..=most).contains(bytes))
        .ok_or_else(|| format!("it must be from {least} to {most} bytes"))
}

/// By hand: the crates that read sizes take what nobody should write into a configuration, such as `1.5G` or `10 gigs`.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 8] = [
        ("kB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ];
    let (number, factor) = UNITS
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
        .unwrap_or((text, 1));
    let bytes = number
        .trim()
        .parse()
        .ok()
        .and_then(|number: u64| number.checked_mul(factor));
    bytes.ok_or_else(|| "a size looks like 500MB, 10GB or 2GiB".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        serve: ServeFlags,
    }

    #[test]
    fn the_defaults_of_the_flags_are_those_of_the_settings() {
        let settings = Flags::parse_from(["segno"]).serve.settings();
        let defaults = server::Settings::default();
        assert_eq!(format!("{settings:?}"), format!("{defaults:?}"));
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_bytes("10000000"), Ok(10_000_000));
        assert_eq!(parse_bytes("10GB"), Ok(10_000_000_000));
        assert_eq!(parse_bytes("2 GiB"), Ok(2 << 30));
        for bad in ["", "GB", "-1GB", "1.5GB", "99999999999TB"] {
            assert!(parse_bytes(bad).is_err(), "{bad:?}");
        }
        assert!(parse_kept_bytes("1kB").is_err());
        assert_eq!(parse_queue_bytes("64MiB"), Ok(64 << 20));
        assert!(parse_queue_bytes("1MiB").is_err());
    }
}
