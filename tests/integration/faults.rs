//! What happens when something is missing: room, descriptors, the right file, a second address.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use futures_util::future::join_all;
use segno::server::{Server, StartError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::test_hub::{HeldFile, Program, TestHub, answer, config, reqwest_client, segno, within};

async fn start_error(folder: &Path) -> String {
    match Server::start(config(folder)).await {
        Ok(_) => panic!("it started"),
        Err(error) => chain(&error),
    }
}

fn chain(error: &StartError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[tokio::test]
async fn a_second_hub_on_the_same_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let hub = TestHub::start_in(folder, |_| ()).await;
    let told = start_error(&path).await;
    assert!(told.starts_with("another segno is running on "), "{told}");
    assert_eq!(hub.publish("t", ["alive"]).await, [1]);
    let folder = hub.stop().await;
    assert_eq!(TestHub::start_in(folder, |_| ()).await.last_id().await, 1);
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("segno.db");
    let other = Command::new("sqlite3")
        .arg(&db)
        .arg("create table notes (text)")
        .status()
        .unwrap();
    assert!(other.success());
    let before = fs::read(&db).unwrap();
    let told = start_error(folder.path()).await;
    assert!(
        told.ends_with("is not a segno file; choose another with --db"),
        "{told}"
    );
    assert_eq!(fs::read(&db).unwrap(), before);

    fs::write(
        &db,
        "this is no database, but a text of some length, as people have them in their folders",
    )
    .unwrap();
    let told = start_error(folder.path()).await;
    assert!(
        told.ends_with("is not a segno file; choose another with --db"),
        "{told}"
    );
}

#[tokio::test]
async fn a_file_of_a_newer_segno_is_refused() {
    let hub = TestHub::start().await;
    let db = hub.db();
    let folder = hub.stop().await;
    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (9999, 'newer', 1, x'00', 0)";
    assert!(
        Command::new("sqlite3")
            .arg(&db)
            .arg(newer)
            .status()
            .unwrap()
            .success()
    );
    let told = start_error(folder.path()).await;
    assert!(
        told.ends_with("was written by a newer segno; run that one"),
        "{told}"
    );
}

#[tokio::test]
async fn a_folder_that_is_not_there_or_an_address_that_is_taken_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let told = start_error(&folder.path().join("missing")).await;
    assert!(
        told.contains("cannot open ") && told.contains("No such file"),
        "{told}"
    );

    let hub = TestHub::start().await;
    let mut taken = config(folder.path());
    taken.listen = vec![hub.address().parse().unwrap()];
    let told = chain(&Server::start(taken).await.unwrap_err());
    assert!(
        told.starts_with("127.0.0.1:") && told.contains("is in use; is another segno running?"),
        "{told}"
    );
}

#[tokio::test]
async fn the_sqlite_shell_reads_while_the_hub_runs_and_no_publish_fails() {
    let hub = TestHub::start().await;
    let db = hub.db();
    let reading = tokio::task::spawn_blocking(move || {
        let mut last = 0;
        for _ in 0..20 {
            let rows = Command::new("sqlite3")
                .arg(&db)
                .arg("select * from history")
                .output()
                .unwrap();
            assert!(rows.status.success(), "{rows:?}");
            let rows = String::from_utf8(rows.stdout).unwrap();
            assert!(rows.lines().count() >= last);
            last = rows.lines().count();
        }
    });
    while !reading.is_finished() {
        hub.publish("t", ["x"]).await;
    }
    reading.await.unwrap();
    let history = Command::new("sqlite3")
        .arg(hub.db())
        .arg("select time, topic, data from history limit 1")
        .output()
        .unwrap();
    let line = String::from_utf8(history.stdout).unwrap();
    let (time, rest) = line.split_once('|').unwrap();
    let written = hub.get_json("/events/1").await["created_at"]
        .as_str()
        .unwrap()
        .replace('T', " ")
        .replace('Z', "");
    assert_eq!((time, rest), (written.as_str(), "t|\"x\"\n"));
}

/// A shell that holds the file for longer than a write waits.
#[tokio::test]
async fn a_publish_while_the_file_is_held_is_refused_and_works_again() {
    let hub = TestHub::start().await;
    let held = HeldFile::hold(&hub.db());
    let refusal = answer(hub.post("/topics/t").body("x")).await;
    assert_eq!(
        (refusal.status.as_u16(), refusal.code().as_str()),
        (503, "log_busy")
    );
    assert_eq!(refusal.header("retry-after"), "1");
    held.release();
    assert_eq!(hub.publish("t", ["x"]).await, [1]);
}

/// The hub on a disk of its own, of `size`, in a mount namespace of its own.
async fn start_on_small_disk(disk: &Path, size: &str) -> Program {
    let mut command = Command::new("unshare");
    let script = format!(
        "mount -t tmpfs -o size={size} hub '{0}' && exec '{1}' serve --listen 127.0.0.1:0 --db '{0}/segno.db'",
        disk.display(),
        segno().get_program().display(),
    );
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .stderr(Stdio::null());
    Program::spawn(command).await
}

#[tokio::test]
async fn a_full_disk_is_told_nothing_is_half_written_and_it_works_again() {
    let disk = tempfile::tempdir().unwrap();
    let program = start_on_small_disk(disk.path(), "4m").await;
    let hub = program.as_hub();
    let inside = format!("/proc/{}/root{}", program.id(), disk.path().display());
    let mut stream = hub.follow("").await;
    let [first] = hub.publish("t", ["before"]).await;
    fs::write(format!("{inside}/ballast"), vec![0; 2 * 1024 * 1024]).unwrap();

    let big = format!(
        "[{}]",
        vec![format!("{{\"data\":\"{}\"}}", "x".repeat(300_000)); 10].join(",")
    );
    let refusal = answer(hub.post_json("/events", big.clone())).await;
    assert_eq!(
        (refusal.status.as_u16(), refusal.code().as_str()),
        (507, "disk_full"),
        "{refusal:?}"
    );
    assert_eq!(hub.last_id().await, first, "nothing of the batch is stored");
    // Fill what is left, so that not even a small event fits.
    let mut ballast = fs::OpenOptions::new()
        .append(true)
        .open(format!("{inside}/ballast"))
        .unwrap();
    while ballast.write(&[0; 1024]).is_ok_and(|bytes| bytes > 0) {}
    let mut small = answer(hub.post("/topics/t").body("x")).await;
    while small.status == 201 {
        small = answer(hub.post("/topics/t").body("x")).await;
    }
    assert_eq!(small.code(), "disk_full");
    for _ in 0..2 {
        let erasure = reqwest_client().delete(hub.url("/events/1"));
        assert_eq!(answer(erasure).await.code(), "disk_full");
    }
    let ready = answer(hub.get("/health/ready")).await;
    assert_eq!(
        (ready.status.as_u16(), ready.code().as_str()),
        (503, "commits_fail"),
        "{ready:?}"
    );
    assert!(ready.body.contains("the disk is full"), "{ready:?}");
    let told = segno()
        .arg("ready")
        .env("SEGNO_URL", hub.url(""))
        .output()
        .unwrap();
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    assert!(
        String::from_utf8_lossy(&told.stderr).contains("the disk is full"),
        "{told:?}"
    );
    assert_eq!(answer(hub.get("/health/live")).await.status, 200);
    assert_eq!(
        hub.get_json("/events/1").await["data"],
        "before",
        "reading goes on"
    );

    drop(ballast); // An open file keeps its room.
    fs::remove_file(format!("{inside}/ballast")).unwrap();
    assert_eq!(
        answer(hub.get("/health/ready")).await.status,
        200,
        "it finds out by itself"
    );
    let [last] = hub.publish("t", ["after"]).await;
    let stored: Vec<u64> = hub.get_json("/events?limit=1000").await["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["id"].as_u64().unwrap())
        .collect();
    assert_eq!(
        stream.next_ids(stored.len()).await,
        stored,
        "what was refused was not announced"
    );
    assert_eq!(stored.last(), Some(&last));
}

/// A disk of its own that outlives the hubs on it.
pub(crate) struct SmallDisk {
    holder: std::process::Child,
    folder: tempfile::TempDir,
}

impl SmallDisk {
    pub(crate) async fn mount(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = format!(
            "mount -t tmpfs -o size={size} hub '{}' && touch '{0}/mounted' && exec sleep 600",
            folder.path().display()
        );
        let holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .spawn()
            .unwrap();
        let disk = Self { holder, folder };
        within("the disk", async {
            while !disk.inside().join("mounted").exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        disk
    }

    /// Its root, as seen from outside.
    pub(crate) fn inside(&self) -> std::path::PathBuf {
        let root = format!("/proc/{}/root", self.holder.id());
        format!("{root}{}", self.folder.path().display()).into()
    }

    /// Its root, as seen by programs that run on it.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `program` where the disk is.
    pub(crate) fn run(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.holder.id().to_string()])
            .args(["--user", "--mount", "--preserve-credentials"])
            .arg(program);
        command
    }

    pub(crate) fn serve(&self) -> Command {
        let mut command = self.run(segno().get_program());
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--db"])
            .arg(self.folder.path().join("segno.db"));
        command
    }

    async fn start_hub(&self) -> Program {
        Program::spawn(self.serve_quietly()).await
    }

    fn serve_quietly(&self) -> Command {
        let mut command = self.serve();
        command.stderr(Stdio::null());
        command
    }

    /// Leaves no room at all.
    pub(crate) fn fill(&self) {
        let mut ballast = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.inside().join("ballast"))
            .unwrap();
        for bytes in [1 << 20, 4096, 1] {
            while ballast.write(&vec![1; bytes]).is_ok_and(|bytes| bytes > 0) {}
        }
    }

    /// Takes the ballast away, if there is one.
    fn empty(&self) {
        _ = fs::remove_file(self.inside().join("ballast"));
    }

    /// Leaves room for this many blocks, and the WAL empty: the next commits have these blocks and no more.
    fn leave(&self, blocks: u64) {
        self.empty();
        let emptied = self
            .run("sqlite3")
            .args(["-cmd", ".timeout 10000"])
            .arg(self.path().join("segno.db"))
            .arg("pragma wal_checkpoint(truncate)")
            .output()
            .unwrap();
        assert_eq!(emptied.stdout, b"0|0|0\n", "{emptied:?}");
        self.fill();
        let ballast = fs::OpenOptions::new()
            .write(true)
            .open(self.inside().join("ballast"))
            .unwrap();
        let bytes = ballast.metadata().unwrap().len();
        ballast.set_len(bytes - blocks * 4096).unwrap();
    }

    /// Starts a hub that logs to the file, with these flags, on a disk with a ballast that leaves it room for its reserve and some MB.
    async fn start_logging_hub(&self, log: &Path, flags: &[&str]) -> Program {
        fs::write(self.inside().join("ballast"), vec![1; 8 << 20]).unwrap();
        let mut command = self.serve();
        command.args(flags).stderr(fs::File::create(log).unwrap());
        Program::spawn(command).await
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        _ = self.holder.kill();
        _ = self.holder.wait();
    }
}

#[tokio::test]
async fn a_hub_on_a_full_disk_starts_reads_and_deletes_until_there_is_room() {
    let disk = SmallDisk::mount("48m").await;
    let program = disk.start_hub().await;
    let hub = program.as_hub();
    hub.publish("kept", ["first"]).await;
    let big = "x".repeat(500_000);
    for _ in 0..16 {
        hub.publish("old", [big.as_str()]).await;
    }
    let reserve = disk.inside().join("segno.db-reserve");
    assert!(reserve.exists());
    disk.fill();
    while answer(hub.post("/topics/old").body(big.clone()))
        .await
        .status
        == 201
    {}
    program.kill();
    // As after a start of the machine: SQLite makes it anew.
    fs::remove_file(disk.inside().join("segno.db-shm")).unwrap();
    disk.fill();

    let aside = disk.inside().join("aside");
    fs::rename(&reserve, &aside).unwrap();
    let refused = disk.serve().output().unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("there is no room on the disk"), "{told}");
    fs::rename(&aside, &reserve).unwrap();
    let program = Program::spawn_unready(disk.serve_quietly()).await;
    let hub = program.as_hub();
    within("the hub to live", async {
        while answer(hub.get("/health/live")).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // The start gave up the reserve, and what there is is for deleting. Where the machine is slow, the hub has emptied its WAL
    // before it is asked, and has room for more than the reserve.
    let ready = answer(hub.get("/health/ready")).await;
    if ready.status == 200 {
        let small = answer(hub.post("/topics/old").body("small")).await;
        assert_eq!(small.status, 201, "it was ready: {small:?}");
        disk.fill();
    } else {
        assert_eq!(
            (ready.status.as_u16(), ready.code().as_str()),
            (503, "commits_fail"),
            "before anybody has published: {ready:?}"
        );
    }
    assert_eq!(hub.get_json("/events/1").await["data"], "first");
    let refusal = loop {
        let refusal = answer(hub.post("/topics/old").body(big.clone())).await;
        if refusal.status != 201 {
            break refusal;
        }
        disk.fill();
    };
    assert_eq!(
        (refusal.status.as_u16(), refusal.code().as_str()),
        (507, "disk_full"),
        "{refusal:?}"
    );
    let erased = answer(reqwest_client().delete(hub.url("/topics/old"))).await;
    assert_eq!(erased.status, 200, "{erased:?}");
    within("what was deleted to be room", async {
        while answer(hub.post("/topics/t").body("x")).await.status != 201 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(reserve.exists(), "it is held again");
    assert_eq!(answer(hub.get("/health/ready")).await.status, 200);
    assert_eq!(hub.get_json("/events/1").await["data"], "first");
}

/// What a hub logs when deleting needs the room that is kept for it.
const GIVEN_UP: &str = "its reserve was given up";

async fn publish_until_the_disk_is_full(hub: &TestHub) {
    let big = "x".repeat(500_000);
    let refusal = loop {
        let answered = answer(hub.post("/topics/old").body(big.clone())).await;
        if answered.status != 201 {
            break answered;
        }
    };
    assert_eq!(
        (refusal.status.as_u16(), refusal.code().as_str()),
        (507, "disk_full"),
        "{refusal:?}"
    );
}

async fn wait_for_room(hub: &TestHub) {
    within("room", async {
        while answer(hub.post("/topics/t").body("x")).await.status != 201 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// To mark a topic, to delete its events and to tell of it are commits of their own, and each may be the one that has no room.
#[tokio::test]
async fn on_a_disk_that_fills_up_while_the_hub_runs_deleting_works_wherever_the_room_ends() {
    let disk = SmallDisk::mount("24m").await;
    let log = disk.folder.path().join("log");
    let program = disk.start_logging_hub(&log, &[]).await;
    let hub = program.as_hub();
    hub.publish("kept", ["first"]).await;
    let given_up = || fs::read_to_string(&log).unwrap().matches(GIVEN_UP).count();
    let delete = async |path: &str, blocks| {
        let before = given_up();
        disk.leave(blocks);
        let deleted = answer(reqwest_client().delete(hub.url(path))).await;
        assert_eq!(deleted.status, 200, "{path}, {blocks} blocks: {deleted:?}");
        assert_eq!(hub.get_json("/events/1").await["data"], "first");
        disk.empty();
        wait_for_room(&hub).await;
        given_up() > before
    };
    let [id] = hub.publish("old", ["x"]).await;
    assert!(delete(&format!("/events/{id}"), 0).await);
    let mut blocks = 0;
    // Until there is room for all of it.
    while delete("/topics/old", blocks).await {
        hub.publish("old", ["x"]).await;
        blocks += 1;
    }
    assert!(blocks > 3, "only {blocks} blocks are enough");
}

#[tokio::test]
async fn a_disk_that_fills_up_while_the_hub_runs_has_room_again_when_an_event_and_a_topic_are_deleted()
 {
    let disk = SmallDisk::mount("40m").await;
    let log = disk.folder.path().join("log");
    let program = disk.start_logging_hub(&log, &[]).await;
    let hub = program.as_hub();
    hub.publish("kept", ["first"]).await;
    publish_until_the_disk_is_full(&hub).await;
    disk.leave(0);
    let small = answer(hub.post("/topics/old").body("small")).await;
    assert_eq!(small.code(), "disk_full");
    let reserve = disk.inside().join("segno.db-reserve");
    assert!(reserve.exists(), "publishing does not take it");

    for path in ["/events/2", "/topics/old"] {
        let deleted = answer(reqwest_client().delete(hub.url(path))).await;
        assert_eq!(deleted.status, 200, "{path}: {deleted:?}");
        let told = fs::read_to_string(&log).unwrap();
        assert_eq!(told.matches(GIVEN_UP).count(), 1, "{path}: {told}");
        assert_eq!(hub.get_json("/events/1").await["data"], "first", "{path}");
        let mut stream = hub.follow("?since=start").await;
        assert_eq!(stream.next_data().await, ["\"first\""], "{path}");
    }
    wait_for_room(&hub).await;
    assert!(reserve.exists(), "it is held again");
    assert_eq!(answer(hub.get("/health/ready")).await.status, 200);
}

#[tokio::test]
async fn a_disk_that_fills_up_while_the_hub_runs_has_room_again_when_retention_deletes_what_is_old()
{
    let disk = SmallDisk::mount("40m").await;
    let log = disk.folder.path().join("log");
    let program = disk.start_logging_hub(&log, &["--keep-age", "6s"]).await;
    let hub = program.as_hub();
    publish_until_the_disk_is_full(&hub).await;
    disk.leave(0);
    let last_id = hub.last_id().await;
    within("what is old to be deleted", async {
        while hub.get_json("/stats").await["events"] != 0 {
            assert_eq!(answer(hub.get("/events?limit=1")).await.status, 200);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let told = fs::read_to_string(&log).unwrap();
    assert_eq!(told.matches(GIVEN_UP).count(), 1, "{told}");
    assert!(!told.contains("old events cannot be trimmed"), "{told}");
    wait_for_room(&hub).await;
    assert!(disk.inside().join("segno.db-reserve").exists());
    assert_eq!(hub.last_id().await, last_id + 1);
}

#[tokio::test]
async fn a_disk_that_is_read_only_is_told_at_the_start() {
    let disk = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o ro hub '{0}' && exec '{1}' serve --listen 127.0.0.1:0 --db '{0}/segno.db'",
        disk.path().display(),
        segno().get_program().display()
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("segno: cannot open ") && told.contains("Read-only file system"),
        "{told}"
    );
}

/// Who has a file open may go on writing it, whatever its mode becomes; the next start may not.
#[tokio::test]
async fn a_file_that_is_made_read_only_is_written_while_it_is_open_and_told_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path()).await;
    let hub = program.as_hub();
    assert_eq!(hub.publish("t", ["before"]).await, [1]);
    let set_mode = |mode| {
        for entry in fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().contains("/segno.db") {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    };
    set_mode(0o444);
    assert_eq!(hub.publish("t", ["after"]).await, [2]);
    program.kill();
    // The lock is no part of the log, and whoever may not even write that learns it from the system.
    fs::set_permissions(
        folder.path().join("segno.db-lock"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    // In a namespace of its own root has no more rights than anybody.
    let refused = Command::new("unshare")
        .arg("--user")
        .arg(segno().get_program())
        .args(["serve", "--listen", "127.0.0.1:0", "--db"])
        .arg(folder.path().join("segno.db"))
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(
        told.contains("this user may not write ") && told.contains("segno.db, or its -wal or -shm"),
        "{told}"
    );
    set_mode(0o644);
    let program = Program::start(folder.path()).await;
    assert_eq!(program.as_hub().publish("t", ["again"]).await, [3]);
}

fn processor_seconds(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    // utime and stime, in hundredths of a second.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[tokio::test]
async fn without_descriptors_it_waits_does_not_spin_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path()).await;
    // Taken away while it runs: what is allowed at the start it would fit into.
    let taken = Command::new("prlimit")
        .args(["--nofile=64:64", &format!("--pid={}", program.id())])
        .status()
        .unwrap();
    assert!(taken.success());
    let hub = program.as_hub();
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(TcpStream::connect(hub.address()).await.unwrap());
    }
    let before = processor_seconds(program.id());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spent = processor_seconds(program.id()) - before;
    assert!(spent < 0.3, "it spun: {spent} s of processor in a second");
    drop(crowd);
    assert_eq!(hub.publish("t", ["after"]).await, [1]);
}

/// Twenty thousand, or what the descriptors of this process are enough for.
#[tokio::test(flavor = "multi_thread")]
async fn slow_twenty_thousand_connections_at_once_are_served_and_leave_nothing_behind() {
    let descriptors = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let connections = 20_000.min(usize::try_from(descriptors).unwrap() - 1000);
    let folder = tempfile::tempdir().unwrap();
    let mut command = segno();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--db"])
        .arg(folder.path().join("segno.db"))
        .args(["--max-connections-per-address", "30000"])
        .args(["--max-streams-per-address", "30000"])
        .stderr(Stdio::null());
    let program = Program::spawn(command).await;
    let hub = program.as_hub();
    let open_files = || {
        fs::read_dir(format!("/proc/{}/fd", program.id()))
            .unwrap()
            .count()
    };
    let before = open_files();
    let connect = |_| async {
        let mut socket = TcpStream::connect(("127.0.0.1", program.port))
            .await
            .unwrap();
        socket
            .write_all(b"GET /sse HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        read_until(&mut socket, b"\nid: 0\n\n").await;
        socket
    };
    let mut sockets = within(
        "all to be connected",
        join_all((0..connections).map(connect)),
    )
    .await;
    hub.publish("t", ["to all"]).await;
    within(
        "all to have the event",
        join_all(
            sockets
                .iter_mut()
                .map(|socket| read_until(socket, b"data: \"to all\"\n")),
        ),
    )
    .await;
    assert!(open_files() >= before + connections);
    drop(sockets);
    assert_eq!(hub.publish("t", ["after"]).await, [2]);
    within("the connections to be closed", async {
        while open_files() > before + 10 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(hub.get_json("/stats").await["subscribers"], 0);
}

async fn read_until(socket: &mut TcpStream, end: &[u8]) {
    let mut received = Vec::new();
    while !received.windows(end.len()).any(|window| window == end) {
        let mut chunk = [0; 1024];
        let bytes = socket.read(&mut chunk).await.unwrap();
        assert_ne!(
            bytes,
            0,
            "closed after {}",
            String::from_utf8_lossy(&received)
        );
        received.extend_from_slice(&chunk[..bytes]);
    }
}

/// In a network of its own, where the system gives up on a silent peer after about 3 s instead of 15 minutes.
#[test]
fn slow_a_peer_that_vanished_is_let_go_and_one_that_only_does_not_read_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
        ip link set lo up
        echo 3 > /proc/sys/net/ipv4/tcp_retries2
        "$SEGNO" serve --heartbeat 100ms & hub=$!
        trap 'kill -9 $hub $subscriber' EXIT
        "$SEGNO" ready --wait 20s
        curl -sN http://127.0.0.1:8000/sse > received & subscriber=$!
        # Connections that the hub has open: its port is 1F40.
        streams() { awk '$2 ~ /:1F40$/ && $4 == "01"' /proc/net/tcp | wc -l; }
        wait_for() {
            for _ in $(seq 300); do
                [ "$(eval "$1")" = "$2" ] && return
                sleep 0.1
            done
            echo "waited for $1 to be $2; it is $(eval "$1")"
            exit 1
        }
        wait_for streams 1
        kill -STOP $subscriber
        head -c 900000 /dev/zero | tr '\0' x > data
        for _ in $(seq 20); do curl -s --data-binary @data http://127.0.0.1:8000/topics/t > answer; done
        # Twice as long as the system waits for a peer that says nothing at all.
        sleep 7
        [ "$(streams)" = 1 ] || { echo "a subscriber that did not read was cut"; exit 1; }
        kill -CONT $subscriber
        wait_for 'grep -c ^data:.*xxx received' 20
        # It is gone, and nothing that it or its system says arrives.
        ip link set lo down
        wait_for streams 0
    "#;
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "bash", "-c", script])
        .current_dir(folder.path())
        .env("SEGNO", segno().get_program())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
