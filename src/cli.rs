//! The command line.
//!
//! `segno serve`; its clients `publish`, `tail`, `topics`, `erase`, `stats`, `ready` and `bench`; `backup`, `restore`, `export`, `import` and `check`, which work
//! on the file; `token`, which works on the access file; and what is printed for other programs: `systemd-unit`, `completions`, `man` and `openapi`.

mod backup;
mod bench;
mod check;
mod check_config;
#[cfg(feature = "cluster")]
mod cluster;
mod erase;
mod export;
mod import;
mod log_lines;
mod open_files;
#[cfg(feature = "otlp")]
mod otlp;
mod output;
mod progress;
mod publish;
mod ready;
mod reference;
mod restore;
mod serve;
mod stats;
mod systemd_unit;
mod tail;
mod terminal;
mod token;
mod topics;
mod trimmed_line;
mod usage;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::output::print;
pub use self::{log_lines::Logged, reference::flags_table};
use crate::{
    client::{Authorities, Client, Token},
    config::ServeFlags,
};

/// What the program tells whoever started it.
const EXIT_CODES: &str = "Exit codes:
  0  done: it was stored, erased or found; a hub that was told to stop has drained; nobody reads the output any more
  1  not done; the last line of standard error says why
  2  the command line is wrong; nothing was tried";

/// A persistent event hub: POST events, follow them over Server-Sent Events, resume where you were.
///
/// Without a command it serves.
#[derive(Debug, Parser)]
#[command(
    name = "segno",
    version,
    args_conflicts_with_subcommands = true,
    after_help = EXIT_CODES
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    serve: ServeFlags,
}

#[derive(Debug, Subcommand)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one, for a moment: the flags of `serve` are many"
)]
enum Command {
    /// Run the hub.
    Serve(ServeFlags),
    /// Publish an event, or each line of standard input.
    #[command(after_help = EXIT_CODES)]
    Publish(publish::PublishFlags),
    /// Follow events, across disconnects and restarts.
    #[command(after_help = EXIT_CODES)]
    Tail(tail::TailFlags),
    /// List the topics, with the number and the newest of their events.
    #[command(after_help = EXIT_CODES)]
    Topics(topics::TopicsFlags),
    /// Erase events or a topic for good. Asks first.
    #[command(after_help = EXIT_CODES)]
    Erase(erase::EraseFlags),
    /// Show the figures of the hub; `--watch` keeps them up to date.
    #[command(after_help = EXIT_CODES)]
    Stats(stats::StatsFlags),
    /// Copy the event log to a new file, as it is at one moment. The hub may be running.
    Backup(backup::BackupFlags),
    /// Put a backup in the place of the event log. The hub must be stopped.
    Restore(restore::RestoreFlags),
    /// Write all events, with their ids and times, one per line. The hub may be running; run it again to continue.
    Export(export::ExportFlags),
    /// Read what `export` wrote into an event log, ids and times included. The hub must be stopped; run it again to continue.
    Import(import::ImportFlags),
    /// Check the event log from end to end for damage. The hub may be running.
    Check(check::CheckFlags),
    /// Measure a running hub, and check that it loses nothing.
    ///
    /// The events stay in the hub's log, on topics of this run: `bench.<run>.<number>`. Exits with 1 if an event is missing, came
    /// twice or came out of order.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Ask whether the hub takes events now: exit code 0 if it does, else 1 and the reason.
    #[command(after_help = EXIT_CODES)]
    Ready(ready::ReadyFlags),
    /// Make, list, remove and check tokens of the access file. No hub need run.
    #[command(subcommand)]
    Token(token::Token),
    /// Make the stream of a cluster, and look at it.
    #[cfg(feature = "cluster")]
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Print a systemd unit that runs this program as a service.
    SystemdUnit,
    /// Print completions for a shell, such as `segno completions bash > /etc/bash_completion.d/segno`.
    Completions(reference::CompletionsFlags),
    /// Print a man page, such as `segno man serve | man -l -`.
    Man(reference::ManFlags),
    /// Print the OpenAPI document.
    Openapi,
}

/// Where a client finds the hub.
#[derive(Debug, Clone, Args)]
struct HubAddress {
    /// Address of the hub; `localhost:8000`, `:8000` and `8000` are short for plain HTTP, `unix:/run/segno.sock` is a socket file.
    #[arg(
        long,
        env = "SEGNO_URL",
        default_value = "http://127.0.0.1:8000",
        value_name = "URL"
    )]
    url: String,

    /// Token to show, or JSON Web Token. Others of this machine may see it here: `SEGNO_TOKEN` or `--token-file` hides it.
    #[arg(
        long,
        env = "SEGNO_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        conflicts_with = "token_file"
    )]
    token: Option<Token>,

    /// File with the token to show.
    #[arg(long, env = "SEGNO_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// File with the certificate of the authority that signed the hub's, as PEM, where the system does not know it.
    #[arg(long, env = "SEGNO_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl HubAddress {
    /// The token to show, if there is one.
    fn token(&self) -> anyhow::Result<Option<Token>> {
        let Some(path) = &self.token_file else {
            return Ok(self.token.clone());
        };
        let token = Token::read(path);
        let token = token.with_context(|| format!("cannot use the token in {}", path.display()));
        token.map(Some)
    }

    /// Whom to trust beside the authorities that the system trusts.
    fn authorities(&self) -> anyhow::Result<Authorities> {
        let Some(path) = &self.ca else {
            return Ok(Authorities::default());
        };
        Authorities::read(path)
            .with_context(|| format!("cannot use the authorities in {}", path.display()))
    }

    /// A client of the hub.
    fn client(&self) -> anyhow::Result<Client> {
        let token = self.token()?;
        Ok(Client::new(
            &self.url,
            token.as_ref(),
            &self.authorities()?,
        )?)
    }
}

/// Whether an argument names a file: `-` is standard input or output, as for other programs.
fn is_file(path: &&Path) -> bool {
    *path != Path::new("-")
}

/// Which file a command works on.
#[derive(Debug, Clone, Args)]
struct LogFile {
    /// File that holds the events.
    #[arg(long, env = "SEGNO_DB", default_value = "segno.db")]
    db: PathBuf,
}

impl Cli {
    /// Reads the command line and the variables, and does what they ask for. Ends the program with 2 where they cannot be read.
    pub async fn read_and_run() -> anyhow::Result<()> {
        let matches = match Self::command().try_get_matches() {
            Ok(matches) => matches,
            Err(error) if error.use_stderr() && check_config::is_asked_for() => {
                return check_config::run_despite(&error).await;
            }
            Err(error) => usage::exit(&error),
        };
        let cli = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        let serve_matches = matches.subcommand_matches("serve").unwrap_or(&matches);
        match cli.command.unwrap_or(Command::Serve(cli.serve)) {
            Command::Serve(flags) if flags.check_config => check_config::run(serve_matches).await,
            Command::Serve(flags) => serve::run(flags, serve_matches).await,
            Command::Publish(flags) => publish::run(flags).await,
            Command::Tail(flags) => tail::run(flags).await,
            Command::Topics(flags) => topics::run(flags).await,
            Command::Erase(flags) => erase::run(flags).await,
            Command::Stats(flags) => stats::run(flags).await,
            Command::Backup(flags) => backup::run(flags).await,
            Command::Restore(flags) => restore::run(flags).await,
            Command::Export(flags) => export::run(flags).await,
            Command::Import(flags) => import::run(flags).await,
            Command::Check(flags) => check::run(flags).await,
            Command::Bench(bench) => bench::run(bench).await,
            Command::Ready(flags) => ready::run(flags).await,
            Command::Token(command) => token::run(command).await,
            #[cfg(feature = "cluster")]
            Command::Cluster(command) => cluster::run(command).await,
            Command::SystemdUnit => systemd_unit::run(),
            Command::Completions(flags) => reference::print_completions(&flags),
            Command::Man(flags) => reference::print_man_page(&flags),
            Command::Openapi => print(&crate::http::openapi_document()),
        }
    }
}

/// An error and its causes on one line. A cause is not repeated that the text before it ends with, as some libraries have it.
pub fn in_one_line(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |line, cause| {
        let cause = cause.to_string();
        match line.as_str() {
            "" => cause,
            told if told.ends_with(&cause) => line,
            told => format!("{told}: {cause}"),
        }
    })
}

/// A duration for people: nobody reads its microseconds.
fn rounded(duration: Duration) -> Duration {
    match duration.as_millis() {
        0..1000 => Duration::from_millis(u64::from(duration.subsec_millis())),
        1000..10_000 => {
            Duration::from_secs(duration.as_secs())
                + Duration::from_millis(u64::from(duration.subsec_millis() / 100 * 100))
        }
        _ => Duration::from_secs(duration.as_secs()),
    }
}

/// A number of events in words: `1 event`, `2 events`.
fn counted(events: u64) -> String {
    match events {
        1 => "1 event".into(),
        _ => format!("{events} events"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_for_people() {
        for (nanos, told) in [
            (200_299_533, "200ms"),
            (1_234_567_890, "1s 200ms"),
            (12_345_678_901, "12s"),
        ] {
            let rounded = rounded(Duration::from_nanos(nanos));
            assert_eq!(humantime::format_duration(rounded).to_string(), told);
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = anyhow::anyhow!("no route");
        let error = cause
            .context("cannot connect: no route")
            .context("no answer");
        assert_eq!(in_one_line(&error), "no answer: cannot connect: no route");
    }
}
