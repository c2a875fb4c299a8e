//! The highest id that was announced, noted in a small file beside the log.
//!
//! The log itself knows its newest id, unless an older copy is put in its place. The note stays then, and ids go on above it.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use std::sync::Arc;

use sqlx::{Connection, SqliteConnection};

use super::{EventLog, OpenError, newest};
use crate::{
    event::{EventId, Timestamp},
    files::{self, OWNER_ONLY, beside},
};

/// The most ids that may have been announced since the note was written: it is written once a second, and the log takes
/// 460,000 events a second at best.
const UNNOTED_MAX_IDS: i64 = 1_000_000;

/// The note of a log.
#[derive(Debug)]
pub(super) struct Highest {
    path: PathBuf,
}

impl Highest {
    pub(super) fn of(log_path: &Path) -> Self {
        Self {
            path: beside(log_path, "-highest"),
        }
    }

    /// The noted id; zero if there is no note.
    pub(super) fn read(&self) -> Result<EventId, OpenError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => match text.trim().parse() {
                Ok(id) if id <= EventId::LAST => Ok(id),
                _ => Err(OpenError::InvalidHighest(self.path.clone())),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(EventId::ZERO),
            Err(source) => Err(OpenError::Io {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// Replaces the note in one step: a crash leaves the old one or the new one.
    pub(super) fn write(&self, id: EventId) -> io::Result<()> {
        files::replace(&self.path, OWNER_ONLY, format!("{id}\n").as_bytes())
    }
}

/// Ids that were announced, and whose events are gone because an older copy of the file was put in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The newest event that the copy had.
    pub after: EventId,
    /// The newest id that may have been announced. None of them is given again.
    pub through: EventId,
}

const INSERT_LOST: &str = "insert into lost (after_id, through_id, found_at) values (?1, ?2, ?3)";

const INSERT_SEQUENCE: &str = "
insert into sqlite_sequence (name, seq)
select 'events', 0 where not exists (select 1 from sqlite_sequence where name = 'events')";

const RAISE_SEQUENCE: &str = "update sqlite_sequence set seq = ?1 where name = 'events'";

impl EventLog {
    /// Notes beside the file that all ids up to `id` may have been announced. To be called once a second at least while
    /// events are announced.
    pub async fn note_highest(&self, id: EventId) -> std::io::Result<()> {
        let highest = Highest::of(&self.path);
        let written = tokio::task::spawn_blocking(move || highest.write(id));
        // Where the program ends meanwhile it is not written.
        written
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

/// Where the log is older than the note of the highest id, lets ids go on above all that may have been announced.
pub(super) async fn skip_lost(
    connection: &mut SqliteConnection,
    highest: EventId,
) -> Result<(), sqlx::Error> {
    let after = newest(connection).await?.last_id;
    if highest <= after {
        return Ok(());
    }
    let through = EventId::from_row(highest.as_i64() + UNNOTED_MAX_IDS).min(EventId::LAST);
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

pub(super) async fn all_lost(
    connection: &mut SqliteConnection,
) -> Result<Arc<[Lost]>, sqlx::Error> {
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
