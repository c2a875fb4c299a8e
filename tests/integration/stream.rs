//! `GET /sse`: starts, frames, patterns, signs of life, gaps, and falling behind.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use proptest::prelude::*;
use segno::client::{Message, SseParser};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::test_hub::{
    CURSOR_TYPE, DEADLINE, Program, TestHub, TestStream, answer, read_until, reqwest_client,
    resident_bytes, seeded, within,
};

fn ids(messages: &[Message]) -> Vec<u64> {
    messages
        .iter()
        .map(|message| message.last_event_id.parse().unwrap())
        .collect()
}

#[tokio::test]
async fn the_first_block_comes_at_once_with_a_retry_and_the_cursor() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a", "b"]).await;
    let stream = hub.follow("").await;
    assert_eq!(
        stream.header("content-type"),
        "text/event-stream; charset=utf-8"
    );
    assert_eq!(stream.header("cache-control"), "no-cache, no-transform");
    assert_eq!(stream.header("x-accel-buffering"), "no");
    let (retry, rest) = stream
        .received
        .strip_prefix(":\nretry: ")
        .unwrap()
        .split_once('\n')
        .unwrap();
    assert!(
        (1500..2500).contains(&retry.parse::<u32>().unwrap()),
        "{retry}"
    );
    let log = stream.header("segno-log-id");
    assert_eq!(
        rest,
        format!("event: segno.cursor\ndata: {{\"cursor\":2,\"log\":\"{log}\"}}\nid: 2\n\n")
    );
    assert_eq!(stream.cursor(), 2);
}

/// Node's `fetch` takes a kill for a clean end of a stream whose head has `connection: close`.
#[tokio::test]
async fn a_stream_does_not_say_that_its_connection_is_closed_after_it() {
    let hub = TestHub::start().await;
    let stream = TestStream::open(reqwest_client().get(hub.url("/sse"))).await;
    assert!(!stream.has_header("connection"));
}

#[tokio::test]
async fn frames_are_as_the_contract_says_to_the_byte() {
    let hub = TestHub::start().await;
    let mut stream = hub.follow("").await;
    let mut whole = hub.follow("?format=event&type=paid").await;
    answer(hub.post_json("/events", r#"{"topic":"t","data":{"a": 1.10}}"#)).await;
    let receipt = answer(hub.post_json(
        "/events",
        r#"{"topic":"t","type":"paid","data":"x","key":"k"}"#,
    ))
    .await
    .json();
    stream.next_ids(2).await;
    assert!(
        stream
            .received
            .ends_with("\n\ndata: {\"a\": 1.10}\nid: 1\n\nevent: paid\ndata: \"x\"\nid: 2\n\n"),
        "{}",
        stream.received
    );
    let event: Value = serde_json::from_str(&whole.next().await.data).unwrap();
    // The type is in the event, and no name in the frame: a browser's `onmessage` gets events of all types.
    assert!(
        whole.received.contains("\n\ndata: {\"id\":2,")
            && whole.received.ends_with("\nid: 2\n\n")
            && !whole.received.contains("event: paid"),
        "{}",
        whole.received
    );
    let created_at = &receipt["created_at"];
    assert_eq!(
        event,
        json!({"id": 2, "topic": "t", "type": "paid", "data": "x", "created_at": created_at, "key": "k"})
    );
}

#[tokio::test]
async fn a_reconnecting_subscriber_misses_nothing() {
    let hub = TestHub::start().await;
    let ids = hub.publish("orders", ["a", "b", "c"]).await;
    let mut stream = hub.resume("?topic=orders", ids[0]).await;
    assert_eq!(stream.next_data().await, [r#""b""#, r#""c""#]);
    hub.publish("orders", ["d"]).await;
    assert_eq!(stream.next_data().await, [r#""d""#]);
}

#[tokio::test]
async fn every_listener_gets_every_event() {
    let hub = TestHub::start().await;
    let mut streams = join_all((0..5).map(|_| hub.follow(""))).await;
    hub.publish("t", ["a", "b"]).await;
    for stream in &mut streams {
        assert_eq!(stream.next_data().await, [r#""a""#, r#""b""#]);
    }
}

#[tokio::test]
async fn each_start_begins_where_it_says() {
    let hub = TestHub::start().await;
    hub.publish("a", ["1", "2"]).await;
    let middle = hub.get_json("/events/2").await["created_at"]
        .as_str()
        .unwrap()
        .to_owned();
    // The clock must have moved for a time to tell events apart.
    while chrono::Utc::now()
        <= middle.parse::<chrono::DateTime<chrono::Utc>>().unwrap() + Duration::from_millis(2)
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    hub.publish("b", ["3", "4"]).await;
    let third = hub.get_json("/events/3").await["created_at"]
        .as_str()
        .unwrap()
        .to_owned();
    for (query, first) in [
        ("?last_event_id=2", 3),
        ("?lastEventId=2", 3),
        ("?Last-Event-ID=2", 3),
        ("?last_event_id=1&lastEventId=2", 3),
        ("?since=start&lastEventId=2", 3),
        ("?last=4&Last-Event-ID=2", 3),
        ("?last_event_id=2&lastEventId=", 3),
        ("?last_event_id=0", 1),
        ("?since=start", 1),
        ("?since=1h", 1),
        (&format!("?since={third}"), 3),
        ("?last=1", 4),
        ("?last=3", 2),
        ("?last=1&topic=a", 2),
        ("?last=99", 1),
    ] {
        assert_eq!(
            hub.follow(query).await.next_ids(1).await,
            [first],
            "{query}"
        );
    }
    for query in ["", "?last=0", "?last_event_id="] {
        let mut stream = hub.follow(query).await;
        let [id] = hub.publish("live", ["x"]).await;
        assert_eq!(stream.next_ids(1).await, [id], "{query}");
    }
}

/// A browser that reconnects sends the header beside the query it began with.
#[tokio::test]
async fn the_header_wins_over_the_query() {
    let hub = TestHub::start().await;
    hub.publish("t", ["1", "2", "3"]).await;
    for query in ["?last_event_id=0", "?since=start", "?last=3"] {
        assert_eq!(hub.resume(query, 2).await.next_ids(1).await, [3], "{query}");
    }
}

#[tokio::test]
async fn topics_types_and_patterns_choose_the_events() {
    let hub = TestHub::start().await;
    for (topic, event_type) in [
        ("orders.eu", "paid"),
        ("orders.eu.west", "paid"),
        ("sensors/1/t", "measured"),
        ("orders.us", "sent"),
        ("other", "paid"),
    ] {
        answer(
            hub.post(&format!("/topics/{topic}?type={event_type}"))
                .body("1"),
        )
        .await;
    }
    for (query, expected) in [
        ("?topic=orders.*", &[1, 4][..]),
        ("?topic=orders.**", &[1, 2, 4]),
        ("?topic=sensors/**&topic=other", &[3, 5]),
        ("?topic=other&topic=orders.us", &[4, 5]),
        ("?topic=orders.eu", &[1]),
        ("?type=paid", &[1, 2, 5]),
        ("?type=*t&topic=orders.*", &[4]),
        ("?topic=orders.eu&topic=other&type=paid", &[1, 5]),
    ] {
        let separator = if query.is_empty() { "?" } else { "&" };
        let mut replayed = hub.follow(&format!("{query}{separator}since=start")).await;
        assert_eq!(replayed.next_ids(expected.len()).await, expected, "{query}");
    }
    let mut live = hub.follow("?topic=orders.*&topic=exact&type=paid").await;
    for (topic, event_type) in [
        ("orders.eu", "sent"),
        ("orders.eu", "paid"),
        ("exact", "paid"),
        ("exact2", "paid"),
        ("orders.x", "paid"),
    ] {
        answer(
            hub.post(&format!("/topics/{topic}?type={event_type}"))
                .body("1"),
        )
        .await;
    }
    assert_eq!(live.next_ids(3).await, [7, 8, 10]);
}

#[tokio::test]
async fn silence_is_broken_by_a_comment_that_carries_the_cursor() {
    let hub = TestHub::start_with(|config| config.heartbeat = Duration::from_millis(100)).await;
    let mut stream = hub.follow("?topic=narrow").await;
    stream
        .read_until("a sign of life", |stream| {
            stream.received.ends_with("\n\n:\n")
        })
        .await;
    // In one commit: between two the cursor may be told.
    hub.publish_many(2, |_| "wide".into()).await;
    stream
        .read_until("the cursor", |stream| {
            stream.received.ends_with("\nid: 2\n\n")
        })
        .await;
    assert_eq!(stream.cursor(), 2);
    let (_, last) = stream.received.rsplit_once("\n:\n").unwrap();
    assert!(
        last.starts_with("event: segno.cursor\ndata: {\"cursor\":2,\"log\":\""),
        "{last}"
    );
    stream
        .read_until("another", |stream| {
            stream.received.ends_with("id: 2\n\n:\n")
        })
        .await;
    assert!(stream.take_received().is_empty());
}

#[tokio::test]
async fn a_stream_outlives_every_timer() {
    let hub = TestHub::start_with(|config| {
        config.heartbeat = Duration::from_millis(200);
        config.limits.header_timeout = Duration::from_millis(150);
        config.limits.body_timeout = Duration::from_millis(150);
    })
    .await;
    let mut stream = hub.follow("").await;
    stream
        .read_until("five signs of life", |stream| {
            stream.received.matches("\n:\n").count() == 5
        })
        .await;
    hub.publish("t", ["x"]).await;
    assert_eq!(stream.next_data().await, [r#""x""#]);
}

#[tokio::test]
async fn a_cursor_beyond_the_last_event_is_told_and_reading_goes_on_from_the_first() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a"]).await;
    let mut stream = hub.resume("", 99).await;
    assert!(
        stream.received.contains("\nid: 99\n\n"),
        "until the gap is told the cursor stays: {}",
        stream.received
    );
    let gap = stream.next().await;
    assert_eq!(
        (gap.event_type.as_str(), gap.last_event_id.as_str()),
        ("segno.gap", "0")
    );
    let told: Value = serde_json::from_str(&gap.data).unwrap();
    assert_eq!(
        told,
        json!({"reason": "ahead", "requested": 99, "first_id": 1, "last_id": 1})
    );
    assert_eq!(stream.next_data().await, [r#""a""#]);
}

#[tokio::test]
async fn a_cursor_before_the_first_event_kept_is_told() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a", "b", "c", "d"]).await;
    let db = hub.db();
    let folder = hub.stop().await;
    sqlite3(&db, "delete from events where id <= 2").await;
    let hub = TestHub::start_in(folder, |_| ()).await;

    let mut stream = hub.resume("", 1).await;
    let gap = stream.next().await;
    assert_eq!(
        (gap.event_type.as_str(), gap.last_event_id.as_str()),
        ("segno.gap", "2")
    );
    let told: Value = serde_json::from_str(&gap.data).unwrap();
    assert_eq!(
        told,
        json!({"reason": "trimmed", "requested": 1, "first_id": 3, "last_id": 4})
    );
    assert_eq!(stream.next_ids(2).await, [3, 4]);

    // A cursor on the last event that is gone has missed nothing, and `start` asks for what is kept.
    for mut stream in [hub.resume("", 2).await, hub.follow("?since=start").await] {
        assert_eq!(stream.next().await.event_type, "message");
    }
}

/// Runs SQL on a file that no hub has open.
async fn sqlite3(db: &std::path::Path, sql: &'static str) {
    use sqlx::{ConnectOptions, Connection, Executor, sqlite::SqliteConnectOptions};
    let mut connection = SqliteConnectOptions::new()
        .filename(db)
        .connect()
        .await
        .unwrap();
    connection.execute(sql).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn ids_are_never_used_again() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a", "b"]).await;
    let db = hub.db();
    let folder = hub.stop().await;
    sqlite3(&db, "delete from events").await;
    let hub = TestHub::start_in(folder, |_| ()).await;
    assert_eq!(
        hub.get_json("/events").await,
        json!({"events": [], "first_id": 3, "last_id": 2, "next": null, "cursor": 2})
    );
    let mut stream = hub.resume("", 2).await;
    assert_eq!(hub.publish("t", ["c"]).await, [3]);
    assert_eq!(stream.next_ids(1).await, [3]);
}

#[tokio::test]
async fn history_is_there_after_a_restart_before_the_first_publish() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a", "b", "c"]).await;
    let folder = hub.stop().await;
    let hub = TestHub::start_in(folder, |_| ()).await;
    assert_eq!(
        hub.resume("", 1).await.next_data().await,
        [r#""b""#, r#""c""#]
    );
    assert_eq!(
        hub.get_json("/events").await["events"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

/// Eight subscribers, half of them slow, ten publishers: each stream is whole, in order, without repetition.
#[tokio::test]
async fn nobody_misses_an_event_between_replay_and_live() {
    const EVENTS: usize = 1000;
    let hub = TestHub::start().await;
    hub.publish_many(50, |_| "before".into()).await;
    let publishers = (0..10).map(|publisher| {
        let hub = &hub;
        async move {
            for n in 0..EVENTS / 10 {
                hub.publish("t", [&format!("{publisher} {n}")]).await;
            }
        }
    });
    let subscribers = (0..8).map(|subscriber| {
        let hub = &hub;
        async move {
            let mut stream = hub.follow("?since=start").await;
            let mut ids = Vec::new();
            while ids.len() < 50 + EVENTS {
                ids.extend(stream.next_ids(1).await);
                if subscriber % 2 == 0 && ids.len().is_multiple_of(100) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    // And come back, as after a cut.
                    stream = hub.resume("?since=start", *ids.last().unwrap()).await;
                }
            }
            ids
        }
    });
    let (_, streams) = tokio::join!(join_all(publishers), join_all(subscribers));
    let expected: Vec<u64> = (1..=1050).collect();
    for ids in streams {
        assert_eq!(ids, expected);
    }
}

/// A subscriber that does not read falls far behind what a feed and the window of recent events hold.
#[tokio::test]
async fn slow_a_subscriber_that_stops_reading_gets_everything_when_it_goes_on() {
    const EVENTS: u64 = 60;
    let hub = TestHub::start().await;
    let mut slow = hub.follow("").await;
    let mut fast = hub.follow("").await;
    let big = "x".repeat(400_000);
    for n in 1..=EVENTS {
        hub.publish("t", [&format!("{n} {big}")]).await;
        assert_eq!(
            fast.next_ids(1).await,
            [n],
            "live goes on while another does not read"
        );
    }
    assert_eq!(
        slow.next_ids(usize::try_from(EVENTS).unwrap()).await,
        (1..=EVENTS).collect::<Vec<_>>()
    );
}

/// Those who want the same and have caught up are served together, and who stops reading is then served apart.
#[tokio::test]
async fn slow_one_that_stops_reading_holds_up_none_of_those_who_are_served_with_it() {
    const EVENTS: u64 = 40;
    let hub = TestHub::start().await;
    let mut streams = join_all((0..8).map(|_| hub.follow("?topic=t"))).await;
    let big = "x".repeat(400_000);
    for n in 1..=EVENTS {
        hub.publish("t", [&format!("{n} {big}")]).await;
        for (index, stream) in streams.iter_mut().enumerate() {
            // The first stops at once; the next two later, each in the middle of something.
            if n <= [0, 10, 20].get(index).copied().unwrap_or(EVENTS) {
                assert_eq!(stream.next_ids(1).await, [n], "stream {index}");
            }
        }
    }
    for (stream, read) in streams.iter_mut().zip([0, 10, 20]) {
        let rest: Vec<u64> = (read + 1..=EVENTS).collect();
        assert_eq!(stream.next_ids(rest.len()).await, rest);
    }
    // Those are live again.
    hub.publish("t", ["last"]).await;
    for stream in &mut streams {
        assert_eq!(stream.next_ids(1).await, [EVENTS + 1]);
    }
}

/// More than are served together, all of one feed, in any order of coming, pausing and going, while ten publish.
#[tokio::test]
async fn slow_subscribers_that_come_pause_and_go_under_load_get_each_event_once() {
    const EVENTS: u64 = 3000;
    let mut random = seeded();
    let hub = TestHub::start().await;
    let publishers = (0..10).map(|_| async {
        for _ in 0..EVENTS / 10 {
            hub.publish("t", [&"x".repeat(2000)]).await;
        }
    });
    let subscribers = (0..100).map(|_| {
        let (hub, mut random) = (&hub, random.fork());
        async move {
            tokio::time::sleep(Duration::from_millis(random.u64(..500))).await;
            let mut stream = hub.follow("?since=start").await;
            let mut last_id = 0;
            while last_id < EVENTS {
                assert_eq!(stream.next_ids(1).await, [last_id + 1]);
                last_id += 1;
                match random.u32(..1000) {
                    0 => stream = hub.resume("?since=start", last_id).await,
                    1 => tokio::time::sleep(Duration::from_millis(random.u64(..300))).await,
                    _ => (),
                }
            }
        }
    });
    tokio::join!(join_all(publishers), join_all(subscribers));
    let subscribers = || async { hub.get_json("/stats").await["subscribers"].clone() };
    within("all to be gone", async {
        while subscribers().await != 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// The replay is held between two pages, because the client does not read, while more is published.
#[tokio::test]
async fn what_is_published_while_a_replay_is_held_comes_after_it() {
    let hub = TestHub::start().await;
    let big = "x".repeat(200_000);
    for n in 1..=40 {
        hub.publish("t", [&format!("{n} {big}")]).await;
    }
    let mut held = hub.follow("?since=start").await;
    hub.publish_many(2000, |_| "t".into()).await;
    assert_eq!(held.next_ids(2040).await, (1..=2040).collect::<Vec<_>>());
    hub.publish("t", ["last"]).await;
    assert_eq!(held.next_data().await, [r#""last""#]);
}

#[tokio::test]
async fn any_of_100_000_events_can_be_resumed_from_and_the_first_byte_is_soon() {
    const EVENTS: u64 = 100_000;
    let hub = TestHub::start().await;
    hub.publish_many(EVENTS, |n| {
        if n % 10_000 == 5_000 {
            "rare".into()
        } else {
            format!("t{}", n % 7)
        }
    })
    .await;
    let mut first_bytes = BTreeMap::new();
    for cursor in [0, 1, 49_999, 73_210, EVENTS - 1] {
        let began = std::time::Instant::now();
        let mut stream = hub.resume("", cursor).await;
        first_bytes.insert(cursor, began.elapsed());
        let count = usize::try_from(EVENTS - cursor).unwrap();
        assert_eq!(
            stream.next_ids(count).await,
            (cursor + 1..=EVENTS).collect::<Vec<_>>()
        );
    }
    let slowest = first_bytes.values().max().unwrap();
    assert!(*slowest < Duration::from_secs(1), "{first_bytes:?}");
    let rare: Vec<u64> = (0..10).map(|n| n * 10_000 + 5_000).collect();
    assert_eq!(
        hub.follow("?topic=rare&since=start")
            .await
            .next_ids(10)
            .await,
        rare
    );
    assert_eq!(
        hub.follow("?topic=rar*&since=start")
            .await
            .next_ids(10)
            .await,
        rare
    );
    assert_eq!(
        hub.follow("?topic=rare&last=2").await.next_ids(2).await,
        rare[8..]
    );
}

/// Memory depends neither on how far a subscriber is behind nor on how slow it reads.
#[tokio::test]
async fn slow_a_slow_reader_of_200_000_events_costs_the_hub_no_memory() {
    const EVENTS: u64 = 200_000;
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path()).await;
    let hub = program.as_hub();
    hub.publish_many(EVENTS, |_| "t".into()).await;
    let mut live = hub.follow("").await;
    let before = resident_bytes(program.id());

    let mut slow = Vec::new();
    for _ in 0..20 {
        slow.push(hub.follow("?since=start").await);
    }
    for n in 1..=100 {
        hub.publish("t", ["live"]).await;
        assert_eq!(live.next_ids(1).await, [EVENTS + n]);
    }
    let grown = resident_bytes(program.id()).saturating_sub(before);
    assert!(
        grown < 20 * 1024 * 1024,
        "20 readers held in the middle took {grown} bytes"
    );

    let all: Vec<u64> = (1..=EVENTS + 100).collect();
    assert_eq!(slow.remove(0).next_ids(all.len()).await, all);
    let grown = resident_bytes(program.id()).saturating_sub(before);
    assert!(
        grown < 30 * 1024 * 1024,
        "a replay of everything took {grown} bytes"
    );
}

/// The fields of each block, in the order of their lines. Comments that stand alone are no blocks.
fn blocks(received: &str) -> Vec<Vec<&str>> {
    let blocks = received.split_inclusive("\n\n");
    blocks
        .map(|block| {
            let lines = block.strip_suffix("\n\n").expect("a whole block").lines();
            lines
                .map(|line| line.split_once(':').unwrap().0)
                .skip_while(|field| field.is_empty())
                .collect()
        })
        .collect()
}

/// A client that takes an id as soon as it has read the line has everything of that block, wherever the stream is cut; and no
/// blank line finds a client's id empty.
#[tokio::test]
async fn an_id_is_the_last_field_of_every_block_of_every_kind() {
    let hub = TestHub::start_with(|config| config.heartbeat = Duration::from_millis(50)).await;
    hub.publish("t", ["a", "b"]).await;
    let mut stream = hub.resume("?topic=t", 99).await;
    stream.next_ids(3).await; // The gap and both events.
    answer(hub.post("/topics/t?type=paid").body("two\nlines")).await;
    stream.next().await;
    hub.publish("other", ["c"]).await;
    stream
        .read_until("the cursor", |stream| {
            stream.received.ends_with("id: 4\n\n")
        })
        .await;
    let mut whole = hub.follow("?format=event&last=2").await;
    whole.next_ids(2).await;
    let mut unknown = hub.reconnect("", b"undefined").await;
    unknown.next().await;
    hub.begin_to_stop();
    for stream in [&mut stream, &mut whole, &mut unknown] {
        stream.read_to_end().await.unwrap();
        let blocks = blocks(&stream.received);
        assert!(blocks.len() >= 3, "{blocks:?}");
        for block in &blocks {
            assert_eq!(block.last(), Some(&"id"), "{}", stream.received);
            let ids = block.iter().filter(|field| **field == "id").count();
            assert_eq!(ids, 1, "{}", stream.received);
        }
    }
    let kinds = ["gap", "cursor"].map(|kind| format!("\nevent: segno.{kind}\n"));
    assert!(kinds.iter().all(|kind| stream.received.contains(kind)));
}

/// A cursor of another hub, or of a page's own bug, comes with every reconnection and can't be taken back.
#[tokio::test]
async fn a_cursor_that_is_no_id_is_told_as_a_gap_and_everything_kept_follows() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a", "b"]).await;
    let gap = |reason, requested: Value| json!({"reason": reason, "requested": requested, "first_id": 1, "last_id": 2});
    let beyond = 1_i64 << 53;
    for (cursor, expected) in [
        (&b"null"[..], gap("unknown", Value::Null)),
        (b"undefined", gap("unknown", Value::Null)),
        (
            b"urn:uuid:5f6c1d0e-8f0b-4c7e-9d43-0b8a0d6f5a11",
            gap("unknown", Value::Null),
        ),
        (b"1.5", gap("unknown", Value::Null)),
        (b"-1", gap("unknown", Value::Null)),
        (b"+1", gap("unknown", Value::Null)),
        (b"9223372036854775808", gap("unknown", Value::Null)),
        ("é".as_bytes(), gap("unknown", Value::Null)),
        (b"\xff", gap("unknown", Value::Null)),
        (b"9007199254740992", gap("ahead", beyond.into())),
        (b"9223372036854775807", gap("ahead", i64::MAX.into())),
    ] {
        let mut stream = hub.reconnect("?since=1h", cursor).await;
        let cursor = String::from_utf8_lossy(cursor);
        let told = stream.next().await;
        assert_eq!(
            (&*told.event_type, &*told.last_event_id),
            ("segno.gap", "0"),
            "{cursor}"
        );
        let data: Value = serde_json::from_str(&told.data).unwrap();
        assert_eq!(data, expected, "{cursor}");
        assert_eq!(stream.next_ids(2).await, [1, 2], "{cursor}");
    }
    // The polyfills' spelling in the query is the same; the documented one is strict.
    let mut stream = hub.follow("?lastEventId=undefined").await;
    assert_eq!(stream.next().await.event_type, "segno.gap");
    // Told in the same write as the first block: a cut between them would hide it.
    assert!(stream.received.contains("\nid: 0\n\nevent: segno.gap\n"));
    let refused = answer(hub.get("/sse?last_event_id=undefined")).await;
    assert_eq!(refused.code(), "invalid_cursor");
}

/// The first of them alone was taken, and what came after the other was lost if it was the lower one.
#[tokio::test]
async fn a_cursor_that_comes_twice_is_one_and_two_that_differ_are_told_as_a_gap() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a", "b", "c"]).await;
    let resume = |second: &str| {
        let request = hub.get("/sse").header("last-event-id", "2");
        request.header("last-event-id", second)
    };
    let mut stream = TestStream::open(resume("2")).await;
    assert_eq!(stream.next().await.last_event_id, "3");
    let mut stream = TestStream::open(resume("1")).await;
    let told = stream.next().await;
    assert_eq!(told.event_type, "segno.gap");
    let data: Value = serde_json::from_str(&told.data).unwrap();
    assert_eq!(data["reason"], "unknown");
    assert_eq!(stream.next_ids(3).await, [1, 2, 3]);
}

/// Everything a publisher can put into topic, type and data, read back by a parser written from the standard.
#[test]
fn nothing_a_publisher_sends_forges_a_field_or_an_event() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let hub = runtime.block_on(TestHub::start());
    let stream = tokio::sync::Mutex::new(runtime.block_on(hub.follow("")));
    let nasty = prop_oneof![
        any::<String>(),
        "(data: |id: |event: |retry: |:|\r|\n|\r\n|\\u0000|<script>|x| ){0,12}",
    ];
    let name = prop_oneof![
        Just("message".to_owned()),
        "[a-z:<>&=é]{1,20}",
        Just("data:".to_owned()),
        Just("id:7".to_owned())
    ];
    proptest!(ProptestConfig::with_cases(200), |(text in nasty, topic in name.clone(), event_type in name)| {
        runtime.block_on(async {
            let event = json!({"topic": topic, "type": event_type, "data": text});
            let receipt = answer(hub.post_json("/events", event.to_string())).await.json();
            let message = stream.lock().await.next().await;
            prop_assert_eq!(message.last_event_id, receipt["id"].to_string());
            prop_assert_eq!(message.event_type, event_type);
            prop_assert_eq!(serde_json::from_str::<String>(&message.data).unwrap(), text);
            let mut stream = stream.lock().await;
            let received = std::mem::take(&mut stream.received);
            for block in blocks(&received) {
                prop_assert!(
                    matches!(block[..], ["event", .., "data", "id"] | ["data", .., "id"] | ["retry", "event", "data", "id"]),
                    "{:?}", received
                );
            }
            Ok(())
        })?;
    });
}

/// Rows that a hand wrote, with line breaks no publisher could have sent.
#[tokio::test]
async fn a_row_written_by_hand_forges_nothing_either() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a"]).await;
    let db = hub.db();
    let folder = hub.stop().await;
    sqlite3(
        &db,
        "insert into events (topic, type, data, created_at) values
         ('t', 'x' || char(10) || 'data: forged', '\"a' || char(13) || 'id: 99' || char(10) || 'event: forged\"', 0)",
    )
    .await;
    let hub = TestHub::start_in(folder, |_| ()).await;
    // A row that breaks the rules of events is damage: it is not sent at all, and the cursor stays before it.
    let message = hub.resume("", 1).await.next().await;
    assert_eq!(message.last_event_id, "1");
    assert_eq!(message.event_type, "segno.error");
    assert!(message.data.contains("log_corrupt"), "{}", message.data);
}

/// HTTP/1.0 has no chunks: the stream is what comes until the connection closes.
#[tokio::test]
async fn a_client_of_http_1_0_can_follow() {
    let hub = TestHub::start().await;
    let mut socket = tokio::net::TcpStream::connect(hub.address()).await.unwrap();
    socket
        .write_all(b"GET /sse HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut received = Vec::new();
    let mut parser = SseParser::default();
    let mut messages = Vec::new();
    within("an event", async {
        while messages.is_empty() {
            if received.ends_with(b"id: 0\n\n") {
                hub.publish("t", ["x"]).await;
            }
            let mut chunk = [0; 1024];
            let bytes = socket.read(&mut chunk).await.unwrap();
            received.extend_from_slice(&chunk[..bytes]);
            let body = received
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
                .map(|at| at + 4);
            if let Some(body) = body {
                parser = SseParser::default();
                messages.clear();
                parser.feed(&received[body..], |message| {
                    if message.event_type != CURSOR_TYPE {
                        messages.push(message);
                    }
                });
            }
        }
    })
    .await;
    assert_eq!(ids(&messages)[0], 1);
}

#[tokio::test]
async fn slow_a_thousand_that_come_at_once_all_follow() {
    let hub = TestHub::start().await;
    hub.publish("t", ["first"]).await;
    let mut streams: Vec<TestStream> = join_all((0..1000).map(|_| hub.resume("", 0))).await;
    hub.publish("t", ["second"]).await;
    for stream in &mut streams {
        assert_eq!(stream.next_ids(2).await, [1, 2]);
    }
}

/// `nc -N` and some proxies close their side behind the request, and read on.
#[tokio::test]
async fn a_client_that_closes_its_side_after_the_request_is_answered() {
    // One that has closed its side and then goes is noticed with the next heartbeat.
    let hub = TestHub::start_with(|settings| settings.heartbeat = Duration::from_secs(3)).await;
    let send = async |requests: String| {
        let mut socket = tokio::net::TcpStream::connect(hub.address()).await.unwrap();
        socket.write_all(requests.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        socket
    };
    let post = "POST /topics/t HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1".repeat(50);
    let mut socket = send(post).await;
    let mut answers = String::new();
    within("the answers", socket.read_to_string(&mut answers))
        .await
        .unwrap();
    assert_eq!(answers.matches("HTTP/1.1 201").count(), 50, "{answers}");

    // One that is served alone, one with others of its kind, one over a connection that was used, and one whose connection goes on.
    let mut others = join_all((0..3).map(|_| hub.follow("?topic=a"))).await;
    let head = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    for (topic, before, query) in [
        ("b", "", ""),
        ("a", "", ""),
        ("c", "/health/live", ""),
        ("d", "", "&count=2"),
    ] {
        let before = Some(head(before)).filter(|_| !before.is_empty());
        let stream = head(&format!("/sse?topic={topic}{query}"));
        let mut socket = send(before.unwrap_or_default() + &stream).await;
        let mut received = String::new();
        let mut chunk = [0; 1024];
        let mut published = Vec::new();
        within("two events", async {
            while received.matches("\ndata: \"").count() < 2 {
                // A comment at once, to see whether somebody still reads.
                if received.matches("\r\n:\n\r\n").count() == 1 && published.is_empty() {
                    published.extend(hub.publish(topic, ["x"]).await);
                    published.extend(hub.publish(topic, ["y"]).await);
                }
                let bytes = socket.read(&mut chunk).await.unwrap();
                assert_ne!(bytes, 0, "the stream ended: {received}");
                received.push_str(std::str::from_utf8(&chunk[..bytes]).unwrap());
            }
        })
        .await;
    }
    for stream in &mut others {
        assert_eq!(stream.next_data().await, [r#""x""#, r#""y""#]);
    }
    drop(others);
    none_follow(&hub).await;
}

async fn none_follow(hub: &TestHub) {
    within("all to be gone", async {
        while hub.get_json("/stats").await["subscribers"] != 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A page that is left and opened again would count twice, and two heartbeats are half a minute.
#[tokio::test]
async fn a_client_that_has_gone_counts_no_more_whatever_it_asked_before() {
    let hub = TestHub::start_with(|settings| settings.heartbeat = 10 * DEADLINE).await;
    for requests in [
        &["/sse"][..],
        &["/health/live", "/sse"],
        &["/events", "/sse?count=2"],
        &["/sse?count=2", "/health/live"],
        &["/sse?format=event&topic=a", "/health/live"],
    ] {
        let mut socket = tokio::net::TcpStream::connect(hub.address()).await.unwrap();
        for path in requests {
            let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
            socket.write_all(head.as_bytes()).await.unwrap();
        }
        let mut received = String::new();
        read_until(&mut socket, &mut received, "segno.cursor").await;
        assert_eq!(hub.get_json("/stats").await["subscribers"], 1);
        drop(socket);
        none_follow(&hub).await;
    }
}

/// The stream takes the socket over when the answers before it have been written.
#[tokio::test]
async fn a_stream_asked_for_behind_a_page_that_is_read_slowly_comes_after_it() {
    let hub = TestHub::start().await;
    let events = 16; // As many as fill a page.
    let data = "x".repeat(500_000);
    for _ in 0..events {
        hub.publish("t", [&*data]).await;
    }
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = hub.address().parse().unwrap();
    let mut socket = socket.connect(address).await.unwrap();
    for path in ["/events?limit=1000", "/sse"] {
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
    }
    let mut received = String::new();
    // Read in small pieces: the page waits in every buffer on the way.
    read_until(&mut socket, &mut received, "segno.cursor").await;
    let (page, _) = received.split_once("\r\nHTTP/1.1 200 OK\r\n").unwrap();
    assert_eq!(page.matches(&data).count(), events);
}
