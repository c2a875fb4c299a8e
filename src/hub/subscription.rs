//! Replay, then live, with no seam: the hub's side of one subscriber.

use std::{future::poll_fn, pin::pin, sync::Arc};

use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::task::AbortOnDropHandle;

use super::{
    batch::Batch,
    feeds::{Announcement, CountedSubscriber, FeedReceiver},
    gap::{Gap, GapReason},
    holes::Told,
    position::Bounds,
    progress::ProgressHandle,
    recent::RecentPage,
    sources::{PAGE_MAX_EVENTS, Sources},
    work::WorkError,
};
use crate::{
    db::{self, Order, Range},
    event::{Event, EventId, Timestamp},
    filter::Filter,
    metrics::Metrics,
    peer_address::PeerAddress,
};

/// Where a subscriber begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With what is committed from now on.
    Live,
    /// After the event with this id.
    After(EventId),
    /// With the first event of this time or later.
    Since(Timestamp),
    /// With the first event kept.
    First,
    /// With the newest N that match.
    Last(u64),
    /// Where a client was in another log, which means nothing here: with the first event kept, after a gap that tells so.
    Unknown,
}

/// What a subscriber gets.
#[derive(Debug)]
pub enum Delivery {
    /// The next events it wants.
    Events(Arc<Batch>),
    /// It missed some, for good.
    Gap(Gap),
}

/// Why a subscription did not begin.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The hub takes no more subscribers.
    #[error("the hub is draining")]
    Draining,
    /// The subscriber was at a hub that is ahead of this one, and this one cannot catch up.
    #[error("the subscriber is ahead of this hub, which is apart from its cluster")]
    NotJoined(#[source] WorkError),
    /// The log could not tell where to begin.
    #[error("the start of the subscription was not found")]
    Log(#[from] db::Error),
}

/// Yields each event after its cursor that its filter wants, once, in id order.
///
/// It holds no events but those it was just given. A subscriber that is slow falls behind the announcements, reads the log
/// again from its cursor, and is live again when it has caught up.
#[derive(Debug)]
pub struct Subscription {
    sources: Arc<Sources>,
    filter: Arc<Filter>,
    cursor: EventId,
    feed: FeedReceiver,
    progress: ProgressHandle,
    behind: bool,
    told: Told,
    /// Whether it has yet to be told that its start is of no use here.
    start_is_unknown: bool,
    /// What is waited for before anything is read: this hub has all that a cursor of another hub of its cluster stands for.
    barrier: Option<Barrier>,
    /// A page that is given after the gap that was found while it was read.
    held: Option<ReplayedPage>,
}

/// Ends when this hub has all that was in order when it began.
pub(super) type Barrier = AbortOnDropHandle<Result<(), WorkError>>;

/// Waits behind a barrier.
pub(super) async fn pass(barrier: &mut Barrier) -> Result<(), SubscribeError> {
    let passed = barrier.await.unwrap_or(Err(WorkError::Draining));
    passed.map_err(SubscribeError::NotJoined)
}

/// Events that lie between the cursor and `read_to`.
#[derive(Debug)]
struct ReplayedPage {
    events: Vec<Arc<Event>>,
    read_to: EventId,
    /// Whether more was committed when it was read.
    has_more: bool,
}

impl Subscription {
    pub(super) async fn begin(
        sources: Arc<Sources>,
        filter: Arc<Filter>,
        start: Start,
        peer: PeerAddress,
    ) -> Result<Self, SubscribeError> {
        // Taken before the log is read: an event committed in between is then in both, and the cursor drops the copy.
        // The other way round it would be in neither.
        let feed = sources
            .announcements
            .feeds
            .join(&filter)
            .ok_or(SubscribeError::Draining)?;
        let mut subscription = Self {
            progress: sources.progress.join(peer),
            sources,
            filter,
            cursor: EventId::ZERO,
            feed,
            behind: true,
            told: Told::NOTHING,
            start_is_unknown: start == Start::Unknown,
            barrier: None,
            held: None,
        };
        // A drain does not wait for a long search: the subscriber comes back and begins it again.
        let sources = subscription.sources.clone();
        tokio::select! {
            found = subscription.go_to(start) => found?,
            () = sources.announcements.feeds.closed() => return Err(SubscribeError::Draining),
        }
        subscription.behind = subscription.start_is_unknown
            || subscription.cursor != subscription.sources.position().committed();
        Ok(subscription)
    }

    /// Goes to where it begins.
    async fn go_to(&mut self, start: Start) -> Result<(), db::Error> {
        let cursor = self.find(start).await?;
        self.move_to(cursor);
        if matches!(
            start,
            Start::First | Start::Since(_) | Start::Last(_) | Start::Unknown
        ) {
            // It asked for what is kept, and misses nothing that was gone before.
            self.find_trimmed().await?;
            self.find_lost();
        }
        Ok(())
    }

    async fn find(&self, start: Start) -> Result<EventId, db::Error> {
        let Bounds { first_id, last_id } = self.sources.position().bounds();
        Ok(match start {
            Start::Live => last_id,
            Start::After(cursor) => cursor,
            Start::First | Start::Unknown => first_id.previous(),
            Start::Since(time) => {
                let first_id = self.sources.log.first_id_since(time).await?;
                first_id.previous().min(last_id)
            }
            Start::Last(0) => last_id,
            Start::Last(events) => self
                .before_the_newest(events, last_id)
                .await?
                .max(first_id.previous()),
        })
    }

    /// The cursor that leaves the newest `events` that match up to `last_id` to be read.
    async fn before_the_newest(&self, events: u64, last_id: EventId) -> Result<EventId, db::Error> {
        let mut left = events;
        let mut range = Range {
            after: EventId::ZERO,
            before: last_id.next(),
        };
        loop {
            let limit =
                usize::try_from(left).map_or(PAGE_MAX_EVENTS, |left| left.min(PAGE_MAX_EVENTS));
            let page = self
                .sources
                .log
                .page(&self.filter, range, Order::Descending, limit)
                .await?;
            left -= u64::try_from(page.events.len()).expect("a page is small");
            match (left, page.events.last(), page.read_on) {
                (0, Some(oldest), _) => return Ok(oldest.id.previous()),
                (_, _, Some(id)) => range.before = id,
                (_, _, None) => return Ok(EventId::ZERO),
            }
        }
    }

    /// Lets it read nothing before `barrier`, whose failure it tells.
    pub(super) fn behind_barrier(mut self, barrier: Option<Barrier>) -> Self {
        self.barrier = barrier;
        self
    }

    /// Another subscription, for the subscriber `peer`, that goes on where this one is.
    pub fn fork(&self, peer: PeerAddress) -> Self {
        let progress = self.sources.progress.join(peer);
        progress.reached(self.cursor);
        Self {
            progress,
            sources: self.sources.clone(),
            filter: self.filter.clone(),
            cursor: self.cursor,
            // Receives what is announced from now on. What this one has waiting is in the log.
            feed: self.sources.announcements.feeds.join_again(&self.feed),
            behind: true,
            told: self.told,
            start_is_unknown: self.start_is_unknown,
            barrier: None,
            held: None,
        }
    }

    /// Where the subscriber is that it was made for.
    pub fn peer(&self) -> PeerAddress {
        self.progress.peer()
    }

    /// Counts one subscriber that is given what this yields, or what another one with the same filter does.
    pub fn count_subscriber(&self) -> CountedSubscriber {
        self.feed.count_subscriber()
    }

    /// What it wants.
    pub fn filter(&self) -> &Arc<Filter> {
        &self.filter
    }

    /// Whether it takes what is announced, and need not read the log.
    pub fn is_live(&self) -> bool {
        !self.behind
    }

    /// The id up to which the subscriber has been given all it wants.
    pub fn cursor(&self) -> EventId {
        self.cursor
    }

    /// The id of the log it reads.
    pub fn log_id(&self) -> &str {
        self.sources.log.id()
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.sources.metrics
    }

    /// Moves the cursor over announced events that the filter did not want, if nothing that it wants is waiting.
    pub fn settle(&mut self) {
        // Read before the feed is looked at: all up to here has been handed to the feed by now.
        let announced = self.sources.position().announced();
        if !self.behind && self.feed.receiver.is_empty() {
            self.move_to(self.cursor.max(announced));
        }
    }

    fn move_to(&mut self, cursor: EventId) {
        self.cursor = cursor;
        self.progress.reached(cursor);
    }

    /// Waits for what comes next. `None`: the hub drains, and the subscriber may come back with its cursor.
    ///
    /// Dropping the future is safe: what it was about to yield is yielded by the next call.
    pub async fn next(&mut self) -> Result<Option<Delivery>, SubscribeError> {
        loop {
            if self.behind {
                let sources = self.sources.clone();
                let replayed = tokio::select! {
                    biased;
                    // A drain does not wait for a long replay: the subscriber comes back with its cursor.
                    () = sources.announcements.feeds.closed() => return Ok(None),
                    replayed = self.replay() => replayed?,
                };
                if let Some(delivery) = replayed {
                    return Ok(Some(delivery));
                }
                continue;
            }
            match self.receive().await {
                Ok(announcement) => {
                    if let Some(batch) = self.take(announcement) {
                        return Ok(Some(Delivery::Events(batch)));
                    }
                }
                Err(RecvError::Lagged(_)) => self.behind = true,
                Err(RecvError::Closed) => return Ok(None),
            }
        }
    }

    /// What was announced and waits to be taken; `None` if nothing does, or if it must be read from the log.
    pub fn next_waiting(&mut self) -> Option<Arc<Batch>> {
        while !self.behind {
            match self.feed.receiver.try_recv() {
                Ok(announcement) => {
                    if let Some(batch) = self.take(announcement) {
                        return Some(batch);
                    }
                }
                Err(TryRecvError::Lagged(_)) => self.behind = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
        None
    }

    /// What is new of an announcement.
    fn take(&mut self, announcement: Announcement) -> Option<Arc<Batch>> {
        match announcement {
            Announcement::Events(batch) => {
                let batch = batch.after(self.cursor)?;
                self.move_to(batch.last_id());
                Some(batch)
            }
            Announcement::Look => {
                // One look finds all that was announced before it.
                self.behind = self.cursor < self.sources.position().committed();
                None
            }
        }
    }

    /// Waits for what the feed announces next, at rest as long as there is nothing.
    async fn receive(&mut self) -> Result<Announcement, RecvError> {
        let mut received = pin!(self.feed.receiver.recv());
        let progress = &self.progress;
        let received = poll_fn(|context| {
            let received = received.as_mut().poll(context);
            if received.is_pending() {
                progress.rest();
            }
            received
        });
        let received = received.await;
        progress.work();
        received
    }

    /// The gap of a subscriber that began at an [unknown](Start::Unknown) place, once. If nobody takes it, [`next`](Self::next)
    /// yields it first.
    pub fn take_unknown_start(&mut self) -> Option<Gap> {
        std::mem::take(&mut self.start_is_unknown).then(|| {
            let bounds = self.sources.position().bounds();
            self.tell_gap(GapReason::Unknown, None, bounds)
        })
    }

    fn tell_gap(&self, reason: GapReason, requested: Option<EventId>, bounds: Bounds) -> Gap {
        let gaps = &self.metrics().gaps;
        gaps.get_or_create(&[("reason", reason.as_str())]).inc();
        Gap {
            reason,
            requested,
            bounds,
            cursor: self.cursor,
        }
    }

    /// Whether what lies after the cursor is gone; if so the cursor moves to where reading goes on.
    async fn find_gap(&mut self) -> Result<Option<Gap>, db::Error> {
        if let Some(gap) = self.take_unknown_start() {
            return Ok(Some(gap));
        }
        let bounds = self.sources.position().bounds();
        let requested = self.cursor;
        let reason = if requested > bounds.last_id {
            GapReason::Ahead
        } else if self.find_lost() {
            GapReason::Lost
        } else if self.is_overtaken() || self.find_trimmed().await? {
            GapReason::Trimmed
        } else {
            return Ok(None);
        };
        if reason == GapReason::Ahead || requested < bounds.first_id.previous() {
            self.move_to(bounds.first_id.previous());
        }
        Ok(Some(self.tell_gap(reason, Some(requested), bounds)))
    }

    /// Whether events after the cursor were lost, and the subscriber does not know yet.
    fn find_lost(&mut self) -> bool {
        let Some(lost) = self.told.find_lost(&self.sources, self.cursor) else {
            return false;
        };
        if self.cursor > lost.after {
            // Nothing is left between the cursor and here.
            self.move_to(lost.through);
        }
        true
    }

    /// Whether the oldest events were trimmed to beyond the cursor.
    fn is_overtaken(&self) -> bool {
        self.cursor < self.sources.position().first_id().previous()
    }

    /// Whether a topic that is wanted was trimmed to beyond the cursor, and the subscriber does not know yet.
    async fn find_trimmed(&mut self) -> Result<bool, db::Error> {
        self.told
            .find_trimmed(&self.sources, &self.filter, self.cursor)
            .await
    }

    /// Takes the next step of a replay: a gap, or a page if it has an event.
    async fn replay(&mut self) -> Result<Option<Delivery>, SubscribeError> {
        if let Some(barrier) = &mut self.barrier {
            let passed = pass(barrier).await;
            self.barrier = None;
            passed?;
        }
        if let Some(page) = self.held.take() {
            return Ok(self.give(page));
        }
        if let Some(gap) = self.find_gap().await? {
            return Ok(Some(Delivery::Gap(gap)));
        }
        let page = self.read_page().await?;
        if self.is_overtaken() {
            // The oldest events went meanwhile, and the page may begin behind a hole. That is found by the next step.
            return Ok(None);
        }
        if self.find_trimmed().await? {
            // There may be a hole in the page, and the hole is told first. The page is good all the same: to read another one
            // would never end while topics are trimmed all the time.
            self.held = Some(page);
            let bounds = self.sources.position().bounds();
            let gap = self.tell_gap(GapReason::Trimmed, Some(self.cursor), bounds);
            return Ok(Some(Delivery::Gap(gap)));
        }
        Ok(self.give(page))
    }

    /// The page after the cursor.
    async fn read_page(&self) -> Result<ReplayedPage, db::Error> {
        // Read before the page, which ends here: what is committed later comes over the feed too. A page that went on behind it
        // would leave a cursor above the newest event that anybody has been told of.
        let committed = self.sources.position().committed();
        let range = Range {
            after: self.cursor,
            before: committed.next(),
        };
        let RecentPage { events, read_on } = self.sources.page(&self.filter, range).await?;
        assert!(
            events.first().is_none_or(|event| event.id > self.cursor),
            "a page lies after the cursor"
        );
        Ok(ReplayedPage {
            events,
            read_to: read_on.unwrap_or(committed),
            has_more: read_on.is_some(),
        })
    }

    /// Moves the cursor over a page. `None` if it has no events.
    fn give(&mut self, page: ReplayedPage) -> Option<Delivery> {
        self.move_to(page.read_to.max(self.cursor));
        self.behind = page.has_more;
        (!page.events.is_empty()).then(|| Delivery::Events(Batch::new(page.events)))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.sources.announcements.feeds.leave(&self.feed);
        self.sources.progress.leave(&self.progress);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use tempfile::TempDir;

    use super::*;
    use crate::{
        event::{Data, EventType, NewEvent, Topic},
        filter::Pattern,
        hub::{
            announcements::Announcements,
            feeds::Feeds,
            position::Position,
            progress::ProgressTable,
            recent::Recent,
            trim_marks::{TrimMark, TrimMarks},
        },
    };

    /// A subscription that begins after `cursor`, in a log of `count` events of which the first `committed` were told of.
    async fn begin(
        topics: Vec<Pattern>,
        [count, committed, cursor]: [i64; 3],
    ) -> (TempDir, Arc<Sources>, Subscription) {
        let folder = tempfile::tempdir().unwrap();
        let (log, mut appender) = db::open(&folder.path().join("segno.db")).await.unwrap();
        let published = |_| db::Published {
            at: Timestamp::from_millis(1),
            events: vec![NewEvent {
                topic: Topic::from_row("t"),
                event_type: EventType::default(),
                data: Data::from_text("x").unwrap(),
                key: None,
            }],
        };
        let events = (0..count).map(published).collect();
        appender.append(events).await.unwrap();
        let bounds = Bounds {
            first_id: EventId::from_row(1),
            last_id: EventId::from_row(committed),
        };
        let sources = Arc::new(Sources {
            announcements: Arc::new(Announcements {
                position: Position::new(bounds, committed.unsigned_abs()),
                recent: Recent::load(&log, EventId::from_row(count)).await.unwrap(),
                feeds: Feeds::new(),
                trim_marks: TrimMarks::new(false),
            }),
            log,
            progress: ProgressTable::default(),
            metrics: Metrics::default(),
        });
        let start = Start::After(EventId::from_row(cursor));
        let peer = PeerAddress::Unix;
        let filter = Filter::new(topics, Vec::new()).unwrap();
        let begun = Subscription::begin(sources.clone(), filter.into(), start, peer);
        (folder, sources, begun.await.unwrap())
    }

    /// A commit stands in the file, and in memory, before anybody is told of it. A page that took it in left a cursor above all
    /// ids there were, and the next step took that for a cursor of another log.
    #[tokio::test]
    async fn a_page_ends_where_the_announced_log_does() {
        let (_folder, _, mut subscription) = begin(Vec::new(), [1200, 600, 99]).await;
        while !subscription.is_live() {
            match subscription.replay().await.unwrap() {
                Some(Delivery::Events(_)) | None => (),
                Some(Delivery::Gap(gap)) => panic!("{gap:?}"),
            }
        }
        assert_eq!(subscription.cursor().as_i64(), 600);
    }

    /// Where a topic is trimmed each time that a page is read, as retention does on a busy hub, a page that was read again after each
    /// gap would never be given.
    #[tokio::test]
    async fn a_page_is_given_after_the_gap_that_was_found_while_it_was_read() {
        // It waits for its turn before it reads.
        let costly = (0..90).map(|n| format!("{}{n}*", "*a".repeat(7)));
        let topics = costly
            .chain(["t".to_owned()])
            .map(|topic| Pattern::new(&topic).unwrap());
        let (_folder, sources, mut subscription) = begin(topics.collect(), [1200, 1200, 0]).await;
        let mut given = Vec::new();
        for through in 600..604 {
            let mut replaying = pin!(subscription.replay());
            let polled = poll_fn(|context| Poll::Ready(replaying.as_mut().poll(context))).await;
            let replayed = match polled {
                Poll::Ready(replayed) => replayed,
                Poll::Pending => {
                    sources.announcements.trim_marks.push(TrimMark {
                        topic: Topic::from_row("t"),
                        through: EventId::from_row(through),
                    });
                    replaying.await
                }
            };
            given.push(match replayed.unwrap() {
                Some(Delivery::Events(_)) => "events",
                Some(Delivery::Gap(gap)) => gap.reason.as_str(),
                None => "nothing",
            });
        }
        assert_eq!(given, ["trimmed", "events", "trimmed", "events"]);
    }
}
