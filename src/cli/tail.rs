//! `segno tail`.

use std::{
    fs,
    io::{self, BufWriter, ErrorKind, Stdout, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow};
use clap::Args;
use humantime::{format_duration, parse_duration};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    HubAddress,
    output::{Reader, reader_gone},
    rounded,
    terminal::{Color, Style, harmless, is_output_a_terminal, padded, styled},
    usage,
};
use crate::{
    client::{FollowQuery, Followed},
    files,
};

/// The type of the frame that tells of lost events. Source: the hub's HTTP contract.
const GAP_TYPE: &str = "segno.gap";

/// The type of what tells that events were erased. Source: the hub's HTTP contract.
const ERASED_TYPE: &str = "segno.erased";

/// Characters of a column beyond which a longer topic or type moves its own line only.
const COLUMN_MAX: usize = 32;

/// The flags of `segno tail`.
#[derive(Debug, Clone, Args)]
pub(super) struct TailFlags {
    /// Topic to follow, or a pattern such as `orders.*`; all if not given. Repeat the flag for more.
    #[arg(long, short, value_parser = usage::topics)]
    topic: Vec<String>,

    /// Type to follow, or a pattern; all if not given. Repeat the flag for more.
    #[arg(long = "type", value_name = "TYPE", value_parser = usage::event_types)]
    event_type: Vec<String>,

    /// Print whole events as JSON, each on a line, also on a terminal.
    #[arg(long)]
    json: bool,

    /// Whether to print in colours, in columns: time (UTC), topic, type and data. Without colours a terminal gets the columns, and
    /// everything else the data alone. `auto` heeds `NO_COLOR`.
    #[arg(
        long,
        default_value = "auto",
        value_name = "WHEN",
        conflicts_with = "json"
    )]
    color: Color,

    /// Begin with the events of this time: an age such as `15m`, an RFC 3339 time, or `start` for the oldest event.
    #[arg(long, group = "start", value_name = "TIME")]
    since: Option<String>,

    /// Begin with the newest *N* events.
    #[arg(long, group = "start", value_name = "N")]
    last: Option<u64>,

    /// Begin after the event with this id.
    #[arg(long, group = "start", value_name = "ID")]
    after: Option<u64>,

    /// Keep the cursor in this file, and continue from it the next time. It is written after the output.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,

    /// Exit after *N* events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    /// Reconnect when the hub has sent nothing for this long, not even a heartbeat.
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = parse_duration)]
    idle_timeout: Duration,

    /// Where the hub is.
    #[command(flatten)]
    hub: HubAddress,
}

pub(super) async fn run(flags: TailFlags) -> anyhow::Result<()> {
    let client = flags.hub.client()?;
    let mut state = match &flags.state {
        Some(file) => read_state(file)?,
        None => State::default(),
    };
    let has_columns = !flags.json && (flags.color == Color::Always || is_output_a_terminal());
    let mut columns = has_columns.then(|| Columns {
        is_colored: flags.color.is_wanted(),
        ..Columns::default()
    });
    let format = if flags.json || has_columns {
        Some("event")
    } else {
        None
    };
    let mut follow = client.follow(query(&flags, format, state.cursor.take()));
    let mut out = BufWriter::new(io::stdout());
    let mut left = flags.count;
    let reader_gone = reader_gone();
    tokio::pin!(reader_gone);
    while left != Some(0) {
        let followed = tokio::select! {
            followed = follow.next() => followed?,
            () = &mut reader_gone => return Ok(()),
        };
        match followed {
            Followed::Connected => {
                if let (Some(file), Some(log_id)) = (&flags.state, follow.log_id()) {
                    state.stay_in(log_id, file)?;
                }
            }
            Followed::Waiting { reason, wait } => {
                complain(&format!(
                    "{reason}; trying again in {}",
                    format_duration(rounded(wait))
                ));
            }
            Followed::Message(message) if message.event_type == GAP_TYPE => {
                complain(&format!("events were lost: {}", message.data));
            }
            // In a whole event its type tells it from the others; without, its data would be taken for theirs.
            Followed::Message(message) if message.event_type == ERASED_TYPE && format.is_none() => {
                complain(&format!("erased: {}", message.data));
            }
            Followed::Message(message) => {
                let line = match &mut columns {
                    Some(columns) => columns.line(&message.data),
                    None => message.data,
                };
                if write_line(&mut out, &line)? == Reader::Gone {
                    return Ok(());
                }
                left = left.map(|left| left - 1);
            }
        }
        if !follow.has_next() || left == Some(0) {
            if Reader::of(out.flush())? == Reader::Gone {
                return Ok(());
            }
            if let (Some(file), Some(cursor)) = (&flags.state, follow.cursor()) {
                write_state(file, cursor, state.log_id.as_deref())?;
            }
        }
    }
    Ok(())
}

fn query(flags: &TailFlags, format: Option<&str>, cursor: Option<String>) -> FollowQuery {
    let mut parameters = Vec::new();
    parameters.extend(flags.topic.iter().map(|topic| ("topic", topic.clone())));
    parameters.extend(
        flags
            .event_type
            .iter()
            .map(|event_type| ("type", event_type.clone())),
    );
    parameters.extend(format.map(|format| ("format", format.to_owned())));
    // A remembered cursor is sent as the header, which wins over these.
    parameters.extend(flags.since.clone().map(|since| ("since", since)));
    parameters.extend(flags.last.map(|last| ("last", last.to_string())));
    parameters.extend(
        flags
            .after
            .map(|after| ("last_event_id", after.to_string())),
    );
    FollowQuery {
        parameters,
        cursor,
        idle_timeout: flags.idle_timeout,
    }
}

/// An event, as the hub sends it with `format=event`.
#[derive(Deserialize)]
struct WholeEvent<'a> {
    created_at: String,
    topic: String,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// How wide the columns are; they grow with what comes, so that nothing waits to be aligned.
#[derive(Debug, Default)]
struct Columns {
    is_colored: bool,
    topic_width: usize,
    type_width: usize,
}

impl Columns {
    /// An event as a line for people, without its line end.
    fn line(&mut self, json: &str) -> String {
        let Ok(event) = serde_json::from_str::<WholeEvent>(json) else {
            return harmless(json);
        };
        let grown = |width: usize, text: &str| match text.chars().count() {
            count if count <= COLUMN_MAX => width.max(count),
            _ => width,
        };
        let (topic, event_type) = (harmless(&event.topic), harmless(&event.event_type));
        self.topic_width = grown(self.topic_width, &topic);
        self.type_width = grown(self.type_width, &event_type);
        let in_style = |text: &str, style| styled(text, style, self.is_colored);
        format!(
            "{}  {}  {}  {}",
            in_style(&event.created_at, Style::Faint),
            in_style(&padded(&topic, self.topic_width), Style::Cyan),
            in_style(&padded(&event_type, self.type_width), Style::Yellow),
            harmless(event.data.get())
        )
    }
}

fn write_line(out: &mut BufWriter<Stdout>, line: &str) -> anyhow::Result<Reader> {
    Reader::of(
        out.write_all(line.as_bytes())
            .and_then(|()| out.write_all(b"\n")),
    )
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
                "{} belongs to the log {known}, but the hub has the log {log_id}; remove the file to begin anew",
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
    let log_id = log_id.unwrap_or_default();
    // Nobody's secret, and not synced: that would cost more than the events, and an older cursor loses none.
    files::begin_beside(file, 0o666)
        .and_then(|mut new| new.write_all(format!("{cursor}\n{log_id}\n").as_bytes()))
        .and_then(|()| fs::rename(files::unfinished(file), file))
        .with_context(failed)
}
