//! A range of events of any length, one event a line.

use futures_util::{Stream, stream};
use poem::{Body, IntoResponse, Response};
use poem_openapi::{
    payload::Payload,
    registry::{MetaSchema, MetaSchemaRef},
};

use super::HistoryQuery;
use crate::{
    auth::Pass,
    db::{self, Order, Page},
    event::EventId,
    hub::Hub,
};

/// Events that NDJSON takes from the log at a time.
const NDJSON_PAGE_EVENTS: usize = 512;

/// A range of events that is yet to be read.
#[derive(Debug)]
pub(in crate::http::api) struct HistoryLines {
    hub: Hub,
    query: HistoryQuery,
    /// That its reader may go on; `None` if nothing can end that.
    pass: Option<Pass>,
    begun: bool,
}

impl HistoryLines {
    pub(super) fn new(hub: Hub, query: HistoryQuery, pass: Option<Pass>) -> Self {
        Self {
            hub,
            query,
            pass,
            begun: false,
        }
    }

    /// The lines, in chunks of a page. Memory is that of a page however long the range is.
    fn into_chunks(self) -> impl Stream<Item = std::io::Result<Vec<u8>>> {
        stream::try_unfold(Some(self), |lines| async move {
            let Some(Self {
                hub,
                mut query,
                pass,
                begun,
            }) = lines
            else {
                return Ok(None);
            };
            let left = query.limit.unwrap_or(usize::MAX);
            let page = hub
                .log()
                .page(
                    &query.filter,
                    query.range,
                    query.order,
                    left.min(NDJSON_PAGE_EVENTS),
                )
                .await;
            let Page { events, read_on } = page.map_err(broken_off)?;
            if begun && query.order == Order::Ascending && is_trimmed(&hub, query.range.after) {
                return Err(std::io::Error::other("the events that follow were trimmed"));
            }
            // Looked at after the page was read, which may have waited.
            if let Some(reason) = pass.as_ref().and_then(Pass::ended) {
                tracing::info!(
                    reason,
                    "a history was cut because the right to read it ended"
                );
                return Err(std::io::Error::other(reason));
            }
            let mut chunk = Vec::new();
            for event in &events {
                event.write_json(&mut chunk);
                chunk.push(b'\n');
            }
            query.limit = query.limit.map(|limit| limit - events.len());
            let goes_on = read_on.filter(|_| query.limit != Some(0));
            let rest = goes_on.map(|id| {
                query.read_on(id);
                Self {
                    hub,
                    query,
                    pass,
                    begun: true,
                }
            });
            Ok(Some((chunk, rest)))
        })
    }
}

/// Whether there were events right after `cursor` that are gone. Looked at after the page was read, because they may have
/// gone while it was.
fn is_trimmed(hub: &Hub, cursor: EventId) -> bool {
    cursor < hub.bounds().first_id.previous()
}

/// An error in the middle of a body can only break it off; the client sees that it did not end as it should.
pub(super) fn broken_off(error: db::Error) -> std::io::Error {
    tracing::error!(
        error = &error as &dyn std::error::Error,
        "a history was cut because the log failed"
    );
    std::io::Error::other(error)
}

impl IntoResponse for HistoryLines {
    fn into_response(self) -> Response {
        Response::builder()
            .content_type(Self::CONTENT_TYPE)
            .header("x-accel-buffering", "no")
            .body(Body::from_bytes_stream(self.into_chunks()))
    }
}

impl Payload for HistoryLines {
    const CONTENT_TYPE: &'static str = "application/x-ndjson";

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            description: Some("The whole range, one event a line."),
            ..MetaSchema::new("string")
        }))
    }
}
