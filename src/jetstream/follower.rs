//! Reads the stream of commands: each sequence once, in order, and none left out, whatever dies.

use std::{pin::pin, time::Duration};

use async_nats::jetstream::consumer::pull;
use bytes::Bytes;
use futures_util::{StreamExt, future::pending};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{ANSWER_WITHIN, About, Entry, JetStream, LATE_AFTER};
use crate::metrics::ClusterMetrics;

/// Messages that were read and wait to be applied.
const READ_AHEAD_MESSAGES: usize = 64;

/// How often a sequence that nobody has is asked for, before it counts as gone: a server may be behind the others.
const GONE_AFTER_TRIES: u32 = 20;

/// Why a consumer is made anew: a sequence was left out, nothing came, or there was none.
const HOLE: &str = "hole";
const SILENT: &str = "silent";
const NO_CONSUMER: &str = "refused";

/// What a reader found.
#[derive(Debug)]
pub enum Read {
    /// The next command.
    Entry(Entry),
    /// The next command is no more: it was deleted, or is older than what the stream keeps. Nothing follows.
    Gone(u64),
    /// The last command is another one now: the servers came back with an older store, and went on from there. Nothing follows.
    TakenBack(u64),
}

/// Reads a stream. The reading ends when it is dropped.
#[derive(Debug)]
pub struct Follower {
    entries: mpsc::Receiver<Read>,
    acknowledged: watch::Sender<u64>,
    reading: JoinHandle<()>,
}

impl Follower {
    /// Reads what comes after `applied`.
    pub(super) fn begin(stream: JetStream, applied: u64, metrics: ClusterMetrics) -> Self {
        let (entries, read) = mpsc::channel(READ_AHEAD_MESSAGES);
        let (acknowledged, known) = watch::channel(applied);
        let reader = Reader {
            stream,
            next: applied + 1,
            last: None,
            is_compared: true,
            entries,
            known,
            metrics,
        };
        Self {
            entries: read,
            acknowledged,
            reading: tokio::spawn(reader.run()),
        }
    }

    /// Waits for the next commands, and puts them behind `read`: at least one, at most `limit`.
    ///
    /// Dropping the future loses nothing.
    pub async fn read(&mut self, read: &mut Vec<Read>, limit: usize) {
        if self.entries.recv_many(read, limit).await == 0 {
            // After the last that there can be.
            pending().await
        }
    }

    /// Tells that the stream has this sequence, so that it is fetched if it does not come.
    pub fn knows(&self, sequence: u64) {
        self.acknowledged
            .send_if_modified(|known| std::mem::replace(known, sequence.max(*known)) < sequence);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

struct Reader {
    stream: JetStream,
    next: u64,
    /// What was handed on last.
    last: Option<Entry>,
    /// Whether that is still what the stream has, as far as it was looked since the last break.
    is_compared: bool,
    entries: mpsc::Sender<Read>,
    known: watch::Receiver<u64>,
    metrics: ClusterMetrics,
}

/// Nobody reads any more, or nothing follows.
struct Ended;

impl Reader {
    async fn run(mut self) {
        let mut missed = 0;
        loop {
            let before = self.next;
            // Begins with what is known, to see that it is the same.
            self.is_compared = self.last.is_none();
            let from = self.last.as_ref().map_or(self.next, |last| last.sequence);
            let consumed = timeout(ANSWER_WITHIN, self.stream.consume(from)).await;
            let ended = match consumed {
                Ok(Ok(messages)) => self.consume(messages).await,
                Ok(Err(error)) => {
                    tracing::debug!(error, "no consumer");
                    self.fetch_known().await.map(|()| NO_CONSUMER)
                }
                Err(_) => self.fetch_known().await.map(|()| NO_CONSUMER),
            };
            if let Ok(reason) = ended {
                let consumers = &self.metrics.consumers;
                consumers.get_or_create(&[("reason", reason)]).inc();
            }
            missed = if self.next == before { missed + 1 } else { 0 };
            if ended.is_err() || (missed > 1 && self.find_out_if_gone().await.is_err()) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Reads until a sequence is left out, or a heartbeat. Returns which.
    async fn consume(&mut self, messages: pull::Stream) -> Result<&'static str, Ended> {
        let mut messages = pin!(messages);
        loop {
            let (known, next) = (&mut self.known, self.next);
            let late = async {
                if known.wait_for(|known| *known >= next).await.is_err() {
                    pending::<()>().await;
                }
                sleep(LATE_AFTER).await;
            };
            let message = tokio::select! {
                message = messages.next() => message,
                () = late => {
                    self.fetch_known().await?;
                    continue;
                }
            };
            let Some(Ok(message)) = message else {
                return Ok(SILENT);
            };
            let Ok(sequence) = message.info().map(|info| info.stream_sequence) else {
                return Ok(SILENT);
            };
            if sequence > self.next {
                return Ok(HOLE);
            }
            if !self.is_compared {
                self.compare(sequence, &message.payload).await?;
            }
            if sequence == self.next {
                let payload = message.payload.clone();
                self.hand_on(Entry { sequence, payload }).await?;
            }
        }
    }

    /// Looks whether what the stream has at `sequence` is what was handed on.
    async fn compare(&mut self, sequence: u64, payload: &Bytes) -> Result<(), Ended> {
        let last = self.last.as_ref().filter(|last| last.sequence == sequence);
        if last.is_some_and(|last| last.payload != *payload) {
            _ = self.entries.send(Read::TakenBack(sequence)).await;
            return Err(Ended);
        }
        // Where what comes is later, the last one was removed with what was erased.
        self.is_compared = true;
        Ok(())
    }

    /// The same where no consumer has brought anything yet.
    async fn compare_without_consumer(&mut self) -> Result<(), Ended> {
        if let Some(last) = self.last.as_ref().filter(|_| !self.is_compared) {
            match self.stream.entry(last.sequence).await {
                Ok(Some(entry)) => self.compare(entry.sequence, &entry.payload).await?,
                Ok(None) => self.is_compared = true,
                Err(_) => (),
            }
        }
        Ok(())
    }

    /// Fetches, one by one, what the stream is known to have.
    async fn fetch_known(&mut self) -> Result<(), Ended> {
        self.compare_without_consumer().await?;
        while self.is_compared && *self.known.borrow() >= self.next {
            match self.stream.entry(self.next).await {
                Ok(Some(entry)) => {
                    self.metrics.fetched_commands.inc();
                    self.hand_on(entry).await?;
                }
                Ok(None) | Err(_) => break,
            }
        }
        Ok(())
    }

    /// Whether the next sequence was there and is no more.
    async fn find_out_if_gone(&mut self) -> Result<(), Ended> {
        let is_over = |about: &About| about.last_sequence >= self.next;
        if !self.stream.about().await.is_ok_and(|about| is_over(&about)) {
            return Ok(());
        }
        self.compare_without_consumer().await?;
        if !self.is_compared {
            return Ok(());
        }
        for _ in 0..GONE_AFTER_TRIES {
            match self.stream.entry(self.next).await {
                Ok(Some(entry)) => return self.hand_on(entry).await,
                Ok(None) => sleep(LATE_AFTER).await,
                Err(_) => return Ok(()),
            }
        }
        _ = self.entries.send(Read::Gone(self.next)).await;
        Err(Ended)
    }

    async fn hand_on(&mut self, entry: Entry) -> Result<(), Ended> {
        self.next = entry.sequence + 1;
        self.last = Some(entry.clone());
        let sent = self.entries.send(Read::Entry(entry)).await;
        sent.map_err(|_| Ended)
    }
}
