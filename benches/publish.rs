//! How fast events are stored: `cargo bench --bench publish`.

#![expect(clippy::unwrap_used, reason = "in a bench a panic is the report")]

mod bench_hub;

use std::{
    fs::File,
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use bench_hub::{
    TURN, TURNS, data, floor, folder, follow,
    load::Load,
    post, post_batch,
    process::Process,
    report::{Report, Target, Unit, median},
    with_token,
};
use sqlx::{
    Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};

/// Events of a batch.
const BATCH_EVENTS: usize = 1000;

/// Subscribers of the measurements that ask whether their number matters.
const MANY_SUBSCRIBERS: usize = 10_000;

fn main() {
    bench_hub::main(&[
        ("posts_64_connections", posts_64_connections),
        ("posts_with_a_token", posts_with_a_token),
        ("posts_1_connection", posts_1_connection),
        ("batches", batches),
        ("topics_10000", topics_10000),
        ("patterns_10000", patterns_10000),
    ]);
}

fn publishers(process: &Process, count: usize) -> Load {
    publishers_of(process, count, &post("bench"))
}

fn publishers_of(process: &Process, count: usize, request: &[u8]) -> Load {
    let mut load = Load::new();
    for _ in 0..count {
        load.add_publisher(process.address, vec![request.to_vec()]);
    }
    load.run_for(TURN / 4);
    load
}

fn answers_per_second(load: &mut Load, time: Duration) -> f64 {
    let start = Instant::now();
    let answers = load.run_for(time);
    answers as f64 / start.elapsed().as_secs_f64()
}

/// Durable POSTs, against an empty handler on the same server. Also for each second of the server's own processor time, which
/// says more on a machine that does something else as well.
fn posts_64_connections(report: &mut Report) {
    let folder = folder();
    let hub = Process::hub(folder.path());
    let empty = Process::floor(floor::Kind::EmptyHandler);
    let (mut to_hub, mut to_empty) = (publishers(&hub, 64), publishers(&empty, 64));
    let mut rates = Vec::new();
    let mut cpu_rates = Vec::new();
    for _ in 0..TURNS {
        let (rate, cpu_rate) = rates_of(&hub, &mut to_hub);
        let (empty_rate, empty_cpu_rate) = rates_of(&empty, &mut to_empty);
        rates.push((rate, empty_rate));
        cpu_rates.push((cpu_rate, empty_cpu_rate));
    }
    report.compare(
        "posts_64_connections",
        Unit::PerSecond,
        &rates,
        Target::RatioAtLeast(0.65),
    );
    report.compare(
        "posts_64_connections: of its processor time",
        Unit::PerCpuSecond,
        &cpu_rates,
        Target::None,
    );
}

/// Durable POSTs with a token to a hub with an access file, against the same without either.
fn posts_with_a_token(report: &mut Report) {
    const TOKEN: &str = "segno_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let (with, without) = (folder(), folder());
    let guarded = Process::hub_with_access(with.path(), TOKEN);
    let open = Process::hub(without.path());
    let mut to_guarded = publishers_of(&guarded, 64, &with_token(post("bench"), TOKEN));
    let mut to_open = publishers(&open, 64);
    let mut rates = Vec::new();
    let mut cpu_rates = Vec::new();
    for _ in 0..TURNS {
        let (rate, cpu_rate) = rates_of(&guarded, &mut to_guarded);
        let (open_rate, open_cpu_rate) = rates_of(&open, &mut to_open);
        rates.push((rate, open_rate));
        cpu_rates.push((cpu_rate, open_cpu_rate));
    }
    report.compare(
        "posts_with_a_token",
        Unit::PerSecond,
        &rates,
        Target::RatioAtLeast(0.95),
    );
    report.compare(
        "posts_with_a_token: of its processor time",
        Unit::PerCpuSecond,
        &cpu_rates,
        Target::RatioAtLeast(0.95),
    );
}

/// Answers for a second, and for a second of the server's processor time.
fn rates_of(process: &Process, load: &mut Load) -> (f64, f64) {
    let cpu_before = process.cpu_seconds();
    let start = Instant::now();
    let answers = load.run_for(TURN) as f64;
    (
        answers / start.elapsed().as_secs_f64(),
        answers / (process.cpu_seconds() - cpu_before),
    )
}

/// One publisher that waits for each answer, against an empty POST and then one sync of the disk. In short turns: what others
/// do to the disk passes quickly.
fn posts_1_connection(report: &mut Report) {
    const SHORT_TURN: Duration = Duration::from_millis(300);
    let folder = folder();
    let hub = Process::hub(folder.path());
    let empty = Process::floor(floor::Kind::EmptyHandler);
    let (mut to_hub, mut to_empty) = (publishers(&hub, 1), publishers(&empty, 1));
    let mut disk = Disk::new(folder.path());
    let mut sync_seconds = Vec::new();
    let turns: Vec<_> = (0..4 * TURNS)
        .map(|_| {
            let posts = answers_per_second(&mut to_hub, SHORT_TURN);
            let empty_posts = answers_per_second(&mut to_empty, SHORT_TURN / 2);
            let sync = disk.seconds_per_sync(SHORT_TURN / 2);
            sync_seconds.push(sync);
            (posts, 1.0 / (1.0 / empty_posts + sync))
        })
        .collect();
    report.compare(
        "posts_1_connection",
        Unit::PerSecond,
        &turns,
        Target::RatioAtLeast(0.7),
    );
    report.tell(
        "posts_1_connection: one fdatasync",
        Unit::Microseconds,
        median(sync_seconds.into_iter()) * 1e6,
        Target::None,
    );
}

/// A file that has its size already and is written page after page, over and over, as the WAL is.
struct Disk {
    file: File,
    next_page: u64,
}

impl Disk {
    const PAGE_BYTES: usize = 4096;
    const PAGES: u64 = 1000;

    fn new(folder: &Path) -> Self {
        let mut file = File::create(folder.join("sync")).unwrap();
        for _ in 0..Self::PAGES {
            file.write_all(&[1; Self::PAGE_BYTES]).unwrap();
        }
        file.sync_all().unwrap();
        Self { file, next_page: 0 }
    }

    fn seconds_per_sync(&mut self, time: Duration) -> f64 {
        let start = Instant::now();
        let mut syncs = 0;
        while start.elapsed() < time {
            self.next_page = (self.next_page + 1) % Self::PAGES;
            let place = self.next_page * Self::PAGE_BYTES as u64;
            self.file
                .write_all_at(&[2; Self::PAGE_BYTES], place)
                .unwrap();
            self.file.sync_data().unwrap();
            syncs += 1;
        }
        start.elapsed().as_secs_f64() / f64::from(syncs)
    }
}

/// Events through one connection in batches, against the same statement run bare.
fn batches(report: &mut Report) {
    let folder = folder();
    let hub = Process::hub(folder.path());
    let mut load = Load::new();
    load.add_publisher(
        hub.address,
        vec![post_batch(BATCH_EVENTS, |_| "bench".into())],
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut bare = runtime.block_on(BareInsert::open(&folder.path().join("bare.db")));
    load.run_for(TURN / 4);
    let turns: Vec<_> = (0..TURNS)
        .map(|_| {
            (
                answers_per_second(&mut load, TURN) * BATCH_EVENTS as f64,
                runtime.block_on(bare.rows_per_second(TURN)),
            )
        })
        .collect();
    report.compare(
        "batches",
        Unit::PerSecond,
        &turns,
        Target::RatioAtLeast(0.6),
    );
}

/// The hub's insert without the hub, on a file with the same tables and settings.
struct BareInsert {
    connection: SqliteConnection,
    rows: String,
    next_id: i64,
}

impl BareInsert {
    async fn open(path: &Path) -> Self {
        // Opened by the hub's own code, so that the tables and the settings that the file keeps are the same.
        drop(segno::db::open(path).await.unwrap());
        let options = SqliteConnectOptions::new()
            .filename(path)
            .synchronous(SqliteSynchronous::Full);
        let row = ("bench", "message", data(), None::<&str>);
        Self {
            connection: SqliteConnection::connect_with(&options).await.unwrap(),
            rows: serde_json::to_string(&vec![row; BATCH_EVENTS]).unwrap(),
            next_id: 1,
        }
    }

    async fn rows_per_second(&mut self, time: Duration) -> f64 {
        const INSERT: &str = "
            insert into events (id, topic, type, data, created_at, key)
            select ?2 + event.key, event.value ->> 0, event.value ->> 1, event.value ->> 2, ?3, event.value ->> 3
            from jsonb_each(?1) as event";
        let start = Instant::now();
        let first_id = self.next_id;
        while start.elapsed() < time {
            sqlx::query(INSERT)
                .bind(&self.rows)
                .bind(self.next_id)
                .bind(1_700_000_000_000_i64)
                .execute(&mut self.connection)
                .await
                .unwrap();
            self.next_id += i64::try_from(BATCH_EVENTS).unwrap();
        }
        (self.next_id - first_id) as f64 / start.elapsed().as_secs_f64()
    }
}

/// Processor time of the hub for one publish, in microseconds.
fn cpu_microseconds_per_publish(hub: &Process, load: &mut Load) -> f64 {
    let before = hub.cpu_seconds();
    let answers = load.run_for(TURN * 2);
    (hub.cpu_seconds() - before) / answers as f64 * 1e6
}

/// The cost of a publish on one of many topics with a subscriber each, against one subscriber that follows all topics: each
/// event goes to one subscriber in both, and only the number of feeds differs.
fn topics_10000(report: &mut Report) {
    let requests: Vec<_> = (0..MANY_SUBSCRIBERS)
        .map(|topic| post(&format!("topic-{topic}")))
        .collect();
    let (folder, other_folder) = (folder(), bench_hub::folder());
    let (hub, other_hub) = (
        Process::hub(folder.path()),
        Process::hub(other_folder.path()),
    );
    let (mut load, mut other_load) = (Load::new(), Load::new());
    load.add_subscribers(hub.address, MANY_SUBSCRIBERS, false, |topic| {
        follow(&format!("?topic=topic-{topic}"))
    });
    other_load.add_subscribers(other_hub.address, 1, true, |_| follow(""));
    load.add_publisher(hub.address, requests.clone());
    other_load.add_publisher(other_hub.address, requests);
    compare_cost(
        report,
        "topics_10000",
        (&hub, &mut load),
        (&other_hub, &mut other_load),
    );
}

/// The cost of a publish that none of many subscribers wants, against one where there are none.
fn patterns_10000(report: &mut Report) {
    let (folder, other_folder) = (folder(), bench_hub::folder());
    let (hub, other_hub) = (
        Process::hub(folder.path()),
        Process::hub(other_folder.path()),
    );
    let (mut load, mut other_load) = (Load::new(), Load::new());
    load.add_subscribers(hub.address, MANY_SUBSCRIBERS, false, |index| {
        follow(&format!("?topic=other-{}.*", index % 10))
    });
    load.add_publisher(hub.address, vec![post("bench")]);
    other_load.add_publisher(other_hub.address, vec![post("bench")]);
    compare_cost(
        report,
        "patterns_10000",
        (&hub, &mut load),
        (&other_hub, &mut other_load),
    );
}

fn compare_cost(
    report: &mut Report,
    name: &str,
    (hub, load): (&Process, &mut Load),
    (other_hub, other_load): (&Process, &mut Load),
) {
    load.run_for(TURN / 2);
    other_load.run_for(TURN / 2);
    let turns: Vec<_> = (0..TURNS)
        .map(|_| {
            (
                cpu_microseconds_per_publish(hub, load),
                cpu_microseconds_per_publish(other_hub, other_load),
            )
        })
        .collect();
    report.compare(name, Unit::Microseconds, &turns, Target::RatioAtMost(1.3));
}
