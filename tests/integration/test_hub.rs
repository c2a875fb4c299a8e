//! The test language: a hub to speak to, streams to read, and waits that end.

use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use reqwest::{RequestBuilder, Response, StatusCode};
use segno::{
    client::{Message, SseParser},
    server::{ListenAddress, Server, Settings},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpSocket,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "cluster")]
use super::engine;

/// Longest wait for anything that must happen. Far above what it takes, so that a slow machine is not a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The type of a block that only moves the cursor: no event, and nothing that was lost.
pub(crate) const CURSOR_TYPE: &str = "segno.cursor";

/// Whether the hubs of the suite are those of a cluster: `SEGNO_TEST_ENGINE=jetstream`. See `engine.rs`.
pub(crate) fn is_jetstream() -> bool {
    match std::env::var("SEGNO_TEST_ENGINE").as_deref() {
        Ok("jetstream") => cfg!(feature = "cluster") && !is_of_one_file(),
        Ok("local") | Err(_) => false,
        Ok(other) => panic!("SEGNO_TEST_ENGINE is local or jetstream, not {other}"),
    }
}

/// Modules whose tests are about one hub and its file, and run on that whatever the engine is; and why.
const OF_ONE_FILE: &[(&str, &str)] = &[
    ("backup", "a file of a cluster is no backup of a hub alone"),
    ("bench", "it measures a hub alone"),
    ("clock", "the file is opened by commands too"),
    ("cluster", "it makes its own streams"),
    ("cluster_disk", "it makes its own streams"),
    ("cluster_faults", "it makes its own streams"),
    ("cluster_join", "it makes its own streams"),
    ("command_line", "commands open the file"),
    ("crash", "the file is opened by commands too"),
    ("disk", "it is about the file"),
    ("docs", "the pages tell of a hub alone"),
    ("examples", "the pages tell of a hub alone"),
    ("faults", "it is about the file"),
    ("foreign", "it is about the file"),
    ("operator", "commands open the file"),
    (
        "restore",
        "a file of a cluster is not put in the place of another",
    ),
    ("soak", "it measures a hub alone"),
];

/// Whether the test that runs is of such a module. A test has the name of its thread.
fn is_of_one_file() -> bool {
    let thread = std::thread::current();
    let module = thread.name().and_then(|name| name.split_once("::"));
    module.is_some_and(|(module, _)| OF_ONE_FILE.iter().any(|(of_one, _)| *of_one == module))
}

/// For a test that is about a hub alone, and for which `reason`: whether the suite runs on a cluster, so that it has to end here.
pub(crate) fn only_local(reason: &str) -> bool {
    assert!(!reason.is_empty());
    is_jetstream()
}

/// Waits for `future`, and says what was waited for when it does not come.
pub(crate) async fn within<T>(what: impl fmt::Display, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {DEADLINE:?} for {what}"),
    }
}

/// Reads on from a connection of a test's own until `text` has come.
pub(crate) async fn read_until(
    socket: &mut (impl AsyncRead + Unpin),
    received: &mut String,
    text: &str,
) {
    let (mut bytes, mut looked) = ([0; 4096], 0);
    while !received[looked..].contains(text) {
        looked = received.floor_char_boundary(received.len().saturating_sub(text.len()));
        let count = within(text, socket.read(&mut bytes)).await.unwrap();
        assert_ne!(count, 0, "it ended before {text}, {} bytes", received.len());
        *received += str::from_utf8(&bytes[..count]).unwrap();
    }
}

/// Bytes of memory that a process has.
pub(crate) fn resident_bytes(process: u32) -> u64 {
    status_bytes(process, "VmRSS:")
}

/// The most memory that a process had so far, in bytes.
pub(crate) fn peak_bytes(process: u32) -> u64 {
    status_bytes(process, "VmHWM:")
}

fn status_bytes(process: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() * 1024
}

/// Bytes that the system holds for the connections of the hub at `port`, sent by either side and not yet taken by the other.
pub(crate) fn queued_bytes(port: u16) -> u64 {
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{port:04X}");
    let queued = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let queues = fields[4].split(':');
        (fields[1].ends_with(&port) || fields[2].ends_with(&port)).then(|| {
            queues
                .map(|bytes| u64::from_str_radix(bytes, 16).unwrap())
                .sum::<u64>()
        })
    };
    connections.lines().skip(1).filter_map(queued).sum()
}

/// Prints the seed of a random test, or takes it from the environment to run the same again.
#[expect(
    clippy::print_stdout,
    reason = "the report of a test says how to run it again"
)]
pub(crate) fn seeded() -> fastrand::Rng {
    let seed = std::env::var("SEGNO_TEST_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("SEGNO_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// A running hub on a port of its own. It drains when dropped.
pub(crate) struct TestHub {
    url: String,
    http: reqwest::Client,
    /// Opens a connection for each stream, as browsers and curl do.
    streams: reqwest::Client,
    stop: CancellationToken,
    serving: Option<JoinHandle<()>>,
    folder: Option<TempDir>,
}

/// The settings tests run with: as by default, but for the address and the file.
pub(crate) fn config(folder: &Path) -> Settings {
    Settings {
        listen: vec![ListenAddress::Ip(([127, 0, 0, 1], 0).into())],
        db: folder.join("segno.db"),
        ..Settings::default()
    }
}

/// Starts a server. A program that another test starts has all that this process has open until it is that program, and so, for a
/// moment, the lock of a file that was let go.
async fn start_when_free(config: Settings) -> Server {
    let begun = Instant::now();
    loop {
        match Box::pin(Server::start(config.clone())).await {
            Err(error)
                if format!("{error:?}").contains("InUse")
                    && begun.elapsed() < Duration::from_secs(2) =>
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            started => return started.unwrap(),
        }
    }
}

impl TestHub {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// Starts a hub whose configuration is changed by `change`.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), change).await
    }

    pub(crate) async fn start_in(folder: TempDir, change: impl FnOnce(&mut Settings)) -> Self {
        let mut config = config(folder.path());
        change(&mut config);
        #[cfg(feature = "cluster")]
        let member =
            (is_jetstream() && config.cluster.is_none()).then(|| engine::cluster_of(&config.db));
        #[cfg(feature = "cluster")]
        if member.is_some() {
            config.cluster.clone_from(&member);
        }
        let server = start_when_free(config).await;
        let url = format!("{}://{}", server.scheme(), server.ip_address().unwrap());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let serving = tokio::spawn(async move {
            server.serve(stopped.cancelled()).await.unwrap();
        });
        let hub = Self {
            url,
            http: reqwest_client(),
            streams: without_keep_alive(),
            stop,
            serving: Some(serving),
            folder: Some(folder),
        };
        #[cfg(feature = "cluster")]
        if let Some(member) = member {
            engine::wait_until_joined(&member).await;
        }
        hub
    }

    /// Drains it, and gives its folder for another start.
    pub(crate) async fn stop(mut self) -> TempDir {
        self.stop.cancel();
        within("the hub to drain", self.serving.take().unwrap())
            .await
            .unwrap();
        let folder = self.folder.take().unwrap();
        // A program that another test starts has all that this process has open until it is that program, and so the lock.
        if let Ok(lock) = File::open(folder.path().join("segno.db-lock")) {
            within("the lock of the file", async {
                while lock.try_lock().is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
        }
        folder
    }

    /// Begins to drain it without waiting for the end.
    pub(crate) fn begin_to_stop(&self) {
        self.stop.cancel();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub(crate) fn address(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.folder.as_ref().unwrap().path().join("segno.db")
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(self.url(path))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(self.url(path))
    }

    /// Posts JSON as it stands.
    pub(crate) fn post_json(&self, path: &str, json: impl Into<String>) -> RequestBuilder {
        self.post(path)
            .header("content-type", "application/json")
            .body(json.into())
    }

    pub(crate) async fn get_json(&self, path: &str) -> Value {
        answer(self.get(path)).await.json()
    }

    /// Publishes one event for each text, each with its own commit, and gives their ids.
    pub(crate) async fn publish<const N: usize>(&self, topic: &str, data: [&str; N]) -> [u64; N] {
        let mut ids = [0; N];
        for (id, data) in ids.iter_mut().zip(data) {
            let answer = answer(self.post(&format!("/topics/{topic}")).body(data.to_owned())).await;
            assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
            *id = answer.json()["id"].as_u64().unwrap();
        }
        ids
    }

    /// Publishes `count` events in batches: topic from `topic`, data the number of the event, counted from 1.
    pub(crate) async fn publish_many(&self, count: u64, topic: impl Fn(u64) -> String) {
        let numbers: Vec<u64> = (1..=count).collect();
        for batch in numbers.chunks(10_000) {
            let lines: String = batch
                .iter()
                .map(|n| format!("{{\"topic\":\"{}\",\"data\":{n}}}\n", topic(*n)))
                .collect();
            let request = self
                .post("/events")
                .header("content-type", "application/x-ndjson")
                .body(lines);
            assert_eq!(answer(request).await.status, StatusCode::CREATED);
        }
    }

    /// Opens a stream; the query is what stands behind `/sse`, such as `?topic=orders`.
    pub(crate) async fn follow(&self, query: &str) -> TestStream {
        TestStream::open(self.streams.get(self.url(&format!("/sse{query}")))).await
    }

    /// Opens a stream that resumes after `cursor`.
    pub(crate) async fn resume(&self, query: &str, cursor: u64) -> TestStream {
        let request = self.streams.get(self.url(&format!("/sse{query}")));
        TestStream::open(request.header("last-event-id", cursor)).await
    }

    /// Opens a stream with whatever `cursor` is in the header.
    pub(crate) async fn reconnect(&self, query: &str, cursor: &[u8]) -> TestStream {
        let request = self.streams.get(self.url(&format!("/sse{query}")));
        let cursor = reqwest::header::HeaderValue::from_bytes(cursor).unwrap();
        TestStream::open(request.header("last-event-id", cursor)).await
    }

    pub(crate) async fn last_id(&self) -> u64 {
        self.get_json("/events?limit=1").await["last_id"]
            .as_u64()
            .unwrap()
    }
}

impl Drop for TestHub {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Takes whatever certificate a hub has: who must not is tested in `tls`.
fn client_builder() -> reqwest::ClientBuilder {
    _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().tls_danger_accept_invalid_certs(true)
}

pub(crate) fn reqwest_client() -> reqwest::Client {
    client_builder().build().unwrap()
}

fn without_keep_alive() -> reqwest::Client {
    client_builder().pool_max_idle_per_host(0).build().unwrap()
}

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no header {name} in {self:?}"))
            .to_str()
            .unwrap()
    }

    /// The word of a refusal, after a look at its shape.
    pub(crate) fn code(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16(), "{self:?}");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty()),
            "{self:?}"
        );
        problem["code"].as_str().unwrap().to_owned()
    }
}

/// Sends the request and reads the answer.
pub(crate) async fn answer(request: RequestBuilder) -> Answer {
    within("an answer", async {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer {
            status,
            headers,
            body: response.text().await.unwrap(),
        }
    })
    .await
}

/// A stream that is being read.
pub(crate) struct TestStream {
    response: Response,
    parser: SseParser,
    messages: std::collections::VecDeque<Message>,
    /// Everything that came, for reports and for tests of the bytes.
    pub(crate) received: String,
}

impl TestStream {
    pub(crate) async fn open(request: RequestBuilder) -> Self {
        let response = within("the head of a stream", request.send())
            .await
            .unwrap();
        assert_eq!(
            response.status(),
            StatusCode::OK,
            "{:?}",
            response.text().await
        );
        let mut stream = Self {
            response,
            parser: SseParser::default(),
            messages: Default::default(),
            received: String::new(),
        };
        // The first block says that the hub has begun: what is published from now on is in the stream.
        stream
            .read_until("the first block", |stream| stream.received.contains("\n\n"))
            .await;
        stream
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.response.headers()[name].to_str().unwrap()
    }

    /// All values of a header that may be there more than once.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let values = self.response.headers().get_all(name).iter();
        values.map(|value| value.to_str().unwrap()).collect()
    }

    pub(crate) fn has_header(&self, name: &str) -> bool {
        self.response.headers().contains_key(name)
    }

    /// The cursor a browser would come back with.
    pub(crate) fn cursor(&self) -> u64 {
        self.parser.last_event_id().parse().unwrap()
    }

    /// Reads a chunk; false at the end of the stream.
    async fn read_chunk(&mut self) -> Result<bool, reqwest::Error> {
        let Some(chunk) = self.response.chunk().await? else {
            return Ok(false);
        };
        if self.received.len() < 100_000 {
            // A chunk may end within a character.
            self.received.push_str(&String::from_utf8_lossy(&chunk));
        }
        let messages = &mut self.messages;
        self.parser.feed(&chunk, |message| {
            if message.event_type != CURSOR_TYPE {
                messages.push_back(message);
            }
        });
        Ok(true)
    }

    /// Reads on until `done` says so.
    pub(crate) async fn read_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.read_chunk()).await {
                Ok(Ok(true)) => (),
                Ok(Ok(false)) => {
                    panic!("the stream ended before {what}; it was:\n{}", self.received)
                }
                Ok(Err(error)) => panic!(
                    "the stream broke before {what}: {error}; it was:\n{}",
                    self.received
                ),
                Err(_) => panic!(
                    "waited {DEADLINE:?} for {what}; the stream was:\n{}",
                    self.received
                ),
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Message {
        self.read_until("the next message", |stream| !stream.messages.is_empty())
            .await;
        self.messages.pop_front().unwrap()
    }

    /// The data of the next `N` events.
    pub(crate) async fn next_data<const N: usize>(&mut self) -> [String; N] {
        let mut data = [const { String::new() }; N];
        for item in &mut data {
            *item = self.next().await.data;
        }
        data
    }

    /// The ids of the next `count` events.
    pub(crate) async fn next_ids(&mut self, count: usize) -> Vec<u64> {
        let mut ids = Vec::with_capacity(count);
        while ids.len() < count {
            ids.push(self.next().await.last_event_id.parse().unwrap());
        }
        ids
    }

    /// Reads to the end of the stream; an error if it was cut. Messages that came are still there to be taken.
    pub(crate) async fn read_to_end(&mut self) -> Result<(), reqwest::Error> {
        within("the end of the stream", async {
            while self.read_chunk().await? {}
            Ok(())
        })
        .await
    }

    /// The messages that came and were not taken.
    pub(crate) fn take_received(&mut self) -> Vec<Message> {
        self.messages.drain(..).collect()
    }
}

/// A `sqlite3` shell that is in a transaction on the file, so that nobody else writes it.
pub(crate) struct HeldFile {
    shell: Child,
    stdin: ChildStdin,
}

impl HeldFile {
    pub(crate) fn hold(db: &Path) -> Self {
        Self::hold_by(db, "begin immediate;", "")
    }

    /// Holds it in the way that `sql` says, to which the shell says `answer`, and waits until it does.
    pub(crate) fn hold_by(db: &Path, sql: &str, answer: &str) -> Self {
        let mut shell = Command::new("sqlite3")
            // The hub may be cleaning the WAL of its start.
            .args(["-cmd", ".timeout 10000"])
            .arg(db)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = shell.stdin.take().unwrap();
        writeln!(stdin, "{sql}\nselect 'held';").unwrap();
        let expected = format!("{answer}held\n");
        let mut said = vec![0; expected.len()];
        let stdout = shell.stdout.as_mut().unwrap();
        stdout.read_exact(&mut said).unwrap();
        assert_eq!(String::from_utf8(said).unwrap(), expected);
        Self { shell, stdin }
    }

    pub(crate) fn release(mut self) {
        drop(self.stdin);
        self.shell.wait().unwrap();
    }
}

/// The real program in a process of its own.
pub(crate) struct Program {
    child: Child,
    /// Where the start message came from. It stays open, so that nothing the program prints later fails.
    _stdout: Option<ChildStdout>,
    pub(crate) port: u16,
    scheme: &'static str,
}

/// A port for a hub that must come back at the same address, or that clients look for before it is there.
///
/// It is bound, so that the system gives it to nobody else, but nobody listens on it: a connection is refused until a hub
/// listens there, as Linux allows where both sides set `SO_REUSEADDR`.
pub(crate) struct Port(TcpSocket);

impl Port {
    pub(crate) fn reserve() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }
}

/// The scheme and the port of the first address in `told`.
fn address_told(told: &str) -> Option<(&'static str, u16)> {
    let (before, address) = told.split_once("://")?;
    let scheme = ["https", "http"];
    let scheme = scheme.into_iter().find(|scheme| before.ends_with(scheme))?;
    let authority = address.split(['/', '"', '\n']).next()?;
    let port = authority.rsplit_once(':')?.1.parse().ok()?;
    Some((scheme, port))
}

pub(crate) fn segno() -> Command {
    Command::new(env!("CARGO_BIN_EXE_segno"))
}

/// Builds `name`, a C file beside this one, into a library to preload.
pub(crate) fn preload(name: &str, folder: &Path) -> PathBuf {
    let library = folder.join(name).with_extension("so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration");
    let built = Command::new("cc")
        .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
        .args([&library, &source.join(name)])
        .status()
        .unwrap();
    assert!(built.success());
    library
}

impl Program {
    /// Starts `segno serve` at a port that the system chooses and waits until it is ready.
    pub(crate) async fn start(folder: &Path) -> Self {
        Self::serve(folder, "127.0.0.1:0").await
    }

    /// Starts `segno serve` at `port` and waits until it is ready.
    pub(crate) async fn start_at(folder: &Path, port: &Port) -> Self {
        Self::serve(folder, &port.address().to_string()).await
    }

    async fn serve(folder: &Path, listen: &str) -> Self {
        let mut command = segno();
        command
            .args(["serve", "--listen", listen, "--db"])
            .arg(folder.join("segno.db"))
            .stderr(Stdio::null());
        #[cfg(feature = "cluster")]
        command.args(engine::flags(&folder.join("segno.db")));
        Self::spawn(command).await
    }

    /// Starts `command`, which serves, reads from its start message where it listens, and waits until it is ready.
    pub(crate) async fn spawn(command: Command) -> Self {
        let program = Self::spawn_unready(command).await;
        program.wait_until_ready().await;
        program
    }

    /// The same for a hub that may not get ready. It answers when it has told where it listens.
    pub(crate) async fn spawn_unready(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let mut program = Self {
            child,
            _stdout: None,
            port: 0,
            scheme: "http",
        };
        let reading = tokio::task::spawn_blocking(move || {
            let (mut stdout, mut told) = (BufReader::new(stdout), String::new());
            loop {
                let bytes = stdout.read_line(&mut told).unwrap();
                assert_ne!(bytes, 0, "the program ended; it had told {told:?}");
                if let Some(address) = address_told(&told) {
                    return (address, stdout.into_inner());
                }
            }
        });
        let (address, stdout) = within("the start message", reading).await.unwrap();
        (program.scheme, program.port) = address;
        program._stdout = Some(stdout);
        program
    }

    /// Starts `command`, which serves and writes JSON lines to the file `log`, reads there where it listens, and waits until it is
    /// ready.
    pub(crate) async fn spawn_logging_to(log: &Path, mut command: Command) -> Self {
        let mut program = Self {
            child: command
                .stdout(Stdio::null())
                .stderr(File::create(log).unwrap())
                .spawn()
                .unwrap(),
            _stdout: None,
            port: 0,
            scheme: "http",
        };
        (program.scheme, program.port) = within("the log line that tells the address", async {
            loop {
                let lines = std::fs::read_to_string(log).unwrap();
                let listening = lines.lines().find(|line| line.contains("\"listening\""));
                if let Some(address) = listening.and_then(address_told) {
                    return address;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        program.wait_until_ready().await;
        program
    }

    async fn wait_until_ready(&self) {
        let http = reqwest_client();
        let ready = format!("{}/health/ready", self.url());
        within("the program to be ready", async {
            while !http
                .get(&ready)
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The test language for this process.
    pub(crate) fn as_hub(&self) -> TestHub {
        TestHub {
            url: self.url(),
            http: reqwest_client(),
            streams: without_keep_alive(),
            stop: CancellationToken::new(),
            serving: None,
            folder: None,
        }
    }

    /// Its standard error, if that was asked for.
    pub(crate) fn take_stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().unwrap()
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends `signal`, by its name.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([format!("-{signal}"), self.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits for its end; its exit code, `None` if a signal ended it.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        within("the program to end", async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
