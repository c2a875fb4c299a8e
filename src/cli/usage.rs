//! Usage that is wrong, in words: the flag, what was given, and what is wrong with it.

use std::{
    error::Error as _,
    io::{Write, stderr},
    process,
};

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::{
    event::{EventType, InvalidName, Key, Topic},
    filter::Pattern,
};

/// Source: what clap exits with.
const BAD_USAGE: i32 = 2;

/// Says what is wrong, and ends the program.
pub(super) fn exit(error: &clap::Error) -> ! {
    match of_value(error) {
        Some(text) => {
            // Where standard error is closed there is nobody to tell.
            _ = writeln!(
                stderr(),
                "error: {text}\n\nFor more information, try '--help'."
            );
            process::exit(BAD_USAGE)
        }
        None => error.exit(),
    }
}

/// What is wrong, on one line.
pub(super) fn in_one_line(error: &clap::Error) -> String {
    of_value(error).unwrap_or_else(|| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        first.trim_start_matches("error: ").into()
    })
}

/// Where a value is wrong, clap says `invalid value 'soon' for '--heartbeat <DURATION>': why`. This is `--heartbeat 'soon': why`.
fn of_value(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::ValueValidation {
        return None;
    }
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg)?.split(' ').next()?;
    let value = text(ContextKind::InvalidValue)?;
    let reason = error.source()?;
    Some(format!("{flag} '{value}': {reason}"))
}

/// The topic of `--topic`, as it was given.
pub(super) fn topic(text: &str) -> Result<String, String> {
    match Topic::new(text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(rule("topics", &error)),
    }
}

/// The topic or pattern of `--topic`, as it was given.
pub(super) fn topics(text: &str) -> Result<String, String> {
    match Pattern::new(text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(rule("topics", &error)),
    }
}

/// The type of `--type`, as it was given.
pub(super) fn event_type(text: &str) -> Result<String, String> {
    match EventType::new(text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(rule("types", &error)),
    }
}

/// The type or pattern of `--type`, as it was given.
pub(super) fn event_types(text: &str) -> Result<String, String> {
    match Pattern::new(text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(rule("types", &error)),
    }
}

/// The key of `--key`, as it was given.
pub(super) fn key(text: &str) -> Result<String, String> {
    match Key::new(text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(error.to_string()),
    }
}

fn rule(names: &str, error: &InvalidName) -> String {
    match error {
        InvalidName::Empty => format!("{names} are not empty"),
        InvalidName::Character => format!("{names} have no white space and no control characters"),
        InvalidName::Wildcard => {
            format!("{names} have no '*'; only `segno tail` takes patterns")
        }
        InvalidName::TooLong | InvalidName::Reserved | InvalidName::BrowserType => {
            error.to_string()
        }
    }
}
