//! What TLS and HTTP/2 cost a subscriber: `cargo bench --bench encrypted`.
//!
//! The load decrypts, and so takes more processor time than the hub; it is not counted.

#![expect(clippy::unwrap_used, reason = "in a bench a panic is the report")]

mod bench_hub;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bench_hub::{
    TURN, TURNS, data, floor, folder,
    process::Process,
    report::{Report, Target, Unit},
};
use futures_util::future::join_all;
use tokio::{runtime::Runtime, sync::Notify, task::JoinHandle, time::timeout};

/// Subscribers that get every event.
const SUBSCRIBERS: usize = 1000;

/// Connections that are opened at once.
const CONNECT_TOGETHER: usize = 50;

/// Longest wait for anything that must happen.
const DEADLINE: Duration = Duration::from_secs(60);

fn main() {
    bench_hub::main(&[("encrypted", encrypted)]);
}

/// What subscribers speak.
#[derive(Clone, Copy)]
enum Protocol {
    /// HTTP/1.1 over TLS.
    Http1,
    /// HTTP/2 over TLS, with as many streams a connection.
    Http2(usize),
}

/// A process under test, and subscribers that are all sent the same.
struct Audience {
    process: Process,
    runtime: Runtime,
    received: Arc<Received>,
    subscribers: Vec<JoinHandle<()>>,
    publisher: reqwest::Client,
    /// Bytes of memory that each took of the process.
    memory: f64,
}

/// Blocks that subscribers were sent, in all.
#[derive(Default)]
struct Received {
    blocks: AtomicU64,
    changed: Notify,
}

impl Audience {
    fn of(process: Process, protocol: Protocol) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        let mut audience = Self {
            publisher: client(Protocol::Http1),
            received: Arc::default(),
            subscribers: Vec::new(),
            process,
            runtime,
            memory: 0.0,
        };
        // What the process needs for the first is not counted.
        audience.subscribe(protocol, 1);
        let before = audience.process.memory_bytes();
        audience.subscribe(protocol, SUBSCRIBERS - 1);
        audience.rest(Duration::from_secs(1));
        let taken = audience.process.memory_bytes() - before;
        audience.memory = taken / (SUBSCRIBERS - 1) as f64;
        audience
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.process.address)
    }

    /// Opens streams, some at a time, and waits for the first block of each.
    fn subscribe(&mut self, protocol: Protocol, count: usize) {
        let streams = match protocol {
            Protocol::Http1 => 1,
            Protocol::Http2(streams) => streams,
        };
        let mut opened = 0;
        while opened < count {
            let together = CONNECT_TOGETHER.max(streams).min(count - opened);
            let clients: Vec<_> = (0..together.div_ceil(streams))
                .map(|_| client(protocol))
                .collect();
            let opening = (0..together).map(|index| {
                let request = clients[index / streams].get(self.url("/sse"));
                async move {
                    let answer = request.send().await.unwrap();
                    assert_eq!(answer.status(), 200);
                    answer
                }
            });
            let answers = self
                .runtime
                .block_on(async { timeout(DEADLINE, join_all(opening)).await });
            for answer in answers.expect("all are opened") {
                let reading = self.runtime.spawn(read(answer, self.received.clone()));
                self.subscribers.push(reading);
            }
            opened += together;
        }
        self.wait_for(self.subscribers.len() as u64);
    }

    fn wait_for(&self, blocks: u64) {
        let Received {
            blocks: received,
            changed,
        } = &*self.received;
        let waiting = async {
            while received.load(Relaxed) < blocks {
                changed.notified().await;
            }
        };
        let waited = self
            .runtime
            .block_on(async { timeout(DEADLINE, waiting).await });
        waited.expect("all get it");
        assert_eq!(received.load(Relaxed), blocks);
    }

    fn rest(&self, time: Duration) {
        self.runtime
            .block_on(async { tokio::time::sleep(time).await });
    }

    /// Publishes an event when all have the one before, for one turn. Deliveries per second of the process's own time.
    fn one_at_a_time(&self) -> f64 {
        let (cpu_before, before) = (
            self.process.cpu_seconds(),
            self.received.blocks.load(Relaxed),
        );
        let end = Instant::now() + TURN;
        let mut all = before;
        while Instant::now() < end {
            all += SUBSCRIBERS as u64;
            let body = format!("{{\"topic\":\"bench\",\"data\":{}}}", data());
            let request = self.publisher.post(self.url("/events")).body(body);
            let request = request.header("content-type", "application/json");
            let sent = self.runtime.block_on(async { request.send().await });
            assert_eq!(sent.unwrap().status(), 201);
            self.wait_for(all);
        }
        (all - before) as f64 / (self.process.cpu_seconds() - cpu_before)
    }
}

fn client(protocol: Protocol) -> reqwest::Client {
    _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true);
    match protocol {
        Protocol::Http1 => client.http1_only(),
        Protocol::Http2(_) => client.http2_prior_knowledge(),
    }
    .build()
    .unwrap()
}

/// Counts the blocks of a stream, for ever.
async fn read(mut answer: reqwest::Response, received: Arc<Received>) {
    let mut is_at_line = false;
    while let Some(bytes) = answer.chunk().await.unwrap() {
        let mut blocks = 0;
        for byte in &bytes[..] {
            let is_end = *byte == b'\n';
            blocks += u64::from(is_end && is_at_line);
            is_at_line = is_end;
        }
        received.blocks.fetch_add(blocks, Relaxed);
        received.changed.notify_one();
    }
}

/// Writes a certificate and its key, as the floor and the hub read them.
fn issue(folder: &Path) {
    let names = ["localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
}

/// Deliveries for a second of the hub's processor time, and memory for each subscriber, against a loop that encrypts with rustls and
/// does nothing else.
fn encrypted(report: &mut Report) {
    let rows = [
        ("TLS, HTTP/1.1", Protocol::Http1),
        ("TLS, HTTP/2", Protocol::Http2(1)),
        ("TLS, HTTP/2, 100 streams each", Protocol::Http2(100)),
    ];
    let certificate = folder();
    issue(certificate.path());
    let floor = Process::encrypting_floor(floor::Kind::Encrypt, certificate.path());
    let floor = Audience::of(floor, Protocol::Http1);
    for (name, protocol) in rows {
        let folder = folder();
        let hub = Process::hub_with_certificate(folder.path(), certificate.path());
        let hub = Audience::of(hub, protocol);
        hub.one_at_a_time();
        let turns: Vec<(f64, f64)> = (0..TURNS)
            .map(|_| {
                let floor = floor.one_at_a_time();
                (hub.one_at_a_time(), floor)
            })
            .collect();
        report.compare(
            &format!("fan_out: {name}"),
            Unit::PerCpuSecond,
            &turns,
            Target::None,
        );
        report.compare(
            &format!("memory_idle: {name}"),
            Unit::Bytes,
            &[(hub.memory, floor.memory)],
            Target::None,
        );
        for subscriber in &hub.subscribers {
            assert!(!subscriber.is_finished(), "a subscriber was cut");
        }
    }
}
