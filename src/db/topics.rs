//! Topics: their names, and what there is of each.

use sqlx::{Row, sqlite::SqliteRow};

use super::{Error, EventLog};
use crate::event::{EventId, Timestamp, Topic};

/// A topic and its events, in figures.
#[derive(Debug, Clone)]
pub struct TopicSummary {
    /// Its name.
    pub topic: Topic,
    /// How many of its events are kept.
    pub events: u64,
    /// The oldest of them.
    pub first_id: EventId,
    /// The newest of them.
    pub last_id: EventId,
    /// When the newest was committed.
    pub last_created_at: Timestamp,
}

/// Leaps from name to name in the index, so that the cost is that of the topics and not of the events.
pub(super) const TOPICS_AFTER: &str = "
with recursive names(topic) as (
    select min(topic) from events where topic > ?1
    union all
    select (select min(topic) from events where topic > names.topic) from names where names.topic is not null
    limit ?2
)
select topic,
       (select count(*) from events where events.topic = names.topic) as events,
       (select min(id) from events where events.topic = names.topic) as first_id,
       (select max(id) from events where events.topic = names.topic) as last_id,
       (select created_at from events
        where id = (select max(id) from events where events.topic = names.topic)) as last_created_at
from names where topic is not null";

/// Leaps from name to name in the index.
pub(super) const TOPIC_NAMES_AFTER: &str = "
with recursive names(topic) as (
    select min(topic) from events where topic > ?1
    union all
    select (select min(topic) from events where topic > names.topic) from names where names.topic is not null
    limit ?2
)
select topic from names where topic is not null";

pub(super) const LAST_ID_OF_TOPIC: &str = "select max(id) from events where topic = ?1 and id < ?2";

pub(super) const LAST_ID_OF_TOPIC_BEFORE_NEWEST: &str =
    "select id from events where topic = ?1 order by id desc limit 1 offset ?2";

impl EventLog {
    /// Up to `limit` topics in the order of their names, those after `after`.
    pub async fn topics_after(&self, after: &str, limit: u32) -> Result<Vec<TopicSummary>, Error> {
        let rows = sqlx::query(TOPICS_AFTER)
            .bind(after)
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        Ok(rows
            .iter()
            .map(summary_from_row)
            .collect::<Result<_, _>>()?)
    }

    /// Up to `limit` names of topics in their order, those after `after`. Costs a leap in the index for each.
    pub async fn topic_names_after(&self, after: &str, limit: u32) -> Result<Vec<Topic>, Error> {
        let names: Vec<String> = sqlx::query_scalar(TOPIC_NAMES_AFTER)
            .bind(after)
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        Ok(names.iter().map(|name| Topic::from_row(name)).collect())
    }

    /// The newest event of `topic` below `before`.
    pub async fn last_id_of(
        &self,
        topic: &Topic,
        before: EventId,
    ) -> Result<Option<EventId>, Error> {
        let id: Option<i64> = sqlx::query_scalar(LAST_ID_OF_TOPIC)
            .bind(topic.as_str())
            .bind(before.as_i64())
            .fetch_one(&self.pool)
            .await?;
        Ok(id.map(EventId::from_row))
    }

    /// The newest event of `topic` that is older than its newest `events`. Reads `events` entries of the index.
    pub async fn last_id_before_newest(
        &self,
        topic: &Topic,
        events: u64,
    ) -> Result<Option<EventId>, Error> {
        let id: Option<i64> = sqlx::query_scalar(LAST_ID_OF_TOPIC_BEFORE_NEWEST)
            .bind(topic.as_str())
            .bind(i64::try_from(events).unwrap_or(i64::MAX))
            .fetch_optional(&self.pool)
            .await?;
        Ok(id.map(EventId::from_row))
    }
}

fn summary_from_row(row: &SqliteRow) -> Result<TopicSummary, sqlx::Error> {
    Ok(TopicSummary {
        topic: Topic::from_row(row.try_get(0)?),
        events: row.try_get::<i64, _>(1)?.unsigned_abs(),
        first_id: EventId::from_row(row.try_get(2)?),
        last_id: EventId::from_row(row.try_get(3)?),
        last_created_at: Timestamp::from_millis(row.try_get(4)?),
    })
}
