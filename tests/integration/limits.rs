//! How much is taken, from whom, and what those are told who want more.

use std::{net::IpAddr, pin::pin, process::Command, time::Duration};

use futures_util::future::join_all;
use reqwest::RequestBuilder;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    sight::Traced,
    test_hub::{
        Answer, HeldFile, Program, TestHub, TestStream, answer, queued_bytes, reqwest_client,
        resident_bytes, segno, within,
    },
};

fn few(number: u32) -> std::num::NonZeroU32 {
    number.try_into().unwrap()
}

/// A client that comes from another address of the loopback network.
fn client_at(address: &str) -> reqwest::Client {
    reqwest_client(); // Chooses the cryptography.
    let address: IpAddr = address.parse().unwrap();
    reqwest::Client::builder()
        .local_address(address)
        .build()
        .unwrap()
}

/// What a refusal says, after a look whether it says when to come back.
fn told(refusal: &Answer) -> (u16, String, u64) {
    let retry_after: u64 = refusal.header("retry-after").parse().unwrap();
    assert!((1..=3600).contains(&retry_after), "{refusal:?}");
    let limit = refusal.json()["limit"].as_u64().unwrap();
    (refusal.status.as_u16(), refusal.code(), limit)
}

/// Asks until it is served, since a place is free only when the hub has seen that somebody left.
async fn served(request: impl Fn() -> RequestBuilder) {
    within("a place", async {
        while !answer(request()).await.status.is_success() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

async fn refused(hub: &TestHub, limit: &str) -> u64 {
    let stats = answer(client_at("127.0.0.9").get(hub.url("/stats"))).await;
    stats.json()["refused"][limit].as_u64().unwrap()
}

#[tokio::test]
async fn more_connections_than_are_served_are_told_so() {
    let hub = TestHub::start_with(|config| config.limits.max_connections = few(3)).await;
    let mut streams = join_all((0..3).map(|_| hub.follow(""))).await;
    let refusal = answer(hub.get("/events")).await;
    assert_eq!(told(&refusal), (503, "too_many_connections".into(), 3));
    assert_eq!(
        refusal.header("segno-log-id"),
        streams[0].header("segno-log-id")
    );
    let refusal = answer(hub.post("/topics/t").body("x".repeat(500_000))).await;
    assert_eq!(told(&refusal), (503, "too_many_connections".into(), 3));

    // A client that looks for the answer only when its body is sent: a connection that is simply closed would be reset by then.
    let mut socket = TcpStream::connect(hub.address()).await.unwrap();
    let head = b"POST /topics/t HTTP/1.1\r\nhost: x\r\ncontent-length: 500000\r\n\r\n";
    socket.write_all(head).await.unwrap();
    within("an answer", socket.readable()).await.unwrap();
    for _ in 0..50 {
        socket.write_all(&[b'x'; 10_000]).await.unwrap();
    }
    let mut received = String::new();
    within("the end", socket.read_to_string(&mut received))
        .await
        .unwrap();
    assert!(received.contains("too_many_connections"), "{received}");
    drop(socket);
    drop(streams.pop());
    served(|| hub.get("/health/live")).await;
    let stats = hub.get_json("/stats").await;
    let refused = stats["refused"]["connections"].as_u64().unwrap();
    assert!(refused >= 3, "{stats}");
    let figures = answer(hub.get("/metrics")).await.body;
    let counted = format!("segno_refusals_total{{code=\"too_many_connections\"}} {refused}\n");
    assert!(figures.contains(&counted), "{counted}{figures}");
}

#[tokio::test]
async fn a_client_that_sends_nothing_is_told_too_and_refusing_holds_nobody_up() {
    let hub = TestHub::start_with(|config| {
        config.limits.max_connections = few(100);
        config.limits.header_timeout = Duration::from_secs(1);
    })
    .await;
    let streams = join_all((0..99).map(|_| hub.follow(""))).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(hub.address()).await.unwrap());
    }
    let told = within(
        "all to be closed",
        join_all(silent.iter_mut().map(async |socket| {
            let mut received = String::new();
            _ = socket.read_to_string(&mut received).await;
            received
        })),
    )
    .await;
    let answered = told
        .iter()
        .filter(|answer| answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("}\n"));
    // One had the last place and was cut off as idle; some came when as many were being refused as may be.
    assert!((7..299).contains(&answered.count()), "{told:?}");
    drop(streams);
    served(|| hub.get("/health/live")).await;
}

#[tokio::test]
async fn an_address_has_its_own_number_of_connections() {
    let hub =
        TestHub::start_with(|config| config.limits.max_connections_per_address = few(2)).await;
    let streams = join_all((0..2).map(|_| hub.follow(""))).await;
    let refusal = answer(hub.get("/events")).await;
    assert_eq!(
        told(&refusal),
        (429, "too_many_connections_of_address".into(), 2)
    );
    assert!(
        refusal.body.contains("--max-connections-per-address"),
        "{refusal:?}"
    );
    assert!(!refusal.body.contains("--trusted-proxy"), "{refusal:?}");
    let forwarded = hub.get("/events").header("X-Forwarded-For", "192.0.2.7");
    let refusal = answer(forwarded).await;
    assert!(refusal.body.contains("--trusted-proxy"), "{refusal:?}");

    let other = client_at("127.0.0.2").get(hub.url("/events"));
    assert_eq!(answer(other).await.status, 200);
    assert_eq!(refused(&hub, "connections_of_address").await, 2);
    drop(streams);
    served(|| hub.get("/health/live")).await;
}

#[tokio::test]
async fn an_address_has_its_own_number_of_streams() {
    let hub = TestHub::start_with(|config| config.limits.max_streams_per_address = few(2)).await;
    let streams = join_all((0..2).map(|_| hub.follow(""))).await;
    let refusal = answer(hub.get("/sse")).await;
    assert_eq!(
        told(&refusal),
        (429, "too_many_streams_of_address".into(), 2)
    );
    assert!(!refusal.body.contains("--trusted-proxy"), "{refusal:?}");
    let forwarded = hub.get("/sse").header("X-Forwarded-For", "192.0.2.7");
    let refusal = answer(forwarded).await;
    assert!(refusal.body.contains("--trusted-proxy"), "{refusal:?}");
    assert_eq!(
        answer(hub.get("/events")).await.status,
        200,
        "all else goes on"
    );
    assert_eq!(refused(&hub, "streams_of_address").await, 2);

    TestStream::open(client_at("127.0.0.2").get(hub.url("/sse"))).await;
    drop(streams);
    within("a stream", async {
        loop {
            let answered = hub.get("/sse").send().await.unwrap();
            if answered.status() == 200 {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_address_publishes_at_its_rate_and_bursts() {
    let hub = TestHub::start_with(|config| {
        config.limits.rate_per_address = Some(2);
        config.limits.burst_per_address = Some(few(4));
    })
    .await;
    let batch = r#"[{"data":1},{"data":2},{"data":3}]"#;
    assert_eq!(answer(hub.post_json("/events", batch)).await.status, 201);
    let refusal = answer(hub.post_json("/events", batch)).await;
    assert_eq!(
        told(&refusal),
        (429, "too_many_events_of_address".into(), 2)
    );
    assert_eq!(refusal.header("retry-after"), "1");
    assert_eq!(hub.last_id().await, 3, "nothing of it is stored");

    let other = client_at("127.0.0.2").post(hub.url("/topics/t")).body("x");
    assert_eq!(answer(other).await.status, 201, "others publish on");
    served(|| hub.post_json("/events", batch)).await;
    assert_eq!(hub.last_id().await, 7);
    for path in ["/messages", "/send_rest"] {
        let refusal = answer(hub.post_json(path, r#"{"message":[]}"#)).await;
        if refusal.status == 429 {
            assert_eq!(told(&refusal).1, "too_many_events_of_address");
        }
    }
    assert!(refused(&hub, "events_of_address").await >= 1);
}

#[tokio::test]
async fn behind_a_trusted_proxy_clients_are_counted_and_not_the_proxy() {
    let hub = TestHub::start_with(|config| {
        config.limits.max_connections_per_address = few(1);
        config.limits.max_streams_per_address = few(1);
        config.limits.rate_per_address = Some(1);
        config.limits.burst_per_address = Some(few(1));
        config.limits.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    let follow = |forwarded: &str| hub.get("/sse").header("X-Forwarded-For", forwarded);
    let publish = |forwarded: &str| {
        let request = hub.post("/topics/t").header("X-Forwarded-For", forwarded);
        request.body("x")
    };
    let mut streams = Vec::new();
    for client in ["192.0.2.1", "192.0.2.2", "192.0.2.2, 192.0.2.3"] {
        streams.push(TestStream::open(follow(client)).await);
        assert_eq!(answer(publish(client)).await.status, 201, "{client}");
    }
    // The last hop counts: what a client wrote before it is its own tale.
    for forged in [
        "192.0.2.1",
        "198.51.100.9, 192.0.2.1",
        "rubbish, 192.0.2.1",
        "rübbish, 192.0.2.1",
    ] {
        let refusal = answer(follow(forged)).await;
        assert_eq!(told(&refusal).1, "too_many_streams_of_address", "{forged}");
        assert!(!refusal.body.contains("--trusted-proxy"), "{refusal:?}");
        let refusal = answer(publish(forged)).await;
        assert_eq!(told(&refusal).1, "too_many_events_of_address", "{forged}");
    }
    // Where it says nothing that can be read, the proxy's own address counts.
    streams.push(TestStream::open(follow("192.0.2.5, rubbish")).await);
    let refusal = answer(follow("192.0.2.6, rubbish")).await;
    assert_eq!(told(&refusal).1, "too_many_streams_of_address");
    // The same word of somebody who is not trusted is not heard.
    let stranger = client_at("127.0.0.2");
    let follow_as = |forwarded: &str| {
        let request = stranger.get(hub.url("/sse"));
        request.header("X-Forwarded-For", forwarded)
    };
    let _stream = TestStream::open(follow_as("192.0.2.77")).await;
    let refusal = answer(follow_as("192.0.2.78")).await;
    assert_eq!(told(&refusal).1, "too_many_connections_of_address");
    assert!(refusal.body.contains("--trusted-proxy"), "{refusal:?}");
}

#[tokio::test]
async fn events_and_batches_are_as_large_as_the_hub_is_set_to_take() {
    let hub = TestHub::start_with(|config| {
        config.limits.max_event_bytes = 10;
        config.limits.max_batch_bytes = 100_000;
        config.limits.max_batch_events = 2;
    })
    .await;
    let eleven = r#"{"data":"123456789"}"#;
    let ten = r#"{"data":"12345678"}"#;
    let three = format!("[{ten},{ten},{ten}]");
    let padded = format!("[{ten}{}]", " ".repeat(100_000));
    for (path, body, code) in [
        ("/events", eleven, "event_too_large"),
        ("/topics/t", "a23456789", "event_too_large"),
        ("/messages", r#"{"message":"123456789"}"#, "event_too_large"),
        ("/events", &three, "batch_too_large"),
        ("/events", &padded, "batch_too_large"),
    ] {
        let request = match path {
            "/topics/t" => hub.post(path).body(body.to_owned()),
            _ => hub.post_json(path, body),
        };
        let refusal = answer(request).await;
        assert_eq!(
            (refusal.status.as_u16(), refusal.code().as_str()),
            (413, code),
            "{path} {body:.40}"
        );
    }
    assert_eq!(hub.last_id().await, 0);
    let two = format!("[{ten},{ten}]");
    assert_eq!(answer(hub.post_json("/events", two)).await.status, 201);
}

#[tokio::test]
async fn more_requests_than_may_wait_for_the_writer_are_told_to_come_back() {
    let hub = TestHub::start_with(|config| config.hub.queue.publications = 2).await;
    let held = HeldFile::hold(&hub.db());
    // One is in the writer's hands, two wait.
    let posts = join_all((0..10).map(|_| answer(hub.post("/topics/t").body("x"))));
    let (answers, ()) = tokio::join!(posts, async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        held.release();
    });
    let busy: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 503)
        .collect();
    assert!((7..10).contains(&busy.len()), "{answers:?}");
    for refusal in busy {
        assert_eq!(refusal.code(), "busy");
        assert!(refusal.body.contains("2 requests"), "{refusal:?}");
        assert_eq!(refusal.header("retry-after"), "1");
    }
    let stored = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(hub.last_id().await, u64::try_from(stored).unwrap());
}

#[tokio::test]
async fn a_head_that_does_not_come_is_counted() {
    let hub = TestHub::start_with(|config| {
        config.limits.header_timeout = Duration::from_millis(100);
    })
    .await;
    let mut socket = TcpStream::connect(hub.address()).await.unwrap();
    socket.write_all(b"GET /events HT").await.unwrap();
    let mut rest = Vec::new();
    within("the end", socket.read_to_end(&mut rest))
        .await
        .unwrap();
    within("the count", async {
        while hub.get_json("/stats").await["refused"]["late_heads"] == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn where_fewer_files_may_be_open_fewer_connections_are_served_and_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let start = async |flags: &str| {
        let serve = format!(
            "ulimit -n 64; exec '{}' serve --listen 127.0.0.1:0 --db '{}/segno.db' {flags} 2> '{1}/log'",
            segno().get_program().display(),
            folder.path().display()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &serve]);
        Program::spawn(command).await
    };
    let log = || std::fs::read_to_string(folder.path().join("log")).unwrap();
    // Whoever left the limit to its default did not ask for that many.
    drop(start("").await);
    assert!(!log().contains("--max-connections"), "{}", log());
    let program = start("--max-connections 50000").await;
    let hub = program.as_hub();
    assert!(
        log().contains("too few for --max-connections 50000") && log().contains("LimitNOFILE="),
        "{}",
        log()
    );
    let mut crowd = Vec::new();
    let refusal = within("a refusal", async {
        loop {
            match hub.get("/sse").send().await.unwrap() {
                stream if stream.status() == 200 => crowd.push(stream),
                refusal => return refusal.text().await.unwrap(),
            }
        }
    })
    .await;
    let refusal: Value = serde_json::from_str(&refusal).unwrap();
    let limit = refusal["limit"].as_u64().unwrap();
    assert!((10..64).contains(&limit), "{refusal}");
    assert_eq!(refusal["code"], "too_many_connections");
    drop(crowd);
    served(|| hub.get("/health/live")).await;
    assert_eq!(hub.publish("t", ["after"]).await, [1]);
}

/// The one block of a stream that is refused: its `retry:`, problem and id.
fn refused_block(answer: &Answer) -> (u64, Value, Option<String>) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.header("content-type"),
        "text/event-stream; charset=utf-8"
    );
    let retry_after: u64 = answer.header("retry-after").parse().unwrap();
    let block = answer.body.strip_prefix(":\nretry: ").unwrap();
    let (retry, block) = block.split_once("\nevent: segno.refused\ndata: ").unwrap();
    let retry = retry.parse().unwrap();
    let spread = retry_after * 1000..=retry_after * 1500;
    assert!(spread.contains(&retry), "{answer:?}");
    let (problem, rest) = block.split_once('\n').unwrap();
    let id = match rest {
        "\n" => None,
        id => Some(
            id.strip_prefix("id: ")
                .unwrap()
                .strip_suffix("\n\n")
                .unwrap(),
        ),
    };
    (
        retry,
        serde_json::from_str(problem).unwrap(),
        id.map(str::to_owned),
    )
}

async fn refusals(hub: &TestHub, code: &str) -> u64 {
    let figures = answer(client_at("127.0.0.9").get(hub.url("/metrics"))).await;
    let counter = format!("segno_refusals_total{{code=\"{code}\"}} ");
    let line = figures
        .body
        .lines()
        .find_map(|line| line.strip_prefix(&counter));
    line.map_or(0, |count| count.parse().unwrap())
}

/// A browser's `EventSource` that is answered with any other status than 200 never asks again.
#[tokio::test]
async fn a_stream_that_is_refused_for_now_is_a_stream_that_says_when_to_come_back() {
    let hub = TestHub::start_with(|config| config.limits.max_streams_per_address = few(1)).await;
    let _stream = hub.follow("").await;
    let ask = |path: &str, accept: &str| hub.get(path).header("accept", accept);
    let code = "too_many_streams_of_address";

    let first = answer(ask("/sse", "text/event-stream")).await;
    let (first_retry, problem, id) = refused_block(&first);
    assert_eq!((problem["code"].as_str(), id), (Some(code), None));
    assert_eq!(problem["status"], 429);
    let mut retries = vec![first_retry];
    for (path, header, expected) in [
        ("/sse", Some("7"), Some("7")),
        ("/sse?lastEventId=8", Some("7"), Some("7")),
        ("/sse?lastEventId=8&last_event_id=9", None, Some("8")),
        ("/sse?last_event_id=9", None, Some("9")),
        (
            "/sse?lastEventId=a%0Adata:%20x%0D%0A%0Ab",
            None,
            Some("adata: xb"),
        ),
        ("/sse?lastEventId=%00", None, None),
        ("/sse?since=start", None, None),
    ] {
        let mut request = ask(path, "text/html, Text/Event-Stream;q=0.9");
        if let Some(cursor) = header {
            request = request.header("last-event-id", cursor);
        }
        let (retry, _, id) = refused_block(&answer(request).await);
        assert_eq!(id.as_deref(), expected, "{path}");
        retries.push(retry);
    }
    retries.dedup();
    assert!(retries.len() > 4, "{retries:?}");
    assert_eq!(refusals(&hub, code).await, 8);
    assert_eq!(refused(&hub, "streams_of_address").await, 8);

    // Who understands a problem gets one, and what will not pass is an error for everybody.
    for accept in ["*/*", "text/event-stream, application/problem+json"] {
        assert_eq!(answer(ask("/sse", accept)).await.code(), code);
    }
    let wrong = answer(ask("/sse?last=x", "text/event-stream")).await;
    assert_eq!(wrong.code(), "invalid_limit");
    assert_eq!(refusals(&hub, code).await, 10);
}

/// A query of as many topics of 50 bytes.
fn long_topics(count: usize) -> String {
    let topics = (0..count).map(|n| format!("topic={n:0>50}"));
    topics.collect::<Vec<_>>().join("&")
}

/// As 64 MiB go, a stream of 900 topics takes 280 KB.
#[tokio::test]
async fn what_the_filters_of_an_address_take_is_bounded() {
    let hub = TestHub::start().await;
    let topics = long_topics(900);
    let mut streams = Vec::new();
    let ask = |client: &reqwest::Client, n: usize| {
        let url = hub.url(&format!("/sse?topic=own{n}&{topics}"));
        let request = client.get(url);
        request.header("accept", "application/problem+json, text/event-stream")
    };
    let here = reqwest_client();
    let refused = loop {
        let response = ask(&here, streams.len()).send().await.unwrap();
        match response.status().as_u16() {
            200 => streams.push(response),
            _ => break response,
        }
        assert!(streams.len() < 400, "none is refused");
    };
    assert!(streams.len() > 150, "{} were let in", streams.len());
    assert_eq!(refused.status(), 429);
    let problem: Value = serde_json::from_str(&refused.text().await.unwrap()).unwrap();
    assert_eq!(problem["code"], "filters_of_address_too_large");
    let elsewhere = ask(&client_at("127.0.0.9"), 0).send().await.unwrap();
    assert_eq!(elsewhere.status(), 200);
    streams.clear();
    within("room for another", async {
        while ask(&here, 0).send().await.unwrap().status() != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_is_not_served_is_told_so_by_a_stream_if_it_asks_for_one() {
    let hub =
        TestHub::start_with(|config| config.limits.max_connections_per_address = few(1)).await;
    let _stream = hub.follow("").await;
    let topics = long_topics(900);
    let ask_for = |topics: &str, accept| {
        let request = hub.get(&format!("/sse?{topics}")).header("accept", accept);
        request.header("last-event-id", "3")
    };
    let ask = |accept| ask_for("topic=t", accept);
    let code = "too_many_connections_of_address";
    // The head of the second has 50 KB.
    for topics in ["topic=t", &topics] {
        let answer = answer(ask_for(topics, "text/event-stream")).await;
        let (_, problem, id) = refused_block(&answer);
        assert_eq!(problem["code"], code);
        assert_eq!(id.as_deref(), Some("3"));
    }
    let both = answer(ask("text/event-stream, application/problem+json")).await;
    assert_eq!(both.code(), code);
    let other = answer(hub.get("/events").header("accept", "text/event-stream")).await;
    assert_eq!(other.code(), code);
    assert_eq!(refusals(&hub, code).await, 4);
}

/// A client that asks for `path` and reads nothing of the answer, and leaves the system little room for it.
async fn ask_and_not_read(address: &str, path: &str) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut socket = socket.connect(address.parse().unwrap()).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
}

/// 12 MB, of which an answer has 8 MiB.
async fn publish_a_long_page(hub: &TestHub) {
    let line = format!("{{\"data\":\"{}\"}}\n", "x".repeat(12_000));
    let batch = hub.post("/events").body(line.repeat(1000));
    let batch = batch.header("content-type", "application/x-ndjson");
    assert_eq!(answer(batch).await.status, 201);
}

/// 200 such clients had the hub hold 1.2 GB, and the system 750 MB.
#[tokio::test]
async fn a_page_that_nobody_reads_holds_a_piece_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path()).await;
    let hub = program.as_hub();
    publish_a_long_page(&hub).await;
    let whole = answer(hub.get("/events?limit=1000")).await.body;
    let before = resident_bytes(program.id());
    let mut readers = Vec::new();
    for _ in 0..200 {
        readers.push(ask_and_not_read(hub.address(), "/events?limit=1000").await);
    }
    let grown = || resident_bytes(program.id()).saturating_sub(before);
    // An answer that was made whole before it is sent would be there now. Looked at meanwhile: 200 of them take long to make.
    within("all answers to begin", async {
        let mut begun = pin!(join_all(readers.iter().map(TcpStream::readable)));
        while timeout(Duration::from_millis(50), begun.as_mut())
            .await
            .is_err()
        {
            assert!(grown() < 100 << 20, "some pages took {} bytes", grown());
        }
    })
    .await;
    hub.publish("t", ["others are served"]).await;
    assert!(grown() < 100 << 20, "200 pages took {} bytes", grown());
    let unsent = queued_bytes(program.port);
    assert!(
        unsent < 60 << 20,
        "the system holds {unsent} bytes for 200 clients"
    );

    let mut received = Vec::new();
    within("the whole page", readers[0].read_to_end(&mut received))
        .await
        .unwrap();
    let received = without_framing(std::str::from_utf8(&received).unwrap());
    // Not by `assert_eq`, which would print both.
    assert!(
        received == whole,
        "{} bytes of {}",
        received.len(),
        whole.len()
    );
}

/// A body in chunks, put together.
fn without_framing(answer: &str) -> String {
    let (head, mut chunks) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let mut body = String::new();
    loop {
        let (length, rest) = chunks.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body += &rest[..length];
        chunks = rest[length..].strip_prefix("\r\n").unwrap();
    }
}

/// A page that nobody reads would stay as long as the client likes.
#[tokio::test]
async fn an_answer_that_nobody_reads_is_cut_and_a_stream_is_not() {
    let hub = TestHub::start_with(|config| {
        config.limits.write_timeout = Duration::from_millis(300);
    })
    .await;
    publish_a_long_page(&hub).await;
    let ask = async |path: &str| ask_and_not_read(hub.address(), path).await;
    let page = ask("/events?limit=1000").await;
    let lines = ask("/events?format=ndjson").await;
    let stream = ask("/sse?since=start").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let read = async |mut socket: TcpStream, until: &str| {
        let (mut received, mut chunk) = (String::new(), vec![0; 64 * 1024]);
        loop {
            let read = within("bytes or an end", socket.read(&mut chunk)).await;
            match read {
                Ok(bytes) if bytes > 0 => {
                    received += std::str::from_utf8(&chunk[..bytes]).unwrap();
                }
                _ => return received,
            }
            if received.ends_with(until) {
                return received;
            }
        }
    };
    let received = read(page, "nothing but the end").await;
    // The whole page has 8 MiB, and the system's buffers hold less.
    assert!(received.len() < 8_000_000, "{} bytes", received.len());
    let received = read(lines, "\r\n0\r\n\r\n").await;
    assert!(received.len() > 12_000_000, "{} bytes", received.len());
    let received = read(stream, "\nid: 1000\n\n\r\n").await;
    assert!(received.len() > 12_000_000, "{} bytes", received.len());
}

/// hyper answers these by itself.
#[tokio::test]
async fn what_is_no_request_is_counted_and_logged() {
    let folder = tempfile::tempdir().unwrap();
    let traced = Traced::start(folder.path(), &[], "info").await;
    let hub = &traced.hub;
    let long = "x".repeat(200_000);
    for (request, status, code) in [
        (
            "\u{16}\u{3}\u{1}\u{2}TLS\r\n\r\n".to_owned(),
            "400",
            "invalid_head",
        ),
        (format!("GET /{long} HTTP/1.1\r\n"), "431", "head_too_large"),
        (
            format!("GET / HTTP/1.1\r\nhost: x\r\nx: {long}\r\n\r\n"),
            "431",
            "head_too_large",
        ),
    ] {
        let before = refusals(hub, code).await;
        let mut socket = TcpStream::connect(hub.address()).await.unwrap();
        // The answer may come, and the connection end, before all is sent.
        _ = socket.write_all(request.as_bytes()).await;
        let mut answer = vec![0; 12];
        within("an answer", socket.read_exact(&mut answer))
            .await
            .unwrap();
        let answer = str::from_utf8(&answer).unwrap();
        assert!(status.contains(&answer["HTTP/1.1 ".len()..]), "{answer}");
        within("the count", async {
            while refusals(hub, code).await == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
    // One line a second, which says how many had none.
    let told = "refused what is no request of HTTP/1";
    traced.wait_for_line(told).await;
    assert_eq!(traced.lines(told)[0]["code"], "invalid_head");
}

/// Where there are fewer processors than work, a commit would wait behind replays and pages of history.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn threads_that_read_the_file_give_way_to_all_others() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path()).await;
    let mut threads = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{}/task", program.id())).unwrap() {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
        let (name, fields) = stat.split_once(" (").unwrap().1.rsplit_once(") ").unwrap();
        // Source: proc(5), field 19.
        let nice = fields.split(' ').nth(19 - 3).unwrap();
        threads.push((name.to_owned(), nice.parse::<i32>().unwrap()));
    }
    let (readers, others): (Vec<_>, Vec<_>) = threads.into_iter().partition(|(name, _)| {
        ["segno-reader-", "segno-rows-"]
            .iter()
            .any(|kind| name.starts_with(kind))
    });
    let own = others[0].1;
    assert!(others.iter().all(|(_, nice)| *nice == own), "{others:?}");
    let of_kind = |kind| {
        let named = readers.iter().filter(|(name, _)| name.starts_with(kind));
        named.count()
    };
    assert_eq!(of_kind("segno-reader-"), 4, "{others:?}");
    assert!(of_kind("segno-rows-") > 0, "{others:?}");
    assert!(
        readers.iter().all(|(_, nice)| *nice == own.max(10)),
        "{readers:?}, and {own} of the others"
    );
}
