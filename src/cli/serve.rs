//! `segno serve`.

use std::{fmt, num::NonZeroU32};

use anyhow::{Context, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{check_config, log_lines::Logging, print};
use crate::{
    config::{LogFormat, ServeFlags, refuse_small_queue},
    server::{Server, Settings, connections_within},
};

pub(super) async fn run(flags: ServeFlags) -> anyhow::Result<()> {
    if flags.check_config {
        return check_config::run().await;
    }
    let logging = Logging::begin(&flags)?;
    let mut settings = flags.settings();
    let limits = &mut settings.limits;
    refuse_small_queue(settings.hub.queue.bytes, limits.max_batch_bytes)
        .map_err(anyhow::Error::msg)?;
    let fitting = open_files(limits.max_connections)?;
    if fitting.connections < limits.max_connections {
        tracing::info!("{fitting}");
        limits.max_connections = fitting.connections;
    }
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let server = Server::start(settings.clone()).await?;
    greet(&server, &settings, flags.log_format)?;

    let stop = CancellationToken::new();
    let second_signal = async {
        signals.next().await;
        stop.cancel();
        signals.next().await;
    };
    tokio::select! {
        served = server.serve(stop.cancelled()) => served.context("the file was not closed cleanly")?,
        () = second_signal => bail!("stopped at once, by a second signal; what was acknowledged is stored"),
    }
    logging.end().await;
    Ok(())
}

/// How many connections fit into the files that the system lets this process have open.
#[derive(Debug)]
pub(super) struct OpenFiles {
    allowed: u64,
    asked_for: NonZeroU32,
    /// As many as were asked for, or fewer.
    pub(super) connections: NonZeroU32,
}

impl fmt::Display for OpenFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the system allows {} open files, too few for --max-connections {}: {} are served; raise it with `ulimit -n`, or \
             LimitNOFILE= of systemd",
            self.allowed, self.asked_for, self.connections
        )
    }
}

/// Asks the system for as many open files as there may be: a connection is one, and most systems allow 1,024 until they are
/// asked for more.
pub(super) fn open_files(connections: NonZeroU32) -> anyhow::Result<OpenFiles> {
    let allowed = rlimit::increase_nofile_limit(u64::MAX)
        .context("the system does not say how many files may be open")?;
    let Some(fitting) = NonZeroU32::new(connections_within(allowed)) else {
        bail!("the system allows {allowed} open files, which is too few for any connection");
    };
    Ok(OpenFiles {
        allowed,
        asked_for: connections,
        connections: fitting.min(connections),
    })
}

/// SIGTERM, from a service manager, and SIGINT, from a keyboard.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
        }
    }
}

/// Tells a person where everything is.
fn greet(server: &Server, settings: &Settings, log_format: LogFormat) -> anyhow::Result<()> {
    let address = server.address();
    let host = if address.ip().is_unspecified() {
        "localhost".into()
    } else {
        format_ip(address.ip())
    };
    let base = format!("http://{host}:{}", address.port());
    let bounds = server.bounds();
    let version = env!("CARGO_PKG_VERSION");
    if log_format == LogFormat::Json {
        let (first_id, last_id) = (bounds.first_id.as_i64(), bounds.last_id.as_i64());
        tracing::info!(version, url = base, db = %settings.db.display(), first_id, last_id, keeps = %settings.keep, "listening");
        return Ok(());
    }
    let kept = match bounds.first_id > bounds.last_id {
        true => "no events yet".to_owned(),
        false => format!("events {} to {}", bounds.first_id, bounds.last_id),
    };
    print(&format!(
        "segno {version}\n  \
         stream  {base}/sse\n  \
         docs    {base}/docs\n  \
         file    {} ({kept})\n  \
         keeps   {}\n",
        settings.db.display(),
        settings.keep,
    ))
}

fn format_ip(ip: std::net::IpAddr) -> String {
    match ip {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
    }
}
