//! An adversary with a thousand connections does at once what was ever found to cost a hub memory or time, and the others are served.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime,
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::test_hub::{Program, TestHub, answer, peak_bytes, segno, within};

/// What the hub may take, peak.
const MEMORY_MAX_BYTES: u64 = 512 << 20;

/// How much slower the hub may become for others.
const SLOWER_MAX: u32 = 3;

/// What three times is taken of at the least: the machine does other work beside, and the figure may be by luck far below what the next
/// second brings.
const BUSY_MIN: Duration = Duration::from_millis(20);

/// How long each of the adversary's connections rests before it does the same again. Without optimization the hub takes some ten times
/// the processor for the same, and so it is asked less often.
const PAUSE: Duration = match cfg!(debug_assertions) {
    true => Duration::from_secs(5),
    false => Duration::from_millis(500),
};

/// Patterns of a costly filter.
const PATTERNS: u32 = match cfg!(debug_assertions) {
    true => 10,
    false => 100,
};

const PUBLISH_EVERY: Duration = Duration::from_millis(20);

/// What one of the adversary's connections does, again and again, and how many do.
const ATTACKS: [(Attack, u32); 12] = [
    (Attack::AnnouncedBody, 200),
    (Attack::UnfinishedBody, 60),
    (Attack::BodyTooLarge, 30),
    (Attack::Unread("/events?limit=1000"), 150),
    (
        Attack::Unread("/events?topic=large&limit=1000&order=desc"),
        100,
    ),
    (Attack::Unread("/events?format=ndjson"), 100),
    (Attack::Unread("/sse?since=start"), 100),
    (Attack::CostlyFilter("/sse"), 60),
    (Attack::CostlyFilter("/events"), 40),
    (Attack::ManyTopics, 100),
    (Attack::Delete, 10),
    (Attack::HalfHead, 50),
];

#[derive(Debug, Clone, Copy)]
enum Attack {
    /// 16 MiB are announced, and two bytes come.
    AnnouncedBody,
    /// 15 MB of 16 MiB come.
    UnfinishedBody,
    /// More is announced than is ever taken, with and without a question whether it will be.
    BodyTooLarge,
    /// A long answer that is not read.
    Unread(&'static str),
    /// Patterns that nearly match the topics there are.
    CostlyFilter(&'static str),
    /// A stream of 700 topics that nobody else has, which is left again.
    ManyTopics,
    /// Events are stored, erased, and their topic deleted.
    Delete,
    /// The beginning of a head.
    HalfHead,
}

/// What an attack does to others is compared with what batches of 2 MB do that are published and erased meanwhile, as anybody may: a publish
/// waits for the commit of the batch before it. The adversary sends the same batches, and they must not cost more for all the rest that
/// it does.
///
/// Runs for 20 s, or for `SEGNO_SOAK_SECONDS`. How long others wait is held to its bound with optimization only; `SEGNO_SOAK_PROGRAM` is the
/// hub to attack, if not the one of this build.
#[test]
#[expect(clippy::print_stdout, reason = "the figures")]
fn slow_a_hub_that_is_attacked_serves_the_others_within_512_mb() {
    let seconds = std::env::var("SEGNO_SOAK_SECONDS");
    let attacked_for = Duration::from_secs(seconds.map_or(20, |seconds| seconds.parse().unwrap()));
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let other_program = std::env::var_os("SEGNO_SOAK_PROGRAM");
        let is_optimized = other_program.is_some() || !cfg!(debug_assertions);
        let mut command = other_program.map_or_else(segno, Command::new);
        command
            // What docs/limits.md says for a machine of 512 MB.
            .args(["serve", "--max-body-memory", "160MiB"])
            .args(["--listen", "127.0.0.1:0", "--db"])
            .arg(folder.path().join("segno.db"))
            .stderr(Stdio::null());
        let program = Program::spawn(command).await;
        let hub = program.as_hub();
        fill(&hub).await;
        let quiet = serve_others(&hub, Duration::from_secs(5)).await;
        println!("quiet: {quiet:?}");
        let is_batch = |attack| matches!(attack, Attack::Delete);
        let batches = Adversary::begin(&hub, is_batch);
        let busy = serve_others(&hub, Duration::from_secs(10)).await;
        println!("beside batches: {busy:?}");
        batches.end();

        let adversary = Adversary::begin(&hub, |_| true);
        let attacked = serve_others(&hub, attacked_for).await;
        println!("attacked: {attacked:?}");
        let stats = hub.get_json("/stats").await;
        let connections = &stats["connections"];
        println!("refused: {}", stats["refused"]);
        let peak = peak_bytes(program.id());
        println!(
            "{} attacks from {connections} connections; peak memory {} MB",
            adversary.end(),
            peak >> 20
        );

        assert!(peak < MEMORY_MAX_BYTES, "{peak} bytes");
        within("the hub to be ready", async {
            while answer(hub.get("/health/ready")).await.status != 200 {
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        for (what, busy, attacked) in [
            ("publish", busy.publish, attacked.publish),
            ("receive", busy.receive, attacked.receive),
        ] {
            let most = busy.max(BUSY_MIN) * SLOWER_MAX;
            assert!(
                attacked < most || !is_optimized,
                "{what}: {attacked:?}, and {busy:?} beside batches alone"
            );
        }
    });
}

/// What the adversary asks for: a long page, large events, and topics that costly patterns nearly match.
async fn fill(hub: &TestHub) {
    for (topic, bytes, count) in [
        ("page", 12_000, 1000),
        ("large", 200_000, 60),
        (&*"a".repeat(255), 10, 2000),
    ] {
        let line = format!(
            "{{\"topic\":\"{topic}\",\"data\":\"{}\"}}\n",
            "x".repeat(bytes)
        );
        let batch = hub.post("/events").body(line.repeat(count));
        let batch = batch.header("content-type", "application/x-ndjson");
        assert_eq!(answer(batch).await.status, 201);
    }
}

/// How long one in a hundred waited.
#[derive(Debug)]
struct Waits {
    publish: Duration,
    receive: Duration,
}

/// A publisher and a subscriber that do nothing wrong. No event is missed.
async fn serve_others(hub: &TestHub, time: Duration) -> Waits {
    let mut stream = hub.follow("?topic=good").await;
    let (mut publish, mut receive) = (Vec::new(), Vec::new());
    let (tell_sent, mut sent) = mpsc::unbounded_channel();
    let publishing = async {
        let end = Instant::now() + time;
        let mut due = interval(PUBLISH_EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut n = 0;
        while Instant::now() < end {
            due.tick().await;
            let begun = Instant::now();
            tell_sent.send(begun).unwrap();
            let answered = answer(hub.post("/topics/good").body(n.to_string())).await;
            assert_eq!(answered.status, 201, "{answered:?}");
            publish.push(begun.elapsed());
            n += 1;
        }
        drop(tell_sent);
    };
    let receiving = async {
        let mut n = 0;
        while let Some(begun) = sent.recv().await {
            assert_eq!(stream.next_data().await, [n.to_string()]);
            receive.push(begun.elapsed());
            n += 1;
        }
    };
    tokio::join!(publishing, receiving);
    Waits {
        publish: p99(publish),
        receive: p99(receive),
    }
}

fn p99(mut waits: Vec<Duration>) -> Duration {
    waits.sort_unstable();
    waits[waits.len() * 99 / 100]
}

struct Adversary {
    hub: SocketAddr,
    stop: CancellationToken,
    begun: AtomicU64,
}

/// An adversary at work, on a thread of its own.
struct Attacking {
    adversary: Arc<Adversary>,
    thread: thread::JoinHandle<()>,
}

impl Attacking {
    /// Ends it; how many attacks it has begun.
    fn end(self) -> u64 {
        self.adversary.stop.cancel();
        self.thread.join().unwrap();
        self.adversary.begun.load(Relaxed)
    }
}

impl Adversary {
    /// Begins those of the attacks that are `chosen`.
    fn begin(hub: &TestHub, chosen: impl Fn(Attack) -> bool) -> Attacking {
        let adversary = Arc::new(Self {
            hub: hub.address().parse().unwrap(),
            stop: CancellationToken::new(),
            begun: AtomicU64::new(0),
        });
        let attacks: Vec<_> = ATTACKS
            .into_iter()
            .filter(|(attack, _)| chosen(*attack))
            .collect();
        let thread = thread::spawn({
            let adversary = adversary.clone();
            move || adversary.run(&attacks)
        });
        Attacking { adversary, thread }
    }

    fn run(self: Arc<Self>, chosen: &[(Attack, u32)]) {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut attacks = Vec::new();
            for &(attack, connections) in chosen {
                for n in 0..connections {
                    let adversary = self.clone();
                    attacks.push(tokio::spawn(adversary.attack_again(attack, n)));
                }
            }
            for attack in attacks {
                attack.await.unwrap();
            }
        });
    }

    async fn attack_again(self: Arc<Self>, attack: Attack, n: u32) {
        // Not all in the same moment.
        sleep(PAUSE * 2 * n / 200).await;
        let attacking = async {
            loop {
                self.begun.fetch_add(1, Relaxed);
                // That it is refused, or cut, is what the hub may do.
                _ = self.attack(attack, n).await;
                sleep(PAUSE).await;
            }
        };
        self.stop.run_until_cancelled(attacking).await;
    }

    /// One of many addresses, since what one address may have is bounded.
    async fn connect(&self, n: u32) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4096)?;
        let host = u8::try_from(n % 20 + 2).unwrap();
        socket.bind(SocketAddr::from(([127, 0, 66, host], 0)))?;
        socket.connect(self.hub).await
    }

    async fn attack(&self, attack: Attack, n: u32) -> std::io::Result<()> {
        let mut socket = self.connect(n).await?;
        match attack {
            Attack::AnnouncedBody => {
                let head = post("content-length: 16777216\r\n");
                socket.write_all(head.as_bytes()).await?;
                socket.write_all(b"[1").await?;
                wait_for_end(socket).await
            }
            Attack::UnfinishedBody => {
                let head = post("content-length: 16777216\r\n");
                socket.write_all(head.as_bytes()).await?;
                socket.write_all(b"[\"").await?;
                for _ in 0..15 * 16 {
                    socket.write_all(&[b'x'; 64 * 1024]).await?;
                }
                wait_for_end(socket).await
            }
            Attack::BodyTooLarge => {
                let asks = match n % 2 {
                    0 => "expect: 100-continue\r\n",
                    _ => "",
                };
                let head = post(&format!("content-length: 999999999\r\n{asks}"));
                socket.write_all(head.as_bytes()).await?;
                while asks.is_empty() {
                    socket.write_all(&[b'x'; 64 * 1024]).await?;
                }
                wait_for_end(socket).await
            }
            Attack::Unread(path) => {
                socket.write_all(get(path).as_bytes()).await?;
                sleep(Duration::from_secs(10)).await;
                Ok(())
            }
            Attack::CostlyFilter(path) => {
                let a = "a".repeat(40);
                let patterns: String = (0..PATTERNS)
                    .map(|own| format!("topic=**{a}b*{a}b**{n}.{own}x*{a}**&"))
                    .collect();
                let asked = get(&format!("{path}?{patterns}last_event_id=0"));
                let asked = match path {
                    "/sse" => asked,
                    _ => asked.replace("last_event_id", "after"),
                };
                socket.write_all(asked.as_bytes()).await?;
                _ = timeout(Duration::from_secs(5), wait_for_end(socket)).await;
                Ok(())
            }
            Attack::ManyTopics => {
                let topics: String = (0..700).map(|own| format!("topic=t{n}.{own}&")).collect();
                let asked = get(&format!("/sse?{topics}"));
                socket.write_all(asked.as_bytes()).await?;
                _ = timeout(Duration::from_secs(2), wait_for_end(socket)).await;
                Ok(())
            }
            Attack::Delete => {
                let line = format!(
                    "{{\"topic\":\"victim{n}\",\"data\":\"{}\"}}\n",
                    "x".repeat(10_000)
                );
                let body = line.repeat(200);
                let publish = format!(
                    "POST /events HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                socket.write_all(publish.as_bytes()).await?;
                let delete = format!(
                    "DELETE /events/{n} HTTP/1.1\r\nhost: x\r\n\r\nDELETE /topics/victim{n} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
                );
                socket.write_all(delete.as_bytes()).await?;
                wait_for_end(socket).await
            }
            Attack::HalfHead => {
                socket.write_all(b"GET /events HTTP/1.1\r\nhost").await?;
                wait_for_end(socket).await
            }
        }
    }
}

fn post(fields: &str) -> String {
    format!("POST /events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{fields}\r\n")
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
}

async fn wait_for_end(mut socket: TcpStream) -> std::io::Result<()> {
    let mut rest = [0; 4096];
    while socket.read(&mut rest).await? > 0 {}
    Ok(())
}
