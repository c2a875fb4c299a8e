//! A timer that decides what is old, and asks the hub to trim it.
//!
//! It reads the clock and the log, and deletes nothing itself: the hub's writer does, in small steps between its commits.

mod clock;
mod keep;

use std::time::Duration;

use tokio::time::{Instant, sleep};

use self::clock::Clock;
pub(crate) use self::keep::parse_age;
pub use self::keep::{InvalidRule, Keep, KeepTopics};
use crate::{
    db::{self, Room, Trim},
    event::{EventId, Timestamp, Topic},
    hub::{Hub, WorkError},
};

/// Shortest time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Topics that are looked at in one go.
const TOPICS_PAGE: u32 = 1000;

/// After each page of topics the timer rests this many times longer than the page took: with very many topics, looking must not
/// become what the hub does.
const REST_FACTOR: u32 = 10;

/// Free pages are given back when they are more than one in this many used ones. Fewer are kept for the events to come:
/// a log that is trimmed as fast as it grows would else shrink and grow for ever.
const FREE_FRACTION: u64 = 8;

/// Free bytes that are too few to be given back.
const FREE_MIN_BYTES: u64 = 256 * 1024;

/// Trims, for ever, what `keep` calls old. To be dropped when the hub drains.
pub async fn run(hub: &Hub, keep: &Keep) {
    let mut retention = Retention {
        hub,
        keep,
        clock: Clock::new(Timestamp::now()),
        begun: Instant::now(),
        now: None,
    };
    retention.doubt_a_clock_far_ahead().await;
    let mut failing = false;
    loop {
        match retention.look().await {
            Ok(()) => failing = false,
            Err(error) => {
                // The first of a row: a disk that is full would else fill the trace as well.
                if !failing {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "old events cannot be trimmed; trying again until it works"
                    );
                }
                failing = true;
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

struct Retention<'a> {
    hub: &'a Hub,
    keep: &'a Keep,
    clock: Clock,
    begun: Instant,
    /// What the clock shows in this look; `None` while it is in doubt, and no event is old then.
    now: Option<Timestamp>,
}

impl Retention<'_> {
    /// The only sign of a clock that was wrong from the start is the newest event.
    async fn doubt_a_clock_far_ahead(&mut self) {
        let last_id = self.hub.bounds().last_id;
        // Where it cannot be read there is no sign, and the look that follows tells why.
        if let Ok(Some(event)) = self.hub.log().event(last_id).await {
            self.clock.compare_at_start(event.created_at);
        }
    }

    async fn look(&mut self) -> Result<(), WorkError> {
        let now = Timestamp::now();
        self.now = self
            .clock
            .is_trusted(now, self.begun.elapsed())
            .then_some(now);
        let mut trimmed = 0;
        for rule in &self.keep.topics {
            trimmed += self.trim_topics(rule).await?;
        }
        if let Some(age) = self.keep.age {
            trimmed += self.trim_before(self.first_id_of(age).await?).await?;
        }
        if let Some(events) = self.keep.events {
            let excess = self.hub.kept_events().saturating_sub(events.get());
            if excess > 0 {
                let first_kept = self.hub.log().nth_id(excess).await?;
                trimmed += self.trim_before(first_kept).await?;
            }
        }
        if let Some(bytes) = self.keep.bytes {
            trimmed += self.trim_to_bytes(bytes).await?;
        }
        if trimmed > 0 {
            let first_id = self.hub.bounds().first_id.as_i64();
            tracing::debug!(trimmed_events = trimmed, first_id, "trimmed");
            self.hub.forget_marks().await?;
        }
        self.shrink().await?;
        self.hub.clean_wal().await
    }

    /// The first id that an event of this age or younger can have.
    async fn first_id_of(&self, age: Duration) -> Result<EventId, db::Error> {
        match self.now {
            Some(now) => self.hub.log().first_id_since(now.before(age)).await,
            None => Ok(EventId::ZERO),
        }
    }

    async fn trim_before(&self, first_kept: EventId) -> Result<u64, WorkError> {
        let trim = Trim {
            topic: None,
            through: first_kept.previous(),
            erases: false,
        };
        match first_kept > self.hub.bounds().first_id {
            true => self.hub.trim(&trim).await,
            false => Ok(0),
        }
    }

    async fn trim_to_bytes(&self, bytes: u64) -> Result<u64, WorkError> {
        let mut trimmed = 0;
        while self.hub.log().room().await?.used_bytes > bytes {
            let all = Trim {
                topic: None,
                through: self.hub.bounds().last_id,
                erases: false,
            };
            let Some(events) = self.hub.trim_step(&all).await? else {
                break;
            };
            trimmed += events;
        }
        Ok(trimmed)
    }

    async fn trim_topics(&self, rule: &KeepTopics) -> Result<u64, WorkError> {
        let first_kept = match rule.age {
            Some(age) => self.first_id_of(age).await?,
            None => EventId::ZERO,
        };
        if let Some(topic) = rule.topics.as_exact() {
            let topic = Topic::from_row(topic);
            return match self.find_old(topic, rule, first_kept).await? {
                Some(trim) => self.hub.trim(&trim).await,
                None => Ok(0),
            };
        }
        let mut trimmed = 0;
        let mut after = String::new();
        loop {
            let begun = Instant::now();
            let topics = self
                .hub
                .log()
                .topic_names_after(&after, TOPICS_PAGE)
                .await?;
            let Some(last) = topics.last() else {
                return Ok(trimmed);
            };
            last.as_str().clone_into(&mut after);
            let mut trims = Vec::new();
            for topic in topics {
                if rule.topics.matches(topic.as_str()) {
                    trims.extend(self.find_old(topic, rule, first_kept).await?);
                }
            }
            sleep(begun.elapsed() * REST_FACTOR).await;
            for trim in trims {
                trimmed += self.hub.trim(&trim).await?;
            }
        }
    }

    /// The events of `topic` that lie before `first_kept`, or are more than the rule's number of events.
    async fn find_old(
        &self,
        topic: Topic,
        rule: &KeepTopics,
        first_kept: EventId,
    ) -> Result<Option<Trim>, db::Error> {
        let log = self.hub.log();
        let mut through = log.last_id_of(&topic, first_kept).await?;
        if let Some(events) = rule.events {
            let excess = log.last_id_before_newest(&topic, events.get()).await?;
            through = through.max(excess);
        }
        Ok(through.map(|through| Trim {
            topic: Some(topic),
            through,
            erases: false,
        }))
    }

    async fn shrink(&self) -> Result<(), WorkError> {
        loop {
            let Room {
                used_bytes,
                free_bytes,
            } = self.hub.log().room().await?;
            if free_bytes <= FREE_MIN_BYTES.max(used_bytes / FREE_FRACTION) {
                return Ok(());
            }
            self.hub.shrink_step().await?;
        }
    }
}
