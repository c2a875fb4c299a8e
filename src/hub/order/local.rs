//! The order of a hub that is alone: commands are applied as they come.

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

/// Applies what comes until the hub drains, then what was taken by then.
pub(super) async fn run(intake: &mut Intake, applier: &mut Applier) {
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = intake.draining.cancelled(), if !intake.publications.is_closed() => intake.publications.close(),
            taken = intake.publications.recv_many(&mut waiting, COMMIT_MAX_PUBLICATIONS) => match taken {
                0 => break,
                _ => {
                    publish(&mut waiting, applier).await;
                    // Under constant load the queue is never empty, and other work has its turn all the same.
                    if let Ok(work) = intake.work.try_recv() {
                        self::work(work, applier).await;
                    }
                }
            },
            Some(work) = intake.work.recv() => self::work(work, applier).await,
        }
    }
}

async fn publish(publications: &mut Vec<Publication>, applier: &mut Applier) {
    let mut events = Vec::with_capacity(publications.len());
    let mut replies = Vec::with_capacity(publications.len());
    let mut origins = Origins::default();
    let mut pings = Vec::new();
    for publication in publications.drain(..) {
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
    if !events.is_empty() {
        let command = Command::now(Act::Publish(events));
        let applied = applier.apply(command, &origins).await;
        Waiting::Publishers(replies).answer(applied.map_err(NotApplied::Log));
    }
    for ping in pings {
        _ = ping.send(());
    }
}

async fn work(work: Work, applier: &mut Applier) {
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
