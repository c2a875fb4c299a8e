//! What a hub of a cluster knows of itself and of the others.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    db::Reached,
    event::{EventId, Timestamp},
    jetstream::COMMANDS_FORMAT,
};

/// A hub that has not told of itself for this long does not count.
pub const GONE_AFTER: Duration = Duration::from_secs(15);

/// How often a hub tells of itself.
pub(super) const BEAT_EVERY: Duration = Duration::from_secs(2);

/// How far a hub may be behind what it knows of the order, and count as ready.
const LAG_MAX: Duration = Duration::from_secs(5);

/// Places whose chain is remembered, to compare it with what the others tell: at 1,000 commands a second, a few beats.
const REMEMBERED_PLACES: usize = 8192;

/// How a hub is set up, where all of a cluster should be set up alike.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// What it keeps, in words; nothing where it keeps everything.
    pub kept: Vec<String>,
    /// The first digits of the SHA-256 of its access file; `None` where everybody may do everything.
    pub access: Option<String>,
}

/// What a hub tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beat {
    /// Its name: another one after each start.
    pub hub: String,
    /// Where the others reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What it had applied, and had on its disk.
    pub sequence: u64,
    /// The chain at that place.
    pub chain: String,
    /// Its id of the newest event there.
    pub last_id: i64,
    /// Its version.
    pub version: String,
    /// The commands that it knows: those of this format, and of all before it.
    pub format: u32,
    /// How it is set up.
    #[serde(default)]
    pub rules: Rules,
    /// Whether its chain is not that of the majority, as far as it knows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub differs: bool,
}

impl Beat {
    /// Whether the same hub told both, perhaps before and after a start: it has the same name, or the same address.
    fn is_of_the_same_hub(&self, other: &Self) -> bool {
        self.hub == other.hub || (self.url.is_some() && self.url == other.url)
    }
}

/// A hub as the others know it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What it told last.
    pub beat: Beat,
    /// Time since then.
    pub age: Duration,
    /// How far its clock is ahead of this hub's, in milliseconds, as far as that can be told.
    pub clock_ahead_ms: i64,
    /// Whether its chain is this hub's; `None`: the place is not remembered, or not reached.
    pub agrees: Option<bool>,
}

/// A hub of a cluster at a glance.
#[derive(Debug, Clone)]
pub struct ClusterStatus {
    /// Its name: another one after each start.
    pub hub: String,
    /// How far its file has come.
    pub reached: Reached,
    /// The newest sequence it knows of.
    pub known_sequence: u64,
    /// How long it has been behind that.
    pub lag: Duration,
    /// Whether commands are put in order.
    pub has_order: bool,
    /// Whether it has applied a command of its own since it was started.
    pub is_joined: bool,
    /// Why it does not go on.
    pub stopped: Option<String>,
    /// How it is set up.
    pub rules: Rules,
    /// Whether its file differs from those of the others.
    pub is_diverged: bool,
    /// The hubs that were heard of, this one too.
    pub peers: Vec<Peer>,
}

#[derive(Debug)]
struct Heard {
    beat: Beat,
    at: Instant,
    clock_ahead_ms: i64,
    agrees: Option<bool>,
}

/// What the disk has.
#[derive(Debug)]
pub(super) struct Synced {
    pub(super) reached: Reached,
    pub(super) last_id: EventId,
}

#[derive(Debug)]
struct State {
    reached: Reached,
    /// What a power cut leaves; `None` until that is known.
    synced: Option<Synced>,
    /// Since when the disk is asked to keep more.
    syncs_since: Option<Instant>,
    rules: Rules,
    known_sequence: u64,
    /// Since when it is behind.
    behind_since: Option<Instant>,
    has_order: bool,
    is_joined: bool,
    stopped: Option<String>,
    /// Since when the majority has another chain.
    outvoted_since: Option<Instant>,
    heard: BTreeMap<String, Heard>,
    /// Sequences and chains, oldest first.
    places: VecDeque<(u64, String)>,
}

/// The state that the order keeps and others read.
#[derive(Debug)]
pub(super) struct Cluster {
    name: String,
    url: Option<String>,
    state: Mutex<State>,
}

impl Cluster {
    pub(super) fn new(name: String, url: Option<String>, reached: Reached) -> Self {
        let state = State {
            known_sequence: reached.sequence,
            places: [(reached.sequence, reached.chain.clone())].into(),
            reached,
            synced: None,
            syncs_since: None,
            rules: Rules::default(),
            behind_since: None,
            has_order: false,
            is_joined: false,
            stopped: None,
            outvoted_since: None,
            heard: BTreeMap::new(),
        };
        Self {
            name,
            url,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of this hub.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The sequence that the file has come to.
    pub(super) fn sequence(&self) -> u64 {
        self.state().reached.sequence
    }

    /// What this hub tells now: what it would still have after a power cut. `None` until that is known.
    pub(super) fn beat(&self) -> Option<Beat> {
        let state = self.state();
        let Synced { reached, last_id } = state.synced.as_ref()?;
        Some(Beat {
            hub: self.name.clone(),
            url: self.url.clone(),
            sequence: reached.sequence,
            chain: reached.chain.clone(),
            last_id: last_id.as_i64(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            format: COMMANDS_FORMAT,
            rules: state.rules.clone(),
            differs: state.is_diverged(),
        })
    }

    /// How this hub is set up.
    pub(super) fn set_rules(&self, rules: Rules) {
        self.state().rules = rules;
    }

    /// The disk is asked to keep what was applied.
    pub(super) fn syncs(&self) {
        self.state().syncs_since = Some(Instant::now());
    }

    /// The disk has it.
    pub(super) fn synced(&self, synced: Synced) {
        let mut state = self.state();
        state.synced = Some(synced);
        state.syncs_since = None;
    }

    /// What all hubs that are heard of have on their disks, this one too.
    pub(super) fn kept_by_all(&self) -> u64 {
        let state = self.state();
        let mine = state
            .synced
            .as_ref()
            .map_or(0, |mine| mine.reached.sequence);
        let heard = state.heard.values().map(|heard| heard.beat.sequence);
        heard.fold(mine, u64::min)
    }

    /// The stream has this sequence.
    pub(super) fn knows(&self, sequence: u64) {
        let mut state = self.state();
        state.known_sequence = state.known_sequence.max(sequence);
        if state.known_sequence > state.reached.sequence && state.behind_since.is_none() {
            state.behind_since = Some(Instant::now());
        }
    }

    /// The file has come this far.
    pub(super) fn reached(&self, reached: &Reached) {
        let mut state = self.state();
        if state.places.len() == REMEMBERED_PLACES {
            state.places.pop_front();
        }
        state
            .places
            .push_back((reached.sequence, reached.chain.clone()));
        state.reached = reached.clone();
        state.known_sequence = state.known_sequence.max(reached.sequence);
        state.behind_since = (state.known_sequence > reached.sequence)
            .then(|| state.behind_since.unwrap_or_else(Instant::now));
    }

    /// A hub, perhaps this one, told of itself; the command was put in order `at`.
    pub(super) fn hear(&self, beat: Beat, at: Timestamp) {
        let mut state = self.state();
        let clock_ahead_ms = at.as_millis() - Timestamp::now().as_millis();
        if beat.hub == self.name {
            state.is_joined = true;
        }
        let agrees = state
            .places
            .iter()
            .rev()
            .find(|(sequence, _)| *sequence == beat.sequence)
            .map(|(_, chain)| *chain == beat.chain);
        if agrees == Some(false) {
            tracing::error!(
                hub = beat.hub,
                sequence = beat.sequence,
                "the files of two hubs of the cluster differ"
            );
        }
        let heard = Heard {
            at: Instant::now(),
            clock_ahead_ms,
            agrees,
            beat,
        };
        // One that was started anew has one vote, not two.
        state.heard.retain(|_, other| {
            other.at.elapsed() < GONE_AFTER && !other.beat.is_of_the_same_hub(&heard.beat)
        });
        state.heard.insert(heard.beat.hub.clone(), heard);
        state.count_votes();
    }

    /// Whether commands are put in order.
    pub(super) fn set_has_order(&self, has_order: bool) {
        let mut state = self.state();
        if state.has_order != has_order {
            match has_order {
                true => tracing::info!("the cluster puts commands in order"),
                false => tracing::error!(
                    "NATS acknowledges nothing: publishing is refused until it does; streams and history go on"
                ),
            }
        }
        state.has_order = has_order;
    }

    /// The hub cannot apply what comes next. For good, until it is started anew.
    pub(super) fn stop(&self, why: String) {
        let mut state = self.state();
        // A disk that keeps failing would tell of it every 2 s.
        if state.stopped.is_none() {
            tracing::error!(
                why,
                "this hub does not follow the cluster any more; it serves what it has"
            );
            state.stopped = Some(why);
        }
    }

    /// Why this hub takes no publishes; `None` if it does.
    pub(super) fn refusal(&self) -> Option<String> {
        let state = self.state();
        if let Some(why) = &state.stopped {
            return Some(why.clone());
        }
        if state.is_diverged() {
            return Some("the files of the hubs differ; `segno cluster status` says which".into());
        }
        (!state.has_order).then(|| "NATS acknowledges nothing".into())
    }

    /// Why this hub should get no clients; `None` if it should.
    pub(super) fn is_not_ready(&self) -> Option<String> {
        if let Some(why) = self.refusal() {
            return Some(why);
        }
        let state = self.state();
        if !state.is_joined {
            return Some("it has not yet applied all that was in order when it was started".into());
        }
        let lag = state.lag();
        if lag > LAG_MAX {
            return Some(format!("it is behind the order for {lag:.1?}"));
        }
        let syncing = state.syncs_since.map(|since| since.elapsed());
        let late = syncing.filter(|syncing| *syncing > LAG_MAX);
        late.map(|late| format!("its disk takes longer than {late:.1?} to keep what was written"))
    }

    pub(super) fn status(&self) -> ClusterStatus {
        let state = self.state();
        let peers = state.heard.values().map(|heard| Peer {
            beat: heard.beat.clone(),
            age: heard.at.elapsed(),
            clock_ahead_ms: heard.clock_ahead_ms,
            agrees: heard.agrees,
        });
        ClusterStatus {
            hub: self.name.clone(),
            reached: state.reached.clone(),
            known_sequence: state.known_sequence,
            lag: state.lag(),
            has_order: state.has_order,
            is_joined: state.is_joined,
            stopped: state.stopped.clone(),
            rules: state.rules.clone(),
            is_diverged: state.is_diverged(),
            peers: peers.collect(),
        }
    }
}

impl State {
    fn lag(&self) -> Duration {
        self.behind_since
            .map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Hubs that agree with this one, itself too, and hubs that do not.
    fn votes(&self) -> (usize, usize) {
        let is_recent = |heard: &&Heard| heard.at.elapsed() < GONE_AFTER;
        let count = |agrees| {
            let heard = self.heard.values().filter(is_recent);
            heard.filter(|heard| heard.agrees == Some(agrees)).count()
        };
        (count(true), count(false))
    }

    /// Notes since when this hub is in the minority. Once it was that for as long as hubs that are gone have a vote, it is for
    /// good: its file does not become right by the others being away.
    fn count_votes(&mut self) {
        let (agree, differ) = self.votes();
        if agree >= differ {
            self.outvoted_since = None;
            return;
        }
        let since = *self.outvoted_since.get_or_insert_with(Instant::now);
        if since.elapsed() > GONE_AFTER && self.stopped.is_none() {
            let why = "the file differs from those of the other hubs; stop this hub, and take the file of another one with \
                       `segno cluster join`";
            tracing::error!(why, "this hub takes no publishes any more");
            self.stopped = Some(why.into());
        }
    }

    /// Whether this hub's chain is not that of the majority. Where there is none, no hub's is.
    fn is_diverged(&self) -> bool {
        let (agree, differ) = self.votes();
        differ > 0 && agree <= differ
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(hub: &str, url: &str, chain: &str) -> Beat {
        Beat {
            hub: hub.into(),
            url: Some(url.into()),
            sequence: 1,
            chain: chain.into(),
            last_id: 1,
            version: String::new(),
            format: COMMANDS_FORMAT,
            rules: Rules::default(),
            differs: false,
        }
    }

    /// A hub with a wrong file that is started again and again, each time under another name, does not outvote the others.
    #[test]
    fn a_hub_that_is_started_again_has_one_vote() {
        let reached = Reached {
            epoch: String::new(),
            sequence: 1,
            command_id: String::new(),
            chain: "right".into(),
        };
        let cluster = Cluster::new("me".into(), Some("http://me".into()), reached);
        cluster.set_has_order(true);
        let hear = |hub, url, chain| cluster.hear(beat(hub, url, chain), Timestamp::now());
        hear("me", "http://me", "right");
        hear("other", "http://other", "right");
        for start in ["1", "2", "3"] {
            hear(start, "http://wrong", "wrong");
            assert_eq!(cluster.refusal(), None, "start {start}");
        }
        // Of two, nobody can tell which is right.
        let cluster = Cluster::new(
            "me".into(),
            Some("http://me".into()),
            cluster.status().reached,
        );
        cluster.set_has_order(true);
        for (hub, url, chain) in [("me", "http://me", "right"), ("1", "http://wrong", "wrong")] {
            cluster.hear(beat(hub, url, chain), Timestamp::now());
        }
        assert!(cluster.refusal().is_some_and(|why| why.contains("differ")));
    }

    /// A hub that forgets by a power cut that it applied something has to find it in the stream.
    #[test]
    fn what_is_not_on_every_disk_is_not_removed_from_the_stream() {
        let reached = |sequence| Reached {
            epoch: String::new(),
            sequence,
            command_id: String::new(),
            chain: "right".into(),
        };
        let cluster = Cluster::new("me".into(), None, reached(9));
        cluster.hear(beat("other", "http://other", "right"), Timestamp::now());
        assert_eq!(cluster.kept_by_all(), 0, "nothing was synced yet");
        assert_eq!(cluster.beat(), None);
        cluster.synced(Synced {
            reached: reached(7),
            last_id: EventId::from_row(3),
        });
        cluster.reached(&reached(10));
        assert_eq!(cluster.kept_by_all(), 1, "the other has so much");
        let told = cluster.beat().unwrap();
        assert_eq!((told.sequence, told.last_id), (7, 3));
    }
}
