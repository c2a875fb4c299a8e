//! The program among others: signals, terminals, and outputs that are full or not read any more.

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::test_hub::{
    DEADLINE, HeldFile, Port, Program, TestHub, answer, reqwest_client, segno, within,
};

fn serve(folder: &Path, listen: &str) -> Command {
    let mut command = segno();
    command
        .args(["serve", "--listen", listen, "--db"])
        .arg(folder.join("segno.db"));
    command
}

/// Waits for `ended`, of the process group `id`. At the deadline the group is killed: a test that fails ends, too.
async fn or_killed<T: Send + 'static>(
    what: &str,
    id: u32,
    ended: impl FnOnce() -> T + Send + 'static,
) -> T {
    let ended = tokio::task::spawn_blocking(ended);
    match tokio::time::timeout(DEADLINE, ended).await {
        Ok(ended) => ended.unwrap(),
        Err(_) => {
            let group = format!("-{id}");
            _ = Command::new("kill").args(["-9", "--", &group]).status();
            panic!("waited {DEADLINE:?} for {what}");
        }
    }
}

/// Runs to its end.
async fn output(what: &str, mut command: Command) -> Output {
    let child = command
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    or_killed(what, child.id(), || child.wait_with_output().unwrap()).await
}

/// Starts one that logs to the file `log` in the folder.
async fn start(folder: &Path) -> Program {
    let mut command = serve(folder, "127.0.0.1:0");
    command.stderr(fs::File::create(folder.join("log")).unwrap());
    Program::spawn(command).await
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap()
}

#[tokio::test]
async fn a_signal_that_stops_the_hub_is_named_in_its_last_line() {
    for signal in ["TERM", "INT", "QUIT"] {
        let folder = tempfile::tempdir().unwrap();
        let mut program = start(folder.path()).await;
        program.as_hub().publish("t", ["x"]).await;
        program.signal(signal);
        assert_eq!(program.exit_code().await, Some(0), "{signal}");
        let log = log(folder.path());
        let last = log.lines().last().unwrap();
        assert!(
            last.ends_with(&format!("stopped signal=\"SIG{signal}\"")),
            "{log}"
        );
        assert!(
            !folder.path().join("segno.db-wal").exists(),
            "{signal} drains"
        );
    }
}

#[tokio::test]
async fn other_signals_do_not_kill_the_hub() {
    let folder = tempfile::tempdir().unwrap();
    let program = start(folder.path()).await;
    for signal in ["USR1", "USR2", "XFSZ", "HUP"] {
        program.signal(signal);
    }
    within("HUP to be logged", async {
        while !log(folder.path()).contains("SIGHUP: there is nothing to read again") {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(program.as_hub().publish("t", ["x"]).await, [1]);
}

/// A terminal that is closed sends HUP to what runs in it.
#[tokio::test]
async fn with_a_terminal_a_hang_up_drains() {
    const IN_A_TERMINAL: &str = "
import os, pty, signal, subprocess, sys
ours, theirs = pty.openpty()
hub = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=theirs)
hub.stdout.readline()
hub.send_signal(signal.SIGHUP)
print(hub.wait(30), os.read(ours, 65536).decode())
";
    let folder = tempfile::tempdir().unwrap();
    let hub = serve(folder.path(), "127.0.0.1:0");
    let mut python = Command::new("python3");
    python
        .args(["-c", IN_A_TERMINAL])
        .arg(hub.get_program())
        .args(hub.get_args());
    let ended = output("the hub to drain", python).await;
    let told = String::from_utf8(ended.stdout).unwrap();
    assert!(told.starts_with("0 ") && told.contains("SIGHUP"), "{told}");
}

#[tokio::test]
async fn a_hub_that_still_opens_its_file_heeds_signals() {
    let folder = TestHub::start().await.stop().await;
    let db = folder.path().join("segno.db");
    let held = HeldFile::hold_by(
        &db,
        "pragma locking_mode=exclusive;\nbegin exclusive;",
        "exclusive\n",
    );
    let port = Port::reserve();
    let mut command = serve(folder.path(), &port.address().to_string());
    command
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.path().join("log")).unwrap());
    let mut child = command.spawn().unwrap();
    within("it to listen", async {
        while TcpStream::connect(port.address()).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    let killed = Command::new("kill").arg(child.id().to_string()).status();
    assert!(killed.unwrap().success());
    let ended = or_killed("it to end", child.id(), move || child.wait().unwrap()).await;
    assert_eq!(ended.code(), Some(0));
    let log = log(folder.path());
    assert!(
        log.lines()
            .last()
            .unwrap()
            .ends_with("stopped before the file was open signal=\"SIGTERM\""),
        "{log}"
    );
    held.release();
}

#[tokio::test]
async fn outputs_that_are_full_do_not_end_the_hub() {
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let mut command = serve(folder.path(), &port.address().to_string());
    command.process_group(0).stdout(full()).stderr(full());
    let mut child = command.spawn().unwrap();
    let http = reqwest_client();
    within("it to be ready", async {
        while !http
            .get(format!("{}/health/ready", port.url()))
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            assert!(child.try_wait().unwrap().is_none(), "it ended");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    let publish = http.post(format!("{}/topics/t", port.url())).body("x");
    assert_eq!(answer(publish).await.status, 201);
    let killed = Command::new("kill").arg(child.id().to_string()).status();
    assert!(killed.unwrap().success());
    let ended = or_killed("it to drain", child.id(), move || child.wait().unwrap()).await;
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test]
async fn tail_ends_when_nobody_reads_what_it_prints() {
    let hub = TestHub::start().await;
    hub.publish("t", ["1"]).await;
    let pipeline = format!(
        "'{}' tail --since start | head -1",
        segno().get_program().display()
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &pipeline]).env("SEGNO_URL", hub.url(""));
    let ended = output("tail to end, without another event", shell).await;
    assert_eq!(ended.stdout, b"1\n");
}

/// Answers every request with `answer` and leaves the connection open.
async fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                _ = socket.read(&mut [0; 4096]).await;
                socket.write_all(answer.as_bytes()).await.unwrap();
                std::future::pending::<()>().await;
            });
        }
    });
    url
}

/// The first line that `tail` writes to standard error.
async fn complaint(url: &str) -> String {
    let mut child = segno()
        .args(["tail", "--url", url])
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = child.stderr.take().unwrap();
    let first_line = || BufReader::new(stderr).lines().next().unwrap().unwrap();
    let line = or_killed("a line", child.id(), first_line).await;
    child.kill().unwrap();
    child.wait().unwrap();
    line
}

/// It waits for an hour, and said so only after it.
#[tokio::test]
async fn tail_says_how_long_it_waits_before_it_waits() {
    let busy = answering(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 3600\r\ncontent-type: application/problem+json\r\n\
         content-length: 59\r\n\r\n{\"code\":\"busy\",\"detail\":\"the publish queue is full\"}        ",
    )
    .await;
    assert_eq!(
        complaint(&busy).await,
        "segno: the hub refuses for now: the publish queue is full; trying again in 1h"
    );
    let refusing = answering(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n\
         :\nretry: 60000\nevent: segno.refused\ndata: {\"code\":\"draining\",\"detail\":\"the hub is draining\"}\nid: 7\n\n",
    )
    .await;
    assert_eq!(
        complaint(&refusing).await,
        "segno: the hub refuses for now: the hub is draining; trying again in 1m"
    );
}

#[tokio::test]
async fn tail_skips_types_of_the_hub_that_it_does_not_know() {
    let newer = answering(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n\
         :\nretry: 2000\nevent: segno.cursor\ndata: {\"cursor\":1,\"log\":\"x\"}\nid: 1\n\n\
         event: segno.newer\ndata: {}\nid: 1\n\ndata: \"mine\"\nid: 2\n\n",
    )
    .await;
    let mut tail = segno();
    tail.args(["tail", "--count", "1", "--url", &newer]);
    let ended = output("tail to end", tail).await;
    assert_eq!(
        (ended.stdout.as_slice(), ended.stderr.as_slice()),
        (&b"\"mine\"\n"[..], &b""[..])
    );
}
