//! Where the traces of `segno serve` go.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, filter_fn},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use super::otlp::Exporter;
use crate::config::{LogFormat, ServeFlags};

/// Begins to trace. What is returned is to be [ended](Exporter::end) when the hub has stopped.
pub(super) fn begin(flags: &ServeFlags) -> anyhow::Result<Option<Exporter>> {
    let endpoint = flags.otlp_endpoint.as_deref();
    let exporter = endpoint.map(Exporter::begin).transpose()?;
    let spans = exporter.as_ref().map(|exporter| exporter.layer().boxed());
    let layers: Vec<_> = spans.into_iter().chain([lines(flags.log_format)]).collect();
    tracing_subscriber::registry().with(layers).init();
    Ok(exporter)
}

/// Lines on standard error. Each reads alone, so the spans around it are not told.
fn lines(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let filter = EnvFilter::try_from_env("SEGNO_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt::layer()
        .with_writer(stderr)
        // Colours are for a person; in a file, or in the log of a container, they are rubbish.
        .with_ansi(stderr().is_terminal())
        .with_target(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let no_spans = filter_fn(|metadata| !metadata.is_span());
    lines.with_filter(filter.and(no_spans)).boxed()
}
