//! Copies of the log, and what moves it to another file.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Output, Stdio},
};

use serde_json::Value;

use super::test_hub::{Program, TestHub, answer, segno, within};

async fn run(args: &[&str], db: &Path) -> Output {
    let mut command = segno();
    command.args(args).arg("--db").arg(db).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    within(format_args!("segno {args:?}"), output)
        .await
        .unwrap()
}

async fn succeed(args: &[&str], db: &Path) -> String {
    let output = run(args, db).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

async fn fail(args: &[&str], db: &Path) -> String {
    let output = run(args, db).await;
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    let told = String::from_utf8([output.stderr, output.stdout].concat()).unwrap();
    assert!(!told.is_empty());
    told
}

/// All events as the hub gives them.
async fn history(hub: &TestHub) -> String {
    let lines = hub.get("/events").header("accept", "application/x-ndjson");
    answer(lines).await.body
}

/// What the `sqlite3` shell says of a file.
fn sqlite(db: &Path, sql: &str) -> String {
    let output = std::process::Command::new("sqlite3")
        .args(["-cmd", ".timeout 10000"])
        .arg(db)
        .arg(sql)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn varied(hub: &TestHub) {
    hub.publish_many(3000, |n| format!("topic.{}", n % 7)).await;
    let event = r#"{"topic":"a/b","type":"t","data":{"n": 1.10, "s":"é\u0000\n"},"key":"k \" é"}"#;
    answer(hub.post_json("/events", event)).await;
    answer(super::test_hub::reqwest_client().delete(hub.url("/events/5"))).await;
}

#[tokio::test]
async fn a_backup_while_events_are_published_is_a_whole_log() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path()).await;
    let hub = program.as_hub();
    varied(&hub).await;
    let url = hub.url("");
    let publishing = tokio::spawn(async move {
        let http = super::test_hub::reqwest_client();
        // Batches of three: a backup has all of one or none of it.
        let batch = "[{\"data\":1},{\"data\":2},{\"data\":3}]";
        loop {
            let request = http
                .post(format!("{url}/events"))
                .header("content-type", "application/json")
                .body(batch);
            answer(request).await;
        }
    });
    let db = folder.path().join("segno.db");
    let before = hub.last_id().await;
    let copy = folder.path().join("copy.db");
    let told = succeed(&["backup", copy.to_str().unwrap()], &db).await;
    publishing.abort();
    assert!(told.contains("of the log"), "{told}");

    let expected = history(&hub).await;
    let last: u64 = sqlite(&copy, "select max(id) from events").parse().unwrap();
    assert!(last >= before);
    assert_eq!((last - before) % 3, 0, "half a batch");
    assert_eq!(sqlite(&copy, "pragma integrity_check"), "ok");
    assert_eq!(
        sqlite(&copy, "pragma auto_vacuum"),
        "2",
        "it can still shrink"
    );
    assert!(succeed(&["check"], &copy).await.ends_with("sound\n"));
    let id = |db: &Path| sqlite(db, "select id from log");
    assert_eq!(id(&copy), id(&db), "a copy is the same log");

    let exists = fail(&["backup", copy.to_str().unwrap()], &db).await;
    assert!(
        exists.contains("copy.db exists; choose another"),
        "{exists}"
    );
    drop(program);
    let hub = restored(&copy).await;
    let kept = history(&hub).await;
    assert!(expected.starts_with(&kept));
    assert_eq!(u64::try_from(kept.lines().count()).unwrap(), last);
}

/// A hub on a restored copy, in a folder of its own.
async fn restored(copy: &Path) -> TestHub {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("segno.db");
    succeed(&["restore", copy.to_str().unwrap()], &db).await;
    TestHub::start_in(folder, |_| ()).await
}

#[tokio::test]
async fn a_restore_replaces_only_when_told_and_ids_go_on() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a", "b"]).await;
    let db = hub.db();
    let copy = db.with_file_name("copy.db");
    let copy_path = copy.to_str().unwrap();
    succeed(&["backup", copy_path], &db).await;
    hub.publish("t", ["c", "d"]).await;
    let in_use = fail(&["restore", "--replace", copy_path], &db).await;
    assert!(in_use.contains("another segno is running"), "{in_use}");

    let folder = hub.stop().await;
    // The note is lost too: what the replaced file says counts.
    fs::remove_file(db.with_file_name("segno.db-highest")).unwrap();
    let refused = fail(&["restore", copy_path], &db).await;
    assert!(refused.contains("`--replace` moves it aside"), "{refused}");
    assert_eq!(sqlite(&db, "select count(*) from events"), "4");
    let told = succeed(&["restore", "--replace", copy_path], &db).await;
    let kept = told.lines().nth(1).unwrap().split(' ').next_back().unwrap();
    assert_eq!(sqlite(Path::new(kept), "select count(*) from events"), "4");

    let hub = TestHub::start_in(folder, |_| ()).await;
    let mut stream = hub.resume("", 3).await;
    assert_eq!(stream.next().await.event_type, "segno.gap");
    let [next] = hub.publish("t", ["e"]).await;
    assert!(next > 4, "{next} was used before");
    assert_eq!(stream.next_ids(1).await, [next]);
}

#[tokio::test]
async fn what_is_not_a_sound_log_is_not_restored() {
    let hub = TestHub::start().await;
    varied(&hub).await;
    let folder = hub.stop().await;
    let db = folder.path().join("segno.db");
    let damaged = folder.path().join("damaged.db");
    let mut bytes = fs::read(&db).unwrap();
    // The middle of the file: pages of events and their indexes.
    let middle = bytes.len() / 2;
    bytes[middle..middle + 3000].fill(0xA5);
    fs::write(&damaged, bytes).unwrap();
    let text = folder.path().join("text.db");
    fs::write(&text, "not a log at all, and long enough to be looked at").unwrap();
    let new = folder.path().join("new.db");
    for copy in [&damaged, &text, &folder.path().join("missing.db")] {
        fail(&["restore", copy.to_str().unwrap()], &new).await;
        assert!(!new.exists());
    }
    let told = fail(&["check"], &damaged).await;
    assert!(told.contains("not sound"), "{told}");
}

#[tokio::test]
async fn check_finds_what_must_not_be() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a", "b", "c", "d"]).await;
    let folder = hub.stop().await;
    let db = folder.path().join("segno.db");
    assert!(succeed(&["check"], &db).await.ends_with("sound\n"));
    for (harm, undo, expected) in [
        (
            "update events set created_at = created_at - 100000 where id = 3",
            "update events set created_at = created_at + 100000 where id = 3",
            "event 3 is older",
        ),
        (
            "update events set data = '{' where id = 2",
            "update events set data = '1' where id = 2",
            "the data of event 2 is not JSON",
        ),
        (
            "update sqlite_sequence set seq = 3",
            "update sqlite_sequence set seq = 4",
            "newer than the newest id",
        ),
        (
            "update events set created_at = 1; delete from events where id = 3",
            "select 1",
            "events between 2 and 4 are missing",
        ),
    ] {
        sqlite(&db, harm);
        let told = fail(&["check"], &db).await;
        assert!(told.contains(expected), "{told}");
        sqlite(&db, undo);
    }
    sqlite(&db, "insert into trimmed values ('t', 4)");
    succeed(&["check"], &db).await;
}

#[tokio::test]
async fn an_export_is_imported_as_it_was_and_goes_on_where_it_was_broken_off() {
    let hub = TestHub::start().await;
    varied(&hub).await;
    let db = hub.db();
    let lines = db.with_file_name("events.ndjson");
    let lines_path = lines.to_str().unwrap();
    succeed(&["export", lines_path], &db).await;
    let first = history(&hub).await;
    assert_eq!(fs::read_to_string(&lines).unwrap(), first);
    assert_eq!(succeed(&["export"], &db).await, first);
    assert_eq!(succeed(&["export", "-"], &db).await, first);

    // Broken off in the middle of a line; and there is more now.
    hub.publish("t", ["more"]).await;
    let whole = history(&hub).await;
    fs::write(&lines, &whole.as_bytes()[..first.len() - 20]).unwrap();
    succeed(&["export", lines_path], &db).await;
    assert_eq!(fs::read_to_string(&lines).unwrap(), whole);
    let mut tail = whole.lines().rev();
    let last = tail.next().unwrap();
    assert_eq!(
        succeed(&["export", "--after", "3002"], &db).await,
        format!("{last}\n")
    );

    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("segno.db");
    let part = folder.path().join("part.ndjson");
    let cut: Vec<_> = whole.lines().take(2000).collect();
    fs::write(&part, cut.join("\n") + "\n{\"id\":20").unwrap();
    let told = fail(&["import", part.to_str().unwrap()], &new).await;
    assert!(told.contains("line 2001"), "{told}");
    let told = succeed(&["import", lines_path], &new).await;
    assert_eq!(
        told,
        "1003 events imported, 2000 there before; the last id is 3003\n"
    );
    succeed(&["check"], &new).await;
    let moved = TestHub::start_in(folder, |_| ()).await;
    assert_eq!(history(&moved).await, whole);
    assert_eq!(moved.publish("t", ["next"]).await, [3004]);
    let in_use = fail(&["import", lines_path], &new).await;
    assert!(in_use.contains("another segno is running"), "{in_use}");
}

/// Beside each other in a pipe, and in a folder where a file named `-` would be seen.
#[tokio::test]
async fn a_dash_is_standard_input_and_output() {
    let hub = TestHub::start().await;
    varied(&hub).await;
    let folder = tempfile::tempdir().unwrap();
    let mut shell = std::process::Command::new("sh");
    shell
        .args([
            "-c",
            r#""$SEGNO" export - --db "$LOG" | "$SEGNO" import - --db new.db"#,
        ])
        .env("SEGNO", env!("CARGO_BIN_EXE_segno"))
        .env("LOG", hub.db())
        .current_dir(&folder)
        .stdin(Stdio::null());
    let piped = tokio::task::spawn_blocking(move || shell.output().unwrap());
    let piped = within("an import", piped).await.unwrap();
    let told = String::from_utf8(piped.stdout).unwrap();
    assert!(
        told.starts_with("3002 events imported, 0 there before"),
        "{told}{}",
        String::from_utf8_lossy(&piped.stderr)
    );
    assert!(!folder.path().join("-").exists());
    fs::rename(folder.path().join("new.db"), folder.path().join("segno.db")).unwrap();
    let moved = TestHub::start_in(folder, |_| ()).await;
    assert_eq!(history(&moved).await, history(&hub).await);
}

/// What a subscriber is told at `cursor`: whether events of what it asks for are gone.
async fn gap_at(hub: &TestHub, query: &str, cursor: u64) -> (String, String) {
    let first = hub.resume(query, cursor).await.next().await;
    (first.event_type, first.data)
}

#[tokio::test]
async fn an_import_of_an_export_tells_the_same_holes_as_the_log_did() {
    let hub = TestHub::start().await;
    hub.publish("b", ["1"]).await;
    hub.publish("a", ["2", "3"]).await;
    hub.publish("b", ["4"]).await;
    let db = hub.db();
    let lines = db.with_file_name("events.ndjson");
    let lines_path = lines.to_str().unwrap();
    let delete = async |topic: &str| {
        let deletion =
            super::test_hub::reqwest_client().delete(hub.url(&format!("/topics/{topic}")));
        assert_eq!(answer(deletion).await.status, 200);
    };
    delete("a").await;
    succeed(&["export", lines_path], &db).await;
    let exported = || fs::read_to_string(&lines).unwrap();
    let trimmed = |through, cursor| {
        format!(
            "{{\"segno\":\"trimmed\",\"topic\":\"a\",\"through\":{through},\"cursor\":{cursor}}}\n"
        )
    };
    let first = exported();
    assert!(first.starts_with(&trimmed(3, 0)), "{first}");
    // Nothing is new, and nothing is told again.
    succeed(&["export", lines_path], &db).await;
    assert_eq!(exported(), first);

    hub.publish("a", ["6", "7"]).await;
    hub.publish("b", ["8"]).await;
    delete("a").await;
    succeed(&["export", lines_path], &db).await;
    let second = exported();
    let added = second.strip_prefix(&first).unwrap();
    assert!(added.starts_with(&trimmed(7, 5)), "{added}");
    // Broken off behind such a line.
    fs::write(&lines, first.clone() + &trimmed(7, 5) + "{\"id\"").unwrap();
    succeed(&["export", lines_path], &db).await;
    assert_eq!(exported(), first + &trimmed(7, 5) + added);

    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("segno.db");
    let told = succeed(&["import", lines_path], &new).await;
    assert!(!told.contains("gaps"), "{told}");
    succeed(&["check"], &new).await;
    let moved = TestHub::start_in(folder, |_| ()).await;
    for (query, cursor) in [
        ("?topic=a", 0),
        ("?topic=a", 5),
        ("?topic=b", 1),
        ("", 4),
        ("?topic=a", 7),
    ] {
        let told = gap_at(&moved, query, cursor).await;
        assert_eq!(told, gap_at(&hub, query, cursor).await, "{query} {cursor}");
        let is_gap = told.0 == "segno.gap";
        assert_eq!(
            is_gap,
            query != "?topic=b" && cursor < 7,
            "{query} {cursor} {told:?}"
        );
    }
}

/// A history that was saved over HTTP may say that events are gone.
#[tokio::test]
async fn an_import_passes_over_what_a_history_says_of_gaps() {
    let hub = TestHub::start().await;
    hub.publish("a", ["1", "2"]).await;
    hub.publish("b", ["3"]).await;
    answer(super::test_hub::reqwest_client().delete(hub.url("/topics/a"))).await;
    let saved = answer(hub.get("/events?after=0&format=ndjson")).await.body;
    assert!(saved.contains(r#""segno":"gap""#), "{saved}");
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("saved.ndjson");
    fs::write(&lines, &saved).unwrap();
    let new = folder.path().join("segno.db");
    let told = succeed(&["import", lines.to_str().unwrap()], &new).await;
    assert!(told.starts_with("2 events imported"), "{told}");
    assert!(told.contains("1 line tells of gaps"), "{told}");
    fs::write(&lines, "{\"segno\":7}\n").unwrap();
    fail(&["import", lines.to_str().unwrap()], &new).await;
}

/// Such topics are the hub's own now, and what was published on them before is kept, followed and erased as ever.
#[tokio::test]
async fn an_import_takes_topics_that_nobody_can_publish_on_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("old.ndjson");
    let old = r#"{"id":7,"topic":"segno.old","type":"message","data":1,"created_at":"2026-01-31T12:00:00.000Z"}"#;
    fs::write(&lines, format!("{old}\n")).unwrap();
    let db = folder.path().join("segno.db");
    succeed(&["import", lines.to_str().unwrap()], &db).await;
    let hub = TestHub::start_in(folder, |_| ()).await;
    let mut stream = hub.follow("?topic=segno.old&since=start").await;
    assert_eq!(stream.next_data().await, ["1"]);
    let again = answer(hub.post("/topics/segno.old").body("2")).await;
    assert_eq!(again.code(), "invalid_topic");
    let erasure = super::test_hub::reqwest_client().delete(hub.url("/topics/segno.old"));
    assert_eq!(answer(erasure).await.json()["data"]["through"], 7);
}

/// A browser's `EventSource` uses `open` and `error` for itself. What was published with such a type before that was known is kept.
#[tokio::test]
async fn events_of_types_that_nobody_can_publish_any_more_are_kept_and_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("old.ndjson");
    let old = [("open", 7), ("error", 8), ("message", 9)].map(|(event_type, id)| {
        format!(r#"{{"id":{id},"topic":"t","type":"{event_type}","data":{id},"created_at":"2026-01-31T12:00:00.000Z"}}"#)
    });
    fs::write(&lines, old.join("\n") + "\n").unwrap();
    let db = folder.path().join("segno.db");
    succeed(&["import", lines.to_str().unwrap()], &db).await;
    // One that no import has looked at.
    sqlite(&db, "update events set type = 'open' where id = 9");
    succeed(&["check"], &db).await;

    let hub = TestHub::start_in(folder, |_| ()).await;
    let expected = ["open", "error", "open"];
    let mut stream = hub.follow("?since=start").await;
    for event_type in expected {
        assert_eq!(stream.next().await.event_type, event_type);
    }
    let page = hub.get_json("/events").await;
    let types = page["events"].as_array().unwrap().iter();
    assert_eq!(
        types.map(|event| &event["type"]).collect::<Vec<_>>(),
        expected
    );
    for event_type in ["open", "error"] {
        let again = hub.post(&format!("/topics/t?type={event_type}"));
        let again = answer(again.body("2")).await;
        assert_eq!(
            (again.status.as_u16(), &*again.code()),
            (400, "invalid_type")
        );
    }
}

#[tokio::test]
async fn an_import_does_not_mix_two_logs() {
    let (hub, other) = (TestHub::start().await, TestHub::start().await);
    hub.publish("t", ["a", "b"]).await;
    other.publish("t", ["x", "b", "c"]).await;
    let lines = hub.db().with_file_name("events.ndjson");
    succeed(&["export", lines.to_str().unwrap()], &hub.db()).await;
    let db = other.db();
    let before = history(&other).await;
    let folder = other.stop().await;
    let told = fail(&["import", lines.to_str().unwrap()], &db).await;
    assert!(told.contains("is not the one that the log has"), "{told}");
    for bad in [
        r#"{"id":9,"topic":"t","type":"message","data":1}"#,
        r#"{"id":9,"topic":"t t","type":"message","data":1,"created_at":"2036-01-31T12:00:00.000Z"}"#,
        r#"{"id":9,"topic":"t","type":"segno.gap","data":1,"created_at":"2036-01-31T12:00:00.000Z"}"#,
        r#"{"id":9,"topic":"t","type":"message","data":1,"created_at":"2016-01-31T12:00:00.000Z"}"#,
    ] {
        fs::write(&lines, format!("{bad}\n")).unwrap();
        fail(&["import", lines.to_str().unwrap()], &db).await;
    }
    let other = TestHub::start_in(folder, |_| ()).await;
    assert_eq!(history(&other).await, before);
}

/// What a tool such as Litestream does: it holds a read of the file so that nobody empties the WAL before it was copied.
#[tokio::test]
async fn an_outside_reader_of_the_wal_keeps_what_it_reads() {
    let hub = TestHub::start().await;
    let wal = hub.db().with_file_name("segno.db-wal");
    let wal_is_emptied = async || {
        while fs::metadata(&wal).unwrap().len() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    // A hub does so once after its start. Where that came between the events and the reader, the WAL held nothing to be kept.
    within("the WAL of the start to be emptied", wal_is_emptied()).await;
    hub.publish("t", ["a", "b"]).await;
    let mut reader = std::process::Command::new("sqlite3")
        .arg(hub.db())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = reader.stdin.take().unwrap();
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    let mut ask = |sql: &str| {
        writeln!(input, "{sql}").unwrap();
        lines.next().unwrap().unwrap()
    };
    assert_eq!(ask("begin; select count(*) from events;"), "2");
    let wal_header = || fs::read(&wal).unwrap()[..32].to_vec();
    let held = (wal_header(), fs::metadata(&wal).unwrap().len());

    // More than the pages after which SQLite checkpoints by itself, and an erasure, which wants the WAL emptied.
    hub.publish_many(100_000, |n| format!("topic.{n}")).await;
    let erased = super::test_hub::reqwest_client().delete(hub.url("/events/1"));
    assert!(answer(erased).await.status.is_success());
    hub.publish("t", ["c"]).await;
    assert_eq!(ask("select count(*) from events;"), "2");
    assert_eq!(
        ask("select json_extract(data, '$') from events where id = 1;"),
        "a"
    );
    assert_eq!(
        wal_header(),
        held.0,
        "the WAL was begun anew under its reader"
    );
    assert!(fs::metadata(&wal).unwrap().len() > held.1);

    assert_eq!(ask("commit; select count(*) from events;"), "100004");
    within("the WAL to be emptied", wal_is_emptied()).await;
    let erased: Value = hub.get_json("/events/1").await;
    assert_eq!(erased["type"], "segno.erased");
    drop(input);
    reader.wait().unwrap();
}
