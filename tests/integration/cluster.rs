//! Several hubs with one log, ordered by real NATS servers.

#![expect(
    clippy::print_stdout,
    reason = "the report of a random test says what it did"
)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::StatusCode;
use segno::{client::SseParser, jetstream::Subject};
use serde_json::{Value, json};

use super::{
    nats::Nats,
    proxies::{Proxy, recipe_of},
    test_hub::{
        Answer, CURSOR_TYPE, Port, Program, TestHub, answer, reqwest_client, seeded, segno, within,
    },
};

pub(crate) async fn hub(nats: &Nats) -> TestHub {
    let hub = TestHub::start_with(|settings| settings.cluster = nats.cluster("segno")).await;
    wait_until_ready(&hub).await;
    hub
}

pub(crate) async fn wait_until_ready(hub: &TestHub) {
    let ready = async {
        loop {
            let answer = answer(hub.get("/health/ready")).await;
            if answer.status == StatusCode::OK {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("the hub to be ready", ready).await;
}

/// All rows and marks of a file, and how far it has come.
pub(crate) fn content(db: &Path) -> String {
    let sql = "select id, topic, type, data, created_at, key from events order by id; \
               select * from trimmed order by topic; select id from log; \
               select epoch, sequence, command_id, last_created_at, chain from position";
    let output = std::process::Command::new("sqlite3")
        .arg(db)
        .arg(sql)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until all files are the same, and returns what they have.
pub(crate) async fn same_content(dbs: &[&Path]) -> String {
    let same = async {
        loop {
            let mut contents = Vec::new();
            for db in dbs {
                contents.push(content(db));
            }
            if contents.iter().all(|content| *content == contents[0]) {
                return contents.remove(0);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within("the files to be the same", same).await
}

/// Waits until the event with this id has `value` at the place `pointer`.
pub(crate) async fn wait_for(hub: &TestHub, id: u64, pointer: &str, value: &Value) {
    let seen = async {
        while hub
            .get_json(&format!("/events/{id}"))
            .await
            .pointer(pointer)
            != Some(value)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(format_args!("{value} in event {id}"), seen).await;
}

pub(crate) async fn publish(hub: &TestHub, event: Value) -> Answer {
    answer(hub.post_json("/events", event.to_string())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn hubs_of_a_cluster_have_one_log() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let (a, b) = (hub(&nats).await, hub(&nats).await);
    let mut on_a = a.follow("?topic=t").await;
    let mut on_b = b.follow("?topic=t").await;
    for n in 0..20 {
        let hub = if n % 2 == 0 { &a } else { &b };
        let [id] = hub.publish("t", [&n.to_string()]).await;
        assert_eq!(id, n + 1);
        // A publisher reads what it wrote; at another hub it may take a moment, and on a busy machine more than a client is held.
        let event = hub.get_json(&format!("/events/{id}")).await;
        assert_eq!(event["data"], n);
        for hub in [&a, &b] {
            wait_for(hub, id, "/data", &json!(n)).await;
        }
    }
    let ids: Vec<u64> = (1..=20).collect();
    assert_eq!(on_a.next_ids(20).await, ids);
    assert_eq!(on_b.next_ids(20).await, ids);

    // Each knows of both, and says so.
    let both = async {
        while a.get_json("/stats").await["cluster"]["hubs"]
            .as_array()
            .unwrap()
            .len()
            < 2
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("the hubs to hear of each other", both).await;
    let known = a.get_json("/stats").await["cluster"].clone();
    assert_eq!(known["state"], "ok", "{known}");
    assert!(known["applied_sequence"].as_u64().unwrap() >= 20, "{known}");
    let metrics = answer(a.get("/metrics")).await.body;
    for line in [
        "segno_cluster_hubs 2",
        "segno_cluster_has_order 1",
        "segno_cluster_stopped 0",
        "segno_cluster_diverged 0",
    ] {
        assert!(
            metrics.lines().any(|told| told == line),
            "{line} in {metrics}"
        );
    }
    let ordered = metrics
        .lines()
        .find_map(|line| line.strip_prefix("segno_cluster_order_seconds_count "));
    assert!(
        ordered.unwrap().parse::<f64>().unwrap() >= 10.0,
        "{metrics}"
    );

    // A key counts wherever it is shown, and content decides.
    let first = publish(&a, json!({"topic": "k", "data": 1, "key": "x"})).await;
    let again = publish(&b, json!({"topic": "k", "data": 1, "key": "x"})).await;
    let other = publish(&b, json!({"topic": "k", "data": 2, "key": "x"})).await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert_eq!(
        (again.status, again.json()["id"].clone()),
        (StatusCode::OK, first.json()["id"].clone())
    );
    assert_eq!(
        (other.status, other.code().as_str()),
        (StatusCode::CONFLICT, "key_conflict")
    );

    // Erasures are in the order too.
    let erased = answer(reqwest::Client::new().delete(b.url("/events/3"))).await;
    assert_eq!(erased.status, StatusCode::OK, "{erased:?}");
    wait_for(&a, 3, "/type", &json!("segno.erased")).await;
    let erased = answer(reqwest::Client::new().delete(a.url("/topics/k"))).await;
    assert_eq!(erased.status, StatusCode::OK, "{erased:?}");

    let same = same_content(&[&a.db(), &b.db()]).await;
    assert_eq!(
        same.lines()
            .filter(|line| line.contains("|t|message|"))
            .count(),
        19,
        "{same}"
    );
}

/// A subscriber comes from a hub that is ahead: it waits for this one, and is not told that its cursor is from elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_comes_from_a_hub_ahead_misses_nothing_and_is_told_no_gap() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let (a, b) = (hub(&nats).await, hub(&nats).await);
    for n in 0..200 {
        let [id] = a.publish("t", ["x"]).await;
        let mut stream = b.resume("?topic=t", id).await;
        let [next] = a.publish("t", [&n.to_string()]).await;
        let message = stream.next().await;
        assert_eq!(
            (message.event_type.as_str(), message.last_event_id),
            ("message", next.to_string())
        );
    }
    // A cursor that no hub has given is still told.
    let mut stream = b.resume("?topic=t", 100_000).await;
    assert_eq!(stream.next().await.event_type, "segno.gap");
}

/// The stream has all commands, and a hub with an empty disk needs no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_with_an_empty_disk_catches_up() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let a = hub(&nats).await;
    a.publish_many(3000, |n| format!("t{}", n % 7)).await;
    for n in 0..300 {
        a.publish("single", [&n.to_string()]).await;
    }
    let b = hub(&nats).await;
    assert_eq!(b.last_id().await, 3300);
    same_content(&[&a.db(), &b.db()]).await;
    // And again from where it was.
    let folder = b.stop().await;
    a.publish("single", ["later"]).await;
    let b = TestHub::start_in(folder, |settings| settings.cluster = nats.cluster("segno")).await;
    wait_until_ready(&b).await;
    assert_eq!(b.last_id().await, 3301);
    same_content(&[&a.db(), &b.db()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_servers_publishing_is_refused_and_reading_goes_on() {
    let mut nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let a = hub(&nats).await;
    a.publish("t", ["before"]).await;
    nats.kill(0);
    // Nobody knows of the first: it was on its way.
    let keyed = json!({"topic": "t", "data": "meanwhile", "key": "m"});
    let unknown = publish(&a, keyed.clone()).await;
    assert_eq!(
        (unknown.status, unknown.code().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown")
    );
    let refused = publish(&a, json!({"topic": "t", "data": 1})).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "unordered")
    );
    assert!(!refused.header("retry-after").is_empty());
    let ready = answer(a.get("/health/ready")).await;
    assert_eq!(
        (ready.status, ready.code().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "not_joined")
    );
    assert_eq!(answer(a.get("/health/live")).await.status, StatusCode::OK);
    assert_eq!(
        a.get_json("/events?topic=t").await["events"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let mut stream = a.follow("?topic=t&since=start").await;
    assert_eq!(stream.next_data().await, ["\"before\""]);

    nats.start_again(0);
    wait_until_ready(&a).await;
    let sent_again = publish(&a, keyed).await;
    assert!(sent_again.status.is_success(), "{sent_again:?}");
    assert_eq!(stream.next_data().await, ["\"meanwhile\""]);
}

/// Somebody deleted the stream and made another. Its first commands are not those that the file has.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_another_is_noticed_before_anything_is_taken() {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let a = hub(&nats).await;
    a.publish("t", ["before"]).await;
    nats.delete_stream("segno").await;
    nats.make_stream("segno").await;
    let refused = async {
        loop {
            let refused = publish(&a, json!({"topic": "t", "data": 1})).await;
            assert!(!refused.status.is_success(), "{refused:?}");
            if refused.code() == "unordered"
                && refused.json()["detail"].to_string().contains("taken back")
            {
                return;
            }
        }
    };
    within("the hub to notice", refused).await;
    assert_eq!(a.last_id().await, 1);
    let folder = a.stop().await;
    let a = TestHub::start_in(folder, |settings| settings.cluster = nats.cluster("segno")).await;
    let ready = answer(a.get("/health/ready")).await;
    assert_eq!(
        (ready.status, ready.code().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "not_joined")
    );
    assert_eq!(a.last_id().await, 1);
}

/// A hub of a later version proposed what this one does not know. What follows must not be applied without it.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_command_is_never_skipped() {
    let nats = Nats::start(1).await;
    let stream = nats.make_stream("segno").await;
    let a = hub(&nats).await;
    a.publish("t", ["before"]).await;
    let at = 1_764_000_000_000_u64;
    let later = format!(r#"{{"id":"later","at":{at},"cursor":{{}}}}"#);
    stream
        .propose(Subject::Commands, "later", later.into())
        .await
        .unwrap();
    let known = format!(
        r#"{{"id":"known","at":{at},"publish":[[{{"topic":"t","type":"message","data":1}}]]}}"#
    );
    let refused = async {
        while answer(a.get("/health/ready")).await.status == StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the hub to stop following", refused).await;
    stream
        .propose(Subject::Commands, "known", known.into())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(a.last_id().await, 1);
    let refused = publish(&a, json!({"topic": "t", "data": 2})).await;
    assert_eq!(refused.code(), "unordered");
}

const PUBLISHERS: usize = 16;
const SUBSCRIBERS: usize = 48;

/// How long everything is killed; `SEGNO_CLUSTER_SECONDS` makes it longer.
fn killing_time() -> Duration {
    let seconds = std::env::var("SEGNO_CLUSTER_SECONDS").ok();
    Duration::from_secs(seconds.map_or(25, |seconds| seconds.parse().unwrap()))
}

/// The data of each acknowledged event, by its id.
pub(crate) type Acknowledged = Arc<Mutex<BTreeMap<u64, String>>>;

/// Publishes with keys, at any hub, and sends again what was not acknowledged.
pub(crate) async fn publish_until(
    stop: Arc<AtomicBool>,
    urls: Vec<String>,
    publisher: usize,
    acknowledged: Acknowledged,
) {
    let http = reqwest_client();
    for n in 0_u64.. {
        let data = format!("{publisher}-{n}");
        let event = json!({"topic": "crash", "data": data, "key": data}).to_string();
        loop {
            let url = fastrand::choice(&urls).unwrap();
            let request = http
                .post(format!("{url}/events"))
                .header("content-type", "application/json")
                .body(event.clone());
            let answer = request.send().await;
            if let Ok(answer) = answer
                && answer.status().is_success()
                && let Ok(body) = answer.text().await
            {
                let receipt: Value = serde_json::from_str(&body).unwrap();
                let id = receipt["id"].as_u64().unwrap();
                let twice = acknowledged.lock().unwrap().insert(id, data);
                assert_eq!(twice, None, "the id {id} was given twice");
                break;
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Follows at any hub, now and then leaves a good connection, and goes on at another; ends when it has the event `until`.
async fn follow_until(until: Arc<AtomicU64>, urls: Vec<String>) -> Vec<(u64, String)> {
    let http = reqwest_client();
    let mut events: Vec<(u64, String)> = Vec::new();
    let mut cursor = 0;
    while events
        .last()
        .is_none_or(|(id, _)| *id < until.load(Ordering::Relaxed))
    {
        let mut parser = SseParser::default();
        let url = fastrand::choice(&urls).unwrap();
        let request = http
            .get(format!("{url}/sse?topic=crash"))
            .header("last-event-id", cursor);
        // A hub that cannot catch up refuses within 10 s; one that is killed, at once.
        let Ok(Ok(mut answer)) =
            tokio::time::timeout(Duration::from_secs(12), request.send()).await
        else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        if !answer.status().is_success() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        let leave = tokio::time::Instant::now() + Duration::from_millis(fastrand::u64(10..3000));
        while let Ok(Ok(Some(chunk))) = tokio::time::timeout_at(leave, answer.chunk()).await {
            parser.feed(&chunk, |message| {
                if message.event_type == CURSOR_TYPE {
                    return;
                }
                assert_eq!(message.event_type, "message", "{message:?} from {url}");
                let data = serde_json::from_str(&message.data).unwrap();
                events.push((message.last_event_id.parse().unwrap(), data));
            });
        }
        cursor = parser.last_event_id().parse().unwrap_or(cursor);
    }
    events
}

pub(crate) async fn start_hub(nats: &Nats, folder: &Path, port: &Port) -> Program {
    let mut command = segno();
    command
        .args(["serve", "--listen", &port.address().to_string()])
        .args(["--cluster", &nats.urls().join(",")])
        .args(["--advertise", &port.url()])
        .arg("--db")
        .arg(folder.join("segno.db"))
        .stderr(std::process::Stdio::null());
    Program::spawn(command).await
}

/// HAProxy before the hubs, by the recipe of the page.
async fn start_proxy(hubs: &[Port], folder: &Path) -> Proxy {
    let mut recipe = recipe_of("docs/cluster.md", "haproxy");
    for (n, port) in hubs.iter().enumerate() {
        let hub = format!("10.0.0.{}:8000", n + 1);
        assert_eq!(recipe.matches(&hub).count(), 2, "{recipe}");
        recipe = recipe.replace(&hub, &port.address().to_string());
    }
    Proxy::run("haproxy", &recipe, folder).await
}

/// Publishers and subscribers are at any hub, and behind a proxy. Hubs and servers are killed at random, and a hub's disk is emptied. Every acknowledged event is on every stream, once, in one
/// order, and no gap is told.
#[tokio::test(flavor = "multi_thread")]
async fn slow_a_cluster_that_is_killed_at_random_loses_nothing() {
    let mut random = seeded();
    let mut nats = Nats::start(3).await;
    nats.make_stream("segno").await;
    let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
    let urls: Vec<String> = ports.iter().map(Port::url).collect();
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let mut hubs = Vec::new();
    for (folder, port) in folders.iter().zip(&ports) {
        hubs.push(Some(start_hub(&nats, folder.path(), port).await));
    }
    let proxied = tempfile::tempdir().unwrap();
    let proxy = start_proxy(&ports, proxied.path()).await;
    // Half of all go through it.
    let mut urls = urls;
    urls.extend(vec![proxy.url.clone(); 3]);
    let acknowledged = Acknowledged::default();
    let (stop, until) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(u64::MAX)),
    );
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|n| {
            tokio::spawn(publish_until(
                stop.clone(),
                urls.clone(),
                n,
                acknowledged.clone(),
            ))
        })
        .collect();
    let subscribers: Vec<_> = (0..SUBSCRIBERS)
        .map(|_| tokio::spawn(follow_until(until.clone(), urls.clone())))
        .collect();

    let (mut kills, mut emptied) = ([0, 0], 0);
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < killing_time() {
        tokio::time::sleep(Duration::from_millis(random.u64(500..2500))).await;
        let n = random.usize(0..3);
        match random.u8(0..5) {
            0 | 1 => {
                nats.kill(n);
                tokio::time::sleep(Duration::from_millis(random.u64(0..3000))).await;
                nats.start_again(n);
                kills[0] += 1;
            }
            _ => {
                hubs[n].take().unwrap().kill();
                if random.u8(0..3) == 0 {
                    for file in std::fs::read_dir(folders[n].path()).unwrap() {
                        std::fs::remove_file(file.unwrap().path()).unwrap();
                    }
                    emptied += 1;
                }
                hubs[n] = Some(start_hub(&nats, folders[n].path(), &ports[n]).await);
                kills[1] += 1;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        within("a publisher", publisher).await.unwrap();
    }
    let acknowledged = acknowledged.lock().unwrap().clone();
    println!(
        "{} events acknowledged, {} servers and {} hubs killed, {emptied} disks emptied",
        acknowledged.len(),
        kills[0],
        kills[1]
    );
    assert!(acknowledged.len() > 100, "the cluster took next to nothing");
    until.store(*acknowledged.last_key_value().unwrap().0, Ordering::Relaxed);
    let mut streams = Vec::new();
    for subscriber in subscribers {
        streams.push(within("a subscriber", subscriber).await.unwrap());
    }
    let dbs: Vec<PathBuf> = folders
        .iter()
        .map(|folder| folder.path().join("segno.db"))
        .collect();
    let dbs: Vec<&Path> = dbs.iter().map(PathBuf::as_path).collect();
    same_content(&dbs).await;
    for stream in &streams {
        assert!(stream.is_sorted_by(|a, b| a.0 < b.0), "in order, once");
        let got: BTreeMap<_, _> = stream.iter().cloned().collect();
        for (id, data) in &acknowledged {
            assert_eq!(got.get(id), Some(data), "event {id}");
        }
        let shortest = streams.iter().map(Vec::len).min().unwrap();
        assert_eq!(stream[..shortest], streams[0][..shortest], "one order");
    }
}
