//! A connection that follows, and knows what it should get.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::bail;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    publisher::Sent,
    run::{BenchData, Run},
    sequence::{Faults, Sequence},
};
use crate::client::{Message, SseParser, WireStream};

/// Silence after which what has not come is taken for lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// The type of a block that only moves the cursor. Source: the hub's HTTP contract.
const CURSOR_TYPE: &str = "segno.cursor";

/// What a reader does with the moments that events were due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// Each event's way, from when it was due.
    EachEvent,
    /// The way to the first event, from the request.
    FirstEvent,
    /// Nothing: it only checks.
    Nothing,
}

/// Follows topics of a run.
#[derive(Debug)]
pub(super) struct Reader {
    run: Arc<Run>,
    measure: Measure,
    /// The one topic it follows; `None`: all.
    topic: Option<u32>,
    asked_at: Instant,
    stream: WireStream,
    parser: SseParser,
    sequences: HashMap<(u32, u32), Sequence>,
    /// Events that came, each counted once.
    received: u64,
}

impl Reader {
    /// Begins to follow, after `cursor` or live, and waits until the hub has begun, too.
    pub(super) async fn open(
        run: &Arc<Run>,
        measure: Measure,
        topic: Option<u32>,
        cursor: Option<&str>,
    ) -> anyhow::Result<Self> {
        let wire = run.connect().await?;
        let name = match topic {
            Some(topic) => run.topic(topic),
            None => run.all_topics(),
        };
        let start = cursor.map_or_else(String::new, |cursor| format!("&last_event_id={cursor}"));
        let asked_at = Instant::now();
        let stream = wire.follow(&format!("/sse?topic={name}{start}")).await?;
        let mut reader = Self {
            run: run.clone(),
            measure,
            topic,
            asked_at,
            stream,
            parser: SseParser::default(),
            sequences: HashMap::new(),
            received: 0,
        };
        while reader.cursor().is_empty() {
            if !reader.read().await? {
                bail!("the hub ended a stream before it began");
            }
        }
        Ok(reader)
    }

    /// The id that the stream has come to.
    pub(super) fn cursor(&self) -> &str {
        self.parser.last_event_id()
    }

    /// Reads until everything that was published has come, or nothing comes any more, and tells what went wrong.
    ///
    /// `published` says nothing as long as publishing goes on.
    pub(super) async fn read_all(
        mut self,
        mut published: watch::Receiver<Option<Arc<Sent>>>,
    ) -> anyhow::Result<Faults> {
        loop {
            let sent = published.borrow_and_update().clone();
            if let Some(sent) = &sent
                && self.received >= self.expected(sent)
            {
                return Ok(self.faults(sent));
            }
            tokio::select! {
                read = self.read() => match (read?, &sent) {
                    (true, _) => (),
                    (false, Some(sent)) => return Ok(self.faults(sent)),
                    (false, None) => bail!("the hub ended a stream"),
                },
                _ = published.changed(), if sent.is_none() => (),
                () = sleep(PATIENCE) => if let Some(sent) = &sent {
                    return Ok(self.faults(sent));
                },
            }
        }
    }

    /// Takes what comes next; false at the end of the stream.
    async fn read(&mut self) -> anyhow::Result<bool> {
        let Some(bytes) = self.stream.chunk().await? else {
            return Ok(false);
        };
        let mut messages = Vec::new();
        self.parser.feed(&bytes, |message| {
            if message.event_type != CURSOR_TYPE {
                messages.push(message);
            }
        });
        if messages.is_empty() {
            return Ok(true);
        }
        let now = self.run.micros(Instant::now());
        let mut times = Vec::new();
        for message in &messages {
            let due = self.take(message)?;
            if self.measure == Measure::EachEvent {
                times.push(Duration::from_micros(now.saturating_sub(due)));
            }
        }
        if self.measure != Measure::Nothing {
            self.run.receipt_latency().record(times);
            self.run.count_delivered(messages.len().try_into()?);
        }
        Ok(true)
    }

    /// Counts an event; when it was due.
    fn take(&mut self, message: &Message) -> anyhow::Result<u64> {
        if message.event_type != "message" {
            bail!("the hub tells of {}: {}", message.event_type, message.data);
        }
        if self.measure == Measure::FirstEvent && self.received == 0 {
            self.run.receipt_latency().record([self.asked_at.elapsed()]);
        }
        let data: BenchData = serde_json::from_str(&message.data)?;
        let sequence = self
            .sequences
            .entry((data.publisher, data.topic))
            .or_default();
        self.received += u64::from(sequence.take(data.number));
        Ok(data.due)
    }

    /// The counts that concern this reader, with publisher and topic.
    fn wanted<'a>(&self, sent: &'a Sent) -> impl Iterator<Item = ((u32, u32), u64)> + use<'a> {
        let wanted = self.topic;
        (0..).zip(sent).flat_map(move |(publisher, topics)| {
            (0..)
                .zip(topics)
                .filter(move |(topic, _)| wanted.is_none_or(|wanted| wanted == *topic))
                .map(move |(topic, events)| ((publisher, topic), *events))
        })
    }

    fn expected(&self, sent: &Sent) -> u64 {
        self.wanted(sent).map(|(_, events)| events).sum()
    }

    fn faults(&self, sent: &Sent) -> Faults {
        let mut faults = Faults::default();
        let nothing = Sequence::default();
        for (key, events) in self.wanted(sent) {
            faults += self.sequences.get(&key).unwrap_or(&nothing).faults(events);
        }
        faults
    }
}
