//! The one task that appends, commits, announces and trims.
//!
//! Because one task does all three, announce order is commit order is id order, and a request that is dropped half-way
//! cannot part a commit from its announcement.

use std::{
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, Release},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::Instrument;

use super::{
    NotReady, Queue, Shared, canary,
    feeds::Announced,
    origin::{Origin, Origins},
};
use crate::{
    db::{self, Appender, KeyConflict, Outcome, Stored, Trim},
    event::{Event, EventId, NewEvent, Topic},
};

/// Publications that go into one commit at most. Commits grow with the load by themselves: this bounds the wait of the
/// first in a burst.
const COMMIT_MAX_PUBLICATIONS: usize = 1024;

/// What waits for the writer.
#[derive(Debug)]
pub(super) enum Publication {
    /// Events to commit.
    Events(NewEvents),
    /// The hub's own, to be announced after the commit it came with, and not stored.
    Canary,
}

/// Events that wait for the writer, and where their publisher waits.
#[derive(Debug)]
pub(super) struct NewEvents {
    pub(super) events: Vec<NewEvent>,
    pub(super) reply: oneshot::Sender<Result<Vec<Stored>, PublishError>>,
    /// Where they came from, if that is traced.
    pub(super) origin: Option<Box<Origin>>,
    /// Its share of the queue's bytes.
    pub(super) _room: OwnedSemaphorePermit,
}

/// Where a publisher waits, and its share of the queue's bytes.
type Reply = (
    oneshot::Sender<Result<Vec<Stored>, PublishError>>,
    OwnedSemaphorePermit,
);

/// Where somebody waits for the end of a chore.
type ChoreReply<T> = oneshot::Sender<Result<T, db::Error>>;

/// What the writer does beside publishing. Each is small: a publisher may have to wait for it.
#[derive(Debug)]
pub(super) enum Chore {
    /// Tell whether commits work.
    Probe(oneshot::Sender<Result<(), NotReady>>),
    /// Delete the first events of these and tell how many; `None` if there are none left.
    Trim {
        trim: Trim,
        reply: ChoreReply<Option<u64>>,
    },
    /// Note that events of a topic will be gone.
    MarkTrimmed {
        topic: Topic,
        through: EventId,
        reply: ChoreReply<()>,
    },
    /// Erase an event and announce it; what is left of the event is the reply, `None` if there is no such event.
    Erase {
        id: EventId,
        reply: ChoreReply<Option<Arc<Event>>>,
    },
    /// Append and announce an event that tells that a topic was erased.
    TellErased {
        topic: Topic,
        through: EventId,
        events: u64,
        reply: ChoreReply<Arc<Event>>,
    },
    /// Drop the notes of trimmed topics that the first id tells as well.
    ForgetMarks(ChoreReply<()>),
    /// Give free pages back to the system.
    Shrink(ChoreReply<()>),
    /// Empty the WAL into the file, if no reader is in the way.
    CleanWal(ChoreReply<()>),
}

/// Why the writer did not do a chore.
#[derive(Debug, thiserror::Error)]
pub enum ChoreError {
    /// The hub stops.
    #[error("the hub is draining")]
    Draining,
    /// The file refused.
    #[error("the file of the event log could not be changed")]
    Log(#[from] db::Error),
}

/// Why events were not taken. None of them is stored then.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// Too many wait for the writer. Later there may be room.
    #[error("the hub has as much waiting as it may: {} requests, or {} bytes of events", .0.publications, .0.bytes)]
    Busy(Queue),
    /// The hub takes no more events.
    #[error("the hub is draining")]
    Draining,
    /// A key stands for another event.
    #[error(transparent)]
    KeyConflict(#[from] KeyConflict),
    /// The commit failed.
    #[error("the events could not be committed")]
    Log(#[source] Arc<db::Error>),
}

fn trace_commit(origins: &Origins, events: &[Arc<Event>], took: Duration) {
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

fn trace_announcement(events: &[Arc<Event>], announced: Announced) {
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

/// The one that writes. [`run`](Self::run) it in a task, and wait for that task after [draining](super::Hub::drain).
#[derive(Debug)]
pub struct Writer {
    appender: Appender,
    publications: mpsc::Receiver<Publication>,
    chores: mpsc::Receiver<Chore>,
    shared: Arc<Shared>,
    failure: Option<Arc<db::Error>>,
}

impl Writer {
    pub(super) fn new(
        appender: Appender,
        publications: mpsc::Receiver<Publication>,
        chores: mpsc::Receiver<Chore>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            appender,
            publications,
            chores,
            shared,
            failure: None,
        }
    }

    /// Commits what comes until the hub drains, then what was taken by then, and ends the feeds. To be [closed](Self::close)
    /// when nobody reads any more.
    pub async fn run(mut self) -> Self {
        let draining = self.shared.draining.clone();
        let mut waiting = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = draining.cancelled(), if !self.publications.is_closed() => self.publications.close(),
                taken = self.publications.recv_many(&mut waiting, COMMIT_MAX_PUBLICATIONS) => match taken {
                    0 => break,
                    _ => {
                        self.take(&mut waiting).await;
                        // Under constant load the queue is never empty, and a chore has its turn all the same.
                        if let Ok(chore) = self.chores.try_recv() {
                            self.run_chore(chore).await;
                        }
                    }
                },
                Some(chore) = self.chores.recv() => self.run_chore(chore).await,
            }
        }
        // Who waits for a chore learns at once that it is not done.
        self.chores.close();
        while self.chores.try_recv().is_ok() {}
        self.shared.feeds.close();
        self
    }

    /// Ends all reading, empties the WAL into the file and lets go of it.
    pub async fn close(self) -> Result<(), db::Error> {
        self.shared.log.close().await;
        let last_id = self.appender.last_id();
        self.appender.close().await?;
        if let Err(error) = self.shared.log.note_highest(last_id).await {
            tracing::error!(%error, "the highest id cannot be noted beside the file");
        }
        Ok(())
    }

    async fn take(&mut self, publications: &mut Vec<Publication>) {
        let mut events = Vec::with_capacity(publications.len());
        let mut replies = Vec::with_capacity(publications.len());
        let mut origins = Origins::default();
        let mut canary = false;
        for publication in publications.drain(..) {
            match publication {
                Publication::Events(new) => {
                    events.push(new.events);
                    origins.push(new.origin);
                    replies.push((new.reply, new._room));
                }
                Publication::Canary => canary = true,
            }
        }
        // A canary that came alone costs no look at the file.
        if !events.is_empty() {
            self.commit(events, replies, &origins).await;
        }
        if canary {
            self.shared.feeds.announce_canary(canary::event());
        }
    }

    /// Commits, announces, then answers: whoever has an answer may rely on the other two.
    async fn commit(&mut self, events: Vec<Vec<NewEvent>>, replies: Vec<Reply>, origins: &Origins) {
        let begun = Instant::now();
        let span = origins.commit_span();
        match self.appender.append(events).instrument(span.clone()).await {
            Ok(outcomes) => {
                let took = begun.elapsed();
                self.recovered();
                let fresh: Vec<_> = outcomes
                    .iter()
                    .flatten()
                    .flatten()
                    .filter(|stored| !stored.duplicate)
                    .map(|stored| stored.event.clone())
                    .collect();
                trace_commit(origins, &fresh, took);
                let announcing = tracing::debug_span!(parent: &span, "announce");
                let announced = announcing.in_scope(|| self.shared.announce(&fresh));
                trace_announcement(&fresh, announced);
                self.count(&outcomes, fresh.len(), took);
                for ((reply, _room), outcome) in replies.into_iter().zip(outcomes) {
                    // A publisher that went away has lost its answer, not its events.
                    _ = reply.send(outcome.map_err(PublishError::from));
                }
            }
            Err(error) => {
                self.shared.metrics.failed_commits.inc();
                let error = self.failed(error);
                for (reply, _room) in replies {
                    _ = reply.send(Err(PublishError::Log(error.clone())));
                }
            }
        }
    }

    fn count(&self, outcomes: &[Outcome], events: usize, took: Duration) {
        let metrics = &self.shared.metrics;
        let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let as_u64 = |count| u64::try_from(count).expect("a commit is small");
        metrics.published_requests.inc_by(as_u64(stored));
        metrics.published_events.inc_by(as_u64(events));
        if events > 0 {
            metrics.commit_seconds.observe(took.as_secs_f64());
            self.tell_if_slow(took, events);
            let events = u32::try_from(events).expect("a commit is small");
            metrics.commit_events.observe(events.into());
        }
    }

    fn tell_if_slow(&self, took: Duration, events: usize) {
        if took > self.shared.settings.slow_commit {
            let queue = self.shared.waiting();
            tracing::warn!(
                duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                events,
                queue_publications = queue.publications,
                queue_bytes = queue.bytes,
                "a commit was slow"
            );
        }
    }

    async fn run_chore(&mut self, chore: Chore) {
        match chore {
            Chore::Probe(reply) => _ = reply.send(self.probe().await),
            Chore::Trim { trim, reply } => _ = reply.send(self.trim(&trim).await),
            Chore::MarkTrimmed {
                topic,
                through,
                reply,
            } => _ = reply.send(self.mark_trimmed(&topic, through).await),
            Chore::Erase { id, reply } => _ = reply.send(self.erase(id).await),
            Chore::TellErased {
                topic,
                through,
                events,
                reply,
            } => _ = reply.send(self.tell_erased(&topic, through, events).await),
            Chore::Shrink(reply) => {
                self.shared.wal_is_stale.store(true, Release);
                _ = reply.send(self.appender.shrink().await);
            }
            Chore::ForgetMarks(reply) => _ = reply.send(self.appender.forget_marks().await),
            Chore::CleanWal(reply) => _ = reply.send(self.clean_wal().await),
        }
    }

    async fn erase(&mut self, id: EventId) -> Result<Option<Arc<Event>>, db::Error> {
        let Some(erased) = self.appender.erase(id).await? else {
            return Ok(None);
        };
        self.shared.wal_is_stale.store(true, Release);
        self.shared.recent.replace(&erased.event);
        self.shared.announce(erased.notice.as_slice());
        Ok(Some(erased.event))
    }

    async fn tell_erased(
        &mut self,
        topic: &Topic,
        through: EventId,
        events: u64,
    ) -> Result<Arc<Event>, db::Error> {
        let notice = self.appender.append_notice(topic, through, events).await?;
        self.shared.wal_is_stale.store(true, Release);
        self.shared.announce(std::slice::from_ref(&notice));
        Ok(notice)
    }

    async fn clean_wal(&mut self) -> Result<(), db::Error> {
        if self.appender.clean_wal().await? {
            self.shared.wal_is_stale.store(false, Release);
        }
        Ok(())
    }

    async fn trim(&mut self, trim: &Trim) -> Result<Option<u64>, db::Error> {
        let Some(step) = self.appender.trim_step(trim).await? else {
            return Ok(None);
        };
        let topic = trim.topic.as_ref();
        let first_id = self.shared.first_id();
        if topic.is_none() {
            // Raised before the events go: a reader that finds them gone then finds the cause too, and tells of it. Where
            // a topic's go, the mark is that cause.
            self.raise_first_id(step.next_id);
        }
        let trimmed = match self.appender.trim(topic, step.through).await {
            Ok(trimmed) => trimmed,
            Err(error) => {
                self.shared.first_id.store(first_id.as_i64(), Release);
                return Err(error);
            }
        };
        self.shared.events.fetch_sub(trimmed, Relaxed);
        self.shared.metrics.trim_steps.inc();
        self.shared.metrics.trimmed_events.inc_by(trimmed);
        self.shared.recent.forget(topic, step.through);
        if topic.is_some() {
            self.raise_first_id(self.shared.log.first_id().await?);
        }
        Ok(Some(trimmed))
    }

    /// `None`: no event is left.
    fn raise_first_id(&self, first_id: Option<EventId>) {
        let first_id = first_id.unwrap_or(self.appender.last_id().next());
        self.shared.first_id.store(first_id.as_i64(), Release);
    }

    async fn mark_trimmed(&mut self, topic: &Topic, through: EventId) -> Result<(), db::Error> {
        self.appender.mark_trimmed(topic, through).await?;
        self.shared.topic_trims.fetch_add(1, Release);
        Ok(())
    }

    /// Looks whether commits would go into the right file, and after a failure tries whether it lasts; a publisher should not
    /// have to find out.
    async fn probe(&mut self) -> Result<(), NotReady> {
        let probed = match self.failure {
            None => self.appender.look_in_place().await,
            Some(_) => self.appender.probe().await,
        };
        match probed {
            Ok(()) => {
                self.recovered();
                Ok(())
            }
            Err(error) => Err(NotReady::CommitsFail(self.failed(error))),
        }
    }

    fn recovered(&mut self) {
        if self.failure.take().is_some() {
            tracing::info!("commits work again");
        }
    }

    /// Traces the first of a row of failures: a full disk would else fill the trace as well.
    fn failed(&mut self, error: db::Error) -> Arc<db::Error> {
        if self.failure.is_none() {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a commit failed; its events were refused"
            );
        }
        let error = Arc::new(error);
        self.failure = Some(error.clone());
        error
    }
}
