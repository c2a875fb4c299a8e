//! `segno export`.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow};
use clap::Args;

use super::{LogFile, progress::Progress, trimmed_line::TrimmedLine};
use crate::{
    db::{self, EventLog, Order, Range},
    event::{DATA_MAX_BYTES, Event, EventId, Topic},
};

/// Events read at a time.
const PAGE_EVENTS: usize = 1000;

/// Bytes at the end of a file in which its last line is: an event is never longer.
const LAST_LINE_MAX_BYTES: u64 = 2 * DATA_MAX_BYTES as u64;

/// The flags of `segno export`.
#[derive(Debug, Clone, Args)]
pub(super) struct ExportFlags {
    /// Path to write to, one event per line; an existing export is continued. Standard output if not given.
    file: Option<PathBuf>,

    /// Begin after the event with this id.
    #[arg(long, value_name = "ID", conflicts_with = "file")]
    after: Option<u64>,

    /// The log.
    #[command(flatten)]
    log: LogFile,
}

pub(super) async fn run(flags: ExportFlags) -> anyhow::Result<()> {
    match flags.file.as_deref().filter(super::is_file) {
        Some(path) => {
            let failed = || format!("cannot write {}", path.display());
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                // Whoever reads it reads every event.
                .mode(0o600)
                .open(path)
                .with_context(failed)?;
            let after = end_of(&mut file, path)?;
            write_after(&flags, after, &mut BufWriter::new(&file)).await?;
            file.sync_all().with_context(failed)
        }
        None => {
            let after = match flags.after {
                Some(id) => id.to_string().parse()?,
                None => EventId::ZERO,
            };
            match write_after(&flags, after, &mut BufWriter::new(io::stdout())).await {
                Err(error) if is_broken_pipe(&error) => Ok(()),
                written => written,
            }
        }
    }
}

/// That nobody reads it any more is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

async fn write_after(
    flags: &ExportFlags,
    mut cursor: EventId,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let log = db::open_to_read(&flags.log.db).await?;
    let last_id = log.last_id().await?;
    let mut progress = Progress::new(last_id.as_i64().unsigned_abs());
    let (mut events, mut bytes) = (0, Vec::new());
    let mut told = HashMap::new();
    // What is published meanwhile is for the next time: it would never end.
    while cursor < last_id {
        let range = Range {
            after: cursor,
            before: last_id.next(),
        };
        let page = log
            .page(&Arc::default(), range, Order::Ascending, PAGE_EVENTS)
            .await?;
        let first_id = log.first_id().await?;
        if cursor > EventId::ZERO && first_id.is_some_and(|first_id| cursor < first_id.previous()) {
            return Err(anyhow!(
                "the events after {cursor} were trimmed before they could be exported"
            ));
        }
        // Read after the page: what is gone from it was marked before it went. Written before it: whoever breaks off has the lines
        // that its events need.
        write_trimmed(&log, cursor, last_id, &mut told, &mut bytes).await?;
        for event in &page.events {
            event.write_json(&mut bytes);
            bytes.push(b'\n');
        }
        events += u64::try_from(page.events.len()).expect("a page is small");
        out.write_all(&bytes)?;
        bytes.clear();
        cursor = page.read_on.unwrap_or(last_id);
        progress.draw(cursor.as_i64().unsigned_abs(), events);
    }
    out.flush()?;
    progress.end(events);
    log.close().await;
    Ok(())
}

/// Writes a line for each topic that was trimmed to beyond `cursor`, unless the same was `told` before. What lies above `last_id` is for
/// the next time.
async fn write_trimmed(
    log: &EventLog,
    cursor: EventId,
    last_id: EventId,
    told: &mut HashMap<Topic, EventId>,
    out: &mut Vec<u8>,
) -> anyhow::Result<()> {
    for (topic, through) in log.trimmed_topics_after(cursor).await? {
        let through = through.min(last_id);
        if told.get(&topic).is_none_or(|told| *told < through) {
            TrimmedLine {
                topic: topic.clone(),
                through,
                cursor,
            }
            .write(out);
            told.insert(topic, through);
        }
    }
    Ok(())
}

/// Goes to the end of the last whole line of a file that was begun, and says which event it is. A line that was cut goes.
fn end_of(file: &mut File, path: &Path) -> anyhow::Result<EventId> {
    let length = file.seek(SeekFrom::End(0))?;
    let begin = length.saturating_sub(LAST_LINE_MAX_BYTES);
    file.seek(SeekFrom::Start(begin))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let whole = end
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let foreign = || anyhow!("{} is not an export; it is left as it is", path.display());
    if whole == 0 && begin > 0 {
        return Err(foreign());
    }
    let last = end[..whole]
        .split(|byte| *byte == b'\n')
        .rfind(|line| !line.is_empty());
    let id = match last {
        None if whole == 0 && !end.is_empty() && end[0] != b'{' => return Err(foreign()),
        None => EventId::ZERO,
        Some(line) => {
            let line = std::str::from_utf8(line).map_err(|_| foreign())?;
            match line.parse::<Event>() {
                Ok(event) => event.id,
                // Its events did not come any more.
                Err(_) => TrimmedLine::read(line).ok_or_else(foreign)?.cursor,
            }
        }
    };
    let kept = begin + u64::try_from(whole).expect("a file is not that long");
    file.set_len(kept)?;
    file.seek(SeekFrom::Start(kept))?;
    Ok(id)
}
