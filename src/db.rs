//! The durable, ordered sequence of all events, in one SQLite file. All SQL of the hub is here.
//!
//! [`EventLog`] reads and may be cloned; [`Appender`] writes and there is one for a file, because opening takes a lock
//! beside it. Nothing here knows of channels or HTTP.
//!
//! Invariants:
//! * What [`Appender::append`] returned is committed and synced (WAL, `synchronous=full`). In a file of a cluster it is committed, and
//!   [synced](Appender::sync) when the hub tells the others that it has it: its commands are synced in their order.
//! * Ids and times grow along the log; an id is never used twice (`autoincrement`).
//! * A read takes one page and ends. No statement stays open while a subscriber is slow: that would pin the WAL.

mod append;
mod commands;
mod copy;
mod draft;
mod erase;
mod highest;
mod intact;
mod migrations;
mod ordered;
mod page;
mod place;
#[cfg(test)]
mod plans;
mod readers;
mod reserve;
mod schema;
mod snapshot;
mod topics;
mod trim;
mod upkeep;

use std::{
    error,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rlimit::Resource;
use sqlx::{
    ConnectOptions, Connection, SqliteConnection, SqlitePool,
    sqlite::{SqliteAutoVacuum, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use self::{
    append::Published,
    commands::ErasedEvents,
    copy::{CopyError, Findings, backup, check, restore},
    draft::{KeyConflict, Outcome, Stored},
    erase::Erased,
    highest::Lost,
    ordered::Reached,
    page::{EventSize, Order, PAGE_MAX_BYTES, Page, Range},
    schema::{Found, look},
    snapshot::Incoming,
    topics::TopicSummary,
    trim::{Trim, TrimStep},
    upkeep::{FileSize, Room},
};
use self::{
    draft::End,
    highest::{Highest, all_lost, skip_lost},
    intact::Intact,
    ordered::{Before, find_reached},
    place::{Lock, Place},
    readers::{ReadingThreads, open_readers},
    reserve::Reserve,
    schema::{Content, guarded, inspect, migrate, read_only},
    upkeep::ShrinkStep,
};
use crate::{
    event::{EventId, Timestamp},
    scan::Scans,
};

/// Rows that SQLite's thread reads ahead of the reader; each may be 1 MiB.
const READ_AHEAD_ROWS: usize = 16;

/// How long a write waits for another process that holds the file, such as a `sqlite3` shell in a transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the event log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EventLog {
    pool: SqlitePool,
    path: Arc<Path>,
    id: Arc<str>,
    lost: Arc<[Lost]>,
    scans: Scans,
    reading: Arc<ReadingThreads>,
}

/// Writes the event log: the only one that does.
#[derive(Debug)]
pub struct Appender {
    connection: SqliteConnection,
    id: Arc<str>,
    end: End,
    /// The oldest event kept.
    first_id: Option<EventId>,
    place: Place,
    intact: Intact,
    reserve: Reserve,
    shrink_step: ShrinkStep,
    /// How far it has come in the order of a cluster; `None` where it is alone.
    ordered: Option<Reached>,
    /// While commands of a cluster are done, what is put back if they are not committed.
    before: Option<Before>,
    /// Held as long as this is, and with it the file.
    _lock: Lock,
}

/// What SQLite or the system said.
pub type Source = Box<dyn error::Error + Send + Sync>;

/// Takes SQLite's error out of sqlx's, which says the same twice: as itself, and as its source.
fn without_repetition(error: sqlx::Error) -> Source {
    if let sqlx::Error::Database(error) = error {
        return error.into_error();
    }
    error.into()
}

/// Why a file was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("another segno is running on {0}")]
    InUse(PathBuf),
    /// It was to be read, and is not there.
    #[error("there is no file {0}; see --db")]
    Missing(PathBuf),
    /// SQLite, but somebody else's, or not SQLite at all.
    #[error("{0} is not a segno file; choose another with --db")]
    NotSegno(PathBuf),
    /// A file of a cluster, where the order of the cluster says what comes next.
    #[error(
        "{0} is one of a cluster's files; start it with --cluster, or import an export of it into a new file"
    )]
    OfCluster(PathBuf),
    /// A newer segno has changed its tables.
    #[error("{0} was written by a newer segno; run that one")]
    Newer(PathBuf),
    /// It has tables, triggers or views that segno did not make, or lacks some.
    #[error(
        "{path} was not made by segno alone: {difference}; restore a backup, or import an export into a new file"
    )]
    Foreign {
        /// The file that was asked for.
        path: PathBuf,
        /// What differs.
        difference: String,
    },
    /// The log's own id is missing, or is not a UUID.
    #[error("the log id in {0} is not a UUID; restore a backup")]
    InvalidLogId(PathBuf),
    /// Ids begin above zero and end at [`EventId::LAST`].
    #[error(
        "{path} has the id {id}, and ids are from 1 to {}; restore a backup",
        EventId::LAST
    )]
    IdOutOfRange {
        /// The file that was asked for.
        path: PathBuf,
        /// What stands where an id should.
        id: i64,
    },
    /// SQLite found that what is needed to start is broken.
    #[error("{0} is damaged: `segno check` says where, `segno restore` puts a backup in its place")]
    Corrupt(PathBuf),
    /// The file is there, and may only be read; or what is beside it.
    #[error("this user may not write {0}, or its -wal or -shm; change their owner or mode")]
    ReadOnly(PathBuf),
    /// There is no room for what SQLite needs beside the file.
    #[error("there is no room on the disk of {0}; make room")]
    Full(PathBuf),
    /// A second name: its WAL would have a second name too, and each process its own.
    #[error(
        "{0} has another name, a hard link; remove one of the two, since a hub on each would not see the other"
    )]
    HardLinked(PathBuf),
    /// The WAL would be in a folder that is gone with the container.
    #[error(
        "{0} is itself a mount point, and what SQLite keeps beside it would be lost; mount its folder instead"
    )]
    MountPoint(PathBuf),
    /// A link to nothing.
    #[error(
        "{0} is a symbolic link to a file that does not exist; remove the link, or make the file's folder and name the file"
    )]
    DanglingLink(PathBuf),
    /// Somebody put it there, or it was moved: who locks what it leads to does not lock the log.
    #[error("{0} is a symbolic link; remove it")]
    LinkedLock(PathBuf),
    /// A folder, a device or a pipe.
    #[error("{0} is not a file; name a file with --db")]
    NotAFile(PathBuf),
    /// SQLite takes paths as text.
    #[error("the path {0:?} is not UTF-8; choose another with --db")]
    NotUtf8(PathBuf),
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
        source: Source,
    },
}

/// Why the event log did not do what it was asked. Of an append, nothing is stored then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No room on the disk.
    #[error("the disk is full")]
    Full(#[source] Source),
    /// The file may not be written.
    #[error("the file of the event log is read-only")]
    ReadOnly(#[source] Source),
    /// Another process holds the file, and held it longer than a write waits.
    #[error("another process holds the file of the event log")]
    Busy(#[source] Source),
    /// The file, its WAL or the index of the WAL is not where it was opened. What were written now would be gone with the
    /// process.
    #[error("{0} was moved, deleted or replaced while it was open")]
    Moved(PathBuf),
    /// Another program has committed to the file or overwritten it. Lasts until the file is opened anew.
    #[error("another program changed {0} while it was open")]
    Changed(PathBuf),
    /// [`EventId::LAST`] was given.
    #[error("the last id there can be, {}, was given", EventId::LAST)]
    IdsExhausted,
    /// What was read is not as it was written.
    #[error("the file of the event log is damaged")]
    Corrupt(#[source] Source),
    /// The disk, or what stands for it, did not read, write or sync.
    ///
    /// Trying again is right, also after a sync: the WAL's end is not moved by a commit that failed, so the next one writes
    /// the same place anew, and what a system that forgets unsynced pages has forgotten is not missed. Until then a crash
    /// may bring back what was refused: it was written, and it is unknown whether it arrived.
    #[error("the disk failed")]
    Disk(#[source] Source),
    /// Anything else.
    #[error("the event log failed")]
    Other(#[source] Source),
}

impl From<sqlx::Error> for Error {
    /// Sorts by SQLite's primary result code. Source: <https://sqlite.org/rescode.html>.
    fn from(error: sqlx::Error) -> Self {
        let code = code(&error);
        let is_column = matches!(
            error,
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)
        );
        let source = without_repetition(error);
        match code.map(|code| code & 0xff) {
            Some(5 | 6) => Self::Busy(source),
            Some(8) => Self::ReadOnly(source),
            Some(10) if code == Some(IOERR_WRITE) && files_are_limited() => Self::Full(source),
            Some(10) => Self::Disk(source),
            Some(11 | 26) => Self::Corrupt(source),
            Some(13) => Self::Full(source),
            _ if is_column => Self::Corrupt(source),
            _ => Self::Other(source),
        }
    }
}

/// SQLite's extended result code for a write that failed for another reason than a full disk.
const IOERR_WRITE: i32 = 778;

/// Whether this process may only write files up to a size (`ulimit -f`): a write beyond it fails as no other does.
fn files_are_limited() -> bool {
    Resource::FSIZE
        .get_soft()
        .is_ok_and(|bytes| bytes != rlimit::INFINITY)
}

/// SQLite's extended result code.
fn code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// Opens the file at `path`, which is made if there is none, brings its tables up to date and locks it for this process.
pub async fn open(path: &Path) -> Result<(EventLog, Appender), OpenError> {
    let path = place::resolve(path)?;
    place::refuse_shared(&path)?;
    let lock = place::lock(&path)?;
    let mut reserve = Reserve::of(&path);
    let opened = match open_locked(&path).await {
        // A full disk has no room for the index of the WAL, which every start makes anew.
        Err(OpenError::Full(_) | OpenError::Sqlite { .. }) if reserve.give_up() => {
            open_locked(&path).await?
        }
        opened => opened?,
    };
    let (log, state) = opened;
    let appender = Appender {
        connection: state.connection,
        id: log.id.clone(),
        end: state.end,
        first_id: log.first_id().await.map_err(|error| {
            match matches!(error, Error::Corrupt(_)) {
                true => OpenError::Corrupt(path.clone()),
                false => OpenError::Sqlite {
                    path: path.clone(),
                    source: error.into(),
                },
            }
        })?,
        place: state.place,
        intact: state.intact,
        reserve,
        shrink_step: ShrinkStep::default(),
        ordered: state.reached,
        before: None,
        _lock: lock,
    };
    Ok((log, appender))
}

/// What is read from a file when it is opened, and the connection that writes it.
struct Opened {
    connection: SqliteConnection,
    end: End,
    reached: Option<Reached>,
    place: Place,
    intact: Intact,
}

async fn open_locked(path: &Path) -> Result<(EventLog, Opened), OpenError> {
    let failed = |source: sqlx::Error| open_error(path, source);
    place::make(path)?;
    inspect(path).await?;
    let options = guarded(path).row_buffer_size(READ_AHEAD_ROWS);
    let mut connection = options
        .clone()
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        // What is trimmed or erased is overwritten with zeros, also where SQLite copied it to when it balanced pages.
        .pragma("secure_delete", "on")
        .connect()
        .await
        .map_err(failed)?;
    migrate(&mut connection, path).await?;
    let pool = open_readers(options).await.map_err(failed)?;
    let reached = find_reached(&mut connection).await.map_err(failed)?;
    // In a cluster the order says what comes next, and an older copy catches up.
    if reached.is_none() {
        skip_lost(&mut connection, Highest::of(path).read()?)
            .await
            .map_err(failed)?;
    }
    if reached.is_some() {
        ordered::leave_syncing_to_the_order(&mut connection)
            .await
            .map_err(failed)?;
    }
    let mut end = newest(&mut connection).await.map_err(failed)?;
    let reached = reached.map(|(reached, last_created_at)| {
        // Of the newest event, also where it is trimmed: other hubs may have it still.
        end.last_created_at = end.last_created_at.max(last_created_at);
        reached
    });
    let log = EventLog::of(path, pool, &mut connection).await?;
    let state = Opened {
        end,
        reached,
        place: Place::of(path).map_err(|source| place::io_error(path, source))?,
        intact: Intact::of(path, &mut connection).await?,
        connection,
    };
    Ok((log, state))
}

/// Opens the file at `path` to read it, and changes nothing in it. A hub may run on it meanwhile.
pub async fn open_to_read(path: &Path) -> Result<EventLog, OpenError> {
    let path = existing(path).await?;
    let failed = |source: sqlx::Error| open_error(&path, source);
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(read_only(&path))
        .await
        .map_err(failed)?;
    let mut connection = pool.acquire().await.map_err(failed)?.detach();
    let log = EventLog::of(&path, pool, &mut connection).await?;
    connection.close().await.map_err(failed)?;
    Ok(log)
}

/// The resolved path of a log that is there.
async fn existing(path: &Path) -> Result<PathBuf, OpenError> {
    let resolved = match place::resolve(path) {
        Err(OpenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(OpenError::Missing(path.into()));
        }
        resolved => resolved?,
    };
    if !resolved.exists() {
        return Err(OpenError::Missing(path.into()));
    }
    match inspect(&resolved).await? {
        Content::Log => Ok(resolved),
        Content::Nothing => Err(OpenError::NotSegno(resolved)),
    }
}

impl EventLog {
    async fn of(
        path: &Path,
        pool: SqlitePool,
        connection: &mut SqliteConnection,
    ) -> Result<Self, OpenError> {
        let failed = |source: sqlx::Error| open_error(path, source);
        let id: String = sqlx::query_scalar("select id from log")
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
        Ok(Self {
            pool,
            path: path.into(),
            id: id.into(),
            lost: all_lost(connection).await.map_err(failed)?,
            scans: Scans::default(),
            reading: ReadingThreads::start()
                .map_err(|source| place::io_error(path, source))?
                .into(),
        })
    }
}

/// SQLite's extended result codes for an index of the WAL that cannot be made as large as it must be.
const IOERR_INDEX: [i32; 2] = [4618, 4874];

fn open_error(path: &Path, source: sqlx::Error) -> OpenError {
    let code = code(&source);
    match code.map(|code| code & 0xff) {
        Some(8) => OpenError::ReadOnly(path.into()),
        Some(10) if code.is_some_and(|code| IOERR_INDEX.contains(&code)) => {
            OpenError::Full(path.into())
        }
        Some(11) => OpenError::Corrupt(path.into()),
        Some(13) => OpenError::Full(path.into()),
        Some(26) => OpenError::NotSegno(path.into()),
        _ => OpenError::Sqlite {
            path: path.into(),
            source: without_repetition(source),
        },
    }
}

/// The newest id ever given, even if its row is gone, and the newest time.
async fn newest(connection: &mut SqliteConnection) -> Result<End, sqlx::Error> {
    let (id, created_at): (i64, i64) = sqlx::query_as(
        "select coalesce((select seq from sqlite_sequence where name = 'events'), 0), \
         coalesce((select created_at from events order by id desc limit 1), 0)",
    )
    .fetch_one(connection)
    .await?;
    Ok(End {
        last_id: EventId::from_row(id),
        last_created_at: Timestamp::from_millis(created_at),
    })
}

impl Appender {
    /// Begins a transaction, after a check that no other program has changed the file; none inside the one of
    /// [commands](Self::begin_commands).
    ///
    /// Not with sqlx's transactions: sqlx counts how deep they are, and the count is wrong once SQLite has rolled back by itself,
    /// as it may on a full disk. What is appended later would then be in a transaction that is never committed.
    async fn begin(&mut self) -> Result<(), Error> {
        if self.before.is_some() {
            return Ok(());
        }
        self.look_at_files().await?;
        sqlx::query("begin immediate")
            .execute(&mut self.connection)
            .await?;
        match self.look_at_version().await {
            Ok(()) => Ok(()),
            Err(error) => self.end(Err(error)).await,
        }
    }

    /// Commits what was begun, if it was done, else takes it back.
    async fn end<T>(&mut self, done: Result<T, Error>) -> Result<T, Error> {
        if self.before.is_some() {
            return done;
        }
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
        self.remember();
        ended
    }

    /// Copies the WAL into the file, empties it and lets go of the file. A file that another program has overwritten is left
    /// as that program left it.
    pub async fn close(mut self) -> Result<(), Error> {
        // The last check for a change from outside. Any other error here is one that the checkpoint reports too.
        _ = self.look_at_files().await;
        if self.must_not_write() {
            // SQLite would copy the WAL when it closes the file. It ends with the process.
            std::mem::forget(self.connection);
            return Ok(());
        }
        sqlx::query("pragma wal_checkpoint(truncate)")
            .execute(&mut self.connection)
            .await?;
        self.connection.close().await?;
        // Not before: SQLite's locks on the file go when any handle on it is closed.
        drop(self.intact);
        Ok(())
    }
}

impl EventLog {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The scans of the log: those of others who look at its events are to be among them.
    pub fn scans(&self) -> &Scans {
        &self.scans
    }

    /// The log's own id, a UUID: a cursor of one log means nothing in another.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The stretches of ids whose events were lost with a file that an older copy replaced, oldest first. Few.
    pub fn lost(&self) -> &[Lost] {
        &self.lost
    }

    /// Ends all reading; waits for what is being read.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_sqlite_said_is_told_once() {
        let nowhere = guarded(Path::new("/nowhere/segno.db"));
        let error = Error::from(nowhere.connect().await.unwrap_err());
        let cause = std::error::Error::source(&error).unwrap();
        assert_eq!(cause.to_string(), "(code: 14) unable to open database file");
        assert!(cause.source().is_none());
    }
}
