//! What whoever runs the hub sees of it: figures, health, traces.

use std::{
    collections::HashMap,
    fs,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram as StdUnixDatagram},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use prometheus_parse::{Scrape, Value};
use segno::server::{ListenAddress, Server};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UnixDatagram},
};
use uuid::Uuid;

use super::test_hub::{
    HeldFile, Port, Program, TestHub, TestStream, answer, config, only_local, reqwest_client,
    segno, within,
};

/// The figures of a moment: counters and gauges by their name and labels, of histograms the count.
pub(crate) struct Figures(HashMap<String, f64>);

impl Figures {
    pub(crate) async fn of(hub: &TestHub) -> Self {
        let exposition = answer(hub.get("/metrics")).await;
        assert_eq!(
            exposition.header("content-type"),
            "text/plain; version=0.0.4; charset=utf-8"
        );
        Self::parse(&exposition.body)
    }

    fn parse(exposition: &str) -> Self {
        let lines = exposition.lines().map(|line| Ok(line.to_owned()));
        let scrape = Scrape::parse(lines).unwrap();
        let mut figures = HashMap::new();
        for sample in scrape.samples {
            let value = match sample.value {
                Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => value,
                Value::Histogram(buckets) => buckets.last().unwrap().count,
                Value::Summary(_) => panic!("{} is a summary", sample.metric),
            };
            let mut name = sample.metric;
            for (label, value) in sample.labels.iter() {
                name += &format!(" {label}={value}");
            }
            assert_eq!(figures.insert(name.clone(), value), None, "{name} twice");
        }
        Self(figures)
    }

    pub(crate) fn get(&self, name: &str) -> f64 {
        *self
            .0
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {:?}", self.0.keys()))
    }

    /// What was added to a counter since `before`. One that was not there began at zero.
    fn added(&self, name: &str, before: &Self) -> f64 {
        self.get(name) - before.0.get(name).copied().unwrap_or_default()
    }
}

#[tokio::test]
async fn the_names_of_the_figures_obey_the_rules_of_prometheus() {
    let hub = TestHub::start().await;
    let exposition = answer(hub.get("/metrics")).await.body;
    let mut kinds = HashMap::new();
    for line in exposition.lines() {
        if let Some(line) = line.strip_prefix("# TYPE ") {
            let (name, kind) = line.split_once(' ').unwrap();
            assert_eq!(kinds.insert(name, kind), None, "{name} twice");
        }
    }
    assert!(kinds.len() > 25, "{kinds:?}");
    for (name, kind) in kinds {
        assert!(
            name.starts_with("segno_") || name.starts_with("process_"),
            "{name}"
        );
        assert!(
            name.bytes()
                .all(|byte| byte == b'_' || byte.is_ascii_lowercase()),
            "{name}"
        );
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} {kind}");
        assert!(
            exposition.contains(&format!("# HELP {name} ")),
            "{name} is not explained"
        );
    }
}

#[tokio::test]
async fn the_figures_move_by_what_was_done() {
    let hub = TestHub::start().await;
    let before = Figures::of(&hub).await;
    assert_eq!(before.get("segno_commit_seconds"), 0.0);

    let mut stream = hub.follow("").await;
    hub.publish("t", ["a"]).await;
    hub.publish_many(10, |_| "t".into()).await;
    let bytes = stream.next_ids(11).await.len();
    assert_eq!(bytes, 11);
    let mut replay = hub.follow("?since=start").await;
    replay.next_ids(11).await;
    for _ in 0..2 {
        answer(hub.post("/topics/a%20b").body("x")).await;
    }
    answer(hub.get("/events/99")).await;
    answer(hub.get("/nowhere")).await;
    let mut ahead = hub.resume("", 5000).await;
    assert_eq!(ahead.next().await.event_type, "segno.gap");

    let after = Figures::of(&hub).await;
    for (name, added) in [
        ("segno_published_requests_total", 2.0),
        ("segno_published_events_total", 11.0),
        ("segno_commit_events", 2.0),
        ("segno_commit_seconds", 2.0),
        ("segno_refusals_total code=invalid_topic", 2.0),
        ("segno_refusals_total code=unknown_event", 1.0),
        ("segno_refusals_total code=unknown_path", 1.0),
        ("segno_replayed_pages_total source=file", 0.0),
        ("segno_gaps_total reason=ahead", 1.0),
        ("segno_gaps_total reason=trimmed", 0.0),
        ("segno_kept_events", 11.0),
        ("segno_last_id", 11.0),
        ("segno_subscribers", 3.0),
        ("segno_failed_commits_total", 0.0),
    ] {
        assert_eq!(after.added(name, &before), added, "{name}");
    }
    // The one that was ahead reads all again.
    assert!(after.get("segno_delivered_events_total") >= 22.0);
    let received = stream.received.len() + replay.received.len();
    let delivered = after.get("segno_delivered_bytes_total");
    assert!(delivered >= received as f64, "{delivered} of {received}");
    assert!(after.get("segno_replayed_pages_total source=memory") >= 1.0);
    assert_eq!(after.get("segno_first_id"), 1.0);
    assert!(after.get("segno_connections") >= 4.0);
    assert!(after.get("segno_file_bytes") > 0.0 && after.get("segno_wal_bytes") > 0.0);

    let stats = hub.get_json("/stats").await;
    assert_eq!(stats["last_id"], 11);
    drop((stream, replay, ahead));
    within("the streams to be closed", async {
        while Figures::of(&hub).await.get("segno_subscribers") > 0.0 {
            pause().await;
        }
    })
    .await;
    answer(reqwest_client().delete(hub.url("/topics/t"))).await;
    let erased = Figures::of(&hub).await;
    assert_eq!(erased.added("segno_trimmed_events_total", &after), 11.0);
    assert_eq!(erased.added("segno_trim_steps_total", &after), 1.0);
    assert_eq!(erased.get("segno_kept_events"), 1.0);
}

#[tokio::test]
async fn the_figures_tell_what_the_hub_takes_of_the_machine() {
    let hub = TestHub::start().await;
    let before = Figures::of(&hub).await;
    let mut streams = vec![];
    for _ in 0..20 {
        streams.push(hub.follow("").await);
    }
    hub.publish_many(2_000, |_| "t".into()).await;
    let after = Figures::of(&hub).await;
    assert!(after.added("process_open_fds", &before) >= 20.0);
    assert!(after.get("process_open_fds") < after.get("process_max_fds"));
    assert!(after.added("process_cpu_seconds_total", &before) > 0.0);
    let resident = after.get("process_resident_memory_bytes");
    assert!((4e6..1e9).contains(&resident), "{resident}");
    assert!(after.get("process_virtual_memory_bytes") >= resident);

    let df = std::process::Command::new("df")
        .args(["--block-size=1", "--output=avail"])
        .arg(hub.db())
        .output()
        .unwrap();
    let text = String::from_utf8(df.stdout).unwrap();
    let free: f64 = text.lines().nth(1).unwrap().trim().parse().unwrap();
    let told = after.get("segno_disk_free_bytes");
    // Others write to this disk as well.
    assert!((told / free - 1.0).abs() < 0.2, "{told} of {free}");
}

/// Between two looks at something that is waited for.
pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

async fn wait_for_health(hub: &TestHub, path: &str, expected: (u16, &str)) {
    within(format_args!("{path} to be {expected:?}"), async {
        loop {
            let health = answer(hub.get(path)).await;
            let status = health.status.as_u16();
            let code = match status {
                200 => "ok".to_owned(),
                _ => health.code(),
            };
            if (status, code.as_str()) == expected {
                return;
            }
            pause().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_hub_that_opens_its_file_is_live_not_ready_and_lets_others_wait() {
    if only_local("the server is started without a cluster") {
        return;
    }
    let folder = TestHub::start().await.stop().await;
    let db = folder.path().join("segno.db");
    let held = HeldFile::hold_by(
        &db,
        "pragma locking_mode=exclusive;\nbegin exclusive;",
        "exclusive\n",
    );
    let port = Port::reserve();
    let mut config = config(folder.path());
    config.listen = vec![ListenAddress::Ip(port.address())];
    let url = |path| format!("{}{path}", port.url());
    let http = reqwest_client();
    let looking = async {
        while TcpStream::connect(port.address()).await.is_err() {
            pause().await;
        }
        let ready = answer(http.get(url("/health/ready"))).await;
        assert_eq!(
            (ready.status.as_u16(), ready.code().as_str()),
            (503, "starting")
        );
        assert_eq!(ready.header("retry-after"), "1");
        assert!(!ready.header("x-request-id").is_empty());
        assert_eq!(answer(http.get(url("/health/live"))).await.status, 200);
        let early = tokio::spawn(http.get(url("/events")).send());
        held.release();
        early.await.unwrap().unwrap()
    };
    let starting = Box::pin(Server::start(config));
    let (server, early) =
        within("the hub to open", async { tokio::join!(starting, looking) }).await;
    assert_eq!(early.status(), 200);
    within("the hub to serve", server.unwrap().serve(async {}))
        .await
        .unwrap();
}

async fn canaries(hub: &TestHub) -> f64 {
    Figures::of(hub).await.get("segno_canary_seconds")
}

async fn wait_for_canaries(hub: &TestHub, more: f64) {
    let before = canaries(hub).await;
    within("canaries", async {
        while canaries(hub).await < before + more {
            pause().await;
        }
    })
    .await;
}

const OFTEN: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_held_writer_is_not_ready_then_not_live_and_recovers() {
    let hub = TestHub::start_with(|config| config.hub.canary = OFTEN).await;
    wait_for_canaries(&hub, 1.0).await;
    wait_for_health(&hub, "/health/ready", (200, "ok")).await;
    let held = HeldFile::hold(&hub.db());
    // Quiet is not broken: nobody publishes, and the canary needs no commit.
    wait_for_canaries(&hub, 5.0).await;
    wait_for_health(&hub, "/health/ready", (200, "ok")).await;

    let publishing = tokio::spawn(hub.post("/topics/t").body("x").send());
    wait_for_health(&hub, "/health/ready", (503, "canary_late")).await;
    assert_eq!(answer(hub.get("/health/live")).await.status, 200);
    wait_for_health(&hub, "/health/live", (503, "stuck")).await;
    held.release();
    assert_eq!(
        within("the event", publishing)
            .await
            .unwrap()
            .unwrap()
            .status(),
        201
    );
    wait_for_health(&hub, "/health/ready", (200, "ok")).await;
    wait_for_health(&hub, "/health/live", (200, "ok")).await;
    assert!(Figures::of(&hub).await.get("segno_canary_failures_total") >= 1.0);
    assert!(hub.get_json("/stats").await["canary_ms"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn the_canary_is_seen_by_nobody_and_leaves_an_idle_disk_alone() {
    let hub = TestHub::start_with(|config| config.hub.canary = OFTEN).await;
    let mut streams = [hub.follow("").await, hub.follow("?topic=segno.*").await];
    hub.publish("t", ["a"]).await;
    streams[0].next().await;
    let folder = hub.db().parent().unwrap().to_owned();
    let changed = || -> HashMap<PathBuf, SystemTime> {
        let files = fs::read_dir(&folder).unwrap();
        files
            .map(|file| file.unwrap())
            .map(|file| (file.path(), file.metadata().unwrap().modified().unwrap()))
            .collect()
    };
    // The highest id is noted, and the WAL emptied, within a second or two.
    within("the disk to be left alone for ten canaries", async {
        loop {
            let before = changed();
            wait_for_canaries(&hub, 10.0).await;
            if changed() == before {
                break;
            }
        }
    })
    .await;
    assert_eq!(hub.publish("t", ["b"]).await, [2], "canaries take no ids");
    assert_eq!(streams[0].next().await.data, "\"b\"");
    assert!(streams[1].take_received().is_empty());
    assert_eq!(Figures::of(&hub).await.get("segno_subscribers"), 2.0);
    assert_eq!(
        hub.get_json("/topics").await["topics"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

/// A program whose traces go to a file.
pub(crate) struct Traced {
    pub(crate) program: Program,
    pub(crate) hub: TestHub,
    pub(crate) db: PathBuf,
    traces: PathBuf,
}

impl Traced {
    pub(crate) async fn start(folder: &Path, args: &[&str], level: &str) -> Self {
        let (db, traces) = (folder.join("segno.db"), folder.join("traces"));
        let mut command = segno();
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(["--log-format", "json", "--db"])
            .arg(&db)
            .args(args)
            .env("SEGNO_LOG", level);
        let program = Program::spawn_logging_to(&traces, command).await;
        Self {
            hub: program.as_hub(),
            program,
            db,
            traces,
        }
    }

    /// The lines whose message is `message`.
    /// All that was logged, as text.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.traces).unwrap()
    }

    pub(crate) fn lines(&self, message: &str) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(&self.traces).unwrap();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines
            .filter(|line: &serde_json::Value| line["message"] == message)
            .collect()
    }

    pub(crate) async fn wait_for_line(&self, message: &str) -> serde_json::Value {
        within(format_args!("the line '{message}'"), async {
            loop {
                if let Some(line) = self.lines(message).pop() {
                    return line;
                }
                pause().await;
            }
        })
        .await
    }
}

#[tokio::test]
async fn a_slow_commit_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let traced = Traced::start(folder.path(), &["--slow-commit", "50ms"], "info").await;
    let held = HeldFile::hold(&traced.db);
    let publishing = tokio::spawn(traced.hub.post("/topics/t").body("x").send());
    within("the writer to be at it", async {
        // It took the event from the queue, and has not stored it.
        while Figures::of(&traced.hub).await.get("segno_queue_bytes") == 0.0 {
            pause().await;
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    held.release();
    assert_eq!(
        within("the event", publishing)
            .await
            .unwrap()
            .unwrap()
            .status(),
        201
    );
    let line = traced.wait_for_line("a commit was slow").await;
    assert_eq!(
        (&line["level"], &line["events"]),
        (&"WARN".into(), &1.into())
    );
    assert!(line["duration_ms"].as_u64().unwrap() >= 50, "{line}");
    assert_eq!(line["queue_publications"], 0);
}

#[tokio::test]
async fn a_slow_subscriber_is_told_of_once() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--slow-subscriber", "300ms", "--canary", "100ms"];
    let traced = Traced::start(folder.path(), &args, "info").await;
    let hub = &traced.hub;
    let mut socket = TcpStream::connect(hub.address()).await.unwrap();
    socket
        .write_all(b"GET /sse HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut good = hub.follow("").await;
    // More than the buffers of a connection hold.
    let big = "x".repeat(900_000);
    for _ in 0..20 {
        hub.publish("t", [&big]).await;
        good.next().await;
    }
    let figures = Figures::of(hub).await;
    assert_eq!(figures.get("segno_subscribers_behind"), 1.0);
    let line = traced.wait_for_line("a subscriber is slow").await;
    let address = socket.local_addr().unwrap().to_string();
    assert_eq!(line["subscriber"], address);
    let cursor = line["cursor"].as_f64().unwrap();
    assert!(
        cursor > 0.0 && line["lag_events"].as_f64().unwrap() > 0.0,
        "{line}"
    );
    assert_eq!(figures.get("segno_lag_events"), 20.0 - cursor);
    assert!(line["behind_for_ms"].as_u64().unwrap() >= 300);
    wait_for_canaries(hub, 6.0).await;
    assert_eq!(traced.lines("a subscriber is slow").len(), 1);
    drop(socket);
    within("it to be gone", async {
        while Figures::of(hub).await.get("segno_subscribers_behind") > 0.0 {
            pause().await;
        }
    })
    .await;
    drop(traced.program);
}

#[tokio::test]
async fn every_answer_has_the_id_of_its_request() {
    let hub = TestHub::start().await;
    let id_of = async |path: &str, id: Option<&str>| {
        let request = hub.get(path);
        let request = match id {
            Some(id) => request.header("x-request-id", id),
            None => request,
        };
        answer(request).await.header("x-request-id").to_owned()
    };
    let longest = "x".repeat(128);
    for own in ["a", "order-1001:{retry/2}", &longest] {
        for path in [
            "/health/live",
            "/nowhere",
            "/events/99",
            "/openapi.json",
            "/",
        ] {
            assert_eq!(id_of(path, Some(own)).await, own, "{path}");
        }
        let request = hub.get("/sse").header("x-request-id", own);
        assert_eq!(TestStream::open(request).await.header("x-request-id"), own);
    }
    for bad in ["", "a b", "a\tb", &"x".repeat(129)] {
        let made = id_of("/health/live", Some(bad)).await;
        assert_eq!(Uuid::parse_str(&made).unwrap().get_version_num(), 7);
    }
    let (first, second) = (id_of("/", None).await, id_of("/", None).await);
    assert!(first != second && first.len() == 36, "{first} {second}");
}

#[tokio::test]
async fn a_request_is_traced_from_the_post_to_the_announcement() {
    let folder = tempfile::tempdir().unwrap();
    let traced = Traced::start(folder.path(), &[], "debug").await;
    let hub = &traced.hub;
    let mut stream = hub.follow("?topic=secret-free").await;
    let request = hub
        .post("/topics/secret-free?type=hidden")
        .header("x-request-id", "mine-1")
        .header("authorization", "Bearer hidden")
        .body("hidden");
    assert_eq!(answer(request).await.status, 201);
    stream.next().await;
    let announce = traced.wait_for_line("announce").await;
    assert_eq!(
        [
            &announce["first_id"],
            &announce["last_id"],
            &announce["feeds"],
            &announce["receivers"]
        ],
        [1; 4]
    );
    let commit = traced.wait_for_line("commit").await;
    assert_eq!(commit["requests"], "mine-1");
    assert_eq!(
        [&commit["first_id"], &commit["last_id"], &commit["events"]],
        [1; 3]
    );
    assert!(commit["duration_ms"].as_f64().unwrap() > 0.0);
    let line = within("the line of the request", async {
        loop {
            let mut lines = traced.lines("request").into_iter();
            if let Some(line) = lines.find(|line| line["request_id"] == "mine-1") {
                return line;
            }
            pause().await;
        }
    })
    .await;
    assert_eq!(line["path"], "/topics/secret-free");
    assert_eq!(
        (&line["method"], &line["status"]),
        (&"POST".into(), &201.into())
    );
    let text = fs::read_to_string(&traced.traces).unwrap();
    assert!(!text.contains("hidden"), "{text}");
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            line.get("span").is_none() && line.get("spans").is_none(),
            "{line}"
        );
    }
}

#[tokio::test]
async fn requests_that_share_a_commit_are_named_in_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let traced = Traced::start(folder.path(), &[], "debug").await;
    let held = HeldFile::hold(&traced.db);
    let publish = |n: usize| {
        let request = traced.hub.post("/topics/t").body("x");
        tokio::spawn(request.header("x-request-id", format!("r{n}")).send())
    };
    // The first is at the file, and the others wait for it.
    let mut publishing = vec![publish(0)];
    within("the first to be taken", async {
        let queue = async |name| Figures::of(&traced.hub).await.get(name);
        while queue("segno_queue_bytes").await == 0.0
            || queue("segno_queue_publications").await > 0.0
        {
            pause().await;
        }
    })
    .await;
    publishing.extend((1..40).map(publish));
    within("all to wait", async {
        while Figures::of(&traced.hub)
            .await
            .get("segno_queue_publications")
            < 39.0
        {
            pause().await;
        }
    })
    .await;
    held.release();
    for published in publishing {
        assert_eq!(
            within("an event", published)
                .await
                .unwrap()
                .unwrap()
                .status(),
            201
        );
    }
    let commits = traced.lines("commit");
    let events: u64 = commits
        .iter()
        .map(|line| line["events"].as_u64().unwrap())
        .sum();
    assert_eq!(events, 40);
    let shared = commits.iter().find(|line| line["events"] == 39).unwrap();
    let requests = shared["requests"].as_str().unwrap();
    assert!(requests.ends_with(" and 7 more"), "{requests}");
    assert_eq!(
        requests
            .split(' ')
            .filter(|word| word.starts_with('r'))
            .count(),
        32
    );
}

#[tokio::test]
async fn a_failure_is_told_with_the_id_of_its_request() {
    let folder = tempfile::tempdir().unwrap();
    let traced = Traced::start(folder.path(), &[], "info").await;
    // A table that is gone is nothing a hub has an answer for.
    let broken = Command::new("sqlite3")
        .args(["-cmd", ".timeout 10000"])
        .arg(&traced.db)
        .arg("alter table events rename to gone")
        .status()
        .unwrap();
    assert!(broken.success());
    let request = traced.hub.get("/events/1").bearer_auth("hidden");
    let failed = answer(request.header("x-request-id", "mine-2")).await;
    assert_eq!(
        (failed.status.as_u16(), failed.code().as_str()),
        (500, "internal")
    );
    assert!(!failed.body.contains("no such table"), "{failed:?}");
    let line = traced.wait_for_line("a request failed").await;
    assert_eq!(
        (&line["request_id"], &line["level"]),
        (&"mine-2".into(), &"ERROR".into())
    );
    assert_eq!(
        (&line["path"], &line["code"]),
        (&"/events/1".into(), &"internal".into())
    );
    assert!(
        line["cause"].as_str().unwrap().contains("no such table"),
        "{line}"
    );
    assert!(!line.to_string().contains("hidden"));
}

/// A service manager's end of the socket, at a path or, with `@`, outside of the file system.
struct TestManager(UnixDatagram);

impl TestManager {
    fn listen(name: &str) -> Self {
        let socket = match name.strip_prefix('@') {
            Some(name) => {
                let address = SocketAddr::from_abstract_name(name).unwrap();
                StdUnixDatagram::bind_addr(&address).unwrap()
            }
            None => StdUnixDatagram::bind(name).unwrap(),
        };
        socket.set_nonblocking(true).unwrap();
        Self(UnixDatagram::from_std(socket).unwrap())
    }

    async fn told(&self) -> String {
        let mut message = [0; 1024];
        let bytes = within("a word to the manager", self.0.recv(&mut message)).await;
        str::from_utf8(&message[..bytes.unwrap()])
            .unwrap()
            .to_owned()
    }

    fn drain(&self) {
        while self.0.try_recv(&mut [0; 1024]).is_ok() {}
    }
}

async fn start_managed(folder: &Path, socket: &str) -> Program {
    let mut command = segno();
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--canary",
            "100ms",
            "--db",
        ])
        .arg(folder.join("segno.db"))
        .env("NOTIFY_SOCKET", socket)
        .stderr(Stdio::null());
    Program::spawn(command).await
}

#[tokio::test]
async fn a_service_manager_is_told_ready_alive_and_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify").to_str().unwrap().to_owned();
    for socket in [path, format!("@segno-test-{}", Uuid::new_v4())] {
        let manager = TestManager::listen(&socket);
        let mut program = start_managed(folder.path(), &socket).await;
        let ready = manager.told().await;
        let status = format!(
            "STATUS=listening on 127.0.0.1:{}, events 1 to 0",
            program.port
        );
        assert_eq!(ready, format!("READY=1\n{status}"));
        for _ in 0..3 {
            assert_eq!(manager.told().await, "WATCHDOG=1");
        }
        program.signal("TERM");
        let mut told = manager.told().await;
        while told == "WATCHDOG=1" {
            told = manager.told().await;
        }
        assert_eq!(told, "STOPPING=1\nSTATUS=draining");
        assert_eq!(program.exit_code().await, Some(0));
    }
}

#[tokio::test]
async fn a_held_writer_stops_feeding_the_watchdog() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify").to_str().unwrap().to_owned();
    let manager = TestManager::listen(&socket);
    let program = start_managed(folder.path(), &socket).await;
    let hub = program.as_hub();
    let held = HeldFile::hold(&folder.path().join("segno.db"));
    let publishing = tokio::spawn(hub.post("/topics/t").body("x").send());
    wait_for_health(&hub, "/health/ready", (503, "canary_late")).await;
    manager.drain();
    // Twenty canaries could have come back until then, and others do nothing for the watchdog.
    wait_for_health(&hub, "/health/live", (503, "stuck")).await;
    assert!(manager.0.try_recv(&mut [0; 1024]).is_err(), "it was fed");
    held.release();
    assert_eq!(manager.told().await, "WATCHDOG=1");
    assert_eq!(
        within("the event", publishing)
            .await
            .unwrap()
            .unwrap()
            .status(),
        201
    );
}

#[test]
fn the_unit_for_systemd_is_sound_and_hardened() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("segno.service");
    let printed = segno().arg("systemd-unit").output().unwrap();
    assert!(printed.status.success());
    fs::write(&unit, &printed.stdout).unwrap();
    let analyze = |args: &[&str]| {
        let analyze = Command::new("systemd-analyze")
            .args(args)
            .arg(&unit)
            .output();
        let analyze = analyze.unwrap();
        let said = String::from_utf8([analyze.stdout, analyze.stderr].concat()).unwrap();
        assert!(analyze.status.success(), "{args:?}: {said}");
        said
    };
    let complaints = analyze(&["verify", "--man=no"]);
    assert!(!complaints.contains("segno.service"), "{complaints}");
    // Of 100 for a service that may do everything.
    analyze(&["security", "--offline=yes", "--threshold=15"]);
}
