//! Reading what is stored: events by range, an event by its id, the topics.

mod lines;
mod page;
mod wait;

use std::sync::Arc;

use poem::Request;
use poem_openapi::{
    ApiResponse, Object, OpenApi, ResponseContent,
    param::{Path, Query},
    registry::MetaSchema,
};
use serde::Serialize;
use serde_json::json;

use self::{
    lines::HistoryLines,
    page::read_page,
    wait::{Wait, wait_for_events},
};
use super::{
    Api, Tag, filter,
    parameter::{
        Checked, Cursor, LIMIT_MAX_EVENTS, Moment, PageSize, Parameter, Since, TopicPattern,
        TypePattern, optional, shown,
    },
};
use crate::http::{
    Turn, accept,
    caller::Caller,
    problem::{Code, Codes, Problem, ProblemOf},
    schema::{Json, Nullable, Raw},
};
use crate::{
    db::{self, Order, Range, TopicSummary},
    event::{Event, EventId, EventType, Key, Timestamp, Topic},
    filter::{Allowed, Filter},
    hub::{Hub, Start, SubscriberCount},
    rights::Right,
};

/// The operations that read what is stored.
#[derive(Clone)]
pub(in crate::http) struct HistoryApi(pub(in crate::http) Api);

#[OpenApi]
impl HistoryApi {
    /// Read history
    ///
    /// A page of events, oldest first unless `order=desc`; follow `next`, or the `Link` header, to the next page. With
    /// `Accept: application/x-ndjson` the answer is the whole range as a stream, one event a line.
    #[oai(
        path = "/events",
        method = "get",
        tag = "Tag::History",
        operation_id = "history"
    )]
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a parameter of the request"
    )]
    async fn history(
        &self,
        /// Topics; all if not given. Patterns as for `/sse`.
        topic: Query<Vec<Checked<TopicPattern>>>,
        /// Types; all if not given. Patterns as for `/sse`.
        #[oai(name = "type")]
        event_type: Query<Vec<Checked<TypePattern>>>,
        /// Only events above this id. One above the newest is told as a gap, `ahead`, and what is kept is given from its beginning.
        after: Query<Option<Checked<Cursor>>>,
        /// Only events below this id.
        before: Query<Option<Checked<Cursor>>>,
        /// Only events of this time or later: `15m` ago or an RFC 3339 time; `start` for all that are kept.
        since: Query<Option<Checked<Since>>>,
        /// Only events before this time.
        until: Query<Option<Checked<Moment>>>,
        /// Oldest or newest first.
        order: Query<Option<Checked<Order>>>,
        /// Most events in the answer; 100 if not given, or all with NDJSON.
        limit: Query<Option<Checked<PageSize>>>,
        /// Where nothing matches yet, wait this long for it, at most `60s`; `0s` is no wait. Ask again `after` the `cursor` of the answer. Not with
        /// `before`, `until`, `order=desc` and NDJSON.
        wait: Query<Option<Checked<Wait>>>,
        /// `ndjson` does the same as the header `Accept: application/x-ndjson`, for links, which cannot have headers.
        format: Query<Option<Checked<HistoryFormat>>>,
        /// A ticket, for a page or a link, which can set no header.
        #[oai(name = "ticket")]
        _ticket: Query<Option<String>>,
        request: &Request,
    ) -> Result<History, ProblemOf<ReadHistory>> {
        let has_cursor = after.0.is_some();
        let has_end = before.0.is_some() || until.0.is_some();
        let wait = optional(wait.0)?.filter(|wait| !wait.0.is_zero());
        let after = optional(after.0)?.and_then(|cursor| cursor.0);
        // Who waits is told by the subscription.
        let ahead = match (after, &wait) {
            (Some(cursor), None) => self.0.hub.find_ahead(cursor).await?,
            (None, _) | (_, Some(_)) => None,
        };
        let after = ahead.map_or(after, |gap| Some(gap.cursor));
        let mut range = Range {
            after: after.unwrap_or(EventId::ZERO),
            before: optional(before.0)?
                .and_then(|cursor| cursor.0)
                .unwrap_or(EventId::MAX),
        };
        if let Some(Since(Start::Since(time))) = optional(since.0)? {
            range.after = range
                .after
                .max(self.0.hub.log().first_id_since(time).await?.previous());
        }
        if let Some(Moment(time)) = optional(until.0)? {
            range.before = range
                .before
                .min(self.0.hub.log().first_id_since(time).await?);
        }
        let filter = filter(&self.0.hub, topic.0, event_type.0).await?;
        let mut query = HistoryQuery {
            filter: Caller::of(request).reads(filter)?.into(),
            range,
            order: optional(order.0)?.unwrap_or_default(),
            limit: optional(limit.0)?.map(|limit| limit.0),
        };
        let accepted = HistoryFormat::accepted_by(request)?;
        let format = optional(format.0)?.unwrap_or(accepted);
        let gap = match wait {
            None => ahead,
            Some(_)
                if has_end
                    || query.order == Order::Descending
                    || format == HistoryFormat::Ndjson =>
            {
                let detail = "wait is for what is published next; leave out before, until, order=desc and NDJSON";
                return Err(Problem::new(Code::InvalidParameter, detail).into());
            }
            Some(Wait(longest)) => {
                let caller = Caller::of(request);
                let waiting = wait_for_events(&self.0, &query, caller, longest);
                let gap = Turn::lend(request, waiting).await?;
                query.range.after = gap.map_or(query.range.after, |gap| gap.cursor);
                gap
            }
        };
        // Who waited, or has a cursor that means nothing here, was told of what is gone up to now.
        let knows = wait.is_some() || ahead.is_some();
        let holes = self.0.hub.holes(has_cursor && !knows);
        if format == HistoryFormat::Ndjson {
            // A range may take as long as a stream.
            let pass = Caller::of(request).pass(&self.0.settings.access)?;
            let lines = HistoryLines::new(self.0.hub.clone(), query, holes, pass, gap);
            return Ok(History::Found(Events::Lines(lines), None));
        }
        Ok(read_page(
            &self.0.hub,
            query,
            holes,
            gap,
            request.uri(),
            self.0.settings.public_url.as_ref(),
        )
        .await?)
    }

    /// Read an event
    #[oai(
        path = "/events/:id",
        method = "get",
        tag = "Tag::History",
        operation_id = "event"
    )]
    async fn event(
        &self,
        /// Its id.
        id: Path<Checked<EventId>>,
        request: &Request,
    ) -> Result<OneEvent, ProblemOf<ReadEvent>> {
        let id = id.0.get()?;
        let may_read = |topic: &str| Caller::of(request).may(Right::Follow, topic);
        match self.0.hub.event(id).await? {
            Some(event) if may_read(event.topic.as_str()) => Ok((&event).into()),
            // The same words as for one that is not there.
            Some(_) | None => Err(unknown_event(id).into()),
        }
    }

    /// List topics
    ///
    /// Each topic that has events, in the order of the names, and how many follow it.
    #[oai(
        path = "/topics",
        method = "get",
        tag = "Tag::Topics",
        operation_id = "topics"
    )]
    async fn topics(
        &self,
        /// Only topics whose name comes after this one.
        after: Query<Option<String>>,
        /// Most topics in the answer; 1000 if not given.
        limit: Query<Option<Checked<PageSize>>>,
        request: &Request,
    ) -> Result<TopicList, ProblemOf<ReadTopics>> {
        let limit = optional(limit.0)?.map_or(LIMIT_MAX_EVENTS, |limit| limit.0);
        let after = after.0.unwrap_or_default();
        let allowed = Caller::of(request).allowed_to_follow();
        let topics = read_topics(&self.0.hub, after, limit, allowed).await?;
        // A page that is full may be the last.
        let last = topics.last().filter(|_| topics.len() == limit);
        let next = Nullable(last.map(|summary| summary.topic.clone()));
        let names: Vec<&str> = topics
            .iter()
            .map(|summary| summary.topic.as_str())
            .collect();
        let counts = self.0.hub.subscribers_of(&names).await;
        let topics = topics.into_iter().zip(counts).map(TopicJson::from);
        let topics = topics.collect();
        Ok(TopicList::Found(Json::of(&Topics { topics, next })))
    }
}

/// The first `limit` topics after the name `after` that are allowed. The name to go on after is then one that may be known.
async fn read_topics(
    hub: &Hub,
    after: String,
    limit: usize,
    allowed: &Allowed,
) -> Result<Vec<TopicSummary>, db::Error> {
    let prefix = allowed.prefix();
    // Names that begin with the prefix follow each other, and the name before all of them is one character shorter.
    let mut before = prefix.to_owned();
    before.pop();
    let mut after = after.max(before);
    let mut found: Vec<TopicSummary> = Vec::new();
    loop {
        let size = u32::try_from(limit).expect("a limit is small");
        let page = hub.log().topics_after(&after, size).await?;
        let Some(last) = page.last().map(|summary| summary.topic.clone()) else {
            return Ok(found);
        };
        let is_last =
            page.len() < limit || (last.as_str() > prefix && !last.as_str().starts_with(prefix));
        let is_allowed = |summary: &TopicSummary| allowed.covers(summary.topic.as_str());
        found.extend(
            page.into_iter()
                .filter(is_allowed)
                .take(limit - found.len()),
        );
        if is_last || found.len() == limit {
            return Ok(found);
        }
        after = last.as_str().to_owned();
    }
}

pub(super) fn unknown_event(id: EventId) -> Problem {
    Problem::new(
        Code::UnknownEvent,
        format_args!("no event has the id {id}, or it was trimmed"),
    )
}

/// Which events a request for history wants.
#[derive(Debug)]
pub(super) struct HistoryQuery {
    pub(super) filter: Arc<Filter>,
    pub(super) range: Range,
    pub(super) order: Order,
    pub(super) limit: Option<usize>,
}

impl HistoryQuery {
    /// Leaves out what was read up to `id`.
    fn read_on(&mut self, id: EventId) {
        match self.order {
            Order::Ascending => self.range.after = id,
            Order::Descending => self.range.before = id,
        }
    }
}

/// How a range of events is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HistoryFormat {
    /// A page, as one JSON object.
    Json,
    /// The whole range, one event a line.
    Ndjson,
}

impl HistoryFormat {
    /// What the header `Accept` asks for.
    pub(super) fn accepted_by(request: &Request) -> Result<Self, Problem> {
        let wants_lines = accept::names(request.headers(), "application/x-ndjson")?;
        Ok(match wants_lines {
            true => Self::Ndjson,
            false => Self::Json,
        })
    }
}

impl Parameter for HistoryFormat {
    fn schema() -> MetaSchema {
        MetaSchema {
            enum_items: vec![json!("json"), json!("ndjson")],
            ..MetaSchema::new("string")
        }
    }

    fn read(text: &str) -> Result<Self, Problem> {
        match text {
            "json" => Ok(Self::Json),
            "ndjson" => Ok(Self::Ndjson),
            _ => Err(Problem::new(
                Code::InvalidFormat,
                format_args!("format '{}' is unknown; use json or ndjson", shown(text)),
            )),
        }
    }
}

/// A stored event.
//
// What `Event::write_json` writes; a test holds the two together.
#[derive(Debug, Object)]
#[oai(rename = "Event", deny_unknown_fields)]
pub(super) struct EventJson {
    /// Its position in the log. Grows, and is never used again.
    id: EventId,
    /// The name that groups events.
    topic: Topic,
    /// What happened. `segno.erased` where the event was erased; `data` is then `{"id":…}`.
    #[oai(rename = "type")]
    event_type: EventType,
    /// The JSON that was published.
    data: Raw<'static>,
    /// When it was committed.
    created_at: Timestamp,
    /// The publisher's own name for it, if it gave one.
    key: Option<Key>,
}

/// A page of history. It may have fewer events than the limit and still a `next`.
#[derive(Debug, Object)]
#[oai(rename = "History", deny_unknown_fields)]
pub(super) struct PageJson {
    events: Vec<EventJson>,
    /// The oldest event kept when the answer was complete. Above `last_id` when none is kept.
    first_id: EventId,
    /// The newest event committed; 0 if there never was one.
    last_id: EventId,
    /// Where to go on; null at the end of the range.
    next: Nullable<String>,
    /// All that matches up to this id is in the answer, or lies before it: ask again `after` it. Not with `order=desc`.
    #[oai(skip_serializing_if_is_none)]
    cursor: Option<EventId>,
    /// That events of the page are gone, as `segno.gap` says it in a stream: those that went while it was read, and with `after` or
    /// `wait` all after that cursor.
    #[oai(skip_serializing_if_is_none)]
    gap: Option<GapJson>,
}

/// Events that were asked for and are gone.
#[derive(Debug, Object)]
#[oai(rename = "Gap", deny_unknown_fields)]
pub(super) struct GapJson {
    /// `trimmed`, `ahead` or `lost`.
    reason: String,
    /// The cursor that was asked for.
    requested: Nullable<EventId>,
    /// The oldest event kept.
    first_id: EventId,
    /// The newest event committed.
    last_id: EventId,
}

/// A range of events, in the format that was asked for.
#[derive(Debug, ResponseContent)]
pub(super) enum Events {
    Page(Json<PageJson>),
    Lines(HistoryLines),
}

/// The answer of `GET /events`.
#[derive(Debug, ApiResponse)]
pub(super) enum History {
    /// The events of the range.
    #[oai(status = 200)]
    Found(
        Events,
        /// The next page, as `rel="next"`.
        #[oai(header = "Link")]
        Option<String>,
    ),
}

/// The answer of `GET /events/{id}`.
#[derive(Debug, ApiResponse)]
pub(super) enum OneEvent {
    /// The event.
    #[oai(status = 200)]
    Found(Json<EventJson>),
}

impl From<&Event> for OneEvent {
    fn from(event: &Event) -> Self {
        let mut json = Vec::new();
        event.write_json(&mut json);
        json.push(b'\n');
        Self::Found(Json::written(json))
    }
}

/// A topic that has events.
#[derive(Debug, Serialize, Object)]
pub(super) struct TopicJson {
    /// Its name.
    topic: Topic,
    /// Number of its events that are kept.
    events: u64,
    /// The oldest of them.
    first_id: EventId,
    /// The newest of them.
    last_id: EventId,
    /// When the newest was committed.
    last_created_at: Timestamp,
    /// Open streams of this hub that it is wanted by, and may be read by: those that name it, that have a pattern it matches, or that
    /// follow everything, whatever types they want. Who waits with `wait=` counts, too.
    subscribers: u32,
    /// `true` where there may be more subscribers: the filters were too many, or too costly, to look at all of them.
    #[oai(skip_serializing_if_is_none)]
    #[serde(skip_serializing_if = "Option::is_none")]
    subscribers_at_least: Option<bool>,
}

impl From<(TopicSummary, SubscriberCount)> for TopicJson {
    fn from((summary, count): (TopicSummary, SubscriberCount)) -> Self {
        Self {
            topic: summary.topic,
            events: summary.events,
            first_id: summary.first_id,
            last_id: summary.last_id,
            last_created_at: summary.last_created_at,
            subscribers: count.least,
            subscribers_at_least: count.may_be_more.then_some(true),
        }
    }
}

/// Topics, in the order of their names.
#[derive(Debug, Serialize, Object)]
pub(super) struct Topics {
    topics: Vec<TopicJson>,
    /// The `after` to go on with; null at the end.
    next: Nullable<Topic>,
}

/// The answer of `GET /topics`.
#[derive(Debug, ApiResponse)]
pub(super) enum TopicList {
    /// The topics.
    #[oai(status = 200)]
    Found(Json<Topics>),
}

/// The refusals of `GET /events`.
#[derive(Debug)]
pub(super) struct ReadHistory;

impl Codes for ReadHistory {
    const CODES: &'static [Code] = &[
        Code::InvalidTopic,
        Code::InvalidType,
        Code::FilterTooLarge,
        Code::InvalidCursor,
        Code::InvalidTime,
        Code::InvalidOrder,
        Code::InvalidLimit,
        Code::InvalidFormat,
        Code::InvalidHeader,
        Code::TooManyStreamsOfAddress,
        Code::TooManyStreamsOfCaller,
        Code::FiltersOfAddressTooLarge,
        Code::Draining,
        Code::NotJoined,
        Code::Internal,
        Code::LogBusy,
        Code::LogCorrupt,
        Code::DiskFailed,
    ];
}

/// The refusals of `GET /events/{id}`.
#[derive(Debug)]
pub(super) struct ReadEvent;

impl Codes for ReadEvent {
    const CODES: &'static [Code] = &[
        Code::InvalidId,
        Code::UnknownEvent,
        Code::Internal,
        Code::LogBusy,
        Code::LogCorrupt,
        Code::DiskFailed,
    ];
}

/// The refusals of `GET /topics`.
#[derive(Debug)]
pub(super) struct ReadTopics;

impl Codes for ReadTopics {
    const CODES: &'static [Code] = &[
        Code::InvalidLimit,
        Code::Internal,
        Code::LogBusy,
        Code::LogCorrupt,
        Code::DiskFailed,
    ];
}

#[cfg(test)]
mod tests {
    use poem_openapi::types::{ParseFromJSON, ToJSON};

    use super::*;
    use crate::event::Data;

    #[test]
    fn the_document_describes_the_event_that_is_written() {
        let mut event = Event {
            id: EventId::from_row(7),
            topic: Topic::new("orders").unwrap(),
            event_type: EventType::default(),
            data: Data::from_text("hello").unwrap(),
            created_at: Timestamp::from_millis(0),
            key: None,
        };
        for key in [None, Some(Key::new("k").unwrap())] {
            event.key = key;
            let mut json = Vec::new();
            event.write_json(&mut json);
            let written = serde_json::from_slice(&json).unwrap();
            let described = EventJson::parse_from_json(Some(written)).unwrap();
            assert_eq!(described.data.to_json(), Some(json!("hello")));
            assert_eq!(described.key, event.key);
        }
    }
}
