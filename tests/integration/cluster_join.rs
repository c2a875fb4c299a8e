//! A hub of a cluster that the stream alone does not bring up to date: it takes the file of another one. And what is erased is
//! erased in the stream too.

use std::{fs, path::Path, process::Output, time::Duration};

use reqwest::StatusCode;
use segno::{
    hub::{self, ClusterError, Hub, Writer},
    jetstream::{COMMANDS_FORMAT, JetStream, Subject},
    metrics::Metrics,
};
use serde_json::json;

use super::{
    cluster::{self, content, same_content, wait_until_ready},
    nats::Nats,
    test_hub::{Port, Program, TestHub, answer, reqwest_client, segno, within},
};

/// A hub in a process of its own, which tells the others its address, with `flags`.
async fn start_hub(nats: &Nats, folder: &Path, port: &Port, flags: &[&str]) -> Program {
    let mut command = segno();
    command
        .args(["serve", "--listen", &port.address().to_string()])
        .args(["--cluster", &nats.urls().join(",")])
        .args(["--advertise", &port.url()])
        .args(flags)
        .arg("--db")
        .arg(folder.join("segno.db"))
        .stderr(std::process::Stdio::null());
    Program::spawn_unready(command).await
}

/// Waits until the hub at `url` is ready, for a caller with `token`.
async fn ready(url: &str, token: &str) {
    let ready = async {
        let http = reqwest_client();
        let ask = || {
            http.get(format!("{url}/health/ready"))
                .bearer_auth(token)
                .send()
        };
        while !ask().await.is_ok_and(|answer| answer.status().is_success()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the hub to be ready", ready).await;
}

/// Runs `segno cluster join` for the file at `db`.
async fn join(nats: &Nats, db: &Path, flags: &[&str]) -> Output {
    let mut join = segno();
    join.args(["cluster", "join", "--cluster", &nats.urls().join(",")])
        .args(flags)
        .arg("--db")
        .arg(db);
    let joined = tokio::task::spawn_blocking(move || join.output().unwrap());
    joined.await.unwrap()
}

/// Opens the file at `db` as a hub of the cluster does.
async fn open(nats: &Nats, db: &Path) -> Result<(Hub, Writer), ClusterError> {
    let cluster = nats.cluster("segno").unwrap();
    Hub::open_in_cluster(db, hub::Settings::default(), &cluster, Metrics::default()).await
}

async fn wait_until_gone(stream: &JetStream, sequence: u64) {
    let gone = async {
        while stream.entry(sequence).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(format_args!("the command {sequence} to be removed"), gone).await;
}

/// Its age or size had the first commands removed from the stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_with_an_empty_disk_takes_the_file_of_another() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let ports = [Port::reserve(), Port::reserve()];
    let access = folders[0].path().join("access.toml");
    let (token_file, may_operate) = (folders[0].path().join("token"), "--operate");
    let mut add = segno();
    add.args(["token", "add", "hubs", may_operate, "--publish", "**"])
        .args(["--follow", "**", "--access"])
        .arg(&access);
    let added = add.output().unwrap();
    assert!(added.status.success(), "{added:?}");
    std::fs::write(&token_file, &added.stdout).unwrap();
    let flags = [
        "--access",
        access.to_str().unwrap(),
        "--cluster-token-file",
        token_file.to_str().unwrap(),
    ];
    let a = start_hub(&nats, folders[0].path(), &ports[0], &flags).await;
    let token = String::from_utf8(added.stdout).unwrap();
    let token = token.trim();
    ready(&a.url(), token).await;
    let http = reqwest_client();
    for n in 0..50 {
        let event = json!({"topic": "t", "data": n, "key": n.to_string()});
        let request = http
            .post(format!("{}/events", a.url()))
            .bearer_auth(token)
            .header("content-type", "application/json")
            .body(event.to_string());
        assert_eq!(answer(request).await.status, StatusCode::CREATED);
    }
    nats.purge("segno", 40).await;

    let b = start_hub(&nats, folders[1].path(), &ports[1], &flags).await;
    ready(&b.url(), token).await;
    let events = http
        .get(format!("{}/events?topic=t&limit=1000", b.url()))
        .bearer_auth(token);
    let events = answer(events).await.json();
    assert_eq!(events["events"].as_array().unwrap().len(), 50);
    let dbs = folders
        .each_ref()
        .map(|folder| folder.path().join("segno.db"));
    same_content(&dbs.each_ref().map(|db| &**db)).await;

    // A key of an event that came with the file is known.
    let again = http
        .post(format!("{}/events", b.url()))
        .bearer_auth(token)
        .header("content-type", "application/json")
        .body(json!({"topic": "t", "data": 7, "key": "7"}).to_string());
    assert_eq!(answer(again).await.status, StatusCode::OK);
}

/// A hub was away for longer than the stream keeps what it lacks. It says so, serves what it has, and takes another file when asked to.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_was_away_too_long_takes_the_file_of_another_when_it_is_told_to() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let ports = [Port::reserve(), Port::reserve()];
    let a = start_hub(&nats, folders[0].path(), &ports[0], &[]).await;
    let b = start_hub(&nats, folders[1].path(), &ports[1], &[]).await;
    let a_hub = a.as_hub();
    wait_until_ready(&a_hub).await;
    wait_until_ready(&b.as_hub()).await;
    a_hub.publish("t", ["before"]).await;
    let dbs = folders
        .each_ref()
        .map(|folder| folder.path().join("segno.db"));
    same_content(&dbs.each_ref().map(|db| &**db)).await;
    b.kill();
    a_hub.publish_many(10, |_| "t".into()).await;
    a_hub.publish("t", ["not the next one"]).await;
    let last_sequence = nats.last_sequence("segno").await;
    nats.purge("segno", last_sequence).await;

    let b = start_hub(&nats, folders[1].path(), &ports[1], &[]).await;
    let b_hub = b.as_hub();
    let told = async {
        loop {
            let ready = answer(b_hub.get("/health/ready")).await;
            let detail = ready.json()["detail"].to_string();
            if detail.contains("segno cluster join") {
                assert_eq!(ready.code(), "not_joined");
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("the hub to say what to do", told).await;
    assert_eq!(b_hub.last_id().await, 1);
    // What it has helps no other.
    let empty = tempfile::tempdir().unwrap();
    let db = empty.path().join("segno.db");
    let useless = join(&nats, &db, &["--from", &ports[1].url()]).await;
    let said = String::from_utf8(useless.stderr).unwrap();
    assert!(
        !useless.status.success() && said.contains("is older than what the stream has left"),
        "{said}"
    );
    assert!(!db.exists());
    b.kill();

    let joined = join(&nats, &dbs[1], &[]).await;
    assert!(joined.status.success(), "{joined:?}");
    let said = String::from_utf8(joined.stdout).unwrap();
    assert!(
        said.contains("12 events") && said.contains("-replaced-"),
        "{said}"
    );
    let b = start_hub(&nats, folders[1].path(), &ports[1], &[]).await;
    wait_until_ready(&b.as_hub()).await;
    let [id] = b.as_hub().publish("t", ["after"]).await;
    assert_eq!(id, 13);
    same_content(&dbs.each_ref().map(|db| &**db)).await;
}

/// What is not a file of this cluster is not taken, and the file that is there stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_log_is_not_taken() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let (mine, alone) = (cluster::hub(&nats).await, TestHub::start().await);
    mine.publish("t", ["mine"]).await;
    alone.publish("t", ["of another log"]).await;
    let folder = mine.stop().await;
    let db = folder.path().join("segno.db");
    let before = content(&db);
    // The same log, put in order by two.
    let copy = tempfile::tempdir().unwrap();
    let copied = copy.path().join("segno.db");
    fs::copy(&db, &copied).unwrap();
    let mut init = segno();
    init.args(["cluster", "init", "--cluster", &nats.urls().join(",")])
        .args(["--cluster-stream", "another", "--stream-is-lost"])
        .args(["--replicas", "1", "--keep-bytes", "64MiB", "--from"])
        .arg(&copied);
    let made = init.output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let other =
        TestHub::start_in(copy, |settings| settings.cluster = nats.cluster("another")).await;
    for (from, why) in [
        (alone.url(""), "is another log's"),
        (other.url(""), "is of another cluster"),
    ] {
        let joined = join(&nats, &db, &["--from", &from]).await;
        let said = String::from_utf8(joined.stderr).unwrap();
        assert!(!joined.status.success() && said.contains(why), "{said}");
        assert_eq!(content(&db), before);
    }

    // Nor does a hub go on with a file that is of no cluster.
    let alone = alone.stop().await;
    let path = alone.path().join("segno.db");
    let refused = open(&nats, &path).await.unwrap_err();
    assert!(
        matches!(refused, ClusterError::OtherLog { .. }),
        "{refused}"
    );

    // Nor are events put into it that the others would not have.
    let mut import = segno();
    import
        .args(["import", "--db"])
        .arg(&db)
        .stdin(std::process::Stdio::null());
    let imported = import.output().unwrap();
    let said = String::from_utf8(imported.stderr).unwrap();
    assert!(
        !imported.status.success() && said.contains("one of a cluster's files"),
        "{said}"
    );
    assert_eq!(content(&db), before);
}

/// The snapshot of a hub that is alone is a backup.
#[tokio::test]
async fn a_snapshot_is_a_log_that_can_be_restored() {
    let hub = TestHub::start().await;
    hub.publish_many(2000, |n| format!("t{}", n % 3)).await;
    let (first, second) = tokio::join!(answer_bytes(&hub), answer_bytes(&hub));
    assert_eq!(first.len(), second.len());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("segno.db");
    std::fs::write(&path, first).unwrap();
    let findings = segno::db::check(&path).await.unwrap();
    assert_eq!((findings.events, findings.faults), (2000, Vec::new()));
    let beside = std::fs::read_dir(hub.db().parent().unwrap()).unwrap();
    let left: Vec<_> = beside
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().contains("snapshot"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

async fn answer_bytes(hub: &TestHub) -> Vec<u8> {
    let answer = hub.get("/snapshot").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "application/vnd.sqlite3");
    let length: u64 = answer.headers()["content-length"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let bytes = answer.bytes().await.unwrap();
    assert_eq!(u64::try_from(bytes.len()).unwrap(), length);
    bytes.into()
}

/// The bytes of an erased event stand in the command that published it, and in those that published it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_is_gone_from_the_stream_too() {
    let nats = Nats::start(1).await;
    let stream = nats.make_stream("segno").await;
    let (a, b) = (cluster::hub(&nats).await, cluster::hub(&nats).await);
    let publish = async |hub: &TestHub, topic: &str, data: &str, key: &str| {
        let event = json!({"topic": topic, "data": data, "key": key}).to_string();
        answer(hub.post_json("/events", event)).await.json()["id"].clone()
    };
    publish(&a, "kept", "stays", "k").await;
    publish(&a, "t", "secret-one", "1").await;
    assert_eq!(publish(&b, "t", "secret-one", "1").await, 2);
    for n in 0..5 {
        publish(&b, "whole", &format!("secret-topic-{n}"), &n.to_string()).await;
    }
    assert!(nats.stores_have("secret-one") && nats.stores_have("secret-topic"));
    let erase = |path: &str| answer(reqwest::Client::new().delete(a.url(path)));
    assert_eq!(erase("/events/2").await.status, StatusCode::OK);
    assert_eq!(erase("/topics/whole").await.status, StatusCode::OK);
    let gone = async {
        while nats.stores_have("secret-one") || nats.stores_have("secret-topic") {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    within("the bytes to be gone from the servers' disks", gone).await;
    assert!(nats.stores_have("stays"));
    let about = stream.about().await.unwrap();
    assert_eq!(
        about.deleted, 7,
        "two that published the event, five of the topic"
    );

    // The hubs go on, also after a start whose last command is one that was removed.
    let [id] = b.publish("t", ["after"]).await;
    let same = same_content(&[&a.db(), &b.db()]).await;
    assert!(!same.contains("secret"), "{same}");
    let is_noted = || {
        let noted = std::process::Command::new("sqlite3")
            .arg(a.db())
            .arg("select count(*) from commands_to_remove")
            .output()
            .unwrap();
        noted.stdout != b"0\n"
    };
    // The other hub may have removed them: this one looks a moment later.
    let forgotten = async {
        while is_noted() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within("the end of removing what is gone", forgotten).await;
    // The stream begins where the log does, and has not all of it.
    let empty = tempfile::tempdir().unwrap();
    let needs = open(&nats, &empty.path().join("segno.db")).await;
    assert!(matches!(needs, Err(ClusterError::NeedsFile)));
    let folder = a.stop().await;
    let a = TestHub::start_in(folder, |settings| settings.cluster = nats.cluster("segno")).await;
    wait_until_ready(&a).await;
    assert_eq!(a.last_id().await, id);
}

/// A hub that stopped right after a command which was then removed cannot look whether the stream has it. It must not wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_whose_last_command_was_removed_goes_on() {
    let nats = Nats::start(1).await;
    let stream = nats.make_stream("segno").await;
    let (a, b) = (cluster::hub(&nats).await, cluster::hub(&nats).await);
    // A beat may come between: then the test is of that.
    let [id] = a.publish("t", ["secret"]).await;
    let folder = a.stop().await;
    let last: String = String::from_utf8(
        std::process::Command::new("sqlite3")
            .arg(folder.path().join("segno.db"))
            .arg("select sequence from position")
            .output()
            .unwrap()
            .stdout,
    )
    .unwrap();
    let last = last.trim().parse().unwrap();
    b.publish("t", ["later"]).await;
    stream.delete(last).await.unwrap();
    wait_until_gone(&stream, last).await;
    let a = TestHub::start_in(folder, |settings| settings.cluster = nats.cluster("segno")).await;
    wait_until_ready(&a).await;
    assert_eq!(a.last_id().await, id + 1);
    same_content(&[&a.db(), &b.db()]).await;
}

/// Commands that are new are not proposed before all hubs know them.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_upgraded_when_every_hub_is() {
    let nats = Nats::start(1).await;
    let stream = nats.make_stream("segno").await;
    stream.raise_format(0).await.unwrap();
    let upgrade = || {
        let mut command = segno();
        command.args(["cluster", "upgrade", "--cluster", &nats.urls().join(",")]);
        async move {
            let ended = tokio::task::spawn_blocking(move || command.output().unwrap());
            let ended = ended.await.unwrap();
            let said = [ended.stdout, ended.stderr].concat();
            (ended.status.success(), String::from_utf8(said).unwrap())
        }
    };
    let (is_done, said) = upgrade().await;
    assert!(
        !is_done && said.contains("no hub has told of itself"),
        "{said}"
    );

    let a = cluster::hub(&nats).await;
    // A hub of an earlier version, as it would tell of itself.
    let beat = json!({"id": "old", "at": 1_764_000_000_000_u64, "beat": {
        "hub": "old", "sequence": 0, "chain": "", "last_id": 0, "version": "0.0.9", "format": 0,
    }});
    let beats = Subject::Beats("old");
    let proposed = stream.propose(beats, "old", beat.to_string().into()).await;
    proposed.unwrap();
    let (is_done, said) = upgrade().await;
    assert!(!is_done && said.contains("has version 0.0.9"), "{said}");
    assert_eq!(stream.about().await.unwrap().format, 0);

    // It is not heard of any more.
    nats.purge("segno", nats.last_sequence("segno").await + 1)
        .await;
    wait_until_ready(&a).await;
    a.publish("t", ["x"]).await;
    let upgraded = async {
        while !upgrade().await.0 {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    within("the cluster to be upgraded", upgraded).await;
    assert_eq!(stream.about().await.unwrap().format, COMMANDS_FORMAT);
    let (is_done, said) = upgrade().await;
    assert!(is_done && said.contains("nothing to do"), "{said}");
}

/// What NATS does not take at once is refused before it is put in order, and nothing of it is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_nats_does_not_take_is_refused() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let a = cluster::hub(&nats).await;
    let line = json!({"topic": "t", "data": "x".repeat(900_000)}).to_string() + "\n";
    let batch = |lines: usize| {
        let request = a.post("/events");
        let request = request.header("content-type", "application/x-ndjson");
        answer(request.body(line.repeat(lines)))
    };
    let refused = batch(10).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (StatusCode::PAYLOAD_TOO_LARGE, "command_too_large")
    );
    assert_eq!(a.last_id().await, 0);
    assert_eq!(batch(8).await.status, StatusCode::CREATED);
    assert_eq!(a.last_id().await, 8);
}

/// What is as large as NATS takes goes; a hub that found no room for it proposed empty commands for ever, and answered nobody.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_exactly_what_nats_takes_is_published() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    nats.reconfigure(0, "max_payload: 8MB", "max_payload: 500KB")
        .await;
    let a = cluster::hub(&nats).await;
    let stream = nats.open("segno").await;
    stream.about().await.unwrap();
    let around = r#"[{"topic":"t","type":"message","data":""}]"#.len();
    // 128 bytes for what stands around the lists of a command.
    let largest = stream.command_max_bytes() - 128 - around;
    let publish = |bytes: usize| {
        let request = a.post("/topics/t").header("content-type", "text/plain");
        answer(request.body("x".repeat(bytes)))
    };
    for (bytes, status) in [
        (largest - 1, StatusCode::CREATED),
        (largest, StatusCode::CREATED),
        (largest + 1, StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let answered = within(format_args!("an answer to {bytes} bytes"), publish(bytes)).await;
        assert_eq!(answered.status, status, "{bytes}");
    }
    assert_eq!(a.publish("t", ["x"]).await, [3]);
}
