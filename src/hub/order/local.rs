//! The order of a hub that is alone: commands are applied as they come.

use std::{collections::VecDeque, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    super::{
        applier::Applier,
        command::{Act, Command},
        origin::Origins,
        queue::Publication,
        work::{Change, NotApplied, Waiting, Work},
    },
    COMMIT_MAX_PUBLICATIONS, Intake,
};

/// Bytes of events in one commit, about. 1 MiB takes 15 ms on a disk where an fsync takes 1 ms, and who comes behind waits for it.
const COMMIT_MAX_BYTES: usize = 1024 * 1024;

/// Where nothing was published for as long, other work does not rest: deletions that nobody waits behind would take three times as long.
const PUBLISHED_LATELY: Duration = Duration::from_secs(1);

/// A publication with as many bytes is committed alone.
const LARGE_BYTES: usize = COMMIT_MAX_BYTES / 4;

/// Applies what comes until the hub drains, then what was taken by then.
///
/// In turns: a commit of what is small, a commit of one that is large, a piece of other work. Whoever publishes little waits for one
/// large batch at most, however many wait; and large ones wait for the small ones of one commit each time. Where somebody publishes,
/// other work takes half of the time at the most: of those who publish now and then, only every second one comes upon it.
pub(super) async fn run(intake: &mut Intake, applier: &mut Applier) {
    let (mut taken, mut backlog) = (Vec::new(), Backlog::default());
    let mut pace = Pace::default();
    loop {
        if backlog.is_empty() {
            tokio::select! {
                biased;
                () = intake.draining.cancelled(), if !intake.publications.is_closed() => {
                    intake.publications.close();
                    continue;
                }
                count = intake.publications.recv_many(&mut taken, COMMIT_MAX_PUBLICATIONS) => if count == 0 {
                    break;
                },
                Some(work) = pace.next_work(&mut intake.work) => {
                    pace.spend(work, applier).await;
                    continue;
                }
            }
        } else {
            if intake.draining.is_cancelled() {
                intake.publications.close();
            }
            while backlog.len() + taken.len() < COMMIT_MAX_PUBLICATIONS
                && let Ok(publication) = intake.publications.try_recv()
            {
                taken.push(publication);
            }
        }
        backlog.add(&mut taken);
        let small = publish(backlog.take_small(), applier).await;
        let large = publish(backlog.take_large(), applier).await;
        if small || large {
            pace.published = Some(Instant::now());
        }
        // Under constant load there is always a publication, and other work has its turn all the same.
        if pace.is_rested()
            && let Ok(work) = intake.work.try_recv()
        {
            pace.spend(work, applier).await;
        }
    }
}

/// When other work may be done.
#[derive(Debug, Default)]
struct Pace {
    /// When something was published last.
    published: Option<Instant>,
    /// When the writer has rested from the work that it did last.
    rested: Option<Instant>,
}

impl Pace {
    fn is_rested(&self) -> bool {
        self.rested.is_none_or(|rested| rested <= Instant::now())
    }

    /// The next piece of work, not before its time.
    async fn next_work(&self, work: &mut mpsc::Receiver<Work>) -> Option<Work> {
        match self.rested {
            Some(rested) if !self.is_rested() => sleep_until(rested).await,
            Some(_) | None => (),
        }
        work.recv().await
    }

    /// Does a piece of work, and rests as long as it took if somebody publishes.
    async fn spend(&mut self, work: Work, applier: &mut Applier) {
        let is_lately = |published: Instant| published.elapsed() < PUBLISHED_LATELY;
        let rests = self.published.is_some_and(is_lately);
        let begun = Instant::now();
        do_work(work, applier).await;
        self.rested = rests.then(|| Instant::now() + begun.elapsed());
    }
}

/// What was taken from the queue and is not committed yet.
#[derive(Debug, Default)]
struct Backlog {
    small: VecDeque<Publication>,
    large: VecDeque<Publication>,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.small.len() + self.large.len()
    }

    fn add(&mut self, taken: &mut Vec<Publication>) {
        for publication in taken.drain(..) {
            match publication.size_bytes() >= LARGE_BYTES {
                true => self.large.push_back(publication),
                false => self.small.push_back(publication),
            }
        }
    }

    /// The first of the small ones: as many as a commit takes.
    fn take_small(&mut self) -> Vec<Publication> {
        let mut bytes = 0;
        let is_over = |publication: &Publication| {
            bytes += publication.size_bytes();
            bytes > COMMIT_MAX_BYTES
        };
        let count = self.small.iter().position(is_over);
        let count = count.unwrap_or(self.small.len());
        self.small.drain(..count).collect()
    }

    /// One of the large ones, if there is one.
    fn take_large(&mut self) -> Vec<Publication> {
        self.large.pop_front().into_iter().collect()
    }
}

/// Commits the events among `publications`; whether there are any.
async fn publish(publications: Vec<Publication>, applier: &mut Applier) -> bool {
    let mut events = Vec::with_capacity(publications.len());
    let mut replies = Vec::with_capacity(publications.len());
    let mut origins = Origins::default();
    let mut pings = Vec::new();
    for publication in publications {
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
    let publishes = !events.is_empty();
    if publishes {
        let command = Command::now(Act::Publish(events));
        let applied = applier.apply(command, &origins).await;
        Waiting::Publishers(replies).answer(applied.map_err(NotApplied::Log));
    }
    for ping in pings {
        _ = ping.send(());
    }
    publishes
}

async fn do_work(work: Work, applier: &mut Applier) {
    match work {
        Work::Change(Change { act, waiting }) => {
            let applied = applier.apply(Command::now(act), &Origins::default()).await;
            waiting.answer(applied.map_err(NotApplied::Log));
        }
        Work::Chore(chore) => applier.chore(chore).await,
        // What was put in order before is applied.
        #[cfg(feature = "cluster")]
        Work::Barrier(reply) => _ = reply.send(Ok(())),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{Hub, Origin, Settings},
        *,
    };
    use crate::{
        db::Trim,
        event::{Data, EventId, EventType, NewEvent, Topic},
        metrics::Metrics,
    };

    /// Deletions that follow each other would else leave the writer no time of its own, and every publisher would wait for a step.
    #[tokio::test]
    #[expect(clippy::print_stdout, reason = "the figures")]
    async fn deletions_rest_as_long_as_they_work_while_somebody_publishes() {
        const STEPS: u32 = 20;
        const TRIES: u32 = 3;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segno.db");
        let opened = Hub::open(&path, Settings::default(), Metrics::default()).await;
        let (hub, writer) = opened.unwrap();
        let writing = tokio::spawn(writer.run());
        let event = NewEvent {
            topic: Topic::new("t").unwrap(),
            event_type: EventType::default(),
            data: Data::from_text(&"x".repeat(250_000)).unwrap(),
            key: None,
        };
        for _ in 0..(1 + 2 * TRIES) * STEPS {
            // Two of them are a step.
            let events = vec![event.clone(), event.clone()];
            hub.publish(events, Origin::default()).await.unwrap();
        }
        let trim = Trim {
            topic: None,
            through: EventId::MAX,
            erases: false,
        };
        let mut alone = Vec::new();
        for _ in 0..STEPS {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let begun = Instant::now();
            assert_eq!(hub.trim_step(&trim).await.unwrap(), Some(2));
            alone.push(begun.elapsed());
        }
        alone.sort_unstable();
        let alone = alone[alone.len() / 2];
        let together = async || {
            let begun = Instant::now();
            for _ in 0..STEPS - 1 {
                assert_eq!(hub.trim_step(&trim).await.unwrap(), Some(2));
            }
            begun.elapsed() / (STEPS - 1)
        };
        // Other work on the machine comes and goes.
        let mut rests = false;
        for _ in 0..TRIES {
            hub.publish(vec![event.clone()], Origin::default())
                .await
                .unwrap();
            let beside = together().await;
            tokio::time::sleep(PUBLISHED_LATELY).await;
            let unseen = together().await;
            println!(
                "a step alone took {alone:?}, beside publishers {beside:?}, and {unseen:?} without"
            );
            rests |= beside > alone * 3 / 2 && unseen < beside * 3 / 4;
            if rests {
                break;
            }
        }
        assert!(rests, "{alone:?} alone");
        hub.drain();
        writing.await.unwrap().close().await.unwrap();
    }
}
