//! Whose file it is, and whether its tables are those that segno makes.
//!
//! A file may come from anywhere, and a schema is code: a trigger can forge events, a view can stand where a table should be
//! and never end. So the schema is compared, text by text, before anything else is read from a file.

use std::{collections::BTreeMap, path::Path};

use sqlx::{
    ConnectOptions, Connection, SqliteConnection, migrate::MigrateError,
    sqlite::SqliteConnectOptions,
};
use uuid::Uuid;

use super::{
    BUSY_TIMEOUT, OpenError, code,
    highest::Highest,
    migrations::MIGRATIONS,
    open_error,
    place::{io_error, is_locked, resolve},
};
use crate::{
    event::EventId,
    files::{OWNER_ONLY, beside, create_new},
};

/// What `pragma application_id` says of a file that segno made: "SEGN".
const APPLICATION_ID: i32 = 0x5345_474E;

/// sqlx's own table. Its text is sqlx's, and may differ from version to version.
const MIGRATIONS_TABLE: &str = "_sqlx_migrations";

const ABOUT: &str = "
select (select application_id from pragma_application_id), count(*) from sqlite_schema";

const OBJECTS: &str = "select type, name, coalesce(sql, '') from sqlite_schema";

const VERSION: &str = "select coalesce(max(version), 0) from _sqlx_migrations where success";

const LOG_IDS: &str = "select id from log limit 2";

/// Every table with ids of events in it, and what finds the lowest and the highest of them: a file from elsewhere may have in one what
/// it has in no other.
const IDS: &[(&str, &str)] = &[
    (
        "sqlite_sequence",
        "select min(seq), max(seq) from sqlite_sequence where name = 'events'",
    ),
    (
        "events",
        "select (select min(id) from events), (select max(id) from events)",
    ),
    ("trimmed", "select min(last_id), max(last_id) from trimmed"),
    (
        "lost",
        "select min(min(after_id, through_id)), max(max(after_id, through_id)) from lost",
    ),
    (
        "command_ids",
        "select min(min(first_id, last_id)), max(max(first_id, last_id)) from command_ids",
    ),
    (
        "command_duplicates",
        "select (select min(event_id) from command_duplicates), (select max(event_id) from command_duplicates)",
    ),
];

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

/// Checks whether [`open`](super::open) would work at `path`, and changes nothing there; a file is made beside it and removed
/// at once. A hub may run on it meanwhile.
pub async fn look(path: &Path) -> Result<Found, OpenError> {
    let path = resolve(path)?;
    super::place::refuse_shared(&path)?;
    let probe = beside(&path, &format!("-look-{}", std::process::id()));
    create_new(&probe, OWNER_ONLY)
        .and_then(|_| std::fs::remove_file(&probe))
        .map_err(|source| io_error(&path, source))?;
    Highest::of(&path).read()?;
    if !path.exists() {
        return Ok(Found::Nothing);
    }
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|source| io_error(&path, source))?;
    match inspect(&path).await? {
        Content::Nothing => Ok(Found::Nothing),
        Content::Log => Ok(Found::Log {
            in_use: is_locked(&path),
        }),
    }
}

/// What is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Nothing,
    /// A log that segno made, and that it can read.
    Log,
}

/// Examines the file at a resolved path, and changes nothing: SQLite writes to a file in WAL mode when it opens it to write.
pub(super) async fn inspect(path: &Path) -> Result<Content, OpenError> {
    let failed = |source| open_error(path, source);
    let mut connection = read_only(path)
        // Without a WAL no process writes, and SQLite need not make files of its own to find out.
        .immutable(!beside(path, "-wal").exists())
        .connect()
        .await
        .map_err(failed)?;
    let content = content_of(&mut connection, path).await;
    connection.close().await.map_err(failed)?;
    content
}

/// How a file is opened whose content may be anybody's.
pub(super) fn read_only(path: &Path) -> SqliteConnectOptions {
    guarded(path).read_only(true)
}

/// The options of every connection to a file.
pub(super) fn guarded(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging()
        // The schema runs no function that could do harm, and pages are checked before they are used.
        .pragma("trusted_schema", "off")
        .pragma("cell_size_check", "on")
}

/// What is in the file of `connection`; refuses what segno did not make.
pub(super) async fn content_of(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<Content, OpenError> {
    let failed = |source| open_error(path, source);
    let (application_id, objects): (i32, i64) = sqlx::query_as(ABOUT)
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if objects == 0 {
        return Ok(Content::Nothing);
    }
    if application_id != APPLICATION_ID {
        return Err(OpenError::NotSegno(path.into()));
    }
    let objects = refuse_foreign_objects(connection, path).await?;
    let ids: Vec<String> = sqlx::query_scalar(LOG_IDS)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    match &*ids {
        [id] if is_uuid(id) => (),
        _ => return Err(OpenError::InvalidLogId(path.into())),
    }
    refuse_ids_out_of_range(connection, &objects, path).await?;
    Ok(Content::Log)
}

/// Zero is in the range: it stands for the place before the first event.
async fn refuse_ids_out_of_range(
    connection: &mut SqliteConnection,
    objects: &Objects,
    path: &Path,
) -> Result<(), OpenError> {
    let is_there = |table: &str| objects.keys().any(|(_, name)| name == table);
    // An older file does not have all the tables yet.
    for (_, sql) in IDS.iter().filter(|(table, _)| is_there(table)) {
        let found = sqlx::query_as(*sql).fetch_one(&mut *connection).await;
        let (lowest, highest): (Option<i64>, Option<i64>) = match found {
            // A damaged page is for `check` to list, and no reason not to serve the other events.
            Err(error) if code(&error).is_some_and(|code| code & 0xff == 11) => continue,
            found => found.map_err(|source| open_error(path, source))?,
        };
        let mut ids = [highest, lowest].into_iter().flatten();
        if let Some(id) = ids.find(|id| !(0..=EventId::LAST.as_i64()).contains(id)) {
            return Err(OpenError::IdOutOfRange {
                path: path.into(),
                id,
            });
        }
    }
    Ok(())
}

fn is_uuid(id: &str) -> bool {
    Uuid::parse_str(id).is_ok_and(|uuid| uuid.hyphenated().to_string() == id)
}

/// Compares the schema, which it returns, with what the migrations make of an empty file.
async fn refuse_foreign_objects(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<Objects, OpenError> {
    let failed = |source| open_error(path, source);
    let found = objects(connection).await.map_err(failed)?;
    let foreign = |difference: String| {
        Err(OpenError::Foreign {
            path: path.into(),
            difference,
        })
    };
    let migrations = (String::from("table"), String::from(MIGRATIONS_TABLE));
    if !found
        .get(&migrations)
        .is_some_and(|sql| is_plain_table(sql))
    {
        return foreign(format!("it has no table {MIGRATIONS_TABLE}"));
    }
    let version: i64 = sqlx::query_scalar(VERSION)
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if MIGRATIONS.iter().map(|migration| migration.version).max() < Some(version) {
        return Err(OpenError::Newer(path.into()));
    }
    let expected = made_by_migrations(version, path).await?;
    match difference(&found, &expected) {
        Some(difference) => foreign(difference),
        None => Ok(found),
    }
}

/// What makes a schema another than the expected one, beyond what may stand beside it.
pub(super) fn difference(found: &Objects, expected: &Objects) -> Option<String> {
    let added = found.iter().find(|(object, sql)| {
        expected.get(object) != Some(sql)
            && object.1 != MIGRATIONS_TABLE
            && !is_allowed(object, sql)
    });
    if let Some(((kind, name), _)) = added {
        let name = name.escape_debug();
        return Some(format!("it has a {kind} {name} that is not segno's"));
    }
    let missing = expected.keys().find(|object| !found.contains_key(object));
    missing.map(|(kind, name)| format!("it has no {kind} {name}"))
}

/// The text of each object of a schema, by its type and its name.
pub(super) type Objects = BTreeMap<(String, String), String>;

pub(super) async fn objects(connection: &mut SqliteConnection) -> Result<Objects, sqlx::Error> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(OBJECTS).fetch_all(connection).await?;
    let objects = rows.into_iter();
    Ok(objects
        .map(|(kind, name, sql)| ((kind, name), sql))
        .collect())
}

/// What stands beside the log without harm: SQLite's own, and the notes that Litestream makes.
fn is_allowed((kind, name): &(String, String), sql: &str) -> bool {
    match &**kind {
        "table" => {
            (name.starts_with("sqlite_") || name.starts_with("_litestream_")) && is_plain_table(sql)
        }
        "index" => name.starts_with("sqlite_"),
        _ => false,
    }
}

/// A virtual table runs code of its own.
fn is_plain_table(sql: &str) -> bool {
    sql.starts_with("CREATE TABLE")
}

/// The schema of a new log of this version.
async fn made_by_migrations(version: i64, path: &Path) -> Result<Objects, OpenError> {
    let failed = |source| open_error(path, source);
    let mut connection = SqliteConnectOptions::new()
        .in_memory(true)
        .disable_statement_logging()
        .connect()
        .await
        .map_err(failed)?;
    MIGRATIONS
        .run_to(version, &mut connection)
        .await
        .map_err(|error| migrate_error(path, error))?;
    let objects = objects(&mut connection).await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    Ok(objects)
}

/// Brings the tables up to date.
pub(super) async fn migrate(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<(), OpenError> {
    let migrated = MIGRATIONS.run(connection).await;
    migrated.map_err(|error| migrate_error(path, error))
}

fn migrate_error(path: &Path, error: MigrateError) -> OpenError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "sqlx adds kinds, and all others are told as they are"
    )]
    match error {
        MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => {
            OpenError::Newer(path.into())
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            open_error(path, error)
        }
        error => OpenError::Sqlite {
            path: path.into(),
            source: error.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a schema can do is refused before it is asked; that its functions are not trusted, and its pages looked at, is the second line.
    #[tokio::test]
    async fn a_file_is_opened_as_one_of_somebody_else() {
        let folder = tempfile::tempdir().unwrap();
        let options = guarded(&folder.path().join("new.db")).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        for (pragma, expected) in [("pragma trusted_schema", 0), ("pragma cell_size_check", 1)] {
            let value: i64 = sqlx::query_scalar(pragma)
                .fetch_one(&mut connection)
                .await
                .unwrap();
            assert_eq!(value, expected, "{pragma}");
        }
    }
}
