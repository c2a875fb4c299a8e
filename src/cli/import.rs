//! `segno import`.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{self, BufRead, BufReader},
    mem,
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::Args;
use serde::Deserialize;

use super::{LogFile, counted, print, progress::Progress, trimmed_line::TrimmedLine};
use crate::{
    db::{self, Appender, EventLog, Order, Range},
    event::{Event, EventId, Topic},
};

/// Events of one commit.
const COMMIT_MAX_EVENTS: usize = 10_000;

/// Bytes of data after which a commit is made.
const COMMIT_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Events of the log that are compared at a time.
const PAGE_EVENTS: usize = 1000;

/// The flags of `segno import`.
#[derive(Debug, Clone, Args)]
pub(super) struct ImportFlags {
    /// File that `segno export` wrote, or a history as NDJSON; standard input if not given.
    file: Option<PathBuf>,

    /// The log; created if it does not exist.
    #[command(flatten)]
    log: LogFile,
}

pub(super) async fn run(flags: ImportFlags) -> anyhow::Result<()> {
    let (input, bytes): (Box<dyn BufRead>, u64) = match flags.file.as_deref().filter(super::is_file)
    {
        Some(path) => {
            let file =
                File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            let bytes = file.metadata()?.len();
            (Box::new(BufReader::new(file)), bytes)
        }
        None => (Box::new(io::stdin().lock()), 0),
    };
    let (log, appender) = db::open(&flags.log.db).await?;
    if appender.reached().is_some() {
        bail!(
            "{} is one of a cluster's files, and the others would not have the events; publish them to a hub of it",
            flags.log.db.display()
        );
    }
    let mut import = Import {
        log,
        appender,
        known: VecDeque::new(),
        waiting: Vec::new(),
        waiting_bytes: 0,
        imported: 0,
        skipped: 0,
        gaps: 0,
        trimmed: HashMap::new(),
    };
    let read = import.read(input, Progress::new(bytes)).await;
    // What was read before a bad line is good.
    import.commit().await?;
    import.mark_trimmed().await?;
    let last_id = import.appender.last_id();
    import.log.close().await;
    import.appender.close().await?;
    print(&format!(
        "{} imported, {} there before; the last id is {last_id}\n",
        counted(import.imported),
        import.skipped
    ))?;
    if import.gaps > 0 {
        print(&format!(
            "{} of gaps: events were gone from the hub that wrote them, and are not in this log either\n",
            match import.gaps {
                1 => "1 line tells".into(),
                lines => format!("{lines} lines tell"),
            }
        ))?;
    }
    read
}

struct Import {
    log: EventLog,
    appender: Appender,
    /// Events of the log that the next lines are compared with: those of a run that was broken off.
    known: VecDeque<Event>,
    waiting: Vec<Arc<Event>>,
    waiting_bytes: usize,
    imported: u64,
    skipped: u64,
    /// Lines of a hub's own, which say that events are gone, and not of which topic.
    gaps: u64,
    /// Topics that were trimmed in the log that was exported, and up to which id each.
    trimmed: HashMap<Topic, EventId>,
}

/// What a hub says itself among the events of its history, on a line of its own.
#[derive(Deserialize)]
struct OwnLine {
    #[serde(rename = "segno")]
    _word: String,
}

fn is_own(line: &str) -> bool {
    serde_json::from_str::<OwnLine>(line).is_ok()
}

impl Import {
    async fn read(
        &mut self,
        input: Box<dyn BufRead>,
        mut progress: Progress,
    ) -> anyhow::Result<()> {
        let mut read_bytes = 0;
        for (number, line) in (1..).zip(input.lines()) {
            let line = line.context("cannot read the events")?;
            read_bytes += u64::try_from(line.len()).expect("a line is short") + 1;
            if line.is_empty() {
                continue;
            }
            let event = line.parse();
            if event.is_err()
                && let Some(TrimmedLine { topic, through, .. }) = TrimmedLine::read(&line)
            {
                let known = self.trimmed.entry(topic).or_insert(through);
                *known = through.max(*known);
                continue;
            }
            if event.is_err() && is_own(&line) {
                self.gaps += 1;
                continue;
            }
            let event = event
                .with_context(|| format!("line {number} is not an event that was exported"))?;
            self.take(event)
                .await
                .with_context(|| format!("line {number}"))?;
            progress.draw(read_bytes, self.imported);
        }
        progress.end(self.imported);
        Ok(())
    }

    async fn take(&mut self, event: Event) -> anyhow::Result<()> {
        if event.id <= self.appender.last_id() {
            return self.skip(&event).await;
        }
        let (last_id, last_created_at) = match self.waiting.last() {
            Some(last) => (last.id, last.created_at),
            None => (self.appender.last_id(), self.appender.last_created_at()),
        };
        if event.id <= last_id || event.created_at < last_created_at {
            bail!("event {} does not come after event {last_id}", event.id);
        }
        self.waiting_bytes += event.data.as_str().len();
        self.waiting.push(event.into());
        if self.waiting.len() == COMMIT_MAX_EVENTS || self.waiting_bytes >= COMMIT_MAX_BYTES {
            self.commit().await?;
        }
        Ok(())
    }

    /// An event that was imported before is passed over, if it is the same.
    async fn skip(&mut self, event: &Event) -> anyhow::Result<()> {
        if self.known.is_empty() {
            let range = Range::after(event.id.previous());
            let page = self
                .log
                .page(&Arc::default(), range, Order::Ascending, PAGE_EVENTS)
                .await?;
            self.known = page.events.into();
        }
        match self.known.pop_front() {
            Some(known) if known == *event => {
                self.skipped += 1;
                Ok(())
            }
            _ => bail!(
                "event {} is not the one that the log has; import into a new file",
                event.id
            ),
        }
    }

    /// Notes what was trimmed, so that subscribers are told of the same holes as in the log that was exported. What lies above the last
    /// id was not imported yet.
    async fn mark_trimmed(&mut self) -> anyhow::Result<()> {
        let last_id = self.appender.last_id();
        for (topic, through) in &self.trimmed {
            self.appender
                .mark_trimmed(topic, last_id.min(*through))
                .await?;
        }
        Ok(())
    }

    async fn commit(&mut self) -> anyhow::Result<()> {
        let events = mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        self.appender.import(&events).await?;
        self.imported += u64::try_from(events.len()).expect("a commit is small");
        Ok(())
    }
}
