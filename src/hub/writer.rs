//! The one task that appends, commits, announces and answers.
//!
//! Because one task does all of it, announce order is commit order is id order, and a request that is dropped half-way
//! cannot separate a commit from its announcement.
//!
//! It does two kinds of things: it takes what is asked for in one order ([`run`](Writer::run)), and it applies each of
//! them to the file and to the announcements (`commit` and `change`). What an application does depends on the file and on
//! what is applied alone, not on who asked or when.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    announcements::Announcements,
    feeds::Announced,
    origin::Origins,
    queue::{Publication, PublishError, Queue, Reply},
    trim_marks::TrimMark,
    upkeep::Upkeep,
    work::{Change, Work},
};
use crate::{
    db::{self, Appender, EventLog, Outcome, Trim},
    event::{Event, EventId, NewEvent, Topic},
    metrics::Metrics,
};

/// Publications that go into one commit at most. Commits grow with the load by themselves: this bounds the wait of the
/// first in a burst.
const COMMIT_MAX_PUBLICATIONS: usize = 1024;

/// The one that writes. [`run`](Self::run) it in a task, and wait for that task after [draining](super::Hub::drain).
#[derive(Debug)]
pub struct Writer {
    pub(super) publications: mpsc::Receiver<Publication>,
    pub(super) work: mpsc::Receiver<Work>,
    pub(super) draining: CancellationToken,
    pub(super) applier: Applier,
}

/// Applies what is taken, one after the other.
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

impl Writer {
    /// Commits what comes until the hub drains, then what was taken by then, and ends the feeds. To be [closed](Self::close)
    /// when nobody reads any more.
    pub async fn run(mut self) -> Self {
        let draining = self.draining.clone();
        let mut waiting = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = draining.cancelled(), if !self.publications.is_closed() => self.publications.close(),
                taken = self.publications.recv_many(&mut waiting, COMMIT_MAX_PUBLICATIONS) => match taken {
                    0 => break,
                    _ => {
                        self.applier.take(&mut waiting).await;
                        // Under constant load the queue is never empty, and other work has its turn all the same.
                        if let Ok(work) = self.work.try_recv() {
                            self.applier.work(work).await;
                        }
                    }
                },
                Some(work) = self.work.recv() => self.applier.work(work).await,
            }
        }
        // Who waits for a piece of work learns at once that it is not done.
        self.work.close();
        while self.work.try_recv().is_ok() {}
        self.applier.announcements.feeds.close();
        self
    }

    /// Ends all reading, empties the WAL into the file and lets go of it.
    pub async fn close(self) -> Result<(), db::Error> {
        let Applier { appender, log, .. } = self.applier;
        log.close().await;
        let last_id = appender.last_id();
        let closed = appender.close().await;
        if let Err(error) = log.note_highest(last_id).await {
            tracing::error!(%error, "the highest id cannot be noted beside the file");
        }
        closed
    }
}

impl Applier {
    async fn take(&mut self, publications: &mut Vec<Publication>) {
        let mut events = Vec::with_capacity(publications.len());
        let mut replies = Vec::with_capacity(publications.len());
        let mut origins = Origins::default();
        let mut pings = Vec::new();
        for publication in publications.drain(..) {
            match publication {
                Publication::Events(new) => {
                    events.push(new.events);
                    origins.push(new.origin);
                    replies.push(new.reply);
                }
                Publication::Ping(reply) => pings.push(reply),
            }
        }
        // A ping that came alone costs no look at the file.
        if !events.is_empty() {
            self.commit(events, replies, &origins).await;
        }
        for ping in pings {
            _ = ping.send(());
        }
    }

    /// Commits, announces, then answers: whoever has an answer may rely on the other two.
    async fn commit(&mut self, events: Vec<Vec<NewEvent>>, replies: Vec<Reply>, origins: &Origins) {
        let begun = Instant::now();
        let span = origins.commit_span();
        match self.appender.append(events).instrument(span.clone()).await {
            Ok(outcomes) => {
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
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    reply.send(outcome.map_err(PublishError::from));
                }
            }
            Err(error) => {
                self.metrics.failed_commits.inc();
                let error = self.upkeep.commit_failed(error);
                for reply in replies {
                    reply.send(Err(PublishError::Log(error.clone())));
                }
            }
        }
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

    async fn work(&mut self, work: Work) {
        match work {
            Work::Change(change) => self.change(change).await,
            Work::Chore(chore) => self.upkeep.run(chore, &mut self.appender).await,
        }
    }

    async fn change(&mut self, change: Change) {
        // Who asked and has gone needs no reply.
        match change {
            Change::Trim { trim, reply } => {
                _ = reply.send(self.trim(&trim).await.map_err(Arc::new));
            }
            Change::MarkTrimmed {
                topic,
                through,
                reply,
            } => _ = reply.send(self.mark_trimmed(&topic, through).await.map_err(Arc::new)),
            Change::Erase { id, reply } => {
                _ = reply.send(self.erase(id).await.map_err(Arc::new));
            }
            Change::TellErased {
                topic,
                through,
                events,
                reply,
            } => {
                let told = self.tell_erased(&topic, through, events).await;
                _ = reply.send(told.map_err(Arc::new));
            }
        }
    }

    async fn erase(&mut self, id: EventId) -> Result<Option<Arc<Event>>, db::Error> {
        let Some(erased) = self.appender.erase(id).await? else {
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
    ) -> Result<Arc<Event>, db::Error> {
        let notice = self.appender.append_notice(topic, through, events).await?;
        self.upkeep.wal_is_stale();
        self.announcements.announce(std::slice::from_ref(&notice));
        Ok(notice)
    }

    async fn trim(&mut self, trim: &Trim) -> Result<Option<u64>, db::Error> {
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
