//! `segno tail`.

use std::{
    fs,
    io::{self, BufWriter, ErrorKind, Stdout, Write},
    path::Path,
};

use anyhow::{Context, anyhow};

use crate::{
    client::{Client, FollowQuery, Followed},
    config::TailConfig,
};

/// The type of the frame that tells of lost events. Source: the hub's HTTP contract.
const GAP_TYPE: &str = "segno.gap";

/// The type of what tells that events were erased. Source: the hub's HTTP contract.
const ERASED_TYPE: &str = "segno.erased";

pub(super) async fn run(config: TailConfig) -> anyhow::Result<()> {
    let client = Client::new(&config.hub.url)?;
    let mut state = match &config.state {
        Some(file) => read_state(file)?,
        None => State::default(),
    };
    let mut follow = client.follow(query(&config, state.cursor.take()));
    let mut out = BufWriter::new(io::stdout());
    let mut left = config.count;
    while left != Some(0) {
        match follow.next().await? {
            Followed::Connected => {
                if let (Some(file), Some(log_id)) = (&config.state, follow.log_id()) {
                    state.stay_in(log_id, file)?;
                }
            }
            Followed::Waiting { reason, wait } => {
                complain(&format!(
                    "{reason}; trying again after {}",
                    humantime::format_duration(wait)
                ));
            }
            Followed::Message(message) if message.event_type == GAP_TYPE => {
                complain(&format!("events were lost: {}", message.data));
            }
            // With `--json` its type tells it from the others; without, its data would be taken for theirs.
            Followed::Message(message) if message.event_type == ERASED_TYPE && !config.json => {
                complain(&format!("erased: {}", message.data));
            }
            Followed::Message(message) => {
                if write_line(&mut out, &message.data)? == Reader::Gone {
                    return Ok(());
                }
                left = left.map(|left| left - 1);
            }
        }
        if !follow.has_next() || left == Some(0) {
            if flush(&mut out)? == Reader::Gone {
                return Ok(());
            }
            if let (Some(file), Some(cursor)) = (&config.state, follow.cursor()) {
                write_state(file, cursor, state.log_id.as_deref())?;
            }
        }
    }
    Ok(())
}

fn query(config: &TailConfig, cursor: Option<String>) -> FollowQuery {
    let mut parameters = Vec::new();
    parameters.extend(config.topic.iter().map(|topic| ("topic", topic.clone())));
    parameters.extend(
        config
            .event_type
            .iter()
            .map(|event_type| ("type", event_type.clone())),
    );
    if config.json {
        parameters.push(("format", "event".into()));
    }
    // A remembered cursor is sent as the header, which wins over these.
    parameters.extend(config.since.clone().map(|since| ("since", since)));
    parameters.extend(config.last.map(|last| ("last", last.to_string())));
    parameters.extend(
        config
            .after
            .map(|after| ("last_event_id", after.to_string())),
    );
    FollowQuery {
        parameters,
        cursor,
        idle_timeout: config.idle_timeout,
    }
}

/// Whether somebody still reads what is written.
#[derive(Debug, PartialEq, Eq)]
enum Reader {
    There,
    Gone,
}

fn write_line(out: &mut BufWriter<Stdout>, line: &str) -> anyhow::Result<Reader> {
    reader(
        out.write_all(line.as_bytes())
            .and_then(|()| out.write_all(b"\n")),
    )
}

fn flush(out: &mut BufWriter<Stdout>) -> anyhow::Result<Reader> {
    reader(out.flush())
}

fn reader(written: io::Result<()>) -> anyhow::Result<Reader> {
    match written {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(anyhow!(error).context("cannot write to standard output")),
    }
}

/// To standard error, which may be closed like anything else.
fn complain(text: &str) {
    _ = writeln!(io::stderr(), "segno: {text}");
}

/// What the state file holds, a line each. Without the id of a log, the cursor is of whichever log the hub has.
#[derive(Debug, Default)]
struct State {
    cursor: Option<String>,
    log_id: Option<String>,
}

impl State {
    /// A cursor of one log means nothing in another: there it would skip events, or give some twice.
    fn stay_in(&mut self, log_id: &str, file: &Path) -> anyhow::Result<()> {
        match &self.log_id {
            Some(known) if known != log_id => Err(anyhow!(
                "{} is of the log {known}, and the hub has the log {log_id}; remove it to begin anew",
                file.display()
            )),
            Some(_) => Ok(()),
            None => {
                self.log_id = Some(log_id.to_owned());
                Ok(())
            }
        }
    }
}

fn read_state(file: &Path) -> anyhow::Result<State> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(State::default()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", file.display()));
        }
    };
    let mut words = text.split_whitespace().map(str::to_owned);
    let state = State {
        cursor: words.next(),
        log_id: words.next(),
    };
    let is_id = |cursor: &String| cursor.bytes().all(|byte| byte.is_ascii_digit());
    if !state.cursor.iter().all(is_id) || words.next().is_some() {
        return Err(anyhow!(
            "{} does not hold a cursor; remove it to begin anew",
            file.display()
        ));
    }
    Ok(state)
}

/// Replaces the file in one step, so that a crash leaves the old cursor or the new one.
fn write_state(file: &Path, cursor: &str, log_id: Option<&str>) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", file.display());
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let log_id = log_id.unwrap_or_default();
    fs::write(&name, format!("{cursor}\n{log_id}\n")).with_context(failed)?;
    fs::rename(&name, file).with_context(failed)
}
