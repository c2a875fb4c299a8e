//! The disk: power cuts, syncs and writes that fail, pages that are damaged, files that go away under the hub.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use segno::{
    db::{self, Order, Published, Range},
    event::{Data, EventId, NewEvent, Timestamp, Topic},
};
use tempfile::TempDir;

use super::test_hub::{
    DEADLINE, Program, TestHub, answer, peak_bytes, preload, reqwest_client, segno, within,
};

/// A program on a disk that can be told to fail, and that forgets what was not synced. See `disk.c`.
pub(crate) struct FaultyDisk {
    pub(crate) program: Program,
    folder: TempDir,
}

impl FaultyDisk {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts it with more flags.
    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let library = preload("disk.c", folder.path());
        fs::create_dir(folder.path().join("running")).unwrap();
        fs::create_dir(folder.path().join("kept")).unwrap();
        let mut command = segno();
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--db"])
            .arg(folder.path().join("running/segno.db"))
            .args(flags)
            .env("LD_PRELOAD", library)
            .env("SEGNO_DISK", folder.path().join("kept"))
            .stderr(Stdio::null());
        let program = Program::spawn(command).await;
        Self { program, folder }
    }

    #[cfg(feature = "cluster")]
    pub(crate) fn db(&self) -> PathBuf {
        self.folder.path().join("running/segno.db")
    }

    pub(crate) fn fail(&self, call: &str) {
        fs::write(self.folder.path().join("kept").join(call), "").unwrap();
    }

    pub(crate) fn work_again(&self, call: &str) {
        fs::remove_file(self.folder.path().join("kept").join(call)).unwrap();
    }

    /// Cuts the power, and starts a hub on what the disk has.
    async fn cut_power(self) -> TestHub {
        TestHub::start_in(self.cut_power_alone(), |_| ()).await
    }

    /// Cuts the power; what the disk has.
    pub(crate) fn cut_power_alone(self) -> TempDir {
        self.program.kill();
        let kept = tempfile::tempdir().unwrap();
        for name in ["segno.db", "segno.db-wal"] {
            fs::copy(
                self.folder.path().join("kept").join(name),
                kept.path().join(name),
            )
            .unwrap();
        }
        assert_sound(&kept.path().join("segno.db"));
        kept
    }
}

fn assert_sound(db: &Path) {
    let check = segno().arg("check").arg("--db").arg(db).output().unwrap();
    assert!(check.status.success(), "{check:?}");
}

async fn all_ids(hub: &TestHub) -> Vec<u64> {
    let history = hub.get_json("/events?limit=1000").await;
    let events = history["events"].as_array().unwrap();
    events
        .iter()
        .map(|event| event["id"].as_u64().unwrap())
        .collect()
}

/// `synchronous=full`: an answer comes after the sync, so that the disk has it when the publisher does.
#[tokio::test]
async fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let disk = FaultyDisk::start().await;
    let hub = disk.program.as_hub();
    for n in 0..50 {
        assert_eq!(hub.publish("t", ["x"]).await, [n + 1]);
    }
    let after = disk.cut_power().await;
    assert_eq!(all_ids(&after).await, Vec::from_iter(1..=50));
    assert_eq!(after.publish("t", ["x"]).await, [51]);
}

/// Linux tells of a failed sync once and forgets the pages: the next sync succeeds without them.
#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_and_what_comes_later_is_kept() {
    let disk = FaultyDisk::start().await;
    let hub = disk.program.as_hub();
    let mut stream = hub.follow("").await;
    let mut acknowledged = Vec::from(hub.publish("t", ["a", "b"]).await);
    for call in ["fail-sync-wal", "fail-write-wal"] {
        disk.fail(call);
        for _ in 0..3 {
            let refusal = answer(hub.post("/topics/t").body("refused")).await;
            assert_eq!(
                (refusal.status.as_u16(), refusal.code().as_str()),
                (503, "disk_failed"),
                "{call}: {refusal:?}"
            );
            assert_eq!(refusal.header("retry-after"), "1");
        }
        let ready = answer(hub.get("/health/ready")).await;
        assert_eq!(
            (ready.status.as_u16(), ready.code().as_str()),
            (503, "commits_fail")
        );
        assert_eq!(all_ids(&hub).await, acknowledged, "{call}");
        disk.work_again(call);
        assert_eq!(answer(hub.get("/health/ready")).await.status, 200);
        acknowledged.extend(hub.publish("t", ["c", "d"]).await);
    }
    assert_eq!(acknowledged, [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        stream.next_ids(6).await,
        acknowledged,
        "what was refused was not announced"
    );
    let after = disk.cut_power().await;
    assert_eq!(all_ids(&after).await, acknowledged);
    let data = after.get_json("/events").await.to_string();
    assert!(!data.contains("refused"), "{data}");
}

/// Copying the WAL into the file may fail as often as it likes: the WAL is kept until that was synced.
#[tokio::test]
async fn slow_a_file_that_cannot_be_synced_costs_no_event() {
    let disk = FaultyDisk::start().await;
    let hub = disk.program.as_hub();
    let big = "x".repeat(900_000);
    disk.fail("fail-sync-db");
    // Many times what SQLite lets the WAL grow to before it copies it.
    for n in 1..=20 {
        assert_eq!(hub.publish("t", [big.as_str()]).await, [n]);
    }
    disk.work_again("fail-sync-db");
    for n in 21..=25 {
        assert_eq!(hub.publish("t", [big.as_str()]).await, [n]);
    }
    let after = disk.cut_power().await;
    assert_eq!(after.last_id().await, 25);
    assert_eq!(after.get_json("/events/25").await["data"], big);
}

/// A file and its WAL, copied after some commits, and how long the WAL was before the last of them.
struct LastCommit {
    file: Vec<u8>,
    wal: Vec<u8>,
    begins_at: usize,
    last_id: u64,
}

impl LastCommit {
    async fn record() -> Self {
        let hub = TestHub::start().await;
        let deadline = Instant::now() + DEADLINE;
        let wal_path = beside(&hub.db(), "-wal");
        loop {
            let before = hub.publish("before", ["a", "b"]).await[1];
            let file = fs::read(hub.db()).unwrap();
            let begins_at = fs::read(&wal_path).unwrap().len();
            let batch = r#"[{"data":"last 1"},{"data":"last 2"}]"#;
            assert_eq!(answer(hub.post_json("/events", batch)).await.status, 201);
            let wal = fs::read(&wal_path).unwrap();
            // Not if the hub emptied the WAL into the file in between.
            let is_whole = wal.len() > begins_at && fs::read(hub.db()).unwrap() == file;
            if begins_at > 0 && is_whole {
                return Self {
                    file,
                    wal,
                    begins_at,
                    last_id: before + 2,
                };
            }
            assert!(Instant::now() < deadline, "the WAL does not grow");
        }
    }

    /// Opens the file with this WAL, and looks that the last commit is there whole or not at all.
    async fn open(&self, folder: &Path, wal: &[u8], what: &str) {
        let db = folder.join("segno.db");
        _ = fs::remove_file(beside(&db, "-shm"));
        fs::write(&db, &self.file).unwrap();
        fs::write(beside(&db, "-wal"), wal).unwrap();
        let expected = match wal == self.wal {
            true => self.last_id,
            false => self.last_id - 2,
        };
        let (log, mut appender) = db::open(&db).await.unwrap();
        assert_eq!(log.lost(), [], "{what}: it was never announced");
        assert_eq!(
            appender.last_id().to_string(),
            expected.to_string(),
            "{what}"
        );
        let event = NewEvent {
            topic: Topic::new("after").unwrap(),
            event_type: Default::default(),
            data: Data::from_text("next").unwrap(),
            key: None,
        };
        appender
            .append(vec![Published {
                at: Timestamp::now(),
                events: vec![event],
            }])
            .await
            .unwrap();
        let page = log
            .page(
                &Arc::default(),
                Range::after(EventId::ZERO),
                Order::Ascending,
                1000,
            )
            .await
            .unwrap();
        let ids: Vec<i64> = page.events.iter().map(|event| event.id.as_i64()).collect();
        assert_eq!(
            ids,
            Vec::from_iter(1..=i64::try_from(expected).unwrap() + 1),
            "{what}"
        );
        log.close().await;
        appender.close().await.unwrap();
        let findings = db::check(&db).await.unwrap();
        assert_eq!(findings.faults, [""; 0], "{what}");
    }
}

fn beside(db: &Path, suffix: &str) -> PathBuf {
    format!("{}{suffix}", db.display()).into()
}

/// The WAL cut, or overwritten with zeros or garbage, from every place of the last commit on: at each byte of a frame's head
/// and of its ends, and at every 61st of its page.
#[tokio::test]
async fn slow_a_wal_that_is_cut_within_its_last_commit_has_it_whole_or_not_at_all() {
    const FRAME_BYTES: usize = 24 + 4096;
    let last = LastCommit::record().await;
    let folder = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    let mut cuts = 0;
    for at in last.begins_at..=last.wal.len() {
        let in_frame = (at - last.begins_at) % FRAME_BYTES;
        if (32..FRAME_BYTES - 8).contains(&in_frame) && !in_frame.is_multiple_of(61) {
            continue;
        }
        cuts += 1;
        let (kept, gone) = last.wal.split_at(at);
        last.open(folder.path(), kept, &format!("cut at {at}"))
            .await;
        let zeros = [kept, &vec![0; gone.len()]].concat();
        last.open(folder.path(), &zeros, &format!("zeros from {at}"))
            .await;
        let garbage: Vec<u8> = gone.iter().map(|_| random.u8(..)).collect();
        let garbage = [kept, &garbage].concat();
        last.open(folder.path(), &garbage, &format!("garbage from {at}"))
            .await;
    }
    assert!(cuts > 200, "{cuts}");
}

/// A commit that the note beside the file knows of was announced: where the WAL has lost it all the same, that is told.
#[tokio::test]
async fn an_announced_commit_that_a_lying_disk_lost_is_told() {
    let last = LastCommit::record().await;
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("segno.db");
    for (noted, next) in [
        (last.last_id - 2, last.last_id - 1),
        (last.last_id, last.last_id + 1_000_001),
    ] {
        _ = fs::remove_file(beside(&db, "-shm"));
        fs::write(&db, &last.file).unwrap();
        fs::write(beside(&db, "-wal"), &last.wal[..last.wal.len() - 1]).unwrap();
        fs::write(beside(&db, "-highest"), format!("{noted}\n")).unwrap();
        let hub = Program::start(folder.path()).await;
        assert_eq!(
            hub.as_hub().publish("t", ["x"]).await,
            [next],
            "noted {noted}"
        );
        let mut stream = hub.as_hub().resume("", last.last_id - 2).await;
        let first = stream.next().await;
        let expected = if next < last.last_id {
            "message"
        } else {
            "segno.gap"
        };
        assert_eq!(first.event_type, expected);
    }
}

async fn assert_refused_as_moved(hub: &TestHub, what: &str) {
    let before = hub.last_id().await;
    let ready = answer(hub.get("/health/ready")).await;
    assert_eq!(
        (ready.status.as_u16(), ready.code().as_str()),
        (503, "commits_fail"),
        "{what}"
    );
    assert!(
        ready.body.contains("moved, deleted or replaced"),
        "{ready:?}"
    );
    let refusal = answer(hub.post("/topics/t").body("refused")).await;
    assert_eq!(
        (refusal.status.as_u16(), refusal.code().as_str()),
        (503, "log_moved"),
        "{what}: {refusal:?}"
    );
    let erasure = reqwest_client().delete(hub.url("/events/1"));
    assert_eq!(answer(erasure).await.code(), "log_moved", "{what}");
    assert_eq!(hub.last_id().await, before, "{what}");
    assert_eq!(
        hub.get_json("/events/1").await["data"],
        "first",
        "{what}: reading goes on"
    );
}

#[tokio::test]
async fn a_file_that_is_moved_or_replaced_while_it_is_open_is_noticed_before_anything_is_acknowledged()
 {
    let hub = TestHub::start().await;
    let mut stream = hub.follow("").await;
    hub.publish("t", ["first"]).await;
    let away = hub.db().with_extension("away");
    fs::rename(hub.db(), &away).unwrap();
    assert_refused_as_moved(&hub, "moved").await;
    fs::write(hub.db(), "another").unwrap();
    assert_refused_as_moved(&hub, "replaced").await;
    fs::copy(&away, hub.db()).unwrap();
    assert_refused_as_moved(&hub, "replaced by a copy").await;
    fs::rename(&away, hub.db()).unwrap();
    assert_eq!(
        answer(hub.get("/health/ready")).await.status,
        200,
        "it finds out by itself"
    );
    assert_eq!(hub.publish("t", ["second"]).await, [2]);
    assert_eq!(stream.next_data().await, ["\"first\"", "\"second\""]);
    // However long the folder was left alone before: the hub looks at its time first.
    for pause_ms in [0, 5, 20, 60, 200] {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        hub.publish("t", ["x"]).await;
        fs::rename(hub.db(), &away).unwrap();
        assert_refused_as_moved(&hub, &format!("moved after {pause_ms} ms")).await;
        fs::rename(&away, hub.db()).unwrap();
    }
}

/// What the hub still has is read from it, and put into a new file.
#[tokio::test]
async fn a_file_that_was_deleted_is_rescued_from_the_hub_that_has_it_open() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(folder.path()).await;
    let hub = program.as_hub();
    hub.publish("t", ["first", "second"]).await;
    let db = folder.path().join("segno.db");
    fs::remove_file(&db).unwrap();
    assert_refused_as_moved(&hub, "deleted").await;
    let rescued = answer(hub.get("/events").header("accept", "application/x-ndjson")).await;
    let lines = folder.path().join("rescued.ndjson");
    fs::write(&lines, rescued.body).unwrap();
    program.signal("TERM");
    assert_eq!(program.exit_code().await, Some(0));
    // A file of its own: at the old place the note of the highest id would have its ids taken for lost.
    let new = folder.path().join("new.db");
    for (command, file, db) in [("import", &lines, &new), ("restore", &new, &db)] {
        let output = segno()
            .arg(command)
            .arg(file)
            .arg("--db")
            .arg(db)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let again = Program::start(folder.path()).await;
    let hub = again.as_hub();
    assert_eq!(hub.get_json("/events/2").await["data"], "second");
    assert_eq!(hub.publish("t", ["third"]).await, [3]);
}

#[tokio::test]
async fn a_wal_or_its_index_that_was_deleted_is_noticed_and_nothing_acknowledged_is_lost() {
    for part in ["-wal", "-shm"] {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::start(folder.path()).await;
        let hub = program.as_hub();
        hub.publish("t", ["first", "second"]).await;
        fs::remove_file(beside(&folder.path().join("segno.db"), part)).unwrap();
        assert_refused_as_moved(&hub, part).await;
        program.kill();
        let again = Program::start(folder.path()).await;
        assert_eq!(all_ids(&again.as_hub()).await, [1, 2], "{part}");
        assert_eq!(again.as_hub().publish("t", ["third"]).await, [3], "{part}");
    }
}

const EVENTS: u64 = 3000;

/// Numbers of the pages of a table or an index, in the order of what is in them.
fn leaf_pages(db: &Path, name: &str) -> Vec<u64> {
    let sql = format!(
        "select pageno from dbstat where name = '{name}' and pagetype = 'leaf' order by path"
    );
    let output = Command::new("sqlite3")
        .args(["-cmd", ".timeout 10000"])
        .arg(db)
        .arg(sql)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn damage(db: &Path, page: u64) {
    let file = fs::OpenOptions::new().write(true).open(db).unwrap();
    file.write_all_at(&[0xAA; 4096], (page - 1) * 4096).unwrap();
}

/// A log of events that fill many pages, and no hub on it.
async fn big_log() -> TempDir {
    let hub = TestHub::start().await;
    let filler = "x".repeat(1000);
    for first in (1..=EVENTS).step_by(1000) {
        let lines: String = (first..first + 1000)
            .map(|n| format!("{{\"topic\":\"t{}\",\"data\":\"{n} {filler}\"}}\n", n % 7))
            .collect();
        let request = hub
            .post("/events")
            .header("content-type", "application/x-ndjson")
            .body(lines);
        assert_eq!(answer(request).await.status, 201);
    }
    hub.stop().await
}

#[tokio::test]
async fn a_damaged_page_is_told_on_every_stream_that_meets_it_and_the_rest_is_served() {
    let folder = big_log().await;
    let db = folder.path().join("segno.db");
    let backup = folder.path().join("backup.db");
    let made = segno()
        .arg("backup")
        .arg(&backup)
        .arg("--db")
        .arg(&db)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let pages = leaf_pages(&db, "events");
    damage(&db, pages[pages.len() / 2]);

    let program = Program::start(folder.path()).await;
    let hub = program.as_hub();
    let mut stream = hub.follow("?since=start").await;
    let mut read = 0;
    let told = loop {
        let message = stream.next().await;
        if message.event_type == "segno.error" {
            break message;
        }
        read += 1;
        assert_eq!(
            message.last_event_id,
            read.to_string(),
            "no event is left out"
        );
    };
    assert!((1000..2000).contains(&read), "{read}");
    assert_eq!(
        told.last_event_id,
        read.to_string(),
        "the cursor stays before it"
    );
    let problem: serde_json::Value = serde_json::from_str(&told.data).unwrap();
    assert_eq!(problem["code"], "log_corrupt", "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("`segno check`") && detail.contains("`segno restore`"),
        "{detail}"
    );
    stream.read_to_end().await.unwrap();
    assert!(stream.take_received().is_empty());

    let refusal = answer(hub.get(&format!("/events?after={read}"))).await;
    assert_eq!(
        (refusal.status.as_u16(), refusal.code().as_str()),
        (500, "log_corrupt")
    );
    let refusal = answer(hub.get(&format!("/events/{}", read + 1))).await;
    assert_eq!(refusal.code(), "log_corrupt", "all before it was sent");
    // Behind the page everything is there, and new events are taken and announced.
    let mut live = hub.follow("").await;
    assert_eq!(hub.publish("t", ["new"]).await, [EVENTS + 1]);
    assert_eq!(live.next_ids(1).await, [EVENTS + 1]);
    assert_eq!(
        hub.resume("", 2500).await.next_ids(501).await,
        Vec::from_iter(2501..=EVENTS + 1)
    );
    let newest = hub.get_json("/events?order=desc&limit=1").await;
    assert_eq!(newest["events"][0]["data"], "new");

    let tail = within("tail to tell", tail_until_told(&hub, read)).await;
    assert!(tail.contains("the file is damaged"), "{tail}");
    let check = segno().arg("check").arg("--db").arg(&db).output().unwrap();
    assert_eq!(check.status.code(), Some(1), "{check:?}");
    program.kill();

    let restored = segno()
        .args(["restore", "--replace"])
        .arg(&backup)
        .arg("--db")
        .arg(&db)
        .output()
        .unwrap();
    assert!(restored.status.success(), "{restored:?}");
    let program = Program::start(folder.path()).await;
    let hub = program.as_hub();
    let mut stream = hub.resume("", read).await;
    let gap = stream.next().await;
    assert!(
        gap.data.contains("\"lost\""),
        "{gap:?}: {EVENTS} and one were announced"
    );
    assert_eq!(stream.next_ids(1).await, [read + 1]);
    assert!(
        hub.publish("t", ["x"]).await[0] > EVENTS + 1,
        "no id is used again"
    );
}

/// The first complaint of a `segno tail` that resumes after `cursor`.
async fn tail_until_told(hub: &TestHub, cursor: u64) -> String {
    let mut tail = segno()
        .args(["tail", "--after", &cursor.to_string()])
        .env("SEGNO_URL", hub.url(""))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let complaint = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        let mut stderr = BufReader::new(tail.stderr.take().unwrap());
        stderr.read_line(&mut line).unwrap();
        tail.kill().unwrap();
        tail.wait().unwrap();
        line
    });
    complaint.await.unwrap()
}

/// The index that events are counted by, and that every commit writes to.
#[tokio::test]
async fn a_damaged_index_lets_the_hub_start_and_read_but_not_acknowledge() {
    let folder = big_log().await;
    let db = folder.path().join("segno.db");
    for page in leaf_pages(&db, "events_by_topic") {
        damage(&db, page);
    }
    let hub = TestHub::start_in(folder, |_| ()).await;
    let mut stream = hub.follow("?since=start").await;
    assert_eq!(stream.next_ids(3000).await, Vec::from_iter(1..=EVENTS));
    assert_eq!(hub.get_json("/stats").await["events"], EVENTS);
    let refusal = answer(hub.post("/topics/t3").body("x")).await;
    assert_eq!(
        (refusal.status.as_u16(), refusal.code().as_str()),
        (500, "log_corrupt")
    );
    let ready = answer(hub.get("/health/ready")).await;
    assert_eq!(
        (ready.status.as_u16(), ready.code().as_str()),
        (503, "commits_fail")
    );
    assert_eq!(hub.last_id().await, EVENTS, "nothing was stored");

    // All of it goes into a new file.
    let lines = hub.db().with_extension("ndjson");
    let new = hub.db().with_extension("new");
    for (command, db) in [("export", &hub.db()), ("import", &new)] {
        let output = segno()
            .arg(command)
            .arg(&lines)
            .arg("--db")
            .arg(db)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert_sound(&new);
    assert_eq!(
        fs::read_to_string(&lines).unwrap().lines().count(),
        usize::try_from(EVENTS).unwrap()
    );
}

#[tokio::test]
async fn a_file_whose_beginning_is_damaged_is_told_at_the_start() {
    let folder = big_log().await;
    let db = folder.path().join("segno.db");
    let file = fs::OpenOptions::new().write(true).open(&db).unwrap();
    // The table of tables, behind the head of the file.
    file.write_all_at(&[0xAA; 3000], 100).unwrap();
    let output = segno()
        .args(["serve", "--listen", "127.0.0.1:0", "--db"])
        .arg(&db)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("is damaged: `segno check` says where"),
        "{told}"
    );
}

/// A WAL that a reader kept from being emptied, of a hub that was killed.
#[tokio::test]
async fn slow_a_wal_of_256_mb_is_emptied_soon_after_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path()).await;
    let hub = program.as_hub();
    let db = folder.path().join("segno.db");
    hub.publish("t", ["x"]).await;
    // A reader that keeps the WAL from being emptied.
    let mut reader = Command::new("sqlite3")
        .arg(&db)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = reader.stdin.take().unwrap();
    stdin
        .write_all(b"begin;\nselect count(*) from events;\n")
        .unwrap();
    reader
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0; 2])
        .unwrap();
    let filler = "x".repeat(1_000_000);
    let lines = format!("{{\"data\":\"{filler}\"}}\n").repeat(15);
    let mut events = 1;
    while fs::metadata(beside(&db, "-wal")).unwrap().len() < 256 << 20 {
        let request = hub
            .post("/events")
            .header("content-type", "application/x-ndjson")
            .body(lines.clone());
        assert_eq!(answer(request).await.status, 201);
        events += 15;
    }
    program.kill();
    drop(stdin);
    reader.wait().unwrap();

    let program = Program::start(folder.path()).await;
    let hub = program.as_hub();
    assert_eq!(hub.last_id().await, events);
    assert_eq!(hub.publish("t", ["x"]).await, [events + 1]);
    within("the WAL to be emptied", async {
        while fs::metadata(beside(&db, "-wal")).unwrap().len() > 64 << 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let peak = peak_bytes(program.id());
    assert!(peak < 200_000_000, "{peak} bytes");
}
