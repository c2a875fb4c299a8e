//! What a cluster costs: `cargo bench --features cluster --bench cluster`.
//!
//! Three NATS servers with one replicated stream, which sync each write, run beside the hub on the machine. The floor is the same
//! commands, with as many events in each, put in order and read back, without HTTP and without a file. `tests/clients/install` installs the server; `NATS_SERVER`
//! names another.

#![expect(clippy::unwrap_used, reason = "in a bench a panic is the report")]

mod bench_hub;

use std::{
    env, fs,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bench_hub::{
    TURN, TURNS, data, folder,
    load::Load,
    post, post_batch,
    process::Process,
    report::{Report, Target, Unit, median},
};
use bytes::Bytes;
use segno::{
    client::{Authorities, Client},
    jetstream::{COMMANDS_FORMAT, Follower, JetStream, NewStream, Read, Settings, Subject},
    metrics::ClusterMetrics,
};
use tempfile::TempDir;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};
use uuid::Uuid;

/// Servers of the cluster.
const SERVERS: usize = 3;

/// Events that a hub catches up with.
const CATCH_UP_EVENTS: usize = 200_000;

/// Events of a batch.
const BATCH_EVENTS: usize = 1000;

fn main() {
    bench_hub::main(&[
        ("cluster_posts_64_connections", posts_64_connections),
        ("cluster_posts_1_connection", posts_1_connection),
        ("cluster_catch_up", catch_up),
    ]);
}

/// NATS servers. Killed when dropped.
struct Nats {
    /// Where they keep their stores.
    _folder: TempDir,
    servers: Vec<Child>,
    urls: Vec<String>,
    runtime: Runtime,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Nats {
    fn start() -> Self {
        let folder = folder();
        let program = env::var_os("NATS_SERVER").map_or_else(
            || {
                let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
                root.join("target/clients/venv/bin/nats-server")
            },
            PathBuf::from,
        );
        let ports: Vec<(u16, u16)> = (0..SERVERS).map(|_| (free_port(), free_port())).collect();
        let routes = ports
            .iter()
            .map(|(_, route)| format!("\"nats://127.0.0.1:{route}\""));
        let routes = routes.collect::<Vec<_>>().join(", ");
        let servers = ports.iter().enumerate().map(|(n, (port, route))| {
            let store = folder.path().join(format!("store-{n}"));
            let config = folder.path().join(format!("n{n}.conf"));
            let text = format!(
                "server_name: n{n}\nlisten: 127.0.0.1:{port}\nmax_payload: 8MB\n\
                 jetstream {{ store_dir: {store:?}, sync_interval: always }}\n\
                 cluster {{ name: bench, listen: 127.0.0.1:{route}, routes: [{routes}] }}\n"
            );
            fs::write(&config, text).unwrap();
            Command::new(&program)
                .arg("--config")
                .arg(config)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        });
        Self {
            servers: servers.collect(),
            urls: ports
                .iter()
                .map(|(port, _)| format!("nats://127.0.0.1:{port}"))
                .collect(),
            _folder: folder,
            runtime: Runtime::new().unwrap(),
        }
    }

    fn stream(&self, name: &str) -> JetStream {
        let settings = Settings {
            servers: self.urls.clone(),
            stream: name.into(),
            credentials: None,
            ca: None,
        };
        self.runtime.block_on(async {
            let stream = JetStream::open(&settings).await.unwrap();
            loop {
                let new = NewStream {
                    epoch: Uuid::new_v4().to_string(),
                    log_id: Uuid::new_v4().to_string(),
                    begins_empty: true,
                    format: COMMANDS_FORMAT,
                    replicas: SERVERS,
                    max_age: Duration::from_hours(1),
                    // Each server keeps as much of its disk free.
                    max_bytes: 1 << 30,
                };
                // A cluster has to elect somebody first.
                if stream.create(new).await.is_ok() {
                    return stream;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
    }

    /// A hub of the cluster, with an empty file, when it is ready.
    fn hub(&self, stream: &str) -> (Process, TempDir) {
        let folder = folder();
        let urls = self.urls.join(",");
        let hub = Process::hub_with(
            folder.path(),
            &["--cluster", &urls, "--cluster-stream", stream],
        );
        let url = format!("http://{}", hub.address);
        let client = Client::new(&url, None, &Authorities::default()).unwrap();
        let ready = client.ready(Duration::from_mins(2));
        self.runtime.block_on(ready).unwrap();
        (hub, folder)
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        for server in &mut self.servers {
            _ = server.kill();
            _ = server.wait();
        }
    }
}

/// Sequence of the newest command that the hub has applied.
fn applied(nats: &Nats, hub: &Process) -> u64 {
    let url = format!("http://{}", hub.address);
    let client = Client::new(&url, None, &Authorities::default()).unwrap();
    let stats = nats.runtime.block_on(client.stats()).unwrap();
    stats["cluster"]["applied_sequence"].as_u64().unwrap()
}

fn publishers(process: &Process, count: usize) -> Load {
    let mut load = Load::new();
    for _ in 0..count {
        load.add_publisher(process.address, vec![post("bench")]);
    }
    load.run_for(TURN);
    load
}

/// The engine alone: one command on its way, as in the hub, without HTTP and without a file.
struct Engine {
    stream: JetStream,
    follower: Follower,
    sent: u64,
}

impl Engine {
    fn new(nats: &Nats, name: &str) -> Self {
        let stream = nats.stream(name);
        let _entered = nats.runtime.enter();
        let follower = stream.follow(0, ClusterMetrics::default());
        Self {
            stream,
            follower,
            sent: 0,
        }
    }

    /// Events a second with this many clients, each of which sends when it has its answer. What waits is one command.
    fn rate(&mut self, nats: &Nats, clients: usize) -> f64 {
        let event = format!(
            "[{{\"topic\":\"bench\",\"type\":\"message\",\"data\":{}}}]",
            data()
        );
        let start = Instant::now();
        let events = nats.runtime.block_on(async {
            let (asking, mut asked) = mpsc::channel::<oneshot::Sender<()>>(clients);
            for _ in 0..clients {
                let asking = asking.clone();
                tokio::spawn(async move {
                    loop {
                        let (answer, answered) = oneshot::channel();
                        if asking.send(answer).await.is_err() || answered.await.is_err() {
                            return;
                        }
                    }
                });
            }
            let (mut waiting, mut events) = (Vec::new(), 0);
            while start.elapsed() < TURN {
                let count = asked.recv_many(&mut waiting, clients).await;
                let lists = vec![event.as_str(); count].join(",");
                let payload = Bytes::from(format!("{{\"publish\":[{lists}]}}"));
                self.sent += 1;
                let id = self.sent.to_string();
                let proposed = self.stream.propose(Subject::Commands, &id, payload);
                let sequence = proposed.await.unwrap();
                self.follower.knows(sequence);
                self.read_up_to(sequence).await;
                for answer in waiting.drain(..) {
                    _ = answer.send(());
                }
                events += count;
            }
            events
        });
        events as f64 / start.elapsed().as_secs_f64()
    }

    async fn read_up_to(&mut self, sequence: u64) {
        let mut read = Vec::new();
        loop {
            self.follower.read(&mut read, 256).await;
            let last = read.drain(..).next_back();
            if matches!(last, Some(Read::Entry(entry)) if entry.sequence >= sequence) {
                return;
            }
        }
    }
}

fn posts(report: &mut Report, name: &str, connections: usize, ratio: Target, p50_most_ms: f64) {
    let nats = Nats::start();
    drop(nats.stream("hub"));
    let mut engine = Engine::new(&nats, "engine");
    let (hub, _folder) = nats.hub("hub");
    let mut load = publishers(&hub, connections);
    let (mut p50, mut sizes) = (Vec::new(), Vec::new());
    let turns: Vec<_> = (0..TURNS)
        .map(|_| {
            let before = applied(&nats, &hub);
            let start = Instant::now();
            let answers = load.run_for(TURN);
            let rate = answers as f64 / start.elapsed().as_secs_f64();
            p50.push(load.take_latencies().0.value_at_quantile(0.5) as f64 / 1e6);
            // A beat is one of them every 2 s.
            let commands = applied(&nats, &hub) - before;
            sizes.push(answers as f64 / commands as f64);
            let together = usize::try_from(answers.div_ceil(commands)).unwrap();
            (rate, engine.rate(&nats, together))
        })
        .collect();
    report.compare(name, Unit::PerSecond, &turns, ratio);
    report.tell(
        &format!("{name}: p50"),
        Unit::Milliseconds,
        median(p50.into_iter()),
        Target::AtMost(p50_most_ms),
    );
    report.tell(
        &format!("{name}: events in a command"),
        Unit::Number,
        median(sizes.into_iter()),
        Target::None,
    );
}

/// Durable POSTs, on the disks of three servers and of the hub.
fn posts_64_connections(report: &mut Report) {
    posts(
        report,
        "cluster_posts_64_connections",
        64,
        Target::RatioAtLeast(0.5),
        10.0,
    );
}

/// One publisher that waits for each answer.
fn posts_1_connection(report: &mut Report) {
    posts(report, "cluster_posts_1_connection", 1, Target::None, 3.0);
}

/// A hub with an empty file applies all there is, until it is ready.
fn catch_up(report: &mut Report) {
    let nats = Nats::start();
    drop(nats.stream("hub"));
    let (first, _folder) = nats.hub("hub");
    let mut load = Load::new();
    load.add_publisher(
        first.address,
        vec![post_batch(BATCH_EVENTS, |n| format!("t{}", n % 10))],
    );
    let mut batches = 0;
    while batches < CATCH_UP_EVENTS / BATCH_EVENTS {
        batches += usize::try_from(load.run_for(TURN / 10)).unwrap();
    }
    let events = (batches * BATCH_EVENTS) as f64;
    let start = Instant::now();
    let _second = nats.hub("hub");
    report.tell(
        "cluster_catch_up: events a second",
        Unit::PerSecond,
        events / start.elapsed().as_secs_f64(),
        Target::None,
    );
}
