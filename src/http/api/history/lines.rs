//! A range of events of any length, one event a line; and a line for each time that some of them are found gone.

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
    http::frame::{Format, Notice},
    hub::{Gap, Holes, Hub},
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
    holes: Holes,
    /// One that was found before the first event, and is told before it.
    gap: Option<Box<Gap>>,
}

impl HistoryLines {
    pub(super) fn new(
        hub: Hub,
        query: HistoryQuery,
        holes: Holes,
        pass: Option<Pass>,
        gap: Option<Gap>,
    ) -> Self {
        Self {
            hub,
            query,
            pass,
            holes,
            gap: gap.map(Box::new),
        }
    }

    /// The lines, in chunks of a page. Memory is that of a page however long the range is.
    fn into_chunks(self) -> impl Stream<Item = std::io::Result<Vec<u8>>> {
        stream::try_unfold(Some(self), |lines| async move {
            let Some(Self {
                hub,
                mut query,
                pass,
                mut holes,
                gap: told_first,
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
            let gap = holes.find(&query.filter, query.range).await;
            let gap = gap.map_err(broken_off)?;
            // Looked at after the page was read, which may have waited.
            if let Some(reason) = pass.as_ref().and_then(Pass::ended) {
                tracing::info!(
                    reason,
                    "a history was cut because the right to read it ended"
                );
                return Err(std::io::Error::other(reason));
            }
            let mut chunk = Vec::new();
            if let Some(gap) = told_first {
                Notice::Gap(&gap).write(Format::Ndjson, &mut chunk);
            }
            if let Some(mut gap) = gap {
                if let (Order::Ascending, Some(first)) = (query.order, events.first()) {
                    // The hole lies before it.
                    gap.cursor = gap.cursor.max(first.id.previous());
                }
                Notice::Gap(&gap).write(Format::Ndjson, &mut chunk);
            }
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
                    holes,
                    gap: None,
                }
            });
            Ok(Some((chunk, rest)))
        })
    }
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
            description: Some(
                "The whole range, one event a line. A line with the field `segno`, which no event has, is the hub's own: `{\"segno\":\"gap\",…}` \
                 says that events are gone which would follow, as `segno.gap` says it in a stream.",
            ),
            ..MetaSchema::new("string")
        }))
    }
}
