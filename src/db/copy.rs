//! Copies of the whole log: a backup made while the hub runs, and a look at any file whether it is sound.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{
    BUSY_TIMEOUT, OpenError, beside, lock, migrations::MIGRATIONS, open_error,
    schema::refuse_foreign,
};
use crate::event::EventId;

/// Faults of one kind that are told one by one.
const FAULTS_MAX: i64 = 20;

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// The log's own id.
    pub log_id: String,
    /// How many events there are.
    pub events: u64,
    /// The newest id there ever was.
    pub last_id: EventId,
    /// What is wrong, in sentences; nothing if the file is sound.
    pub faults: Vec<String>,
}

/// Why a copy was not made.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The file to read, or the one to replace.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is a file already where the copy should be.
    #[error("there is a file at {0} already; it is left as it is")]
    Exists(PathBuf),
    /// The copy is not a sound log; it is removed.
    #[error("{path} is not sound: {}", .faults.join("; "))]
    Unsound {
        /// The file that was looked at.
        path: PathBuf,
        /// What is wrong with it.
        faults: Vec<String>,
    },
    /// The copy could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file that was being written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Copies the log at `db`, as it is at one moment, to a new file at `copy`, and looks whether that is sound. A hub may run
/// and publish meanwhile: it keeps its WAL until the copy is made.
pub async fn backup(db: &Path, copy: &Path) -> Result<Findings, CopyError> {
    refuse_existing(copy)?;
    let unfinished = beside(copy, ".new");
    remove(&unfinished)?;
    let mut connection = connect_to_read(db).await?;
    let failed = |source| open_error(&unfinished, source);
    sqlx::query("vacuum into ?1")
        .bind(unfinished.to_string_lossy())
        .execute(&mut connection)
        .await
        .map_err(failed)?;
    connection.close().await.map_err(failed)?;
    let findings = sound(&unfinished).await?;
    put_in_place(&unfinished, copy)?;
    Ok(findings)
}

/// Puts a copy of `backup` at `db`, where no hub may run. A file that is there is kept under another name, which is
/// returned; without `replace` it is left and refused.
pub async fn restore(
    backup: &Path,
    db: &Path,
    replace: bool,
) -> Result<(Findings, Option<PathBuf>), CopyError> {
    let findings = sound(backup).await?;
    let kept = match db.exists() {
        true if replace => Some(set_aside(db).await?),
        true => return Err(CopyError::Exists(db.into())),
        false => None,
    };
    let _lock = lock(db)?;
    let unfinished = beside(db, ".new");
    let written = |source| CopyError::Write {
        path: unfinished.clone(),
        source,
    };
    fs::copy(backup, &unfinished).map_err(written)?;
    put_in_place(&unfinished, db)?;
    Ok((findings, kept))
}

/// Renames the log and what is beside it. Its highest id is noted first, so that ids go on above it.
async fn set_aside(db: &Path) -> Result<PathBuf, CopyError> {
    let written = |source| CopyError::Write {
        path: db.into(),
        source,
    };
    match super::open(db).await {
        Ok((log, appender)) => {
            let last_id = appender.last_id();
            log.close().await;
            appender.close().await.map_err(|error| OpenError::Sqlite {
                path: db.into(),
                source: error.into(),
            })?;
            log.note_highest(last_id).await.map_err(written)?;
        }
        Err(OpenError::InUse(path)) => return Err(OpenError::InUse(path).into()),
        // A file that cannot be opened may be the reason for the restore; the note beside it knows its ids.
        Err(error) => tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the file that is replaced cannot be read"
        ),
    }
    let suffix = format!(
        "-replaced-{}",
        chrono::Utc::now().format("%Y%m%dT%H%M%S%3f")
    );
    let aside = beside(db, &suffix);
    fs::rename(db, &aside).map_err(written)?;
    for part in ["-wal", "-shm"] {
        // There are none after a clean end.
        if beside(db, part).exists() {
            fs::rename(beside(db, part), beside(&aside, part)).map_err(written)?;
        }
    }
    Ok(aside)
}

async fn sound(path: &Path) -> Result<Findings, CopyError> {
    let findings = check(path).await?;
    match findings.faults.is_empty() {
        true => Ok(findings),
        false => Err(CopyError::Unsound {
            path: path.into(),
            faults: findings.faults,
        }),
    }
}

fn refuse_existing(path: &Path) -> Result<(), CopyError> {
    match path.exists() {
        true => Err(CopyError::Exists(path.into())),
        false => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), CopyError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(CopyError::Write {
            path: path.into(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Syncs a file that is whole and gives it its name: nobody ever sees half of it there.
fn put_in_place(unfinished: &Path, path: &Path) -> Result<(), CopyError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let done = File::open(unfinished)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(unfinished, path))
        .and_then(|()| File::open(folder)?.sync_all());
    done.map_err(|source| CopyError::Write {
        path: path.into(),
        source,
    })
}

async fn connect_to_read(path: &Path) -> Result<SqliteConnection, OpenError> {
    refuse_foreign(path).await?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .read_only(true);
    SqliteConnection::connect_with(&options)
        .await
        .map_err(|source| open_error(path, source))
}

const VERSION: &str = "select coalesce(max(version), 0) from _sqlx_migrations where success";

const ABOUT: &str = "
select (select id from log), (select count(*) from events),
       coalesce((select seq from sqlite_sequence where name = 'events'), 0)";

/// Each finds what must not be, and says so in a sentence.
const FAULTS: &[&str] = &[
    // With the indexes, entry by entry.
    "select 'SQLite: ' || integrity_check from pragma_integrity_check where integrity_check <> 'ok' limit ?1",
    "select 'event ' || id || ' is older than the one before it' from (
        select id, created_at < lag(created_at) over (order by id) as is_older from events
    ) where is_older limit ?1",
    "select 'event ' || id || ' has an id that is none' from events where id < 1 limit ?1",
    "select 'event ' || max(id) || ' is newer than the newest id there ever was' from events
     having max(id) > coalesce((select seq from sqlite_sequence where name = 'events'), 0) limit ?1",
    "select 'the data of event ' || id || ' is not JSON' from events where not json_valid(data) limit ?1",
    // Events of one commit have one time and ids that follow each other. Commits of one millisecond do, too.
    "select 'events between ' || previous_id || ' and ' || id || ' are missing, and no mark says why' from (
        select id, created_at,
               lag(id) over (order by id) as previous_id,
               lag(created_at) over (order by id) as previous_created_at
        from events
    )
    where id > previous_id + 1 and created_at = previous_created_at
      and id > coalesce((select max(last_id) from trimmed), 0)
    limit ?1",
];

/// Looks whether the file at `path` is sound, from end to end. A hub may run on it meanwhile.
pub async fn check(path: &Path) -> Result<Findings, OpenError> {
    let mut connection = connect_to_read(path).await?;
    let failed = |source| open_error(path, source);
    let version: i64 = sqlx::query_scalar(VERSION)
        .fetch_one(&mut connection)
        .await
        .map_err(failed)?;
    if MIGRATIONS
        .iter()
        .all(|migration| migration.version < version)
    {
        return Err(OpenError::Newer(path.into()));
    }
    // One moment for all of it.
    let mut tx = connection.begin().await.map_err(failed)?;
    let (log_id, events, last_id): (String, i64, i64) = sqlx::query_as(ABOUT)
        .fetch_one(&mut *tx)
        .await
        .map_err(failed)?;
    let mut faults = Vec::new();
    for sql in FAULTS {
        let found: Result<Vec<String>, _> = sqlx::query_scalar(*sql)
            .bind(FAULTS_MAX)
            .fetch_all(&mut *tx)
            .await;
        match found {
            Ok(found) => faults.extend(found),
            // A page that cannot be read is a fault, and not the end of the look.
            Err(error) => faults.push(error.to_string()),
        }
    }
    tx.rollback().await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    Ok(Findings {
        log_id,
        events: events.unsigned_abs(),
        last_id: EventId::from_row(last_id),
        faults,
    })
}
