//! A stream of NATS JetStream that puts the commands of a cluster in order. The only room that knows the client of NATS; what
//! the messages mean is the hub's.
//!
//! What the client and the servers do when one of them dies was measured, and is dealt with here:
//! * A consumer may leave out a message in silence. The next sequence must be the last one and 1; else it is read anew.
//! * A consumer may stand still for half a minute. A heartbeat of half a second, and a new consumer when one is missing.
//! * No consumer can be made for some seconds after a server that made them died. A single message can be had without one.
//! * A message that was not acknowledged may be in the stream all the same. It is sent again under the same id.

use std::{io, path::PathBuf, pin::pin, time::Duration};

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
use futures_util::{StreamExt, future::pending};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Longest wait for one answer of a server.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Heartbeat of a consumer. Without one for twice as long it is made anew.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// How long a message that the stream is known to have may stay away before it is asked for by its sequence.
const LATE_AFTER: Duration = Duration::from_millis(250);

/// Messages asked for at once: a catch-up is not held up by round trips, and no more than these wait in memory.
const BATCH_MESSAGES: usize = 256;

/// Bytes asked for at once, of which one message may take all.
const BATCH_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Messages that were read and wait to be applied.
const READ_AHEAD_MESSAGES: usize = 64;

/// How often a sequence that nobody has is asked for, before it counts as gone: a server may be behind the others.
const GONE_AFTER_TRIES: u32 = 20;

/// Bytes of a message that are not its payload: its subject and its headers.
const ENVELOPE_BYTES: usize = 1024;

/// Keys of the stream's metadata.
const EPOCH: &str = "segno.epoch";
const LOG_ID: &str = "segno.log";
const FORMAT: &str = "segno.format";
const BEGINS_EMPTY: &str = "segno.begins_empty";

/// The commands that the hubs of this version know.
pub const COMMANDS_FORMAT: &str = "1";

/// Where the stream is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Addresses of the servers, such as `nats://127.0.0.1:4222`.
    pub servers: Vec<String>,
    /// Name of the stream, and of its one subject.
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
    /// The commands that the hubs have to know.
    pub format: String,
    /// Sequence of the oldest command kept; one above the newest where there is none.
    pub first_sequence: u64,
    /// Sequence of the newest command.
    pub last_sequence: u64,
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
        let client = options
            .connect(servers.collect::<Result<Vec<_>, _>>()?)
            .await
            .map_err(Error::Connect)?;
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
            (FORMAT, COMMANDS_FORMAT.to_owned()),
            (BEGINS_EMPTY, new.begins_empty.to_string()),
        ];
        let config = Config {
            name: self.name.clone(),
            subjects: vec![self.name.clone()],
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
            format: value(FORMAT)?,
            first_sequence: info.state.first_sequence.max(1),
            last_sequence: info.state.last_sequence,
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
    pub async fn propose(&self, id: &str, payload: Bytes) -> Result<u64, ProposeError> {
        let message = PublishMessage::build().payload(payload).message_id(id);
        let sent = timeout(
            ANSWER_WITHIN,
            self.context.send_publish(self.name.clone(), message),
        )
        .await;
        let acknowledged = match sent {
            Ok(Ok(sent)) => sent.await,
            Ok(Err(error)) => Err(error),
            Err(_) => return Err(ProposeError::Unacknowledged("no connection".into())),
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
    pub fn follow(&self, applied: u64) -> Follower {
        let (entries, read) = mpsc::channel(READ_AHEAD_MESSAGES);
        let (acknowledged, known) = watch::channel(applied);
        let reader = Reader {
            stream: self.clone(),
            next: applied + 1,
            entries,
            known,
        };
        Follower {
            entries: read,
            acknowledged,
            reading: tokio::spawn(reader.run()),
        }
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
            ack_policy: AckPolicy::None,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: Duration::from_secs(30),
            ..pull::Config::default()
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

/// What a reader found.
#[derive(Debug)]
pub enum Read {
    /// The next command.
    Entry(Entry),
    /// The next command is no more: it was deleted, or is older than what the stream keeps. Nothing follows.
    Gone(u64),
}

/// Reads a stream. The reading ends when it is dropped.
#[derive(Debug)]
pub struct Follower {
    entries: mpsc::Receiver<Read>,
    acknowledged: watch::Sender<u64>,
    reading: JoinHandle<()>,
}

impl Follower {
    /// Waits for the next commands, and puts them behind `read`: at least one, at most `limit`.
    ///
    /// Dropping the future loses nothing.
    pub async fn read(&mut self, read: &mut Vec<Read>, limit: usize) {
        if self.entries.recv_many(read, limit).await == 0 {
            // After the last that there can be.
            pending().await
        }
    }

    /// Tells that the stream has this sequence, so that it is fetched if it does not come.
    pub fn knows(&self, sequence: u64) {
        self.acknowledged
            .send_if_modified(|known| std::mem::replace(known, sequence.max(*known)) < sequence);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

struct Reader {
    stream: JetStream,
    next: u64,
    entries: mpsc::Sender<Read>,
    known: watch::Receiver<u64>,
}

/// Nobody reads any more, or nothing follows.
struct Ended;

impl Reader {
    async fn run(mut self) {
        let mut missed = 0;
        loop {
            let before = self.next;
            let consumed = timeout(ANSWER_WITHIN, self.stream.consume(self.next)).await;
            let ended = match consumed {
                Ok(Ok(messages)) => self.consume(messages).await,
                Ok(Err(error)) => {
                    tracing::debug!(error, "no consumer");
                    self.fetch_known().await
                }
                Err(_) => self.fetch_known().await,
            };
            missed = if self.next == before { missed + 1 } else { 0 };
            if ended.is_err() || (missed > 1 && self.find_out_if_gone().await.is_err()) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Reads until a sequence is left out, or a heartbeat.
    async fn consume(&mut self, messages: pull::Stream) -> Result<(), Ended> {
        let mut messages = pin!(messages);
        loop {
            let (known, next) = (&mut self.known, self.next);
            let late = async {
                if known.wait_for(|known| *known >= next).await.is_err() {
                    pending::<()>().await;
                }
                sleep(LATE_AFTER).await;
            };
            let message = tokio::select! {
                message = messages.next() => message,
                () = late => {
                    self.fetch_known().await?;
                    continue;
                }
            };
            let Some(Ok(message)) = message else {
                return Ok(());
            };
            let Ok(sequence) = message.info().map(|info| info.stream_sequence) else {
                return Ok(());
            };
            if sequence > self.next {
                return Ok(());
            }
            if sequence == self.next {
                let payload = message.payload.clone();
                self.hand_on(Entry { sequence, payload }).await?;
            }
        }
    }

    /// Fetches, one by one, what the stream is known to have.
    async fn fetch_known(&mut self) -> Result<(), Ended> {
        while *self.known.borrow() >= self.next {
            match self.stream.entry(self.next).await {
                Ok(Some(entry)) => self.hand_on(entry).await?,
                Ok(None) | Err(_) => break,
            }
        }
        Ok(())
    }

    /// Whether the next sequence was there and is no more.
    async fn find_out_if_gone(&mut self) -> Result<(), Ended> {
        let is_over = |about: &About| about.last_sequence >= self.next;
        if !self.stream.about().await.is_ok_and(|about| is_over(&about)) {
            return Ok(());
        }
        for _ in 0..GONE_AFTER_TRIES {
            match self.stream.entry(self.next).await {
                Ok(Some(entry)) => return self.hand_on(entry).await,
                Ok(None) => sleep(LATE_AFTER).await,
                Err(_) => return Ok(()),
            }
        }
        _ = self.entries.send(Read::Gone(self.next)).await;
        Err(Ended)
    }

    async fn hand_on(&mut self, entry: Entry) -> Result<(), Ended> {
        self.next = entry.sequence + 1;
        let sent = self.entries.send(Read::Entry(entry)).await;
        sent.map_err(|_| Ended)
    }
}
