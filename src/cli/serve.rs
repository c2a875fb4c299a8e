//! `segno serve`.

use std::{
    io::{self, IsTerminal},
    net::IpAddr,
};

use anyhow::{Context, bail};
use clap::{ArgMatches, parser::ValueSource};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{
    log_lines::{Logging, refuse_to_end_in_text},
    open_files::OpenFiles,
    print,
};
use crate::{
    config::{
        LogFormat, ServeFlags, refuse_credentials_of_all, refuse_small_queue,
        refuse_unasked_openness,
    },
    server::{CertificateSource, ListenAddress, RereadFiles, Server, Settings},
};

/// Serves until a signal. `matches` says which flags were given.
pub(super) async fn run(flags: ServeFlags, matches: &ArgMatches) -> anyhow::Result<()> {
    let logging = Logging::begin(&flags)?;
    // In a box: opening and serving are a large future, and it would be moved about whole.
    let served = Box::pin(serve(&flags, matches)).await;
    logging.end().await;
    refuse_to_end_in_text(served, flags.observe.log_format)
}

async fn serve(flags: &ServeFlags, matches: &ArgMatches) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let mut settings = flags.settings();
    refuse_unasked_openness(
        &settings.listen,
        settings.access.as_deref(),
        flags.access.open,
    )
    .map_err(anyhow::Error::msg)?;
    refuse_credentials_of_all(&settings.cors_origins, settings.cors_credentials)
        .map_err(anyhow::Error::msg)?;
    let limits = &mut settings.limits;
    refuse_small_queue(settings.hub.queue.bytes, limits.max_batch_bytes)
        .map_err(anyhow::Error::msg)?;
    let open_files = OpenFiles::raise_for(limits.max_connections)?;
    if !open_files.are_enough() && is_set_by_hand(matches, "max_connections") {
        tracing::warn!("{open_files}");
    }
    limits.max_connections = open_files.connections;

    let server = tokio::select! {
        started = Server::start(settings.clone()) => started?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before the file was open");
            return Ok(());
        }
    };
    greet(&server, &settings, flags.observe.log_format);

    let stop = CancellationToken::new();
    signals.rereads = Some(server.reread_files());
    let mut first = "";
    let second = async {
        first = signals.next().await;
        stop.cancel();
        signals.next().await
    };
    tokio::select! {
        served = server.serve(stop.cancelled()) => served.context("the file was not closed cleanly")?,
        second = second => bail!("stopped at once by a second signal, {second}; every acknowledged event is stored"),
    }
    tracing::info!(signal = first, "stopped");
    Ok(())
}

/// Whether a flag or its variable was given, and not left to its default.
pub(super) fn is_set_by_hand(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) != Some(ValueSource::DefaultValue)
}

/// The signals that stop the hub, and those that must not kill it.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hang_up: Signal,
    /// Asked at the start: of a terminal that has been closed the system says that it is none.
    has_terminal: bool,
    /// What is read again when nobody closed a terminal.
    rereads: Option<RereadFiles>,
}

/// A write beyond the file size limit of the process. Without a handler it kills; with one, the write fails and is reported.
///
/// Source: signal(7), the number on x86 and ARM.
const SIGXFSZ: i32 = 25;

impl Signals {
    fn listen() -> io::Result<Self> {
        // A signal that has had a handler once does not kill any more.
        for ignored in [
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::from_raw(SIGXFSZ),
        ] {
            drop(signal(ignored)?);
        }
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hang_up: signal(SignalKind::hangup())?,
            has_terminal: io::stderr().is_terminal(),
            rereads: None,
        })
    }

    /// Waits for a signal that stops the hub; its name.
    async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.quit.recv() => return "SIGQUIT",
                // The terminal was closed. Without one, whoever sends it wants files to be read again.
                _ = self.hang_up.recv() => match self.has_terminal {
                    true => return "SIGHUP",
                    false => self.reread(),
                },
            }
        }
    }

    fn reread(&self) {
        match &self.rereads {
            Some(files) if files.are_there() => files.reread_and_tell(),
            _ => tracing::info!("SIGHUP: there is nothing to read again"),
        }
    }
}

/// Whether other machines cannot reach it.
fn is_of_this_machine(server: &Server) -> bool {
    let addresses = server.addresses();
    addresses.iter().all(ListenAddress::is_of_this_machine)
}

/// Which doors are open.
fn who_may_do_what(server: &Server) -> String {
    match (server.access().describe(), is_of_this_machine(server)) {
        (Some(file), _) => file,
        (None, true) => "everybody on this machine may do everything".into(),
        (None, false) => "everybody who reaches it may do everything".into(),
    }
}

/// Tells a person where everything is. Standard output may be full or closed; that must not end the hub.
fn greet(server: &Server, settings: &Settings, log_format: LogFormat) {
    let addresses = server.addresses();
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let base = base_url(server, settings);
    let bounds = server.bounds();
    let version = env!("CARGO_PKG_VERSION");
    let access = who_may_do_what(server);
    let listens = addresses.join(" and ");
    if server.access().is_open() && !is_of_this_machine(server) {
        tracing::warn!(
            address = listens,
            "everybody who reaches the hub may do everything; --access says who may do what"
        );
    }
    if log_format == LogFormat::Json {
        let (first_id, last_id) = (bounds.first_id.as_i64(), bounds.last_id.as_i64());
        tracing::info!(version, url = base.as_deref().unwrap_or(&listens), listens, db = %settings.db.display(), first_id, last_id, keeps = %settings.keep, access, "listening");
        return;
    }
    let kept = match bounds.first_id > bounds.last_id {
        true => "no events yet".to_owned(),
        false => format!("events {} to {}", bounds.first_id, bounds.last_id),
    };
    let mut told = format!("segno {version}\n");
    if let Some(base) = &base {
        told += &format!("  console {base}/\n  stream  {base}/sse\n  docs    {base}/docs\n");
    }
    // One address is in the lines above.
    if base.is_none() || addresses.len() > 1 {
        told += &format!("  listens {listens}\n");
    }
    told += &format!(
        "  file    {} ({kept})\n  \
         keeps   {}\n  \
         access  {access}\n",
        settings.db.display(),
        settings.keep,
    );
    if let Err(error) = print(&told) {
        tracing::warn!(listens, error = format!("{error:#}"), "listening");
    }
}

/// Where a browser finds it; nowhere if it listens on socket files alone.
fn base_url(server: &Server, settings: &Settings) -> Option<String> {
    let address = server.ip_address()?;
    if let Some(domain) = ordered_for(settings) {
        return Some(format!("https://{domain}"));
    }
    let host = match address.ip().is_unspecified() {
        true => "localhost".into(),
        false => format_ip(address.ip()),
    };
    Some(format!("{}://{host}:{}", server.scheme(), address.port()))
}

/// The name that the hub has a certificate of an authority for: at its address, which has none, clients would refuse it.
fn ordered_for(_settings: &Settings) -> Option<&str> {
    match &_settings.tls {
        #[cfg(feature = "acme")]
        Some(CertificateSource::Acme(acme)) => acme.domains.first().map(String::as_str),
        Some(CertificateSource::Files(_)) | None => None,
    }
}

fn format_ip(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}
