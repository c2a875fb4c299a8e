//! A page of history as one JSON object, with a link to the next.

use std::{collections::VecDeque, io, io::Write, sync::Arc};

use futures_util::{Stream, StreamExt, stream};
use poem::{Body, http::Uri};
use serde_json::json;

use super::{Events, History, HistoryQuery, lines::broken_off};
use crate::{
    db::{self, EventSize, Order, Range},
    event::EventId,
    filter::Filter,
    http::{
        frame,
        problem::Problem,
        public_url::{PublicUrl, public},
        schema::Json,
    },
    hub::{Gap, Holes, Hub},
};

/// Events in an answer when no limit was asked for.
const DEFAULT_LIMIT_EVENTS: usize = 100;

/// Bytes of JSON, about, after which an answer ends before its limit; `next` goes on from there.
const ANSWER_MAX_BYTES: usize = 8 * 1024 * 1024;

/// Pages of the log that one answer reads; with a filter that matches few events it has fewer events and a `next`.
const ANSWER_MAX_PAGES: usize = 64;

/// Bytes of JSON that an answer holds, about: when it has more, the rest is read from the log piece by piece, as fast as the client
/// reads.
///
/// Source: a [page](crate::db::EventLog::page) of the log has as much. A piece times the connections is what clients that do not
/// read cost.
const PIECE_MAX_BYTES: usize = 64 * 1024;

/// Reads a page of history. `uri` is the request's, to make the link to the next page from.
///
/// A short one is read whole. Of a long one the first piece is read, and for the rest only the ids, because `next` and the link
/// come from them: they are part of the head, or must at least be right when it is sent.
pub(super) async fn read_page(
    hub: &Hub,
    mut query: HistoryQuery,
    holes: Holes,
    gap: Option<Gap>,
    uri: &Uri,
    public_url: Option<&PublicUrl>,
) -> Result<History, Problem> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT_EVENTS);
    // Before the first page is read: what is committed later may be in it or not.
    let mut cursor = query.range.after.max(hub.bounds().last_id);
    let asked_after = query.range.after;
    let mut range = query.range;
    let mut body = b"{\"events\":[".to_vec();
    let mut events = 0;
    let mut next;
    let mut pages = 0;
    loop {
        let page = hub
            .log()
            .page(&query.filter, query.range, query.order, limit - events)
            .await?;
        for event in &page.events {
            if events > 0 {
                body.push(b',');
            }
            event.write_json(&mut body);
            events += 1;
            cursor = cursor.max(event.id);
        }
        next = page.read_on;
        pages += 1;
        let Some(id) = next else { break };
        query.read_on(id);
        if events == limit || body.len() > PIECE_MAX_BYTES || pages == ANSWER_MAX_PAGES {
            break;
        }
    }
    let mut rest = VecDeque::new();
    let mut rest_bytes = body.len();
    while next.is_some()
        && events + rest.len() < limit
        && rest_bytes < ANSWER_MAX_BYTES
        && pages < ANSWER_MAX_PAGES
    {
        let found = hub
            .log()
            .find(
                &query.filter,
                query.range,
                query.order,
                limit - events - rest.len(),
                ANSWER_MAX_BYTES - rest_bytes,
            )
            .await?;
        rest_bytes += found
            .events
            .iter()
            .map(|size| size.data_bytes)
            .sum::<usize>();
        cursor = found
            .events
            .last()
            .map_or(cursor, |last| cursor.max(last.id));
        rest.extend(found.events);
        next = found.read_on;
        pages += 1;
        if let Some(id) = next {
            query.read_on(id);
        }
    }
    match (query.order, next) {
        (Order::Ascending, Some(id)) => range.before = range.before.min(id.next()),
        (Order::Descending, Some(id)) => range.after = range.after.max(id.previous()),
        (_, None) => (),
    }
    let cursor = match query.order {
        Order::Ascending => Some(next.unwrap_or(cursor).min(query.range.before.previous())),
        Order::Descending => None,
    };
    let next = next.map(|id| next_link(public_url, uri, query.order, id));
    let link = next.as_ref().map(|next| format!("<{next}>; rel=\"next\""));
    let mut end = End {
        filter: query.filter,
        asked_after,
        range,
        holes,
        last_id: hub.bounds().last_id,
        next,
        cursor,
        gap,
    };
    let page = if rest.is_empty() {
        end.write(hub, &mut body).await?;
        Json::written(body)
    } else {
        let rest = Rest {
            hub: hub.clone(),
            order: query.order,
            events: rest,
            end,
        };
        let first = stream::once(async { Ok(body) });
        Json::written(Body::from_bytes_stream(first.chain(rest.into_pieces())))
    };
    Ok(History::Found(Events::Page(page), link))
}

/// What follows the events of a page.
struct End {
    filter: Arc<Filter>,
    /// The cursor of the request. A page of the newest events lies above it.
    asked_after: EventId,
    /// What the page is of.
    range: Range,
    holes: Holes,
    last_id: EventId,
    next: Option<String>,
    cursor: Option<EventId>,
    gap: Option<Gap>,
}

impl End {
    /// To be called after the last event was read: the first id and the gap tell then of events that were trimmed before they could
    /// be read.
    async fn write(&mut self, hub: &Hub, body: &mut Vec<u8>) -> Result<(), db::Error> {
        let found = self.holes.find(&self.filter, self.range).await?;
        let found = found.map(|gap| Gap {
            requested: Some(self.asked_after),
            ..gap
        });
        let tail = format!(
            "],\"first_id\":{},\"last_id\":{},\"next\":{}",
            hub.bounds().first_id,
            self.last_id,
            json!(self.next),
        );
        body.extend_from_slice(tail.as_bytes());
        if let Some(cursor) = self.cursor {
            write!(body, ",\"cursor\":{cursor}").expect("memory takes every byte");
        }
        if let Some(gap) = self.gap.as_ref().or(found.as_ref()) {
            write!(body, ",\"gap\":{}", frame::gap_json(gap)).expect("memory takes every byte");
        }
        body.extend_from_slice(b"}\n");
        Ok(())
    }
}

/// What is to be read of a page whose first piece was written.
struct Rest {
    hub: Hub,
    order: Order,
    events: VecDeque<EventSize>,
    end: End,
}

impl Rest {
    /// The rest of the JSON. An error breaks it off, and the client sees that it did not end as it should.
    fn into_pieces(self) -> impl Stream<Item = io::Result<Vec<u8>>> {
        stream::try_unfold(Some(self), |rest| async move {
            let Some(mut rest) = rest else {
                return Ok(None);
            };
            let mut piece = Vec::new();
            let ids = rest.take_piece();
            let events = rest.hub.log().events(&ids).await;
            let mut events = events.map_err(broken_off)?;
            if rest.order == Order::Descending {
                events.reverse();
            }
            for event in &events {
                piece.push(b',');
                event.write_json(&mut piece);
            }
            if rest.events.is_empty() {
                let written = rest.end.write(&rest.hub, &mut piece).await;
                written.map_err(broken_off)?;
                return Ok(Some((piece, None)));
            }
            Ok(Some((piece, Some(rest))))
        })
    }

    /// The ids of the next piece: one at the least.
    fn take_piece(&mut self) -> Vec<EventId> {
        let mut ids = Vec::new();
        let mut bytes = 0;
        while let Some(event) = self.events.front()
            && (ids.is_empty() || bytes + event.data_bytes <= PIECE_MAX_BYTES)
        {
            bytes += event.data_bytes;
            ids.push(event.id);
            self.events.pop_front();
        }
        ids
    }
}

/// The same query with its cursor moved.
fn next_link(public_url: Option<&PublicUrl>, uri: &Uri, order: Order, id: EventId) -> String {
    let moved = match order {
        Order::Ascending => "after",
        Order::Descending => "before",
    };
    let pairs = uri.query().unwrap_or_default().split('&');
    let kept = pairs.filter(|pair| !pair.is_empty() && pair.split('=').next() != Some(moved));
    let query: String = kept.flat_map(|pair| [pair, "&"]).collect();
    public(public_url, format_args!("/events?{query}{moved}={id}"))
}
