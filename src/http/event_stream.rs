//! What a subscriber, or an audience, is sent: blocks of bytes, from the opening to the farewell.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use super::{
    frame::{self, Format, Notice},
    problem::Problem,
};
use crate::{
    event::{Event, EventId},
    filter::Filter,
    hub::{Batch, Delivery, Subscription},
    peer_address::PeerAddress,
};

/// How soon a client comes back after a cut: about 2 s, spread so that they do not come together.
const RETRY: std::ops::Range<u64> = 1500..2500;

/// How soon a client comes back after the hub has ended its stream: spread over a few seconds, because all streams end at
/// once and the next hub needs a moment to start.
const FAREWELL_RETRY: std::ops::Range<u64> = 1000..5000;

pub(super) fn spread(millis: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(fastrand::u64(millis))
}

/// What a stream is of. Streams of one kind that have the same cursor are sent the same bytes from there on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct StreamKind {
    filter: Arc<Filter>,
    format: Format,
}

/// What is sent to a subscriber, or to several that have the same cursor.
#[derive(Debug)]
pub(crate) struct EventStream {
    subscription: Subscription,
    format: Format,
    heartbeat: Duration,
    /// The cursor the client has.
    told: EventId,
    stage: Stage,
    quiet: Pin<Box<Sleep>>,
    last_sent: Instant,
    /// Events that are still to be sent, where that has an end.
    left: Option<usize>,
    /// Events that were rendered and not yet [counted](Self::count_delivery).
    rendered_events: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opening,
    Following,
    Ended,
}

impl EventStream {
    pub(super) fn new(subscription: Subscription, format: Format, heartbeat: Duration) -> Self {
        let now = Instant::now();
        Self {
            told: subscription.cursor(),
            subscription,
            format,
            heartbeat,
            stage: Stage::Opening,
            quiet: Box::pin(tokio::time::sleep_until(now + heartbeat)),
            last_sent: now,
            left: None,
            rendered_events: 0,
        }
    }

    /// The same, but that it ends when `count` events were sent.
    pub(super) fn ending_after(self, count: Option<usize>) -> Self {
        Self {
            left: count,
            ..self
        }
    }

    /// Whether it ends without the hub's or its reader's end.
    pub(crate) fn ends_by_itself(&self) -> bool {
        self.left.is_some()
    }

    /// Whether all events that were asked for were sent.
    pub(super) fn has_given_all(&self) -> bool {
        self.left == Some(0)
    }

    /// How it is written.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Another stream, for the subscriber `peer`, that goes on where this one is.
    pub(crate) fn fork(&self, peer: PeerAddress) -> Self {
        Self {
            told: self.told,
            stage: self.stage,
            ..Self::new(self.subscription.fork(peer), self.format, self.heartbeat)
        }
    }

    /// The subscriber that it was made for.
    pub(crate) fn peer(&self) -> PeerAddress {
        self.subscription.peer()
    }

    /// Counts what was rendered last, `bytes` in all, as handed to `sockets` sockets.
    pub(crate) fn count_delivery(&mut self, bytes: usize, sockets: usize) {
        let times = |count: usize| u64::try_from(count * sockets).expect("a block is small");
        let metrics = self.subscription.metrics();
        metrics.delivered_bytes.inc_by(times(bytes));
        metrics
            .delivered_events
            .inc_by(times(std::mem::take(&mut self.rendered_events)));
    }

    /// What shows that the stream is alive, and tells nothing new. A line of NDJSON has no comments.
    pub(crate) fn sign_of_life(&self) -> Bytes {
        match self.format {
            Format::Data | Format::Event | Format::Text => Bytes::from_static(frame::COMMENT),
            Format::Ndjson => self.notice(self.cursor_notice(self.told, None)),
        }
    }

    fn notice(&self, notice: Notice<'_>) -> Bytes {
        let mut out = Vec::with_capacity(128);
        notice.write(self.format, &mut out);
        out.into()
    }

    fn cursor_notice(&self, cursor: EventId, retry: Option<Duration>) -> Notice<'_> {
        Notice::Cursor {
            cursor,
            log_id: self.subscription.log_id(),
            retry,
        }
    }

    /// What it is a stream of.
    pub(crate) fn kind(&self) -> StreamKind {
        StreamKind {
            filter: self.subscription.filter().clone(),
            format: self.format,
        }
    }

    /// Whether it follows what is announced, and has nothing to replay.
    pub(crate) fn is_live(&self) -> bool {
        self.stage == Stage::Following && self.subscription.is_live()
    }

    /// The cursor it has reached, moved over events that it did not want.
    pub(crate) fn settle(&mut self) -> EventId {
        self.subscription.settle();
        self.subscription.cursor()
    }

    /// The next bytes, if they were announced already.
    pub(crate) fn next_waiting(&mut self) -> Option<Bytes> {
        if !self.is_live() {
            return None;
        }
        let batch = self.subscription.next_waiting()?;
        self.last_sent = Instant::now();
        Some(self.render(&batch))
    }

    /// The next block or blocks for the client; `None` when nothing comes any more but the [farewell](Self::farewell).
    ///
    /// Dropping the future is safe: the next call goes on where this one was.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let bytes = match self.stage {
            Stage::Opening => {
                self.stage = Stage::Following;
                // In one write with the first block, whose id is a cursor that the client never asked for: a cut between the two
                // would hide the gap.
                let gap = self.subscription.take_unknown_start();
                let mut out = Vec::with_capacity(256);
                frame::write_opening(self.format, &mut out);
                self.cursor_notice(self.told, Some(spread(RETRY)))
                    .write(self.format, &mut out);
                if let Some(gap) = gap {
                    Notice::Gap(&gap).write(self.format, &mut out);
                }
                out.into()
            }
            Stage::Following => self.follow().await?,
            Stage::Ended => return None,
        };
        self.last_sent = Instant::now();
        Some(bytes)
    }

    async fn follow(&mut self) -> Option<Bytes> {
        loop {
            tokio::select! {
                biased;
                delivery = self.subscription.next() => return match delivery {
                    Ok(Some(Delivery::Events(batch))) => Some(self.render(&batch)),
                    Ok(Some(Delivery::Gap(gap))) => {
                        self.told = gap.cursor;
                        Some(self.notice(Notice::Gap(&gap)))
                    }
                    Ok(None) => {
                        self.stage = Stage::Ended;
                        None
                    }
                    Err(error) => Some(self.fail(&error.into())),
                },
                () = &mut self.quiet => {
                    // The timer is set anew only here: an event costs no timer.
                    let due = self.last_sent + self.heartbeat;
                    let now = Instant::now();
                    self.quiet.as_mut().reset(if due > now { due } else { now + self.heartbeat });
                    if due <= now {
                        return Some(self.beat());
                    }
                }
            }
        }
    }

    fn beat(&mut self) -> Bytes {
        let cursor = self.settle();
        if cursor == self.told {
            return self.sign_of_life();
        }
        self.told = cursor;
        self.notice(self.cursor_notice(cursor, None))
    }

    /// What lies behind an event that cannot be read is not sent: it would look as if there were nothing between.
    fn fail(&mut self, problem: &Problem) -> Bytes {
        self.stage = Stage::Ended;
        let cursor = self.subscription.cursor();
        self.notice(Notice::Error {
            problem: &problem.to_json(),
            cursor,
        })
    }

    /// The last block, for one subscriber: when to come back, which is another time for each.
    pub(crate) fn farewell(&mut self) -> Bytes {
        let cursor = self.settle();
        self.notice(self.cursor_notice(cursor, Some(spread(FAREWELL_RETRY))))
    }

    /// The last block, for a subscriber who may not go on.
    pub(crate) fn expired(&self, reason: &str) -> Bytes {
        self.notice(Notice::Expired {
            reason,
            cursor: self.told,
        })
    }

    fn render(&mut self, batch: &Batch) -> Bytes {
        let events = batch.events();
        if let Some(left) = &mut self.left {
            let wanted = events.len().min(*left);
            *left -= wanted;
            if *left == 0 {
                self.stage = Stage::Ended;
                self.rendered_events += wanted;
                self.told = events[wanted - 1].id;
                return render_events(&events[..wanted], self.format);
            }
        }
        self.told = batch.last_id();
        self.rendered_events += events.len();
        render(batch, self.format)
    }
}

/// The bytes of a batch, each made by the first that asks and shared by the rest.
#[derive(Debug, Default)]
struct Rendered {
    data: OnceLock<Bytes>,
    event: OnceLock<Bytes>,
    text: OnceLock<Bytes>,
    ndjson: OnceLock<Bytes>,
}

/// The frames of a batch, encoded once for all who get it in this format.
fn render(batch: &Batch, format: Format) -> Bytes {
    let rendered: &Rendered = batch.attached();
    let bytes = match format {
        Format::Data => &rendered.data,
        Format::Event => &rendered.event,
        Format::Text => &rendered.text,
        Format::Ndjson => &rendered.ndjson,
    };
    bytes
        .get_or_init(|| render_events(batch.events(), format))
        .clone()
}

fn render_events(events: &[Arc<Event>], format: Format) -> Bytes {
    let bytes = events.iter().map(|event| event.data.as_str().len() + 64);
    let mut out = Vec::with_capacity(bytes.sum());
    for event in events {
        frame::write_event(event, format, &mut out);
    }
    out.into()
}
