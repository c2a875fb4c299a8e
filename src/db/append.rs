//! Rows that come: what was published, and what another file held.

use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::{Either, Executor, SqliteConnection};

use super::{
    Appender, Error,
    draft::{Draft, KeyedEvents, Outcome},
    page::event_from_row,
};
use crate::event::{Event, Key, NewEvent, Timestamp};

const IMPORT: &str = "
insert into events (id, topic, type, data, created_at, key)
select event.value ->> 0, event.value ->> 1, event.value ->> 2, event.value ->> 3, event.value ->> 4, event.value ->> 5
from jsonb_each(?1) as event";

const FIND_KEYS: &str = "
select events.id, events.topic, events.type, events.data, events.created_at, events.key
from json_each(?1) as asked
join events on events.topic = asked.value ->> 0 and events.key = asked.value ->> 1";

const INSERT: &str = "
insert into events (id, topic, type, data, created_at, key)
select ?2 + event.key, event.value ->> 0, event.value ->> 1, event.value ->> 2, ?3, event.value ->> 3
from jsonb_each(?1) as event";

impl Appender {
    /// Commits what was published, all of it in one transaction, in the order given, with ids that follow each other.
    ///
    /// Each inner list is taken whole or not at all: one key in it that stands for another event refuses the list, and
    /// the other lists are stored. On an error nothing is.
    ///
    /// Rows go in by one statement, because each call crosses to SQLite's thread: a call for each row gave 18,000 rows/s
    /// whatever the batch, this gave 214,000 at 100 rows and 430,000 from 1,000 up.
    pub async fn append(&mut self, published: Vec<Vec<NewEvent>>) -> Result<Vec<Outcome>, Error> {
        self.look_in_place().await?;
        let mut draft = Draft {
            last_id: self.last_id,
            created_at: self.last_created_at.max(Timestamp::now()),
            fresh: Vec::with_capacity(published.len()),
            keyed: self.find_keys(&published).await?,
        };
        let outcomes = published
            .into_iter()
            .map(|events| draft.take(events))
            .collect();
        if !draft.fresh.is_empty() {
            insert(&mut self.connection, &draft.fresh).await?;
            self.last_id = draft.last_id;
            self.last_created_at = draft.created_at;
        }
        Ok(outcomes)
    }

    /// Commits events of another file as they are, with their ids and times, all of them in one transaction. They come in the
    /// order of their ids, all above the last id.
    pub async fn import(&mut self, events: &[Event]) -> Result<(), Error> {
        let Some(last) = events.last() else {
            return Ok(());
        };
        assert!(
            events[0].id > self.last_id && events.is_sorted_by(|a, b| a.id < b.id),
            "ids only grow"
        );
        let rows: Vec<_> = events
            .iter()
            .map(|event| {
                let (topic, event_type, data, key) = as_row(event);
                let created_at = event.created_at.as_millis();
                (event.id, topic, event_type, data, created_at, key)
            })
            .collect();
        sqlx::query(IMPORT)
            .bind(serde_json::to_string(&rows).expect("strings always serialize into memory"))
            .execute(&mut self.connection)
            .await?;
        self.last_id = last.id;
        self.last_created_at = last.created_at;
        Ok(())
    }

    async fn find_keys(&mut self, published: &[Vec<NewEvent>]) -> Result<KeyedEvents, Error> {
        let asked: Vec<_> = published
            .iter()
            .flatten()
            .filter_map(|event| Some((event.topic.as_str(), event.key.as_ref()?.as_str())))
            .collect();
        if asked.is_empty() {
            return Ok(KeyedEvents::new());
        }
        let found = sqlx::query(FIND_KEYS)
            .bind(serde_json::to_string(&asked).expect("strings always serialize into memory"))
            .fetch_all(&mut self.connection)
            .await?;
        let mut keyed = KeyedEvents::with_capacity(asked.len());
        for row in found {
            let event = event_from_row(&row)?;
            let key = event.key.clone().expect("found by its key");
            keyed.insert((event.topic.clone(), key), event.into());
        }
        Ok(keyed)
    }
}

/// Inserts events, at least one, whose ids follow each other and whose time is one.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    events: &[Arc<Event>],
) -> Result<(), Error> {
    let rows: Vec<_> = events.iter().map(|event| as_row(event)).collect();
    let query = sqlx::query(INSERT)
        .bind(serde_json::to_string(&rows).expect("strings always serialize into memory"))
        .bind(events[0].id.as_i64())
        .bind(events[0].created_at.as_millis());
    // The first thing that comes says that it is committed. To wait for the end as well would be to be woken twice.
    let inserted = match connection.fetch_many(query).try_next().await? {
        Some(Either::Left(inserted)) => inserted,
        Some(Either::Right(_)) | None => unreachable!("an insert gives its result and no row"),
    };
    assert_eq!(
        usize::try_from(inserted.rows_affected()),
        Ok(rows.len()),
        "every event is a row"
    );
    Ok(())
}

fn as_row(event: &Event) -> (&str, &str, &str, Option<&str>) {
    let key = event.key.as_ref().map(Key::as_str);
    (
        event.topic.as_str(),
        event.event_type.as_str(),
        event.data.as_str(),
        key,
    )
}
