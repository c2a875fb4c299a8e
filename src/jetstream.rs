//! A stream of NATS JetStream that puts the commands of a cluster in order. The only room that knows the client of NATS; what
//! the messages mean is the hub's.
//!
//! What the client and the servers do when one of them dies was measured, and is dealt with here:
//! * A consumer may leave out a message in silence. The next sequence must be the last one and 1; else it is read anew.
//! * A consumer may stand still for half a minute. A heartbeat of half a second, and a new consumer when one is missing.
//! * No consumer can be made for some seconds after a server that made them died. A single message can be had without one.
//! * A message that was not acknowledged may be in the stream all the same. It is sent again under the same id.

mod follower;

use std::{io, path::PathBuf, time::Duration};

use async_nats::{
    ConnectOptions, ServerAddr,
    jetstream::{
        self, Context,
        consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
        context::PublishErrorKind,
        message::PublishMessage,
        stream::{self, Config, DirectGetErrorKind, DiscardPolicy, RetentionPolicy, StorageType},
    },
};
use bytes::Bytes;
use futures_util::StreamExt;
use percent_encoding::percent_decode_str;
use tokio::time::{sleep, timeout};

pub use self::follower::{Follower, Read};
use crate::metrics::ClusterMetrics;

/// Longest wait for one answer of a server.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Longest wait for an acknowledgement before a command is sent again, with the same id. A server that stops in good order takes what is
/// on its way with it, and has handed over by then.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(1);

/// How long somebody who waits for the first answer should wait.
pub const OPENED_WITHIN: Duration = Duration::from_secs(10);

/// Heartbeat of a consumer. Without one for twice as long it is made anew.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// How long a message that the stream is known to have may stay away before it is asked for by its sequence.
const LATE_AFTER: Duration = Duration::from_millis(250);

/// Messages asked for at once: a catch-up is not held up by round trips, and no more than these wait in memory.
const BATCH_MESSAGES: usize = 256;

/// Bytes asked for at once, of which one message may take all.
const BATCH_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Bytes of a message that are not its payload: its subject and its headers.
const ENVELOPE_BYTES: usize = 1024;

/// Keys of the stream's metadata.
const EPOCH: &str = "segno.epoch";
const LOG_ID: &str = "segno.log";
const FORMAT: &str = "segno.format";
const BEGINS_EMPTY: &str = "segno.begins_empty";

/// The commands that the hubs of this version know: those of this format, and of all before it.
pub const COMMANDS_FORMAT: u32 = 1;

/// Where the stream is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Addresses of the servers, such as `nats://127.0.0.1:4222`, or `nats://user:password@127.0.0.1:4222`.
    pub servers: Vec<String>,
    /// Name of the stream, and of the subject of its commands. Beats have one for each hub.
    pub stream: String,
    /// File with the credentials of NATS.
    pub credentials: Option<PathBuf>,
    /// File with the authorities of the servers' certificates, as PEM.
    pub ca: Option<PathBuf>,
}

/// What a stream is made with.
#[derive(Debug, Clone)]
pub struct NewStream {
    /// UUID of this order.
    pub epoch: String,
    /// The log that the commands make.
    pub log_id: String,
    /// Whether the log has no events before the first command.
    pub begins_empty: bool,
    /// The commands that the hubs may propose.
    pub format: u32,
    /// Servers that keep a copy.
    pub replicas: usize,
    /// How long a command is kept.
    pub max_age: Duration,
    /// Bytes of commands that are kept.
    pub max_bytes: u64,
}

/// What is known of a stream.
#[derive(Debug, Clone)]
pub struct About {
    /// UUID of this order.
    pub epoch: String,
    /// The log that the commands make.
    pub log_id: String,
    /// Whether the log has no events before the first command.
    pub begins_empty: bool,
    /// The commands that the hubs may propose, and have to know: those of this format, and of all before it.
    pub format: u32,
    /// Sequence of the oldest command kept; one above the newest where there is none.
    pub first_sequence: u64,
    /// Sequence of the newest command.
    pub last_sequence: u64,
    /// Commands between these two that are gone: events in them were erased.
    pub deleted: u64,
    /// Servers that keep a copy.
    pub replicas: usize,
    /// Servers that have all of it now, the leader too.
    pub current_replicas: usize,
}

/// Why the stream cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file with credentials or authorities cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not the address of a server.
    #[error("{0} is not the address of a NATS server, such as nats://10.0.0.1:4222")]
    Address(String),
    /// The servers' addresses cannot be used.
    #[error("cannot connect to NATS")]
    Connect(#[source] async_nats::ConnectError),
    /// No stream has this name.
    #[error("NATS has no stream {0}; `segno cluster init` makes it, once")]
    NoStream(String),
    /// A stream that segno did not make.
    #[error("the stream {0} was not made by segno cluster init")]
    Foreign(String),
    /// The servers did not answer, or not as they should.
    #[error("NATS did not answer: {0}")]
    Unanswered(String),
}

/// Why a command may not have been put in order.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// It was not sent: it is larger than the servers take.
    #[error("the command is larger than max_payload of NATS")]
    TooLarge,
    /// Nobody knows. To be sent again under the same id.
    #[error("no acknowledgement: {0}")]
    Unacknowledged(String),
}

/// What a command is filed under. All have one order.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// What changes the log.
    Commands,
    /// What the hub of this name tells of itself.
    Beats(&'a str),
}

/// What a hub told, by the clock of the servers.
#[derive(Debug)]
pub struct Told {
    /// The command.
    pub payload: Bytes,
    /// How long ago.
    pub age: Duration,
    /// When, in milliseconds since 1970.
    pub published_ms: i64,
}

/// A command as it stands in the stream.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its place in the order.
    pub sequence: u64,
    /// What was proposed.
    pub payload: Bytes,
}

/// The stream. Cheap to clone.
#[derive(Debug, Clone)]
pub struct JetStream {
    context: Context,
    name: String,
}

impl JetStream {
    /// Begins to connect, and goes on trying while there is no server. Does not wait.
    pub async fn open(settings: &Settings) -> Result<Self, Error> {
        let mut options = ConnectOptions::new()
            .name("segno")
            .retry_on_initial_connect()
            .connection_timeout(ANSWER_WITHIN)
            .request_timeout(Some(ANSWER_WITHIN))
            .ping_interval(ANSWER_WITHIN)
            .max_reconnects(None)
            .reconnect_delay_callback(|attempts| {
                Duration::from_millis(if attempts < 10 { 100 } else { 500 })
            });
        if let Some(path) = &settings.credentials {
            options = options
                .credentials_file(path)
                .await
                .map_err(|source| Error::File {
                    path: path.clone(),
                    source,
                })?;
        }
        if let Some(path) = &settings.ca {
            std::fs::metadata(path).map_err(|source| Error::File {
                path: path.clone(),
                source,
            })?;
            options = options.add_root_certificates(path.clone());
        }
        let address = |server: &String| {
            server
                .parse::<ServerAddr>()
                .map_err(|_| Error::Address(server.clone()))
        };
        let servers = settings.servers.iter().map(address);
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        // The client reads them from no address.
        let login = servers
            .iter()
            .find_map(|server| Some((server.username()?, server.password()?)));
        if let Some((user, password)) = login {
            let decoded = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
            options = options.user_and_password(decoded(user), decoded(password));
        }
        let client = options.connect(servers).await.map_err(Error::Connect)?;
        let mut context = jetstream::new(client);
        context.set_timeout(ANSWER_WITHIN);
        Ok(Self {
            context,
            name: settings.stream.clone(),
        })
    }

    /// Makes the stream. Fails if there is one of this name that is another.
    pub async fn create(&self, new: NewStream) -> Result<(), Error> {
        let metadata = [
            (EPOCH, new.epoch),
            (LOG_ID, new.log_id),
            (FORMAT, new.format.to_string()),
            (BEGINS_EMPTY, new.begins_empty.to_string()),
        ];
        let config = Config {
            name: self.name.clone(),
            subjects: vec![self.name.clone(), self.beats_of("*")],
            storage: StorageType::File,
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            num_replicas: new.replicas,
            max_age: new.max_age,
            max_bytes: i64::try_from(new.max_bytes).unwrap_or(i64::MAX),
            // Any server answers, and there is one that has it.
            allow_direct: true,
            // A command may be sent again for as long as its hub waits, which is far less.
            duplicate_window: Duration::from_mins(2).min(new.max_age),
            metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
            ..Config::default()
        };
        let created = self.context.create_stream(config).await;
        created
            .map(drop)
            .map_err(|error| Error::Unanswered(error.to_string()))
    }

    /// Whether there is a stream of this name, and what is known of it.
    pub async fn about(&self) -> Result<About, Error> {
        let stream = self.stream().await;
        let info = match stream.get_info().await {
            Ok(info) => info,
            Err(error)
                if error.to_string().contains("10059")
                    || error.to_string().contains("not found") =>
            {
                return Err(Error::NoStream(self.name.clone()));
            }
            Err(error) => return Err(Error::Unanswered(error.to_string())),
        };
        let metadata = &info.config.metadata;
        let value = |key| {
            let value = metadata.get(key).cloned();
            value.ok_or_else(|| Error::Foreign(self.name.clone()))
        };
        let followers = info.cluster.as_ref().map_or(0, |cluster| {
            let replicas = cluster.replicas.iter();
            replicas
                .filter(|peer| peer.current && !peer.offline)
                .count()
        });
        Ok(About {
            epoch: value(EPOCH)?,
            log_id: value(LOG_ID)?,
            begins_empty: value(BEGINS_EMPTY)? == "true",
            format: value(FORMAT)?
                .parse()
                .map_err(|_| Error::Foreign(self.name.clone()))?,
            first_sequence: info.state.first_sequence.max(1),
            last_sequence: info.state.last_sequence,
            deleted: info.state.deleted_count.unwrap_or(0),
            replicas: info.config.num_replicas,
            current_replicas: followers + 1,
        })
    }

    /// The same, and waits for a server to answer.
    pub async fn about_within(&self, longest: Duration) -> Result<About, Error> {
        let asking = async {
            loop {
                match self.about().await {
                    Err(Error::Unanswered(_)) => sleep(LATE_AFTER).await,
                    about => return about,
                }
            }
        };
        match timeout(longest, asking).await {
            Ok(about) => about,
            Err(_) => self.about().await,
        }
    }

    /// Bytes that a command may have.
    pub fn command_max_bytes(&self) -> usize {
        self.context
            .client()
            .max_payload()
            .saturating_sub(ENVELOPE_BYTES)
    }

    /// Has a command put in order, and returns its sequence. Tried once; a command that was sent before under the same `id` is
    /// found again and not put in order twice.
    pub async fn propose(
        &self,
        subject: Subject<'_>,
        id: &str,
        payload: Bytes,
    ) -> Result<u64, ProposeError> {
        let subject = match subject {
            Subject::Commands => self.name.clone(),
            Subject::Beats(hub) => self.beats_of(hub),
        };
        let message = PublishMessage::build().payload(payload).message_id(id);
        let asking = async { self.context.send_publish(subject, message).await?.await };
        let Ok(acknowledged) = timeout(ACKNOWLEDGED_WITHIN, asking).await else {
            return Err(ProposeError::Unacknowledged("no answer in time".into()));
        };
        match acknowledged {
            Ok(acknowledged) => Ok(acknowledged.sequence),
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(ProposeError::TooLarge)
            }
            Err(error) => Err(ProposeError::Unacknowledged(error.to_string())),
        }
    }

    /// The command with this sequence; `None` if no server that answers has it.
    pub async fn entry(&self, sequence: u64) -> Result<Option<Entry>, Error> {
        let stream = self.stream().await;
        match timeout(ANSWER_WITHIN, stream.direct_get(sequence)).await {
            Ok(Ok(message)) => Ok(Some(Entry {
                sequence: message.sequence,
                payload: message.payload,
            })),
            Ok(Err(error)) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Ok(Err(error)) => Err(Error::Unanswered(error.to_string())),
            Err(_) => Err(Error::Unanswered("no answer in time".into())),
        }
    }

    /// Reads what comes after `applied`, for ever, each sequence once and none left out.
    pub fn follow(&self, applied: u64, metrics: ClusterMetrics) -> Follower {
        Follower::begin(self.clone(), applied, metrics)
    }

    /// The newest beat of each hub that ever told of itself, as far as the stream goes back.
    pub async fn newest_beats(&self) -> Result<Vec<Told>, Error> {
        let unanswered = |error: &dyn std::fmt::Display| Error::Unanswered(error.to_string());
        let config = pull::Config {
            deliver_policy: DeliverPolicy::LastPerSubject,
            filter_subject: self.beats_of("*"),
            ..reading()
        };
        let reading = async {
            let stream = self.stream().await;
            let consumer: PullConsumer = stream
                .create_consumer(config)
                .await
                .map_err(|error| unanswered(&error))?;
            // Ends when there are no more.
            let batch = consumer.fetch().max_messages(BATCH_MESSAGES).messages();
            let mut messages = batch.await.map_err(|error| unanswered(&error))?;
            // By the clock of the servers, as the time of a message is.
            let now = consumer.cached_info().created;
            let mut beats = Vec::new();
            while let Some(message) = messages.next().await {
                let message = message.map_err(|error| unanswered(&error))?;
                let published = message
                    .info()
                    .map_err(|error| unanswered(&error))?
                    .published;
                let published_ms = published.unix_timestamp_nanos() / 1_000_000;
                beats.push(Told {
                    payload: message.payload.clone(),
                    age: Duration::try_from(now - published).unwrap_or_default(),
                    published_ms: i64::try_from(published_ms).unwrap_or(i64::MAX),
                });
            }
            Ok(beats)
        };
        timeout(ANSWER_WITHIN, reading)
            .await
            .unwrap_or_else(|_| Err(Error::Unanswered("no answer in time".into())))
    }

    /// Overwrites a command with random bytes in every server's store, and removes it. Nothing happens if it is gone already.
    ///
    /// Their Raft logs are overwritten 2 to 3 minutes later, by themselves.
    pub async fn delete(&self, sequence: u64) -> Result<(), Error> {
        match timeout(ANSWER_WITHIN, async {
            self.stream().await.delete_message(sequence).await
        })
        .await
        {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => match self.entry(sequence).await? {
                None => Ok(()),
                Some(_) => Err(Error::Unanswered(error.to_string())),
            },
            Err(_) => Err(Error::Unanswered("no answer in time".into())),
        }
    }

    /// Allows commands up to those of `format`. To be called when all hubs know them.
    pub async fn raise_format(&self, format: u32) -> Result<(), Error> {
        let stream = self.stream().await;
        let info = stream
            .get_info()
            .await
            .map_err(|error| Error::Unanswered(error.to_string()))?;
        let mut config = info.config;
        config.metadata.insert(FORMAT.into(), format.to_string());
        let updated = self.context.update_stream(config).await;
        updated
            .map(drop)
            .map_err(|error| Error::Unanswered(error.to_string()))
    }

    fn beats_of(&self, hub: &str) -> String {
        format!("{}.beat.{hub}", self.name)
    }

    async fn stream(&self) -> stream::Stream<()> {
        self.context
            .get_stream_no_info(&self.name)
            .await
            .expect("the name is one that a stream can have")
    }

    async fn consume(&self, from: u64) -> Result<pull::Stream, String> {
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: from,
            },
            ..reading()
        };
        let consumer: PullConsumer = self
            .stream()
            .await
            .create_consumer(config)
            .await
            .map_err(|error| error.to_string())?;
        consumer
            .stream()
            .max_messages_per_batch(BATCH_MESSAGES)
            .max_bytes_per_batch(BATCH_MAX_BYTES)
            .expires(Duration::from_secs(30))
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|error| error.to_string())
    }
}

/// A consumer that nobody has to take away, and whose messages nobody acknowledges.
fn reading() -> pull::Config {
    pull::Config {
        ack_policy: AckPolicy::None,
        memory_storage: true,
        num_replicas: 1,
        inactive_threshold: Duration::from_secs(30),
        ..pull::Config::default()
    }
}
