//! Stopping: publishers are answered, streams end cleanly, the WAL is in the file, the exit code is 0.

use std::process::{Command, Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::test_hub::{Program, TestHub, answer, queued_bytes, segno, within};

#[tokio::test]
async fn streams_end_cleanly_with_a_retry_that_is_spread() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a"]).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(hub.follow("?since=start").await);
    }
    hub.begin_to_stop();
    let mut retries = Vec::new();
    for stream in &mut streams {
        stream.read_to_end().await.unwrap();
        assert_eq!(stream.take_received().len(), 1);
        // Back again with the cursor that it has, also if the client takes each block for itself.
        let last = stream.received.trim_end().rsplit("\n\n").next().unwrap();
        let (retry, rest) = last.split_once('\n').unwrap();
        assert_eq!(
            rest.split_once(",\"log\"").unwrap().0,
            "event: segno.cursor\ndata: {\"cursor\":1"
        );
        assert!(rest.ends_with("\"}\nid: 1"), "{rest}");
        retries.push(
            retry
                .strip_prefix("retry: ")
                .unwrap()
                .parse::<u32>()
                .unwrap(),
        );
    }
    assert!(
        retries.iter().all(|retry| (1000..5000).contains(retry)),
        "{retries:?}"
    );
    retries.dedup();
    assert!(retries.len() > 10, "{retries:?}");
    hub.stop().await;
}

/// One that is far behind ends too; it comes back with its cursor.
#[tokio::test]
async fn a_subscriber_far_behind_loses_nothing_over_a_drain() {
    let hub = TestHub::start().await;
    let big = "x".repeat(200_000);
    for n in 1..=60 {
        hub.publish("t", [&format!("{n} {big}")]).await;
    }
    let mut stream = hub.follow("?since=start").await;
    hub.begin_to_stop();
    stream.read_to_end().await.unwrap();
    let before: Vec<u64> = stream
        .take_received()
        .iter()
        .map(|message| message.last_event_id.parse().unwrap())
        .collect();
    let cursor = stream.cursor();
    let hub = TestHub::start_in(hub.stop().await, |_| ()).await;
    let mut again = hub.resume("", cursor).await;
    let after = again.next_ids(60 - before.len()).await;
    assert_eq!([before, after].concat(), (1..=60).collect::<Vec<_>>());
}

#[tokio::test]
async fn sigterm_answers_publishers_ends_curl_and_empties_the_wal() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(folder.path()).await;
    let hub = program.as_hub();
    let mut curl = Command::new("curl")
        .args(["-sN", &hub.url("/sse")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first_line = [0; 8];
    std::io::Read::read_exact(curl.stdout.as_mut().unwrap(), &mut first_line).unwrap();
    assert_eq!(&first_line, b":\nretry:");

    let publishers = futures_util::future::join_all((0..50).map(|n| {
        let request = hub.post("/topics/t").body(n.to_string());
        async move { request.send().await }
    }));
    let (answers, ()) = tokio::join!(publishers, async { program.signal("TERM") });
    assert_eq!(program.exit_code().await, Some(0));
    assert!(
        within("curl to end", async { curl.wait().unwrap() })
            .await
            .success(),
        "the stream ended as a whole"
    );
    let acknowledged = answers
        .iter()
        .flatten()
        .filter(|answer| answer.status() == 201)
        .count();
    assert!(
        !folder.path().join("segno.db-wal").exists(),
        "the WAL is in the file"
    );

    let program = Program::start(folder.path()).await;
    let stored = usize::try_from(program.as_hub().last_id().await).unwrap();
    assert!(stored >= acknowledged, "{stored} of {acknowledged}");
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = segno();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--db"])
        .arg(folder.path().join("segno.db"))
        .stderr(Stdio::piped());
    let mut program = Program::spawn(command).await;
    // A request whose body never comes keeps the drain waiting.
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", program.port)).unwrap();
    std::io::Write::write_all(
        &mut socket,
        b"POST /topics/t HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n",
    )
    .unwrap();
    let began = std::time::Instant::now();
    program.signal("INT");
    while answer_is(&program).await {}
    program.signal("TERM");
    assert_eq!(program.exit_code().await, Some(1));
    let told = std::io::read_to_string(program.take_stderr()).unwrap();
    assert_eq!(
        told.lines().last(),
        Some(
            "segno: stopped at once by a second signal, SIGTERM; every acknowledged event is stored"
        ),
        "{told}"
    );
    assert!(
        began.elapsed().as_secs() < 9,
        "it did not wait for the drain timeout"
    );
}

async fn answer_is(program: &Program) -> bool {
    super::test_hub::reqwest_client()
        .get(format!("{}/health/live", program.url()))
        .send()
        .await
        .is_ok()
}

#[tokio::test]
async fn a_draining_hub_refuses_to_publish() {
    let hub = TestHub::start().await;
    // A connection that is open already can still ask.
    let open = hub.publish("t", ["a"]).await;
    assert_eq!(open, [1]);
    let mut held = hub.follow("?since=start").await;
    hub.begin_to_stop();
    held.read_to_end().await.unwrap();
    if let Ok(answer) = hub.post("/topics/t").body("x").send().await {
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "5");
    }
    let folder = hub.stop().await;
    let hub = TestHub::start_in(folder, |_| ()).await;
    assert_eq!(hub.last_id().await, 1);
    assert_eq!(answer(hub.get("/health/ready")).await.status, 200);
}

/// A browser's `EventSource` that is answered with any other status than 200 never asks again, and so would miss the next hub.
#[tokio::test]
async fn a_stream_that_a_draining_hub_refuses_is_a_stream_that_says_when_to_come_back() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a"]).await;
    let mut held = hub.follow("?since=start").await;
    // Requests that have begun: the hub reads them to their end while it drains.
    let mut asking = Vec::new();
    for accept in ["text/event-stream", "application/json"] {
        let mut socket = TcpStream::connect(hub.address()).await.unwrap();
        let head =
            format!("GET /sse HTTP/1.1\r\nhost: x\r\nlast-event-id: 1\r\naccept: {accept}\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        asking.push(socket);
    }
    let port = hub.address().rsplit_once(':').unwrap().1.parse().unwrap();
    within("the hub to read what was sent", async {
        while queued_bytes(port) > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    hub.begin_to_stop();
    held.read_to_end().await.unwrap();
    let mut answers = Vec::new();
    for mut socket in asking {
        let mut answer = String::new();
        socket.write_all(b"\r\n").await.unwrap();
        within("an answer", socket.read_to_string(&mut answer))
            .await
            .unwrap();
        assert!(answer.contains("\r\nretry-after: 5\r\n"), "{answer}");
        answers.push(answer);
    }
    let [stream, refusal] = &answers[..] else {
        unreachable!("two have asked")
    };
    assert!(stream.starts_with("HTTP/1.1 200 "), "{stream}");
    let (_, block) = stream
        .split_once("\nevent: segno.refused\ndata: ")
        .unwrap_or_else(|| panic!("{stream}"));
    let (problem, id) = block.split_once('\n').unwrap();
    let problem: Value = serde_json::from_str(problem).unwrap();
    assert_eq!(
        (&problem["status"], &problem["code"]),
        (&503.into(), &"draining".into())
    );
    assert!(id.starts_with("id: 1\n\n"), "{stream}");
    assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
    assert!(refusal.contains(r#""code":"draining""#), "{refusal}");
    hub.stop().await;
}

/// A start that must be looked for takes as long as the log is large, and the drain does not wait for it.
#[tokio::test]
async fn slow_a_drain_does_not_wait_for_streams_that_look_for_their_start() {
    let hub = TestHub::start_with(|config| {
        config.drain_timeout = std::time::Duration::from_secs(60);
    })
    .await;
    hub.publish_many(200_000, |_| "t".into()).await;
    // A type that nobody has: each reads the whole log.
    let searches = (0..40).map(|_| {
        let request = hub.get("/sse?type=none&last=1").send();
        tokio::spawn(async move { request.await.map(|answer| answer.status().as_u16()) })
    });
    let searches: Vec<_> = searches.collect();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let stopping = std::time::Instant::now();
    hub.stop().await;
    let took = stopping.elapsed();
    let mut refused = 0;
    for search in searches {
        refused += usize::from(within("an answer", search).await.unwrap().unwrap() == 503);
    }
    assert!(refused > 20, "only {refused} were still looking");
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
}
