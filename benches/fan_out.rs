//! What subscribers cost: `cargo bench --bench fan_out`.

#![expect(clippy::unwrap_used, reason = "in a bench a panic is the report")]

mod bench_hub;

use std::{
    fs,
    time::{Duration, Instant},
};

use bench_hub::{
    TURN, TURNS, floor, folder, follow,
    load::Load,
    post, post_batch,
    process::Process,
    report::{Report, Target, Unit},
};

/// Subscribers that get every event.
const SUBSCRIBERS: usize = 1000;

/// Publishers that make a load.
const PUBLISHERS: usize = 32;

/// Subscribers that wait for nothing, and are weighed.
const IDLE_SUBSCRIBERS: usize = 10_000;

/// Subscribers that come back together, and how many events each has to catch up with.
const RETURNING_SUBSCRIBERS: usize = 5000;
const RETURNING_LAG_EVENTS: usize = 100;

fn main() {
    bench_hub::main(&[
        ("fan_out", fan_out),
        ("latency", latency),
        ("memory_idle", memory_idle),
        ("return_5000", return_5000),
    ]);
}

fn audience(process: &Process, publishers: usize) -> Load {
    let mut load = Load::new();
    load.add_subscribers(process.address, SUBSCRIBERS, true, |_| follow(""));
    for _ in 0..publishers {
        load.add_publisher(process.address, vec![post("bench")]);
    }
    load
}

/// Publishes an event when all have the one before, for one turn. Deliveries per second of the process's own time.
fn one_at_a_time(process: &Process, load: &mut Load) -> f64 {
    let (cpu_before, before) = (process.cpu_seconds(), load.deliveries());
    let end = Instant::now() + TURN;
    while Instant::now() < end {
        let all = load.deliveries() + SUBSCRIBERS as u64;
        load.publish();
        load.wait_for("an event to reach all", |load| {
            load.deliveries() == all && load.is_idle()
        });
    }
    (load.deliveries() - before) as f64 / (process.cpu_seconds() - cpu_before)
}

/// All publish as fast as they are answered, for one turn.
fn under_load(process: &Process, load: &mut Load) -> f64 {
    let (cpu_before, before) = (process.cpu_seconds(), load.deliveries());
    let events = load.run_for(TURN);
    let all = before + events * SUBSCRIBERS as u64;
    load.wait_for("all events to reach all", |load| load.deliveries() == all);
    (all - before) as f64 / (process.cpu_seconds() - cpu_before)
}

/// Deliveries for a second of the hub's processor time, against a loop of bare `send()`.
fn fan_out(report: &mut Report) {
    let folder = folder();
    let hub = Process::hub(folder.path());
    let send = Process::floor(floor::Kind::Send);
    let mut from_hub = audience(&hub, PUBLISHERS);
    let mut from_send = audience(&send, 1);
    let mut alone = Vec::new();
    let mut loaded = Vec::new();
    one_at_a_time(&hub, &mut from_hub);
    for _ in 0..TURNS {
        let floor = one_at_a_time(&send, &mut from_send);
        alone.push((one_at_a_time(&hub, &mut from_hub), floor));
        loaded.push((under_load(&hub, &mut from_hub), floor));
    }
    report.compare(
        "fan_out: one event at a time",
        Unit::PerCpuSecond,
        &alone,
        Target::RatioAtLeast(0.8),
    );
    report.compare(
        "fan_out: 32 publishers",
        Unit::PerCpuSecond,
        &loaded,
        Target::RatioAtLeast(8.0),
    );
}

/// Publish to receive at 25 events a second, against the same loop.
fn latency(report: &mut Report) {
    let folder = folder();
    let hub = Process::hub(folder.path());
    let send = Process::floor(floor::Kind::Send);
    let mut from_hub = audience(&hub, 1);
    let mut from_send = audience(&send, 1);
    let mut middle = Vec::new();
    let mut late = Vec::new();
    for _ in 0..TURNS {
        let (hub_p50, hub_p99) = paced(&mut from_hub);
        let (send_p50, send_p99) = paced(&mut from_send);
        middle.push((hub_p50, send_p50));
        late.push((hub_p99, send_p99));
    }
    report.compare(
        "latency: p50",
        Unit::Milliseconds,
        &middle,
        Target::RatioAtMost(1.5),
    );
    report.compare(
        "latency: p99",
        Unit::Milliseconds,
        &late,
        Target::RatioAtMost(2.0),
    );
}

/// p50 and p99 in milliseconds over two seconds.
fn paced(load: &mut Load) -> (f64, f64) {
    const EVENTS: u32 = 50;
    const PACE: Duration = Duration::from_millis(40);
    load.take_latencies();
    let all = load.deliveries() + u64::from(EVENTS) * SUBSCRIBERS as u64;
    let start = Instant::now();
    for event in 1..=EVENTS {
        // On a machine that is busy with something else the event before may still be under way.
        load.wait_for("the event before", Load::is_idle);
        load.publish();
        load.serve_until(start + PACE * event);
    }
    load.wait_for("the events", |load| load.deliveries() == all);
    let (_, delivery) = load.take_latencies();
    let millis = |quantile| delivery.value_at_quantile(quantile) as f64 / 1e6;
    (millis(0.5), millis(0.99))
}

/// Memory of the hub for each subscriber that waits.
fn memory_idle(report: &mut Report) {
    let folder = folder();
    let hub = Process::hub(folder.path());
    let mut load = Load::new();
    load.add_subscribers(hub.address, 1, true, |_| follow(""));
    let before = hub.memory_bytes();
    load.add_subscribers(hub.address, IDLE_SUBSCRIBERS, true, |_| follow(""));
    load.serve_until(Instant::now() + Duration::from_secs(1));
    let each = (hub.memory_bytes() - before) / IDLE_SUBSCRIBERS as f64;
    report.tell(
        "memory_idle: per subscriber of 10,000",
        Unit::Bytes,
        each,
        Target::AtMost(16.0 * 1024.0),
    );
    load.add_publisher(hub.address, vec![post("bench")]);
    load.publish();
    load.wait_for("an event to reach all", |load| {
        load.deliveries() == IDLE_SUBSCRIBERS as u64 + 1
    });
    load.serve_until(Instant::now() + Duration::from_secs(1));
    let each = (hub.memory_bytes() - before) / IDLE_SUBSCRIBERS as f64;
    report.tell(
        "memory_idle: after one event to all",
        Unit::Bytes,
        each,
        Target::AtMost(16.0 * 1024.0),
    );
}

/// All come back in the moment the hub is there again.
fn return_5000(report: &mut Report) {
    let folder = folder();
    let hub = Process::hub(folder.path());
    let mut load = Load::new();
    load.add_publisher(
        hub.address,
        vec![post_batch(RETURNING_LAG_EVENTS, |_| "bench".into())],
    );
    load.publish();
    load.wait_for("the events", Load::is_idle);
    hub.stop();
    drop(load);

    let hub = Process::hub(folder.path());
    let mut load = Load::new();
    let syns_sent_again = syns_sent_again();
    let start = Instant::now();
    for _ in 0..RETURNING_SUBSCRIBERS {
        load.begin_subscriber(hub.address, true, follow("?last_event_id=0"));
    }
    let all = (RETURNING_SUBSCRIBERS * RETURNING_LAG_EVENTS) as u64;
    load.wait_for("all to catch up", |load| load.deliveries() == all);
    let seconds = start.elapsed().as_secs_f64();
    load.add_publisher(hub.address, vec![post("bench")]);
    load.publish();
    load.wait_for("an event to reach all", |load| {
        load.deliveries() == all + RETURNING_SUBSCRIBERS as u64
    });
    report.tell(
        "return_5000: until all have caught up",
        Unit::Seconds,
        seconds,
        Target::None,
    );
    report.tell(
        "return_5000: SYNs sent again",
        Unit::Number,
        self::syns_sent_again() - syns_sent_again,
        Target::AtMost(0.0),
    );
}

/// What the kernel counts as `TCPSynRetrans`.
fn syns_sent_again() -> f64 {
    let netstat = fs::read_to_string("/proc/net/netstat").unwrap();
    let mut lines = netstat
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let (_, value) = names
        .split(' ')
        .zip(values.split(' '))
        .find(|(name, _)| *name == "TCPSynRetrans")
        .unwrap();
    value.parse().unwrap()
}
