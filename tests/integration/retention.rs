//! What is trimmed, what that costs, and who is told.

use std::{
    io::{BufRead, BufReader},
    num::NonZeroU64,
    process::Stdio,
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use segno::retention::Keep;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::test_hub::{TestHub, TestStream, answer, only_local, reqwest_client, segno, within};

fn newest(events: u64) -> Keep {
    Keep {
        events: NonZeroU64::new(events),
        ..Keep::default()
    }
}

fn of_topics(rule: &str) -> Keep {
    Keep {
        topics: vec![rule.parse().unwrap()],
        ..Keep::default()
    }
}

async fn first_id(hub: &TestHub) -> u64 {
    hub.get_json("/events?limit=1").await["first_id"]
        .as_u64()
        .unwrap()
}

async fn wait_for_first_id(hub: &TestHub, id: u64) {
    within(format_args!("the first id to be {id}"), async {
        while first_id(hub).await != id {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Waits until so many events of `topic` are kept.
async fn wait_for_kept(hub: &TestHub, topic: &str, events: usize) {
    within(format_args!("{events} events of {topic}"), async {
        loop {
            let page = hub
                .get_json(&format!("/events?topic={topic}&limit=1000"))
                .await;
            if page["events"].as_array().unwrap().len() == events {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Publishes events of 1 kB each: 20,000 are more than sockets hold for a client that does not read.
async fn publish_large(hub: &TestHub, topic: &str, events: u64) {
    let data = "x".repeat(1000);
    let batch = format!("{{\"topic\":\"{topic}\",\"data\":\"{data}\"}}\n").repeat(1000);
    for _ in 0..events / 1000 {
        let request = hub
            .post("/events")
            .header("content-type", "application/x-ndjson");
        let stored = answer(request.body(batch.clone())).await;
        assert_eq!(stored.status, StatusCode::CREATED);
    }
}

fn gap(data: &str) -> Value {
    serde_json::from_str(data).unwrap()
}

/// Reads to the event `last`, and checks that every hole between ids is told before it. Returns the gaps.
async fn read_with_gaps(stream: &mut TestStream, mut cursor: u64, last: u64) -> Vec<Value> {
    let mut gaps = Vec::new();
    while cursor < last {
        let message = stream.next().await;
        let id: u64 = message.last_event_id.parse().unwrap();
        if message.event_type == "segno.gap" {
            let gap = gap(&message.data);
            assert_eq!(gap["reason"], "trimmed");
            assert_eq!(gap["requested"], cursor);
            assert_eq!(gap["first_id"], id + 1);
            gaps.push(gap);
        } else {
            assert_eq!(id, cursor + 1, "a hole that nobody told");
        }
        cursor = id;
    }
    gaps
}

#[tokio::test]
async fn a_cursor_that_trimming_overtook_is_told_and_goes_on_from_the_first_event_kept() {
    let hub = TestHub::start_with(|config| config.keep = newest(100)).await;
    hub.publish_many(1000, |_| "orders".into()).await;
    wait_for_first_id(&hub, 901).await;

    for query in ["", "?topic=orders", "?topic=ord*"] {
        let mut stream = hub.resume(query, 5).await;
        let message = stream.next().await;
        assert_eq!(message.event_type, "segno.gap");
        assert_eq!(
            gap(&message.data),
            json!({"reason": "trimmed", "requested": 5, "first_id": 901, "last_id": 1000})
        );
        assert_eq!(message.last_event_id, "900");
        assert_eq!(stream.next_ids(100).await, (901..=1000).collect::<Vec<_>>());
    }
    let mut stream = hub.resume("", 900).await;
    assert_eq!(stream.next_ids(1).await, [901]);
    let mut stream = hub.follow("?since=start").await;
    assert_eq!(stream.next_ids(1).await, [901]);
    let gone = answer(hub.get("/events/900")).await;
    assert_eq!(gone.code(), "unknown_event");
}

#[tokio::test]
async fn ids_go_on_when_everything_was_trimmed() {
    let keep = Keep {
        age: Some(Duration::from_secs(1)),
        ..Keep::default()
    };
    let hub = TestHub::start_with(|config| config.keep = keep.clone()).await;
    assert_eq!(hub.publish("orders", ["a", "b", "c"]).await, [1, 2, 3]);
    wait_for_first_id(&hub, 4).await;
    wait_for_kept(&hub, "orders", 0).await;
    assert_eq!(
        hub.get_json("/events").await,
        json!({"events": [], "first_id": 4, "last_id": 3, "next": null, "cursor": 3})
    );
    assert_eq!(hub.publish("orders", ["d"]).await, [4]);
    wait_for_first_id(&hub, 5).await;

    let folder = hub.stop().await;
    let hub = TestHub::start_in(folder, |config| config.keep = keep).await;
    assert_eq!(first_id(&hub).await, 5);
    let mut has_all = hub.resume("", 4).await;
    let mut missed_one = hub.resume("", 3).await;
    assert_eq!(hub.publish("orders", ["e"]).await, [5]);
    assert_eq!(has_all.next_data().await, ["\"e\""]);
    assert_eq!(missed_one.next().await.event_type, "segno.gap");
    assert_eq!(missed_one.next_data().await, ["\"e\""]);
}

#[tokio::test]
async fn slow_the_file_keeps_to_its_size_and_shrinks() {
    const MB: u64 = 1_000_000;
    let hub = TestHub::start().await;
    publish_large(&hub, "orders", 30_000).await;
    let folder = hub.stop().await;
    let db = folder.path().join("segno.db");
    let full = std::fs::metadata(&db).unwrap().len();
    assert!(full > 30 * MB, "{full} bytes");

    let hub = TestHub::start_in(folder, |config| config.keep.bytes = Some(10 * MB)).await;
    within("the file to shrink", async {
        while std::fs::metadata(&db).unwrap().len() > 12 * MB {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let kept = 30_001 - first_id(&hub).await;
    assert!(kept > 6000, "only {kept} events of 1 kB are kept in 10 MB");
    assert_eq!(hub.publish("orders", ["a"]).await, [30_001]);
}

#[tokio::test]
async fn slow_publishers_hardly_notice_a_large_trim() {
    if only_local("it measures the steps of one writer; here each goes through the server") {
        return;
    }
    let hub = TestHub::start().await;
    hub.publish_many(200_000, |n| format!("orders.{}", n % 50))
        .await;
    let folder = hub.stop().await;

    let hub = TestHub::start_in(folder, |config| config.keep = newest(1000)).await;
    let begun = Instant::now();
    let mut waits = Vec::new();
    // Without a pause between them, so that the writer has something to commit all the time.
    within("the trim to end under load", async {
        while first_id(&hub).await < 199_000 {
            let sent = Instant::now();
            hub.publish("orders", ["a"]).await;
            waits.push(sent.elapsed());
        }
    })
    .await;
    let trim = begun.elapsed();
    waits.sort();
    let (median, longest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    // In one transaction, one publisher would wait for all of it.
    assert!(
        longest < trim / 2,
        "{longest:?} of {trim:?}, median {median:?} of {} publishes",
        waits.len()
    );
}

#[tokio::test]
async fn slow_a_replay_that_trimming_overtakes_is_told_where_it_is() {
    const STORED: u64 = 20_000;
    let hub = TestHub::start_with(|config| config.keep = newest(STORED)).await;
    publish_large(&hub, "orders", STORED).await;
    // Held: the client reads no more than the first block.
    let mut held = hub.follow("?since=start").await;
    publish_large(&hub, "orders", STORED - 1000).await;
    wait_for_first_id(&hub, STORED - 999).await;
    let gaps = read_with_gaps(&mut held, 0, 2 * STORED - 1000).await;
    assert!(!gaps.is_empty());
}

#[tokio::test]
async fn slow_every_hole_that_trimming_makes_under_running_replays_is_told() {
    const STORED: u64 = 100_000;
    let hub = TestHub::start().await;
    hub.publish_many(STORED, |_| "orders".into()).await;
    let folder = hub.stop().await;
    // The trim begins with the start, and the replays run beside it.
    let hub = TestHub::start_in(folder, |config| config.keep = newest(2000)).await;
    let mut readers = JoinSet::new();
    for _ in 0..8 {
        let mut stream = TestStream::open(hub.get("/sse").header("last-event-id", 0)).await;
        readers.spawn(async move { read_with_gaps(&mut stream, 0, STORED).await });
    }
    let gaps: usize = readers.join_all().await.iter().map(Vec::len).sum();
    assert!(gaps > 0, "trimming overtook nobody");
    wait_for_first_id(&hub, STORED - 1999).await;
}

#[tokio::test]
async fn a_rule_for_topics_trims_them_alone_and_tells_those_who_want_them() {
    let hub = TestHub::start_with(|config| config.keep = of_topics("debug.**=10")).await;
    // Odd ids are orders, even ones debug.
    hub.publish_many(200, |n| match n % 2 {
        0 => "debug.a".into(),
        _ => "orders".into(),
    })
    .await;
    wait_for_kept(&hub, "debug.a", 10).await;
    wait_for_kept(&hub, "orders", 100).await;
    assert_eq!(first_id(&hub).await, 1);

    let folder = hub.stop().await;
    let hub = TestHub::start_in(folder, |config| config.keep = of_topics("debug.**=10")).await;
    for query in [
        "",
        "?topic=debug.a",
        "?topic=debug.*",
        "?topic=debug.a&topic=x",
    ] {
        let mut stream = hub.resume(query, 1).await;
        let message = stream.next().await;
        assert_eq!(message.event_type, "segno.gap", "{query}");
        assert_eq!(
            gap(&message.data),
            json!({"reason": "trimmed", "requested": 1, "first_id": 1, "last_id": 200})
        );
        assert_eq!(
            message.last_event_id, "1",
            "orders after it are still there"
        );
    }
    let mut debug = hub.resume("?topic=debug.a", 1).await;
    debug.next().await;
    let kept: Vec<u64> = (182..=200).step_by(2).collect();
    assert_eq!(debug.next_ids(10).await, kept);
    for (query, cursor, first) in [
        ("?topic=orders", 1, 3),
        ("?topic=ord*", 1, 3),
        ("?topic=debug.a", 180, 182),
        ("", 180, 181),
    ] {
        let mut stream = hub.resume(query, cursor).await;
        assert_eq!(stream.next_ids(1).await, [first], "{query}");
    }
    let mut from_start = hub.follow("?topic=debug.a&since=start").await;
    assert_eq!(from_start.next_ids(10).await, kept);
}

#[tokio::test]
async fn slow_a_topic_that_is_trimmed_under_a_replay_is_told() {
    const KEPT: u64 = 20_000;
    let hub = TestHub::start_with(|config| config.keep = of_topics("debug=20000")).await;
    publish_large(&hub, "debug", KEPT).await;
    let mut held = Vec::new();
    for query in [
        "?topic=debug&since=start",
        "?since=start",
        "?topic=d*&since=start",
    ] {
        held.push(hub.follow(query).await);
    }
    hub.publish("orders", ["kept"]).await;
    publish_large(&hub, "debug", KEPT).await;
    within("the topic to be trimmed", async {
        while answer(hub.get(&format!("/events/{KEPT}"))).await.status != StatusCode::NOT_FOUND {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    for stream in &mut held {
        let (mut cursor, mut told) = (0, false);
        while cursor < 2 * KEPT + 1 {
            let message = stream.next().await;
            let id: u64 = message.last_event_id.parse().unwrap();
            told |= message.event_type == "segno.gap";
            assert!(
                told || id == cursor + 1,
                "a hole that nobody told: {cursor} {id}"
            );
            cursor = id;
        }
        assert!(told);
    }
}

#[tokio::test]
async fn a_live_subscriber_who_missed_nothing_is_told_nothing() {
    let hub = TestHub::start_with(|config| config.keep = newest(100)).await;
    let mut stream = hub.follow("?topic=orders").await;
    hub.publish("orders", ["a"]).await;
    hub.publish_many(1000, |_| "noise".into()).await;
    wait_for_first_id(&hub, 902).await;
    hub.publish("orders", ["b"]).await;
    assert_eq!(stream.next_data().await, ["\"a\"", "\"b\""]);
}

async fn erase(hub: &TestHub, path: &str) {
    let erased = answer(reqwest_client().delete(hub.url(path))).await;
    assert_eq!(erased.status, StatusCode::OK);
}

/// The lines of a history that has begun.
async fn rest_of_lines(mut held: reqwest::Response) -> Vec<Value> {
    let mut body = Vec::new();
    within("the end of the history", async {
        while let Some(chunk) = held.chunk().await.unwrap() {
            body.extend_from_slice(&chunk);
        }
    })
    .await;
    let body = String::from_utf8(body).unwrap();
    let lines = body.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

#[tokio::test]
async fn slow_a_history_that_trimming_overtakes_is_told() {
    const STORED: u64 = 20_000;
    let hub = TestHub::start_with(|config| config.keep = newest(STORED)).await;
    publish_large(&hub, "orders", STORED).await;
    for query in ["", "?order=desc"] {
        let first = first_id(&hub).await;
        let lines = hub.get(&format!("/events{query}"));
        let lines = lines.header("accept", "application/x-ndjson");
        let held = within("the head", lines.send()).await.unwrap();
        publish_large(&hub, "orders", STORED - 1000).await;
        wait_for_first_id(&hub, first + STORED - 1000).await;
        let lines = rest_of_lines(held).await;
        let gaps: Vec<_> = lines.iter().filter(|line| line["segno"] == "gap").collect();
        assert!(
            !gaps.is_empty(),
            "a history with a hole looks whole: {query}"
        );
        assert_eq!(gaps[0]["reason"], "trimmed");
        // Between two events that follow each other without a word, nothing is missing. The word comes a page early where
        // events went between the reading of the page and the look at what had gone.
        let mut gone_before = 0;
        for pair in lines.windows(2) {
            gone_before = pair[0]["first_id"].as_u64().unwrap_or(gone_before);
            let [Some(a), Some(b)] = [&pair[0]["id"], &pair[1]["id"]].map(Value::as_u64) else {
                continue;
            };
            let is_told = a.max(b) <= gone_before;
            assert!(
                a.abs_diff(b) == 1 || is_told,
                "a hole that nobody told: {query} {a} {b}"
            );
        }
    }
}

#[tokio::test]
async fn a_history_tells_of_topics_that_were_erased_in_its_range() {
    let hub = TestHub::start().await;
    hub.publish_many(2000, |n| ["a", "b"][usize::try_from(n % 2).unwrap()].into())
        .await;
    erase(&hub, "/topics/a").await;
    let told = json!({"reason": "trimmed", "first_id": first_id(&hub).await, "last_id": 2001});
    for (query, is_told) in [
        ("after=5", true),
        ("after=5&topic=a", true),
        ("after=5&topic=*", true),
        ("after=5&topic=a&type=x", true),
        ("after=5&order=desc", true),
        ("after=5&before=50", true),
        // Somebody else's.
        ("after=5&topic=b", false),
        // Nothing that went lies there.
        ("after=2000", false),
        // What is kept is all that was asked for.
        ("topic=a", false),
        ("since=start", false),
    ] {
        let page = hub.get_json(&format!("/events?{query}")).await;
        let lines = hub.get(&format!("/events?{query}&format=ndjson")).send();
        let lines = rest_of_lines(lines.await.unwrap()).await;
        let gaps: Vec<_> = lines
            .iter()
            .filter(|line| !line["segno"].is_null())
            .collect();
        if !is_told {
            assert_eq!(
                (page["gap"].clone(), gaps.len()),
                (Value::Null, 0),
                "{query}"
            );
            continue;
        }
        assert_eq!(
            (gaps.len(), &lines[0]["segno"]),
            (1, &json!("gap")),
            "{query}"
        );
        for gap in [&page["gap"], gaps[0]] {
            assert_eq!(gap["requested"], 5, "{query}");
            for (name, value) in told.as_object().unwrap() {
                assert_eq!(gap[name], *value, "{query}");
            }
        }
    }
}

/// An event that is erased by its id keeps its place, and what is left of it is wanted whatever the types.
#[tokio::test]
async fn a_history_shows_an_event_that_was_erased_where_it_was() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a", "b", "c"]).await;
    erase(&hub, "/events/2").await;
    let lines = hub.get("/events?type=message&format=ndjson").send();
    let lines = rest_of_lines(lines.await.unwrap()).await;
    let shown: Vec<_> = lines
        .iter()
        .map(|line| (&line["id"], &line["type"]))
        .collect();
    let [message, erased] = [json!("message"), json!("segno.erased")];
    assert_eq!(
        shown,
        [
            (&json!(1), &message),
            (&json!(2), &erased),
            (&json!(3), &message),
            (&json!(4), &erased)
        ]
    );
}

#[tokio::test]
async fn slow_a_topic_that_is_erased_under_a_history_is_told() {
    if only_local(
        "each step of the erasure goes through the server, and the client that holds still meanwhile is cut",
    ) {
        return;
    }
    let hub = TestHub::start().await;
    publish_large(&hub, "kept", 10_000).await;
    publish_large(&hub, "gone", 10_000).await;
    publish_large(&hub, "kept", 1000).await;
    let lines = hub.get("/events?format=ndjson").send();
    let held = within("the head", lines).await.unwrap();
    let page = hub.get("/events?after=9500&limit=1000").send();
    let page = within("the head of the page", page).await.unwrap();
    erase(&hub, "/topics/gone").await;
    let lines = rest_of_lines(held).await;
    let at = lines.iter().position(|line| line["segno"] == "gap");
    let at = at.expect("a history with a hole looks whole");
    assert!(
        lines[at - 1]["id"].as_u64() < Some(20_000),
        "told at the hole: {}",
        lines[at - 1]
    );
    for pair in lines.windows(2) {
        let [Some(a), Some(b)] = [&pair[0]["id"], &pair[1]["id"]].map(Value::as_u64) else {
            continue;
        };
        assert!(
            b == a + 1 || a >= 21_000 || told_before(&lines, b),
            "{a} {b}"
        );
    }
    let page = &rest_of_lines(page).await[0];
    assert!(page["events"].as_array().unwrap().len() < 1000);
    assert_eq!(
        page["gap"]["reason"], "trimmed",
        "a page with a hole looks whole"
    );
}

/// Whether a gap stands before the event `id`.
fn told_before(lines: &[Value], id: u64) -> bool {
    let before = lines.iter().take_while(|line| line["id"] != id);
    before.into_iter().any(|line| line["segno"] == "gap")
}

#[tokio::test]
async fn the_start_message_tells_what_is_kept() {
    for (args, expected) in [
        (&[][..], "keeps   everything"),
        (
            &["--keep-age", "30d", "--keep", "debug.**=1h"],
            "keeps   30days; debug.** for 1h",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut program = segno()
            .args(["serve", "--listen", "127.0.0.1:0"])
            .arg("--db")
            .arg(folder.path().join("segno.db"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(program.stdout.take().unwrap()).lines();
        let told = lines
            .map(Result::unwrap)
            .find(|line| line.trim_start().starts_with("keeps"));
        program.kill().unwrap();
        program.wait().unwrap();
        assert_eq!(told.unwrap().trim(), expected);
    }
}

#[test]
fn a_rule_that_nobody_understands_is_bad_usage() {
    for args in [
        ["--keep", "debug"],
        ["--keep", "debug=soon"],
        ["--keep-age", "1ms"],
        ["--keep-events", "0"],
        ["--keep-bytes", "10"],
    ] {
        let refused = segno().arg("serve").args(args).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{args:?}");
    }
}
