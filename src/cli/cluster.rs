//! `segno cluster`: the stream that several hubs have in common.

use std::{
    fmt::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use humantime::{format_duration, parse_duration};
use tokio::time::sleep;
use uuid::Uuid;

use super::{LogFile, counted, print, rounded};
use crate::{
    config::{ClusterFlags, PeerFlags, parse_bytes},
    db,
    event::EventId,
    hub::{Beat, NewestBeat, find_beats},
    jetstream::{
        About, COMMANDS_FORMAT, Error, JetStream, NewStream, OPENED_WITHIN as ANSWER_WITHIN,
    },
    joining,
};

/// What may be done with a cluster.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Cluster {
    /// Make the stream that puts the commands of the hubs in order. Once: a hub never makes one by itself.
    Init(InitFlags),
    /// Show the stream and the hubs that it hears of. Ends with 1 if something is wrong.
    Status(StatusFlags),
    /// Take the file of another hub, which this one goes on with. No hub may run on the file; what is there is kept under another name.
    Join(JoinFlags),
    /// Let the hubs propose the commands that are new in this version, once all of them are of it.
    Upgrade(StatusFlags),
}

/// What `segno cluster init` may be told.
#[derive(Debug, Clone, Args)]
pub(super) struct InitFlags {
    /// The stream.
    #[command(flatten)]
    cluster: ClusterFlags,

    /// File whose events the log begins with. Its hub must be stopped. It is then a file of the cluster, and the other hubs
    /// take it from that one.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    /// The file was one of a cluster whose stream is lost: a new order begins with it. Take that of the hub with the newest event.
    #[arg(long, requires = "from")]
    stream_is_lost: bool,

    /// Change nothing if there is a stream of this name.
    #[arg(long)]
    if_missing: bool,

    /// Servers that keep a copy of each command. Fewer than 3 lose what was acknowledged when one of them is lost.
    #[arg(long, default_value = "3", value_name = "N", value_parser = parse_replicas)]
    replicas: usize,

    /// How long a command stays in the stream. A hub that was away for longer needs a copy of another hub's file.
    #[arg(long, default_value = "24h", value_name = "AGE", value_parser = parse_duration)]
    keep_age: Duration,

    /// Size of the commands that stay in the stream, which each server keeps free for them.
    #[arg(long, default_value = "8GiB", value_name = "SIZE", value_parser = parse_bytes)]
    keep_bytes: u64,
}

/// What `segno cluster status` and `segno cluster upgrade` may be told.
#[derive(Debug, Clone, Args)]
pub(super) struct StatusFlags {
    /// The stream.
    #[command(flatten)]
    cluster: ClusterFlags,
}

/// What `segno cluster join` may be told.
#[derive(Debug, Clone, Args)]
pub(super) struct JoinFlags {
    /// The stream.
    #[command(flatten)]
    cluster: ClusterFlags,

    /// How the other hubs are asked.
    #[command(flatten)]
    peers: PeerFlags,

    /// Address of the hub whose file is taken; the one that has come furthest if not given.
    #[arg(long, value_name = "URL")]
    from: Option<String>,

    /// Where the file is put.
    #[command(flatten)]
    log: LogFile,
}

/// How long servers may take to elect a leader: 4 to 9 s, perhaps twice.
const ELECTED_WITHIN: Duration = Duration::from_secs(20);

/// What a server says that runs alone and is asked for more copies. Source: nats-server, error 10074.
const ALONE: &str = "non-clustered mode";

/// NATS answers with this when its disk has too little room for the stream. Source: nats-server, errors 10047 (alone) and 10005 (of several).
const NO_ROOM: &str = "insufficient storage";

/// Rest before a stream is asked for again.
const CREATE_AGAIN: Duration = Duration::from_millis(250);

/// What the servers should take at once. Below it an event or a batch that a hub alone takes may be refused.
const MAX_PAYLOAD_WANTED: usize = 16 * 1024 * 1024;

/// A hub that told of itself longer ago is told of: twice the time between two beats.
const LATE_AFTER: Duration = Duration::from_secs(5);

/// Clocks that differ more are told of: times of events do not go back, so the fastest clock decides.
const CLOCKS_DIFFER_MS: i64 = 2000;

fn parse_replicas(text: &str) -> Result<usize, String> {
    let replicas = text
        .parse()
        .ok()
        .filter(|replicas| [1, 3, 5].contains(replicas));
    replicas.ok_or_else(|| "it is 1, 3 or 5".into())
}

pub(super) async fn run(command: Cluster) -> anyhow::Result<()> {
    match command {
        Cluster::Init(flags) => init(flags).await,
        Cluster::Status(flags) => status(flags).await,
        Cluster::Join(flags) => join(flags).await,
        Cluster::Upgrade(flags) => upgrade(flags).await,
    }
}

async fn open(flags: &ClusterFlags) -> anyhow::Result<JetStream> {
    let settings = flags.stream().context("--cluster says where NATS is")?;
    Ok(JetStream::open(&settings).await?)
}

async fn join(flags: JoinFlags) -> anyhow::Result<()> {
    let settings = flags
        .cluster
        .stream()
        .context("--cluster says where NATS is")?;
    let from = flags.from.as_deref();
    let joined = joining::join(&settings, &flags.peers.access(), &flags.log.db, from).await?;
    let mut text = format!(
        "{}: {}, up to {}, from {}\n",
        flags.log.db.display(),
        counted(joined.findings.events),
        joined.findings.last_id,
        joined.from
    );
    if let Some(kept) = joined.kept {
        _ = writeln!(text, "what was there is kept as {}", kept.display());
    }
    print(&text)
}

async fn init(flags: InitFlags) -> anyhow::Result<()> {
    let stream = open(&flags.cluster).await?;
    let name = &flags.cluster.stream;
    match stream.about_within(ANSWER_WITHIN).await {
        Ok(_) if flags.if_missing => {
            return print(&format!("there is a stream {name} already\n"));
        }
        Ok(_) => bail!("there is a stream {name} already; `segno cluster status` shows it"),
        Err(Error::NoStream(_)) => (),
        Err(error) => return Err(error.into()),
    }
    let epoch = Uuid::new_v4().to_string();
    let mut new = NewStream {
        epoch: epoch.clone(),
        log_id: Uuid::new_v4().to_string(),
        begins_empty: true,
        format: COMMANDS_FORMAT,
        replicas: flags.replicas,
        max_age: flags.keep_age,
        max_bytes: flags.keep_bytes,
    };
    if let Some(path) = &flags.from {
        let (log, mut appender) = db::open(path).await?;
        if appender.reached().is_some() && !flags.stream_is_lost {
            bail!(
                "{} is a file of a cluster already; if its stream is lost, add --stream-is-lost",
                path.display()
            );
        }
        new.log_id = log.id().into();
        new.begins_empty = appender.last_id() == EventId::ZERO;
        create(&stream, new).await?;
        let beginning = db::Reached {
            epoch,
            sequence: 0,
            command_id: String::new(),
            chain: String::new(),
        };
        appender.join_order(&beginning).await?;
        log.close().await;
        appender.close().await?;
    } else {
        create(&stream, new).await?;
    }
    let mut text = format!("made the stream {name}; start each hub with --cluster\n");
    warn(&mut text, &stream, &stream.about().await?);
    print(&text)
}

/// Makes the stream. Servers that were started together have to find each other and to elect one first.
async fn create(stream: &JetStream, new: NewStream) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        match stream.create(new.clone()).await {
            // It will never find another.
            Err(Error::Unanswered(why)) if why.contains(ALONE) => bail!(
                "the NATS server is none of several, and keeps one copy: run three that know each other, or add --replicas 1, which \
                 loses what was acknowledged when that server is lost"
            ),
            // One that is not there yet may have it.
            Err(Error::Unanswered(why)) if why.contains(NO_ROOM) && !why.contains("offline") => {
                bail!(
                    "the NATS servers have no room for a stream of {} bytes, which each keeps free: ask for less with --keep-bytes 1GiB, \
                     or give them more disk (a server takes 75 % of what is free when it starts, or its max_file_store)",
                    new.max_bytes
                )
            }
            Err(Error::Unanswered(why))
                if begun.elapsed() < ELECTED_WITHIN && !why.contains("already in use") =>
            {
                sleep(CREATE_AGAIN).await;
            }
            created => return Ok(created?),
        }
    }
}

fn warn(text: &mut String, stream: &JetStream, about: &About) {
    let max_payload = stream.command_max_bytes();
    if max_payload < MAX_PAYLOAD_WANTED - 4096 {
        _ = writeln!(
            text,
            "warning: NATS takes {max_payload} bytes at once (max_payload), so that larger events and batches are refused; set it to \
             16 to 32 MiB"
        );
    }
    if about.replicas < 3 {
        _ = writeln!(
            text,
            "warning: {} server keeps the commands; with its disk, what no hub has on its own yet is lost",
            about.replicas
        );
    }
}

async fn status(flags: StatusFlags) -> anyhow::Result<()> {
    let stream = open(&flags.cluster).await?;
    let about = stream.about_within(ANSWER_WITHIN).await?;
    let mut text = format!(
        "stream  {}, commands {} to {} of format {}, on {} of {} servers\nlog     {}\n",
        flags.cluster.stream,
        about.first_sequence,
        about.last_sequence,
        about.format,
        about.current_replicas,
        about.replicas,
        about.log_id
    );
    let beats = find_beats(&stream).await?;
    let mut is_wrong = about.current_replicas < about.replicas || beats.is_empty();
    for heard in &beats {
        is_wrong |= describe(&mut text, heard, &beats);
    }
    if beats.is_empty() {
        text += "warning: no hub has told of itself lately\n";
    }
    is_wrong |= compare_rules(&mut text, &beats);
    warn(&mut text, &stream, &about);
    text += "not seen from here: whether the servers sync what they acknowledge (sync_interval: always)\n";
    print(&text)?;
    match is_wrong {
        true => bail!("the cluster is not as it should be"),
        false => Ok(()),
    }
}

fn address_of(beat: &Beat) -> &str {
    beat.url.as_deref().unwrap_or("(no --advertise)")
}

/// Tells where hubs go by other rules than the first of them; whether any does.
fn compare_rules(text: &mut String, all: &[NewestBeat]) -> bool {
    let Some(first) = all.first().map(|first| &first.beat) else {
        return false;
    };
    let mut differs = false;
    for NewestBeat { beat, .. } in all {
        for (rule_of, advice) in [
            (
                kept as fn(&Beat) -> String,
                "the shortest rule deletes for all; start them with the same flags",
            ),
            (
                access,
                "what a caller may do depends on the hub; give all the same file",
            ),
        ] {
            let (rule, rule_of_first) = (rule_of(beat), rule_of(first));
            if rule != rule_of_first {
                differs = true;
                _ = writeln!(
                    text,
                    "warning: {} {rule}, and {} {rule_of_first}: {advice}",
                    address_of(beat),
                    address_of(first)
                );
            }
        }
    }
    differs
}

fn kept(beat: &Beat) -> String {
    match beat.rules.kept.is_empty() {
        true => "keeps everything".into(),
        false => format!("keeps {}", beat.rules.kept.join("; ")),
    }
}

fn access(beat: &Beat) -> String {
    match &beat.rules.access {
        Some(fingerprint) => format!("has the access file {fingerprint}…"),
        None => "has no access file".into(),
    }
}

/// Tells of a hub in a line, and of what is wrong with it in others; whether anything is.
fn describe(text: &mut String, heard: &NewestBeat, all: &[NewestBeat]) -> bool {
    let beat = &heard.beat;
    let url = address_of(beat);
    let chain = beat.chain.get(..12).unwrap_or("none");
    _ = writeln!(
        text,
        "hub     {url} {}, version {}, at command {}, event {}, chain {chain}, {} ago",
        beat.hub,
        beat.version,
        beat.sequence,
        beat.last_id,
        format_duration(rounded(heard.age))
    );
    let is_late = heard.age > LATE_AFTER;
    if is_late {
        _ = writeln!(text, "warning: it should tell of itself every 2 s");
    }
    if heard.clock_ahead_ms.abs() > CLOCKS_DIFFER_MS {
        _ = writeln!(
            text,
            "warning: its clock is {} ms ahead of that of NATS; the fastest clock of the hubs gives the times of events",
            heard.clock_ahead_ms
        );
    }
    let differs = |other: &&NewestBeat| {
        other.beat.sequence == beat.sequence && other.beat.chain != beat.chain
    };
    let is_diverged = beat.differs || all.iter().any(|other| differs(&other));
    if is_diverged {
        _ = writeln!(text, "warning: its file differs from that of another hub");
    }
    is_diverged || is_late
}

async fn upgrade(flags: StatusFlags) -> anyhow::Result<()> {
    let stream = open(&flags.cluster).await?;
    let about = stream.about_within(ANSWER_WITHIN).await?;
    if about.format >= COMMANDS_FORMAT {
        return print(&format!(
            "nothing to do: the hubs may propose commands of format {}, and this version knows {COMMANDS_FORMAT}\n",
            about.format
        ));
    }
    let beats = find_beats(&stream).await?;
    let older = beats
        .iter()
        .find(|heard| heard.beat.format < COMMANDS_FORMAT);
    if let Some(NewestBeat { beat, .. }) = older {
        bail!(
            "the hub {} {} has version {}, which knows no commands of format {COMMANDS_FORMAT}; upgrade it first",
            address_of(beat),
            beat.hub,
            beat.version
        );
    }
    if beats.is_empty() {
        bail!("no hub has told of itself lately; start them first");
    }
    stream.raise_format(COMMANDS_FORMAT).await?;
    print(&format!(
        "the hubs may propose commands of format {COMMANDS_FORMAT}; a hub of an older version stops when it meets one\n"
    ))
}
