//! Never the same id twice: also when an older copy of the file is put in its place.

use std::{fs, path::Path, process::Stdio};

use reqwest::StatusCode;
use segno::{
    hub::{self, Hub, QueueLimits},
    metrics::Metrics,
    server::Server,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::test_hub::{TestHub, answer, config, segno, within};

/// What was written, as a copy of the file has it.
fn copy(folder: &TempDir) -> Vec<u8> {
    fs::read(folder.path().join("segno.db")).unwrap()
}

fn put_back(folder: &TempDir, copy: &[u8]) {
    fs::write(folder.path().join("segno.db"), copy).unwrap();
}

fn noted(folder: &Path) -> u64 {
    let note = fs::read_to_string(folder.join("segno.db-highest")).unwrap();
    note.trim().parse().unwrap()
}

/// A folder whose file has events 1 to 3, though 1 to 5 were announced.
async fn with_an_older_file() -> TempDir {
    let hub = TestHub::start().await;
    hub.publish("orders", ["a", "b", "c"]).await;
    let folder = hub.stop().await;
    let older = copy(&folder);
    let hub = TestHub::start_in(folder, |_| ()).await;
    hub.publish("orders", ["d", "e"]).await;
    let folder = hub.stop().await;
    put_back(&folder, &older);
    folder
}

#[tokio::test]
async fn ids_go_on_above_what_was_announced_when_an_older_file_is_put_back() {
    let folder = with_an_older_file().await;
    let hub = TestHub::start_in(folder, |_| ()).await;
    let [next] = hub.publish("orders", ["f"]).await;
    assert!(next > 5, "{next} was used before");

    let told = |requested: u64| json!({"reason": "lost", "requested": requested, "first_id": 1, "last_id": next});
    for (cursor, then) in [
        (2, vec![3, next]),
        (3, vec![next]),
        (4, vec![next]),
        (5, vec![next]),
    ] {
        let mut stream = hub.resume("", cursor).await;
        let gap = stream.next().await;
        assert_eq!(gap.event_type, "segno.gap", "after {cursor}");
        assert_eq!(
            serde_json::from_str::<Value>(&gap.data).unwrap(),
            told(cursor)
        );
        assert_eq!(stream.next_ids(then.len()).await, then);
    }
    let mut has_all = hub.resume("", next).await;
    let mut from_start = hub.follow("?since=start").await;
    assert_eq!(from_start.next_ids(4).await, [1, 2, 3, next]);
    assert_eq!(hub.publish("orders", ["g"]).await, [next + 1]);
    assert_eq!(has_all.next_ids(1).await, [next + 1]);

    // Told after the next start too, and the file is not taken for an old one again.
    let hub = TestHub::start_in(hub.stop().await, |_| ()).await;
    assert_eq!(hub.publish("orders", ["h"]).await, [next + 2]);
    let mut stream = hub.resume("", 4).await;
    assert_eq!(stream.next().await.event_type, "segno.gap");
}

#[tokio::test]
async fn an_older_file_that_is_put_back_twice_gives_new_ids_twice() {
    let folder = with_an_older_file().await;
    let older = copy(&folder);
    let hub = TestHub::start_in(folder, |_| ()).await;
    let [first] = hub.publish("orders", ["f"]).await;
    let folder = hub.stop().await;
    put_back(&folder, &older);
    let hub = TestHub::start_in(folder, |_| ()).await;
    let [second] = hub.publish("orders", ["f"]).await;
    assert!(second > first);
}

#[tokio::test]
async fn a_new_file_beside_an_old_note_does_not_begin_at_one() {
    let hub = TestHub::start().await;
    hub.publish("orders", ["a", "b", "c"]).await;
    let folder = hub.stop().await;
    fs::remove_file(folder.path().join("segno.db")).unwrap();
    let hub = TestHub::start_in(folder, |_| ()).await;
    let mut stream = hub.resume("", 2).await;
    let [next] = hub.publish("orders", ["d"]).await;
    assert!(next > 3);
    assert_eq!(stream.next().await.event_type, "segno.gap");
    assert_eq!(stream.next_ids(1).await, [next]);
}

#[tokio::test]
async fn the_highest_id_is_noted_while_the_hub_runs() {
    let hub = TestHub::start().await;
    hub.publish("orders", ["a", "b", "c"]).await;
    let folder = hub.db().parent().unwrap().to_owned();
    within("the note", async {
        while !folder.join("segno.db-highest").exists() || noted(&folder) != 3 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let folder = hub.stop().await;
    let hub = TestHub::start_in(folder, |_| ()).await;
    assert_eq!(
        hub.publish("orders", ["d"]).await,
        [4],
        "a whole file is not taken for an old one"
    );
    let folder = hub.stop().await;
    assert_eq!(noted(folder.path()), 4, "the last one is noted at the end");
}

#[tokio::test]
async fn a_note_that_cannot_be_read_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("segno.db-highest"), "rubbish").unwrap();
    let refused = Server::start(config(folder.path())).await.unwrap_err();
    assert!(
        refused.to_string().contains("does not hold an id"),
        "{refused}"
    );
    let other = folder.path().join("other.db");
    let settings = hub::Settings {
        queue: QueueLimits {
            publications: 1,
            bytes: 1,
        },
        ..hub::Settings::default()
    };
    let opened = Hub::open(&other, settings, Metrics::default()).await;
    assert!(opened.is_ok());
}

#[tokio::test]
async fn every_answer_names_the_log() {
    let hub = TestHub::start().await;
    let id = answer(hub.get("/events"))
        .await
        .header("segno-log-id")
        .to_owned();
    assert!(
        id.parse::<uuid::Uuid>().unwrap().get_version_num() == 4,
        "{id}"
    );
    assert_eq!(hub.get_json("/stats").await["log_id"], id);
    let stream = hub.follow("").await;
    assert_eq!(stream.header("segno-log-id"), id);
    let refused = answer(hub.post_json("/events", "rubbish")).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_eq!(refused.header("segno-log-id"), id);

    let hub = TestHub::start_in(hub.stop().await, |_| ()).await;
    assert_eq!(answer(hub.get("/events")).await.header("segno-log-id"), id);
    let other = TestHub::start().await;
    assert_ne!(
        answer(other.get("/events")).await.header("segno-log-id"),
        id
    );
}

#[tokio::test]
async fn tail_refuses_to_go_on_in_another_log() {
    let (hub, other) = (TestHub::start().await, TestHub::start().await);
    for hub in [&hub, &other] {
        hub.publish("orders", ["a", "b"]).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let tail = |hub: &TestHub| {
        let mut tail = segno();
        tail.args([
            "tail",
            "--since",
            "start",
            "--count",
            "1",
            "--url",
            &hub.url(""),
            "--state",
        ])
        .arg(&state)
        .stdin(Stdio::null());
        within(
            "tail to end",
            tokio::task::spawn_blocking(move || tail.output().unwrap()),
        )
    };
    assert_eq!(tail(&hub).await.unwrap().stdout, b"\"a\"\n");
    let remembered = fs::read_to_string(&state).unwrap();
    let refused = tail(&other).await.unwrap();
    assert_eq!(
        (refused.status.code(), &*refused.stdout),
        (Some(1), &b""[..])
    );
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("remove the file to begin anew"), "{told}");
    assert_eq!(fs::read_to_string(&state).unwrap(), remembered);
    assert_eq!(tail(&hub).await.unwrap().stdout, b"\"b\"\n");
}
