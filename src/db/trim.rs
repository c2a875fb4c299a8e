//! Deletes the oldest events of the log or of a topic, in small steps, and marks the topics whose events were deleted.

use futures_util::TryStreamExt;
use sqlx::Row;

use super::{
    Appender, Error, EventLog,
    page::{FIRST_ID, to_json},
};
use crate::{
    event::{EventId, Topic},
    filter::{Filter, Topics},
};

/// Events that one step of trimming takes at most, so that a commit never waits long for one.
///
/// Source: a step of 512 took 2 to 4 ms on a disk where an fsync takes 1 ms; `tests/integration/retention.rs` measures what
/// publishers notice.
const TRIM_STEP_MAX_EVENTS: i64 = 512;

/// Bytes of data after which a step of trimming ends, one event at the least.
const TRIM_STEP_MAX_BYTES: i64 = 256 * 1024;

/// Events to delete: the oldest of the log, or of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trim {
    /// Only this topic's events; `None`: all.
    pub topic: Option<Topic>,
    /// The newest event to delete.
    pub through: EventId,
    /// Whether what they were is to be gone for good, wherever it stands, and not only old.
    pub erases: bool,
}

/// A part of a [`Trim`] that is small enough to run between two commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrimStep {
    /// The newest event that it deletes.
    pub through: EventId,
    /// The oldest event kept when those up to `through` are gone; `None` if none is kept.
    pub next_id: Option<EventId>,
}

/// The first `?2` of the rows up to `?1`, or as many of them as it takes to have `?3` bytes of data.
pub(super) const TRIM_STEP: &str = "
with
    oldest as (
        select id, octet_length(data) as bytes from events where id <= ?1 order by id limit ?2
    ),
    step as (
        select max(id) as through
        from (select id, sum(bytes) over (order by id) - bytes as bytes_before from oldest)
        where bytes_before < ?3
    )
select through, (select min(id) from events where id > through) as next_id
from step where through is not null";

pub(super) const TRIM_STEP_OF_TOPIC: &str = "
with
    oldest as (
        select id, octet_length(data) as bytes from events where topic = ?4 and id <= ?1 order by id limit ?2
    ),
    step as (
        select max(id) as through
        from (select id, sum(bytes) over (order by id) - bytes as bytes_before from oldest)
        where bytes_before < ?3
    )
select through, null as next_id
from step where through is not null";

pub(super) const TRIM: &str = "delete from events where id <= ?1";

pub(super) const TRIM_TOPIC: &str = "delete from events where topic = ?2 and id <= ?1";

pub(super) const MARK_TRIMMED: &str = "
insert into trimmed (topic, last_id) values (?1, ?2)
on conflict (topic) do update set last_id = max(last_id, excluded.last_id)";

/// Below the oldest event kept, the lack of events is told without a mark.
pub(super) const FORGET_MARKS: &str =
    "delete from trimmed where last_id < (select coalesce(min(id), 0) from events)";

pub(super) const TRIMMED_OF_TOPICS: &str = "
select max(last_id) from trimmed where last_id > ?1 and topic in (select value from json_each(?2))";

pub(super) const TRIMMED_OF_ANY: &str = "select max(last_id) from trimmed where last_id > ?1";

pub(super) const TRIMMED: &str = "select topic, last_id from trimmed where last_id > ?1";

impl Appender {
    /// What the next step of `trim` takes; `None` when there is nothing left of it.
    pub async fn trim_step(&mut self, trim: &Trim) -> Result<Option<TrimStep>, Error> {
        let sql = match trim.topic {
            None => TRIM_STEP,
            Some(_) => TRIM_STEP_OF_TOPIC,
        };
        let mut query = sqlx::query_as(sql)
            .bind(trim.through.as_i64())
            .bind(TRIM_STEP_MAX_EVENTS)
            .bind(TRIM_STEP_MAX_BYTES);
        if let Some(topic) = &trim.topic {
            query = query.bind(topic.as_str());
        }
        let step: Option<(i64, Option<i64>)> = query.fetch_optional(&mut self.connection).await?;
        Ok(step.map(|(through, next_id)| TrimStep {
            through: EventId::from_row(through),
            next_id: next_id.map(EventId::from_row),
        }))
    }

    /// The id of the oldest event kept; `None` if there is none.
    pub fn first_id(&self) -> Option<EventId> {
        self.first_id
    }

    /// Takes a step of a [`Trim`]: its topic's events up to `through` are gone for good. Returns how many there were.
    pub async fn trim(&mut self, topic: Option<&Topic>, through: EventId) -> Result<u64, Error> {
        let trimmed = match self.delete(topic, through).await {
            Err(Error::Full(_)) if self.make_room().await => self.delete(topic, through).await,
            trimmed => trimmed,
        };
        self.empty_wal_of_full_disk().await;
        trimmed
    }

    async fn delete(&mut self, topic: Option<&Topic>, through: EventId) -> Result<u64, Error> {
        self.look_in_place().await?;
        let query = match topic {
            None => sqlx::query(TRIM).bind(through.as_i64()),
            Some(topic) => sqlx::query(TRIM_TOPIC)
                .bind(through.as_i64())
                .bind(topic.as_str()),
        };
        let deleted = query.execute(&mut self.connection).await;
        self.remember();
        let deleted = deleted?.rows_affected();
        let first: Option<i64> = sqlx::query_scalar(FIRST_ID)
            .fetch_one(&mut self.connection)
            .await?;
        self.first_id = first.map(EventId::from_row);
        Ok(deleted)
    }

    /// Notes that events of `topic` up to `through` will be gone. To be committed before the first of them goes, so that
    /// nobody who finds them gone fails to find the note.
    pub async fn mark_trimmed(&mut self, topic: &Topic, through: EventId) -> Result<(), Error> {
        match self.mark(topic, through).await {
            Err(Error::Full(_)) if self.make_room().await => self.mark(topic, through).await,
            marked => marked,
        }
    }

    async fn mark(&mut self, topic: &Topic, through: EventId) -> Result<(), Error> {
        self.look_in_place().await?;
        let marked = sqlx::query(MARK_TRIMMED)
            .bind(topic.as_str())
            .bind(through.as_i64())
            .execute(&mut self.connection)
            .await;
        self.remember();
        marked?;
        Ok(())
    }

    /// Drops the notes of trimmed topics that say no more than that the oldest events are gone.
    pub async fn forget_marks(&mut self) -> Result<(), Error> {
        self.look_in_place().await?;
        let forgotten = sqlx::query(FORGET_MARKS)
            .execute(&mut self.connection)
            .await;
        self.remember();
        forgotten?;
        Ok(())
    }
}

impl EventLog {
    /// The topics that were trimmed out of the middle to beyond `cursor`, and up to which id each.
    pub async fn trimmed_topics_after(
        &self,
        cursor: EventId,
    ) -> Result<Vec<(Topic, EventId)>, Error> {
        let rows: Vec<(String, i64)> = sqlx::query_as(TRIMMED)
            .bind(cursor.as_i64())
            .fetch_all(&self.pool)
            .await?;
        let marks = rows
            .into_iter()
            .map(|(topic, through)| (Topic::from_row(&topic), EventId::from_row(through)));
        Ok(marks.collect())
    }

    /// The highest id, above `cursor`, up to which events of a topic that `filter` wants were trimmed out of the middle.
    pub async fn trimmed_after(
        &self,
        filter: &Filter,
        cursor: EventId,
    ) -> Result<Option<EventId>, Error> {
        let query = match filter.topics() {
            Topics::All => Some(sqlx::query_scalar(TRIMMED_OF_ANY).bind(cursor.as_i64())),
            Topics::Exact(topics) => {
                let query = sqlx::query_scalar(TRIMMED_OF_TOPICS).bind(cursor.as_i64());
                Some(query.bind(to_json(&topics)))
            }
            Topics::Matching(_) => None,
        };
        if let Some(query) = query {
            let id: Option<i64> = query.fetch_one(&self.pool).await?;
            return Ok(id.map(EventId::from_row));
        }
        let mut scan = self.scans.begin(filter).await;
        let mut rows = sqlx::query(TRIMMED).bind(cursor.as_i64()).fetch(&self.pool);
        let mut highest = None;
        while let Some(row) = rows.try_next().await? {
            if filter.wants_topic(row.try_get(0)?) {
                highest = highest.max(Some(EventId::from_row(row.try_get(1)?)));
            }
            scan.pause().await;
        }
        Ok(highest)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        db::{self, Published},
        event::{Data, EventType, NewEvent, Timestamp},
    };

    /// The writer takes the steps: whoever read for long would hold up every publisher.
    #[tokio::test]
    async fn a_trim_waits_for_nobody_who_reads() {
        let folder = tempfile::tempdir().unwrap();
        let (log, mut appender) = db::open(&folder.path().join("segno.db")).await.unwrap();
        let topic = Topic::new("t").unwrap();
        let event = NewEvent {
            topic: topic.clone(),
            event_type: EventType::default(),
            data: Data::from_text("x").unwrap(),
            key: None,
        };
        let published = Published {
            at: Timestamp::now(),
            events: vec![event; 2000],
        };
        appender.append(vec![published]).await.unwrap();
        // All that there are, each in the middle of what is trimmed.
        let mut readers = Vec::new();
        while let Some(mut reader) = log.pool.try_acquire() {
            sqlx::query("begin").execute(&mut *reader).await.unwrap();
            let found: i64 = sqlx::query_scalar(FIRST_ID)
                .fetch_one(&mut *reader)
                .await
                .unwrap();
            assert_eq!(found, 1);
            readers.push(reader);
        }
        assert!(!readers.is_empty());
        let trimming = async {
            let mut trimmed = 0;
            for (topic, through) in [(None, 1000), (Some(topic), 2000)] {
                let trim = Trim {
                    topic,
                    through: EventId::from_row(through),
                    erases: false,
                };
                while let Some(step) = appender.trim_step(&trim).await.unwrap() {
                    let topic = trim.topic.as_ref();
                    trimmed += appender.trim(topic, step.through).await.unwrap();
                }
            }
            trimmed
        };
        let trimmed = tokio::time::timeout(Duration::from_secs(10), trimming).await;
        assert_eq!(trimmed.expect("readers hold it up"), 2000);
        assert_eq!(appender.first_id(), None);
    }
}
