//! Inserts events: those that were published, and those of another file.

use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::{Either, Executor};

use super::{
    Appender, Error, code,
    draft::{Draft, End, KeyedEvents, Outcome},
    page::{event_from_row, to_json},
};
use crate::event::{Event, EventId, Key, NewEvent, Timestamp};

pub(super) const FIND_KEYS: &str = "
select events.id, events.topic, events.type, events.data, events.created_at, events.key
from json_each(?1) as asked
join events on events.topic = asked.value ->> 0 and events.key = asked.value ->> 1";

/// Inserts nothing where another program has committed since `?2`.
pub(super) const INSERT: &str = "
insert into events (id, topic, type, data, created_at, key)
select event.value ->> 4, event.value ->> 0, event.value ->> 1, event.value ->> 2, event.value ->> 5, event.value ->> 3
from jsonb_each(?1) as event
where (select data_version from pragma_data_version) = ?2";

/// Ids that follow each other and one time, as a commit of published events has them. Costs a tenth less than [`INSERT`].
pub(super) const INSERT_RUN: &str = "
insert into events (id, topic, type, data, created_at, key)
select ?3 + event.key, event.value ->> 0, event.value ->> 1, event.value ->> 2, ?4, event.value ->> 3
from jsonb_each(?1) as event
where (select data_version from pragma_data_version) = ?2";

/// How often an insert is tried while another program commits what is its own.
const INSERT_TRIES: u32 = 10;

/// Events that were published together.
#[derive(Debug)]
pub struct Published {
    /// When they were put in order: their time, unless that of an earlier event is later.
    pub at: Timestamp,
    /// The events.
    pub events: Vec<NewEvent>,
}

impl Appender {
    /// The newest id ever given in this file; zero if none.
    pub fn last_id(&self) -> EventId {
        self.end.last_id
    }

    /// The time of the newest event.
    pub fn last_created_at(&self) -> Timestamp {
        self.end.last_created_at
    }

    /// Commits what was published, all of it in one transaction, in the order given, with ids that follow each other.
    ///
    /// Each inner list is stored whole or not at all: a key in it that stands for another event refuses the list, and
    /// the other lists are stored. On an error nothing is.
    pub async fn append(&mut self, published: Vec<Published>) -> Result<Vec<Outcome>, Error> {
        self.look_at_files().await?;
        self.wait_for_room().await?;
        let mut draft = Draft::new(self.end, self.find_keys(&published).await?);
        let outcomes = published
            .into_iter()
            .map(|Published { at, events }| draft.take(events, at))
            .collect();
        self.insert(&draft.into_fresh()).await?;
        Ok(outcomes)
    }

    /// Commits events of another file as they are, with their ids and times, all of them in one transaction. They come in the
    /// order of their ids, all above the last id.
    pub async fn import(&mut self, events: &[Arc<Event>]) -> Result<(), Error> {
        self.look_at_files().await?;
        self.insert(events).await
    }

    /// Inserts events, and moves the end of the log behind them.
    pub(super) async fn insert(&mut self, events: &[Arc<Event>]) -> Result<(), Error> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return Ok(());
        };
        assert!(
            first.id > self.end.last_id && events.is_sorted_by(|a, b| a.id < b.id),
            "ids only grow"
        );
        self.insert_rows(events).await?;
        self.first_id = self.first_id.or(Some(first.id));
        self.end = End::of(last);
        Ok(())
    }

    /// Inserts events, at least one, each with its own id and time, unless another program has changed the file.
    ///
    /// One statement for all rows, because each call crosses to SQLite's thread: a call for each row gave 18,000 rows/s
    /// whatever the batch, this gave 214,000 at 100 rows and 430,000 from 1,000 up.
    pub(super) async fn insert_rows(&mut self, events: &[Arc<Event>]) -> Result<(), Error> {
        if events.last().is_some_and(|last| last.id > EventId::LAST) {
            return Err(Error::IdsExhausted);
        }
        let mut tries = 0;
        let inserted = loop {
            tries += 1;
            match self.try_insert_rows(events).await {
                // Somebody else has committed. Harmless, if this returns: what they changed is their own.
                Ok(0) if tries < INSERT_TRIES => self.judge().await?,
                inserted => break inserted,
            }
        };
        self.remember();
        match inserted {
            Ok(0) => Err(Error::Busy(
                "another program commits to the file without a pause".into(),
            )),
            Ok(rows) => {
                assert_eq!(
                    usize::try_from(rows),
                    Ok(events.len()),
                    "every event is a row"
                );
                Ok(())
            }
            // An id or a key that is there already: somebody else has put it there.
            Err(error) if code(&error).is_some_and(|code| code & 0xff == 19) => {
                self.judge().await?;
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn try_insert_rows(&mut self, events: &[Arc<Event>]) -> Result<u64, sqlx::Error> {
        let data_version = self.intact.data_version;
        let query = match events.is_sorted_by(|a, b| is_next(a, b)) {
            true => {
                let rows: Vec<_> = events.iter().map(|event| as_row(event)).collect();
                sqlx::query(INSERT_RUN)
                    .bind(to_json(&rows))
                    .bind(data_version)
                    .bind(events[0].id.as_i64())
                    .bind(events[0].created_at.as_millis())
            }
            false => {
                let rows: Vec<_> = events
                    .iter()
                    .map(|event| {
                        let (topic, event_type, data, key) = as_row(event);
                        let created_at = event.created_at.as_millis();
                        (topic, event_type, data, key, event.id, created_at)
                    })
                    .collect();
                sqlx::query(INSERT).bind(to_json(&rows)).bind(data_version)
            }
        };
        // The first item says that the rows are committed. To wait for the end of the stream too would cost a second wake-up.
        match self.connection.fetch_many(query).try_next().await? {
            Some(Either::Left(inserted)) => Ok(inserted.rows_affected()),
            Some(Either::Right(_)) | None => unreachable!("an insert gives its result and no row"),
        }
    }

    async fn find_keys(&mut self, published: &[Published]) -> Result<KeyedEvents, Error> {
        let asked: Vec<_> = published
            .iter()
            .flat_map(|published| &published.events)
            .filter_map(|event| Some((event.topic.as_str(), event.key.as_ref()?.as_str())))
            .collect();
        if asked.is_empty() {
            return Ok(KeyedEvents::new());
        }
        let found = sqlx::query(FIND_KEYS)
            .bind(to_json(&asked))
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

fn is_next(a: &Event, b: &Event) -> bool {
    b.id == a.id.next() && b.created_at == a.created_at
}

fn as_row(event: &Event) -> (&str, &str, &str, Option<&str>) {
    (
        event.topic.as_str(),
        event.event_type.as_str(),
        event.data.as_str(),
        event.key.as_ref().map(Key::as_str),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        db::{self, Order, Range},
        event::{DATA_MAX_LEVELS, Data, EventType, Topic},
    };

    /// People ask the file with SQLite's JSON functions.
    #[tokio::test]
    async fn data_may_be_as_deep_as_sqlite_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let (log, _appender) = db::open(&folder.path().join("segno.db")).await.unwrap();
        for (levels, is_read) in [(DATA_MAX_LEVELS, true), (DATA_MAX_LEVELS + 1, false)] {
            let json = format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
            let valid: bool = sqlx::query_scalar("select json_valid(?1)")
                .bind(json)
                .fetch_one(&log.pool)
                .await
                .unwrap();
            assert_eq!(valid, is_read, "{levels} levels");
        }
    }

    /// Both forms of the insert: ids that follow each other with one time, and neither.
    #[tokio::test]
    async fn events_of_another_file_keep_their_ids_and_times() {
        let folder = tempfile::tempdir().unwrap();
        let (log, mut appender) = db::open(&folder.path().join("segno.db")).await.unwrap();
        let mut expected = Vec::new();
        for placed in [
            [(3, 10), (4, 10), (5, 10)],
            [(7, 11), (8, 11), (10, 11)],
            [(11, 12), (12, 13), (13, 13)],
        ] {
            let events = placed.map(|(id, created_at)| {
                Arc::new(Event {
                    id: EventId::from_row(id),
                    topic: Topic::new("t").unwrap(),
                    event_type: EventType::default(),
                    data: Data::from_text("x").unwrap(),
                    created_at: Timestamp::from_millis(created_at),
                    key: Some(Key::new(&id.to_string()).unwrap()),
                })
            });
            appender.import(&events).await.unwrap();
            expected.extend(events.iter().map(|event| (**event).clone()));
        }
        let all = Range::after(EventId::ZERO);
        let page = log.page(&Arc::default(), all, Order::Ascending, 100).await;
        assert_eq!(page.unwrap().events, expected);
        assert_eq!(appender.last_id(), EventId::from_row(13));
    }
}
