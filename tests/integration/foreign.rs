//! What other people and programs do to the file, while the hub runs on it and before.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use segno::{
    db::{self, Appender, EventLog, Order, Published, Range, Trim},
    event::{Data, EventId, NewEvent, Timestamp, Topic},
};

use super::test_hub::{Program, TestHub, answer, reqwest_client, seeded, segno, within};

fn beside(db: &Path, suffix: &str) -> PathBuf {
    format!("{}{suffix}", db.display()).into()
}

/// Runs `sql` in the `sqlite3` shell.
fn sqlite(db: &Path, sql: &str) -> String {
    let output = Command::new("sqlite3")
        .args(["-cmd", ".timeout 10000"])
        .arg(db)
        .arg(sql)
        .output()
        .unwrap();
    assert!(output.status.success(), "{sql}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Runs a command on the log at `db`; a deadline, because a file may hold views that never end.
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
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn fail(args: &[&str], db: &Path) -> String {
    let output = run(args, db).await;
    assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// What `segno serve` says when it refuses the file.
async fn refused(db: &Path) -> String {
    fail(&["serve", "--listen", "127.0.0.1:0"], db).await
}

async fn assert_refused_as_changed(hub: &TestHub, what: &str) {
    let last_id = async || hub.get_json("/stats").await["last_id"].clone();
    let before = last_id().await;
    for _ in 0..2 {
        let refusal = answer(hub.post("/topics/t").body("refused")).await;
        assert_eq!(
            (refusal.status.as_u16(), refusal.code().as_str()),
            (503, "log_changed"),
            "{what}: {refusal:?}"
        );
    }
    let batch = answer(hub.post_json("/events", r#"[{"data":1},{"data":2}]"#)).await;
    assert_eq!(batch.code(), "log_changed", "{what}");
    let erasure = reqwest_client().delete(hub.url("/events/1"));
    assert_eq!(answer(erasure).await.code(), "log_changed", "{what}");
    let ready = answer(hub.get("/health/ready")).await;
    assert_eq!(
        (ready.status.as_u16(), ready.code().as_str()),
        (503, "commits_fail"),
        "{what}"
    );
    assert!(ready.body.contains("another program changed"), "{ready:?}");
    assert_eq!(
        answer(hub.get("/health/live")).await.status,
        200,
        "{what}: it lives"
    );
    assert_eq!(last_id().await, before, "{what}: nothing was stored");
}

/// By a request and by a stream, from this event on.
async fn assert_reading_goes_on(hub: &TestHub, id: u64, data: &str, what: &str) {
    let event = hub.get_json(&format!("/events/{id}")).await;
    assert_eq!(event["data"], data, "{what}: {event}");
    let mut stream = hub.resume("", id - 1).await;
    assert_eq!(stream.next_data().await, [format!("\"{data}\"")], "{what}");
}

/// A hub in a process of its own, whose log has three events, the last of them after the backup `backup.db` in its folder.
struct Running {
    program: Program,
    folder: tempfile::TempDir,
}

impl Running {
    async fn with_an_older_backup() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::start(folder.path()).await;
        let running = Self { program, folder };
        running.hub().publish("t", ["first", "second"]).await;
        let backup = running.backup();
        succeed(&["backup", backup.to_str().unwrap()], &running.db()).await;
        running.hub().publish("t", ["third"]).await;
        running
    }

    fn hub(&self) -> TestHub {
        self.program.as_hub()
    }

    fn db(&self) -> PathBuf {
        self.folder.path().join("segno.db")
    }

    fn backup(&self) -> PathBuf {
        self.folder.path().join("backup.db")
    }

    /// Stops or kills the hub, and starts another on what is left there: a sound log that does not use ids again.
    async fn start_again(mut self, what: &str, kept: u64, kill: bool) {
        if kill {
            self.program.kill();
        } else {
            self.program.signal("TERM");
            assert_eq!(self.program.exit_code().await, Some(0), "{what}");
        }
        let program = Program::start(self.folder.path()).await;
        let hub = program.as_hub();
        assert_eq!(
            hub.get_json("/stats").await["events"],
            kept,
            "{what}: what is in the file now"
        );
        let mut stream = hub.resume("", 3).await;
        let gap = stream.next().await;
        assert_eq!(gap.event_type, "segno.gap", "{what}");
        assert!(gap.data.contains("\"lost\""), "{what}: {gap:?}");
        let [next] = hub.publish("t", ["next"]).await;
        assert!(next > 3, "{what}: {next} was given before");
        assert_eq!(stream.next_ids(1).await, [next], "{what}");
        let told = succeed(&["check"], &self.folder.path().join("segno.db")).await;
        assert!(told.ends_with("sound\n"), "{what}: {told}");
    }
}

#[tokio::test]
async fn a_file_that_is_overwritten_while_it_is_open_is_noticed_before_anything_is_acknowledged() {
    for (wal_is_empty, kill) in [(false, false), (true, false), (false, true)] {
        let running = Running::with_an_older_backup().await;
        if wal_is_empty {
            // So that the file has everything, and its time is old.
            sqlite(&running.db(), "pragma wal_checkpoint(truncate)");
            assert_eq!(answer(running.hub().get("/health/ready")).await.status, 200);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The note is written once a second.
        within("the note of the highest id", async {
            let note = beside(&running.db(), "-highest");
            while fs::read_to_string(&note).unwrap_or_default() != "3\n" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        // As `cp` does: the same inode, with other content.
        fs::write(running.db(), fs::read(running.backup()).unwrap()).unwrap();
        assert_refused_as_changed(&running.hub(), "a backup over it").await;
        running.start_again("a backup over it", 2, kill).await;
    }
}

#[tokio::test]
async fn a_file_that_is_emptied_while_it_is_open_is_noticed_before_anything_is_acknowledged() {
    let running = Running::with_an_older_backup().await;
    fs::write(running.db(), "").unwrap();
    assert_refused_as_changed(&running.hub(), "emptied").await;
    running.start_again("emptied", 0, false).await;
}

/// The WAL is all that has the newest events.
#[tokio::test]
async fn a_wal_that_is_emptied_while_it_is_open_is_noticed_before_anything_is_acknowledged() {
    let running = Running::with_an_older_backup().await;
    sqlite(&running.db(), "pragma wal_checkpoint(truncate)");
    running.hub().publish("t", ["in the WAL"]).await;
    fs::write(beside(&running.db(), "-wal"), "").unwrap();
    assert_refused_as_changed(&running.hub(), "WAL emptied").await;
    running.start_again("WAL emptied", 3, false).await;
}

#[tokio::test]
async fn a_restore_by_sqlite_into_the_open_file_is_noticed_before_anything_is_acknowledged() {
    let running = Running::with_an_older_backup().await;
    let restore = Command::new("sqlite3")
        .args(["-cmd", ".timeout 10000"])
        .arg(running.db())
        .arg(format!(".restore {}", running.backup().display()))
        .output()
        .unwrap();
    assert!(restore.status.success(), "{restore:?}");
    assert_refused_as_changed(&running.hub(), ".restore").await;
    assert_reading_goes_on(&running.hub(), 2, "second", ".restore").await;
    running.start_again(".restore", 2, false).await;
}

#[tokio::test]
async fn a_row_that_somebody_else_inserts_is_noticed_and_never_a_500() {
    for sql in [
        "insert into events (topic, type, data, created_at) values ('t', 'm', '1', 0)",
        "insert into events (id, topic, type, data, created_at) values (4000, 't', 'm', '1', 0)",
        "delete from events where id = 1",
        "delete from events",
        "update sqlite_sequence set seq = 1",
        "update log set id = '00000000-0000-4000-8000-000000000000'",
        "create trigger forge after insert on events begin delete from events where id = 1; end",
        "create view v as select 1",
    ] {
        let hub = TestHub::start().await;
        hub.publish("t", ["first", "second"]).await;
        sqlite(&hub.db(), sql);
        assert_refused_as_changed(&hub, sql).await;
        match sql {
            "delete from events" => assert_eq!(answer(hub.get("/events/2")).await.status, 404),
            _ => assert_reading_goes_on(&hub, 2, "second", sql).await,
        }
    }
}

/// A trigger could forge events, so the next start does not run it.
#[tokio::test]
async fn a_trigger_that_was_made_while_the_hub_ran_is_refused_at_the_next_start_until_it_is_dropped()
 {
    let hub = TestHub::start().await;
    hub.publish("t", ["first"]).await;
    sqlite(
        &hub.db(),
        "create trigger forge after insert on events begin delete from events where id = 1; end",
    );
    assert_refused_as_changed(&hub, "a trigger").await;
    let folder = hub.stop().await;
    let db = folder.path().join("segno.db");
    let told = refused(&db).await;
    assert!(told.contains("it has a trigger forge"), "{told}");
    sqlite(&db, "drop trigger forge");
    let hub = TestHub::start_in(folder, |_| ()).await;
    assert_eq!(hub.publish("t", ["second"]).await, [2]);
    assert_reading_goes_on(&hub, 1, "first", "without the trigger").await;
}

/// After a restart the row is one of the log.
#[tokio::test]
async fn a_row_that_somebody_else_inserted_is_there_after_a_restart() {
    let hub = TestHub::start().await;
    hub.publish("t", ["first"]).await;
    sqlite(
        &hub.db(),
        "insert into events (topic, type, data, created_at) select 't', 'm', '\"theirs\"', created_at from events",
    );
    assert_refused_as_changed(&hub, "a row").await;
    let hub = TestHub::start_in(hub.stop().await, |_| ()).await;
    assert_eq!(hub.get_json("/events/2").await["data"], "theirs");
    assert_eq!(hub.publish("t", ["next"]).await, [3]);
}

/// What reads, and what writes only what is its own, such as Litestream.
#[tokio::test]
async fn what_does_no_harm_to_the_file_is_let_be() {
    let hub = TestHub::start().await;
    hub.publish("t", ["x"]).await;
    for harmless in [
        "select count(*) from history",
        "pragma wal_checkpoint",
        "pragma wal_checkpoint(truncate)",
        "create table _litestream_seq (id integer primary key, seq integer)",
        "insert into _litestream_seq values (1, 1)",
        "pragma wal_checkpoint(restart); update _litestream_seq set seq = seq + 1",
        "begin; insert into events (topic, type, data, created_at) values ('t', 'm', '1', 0); rollback",
        "pragma cache_size = 1; begin; insert into _litestream_seq select value, 1 from generate_series(10, 20000); rollback",
        "analyze",
    ] {
        sqlite(&hub.db(), harmless);
        assert_eq!(
            answer(hub.get("/health/ready")).await.status,
            200,
            "{harmless}"
        );
        hub.publish("t", ["x", "y"]).await;
    }
    let touched = Command::new("touch").arg(hub.db()).status().unwrap();
    assert!(touched.success());
    hub.publish("t", ["x"]).await;
    // Its own checkpoints, by the size of the WAL and by retention.
    let big = "x".repeat(900_000);
    for _ in 0..12 {
        hub.publish("t", [big.as_str()]).await;
    }
    let erased = reqwest_client().delete(hub.url("/topics/t"));
    assert_eq!(answer(erased).await.status, 200);
    hub.publish("t", ["x"]).await;
    let folder = hub.stop().await;
    assert!(
        succeed(&["check"], &folder.path().join("segno.db"))
            .await
            .ends_with("sound\n")
    );
    TestHub::start_in(folder, |_| ())
        .await
        .publish("t", ["x"])
        .await;
}

#[tokio::test]
async fn a_second_hub_is_refused_whatever_name_it_has_for_the_file() {
    let hub = TestHub::start().await;
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link.db");
    symlink(hub.db(), &link).unwrap();
    let told = refused(&link).await;
    assert!(told.contains("another segno is running on "), "{told}");
    let folder_link = folder.path().join("folder");
    symlink(hub.db().parent().unwrap(), &folder_link).unwrap();
    let told = refused(&folder_link.join("segno.db")).await;
    assert!(told.contains("another segno is running on "), "{told}");

    let second = hub.db().with_file_name("second.db");
    fs::hard_link(hub.db(), &second).unwrap();
    let told = refused(&second).await;
    assert!(told.contains("has another name, a hard link"), "{told}");
    fs::remove_file(&second).unwrap();

    let nowhere = folder.path().join("nowhere.db");
    symlink(folder.path().join("missing.db"), &nowhere).unwrap();
    let told = refused(&nowhere).await;
    assert!(told.contains("to a file that does not exist"), "{told}");
    let told = refused(folder.path()).await;
    assert!(told.contains("is not a file"), "{told}");
    hub.publish("t", ["alive"]).await;
}

/// Links are followed, and what SQLite and segno keep beside the file is beside the file itself.
#[tokio::test]
async fn a_log_behind_a_link_has_its_notes_beside_the_file() {
    let hub = TestHub::start().await;
    hub.publish("t", ["x"]).await;
    let folder = hub.stop().await;
    let links = tempfile::tempdir().unwrap();
    let link = links.path().join("segno.db");
    symlink(folder.path().join("segno.db"), &link).unwrap();
    let program = Program::start(links.path()).await;
    assert_eq!(program.as_hub().publish("t", ["y"]).await, [2]);
    let names = fs::read_dir(links.path()).unwrap().count();
    assert_eq!(names, 1, "the link alone");
}

/// What docker makes of `-v x.db:/data/segno.db`.
#[test]
fn a_file_that_is_itself_a_mount_point_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["outside.db", "inside.db"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    let script = "mount --bind outside.db inside.db && exec \"$SEGNO\" serve --listen 127.0.0.1:0 --db inside.db";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .current_dir(folder.path())
        .env("SEGNO", segno().get_program())
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("is itself a mount point") && told.contains("mount its folder"),
        "{told}"
    );
}

/// SQLite gives some names a meaning of their own.
#[tokio::test]
async fn a_log_has_the_very_name_that_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("lines");
    let event =
        r#"{"id":1,"topic":"t","type":"message","data":1,"created_at":"2026-01-31T12:00:00.000Z"}"#;
    fs::write(&lines, format!("{event}\n")).unwrap();
    for name in [
        "file:x",
        ":memory:",
        "a?b=c",
        "a#b",
        "a%20b",
        "file:y?mode=memory",
        " ",
    ] {
        let mut import = segno();
        import
            .args(["import", lines.to_str().unwrap(), "--db", name])
            .current_dir(folder.path());
        let output = import.output().unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
        let db = folder.path().join(name);
        assert!(db.metadata().unwrap().len() > 0, "{name}");
        assert!(
            succeed(&["check"], &db).await.contains("1 event, up to 1"),
            "{name}"
        );
        let copy = folder.path().join(format!("{name}.backup"));
        succeed(&["backup", copy.to_str().unwrap()], &db).await;
        assert!(copy.exists(), "{name}");
    }
}

/// A log without a hub, and a copy of it for each thing that is done to it.
async fn stopped_log() -> tempfile::TempDir {
    let hub = TestHub::start().await;
    hub.publish("t", ["first", "second"]).await;
    hub.stop().await
}

#[tokio::test]
async fn a_file_with_code_or_tables_that_are_not_segnos_is_refused() {
    let folder = stopped_log().await;
    let db = folder.path().join("segno.db");
    for (sql, told) in [
        (
            "create trigger forge after insert on events begin delete from events; end",
            "trigger forge",
        ),
        ("create view spy as select 1", "view spy"),
        ("create table notes (text)", "table notes"),
        ("create index by_data on events (data)", "index by_data"),
        ("drop view history", "no view history"),
        (
            "drop table log; create view log as with recursive n(id) as (select 1 union all select id + 1 from n) select max(id) as id from n",
            "view log",
        ),
        (
            "drop table trimmed; create table trimmed (topic text, last_id integer)",
            "table trimmed",
        ),
        (
            "alter table _sqlx_migrations rename to m; create view _sqlx_migrations as select * from m",
            "_sqlx_migrations",
        ),
        (
            "update log set id = 'x' || char(13, 10) || 'set-cookie: a'",
            "log id",
        ),
        ("delete from log", "log id"),
        ("insert into log select id from log", "log id"),
        (
            "update sqlite_sequence set seq = 9007199254740992",
            "has the id 9007199254740992",
        ),
        (
            "insert into events values (9223372036854775807, 't', 'm', '1', 0, null)",
            "has the id 9223372036854775807",
        ),
    ] {
        let hostile = folder.path().join("hostile.db");
        fs::copy(&db, &hostile).unwrap();
        sqlite(&hostile, sql);
        let before = fs::read(&hostile).unwrap();
        let new = folder.path().join("new.db");
        for output in [
            refused(&hostile).await,
            fail(&["check"], &hostile).await,
            fail(&["export"], &hostile).await,
            fail(&["restore", hostile.to_str().unwrap()], &new).await,
        ] {
            assert!(output.contains(told), "{sql}: {output}");
        }
        assert_eq!(
            fs::read(&hostile).unwrap(),
            before,
            "{sql}: it is left as it is"
        );
        assert!(!new.exists());
    }
    // What SQLite and Litestream keep there.
    sqlite(&db, "analyze; create table _litestream_lock (id integer)");
    succeed(&["check"], &db).await;
    TestHub::start_in(folder, |_| ())
        .await
        .publish("t", ["x"])
        .await;
}

/// A row that could forge a field of a stream is damage, for readers and for `check`.
#[tokio::test]
async fn a_row_that_breaks_the_rules_is_told_and_never_sent() {
    let folder = stopped_log().await;
    let db = folder.path().join("segno.db");
    for (column, value) in [
        ("type", "'x' || char(10) || 'id: 99'"),
        ("topic", "'a b'"),
        ("key", "char(13)"),
        ("data", "'[1,' || char(10) || '2]'"),
        ("data", "cast(x'22ff22' as text)"),
    ] {
        let hostile = tempfile::tempdir().unwrap();
        let copy = hostile.path().join("segno.db");
        fs::copy(&db, &copy).unwrap();
        sqlite(
            &copy,
            &format!("update events set {column} = {value} where id = 2"),
        );
        let told = fail(&["check"], &copy).await;
        assert!(told.contains("is not sound"), "{told}");
        let hub = TestHub::start_in(hostile, |_| ()).await;
        let mut stream = hub.follow("?since=start").await;
        assert_eq!(stream.next_ids(1).await, [1]);
        assert_eq!(stream.next().await.event_type, "segno.error", "{column}");
        assert_eq!(answer(hub.get("/events/2")).await.code(), "log_corrupt");
    }
}

#[tokio::test]
async fn ids_end_where_javascript_rounds_them() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("segno.db");
    let import = |id: u64| {
        let lines = folder.path().join("lines");
        let event = format!(
            r#"{{"id":{id},"topic":"t","type":"message","data":1,"created_at":"2026-01-31T12:00:00.000Z"}}"#
        );
        fs::write(&lines, event + "\n").unwrap();
        lines
    };
    let last = (1 << 53) - 1;
    for id in [0, last + 1, i64::MAX.unsigned_abs()] {
        let told = fail(&["import", import(id).to_str().unwrap()], &db).await;
        assert!(told.contains("from 1 to 9007199254740991"), "{told}");
    }
    succeed(&["import", import(last - 1).to_str().unwrap()], &db).await;
    let hub = TestHub::start_in(folder, |_| ()).await;
    let none = answer(hub.post_json("/events", r#"[{"data":1},{"data":2}]"#)).await;
    assert_eq!(
        (none.status.as_u16(), none.code().as_str()),
        (507, "ids_exhausted")
    );
    assert_eq!(hub.publish("t", ["the last"]).await, [last]);
    let none = answer(hub.post("/topics/t").body("x")).await;
    assert_eq!(none.code(), "ids_exhausted");
    let folder = hub.stop().await;
    let hub = TestHub::start_in(folder, |_| ()).await;
    assert_eq!(hub.last_id().await, last);
    let note = beside(&hub.db(), "-highest");
    let db = hub.db();
    let _folder = hub.stop().await;
    fs::write(&note, "9007199254740992\n").unwrap();
    let told = refused(&db).await;
    assert!(told.contains("-highest does not hold an id"), "{told}");
    fs::remove_file(&note).unwrap();
    sqlite(
        &db,
        "update sqlite_sequence set seq = 9007199254740992 where name = 'events'",
    );
    let told = refused(&db).await;
    assert!(told.contains("9007199254740992"), "{told}");
}

/// Nobody is told an id that is none, wherever it stands in the file.
#[tokio::test]
async fn an_id_out_of_range_is_refused_in_every_table() {
    let folder = stopped_log().await;
    let db = folder.path().join("segno.db");
    let hostile = folder.path().join("hostile.db");
    for id in [1 << 53, i64::MAX, -1, i64::MIN] {
        for sql in [
            format!("update sqlite_sequence set seq = {id}"),
            format!("insert into events values ({id}, 't', 'm', '1', 0, null)"),
            format!("insert into trimmed values ('t', {id})"),
            format!("insert into lost values ({id}, 1, 0)"),
            format!("insert into lost values (0, {id}, 0)"),
            format!("insert into command_ids values ({id}, 1, 1)"),
            format!("insert into command_ids values (1, {id}, 1)"),
            format!("insert into command_duplicates values ({id}, 1)"),
        ] {
            fs::copy(&db, &hostile).unwrap();
            sqlite(&hostile, &sql);
            let new = folder.path().join("new.db");
            for told in [
                refused(&hostile).await,
                fail(&["check"], &hostile).await,
                fail(&["restore", hostile.to_str().unwrap()], &new).await,
            ] {
                let expected = format!("has the id {id}, and ids are from 1 to 9007199254740991");
                assert!(told.contains(&expected), "{sql}: {told}");
            }
            assert!(!new.exists(), "{sql}");
        }
    }
    // Tables that get ids later than this test are to be looked at too.
    let schema = sqlite(
        &db,
        "select group_concat(m.name || '.' || c.name, ' ') from sqlite_schema m, pragma_table_info(m.name) c
         where m.type = 'table' and m.name <> 'log' and (c.name = 'id' or substr(c.name, -3) = '_id') and c.type = 'INTEGER'",
    );
    assert_eq!(
        schema,
        "events.id trimmed.last_id lost.after_id lost.through_id command_ids.first_id command_ids.last_id command_duplicates.event_id"
    );
}

/// Nobody but the owner reads the events.
#[tokio::test]
async fn files_are_made_for_their_owner_alone() {
    let hub = TestHub::start().await;
    hub.publish("t", ["x"]).await;
    let backup = hub.db().with_file_name("backup.db");
    succeed(&["backup", backup.to_str().unwrap()], &hub.db()).await;
    let folder = hub.stop().await;
    let restored = folder.path().join("restored.db");
    succeed(&["restore", backup.to_str().unwrap()], &restored).await;
    let export = folder.path().join("export.ndjson");
    succeed(&["export", export.to_str().unwrap()], &restored).await;
    for entry in fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.path());
    }
}

#[tokio::test]
async fn a_restore_and_a_backup_follow_no_link_that_somebody_put_there() {
    let hub = TestHub::start().await;
    hub.publish("t", ["x"]).await;
    let backup = hub.db().with_file_name("backup.db");
    let victim = hub.db().with_file_name("victim");
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, beside(&backup, ".new")).unwrap();
    succeed(&["backup", backup.to_str().unwrap()], &hub.db()).await;
    let new = hub.db().with_file_name("new.db");
    symlink(&victim, beside(&new, ".new")).unwrap();
    succeed(&["restore", backup.to_str().unwrap()], &new).await;
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(new.symlink_metadata().unwrap().is_file());
    let link = hub.db().with_file_name("link.db");
    symlink(&victim, &link).unwrap();
    let told = fail(&["restore", backup.to_str().unwrap()], &link).await;
    assert!(told.contains("`--replace` moves it aside"), "{told}");

    let db = hub.db();
    let _folder = hub.stop().await;
    fs::remove_file(beside(&db, "-lock")).unwrap();
    symlink(&victim, beside(&db, "-lock")).unwrap();
    let told = refused(&db).await;
    assert!(
        told.contains("-lock is a symbolic link; remove it"),
        "{told}"
    );
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

/// The name of each file in a folder, with what is in it; but for the index of the WAL, which every reader makes anew.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut contents: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.to_string_lossy().ends_with("-shm"))
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    contents.sort();
    contents
}

#[tokio::test]
async fn reading_a_file_changes_nothing_in_it_nor_in_its_wal() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path()).await;
    program.as_hub().publish("t", ["first", "second"]).await;
    program.kill();
    let db = folder.path().join("segno.db");
    assert!(fs::metadata(beside(&db, "-wal")).unwrap().len() > 0);
    let before = contents(folder.path());
    assert!(succeed(&["check"], &db).await.contains("2 events"));
    let exported = succeed(&["export"], &db).await;
    assert_eq!(exported.lines().count(), 2);
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("copy.db");
    succeed(&["backup", copy.to_str().unwrap()], &db).await;
    let restored = elsewhere.path().join("restored.db");
    succeed(&["restore", db.to_str().unwrap()], &restored).await;
    assert!(
        succeed(&["check"], &restored).await.contains("2 events"),
        "what is in the WAL is restored too"
    );
    assert!(contents(folder.path()) == before);

    // Somebody else's file, whose program was killed.
    let foreign = tempfile::tempdir().unwrap();
    let other = foreign.path().join("segno.db");
    let script = format!(
        "sqlite3 '{}' 'pragma journal_mode = wal; create table notes (text); insert into notes values (1);' '.shell kill -9 $PPID'",
        other.display()
    );
    _ = Command::new("sh").arg("-c").arg(script).output().unwrap();
    assert!(fs::metadata(beside(&other, "-wal")).unwrap().len() > 0);
    let before = contents(foreign.path());
    for told in [refused(&other).await, fail(&["check"], &other).await] {
        assert!(told.contains("is not a segno file"), "{told}");
    }
    let mut after = contents(foreign.path());
    after.retain(|(path, _)| !path.to_string_lossy().ends_with("-lock"));
    assert!(after == before);
}

/// The names of files that are not there, once and with what to do.
#[tokio::test]
async fn what_is_wrong_with_a_file_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("nosuch.db");
    let told = fail(&["check"], &missing).await;
    assert_eq!(
        told,
        format!("segno: there is no file {}; see --db\n", missing.display())
    );
    let told = fail(&["restore", missing.to_str().unwrap()], &missing).await;
    assert_eq!(
        told,
        format!("segno: there is no backup {}\n", missing.display())
    );
    assert!(!missing.exists());
}

/// JSON that SQLite cannot read was taken once, and stays in the log.
#[tokio::test]
async fn data_deeper_than_sqlite_reads_is_refused_and_what_is_in_the_log_is_kept() {
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let hub = TestHub::start().await;
    let post = |levels: usize| hub.post_json("/topics/t", nested(levels));
    assert_eq!(answer(post(1000)).await.status, 201);
    let refusal = answer(post(1001)).await;
    assert_eq!(
        (refusal.status.as_u16(), refusal.code().as_str()),
        (400, "data_too_deep")
    );
    for (path, body) in [
        ("/events", format!("{{\"data\":{}}}", nested(1001))),
        ("/events", format!("[{{\"data\":{}}}]", nested(100_000))),
    ] {
        assert_eq!(
            answer(hub.post_json(path, body)).await.code(),
            "data_too_deep"
        );
    }
    let folder = hub.stop().await;
    let db = folder.path().join("segno.db");
    sqlite(
        &db,
        "update events set data = replace(hex(zeroblob(2500)), '00', '[') || replace(hex(zeroblob(2500)), '00', ']')",
    );
    succeed(&["check"], &db).await;
    let (copy, restored) = (
        folder.path().join("copy.db"),
        folder.path().join("restored.db"),
    );
    succeed(&["backup", copy.to_str().unwrap()], &db).await;
    succeed(&["restore", copy.to_str().unwrap()], &restored).await;
    let lines = folder.path().join("lines");
    succeed(&["export", lines.to_str().unwrap()], &db).await;
    let new = folder.path().join("new.db");
    succeed(&["import", lines.to_str().unwrap()], &new).await;
    assert_eq!(sqlite(&new, "select length(data) from events"), "5000");
}

/// A write beyond `ulimit -f` comes with a signal whose default is to kill.
#[tokio::test]
async fn a_limit_on_the_size_of_files_is_a_full_disk_and_not_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("prlimit");
    command
        .arg("--fsize=8000000")
        .arg(segno().get_program())
        .args(["serve", "--listen", "127.0.0.1:0", "--db"])
        .arg(folder.path().join("segno.db"))
        .stderr(Stdio::null());
    let program = Program::spawn(command).await;
    let hub = program.as_hub();
    let big = "x".repeat(900_000);
    let mut stored = 0;
    let refusal = loop {
        let published = answer(hub.post("/topics/t").body(big.clone())).await;
        if published.status != 201 {
            break published;
        }
        stored += 1;
    };
    assert_eq!(
        (refusal.status.as_u16(), refusal.code().as_str()),
        (507, "disk_full"),
        "{refusal:?}"
    );
    assert!(stored > 2);
    assert_eq!(hub.get_json("/stats").await["events"], stored);
    assert_eq!(answer(hub.get("/health/live")).await.status, 200);
}

/// All that a hub does with a file. What it says of each is not looked at: it must only come to an end.
async fn do_everything(log: &EventLog, appender: &mut Appender) {
    let filter = Arc::default();
    for order in [Order::Ascending, Order::Descending] {
        let mut range = Range::after(EventId::ZERO);
        while let Ok(page) = log.page(&filter, range, order, 100).await
            && let Some(read_on) = page.read_on
        {
            match order {
                Order::Ascending => range.after = read_on,
                Order::Descending => range.before = read_on,
            }
        }
    }
    _ = log.topics_after("", 100).await;
    _ = log.count().await;
    _ = log.trimmed_after(&filter, EventId::ZERO).await;
    let topic = Topic::new("t1").unwrap();
    let event = || NewEvent {
        topic: topic.clone(),
        event_type: Default::default(),
        data: Data::from_text("x").unwrap(),
        key: Some(segno::event::Key::new("k3").unwrap()),
    };
    _ = appender
        .append(
            [(); 2]
                .map(|()| Published {
                    at: Timestamp::now(),
                    events: vec![event()],
                })
                .into(),
        )
        .await;
    _ = appender.erase("5".parse().unwrap(), Timestamp::now()).await;
    let trim = Trim {
        erases: false,
        topic: Some(topic.clone()),
        through: "50".parse().unwrap(),
    };
    if let Ok(Some(step)) = appender.trim_step(&trim).await {
        _ = appender.trim(Some(&topic), step.through).await;
    }
    _ = appender.probe().await;
    _ = appender.clean_wal().await;
}

/// A thousand files, each with damage of its own: bytes, stretches, pages in the wrong place, an end that is missing.
#[tokio::test]
async fn slow_no_damage_to_a_file_panics_or_hangs_anybody() {
    let hub = TestHub::start().await;
    hub.publish_many(300, |n| format!("t{}", n % 5)).await;
    for n in 1..=5 {
        let event = format!(
            r#"{{"topic":"t1","data":"{}","key":"k{n}"}}"#,
            "x".repeat(n * 3000)
        );
        assert_eq!(answer(hub.post_json("/events", event)).await.status, 201);
    }
    answer(reqwest_client().delete(hub.url("/topics/t2"))).await;
    let folder = hub.stop().await;
    let whole = fs::read(folder.path().join("segno.db")).unwrap();
    let memory = Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => folder,
    };
    let mut random = seeded();
    let (mut opened, mut unsound) = (0, 0);
    for round in 0..1000 {
        let mut bytes = whole.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            match random.u8(..6) {
                // The head and the schema are where a little does most.
                0 => bytes[at % 600] = random.u8(..),
                1 => bytes[at] = random.u8(..),
                2 => bytes[at] ^= 1 << random.u8(..8),
                3 => {
                    let end = (at + random.usize(1..5000)).min(bytes.len());
                    bytes[at..end].fill_with(|| random.u8(..));
                }
                4 => {
                    let pages = bytes.len() / 4096;
                    if pages > 1 {
                        let (from, to) = (random.usize(..pages), random.usize(..pages));
                        bytes.copy_within(from * 4096..(from + 1) * 4096, to * 4096);
                    }
                }
                _ => bytes.truncate(at.max(1)),
            }
        }
        let db = folder.path().join(format!("{round}.db"));
        fs::write(&db, &bytes).unwrap();
        let told = within(format_args!("round {round}"), async {
            let checked = db::check(&db).await;
            unsound += u32::from(checked.as_ref().is_ok_and(|found| !found.faults.is_empty()));
            let mut told = format!("{checked:?}");
            match db::open(&db).await {
                Ok((log, mut appender)) => {
                    opened += 1;
                    do_everything(&log, &mut appender).await;
                    log.close().await;
                    told += &format!("{:?}", appender.close().await);
                }
                Err(error) => told += &format!("{error:?}"),
            }
            told
        })
        .await;
        assert!(!told.contains("WorkerCrashed"), "round {round}: {told}");
        for suffix in ["", "-wal", "-shm", "-lock"] {
            _ = fs::remove_file(beside(&db, suffix));
        }
    }
    assert!(opened > 100, "only {opened} could be opened");
    assert!(unsound > 100, "only {unsound} were found to be unsound");
}
