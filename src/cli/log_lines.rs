//! Where the log lines of `segno serve` go, and its spans.

use std::{
    env,
    io::{IsTerminal, stderr},
};

use anyhow::Context;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, Registry,
    filter::{FilterExt, Targets, filter_fn},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use super::in_one_line;
use crate::config::{LogFormat, ServeFlags};

/// What is logged: a level, such as `debug`, or levels of parts of the program, such as `info,segno::http=debug`.
const VARIABLE: &str = "SEGNO_LOG";

/// What is logged and traced until it [ends](Self::end).
#[derive(Debug)]
pub(super) struct Logging {
    #[cfg(feature = "otlp")]
    exporter: Option<super::otlp::Exporter>,
}

impl Logging {
    /// Begins to log, and to send spans where a collector is named.
    pub(super) fn begin(flags: &ServeFlags) -> anyhow::Result<Self> {
        let layers = vec![lines(flags.observe.log_format, levels()?)];
        #[cfg(feature = "otlp")]
        let (exporter, layers) = {
            let endpoint = flags.observe.otlp_endpoint.as_deref();
            let exporter = endpoint.map(super::otlp::Exporter::begin).transpose()?;
            let spans = exporter.iter().map(|exporter| exporter.layer().boxed());
            // First the spans: a layer of lines that filters must not stand between them and the registry.
            let layers: Vec<_> = spans.chain(layers).collect();
            (exporter, layers)
        };
        tracing_subscriber::registry().with(layers).init();
        Ok(Self {
            #[cfg(feature = "otlp")]
            exporter,
        })
    }

    /// Sends the spans that are left.
    pub(super) async fn end(self) {
        #[cfg(feature = "otlp")]
        if let Some(exporter) = self.exporter {
            exporter.end().await;
        }
    }
}

/// The error has been logged; nothing is to be printed.
#[derive(Debug, thiserror::Error)]
#[error("the log says why")]
pub struct Logged;

/// Logs an error where every line must be JSON; the line `segno: why` is for people.
pub(super) fn refuse_to_end_in_text(
    served: anyhow::Result<()>,
    format: LogFormat,
) -> anyhow::Result<()> {
    match served {
        Err(error) if format == LogFormat::Json => {
            tracing::error!(error = in_one_line(&error), "stopped");
            Err(Logged.into())
        }
        served => served,
    }
}

/// Reads which lines are wanted.
pub(super) fn levels() -> anyhow::Result<Targets> {
    let Some(text) = env::var_os(VARIABLE) else {
        return Ok(Targets::new().with_default(LevelFilter::INFO));
    };
    let text = text.to_string_lossy();
    text.parse().with_context(|| {
        format!("{VARIABLE}={text:?} is no level; use error, warn, info, debug or trace")
    })
}

/// Lines on standard error. Each reads alone, so it does not repeat the spans around it.
fn lines(format: LogFormat, levels: Targets) -> Box<dyn Layer<Registry> + Send + Sync> {
    let lines = fmt::layer()
        .with_writer(stderr)
        // It would say on standard error that standard error cannot be written to, and panic when it could not.
        .log_internal_errors(false)
        // Colours are for a person; in a file, or in the log of a container, they are rubbish.
        .with_ansi(stderr().is_terminal())
        .with_target(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let no_spans = filter_fn(|metadata| !metadata.is_span());
    lines.with_filter(levels.and(no_spans)).boxed()
}
