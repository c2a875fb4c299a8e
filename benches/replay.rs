//! How fast the log is read: `cargo bench --bench replay`.

#![expect(clippy::unwrap_used, reason = "in a bench a panic is the report")]

mod bench_hub;

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use bench_hub::{
    TURN, TURNS, folder, follow,
    load::Load,
    post_batch, post_body,
    process::Process,
    report::{Report, Target, Unit, median},
};
use memchr::memmem;
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

/// Events of a batch that fills the log.
const BATCH_EVENTS: usize = 10_000;

/// Events a subscriber replays in one turn.
const REPLAY_EVENTS: usize = 500_000;

/// Rows of a page that is read bare.
const PAGE_ROWS: i64 = 512;

/// Times a first byte is waited for.
const FIRST_BYTES: usize = 21;

/// Readers that are slow, and what each reads in a second.
const SLOW_READERS: usize = 100;
const SLOW_BYTES_PER_SECOND: usize = 10_000;

/// Bytes of all large events, half of them on a topic that is read.
const LARGE_BYTES: usize = 200_000_000;

fn main() {
    bench_hub::main(&[
        ("replay", replay),
        ("first_byte", first_byte),
        ("slow_readers", slow_readers),
        ("large_events", large_events),
    ]);
}

/// Publishes `events` in batches. One of 10,000 is on the topic `rare`, in the middle of its batch.
fn fill(hub: &Process, events: usize) {
    let mut load = Load::new();
    let topic = |index| {
        if index == BATCH_EVENTS / 2 {
            "rare"
        } else {
            "common"
        }
    };
    load.add_publisher(
        hub.address,
        vec![post_batch(BATCH_EVENTS, |index| topic(index).into())],
    );
    for _ in 0..events / BATCH_EVENTS {
        load.publish();
        load.wait_for("a batch to be stored", Load::is_idle);
    }
}

/// One subscriber that reads all from the file, against the same pages read bare.
fn replay(report: &mut Report) {
    let folder = folder();
    let hub = Process::hub(folder.path());
    fill(&hub, REPLAY_EVENTS);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let path = folder.path().join("segno.db");
    let turns: Vec<_> = (0..TURNS)
        .map(|_| {
            let mut load = Load::new();
            let start = Instant::now();
            load.begin_subscriber(hub.address, true, follow("?since=start"));
            load.wait_for("the replay", |load| {
                load.deliveries() == REPLAY_EVENTS as u64
            });
            let replayed = REPLAY_EVENTS as f64 / start.elapsed().as_secs_f64();
            (
                replayed,
                runtime.block_on(bare_rows_per_second(&path, BARE)),
            )
        })
        .collect();
    report.compare("replay", Unit::PerSecond, &turns, Target::RatioAtLeast(0.6));
}

/// Pages of a topic whose events are large, against the same rows read bare. A page that sorts them, and not their ids, reads each of
/// them twice.
fn large_events(report: &mut Report) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (size, bytes) in [("10 KB", 10_000), ("200 KB", 200_000)] {
        let folder = folder();
        let hub = Process::hub(folder.path());
        let events = LARGE_BYTES / bytes;
        let mut load = Load::new();
        let in_a_batch = 2_000_000 / bytes;
        let data = "x".repeat(bytes - 2);
        let event = |n| {
            format!(
                "{{\"topic\":\"{}\",\"data\":\"{data}\"}}",
                ["a", "b"][n % 2]
            )
        };
        let batch: Vec<_> = (0..in_a_batch).map(event).collect();
        let batch = post_body("application/json", &format!("[{}]", batch.join(",")));
        load.add_publisher(hub.address, vec![batch]);
        for _ in 0..events / in_a_batch {
            load.publish();
            load.wait_for("a batch to be stored", Load::is_idle);
        }
        let path = folder.path().join("segno.db");
        let turns: Vec<_> = (0..TURNS)
            .map(|_| {
                let start = Instant::now();
                let read = runtime.block_on(read_topic(&hub));
                assert_eq!(read, events / 2);
                let paged = read as f64 / start.elapsed().as_secs_f64();
                (
                    paged,
                    runtime.block_on(bare_rows_per_second(&path, BARE_TOPIC)),
                )
            })
            .collect();
        report.compare(
            &format!("large_events: pages of a topic, {size}"),
            Unit::PerSecond,
            &turns,
            Target::RatioAtLeast(0.15),
        );
    }
}

/// Reads all events of the topic `a` in pages, and counts them.
async fn read_topic(hub: &Process) -> usize {
    _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::new();
    let (mut after, mut read) = (0, 0);
    loop {
        let path = format!("/events?topic=a&limit=1000&after={after}");
        let page = client.get(format!("http://{}{path}", hub.address)).send();
        let page = page.await.unwrap().bytes().await.unwrap();
        let ids: Vec<_> = memmem::find_iter(&page, b"{\"id\":").collect();
        let Some(&last) = ids.last() else {
            return read;
        };
        read += ids.len();
        let digits = page[last + 6..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit());
        after = digits.fold(0_u64, |id, digit| 10 * id + u64::from(digit - b'0'));
    }
}

/// All rows, page by page.
const BARE: &str = "
    select id, topic, type, data, created_at, key from events
    where id > ?1 and id < ?2 order by id limit ?3";

/// Those of the topic `a`.
const BARE_TOPIC: &str = "
    select id, topic, type, data, created_at, key from events
    where topic = 'a' and id > ?1 and id < ?2 order by id limit ?3";

/// Reads the file page by page, every column of every row.
async fn bare_rows_per_second(path: &Path, page: &'static str) -> f64 {
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let start = Instant::now();
    let mut after = 0_i64;
    let mut rows_read = 0;
    loop {
        let rows = sqlx::query(page)
            .bind(after)
            .bind(i64::MAX)
            .bind(PAGE_ROWS)
            .fetch_all(&mut connection)
            .await
            .unwrap();
        for row in &rows {
            after = row.get(0);
            let bytes = row.get::<&str, _>(1).len()
                + row.get::<&str, _>(2).len()
                + row.get::<&str, _>(3).len();
            assert!(bytes > 0 && row.get::<i64, _>(4) > 0);
            assert!(row.get::<Option<&str>, _>(5).is_none());
        }
        if rows.is_empty() {
            break;
        }
        rows_read += rows.len();
    }
    let rows_per_second = rows_read as f64 / start.elapsed().as_secs_f64();
    connection.close().await.unwrap();
    rows_per_second
}

/// From the request to the first event of a resume, against the same on a log of a tenth.
fn first_byte(report: &mut Report) {
    let events = if report.full { 5_000_000 } else { 500_000 };
    let folder = folder();
    let hub = Process::hub(folder.path());
    let places = ["id 1", "the middle", "the end"];
    let topics = [("", 1), ("&topic=rare", BATCH_EVENTS)];
    let mut measured = Vec::new();
    let mut filled = 0;
    for size in [events / 10, events] {
        fill(&hub, size - filled);
        filled = size;
        let mut of_size = Vec::new();
        for (topic, step) in topics {
            for cursor in [0, size / 2, size - step] {
                let query = format!("?last_event_id={cursor}{topic}");
                let times = (0..FIRST_BYTES).map(|_| milliseconds_to_first_event(&hub, &query));
                of_size.push(median(times));
            }
        }
        measured.push(of_size);
    }
    let mut lines = measured[1].iter().zip(&measured[0]);
    for (topic, _) in topics {
        for place in places {
            let (&large, &small) = lines.next().unwrap();
            let of = if topic.is_empty() {
                "all"
            } else {
                "a rare topic"
            };
            report.compare(
                &format!("first_byte: {of}, {place}"),
                Unit::Milliseconds,
                &[(large, small)],
                Target::AtMost(5.0),
            );
        }
    }
}

fn milliseconds_to_first_event(hub: &Process, query: &str) -> f64 {
    let mut socket = TcpStream::connect(hub.address).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let start = Instant::now();
    socket.write_all(&follow(query)).unwrap();
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    while memmem::find(&received, b"\ndata: ").is_none() {
        let bytes = socket.read(&mut buffer).unwrap();
        assert!(bytes > 0, "the stream ended");
        received.extend_from_slice(&buffer[..bytes]);
    }
    start.elapsed().as_secs_f64() * 1e3
}

/// Memory of the hub while many replay more than they read.
fn slow_readers(report: &mut Report) {
    let (events, time) = match report.full {
        true => (1_000_000, Duration::from_secs(60)),
        false => (300_000, Duration::from_secs(10)),
    };
    const STEP: Duration = Duration::from_millis(100);
    let folder = folder();
    let hub = Process::hub(folder.path());
    fill(&hub, events);
    // A replay at full speed first: what it takes once, such as the page cache, is not the slow readers'.
    milliseconds_to_first_event(&hub, "?last_event_id=0");
    sleep(TURN);
    let idle = hub.memory_bytes();
    let mut sockets: Vec<_> = (0..SLOW_READERS)
        .map(|_| {
            let mut socket = TcpStream::connect(hub.address).unwrap();
            socket.write_all(&follow("?since=start")).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
        .collect();
    let mut most = 0.0_f64;
    let mut buffer = vec![0; SLOW_BYTES_PER_SECOND / 10];
    let start = Instant::now();
    while start.elapsed() < time {
        for socket in &mut sockets {
            match socket.read(&mut buffer) {
                Ok(bytes) => assert!(bytes > 0, "a slow reader was cut off"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        most = most.max(hub.memory_bytes());
        sleep(STEP);
    }
    report.tell(
        "slow_readers: memory of 100",
        Unit::Bytes,
        most - idle,
        Target::AtMost(20.0 * 1024.0 * 1024.0),
    );
}
