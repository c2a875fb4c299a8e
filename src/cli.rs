//! The command line: `segno serve`, `publish`, `tail` and `ready`; `backup`, `restore`, `export`, `import` and `check`, which work on
//! the file; `bench`, `systemd-unit` and `openapi`.

mod backup;
mod bench;
mod check;
mod check_config;
mod export;
mod import;
mod log_lines;
#[cfg(feature = "otlp")]
mod otlp;
mod progress;
mod publish;
mod ready;
mod restore;
mod serve;
mod systemd_unit;
mod tail;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::ServeFlags;

/// A persistent event hub: POST events, follow them over Server-Sent Events, resume where you were.
///
/// Without a command it serves.
#[derive(Debug, Parser)]
#[command(name = "segno", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    serve: ServeFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub.
    Serve(ServeFlags),
    /// Publish an event, or each line of standard input.
    Publish(publish::PublishFlags),
    /// Follow events, across cuts and restarts.
    Tail(tail::TailFlags),
    /// Copy the log to a new file, as it is at one moment. The hub may run and publish meanwhile.
    Backup(backup::BackupFlags),
    /// Put a backup where the log is. No hub may run on it.
    Restore(restore::RestoreFlags),
    /// Write all events, with their ids and times, one a line. The hub may run; run it again to go on.
    Export(export::ExportFlags),
    /// Read what `export` wrote into a log, ids and times as they were. No hub may run on it; run it again to go on.
    Import(import::ImportFlags),
    /// Look whether the log is sound, from end to end. The hub may run.
    Check(check::CheckFlags),
    /// Measure a hub that runs, and check that it loses nothing.
    ///
    /// What is published stays in the hub's log, on topics of the run's own: `bench.<run>.<number>`. Ends with 1 if an event
    /// was missing, came twice or out of order.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Ask whether the hub would take an event now: exit code 0 if so, else 1 and the reason.
    Ready(ready::ReadyFlags),
    /// Print a unit for systemd that runs this program as a service.
    SystemdUnit,
    /// Print the OpenAPI document.
    Openapi,
}

/// Where a client finds the hub.
#[derive(Debug, Clone, Args)]
struct HubAddress {
    /// The hub.
    #[arg(
        long,
        env = "SEGNO_URL",
        default_value = "http://127.0.0.1:8000",
        value_name = "URL"
    )]
    url: String,
}

/// Which file a command works on.
#[derive(Debug, Clone, Args)]
struct LogFile {
    /// The file that holds the events.
    #[arg(long, env = "SEGNO_DB", default_value = "segno.db")]
    db: PathBuf,
}

impl Cli {
    /// Reads the command line and the variables, and does what was asked for. Ends the program where they cannot be read.
    pub async fn read_and_run() -> anyhow::Result<()> {
        match Self::try_parse() {
            Ok(cli) => cli.run().await,
            Err(error) if error.use_stderr() && check_config::is_asked_for() => {
                check_config::run().await
            }
            Err(error) => error.exit(),
        }
    }

    async fn run(self) -> anyhow::Result<()> {
        match self.command.unwrap_or(Command::Serve(self.serve)) {
            Command::Serve(flags) => serve::run(flags).await,
            Command::Publish(flags) => publish::run(flags).await,
            Command::Tail(flags) => tail::run(flags).await,
            Command::Backup(flags) => backup::run(flags).await,
            Command::Restore(flags) => restore::run(flags).await,
            Command::Export(flags) => export::run(flags).await,
            Command::Import(flags) => import::run(flags).await,
            Command::Check(flags) => check::run(flags).await,
            Command::Bench(flags) => bench::run(flags).await,
            Command::Ready(flags) => ready::run(flags).await,
            Command::SystemdUnit => systemd_unit::run(),
            Command::Openapi => print(&crate::http::openapi_document()),
        }
    }
}

/// Writes to standard output. That nobody reads it any more is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::{ErrorKind, Write};
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
