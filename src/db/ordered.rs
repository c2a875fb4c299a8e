//! Changes that a cluster has put in order: each is one transaction with how far the file has come by it.

use std::io;

use sqlx::{Row, SqliteConnection};

use super::{Appender, Error, draft::End};
use crate::event::{EventId, Timestamp};

/// How far a file has come in the order of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The stream that orders, by the UUID that was made with it.
    pub epoch: String,
    /// Sequence of the last command applied; zero before the first.
    pub sequence: u64,
    /// The command's own id; empty before the first.
    pub command_id: String,
    /// SHA-256 in hex over all commands and what came of them.
    pub chain: String,
}

/// What is put back when a command is not committed.
#[derive(Debug)]
pub(super) struct Before {
    end: End,
    first_id: Option<EventId>,
}

const SET_REACHED: &str = "
insert into position (only_row, epoch, sequence, command_id, last_created_at, chain) values (1, ?1, ?2, ?3, ?4, ?5)
on conflict (only_row) do update set
    epoch = excluded.epoch, sequence = excluded.sequence, command_id = excluded.command_id,
    last_created_at = excluded.last_created_at, chain = excluded.chain";

const SET_LOG_ID: &str = "update log set id = ?1";

/// How far a file has come, and the newest time given in it; `None` where it is alone.
pub(super) async fn find_reached(
    connection: &mut SqliteConnection,
) -> Result<Option<(Reached, Timestamp)>, sqlx::Error> {
    let row =
        sqlx::query("select epoch, sequence, command_id, chain, last_created_at from position")
            .fetch_optional(connection)
            .await?;
    let Some(row) = row else { return Ok(None) };
    let reached = Reached {
        epoch: row.try_get(0)?,
        sequence: row.try_get::<i64, _>(1)?.unsigned_abs(),
        command_id: row.try_get(2)?,
        chain: row.try_get(3)?,
    };
    Ok(Some((reached, Timestamp::from_millis(row.try_get(4)?))))
}

/// Lets commits return before they are synced: what they say stands in the order, which is synced.
///
/// After a power cut the file is as it was after one of them: WAL frames have checksums, and the WAL is synced before it is copied.
/// Source: <https://sqlite.org/pragma.html#pragma_synchronous>, `normal`.
pub(super) async fn leave_syncing_to_the_order(
    connection: &mut SqliteConnection,
) -> Result<(), sqlx::Error> {
    sqlx::query("pragma synchronous = normal")
        .execute(connection)
        .await
        .map(drop)
}

impl Appender {
    /// How far the file has come in the order of a cluster; `None` where it is alone.
    pub fn reached(&self) -> Option<&Reached> {
        self.ordered.as_ref()
    }

    /// Syncs what is committed by now, and perhaps some of what is meanwhile.
    pub fn sync(&self) -> impl Future<Output = io::Result<()>> + use<> {
        let wal = self.intact.wal.clone();
        async move {
            let synced = tokio::task::spawn_blocking(move || wal.sync_data());
            // Where the program ends meanwhile it may not be synced.
            synced
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error)))
        }
    }

    /// Begins what one or more commands do. Until [`end_commands`](Self::end_commands) all changes are one transaction.
    pub async fn begin_commands(&mut self) -> Result<(), Error> {
        self.begin().await?;
        self.before = Some(Before {
            end: self.end,
            first_id: self.first_id,
        });
        Ok(())
    }

    /// Commits what was begun, with what is `reached` by it, if it was done; else takes all of it back.
    pub async fn end_commands<T>(
        &mut self,
        done: Result<T, Error>,
        reached: &Reached,
    ) -> Result<T, Error> {
        let before = self.before.take().expect("commands were begun");
        let done = match done {
            Ok(done) => self.set_reached(reached).await.map(|()| done),
            Err(error) => Err(error),
        };
        let ended = self.end(done).await;
        match &ended {
            Ok(_) => self.ordered = Some(reached.clone()),
            Err(_) => (self.end, self.first_id) = (before.end, before.first_id),
        }
        ended
    }

    /// Makes the file, which has no events yet, the log with this id at the beginning of an order.
    pub async fn found(&mut self, log_id: &str, reached: &Reached) -> Result<(), Error> {
        assert!(self.end.last_id == EventId::ZERO, "the file has no events");
        self.begin().await?;
        let set = sqlx::query(SET_LOG_ID)
            .bind(log_id)
            .execute(&mut self.connection)
            .await
            .map_err(Error::from);
        let set = match set {
            Ok(_) => self.set_reached(reached).await,
            Err(error) => Err(error),
        };
        self.end(set).await?;
        self.ordered = Some(reached.clone());
        Ok(())
    }

    /// Puts the file, with the events that it has, at the beginning of an order.
    pub async fn join_order(&mut self, reached: &Reached) -> Result<(), Error> {
        self.begin().await?;
        let set = self.set_reached(reached).await;
        self.end(set).await?;
        self.ordered = Some(reached.clone());
        Ok(())
    }

    /// Commits again how far the file has come: whether commands can be applied.
    pub(super) async fn touch_reached(&mut self) -> Result<(), Error> {
        if let Some(reached) = self.ordered.clone() {
            self.begin().await?;
            let set = self.set_reached(&reached).await;
            self.end(set).await?;
        }
        Ok(())
    }

    async fn set_reached(&mut self, reached: &Reached) -> Result<(), Error> {
        sqlx::query(SET_REACHED)
            .bind(&reached.epoch)
            .bind(i64::try_from(reached.sequence).expect("a stream ends long before"))
            .bind(&reached.command_id)
            .bind(self.end.last_created_at.as_millis())
            .bind(&reached.chain)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }
}
