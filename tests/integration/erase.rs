//! Erasing an event or a topic: for good, and told to everybody.

use std::{
    fs,
    time::{Duration, Instant},
};

use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::sight::Traced;
use super::test_hub::{TestHub, answer, only_local, segno, within};

fn delete(hub: &TestHub, path: &str) -> RequestBuilder {
    super::test_hub::reqwest_client().delete(hub.url(path))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Whether the bytes are in the file or its WAL.
fn is_on_disk(hub: &TestHub, bytes: &[u8]) -> bool {
    ["segno.db", "segno.db-wal"].iter().any(|name| {
        let content = fs::read(hub.db().with_file_name(name)).unwrap_or_default();
        content.windows(bytes.len()).any(|window| window == bytes)
    })
}

async fn wait_until_gone(hub: &TestHub, bytes: &[u8]) {
    within("the bytes to be gone from the disk", async {
        while is_on_disk(hub, bytes) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_erased_event_leaves_its_place_and_everybody_is_told() {
    let hub = TestHub::start().await;
    let event = r#"{"topic":"people/1","type":"born","data":{"name":"Ada"},"key":"ada"}"#;
    answer(hub.post_json("/events", event)).await;
    hub.publish("people/1", ["later"]).await;
    let created_at = hub.get_json("/events/1").await["created_at"].clone();
    let mut live = hub.follow("?topic=people/1&type=born").await;

    let erased = answer(delete(&hub, "/events/1")).await;
    assert_eq!(erased.status, StatusCode::OK);
    let left = json!({
        "id": 1, "topic": "people/1", "type": "segno.erased", "data": {"id": 1}, "created_at": created_at
    });
    assert_eq!(erased.json(), left);
    let told = live.next().await;
    assert_eq!(
        (&*told.last_event_id, &*told.event_type, &*told.data),
        ("3", "segno.erased", r#"{"id":1}"#)
    );
    let again = answer(delete(&hub, "/events/1")).await;
    assert_eq!((again.status, again.json()), (StatusCode::OK, left.clone()));
    assert_eq!(hub.last_id().await, 3, "told once");

    // From memory, and after a restart from the file.
    let check_replay = async |hub: &TestHub| {
        let mut replay = hub.resume("?type=born", 0).await;
        for id in ["1", "3"] {
            let told = replay.next().await;
            assert_eq!(
                (&*told.last_event_id, &*told.event_type),
                (id, "segno.erased")
            );
            assert_eq!(json(&told.data), json!({"id": 1}));
        }
        assert_eq!(hub.get_json("/events/1").await, left);
    };
    check_replay(&hub).await;
    let hub = TestHub::start_in(hub.stop().await, |_| ()).await;
    check_replay(&hub).await;

    let with_its_key = answer(hub.post_json("/events", event)).await;
    assert_eq!(with_its_key.status, StatusCode::CREATED);
    assert_eq!(with_its_key.json()["id"], 4);
}

#[tokio::test]
async fn erased_bytes_are_gone_from_the_disk_while_the_hub_runs() {
    const SECRET: &str = "s3cr3t-0f-4d4";
    let hub = TestHub::start().await;
    hub.publish_many(500, |n| format!("noise.{n}")).await;
    let mut ids = Vec::new();
    for repeat in [1, 100, 10_000] {
        let data = SECRET.repeat(repeat);
        let event = json!({"topic": "people", "data": data, "key": format!("{SECRET}-{repeat}")});
        let stored = answer(hub.post_json("/events", event.to_string())).await;
        ids.push(stored.json()["id"].as_u64().unwrap());
    }
    hub.publish_many(500, |n| format!("noise.{n}")).await;
    assert!(is_on_disk(&hub, SECRET.as_bytes()));
    for id in ids {
        let erased = answer(delete(&hub, &format!("/events/{id}"))).await;
        assert_eq!(erased.status, StatusCode::OK);
    }
    wait_until_gone(&hub, SECRET.as_bytes()).await;
}

#[tokio::test]
async fn an_erased_topic_is_gone_and_everybody_is_told() {
    const SECRET: &str = "s3cr3t-0f-b0b";
    let hub = TestHub::start().await;
    hub.publish("orders", ["kept"]).await;
    for _ in 0..3 {
        hub.publish_many(1000, |n| match n % 2 {
            0 => "people/bob/1".into(),
            _ => "orders".into(),
        })
        .await;
    }
    hub.publish("people/bob/1", [SECRET]).await;
    let mut live = hub.follow("?topic=people/**&type=born").await;
    assert!(is_on_disk(&hub, SECRET.as_bytes()));

    let erased = answer(delete(&hub, "/topics/people/bob/1")).await;
    assert_eq!(erased.status, StatusCode::OK, "{erased:?}");
    let notice = erased.json();
    assert_eq!(
        (&notice["id"], &notice["topic"], &notice["type"]),
        (&json!(3003), &json!("people/bob/1"), &json!("segno.erased"))
    );
    let data = json!({"topic": "people/bob/1", "through": 3002, "events": 1501});
    assert_eq!(notice["data"], data);
    let told = live.next().await;
    assert_eq!(told.event_type, "segno.erased");
    assert_eq!(json(&told.data), data);
    wait_until_gone(&hub, SECRET.as_bytes()).await;

    let hub = TestHub::start_in(hub.stop().await, |_| ()).await;
    let mut behind = hub.resume("?topic=people/bob/1", 10).await;
    let types = [behind.next().await, behind.next().await].map(|told| told.event_type);
    assert_eq!(types, ["segno.gap", "segno.erased"]);
    let mut orders = hub.resume("?topic=orders", 10).await;
    assert_eq!(orders.next_ids(1).await, [12]);
    let topics = hub.get_json("/topics").await;
    assert_eq!(topics["topics"][0]["events"], 1501);
    assert_eq!(topics["topics"][1]["events"], 1);
}

#[tokio::test]
async fn what_is_not_there_cannot_be_erased() {
    let hub = TestHub::start().await;
    for (path, status, code) in [
        ("/events/1", StatusCode::NOT_FOUND, "unknown_event"),
        ("/events/x", StatusCode::BAD_REQUEST, "invalid_id"),
        ("/topics/orders", StatusCode::NOT_FOUND, "unknown_topic"),
        ("/topics/a%20b", StatusCode::BAD_REQUEST, "invalid_topic"),
    ] {
        let refused = answer(delete(&hub, path)).await;
        assert_eq!((refused.status, &*refused.code()), (status, code), "{path}");
    }
    assert_eq!(hub.last_id().await, 0, "nothing was told");
}

#[tokio::test]
async fn tail_does_not_take_the_news_for_an_event() {
    let hub = TestHub::start().await;
    hub.publish("orders", ["a", "b"]).await;
    answer(delete(&hub, "/events/1")).await;
    hub.publish("orders", ["c"]).await;
    let url = hub.url("");
    let tailed = tokio::task::spawn_blocking(move || {
        segno()
            .args(["tail", "--since", "start", "--count", "2", "--url", &url])
            .output()
            .unwrap()
    });
    let tailed = within("tail to end", tailed).await.unwrap();
    assert_eq!(String::from_utf8(tailed.stdout).unwrap(), "\"b\"\n\"c\"\n");
    let told = String::from_utf8(tailed.stderr).unwrap();
    assert_eq!(told.matches("erased: {\"id\":1}").count(), 2, "{told}");
}

#[tokio::test]
async fn the_log_tells_that_a_topic_was_erased() {
    let folder = tempfile::tempdir().unwrap();
    let traced = Traced::start(folder.path(), &[], "info").await;
    traced.hub.publish_many(1000, |_| "t".into()).await;
    assert_eq!(answer(delete(&traced.hub, "/topics/t")).await.status, 200);
    let [line] = &traced.lines("erased a topic")[..] else {
        panic!("one line");
    };
    assert_eq!(
        (&line["topic"], &line["trimmed_events"]),
        (&json!("t"), &json!(1000))
    );
}

/// A topic of a GB takes 10 s, and half a minute beside publishers; whoever waits for that, or for the room, can see that something
/// happens.
#[tokio::test]
async fn stats_tell_how_far_a_deletion_is() {
    let hub = TestHub::start().await;
    // A step takes 256 KiB, and so there are some.
    let line = format!(
        "{{\"topic\":\"large\",\"data\":\"{}\"}}\n",
        "x".repeat(60_000)
    );
    for _ in 0..4 {
        let batch = hub.post("/events").body(line.repeat(200));
        let batch = batch.header("content-type", "application/x-ndjson");
        assert_eq!(answer(batch).await.status, StatusCode::CREATED);
    }
    assert_eq!(hub.get_json("/stats").await["deletions"], json!([]));
    let deleting = tokio::spawn(answer(delete(&hub, "/topics/large")));
    let mut told = Vec::new();
    while !deleting.is_finished() {
        let stats = hub.get_json("/stats").await;
        if let [deletion] = &stats["deletions"].as_array().unwrap()[..] {
            told.push(deletion.clone());
        }
    }
    assert_eq!(deleting.await.unwrap().status, StatusCode::OK);
    assert_eq!(hub.get_json("/stats").await["deletions"], json!([]));
    let mut events: Vec<u64> = Vec::new();
    for deletion in &told {
        assert_eq!(
            (&deletion["topic"], &deletion["through"]),
            (&json!("large"), &json!(800))
        );
        assert!(deletion["running_seconds"].is_u64(), "{deletion}");
        events.push(deletion["deleted_events"].as_u64().unwrap());
    }
    assert!(
        events.is_sorted() && events.last() <= Some(&800),
        "{events:?}"
    );
    events.dedup();
    assert!(events.len() > 2, "it moves: {events:?}");
}

/// What others publish is committed, and announced, between two steps of a deletion.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "the figures")]
async fn slow_streams_of_other_topics_go_on_while_a_large_topic_is_deleted() {
    if only_local("it measures the steps of one writer; here each goes through the server") {
        return;
    }
    let hub = TestHub::start().await;
    // 50 MB.
    let line = format!(
        "{{\"topic\":\"large\",\"data\":\"{}\"}}\n",
        "x".repeat(1000)
    );
    for _ in 0..5 {
        let batch = hub.post("/events").body(line.repeat(10_000));
        let batch = batch.header("content-type", "application/x-ndjson");
        assert_eq!(answer(batch).await.status, StatusCode::CREATED);
    }
    let mut stream = hub.follow("?topic=other").await;
    let begun = Instant::now();
    let deleting = tokio::spawn(answer(delete(&hub, "/topics/large")));
    let mut waits = Vec::new();
    while !deleting.is_finished() {
        let sent = Instant::now();
        hub.publish("other", ["x"]).await;
        assert_eq!(stream.next_data().await, ["\"x\""]);
        waits.push(sent.elapsed());
    }
    let whole = begun.elapsed();
    assert_eq!(deleting.await.unwrap().status, StatusCode::OK);
    waits.sort();
    let (median, longest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    println!("while a deletion takes {whole:?}, others wait {median:?}, at most {longest:?}");
    assert!(longest < whole / 8, "{longest:?} of {whole:?}");
}
