//! Which commands of a cluster published which events, and which of them are to be removed from the stream.
//!
//! Bytes of an erased event are gone from the file with its commit; they stand in the command that published it as well.

use super::{Appender, Error, Outcome};
use crate::event::{EventId, Timestamp, Topic};

const NOTE_IDS: &str = "insert into command_ids (first_id, last_id, sequence) values (?1, ?2, ?3)";

const NOTE_DUPLICATE: &str =
    "insert or ignore into command_duplicates (event_id, sequence) values (?1, ?2)";

/// Changes nothing where it is not newer.
const NOTE_PROPOSED: &str = "
insert into proposers (hub, number) values (?1, ?2)
on conflict (hub) do update set number = excluded.number where excluded.number > number";

/// What published the events that the query selects as `erased (id)`.
macro_rules! note_erased {
    ($erased:literal) => {
        concat!(
            "with erased (id) as (",
            $erased,
            "), published (sequence) as (
                select (select sequence from command_ids
                        where first_id <= erased.id and last_id >= erased.id
                        order by first_id desc limit 1)
                from erased
                union
                select sequence from command_duplicates join erased on event_id = erased.id
            )
            insert or ignore into commands_to_remove (sequence, erased_by, erased_at)
            select sequence, ?1, ?2 from published where sequence is not null"
        )
    };
}

pub(super) const NOTE_ERASED: &str = note_erased!("select ?3");

pub(super) const NOTE_ERASED_OF_TOPIC: &str =
    note_erased!("select id from events where topic = ?4 and id <= ?3");

pub(super) const REMOVALS: &str = "
select sequence from commands_to_remove where erased_by <= ?1 and erased_at <= ?2 order by sequence limit ?3";

const REMOVED: &str = "delete from commands_to_remove where sequence = ?1";

/// What the stream has not any more.
const FORGET: [&str; 3] = [
    "delete from command_ids where sequence < ?1",
    "delete from command_duplicates where sequence < ?1",
    "delete from commands_to_remove where sequence < ?1",
];

/// Which events are erased.
#[derive(Debug, Clone, Copy)]
pub enum ErasedEvents<'a> {
    /// This one.
    One(EventId),
    /// Those of a topic up to an id.
    OfTopic(&'a Topic, EventId),
}

impl Appender {
    /// Notes the newest command of a hub. Whether it is newer than those before; else it is a copy of one of them, or comes too late.
    pub async fn note_proposed(&mut self, hub: &str, number: i64) -> Result<bool, Error> {
        let noted = sqlx::query(NOTE_PROPOSED)
            .bind(hub)
            .bind(number)
            .execute(&mut self.connection)
            .await?;
        Ok(noted.rows_affected() > 0)
    }

    /// Notes what the command `sequence` published.
    pub async fn note_published<'a>(
        &mut self,
        sequence: u64,
        outcomes: impl Iterator<Item = &'a Outcome>,
    ) -> Result<(), Error> {
        let sequence = as_row(sequence);
        let mut fresh: Option<(EventId, EventId)> = None;
        for stored in outcomes.flatten().flatten() {
            let id = stored.event.id;
            if stored.duplicate {
                sqlx::query(NOTE_DUPLICATE)
                    .bind(id.as_i64())
                    .bind(sequence)
                    .execute(&mut self.connection)
                    .await?;
            } else {
                fresh = Some((fresh.map_or(id, |(first, _)| first), id));
            }
        }
        if let Some((first_id, last_id)) = fresh {
            sqlx::query(NOTE_IDS)
                .bind(first_id.as_i64())
                .bind(last_id.as_i64())
                .bind(sequence)
                .execute(&mut self.connection)
                .await?;
        }
        Ok(())
    }

    /// Notes that what published these events is to be removed from the stream; `erased_by` is the sequence of the command that erases
    /// them, whose time is `at`. To be called before they are gone.
    pub async fn note_erased(
        &mut self,
        events: ErasedEvents<'_>,
        erased_by: u64,
        at: Timestamp,
    ) -> Result<(), Error> {
        let query = match events {
            ErasedEvents::One(_) => sqlx::query(NOTE_ERASED),
            ErasedEvents::OfTopic(..) => sqlx::query(NOTE_ERASED_OF_TOPIC),
        };
        let query = query.bind(as_row(erased_by)).bind(at.as_millis());
        let query = match events {
            ErasedEvents::One(id) => query.bind(id.as_i64()),
            ErasedEvents::OfTopic(topic, through) => {
                query.bind(through.as_i64()).bind(topic.as_str())
            }
        };
        query.execute(&mut self.connection).await?;
        Ok(())
    }

    /// Commands to remove, `limit` at most, whose events were erased before `at` by a command up to `erased_by`.
    pub async fn removals(
        &mut self,
        erased_by: u64,
        at: Timestamp,
        limit: u32,
    ) -> Result<Vec<u64>, Error> {
        let sequences: Vec<i64> = sqlx::query_scalar(REMOVALS)
            .bind(as_row(erased_by))
            .bind(at.as_millis())
            .bind(limit)
            .fetch_all(&mut self.connection)
            .await?;
        Ok(sequences.into_iter().map(i64::unsigned_abs).collect())
    }

    /// Forgets removals that were done, and what is noted of commands before `first_sequence`, which the stream has not any more.
    pub async fn forget_commands(
        &mut self,
        removed: &[u64],
        first_sequence: u64,
    ) -> Result<(), Error> {
        self.begin().await?;
        let forgotten = self.forget_inside(removed, first_sequence).await;
        self.end(forgotten).await
    }

    async fn forget_inside(&mut self, removed: &[u64], first_sequence: u64) -> Result<(), Error> {
        for sequence in removed {
            sqlx::query(REMOVED)
                .bind(as_row(*sequence))
                .execute(&mut self.connection)
                .await?;
        }
        for sql in FORGET {
            sqlx::query(sql)
                .bind(as_row(first_sequence))
                .execute(&mut self.connection)
                .await?;
        }
        Ok(())
    }
}

fn as_row(sequence: u64) -> i64 {
    i64::try_from(sequence).expect("a stream ends long before")
}
