//! Where the traces of `segno serve` go.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, filter_fn},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::LogFormat;

/// Begins to trace.
pub(super) fn begin(format: LogFormat) {
    tracing_subscriber::registry().with(lines(format)).init();
}

/// Lines on standard error. Each reads alone, so the spans around it are not told.
fn lines(format: LogFormat) -> impl Layer<Registry> {
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
    lines.with_filter(filter.and(filter_fn(|metadata| !metadata.is_span())))
}
