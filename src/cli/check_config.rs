//! `segno serve --check-config`: the configuration and everything that is wrong with it, without serving.

use std::{collections::BTreeSet, env, path::PathBuf};

use anyhow::bail;
use clap::{
    Arg, ArgMatches, Command, CommandFactory,
    builder::ValueParser,
    error::{ContextKind, ContextValue},
    parser::ValueSource,
};

use super::{Cli, in_one_line, log_lines, open_files::OpenFiles, print, serve, usage};
use crate::{
    auth::Access,
    config::{refuse_credentials_of_all, refuse_unasked_openness},
    db::{self, Found},
    http::CorsOrigin,
    server::{self, CertificateFiles, ListenAddress, ListenError},
};

/// The flag itself, which says nothing about the hub.
const ID: &str = "check_config";

/// Whether the command line, which cannot be read, asks for a check of `serve`.
pub(super) fn is_asked_for() -> bool {
    let mut arguments = env::args_os().skip(1).peekable();
    let serves = arguments
        .peek()
        .is_some_and(|first| first == "serve" || first.to_string_lossy().starts_with('-'));
    serves && arguments.any(|argument| argument == "--check-config")
}

/// Prints the configuration, then notes and problems, one per line; fails if there is a problem.
pub(super) async fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    Report::default().check(matches).await
}

/// The same for a command line of which something cannot be read: `error` is the first of that.
///
/// clap ends at the first value that it cannot read, and whoever asks for a check wants all of them. So the flag is taken for text,
/// and the rest is read again.
pub(super) async fn run_despite(error: &clap::Error) -> anyhow::Result<()> {
    let mut report = Report::default();
    let Some(matches) = report.read_despite(error) else {
        return report.end();
    };
    let serve_matches = matches.subcommand_matches("serve").unwrap_or(&matches);
    report.check(serve_matches).await
}

#[derive(Debug, Default)]
struct Report {
    notes: Vec<String>,
    problems: Vec<String>,
    /// Flags whose value cannot be read.
    unread: BTreeSet<String>,
}

impl Report {
    async fn check(mut self, matches: &ArgMatches) -> anyhow::Result<()> {
        print(&table(matches))?;
        let in_use = self.look_at_file(matches).await;
        self.look_at_addresses(matches, in_use);
        self.look_at_access(matches);
        self.look_at_origins(matches);
        self.look_at_certificate(matches);
        self.look_at_limits(matches);
        self.look_at_variables();
        self.end()
    }

    /// What can be read beside the flags that cannot. `None` where something else is wrong, such as an unknown flag.
    fn read_despite(&mut self, error: &clap::Error) -> Option<ArgMatches> {
        self.note_unread(error)?;
        loop {
            match self.command().try_get_matches_from(env::args_os()) {
                Ok(matches) => return Some(matches),
                Err(error) => self.note_unread(&error)?,
            }
        }
    }

    /// Adds a problem. `None` if it is not about the value of a flag.
    fn note_unread(&mut self, error: &clap::Error) -> Option<()> {
        self.problems.push(usage::in_one_line(error));
        let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidArg) else {
            return None;
        };
        let flag = flags().find(|flag| flag.to_string() == *name)?;
        self.unread.insert(flag.get_id().to_string()).then_some(())
    }

    fn command(&self) -> Command {
        let as_text = |flag: Arg| flag.value_parser(ValueParser::os_string());
        self.unread.iter().fold(Cli::command(), |command, id| {
            command
                .mut_arg(id, as_text)
                .mut_subcommand("serve", |serve| serve.mut_arg(id, as_text))
        })
    }

    /// A flag's value, if it could be read.
    fn value<T: Clone + Send + Sync + 'static>(&self, matches: &ArgMatches, id: &str) -> Option<T> {
        match self.unread.contains(id) {
            true => None,
            false => matches.get_one(id).cloned(),
        }
    }

    /// Whether a hub runs on the file.
    async fn look_at_file(&mut self, matches: &ArgMatches) -> bool {
        let Some(db) = self.value::<PathBuf>(matches, "db") else {
            return false;
        };
        match db::look(&db).await {
            Ok(Found::Nothing) => self.notes.push(format!("{} will be created", db.display())),
            Ok(Found::Log { in_use: false }) => (),
            Ok(Found::Log { in_use: true }) => {
                self.notes
                    .push(format!("a hub is running on {}", db.display()));
                return true;
            }
            Err(error) => self.problems.push(in_one_line(&error.into())),
        }
        false
    }

    /// Where it would listen; `None` if that could not be read.
    fn addresses(&self, matches: &ArgMatches) -> Option<Vec<ListenAddress>> {
        match self.unread.contains("addresses") {
            true => None,
            false => Some(matches.get_many("addresses")?.cloned().collect()),
        }
    }

    fn look_at_addresses(&mut self, matches: &ArgMatches, hub_runs: bool) {
        for address in self.addresses(matches).unwrap_or_default() {
            match server::can_listen(&address) {
                Ok(()) => (),
                // A check before a restart is what this is for.
                Err(ListenError::InUse(_)) if hub_runs => {
                    self.notes
                        .push(format!("{address} is in use, probably by that hub"));
                }
                Err(error) => self.problems.push(in_one_line(&error.into())),
            }
        }
    }

    /// Who would be let in.
    fn look_at_access(&mut self, matches: &ArgMatches) {
        let access = self.value::<PathBuf>(matches, "file");
        let open = self.value(matches, "open").unwrap_or_default();
        if let Some(path) = &access {
            // No ticket is checked, so any name of the key will do.
            match Access::read(path, PathBuf::new()) {
                Ok(access) => self.notes.extend(access.describe()),
                Err(error) => self.problems.push(in_one_line(&error.into())),
            }
            return;
        }
        let Some(listen) = self.addresses(matches) else {
            return;
        };
        let who = match listen.iter().all(ListenAddress::is_of_this_machine) {
            true => "on this machine",
            false => "who reaches the hub",
        };
        match refuse_unasked_openness(&listen, None, open) {
            Ok(()) => self
                .notes
                .push(format!("everybody {who} may do everything")),
            Err(problem) => self.problems.push(problem),
        }
    }

    /// Whose pages would be let in.
    fn look_at_origins(&mut self, matches: &ArgMatches) {
        if self.unread.contains("cors_origins") {
            return;
        }
        let origins = matches.get_many::<CorsOrigin>("cors_origins");
        let origins: Vec<_> = origins.into_iter().flatten().cloned().collect();
        let credentials = self.value(matches, "cors_credentials").unwrap_or_default();
        self.problems
            .extend(refuse_credentials_of_all(&origins, credentials).err());
    }

    fn look_at_certificate(&mut self, matches: &ArgMatches) {
        let (certificate, key) = (
            self.value::<PathBuf>(matches, "tls_cert"),
            self.value::<PathBuf>(matches, "tls_key"),
        );
        let (Some(certificate), Some(key)) = (certificate, key) else {
            return self.look_at_authority(matches);
        };
        let note = format!(
            "connections are encrypted, with the certificate in {}",
            certificate.display()
        );
        match (CertificateFiles { certificate, key }).read() {
            Ok(_) => self.notes.push(note),
            Err(error) => self.problems.push(in_one_line(&error.into())),
        }
    }

    /// Asks nobody: whether the names lead here, only the authority can tell.
    fn look_at_authority(&mut self, matches: &ArgMatches) {
        let Some(domains) = matches.get_many::<String>("acme_domains") else {
            return;
        };
        let domains: Vec<&str> = domains.map(String::as_str).collect();
        if let Some(directory) = self.value::<String>(matches, "acme_directory") {
            self.notes.push(format!(
                "connections are encrypted; {directory} is asked for the certificate, and must reach the hub at port 443 of {}",
                domains.join(" and of ")
            ));
        }
        if let Some(path) = self.value::<PathBuf>(matches, "acme_ca") {
            let read = server::read_certificates(&path);
            self.problems
                .extend(read.err().map(|error| in_one_line(&error.into())));
        }
    }

    fn look_at_limits(&mut self, matches: &ArgMatches) {
        if let Some(connections) = self.value(matches, "max_connections") {
            match OpenFiles::raise_for(connections) {
                Ok(open_files) if open_files.are_enough() => (),
                Ok(open_files) if serve::is_set_by_hand(matches, "max_connections") => {
                    self.problems.push(open_files.to_string());
                }
                Ok(open_files) => self.notes.push(open_files.to_string()),
                Err(error) => self.problems.push(in_one_line(&error)),
            }
        }
        let queue = self.value(matches, "max_queue_bytes");
        let batch = self.value(matches, "max_batch_bytes");
        if let (Some(queue), Some(batch)) = (queue, batch) {
            let refused = crate::config::refuse_small_queue(queue, batch).err();
            self.problems.extend(refused);
        }
    }

    /// A misspelled variable changes nothing, and nobody else says so. It is a note only: Kubernetes sets some that begin like ours.
    fn look_at_variables(&mut self) {
        self.problems
            .extend(log_lines::levels().err().map(|error| in_one_line(&error)));
        let command = Cli::command();
        let commands = command.get_subcommands().chain([&command]);
        let flags = commands.flat_map(|command| {
            let nested = command.get_subcommands().flat_map(Command::get_arguments);
            command.get_arguments().chain(nested)
        });
        let known: BTreeSet<_> = flags.filter_map(|flag| flag.get_env()).collect();
        for (name, _) in env::vars_os() {
            let name_text = name.to_string_lossy();
            let is_ours = name_text.starts_with("SEGNO_") && name_text != "SEGNO_LOG";
            if is_ours && !known.contains(&*name) {
                self.notes
                    .push(format!("segno knows no variable {name_text}"));
            }
        }
    }

    fn end(self) -> anyhow::Result<()> {
        for note in self.notes {
            print(&format!("note: {note}\n"))?;
        }
        for problem in &self.problems {
            print(&format!("problem: {problem}\n"))?;
        }
        match self.problems.len() {
            0 => print("the configuration is good\n"),
            1 => bail!("the configuration has a problem"),
            many => bail!("the configuration has {many} problems"),
        }
    }
}

/// The flags of `segno serve`, in the order of its help.
fn flags() -> impl Iterator<Item = Arg> {
    let mut command = Cli::command();
    command.build();
    let serve = command.find_subcommand("serve").expect("there is serve");
    let flags: Vec<_> = serve
        .get_arguments()
        .filter(|flag| !["help", ID].contains(&flag.get_id().as_str()))
        .cloned()
        .collect();
    flags.into_iter()
}

/// Each flag, its value as it was written, and where it was.
fn table(matches: &ArgMatches) -> String {
    let rows = flags().map(|flag| {
        let id = flag.get_id().as_str();
        let values = matches.get_raw(id).into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        let value = match (flag.is_hide_env_values_set(), values.is_empty()) {
            (_, true) => "-".into(),
            // Whoever keeps it out of the help does not want it in a terminal.
            (true, false) => "(set)".into(),
            (false, false) => values.join(" "),
        };
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "command line".into(),
            Some(ValueSource::EnvVariable) => flag
                .get_env()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            _ => String::new(),
        };
        let name = flag.get_long().unwrap_or(id);
        format!("{name:<28}  {value:<24}  {source}")
            .trim_end()
            .to_owned()
            + "\n"
    });
    rows.collect()
}
