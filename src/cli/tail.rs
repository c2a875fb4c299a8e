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
    let cursor = match &config.state {
        Some(file) => read_state(file)?,
        None => None,
    };
    let mut follow = client.follow(query(&config, cursor));
    let mut out = BufWriter::new(io::stdout());
    let mut left = config.count;
    while left != Some(0) {
        match follow.next().await? {
            Followed::Connected => (),
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
                write_state(file, cursor)?;
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

fn read_state(file: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) if text.trim().bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
        }
        Ok(_) => Err(anyhow!(
            "{} does not hold a cursor; remove it to begin anew",
            file.display()
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// Replaces the file in one step, so that a crash leaves the old cursor or the new one.
fn write_state(file: &Path, cursor: &str) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", file.display());
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    fs::write(&name, format!("{cursor}\n")).with_context(failed)?;
    fs::rename(&name, file).with_context(failed)
}
