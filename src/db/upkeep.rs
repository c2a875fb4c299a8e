//! Upkeep of the file: its size, the WAL, and whether commits work.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{Appender, Error, EventLog, reserve::GROWTH_MAX_BYTES};
use crate::files::beside;

/// A reader that is in the way costs a publisher 5 ms, and the WAL is cleaned another time.
const WAIT_FOR_NOBODY: &str = "pragma busy_timeout = 5";

/// [`BUSY_TIMEOUT`](super::BUSY_TIMEOUT).
const WAIT_AS_EVER: &str = "pragma busy_timeout = 5000";

/// Steps of shrinking, which give 1 to 64 free pages back to the system.
///
/// For each of them SQLite looks through all that are free: 64 took 0.3 ms where few were, and 12 ms where 400 MB were.
const SHRINK_STEPS: [&str; 4] = [
    "pragma incremental_vacuum(1)",
    "pragma incremental_vacuum(4)",
    "pragma incremental_vacuum(16)",
    "pragma incremental_vacuum(64)",
];

/// Time after which the next step of shrinking is to be a smaller one: whoever publishes meanwhile waits for it.
const SHRINK_STEP_MAX: Duration = Duration::from_millis(2);

/// How much a step of shrinking gives back.
#[derive(Debug)]
pub(super) struct ShrinkStep(usize);

impl Default for ShrinkStep {
    fn default() -> Self {
        Self(SHRINK_STEPS.len() - 1)
    }
}

impl ShrinkStep {
    fn sql(&self) -> &'static str {
        SHRINK_STEPS[self.0]
    }

    /// Chooses the next one after one that took this long. A larger one takes four times as long, and its commit with it.
    fn took(&mut self, time: Duration) {
        if time > SHRINK_STEP_MAX {
            self.0 = self.0.saturating_sub(1);
        } else if time < SHRINK_STEP_MAX / 8 {
            self.0 = (self.0 + 1).min(SHRINK_STEPS.len() - 1);
        }
    }
}

/// Free pages that make room for the [reserve](super::reserve): 8 MiB of 4 KiB each.
const SHRINK_BY_RESERVE: &str = "pragma incremental_vacuum(2048)";

/// What the pages of the file take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes of pages in use.
    pub used_bytes: u64,
    /// Bytes of free pages: new events go there, or the pages go back to the system.
    pub free_bytes: u64,
}

/// What the event log takes on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSize {
    /// The file.
    pub file_bytes: u64,
    /// The newest commits, which stand beside the file until they are copied into it.
    pub wal_bytes: u64,
}

pub(super) const ROOM: &str = "
select (page_count - freelist_count) * page_size as used_bytes, freelist_count * page_size as free_bytes
from pragma_page_count, pragma_freelist_count, pragma_page_size";

const PROBE: &[&str] = &[
    "insert into events (id, topic, type, data, created_at) values (?1 + 1, 'segno.probe', 'segno.probe', 'null', 0)",
    "delete from events where id = ?1 + 1",
    "update sqlite_sequence set seq = ?1 where name = 'events'",
];

impl Appender {
    /// Gives a few free pages back to the system. The file itself gets shorter with the next checkpoint.
    pub async fn shrink(&mut self) -> Result<(), Error> {
        self.look_in_place().await?;
        let begun = Instant::now();
        let shrunk = sqlx::query(self.shrink_step.sql())
            .execute(&mut self.connection)
            .await;
        self.shrink_step.took(begun.elapsed());
        self.remember();
        shrunk?;
        Ok(())
    }

    /// Copies the WAL into the file and empties it, if no reader is in the way; true if that was done.
    ///
    /// What was erased, or given back to the system, is gone from the disk with this and not before.
    pub async fn clean_wal(&mut self) -> Result<bool, Error> {
        self.look_at_files().await?;
        sqlx::query(WAIT_FOR_NOBODY)
            .execute(&mut self.connection)
            .await?;
        let cleaned = sqlx::query_as("pragma wal_checkpoint(truncate)")
            .fetch_one(&mut self.connection)
            .await;
        // Also after an error: the next commit may have to wait for another process.
        sqlx::query(WAIT_AS_EVER)
            .execute(&mut self.connection)
            .await?;
        self.remember();
        let (busy,): (i64,) = cleaned?;
        Ok(busy == 0)
    }

    /// Checks whether an event could be committed, with one that is deleted in the same transaction.
    ///
    /// It writes the same pages as an event does: on a disk that is nearly full, less might fit where an event does not.
    pub async fn probe(&mut self) -> Result<(), Error> {
        self.wait_for_room().await?;
        self.touch_reached().await?;
        self.begin().await?;
        let probed = self.probe_inside().await;
        self.end(probed).await
    }

    /// Makes a reserve of room on the disk, so that deleting works when it is full. Without room for it the log does without.
    pub fn hold_reserve(&mut self) -> std::io::Result<()> {
        self.reserve.hold()
    }

    /// Refuses what would take the room that deleting needs.
    pub async fn wait_for_room(&mut self) -> Result<(), Error> {
        if self.before.is_some() {
            // Asked before the commands were begun: SQLite copies nothing inside a transaction.
            return Ok(());
        }
        if !self.reserve.is_given_up() {
            if self.intact.growth_bytes() > GROWTH_MAX_BYTES {
                let copied = sqlx::query("pragma wal_checkpoint(passive)")
                    .execute(&mut self.connection)
                    .await;
                self.remember();
                copied?;
            }
            return Ok(());
        }
        if self.reserve.is_due() {
            if self.reserve.regain() {
                return Ok(());
            }
            // What was deleted is free in the file, and the disk does not have it yet.
            self.look_in_place().await?;
            let shrunk = sqlx::query(SHRINK_BY_RESERVE)
                .execute(&mut self.connection)
                .await;
            self.remember();
            shrunk?;
            self.clean_wal().await?;
            if self.reserve.regain() {
                return Ok(());
            }
        }
        Err(Error::Full(
            "the reserve of the disk was given up, and there is no room for it yet".into(),
        ))
    }

    /// Gives up the reserve, if there is one, so that something can be deleted; true if that made room.
    pub async fn make_room(&mut self) -> bool {
        if self.before.is_some() || !self.reserve.give_up() {
            return false;
        }
        // While there is room for what the file grows by. The WAL gives back as much and more.
        self.empty_wal_of_full_disk().await;
        true
    }

    /// Where the reserve was given up, the WAL may not grow: the next step needs the same room.
    pub async fn empty_wal_of_full_disk(&mut self) {
        if self.before.is_none()
            && self.reserve.is_given_up()
            && let Err(error) = self.clean_wal().await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the WAL cannot be emptied on a full disk"
            );
        }
    }

    async fn probe_inside(&mut self) -> Result<(), Error> {
        for sql in PROBE {
            sqlx::query(*sql)
                .bind(self.end.last_id.as_i64())
                .execute(&mut self.connection)
                .await?;
        }
        Ok(())
    }
}

impl EventLog {
    /// What the event log takes on the disk. A file that cannot be examined counts as empty.
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

    /// Bytes that can still be written to the disk that the file is on, by whom the hub runs as. `None` if the system does not say.
    pub async fn disk_free_bytes(&self) -> Option<u64> {
        let path = self.path.clone();
        // A disk in the network may let it wait.
        let stat = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&*path));
        let stat = stat.await.ok()?.ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }

    /// What the pages of the file take.
    pub async fn room(&self) -> Result<Room, Error> {
        let (used, free): (i64, i64) = sqlx::query_as(ROOM).fetch_one(&self.pool).await?;
        Ok(Room {
            used_bytes: used.unsigned_abs(),
            free_bytes: free.unsigned_abs(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::{self, BUSY_TIMEOUT};

    #[test]
    fn a_step_of_shrinking_that_took_long_is_followed_by_smaller_ones_and_one_that_did_not_by_larger_ones()
     {
        let mut step = ShrinkStep::default();
        let mut after = |micros| {
            step.took(Duration::from_micros(micros));
            step.sql()
        };
        let ran: Vec<_> = [12_000, 3000, 800, 2100, 2100, 800, 100, 100, 100]
            .into_iter()
            .map(&mut after)
            .collect();
        let pages = [16, 4, 4, 1, 1, 1, 4, 16, 64];
        let expected = pages.map(|pages| format!("pragma incremental_vacuum({pages})"));
        assert_eq!(ran, expected);
    }

    #[tokio::test]
    async fn an_error_while_the_wal_is_cleaned_leaves_the_wait_for_other_processes_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (_log, mut appender) = db::open(&folder.path().join("segno.db")).await.unwrap();
        // SQLite refuses a checkpoint inside a transaction.
        appender.begin().await.unwrap();
        appender.clean_wal().await.unwrap_err();
        let wait_ms: i64 = sqlx::query_scalar("pragma busy_timeout")
            .fetch_one(&mut appender.connection)
            .await
            .unwrap();
        assert_eq!(u128::try_from(wait_ms), Ok(BUSY_TIMEOUT.as_millis()));
    }
}
