//! A page of history as one JSON object, with a link to the next.

use poem::http::Uri;
use serde_json::json;

use super::{Events, History, HistoryQuery};
use crate::{
    db::Order,
    event::EventId,
    http::{
        problem::Problem,
        public_url::{PublicUrl, public},
        schema::Json,
    },
    hub::{Bounds, Hub},
};

/// Events in an answer when no limit was asked for.
const DEFAULT_LIMIT_EVENTS: usize = 100;

/// Bytes of JSON after which an answer ends before its limit; `next` goes on from there.
const ANSWER_MAX_BYTES: usize = 8 * 1024 * 1024;

/// Pages of the log that one answer reads; with a filter that matches few events it has fewer events and a `next`.
const ANSWER_MAX_PAGES: usize = 64;

/// Reads a page of history. `uri` is the request's, to make the link to the next page from.
pub(super) async fn read_page(
    hub: &Hub,
    mut query: HistoryQuery,
    uri: &Uri,
    public_url: Option<&PublicUrl>,
) -> Result<History, Problem> {
    let Bounds { first_id, last_id } = hub.bounds();
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT_EVENTS);
    let mut body = b"{\"events\":[".to_vec();
    let mut events = 0;
    let mut next = None;
    for _ in 0..ANSWER_MAX_PAGES {
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
        }
        next = page.read_on;
        let Some(id) = next else { break };
        query.read_on(id);
        if events == limit || body.len() > ANSWER_MAX_BYTES {
            break;
        }
    }
    let next = next.map(|id| next_link(public_url, uri, query.order, id));
    let link = next.as_ref().map(|next| format!("<{next}>; rel=\"next\""));
    let tail = format!(
        "],\"first_id\":{first_id},\"last_id\":{last_id},\"next\":{}}}\n",
        json!(next)
    );
    body.extend_from_slice(tail.as_bytes());
    Ok(History::Found(Events::Page(Json::written(body)), link))
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
