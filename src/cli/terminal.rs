//! What is written for people: colours, columns, and text that cannot move the cursor of a terminal.

use std::{
    env,
    fmt::Write,
    io::{self, IsTerminal},
};

use clap::ValueEnum;

/// The value of `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Also where standard output is no terminal.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether to colour what goes to standard output.
    pub(super) fn is_wanted(self) -> bool {
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        match self {
            Self::Always => true,
            Self::Never => false,
            // Source: https://no-color.org
            Self::Auto => is_output_a_terminal() && !is_set("NO_COLOR") && !is_dumb,
        }
    }
}

/// Whether a person looks at standard output.
pub(super) fn is_output_a_terminal() -> bool {
    io::stdout().is_terminal()
}

/// A colour or weight.
#[derive(Debug, Clone, Copy)]
pub(super) enum Style {
    Faint,
    Cyan,
    Yellow,
}

/// The text in a style, if there are to be any.
pub(super) fn styled(text: &str, style: Style, is_colored: bool) -> String {
    // Source: ECMA-48, 8.3.117 (SGR).
    let number = match style {
        Style::Faint => 2,
        Style::Cyan => 36,
        Style::Yellow => 33,
    };
    match is_colored {
        true => format!("\x1b[{number}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

/// The text with what a terminal would obey, or would show in another order, as JSON escapes it. JSON may hold C1 controls as they are.
pub(super) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let turns_text = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match c.is_control() || turns_text {
            true => _ = write!(shown, "\\u{:04x}", u32::from(c)),
            false => shown.push(c),
        }
    }
    shown
}

/// The text, filled with spaces up to `width` characters.
pub(super) fn padded(text: &str, width: usize) -> String {
    let missing = width.saturating_sub(text.chars().count());
    format!("{text}{}", " ".repeat(missing))
}

/// Rows as lines, in columns as wide as their widest cell; numbers stand at the right.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    });
    let is_number = |cell: &str| cell.bytes().all(|byte| byte.is_ascii_digit());
    let numbers: [bool; N] =
        std::array::from_fn(|column| rows.iter().skip(1).all(|row| is_number(&row[column])));
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let missing = widths[column] - cell.chars().count();
            match numbers[column] {
                true => format!("{}{cell}", " ".repeat(missing)),
                false => padded(cell, widths[column]),
            }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_that_was_published() {
        let hostile = "a\u{9b}31mb\u{202e}c\u{7f}\x1b[2Jd é";
        assert_eq!(
            harmless(hostile),
            "a\\u009b31mb\\u202ec\\u007f\\u001b[2Jd é"
        );
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned);
        let rows = [
            row(["topic", "events"]),
            row(["é", "1"]),
            row(["longer", "10"]),
        ];
        assert_eq!(
            table(&rows),
            "topic   events\né            1\nlonger      10\n"
        );
    }
}
