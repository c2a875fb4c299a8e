//! Applies commands, one after the other, to the file and to what is announced.
//!
//! It changes the file, commits, and only then announces; whoever waits for a command is answered by who put it in order.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::Instrument;

use super::{
    announcements::Announcements,
    command::{Act, Applied, Command},
    feeds::Announced,
    origin::Origins,
    queue::Queue,
    trim_marks::TrimMark,
    upkeep::Upkeep,
    work::Chore,
};
#[cfg(feature = "cluster")]
use crate::{db::ErasedEvents, event::Timestamp};
use crate::{
    db::{self, Appender, Erased, EventLog, Outcome, Published, Trim, TrimStep},
    event::{Event, EventId},
    metrics::Metrics,
};

/// The one that changes the file.
#[derive(Debug)]
pub(super) struct Applier {
    pub(super) appender: Appender,
    pub(super) upkeep: Upkeep,
    pub(super) announcements: Arc<Announcements>,
    pub(super) log: EventLog,
    /// For a log line alone.
    pub(super) queue: Arc<Queue>,
    pub(super) metrics: Metrics,
    pub(super) slow_commit: Duration,
}

/// Commands that are removed from the stream one after the other before others get their turn.
#[cfg(feature = "cluster")]
const REMOVALS_AT_ONCE: u32 = 64;

/// A command with its place in the order of a cluster.
#[cfg(feature = "cluster")]
#[derive(Debug)]
pub(super) struct Sequenced {
    pub(super) sequence: u64,
    pub(super) id: String,
    /// The bytes that it was read from, which the chain goes over.
    pub(super) payload: bytes::Bytes,
    pub(super) command: Command,
}

#[cfg(feature = "cluster")]
impl Sequenced {
    /// The id of the command that a hub counts with this number.
    pub(super) fn id_of(hub: &str, number: u64) -> String {
        format!("{hub}.{number}")
    }

    /// The hub that proposed it, and its number there; `None` where it changes nothing, or does not say.
    fn proposed_by(&self) -> Option<(&str, i64)> {
        if let Act::Beat(_) = self.command.act {
            return None;
        }
        let (hub, number) = self.id.split_once('.')?;
        let number = number.parse().ok()?;
        Some((hub, number))
    }
}

/// What a command did to the file, and is yet to be told.
#[derive(Debug)]
enum Changed {
    Published(Vec<Outcome>),
    /// `None`: there was nothing left to trim.
    Trimmed {
        trim: Trim,
        step: Option<(TrimStep, u64)>,
    },
    MarkedTrimmed(TrimMark),
    Erased(Option<Erased>),
    ToldErased(Arc<Event>),
    #[cfg(feature = "cluster")]
    Nothing,
}

impl Applier {
    /// Does what `command` says, announces what it appended, and returns what came of it. `origins` is for log lines.
    ///
    /// On an error nothing was done.
    pub(super) async fn apply(
        &mut self,
        command: Command,
        origins: &Origins,
    ) -> Result<Applied, Arc<db::Error>> {
        let begun = Instant::now();
        let span = origins.commit_span();
        let is_publish = matches!(command.act, Act::Publish(_));
        match self.change(command).instrument(span.clone()).await {
            Ok(changed) => Ok(self.tell(changed, origins, &span, begun.elapsed())),
            Err(error) => Err(self.failed(error, is_publish)),
        }
    }

    /// Does what the commands say, in one transaction with how far the file has come by them: one command, or several that all
    /// publish. Returns what came of each.
    ///
    /// On an error nothing was done.
    #[cfg(feature = "cluster")]
    pub(super) async fn apply_sequenced(
        &mut self,
        commands: &mut [Sequenced],
        origins: &Origins,
    ) -> Result<Vec<Applied>, Arc<db::Error>> {
        let begun = Instant::now();
        match self.change_in_order(commands).await {
            Ok(changed) => {
                let took = begun.elapsed();
                let applied = self.tell(changed, origins, &tracing::Span::none(), took);
                Ok(part(applied, commands))
            }
            Err(error) => {
                self.metrics.failed_commits.inc();
                self.raise_first_id(self.appender.first_id());
                Err(self.upkeep.commit_failed(error))
            }
        }
    }

    #[cfg(feature = "cluster")]
    async fn change_in_order(&mut self, commands: &mut [Sequenced]) -> Result<Changed, db::Error> {
        let [first, ..] = &*commands else {
            return Ok(Changed::Nothing);
        };
        let is_publish = matches!(first.command.act, Act::Publish(_));
        if is_publish {
            self.appender.wait_for_room().await?;
        }
        match self.try_in_order(commands).await {
            // What deletes has the reserve.
            Err(db::Error::Full(_)) if !is_publish && self.appender.make_room().await => {
                self.try_in_order(commands).await
            }
            changed => changed,
        }
    }

    #[cfg(feature = "cluster")]
    async fn try_in_order(&mut self, commands: &mut [Sequenced]) -> Result<Changed, db::Error> {
        self.appender.begin_commands().await?;
        let changed = match self.empty_copies(commands).await {
            Ok(()) => self.change_by(commands).await,
            Err(error) => Err(error),
        };
        let changed = match changed {
            Ok(changed) => self
                .note_commands(commands, &changed)
                .await
                .map(|()| changed),
            Err(error) => Err(error),
        };
        let mut reached = self.reached().clone();
        if let Ok(changed) = &changed {
            let mut outcomes = changed.outcomes();
            for command in &*commands {
                reached.chain = chain(&reached.chain, command, &mut outcomes);
                reached.sequence = command.sequence;
                reached.command_id.clone_from(&command.id);
            }
        }
        let changed = self.appender.end_commands(changed, &reached).await;
        self.appender.empty_wal_of_full_disk().await;
        changed
    }

    /// Leaves nothing to do to a command that is in the order again. The servers know the ids of two minutes, and one that stood
    /// still for longer still hands on what it was sent before.
    #[cfg(feature = "cluster")]
    async fn empty_copies(&mut self, commands: &mut [Sequenced]) -> Result<(), db::Error> {
        for command in commands {
            if let Some((hub, number)) = command.proposed_by()
                && !self.appender.note_proposed(hub, number).await?
            {
                tracing::warn!(
                    command = command.id,
                    sequence = command.sequence,
                    "a copy of a command came late, and is not applied"
                );
                command.command.act = Act::Publish(Vec::new());
            }
        }
        Ok(())
    }

    #[cfg(feature = "cluster")]
    async fn change_by(&mut self, commands: &[Sequenced]) -> Result<Changed, db::Error> {
        match commands {
            [one] => {
                self.note_erased(one).await?;
                self.change(one.command.clone()).await
            }
            several => {
                let published = several.iter().flat_map(|command| {
                    let Act::Publish(lists) = &command.command.act else {
                        unreachable!("several commands all publish")
                    };
                    let at = command.command.at;
                    lists.iter().map(move |events| Published {
                        at,
                        events: events.clone(),
                    })
                });
                let appended = self.appender.append(published.collect());
                appended.await.map(Changed::Published)
            }
        }
    }

    /// Notes which command published what.
    #[cfg(feature = "cluster")]
    async fn note_commands(
        &mut self,
        commands: &[Sequenced],
        changed: &Changed,
    ) -> Result<(), db::Error> {
        let Changed::Published(outcomes) = changed else {
            return Ok(());
        };
        let mut outcomes = outcomes.iter();
        for command in commands {
            let lists = outcome_count(&command.command.act);
            let of_command = outcomes.by_ref().take(lists);
            self.appender
                .note_published(command.sequence, of_command)
                .await?;
        }
        Ok(())
    }

    /// Notes that what published the events that this command erases is to be removed.
    #[cfg(feature = "cluster")]
    async fn note_erased(&mut self, by: &Sequenced) -> Result<(), db::Error> {
        let step;
        let events = match &by.command.act {
            Act::Erase(id) => ErasedEvents::One(*id),
            Act::TrimStep(
                trim @ Trim {
                    topic: Some(topic),
                    erases: true,
                    ..
                },
            ) => {
                step = self.appender.trim_step(trim).await?;
                let Some(step) = &step else { return Ok(()) };
                ErasedEvents::OfTopic(topic, step.through)
            }
            Act::Publish(_)
            | Act::TrimStep(_)
            | Act::MarkTrimmed { .. }
            | Act::TellErased { .. }
            | Act::Beat(_) => return Ok(()),
        };
        self.appender
            .note_erased(events, by.sequence, by.command.at)
            .await
    }

    /// Commands that may be removed from the stream, because what erased their events was applied by all hubs up to `by`, and was put
    /// in order before `before`.
    #[cfg(feature = "cluster")]
    pub(super) async fn find_removals(
        &mut self,
        by: u64,
        before: Timestamp,
    ) -> Result<Vec<u64>, db::Error> {
        self.appender.removals(by, before, REMOVALS_AT_ONCE).await
    }

    /// They are removed, and the stream begins at `first_sequence`.
    #[cfg(feature = "cluster")]
    pub(super) async fn forget_commands(
        &mut self,
        removed: &[u64],
        first_sequence: u64,
    ) -> Result<(), db::Error> {
        self.appender.forget_commands(removed, first_sequence).await
    }

    /// How far the file has come in the order of its cluster.
    #[cfg(feature = "cluster")]
    pub(super) fn reached(&self) -> &db::Reached {
        let reached = self.appender.reached();
        reached.expect("a file that is opened in a cluster has a place in its order")
    }

    /// Puts on the disk what is applied by now.
    #[cfg(feature = "cluster")]
    pub(super) fn sync(&self) -> impl Future<Output = std::io::Result<()>> + use<> {
        self.appender.sync()
    }

    /// The newest id.
    #[cfg(feature = "cluster")]
    pub(super) fn last_id(&self) -> EventId {
        self.appender.last_id()
    }

    fn failed(&mut self, error: db::Error, is_publish: bool) -> Arc<db::Error> {
        self.raise_first_id(self.appender.first_id());
        if !is_publish {
            return error.into();
        }
        self.metrics.failed_commits.inc();
        self.upkeep.commit_failed(error)
    }

    /// Does what concerns this file alone, and answers who waits for it.
    pub(super) async fn chore(&mut self, chore: Chore) {
        self.upkeep.run(chore, &mut self.appender).await;
    }

    /// Ends the feeds: nothing is announced any more.
    pub(super) fn end_feeds(&self) {
        self.announcements.feeds.close();
    }

    /// Ends all reading, empties the WAL into the file and lets go of it.
    pub(super) async fn close(self) -> Result<(), db::Error> {
        let Self { appender, log, .. } = self;
        log.close().await;
        let last_id = appender.last_id();
        let closed = appender.close().await;
        if let Err(error) = log.note_highest(last_id).await {
            tracing::error!(%error, "the highest id cannot be noted beside the file");
        }
        closed
    }

    /// Changes the file. What becomes of it depends on the file and the command alone.
    async fn change(&mut self, command: Command) -> Result<Changed, db::Error> {
        let Command { at, act } = command;
        let appender = &mut self.appender;
        Ok(match act {
            Act::Publish(events) => {
                let published = |events| Published { at, events };
                let published = events.into_iter().map(published).collect();
                Changed::Published(appender.append(published).await?)
            }
            Act::TrimStep(trim) => {
                let step = self.trim_step(&trim).await?;
                Changed::Trimmed { trim, step }
            }
            Act::MarkTrimmed { topic, through } => {
                appender.mark_trimmed(&topic, through).await?;
                Changed::MarkedTrimmed(TrimMark { topic, through })
            }
            Act::Erase(id) => Changed::Erased(appender.erase(id, at).await?),
            Act::TellErased {
                topic,
                through,
                events,
            } => {
                let notice = appender.append_notice(&topic, through, events, at);
                Changed::ToldErased(notice.await?)
            }
            #[cfg(feature = "cluster")]
            Act::Beat(_) => Changed::Nothing,
        })
    }

    async fn trim_step(&mut self, trim: &Trim) -> Result<Option<(TrimStep, u64)>, db::Error> {
        let Some(step) = self.appender.trim_step(trim).await? else {
            return Ok(None);
        };
        let topic = trim.topic.as_ref();
        if topic.is_none() {
            // Raised before the events go: a reader that finds them gone then finds the cause too, and tells of it. Where
            // a topic's go, the mark is that cause.
            self.raise_first_id(step.next_id);
        }
        let trimmed = self.appender.trim(topic, step.through).await?;
        Ok(Some((step, trimmed)))
    }

    /// Tells of what was committed, which `took` this long: announces what was appended, and counts.
    fn tell(
        &mut self,
        changed: Changed,
        origins: &Origins,
        span: &tracing::Span,
        took: Duration,
    ) -> Applied {
        let announcements = &self.announcements;
        match changed {
            Changed::Published(outcomes) => {
                self.upkeep.commit_worked();
                self.announce(&outcomes, origins, span, took);
                Applied::Published(outcomes)
            }
            Changed::Trimmed { step: None, .. } => Applied::Trimmed(None),
            Changed::Trimmed {
                trim,
                step: Some((step, trimmed)),
            } => {
                let topic = trim.topic.as_ref();
                announcements.position.count_trimmed(trimmed);
                self.metrics.trim_steps.inc();
                self.metrics.trimmed_events.inc_by(trimmed);
                announcements.recent.forget(topic, step.through);
                if topic.is_some() {
                    self.raise_first_id(self.appender.first_id());
                }
                Applied::Trimmed(Some(trimmed))
            }
            Changed::MarkedTrimmed(mark) => {
                announcements.trim_marks.push(mark);
                Applied::MarkedTrimmed
            }
            Changed::Erased(None) => Applied::Erased(None),
            Changed::Erased(Some(erased)) => {
                self.upkeep.wal_is_stale();
                announcements.recent.replace(&erased.event);
                announcements.announce(erased.notice.as_slice());
                Applied::Erased(Some(erased.event))
            }
            Changed::ToldErased(notice) => {
                self.upkeep.wal_is_stale();
                announcements.announce(std::slice::from_ref(&notice));
                Applied::ToldErased(notice)
            }
            #[cfg(feature = "cluster")]
            Changed::Nothing => Applied::Beat,
        }
    }

    fn announce(
        &self,
        outcomes: &[Outcome],
        origins: &Origins,
        span: &tracing::Span,
        took: Duration,
    ) {
        let fresh: Vec<_> = outcomes
            .iter()
            .flatten()
            .flatten()
            .filter(|stored| !stored.duplicate)
            .map(|stored| stored.event.clone())
            .collect();
        log_commit(origins, &fresh, took);
        let announcing = tracing::debug_span!(parent: span, "announce");
        let announced = announcing.in_scope(|| self.announcements.announce(&fresh));
        log_announcement(&fresh, announced);
        self.count(outcomes, fresh.len(), took);
    }

    fn count(&self, outcomes: &[Outcome], events: usize, took: Duration) {
        let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let as_u64 = |count| u64::try_from(count).expect("a commit is small");
        self.metrics.published_requests.inc_by(as_u64(stored));
        self.metrics.published_events.inc_by(as_u64(events));
        if events > 0 {
            self.metrics.commit_seconds.observe(took.as_secs_f64());
            self.log_if_slow(took, events);
            let events = u32::try_from(events).expect("a commit is small");
            self.metrics.commit_events.observe(events.into());
        }
    }

    fn log_if_slow(&self, took: Duration, events: usize) {
        if took > self.slow_commit {
            let waiting = self.queue.waiting();
            tracing::warn!(
                duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                events,
                queue_publications = waiting.publications,
                queue_bytes = waiting.bytes,
                "a commit was slow"
            );
        }
    }

    /// `None`: no event is left.
    fn raise_first_id(&self, first_id: Option<EventId>) {
        let first_id = first_id.unwrap_or(self.appender.last_id().next());
        self.announcements.position.set_first_id(first_id);
    }
}

/// What came of each of `commands`.
#[cfg(feature = "cluster")]
fn part(applied: Applied, commands: &[Sequenced]) -> Vec<Applied> {
    let Applied::Published(outcomes) = applied else {
        return vec![applied];
    };
    let mut outcomes = outcomes.into_iter();
    let published = commands.iter().map(|command| {
        let lists = outcome_count(&command.command.act);
        Applied::Published(outcomes.by_ref().take(lists).collect())
    });
    published.collect()
}

/// How many outcomes a command has.
#[cfg(feature = "cluster")]
fn outcome_count(act: &Act) -> usize {
    if let Act::Publish(lists) = act {
        return lists.len();
    }
    1
}

#[cfg(feature = "cluster")]
impl Changed {
    /// What came of it in words, one for each list of a publish, else one.
    fn outcomes(&self) -> std::vec::IntoIter<String> {
        let outcomes = match self {
            Self::Published(outcomes) => outcomes.iter().map(in_words).collect(),
            Self::Trimmed { step, .. } => vec![format!("{step:?}")],
            Self::MarkedTrimmed(_) | Self::Nothing => vec![String::new()],
            Self::Erased(erased) => {
                let notice = erased.as_ref().and_then(|erased| erased.notice.as_ref());
                let notice = notice.map(|notice| (notice.id, notice.created_at.as_millis()));
                vec![format!("{} {notice:?}", erased.is_some())]
            }
            Self::ToldErased(notice) => {
                vec![format!("{} {}", notice.id, notice.created_at.as_millis())]
            }
        };
        outcomes.into_iter()
    }
}

#[cfg(feature = "cluster")]
fn in_words(outcome: &Outcome) -> String {
    match outcome {
        Ok(stored) => stored.iter().fold(String::new(), |words, stored| {
            let (id, at) = (stored.event.id, stored.event.created_at.as_millis());
            words + &format!("{id} {at} {}\n", stored.duplicate)
        }),
        Err(conflict) => format!("conflict {}", conflict.id),
    }
}

/// The chain after `command`, whose outcomes are taken from `outcomes`: SHA-256 over the chain before it, its bytes, and what came
/// of it.
#[cfg(feature = "cluster")]
fn chain(before: &str, command: &Sequenced, outcomes: &mut impl Iterator<Item = String>) -> String {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    digest.update(before.as_bytes());
    digest.update(&command.payload);
    let lists = outcome_count(&command.command.act);
    for outcome in outcomes.by_ref().take(lists) {
        digest.update(outcome.as_bytes());
        digest.update(&[0]);
    }
    let hex = |byte: &u8| format!("{byte:02x}");
    digest.finish().as_ref().iter().map(hex).collect()
}

fn log_commit(origins: &Origins, events: &[Arc<Event>], took: Duration) {
    let id = |event: Option<&Arc<Event>>| event.map(|event| event.id.as_i64());
    tracing::debug!(
        requests = %origins,
        events = events.len(),
        first_id = id(events.first()),
        last_id = id(events.last()),
        duration_ms = took.as_secs_f64() * 1000.0,
        "commit"
    );
}

fn log_announcement(events: &[Arc<Event>], announced: Announced) {
    if let (Some(first), Some(last)) = (events.first(), events.last()) {
        tracing::debug!(
            first_id = first.id.as_i64(),
            last_id = last.id.as_i64(),
            feeds = announced.feeds,
            receivers = announced.receivers,
            "announce"
        );
    }
}
