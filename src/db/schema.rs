//! Whose file it is, and which tables it has.

use std::{
    fs::{OpenOptions, TryLockError},
    path::Path,
};

use sqlx::{
    ConnectOptions, Connection, SqliteConnection, migrate::MigrateError,
    sqlite::SqliteConnectOptions,
};

use super::{OpenError, beside, highest::Highest, migrations::MIGRATIONS, open_error};

/// What `pragma application_id` says of a file that segno made: "SEGN".
const APPLICATION_ID: i32 = 0x5345_474E;

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

/// Looks before anything is changed: to open a file in WAL mode is to write into it.
pub(super) async fn refuse_foreign(path: &Path) -> Result<(), OpenError> {
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

pub(super) async fn migrate(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<(), OpenError> {
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
