//! Events in the order of their ids, a page at a time.

use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{Error, EventLog};
use crate::{
    event::{Data, Event, EventId, EventType, Key, Timestamp, Topic},
    filter::{Filter, Topics},
    scan::Scan,
};

/// Bytes of data after which a page ends, however few events it has.
///
/// This, times the subscribers that replay at once, is the memory that replay takes.
pub const PAGE_MAX_BYTES: usize = 64 * 1024;

/// Rows of which the one who asks makes events: 100 µs of work, where to have a thread woken for it takes nearly as long.
const FEW_ROWS: usize = 64;

/// Rows one statement looks at for a filter that no index serves.
const SCAN_MAX_ROWS: i64 = 4096;

/// Topic names that are matched against a pattern to find the few that match. Each leap to the next name costs 2 µs, about
/// as much as a row of a scan, so a search that finds nothing takes no longer than the scan before it.
const FEW_OF_MAX_TOPICS: i64 = 4096;

/// Topics that count as few: a page of each is read from the index, and the pages are merged.
const FEW_TOPICS: usize = 64;

/// A range of the log, without both its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Only events above this id.
    pub after: EventId,
    /// Only events below this id.
    pub before: EventId,
}

impl Range {
    /// Everything after `cursor`.
    pub const fn after(cursor: EventId) -> Self {
        Self {
            after: cursor,
            before: EventId::MAX,
        }
    }
}

impl Range {
    /// What is left of it when the event `id` was read.
    fn behind(self, id: EventId, order: Order) -> Self {
        match order {
            Order::Ascending => Self { after: id, ..self },
            Order::Descending => Self { before: id, ..self },
        }
    }
}

/// Which end of a range is read first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Oldest first.
    #[default]
    Ascending,
    /// Newest first.
    Descending,
}

/// Some events of a range.
#[derive(Debug)]
pub struct Page<T = Event> {
    /// The events that match, in the order asked for. May be empty although there is more to read.
    pub events: Vec<T>,
    /// The last id that was read; reading goes on after it. `None`: the range is read to its end.
    pub read_on: Option<EventId>,
}

/// An event that was found and is yet to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventSize {
    /// Its id.
    pub id: EventId,
    /// Bytes of its data.
    pub data_bytes: usize,
}

/// What is read of the rows of a page, and how.
struct Reading<T> {
    ascending: &'static str,
    descending: &'static str,
    of_topics_ascending: &'static str,
    of_topics_descending: &'static str,
    /// A row, and the bytes of its data.
    read: fn(&SqliteRow) -> Result<(T, usize), sqlx::Error>,
    /// Bytes of data after which the page ends.
    max_bytes: usize,
}

/// Reads whole events.
const EVENTS: Reading<Event> = Reading {
    ascending: PAGE_ASCENDING,
    descending: PAGE_DESCENDING,
    of_topics_ascending: PAGE_OF_TOPICS_ASCENDING,
    of_topics_descending: PAGE_OF_TOPICS_DESCENDING,
    read: |row| {
        let event = event_from_row(row)?;
        let data_bytes = event.data.as_str().len();
        Ok((event, data_bytes))
    },
    max_bytes: PAGE_MAX_BYTES,
};

/// Reads no data. SQLite knows its length without reading it.
const fn sizes(max_bytes: usize) -> Reading<EventSize> {
    Reading {
        ascending: SIZES_ASCENDING,
        descending: SIZES_DESCENDING,
        of_topics_ascending: SIZES_OF_TOPICS_ASCENDING,
        of_topics_descending: SIZES_OF_TOPICS_DESCENDING,
        read: |row| {
            let data_bytes: i64 = row.try_get(3)?;
            let data_bytes = usize::try_from(data_bytes).unwrap_or(0);
            let id = EventId::from_row(row.try_get(0)?);
            Ok((EventSize { id, data_bytes }, data_bytes))
        },
        max_bytes,
    }
}

pub(super) const PAGE_ASCENDING: &str = "
select id, topic, type, data, created_at, key from events
where id > ?1 and id < ?2 order by id limit ?3";

pub(super) const PAGE_DESCENDING: &str = "
select id, topic, type, data, created_at, key from events
where id > ?1 and id < ?2 order by id desc limit ?3";

/// Takes each topic's page from the index, then the first of them all, and reads no row before it is known to be of the page.
/// Linear in topics times page, never in the log.
pub(super) const PAGE_OF_TOPICS_ASCENDING: &str = "
select id, topic, type, data, created_at, key from events
where id in (
    select candidate.value
    from json_each(?4) as asked
    cross join json_each((
        select json_group_array(id)
        from (select id from events where topic = asked.value and id > ?1 and id < ?2 order by id limit ?3)
    )) as candidate
    order by candidate.value limit ?3
)
order by id";

pub(super) const PAGE_OF_TOPICS_DESCENDING: &str = "
select id, topic, type, data, created_at, key from events
where id in (
    select candidate.value
    from json_each(?4) as asked
    cross join json_each((
        select json_group_array(id)
        from (select id from events where topic = asked.value and id > ?1 and id < ?2 order by id desc limit ?3)
    )) as candidate
    order by candidate.value desc limit ?3
)
order by id desc";

/// The same pages without their data.
pub(super) const SIZES_ASCENDING: &str = "
select id, topic, type, octet_length(data) from events
where id > ?1 and id < ?2 order by id limit ?3";

pub(super) const SIZES_DESCENDING: &str = "
select id, topic, type, octet_length(data) from events
where id > ?1 and id < ?2 order by id desc limit ?3";

pub(super) const SIZES_OF_TOPICS_ASCENDING: &str = "
select id, topic, type, octet_length(data) from events
where id in (
    select candidate.value
    from json_each(?4) as asked
    cross join json_each((
        select json_group_array(id)
        from (select id from events where topic = asked.value and id > ?1 and id < ?2 order by id limit ?3)
    )) as candidate
    order by candidate.value limit ?3
)
order by id";

pub(super) const SIZES_OF_TOPICS_DESCENDING: &str = "
select id, topic, type, octet_length(data) from events
where id in (
    select candidate.value
    from json_each(?4) as asked
    cross join json_each((
        select json_group_array(id)
        from (select id from events where topic = asked.value and id > ?1 and id < ?2 order by id desc limit ?3)
    )) as candidate
    order by candidate.value desc limit ?3
)
order by id desc";

pub(super) const EVENT: &str =
    "select id, topic, type, data, created_at, key from events where id = ?1";

/// The rows of these ids that there are, the oldest first.
pub(super) const EVENTS_OF_IDS: &str = "
select id, topic, type, data, created_at, key from events
where id in (select value from json_each(?1)) order by id";

const HAS_KEY: &str = "select exists(select 1 from events where topic = ?1 and key = ?2)";

pub(super) const COUNT: &str = "select count(*) from events";

pub(super) const COUNT_ROWS: &str = "select count(*) from events not indexed";

pub(super) const FIRST_ID: &str = "select min(id) from events";

pub(super) const LAST_ID: &str =
    "select coalesce((select seq from sqlite_sequence where name = 'events'), 0)";

pub(super) const NTH_ID: &str = "
select coalesce(
    (select id from events order by id limit 1 offset ?1),
    (select seq + 1 from sqlite_sequence where name = 'events'),
    1
)";

/// Halves the log until one id is left. It may, because times never go backwards along the ids.
pub(super) const FIRST_ID_SINCE: &str = "
with recursive search(low, high) as (
    select coalesce((select min(id) from events), 1), coalesce((select max(id) from events), 0) + 1
    union all
    select iif(created_at < ?1, id + 1, low), iif(created_at < ?1, high, (low + high) / 2)
    from search
    cross join events on events.id = (select min(id) from events where id >= (low + high) / 2)
    where low < high
)
select low from search where low >= high";

pub(super) const TOPIC_NAMES_FROM: &str = "
with recursive names(topic) as (
    select min(topic) from events where topic >= ?1
    union all
    select (select min(topic) from events where topic > names.topic) from names where names.topic is not null
    limit ?2
)
select topic from names where topic is not null";

impl EventLog {
    /// The matching events of `range`, at most `limit` of them and about 64 KiB of data, one event at the least.
    ///
    /// What one call reads is bounded whatever the filter is, so a page may be empty while [`Page::read_on`] says that
    /// there is more. Dropping the future is safe.
    pub async fn page(
        &self,
        filter: &Arc<Filter>,
        range: Range,
        order: Order,
        limit: usize,
    ) -> Result<Page, Error> {
        let stretch = Stretch::new(range, order, limit);
        self.read(filter, stretch, EVENTS).await
    }

    /// Finds the matching events of `range` without reading their data: at most `limit` of them and about `max_bytes` of data,
    /// one event at the least. Bounded as [`page`](Self::page) is.
    pub async fn find(
        &self,
        filter: &Arc<Filter>,
        range: Range,
        order: Order,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Page<EventSize>, Error> {
        let stretch = Stretch::new(range, order, limit);
        self.read(filter, stretch, sizes(max_bytes)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        filter: &Arc<Filter>,
        stretch: Stretch,
        reading: Reading<T>,
    ) -> Result<Page<T>, Error> {
        if stretch.limit <= FEW_ROWS && filter.is_served_by_index() {
            return self.read_here(filter, stretch, &reading).await;
        }
        let (log, filter) = (self.clone(), filter.clone());
        let page = async move { log.read_here(&filter, stretch, &reading).await };
        self.reading.read(page).await
    }

    async fn read_here<T>(
        &self,
        filter: &Filter,
        stretch: Stretch,
        reading: &Reading<T>,
    ) -> Result<Page<T>, Error> {
        let topics = match filter.topics() {
            Topics::Exact(topics) => Some(to_json(&topics)),
            Topics::All | Topics::Matching(_) => None,
        };
        // Before the connection: what waits for its turn must not keep others from reading.
        let mut scan = self.scans.begin(filter).await;
        let mut connection = self.pool.acquire().await?;
        let page = read_page(&mut connection, filter, topics, stretch, &mut scan, reading).await?;
        let found_nothing_yet = page.events.is_empty() && page.read_on.is_some();
        match filter.topics() {
            Topics::Matching(prefix) if found_nothing_yet => {
                drop(connection);
                let found = self
                    .page_of_few_topics(filter, prefix, stretch, &mut scan, reading)
                    .await?;
                Ok(found.unwrap_or(page))
            }
            Topics::All | Topics::Exact(_) | Topics::Matching(_) => Ok(page),
        }
    }

    /// The same page by the index, if few topics begin with `prefix` and match. Where a scan meets none of their events, this
    /// finds the next of them however far it is.
    async fn page_of_few_topics<T>(
        &self,
        filter: &Filter,
        prefix: &str,
        stretch: Stretch,
        scan: &mut Scan,
        reading: &Reading<T>,
    ) -> Result<Option<Page<T>>, Error> {
        // One moment for the names and for the page. A topic that is new between the two could have an event before the last
        // one of the page, and reading would go on behind it. In one moment there is none: what is committed later has ids
        // above all that the page can have, and the next page looks at the names anew.
        let mut tx = self.pool.begin().await?;
        let Some(topics) = few_topics(&mut tx, filter, prefix, scan).await? else {
            return Ok(None);
        };
        let topics = Some(to_json(&topics));
        let page = read_page(&mut tx, filter, topics, stretch, scan, reading);
        page.await.map(Some)
    }

    /// The events with these ids that are kept, the oldest first. The caller bounds how many it asks for.
    pub async fn events(&self, ids: &[EventId]) -> Result<Vec<Event>, Error> {
        let ids: Vec<i64> = ids.iter().map(|id| id.as_i64()).collect();
        let ids = serde_json::to_string(&ids).expect("numbers always serialize into memory");
        let pool = self.pool.clone();
        let events = async move {
            let mut rows = sqlx::query(EVENTS_OF_IDS).bind(ids).fetch(&pool);
            let mut events = Vec::new();
            while let Some(row) = rows.try_next().await? {
                events.push(event_from_row(&row)?);
            }
            Ok(events)
        };
        self.reading.read(events).await
    }

    /// The event with this id, if it is kept.
    pub async fn event(&self, id: EventId) -> Result<Option<Event>, Error> {
        let row = sqlx::query(EVENT)
            .bind(id.as_i64())
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.as_ref().map(event_from_row).transpose()?)
    }

    /// Whether an event of `topic` has this key.
    pub async fn has_key(&self, topic: &Topic, key: &Key) -> Result<bool, Error> {
        let has = sqlx::query_scalar(HAS_KEY)
            .bind(topic.as_str())
            .bind(key.as_str())
            .fetch_one(&self.pool);
        Ok(has.await?)
    }

    /// The newest id ever given; zero if none.
    pub async fn last_id(&self) -> Result<EventId, Error> {
        let last: i64 = sqlx::query_scalar(LAST_ID).fetch_one(&self.pool).await?;
        Ok(EventId::from_row(last))
    }

    /// The id of the oldest event kept; `None` if there is none.
    pub async fn first_id(&self) -> Result<Option<EventId>, Error> {
        let first: Option<i64> = sqlx::query_scalar(FIRST_ID).fetch_one(&self.pool).await?;
        Ok(first.map(EventId::from_row))
    }

    /// How many events are kept. Reads an index from end to end; the rows, where that is damaged.
    pub async fn count(&self) -> Result<u64, Error> {
        let counted = sqlx::query_scalar(COUNT).fetch_one(&self.pool).await;
        let events: i64 = match counted.map_err(Error::from) {
            Err(Error::Corrupt(_)) => sqlx::query_scalar(COUNT_ROWS).fetch_one(&self.pool).await?,
            counted => counted?,
        };
        Ok(events.unsigned_abs())
    }

    /// The id of the event that has `events` older ones; above the last id, if there is none. Reads `events` rows.
    pub async fn nth_id(&self, events: u64) -> Result<EventId, Error> {
        let id: i64 = sqlx::query_scalar(NTH_ID)
            .bind(i64::try_from(events).unwrap_or(i64::MAX))
            .fetch_one(&self.pool)
            .await?;
        Ok(EventId::from_row(id))
    }

    /// The lowest id that an event of this time or later can have. Above the last id, if there is none yet.
    pub async fn first_id_since(&self, time: Timestamp) -> Result<EventId, Error> {
        let low = sqlx::query_scalar(FIRST_ID_SINCE)
            .bind(time.as_millis())
            .fetch_one(&self.pool)
            .await?;
        Ok(EventId::from_row(low))
    }
}

/// The topics that match, if they are few and there are not too many that begin with `prefix`.
async fn few_topics(
    connection: &mut SqliteConnection,
    filter: &Filter,
    prefix: &str,
    scan: &mut Scan,
) -> Result<Option<Vec<String>>, Error> {
    let mut names = sqlx::query_scalar(TOPIC_NAMES_FROM)
        .bind(prefix)
        .bind(FEW_OF_MAX_TOPICS)
        .fetch(connection);
    let (mut names_seen, mut topics) = (0, Vec::new());
    while let Some(name) = names.try_next().await? {
        let name: String = name;
        names_seen += 1;
        if !name.starts_with(prefix) {
            return Ok(Some(topics));
        }
        if filter.wants_topic(&name) {
            topics.push(name);
        }
        if topics.len() > FEW_TOPICS || scan.is_over() {
            return Ok(None);
        }
        scan.pause().await;
    }
    Ok((names_seen < FEW_OF_MAX_TOPICS).then_some(topics))
}

/// What a page is asked for.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    range: Range,
    order: Order,
    limit: usize,
}

impl Stretch {
    /// Of one event at the least: less would never end.
    fn new(range: Range, order: Order, limit: usize) -> Self {
        Self {
            range,
            order,
            limit: limit.max(1),
        }
    }
}

/// Reads a page: of the topics whose names `topics` lists as JSON, or of all.
async fn read_page<T>(
    connection: &mut SqliteConnection,
    filter: &Filter,
    topics: Option<String>,
    stretch: Stretch,
    scan: &mut Scan,
    reading: &Reading<T>,
) -> Result<Page<T>, Error> {
    let Stretch {
        range,
        order,
        limit,
    } = stretch;
    let every_row_matches =
        filter.is_served_by_index() || topics.is_some() && filter.wants_any_type();
    let max_rows = match every_row_matches {
        true => i64::try_from(limit).unwrap_or(i64::MAX),
        false => SCAN_MAX_ROWS,
    };
    let sql = match (&topics, order) {
        (None, Order::Ascending) => reading.ascending,
        (None, Order::Descending) => reading.descending,
        (Some(_), Order::Ascending) => reading.of_topics_ascending,
        (Some(_), Order::Descending) => reading.of_topics_descending,
    };
    let mut query = sqlx::query(sql)
        .bind(range.after.as_i64())
        .bind(range.before.as_i64())
        .bind(max_rows);
    if let Some(topics) = topics {
        query = query.bind(topics);
    }
    let mut rows = query.fetch(connection);
    let mut page = Page {
        events: Vec::new(),
        read_on: None,
    };
    let (mut rows_seen, mut data_bytes) = (0, 0);
    let mut position = range;
    loop {
        let row = match rows.try_next().await {
            Ok(Some(row)) => row,
            Ok(None) => break,
            // What was read before a broken page or row is good; the next page begins with the broken one.
            Err(_) if page.read_on.is_some() => return Ok(page),
            Err(error) => return Err(error.into()),
        };
        let matching = match matching(&row, filter, position, scan, reading) {
            Ok(matching) => matching,
            Err(_) if page.read_on.is_some() => return Ok(page),
            Err(error) => return Err(error.into()),
        };
        rows_seen += 1;
        let id = EventId::from_row(row.try_get(0)?);
        position = position.behind(id, order);
        page.read_on = Some(id);
        if let Some((event, bytes)) = matching {
            data_bytes += bytes;
            page.events.push(event);
        }
        if page.events.len() == limit || data_bytes >= reading.max_bytes || scan.is_over() {
            return Ok(page);
        }
        scan.pause().await;
    }
    if rows_seen < max_rows {
        page.read_on = None;
    }
    Ok(page)
}

pub(super) fn to_json<T: serde::Serialize>(names: &[T]) -> String {
    serde_json::to_string(names).expect("strings always serialize into memory")
}

/// What is read of a row, if the filter wants it. `left` is what may still come: where a page of the file is damaged, SQLite may
/// give rows in no order, and a reader that follows them would go round for ever.
fn matching<T>(
    row: &SqliteRow,
    filter: &Filter,
    left: Range,
    scan: &mut Scan,
    reading: &Reading<T>,
) -> Result<Option<(T, usize)>, sqlx::Error> {
    let id: i64 = row.try_get(0)?;
    if id <= left.after.as_i64() || id >= left.before.as_i64() {
        return Err(sqlx::Error::Decode(
            format!("event {id} is not in its place").into(),
        ));
    }
    match scan.matches(filter, row.try_get(1)?, row.try_get(2)?) {
        true => (reading.read)(row).map(Some),
        false => Ok(None),
    }
}

/// The event of a row. What breaks the rules of events was not written by segno, and is refused as damage: it could forge
/// fields of a stream.
pub(super) fn event_from_row(row: &SqliteRow) -> Result<Event, sqlx::Error> {
    let id: i64 = row.try_get(0)?;
    let broken =
        |part: &str| sqlx::Error::Decode(format!("{part} of event {id} breaks its rule").into());
    if !(1..=EventId::LAST.as_i64()).contains(&id) {
        return Err(broken("the id"));
    }
    let data: String = row.try_get(3)?;
    if data.contains(['\n', '\r']) {
        return Err(broken("the data"));
    }
    Ok(Event {
        id: EventId::from_row(id),
        topic: Topic::of_log(row.try_get(1)?).map_err(|_| broken("the topic"))?,
        event_type: EventType::of_log(row.try_get(2)?).map_err(|_| broken("the type"))?,
        data: Data::from_row(data),
        created_at: Timestamp::from_millis(row.try_get(4)?),
        key: row
            .try_get::<Option<&str>, _>(5)?
            .map(Key::new)
            .transpose()
            .map_err(|_| broken("the key"))?,
    })
}
