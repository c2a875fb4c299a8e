//! The tables of flags in the docs are those of the program.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use clap::CommandFactory;
use segno::cli::{Cli, flags_table};

const END: &str = "<!-- end -->";

/// The README and the pages of `docs/`.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    let docs = fs::read_dir(root.join("docs")).into_iter().flatten();
    pages.extend(docs.map(|page| page.unwrap().path()));
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages
}

/// The page with every table written anew, and the commands that it has tables of.
fn with_tables(page: &str) -> (String, Vec<String>) {
    let (mut text, mut commands) = (String::new(), Vec::new());
    let mut rest = page;
    while let Some((before, after)) = rest.split_once("<!-- flags: ") {
        let (command, after) = after.split_once(" -->\n").unwrap();
        let (_, after) = after.split_once(END).unwrap();
        let table = flags_table(command).unwrap_or_else(|| panic!("no command {command}"));
        text += &format!("{before}<!-- flags: {command} -->\n{table}{END}");
        commands.push(command.to_owned());
        rest = after;
    }
    (text + rest, commands)
}

/// With `SEGNO_WRITE_DOCS=1` it writes them instead.
#[test]
fn the_tables_of_flags_are_those_of_the_program() {
    let mut told = Vec::new();
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        let (fresh, commands) = with_tables(&page);
        told.extend(commands);
        if env::var_os("SEGNO_WRITE_DOCS").is_some() {
            fs::write(&path, fresh).unwrap();
        } else {
            assert!(
                page == fresh,
                "the flags in {} are stale; write them anew with `SEGNO_WRITE_DOCS=1 cargo test the_tables_of_flags`",
                path.display()
            );
        }
    }
    for command in commands_with_flags() {
        assert!(
            told.contains(&command),
            "no page has the flags of {command}"
        );
    }
}

/// Their words, such as `bench publish`.
fn commands_with_flags() -> Vec<String> {
    let mut root = Cli::command();
    root.build();
    let mut found = Vec::new();
    let mut commands: Vec<(String, &clap::Command)> = Vec::new();
    commands.extend(
        root.get_subcommands()
            .map(|command| (command.get_name().to_owned(), command)),
    );
    while let Some((words, command)) = commands.pop() {
        let has_flags = command.get_arguments().any(|flag| flag.get_id() != "help");
        if has_flags && !words.starts_with("help") {
            found.push(words.clone());
        }
        let nested = command.get_subcommands();
        commands.extend(nested.map(|nested| (format!("{words} {}", nested.get_name()), nested)));
    }
    assert!(found.len() > 10, "{found:?}");
    found
}

#[test]
fn a_table_has_each_flag_with_its_variable_its_default_and_its_help() {
    let table = flags_table("serve").unwrap();
    for line in [
        "**Listen**",
        "**Storage**",
        "**Retention**",
        "**Limits**",
        "**Observe**",
        "| `--db DB` | `SEGNO_DB` | `segno.db` | File that holds the events; created if it does not exist |",
        "| `--check-config` |  |  | Print the configuration and everything that is wrong with it, and exit. A hub may be running |",
    ] {
        assert!(table.lines().any(|told| told == line), "{line}: {table}");
    }
    let follow = flags_table("bench follow").unwrap();
    assert!(follow.contains("| `--publishers PUBLISHERS` |"), "{follow}");
    assert!(flags_table("nonsense").is_none());
}

/// A new flag of `serve` belongs to a group, and a command is described.
#[test]
fn every_flag_of_serve_has_a_group_and_everything_has_help() {
    let mut root = Cli::command();
    root.build();
    let serve = root.find_subcommand("serve").unwrap();
    for flag in serve.get_arguments() {
        assert!(
            flag.get_id() == "help" || flag.get_help_heading().is_some(),
            "{flag}"
        );
    }
    let mut commands = vec![&root];
    while let Some(command) = commands.pop() {
        assert!(command.get_about().is_some(), "{command}");
        for flag in command.get_arguments() {
            assert!(flag.get_help().is_some(), "{command} {flag}");
        }
        commands.extend(command.get_subcommands());
    }
}
