//! What the commands may be told, in real types. Parsed whole before anything is opened; the doc comments are the help.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use humantime::parse_duration;

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

    /// Longest time a request's head may take to arrive, and a connection may idle between requests.
    #[arg(long, env = "SEGNO_HEADER_TIMEOUT", default_value = "30s", value_parser = parse_duration)]
    pub header_timeout: Duration,

    /// Longest time a request's body may take to arrive.
    #[arg(long, env = "SEGNO_BODY_TIMEOUT", default_value = "30s", value_parser = parse_duration)]
    pub body_timeout: Duration,

    /// Connections served at once; more wait until one ends.
    #[arg(long, env = "SEGNO_MAX_CONNECTIONS", default_value_t = 50_000)]
    pub max_connections: usize,

    /// Longest wait for open requests and streams after SIGTERM or SIGINT.
    #[arg(long, env = "SEGNO_DRAIN_TIMEOUT", default_value = "10s", value_parser = parse_duration)]
    pub drain_timeout: Duration,

    /// How traces are written to standard error.
    #[arg(long, env = "SEGNO_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
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
