//! What the commands may be told, in real types. Parsed whole before anything is opened; the doc comments are the help.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::{NonZeroU32, NonZeroU64},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::{Args, Command, FromArgMatches, Subcommand, ValueEnum};
use humantime::{format_duration, parse_duration};
use ipnet::IpNet;

use crate::{event::DATA_MAX_BYTES, filter::Pattern};

/// What `segno serve` may be told.
#[derive(Debug, Clone, Args)]
pub struct ServeConfig {
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
    pub limits: LimitsConfig,

    /// Longest wait for open requests and streams after SIGTERM or SIGINT.
    #[arg(long, env = "SEGNO_DRAIN_TIMEOUT", default_value = "10s", value_parser = parse_duration)]
    pub drain_timeout: Duration,

    /// What is kept.
    #[command(flatten)]
    pub keep: KeepConfig,

    /// How the hub watches itself.
    #[command(flatten)]
    pub watch: WatchConfig,

    /// OpenTelemetry collector that takes the spans of requests by OTLP over HTTP, such as `http://localhost:4318`. Without it
    /// no spans are made.
    #[arg(long, env = "SEGNO_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// How traces are written to standard error.
    #[arg(long, env = "SEGNO_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// Print the configuration and everything that is wrong with it, and do not serve. A hub may run meanwhile.
    #[arg(long)]
    pub check_config: bool,
}

/// Whose pages may use the hub from a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigin {
    /// Everybody's.
    Any,
    /// Those of one origin, spelled as browsers do: scheme and host in lower case, no usual port, no path.
    Exact(String),
}

/// Text that no browser would send as an origin.
#[derive(Debug, thiserror::Error)]
#[error(
    "an origin looks like https://example.com or http://localhost:3000: in lower case, without a path or a usual port; or *"
)]
pub struct InvalidOrigin;

impl FromStr for CorsOrigin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (scheme, host) = text.split_once("://").ok_or(InvalidOrigin)?;
        let is_usual = match scheme {
            "http" => host.ends_with(":80"),
            "https" => host.ends_with(":443"),
            _ => false,
        };
        let is_plain =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._~+:[]".contains(c);
        match !is_usual
            && !scheme.is_empty()
            && !host.is_empty()
            && text.replacen("://", "", 1).chars().all(is_plain)
        {
            true => Ok(Self::Exact(text.into())),
            false => Err(InvalidOrigin),
        }
    }
}

/// How much is taken. What is more gets an answer that names the limit.
#[derive(Debug, Clone, Args)]
pub struct LimitsConfig {
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

impl Default for LimitsConfig {
    /// As without any flag or variable.
    fn default() -> Self {
        let command = Self::augment_args(Command::new("")).mut_args(|flag| flag.env(None::<&str>));
        let matches = command.get_matches_from([""]);
        Self::from_arg_matches(&matches).expect("every flag has a default or is optional")
    }
}

/// Bytes of the body of a batch. Source: the hub's HTTP contract.
const BATCH_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Events of a batch. Source: the hub's HTTP contract.
pub const BATCH_MAX_EVENTS: usize = 10_000;

/// Bytes that may wait for the writer at the most. Source: a semaphore counts them, and takes 32 bits at once.
const QUEUE_MAX_BYTES: usize = 4 * 1024 * 1024 * 1024 - 1;

/// More events a second than this are no limit: a bucket counts in whole nanoseconds.
const RATE_MAX_EVENTS: i64 = 1_000_000;

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

/// How the hub watches itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct WatchConfig {
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

/// Which file a command works on.
#[derive(Debug, Clone, Args)]
pub struct LogFile {
    /// The file that holds the events.
    #[arg(long, env = "SEGNO_DB", default_value = "segno.db")]
    pub db: PathBuf,
}

/// What `segno backup` may be told.
#[derive(Debug, Clone, Args)]
pub struct BackupConfig {
    /// The copy; there must be no file yet.
    pub file: PathBuf,

    /// The log.
    #[command(flatten)]
    pub log: LogFile,
}

/// What `segno restore` may be told.
#[derive(Debug, Clone, Args)]
pub struct RestoreConfig {
    /// The copy that `segno backup` made.
    pub file: PathBuf,

    /// Replace the file that is there; it is kept under another name.
    #[arg(long)]
    pub replace: bool,

    /// The log.
    #[command(flatten)]
    pub log: LogFile,
}

/// What `segno export` may be told.
#[derive(Debug, Clone, Args)]
pub struct ExportConfig {
    /// Where to write, one event a line; a file that is there already is continued. Standard output if not given.
    pub file: Option<PathBuf>,

    /// Begin after the event with this id.
    #[arg(long, value_name = "ID", conflicts_with = "file")]
    pub after: Option<u64>,

    /// The log.
    #[command(flatten)]
    pub log: LogFile,
}

/// What `segno import` may be told.
#[derive(Debug, Clone, Args)]
pub struct ImportConfig {
    /// What `segno export` wrote. Standard input if not given.
    pub file: Option<PathBuf>,

    /// The log; made if there is none.
    #[command(flatten)]
    pub log: LogFile,
}

/// What `segno check` may be told.
#[derive(Debug, Clone, Args)]
pub struct CheckConfig {
    /// The log.
    #[command(flatten)]
    pub log: LogFile,
}

/// What is kept. Whatever one of the rules calls old is trimmed; without a rule everything is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct KeepConfig {
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

impl KeepConfig {
    /// Whether nothing is ever trimmed.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for KeepConfig {
    /// In words, such as `30days, 1000000 events, debug.** 1h`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("everything");
        }
        let mut rules = in_words(self.age, self.events);
        rules.extend(self.bytes.map(|bytes| format!("{bytes} bytes")));
        rules.extend(self.topics.iter().map(|topics| {
            let of_topics = in_words(topics.age, topics.events).join(", ");
            format!("{} for {of_topics}", topics.topics)
        }));
        f.write_str(&rules.join("; "))
    }
}

fn in_words(age: Option<Duration>, events: Option<NonZeroU64>) -> Vec<String> {
    let age = age.map(|age| format_duration(age).to_string());
    let events = events.map(|events| format!("the newest {events} events"));
    age.into_iter().chain(events).collect()
}

/// What is kept of some topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepTopics {
    /// A topic or a pattern.
    pub topics: Pattern,
    /// Events older than this go.
    pub age: Option<Duration>,
    /// All but the newest so many of each topic go.
    pub events: Option<NonZeroU64>,
}

/// Text that is not a rule for topics.
#[derive(Debug, thiserror::Error)]
#[error("a rule looks like debug.**=1h, status/*=100 or debug.**=1h,1000")]
pub struct InvalidRule;

impl FromStr for KeepTopics {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        let (topics, limits) = text.rsplit_once('=').ok_or(InvalidRule)?;
        let mut rule = Self {
            topics: Pattern::new(topics).map_err(|_| InvalidRule)?,
            age: None,
            events: None,
        };
        for limit in limits.split(',') {
            let is_new = match limit.parse() {
                Ok(events) => rule.events.replace(events).is_none(),
                Err(_) => {
                    let age = parse_age(limit).map_err(|_| InvalidRule)?;
                    rule.age.replace(age).is_none()
                }
            };
            if !is_new {
                return Err(InvalidRule);
            }
        }
        Ok(rule)
    }
}

/// Shortest age that can be asked for: the timer looks no more often.
const AGE_MIN: Duration = Duration::from_secs(1);

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

fn parse_age(text: &str) -> Result<Duration, String> {
    let age = parse_duration(text).map_err(|_| "an age looks like 90s, 12h or 30d")?;
    if age < AGE_MIN {
        return Err("the shortest age is 1s".into());
    }
    Ok(age)
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

/// Where a client finds the hub.
#[derive(Debug, Clone, Args)]
pub struct HubAddress {
    /// The hub.
    #[arg(
        long,
        env = "SEGNO_URL",
        default_value = "http://127.0.0.1:8000",
        value_name = "URL"
    )]
    pub url: String,
}

/// What `segno publish` may be told.
#[derive(Debug, Clone, Args)]
pub struct PublishConfig {
    /// The data: JSON is kept as JSON, anything else becomes a string. Without it, each line of standard input is an event.
    pub data: Option<String>,

    /// Topic to publish on.
    #[arg(long, env = "SEGNO_TOPIC", default_value = "events")]
    pub topic: String,

    /// Type of the events.
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Option<String>,

    /// Key of the event, instead of a generated one. Publishing it again on the topic is not a second event.
    #[arg(long, requires = "data")]
    pub key: Option<String>,

    /// How long to try again while the hub is away.
    #[arg(long, env = "SEGNO_RETRY_FOR", default_value = "1m", value_parser = parse_duration)]
    pub retry_for: Duration,

    /// Where the hub is.
    #[command(flatten)]
    pub hub: HubAddress,
}

/// What `segno tail` may be told.
#[derive(Debug, Clone, Args)]
pub struct TailConfig {
    /// Topic to follow, or a pattern such as `orders.*`; may be repeated. All if not given.
    #[arg(long, short)]
    pub topic: Vec<String>,

    /// Type to follow, or a pattern; may be repeated. All if not given.
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Vec<String>,

    /// Print the whole event as JSON instead of its data.
    #[arg(long)]
    pub json: bool,

    /// Begin with events of this time or later: `15m`, an RFC 3339 time, or `start`.
    #[arg(long, group = "start")]
    pub since: Option<String>,

    /// Begin with the newest so many.
    #[arg(long, group = "start", value_name = "EVENTS")]
    pub last: Option<u64>,

    /// Begin after the event with this id.
    #[arg(long, group = "start", value_name = "ID")]
    pub after: Option<u64>,

    /// Remember the cursor in this file, and go on from it the next time. Written after the output was.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,

    /// End after so many events.
    #[arg(long, value_name = "EVENTS")]
    pub count: Option<u64>,

    /// Reconnect when nothing came for so long, not even a sign of life.
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    pub idle_timeout: Duration,

    /// Where the hub is.
    #[command(flatten)]
    pub hub: HubAddress,
}

/// What `segno ready` may be told.
#[derive(Debug, Clone, Args)]
pub struct ReadyConfig {
    /// How long to ask again while the hub is not ready, such as `30s`. Asks once if not given.
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    pub wait: Duration,

    /// Where the hub is.
    #[command(flatten)]
    pub hub: HubAddress,
}

/// What `segno bench` may be told.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchConfig {
    /// Publish, as fast as the hub answers or at a rate, and check that all of it is in the log.
    Publish(BenchPublishConfig),
    /// Follow with many connections what is published at a rate, and measure how long an event takes to each.
    Follow(BenchFollowConfig),
    /// Publish events, then replay them over and over.
    Replay(BenchReplayConfig),
}

/// What every `segno bench` may be told.
#[derive(Debug, Clone, Args)]
pub struct BenchRunConfig {
    /// How long to measure.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,

    /// Bytes of an event's data.
    #[arg(long, default_value_t = 100)]
    pub bytes: usize,

    /// Topics the events are spread over, named `bench.<run>.<number>`.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub topics: u32,

    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,

    /// Where the hub is.
    #[command(flatten)]
    pub hub: HubAddress,
}

/// What `segno bench publish` may be told.
#[derive(Debug, Clone, Args)]
pub struct BenchPublishConfig {
    /// Connections that publish at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,

    /// Events a second in all; as fast as the hub answers if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,

    /// Events of one request.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,

    /// What every run may be told.
    #[command(flatten)]
    pub run: BenchRunConfig,
}

/// What `segno bench follow` may be told.
#[derive(Debug, Clone, Args)]
pub struct BenchFollowConfig {
    /// Connections that follow, each one of the topics.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,

    /// Connections that publish.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub publishers: u32,

    /// Events a second in all; 0 is as fast as the hub answers.
    #[arg(long, default_value_t = 25)]
    pub rate: u32,

    /// What every run may be told.
    #[command(flatten)]
    pub run: BenchRunConfig,
}

/// What `segno bench replay` may be told.
#[derive(Debug, Clone, Args)]
pub struct BenchReplayConfig {
    /// Connections that replay at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,

    /// Events to publish first, and to replay.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub events: u32,

    /// What every run may be told.
    #[command(flatten)]
    pub run: BenchRunConfig,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_for_topics_is_an_age_a_number_of_events_or_both() {
        let rule = |text: &str| text.parse::<KeepTopics>().ok();
        let expected = |topics, age, events: Option<u64>| {
            Some(KeepTopics {
                topics: Pattern::new(topics).unwrap(),
                age,
                events: events.and_then(NonZeroU64::new),
            })
        };
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(rule("debug.**=1h"), expected("debug.**", hour, None));
        assert_eq!(rule("status/*=1"), expected("status/*", None, Some(1)));
        assert_eq!(rule("a=b=1h,20"), expected("a=b", hour, Some(20)));
        for bad in [
            "debug", "debug=", "=1h", "a=0", "a=1h,2h", "a=1,2", "a b=1h", "a=1ms", "a=x",
        ] {
            assert_eq!(rule(bad), None, "{bad:?}");
        }
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
    fn an_origin_is_spelled_as_browsers_do() {
        for good in [
            "https://example.com",
            "http://localhost:3000",
            "http://[::1]:8080",
            "chrome-extension://abcdefgh",
            "https://xn--bcher-kva.example",
        ] {
            let exact = CorsOrigin::Exact(good.into());
            assert_eq!(good.parse::<CorsOrigin>().unwrap(), exact);
        }
        assert_eq!("*".parse::<CorsOrigin>().unwrap(), CorsOrigin::Any);
        for bad in [
            "",
            "null",
            "example.com",
            "https://",
            "://example.com",
            "https://example.com/",
            "https://Example.com",
            "https://example.com:443",
            "http://example.com:80",
            "https://*.example.com",
            "https://bücher.example",
        ] {
            assert!(bad.parse::<CorsOrigin>().is_err(), "{bad:?}");
        }
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

    #[test]
    fn what_is_kept_is_told_in_words() {
        let keep = KeepConfig {
            age: Some(Duration::from_secs(30 * 86400)),
            events: NonZeroU64::new(1000),
            bytes: None,
            topics: vec!["debug.**=1h,10".parse().unwrap()],
        };
        assert_eq!(
            keep.to_string(),
            "30days; the newest 1000 events; debug.** for 1h, the newest 10 events"
        );
        assert_eq!(KeepConfig::default().to_string(), "everything");
    }
}
