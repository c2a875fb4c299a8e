//! The hub: takes events, has them committed, announces them, and lets subscribers replay and follow.
//!
//! [`Hub`] is the handle that others hold. Behind it one task, the [writer](Writer), appends, commits and announces; nobody
//! else writes. Nothing here knows of HTTP or SQL.

mod canary;
mod feeds;
mod origin;
mod recent;
mod subscribers;
mod subscription;
mod writer;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicI64, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

use tokio::sync::{
    Semaphore,
    mpsc::{self, error::TrySendError},
    oneshot,
};
use tokio_util::sync::CancellationToken;

use self::{
    canary::Canary,
    feeds::{Announced, Feeds},
    origin::Origin,
    recent::Recent,
    subscribers::Subscribers,
    writer::{Chore, NewEvents, Publication},
};
pub use self::{
    canary::CanaryError,
    feeds::Batch,
    origin::{for_request, is_traced},
    subscribers::{Behind, Slow},
    subscription::{Delivery, Gap, GapReason, Start, SubscribeError, Subscription},
    writer::{ChoreError, PublishError, Writer},
};
use crate::{
    db::{self, EventLog, FileSize, Order, Page, Range, Stored, TopicSummary, Trim},
    event::{Event, EventId, NewEvent, Timestamp, Topic},
    filter::Filter,
    metrics::Metrics,
};

/// How often the highest id is noted beside the file, if it has changed.
const NOTE_HIGHEST_EVERY: Duration = Duration::from_secs(1);

/// How much may wait for the writer. What is more is refused as busy.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    /// Publications. At 50,000 events a second, each in its own, 8,192 are a wait of about a sixth of a second.
    pub publications: usize,
    /// Bytes of their events, at most [`QUEUE_MAX_BYTES`]. Four batches of the largest size fit into 64 MiB.
    pub bytes: usize,
}

/// Bytes that may wait for the writer at the most. Source: a semaphore counts them, and takes 32 bits at once.
pub const QUEUE_MAX_BYTES: usize = 4 * 1024 * 1024 * 1024 - 1;

/// What a hub is opened with.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How much may wait for the writer.
    pub queue: Queue,
    /// How often the canary is sent.
    pub canary: Duration,
    /// A commit that takes longer is logged.
    pub slow_commit: Duration,
    /// A subscriber that is behind for longer is logged.
    pub slow_subscriber: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            queue: Queue {
                publications: 8192,
                bytes: 64 * 1024 * 1024,
            },
            canary: Duration::from_secs(5),
            slow_commit: Duration::from_secs(1),
            slow_subscriber: Duration::from_mins(1),
        }
    }
}

/// The handle of the hub. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    log: EventLog,
    publications: mpsc::Sender<Publication>,
    chores: mpsc::Sender<Chore>,
    settings: Settings,
    room: Arc<Semaphore>,
    feeds: Feeds,
    progress: Subscribers,
    recent: Recent,
    /// The oldest id kept; one above the newest when nothing is.
    first_id: AtomicI64,
    /// How often events were about to be taken from the middle of the log; zero if it has no marks of that. Raised when the
    /// mark is committed and before the first event goes: who finds events gone finds this changed.
    topic_trims: AtomicU64,
    /// Whether the WAL holds what should be gone from the disk.
    wal_is_stale: AtomicBool,
    /// The newest id committed. Raised before the event is announced, so no subscriber has a newer one.
    committed: AtomicI64,
    /// The newest id announced. Raised after: every feed has been handed what lies up to here.
    announced: AtomicI64,
    /// Events kept: counted once when the file is opened, and moved along by the writer.
    events: AtomicU64,
    metrics: Metrics,
    canary: Canary,
    opened: Instant,
    draining: CancellationToken,
}

/// The oldest and the newest event there are. The log is empty when `first_id` is above `last_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Id of the oldest event kept.
    pub first_id: EventId,
    /// Id of the newest event committed; zero if there never was one.
    pub last_id: EventId,
}

/// The hub at a glance.
#[derive(Debug, Clone)]
pub struct Stats {
    /// The log's own id.
    pub log_id: Box<str>,
    /// Events kept.
    pub events: u64,
    /// The oldest and the newest of them.
    pub bounds: Bounds,
    /// What the event log takes on the disk.
    pub size: FileSize,
    /// Since the file was opened.
    pub uptime: Duration,
    /// How long the canary took the last time.
    pub canary: Duration,
}

/// What waits for the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Publications, each one or more events.
    pub publications: usize,
    /// Bytes of their events.
    pub bytes: usize,
}

/// Why the hub would refuse an event now.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// It takes no more events.
    #[error("the hub is draining")]
    Draining,
    /// What the hub published to itself did not come back.
    #[error("the writer does not work: nothing came back from it for {0:?}")]
    Late(Duration),
    /// The last commit failed, and so does another try.
    #[error("commits fail: {0}")]
    CommitsFail(Arc<db::Error>),
    /// So many wait for the writer that one more is refused.
    #[error("the queue of the writer is full")]
    Busy,
}

impl Hub {
    /// Opens the file at `path`. `metrics` is where it counts. The hub works as
    /// soon as somebody runs the writer, and the file is let go when the writer has ended.
    pub async fn open(
        path: &Path,
        settings: Settings,
        metrics: Metrics,
    ) -> Result<(Self, Writer), db::OpenError> {
        let (log, appender) = db::open(path).await?;
        let failed = |source: db::Error| match matches!(source, db::Error::Corrupt(_)) {
            true => db::OpenError::Corrupt(path.into()),
            false => db::OpenError::Sqlite {
                path: path.into(),
                source: source.into(),
            },
        };
        let last_id = appender.last_id();
        let first_id = log
            .first_id()
            .await
            .map_err(failed)?
            .unwrap_or(last_id.next());
        let recent = Recent::load(&log, last_id).await.map_err(failed)?;
        let events = log.count().await.map_err(failed)?;
        let trimmed = log
            .trimmed_after(&Filter::default(), EventId::ZERO)
            .await
            .map_err(failed)?;
        let (publications, waiting_publications) = mpsc::channel(settings.queue.publications);
        let (chores, waiting_chores) = mpsc::channel(1);
        let opened = Instant::now();
        let shared = Arc::new(Shared {
            log,
            publications,
            chores,
            settings,
            room: Arc::new(Semaphore::new(settings.queue.bytes)),
            feeds: Feeds::new(),
            progress: Subscribers::default(),
            recent,
            first_id: AtomicI64::new(first_id.as_i64()),
            topic_trims: AtomicU64::new(trimmed.is_some().into()),
            // A hub that was killed may have left something.
            wal_is_stale: AtomicBool::new(true),
            committed: AtomicI64::new(last_id.as_i64()),
            announced: AtomicI64::new(last_id.as_i64()),
            events: AtomicU64::new(events),
            metrics,
            canary: Canary::new(opened),
            opened,
            draining: CancellationToken::new(),
        });
        let writer = Writer::new(
            appender,
            waiting_publications,
            waiting_chores,
            shared.clone(),
        );
        Ok((Self { shared }, writer))
    }

    /// Has `events` committed, all of them or none, and announced. They follow each other in the log.
    ///
    /// Waits for the commit. When the future is dropped the events are stored and announced all the same, if they were
    /// taken at all: what is taken is never parted from its announcement.
    pub async fn publish(&self, events: Vec<NewEvent>) -> Result<Vec<Stored>, PublishError> {
        let bytes: usize = events.iter().map(NewEvent::size_bytes).sum();
        let busy = || PublishError::Busy(self.shared.settings.queue);
        let permits = u32::try_from(bytes).map_err(|_| busy())?;
        let room = self
            .shared
            .room
            .clone()
            .try_acquire_many_owned(permits)
            .map_err(|_| busy())?;
        let (reply, stored) = oneshot::channel();
        let publication = Publication::Events(NewEvents {
            events,
            reply,
            origin: Origin::current(),
            _room: room,
        });
        self.shared
            .publications
            .try_send(publication)
            .map_err(|error| match error {
                TrySendError::Full(_) => busy(),
                TrySendError::Closed(_) => PublishError::Draining,
            })?;
        // The writer answers every publication it took; it is gone without an answer only when it panicked.
        stored.await.unwrap_or(Err(PublishError::Draining))
    }

    /// Begins to read what `filter` wants, from `start` on, for a subscriber at `address`.
    ///
    /// Costs a read of the log where `start` is a time or a number of events, else nothing.
    pub async fn subscribe(
        &self,
        filter: Filter,
        start: Start,
        address: SocketAddr,
    ) -> Result<Subscription, SubscribeError> {
        Subscription::begin(self.clone(), filter, start, address).await
    }

    /// The events of a stretch, a page at a time; see [`EventLog::page`].
    pub async fn page(
        &self,
        filter: &Filter,
        range: Range,
        order: Order,
        limit: usize,
    ) -> Result<Page, db::Error> {
        self.shared.log.page(filter, range, order, limit).await
    }

    /// The event with this id, if it is kept.
    pub async fn event(&self, id: EventId) -> Result<Option<Event>, db::Error> {
        self.shared.log.event(id).await
    }

    /// The lowest id that an event of this time or later can have.
    pub async fn first_id_since(&self, time: Timestamp) -> Result<EventId, db::Error> {
        self.shared.log.first_id_since(time).await
    }

    /// Up to `limit` topics in the order of their names, those after `after`.
    pub async fn topics_after(
        &self,
        after: &str,
        limit: u32,
    ) -> Result<Vec<TopicSummary>, db::Error> {
        self.shared.log.topics_after(after, limit).await
    }

    /// The oldest and the newest event there are.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            first_id: self.shared.first_id(),
            last_id: self.shared.committed(),
        }
    }

    /// The hub at a glance. Costs two looks at the file system, and nothing that grows with the log.
    pub async fn stats(&self) -> Stats {
        Stats {
            log_id: self.shared.log.id().into(),
            events: self.shared.events.load(Relaxed),
            bounds: self.bounds(),
            size: self.shared.log.size().await,
            uptime: self.shared.opened.elapsed(),
            canary: self.shared.canary.took(),
        }
    }

    /// Has the events of `trim` deleted, and tells how many there were.
    ///
    /// Goes in small steps, one between two commits, so that a publisher waits for one of them at most. When the future is
    /// dropped the steps end.
    pub async fn trim(&self, trim: &Trim) -> Result<u64, ChoreError> {
        if let Some(topic) = &trim.topic {
            let (topic, through) = (topic.clone(), trim.through);
            self.chore(|reply| Chore::MarkTrimmed {
                topic,
                through,
                reply,
            })
            .await?;
        }
        let mut trimmed = 0;
        while let Some(events) = self.trim_step(trim).await? {
            trimmed += events;
        }
        Ok(trimmed)
    }

    /// Has the first few events of `trim` deleted; `None` when there are none left.
    pub async fn trim_step(&self, trim: &Trim) -> Result<Option<u64>, ChoreError> {
        let trim = trim.clone();
        self.chore(|reply| Chore::Trim { trim, reply }).await
    }

    /// Has the notes of trimmed topics dropped that tell no more than the first id does.
    pub async fn forget_marks(&self) -> Result<(), ChoreError> {
        self.chore(Chore::ForgetMarks).await
    }

    /// Has a few free pages of the file given back to the system.
    pub async fn shrink_step(&self) -> Result<(), ChoreError> {
        self.chore(Chore::Shrink).await
    }

    /// Erases an event's data, type and key for good, and announces an event that tells of it. Returns what is left of it;
    /// `None` if there is no such event.
    ///
    /// The bytes are overwritten in the file's pages with the commit, and gone from the WAL after [`clean_wal`](Self::clean_wal).
    pub async fn erase(&self, id: EventId) -> Result<Option<Arc<Event>>, ChoreError> {
        self.chore(|reply| Chore::Erase { id, reply }).await
    }

    /// Erases all events of a topic for good, and announces an event that tells of it, which is returned. `None`: there are
    /// none.
    ///
    /// Goes on to its end when the future is dropped. Where it fails half-way, a part of the events is gone.
    pub async fn erase_topic(&self, topic: Topic) -> Result<Option<Arc<Event>>, ChoreError> {
        let hub = self.clone();
        let erasing = tokio::spawn(async move {
            let last_id = hub.shared.log.last_id_of(&topic, EventId::MAX).await?;
            let Some(through) = last_id else {
                return Ok(None);
            };
            let trim = Trim {
                topic: Some(topic.clone()),
                through,
            };
            let events = hub.trim(&trim).await?;
            let notice = hub.chore(|reply| Chore::TellErased {
                topic,
                through,
                events,
                reply,
            });
            notice.await.map(Some)
        });
        erasing.await.expect("erasing does not panic")
    }

    /// Empties the WAL into the file, if it holds what should be gone from the disk. When a reader is in the way nothing
    /// happens; call it again later.
    pub async fn clean_wal(&self) -> Result<(), ChoreError> {
        match self.shared.wal_is_stale.load(Acquire) {
            true => self.chore(Chore::CleanWal).await,
            false => Ok(()),
        }
    }

    /// What waits for the writer.
    pub fn waiting(&self) -> Waiting {
        self.shared.waiting()
    }

    /// How far those subscribers are behind who are. Looks at each.
    pub fn behind(&self) -> Behind {
        self.shared.progress.behind(self.shared.committed())
    }

    /// Subscribers that have been behind for longer than they may, each once as long as it is. To be asked every few
    /// seconds. Looks at each.
    pub fn find_slow(&self) -> Vec<Slow> {
        let slow_after = self.shared.settings.slow_subscriber;
        let committed = self.shared.committed();
        self.shared.progress.find_slow(committed, slow_after)
    }

    /// What is late and what is slow.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// How many events are kept.
    pub fn kept_events(&self) -> u64 {
        self.shared.events.load(Relaxed)
    }

    /// The log, to look at; see [`EventLog`].
    pub fn log(&self) -> &EventLog {
        &self.shared.log
    }

    /// Has the writer do something between two commits, and waits for it.
    async fn chore<T>(
        &self,
        chore: impl FnOnce(oneshot::Sender<Result<T, db::Error>>) -> Chore,
    ) -> Result<T, ChoreError> {
        let (reply, done) = oneshot::channel();
        if self.shared.chores.send(chore(reply)).await.is_err() {
            return Err(ChoreError::Draining);
        }
        Ok(done.await.map_err(|_| ChoreError::Draining)??)
    }

    /// Notes the highest id beside the file, once a second, for ever. To be dropped when the hub drains; the writer's end
    /// notes the last one.
    pub async fn note_highest(&self) {
        let mut noted = EventId::ZERO;
        let mut failing = false;
        loop {
            let last_id = self.shared.committed();
            if last_id != noted {
                match self.shared.log.note_highest(last_id).await {
                    Ok(()) => (noted, failing) = (last_id, false),
                    Err(error) => {
                        // The first of a row: a disk that is full would else fill the trace as well.
                        if !failing {
                            tracing::error!(%error, "the highest id cannot be noted beside the file");
                        }
                        failing = true;
                    }
                }
            }
            tokio::time::sleep(NOTE_HIGHEST_EVERY).await;
        }
    }

    /// Whether an event that came now would be taken. The writer looks whether its file is in its place, and after a failed
    /// commit tries a small one.
    pub async fn ready(&self) -> Result<(), NotReady> {
        if self.shared.draining.is_cancelled() {
            return Err(NotReady::Draining);
        }
        let late_after = self.canary_late_after();
        let away = self.shared.canary.age();
        if away > late_after {
            return Err(NotReady::Late(away));
        }
        if self.shared.publications.capacity() == 0 {
            return Err(NotReady::Busy);
        }
        let probe = tokio::time::timeout(late_after, self.probe());
        probe.await.unwrap_or(Err(NotReady::Late(late_after)))
    }

    /// Asks the writer whether commits work.
    async fn probe(&self) -> Result<(), NotReady> {
        let (reply, answer) = oneshot::channel();
        if self.shared.chores.send(Chore::Probe(reply)).await.is_err() {
            return Err(NotReady::Draining);
        }
        answer.await.unwrap_or(Err(NotReady::Draining))
    }

    /// Takes no more events and lets the writer end; subscriptions end when they have been handed what was announced.
    ///
    /// Does not wait: the writer's end is the end of the drain.
    pub fn drain(&self) {
        self.shared.draining.cancel();
    }

    /// The events after `cursor` that `filter` wants: from memory if they are recent, else a page of the log.
    async fn page_after(
        &self,
        filter: &Filter,
        cursor: EventId,
        limit: usize,
    ) -> Result<RecentOrLogPage, db::Error> {
        let pages = &self.shared.metrics.replayed_pages;
        if let Some(page) = self.shared.recent.page_after(filter, cursor, limit) {
            pages.get_or_create(&[("source", "memory")]).inc();
            return Ok(page);
        }
        pages.get_or_create(&[("source", "file")]).inc();
        let Page { events, read_on } = self
            .page(filter, Range::after(cursor), Order::Ascending, limit)
            .await?;
        Ok(RecentOrLogPage {
            events: events.into_iter().map(Arc::new).collect(),
            read_on,
        })
    }
}

/// A [`Page`] whose events are shared.
#[derive(Debug)]
struct RecentOrLogPage {
    events: Vec<Arc<Event>>,
    read_on: Option<EventId>,
}

impl Shared {
    fn committed(&self) -> EventId {
        EventId::from_row(self.committed.load(Acquire))
    }

    fn first_id(&self) -> EventId {
        EventId::from_row(self.first_id.load(Acquire))
    }

    fn waiting(&self) -> Waiting {
        Waiting {
            publications: self.publications.max_capacity() - self.publications.capacity(),
            bytes: self.settings.queue.bytes - self.room.available_permits(),
        }
    }

    fn announced(&self) -> EventId {
        EventId::from_row(self.announced.load(Acquire))
    }

    /// Hands committed events to everybody who wants them. Only the writer calls this, in id order.
    fn announce(&self, events: &[Arc<Event>]) -> Announced {
        let Some(last) = events.last() else {
            return Announced::default();
        };
        assert!(events[0].id > self.announced(), "announced in id order");
        self.recent.push(events);
        let count = u64::try_from(events.len()).expect("a commit is small");
        self.events.fetch_add(count, Relaxed);
        self.committed.store(last.id.as_i64(), Release);
        let announced = self.feeds.announce(events);
        self.announced.store(last.id.as_i64(), Release);
        announced
    }
}
