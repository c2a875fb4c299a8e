//! Copies of the whole log: a backup made while the hub runs, a restore, and the check whether a file is sound.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use futures_util::TryStreamExt;
use serde::de::IgnoredAny;
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection, sqlite::SqliteRow};

use super::{
    OpenError, code, existing, open_error,
    place::{self, resolve},
    schema::read_only,
};
use crate::{
    event::{DATA_MAX_BYTES, EventId, EventType, Key, Topic},
    files::{self, OWNER_ONLY, beside},
};

/// Faults of one kind that are listed.
const FAULTS_MAX: i64 = 20;

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// The log's own id.
    pub log_id: String,
    /// How many events there are; where a page is damaged, how many before it.
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
    /// There is no file to restore.
    #[error("there is no backup {0}")]
    NoBackup(PathBuf),
    /// There is a file already where the backup should be.
    #[error("{0} exists; choose another name for the backup")]
    Exists(PathBuf),
    /// There is a log already where the backup should be restored.
    #[error("{0} exists; `--replace` moves it aside")]
    LogExists(PathBuf),
    /// The copy is not a sound log.
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

/// Copies the log at `db`, as it is at one moment, to a new file at `copy`, and checks that the copy is sound. A hub may run
/// and publish meanwhile: it keeps its WAL until the copy is made.
pub async fn backup(db: &Path, copy: &Path) -> Result<Findings, CopyError> {
    let copy = resolve(copy)?;
    if copy.exists() {
        return Err(CopyError::Exists(copy));
    }
    let unfinished = copy_beside(&existing(db).await?, &copy).await?;
    let findings = sound(&unfinished).await?;
    put_in_place(&unfinished, &copy)?;
    Ok(findings)
}

/// Puts a copy of `backup` at `db`, where no hub may run. A file that is there is kept under another name, which is
/// returned; without `replace` it is refused.
pub async fn restore(
    backup: &Path,
    db: &Path,
    replace: bool,
) -> Result<(Findings, Option<PathBuf>), CopyError> {
    let backup = match existing(backup).await {
        Err(OpenError::Missing(path)) => return Err(CopyError::NoBackup(path)),
        backup => backup?,
    };
    let findings = sound(&backup).await?;
    let db = resolve(db)?;
    place::refuse_shared(&db)?;
    let kept = match db.exists() {
        true if replace => Some(set_aside(&db).await?),
        true => return Err(CopyError::LogExists(db)),
        false => None,
    };
    let _lock = place::lock(&db)?;
    let unfinished = copy_beside(&backup, &db).await?;
    put_in_place(&unfinished, &db)?;
    Ok((findings, kept))
}

/// Makes an empty file beside `to`, for what is to be put there when it is complete. Only its owner may read it.
pub(super) fn begin_beside(to: &Path) -> Result<(PathBuf, File), CopyError> {
    let unfinished = files::unfinished(to);
    match files::begin_beside(to, OWNER_ONLY) {
        Ok(file) => Ok((unfinished, file)),
        Err(source) => Err(CopyError::Write {
            path: unfinished,
            source,
        }),
    }
}

/// Copies the log at `from`, with what is in its WAL, to a new file beside `to`, which only its owner may read.
pub(super) async fn copy_beside(from: &Path, to: &Path) -> Result<PathBuf, CopyError> {
    let (unfinished, _) = begin_beside(to)?;
    let mut connection = connect(from).await?;
    // SQLite takes an empty file for none.
    let copied = sqlx::query("vacuum into ?1")
        .bind(unfinished.to_string_lossy())
        .execute(&mut connection)
        .await;
    copied.map_err(|error| match code(&error) {
        Some(13) => OpenError::Full(unfinished.clone()),
        _ => open_error(from, error),
    })?;
    let closed = connection.close().await;
    closed.map_err(|error| open_error(from, error))?;
    Ok(unfinished)
}

/// Renames the log and the files beside it. Notes its highest id first, so that ids go on above it.
pub(super) async fn set_aside(db: &Path) -> Result<PathBuf, CopyError> {
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
        // A file that cannot be opened may be the reason for the restore; the note beside it has its highest id.
        Err(error) => tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the file to replace cannot be read"
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

pub(super) async fn sound(path: &Path) -> Result<Findings, CopyError> {
    let findings = check(path).await?;
    match findings.faults.is_empty() {
        true => Ok(findings),
        false => Err(CopyError::Unsound {
            path: path.into(),
            faults: findings.faults,
        }),
    }
}

/// Syncs a complete file, then gives it its name: at that path there is never half a file.
pub(super) fn put_in_place(unfinished: &Path, path: &Path) -> Result<(), CopyError> {
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

/// Connects to a file that was [looked into](super::schema::inspect), to read it.
pub(super) async fn connect(path: &Path) -> Result<SqliteConnection, OpenError> {
    let failed = |source| open_error(path, source);
    let mut connection = read_only(path).connect().await.map_err(failed)?;
    let looked = sqlx::query("select count(*) from sqlite_schema")
        .execute(&mut connection)
        .await;
    match looked {
        // A folder that may not be written, such as a disk of backups: SQLite makes its own files even to read, unless it
        // is told that nobody writes.
        Err(error) if code(&error) == Some(14) && !beside(path, "-wal").exists() => read_only(path)
            .immutable(true)
            .connect()
            .await
            .map_err(failed),
        looked => looked.map(|_| connection).map_err(failed),
    }
}

const ABOUT: &str = "
select (select id from log), coalesce((select seq from sqlite_sequence where name = 'events'), 0)";

/// Each selects one sentence for each fault.
const FAULTS: &[&str] = &[
    // With the indexes, entry by entry.
    "select 'SQLite: ' || integrity_check from pragma_integrity_check where integrity_check <> 'ok' limit ?1",
    "select 'event ' || id || ' is older than the one before it' from (
        select id, created_at < lag(created_at) over (order by id) as is_older from events
    ) where is_older limit ?1",
    "select 'event ' || id || ' has an id that is none' from events where id < 1 limit ?1",
    "select 'event ' || max(id) || ' is newer than the newest id there ever was' from events
     having max(id) > coalesce((select seq from sqlite_sequence where name = 'events'), 0) limit ?1",
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

const ROWS: &str = "select id, topic, type, data, created_at, key from events order by id";

/// Checks whether the file at `path` is sound, from end to end, and changes nothing in it. A hub may run on it meanwhile.
pub async fn check(path: &Path) -> Result<Findings, OpenError> {
    let path = existing(path).await?;
    let failed = |source| open_error(&path, source);
    let mut connection = connect(&path).await?;
    // One moment for all of it.
    let mut tx = connection.begin().await.map_err(failed)?;
    let (log_id, last_id): (String, i64) = sqlx::query_as(ABOUT)
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
            // A page that cannot be read is a fault, and not the end of the check.
            Err(error) => faults.push(error.to_string()),
        }
    }
    let (events, faults_of_rows) = read_rows(&mut tx).await;
    faults.extend(faults_of_rows);
    tx.rollback().await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    Ok(Findings {
        log_id,
        events,
        last_id: EventId::from_row(last_id),
        faults,
    })
}

/// How many events can be read, and which of them break the rules of events.
async fn read_rows(connection: &mut SqliteConnection) -> (u64, Vec<String>) {
    let (mut events, mut faults) = (0, Vec::new());
    let mut rows = sqlx::query(ROWS).fetch(connection);
    loop {
        match rows.try_next().await {
            Ok(Some(row)) => {
                events += 1;
                if i64::try_from(faults.len()).is_ok_and(|found| found < FAULTS_MAX) {
                    faults.extend(fault_of(&row));
                }
            }
            Ok(None) => return (events, faults),
            // What is behind it cannot be counted.
            Err(error) => {
                faults.push(error.to_string());
                return (events, faults);
            }
        }
    }
}

fn fault_of(row: &SqliteRow) -> Option<String> {
    let id: i64 = row.try_get(0).unwrap_or(0);
    let fault = |part: &str, broken: &str| Some(format!("the {part} of event {id} {broken}"));
    let text = |column: usize| row.try_get::<&str, _>(column);
    let (Ok(topic), Ok(event_type), Ok(data)) = (text(1), text(2), text(3)) else {
        return fault("text", "is not UTF-8");
    };
    let Ok(key) = row.try_get::<Option<&str>, _>(5) else {
        return fault("key", "is not UTF-8");
    };
    if Topic::of_log(topic).is_err() {
        return fault("topic", "breaks the rule for topics");
    }
    if EventType::of_log(event_type).is_err() {
        return fault("type", "breaks the rule for types");
    }
    if key.is_some_and(|key| Key::new(key).is_err()) {
        return fault("key", "breaks the rule for keys");
    }
    // Read as it was when it was published: SQLite reads no JSON that is deeper than 1,000 levels, and older logs have it.
    if serde_json::from_str::<IgnoredAny>(data).is_err() {
        return fault("data", "is not JSON");
    }
    if data.contains(['\n', '\r']) {
        return fault("data", "has a line break");
    }
    if data.len() > DATA_MAX_BYTES {
        return fault("data", "is longer than any that can be published");
    }
    None
}
