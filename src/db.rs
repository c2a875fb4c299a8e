//! The durable, ordered sequence of all events, in one SQLite file. All SQL of the hub is here.
//!
//! [`EventLog`] reads and may be cloned; [`Appender`] writes and there is one for a file, because opening takes a lock
//! beside it. Nothing here knows of channels or HTTP.
//!
//! Invariants:
//! * What [`Appender::append`] returned is committed and synced (WAL, `synchronous=full`).
//! * Ids and times grow along the log; an id is never used twice (`autoincrement`).
//! * A read takes one page and ends. No statement stays open while a subscriber is slow: that would pin the WAL.

mod append;
mod copy;
mod draft;
mod erase;
mod highest;
mod migrations;
mod page;
mod place;
#[cfg(test)]
mod plans;
mod schema;
mod topics;
mod trim;
mod upkeep;

use std::{
    fmt,
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, SqliteConnection, SqlitePool,
    sqlite::{
        SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions,
        SqliteSynchronous,
    },
};

pub use self::{
    copy::{CopyError, Findings, backup, check, restore},
    draft::{KeyConflict, Outcome, Stored},
    erase::Erased,
    highest::Lost,
    page::{Order, Page, Range},
    schema::{Found, look},
    topics::TopicSummary,
    trim::{Trim, TrimStep},
    upkeep::{FileSize, Room},
};
use self::{
    draft::End,
    highest::{Highest, all_lost, skip_lost},
    place::Place,
    schema::{migrate, refuse_foreign},
};
use crate::event::{EventId, Timestamp};

/// Readers that work at once. More would wait for the processor: a page is read from memory as a rule.
const READERS: u32 = 4;

/// Rows that a reader's thread runs ahead of the one who takes them; each may be 1 MiB.
const READ_AHEAD_ROWS: usize = 32;

/// How long a write waits for another process that holds the file, such as a `sqlite3` shell in a transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

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
    end: End,
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
    Full(#[source] Cause),
    /// The file may not be written.
    #[error("the file of the event log is read-only")]
    ReadOnly(#[source] Cause),
    /// Another process holds the file, and held it longer than a write waits.
    #[error("another process holds the file of the event log")]
    Busy(#[source] Cause),
    /// The file, its WAL or the index of the WAL is not where it was opened. What were written now would be gone with the
    /// process.
    #[error("{0} was moved, deleted or replaced while it was open")]
    Moved(PathBuf),
    /// What was read is not as SQLite wrote it.
    #[error("the file of the event log is damaged")]
    Corrupt(#[source] Cause),
    /// The disk, or what stands for it, did not read, write or sync.
    ///
    /// Trying again is right, also after a sync: the WAL's end is not moved by a commit that failed, so the next one writes
    /// the same place anew, and what a system that forgets unsynced pages has forgotten is not missed. Until then a crash
    /// may bring back what was refused: it was written, and nobody knows whether it arrived.
    #[error("the disk failed")]
    Disk(#[source] Cause),
    /// Anything else.
    #[error("the event log failed")]
    Other(#[source] Cause),
}

/// What SQLite said, or sqlx where SQLite said nothing.
///
/// sqlx repeats in its own message what SQLite said, and names it as the source as well: whoever prints the chain would print it
/// twice.
#[derive(Debug)]
pub struct Cause(sqlx::Error);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_database_error() {
            Some(said) => fmt::Display::fmt(said, f),
            None => fmt::Display::fmt(&self.0, f),
        }
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self.0.as_database_error() {
            Some(_) => None,
            None => self.0.source(),
        }
    }
}

impl From<sqlx::Error> for Error {
    /// Sorts by SQLite's primary result code. Source: <https://sqlite.org/rescode.html>.
    fn from(error: sqlx::Error) -> Self {
        let code = primary_code(&error);
        let cause = Cause(error);
        match code {
            Some(5 | 6) => Self::Busy(cause),
            Some(8) => Self::ReadOnly(cause),
            Some(10) => Self::Disk(cause),
            Some(11 | 26) => Self::Corrupt(cause),
            Some(13) => Self::Full(cause),
            _ => Self::Other(cause),
        }
    }
}

fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
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
    let end = newest(&mut connection).await.map_err(failed)?;
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
        end,
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

fn open_error(path: &Path, source: sqlx::Error) -> OpenError {
    match primary_code(&source) {
        Some(8) => OpenError::ReadOnly(path.into()),
        Some(11) => OpenError::Corrupt(path.into()),
        Some(26) => OpenError::NotSegno(path.into()),
        _ => OpenError::Sqlite {
            path: path.into(),
            source: Cause(source).into(),
        },
    }
}

/// The newest id there ever was, also where its row is gone, and the newest time.
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

    /// Copies the WAL into the file, empties it and lets go of the file.
    pub async fn close(mut self) -> Result<(), Error> {
        sqlx::query("pragma wal_checkpoint(truncate)")
            .execute(&mut self.connection)
            .await?;
        Ok(self.connection.close().await?)
    }
}

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
        let nowhere = SqliteConnectOptions::new().filename("/nowhere/segno.db");
        let error = Error::from(nowhere.connect().await.unwrap_err());
        let cause = std::error::Error::source(&error).unwrap();
        assert_eq!(cause.to_string(), "(code: 14) unable to open database file");
        assert!(cause.source().is_none());
    }
}
