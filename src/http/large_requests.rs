//! Large requests that come together let others in between: each takes its turn.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use poem::{Body, Endpoint, Request, http::Method};

use super::{HubEndpoint, test_endpoint};
use crate::{
    limits::{self, Limits},
    process::longest_work,
};

/// Work of the runtime's thread after which others are to be let in: without optimization a few large requests take a quarter of it. All
/// of a kind took 50 to 150 ms without turns.
const WORK_MAX: Duration = Duration::from_millis(40);

const BODIES: usize = 30;

const BODY_BYTES: usize = 8 * 1024 * 1024;

const BATCHES: usize = 3;

const QUERIES: usize = 100;

#[tokio::test]
#[expect(clippy::print_stdout, reason = "the figures")]
async fn others_are_let_in_between_large_requests() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Arc::new(Limits::new(limits::Settings {
        max_body_memory: 4 * BODIES * BODY_BYTES,
        ..limits::Settings::default()
    }));
    let (hub, writing, endpoint) = test_endpoint::open(folder.path(), &limits).await;
    let endpoint = Arc::new(endpoint);
    let request = |method, path: &str, body| {
        let address = "127.0.0.1:9".parse().unwrap();
        test_endpoint::request(&limits, address, method, path, body)
    };
    let get = |path: String| request(Method::GET, &path, Body::empty());
    let post = |body| request(Method::POST, "/events", body);
    let streams = (0..QUERIES).map(|n| get(format!("/sse?{}", topics(n))));
    let refused = (0..QUERIES).map(|n| get(format!("/sse?{}unknown=1", topics(n))));
    for (kind, requests) in [
        (
            "bodies of 8 MiB",
            (0..BODIES).map(|_| post(piecewise())).collect::<Vec<_>>(),
        ),
        (
            "batches of 8 MiB",
            (0..BATCHES).map(|_| post(batch().into())).collect(),
        ),
        ("queries of 700 topics", refused.collect()),
        ("streams of 700 topics", streams.collect()),
    ] {
        let longest = answer_all(&endpoint, requests).await;
        println!("{kind}: others were let in after {longest:?} of work at most");
        assert!(longest < WORK_MAX, "{kind}: {longest:?}");
    }
    drop(endpoint);
    hub.drain();
    writing.await.unwrap().close().await.unwrap();
}

/// Work of this thread between two moments at which others were let in, at the most, while `requests` are answered.
async fn answer_all(endpoint: &Arc<HubEndpoint>, requests: Vec<Request>) -> Duration {
    let answering: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let endpoint = endpoint.clone();
            tokio::spawn(async move { endpoint.call(request).await.unwrap() })
        })
        .collect();
    longest_work(&answering).await
}

/// A query of 700 topics that nobody else has.
fn topics(n: usize) -> String {
    (0..700).map(|own| format!("topic=t{n}.{own}&")).collect()
}

/// Something of 8 MiB that is all there, and is no JSON.
fn piecewise() -> Body {
    let piece = Bytes::from(vec![b'x'; 64 * 1024]);
    let pieces = std::iter::repeat_n(piece, BODY_BYTES / (64 * 1024));
    Body::from_bytes_stream(stream::iter(pieces.map(Ok::<_, std::io::Error>)))
}

/// JSON of 8 MiB whose last event is none.
fn batch() -> String {
    let event = format!("{{\"data\":[{}0]}},", "\"\\n\",".repeat(500));
    format!("[{}{{}}]", event.repeat(BODY_BYTES / event.len()))
}
