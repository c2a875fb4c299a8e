//! Whether the hub is as fast at the end as it was at the start: `cargo bench --bench endurance`, a minute, or ten with
//! `-- --full`.

#![expect(clippy::unwrap_used, reason = "in a bench a panic is the report")]

mod bench_hub;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use bench_hub::{
    TURN, folder, follow,
    load::Load,
    post,
    process::Process,
    report::{Report, Target, Unit},
};

/// Publishers; enough that one is idle when an event is due.
const PUBLISHERS: usize = 64;

/// Subscribers that follow all the time.
const SUBSCRIBERS: usize = 10;

/// Windows a run is cut into; the last is held against the first.
const WINDOWS: u32 = 10;

/// How often events that are due are sent.
const TICK: Duration = Duration::from_millis(1);

fn main() {
    bench_hub::main(&[("endurance", endurance)]);
}

/// What was seen in one window.
struct Window {
    p99_millis: f64,
    memory_bytes: f64,
    wal_bytes: f64,
}

/// Stores and follows at half the rate that the hub can do.
fn endurance(report: &mut Report) {
    let window = match report.full {
        true => Duration::from_secs(60),
        false => Duration::from_secs(6),
    };
    let folder = folder();
    let hub = Process::hub(folder.path());
    let mut load = Load::new();
    load.add_subscribers(hub.address, SUBSCRIBERS, true, |_| follow(""));
    for _ in 0..PUBLISHERS {
        load.add_publisher(hub.address, vec![post("bench")]);
    }
    load.run_for(TURN);
    let start = Instant::now();
    let most_per_second = load.run_for(TURN * 2) as f64 / start.elapsed().as_secs_f64();

    let windows: Vec<_> = (0..WINDOWS)
        .map(|_| {
            run_window(
                &hub,
                &mut load,
                folder.path(),
                window,
                most_per_second / 2.0,
            )
        })
        .collect();
    let (first, last) = (&windows[0], &windows[windows.len() - 1]);
    report.tell(
        "endurance: half of the maximum",
        Unit::PerSecond,
        most_per_second / 2.0,
        Target::None,
    );
    report.compare(
        "endurance: p99 to receive, last and first",
        Unit::Milliseconds,
        &[(last.p99_millis, first.p99_millis)],
        Target::RatioAtMost(1.5),
    );
    report.tell(
        "endurance: memory gained since the first",
        Unit::Bytes,
        last.memory_bytes - first.memory_bytes,
        Target::AtMost(8.0 * 1024.0 * 1024.0),
    );
    report.tell(
        "endurance: largest WAL",
        Unit::Bytes,
        windows
            .iter()
            .map(|window| window.wal_bytes)
            .fold(0.0, f64::max),
        Target::AtMost(64.0 * 1024.0 * 1024.0),
    );
}

fn run_window(
    hub: &Process,
    load: &mut Load,
    folder: &Path,
    time: Duration,
    per_second: f64,
) -> Window {
    load.take_latencies();
    let start = Instant::now();
    let mut sent = 0.0;
    let mut wal_bytes = 0.0_f64;
    while start.elapsed() < time {
        let now = start.elapsed().as_secs_f64();
        while sent / per_second <= now {
            if !load.publish_due(start + Duration::from_secs_f64(sent / per_second)) {
                break;
            }
            sent += 1.0;
        }
        load.serve_until(Instant::now() + TICK);
        wal_bytes = wal_bytes.max(fs::metadata(folder.join("segno.db-wal")).unwrap().len() as f64);
    }
    load.wait_for("the last answers", Load::is_idle);
    let (_, delivery) = load.take_latencies();
    Window {
        p99_millis: delivery.value_at_quantile(0.99) as f64 / 1e6,
        memory_bytes: hub.memory_bytes(),
        wal_bytes,
    }
}
