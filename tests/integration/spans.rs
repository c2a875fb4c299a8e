//! Spans go to a collector, if one is named.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value, trace::v1::Span,
};
use prost::Message;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    sight::{Figures, Traced, pause},
    test_hub::{HeldFile, Port, within},
};

/// A collector of spans, which takes what comes over HTTP and decodes it.
struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Span>>>,
    serving: JoinHandle<()>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let spans = Arc::new(Mutex::new(Vec::new()));
        let taken = spans.clone();
        let serving = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let taken = taken.clone();
                let service = service_fn(move |request| take_spans(request, taken.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        Self {
            url,
            spans,
            serving,
        }
    }

    fn named(&self, name: &str) -> Vec<Span> {
        let spans = self.spans.lock().unwrap();
        spans
            .iter()
            .filter(|span| span.name == name)
            .cloned()
            .collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take_spans(
    request: hyper::Request<Incoming>,
    taken: Arc<Mutex<Vec<Span>>>,
) -> Result<hyper::Response<Empty<Bytes>>, hyper::Error> {
    assert_eq!(
        (request.method().as_str(), request.uri().path()),
        ("POST", "/v1/traces")
    );
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let body = request.into_body().collect().await?.to_bytes();
    for resource in ExportTraceServiceRequest::decode(body)
        .unwrap()
        .resource_spans
    {
        let named = format!("{:?}", resource.resource.unwrap());
        assert!(
            named.contains("service.name") && named.contains("segno"),
            "{named}"
        );
        let spans = resource
            .scope_spans
            .into_iter()
            .flat_map(|scope| scope.spans);
        taken.lock().unwrap().extend(spans);
    }
    Ok(hyper::Response::new(Empty::new()))
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span
        .attributes
        .iter()
        .find(|attribute| attribute.key == key);
    match found.and_then(|found| found.value.clone()?.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?} in {span:?}"),
    }
}

#[tokio::test]
async fn spans_lead_from_requests_to_the_commit_they_share_and_its_announcement() {
    let collector = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let args = ["--otlp-endpoint", &collector.url];
    let mut traced = Traced::start(folder.path(), &args, "info").await;
    let held = HeldFile::hold(&traced.db);
    let publish = |n: usize| {
        let request = traced.hub.post("/topics/t?type=hidden").body("hidden");
        tokio::spawn(request.header("x-request-id", format!("r{n}")).send())
    };
    let queued = async |publications: f64| {
        within("publications in the queue", async {
            loop {
                let figures = Figures::of(&traced.hub).await;
                let waiting = figures.get("segno_queue_publications");
                if figures.get("segno_queue_bytes") > 0.0 && waiting == publications {
                    return;
                }
                pause().await;
            }
        })
        .await;
    };
    let mut publishing = vec![publish(0)];
    queued(0.0).await;
    publishing.extend((1..4).map(publish));
    queued(3.0).await;
    held.release();
    for published in publishing {
        assert_eq!(
            within("an event", published)
                .await
                .unwrap()
                .unwrap()
                .status(),
            201
        );
    }
    // The spans wait for their turn, and are sent at once when the hub drains.
    traced.program.signal("TERM");
    assert_eq!(traced.program.exit_code().await, Some(0));

    let requests = collector.named("POST /topics/t");
    assert_eq!(requests.len(), 4);
    let of_span = |id: &[u8]| {
        let request = requests.iter().find(|request| request.span_id == id);
        request.map(|request| attribute(request, "request_id"))
    };
    let commits = collector.named("commit");
    assert_eq!(commits.len(), 2);
    let alone = of_span(&commits[0].parent_span_id);
    assert_eq!((alone.as_deref(), commits[0].links.len()), (Some("r0"), 0));
    let mut sharing = vec![of_span(&commits[1].parent_span_id).unwrap()];
    sharing.extend(
        commits[1]
            .links
            .iter()
            .filter_map(|link| of_span(&link.span_id)),
    );
    sharing.sort();
    assert_eq!(sharing, ["r1", "r2", "r3"]);
    let announces = collector.named("announce");
    for (announce, commit) in announces.iter().zip(&commits) {
        assert_eq!(announce.parent_span_id, commit.span_id);
        assert_eq!(announce.trace_id, commit.trace_id);
    }
    assert_eq!(announces.len(), 2);
    for request in &requests {
        assert_eq!(attribute(request, "http.response.status_code"), "201");
        assert!(!format!("{request:?}").contains("hidden"));
    }
    // Spans make no lines.
    assert!(traced.lines("request").is_empty());
}

#[tokio::test]
async fn a_collector_that_is_away_is_told_once_and_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = Port::reserve();
    let args = ["--otlp-endpoint", &nobody.url()];
    let mut traced = Traced::start(folder.path(), &args, "info").await;
    traced.hub.publish("t", ["a", "b"]).await;
    traced.program.signal("TERM");
    assert_eq!(traced.program.exit_code().await, Some(0));
    let told = traced.lines("spans cannot be sent; trying again with the next");
    assert_eq!(told.len(), 1, "{told:?}");
}
