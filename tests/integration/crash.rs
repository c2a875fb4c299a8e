//! kill -9 at random moments: what was acknowledged is there, once, in order, on every stream.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;

use super::test_hub::{CURSOR_TYPE, Port, Program, TestHub, reqwest_client, seeded, within};

const ROUNDS: usize = 20;
const PUBLISHERS: usize = 8;
const SUBSCRIBERS: usize = 3;

/// The data of each acknowledged event, by its id.
type Acknowledged = Arc<Mutex<BTreeMap<u64, String>>>;

async fn publish_until(
    stop: Arc<AtomicBool>,
    url: String,
    publisher: usize,
    acknowledged: Acknowledged,
) {
    let http = reqwest_client();
    for n in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let data = format!("\"{publisher}-{n}\"");
        let request = http.post(format!("{url}/topics/crash")).body(data.clone());
        match request.send().await {
            Ok(answer) if answer.status() == 201 => {
                // The answer may be cut off behind its head: then it does not count as one.
                if let Ok(body) = answer.text().await {
                    let receipt: Value = serde_json::from_str(&body).unwrap();
                    let twice = acknowledged
                        .lock()
                        .unwrap()
                        .insert(receipt["id"].as_u64().unwrap(), data);
                    assert_eq!(twice, None, "an id was given twice");
                }
            }
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Follows across crashes, and now and then drops a good connection; ends when it has the event `until`.
async fn follow_until(
    until: Arc<AtomicU64>,
    url: String,
    mut random: fastrand::Rng,
) -> Vec<(u64, String)> {
    let http = reqwest_client();
    let mut events: Vec<(u64, String)> = Vec::new();
    let mut cursor = 0;
    loop {
        let mut parser = segno::client::SseParser::default();
        let request = http
            .get(format!("{url}/sse?topic=crash"))
            .header("last-event-id", cursor)
            .send()
            .await;
        let Ok(mut answer) = request else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let mut chunks = random.usize(1..200);
        while let Ok(Ok(Some(chunk))) =
            tokio::time::timeout(Duration::from_secs(1), answer.chunk()).await
        {
            parser.feed(&chunk, |message| {
                if message.event_type == CURSOR_TYPE {
                    return;
                }
                assert_eq!(message.event_type, "message", "{message:?}");
                events.push((message.last_event_id.parse().unwrap(), message.data));
            });
            chunks -= 1;
            if chunks == 0 {
                break;
            }
        }
        cursor = parser.last_event_id().parse().unwrap_or(cursor);
        if events
            .last()
            .is_some_and(|(id, _)| *id >= until.load(Ordering::Relaxed))
        {
            return events;
        }
    }
}

async fn stored_events(hub: &TestHub) -> Vec<(u64, String)> {
    let lines = hub
        .get("/events?topic=crash")
        .header("accept", "application/x-ndjson")
        .send()
        .await
        .unwrap();
    let lines = lines.text().await.unwrap();
    let event = |line: &str| -> (u64, String) {
        let event: Value = serde_json::from_str(line).unwrap();
        (event["id"].as_u64().unwrap(), event["data"].to_string())
    };
    lines.lines().map(event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_a_kill_loses_nothing_that_was_acknowledged() {
    let mut random = seeded();
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let url = port.url();
    let (stop, until) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(u64::MAX)),
    );
    let acknowledged = Acknowledged::default();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            tokio::spawn(publish_until(
                stop.clone(),
                url.clone(),
                publisher,
                acknowledged.clone(),
            ))
        })
        .collect();
    let subscribers: Vec<_> = (0..SUBSCRIBERS)
        .map(|_| tokio::spawn(follow_until(until.clone(), url.clone(), random.fork())))
        .collect();

    for _ in 0..ROUNDS {
        let program = Program::start_at(folder.path(), &port).await;
        tokio::time::sleep(Duration::from_millis(random.u64(20..400))).await;
        program.kill();
    }
    stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        within("a publisher to stop", publisher).await.unwrap();
    }
    let program = Program::start_at(folder.path(), &port).await;
    let hub = program.as_hub();
    let stored = stored_events(&hub).await;
    until.store(stored.last().unwrap().0, Ordering::Relaxed);

    let by_id: BTreeMap<u64, String> = stored.iter().cloned().collect();
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert!(
        acknowledged.len() > 100,
        "the kills left {} publishes",
        acknowledged.len()
    );
    for (id, data) in &acknowledged {
        assert_eq!(by_id.get(id), Some(data), "acknowledged event {id}");
    }
    for subscriber in subscribers {
        let followed = within("a subscriber to have everything", subscriber)
            .await
            .unwrap();
        assert_eq!(followed.len(), stored.len());
        assert!(followed == stored, "a stream differs from the log");
    }
    check_file(&hub, folder.path()).await;
}

async fn check_file(hub: &TestHub, folder: &Path) {
    use sqlx::{ConnectOptions, sqlite::SqliteConnectOptions};
    assert_eq!(hub.publish("after", ["x"]).await.len(), 1);
    let mut connection = SqliteConnectOptions::new()
        .filename(folder.join("segno.db"))
        .read_only(true)
        .connect()
        .await
        .unwrap();
    let found: String = sqlx::query_scalar("pragma integrity_check")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(found, "ok");
}
