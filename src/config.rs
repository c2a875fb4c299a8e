//! The flags of `segno serve`, each with its variable: read whole before anything is opened, then turned into the plain settings
//! of the rooms below. The doc comments are the help.

use std::{
    net::{IpAddr, SocketAddr},
    num::{NonZeroU32, NonZeroU64},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, ValueEnum};
use humantime::parse_duration;
use ipnet::IpNet;

use crate::{
    event::DATA_MAX_BYTES,
    http::CorsOrigin,
    hub::{self, QUEUE_MAX_BYTES, QueueLimits},
    limits::{self, BATCH_MAX_BYTES, BATCH_MAX_EVENTS, RATE_MAX_EVENTS},
    retention::{Keep, KeepTopics, parse_age},
    server,
};

/// What `segno serve` may be told.
#[derive(Debug, Clone, Args)]
pub struct ServeFlags {
    /// Address to listen on. Containers listen on 0.0.0.0:8000.
    #[arg(long, env = "SEGNO_LISTEN", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,

    /// The file that holds the events; made if there is none.
    #[arg(long, env = "SEGNO_DB", default_value = "segno.db")]
    pub db: PathBuf,

    /// Silence after which a stream shows a sign of life, such as `15s`.
    #[arg(long, env = "SEGNO_HEARTBEAT", default_value = "15s", value_parser = parse_duration)]
    pub heartbeat: Duration,

    /// Origin, such as `https://example.com`, whose pages may use the hub from a browser; `*` for all. May be repeated; in the
    /// variable they are parted by spaces.
    #[arg(
        long = "cors-origin",
        env = "SEGNO_CORS_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ' '
    )]
    pub cors_origins: Vec<CorsOrigin>,

    /// How much is taken, and from whom.
    #[command(flatten)]
    pub limits: LimitsFlags,

    /// Longest wait for open requests and streams after SIGTERM or SIGINT.
    #[arg(long, env = "SEGNO_DRAIN_TIMEOUT", default_value = "10s", value_parser = parse_duration)]
    pub drain_timeout: Duration,

    /// What is kept.
    #[command(flatten)]
    pub keep: KeepFlags,

    /// How the hub watches itself.
    #[command(flatten)]
    pub watch: WatchFlags,

    /// OpenTelemetry collector that takes the spans of requests by OTLP over HTTP, such as `http://localhost:4318`. Without it
    /// no spans are made.
    #[arg(long, env = "SEGNO_OTLP_ENDPOINT", value_name = "URL", value_parser = parse_collector)]
    pub otlp_endpoint: Option<String>,

    /// How traces are written to standard error.
    #[arg(long, env = "SEGNO_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// Print the configuration and everything that is wrong with it, and do not serve. A hub may run meanwhile.
    #[arg(long)]
    pub check_config: bool,
}

impl ServeFlags {
    /// What the server is started with.
    pub fn settings(&self) -> server::Settings {
        let (limits, keep, watch) = (&self.limits, &self.keep, &self.watch);
        server::Settings {
            listen: self.listen,
            db: self.db.clone(),
            heartbeat: self.heartbeat,
            cors_origins: self.cors_origins.clone(),
            drain_timeout: self.drain_timeout,
            limits: limits::Settings {
                header_timeout: limits.header_timeout,
                body_timeout: limits.body_timeout,
                max_connections: limits.max_connections,
                max_connections_per_address: limits.max_connections_per_address,
                max_streams_per_address: limits.max_streams_per_address,
                rate_per_address: limits.rate_per_address,
                burst_per_address: limits.burst_per_address,
                max_event_bytes: limits.max_event_bytes,
                max_batch_bytes: limits.max_batch_bytes,
                max_batch_events: limits.max_batch_events,
                trusted_proxies: limits.trusted_proxies.clone(),
            },
            hub: hub::Settings {
                queue: QueueLimits {
                    publications: usize::try_from(limits.max_queue.get()).unwrap_or(usize::MAX),
                    bytes: limits.max_queue_bytes,
                },
                canary: watch.canary,
                slow_commit: watch.slow_commit,
                slow_subscriber: watch.slow_subscriber,
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

/// How much is taken. What is more gets an answer that names the limit.
#[derive(Debug, Clone, Args)]
pub struct LimitsFlags {
    /// Longest time a request's head may take to arrive, and a connection may idle between requests.
    #[arg(long, env = "SEGNO_HEADER_TIMEOUT", default_value = "30s", value_parser = parse_duration)]
    pub header_timeout: Duration,

    /// Longest time a request's body may take to arrive.
    #[arg(long, env = "SEGNO_BODY_TIMEOUT", default_value = "30s", value_parser = parse_duration)]
    pub body_timeout: Duration,

    /// Connections in all. Fewer where the system allows fewer open files.
    #[arg(long, env = "SEGNO_MAX_CONNECTIONS", default_value = "50000")]
    pub max_connections: NonZeroU32,

    /// Connections of an address. For IPv6 an address is its /64 network, here and below.
    #[arg(
        long,
        env = "SEGNO_MAX_CONNECTIONS_PER_ADDRESS",
        default_value = "10000"
    )]
    pub max_connections_per_address: NonZeroU32,

    /// Streams that an address may have open.
    #[arg(long, env = "SEGNO_MAX_STREAMS_PER_ADDRESS", default_value = "10000")]
    pub max_streams_per_address: NonZeroU32,

    /// Events a second that an address may publish. No limit if not given.
    #[arg(
        long = "max-rate-per-address",
        env = "SEGNO_MAX_RATE_PER_ADDRESS",
        value_name = "EVENTS",
        value_parser = clap::value_parser!(u32).range(1..=RATE_MAX_EVENTS)
    )]
    pub rate_per_address: Option<u32>,

    /// Events that an address may publish at once before its rate counts. As many as in ten seconds if not given.
    #[arg(
        long = "max-burst-per-address",
        env = "SEGNO_MAX_BURST_PER_ADDRESS",
        value_name = "EVENTS",
        requires = "rate_per_address"
    )]
    pub burst_per_address: Option<NonZeroU32>,

    /// Publishing requests that wait for the writer.
    #[arg(
        long,
        env = "SEGNO_MAX_QUEUE",
        default_value = "8192",
        value_name = "REQUESTS"
    )]
    pub max_queue: NonZeroU32,

    /// Bytes of events that wait for the writer.
    #[arg(
        long,
        env = "SEGNO_MAX_QUEUE_BYTES",
        default_value = "64MiB",
        value_name = "BYTES",
        value_parser = parse_queue_bytes
    )]
    pub max_queue_bytes: usize,

    /// Bytes of an event's data; 1MiB at the most.
    #[arg(
        long,
        env = "SEGNO_MAX_EVENT_BYTES",
        default_value = "1MiB",
        value_name = "BYTES",
        value_parser = |text: &str| parse_bytes_within(text, 1, DATA_MAX_BYTES)
    )]
    pub max_event_bytes: usize,

    /// Bytes of the body of a batch; 16MiB at the most.
    #[arg(
        long,
        env = "SEGNO_MAX_BATCH_BYTES",
        default_value = "16MiB",
        value_name = "BYTES",
        value_parser = |text: &str| parse_bytes_within(text, 1, BATCH_MAX_BYTES)
    )]
    pub max_batch_bytes: usize,

    /// Events of a batch; 10000 at the most.
    #[arg(
        long,
        env = "SEGNO_MAX_BATCH_EVENTS",
        default_value = "10000",
        value_name = "EVENTS",
        value_parser = parse_batch_events
    )]
    pub max_batch_events: usize,

    /// Address or network, such as `10.0.0.0/8`, of a proxy whose `X-Forwarded-For` says who the client is. May be repeated;
    /// in the variable they are parted by spaces.
    #[arg(
        long = "trusted-proxy",
        env = "SEGNO_TRUSTED_PROXY",
        value_name = "ADDRESS",
        value_delimiter = ' ',
        value_parser = parse_network
    )]
    pub trusted_proxies: Vec<IpNet>,
}

fn parse_collector(text: &str) -> Result<String, String> {
    match cfg!(feature = "otlp") {
        true => Ok(text.into()),
        false => Err(
            "this build cannot send spans; build it with `--features otlp`, or `--features full` for everything".into(),
        ),
    }
}

fn parse_bytes_within(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let bytes = parse_bytes(text)?;
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| (least..=most).contains(bytes))
        .ok_or_else(|| format!("it is from {least} to {most} bytes"))
}

/// The largest event fits, whatever is asked for.
fn parse_queue_bytes(text: &str) -> Result<usize, String> {
    parse_bytes_within(text, 2 * DATA_MAX_BYTES, QUEUE_MAX_BYTES)
}

/// Refuses a queue that a batch of the largest size could never get into.
pub(crate) fn refuse_small_queue(queue_bytes: usize, batch_bytes: usize) -> Result<(), String> {
    match queue_bytes < batch_bytes {
        true => Err(format!(
            "--max-queue-bytes {queue_bytes} is less than --max-batch-bytes {batch_bytes}: such a batch could never be taken"
        )),
        false => Ok(()),
    }
}

fn parse_batch_events(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|events| (1..=BATCH_MAX_EVENTS).contains(events))
        .ok_or_else(|| format!("it is from 1 to {BATCH_MAX_EVENTS} events"))
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text
        .parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| "an address looks like 10.0.0.1, 10.0.0.0/8 or fd00::/8".into())
}

/// What is kept. Whatever one of the rules calls old is trimmed; without a rule everything is kept.
#[derive(Debug, Clone, Args)]
pub struct KeepFlags {
    /// Keep events for so long, such as `30d`. Without any of the `--keep` flags everything is kept.
    #[arg(long = "keep-age", env = "SEGNO_KEEP_AGE", value_name = "AGE", value_parser = parse_age)]
    pub age: Option<Duration>,

    /// Keep the newest so many events.
    #[arg(long = "keep-events", env = "SEGNO_KEEP_EVENTS", value_name = "EVENTS")]
    pub events: Option<NonZeroU64>,

    /// Keep the newest events that fit into so much of the file, such as `10GB`; 10MB at the least.
    #[arg(
        long = "keep-bytes",
        env = "SEGNO_KEEP_BYTES",
        value_name = "BYTES",
        value_parser = parse_kept_bytes
    )]
    pub bytes: Option<u64>,

    /// Keep less of some topics: `debug.**=1h` for an age, `status/*=100` for the newest events of each topic, or both as
    /// `debug.**=1h,1000`. May be repeated; in the variable, rules are parted by spaces.
    #[arg(
        long = "keep",
        env = "SEGNO_KEEP",
        value_name = "TOPIC=RULE",
        value_delimiter = ' '
    )]
    pub topics: Vec<KeepTopics>,
}

/// How the hub watches itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct WatchFlags {
    /// How often the hub publishes to itself, to see that it works. If nothing came back for three times as long it is not
    /// ready, and for twelve times as long not live.
    #[arg(long, env = "SEGNO_CANARY", default_value = "5s", value_name = "EVERY", value_parser = parse_canary)]
    pub canary: Duration,

    /// A commit that takes longer is told of in the traces.
    #[arg(long, env = "SEGNO_SLOW_COMMIT", default_value = "1s", value_name = "DURATION", value_parser = parse_duration)]
    pub slow_commit: Duration,

    /// A subscriber that is behind for longer is told of in the traces.
    #[arg(long, env = "SEGNO_SLOW_SUBSCRIBER", default_value = "1m", value_name = "DURATION", value_parser = parse_duration)]
    pub slow_subscriber: Duration,
}

/// An empty file takes some pages and one event may be 1 MiB; a bound below that would keep nothing.
const BYTES_MIN: u64 = 10_000_000;

/// More often would be work for nothing.
const CANARY_MIN: Duration = Duration::from_millis(100);

fn parse_canary(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(every) if every >= CANARY_MIN => Ok(every),
        Ok(_) => Err("the shortest is 100ms".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
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

fn parse_kept_bytes(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes if bytes >= BYTES_MIN => Ok(bytes),
        _ => Err("the least is 10MB".into()),
    }
}

/// How traces are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
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

    #[test]
    fn a_proxy_is_an_address_or_a_network() {
        let network = |text: &str| parse_network(text).map(|network| network.to_string());
        assert_eq!(network("10.0.0.1"), Ok("10.0.0.1/32".into()));
        assert_eq!(network("10.0.0.0/8"), Ok("10.0.0.0/8".into()));
        assert_eq!(network("fd00::/8"), Ok("fd00::/8".into()));
        for bad in ["", "proxy", "10.0.0.0/33", "10.0.0", "10.0.0.1:80"] {
            assert!(network(bad).is_err(), "{bad:?}");
        }
    }
}
