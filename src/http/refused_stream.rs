//! A refusal as a stream.
//!
//! A browser's `EventSource` that gets any other status than 200 never asks again. So where a stream was asked for, a refusal that
//! will pass is a stream of one block, `segno.refused`, that says when to come back. What will not pass stays an error, and so
//! does every refusal of a client that accepts a problem as well, as the hub's own clients do.

use std::time::Duration;

use poem::{
    IntoResponse, Request, Response,
    http::{HeaderValue, StatusCode, header},
};

use super::{
    accept,
    api::{cursor_of, set_stream_headers},
    event_stream::spread,
    frame::{self, Format},
    is_follow,
    problem::{PROBLEM_JSON, Problem},
};

/// A request that asked for a stream, and for nothing else.
#[derive(Debug)]
pub(super) struct RefusedStream {
    /// The cursor it came with, as the client wrote it.
    cursor: Option<String>,
}

impl RefusedStream {
    /// `None` if the client understands a problem, or asked for something else.
    pub(super) fn of(request: &Request) -> Option<Self> {
        // Who sends what cannot be read is told so, by a problem.
        let accepts = |media_type| accept::names(request.headers(), media_type).unwrap_or(false);
        let is_stream =
            is_follow(request) && accepts("text/event-stream") && !accepts(PROBLEM_JSON);
        is_stream.then(|| Self {
            cursor: cursor_of(request),
        })
    }

    /// The answer. It still counts as the refusal that it is.
    pub(super) fn answer(&self, problem: &Problem) -> Response {
        let mut response = problem.clone().into_response();
        let Some(retry_after) = passes_after(&response) else {
            return response;
        };
        // Never sooner than it says, and not all at once.
        let retry_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX / 2);
        let retry = spread(retry_ms..retry_ms + retry_ms / 2 + 1);
        let mut block = Vec::new();
        frame::write_refusal(
            retry,
            &problem.to_json(),
            self.cursor.as_deref(),
            &mut block,
        );
        response.set_status(StatusCode::OK);
        set_stream_headers(&mut response, Format::Data);
        response.set_body(block);
        response
    }
}

/// When a refusal that will pass is worth another try.
fn passes_after(response: &Response) -> Option<Duration> {
    let passes = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::SERVICE_UNAVAILABLE,
    ];
    if !passes.contains(&response.status()) {
        return None;
    }
    let seconds = response.headers().get(header::RETRY_AFTER)?;
    let seconds = seconds.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The request of a head that nobody has parsed; `None` if it is not whole, or none.
pub(super) fn parse_head(head: &[u8]) -> Option<Request> {
    const HEADERS_MAX: usize = 100; // As many as hyper takes.
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    if !parsed.parse(head).ok()?.is_complete() {
        return None;
    }
    let mut request = Request::builder()
        .method(parsed.method?.parse().ok()?)
        .uri(parsed.path?.parse().ok()?);
    for header in parsed.headers.iter() {
        // One that cannot be a value is as good as none.
        if let Ok(value) = HeaderValue::from_bytes(header.value) {
            request = request.header(header.name, value);
        }
    }
    Some(request.finish())
}
