//! Erases data for good, and appends the events that say so.

use std::sync::Arc;

use super::{
    Appender, Error,
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
    /// Erases an event's data, type and key for good, and appends an event that tells of it, in one transaction, with the time
    /// `at` or a later one. `None`: there is no such event.
    pub async fn erase(&mut self, id: EventId, at: Timestamp) -> Result<Option<Erased>, Error> {
        let erased = match self.erase_and_tell(id, at).await {
            Err(Error::Full(_)) if self.make_room().await => self.erase_and_tell(id, at).await,
            erased => erased,
        };
        self.empty_wal_of_full_disk().await;
        erased
    }

    async fn erase_and_tell(
        &mut self,
        id: EventId,
        at: Timestamp,
    ) -> Result<Option<Erased>, Error> {
        self.begin().await?;
        let erased = self.erase_inside(id, at).await;
        let erased = self.end(erased).await?;
        if let Some(notice) = erased.as_ref().and_then(|erased| erased.notice.as_ref()) {
            self.end = End::of(notice);
        }
        Ok(erased)
    }

    async fn erase_inside(&mut self, id: EventId, at: Timestamp) -> Result<Option<Erased>, Error> {
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
            created_at: self.end.last_created_at.max(at),
            ..event.clone()
        };
        let notice = Arc::new(notice);
        self.insert_rows(std::slice::from_ref(&notice)).await?;
        Ok(Some(Erased {
            event: event.into(),
            notice: Some(notice),
        }))
    }

    /// Appends an event that tells how many `events` of `topic` were erased, all of them up to `through`, with the time `at` or a
    /// later one.
    pub async fn append_notice(
        &mut self,
        topic: &Topic,
        through: EventId,
        events: u64,
        at: Timestamp,
    ) -> Result<Arc<Event>, Error> {
        self.look_at_files().await?;
        let data = serde_json::json!({"topic": topic, "through": through, "events": events});
        let notice = Event {
            id: self.end.last_id.next(),
            topic: topic.clone(),
            event_type: EventType::erased(),
            data: Data::from_row(data.to_string()),
            created_at: self.end.last_created_at.max(at),
            key: None,
        };
        let notice = Arc::new(notice);
        let inserted = self.insert(std::slice::from_ref(&notice)).await;
        if let Err(Error::Full(_)) = inserted
            && self.make_room().await
        {
            self.insert(std::slice::from_ref(&notice)).await?;
        } else {
            inserted?;
        }
        Ok(notice)
    }
}
