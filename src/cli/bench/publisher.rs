//! A connection that publishes.

use std::{io::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::run::{BenchData, Run};
use crate::client::{Error, Wire};

/// Wait before a refused request is sent again, if the hub did not say how long.
const REFUSED_WAIT: Duration = Duration::from_millis(100);

/// How many events each publisher had acknowledged on each topic.
pub(super) type Sent = Vec<Vec<u64>>;

/// How publishers share the work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) publishers: u32,
    /// Events of one request.
    pub(super) batch: u32,
    /// Events a second, of all publishers together; `None` is as fast as the hub answers.
    pub(super) rate: Option<u32>,
    /// When to end.
    pub(super) end: End,
}

/// When publishers end.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// This long after they began.
    After(Duration),
    /// When each has published *N* events, or a few more to fill a request.
    AfterEvents(u32),
}

/// Connects, then publishes at `pace` until its end. What was sent, and how long it took.
pub(super) async fn publish_all(run: &Arc<Run>, pace: Pace) -> anyhow::Result<(Sent, Duration)> {
    let mut publishers = Vec::new();
    for number in 0..pace.publishers {
        publishers.push(Publisher {
            wire: run.connect().await?,
            number,
            sent: vec![0; usize::try_from(run.topics())?],
            body: Vec::new(),
        });
    }
    let start = Instant::now();
    let mut publishing: JoinSet<_> = publishers
        .into_iter()
        .map(|publisher| publisher.publish_until_end(run.clone(), start, pace))
        .collect();
    let mut sent = vec![Vec::new(); publishing.len()];
    while let Some(publisher) = publishing.join_next().await {
        let publisher = publisher??;
        sent[usize::try_from(publisher.number)?] = publisher.sent;
    }
    Ok((sent, start.elapsed()))
}

struct Publisher {
    wire: Wire,
    number: u32,
    sent: Vec<u64>,
    body: Vec<u8>,
}

impl Publisher {
    async fn publish_until_end(
        mut self,
        run: Arc<Run>,
        start: Instant,
        pace: Pace,
    ) -> anyhow::Result<Self> {
        let mut requests = 0;
        loop {
            let due = match pace.rate {
                Some(rate) => {
                    // The publishers take turns.
                    let before =
                        u64::from(requests) * u64::from(pace.publishers) + u64::from(self.number);
                    let events = before * u64::from(pace.batch);
                    start + Duration::from_micros(events * 1_000_000 / u64::from(rate))
                }
                None => Instant::now(),
            };
            let ended = match pace.end {
                End::After(duration) => due >= start + duration,
                End::AfterEvents(events) => requests * pace.batch >= events,
            };
            if ended {
                return Ok(self);
            }
            // An event that has waited for the answer of the one before counts from when it was due; one that has waited
            // for the clock, from when that rang.
            let moment = if due > Instant::now() {
                sleep_until(due).await;
                Instant::now()
            } else {
                due
            };
            self.publish(&run, moment, pace.batch).await?;
            requests += 1;
        }
    }

    /// Publishes one request and waits for its answer; again, while the hub has no room.
    async fn publish(&mut self, run: &Run, due: Instant, batch: u32) -> anyhow::Result<()> {
        let content_type = self.write_body(run, due, batch)?;
        let body = Bytes::copy_from_slice(&self.body);
        loop {
            match self.wire.post("/events", content_type, body.clone()).await {
                Ok(_) => break,
                Err(Error::Later { after, .. }) => {
                    run.count_refused();
                    sleep(after.unwrap_or(REFUSED_WAIT)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        run.answer_latency().record([due.elapsed()]);
        run.count_published(u64::from(batch));
        Ok(())
    }

    /// One event as JSON, many as NDJSON.
    fn write_body(&mut self, run: &Run, due: Instant, batch: u32) -> anyhow::Result<&'static str> {
        self.body.clear();
        for _ in 0..batch {
            let events: u64 = self.sent.iter().sum();
            let topic = (events + u64::from(self.number)) % u64::from(run.topics());
            let number = &mut self.sent[usize::try_from(topic)?];
            let topic = u32::try_from(topic)?;
            let data = BenchData {
                publisher: self.number,
                topic,
                number: *number,
                due: run.micros(due),
            };
            *number += 1;
            write!(self.body, "{{\"topic\":\"{}\",\"data\":", run.topic(topic))?;
            run.write_data(&data, &mut self.body);
            self.body.extend_from_slice(b"}\n");
        }
        Ok(match batch {
            1 => "application/json",
            _ => "application/x-ndjson",
        })
    }
}
