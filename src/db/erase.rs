//! Data that goes for good, and the events that tell of it.

use std::sync::Arc;

use super::{
    Appender, Error,
    append::insert,
    draft::End,
    page::{EVENT, event_from_row},
};
use crate::event::{Data, Event, EventId, EventType, Timestamp, Topic};

/// An event that was erased.
#[derive(Debug)]
pub struct Erased {
    /// What is left of it: its id, topic and time.
    pub event: Arc<Event>,
    /// The event that tells of it; `None` if it was erased before.
    pub notice: Option<Arc<Event>>,
}

pub(super) const ERASE: &str = "update events set type = ?2, data = ?3, key = null where id = ?1";

impl Appender {
    /// Erases an event's data, type and key for good, and appends an event that tells of it, in one transaction. `None`:
    /// there is no such event.
    pub async fn erase(&mut self, id: EventId) -> Result<Option<Erased>, Error> {
        self.begin().await?;
        let erased = self.erase_inside(id).await;
        let erased = self.end(erased).await?;
        if let Some(notice) = erased.as_ref().and_then(|erased| erased.notice.as_ref()) {
            self.end = End::of(notice);
        }
        Ok(erased)
    }

    async fn erase_inside(&mut self, id: EventId) -> Result<Option<Erased>, Error> {
        let found = sqlx::query(EVENT)
            .bind(id.as_i64())
            .fetch_optional(&mut self.connection)
            .await?;
        let Some(row) = found else { return Ok(None) };
        let event = event_from_row(&row)?;
        if event.event_type.is_erased() {
            return Ok(Some(Erased {
                event: event.into(),
                notice: None,
            }));
        }
        let event = Event {
            event_type: EventType::erased(),
            data: Data::from_row(format!("{{\"id\":{id}}}")),
            key: None,
            ..event
        };
        sqlx::query(ERASE)
            .bind(id.as_i64())
            .bind(event.event_type.as_str())
            .bind(event.data.as_str())
            .execute(&mut self.connection)
            .await?;
        let notice = Event {
            id: self.end.last_id.next(),
            created_at: self.end.last_created_at.max(Timestamp::now()),
            ..event.clone()
        };
        let notice = Arc::new(notice);
        insert(&mut self.connection, std::slice::from_ref(&notice)).await?;
        Ok(Some(Erased {
            event: event.into(),
            notice: Some(notice),
        }))
    }

    /// Appends an event that tells how many `events` of `topic` were erased, all of them up to `through`.
    pub async fn append_notice(
        &mut self,
        topic: &Topic,
        through: EventId,
        events: u64,
    ) -> Result<Arc<Event>, Error> {
        self.look_in_place().await?;
        let data = serde_json::json!({"topic": topic, "through": through, "events": events});
        let notice = Event {
            id: self.end.last_id.next(),
            topic: topic.clone(),
            event_type: EventType::erased(),
            data: Data::from_row(data.to_string()),
            created_at: self.end.last_created_at.max(Timestamp::now()),
            key: None,
        };
        let notice = Arc::new(notice);
        insert(&mut self.connection, std::slice::from_ref(&notice)).await?;
        self.end = End::of(&notice);
        Ok(notice)
    }
}
