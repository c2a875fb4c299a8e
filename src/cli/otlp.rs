//! Sends the spans of requests, commits and announcements to a collector, by OTLP over HTTP.
//!
//! Nothing here is made, and no span is, unless it was asked for. Spans wait in a queue of 2,048, which a thread of its own
//! empties every 5 s; more than that are dropped. These and the sampler can be changed by the variables that OpenTelemetry
//! has for it, such as `OTEL_TRACES_SAMPLER`.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tokio::runtime::Handle;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, Registry, filter::filter_fn};

/// Longest time that sending some spans may take, and the last of them when the hub stops.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// What collectors take traces at. Source: OTLP 1.x, OTLP/HTTP request.
const TRACES_PATH: &str = "/v1/traces";

/// The spans on their way to the collector.
#[derive(Debug)]
pub(super) struct Exporter(SdkTracerProvider);

impl Exporter {
    /// Begins to send spans to the collector at `endpoint`, such as `http://localhost:4318`.
    pub(super) fn begin(endpoint: &str) -> anyhow::Result<Self> {
        _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(SEND_TIMEOUT).build()?;
        let sender = Sender {
            client,
            runtime: Handle::current(),
            failing: Arc::default(),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(sender)
            .with_endpoint(endpoint.trim_end_matches('/').to_owned() + TRACES_PATH)
            .with_timeout(SEND_TIMEOUT)
            .build()
            .with_context(|| format!("spans cannot be sent to {endpoint}"))?;
        let resource = Resource::builder()
            .with_service_name("segno")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_batch_exporter(exporter);
        Ok(Self(provider.build()))
    }

    /// What takes the spans. It makes that they are made, and no lines.
    pub(super) fn layer(&self) -> impl Layer<Registry> + use<> {
        let ours = filter_fn(|metadata| {
            !metadata.is_event() && metadata.target().starts_with(env!("CARGO_PKG_NAME"))
        });
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer(env!("CARGO_PKG_NAME")))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_level(false)
            .with_tracked_inactivity(false)
            .with_filter(ours.with_max_level_hint(LevelFilter::DEBUG))
    }

    /// Sends what is left.
    pub(super) async fn end(self) {
        let ended = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(SEND_TIMEOUT));
        if let Err(error) = ended.await.expect("ending does not panic") {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// Sends with the client that the hub has anyway, on its runtime: the exporter has a thread, but no runtime.
///
/// The exporter's own senders do not do: the async one panics on that thread, the blocking one brings a second runtime, and
/// both log every failure instead of the first.
#[derive(Debug)]
struct Sender {
    client: reqwest::Client,
    runtime: Handle,
    failing: Arc<AtomicBool>,
}

impl HttpClient for Sender {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let sent = self
            .runtime
            .spawn(send(self.client.clone(), request, self.failing.clone()));
        Box::pin(async move { sent.await? })
    }
}

async fn send(
    client: reqwest::Client,
    request: Request<Bytes>,
    failing: Arc<AtomicBool>,
) -> Result<Response<Bytes>, HttpError> {
    let sent = client.execute(request.try_into()?).await;
    match sent.and_then(reqwest::Response::error_for_status) {
        Ok(answer) => {
            failing.store(false, Relaxed);
            Ok(Response::builder()
                .status(answer.status())
                .body(Bytes::new())?)
        }
        Err(error) => {
            // The first of a row: a collector that is away would otherwise fill the log.
            if !failing.swap(true, Relaxed) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "spans cannot be sent; trying again with the next");
            }
            Err(error.into())
        }
    }
}
