//! The durable, ordered sequence of all events, in one SQLite file. All SQL of the hub is here.
//!
//! [`EventLog`] reads and may be cloned; [`Appender`] writes and there is one for a file, because opening takes a lock
//! beside it. Nothing here knows of channels or HTTP.
//!
//! Invariants:
//! * What [`Appender::append`] returned is committed and synced (WAL, `synchronous=full`).
//! * Ids and times grow along the log; an id is never used twice (`autoincrement`).
//! * A read takes one page and ends. No statement stays open while a subscriber is slow: that would pin the WAL.

mod copy;
mod highest;
mod place;

use std::{
    collections::HashMap,
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::TryStreamExt;
use sqlx::{
    ConnectOptions, Connection, Either, Executor, Row, SqliteConnection, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{
        SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow,
        SqliteSynchronous,
    },
};

pub use self::copy::{CopyError, Findings, backup, check, restore};
use self::{
    highest::{Highest, UNNOTED_MAX_IDS},
    place::Place,
};
use crate::{
    event::{Data, Event, EventId, EventType, Key, NewEvent, Timestamp, Topic},
    filter::{Filter, Topics},
};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// What `pragma application_id` says of a file that segno made: "SEGN".
const APPLICATION_ID: i32 = 0x5345_474E;

/// Readers that work at once. More would wait for the processor: a page is read from memory as a rule.
const READERS: u32 = 4;

/// Rows that a reader's thread runs ahead of the one who takes them; each may be 1 MiB.
const READ_AHEAD_ROWS: usize = 32;

/// How long a write waits for another process that holds the file, such as a `sqlite3` shell in a transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of data after which a page ends, however few events it has.
///
/// This, times the subscribers that replay at once, is the memory that replay takes.
const PAGE_MAX_BYTES: usize = 64 * 1024;

/// Rows one statement looks at for a filter that no index serves.
const SCAN_MAX_ROWS: i64 = 4096;

/// Names of topics that are held against patterns to find the few that match. A leap to the next name costs 2 µs, about as
/// much as a row of a scan: a look in vain takes no longer than the scan before it.
const FEW_OF_MAX_TOPICS: i64 = 4096;

/// Topics that are few: so many pages are read from the index and put together.
const FEW_TOPICS: usize = 64;

/// Events that one step of trimming takes at most, so that a commit never waits long for one.
///
/// Source: such a step took 2 to 4 ms on a disk where an fsync takes 1 ms; `tests/integration/retention.rs` measures what
/// publishers see of it.
const TRIM_STEP_MAX_EVENTS: i64 = 512;

/// Bytes of data after which a step of trimming ends, one event at the least.
const TRIM_STEP_MAX_BYTES: i64 = 256 * 1024;

/// Free pages that one step of shrinking gives back to the system: 64, which took 0.3 ms.
const SHRINK_STEP: &str = "pragma incremental_vacuum(64)";

/// Reads the event log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EventLog {
    pool: SqlitePool,
    path: Arc<Path>,
    id: Arc<str>,
    lost: Arc<[Lost]>,
}

/// Writes the event log: the only one that does.
#[derive(Debug)]
pub struct Appender {
    connection: SqliteConnection,
    last_id: EventId,
    last_created_at: Timestamp,
    place: Place,
    /// Held as long as this is, and with it the file.
    _lock: File,
}

/// Why a file was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("another segno is running on {0}")]
    InUse(PathBuf),
    /// SQLite, but somebody else's, or not SQLite at all.
    #[error("{0} is not a segno file; it is left as it is")]
    NotSegno(PathBuf),
    /// A newer segno has changed its tables.
    #[error("{0} was written by a newer segno; run that one")]
    Newer(PathBuf),
    /// SQLite found that what is needed to start is broken.
    #[error("{0} is damaged: `segno check` says where, `segno restore` puts a backup in its place")]
    Corrupt(PathBuf),
    /// The file is there, and may only be read; or what is beside it.
    #[error("{0}, or its -wal or -shm beside it, may not be written by this user")]
    ReadOnly(PathBuf),
    /// The note of the highest id is not one.
    #[error(
        "{0} does not hold an id; remove it if you are sure that the log beside it is not an older copy"
    )]
    InvalidHighest(PathBuf),
    /// The file or its folder cannot be read or written.
    #[error("cannot open {path}")]
    Io {
        /// The file that was asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Anything else SQLite said.
    #[error("cannot open {path}")]
    Sqlite {
        /// The file that was asked for.
        path: PathBuf,
        /// What SQLite said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why the event log did not do what it was asked. Of an append, nothing is stored then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No room on the disk.
    #[error("the disk is full")]
    Full(#[source] sqlx::Error),
    /// The file may not be written.
    #[error("the file of the event log is read-only")]
    ReadOnly(#[source] sqlx::Error),
    /// Another process holds the file, and held it longer than a write waits.
    #[error("another process holds the file of the event log")]
    Busy(#[source] sqlx::Error),
    /// The file, its WAL or the index of the WAL is not where it was opened. What were written now would be gone with the
    /// process.
    #[error("{0} was moved, deleted or replaced while it was open")]
    Moved(PathBuf),
    /// What was read is not as SQLite wrote it.
    #[error("the file of the event log is damaged")]
    Corrupt(#[source] sqlx::Error),
    /// The disk, or what stands for it, did not read, write or sync.
    ///
    /// Trying again is right, also after a sync: the WAL's end is not moved by a commit that failed, so the next one writes
    /// the same place anew, and what a system that forgets unsynced pages has forgotten is not missed. Until then a crash
    /// may bring back what was refused: it was written, and nobody knows whether it arrived.
    #[error("the disk failed")]
    Disk(#[source] sqlx::Error),
    /// Anything else.
    #[error("the event log failed")]
    Other(#[source] sqlx::Error),
}

impl From<sqlx::Error> for Error {
    /// Sorts by SQLite's primary result code. Source: <https://sqlite.org/rescode.html>.
    fn from(error: sqlx::Error) -> Self {
        match primary_code(&error) {
            Some(5 | 6) => Self::Busy(error),
            Some(8) => Self::ReadOnly(error),
            Some(10) => Self::Disk(error),
            Some(11 | 26) => Self::Corrupt(error),
            Some(13) => Self::Full(error),
            _ => Self::Other(error),
        }
    }
}

fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// An event that a publisher gave, where it now stands.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The event in the log.
    pub event: Arc<Event>,
    /// Whether its key was there before, so that nothing was added.
    pub duplicate: bool,
}

/// A key that stands in the log with another type or other data.
#[derive(Debug, Clone, thiserror::Error)]
#[error("key '{}' was used on topic '{}' for another event, {id}", key.as_str(), topic.as_str())]
pub struct KeyConflict {
    /// The topic that both events have.
    pub topic: Topic,
    /// The key that both events have.
    pub key: Key,
    /// The event that has it.
    pub id: EventId,
}

/// The events that were given together, or why none of them was taken.
pub type Outcome = Result<Vec<Stored>, KeyConflict>;

/// A stretch of the log, both ends left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Only events above this id.
    pub after: EventId,
    /// Only events below this id.
    pub before: EventId,
}

impl Range {
    /// Everything after `cursor`.
    pub const fn after(cursor: EventId) -> Self {
        Self {
            after: cursor,
            before: EventId::MAX,
        }
    }
}

/// Which end of a stretch is read first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Oldest first.
    #[default]
    Ascending,
    /// Newest first.
    Descending,
}

/// Events that are to go: the oldest of the log, or of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trim {
    /// Only this topic's events; `None`: all.
    pub topic: Option<Topic>,
    /// The newest event that is to go.
    pub through: EventId,
}

/// A part of a [`Trim`] that is small enough to be done between two commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrimStep {
    /// The newest event that goes with it.
    pub through: EventId,
    /// The oldest event that is left when the oldest up to `through` are gone; `None` if nothing is.
    pub next_id: Option<EventId>,
}

/// An event that was erased.
#[derive(Debug)]
pub struct Erased {
    /// What is left of it: its id, topic and time.
    pub event: Arc<Event>,
    /// The event that tells of it; `None` if it was erased before.
    pub notice: Option<Arc<Event>>,
}

/// Ids that were announced, and whose events are gone because an older copy of the file was put in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The newest event that the copy had.
    pub after: EventId,
    /// The newest id that may have been announced. None of them is given again.
    pub through: EventId,
}

/// The room that the file takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes of pages that hold something.
    pub used_bytes: u64,
    /// Bytes of pages that are free: new events go there, or they are given back to the system.
    pub free_bytes: u64,
}

/// Some events of a stretch.
#[derive(Debug)]
pub struct Page {
    /// Those that match, in the order that was asked for. May be none though there is more to read.
    pub events: Vec<Event>,
    /// The last id that was looked at; reading goes on behind it. `None`: the stretch is read to its end.
    pub read_on: Option<EventId>,
}

/// What the event log takes on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSize {
    /// The file.
    pub file_bytes: u64,
    /// The newest commits, which stand beside the file until they are copied into it.
    pub wal_bytes: u64,
}

/// What there is of a topic.
#[derive(Debug, Clone)]
pub struct TopicSummary {
    /// Its name.
    pub topic: Topic,
    /// How many of its events are kept.
    pub events: u64,
    /// The oldest of them.
    pub first_id: EventId,
    /// The newest of them.
    pub last_id: EventId,
    /// When the newest was committed.
    pub last_created_at: Timestamp,
}

/// Opens the file at `path`, which is made if there is none, brings its tables up to date and locks it for this process.
pub async fn open(path: &Path) -> Result<(EventLog, Appender), OpenError> {
    let lock = lock(path)?;
    let failed = |source: sqlx::Error| open_error(path, source);
    refuse_foreign(path).await?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .row_buffer_size(READ_AHEAD_ROWS)
        .disable_statement_logging();
    let mut connection = options
        .clone()
        .create_if_missing(true)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        // What is trimmed or erased is overwritten with zeros, also where SQLite copied it to when it balanced pages.
        .pragma("secure_delete", "on")
        .connect()
        .await
        .map_err(failed)?;
    migrate(&mut connection, path).await?;
    let pool = SqlitePoolOptions::new()
        .max_connections(READERS)
        .test_before_acquire(false)
        .connect_with(options.read_only(true))
        .await
        .map_err(failed)?;
    skip_lost(&mut connection, Highest::of(path).read()?)
        .await
        .map_err(failed)?;
    let (last_id, last_created_at) = newest(&mut connection).await.map_err(failed)?;
    let id: String = sqlx::query_scalar("select id from log")
        .fetch_one(&mut connection)
        .await
        .map_err(failed)?;
    let lost = all_lost(&mut connection).await.map_err(failed)?;
    let place = Place::of(path).map_err(|source| OpenError::Io {
        path: path.into(),
        source,
    })?;
    let appender = Appender {
        connection,
        last_id,
        last_created_at,
        place,
        _lock: lock,
    };
    Ok((
        EventLog {
            pool,
            path: path.into(),
            id: id.into(),
            lost,
        },
        appender,
    ))
}

/// Opens the file at `path` to read it, and changes nothing. A hub may run on it meanwhile.
pub async fn open_to_read(path: &Path) -> Result<EventLog, OpenError> {
    refuse_foreign(path).await?;
    let failed = |source: sqlx::Error| open_error(path, source);
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging()
        .read_only(true);
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await
        .map_err(failed)?;
    let mut connection = pool.acquire().await.map_err(failed)?;
    let id: String = sqlx::query_scalar("select id from log")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    let lost = all_lost(&mut connection).await.map_err(failed)?;
    drop(connection);
    Ok(EventLog {
        pool,
        path: path.into(),
        id: id.into(),
        lost,
    })
}

/// What there is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No log; one would be made.
    Nothing,
    /// A log that could be opened.
    Log {
        /// Whether a hub runs on it.
        in_use: bool,
    },
}

/// Looks whether [`open`] would work at `path`, and changes nothing there; a file is made beside it and removed at once. A hub may
/// run on it meanwhile.
pub async fn look(path: &Path) -> Result<Found, OpenError> {
    let io_error = |source| OpenError::Io {
        path: path.into(),
        source,
    };
    let probe = beside(path, &format!("-look-{}", std::process::id()));
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(&probe)
        .and_then(|_| std::fs::remove_file(&probe))
        .map_err(io_error)?;
    Highest::of(path).read()?;
    if !path.try_exists().map_err(io_error)? {
        return Ok(Found::Nothing);
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(io_error)?;
    let failed = |source: sqlx::Error| open_error(path, source);
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .disable_statement_logging()
        .read_only(true)
        // Without a WAL nobody writes, and SQLite need not make files of its own to see that.
        .immutable(!beside(path, "-wal").exists())
        .connect()
        .await
        .map_err(failed)?;
    let kind = kind_of(&mut connection).await;
    let newest: Result<Option<i64>, _> = match kind {
        Ok(Kind::Segno) => {
            sqlx::query_scalar("select max(version) from _sqlx_migrations")
                .fetch_one(&mut connection)
                .await
        }
        Ok(Kind::Empty | Kind::Foreign) | Err(_) => Ok(None),
    };
    connection.close().await.map_err(failed)?;
    match kind.map_err(failed)? {
        Kind::Empty => return Ok(Found::Nothing),
        Kind::Foreign => return Err(OpenError::NotSegno(path.into())),
        Kind::Segno => (),
    }
    if newest.map_err(failed)? > MIGRATIONS.iter().map(|migration| migration.version).max() {
        return Err(OpenError::Newer(path.into()));
    }
    let in_use = match OpenOptions::new().write(true).open(beside(path, "-lock")) {
        Ok(file) => matches!(file.try_lock(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    };
    Ok(Found::Log { in_use })
}

/// Two hubs on one file would each announce only their own events.
fn lock(path: &Path) -> Result<File, OpenError> {
    let lock_path = beside(path, "-lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path);
    let io_error = |source| OpenError::Io {
        path: path.into(),
        source,
    };
    let file = file.map_err(io_error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.into())),
        Err(TryLockError::Error(source)) => Err(io_error(source)),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Looks before anything is changed: to open a file in WAL mode is to write into it.
async fn refuse_foreign(path: &Path) -> Result<(), OpenError> {
    if !path.try_exists().map_err(|source| OpenError::Io {
        path: path.into(),
        source,
    })? {
        return Ok(());
    }
    let failed = |source: sqlx::Error| open_error(path, source);
    let options = SqliteConnectOptions::new()
        .filename(path)
        .disable_statement_logging();
    let mut connection = options.connect().await.map_err(failed)?;
    let kind = kind_of(&mut connection).await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    match kind {
        Kind::Segno | Kind::Empty => Ok(()),
        Kind::Foreign => Err(OpenError::NotSegno(path.into())),
    }
}

/// Whose file it is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Segno,
    /// Nobody's yet.
    Empty,
    Foreign,
}

async fn kind_of(connection: &mut SqliteConnection) -> Result<Kind, sqlx::Error> {
    let (application_id, tables): (i32, i64) = sqlx::query_as(
        "select (select application_id from pragma_application_id), count(*) from sqlite_schema",
    )
    .fetch_one(connection)
    .await?;
    Ok(match application_id == APPLICATION_ID {
        _ if tables == 0 => Kind::Empty,
        true => Kind::Segno,
        false => Kind::Foreign,
    })
}

async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    MIGRATIONS.run(connection).await.map_err(|error| {
        if matches!(
            error,
            MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..)
        ) {
            return OpenError::Newer(path.into());
        }
        OpenError::Sqlite {
            path: path.into(),
            source: error.into(),
        }
    })
}

fn open_error(path: &Path, source: sqlx::Error) -> OpenError {
    match primary_code(&source) {
        Some(8) => OpenError::ReadOnly(path.into()),
        Some(11) => OpenError::Corrupt(path.into()),
        Some(26) => OpenError::NotSegno(path.into()),
        _ => OpenError::Sqlite {
            path: path.into(),
            source: source.into(),
        },
    }
}

/// The newest id there ever was, also where its row is gone, and the newest time.
async fn newest(connection: &mut SqliteConnection) -> Result<(EventId, Timestamp), sqlx::Error> {
    let (id, created_at): (i64, i64) = sqlx::query_as(
        "select coalesce((select seq from sqlite_sequence where name = 'events'), 0), \
         coalesce((select created_at from events order by id desc limit 1), 0)",
    )
    .fetch_one(connection)
    .await?;
    Ok((EventId::from_row(id), Timestamp::from_millis(created_at)))
}

const INSERT_LOST: &str = "insert into lost (after_id, through_id, found_at) values (?1, ?2, ?3)";

const INSERT_SEQUENCE: &str = "
insert into sqlite_sequence (name, seq)
select 'events', 0 where not exists (select 1 from sqlite_sequence where name = 'events')";

const RAISE_SEQUENCE: &str = "update sqlite_sequence set seq = ?1 where name = 'events'";

/// Where the log is older than the note of the highest id, lets ids go on above all that may have been announced.
async fn skip_lost(connection: &mut SqliteConnection, highest: EventId) -> Result<(), sqlx::Error> {
    let (after, _) = newest(connection).await?;
    if highest <= after {
        return Ok(());
    }
    let through = EventId::from_row(highest.as_i64().saturating_add(UNNOTED_MAX_IDS));
    let mut tx = connection.begin().await?;
    sqlx::query(INSERT_LOST)
        .bind(after.as_i64())
        .bind(through.as_i64())
        .bind(Timestamp::now().as_millis())
        .execute(&mut *tx)
        .await?;
    sqlx::query(INSERT_SEQUENCE).execute(&mut *tx).await?;
    sqlx::query(RAISE_SEQUENCE)
        .bind(through.as_i64())
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    tracing::error!(
        last_id = after.as_i64(),
        highest_id = highest.as_i64(),
        next_id = through.next().as_i64(),
        "the file is older than what was announced: the events in between are lost, and their ids are not used again"
    );
    Ok(())
}

async fn all_lost(connection: &mut SqliteConnection) -> Result<Arc<[Lost]>, sqlx::Error> {
    let rows: Vec<(i64, i64)> =
        sqlx::query_as("select after_id, through_id from lost order by after_id")
            .fetch_all(connection)
            .await?;
    let lost = rows.into_iter().map(|(after, through)| Lost {
        after: EventId::from_row(after),
        through: EventId::from_row(through),
    });
    Ok(lost.collect())
}

const IMPORT: &str = "
insert into events (id, topic, type, data, created_at, key)
select event.value ->> 0, event.value ->> 1, event.value ->> 2, event.value ->> 3, event.value ->> 4, event.value ->> 5
from jsonb_each(?1) as event";

const FIND_KEYS: &str = "
select events.id, events.topic, events.type, events.data, events.created_at, events.key
from json_each(?1) as asked
join events on events.topic = asked.value ->> 0 and events.key = asked.value ->> 1";

const INSERT: &str = "
insert into events (id, topic, type, data, created_at, key)
select ?2 + event.key, event.value ->> 0, event.value ->> 1, event.value ->> 2, ?3, event.value ->> 3
from jsonb_each(?1) as event";

const PROBE: &[&str] = &[
    "insert into events (id, topic, type, data, created_at) values (?1 + 1, 'segno.probe', 'segno.probe', 'null', 0)",
    "delete from events where id = ?1 + 1",
    "update sqlite_sequence set seq = ?1 where name = 'events'",
];

/// The first so many rows of the log, or as many as have so many bytes.
const TRIM_STEP: &str = "
with
    oldest as (
        select id, octet_length(data) as bytes from events where id <= ?1 order by id limit ?2
    ),
    step as (
        select max(id) as through
        from (select id, sum(bytes) over (order by id) - bytes as bytes_before from oldest)
        where bytes_before < ?3
    )
select through, (select min(id) from events where id > through) as next_id
from step where through is not null";

const TRIM_STEP_OF_TOPIC: &str = "
with
    oldest as (
        select id, octet_length(data) as bytes from events where topic = ?4 and id <= ?1 order by id limit ?2
    ),
    step as (
        select max(id) as through
        from (select id, sum(bytes) over (order by id) - bytes as bytes_before from oldest)
        where bytes_before < ?3
    )
select through, null as next_id
from step where through is not null";

const ERASE: &str = "update events set type = ?2, data = ?3, key = null where id = ?1";

const TRIM: &str = "delete from events where id <= ?1";

const TRIM_TOPIC: &str = "delete from events where topic = ?2 and id <= ?1";

const MARK_TRIMMED: &str = "
insert into trimmed (topic, last_id) values (?1, ?2)
on conflict (topic) do update set last_id = max(last_id, excluded.last_id)";

/// Below the oldest event kept, the lack of events is told without a mark.
const FORGET_MARKS: &str =
    "delete from trimmed where last_id < (select coalesce(min(id), 0) from events)";

impl Appender {
    /// The newest id there ever was in this file; zero if none.
    pub fn last_id(&self) -> EventId {
        self.last_id
    }

    /// Commits what was published, all of it in one transaction, in the order given, with ids that follow each other.
    ///
    /// Each inner list is taken whole or not at all: one key in it that stands for another event refuses the list, and
    /// the other lists are stored. On an error nothing is.
    ///
    /// Rows go in by one statement, because each call crosses to SQLite's thread: a call for each row gave 18,000 rows/s
    /// whatever the batch, this gave 214,000 at 100 rows and 430,000 from 1,000 up.
    pub async fn append(&mut self, published: Vec<Vec<NewEvent>>) -> Result<Vec<Outcome>, Error> {
        self.look_in_place().await?;
        let mut draft = Draft {
            last_id: self.last_id,
            created_at: self.last_created_at.max(Timestamp::now()),
            fresh: Vec::with_capacity(published.len()),
            keyed: self.find_keys(&published).await?,
        };
        let outcomes = published
            .into_iter()
            .map(|events| draft.take(events))
            .collect();
        if !draft.fresh.is_empty() {
            insert(&mut self.connection, &draft.fresh).await?;
            self.last_id = draft.last_id;
            self.last_created_at = draft.created_at;
        }
        Ok(outcomes)
    }

    /// Commits events of another file as they are, with their ids and times, all of them in one transaction. They come in the
    /// order of their ids, all above the last id.
    pub async fn import(&mut self, events: &[Event]) -> Result<(), Error> {
        let Some(last) = events.last() else {
            return Ok(());
        };
        assert!(
            events[0].id > self.last_id && events.is_sorted_by(|a, b| a.id < b.id),
            "ids only grow"
        );
        let rows: Vec<_> = events
            .iter()
            .map(|event| {
                let (topic, event_type, data, key) = as_row(event);
                let created_at = event.created_at.as_millis();
                (event.id, topic, event_type, data, created_at, key)
            })
            .collect();
        sqlx::query(IMPORT)
            .bind(serde_json::to_string(&rows).expect("strings always serialize into memory"))
            .execute(&mut self.connection)
            .await?;
        self.last_id = last.id;
        self.last_created_at = last.created_at;
        Ok(())
    }

    /// The time of the newest event.
    pub fn last_created_at(&self) -> Timestamp {
        self.last_created_at
    }

    /// Erases an event's data, type and key for good, and appends an event that tells of it, in one transaction. `None`:
    /// there is no such event.
    pub async fn erase(&mut self, id: EventId) -> Result<Option<Erased>, Error> {
        self.begin().await?;
        let erased = self.erase_inside(id).await;
        let erased = self.end(erased).await?;
        if let Some(notice) = erased.as_ref().and_then(|erased| erased.notice.as_ref()) {
            self.last_id = notice.id;
            self.last_created_at = notice.created_at;
        }
        Ok(erased)
    }

    async fn erase_inside(&mut self, id: EventId) -> Result<Option<Erased>, Error> {
        let found = sqlx::query(EVENT)
            .bind(id.as_i64())
            .fetch_optional(&mut self.connection)
            .await?;
        let Some(row) = found else { return Ok(None) };
        let event = event_from_row(&row)?;
        if event.event_type.is_erased() {
            return Ok(Some(Erased {
                event: event.into(),
                notice: None,
            }));
        }
        let event = Event {
            event_type: EventType::erased(),
            data: Data::from_row(format!("{{\"id\":{id}}}")),
            key: None,
            ..event
        };
        sqlx::query(ERASE)
            .bind(id.as_i64())
            .bind(event.event_type.as_str())
            .bind(event.data.as_str())
            .execute(&mut self.connection)
            .await?;
        let notice = Event {
            id: self.last_id.next(),
            created_at: self.last_created_at.max(Timestamp::now()),
            ..event.clone()
        };
        let notice = Arc::new(notice);
        insert(&mut self.connection, std::slice::from_ref(&notice)).await?;
        Ok(Some(Erased {
            event: event.into(),
            notice: Some(notice),
        }))
    }

    /// Begins a transaction, by hand: sqlx's own count how deep they are, and the count is wrong once SQLite has rolled back
    /// by itself, as it may on a full disk. What is appended later would then be in a transaction that nobody commits.
    async fn begin(&mut self) -> Result<(), Error> {
        self.look_in_place().await?;
        sqlx::query("begin immediate")
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// Commits what was begun, if it was done, else takes it back.
    async fn end<T>(&mut self, done: Result<T, Error>) -> Result<T, Error> {
        let ended = match done {
            Ok(value) => sqlx::query("commit")
                .execute(&mut self.connection)
                .await
                .map(|_| value)
                .map_err(Error::from),
            Err(error) => Err(error),
        };
        if ended.is_err() {
            // Refused where SQLite has rolled back by itself.
            _ = sqlx::query("rollback").execute(&mut self.connection).await;
        }
        ended
    }

    /// Appends an event that tells that so many events of `topic` were erased, all up to `through`.
    pub async fn append_notice(
        &mut self,
        topic: &Topic,
        through: EventId,
        events: u64,
    ) -> Result<Arc<Event>, Error> {
        self.look_in_place().await?;
        let data = serde_json::json!({"topic": topic, "through": through, "events": events});
        let notice = Event {
            id: self.last_id.next(),
            topic: topic.clone(),
            event_type: EventType::erased(),
            data: Data::from_row(data.to_string()),
            created_at: self.last_created_at.max(Timestamp::now()),
            key: None,
        };
        let notice = Arc::new(notice);
        insert(&mut self.connection, std::slice::from_ref(&notice)).await?;
        self.last_id = notice.id;
        self.last_created_at = notice.created_at;
        Ok(notice)
    }

    async fn find_keys(&mut self, published: &[Vec<NewEvent>]) -> Result<KeyedEvents, Error> {
        let asked: Vec<_> = published
            .iter()
            .flatten()
            .filter_map(|event| Some((event.topic.as_str(), event.key.as_ref()?.as_str())))
            .collect();
        if asked.is_empty() {
            return Ok(KeyedEvents::new());
        }
        let found = sqlx::query(FIND_KEYS)
            .bind(serde_json::to_string(&asked).expect("strings always serialize into memory"))
            .fetch_all(&mut self.connection)
            .await?;
        let mut keyed = KeyedEvents::with_capacity(asked.len());
        for row in found {
            let event = event_from_row(&row)?;
            let key = event.key.clone().expect("found by its key");
            keyed.insert((event.topic.clone(), key), event.into());
        }
        Ok(keyed)
    }

    /// What the next step of `trim` takes; `None` when there is nothing left of it.
    pub async fn trim_step(&mut self, trim: &Trim) -> Result<Option<TrimStep>, Error> {
        let sql = match trim.topic {
            None => TRIM_STEP,
            Some(_) => TRIM_STEP_OF_TOPIC,
        };
        let mut query = sqlx::query_as(sql)
            .bind(trim.through.as_i64())
            .bind(TRIM_STEP_MAX_EVENTS)
            .bind(TRIM_STEP_MAX_BYTES);
        if let Some(topic) = &trim.topic {
            query = query.bind(topic.as_str());
        }
        let step: Option<(i64, Option<i64>)> = query.fetch_optional(&mut self.connection).await?;
        Ok(step.map(|(through, next_id)| TrimStep {
            through: EventId::from_row(through),
            next_id: next_id.map(EventId::from_row),
        }))
    }

    /// Takes a step of a [`Trim`]: its topic's events up to `through` are gone for good. Returns how many there were.
    pub async fn trim(&mut self, topic: Option<&Topic>, through: EventId) -> Result<u64, Error> {
        self.look_in_place().await?;
        let query = match topic {
            None => sqlx::query(TRIM).bind(through.as_i64()),
            Some(topic) => sqlx::query(TRIM_TOPIC)
                .bind(through.as_i64())
                .bind(topic.as_str()),
        };
        Ok(query.execute(&mut self.connection).await?.rows_affected())
    }

    /// Notes that events of `topic` up to `through` will be gone. To be committed before the first of them goes, so that
    /// nobody who finds them gone fails to find the note.
    pub async fn mark_trimmed(&mut self, topic: &Topic, through: EventId) -> Result<(), Error> {
        self.look_in_place().await?;
        sqlx::query(MARK_TRIMMED)
            .bind(topic.as_str())
            .bind(through.as_i64())
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// Drops the notes of trimmed topics that say no more than that the oldest events are gone.
    pub async fn forget_marks(&mut self) -> Result<(), Error> {
        sqlx::query(FORGET_MARKS)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// Gives a few free pages back to the system. The file itself gets shorter with the next checkpoint.
    pub async fn shrink(&mut self) -> Result<(), Error> {
        sqlx::query(SHRINK_STEP)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// Copies the WAL into the file and empties it, if no reader is in the way; true if that was done.
    ///
    /// What was erased, or given back to the system, is gone from the disk with this and not before.
    pub async fn clean_wal(&mut self) -> Result<bool, Error> {
        sqlx::query("pragma busy_timeout = 5")
            .execute(&mut self.connection)
            .await?;
        let (busy,): (i64,) = sqlx::query_as("pragma wal_checkpoint(truncate)")
            .fetch_one(&mut self.connection)
            .await?;
        sqlx::query("pragma busy_timeout = 5000")
            .execute(&mut self.connection)
            .await?;
        Ok(busy == 0)
    }

    /// Looks whether the files are still where they were opened; an error if one is not.
    ///
    /// Where the WAL alone is gone, what stands in it is put into the file: a kill would else lose it.
    pub async fn look_in_place(&mut self) -> Result<(), Error> {
        let Some(moved) = self.place.find_moved() else {
            return Ok(());
        };
        let moved = Error::Moved(moved.to_owned());
        // Where this fails nothing is worse than before, and a stop tries it again.
        _ = sqlx::query("pragma wal_checkpoint(full)")
            .execute(&mut self.connection)
            .await;
        Err(moved)
    }

    /// Tries whether an event could be committed, by one that is taken back in the same transaction.
    ///
    /// It writes the same pages as an event does: on a disk that is nearly full, less might fit where an event does not.
    pub async fn probe(&mut self) -> Result<(), Error> {
        self.begin().await?;
        let probed = self.probe_inside().await;
        self.end(probed).await
    }

    async fn probe_inside(&mut self) -> Result<(), Error> {
        for sql in PROBE {
            sqlx::query(*sql)
                .bind(self.last_id.as_i64())
                .execute(&mut self.connection)
                .await?;
        }
        Ok(())
    }

    /// Copies the WAL into the file, empties it and lets go of the file.
    pub async fn close(mut self) -> Result<(), Error> {
        sqlx::query("pragma wal_checkpoint(truncate)")
            .execute(&mut self.connection)
            .await?;
        Ok(self.connection.close().await?)
    }
}

/// Inserts events, at least one, whose ids follow each other and whose time is one.
async fn insert(connection: &mut SqliteConnection, events: &[Arc<Event>]) -> Result<(), Error> {
    let rows: Vec<_> = events.iter().map(|event| as_row(event)).collect();
    let query = sqlx::query(INSERT)
        .bind(serde_json::to_string(&rows).expect("strings always serialize into memory"))
        .bind(events[0].id.as_i64())
        .bind(events[0].created_at.as_millis());
    // The first thing that comes says that it is committed. To wait for the end as well would be to be woken twice.
    let inserted = match connection.fetch_many(query).try_next().await? {
        Some(Either::Left(inserted)) => inserted,
        Some(Either::Right(_)) | None => unreachable!("an insert gives its result and no row"),
    };
    assert_eq!(
        usize::try_from(inserted.rows_affected()),
        Ok(rows.len()),
        "every event is a row"
    );
    Ok(())
}

type KeyedEvents = HashMap<(Topic, Key), Arc<Event>>;

fn as_row(event: &Event) -> (&str, &str, &str, Option<&str>) {
    let key = event.key.as_ref().map(Key::as_str);
    (
        event.topic.as_str(),
        event.event_type.as_str(),
        event.data.as_str(),
        key,
    )
}

/// A transaction that is being put together.
struct Draft {
    last_id: EventId,
    created_at: Timestamp,
    /// The events to insert, in id order.
    fresh: Vec<Arc<Event>>,
    /// The events that have a key which this transaction names, stored ones and fresh ones.
    keyed: KeyedEvents,
}

impl Draft {
    /// Adds a list of events that belong together, or none of them.
    fn take(&mut self, events: Vec<NewEvent>) -> Outcome {
        let (last_id, fresh_events) = (self.last_id, self.fresh.len());
        let mut stored = Vec::with_capacity(events.len());
        for event in events {
            match self.take_one(event) {
                Ok(event) => stored.push(event),
                Err(conflict) => {
                    self.last_id = last_id;
                    for undone in self.fresh.drain(fresh_events..) {
                        if let Some(key) = &undone.key {
                            self.keyed.remove(&(undone.topic.clone(), key.clone()));
                        }
                    }
                    return Err(conflict);
                }
            }
        }
        Ok(stored)
    }

    fn take_one(&mut self, new: NewEvent) -> Result<Stored, KeyConflict> {
        let NewEvent {
            topic,
            event_type,
            data,
            key,
        } = new;
        let known = key
            .as_ref()
            .and_then(|key| self.keyed.get(&(topic.clone(), key.clone())));
        if let (Some(key), Some(event)) = (&key, known) {
            if event.event_type != event_type || event.data != data {
                return Err(KeyConflict {
                    topic,
                    key: key.clone(),
                    id: event.id,
                });
            }
            return Ok(Stored {
                event: event.clone(),
                duplicate: true,
            });
        }
        self.last_id = self.last_id.next();
        let event = Event {
            id: self.last_id,
            topic,
            event_type,
            data,
            created_at: self.created_at,
            key,
        };
        let event = Arc::new(event);
        if let Some(key) = &event.key {
            self.keyed
                .insert((event.topic.clone(), key.clone()), event.clone());
        }
        self.fresh.push(event.clone());
        Ok(Stored {
            event,
            duplicate: false,
        })
    }
}

const PAGE_ASCENDING: &str = "
select id, topic, type, data, created_at, key from events
where id > ?1 and id < ?2 order by id limit ?3";

const PAGE_DESCENDING: &str = "
select id, topic, type, data, created_at, key from events
where id > ?1 and id < ?2 order by id desc limit ?3";

/// Takes each topic's page from the index, then the first of them all. Linear in topics times page, never in the log.
const PAGE_OF_TOPICS_ASCENDING: &str = "
select events.id, events.topic, events.type, events.data, events.created_at, events.key
from json_each(?4) as asked cross join events
where events.id in (
    select id from events where topic = asked.value and id > ?1 and id < ?2 order by id limit ?3
)
order by events.id limit ?3";

const PAGE_OF_TOPICS_DESCENDING: &str = "
select events.id, events.topic, events.type, events.data, events.created_at, events.key
from json_each(?4) as asked cross join events
where events.id in (
    select id from events where topic = asked.value and id > ?1 and id < ?2 order by id desc limit ?3
)
order by events.id desc limit ?3";

const EVENT: &str = "select id, topic, type, data, created_at, key from events where id = ?1";

const COUNT: &str = "select count(*) from events";

const COUNT_ROWS: &str = "select count(*) from events not indexed";

const FIRST_ID: &str = "select min(id) from events";

const LAST_ID: &str = "select coalesce((select seq from sqlite_sequence where name = 'events'), 0)";

const NTH_ID: &str = "
select coalesce(
    (select id from events order by id limit 1 offset ?1),
    (select seq + 1 from sqlite_sequence where name = 'events'),
    1
)";

const ROOM: &str = "
select (page_count - freelist_count) * page_size as used_bytes, freelist_count * page_size as free_bytes
from pragma_page_count, pragma_freelist_count, pragma_page_size";

const TOPIC_NAMES_FROM: &str = "
with recursive names(topic) as (
    select min(topic) from events where topic >= ?1
    union all
    select (select min(topic) from events where topic > names.topic) from names where names.topic is not null
    limit ?2
)
select topic from names where topic is not null";

/// Leaps from name to name in the index.
const TOPIC_NAMES_AFTER: &str = "
with recursive names(topic) as (
    select min(topic) from events where topic > ?1
    union all
    select (select min(topic) from events where topic > names.topic) from names where names.topic is not null
    limit ?2
)
select topic from names where topic is not null";

const LAST_ID_OF_TOPIC: &str = "select max(id) from events where topic = ?1 and id < ?2";

const LAST_ID_OF_TOPIC_BEFORE_NEWEST: &str =
    "select id from events where topic = ?1 order by id desc limit 1 offset ?2";

const TRIMMED_OF_TOPICS: &str = "
select max(last_id) from trimmed where last_id > ?1 and topic in (select value from json_each(?2))";

const TRIMMED: &str = "select topic, last_id from trimmed where last_id > ?1";

/// Halves the log until one id is left. It may, because times never go backwards along the ids.
const FIRST_ID_SINCE: &str = "
with recursive search(low, high) as (
    select coalesce(min(id), 1), coalesce(max(id), 0) + 1 from events
    union all
    select iif(created_at < ?1, id + 1, low), iif(created_at < ?1, high, (low + high) / 2)
    from search
    cross join events on events.id = (select min(id) from events where id >= (low + high) / 2)
    where low < high
)
select low from search where low >= high";

/// Leaps from name to name in the index, so that the cost is that of the topics and not of the events.
const TOPICS_AFTER: &str = "
with recursive names(topic) as (
    select min(topic) from events where topic > ?1
    union all
    select (select min(topic) from events where topic > names.topic) from names where names.topic is not null
    limit ?2
)
select topic,
       (select count(*) from events where events.topic = names.topic) as events,
       (select min(id) from events where events.topic = names.topic) as first_id,
       (select max(id) from events where events.topic = names.topic) as last_id,
       (select created_at from events
        where id = (select max(id) from events where events.topic = names.topic)) as last_created_at
from names where topic is not null";

impl EventLog {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log's own id, a UUID: a cursor of one log means nothing in another.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The stretches of ids whose events were lost with a file that an older copy replaced, oldest first. Few.
    pub fn lost(&self) -> &[Lost] {
        &self.lost
    }

    /// Notes beside the file that all ids up to `id` may have been announced. To be called once a second at least while
    /// events are announced.
    pub async fn note_highest(&self, id: EventId) -> std::io::Result<()> {
        let highest = Highest::of(&self.path);
        let written = tokio::task::spawn_blocking(move || highest.write(id));
        written.await.expect("writing a small file does not panic")
    }

    /// The matching events of `range`, at most `limit` of them and about 64 KiB of data, one event at the least.
    ///
    /// What one call looks at is bounded whatever the filter, so a page may be empty while [`Page::read_on`] says that
    /// there is more. Dropping the future is safe.
    pub async fn page(
        &self,
        filter: &Filter,
        range: Range,
        order: Order,
        limit: usize,
    ) -> Result<Page, Error> {
        let limit = limit.max(1);
        let topics = match filter.topics() {
            Topics::Exact(topics) => Some(to_json(&topics)),
            Topics::All | Topics::Matching(_) => None,
        };
        let mut connection = self.pool.acquire().await?;
        let page = read_page(&mut connection, filter, topics, range, order, limit).await?;
        let found_nothing_yet = page.events.is_empty() && page.read_on.is_some();
        match filter.topics() {
            Topics::Matching(prefix) if found_nothing_yet => {
                drop(connection);
                let found = self
                    .page_of_few_topics(filter, prefix, range, order, limit)
                    .await?;
                Ok(found.unwrap_or(page))
            }
            Topics::All | Topics::Exact(_) | Topics::Matching(_) => Ok(page),
        }
    }

    /// The same page by the index, if few topics begin with `prefix` and match. Where a scan meets none of their events, this
    /// finds the next of them however far it is.
    async fn page_of_few_topics(
        &self,
        filter: &Filter,
        prefix: &str,
        range: Range,
        order: Order,
        limit: usize,
    ) -> Result<Option<Page>, Error> {
        // One moment for the names and for the page. A topic that is new between the two could have an event before the last
        // one of the page, and reading would go on behind it. In one moment there is none: what is committed later has ids
        // above all that the page can have, and the next page looks at the names anew.
        let mut tx = self.pool.begin().await?;
        let Some(topics) = few_topics(&mut tx, filter, prefix).await? else {
            return Ok(None);
        };
        let page = read_page(&mut tx, filter, Some(to_json(&topics)), range, order, limit);
        page.await.map(Some)
    }

    /// The event with this id, if it is kept.
    pub async fn event(&self, id: EventId) -> Result<Option<Event>, Error> {
        let row = sqlx::query(EVENT)
            .bind(id.as_i64())
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.as_ref().map(event_from_row).transpose()?)
    }

    /// The newest id there ever was; zero if none.
    pub async fn last_id(&self) -> Result<EventId, Error> {
        let last: i64 = sqlx::query_scalar(LAST_ID).fetch_one(&self.pool).await?;
        Ok(EventId::from_row(last))
    }

    /// The id of the oldest event kept; `None` if there is none.
    pub async fn first_id(&self) -> Result<Option<EventId>, Error> {
        let first: Option<i64> = sqlx::query_scalar(FIRST_ID).fetch_one(&self.pool).await?;
        Ok(first.map(EventId::from_row))
    }

    /// How many events are kept. Reads an index from end to end; the rows, where that is damaged.
    pub async fn count(&self) -> Result<u64, Error> {
        let counted = sqlx::query_scalar(COUNT).fetch_one(&self.pool).await;
        let events: i64 = match counted.map_err(Error::from) {
            Err(Error::Corrupt(_)) => sqlx::query_scalar(COUNT_ROWS).fetch_one(&self.pool).await?,
            counted => counted?,
        };
        Ok(events.unsigned_abs())
    }

    /// What the event log takes on the disk. What cannot be looked at counts as nothing.
    pub async fn size(&self) -> FileSize {
        let bytes = async |path: &Path| {
            let metadata = tokio::fs::metadata(path).await;
            metadata.map_or(0, |metadata| metadata.len())
        };
        FileSize {
            file_bytes: bytes(&self.path).await,
            wal_bytes: bytes(&beside(&self.path, "-wal")).await,
        }
    }

    /// The id of the event that has `events` older ones; above the last id, if there is none. Reads as many.
    pub async fn nth_id(&self, events: u64) -> Result<EventId, Error> {
        let id: i64 = sqlx::query_scalar(NTH_ID)
            .bind(i64::try_from(events).unwrap_or(i64::MAX))
            .fetch_one(&self.pool)
            .await?;
        Ok(EventId::from_row(id))
    }

    /// The room that the file takes.
    pub async fn room(&self) -> Result<Room, Error> {
        let (used, free): (i64, i64) = sqlx::query_as(ROOM).fetch_one(&self.pool).await?;
        Ok(Room {
            used_bytes: used.unsigned_abs(),
            free_bytes: free.unsigned_abs(),
        })
    }

    /// Up to `limit` names of topics in their order, those after `after`. Costs as many leaps in the index.
    pub async fn topic_names_after(&self, after: &str, limit: u32) -> Result<Vec<Topic>, Error> {
        let names: Vec<String> = sqlx::query_scalar(TOPIC_NAMES_AFTER)
            .bind(after)
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        Ok(names.iter().map(|name| Topic::from_row(name)).collect())
    }

    /// The newest event of `topic` below `before`.
    pub async fn last_id_of(
        &self,
        topic: &Topic,
        before: EventId,
    ) -> Result<Option<EventId>, Error> {
        let id: Option<i64> = sqlx::query_scalar(LAST_ID_OF_TOPIC)
            .bind(topic.as_str())
            .bind(before.as_i64())
            .fetch_one(&self.pool)
            .await?;
        Ok(id.map(EventId::from_row))
    }

    /// The newest event of `topic` that is older than its newest `events`. Costs as many entries of the index.
    pub async fn last_id_before_newest(
        &self,
        topic: &Topic,
        events: u64,
    ) -> Result<Option<EventId>, Error> {
        let id: Option<i64> = sqlx::query_scalar(LAST_ID_OF_TOPIC_BEFORE_NEWEST)
            .bind(topic.as_str())
            .bind(i64::try_from(events).unwrap_or(i64::MAX))
            .fetch_optional(&self.pool)
            .await?;
        Ok(id.map(EventId::from_row))
    }

    /// The highest id, above `cursor`, up to which events of a topic that `filter` wants were trimmed out of the middle.
    pub async fn trimmed_after(
        &self,
        filter: &Filter,
        cursor: EventId,
    ) -> Result<Option<EventId>, Error> {
        if let Topics::Exact(topics) = filter.topics() {
            let id: Option<i64> = sqlx::query_scalar(TRIMMED_OF_TOPICS)
                .bind(cursor.as_i64())
                .bind(serde_json::to_string(&topics).expect("strings always serialize into memory"))
                .fetch_one(&self.pool)
                .await?;
            return Ok(id.map(EventId::from_row));
        }
        let mut rows = sqlx::query(TRIMMED).bind(cursor.as_i64()).fetch(&self.pool);
        let mut highest = None;
        while let Some(row) = rows.try_next().await? {
            if filter.wants_topic(row.try_get(0)?) {
                highest = highest.max(Some(EventId::from_row(row.try_get(1)?)));
            }
        }
        Ok(highest)
    }

    /// The lowest id that an event of this time or later can have. Above the last id, if there is none yet.
    pub async fn first_id_since(&self, time: Timestamp) -> Result<EventId, Error> {
        let low = sqlx::query_scalar(FIRST_ID_SINCE)
            .bind(time.as_millis())
            .fetch_one(&self.pool)
            .await?;
        Ok(EventId::from_row(low))
    }

    /// Up to `limit` topics in the order of their names, those after `after`.
    pub async fn topics_after(&self, after: &str, limit: u32) -> Result<Vec<TopicSummary>, Error> {
        let rows = sqlx::query(TOPICS_AFTER)
            .bind(after)
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        Ok(rows
            .iter()
            .map(summary_from_row)
            .collect::<Result<_, _>>()?)
    }

    /// Ends all reading; waits for what is being read.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// The topics that match, if they are few and there are not too many that begin with `prefix`.
async fn few_topics(
    connection: &mut SqliteConnection,
    filter: &Filter,
    prefix: &str,
) -> Result<Option<Vec<String>>, Error> {
    let mut names = sqlx::query_scalar(TOPIC_NAMES_FROM)
        .bind(prefix)
        .bind(FEW_OF_MAX_TOPICS)
        .fetch(connection);
    let (mut names_seen, mut topics) = (0, Vec::new());
    while let Some(name) = names.try_next().await? {
        let name: String = name;
        names_seen += 1;
        if !name.starts_with(prefix) {
            return Ok(Some(topics));
        }
        if filter.wants_topic(&name) {
            topics.push(name);
        }
        if topics.len() > FEW_TOPICS {
            return Ok(None);
        }
    }
    Ok((names_seen < FEW_OF_MAX_TOPICS).then_some(topics))
}

/// Reads a page: of the topics whose names `topics` lists as JSON, or of all.
async fn read_page(
    connection: &mut SqliteConnection,
    filter: &Filter,
    topics: Option<String>,
    range: Range,
    order: Order,
    limit: usize,
) -> Result<Page, Error> {
    let every_row_matches =
        filter.is_served_by_index() || topics.is_some() && filter.wants_any_type();
    let max_rows = match every_row_matches {
        true => i64::try_from(limit).unwrap_or(i64::MAX),
        false => SCAN_MAX_ROWS,
    };
    let sql = match (&topics, order) {
        (None, Order::Ascending) => PAGE_ASCENDING,
        (None, Order::Descending) => PAGE_DESCENDING,
        (Some(_), Order::Ascending) => PAGE_OF_TOPICS_ASCENDING,
        (Some(_), Order::Descending) => PAGE_OF_TOPICS_DESCENDING,
    };
    let mut query = sqlx::query(sql)
        .bind(range.after.as_i64())
        .bind(range.before.as_i64())
        .bind(max_rows);
    if let Some(topics) = topics {
        query = query.bind(topics);
    }
    let mut rows = query.fetch(connection);
    let mut page = Page {
        events: Vec::new(),
        read_on: None,
    };
    let (mut rows_seen, mut data_bytes) = (0, 0);
    loop {
        let row = match rows.try_next().await {
            Ok(Some(row)) => row,
            Ok(None) => break,
            // What was read before a broken page is good; the next page begins with the broken one.
            Err(_) if page.read_on.is_some() => return Ok(page),
            Err(error) => return Err(error.into()),
        };
        rows_seen += 1;
        page.read_on = Some(EventId::from_row(row.try_get(0)?));
        if !filter.matches_names(row.try_get(1)?, row.try_get(2)?) {
            continue;
        }
        let event = event_from_row(&row)?;
        data_bytes += event.data.as_str().len();
        page.events.push(event);
        if page.events.len() == limit || data_bytes >= PAGE_MAX_BYTES {
            return Ok(page);
        }
    }
    if rows_seen < max_rows {
        page.read_on = None;
    }
    Ok(page)
}

fn to_json<T: serde::Serialize>(names: &[T]) -> String {
    serde_json::to_string(names).expect("strings always serialize into memory")
}

fn event_from_row(row: &SqliteRow) -> Result<Event, sqlx::Error> {
    Ok(Event {
        id: EventId::from_row(row.try_get(0)?),
        topic: Topic::from_row(row.try_get(1)?),
        event_type: EventType::from_row(row.try_get(2)?),
        data: Data::from_row(row.try_get(3)?),
        created_at: Timestamp::from_millis(row.try_get(4)?),
        key: row.try_get::<Option<&str>, _>(5)?.map(Key::from_row),
    })
}

fn summary_from_row(row: &SqliteRow) -> Result<TopicSummary, sqlx::Error> {
    Ok(TopicSummary {
        topic: Topic::from_row(row.try_get(0)?),
        events: row.try_get::<i64, _>(1)?.unsigned_abs(),
        first_id: EventId::from_row(row.try_get(2)?),
        last_id: EventId::from_row(row.try_get(3)?),
        last_created_at: Timestamp::from_millis(row.try_get(4)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(key: &str, data: &str) -> NewEvent {
        NewEvent {
            topic: Topic::new("t").unwrap(),
            event_type: EventType::default(),
            data: Data::from_text(data).unwrap(),
            key: Some(Key::new(key).unwrap()),
        }
    }

    /// Two publishers in one commit: what the refused list named is free for the other, and so are its ids.
    #[test]
    fn a_list_that_is_refused_leaves_nothing_in_its_transaction() {
        let mut draft = Draft {
            last_id: EventId::ZERO,
            created_at: Timestamp::from_millis(0),
            fresh: Vec::new(),
            keyed: KeyedEvents::new(),
        };
        draft.take(vec![keyed("known", "a")]).unwrap();
        let refused = draft.take(vec![keyed("new", "b"), keyed("known", "other")]);
        assert_eq!(refused.unwrap_err().id, EventId::ZERO.next());
        let stored = draft.take(vec![keyed("new", "b")]).unwrap();
        assert!(!stored[0].duplicate);
        let ids: Vec<i64> = draft.fresh.iter().map(|event| event.id.as_i64()).collect();
        assert_eq!(ids, [1, 2]);
    }
}
