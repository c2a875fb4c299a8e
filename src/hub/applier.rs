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
use crate::{
    db::{self, Appender, EventLog, Outcome, Trim},
    event::{Event, EventId, NewEvent, Timestamp, Topic},
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

impl Applier {
    /// Does what `command` says, announces what it appended, and returns what came of it. `origins` is for log lines.
    ///
    /// On an error nothing was done.
    pub(super) async fn apply(
        &mut self,
        command: Command,
        origins: &Origins,
    ) -> Result<Applied, Arc<db::Error>> {
        let Command { at, act } = command;
        let applied = match act {
            Act::Publish(events) => return self.publish(events, at, origins).await,
            Act::TrimStep(trim) => self.trim_step(&trim).await.map(Applied::Trimmed),
            Act::MarkTrimmed { topic, through } => {
                let marked = self.mark_trimmed(&topic, through).await;
                marked.map(|()| Applied::MarkedTrimmed)
            }
            Act::Erase(id) => self.erase(id, at).await.map(Applied::Erased),
            Act::TellErased {
                topic,
                through,
                events,
            } => {
                let told = self.tell_erased(&topic, through, events, at).await;
                told.map(Applied::ToldErased)
            }
        };
        applied.map_err(Arc::new)
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

    async fn publish(
        &mut self,
        events: Vec<Vec<NewEvent>>,
        at: Timestamp,
        origins: &Origins,
    ) -> Result<Applied, Arc<db::Error>> {
        let begun = Instant::now();
        let span = origins.commit_span();
        let appended = self.appender.append(events, at);
        let outcomes = match appended.instrument(span.clone()).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.metrics.failed_commits.inc();
                return Err(self.upkeep.commit_failed(error));
            }
        };
        let took = begun.elapsed();
        self.upkeep.commit_worked();
        let fresh: Vec<_> = outcomes
            .iter()
            .flatten()
            .flatten()
            .filter(|stored| !stored.duplicate)
            .map(|stored| stored.event.clone())
            .collect();
        log_commit(origins, &fresh, took);
        let announcing = tracing::debug_span!(parent: &span, "announce");
        let announced = announcing.in_scope(|| self.announcements.announce(&fresh));
        log_announcement(&fresh, announced);
        self.count(&outcomes, fresh.len(), took);
        Ok(Applied::Published(outcomes))
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

    async fn erase(&mut self, id: EventId, at: Timestamp) -> Result<Option<Arc<Event>>, db::Error> {
        let Some(erased) = self.appender.erase(id, at).await? else {
            return Ok(None);
        };
        self.upkeep.wal_is_stale();
        self.announcements.recent.replace(&erased.event);
        self.announcements.announce(erased.notice.as_slice());
        Ok(Some(erased.event))
    }

    async fn tell_erased(
        &mut self,
        topic: &Topic,
        through: EventId,
        events: u64,
        at: Timestamp,
    ) -> Result<Arc<Event>, db::Error> {
        let appended = self.appender.append_notice(topic, through, events, at);
        let notice = appended.await?;
        self.upkeep.wal_is_stale();
        self.announcements.announce(std::slice::from_ref(&notice));
        Ok(notice)
    }

    async fn trim_step(&mut self, trim: &Trim) -> Result<Option<u64>, db::Error> {
        let Some(step) = self.appender.trim_step(trim).await? else {
            return Ok(None);
        };
        let topic = trim.topic.as_ref();
        let position = &self.announcements.position;
        let first_id = position.first_id();
        if topic.is_none() {
            // Raised before the events go: a reader that finds them gone then finds the cause too, and tells of it. Where
            // a topic's go, the mark is that cause.
            self.raise_first_id(step.next_id);
        }
        let trimmed = match self.appender.trim(topic, step.through).await {
            Ok(trimmed) => trimmed,
            Err(error) => {
                position.set_first_id(first_id);
                return Err(error);
            }
        };
        position.count_trimmed(trimmed);
        self.metrics.trim_steps.inc();
        self.metrics.trimmed_events.inc_by(trimmed);
        self.announcements.recent.forget(topic, step.through);
        if topic.is_some() {
            self.raise_first_id(self.appender.first_id());
        }
        Ok(Some(trimmed))
    }

    /// `None`: no event is left.
    fn raise_first_id(&self, first_id: Option<EventId>) {
        let first_id = first_id.unwrap_or(self.appender.last_id().next());
        self.announcements.position.set_first_id(first_id);
    }

    async fn mark_trimmed(&mut self, topic: &Topic, through: EventId) -> Result<(), db::Error> {
        self.appender.mark_trimmed(topic, through).await?;
        self.announcements.trim_marks.push(TrimMark {
            topic: topic.clone(),
            through,
        });
        Ok(())
    }
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
