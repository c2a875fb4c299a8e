//! What documents the command line, made from it: man pages, completions, and the tables of flags in the docs.

use std::fmt::Write;

use anyhow::Context;
use clap::{Arg, Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, print};

/// The flags of `segno completions`.
#[derive(Debug, Clone, Args)]
pub(super) struct CompletionsFlags {
    /// Shell that will read them.
    shell: Shell,
}

/// The flags of `segno man`.
#[derive(Debug, Clone, Args)]
pub(super) struct ManFlags {
    /// Command to print the page of, such as `serve` or `bench publish`; segno itself if not given.
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn print_completions(flags: &CompletionsFlags) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut Cli::command(), "segno", &mut script);
    print(str::from_utf8(&script)?)
}

pub(super) fn print_man_page(flags: &ManFlags) -> anyhow::Result<()> {
    let command = flags.command.join(" ");
    let command = find(&command).with_context(|| format!("segno has no command {command}"))?;
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    print(str::from_utf8(&page)?)
}

/// A command by its words, such as `bench publish`, or segno itself for none.
fn find(words: &str) -> Option<Command> {
    let mut root = Cli::command();
    root.build();
    let command = words
        .split_whitespace()
        .try_fold(&root, |command, word| command.find_subcommand(word));
    command.cloned()
}

/// The flags of a command, such as `serve` or `bench publish`, as Markdown; `None` if there is no such command.
///
/// There is a table for each group of its help, with the variable, the default and the help of each flag.
/// A page of the docs has it between the lines `<!-- flags: serve -->` and `<!-- end -->`; a test holds the page to it.
pub fn flags_table(command: &str) -> Option<String> {
    let command = find(command)?;
    let flags: Vec<&Arg> = command
        .get_arguments()
        .filter(|flag| !["help", "version"].contains(&flag.get_id().as_str()))
        .filter(|flag| !flag.is_hide_set())
        .collect();
    let has_variables = flags.iter().any(|flag| flag.get_env().is_some());
    let mut groups: Vec<Option<&str>> = Vec::new();
    for flag in &flags {
        let group = flag.get_help_heading();
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let mut text = String::new();
    for group in &groups {
        if groups.len() > 1 {
            _ = write!(text, "\n**{}**\n", group.unwrap_or("Other"));
        }
        text += match has_variables {
            true => "\n| flag | variable | default | |\n|---|---|---|---|\n",
            false => "\n| flag | default | |\n|---|---|---|\n",
        };
        for flag in flags
            .iter()
            .filter(|flag| flag.get_help_heading() == *group)
        {
            text += &row(flag, has_variables);
        }
    }
    Some(text + "\n")
}

fn row(flag: &Arg, has_variables: bool) -> String {
    let takes_value = flag.get_action().takes_values();
    let value_names = flag.get_value_names().filter(|_| takes_value);
    let value_name = value_names.and_then(<[_]>::first);
    let name = match (flag.get_long(), value_name) {
        (Some(long), Some(value)) => format!("--{long} {value}"),
        (Some(long), None) => format!("--{long}"),
        (None, value) => value.map_or_else(String::new, ToString::to_string),
    };
    let code = |text: String| match text.as_str() {
        "" => text,
        text => format!("`{text}`"),
    };
    let variable = flag.get_env().unwrap_or_default().to_string_lossy();
    let variable = match has_variables {
        true => format!(" {} |", code(variable.into_owned())),
        false => String::new(),
    };
    let defaults = flag.get_default_values().iter().filter(|_| takes_value);
    let defaults: Vec<_> = defaults.map(|value| value.to_string_lossy()).collect();
    let help = flag.get_long_help().or_else(|| flag.get_help());
    let help = help.map_or_else(String::new, ToString::to_string);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    format!(
        "| `{name}` |{variable} {} | {} |\n",
        code(defaults.join(" ")),
        help.replace('|', "\\|")
    )
}
