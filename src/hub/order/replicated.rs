//! The order of a cluster: a hub proposes commands to a stream, and applies what it reads from the stream, its own commands and
//! those of the others alike.
//!
//! One command of this hub is on its way at a time. What comes meanwhile goes into the next one, as it does where a commit is
//! what takes time; several on their way at once were no faster, and would not keep the order in which they were asked for.

use std::{collections::VecDeque, io, mem, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt, pending};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::{
    super::{
        applier::{Applier, Sequenced},
        cluster::{BEAT_EVERY, Cluster, Synced},
        command::{Act, Applied, Command},
        origin::Origins,
        queue::{NewEvents, Publication, Reply},
        work::{Change, NotApplied, Waiting, Work, WorkReply},
    },
    COMMIT_MAX_PUBLICATIONS, Intake,
    comparison::compare,
    gathering::Gathering,
    removal::{self, Removal},
    syncing::Syncing,
    wire::{self, Identified, Lists, PUBLISH_ENVELOPE_BYTES},
};
use crate::{
    db::{self, Reached},
    event::Timestamp,
    jetstream::{Follower, JetStream, ProposeError, Read, Subject},
    metrics::ClusterMetrics,
};

/// How long a command is sent again before its outcome counts as unknown: an election takes up to 9 s.
const PROPOSE_WITHIN: Duration = Duration::from_secs(15);

/// Rest between two tries.
const PROPOSE_AGAIN: Duration = Duration::from_millis(100);

/// Longest wait of a hub that drains for the command on its way: an election takes up to 9 s.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// How long a command that was put in order may take to be applied here.
const APPLY_WITHIN: Duration = Duration::from_secs(15);

/// Rest before a command that the file refused is tried again.
const APPLY_AGAIN: Duration = Duration::from_secs(1);

/// Commands that are applied in one transaction at most.
const APPLY_MAX_COMMANDS: usize = 256;

/// Bytes of commands that are applied in one transaction, one command at the least.
const APPLY_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Publications that wait behind the command on its way.
const BACKLOG_MAX_PUBLICATIONS: usize = COMMIT_MAX_PUBLICATIONS;

/// Puts the commands of this hub in the order of the cluster.
pub(in super::super) struct Replicated {
    stream: JetStream,
    cluster: Arc<Cluster>,
    /// Compares the file with the stream, before anything is read from it.
    comparing: Option<BoxFuture<'static, Result<(), String>>>,
    follower: Option<Follower>,
    /// What was read and is not applied yet.
    read: VecDeque<Read>,
    /// The file refused the first of what was read.
    refused: Option<Refused>,
    /// Publications that wait for the command on its way.
    backlog: VecDeque<Encoded>,
    gathering: Gathering,
    /// A change that waits for it.
    change: Option<Change>,
    /// Who waits for the next beat.
    barriers: Vec<WorkReply<()>>,
    beat_is_due: bool,
    on_its_way: Option<OnItsWay>,
    /// Commands that were proposed since the start.
    proposed: u64,
    /// When a drain waits no longer.
    latest: Option<Instant>,
    /// Puts on the disk what the next beat tells.
    syncing: Syncing,
    removal: Removal,
    metrics: ClusterMetrics,
}

/// A publication, as it will stand in a command.
#[derive(Debug)]
struct Encoded {
    list: Vec<u8>,
    reply: Reply,
}

/// The file refused a command. What is in order is not given up: it is tried again.
#[derive(Debug)]
struct Refused {
    error: Arc<db::Error>,
    again: Instant,
}

/// The command that was proposed last and is not applied yet.
struct OnItsWay {
    id: String,
    waiting: Waiting,
    /// Ends with the sequence it has in the stream.
    proposing: Option<BoxFuture<'static, Result<u64, ProposeError>>>,
    begun: Instant,
    deadline: Instant,
}

impl std::fmt::Debug for Replicated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replicated")
            .field("on_its_way", &self.on_its_way)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for OnItsWay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnItsWay")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl OnItsWay {
    /// Whether it is a beat that nobody asked for.
    fn nobody_waits(&self) -> bool {
        matches!(&self.waiting, Waiting::Barriers(barriers) if barriers.is_empty())
    }
}

impl Replicated {
    /// For a file that is a part of the log `log_id` and has come as far as `reached`.
    pub(in super::super) fn new(
        stream: JetStream,
        cluster: Arc<Cluster>,
        log_id: String,
        reached: Reached,
        remove_after: Duration,
        metrics: ClusterMetrics,
    ) -> Self {
        Self {
            comparing: Some(compare(stream.clone(), log_id, reached).boxed()),
            removal: Removal::new(stream.clone(), remove_after),
            follower: None,
            stream,
            cluster,
            read: VecDeque::new(),
            refused: None,
            backlog: VecDeque::new(),
            gathering: Gathering::default(),
            change: None,
            barriers: Vec::new(),
            beat_is_due: false,
            on_its_way: None,
            proposed: 0,
            latest: None,
            syncing: Syncing::default(),
            metrics,
        }
    }

    /// Proposes what comes, and applies what is in order, until the hub drains and what was taken by then is done.
    pub(super) async fn run(&mut self, intake: &mut Intake, applier: &mut Applier) {
        let mut read = Vec::new();
        let mut taken = Vec::new();
        let mut beats = interval(BEAT_EVERY);
        beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            self.propose_next();
            if self.is_done(intake) {
                return;
            }
            let room = BACKLOG_MAX_PUBLICATIONS.saturating_sub(self.backlog.len());
            tokio::select! {
                biased;
                () = intake.draining.cancelled(), if !intake.publications.is_closed() => {
                    intake.publications.close();
                    self.hurry();
                }
                compared = compared(&mut self.comparing) => {
                    self.comparing = None;
                    match compared {
                        Ok(()) => {
                            self.follower = Some(self.stream.follow(applier.reached().sequence, self.metrics.clone()));
                            self.cluster.set_has_order(true);
                        }
                        Err(why) => self.stop(why),
                    }
                }
                () = read_next(&mut self.follower, &mut read), if self.read.is_empty() => {
                    self.read.extend(read.drain(..));
                    if let Some(Read::Entry(newest)) = self.read.back() {
                        // Before it is applied, which may take long.
                        self.cluster.knows(newest.sequence);
                    }
                    self.apply(applier).await;
                }
                () = rest(&self.refused) => self.apply(applier).await,
                proposed = proposed(&mut self.on_its_way) => match proposed {
                    Some(proposed) => self.proposed(proposed),
                    None => self.give_up(),
                },
                Some(work) = intake.work.recv(), if self.change.is_none() => match work {
                    Work::Change(change) => self.change = Some(change),
                    Work::Chore(chore) => applier.chore(chore).await,
                    Work::Barrier(reply) => self.barriers.push(reply),
                },
                received = intake.publications.recv_many(&mut taken, room), if room > 0 && !(intake.publications.is_closed() && intake.publications.is_empty()) => {
                    if received > 0 {
                        taken.drain(..).for_each(|publication| self.take(publication));
                    }
                }
                () = self.gathering.ended(), if self.on_its_way.is_none() && !self.backlog.is_empty() => (),
                _ = beats.tick() => match self.syncing.is_running() {
                    // What the disk has by now is told all the same.
                    true => self.beat_is_due = true,
                    false => {
                        self.cluster.syncs();
                        self.syncing.begin(applier);
                    }
                },
                synced = self.syncing.ended() => self.synced(synced),
                next = self.removal.next() => match next {
                    removal::Next::Note(removed) => removed.note(applier).await,
                    removal::Next::Look if self.follower.is_some() && self.cluster.refusal().is_none() => {
                        self.removal.begin(self.cluster.kept_by_all(), applier).await;
                    }
                    removal::Next::Look => (),
                },
            }
        }
    }

    fn synced(&mut self, synced: io::Result<Synced>) {
        match synced {
            Ok(synced) => {
                self.cluster.synced(synced);
                self.beat_is_due = true;
            }
            // Linux tells of it once, and forgets what it did not write.
            Err(error) => self.stop(format!(
                "the disk does not keep the file: {error}; when it works again, start the hub anew: it takes from the stream what the \
                 file lacks"
            )),
        }
    }

    fn is_done(&self, intake: &Intake) -> bool {
        intake.publications.is_closed()
            && intake.publications.is_empty()
            && self.backlog.is_empty()
            && self.on_its_way.as_ref().is_none_or(OnItsWay::nobody_waits)
    }

    /// The hub drains: who waits for the command on its way has to know soon.
    fn hurry(&mut self) {
        let longest = Instant::now() + DRAIN_WITHIN;
        self.latest = Some(longest);
        if let Some(command) = &mut self.on_its_way {
            command.deadline = command.deadline.min(longest);
        }
    }

    fn deadline(&self, within: Duration) -> Instant {
        let deadline = Instant::now() + within;
        self.latest.map_or(deadline, |latest| deadline.min(latest))
    }

    /// Why nothing is taken now; `None` if it is.
    fn refusal(&self) -> Option<NotApplied> {
        if let Some(why) = self.cluster.refusal() {
            return Some(NotApplied::Unordered(why.into()));
        }
        let refused = self.refused.as_ref()?;
        Some(NotApplied::Log(refused.error.clone()))
    }

    fn take(&mut self, publication: Publication) {
        match publication {
            // What came before it is on its way or waits for that; the loop that it asks for works.
            Publication::Ping(reply) => _ = reply.send(()),
            Publication::Events(NewEvents { events, reply, .. }) => {
                if let Some(why) = self.refusal() {
                    return reply.send(Err(why.into()));
                }
                let list = Lists::encode(&events);
                let max_bytes = self.stream.command_max_bytes();
                if list.len() + PUBLISH_ENVELOPE_BYTES > max_bytes {
                    return reply.send(Err(NotApplied::TooLarge(max_bytes).into()));
                }
                self.backlog.push_back(Encoded { list, reply });
            }
        }
    }

    /// Proposes what has waited, if nothing is on its way: a change, then publications, then a beat.
    fn propose_next(&mut self) {
        if self.on_its_way.is_some() {
            return;
        }
        let id = Sequenced::id_of(self.cluster.name(), self.proposed + 1);
        if let Some(why) = self.refusal() {
            self.refuse_waiting(&why);
        }
        if let Some(Change { act, waiting }) = self.change.take() {
            let bytes = wire::encode(&id, &Command::now(act));
            return self.propose(id, bytes, waiting);
        }
        if !self.backlog.is_empty() && self.gathering.is_done(self.backlog.len()) {
            let max_bytes = self
                .stream
                .command_max_bytes()
                .saturating_sub(PUBLISH_ENVELOPE_BYTES);
            let (mut lists, mut replies) = (Lists::default(), Vec::new());
            // The first goes in any case: NATS may take less by now than when it was taken, and then says so. A command without
            // any would be followed by another one for ever.
            while let Some(next) = self.backlog.front()
                && (replies.is_empty() || lists.bytes() + next.list.len() < max_bytes)
                && replies.len() < COMMIT_MAX_PUBLICATIONS
            {
                lists.push(&next.list);
                replies.extend(self.backlog.pop_front().map(|next| next.reply));
            }
            let bytes = lists.into_command(&id, Timestamp::now());
            return self.propose(id, bytes, Waiting::Publishers(replies));
        }
        // A beat is also how a hub without an order finds out that there is one again.
        if self.follower.is_some()
            && (self.beat_is_due || !self.barriers.is_empty())
            && let Some(beat) = self.cluster.beat()
        {
            self.beat_is_due = false;
            let bytes = wire::encode(&id, &Command::now(Act::Beat(beat)));
            let barriers = mem::take(&mut self.barriers);
            self.propose(id, bytes, Waiting::Barriers(barriers));
        }
    }

    fn propose(&mut self, id: String, bytes: Vec<u8>, waiting: Waiting) {
        self.proposed += 1;
        let stream = self.stream.clone();
        let cluster = self.cluster.clone();
        let is_beat = matches!(waiting, Waiting::Barriers(_));
        let proposed = id.clone();
        let retries = self.metrics.order_retries.clone();
        let proposing = async move {
            let bytes = bytes::Bytes::from(bytes);
            let subject = match is_beat {
                true => Subject::Beats(cluster.name()),
                false => Subject::Commands,
            };
            loop {
                match stream.propose(subject, &proposed, bytes.clone()).await {
                    Err(ProposeError::Unacknowledged(why)) => {
                        tracing::debug!(why, "a command was not acknowledged");
                        retries.inc();
                        sleep(PROPOSE_AGAIN).await;
                    }
                    proposed => return proposed,
                }
            }
        };
        self.on_its_way = Some(OnItsWay {
            id,
            waiting,
            proposing: Some(proposing.boxed()),
            begun: Instant::now(),
            deadline: self.deadline(PROPOSE_WITHIN),
        });
    }

    fn proposed(&mut self, proposed: Result<u64, ProposeError>) {
        let deadline = self.deadline(APPLY_WITHIN);
        let on_its_way = self.on_its_way.as_mut().expect("it was proposed");
        on_its_way.proposing = None;
        match proposed {
            Ok(sequence) if sequence <= self.cluster.sequence() => {
                // Also where it was applied before the acknowledgement came: then it is not on its way any more.
                self.stop(format!(
                    "the stream was taken back: a new command is number {sequence} in it, and this hub has applied more"
                ));
                self.answer_on_its_way(NotApplied::OutcomeUnknown);
            }
            Ok(sequence) => {
                let took = on_its_way.begun.elapsed();
                self.metrics.order_seconds.observe(took.as_secs_f64());
                on_its_way.deadline = deadline;
                self.cluster.set_has_order(true);
                self.cluster.knows(sequence);
                if let Some(follower) = &self.follower {
                    follower.knows(sequence);
                }
            }
            Err(ProposeError::TooLarge) => {
                let max_bytes = self.stream.command_max_bytes();
                self.answer_on_its_way(NotApplied::TooLarge(max_bytes));
            }
            Err(ProposeError::Unacknowledged(_)) => unreachable!("is tried again"),
        }
    }

    /// Follows the stream no further: what comes behind a command that was not applied must not be applied either.
    fn stop(&mut self, why: String) {
        self.follower = None;
        self.read.clear();
        self.refused = None;
        self.cluster.stop(why);
    }

    /// The command on its way has taken too long. It may yet come.
    fn give_up(&mut self) {
        let is_unordered = self
            .on_its_way
            .as_ref()
            .is_some_and(|command| command.proposing.is_some());
        if is_unordered {
            self.cluster.set_has_order(false);
        }
        self.answer_on_its_way(NotApplied::OutcomeUnknown);
    }

    fn answer_on_its_way(&mut self, error: NotApplied) {
        if let Some(command) = self.on_its_way.take() {
            command.waiting.answer(Err(error));
        }
    }

    fn refuse_waiting(&mut self, error: &NotApplied) {
        for waiting in self.backlog.drain(..) {
            waiting.reply.send(Err(error.clone().into()));
        }
        if let Some(change) = self.change.take() {
            change.waiting.answer(Err(error.clone()));
        }
        for barrier in self.barriers.drain(..) {
            _ = barrier.send(Err(error.clone()));
        }
    }

    /// Applies what was read, in order, until the file refuses.
    async fn apply(&mut self, applier: &mut Applier) {
        while !self.read.is_empty() {
            let mut commands = match self.first_read() {
                Ok(commands) => commands,
                Err(why) => return self.stop(why),
            };
            match applier
                .apply_sequenced(&mut commands, &Origins::default())
                .await
            {
                Ok(applied) => {
                    self.refused = None;
                    self.read.drain(..commands.len());
                    self.applied(commands, applied, applier);
                }
                Err(error) => return self.refused(error),
            }
        }
    }

    /// The first of what was read that is applied in one transaction: publications that follow each other, or one other command.
    fn first_read(&self) -> Result<Vec<Sequenced>, String> {
        let (mut first, mut bytes) = (Vec::new(), 0);
        for read in &self.read {
            let entry = match read {
                Read::Entry(entry) => entry,
                Read::Gone(_) | Read::TakenBack(_) if !first.is_empty() => break,
                Read::Gone(sequence) => {
                    return Err(format!(
                        "the command {sequence} is no more in the stream; stop this hub, and take the file of another one with \
                         `segno cluster join`"
                    ));
                }
                Read::TakenBack(sequence) => {
                    return Err(format!(
                        "the stream was taken back: number {sequence} is another command than the one applied"
                    ));
                }
            };
            bytes += entry.payload.len();
            if !first.is_empty() && bytes > APPLY_MAX_BYTES {
                break;
            }
            let Identified { id, command } = match wire::decode(&entry.payload) {
                Ok(identified) => identified,
                Err(_) if !first.is_empty() => break,
                Err(error) => return Err(format!("{error}, sequence {}", entry.sequence)),
            };
            let is_publish = matches!(command.act, Act::Publish(_));
            if !first.is_empty() && !is_publish {
                break;
            }
            first.push(Sequenced {
                sequence: entry.sequence,
                id,
                payload: entry.payload.clone(),
                command,
            });
            if !is_publish {
                break;
            }
        }
        Ok(first)
    }

    /// The file refused the first of what was read. Whoever waits is told; what is in order is tried again.
    fn refused(&mut self, error: Arc<db::Error>) {
        if self.refused.is_none() {
            tracing::error!(
                error = &*error as &dyn std::error::Error,
                "a command of the cluster cannot be applied; trying again until it can"
            );
        }
        self.answer_on_its_way(NotApplied::OutcomeUnknown);
        self.refused = Some(Refused {
            error,
            again: Instant::now() + APPLY_AGAIN,
        });
    }

    fn applied(&mut self, commands: Vec<Sequenced>, applied: Vec<Applied>, applier: &Applier) {
        self.cluster.reached(applier.reached());
        for (command, applied) in commands.into_iter().zip(applied) {
            let Sequenced { id, command, .. } = command;
            if let Act::Beat(beat) = command.act {
                self.cluster.hear(beat, command.at);
            }
            if let Some(mine) = self.on_its_way.take_if(|mine| mine.id == id) {
                if mine.proposing.is_some() {
                    // It was read before the acknowledgement came.
                    let took = mine.begun.elapsed();
                    self.metrics.order_seconds.observe(took.as_secs_f64());
                }
                self.cluster.set_has_order(true);
                if let Waiting::Publishers(replies) = &mine.waiting {
                    self.gathering.answered(replies.len(), mine.begun.elapsed());
                }
                mine.waiting.answer(Ok(applied));
            }
        }
    }
}

async fn compared(
    comparing: &mut Option<BoxFuture<'static, Result<(), String>>>,
) -> Result<(), String> {
    match comparing {
        Some(comparing) => comparing.await,
        None => pending().await,
    }
}

/// Waits until it is time to try again what the file refused.
async fn rest(refused: &Option<Refused>) {
    match refused {
        Some(refused) => sleep_until(refused.again).await,
        None => pending().await,
    }
}

async fn read_next(follower: &mut Option<Follower>, read: &mut Vec<Read>) {
    match follower {
        Some(follower) => follower.read(read, APPLY_MAX_COMMANDS).await,
        None => pending().await,
    }
}

/// Waits until the command on its way is put in order; `None`: it has taken too long, that or to be applied after it.
async fn proposed(on_its_way: &mut Option<OnItsWay>) -> Option<Result<u64, ProposeError>> {
    let Some(command) = on_its_way else {
        return pending().await;
    };
    let deadline = command.deadline;
    let proposing = async {
        match &mut command.proposing {
            Some(proposing) => proposing.await,
            None => pending().await,
        }
    };
    tokio::time::timeout_at(deadline, proposing).await.ok()
}
