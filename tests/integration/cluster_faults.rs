//! What happens to a cluster when something of it is missing: each row of the table in `docs/cluster.md`.

#![expect(
    clippy::print_stdout,
    reason = "how long publishers wait is measured, and told"
)]

use std::{
    cell::Cell,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join;
use reqwest::StatusCode;
use segno::{
    hub::ClusterSettings,
    jetstream::{JetStream, Subject},
    retention::Keep,
};
use serde_json::{Value, json};

use super::{
    cluster::{
        Acknowledged, content, hub, publish, publish_until, same_content, start_hub, wait_for,
        wait_until_ready,
    },
    disk::FaultyDisk,
    faults::SmallDisk,
    nats::{Account, Nats, Wire},
    test_hub::{Answer, Port, Program, TestHub, answer, preload, segno, within},
};

async fn refused(hub: &TestHub, event: Value) -> (StatusCode, String) {
    let refused = publish(hub, event).await;
    (refused.status, refused.code())
}

fn unavailable(code: &str) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, code.into())
}

/// Waits until the hub says that it is not ready, and why.
pub(crate) async fn wait_until_not_ready(hub: &TestHub, why: &str) -> Answer {
    let seen = async {
        loop {
            let ready = answer(hub.get("/health/ready")).await;
            if ready.status == StatusCode::SERVICE_UNAVAILABLE && ready.body.contains(why) {
                return ready;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(format_args!("a hub that is not ready: {why}"), seen).await
}

/// Waits until every server has the whole stream.
async fn wait_for_copies(stream: &JetStream, copies: usize) {
    let current = async {
        while !stream
            .about()
            .await
            .is_ok_and(|about| about.current_replicas == copies)
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within(format_args!("{copies} whole copies of the stream"), current).await;
}

/// Publishes one event after the other until `during` has ended; the longest wait for an answer. None is refused.
async fn longest_wait(hub: &TestHub, during: impl Future<Output = ()>) -> Duration {
    let is_over = Cell::new(false);
    let during = async {
        during.await;
        is_over.set(true);
    };
    let publishing = async {
        let mut longest = Duration::ZERO;
        while !is_over.get() {
            let begun = Instant::now();
            let answer = publish(hub, json!({"topic": "t", "data": 1})).await;
            assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
            longest = longest.max(begun.elapsed());
        }
        longest
    };
    join(during, publishing).await.1
}

/// Servers leave one by one, and then more than may.
#[tokio::test(flavor = "multi_thread")]
async fn slow_no_publish_is_refused_when_a_server_leaves_and_none_is_taken_without_a_majority() {
    let mut nats = Nats::start(3).await;
    let stream = nats.make_stream("segno").await;
    let a = hub(&nats).await;
    let mut on_a = a.follow("?topic=kept").await;
    let settle = || tokio::time::sleep(Duration::from_secs(2));
    for (what, how, longest) in [
        // An election takes at least 4 s: who leads hands over.
        ("the leader stops (SIGTERM)", "TERM", 3),
        ("the leader stops in lame duck mode (SIGUSR2)", "USR2", 3),
        ("a follower is killed", "follower", 3),
        ("the leader is killed", "leader", 14),
    ] {
        wait_for_copies(&stream, 3).await;
        let leader = nats.leader("segno").await;
        let n = match how {
            "follower" => (leader + 1) % 3,
            _ => leader,
        };
        let waited = longest_wait(&a, async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            match how {
                "TERM" => nats.signal(n, "TERM"),
                "USR2" => nats.signal(n, "USR2"),
                _ => nats.kill(n),
            }
            settle().await;
        })
        .await;
        println!("{what}: the longest wait was {waited:.1?}");
        assert!(waited < Duration::from_secs(longest), "{what}: {waited:?}");
        if nats.is_running(n) {
            nats.kill(n);
        }
        nats.start_again(n);
    }

    wait_for_copies(&stream, 3).await;
    let leader = nats.leader("segno").await;
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    others.into_iter().for_each(|n| nats.kill(n));
    let keyed = json!({"topic": "kept", "data": "meanwhile", "key": "m"});
    assert_eq!(
        refused(&a, keyed.clone()).await,
        unavailable("outcome_unknown")
    );
    assert_eq!(
        refused(&a, json!({"data": 1})).await,
        unavailable("unordered")
    );
    wait_until_not_ready(&a, "NATS acknowledges nothing").await;
    assert!(a.last_id().await > 0, "what there is can be read");
    others.into_iter().for_each(|n| nats.start_again(n));
    wait_until_ready(&a).await;
    let again = publish(&a, keyed).await;
    assert!(again.status.is_success(), "{again:?}");
    assert_eq!(on_a.next_data().await, ["\"meanwhile\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_cut_off_takes_nothing_and_has_it_all_when_it_is_back() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let wire = Wire::to(nats.address(0)).await;
    let a = TestHub::start_with(|settings| settings.cluster = wire.cluster("segno")).await;
    wait_until_ready(&a).await;
    let b = hub(&nats).await;
    let mut on_a = a.follow("?topic=t").await;
    a.publish("t", ["before"]).await;

    wire.cut();
    let keyed = json!({"topic": "t", "data": "cut off", "key": "c"});
    let (unknown, ()) = join(refused(&a, keyed.clone()), async {
        b.publish("t", ["1", "2", "3"]).await;
    })
    .await;
    assert_eq!(unknown, unavailable("outcome_unknown"));
    let begun = Instant::now();
    assert_eq!(
        refused(&a, json!({"data": 1})).await,
        unavailable("unordered")
    );
    assert!(begun.elapsed() < Duration::from_secs(5), "at once");
    wait_until_not_ready(&a, "NATS acknowledges nothing").await;
    assert_eq!(answer(b.get("/health/ready")).await.status, StatusCode::OK);

    wire.mend();
    wait_until_ready(&a).await;
    let again = publish(&a, keyed).await;
    assert!(again.status.is_success(), "{again:?}");
    let content = same_content(&[&a.db(), &b.db()]).await;
    assert_eq!(content.matches("cut off").count(), 1, "{content}");
    assert_eq!(on_a.next_ids(5).await, [1, 2, 3, 4, 5]);
}

/// Who comes from a hub that is ahead is answered at once, also where this hub cannot catch up yet: a client that hears nothing goes
/// away. What it had is never told as a gap.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_from_a_hub_ahead_is_answered_before_this_hub_has_caught_up() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let wire = Wire::to(nats.address(0)).await;
    let a = TestHub::start_with(|settings| {
        settings.cluster = wire.cluster("segno");
        settings.heartbeat = Duration::from_secs(1);
    })
    .await;
    wait_until_ready(&a).await;
    let b = hub(&nats).await;
    b.publish("t", ["1"]).await;
    wire.cut();
    b.publish("t", ["2", "3"]).await;
    let begun = Instant::now();
    let mut held = a.resume("?topic=t", 3).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "at once");
    // Longer than a heartbeat, which does not begin the waiting anew.
    tokio::time::sleep(Duration::from_secs(2)).await;
    wire.mend();
    b.publish("t", ["4"]).await;
    assert_eq!(held.next_ids(1).await, [4], "and no gap");

    wire.cut();
    b.publish("t", ["5"]).await;
    let mut held = a.resume("?topic=t", 5).await;
    let told = held.next().await;
    assert_eq!(told.event_type, "segno.error");
    assert_eq!(told.last_event_id, "5");
    let problem: Value = serde_json::from_str(&told.data).unwrap();
    assert_eq!(problem["code"], "not_joined");
    wire.mend();
    wait_until_ready(&a).await;
    let mut again = a.resume("?topic=t", 5).await;
    b.publish("t", ["6"]).await;
    assert_eq!(again.next_ids(1).await, [6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_killed_goes_on_from_where_it_was() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let (port, folder) = (Port::reserve(), tempfile::tempdir().unwrap());
    let program = start_hub(&nats, folder.path(), &port).await;
    let b = hub(&nats).await;
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Acknowledged::default());
    let publishers: Vec<_> = (0..8)
        .map(|n| {
            let urls = vec![port.url()];
            tokio::spawn(publish_until(stop.clone(), urls, n, acknowledged.clone()))
        })
        .collect();
    let wait_for_events = async |events| {
        while acknowledged.lock().unwrap().len() < events {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("events", wait_for_events(100)).await;
    program.kill();
    let before = acknowledged.lock().unwrap().len();
    b.publish("t", ["meanwhile"]).await;
    let again = start_hub(&nats, folder.path(), &port).await;
    within("events after the start", wait_for_events(before + 100)).await;
    stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        within("a publisher", publisher).await.unwrap();
    }
    let db = folder.path().join("segno.db");
    let content = same_content(&[&db, &b.db()]).await;
    for (id, data) in acknowledged.lock().unwrap().iter() {
        let row = format!("\n{id}|crash|message|\"{data}\"|");
        assert!(format!("\n{content}").contains(&row), "{id} {data}");
    }
    drop(again);
}

/// The file of one hub takes nothing: publishers are told so at once, the other hub goes on, and a stop is not held up.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_whose_disk_is_full_refuses_and_catches_up_when_there_is_room() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let b = hub(&nats).await;
    let disk = SmallDisk::mount("24m").await;
    let mut command = disk.serve();
    command
        .args(["--cluster", &nats.urls().join(",")])
        .stderr(Stdio::null());
    let mut program = Program::spawn(command).await;
    let a = program.as_hub();
    let mut on_a = a.follow("?topic=big").await;
    let big = "x".repeat(500_000);
    let mut published = 0;
    for round in 1..=2 {
        disk.fill();
        for _ in 0..4 {
            published += 1;
            b.publish("big", [&big]).await;
        }
        wait_until_not_ready(&a, "").await;
        for _ in 0..3 {
            let begun = Instant::now();
            let refused = publish(&a, json!({"topic": "t", "data": round})).await;
            assert!(
                [507, 503].contains(&refused.status.as_u16()),
                "{}",
                refused.status
            );
            assert!(begun.elapsed() < Duration::from_secs(5), "{refused:?}");
        }
        let begun = Instant::now();
        assert_eq!(
            refused(&a, json!({"data": 1})).await,
            (StatusCode::INSUFFICIENT_STORAGE, "disk_full".into())
        );
        assert!(begun.elapsed() < Duration::from_secs(2), "at once");
        assert_eq!(answer(a.get("/health/live")).await.status, StatusCode::OK);
        assert_eq!(answer(a.get("/events")).await.status, StatusCode::OK);
        assert_eq!(b.publish("t", ["goes on"]).await.len(), 1);
        if round == 2 {
            break;
        }
        fs::remove_file(disk.inside().join("ballast")).unwrap();
        wait_until_ready(&a).await;
        let all = async |hub: &TestHub| answer(hub.get("/events?limit=1000")).await.body;
        let caught_up = async {
            while all(&a).await != all(&b).await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within("what it lacks", caught_up).await;
        assert_eq!(on_a.next_ids(published).await.len(), published);
    }
    program.signal("TERM");
    let begun = Instant::now();
    // 0 if what there was of the WAL could be put into the file.
    assert!(program.exit_code().await.is_some(), "no second signal");
    assert!(begun.elapsed() < Duration::from_secs(10), "the drain ends");
}

/// A disk that stands still holds up its own hub, which says so, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_on_a_slow_disk_is_not_ready_and_holds_up_no_other() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let b = hub(&nats).await;
    let disk = FaultyDisk::start_with(&["--cluster", &nats.urls().join(",")]).await;
    let a = disk.program.as_hub();
    let mut on_a = a.follow("?topic=t").await;
    b.publish("t", ["before"]).await;
    assert_eq!(on_a.next_ids(1).await, [1]);
    disk.fail("stall-sync-wal");
    let begun = Instant::now();
    for n in 2..=50 {
        assert_eq!(b.publish("t", ["x"]).await, [n]);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "b waits for a");
    wait_until_not_ready(&a, "its disk takes longer than").await;
    // It is there all the same, and tells what it has.
    let hubs = b.get_json("/stats").await["cluster"]["hubs"].clone();
    let ages = hubs.as_array().unwrap().iter();
    let ages: Vec<f64> = ages
        .map(|hub| hub["age_seconds"].as_f64().unwrap())
        .collect();
    assert!(
        ages.len() == 2 && ages.iter().all(|age| *age < 4.5),
        "{ages:?}"
    );
    assert_eq!(answer(b.get("/health/ready")).await.status, StatusCode::OK);
    disk.work_again("stall-sync-wal");
    wait_until_ready(&a).await;
    same_content(&[&disk.db(), &b.db()]).await;
    assert_eq!(on_a.next_ids(49).await, Vec::from_iter(2..=50));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_stream_a_hub_takes_nothing_and_serves_what_it_has() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let a = hub(&nats).await;
    a.publish("t", ["before"]).await;
    nats.delete_stream("segno").await;
    assert_eq!(
        refused(&a, json!({"data": 1})).await,
        unavailable("outcome_unknown")
    );
    assert_eq!(
        refused(&a, json!({"data": 1})).await,
        unavailable("unordered")
    );
    wait_until_not_ready(&a, "").await;
    assert_eq!(
        a.resume("?topic=t&since=start", 0).await.next_ids(1).await,
        [1]
    );

    // What it told of itself is on its way, and holds up no stop.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let begun = Instant::now();
    let folder = a.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "the drain ends");

    // A new order begins with what the file has, when the operator says so.
    let db = folder.path().join("segno.db");
    let from = ["--from", db.to_str().unwrap(), "--replicas", "1"];
    let asked = cluster_init(&nats, &from);
    assert_eq!(asked.status.code(), Some(1), "{asked:?}");
    assert!(told(&asked).contains("--stream-is-lost"), "{asked:?}");
    let made = cluster_init(&nats, &[&from[..], &["--stream-is-lost"]].concat());
    assert!(made.status.success(), "{made:?}");
    let a = TestHub::start_in(folder, |settings| settings.cluster = nats.cluster("segno")).await;
    wait_until_ready(&a).await;
    assert_eq!(a.publish("t", ["after"]).await, [2]);
}

/// The stream keeps no more than it may: hubs that follow do not mind, one that was away for longer is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_drops_its_oldest_commands_which_a_hub_that_was_away_is_told() {
    let nats = Nats::start(1).await;
    nats.make_stream_of("segno", 300_000).await;
    let (a, b, away) = (hub(&nats).await, hub(&nats).await, hub(&nats).await);
    a.publish("t", ["before"]).await;
    same_content(&[&a.db(), &b.db(), &away.db()]).await;
    let folder = away.stop().await;
    let data = "x".repeat(20_000);
    for n in 2..=40 {
        assert_eq!(a.publish("t", [&data]).await, [n]);
    }
    same_content(&[&a.db(), &b.db()]).await;
    for hub in [&a, &b] {
        assert_eq!(
            answer(hub.get("/health/ready")).await.status,
            StatusCode::OK
        );
    }
    let away = TestHub::start_in(folder, |settings| settings.cluster = nats.cluster("segno")).await;
    wait_until_not_ready(&away, "the stream begins at").await;
    assert_eq!(away.last_id().await, 1, "it begins nowhere else");
}

/// NATS can keep nothing more. What was acknowledged stays, and what was not is not called so.
#[tokio::test(flavor = "multi_thread")]
async fn slow_a_server_whose_disk_is_full_acknowledges_nothing_until_there_is_room() {
    let mut nats = Nats::start_on(SmallDisk::mount("32m").await).await;
    nats.make_stream_of("segno", 16 << 20).await;
    let a = hub(&nats).await;
    a.publish("t", ["before"]).await;
    nats.disk().fill();
    let data = "x".repeat(500_000);
    let mut published = 1;
    let unknown = loop {
        let event = json!({"topic": "t", "data": data, "key": published.to_string()});
        let answer = publish(&a, event.clone()).await;
        if answer.status != StatusCode::CREATED {
            assert_eq!(
                (answer.status, answer.code()),
                unavailable("outcome_unknown")
            );
            break event;
        }
        published += 1;
        assert!(published < 60, "it goes where there is no room");
    };
    assert_eq!(
        refused(&a, json!({"data": 1})).await,
        unavailable("unordered")
    );
    assert_eq!(a.last_id().await, published);
    fs::remove_file(nats.disk().inside().join("ballast")).unwrap();
    // NATS turns JetStream off for good when it cannot write.
    nats.stop(0);
    nats.start_again(0);
    wait_until_ready(&a).await;
    let again = publish(&a, unknown).await;
    assert!(again.status.is_success(), "{again:?}");
    assert_eq!(again.json()["id"], published + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_whose_right_to_nats_is_taken_refuses_until_it_is_given_back() {
    let with_password = Nats::start_with_login("hub:right").await;
    let by_password = refuses_meanwhile(&with_password, ["right", "other"]);
    let account = Account::new();
    let with_credentials = Nats::start_with_account(&account).await;
    let (allowed, revoked) = (account.allows(), account.revokes());
    let by_credentials = refuses_meanwhile(&with_credentials, [&allowed, &revoked]);
    Box::pin(join(by_password, by_credentials)).await;
}

/// Takes the right of a hub by a change of the configuration, and gives it back.
async fn refuses_meanwhile(nats: &Nats, [right, other]: [&str; 2]) {
    nats.make_stream("segno").await;
    let a = hub(nats).await;
    a.publish("t", ["before"]).await;
    nats.reconfigure(0, right, other).await;
    let keyed = json!({"topic": "t", "data": "meanwhile", "key": "m"});
    assert_eq!(
        refused(&a, keyed.clone()).await,
        unavailable("outcome_unknown")
    );
    assert_eq!(
        refused(&a, json!({"data": 1})).await,
        unavailable("unordered")
    );
    assert_eq!(a.get_json("/events/1").await["data"], "before");
    nats.reconfigure(0, other, right).await;
    wait_until_ready(&a).await;
    let again = publish(&a, keyed).await;
    assert!(again.status.is_success(), "{again:?}");
    assert_eq!(again.json()["id"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_hub_on_one_file_is_refused() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let a = hub(&nats).await;
    let mut second = segno();
    second
        .args(["serve", "--listen", "127.0.0.1:0"])
        .args(["--cluster", &nats.urls().join(",")])
        .arg("--db")
        .arg(a.db());
    let second = second.output().unwrap();
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    let told = String::from_utf8(second.stderr).unwrap();
    assert!(told.contains("another segno is running on"), "{told}");
    a.publish("t", ["x"]).await;
}

fn status(nats: &Nats) -> Output {
    segno()
        .args(["cluster", "status", "--cluster", &nats.urls().join(",")])
        .output()
        .unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// One hub's clock is an hour ahead, then an hour behind: times of events never go back, on any hub.
#[tokio::test(flavor = "multi_thread")]
async fn clocks_an_hour_apart_turn_no_time_back_and_are_told() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let folder = tempfile::tempdir().unwrap();
    let (clock, library) = (
        folder.path().join("clock"),
        preload("clock.c", folder.path()),
    );
    let set = |seconds: i64| {
        let new = folder.path().join("new");
        fs::write(&new, seconds.to_string()).unwrap();
        fs::rename(new, &clock).unwrap();
    };
    set(3600);
    let mut command = segno();
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .args(["--cluster", &nats.urls().join(",")])
        .args(["--advertise", "http://wrong-clock.example"])
        .arg("--db")
        .arg(folder.path().join("segno.db"))
        .env("LD_PRELOAD", library)
        .env("SEGNO_CLOCK", &clock)
        .stderr(Stdio::null());
    let program = Program::spawn(command).await;
    let (a, b) = (program.as_hub(), hub(&nats).await);
    for seconds in [3600, -3600] {
        set(seconds);
        for _ in 0..5 {
            a.publish("t", ["x"]).await;
            b.publish("t", ["y"]).await;
        }
        let warned = async {
            loop {
                let status = status(&nats);
                let told = told(&status);
                let clocks = told.lines().filter(|line| line.contains("its clock is"));
                if clocks.count() == 1 && told.matches("hub  ").count() == 2 {
                    return told;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        within("a warning of the clock", warned).await;
    }
    let db = folder.path().join("segno.db");
    same_content(&[&db, &b.db()]).await;
    let events = b.get_json("/events").await["events"].clone();
    let times: Vec<&str> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["created_at"].as_str().unwrap())
        .collect();
    assert_eq!(times.len(), 20);
    assert!(times.is_sorted(), "{times:?}");
}

fn copy_folder(from: &Path, to: &Path) {
    _ = fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

/// The servers come back with an older store: what they put in order from then on is another log.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_taken_back_is_noticed_by_hubs_that_run_and_that_start() {
    let mut nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let (a, b) = (hub(&nats).await, hub(&nats).await);
    a.publish("t", ["1", "2", "3"]).await;
    nats.stop(0);
    let older = tempfile::tempdir().unwrap();
    let copy = older.path().join("store");
    copy_folder(&nats.store(0), &copy);
    nats.start_again(0);
    for hub in [&a, &b] {
        wait_until_ready(hub).await;
    }
    a.publish("t", ["4", "5", "6"]).await;
    same_content(&[&a.db(), &b.db()]).await;
    let folder = b.stop().await;

    nats.stop(0);
    copy_folder(&copy, &nats.store(0));
    nats.start_again(0);
    wait_until_not_ready(&a, "taken back").await;
    assert_eq!(
        refused(&a, json!({"data": 1})).await,
        unavailable("unordered")
    );
    let b = TestHub::start_in(folder, |settings| settings.cluster = nats.cluster("segno")).await;
    wait_until_not_ready(&b, "taken back").await;
    for hub in [&a, &b] {
        assert_eq!(hub.last_id().await, 6, "nothing was put over it");
        assert_eq!(hub.resume("", 0).await.next_ids(6).await.len(), 6);
    }
}

/// A hub is cut off while the servers come back with an older store and go on from there, past what the hub has applied.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_taken_back_and_has_grown_since_is_noticed() {
    let mut nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    nats.stop(0);
    let older = tempfile::tempdir().unwrap();
    let copy = older.path().join("store");
    copy_folder(&nats.store(0), &copy);
    nats.start_again(0);
    let wire = Wire::to(nats.address(0)).await;
    let a = TestHub::start_with(|settings| settings.cluster = wire.cluster("segno")).await;
    wait_until_ready(&a).await;
    a.publish("t", ["1", "2", "3"]).await;

    wire.cut();
    nats.stop(0);
    copy_folder(&copy, &nats.store(0));
    nats.start_again(0);
    let b = hub(&nats).await;
    for n in 1..=50 {
        assert_eq!(b.publish("other", ["x"]).await, [n]);
    }
    wire.mend();
    wait_until_not_ready(&a, "taken back").await;
    assert_eq!(a.last_id().await, 3, "nothing was put over it");
    let folder = a.stop().await;
    let a = TestHub::start_in(folder, |settings| settings.cluster = nats.cluster("segno")).await;
    wait_until_not_ready(&a, "is another command than the one applied").await;
    assert_eq!(a.last_id().await, 3, "nor by one that is started");
    wait_for(&a, 1, "/topic", &json!("t")).await;
}

/// Changes the file of a hub that is stopped, so that a key which the others know is another there.
async fn start_changed(nats: &Nats, hub: TestHub) -> TestHub {
    let db = hub.db();
    let folder = hub.stop().await;
    let changed = Command::new("sqlite3")
        .arg(&db)
        .arg("update events set key = key || '-changed' where key is not null")
        .status();
    assert!(changed.unwrap().success());
    let hub = TestHub::start_in(folder, |settings| settings.cluster = nats.cluster("segno")).await;
    wait_until_ready(&hub).await;
    hub
}

/// The file of one hub of three was changed. It is the one that stops, and it does not go on when the others have gone.
#[tokio::test(flavor = "multi_thread")]
async fn slow_of_three_hubs_the_one_whose_file_differs_stops_and_of_two_both() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let (a, b, c) = (hub(&nats).await, hub(&nats).await, hub(&nats).await);
    let keyed = json!({"topic": "t", "data": 1, "key": "k"});
    publish(&a, keyed.clone()).await;
    same_content(&[&a.db(), &b.db(), &c.db()]).await;
    let c = start_changed(&nats, c).await;
    assert_eq!(publish(&a, keyed.clone()).await.status, StatusCode::OK);
    wait_until_not_ready(&c, "differ").await;
    assert_eq!(
        refused(&c, json!({"data": 1})).await,
        unavailable("unordered")
    );
    assert_eq!(answer(c.get("/events")).await.status, StatusCode::OK);
    let told = async {
        loop {
            let status = status(&nats);
            if told(&status).contains("its file differs") {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let told = within("a status that tells of it", told).await;
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    // For longer than a hub that is gone has a vote.
    for _ in 0..17 {
        for hub in [&a, &b] {
            let published = publish(hub, json!({"data": 1})).await;
            assert_eq!(published.status, StatusCode::CREATED, "{published:?}");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let wrong = content(&c.db());

    // Of the two others one is changed: nobody can tell which.
    let b = start_changed(&nats, b).await;
    c.stop().await;
    publish(&a, json!({"topic": "t", "data": 1, "key": "k"})).await;
    for hub in [&a, &b] {
        wait_until_not_ready(hub, "differ").await;
        assert_eq!(
            refused(hub, json!({"data": 1})).await,
            unavailable("unordered")
        );
    }
    assert!(wrong.contains("k-changed"), "{wrong}");
    wait_for(&a, 1, "/data", &json!(1)).await;
}

/// Alone again, a hub that had the majority against it does not take its own file for right.
#[tokio::test(flavor = "multi_thread")]
async fn slow_a_hub_that_was_outvoted_takes_nothing_when_the_others_have_gone() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let (a, b, c) = (hub(&nats).await, hub(&nats).await, hub(&nats).await);
    let keyed = json!({"topic": "t", "data": 1, "key": "k"});
    publish(&a, keyed.clone()).await;
    same_content(&[&a.db(), &b.db(), &c.db()]).await;
    let c = start_changed(&nats, c).await;
    assert_eq!(publish(&a, keyed).await.status, StatusCode::OK);
    wait_until_not_ready(&c, "the file differs from those of the other hubs").await;
    a.stop().await;
    b.stop().await;
    tokio::time::sleep(Duration::from_secs(17)).await;
    assert_eq!(
        refused(&c, json!({"data": 1})).await,
        unavailable("unordered")
    );
}

fn cluster_init(nats: &Nats, more: &[&str]) -> Output {
    segno()
        .args(["cluster", "init", "--cluster", &nats.urls().join(",")])
        // The disk of the tests may have less than is asked for by default.
        .args(["--keep-bytes", "64MiB"])
        .args(more)
        .output()
        .unwrap()
}

/// A log that a hub alone has made goes on as that of a cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_begins_with_the_events_of_a_file() {
    let alone = TestHub::start().await;
    alone.publish("t", ["1", "2", "3"]).await;
    let log = alone.get_json("/stats").await["log_id"].clone();
    let folder = alone.stop().await;
    let nats = Nats::start(1).await;
    let db = folder.path().join("segno.db");
    let begun = Instant::now();
    let refused = cluster_init(&nats, &[]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(told(&refused).contains("--replicas 1"), "{refused:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "it is no election"
    );
    let from = ["--from", db.to_str().unwrap(), "--replicas", "1"];
    let made = cluster_init(&nats, &from);
    assert!(made.status.success(), "{made:?}");
    assert!(told(&made).contains("made the stream segno"), "{made:?}");
    let again = cluster_init(&nats, &from);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(told(&again).contains("there is a stream"), "{again:?}");
    let missing = cluster_init(&nats, &["--if-missing"]);
    assert!(missing.status.success(), "{missing:?}");

    // Not without its cluster any more.
    let mut alone = segno();
    alone
        .args(["serve", "--listen", "127.0.0.1:0", "--db"])
        .arg(&db);
    let alone = alone.output().unwrap();
    assert_eq!(alone.status.code(), Some(1), "{alone:?}");
    assert!(told(&alone).contains("--cluster"), "{alone:?}");

    let other = tempfile::tempdir().unwrap();
    fs::copy(&db, other.path().join("segno.db")).unwrap();
    let start = async |folder| {
        let hub =
            TestHub::start_in(folder, |settings| settings.cluster = nats.cluster("segno")).await;
        wait_until_ready(&hub).await;
        hub
    };
    let (a, b) = (start(folder).await, start(other).await);
    assert_eq!(b.get_json("/stats").await["log_id"], log);
    // Subscribers go on with the ids that they have, at any hub.
    let mut on_b = b.resume("?topic=t", 2).await;
    assert_eq!(a.publish("t", ["4"]).await, [4]);
    assert_eq!(on_b.next_ids(2).await, [3, 4]);
    same_content(&[&a.db(), &b.db()]).await;
}

/// Hubs that are told to keep other events, or to let in other callers, work; the operator hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn hubs_that_go_by_other_rules_are_told() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let rules = "[anonymous]\npublish = [\"**\"]\nfollow = [\"**\"]\noperate = true\n";
    let start = async |keep: Keep, name: &'static str| {
        let folder = tempfile::tempdir().unwrap();
        let access = folder.path().join("access.toml");
        fs::write(&access, rules).unwrap();
        let hub = TestHub::start_in(folder, |settings| {
            settings.cluster = nats.cluster("segno").map(|cluster| ClusterSettings {
                advertise: Some(name.to_owned()),
                ..cluster
            });
            settings.access = Some(access.clone());
            settings.keep = keep;
        })
        .await;
        wait_until_ready(&hub).await;
        (hub, access)
    };
    let (a, of_a) = start(Keep::default(), "http://a").await;
    let (_b, _) = start(Keep::default(), "http://b").await;
    let hour = Keep {
        age: Some(Duration::from_secs(3600)),
        ..Keep::default()
    };
    let (c, of_c) = start(hour, "http://c").await;
    let wait_for_status = async |words: &[&str], code: i32| {
        let seen = async {
            loop {
                let status = status(&nats);
                let told = told(&status);
                if words.iter().all(|word| told.contains(word)) {
                    assert_eq!(status.status.code(), Some(code), "{told}");
                    return told;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        within(format_args!("a status with {words:?}"), seen).await
    };
    let keep = wait_for_status(
        &[
            "http://b",
            "http://c keeps 1h, and http://a keeps everything",
        ],
        1,
    )
    .await;
    assert!(!keep.contains("http://b keeps"), "{keep}");
    assert!(!keep.contains("access file"), "{keep}");

    // Read again while it runs.
    fs::write(&of_c, rules.replace("operate = true", "operate = false")).unwrap();
    wait_for_status(&["http://c has the access file"], 1).await;
    let hubs = a.get_json("/stats").await["cluster"]["hubs"].clone();
    let rules_of = |url: &str| {
        let hub = hubs
            .as_array()
            .unwrap()
            .iter()
            .find(|hub| hub["url"] == url);
        hub.unwrap()["other_rules"].clone()
    };
    assert_eq!(rules_of("http://c"), json!(["retention", "access"]));
    assert_eq!(rules_of("http://b"), json!([]));
    assert_eq!(rules_of("http://a"), json!([]));
    fs::copy(&of_a, &of_c).unwrap();
    let folder = c.stop().await;
    let c = TestHub::start_in(folder, |settings| {
        settings.cluster = nats.cluster("segno").map(|cluster| ClusterSettings {
            advertise: Some("http://c".to_owned()),
            ..cluster
        });
        settings.access = Some(of_c.clone());
    })
    .await;
    wait_until_ready(&c).await;
    let agree = async {
        while !status(&nats).status.success() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    within("hubs that go by the same rules", agree).await;
}

/// A command that a hub lacks was removed, and others came after it: the hub must not wait for it for ever, nor go on behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_lacks_a_command_from_the_middle_of_the_stream_says_so() {
    let nats = Nats::start(1).await;
    let stream = nats.make_stream("segno").await;
    let (a, b) = (hub(&nats).await, hub(&nats).await);
    a.publish("t", ["1"]).await;
    same_content(&[&a.db(), &b.db()]).await;
    let folder = b.stop().await;
    a.publish("t", ["2"]).await;
    let removed = nats.last_sequence("segno").await;
    a.publish("t", ["3"]).await;
    a.publish("t", ["4"]).await;
    stream.delete(removed).await.unwrap();
    let b = TestHub::start_in(folder, |settings| settings.cluster = nats.cluster("segno")).await;
    let why = format!("the command {removed} is no more in the stream");
    wait_until_not_ready(&b, &why).await;
    assert!(b.last_id().await < 3);
}

/// Each server keeps as much free as a stream may take: one with less is told at once how to ask for less.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_larger_than_a_disk_of_nats_is_refused_with_the_way_out() {
    let nats = Nats::start_on(SmallDisk::mount("32m").await).await;
    let begun = Instant::now();
    let refused = cluster_init(&nats, &["--replicas", "1"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(told(&refused).contains("--keep-bytes"), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "no disk grows");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_of_hubs_and_servers_that_are_away() {
    let mut nats = Nats::start(3).await;
    // Servers take a moment to find each other.
    let made = async {
        loop {
            let made = cluster_init(&nats, &[]);
            if made.status.success() {
                return made;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let made = within("a stream", made).await;
    assert!(told(&made).contains("max_payload"), "8 MB are told of");
    let none = status(&nats);
    assert_eq!(none.status.code(), Some(1), "{none:?}");
    assert!(
        told(&none).contains("no hub has told of itself"),
        "{none:?}"
    );

    let ports = [Port::reserve(), Port::reserve()];
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let a = start_hub(&nats, folders[0].path(), &ports[0]).await;
    let b = start_hub(&nats, folders[1].path(), &ports[1]).await;
    let wait_for_status = async |nats: &Nats, code, words: &[&str]| {
        let seen = async {
            loop {
                let status = status(nats);
                let told = told(&status);
                if status.status.code() == Some(code)
                    && words.iter().all(|word| told.contains(word))
                {
                    return told;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        within(format_args!("a status of {code} with {words:?}"), seen).await
    };
    a.as_hub().publish("t", ["x"]).await;
    let urls = [ports[0].url(), ports[1].url()];
    let both = [urls[0].as_str(), &urls[1], "event 1,", "on 3 of 3 servers"];
    let healthy = wait_for_status(&nats, 0, &both).await;
    assert!(!healthy.contains("differs"), "{healthy}");

    // A hub that was killed is told of until it is forgotten.
    b.kill();
    wait_for_status(&nats, 1, &[&urls[1], "should tell of itself"]).await;
    let leader = nats.leader("segno").await;
    nats.kill((leader + 1) % 3);
    wait_for_status(&nats, 1, &[&urls[0], "on 2 of 3 servers"]).await;
}

/// A server that stands still for longer than the servers know the ids of commands hands on what it was sent before, which the hub has
/// sent to another one since.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_command_that_comes_after_minutes_is_not_applied_again() {
    let nats = Nats::start(1).await;
    let stream = nats.make_stream("segno").await;
    let (a, b) = (hub(&nats).await, hub(&nats).await);
    assert_eq!(a.publish("t", ["x"]).await, [1]);
    let mut published = None;
    for sequence in 1..=nats.last_sequence("segno").await {
        let entry = stream.entry(sequence).await.unwrap().unwrap();
        if String::from_utf8_lossy(&entry.payload).contains("\"publish\"") {
            published = Some(entry.payload);
        }
    }
    let copy = published.expect("the command");
    // Under the same id they would find it, for two minutes.
    let propose = |id: &'static str| stream.propose(Subject::Commands, id, copy.clone());
    propose("soon").await.unwrap();
    assert_eq!(b.publish("t", ["y"]).await, [2]);
    // What is known of it is in the file.
    let kept = b.stop().await;
    let b = TestHub::start_in(kept, |settings| settings.cluster = nats.cluster("segno")).await;
    wait_until_ready(&b).await;
    propose("late").await.unwrap();
    assert_eq!(a.publish("t", ["z"]).await, [3]);
    same_content(&[&a.db(), &b.db()]).await;
    let mut all = b.follow("?since=start").await;
    assert_eq!(all.next_ids(3).await, [1, 2, 3]);
    assert_eq!(b.publish("t", ["end"]).await, [4]);
}
