//! Pages that are packed for clients that ask for it, and streams, which are not.

use std::{io::Read, process::Command, time::Duration};

use futures_util::future::join_all;
use reqwest::{Method, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{
    browser::Browser,
    sight::pause,
    test_hub::{Program, TestHub, answer, resident_bytes, within},
};

/// Unpacks it as one whole.
fn unpacked(coding: &str, packed: &[u8]) -> String {
    let mut text = String::new();
    match coding {
        "gzip" => flate2::read::GzDecoder::new(packed).read_to_string(&mut text),
        "zstd" => zstd::Decoder::new(packed)
            .unwrap()
            .read_to_string(&mut text),
        other => unreachable!("{other}"),
    }
    .unwrap();
    text
}

async fn ask(hub: &TestHub, path: &str, accept_encoding: &str) -> Response {
    let request = hub.get(path).header("accept-encoding", accept_encoding);
    within("an answer", request.send()).await.unwrap()
}

/// What the answer says it is packed with, and its bytes.
async fn read(response: Response) -> (Option<String>, Vec<u8>) {
    let coding = response.headers().get("content-encoding");
    let coding = coding.map(|coding| coding.to_str().unwrap().to_owned());
    let bytes = within("the body", response.bytes()).await.unwrap();
    (coding, bytes.to_vec())
}

/// Text that packs to about three quarters: base64 has no more to give.
fn noise(random: &mut fastrand::Rng, bytes: usize) -> String {
    (0..bytes).map(|_| random.alphanumeric()).collect()
}

#[tokio::test]
async fn pages_are_packed_as_the_client_likes_and_are_the_same_to_the_byte() {
    let hub = TestHub::start().await;
    let mut random = fastrand::Rng::with_seed(7);
    // Pages of one piece and of many, an event larger than any piece, and more events than a page.
    hub.publish_many(3000, |n| format!("topic.{}", n % 500))
        .await;
    for bytes in [10_000, 900_000, 200_000] {
        hub.publish("long", [noise(&mut random, bytes).as_str()])
            .await;
    }
    for path in [
        "/events?limit=20",
        "/events?limit=1000",
        "/events?limit=1000&order=desc",
        "/events?topic=long",
        "/events?format=ndjson",
        "/events?format=ndjson&topic=long",
        "/events/3002",
        "/topics",
        "/openapi.json",
    ] {
        let plain = answer(hub.get(path)).await;
        assert!(!plain.headers.contains_key("content-encoding"), "{path}");
        let varies = |headers: &reqwest::header::HeaderMap| {
            let mut values = headers.get_all("vary").iter();
            values.any(|value| value == "accept-encoding")
        };
        assert!(varies(&plain.headers), "{path}");
        for coding in ["gzip", "zstd"] {
            let response = ask(&hub, path, coding).await;
            assert!(varies(response.headers()), "{path}");
            assert_eq!(
                response.headers()["content-type"],
                plain.header("content-type")
            );
            let (told, packed) = read(response).await;
            assert_eq!(told.as_deref(), Some(coding), "{path}");
            assert!(unpacked(coding, &packed) == plain.body, "{path} {coding}");
            let share = packed.len() * 100 / plain.body.len();
            assert!(share < 80, "{path} {coding}: {share} %");
        }
    }
    let (told, _) = read(ask(&hub, "/topics", "gzip, zstd;q=0.1").await).await;
    assert_eq!(told.as_deref(), Some("gzip"));
    let (told, _) = read(ask(&hub, "/topics", "br, identity").await).await;
    assert_eq!(told, None);
}

#[tokio::test]
async fn streams_and_what_is_small_are_never_packed() {
    let hub = TestHub::start().await;
    hub.publish("t", ["x"; 50]).await;
    let every = "gzip, zstd, *";
    for path in [
        "/sse?last=40",
        "/sse?last=40&format=ndjson",
        "/topics/t?last=40&format=text",
        "/sse?since=start&count=50",
        "/sse?since=start&count=50&format=ndjson",
    ] {
        let request = hub.get(path).header("accept-encoding", every);
        let request = request.header("accept", "text/event-stream");
        let mut stream = within("a stream", request.send()).await.unwrap();
        assert!(!stream.headers().contains_key("content-encoding"), "{path}");
        let mut received = String::new();
        while !received.contains("cursor") {
            let chunk = within("the first block", stream.chunk()).await.unwrap();
            received += str::from_utf8(&chunk.unwrap()).unwrap();
        }
    }
    for (path, status) in [("/events/1", 200), ("/events?limit=1", 200), ("/none", 404)] {
        let response = ask(&hub, path, every).await;
        assert_eq!(response.status(), status);
        assert!(response.content_length().is_some(), "{path}");
        let (told, bytes) = read(response).await;
        assert_eq!(told, None, "{path}");
        assert!(bytes.starts_with(b"{"), "{path}");
    }
}

/// The console's files, figures as text, and the receipt of a batch.
#[tokio::test]
async fn what_is_no_page_of_json_is_never_packed() {
    let hub = TestHub::start().await;
    let batch: Vec<String> = (0..1000).map(|n| format!("{{\"data\":{n}}}")).collect();
    let batch = format!("[{}]", batch.join(","));
    for (request, status) in [
        (hub.get("/console/app.js"), 200),
        (hub.get("/"), 200),
        (hub.get("/metrics"), 200),
        (hub.post_json("/events", batch), 201),
    ] {
        let request = request.header("accept-encoding", "gzip, zstd");
        let response = within("an answer", request.send()).await.unwrap();
        let path = response.url().path().to_owned();
        assert_eq!(response.status(), status, "{path}");
        let (told, bytes) = read(response).await;
        assert_eq!(told, None, "{path}");
        assert!(bytes.len() > 2000, "{path} is large enough");
    }
}

#[tokio::test]
async fn a_hub_that_is_told_so_packs_nothing() {
    let hub = TestHub::start_with(|settings| settings.packs_pages = false).await;
    hub.publish_many(200, |_| "t".into()).await;
    for path in ["/events", "/events?format=ndjson", "/openapi.json"] {
        let response = ask(&hub, path, "gzip, zstd").await;
        assert!(!response.headers().contains_key("vary"), "{path}");
        let (told, bytes) = read(response).await;
        assert_eq!(told, None, "{path}");
        assert!(bytes.starts_with(b"{"), "{path}");
    }
}

/// A head says the same of a body as the answer with it.
#[tokio::test]
async fn a_head_is_that_of_the_answer() {
    let hub = TestHub::start().await;
    hub.publish_many(200, |_| "t".into()).await;
    let http = super::test_hub::reqwest_client();
    for (path, packed) in [("/events?limit=100", true), ("/events?limit=1", false)] {
        for accept in ["gzip", "identity"] {
            let get = ask(&hub, path, accept).await;
            let request = http.request(Method::HEAD, hub.url(path));
            let head = request.header("accept-encoding", accept).send();
            let head = within("a head", head).await.unwrap();
            assert_eq!(head.status(), StatusCode::OK);
            for name in ["content-type", "content-encoding", "vary", "content-length"] {
                let (of_get, of_head) = (get.headers().get(name), head.headers().get(name));
                assert_eq!(of_head, of_get, "{name} of {path}");
            }
            let is_packed = head.headers().contains_key("content-encoding");
            assert_eq!(is_packed, packed && accept == "gzip", "{path}");
            assert_eq!(within("no body", head.bytes()).await.unwrap(), "");
        }
    }
}

/// Asks for a packed page and reads nothing of it.
async fn ask_and_not_read(address: &str, path: &str, coding: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut socket = socket.connect(address.parse().unwrap()).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept-encoding: {coding}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
}

/// Packers that remember what they have seen would take 300 KB each, and with zstd some megabytes.
#[tokio::test]
async fn packed_pages_that_nobody_reads_hold_a_piece_each_and_are_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = super::test_hub::segno();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--write-timeout", "5s"])
        .current_dir(&folder)
        .stderr(std::process::Stdio::null());
    let program = Program::spawn(command).await;
    let hub = program.as_hub();
    let mut random = fastrand::Rng::with_seed(7);
    let lines: String = (0..1000)
        .map(|_| format!("{{\"data\":\"{}\"}}\n", noise(&mut random, 12_000)))
        .collect();
    let batch = hub.post("/events").body(lines);
    let batch = batch.header("content-type", "application/x-ndjson");
    assert_eq!(answer(batch).await.status, 201);
    let before = resident_bytes(program.id());
    let mut readers = Vec::new();
    for n in 0..200 {
        let path = ["/events?limit=1000", "/events?format=ndjson"][n % 2];
        let coding = ["gzip", "zstd"][n / 2 % 2];
        readers.push(ask_and_not_read(hub.address(), path, coding).await);
    }
    let begun = join_all(readers.iter().map(TcpStream::readable));
    within("all answers to begin", begun).await;
    hub.publish("t", ["others are served"]).await;
    let grown = resident_bytes(program.id()).saturating_sub(before);
    // 102 MB were seen beside other tests; 474 MB where pieces are as long as the page.
    assert!(grown < 150_000_000, "grown by {grown} bytes");

    // Pages are given up after the time of the flag; lines may wait for ever, until their clients go.
    let connections = async || {
        hub.get_json("/stats").await["connections"]
            .as_u64()
            .unwrap()
    };
    within("pages to be given up", async {
        while connections().await > 100 + 2 {
            pause().await;
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(connections().await >= 100, "lines may wait");
    drop(readers);
    within("clients that went to count no more", async {
        while connections().await > 2 {
            pause().await;
        }
    })
    .await;
}

/// A piece is sent when it is there: who reads lines does not wait for the end of the range.
#[tokio::test]
async fn packed_lines_come_piece_by_piece() {
    let hub = TestHub::start().await;
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..40 {
        let data = noise(&mut random, 200_000);
        hub.publish("t", [data.as_str()]).await;
    }
    let path = "/events?format=ndjson";
    let mut socket = ask_and_not_read(hub.address(), path, "gzip").await;
    let mut received = Vec::new();
    let first_line = |received: &[u8]| {
        let head = received.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        let mut body = Vec::new();
        let mut rest = &received[head + 4..];
        // Without the lengths of the chunks.
        while let Some(end) = rest.windows(2).position(|bytes| bytes == b"\r\n") {
            let length = usize::from_str_radix(str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
            let chunk = &rest[end + 2..];
            body.extend_from_slice(&chunk[..length.min(chunk.len())]);
            rest = chunk.get(length + 2..)?;
        }
        let mut text = Vec::new();
        // It breaks off, of course.
        _ = flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut text);
        text.contains(&b'\n').then_some(())
    };
    let mut bytes = vec![0; 65_536];
    while first_line(&received).is_none() {
        let count = within("a part", socket.read(&mut bytes)).await.unwrap();
        assert_ne!(count, 0);
        received.extend_from_slice(&bytes[..count]);
        assert!(received.len() < 1_000_000, "a line has 200 KB");
    }
}

#[tokio::test]
async fn curl_and_a_browser_unpack_what_they_asked_for() {
    let hub = TestHub::start().await;
    hub.publish_many(3000, |_| "a.topic".into()).await;
    let plain = answer(hub.get("/events?format=ndjson")).await.body;
    let url = hub.url("/events?format=ndjson");
    let curl = move || {
        Command::new("curl")
            .args(["-sS", "--compressed", &url])
            .output()
    };
    let told = tokio::task::spawn_blocking(curl).await.unwrap().unwrap();
    assert!(told.status.success());
    assert!(told.stdout == plain.as_bytes(), "curl reads the same");

    let browser = Browser::open(&hub.url("/health/live")).await;
    let same = "fetch('/events?format=ndjson').then(async answer => {
        const coding = answer.headers.get('content-encoding');
        return [coding, (await answer.text()).length];
    })";
    let found = browser.value(same).await;
    assert_eq!(found[1], plain.len(), "{found}");
    assert!(found[0].is_string(), "{found}");
}
