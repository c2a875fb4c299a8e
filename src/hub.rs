//! The hub: takes events, has them committed, announces them, and lets subscribers replay and follow.
//!
//! [`Hub`] is the handle that others hold. Behind it one task, the [writer](Writer), appends, commits and announces; nobody
//! else writes. Nothing here knows of HTTP or SQL.

mod announcements;
mod applier;
mod batch;
mod canary;
#[cfg(feature = "cluster")]
mod cluster;
#[cfg(feature = "cluster")]
mod clustered;
mod command;
mod deletions;
mod feeds;
mod gap;
mod holes;
mod order;
mod origin;
mod position;
mod progress;
mod queue;
mod recent;
mod sources;
mod subscription;
mod trim_marks;
mod upkeep;
mod work;

use std::{
    fs::File,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "cluster")]
use self::cluster::Cluster;
use self::{
    announcements::Announcements,
    applier::Applier,
    canary::Canary,
    command::Act,
    deletions::Deletions,
    feeds::Feeds,
    order::{Intake, Order},
    position::Position,
    progress::ProgressTable,
    queue::Queue,
    recent::Recent,
    sources::Sources,
    trim_marks::TrimMarks,
    upkeep::{StaleWal, Upkeep},
    work::{Chore, Waiting as Waits, WorkQueue},
};
pub use self::{
    batch::Batch,
    canary::CanaryError,
    deletions::Deletion,
    feeds::{CountedSubscriber, SubscriberCount},
    gap::{Gap, GapReason},
    holes::Holes,
    order::Writer,
    origin::{Origin, is_traced},
    position::Bounds,
    progress::{Behind, Slow},
    queue::{PublishError, QUEUE_MAX_BYTES, QueueLimits, Waiting},
    subscription::{Delivery, Start, SubscribeError, Subscription},
    work::WorkError,
};
#[cfg(feature = "cluster")]
pub use self::{
    cluster::{Beat, ClusterStatus, GONE_AFTER, Peer, Rules},
    clustered::{ClusterError, ClusterSettings, REMOVE_AFTER},
    order::{NewestBeat, find_beats},
};
use crate::{
    db::{self, Appender, EventLog, FileSize, Stored, Trim},
    event::{Event, EventId, NewEvent, Topic},
    filter::Filter,
    metrics::Metrics,
    peer_address::PeerAddress,
};

/// What a hub is opened with.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How much may wait for the writer.
    pub queue: QueueLimits,
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
            queue: QueueLimits::default(),
            canary: Duration::from_secs(5),
            slow_commit: Duration::from_secs(1),
            slow_subscriber: Duration::from_mins(1),
        }
    }
}

/// How often a long trim tells how far it is, in a log line.
const TELL_PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// The handle of the hub. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub {
    parts: Arc<Parts>,
}

/// What the handle reaches. Each part knows only the parts that it needs.
#[derive(Debug)]
struct Parts {
    queue: Arc<Queue>,
    work: WorkQueue,
    sources: Arc<Sources>,
    canary: Canary,
    deletions: Deletions,
    stale_wal: StaleWal,
    settings: Settings,
    opened: Instant,
    draining: CancellationToken,
    /// Whose turn it is to copy the log.
    snapshots: Mutex<()>,
    #[cfg(feature = "cluster")]
    cluster: Option<Arc<Cluster>>,
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
    /// What is being deleted, the oldest first.
    pub deletions: Vec<Deletion>,
}

/// Why the hub would refuse an event now.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// It takes no more events.
    #[error("the hub is draining")]
    Draining,
    /// The writer does not answer.
    #[error("the writer does not work: it has not answered for {0:?}")]
    Late(Duration),
    /// The last commit failed, and so does another try.
    #[error("commits fail: {0}")]
    CommitsFail(Arc<db::Error>),
    /// One more publication would be refused.
    #[error("the publish queue is full")]
    Busy,
    /// The hub is behind its cluster, or apart from it.
    #[error("{0}")]
    NotJoined(String),
}

impl Hub {
    /// Opens the file at `path`. `metrics` is where the hub counts. It works as soon as somebody runs the writer, and the file is
    /// let go when the writer has ended.
    pub async fn open(
        path: &Path,
        settings: Settings,
        metrics: Metrics,
    ) -> Result<(Self, Writer), db::OpenError> {
        let (log, appender) = db::open(path).await?;
        if appender.reached().is_some() {
            return Err(db::OpenError::OfCluster(path.into()));
        }
        Self::with(path, log, appender, settings, metrics).await
    }

    async fn with(
        path: &Path,
        log: EventLog,
        mut appender: Appender,
        settings: Settings,
        metrics: Metrics,
    ) -> Result<(Self, Writer), db::OpenError> {
        if let Err(error) = appender.hold_reserve() {
            tracing::warn!(%error, "there is no room for a reserve: on a full disk nothing can be deleted");
        }
        let failed = |source: db::Error| match matches!(source, db::Error::Corrupt(_)) {
            true => db::OpenError::Corrupt(path.into()),
            false => db::OpenError::Sqlite {
                path: path.into(),
                source: source.into(),
            },
        };
        let announcements = read_state(&log, appender.last_id()).await.map_err(failed)?;
        let announcements = Arc::new(announcements);
        let (queue, publications) = Queue::new(settings.queue);
        let (work, waiting_work) = WorkQueue::new();
        let (queue, draining) = (Arc::new(queue), CancellationToken::new());
        let (stale_wal, opened) = (StaleWal::new(), Instant::now());
        let writer = Writer {
            intake: Intake {
                publications,
                work: waiting_work,
                draining: draining.clone(),
            },
            applier: Applier {
                appender,
                upkeep: Upkeep::new(stale_wal.clone()),
                announcements: announcements.clone(),
                log: log.clone(),
                queue: queue.clone(),
                metrics: metrics.clone(),
                slow_commit: settings.slow_commit,
            },
            order: Order::Local,
        };
        let sources = Sources {
            log,
            announcements,
            progress: ProgressTable::default(),
            metrics,
        };
        let parts = Parts {
            queue,
            work,
            sources: Arc::new(sources),
            canary: Canary::new(settings.canary, opened),
            deletions: Deletions::default(),
            stale_wal,
            settings,
            opened,
            draining,
            snapshots: Mutex::new(()),
            #[cfg(feature = "cluster")]
            cluster: None,
        };
        let hub = Self {
            parts: Arc::new(parts),
        };
        Ok((hub, writer))
    }

    /// Has `events` committed, all of them or none, and announced. They follow each other in the log. `origin` is for log lines.
    ///
    /// Waits for the commit. When the future is dropped the events are stored and announced all the same, if they were
    /// taken at all: what is taken is never separated from its announcement.
    pub async fn publish(
        &self,
        events: Vec<NewEvent>,
        origin: Origin,
    ) -> Result<Vec<Stored>, PublishError> {
        self.parts.queue.publish(events, origin).await
    }

    /// Begins to read what `filter` wants, from `start` on, for the subscriber `peer`.
    ///
    /// Costs a read of the log where `start` is a time or a number of events, else nothing. A drain does not wait for it.
    pub async fn subscribe(
        &self,
        filter: Arc<Filter>,
        start: Start,
        peer: PeerAddress,
    ) -> Result<Subscription, SubscribeError> {
        #[cfg(feature = "cluster")]
        let barrier = match start {
            Start::After(cursor) => self.barrier_for(cursor)?,
            Start::Live | Start::Since(_) | Start::First | Start::Last(_) | Start::Unknown => None,
        };
        #[cfg(not(feature = "cluster"))]
        let barrier = None;
        let begin = async {
            let sources = self.parts.sources.clone();
            let begun = Subscription::begin(sources, filter, start, peer).await?;
            Ok(begun.behind_barrier(barrier))
        };
        tokio::select! {
            begun = begin => begun,
            () = self.parts.draining.cancelled() => Err(SubscribeError::Draining),
        }
    }

    /// The gap of a reader whose cursor is above the newest event: it is of another log, or of a newer copy of this one. In a cluster
    /// the hub first catches up with the others.
    pub async fn find_ahead(&self, cursor: EventId) -> Result<Option<Gap>, SubscribeError> {
        #[cfg(feature = "cluster")]
        self.wait_for(cursor).await?;
        let bounds = self.bounds();
        Ok((cursor > bounds.last_id).then(|| Gap {
            reason: GapReason::Ahead,
            requested: Some(cursor),
            bounds,
            cursor: bounds.first_id.previous(),
        }))
    }

    /// Finds the holes of a range that is read page by page. To be called before its first page is read. `after_a_cursor`: its reader
    /// has what lies before the range, and is told as well of what was gone already.
    pub fn holes(&self, after_a_cursor: bool) -> Holes {
        let sources = self.parts.sources.clone();
        match after_a_cursor {
            true => Holes::after_a_cursor(sources),
            false => Holes::of_what_is_kept(sources),
        }
    }

    /// The event with this id; `None` if there is none. In a cluster an id above the newest is waited for, a second at most.
    pub async fn event(&self, id: EventId) -> Result<Option<Event>, db::Error> {
        #[cfg(feature = "cluster")]
        self.wait_for_event(id).await;
        self.log().event(id).await
    }

    /// How many subscribers each of `topics` has at this hub, in their order. None once it drains.
    pub async fn subscribers_of(&self, topics: &[&str]) -> Vec<SubscriberCount> {
        let sources = &self.parts.sources;
        let feeds = &sources.announcements.feeds;
        feeds.subscribers_of(topics, sources.log.scans()).await
    }

    /// The log, to read.
    pub fn log(&self) -> &EventLog {
        &self.parts.sources.log
    }

    /// The oldest and the newest event.
    pub fn bounds(&self) -> Bounds {
        self.position().bounds()
    }

    /// How many events are kept.
    pub fn kept_events(&self) -> u64 {
        self.position().events()
    }

    /// Copies the log to a file without a name; its length is in bytes. One copy at a time is made, others wait.
    pub async fn snapshot(&self) -> Result<(File, u64), db::CopyError> {
        let _turn = self.parts.snapshots.lock().await;
        let made = self.log().snapshot().await?;
        self.metrics().snapshots.inc();
        Ok(made)
    }

    /// The hub at a glance. Costs two looks at the file system, and nothing that grows with the log.
    pub async fn stats(&self) -> Stats {
        Stats {
            log_id: self.log().id().into(),
            events: self.kept_events(),
            bounds: self.bounds(),
            size: self.log().size().await,
            uptime: self.parts.opened.elapsed(),
            canary: self.parts.canary.took(),
            deletions: self.parts.deletions.all(),
        }
    }

    /// Has the events of `trim` deleted, and returns how many there were.
    ///
    /// Goes in small steps, one between two commits, so that a publisher waits for one of them at most. When the future is
    /// dropped the steps end.
    pub async fn trim(&self, trim: &Trim) -> Result<u64, WorkError> {
        let progress = self.parts.deletions.begin(trim);
        if let Some(topic) = &trim.topic {
            let (topic, through) = (topic.clone(), trim.through);
            let mark = Act::MarkTrimmed { topic, through };
            let marked = self.parts.work.change(mark, Waits::MarkTrimmed);
            marked.await?;
        }
        let (mut trimmed, mut told) = (0, Instant::now());
        while let Some(events) = self.trim_step(trim).await? {
            trimmed += events;
            progress.deleted(events);
            if told.elapsed() >= TELL_PROGRESS_EVERY {
                told = Instant::now();
                let topic = trim.topic.as_ref().map(Topic::as_str);
                tracing::info!(topic, trimmed_events = trimmed, "still deleting events");
            }
        }
        Ok(trimmed)
    }

    /// Has the first few events of `trim` deleted; `None` when there are none left.
    pub async fn trim_step(&self, trim: &Trim) -> Result<Option<u64>, WorkError> {
        let step = Act::TrimStep(trim.clone());
        self.parts.work.change(step, Waits::TrimStep).await
    }

    /// Erases an event's data, type and key for good, and announces an event that tells of it. Returns what is left of it;
    /// `None` if there is no such event.
    ///
    /// The bytes are overwritten in the file's pages with the commit, and gone from the WAL after [`clean_wal`](Self::clean_wal).
    pub async fn erase(&self, id: EventId) -> Result<Option<Arc<Event>>, WorkError> {
        let erase = Act::Erase(id);
        self.parts.work.change(erase, Waits::Erase).await
    }

    /// Erases all events of a topic for good, and announces an event that tells of it, which is returned. `None`: there are
    /// none.
    ///
    /// Goes on to its end when the future is dropped. Where it fails half-way, a part of the events is gone.
    pub async fn erase_topic(&self, topic: Topic) -> Result<Option<Arc<Event>>, WorkError> {
        let hub = self.clone();
        let erasing = tokio::spawn(async move {
            let last_id = hub.log().last_id_of(&topic, EventId::MAX).await?;
            let Some(through) = last_id else {
                return Ok(None);
            };
            let trim = Trim {
                topic: Some(topic.clone()),
                through,
                erases: true,
            };
            let begun = Instant::now();
            let events = hub.trim(&trim).await?;
            tracing::info!(
                topic = topic.as_str(),
                trimmed_events = events,
                duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                "erased a topic"
            );
            let tell = Act::TellErased {
                topic,
                through,
                events,
            };
            let notice = hub.parts.work.change(tell, Waits::TellErased);
            notice.await.map(Some)
        });
        erasing.await.expect("erasing does not panic")
    }

    /// Has the marks of trimmed topics dropped that tell no more than the first id does.
    pub async fn forget_marks(&self) -> Result<(), WorkError> {
        self.parts.work.chore(Chore::ForgetMarks).await
    }

    /// Has a few free pages of the file given back to the system.
    pub async fn shrink_step(&self) -> Result<(), WorkError> {
        self.parts.work.chore(Chore::Shrink).await
    }

    /// Empties the WAL into the file, if it holds what should be gone from the disk. When a reader is in the way nothing
    /// happens; call it again later.
    pub async fn clean_wal(&self) -> Result<(), WorkError> {
        match self.parts.stale_wal.is_stale() {
            true => self.parts.work.chore(Chore::CleanWal).await,
            false => Ok(()),
        }
    }

    /// Notes the highest id beside the file, once a second, for ever. To be dropped when the hub drains; the writer's end
    /// notes the last one.
    pub async fn note_highest(&self) {
        upkeep::note_highest(self.log(), self.position()).await;
    }

    /// What waits for the writer.
    pub fn waiting(&self) -> Waiting {
        self.parts.queue.waiting()
    }

    /// How far behind the subscriptions are that are behind. Looks at each.
    pub fn behind(&self) -> Behind {
        let committed = self.position().committed();
        self.parts.sources.progress.behind(committed)
    }

    /// Subscriptions that have been behind for longer than they may, each once until it has caught up. To be called every few
    /// seconds. Looks at each.
    pub fn find_slow(&self) -> Vec<Slow> {
        let committed = self.position().committed();
        let progress = &self.parts.sources.progress;
        progress.find_slow(committed, self.parts.settings.slow_subscriber)
    }

    /// What it was opened with.
    pub fn settings(&self) -> &Settings {
        &self.parts.settings
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.parts.sources.metrics
    }

    /// Sends a ping through the queue and the writer, and waits for the answer.
    pub async fn send_canary(&self) -> Result<(), CanaryError> {
        let Parts { canary, queue, .. } = &*self.parts;
        canary.send(queue, self.metrics()).await
    }

    /// Time since the canary was last answered.
    pub fn canary_age(&self) -> Duration {
        self.parts.canary.age()
    }

    /// Whether the hub has stopped working for good, so that only a restart will help: the canary has not been answered for a
    /// long time.
    pub fn is_stuck(&self) -> bool {
        !self.parts.draining.is_cancelled() && self.parts.canary.is_stuck()
    }

    /// Whether an event that came now would be taken. The writer looks whether its file is in its place, and after a start
    /// or a failed commit tries a small one.
    pub async fn ready(&self) -> Result<(), NotReady> {
        if self.parts.draining.is_cancelled() {
            return Err(NotReady::Draining);
        }
        let late_after = self.parts.canary.late_after();
        let age = self.parts.canary.age();
        if age > late_after {
            return Err(NotReady::Late(age));
        }
        if self.parts.queue.is_full() {
            return Err(NotReady::Busy);
        }
        #[cfg(feature = "cluster")]
        if let Some(why) = self
            .parts
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.is_not_ready())
        {
            return Err(NotReady::NotJoined(why));
        }
        let probe = tokio::time::timeout(late_after, self.parts.work.chore(Chore::Probe));
        match probe.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(WorkError::Draining)) => Err(NotReady::Draining),
            Ok(Err(WorkError::Log(error))) => Err(NotReady::CommitsFail(error)),
            Ok(Err(error @ (WorkError::Unordered(_) | WorkError::OutcomeUnknown))) => {
                Err(NotReady::NotJoined(error.to_string()))
            }
            Err(_) => Err(NotReady::Late(late_after)),
        }
    }

    /// Takes no more events and lets the writer end; subscriptions end when they have been handed what was announced.
    ///
    /// Does not wait: the writer's end is the end of the drain.
    pub fn drain(&self) {
        self.parts.draining.cancel();
    }

    fn position(&self) -> &Position {
        &self.parts.sources.announcements.position
    }
}

/// Reads what subscribers are told without a look at the file.
async fn read_state(log: &EventLog, last_id: EventId) -> Result<Announcements, db::Error> {
    let first_id = log.first_id().await?.unwrap_or(last_id.next());
    let recent = Recent::load(log, last_id).await?;
    let events = log.count().await?;
    let trimmed = log.trimmed_after(&Filter::default(), EventId::ZERO).await?;
    let bounds = Bounds { first_id, last_id };
    Ok(Announcements {
        position: Position::new(bounds, events),
        recent,
        feeds: Feeds::new(),
        trim_marks: TrimMarks::new(trimmed.is_some()),
    })
}
