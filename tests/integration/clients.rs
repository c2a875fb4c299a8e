//! Clients of others follow the hub through what happens to streams: kills, restarts, cuts, a proxy that goes away.
//!
//! Each must get every event, once, in order. Their versions are pinned in `tests/clients`, and `tests/clients/install` puts them into
//! `target/clients`; the browsers are Debian's.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    ops::{Range, RangeInclusive},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use reqwest::Url;
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{
    relay::Relay,
    test_hub::{Port, Program, TestHub, reqwest_client, within},
};

const SCRIPTED: [&str; 15] = [
    "eventsource 2",
    "eventsource 3",
    "eventsource 4",
    "undici",
    "segno js",
    "event-source-polyfill",
    "reconnecting-eventsource",
    "fetch-event-source",
    "eventsource-client",
    "eventsource-parser",
    "httpx-sse",
    "sseclient-py",
    "requests-sse",
    "segno",
    "segno async",
];

/// Those of [`SCRIPTED`] that are Python's. The project's own client is among them.
const PYTHON: [&str; 5] = [
    "httpx-sse",
    "sseclient-py",
    "requests-sse",
    "segno",
    "segno async",
];

/// They take an id when they have read its line. A cut between that and the blank line behind it, one byte later, loses the event to them,
/// whatever a hub sends.
const EARLY_WITH_THE_ID: [&str; 2] = ["eventsource 2", "fetch-event-source"];

pub(crate) const BROWSERS: [&str; 2] = ["chromium", "firefox"];

/// Longest wait in which no client makes progress. Seventeen of them share the processors, and two are browsers.
const PATIENCE: Duration = Duration::from_secs(30);

/// An event as a client handed it out.
#[derive(Clone, Debug, Deserialize)]
struct Told {
    id: String,
    #[serde(rename = "type")]
    event_type: String,
    data: String,
}

/// What a client said so far.
#[derive(Debug, Default, Deserialize)]
struct Report {
    events: Vec<Told>,
    errors: Vec<String>,
}

/// A client that follows a stream in a process of its own. It ends when dropped.
pub(crate) struct Follower {
    name: &'static str,
    child: Child,
    report: Arc<Mutex<Report>>,
    _profile: Option<TempDir>,
}

/// The folder they are in.
pub(crate) fn installed() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients");
    assert!(
        folder.join("installed").exists(),
        "the clients of others are not in {}: run tests/clients/install",
        folder.display()
    );
    folder
}

impl Follower {
    /// Starts one of [`SCRIPTED`] on the stream at `url`; what it waits by its own choice is divided by `hurry`.
    pub(crate) fn scripted(name: &'static str, url: &str, hurry: u32) -> Self {
        let folder = installed();
        let python = PYTHON.contains(&name);
        let mut command = match python {
            true => Command::new(folder.join("venv/bin/python")),
            false => Command::new(folder.join("node_modules/.bin/node")),
        };
        if !python {
            command.arg("--no-warnings");
        }
        command
            .arg(folder.join(if python { "follow.py" } else { "follow.mjs" }))
            .args([name, url])
            .env("HURRY", hurry.to_string())
            .env(
                "SEGNO_JS",
                concat!(env!("CARGO_MANIFEST_DIR"), "/clients/js/segno.js"),
            )
            .env(
                "PYTHONPATH",
                concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python/src"),
            )
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.process_group(0).spawn().unwrap();
        let report = Arc::new(Mutex::new(Report::default()));
        collect(
            child.stdout.take().unwrap(),
            report.clone(),
            |report, line| {
                let event = serde_json::from_str(&line);
                report
                    .events
                    .push(event.unwrap_or_else(|error| panic!("{error}: {line}")));
            },
        );
        collect(
            child.stderr.take().unwrap(),
            report.clone(),
            |report, line| {
                report.errors.push(line);
            },
        );
        Self {
            name,
            child,
            report,
            _profile: None,
        }
    }

    /// Opens one of `pages` in a browser, one of [`BROWSERS`], at the address `page`. The page reports what it gets, and is told the
    /// rest by `parameters`.
    pub(crate) fn browser(
        name: &'static str,
        page: &str,
        parameters: &[(&str, &str)],
        pages: &Pages,
    ) -> Self {
        let (report_to, report) = pages.new_report();
        let mut page = Url::parse_with_params(page, parameters).unwrap();
        page.query_pairs_mut().append_pair("report", &report_to);
        let profile = tempfile::tempdir().unwrap();
        let mut command = match name {
            "chromium" => {
                let mut chromium = Command::new("chromium");
                chromium
                    .args([
                        "--headless",
                        "--no-sandbox",
                        "--disable-gpu",
                        "--no-first-run",
                    ])
                    .args([
                        "--disable-background-networking",
                        "--disable-component-update",
                    ])
                    .args([
                        "--disable-dev-shm-usage",
                        "--disable-sync",
                        "--disable-quic",
                    ])
                    .arg(format!("--user-data-dir={}", profile.path().display()));
                chromium
            }
            _ => {
                fs::write(profile.path().join("user.js"), FIREFOX).unwrap();
                let mut firefox = Command::new("firefox-esr");
                firefox
                    .args(["--headless", "--no-remote", "--profile"])
                    .arg(profile.path())
                    // Where it would look for the settings of a desktop.
                    .env("HOME", profile.path());
                firefox
            }
        };
        let child = command
            .arg(page.as_str())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}; run tests/run, which installs it"));
        Self {
            name,
            child,
            report,
            _profile: Some(profile),
        }
    }

    /// What it said but for events.
    pub(crate) fn errors(&self) -> Vec<String> {
        self.report.lock().unwrap().errors.clone()
    }

    /// Events that it has, but for empty ones, which a client may make of what is none.
    fn events(&self) -> usize {
        let report = self.report.lock().unwrap();
        report
            .events
            .iter()
            .filter(|told| !told.data.is_empty())
            .count()
    }

    fn has(&self, last: u64) -> bool {
        let last = last.to_string();
        let report = self.report.lock().unwrap();
        report.events.iter().any(|told| told.data == last)
    }

    /// What is wrong with what it handed out, where `last` events were published by [`publish`].
    fn fault(&self, last: u64) -> Option<String> {
        let Report { events, errors } = &*self.report.lock().unwrap();
        let ids: Vec<u64> = events
            .iter()
            .filter_map(|told| told.id.parse().ok())
            .collect();
        let told = events
            .iter()
            .map(|told| (told.data.as_str(), told.event_type.as_str()));
        let published: Vec<(String, &str)> =
            (1..=last).map(|n| (n.to_string(), event_type(n))).collect();
        if told.eq(published
            .iter()
            .map(|(data, event_type)| (data.as_str(), *event_type)))
            && ids.len() == events.len()
            && ids.is_sorted_by(|before, after| before < after)
        {
            return None;
        }
        let had: Vec<_> = events
            .iter()
            .map(|told| format!("{}={}", told.id, told.data))
            .collect();
        let errors = &errors[errors.len().saturating_sub(5)..];
        Some(format!(
            "{}: had {} of {last} events (id=data): {}; its last errors: {errors:?}",
            self.name,
            had.len(),
            had.join(" ")
        ))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Its whole process group: a browser is many processes.
        _ = Command::new("kill")
            .args(["-KILL", "--", &format!("-{}", self.child.id())])
            .status();
        _ = self.child.wait();
    }
}

/// Hands `take` each line of `output` on a thread of its own, which ends with the process.
fn collect(
    output: impl Read + Send + 'static,
    report: Arc<Mutex<Report>>,
    take: impl Fn(&mut Report, String) + Send + 'static,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            take(&mut report.lock().unwrap(), line);
        }
    });
}

/// Asks nobody for anything, and comes back as soon as it is told to.
const FIREFOX: &str = r#"
user_pref("app.normandy.enabled", false);
user_pref("app.update.enabled", false);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("browser.safebrowsing.malware.enabled", false);
user_pref("browser.safebrowsing.phishing.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("extensions.getAddons.cache.enabled", false);
user_pref("extensions.update.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("services.settings.server", "data:,");
user_pref("toolkit.telemetry.enabled", false);
"#;

/// Serves the pages that browsers follow from, `/page` and `/client`, and takes their reports.
pub(crate) struct Pages {
    pub(crate) address: SocketAddr,
    /// Each is posted to `/report/` and its place.
    reports: Reports,
    task: JoinHandle<()>,
}

type Reports = Arc<Mutex<Vec<Arc<Mutex<Report>>>>>;

impl Pages {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let reports = Reports::default();
        Self {
            address: listener.local_addr().unwrap(),
            reports: reports.clone(),
            task: tokio::spawn(async move {
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    let reports = reports.clone();
                    tokio::spawn(async move {
                        // A browser that is gone needs no answer.
                        _ = answer_page(socket, &reports).await;
                    });
                }
            }),
        }
    }

    /// Where a page may report to, and what it reports.
    fn new_report(&self) -> (String, Arc<Mutex<Report>>) {
        let mut reports = self.reports.lock().unwrap();
        let report = Arc::default();
        reports.push(Arc::clone(&report));
        let url = format!("http://{}/report/{}", self.address, reports.len() - 1);
        (url, report)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer_page(
    mut socket: TcpStream,
    reports: &Mutex<Vec<Arc<Mutex<Report>>>>,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    let (head, body) = loop {
        if socket.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let head = head.to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            break (head, body.to_owned());
        }
    };
    let target = head.split(' ').nth(1).unwrap_or_default();
    let page = match target.strip_prefix("/report/") {
        Some(place) => {
            let place: usize = place.parse().unwrap();
            let report = reports.lock().unwrap()[place].clone();
            *report.lock().unwrap() = serde_json::from_str(&body).unwrap();
            ""
        }
        None if target.starts_with("/client") => include_str!("../clients/client.html"),
        None => include_str!("../clients/follow.html"),
    };
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
        page.len()
    );
    socket.write_all(answer.as_bytes()).await
}

/// Every other event has a type of its own.
fn event_type(n: u64) -> &'static str {
    if n.is_multiple_of(2) {
        "tick"
    } else {
        "message"
    }
}

/// Publishes the events `numbers` on the topic `ticks`, each once, however often the hub is killed meanwhile.
pub(crate) async fn publish(url: &str, numbers: RangeInclusive<u64>) {
    let http = reqwest_client();
    for n in numbers {
        let event_type = event_type(n);
        let request = || {
            http.post(format!("{url}/topics/ticks?type={event_type}"))
                .header("idempotency-key", format!("tick {n}"))
                .body(n.to_string())
                .send()
        };
        within("the event to be stored", async {
            while !request()
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }
}

/// All clients on one stream of a hub. Page and stream of a browser have one origin, a relay's.
struct Crowd {
    followers: Vec<Follower>,
    hub: SocketAddr,
    ports: Vec<Port>,
    relays: Vec<Relay>,
    pages: Pages,
}

impl Crowd {
    async fn new(hub: &TestHub) -> Self {
        Self {
            followers: vec![],
            hub: hub.address().parse().unwrap(),
            ports: vec![],
            relays: vec![],
            pages: Pages::start().await,
        }
    }

    /// All follow `stream`, the scripted ones at the hub itself.
    async fn at_the_hub(hub: &TestHub, stream: &str) -> Self {
        let mut crowd = Self::new(hub).await;
        for name in SCRIPTED {
            let follower = Follower::scripted(name, &hub.url(stream), 1);
            crowd.followers.push(follower);
        }
        for name in BROWSERS {
            let relay = crowd.add_relay([]).await;
            crowd.open_browser(name, &relay, stream);
        }
        crowd.wait_until_all_follow(hub).await;
        crowd
    }

    /// All follow `stream`, each by way of a relay of its own, which cuts it at `cuts`.
    async fn at_relays(hub: &TestHub, stream: &str, cuts: Range<usize>, hurry: u32) -> Self {
        let mut crowd = Self::new(hub).await;
        for name in SCRIPTED {
            let relay = crowd.add_relay(cuts.clone().step_by(1)).await;
            if EARLY_WITH_THE_ID.contains(&name) {
                crowd.relays.last().unwrap().spare_blank_lines();
            }
            let follower = Follower::scripted(name, &format!("{relay}{stream}"), hurry);
            crowd.followers.push(follower);
        }
        // A browser waits half a second or more however soon it may come back: at every third byte.
        for name in BROWSERS {
            let relay = crowd.add_relay(cuts.clone().step_by(3)).await;
            crowd.open_browser(name, &relay, stream);
        }
        crowd
    }

    /// Starts a relay, and gives its URL.
    async fn add_relay(&mut self, cuts: impl IntoIterator<Item = usize>) -> String {
        let port = Port::reserve();
        let relay = Relay::start(&port, self.hub, self.pages.address, cuts).await;
        let url = port.url();
        self.ports.push(port);
        self.relays.push(relay);
        url
    }

    fn open_browser(&mut self, name: &'static str, relay: &str, stream: &str) {
        let page = format!("{relay}/page");
        let browser = Follower::browser(name, &page, &[("url", stream)], &self.pages);
        self.followers.push(browser);
    }

    async fn wait_until_all_follow(&self, hub: &TestHub) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stats = hub.get_json("/stats").await;
            if stats["subscribers"] == self.followers.len() {
                return;
            }
            assert!(Instant::now() < deadline, "not all clients follow: {stats}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn expect(&self, last: u64) {
        expect(&self.followers, &self.relays, last).await;
    }
}

/// Everybody must have `last` events, once each and in order. The relays are those by way of which they follow.
pub(crate) async fn expect(followers: &[Follower], relays: &[Relay], last: u64) {
    let progress = || {
        let events = followers.iter().map(Follower::events);
        events.sum::<usize>() + relays.iter().map(Relay::cuts).sum::<usize>()
    };
    let (mut seen, mut since) = (progress(), Instant::now());
    while !followers.iter().all(|follower| follower.has(last)) && since.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if progress() != seen {
            (seen, since) = (progress(), Instant::now());
        }
    }
    let faults: Vec<String> = followers
        .iter()
        .filter_map(|follower| follower.fault(last))
        .collect();
    assert!(
        faults.is_empty(),
        "{} of {} clients failed:\n{}",
        faults.len(),
        followers.len(),
        faults.join("\n")
    );
}

/// A hub of a later version, which has blocks and events of its own that no client knows yet.
#[tokio::test]
async fn clients_of_ours_skip_types_of_the_hub_that_they_do_not_know() {
    let event = |id: u64, event_type: &str| {
        let created_at = "2026-01-31T12:00:00.000Z";
        json!({"id": id, "topic": "ticks", "type": event_type, "data": 1, "created_at": created_at})
    };
    let (theirs, mine) = (event(1, "segno.newer"), event(2, "message"));
    let opening = json!({"cursor": 0, "log": "x"});
    let lines = format!(
        "{}\n{}\n{theirs}\n{mine}\n",
        json!({"segno": "cursor", "cursor": 0, "log": "x", "retry_ms": 2000}),
        json!({"segno": "newer", "cursor": 0}),
    );
    let blocks = format!(
        ":\nretry: 2000\nevent: segno.cursor\ndata: {opening}\nid: 0\n\nevent: segno.newer\ndata: {{}}\nid: 0\n\n\
         data: {theirs}\nid: 1\n\ndata: {mine}\nid: 2\n\n"
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/sse?topic=ticks", listener.local_addr().unwrap());
    let newer = tokio::spawn(async move {
        let mut sockets = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let bytes = socket.read(&mut head).await.unwrap();
            let (media_type, body) =
                match String::from_utf8_lossy(&head[..bytes]).contains("ndjson") {
                    true => ("application/x-ndjson", &lines),
                    false => ("text/event-stream; charset=utf-8", &blocks),
                };
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\n\r\n{body}");
            socket.write_all(answer.as_bytes()).await.unwrap();
            sockets.push(socket);
        }
    });
    let names = ["segno js", "segno", "segno async"];
    let followers = names.map(|name| Follower::scripted(name, &url, 1));
    expect(&followers, &[], 1).await;
    newer.abort();
}

#[tokio::test]
async fn slow_clients_of_others_get_each_event_once_through_kills() {
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let mut program = Program::start_at(folder.path(), &port).await;
    let crowd = Crowd::at_the_hub(&program.as_hub(), "/sse?topic=ticks").await;
    let url = port.url();
    let publishing = tokio::spawn(async move {
        for n in 1..=300 {
            publish(&url, n..=n).await;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    });
    while !publishing.is_finished() {
        tokio::time::sleep(Duration::from_secs(3)).await;
        program.kill();
        tokio::time::sleep(Duration::from_millis(300)).await;
        program = Program::start_at(folder.path(), &port).await;
    }
    publishing.await.unwrap();
    crowd.expect(300).await;
}

#[tokio::test]
async fn slow_clients_of_others_lose_nothing_in_a_restart_before_their_first_event() {
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let program = Program::start_at(folder.path(), &port).await;
    program.as_hub().publish("other", ["before"]).await;
    let crowd = Crowd::at_the_hub(&program.as_hub(), "/sse?topic=ticks").await;
    program.kill();
    // Published where nobody follows.
    let meanwhile = Program::start(folder.path()).await;
    publish(&meanwhile.url(), 1..=11).await;
    meanwhile.kill();
    let program = Program::start_at(folder.path(), &port).await;
    publish(&program.url(), 12..=12).await;
    crowd.expect(12).await;
}

/// Cuts reach over the first block and two events behind it, in whatever chunks they are.
const CUTS: Range<usize> = 0..180;

#[tokio::test]
async fn slow_clients_of_others_lose_nothing_to_a_cut_at_any_byte() {
    let hub = TestHub::start().await;
    publish(&hub.url(""), 1..=200).await;
    let crowd = Crowd::at_relays(&hub, "/sse?topic=ticks&since=start", CUTS, 50).await;
    crowd.expect(200).await;
    for (relay, follower) in crowd.relays.iter().zip(&crowd.followers) {
        assert!(
            relay.all_cut(),
            "{} had all events before every cut was made",
            follower.name
        );
    }
}

#[tokio::test]
async fn slow_clients_of_others_come_back_to_a_proxy_that_was_away() {
    let hub = TestHub::start().await;
    hub.publish("other", ["before"]).await;
    let mut crowd = Crowd::at_relays(&hub, "/sse?topic=ticks", 0..0, 1).await;
    crowd.wait_until_all_follow(&hub).await;
    for relay in crowd.relays.drain(..) {
        relay.stop().await;
    }
    publish(&hub.url(""), 1..=10).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    for port in &crowd.ports {
        let relay = Relay::start(port, crowd.hub, crowd.pages.address, []).await;
        crowd.relays.push(relay);
    }
    publish(&hub.url(""), 11..=20).await;
    crowd.expect(20).await;
}

/// What stands before a hub that is away, in the order in which it says so.
const AWAY: [&str; 4] = [
    "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\noops",
    "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\noops",
    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\nand no end of it",
];

/// The project's own clients go on where an `EventSource` gives up. Each hears every answer.
#[tokio::test]
async fn our_own_clients_outlive_every_answer_of_a_proxy_without_its_hub() {
    let hub = TestHub::start().await;
    let address = hub.address().parse().unwrap();
    let mut following = Vec::new();
    for name in ["segno", "segno async", "segno js"] {
        let port = Port::reserve();
        let relay = Relay::start(&port, address, address, []).await;
        let stream = format!("{}/sse?topic=ticks&since=start", port.url());
        following.push((port, relay, Follower::scripted(name, &stream, 20)));
    }
    publish(&hub.url(""), 1..=3).await;
    let (mut relays, mut followers) = (Vec::new(), Vec::new());
    for (port, relay, follower) in following {
        expect(std::slice::from_ref(&follower), &[], 3).await;
        relay.stop().await;
        let proxy = TcpListener::bind(port.address()).await.unwrap();
        let mut open = Vec::new();
        for answer in AWAY {
            let what = format!("{} to come back before {answer:?}", follower.name);
            let (mut socket, _) = within(what, proxy.accept()).await.unwrap();
            _ = socket.read(&mut [0; 4096]).await.unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
            if !answer.ends_with("end of it") {
                socket.shutdown().await.unwrap();
            }
            open.push(socket);
        }
        drop((open, proxy));
        relays.push(Relay::start(&port, address, address, []).await);
        followers.push(follower);
    }
    publish(&hub.url(""), 4..=6).await;
    expect(&followers, &relays, 6).await;
}
