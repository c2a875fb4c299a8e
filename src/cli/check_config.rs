//! `segno serve --check-config`: what would be served how, and everything that is wrong with it, without serving.

use std::{collections::BTreeSet, env, io::ErrorKind, net::SocketAddr, path::PathBuf};

use anyhow::bail;
use clap::{
    Arg, ArgMatches, Command, CommandFactory,
    builder::ValueParser,
    error::{ContextKind, ContextValue},
    parser::ValueSource,
};

use super::{Cli, print, serve::open_files};
use crate::{
    db::{self, Found},
    server::{self, StartError},
};

/// The flag itself, which says nothing about the hub.
const ID: &str = "check_config";

/// Whether the command line, which cannot be read, asks for a check of `serve` all the same.
pub(super) fn is_asked_for() -> bool {
    let mut arguments = env::args_os().skip(1).peekable();
    let serves = arguments
        .peek()
        .is_some_and(|first| first == "serve" || first.to_string_lossy().starts_with('-'));
    serves && arguments.any(|argument| argument == "--check-config")
}

/// Prints the configuration, then what is noteworthy and what is wrong, one a line; fails if anything is wrong.
pub(super) async fn run() -> anyhow::Result<()> {
    let mut report = Report::default();
    let Some(matches) = report.read() else {
        return report.end();
    };
    let matches = matches.subcommand_matches("serve").unwrap_or(&matches);
    print(&table(matches))?;
    let in_use = report.look_at_file(matches).await;
    report.look_at_address(matches, in_use);
    report.look_at_limits(matches);
    report.look_at_variables();
    report.end()
}

#[derive(Debug, Default)]
struct Report {
    notes: Vec<String>,
    problems: Vec<String>,
    /// Flags whose value cannot be read.
    unread: BTreeSet<String>,
}

impl Report {
    /// Reads the command line and the variables as far as they can be read: a flag that cannot is taken for text, and reading
    /// begins anew. `None` where something else is wrong, such as a flag that there is not.
    fn read(&mut self) -> Option<ArgMatches> {
        loop {
            let error = match self.command().try_get_matches_from(env::args_os()) {
                Ok(matches) => return Some(matches),
                Err(error) => error,
            };
            let told = error.to_string();
            let told = told.lines().next().unwrap_or_default();
            self.problems
                .push(told.trim_start_matches("error: ").into());
            let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidArg) else {
                return None;
            };
            let flag = flags().find(|flag| flag.to_string() == *name)?;
            if !self.unread.insert(flag.get_id().to_string()) {
                return None;
            }
        }
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
            Ok(Found::Nothing) => self.notes.push(format!("{} will be made", db.display())),
            Ok(Found::Log { in_use: false }) => (),
            Ok(Found::Log { in_use: true }) => {
                self.notes
                    .push(format!("a hub runs on {} now", db.display()));
                return true;
            }
            Err(error) => self
                .problems
                .push(format!("{:#}", anyhow::Error::from(error))),
        }
        false
    }

    fn look_at_address(&mut self, matches: &ArgMatches, hub_runs: bool) {
        let Some(address) = self.value::<SocketAddr>(matches, "listen") else {
            return;
        };
        match server::can_listen(address) {
            Ok(()) => (),
            // To look before a restart is what this is for.
            Err(StartError::Listen { source, .. })
                if hub_runs && source.kind() == ErrorKind::AddrInUse =>
            {
                self.notes
                    .push(format!("{address} is in use, by that hub as it seems"));
            }
            Err(error) => self
                .problems
                .push(format!("{:#}", anyhow::Error::from(error))),
        }
    }

    fn look_at_limits(&mut self, matches: &ArgMatches) {
        if let Some(connections) = self.value(matches, "max_connections") {
            match open_files(connections) {
                Ok(fitting) if fitting.connections == connections => (),
                Ok(fitting) => match matches.value_source("max_connections") {
                    Some(ValueSource::DefaultValue) => self.notes.push(fitting.to_string()),
                    _ => self.problems.push(fitting.to_string()),
                },
                Err(error) => self.problems.push(format!("{error:#}")),
            }
        }
        let queue = self.value(matches, "max_queue_bytes");
        let batch = self.value(matches, "max_batch_bytes");
        if let (Some(queue), Some(batch)) = (queue, batch) {
            let refused = crate::config::refuse_small_queue(queue, batch).err();
            self.problems.extend(refused);
        }
    }

    /// A variable that is spelled wrong changes nothing, and nobody else says so. It is no fault: Kubernetes sets some that begin
    /// like ours.
    fn look_at_variables(&mut self) {
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
                    .push(format!("the variable {name_text} means nothing to segno"));
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
