//! HTTP/2: the same hub over another framing, and what a client may not do with it.

use std::{process::Command, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    sight::Traced,
    test_hub::{
        Answer, Program, TestHub, TestStream, answer, reqwest_client, resident_bytes, within,
    },
};

/// What a client says first. Source: RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Types of frames, flags and errors. Source: RFC 9113, 6 and 7.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const INITIAL_WINDOW_SIZE: u16 = 4;
const FLOW_CONTROL_ERROR: u32 = 3;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;
const INADEQUATE_SECURITY: u32 = 12;

/// The largest window. Source: RFC 9113, 6.9.1.
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// `:status: 431`: a name of the table, and the value in Huffman's code. Source: RFC 7541, 6.2.1 and its appendix B.
const STATUS_431: &[u8] = &[0x48, 0x83, 0x69, 0x90, 0xff];

/// A client that says what it is told to, byte for byte.
struct Raw(TcpStream);

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM, or of GOAWAY, which has the last stream before it.
    fn error(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The head of a request for `path`, without Huffman and without a table. Source: RFC 7541, 6 and its appendix A.
fn head(path: &str) -> Vec<u8> {
    head_of(0x82, path) // GET
}

fn head_of(method: u8, path: &str) -> Vec<u8> {
    let mut block = vec![method, 0x86]; // http
    for (index, value) in [(0x01, "localhost"), (0x04, path)] {
        block.extend([index, u8::try_from(value.len()).unwrap()]);
        block.extend(value.as_bytes());
    }
    block
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &head(path))
}

/// The beginning of a `POST`, whose body is to come.
fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head_of(0x83, path))
}

fn window_update(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

/// A field whose name is not in the table.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, u8::try_from(name.len()).unwrap()];
    bytes.extend(name.as_bytes());
    bytes.push(u8::try_from(value.len()).unwrap());
    bytes.extend(value.as_bytes());
    bytes
}

impl Raw {
    /// Connects with an initial window for each stream, and takes the settings of the hub.
    async fn open(hub: &TestHub, window: u32) -> Self {
        let mut raw = Self(TcpStream::connect(hub.address()).await.unwrap());
        let mut setting = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
        setting.extend(window.to_be_bytes());
        raw.send(PREFACE).await;
        raw.send(&frame(SETTINGS, 0, 0, &setting)).await;
        raw.send(&frame(SETTINGS, 1, 0, b"")).await; // of the hub's, which come
        raw
    }

    /// Fails where the hub has cut the connection.
    async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        within("bytes to be taken", self.0.write_all(bytes)).await
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.unwrap();
    }

    /// The next frame; `None` at the end of the connection, however it comes.
    async fn next(&mut self) -> Option<Frame> {
        let reading = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.0.read_exact(&mut payload).await.ok()?;
            Some(Frame {
                kind: head[3],
                flags: head[4],
                stream: u32::from_be_bytes(head[5..9].try_into().unwrap()),
                payload,
            })
        };
        within("a frame or an end", reading).await
    }

    /// Reads on until a frame of this kind. Others that come for ever, such as heartbeats, do not make it wait for longer.
    async fn until(&mut self, kind: u8) -> Frame {
        let reading = async {
            loop {
                let frame = self.next().await.expect("a frame before the end");
                if frame.kind == kind {
                    return frame;
                }
            }
        };
        within(format!("a frame of the kind {kind}"), reading).await
    }

    /// The error of the last GOAWAY before the end.
    async fn goaway(&mut self) -> Option<u32> {
        let mut error = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                error = Some(frame.error());
            }
        }
        error
    }
}

fn client() -> reqwest::Client {
    reqwest_client(); // Chooses the cryptography.
    let client = reqwest::Client::builder().http2_prior_knowledge();
    client.build().unwrap()
}

async fn follow(client: &reqwest::Client, hub: &TestHub, query: &str) -> TestStream {
    TestStream::open(client.get(hub.url(&format!("/sse{query}")))).await
}

async fn refusals(hub: &TestHub, code: &str) -> u64 {
    let figures = answer(hub.get("/metrics")).await.body;
    let line = format!("segno_refusals_total{{code=\"{code}\"}} ");
    let count = figures
        .lines()
        .find_map(|figure| figure.strip_prefix(&line));
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn curl_speaks_http2_to_the_hub_without_tls() {
    let hub = TestHub::start().await;
    let curl = |arguments: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--http2-prior-knowledge", "-w", "\n%{http_version}"]);
        let ended = curl.args(arguments).output().unwrap();
        assert_eq!(String::from_utf8(ended.stderr).unwrap(), "");
        String::from_utf8(ended.stdout).unwrap()
    };
    let (hello, page) = (hub.url("/topics/greetings"), hub.url("/events"));
    let (hello, page) = tokio::task::spawn_blocking(move || {
        let published = curl(&["-d", "hello", &hello]);
        (published, (curl(&[&page]), curl(&["-I", &page])))
    })
    .await
    .unwrap();
    assert!(
        hello.contains("\"id\":1") && hello.ends_with("\n2"),
        "{hello}"
    );
    let (page, head) = page;
    assert!(
        page.contains("\"hello\"") && page.ends_with("\n2"),
        "{page}"
    );
    assert!(
        head.starts_with("HTTP/2 ") && head.ends_with("\n2"),
        "{head}"
    );
}

#[tokio::test]
async fn a_hundred_streams_of_one_connection_get_every_event_and_count_as_streams() {
    let hub = TestHub::start_with(|settings| {
        settings.limits.max_connections = 3.try_into().unwrap();
        settings.limits.max_streams_per_address = 100.try_into().unwrap();
    })
    .await;
    let client = client();
    let streams = (0..100).map(|_| follow(&client, &hub, "?topic=t"));
    let mut streams = join_all(streams).await;
    let stats = answer(client.get(hub.url("/stats"))).await.json();
    assert_eq!(
        (&stats["connections"], &stats["subscribers"]),
        (&Value::from(1), &Value::from(100)),
        "{stats}"
    );
    let refusal = answer(client.get(hub.url("/sse"))).await;
    assert_eq!(refusal.code(), "too_many_streams_of_address");
    for n in 1..=20 {
        hub.publish("t", [&n.to_string()]).await;
    }
    let expected: Vec<u64> = (1..=20).collect();
    for stream in &mut streams {
        assert_eq!(stream.next_ids(20).await, expected);
    }
    drop(streams.split_off(50));
    within("their places", async {
        while answer(client.get(hub.url("/stats"))).await.json()["subscribers"] != 50 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    hub.begin_to_stop();
    for stream in &mut streams {
        stream.read_to_end().await.unwrap();
        assert!(stream.received.trim_end().ends_with("id: 20"), "a farewell");
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_drain_says_goaway() {
    let hub = TestHub::start().await;
    let mut raw = Raw::open(&hub, 65_535).await;
    raw.send(&get(1, "/sse")).await;
    raw.until(DATA).await;
    hub.begin_to_stop();
    let farewell = raw.until(DATA).await;
    assert!(
        String::from_utf8(farewell.payload)
            .unwrap()
            .starts_with("retry: ")
    );
    assert_eq!(raw.until(GOAWAY).await.error(), 0);
    drop(raw);
    hub.stop().await;
}

#[tokio::test]
async fn the_first_bytes_may_come_one_by_one() {
    let hub = TestHub::start().await;
    let whole = [
        PREFACE,
        &frame(SETTINGS, 0, 0, b""),
        &get(1, "/health/live"),
    ]
    .concat();
    let mut raw = Raw(TcpStream::connect(hub.address()).await.unwrap());
    raw.0.set_nodelay(true).unwrap();
    for byte in whole {
        raw.send(&[byte]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(raw.until(HEADERS).await.stream, 1);
    for request in [
        "POST /topics/t HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx",
        "PRI / HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let mut raw = Raw(TcpStream::connect(hub.address()).await.unwrap());
        for part in [&request[..1], &request[1..3], &request[3..]] {
            raw.send(part.as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut status = [0; 9];
        within("an answer", raw.0.read_exact(&mut status))
            .await
            .unwrap();
        assert_eq!(&status, b"HTTP/1.1 ");
    }
}

#[tokio::test]
async fn a_connection_without_a_request_ends_and_one_with_a_stream_does_not() {
    let hub = TestHub::start_with(|settings| {
        settings.limits.header_timeout = Duration::from_millis(300);
        settings.heartbeat = Duration::from_millis(200);
    })
    .await;
    let mut streaming = Raw::open(&hub, 65_535).await;
    streaming.send(&get(1, "/sse")).await;
    for begin in [&PREFACE[..5], PREFACE] {
        let mut raw = Raw(TcpStream::connect(hub.address()).await.unwrap());
        raw.send(begin).await;
        raw.goaway().await;
    }
    let mut idle = Raw::open(&hub, 65_535).await;
    idle.send(&get(1, "/health/live")).await;
    idle.until(HEADERS).await;
    assert_eq!(idle.goaway().await, Some(0));
    // The head of a request that never ends is none.
    let mut half = Raw::open(&hub, 65_535).await;
    half.send(&frame(HEADERS, END_STREAM, 1, &head("/events")))
        .await;
    half.goaway().await;
    for _ in 0..10 {
        assert_eq!(streaming.until(DATA).await.stream, 1);
    }
}

#[tokio::test]
async fn an_answer_whose_window_stays_shut_is_reset_and_a_stream_is_not() {
    let hub = TestHub::start_with(|settings| {
        settings.limits.write_timeout = Duration::from_millis(300);
    })
    .await;
    let line = format!("{{\"data\":\"{}\"}}\n", "x".repeat(1000));
    let batch = hub.post("/events").body(line.repeat(1000));
    let batch = batch.header("content-type", "application/x-ndjson");
    assert_eq!(answer(batch).await.status, 201);
    for window in [0, 1, 1000, 65_000] {
        let mut raw = Raw::open(&hub, window).await;
        raw.send(&get(1, "/sse?since=start")).await;
        raw.send(&get(3, "/events?limit=1000")).await;
        raw.send(&get(5, "/events?format=ndjson")).await;
        raw.send(&get(7, "/sse?since=start&format=text")).await;
        let reset = raw.until(RST_STREAM).await;
        assert_eq!((reset.stream, reset.error()), (3, CANCEL), "{window}");
        tokio::time::sleep(Duration::from_millis(700)).await;
        // A window for all that waits: the streams go on where they were.
        for stream in [0, 1, 5] {
            raw.send(&frame(
                WINDOW_UPDATE,
                0,
                stream,
                &4_000_000_u32.to_be_bytes(),
            ))
            .await;
        }
        let mut received = [0; 2];
        while received.iter().any(|bytes| *bytes < 900_000) {
            let frame = raw.next().await.expect("the streams go on");
            assert_ne!(frame.kind, RST_STREAM, "{frame:?}");
            if frame.kind == DATA {
                received[usize::from(frame.stream == 5)] += frame.payload.len();
            }
        }
    }
    // One that takes a little now and then is not cut.
    let mut slow = Raw::open(&hub, 1000).await;
    slow.send(&get(1, "/events?limit=100")).await;
    let mut received = 0;
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        for stream in [0, 1] {
            let more = 20_000_u32.to_be_bytes();
            slow.send(&frame(WINDOW_UPDATE, 0, stream, &more)).await;
        }
    }
    loop {
        let frame = slow.next().await.expect("all of it");
        assert_ne!(frame.kind, RST_STREAM, "after {received} bytes");
        received += if frame.kind == DATA {
            frame.payload.len()
        } else {
            0
        };
        if frame.kind == DATA && frame.flags & END_STREAM != 0 {
            break;
        }
    }
    assert!(received > 100_000, "{received}");
}

/// hyper is done with a piece when the client has room for its first byte. What the rest of a last one takes would be held for ever.
#[tokio::test]
async fn a_short_answer_whose_window_stays_shut_is_reset_too() {
    let hub = TestHub::start_with(|settings| {
        settings.limits.write_timeout = Duration::from_millis(300);
    })
    .await;
    hub.publish("t", [&*"x".repeat(10_000)]).await;
    for window in [1, 1000, 9000] {
        let mut raw = Raw::open(&hub, window).await;
        raw.send(&get(1, "/events/1")).await;
        let reset = raw.until(RST_STREAM).await;
        assert_eq!((reset.stream, reset.error()), (1, CANCEL), "{window}");
    }
}

#[tokio::test]
async fn more_answers_than_a_connection_may_hold_wait_for_their_turn() {
    let hub = TestHub::start_with(|settings| {
        settings.limits.write_timeout = Duration::from_secs(2);
    })
    .await;
    let line = format!("{{\"data\":\"{}\"}}\n", "x".repeat(1000));
    let batch = hub.post("/events").body(line.repeat(100));
    let batch = batch.header("content-type", "application/x-ndjson");
    assert_eq!(answer(batch).await.status, 201);
    let mut raw = Raw::open(&hub, 0).await;
    for n in 0..80 {
        raw.send(&get(2 * n + 1, "/events?limit=100")).await;
    }
    raw.send(&get(161, "/sse?format=text")).await;
    let mut heads = 0;
    let reset = loop {
        let frame = raw.next().await.unwrap();
        heads += u32::from(frame.kind == HEADERS);
        if frame.kind == RST_STREAM {
            break frame;
        }
    };
    assert_eq!((heads, reset.error()), (64, CANCEL));
    // The stream behind them has its turn, too, and then holds up nobody.
    while raw.until(HEADERS).await.stream != 161 {}
}

#[tokio::test]
async fn polls_and_bodies_that_wait_hold_up_nobody_behind_them() {
    let hub = TestHub::start().await;
    let mut raw = Raw::open(&hub, 65_535).await;
    let polls = (0..63).map(|n| 2 * n + 1);
    let posts = (63..126).map(|n| 2 * n + 1);
    for stream in polls.clone() {
        raw.send(&get(stream, "/events?topic=t&wait=60s")).await;
    }
    for stream in posts.clone() {
        raw.send(&post(stream, "/topics/other")).await;
    }
    raw.send(&get(253, "/health/live")).await;
    assert_eq!(raw.until(HEADERS).await.stream, 253);
    hub.publish("t", ["x"]).await;
    for stream in posts {
        raw.send(&frame(DATA, END_STREAM, stream, b"x")).await;
    }
    let mut answered = std::collections::BTreeSet::new();
    while answered.len() < 126 {
        let head = raw.until(HEADERS).await;
        assert!(answered.insert(head.stream), "{head:?}");
    }
    let stored = hub.get_json("/events?topic=other").await;
    assert_eq!(stored["events"].as_array().unwrap().len(), 63);
}

#[tokio::test]
async fn a_connection_that_is_not_served_is_told_so_in_http2() {
    let hub = TestHub::start_with(|settings| {
        settings.limits.max_connections_per_address = 1.try_into().unwrap();
    })
    .await;
    let mut served = Raw::open(&hub, 65_535).await;
    served.send(&get(1, "/sse")).await;
    served.until(DATA).await;
    let told = |error: u32, words: &'static str| {
        move |settings: Option<Frame>, goaway: Option<Frame>| {
            let (settings, goaway) = (settings.unwrap(), goaway.unwrap());
            assert_eq!((settings.kind, settings.stream), (SETTINGS, 0));
            assert_eq!((goaway.kind, goaway.error()), (GOAWAY, error));
            assert_eq!(goaway.payload[..4], [0; 4], "nothing was begun");
            let told = String::from_utf8(goaway.payload[8..].to_vec()).unwrap();
            assert!(told.contains(words), "{told}");
        }
    };
    let mut raw = Raw::open(&hub, 65_535).await;
    _ = raw.try_send(&get(1, "/events")).await;
    let frames = (raw.next().await, raw.next().await);
    told(ENHANCE_YOUR_CALM, "(too_many_connections_of_address)")(frames.0, frames.1);
    assert!(raw.next().await.is_none());
    // A library shows it to its user.
    let error = client().get(hub.url("/events")).send().await.unwrap_err();
    assert!(
        format!("{error:?}").contains("too_many_connections_of_address"),
        "{error:?}"
    );

    let hub = super::tls::hub_with(&super::tls::Authority::new("a"), |_| ()).await;
    let mut raw = Raw::open(&hub, 65_535).await;
    let frames = (raw.next().await, raw.next().await);
    told(INADEQUATE_SECURITY, "use https:// instead of http://")(frames.0, frames.1);
}

#[tokio::test]
async fn bytes_that_the_hub_has_not_read_have_a_bound() {
    let hub = TestHub::start().await;
    hub.publish("t", ["x"]).await;
    // As many answers as a connection may hold, which nobody takes: the next request waits, and its body with it.
    let mut raw = Raw::open(&hub, 0).await;
    for n in 0..64 {
        raw.send(&get(2 * n + 1, "/events")).await;
    }
    for _ in 0..64 {
        raw.until(HEADERS).await;
    }
    raw.send(&post(129, "/topics/t")).await;
    let piece = frame(DATA, 0, 129, &[0; 16 * 1024]);
    for _ in 0..16 {
        raw.send(&piece).await;
    }
    raw.send(&frame(PING, 0, 0, &[0; 8])).await;
    raw.until(PING).await;
    // More than was announced.
    raw.send(&piece).await;
    assert_eq!(raw.until(GOAWAY).await.error(), FLOW_CONTROL_ERROR);
}

/// CVE-2025-8671: faults for which the hub itself resets what was begun.
#[tokio::test]
async fn a_client_that_makes_the_hub_reset_its_streams_is_cut() {
    let hub = TestHub::start().await;
    let mut raw = Raw::open(&hub, 65_535).await;
    let mut resets = 0;
    let error = loop {
        // Too large a window is a fault of the stream alone.
        let fault = [
            get(2 * resets + 1, "/sse"),
            window_update(2 * resets + 1, WINDOW_MAX),
        ];
        if raw.try_send(&fault.concat()).await.is_err() || resets == 250 {
            break raw.goaway().await;
        }
        resets += 1;
        loop {
            match raw.next().await {
                Some(frame) if frame.kind == RST_STREAM => {
                    assert_eq!(frame.error(), FLOW_CONTROL_ERROR);
                    break;
                }
                Some(frame) if frame.kind != GOAWAY => (),
                end => {
                    assert_eq!(end.map(|frame| frame.error()), Some(ENHANCE_YOUR_CALM));
                    assert!((100..200).contains(&resets), "{resets}");
                    return;
                }
            }
        }
    };
    panic!("{resets} resets, {error:?}");
}

/// A page that closes its streams and opens others may do so all day.
#[tokio::test]
async fn streams_that_are_closed_now_and_then_do_not_end_the_connection() {
    let hub = TestHub::start().await;
    let mut raw = Raw::open(&hub, 65_535).await;
    for n in 0..265 {
        if n == 250 {
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
        raw.send(&get(2 * n + 1, "/sse")).await;
        raw.until(DATA).await;
        let reset = frame(RST_STREAM, 0, 2 * n + 1, &CANCEL.to_be_bytes());
        raw.send(&reset).await;
    }
    raw.send(&get(1001, "/health/live")).await;
    while raw.until(HEADERS).await.stream != 1001 {}
}

/// CVE-2023-44487.
#[tokio::test]
async fn requests_that_are_reset_at_once_end_the_connection() {
    let hub = TestHub::start().await;
    let reset = |stream| frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
    let mut raw = Raw::open(&hub, 65_535).await;
    let burst: Vec<u8> = (0..1000)
        .flat_map(|n| [get(2 * n + 1, "/events"), reset(2 * n + 1)].concat())
        .collect();
    _ = raw.try_send(&burst).await;
    assert_eq!(raw.goaway().await, Some(ENHANCE_YOUR_CALM));

    // Each is looked at before it is reset, so h2 does not mind.
    let mut raw = Raw::open(&hub, 65_535).await;
    let mut streams = 0;
    let cut = loop {
        let stream = 2 * streams + 1;
        streams += 1;
        if raw.try_send(&get(stream, "/sse")).await.is_err() {
            break true;
        }
        let Some(_) = raw.next().await else {
            break true;
        };
        if raw.try_send(&reset(stream)).await.is_err() {
            break true;
        }
        if streams > 3000 {
            break false;
        }
    };
    assert!(cut && streams > 200, "{streams}");
    within("the count", async {
        while refusals(&hub, "too_many_resets").await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(refusals(&hub, "invalid_http2").await > 0);
}

#[tokio::test]
async fn a_head_has_an_end() {
    let hub = TestHub::start().await;
    // CONTINUATION without end, small and empty.
    for part in [&field("a", "b").repeat(100)[..], b""] {
        let mut raw = Raw::open(&hub, 65_535).await;
        raw.send(&frame(HEADERS, END_STREAM, 1, &head("/events")))
            .await;
        let flood = frame(CONTINUATION, 0, 1, part).repeat(100);
        let mut sent = 0;
        while raw.try_send(&flood).await.is_ok() && sent < 100_000_000 {
            sent += flood.len();
        }
        assert!(sent < 50_000_000, "{sent} bytes were taken");
    }
}

/// More than HTTP/1 takes, each a byte on the wire.
#[tokio::test]
async fn a_head_has_few_fields() {
    let folder = tempfile::tempdir().unwrap();
    let traced = Traced::start(folder.path(), &[], "info").await;
    let hub = &traced.hub;
    let mut raw = Raw::open(hub, 65_535).await;
    let mut many = head("/events");
    many.extend([0x40, 1, b'a', 1, b'b']); // into the table, where it is number 62
    many.extend([0x80 | 62; 200]);
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &many))
        .await;
    let refusal = raw.until(HEADERS).await;
    assert!(refusal.payload.starts_with(STATUS_431), "{refusal:?}");
    let line = traced.wait_for_line("refused a head of HTTP/2").await;
    assert_eq!(
        (&line["code"], &line["error"]),
        (&json!("head_too_large"), &json!("more than 100 fields"))
    );
    let mut many = client().get(hub.url("/events"));
    for n in 0..150 {
        many = many.header(format!("x-{n}"), "y");
    }
    assert_eq!(answer(many).await.status, 431);
    assert_eq!(refusals(hub, "head_too_large").await, 2);
}

#[tokio::test]
async fn a_head_is_short() {
    let hub = TestHub::start().await;
    let client = client();
    let long = client
        .get(hub.url("/events"))
        .header("x", "y".repeat(100_000));
    assert_eq!(answer(long).await.status, 431);
    let fitting = client
        .get(hub.url("/events"))
        .header("x", "y".repeat(50_000));
    assert_eq!(answer(fitting).await.status, 200);
}

#[tokio::test]
async fn no_more_streams_than_a_connection_may_have() {
    let hub = TestHub::start().await;
    let mut raw = Raw::open(&hub, 65_535).await;
    for n in 0..129 {
        raw.send(&get(2 * n + 1, "/sse")).await;
    }
    let reset = raw.until(RST_STREAM).await;
    assert_eq!((reset.stream, reset.error()), (257, REFUSED_STREAM));
}

#[tokio::test]
async fn the_host_is_the_authority() {
    let hub = TestHub::start().await;
    let client = client();
    let live = || client.get(hub.url("/health/live"));
    assert_eq!(answer(live()).await.status, 200);
    let other = answer(live().header("host", "localhost")).await;
    assert_eq!(
        (other.status.as_u16(), other.code()),
        (400, "invalid_host".into())
    );
    let same = answer(live().header("host", hub.address())).await;
    assert_eq!(same.status, 200);
    let name = "evil.example:1".to_owned();
    let mut block = vec![0x82, 0x86, 0x01, u8::try_from(name.len()).unwrap()];
    block.extend(name.as_bytes());
    block.extend([0x04, 7]);
    block.extend(b"/events");
    let mut raw = Raw::open(&hub, 65_535).await;
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block))
        .await;
    let problem = raw.until(DATA).await;
    let problem = String::from_utf8(problem.payload).unwrap();
    assert!(problem.contains("wrong_host"), "{problem}");
}

#[tokio::test]
async fn a_body_of_many_windows_arrives_and_head_has_no_body() {
    let hub = TestHub::start().await;
    let client = client();
    let text = "é".repeat(500_000);
    let published = client.post(hub.url("/topics/t")).body(text.clone());
    assert_eq!(answer(published).await.status, 201);
    let back = answer(client.get(hub.url("/events/1"))).await;
    assert_eq!(back.json()["data"], text);
    let head = answer(client.head(hub.url("/events/1"))).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    let over_http1 = answer(reqwest_client().head(hub.url("/events/1"))).await;
    let length = |answer: &Answer| answer.headers.get("content-length").cloned();
    assert_eq!(length(&head), length(&over_http1));
    let stream = follow(&client, &hub, "?since=start");
    assert_eq!(
        stream.await.next().await.data,
        serde_json::to_string(&text).unwrap()
    );
}

/// Windows as large as they can be, and a client that reads nothing: what was made for it waits in the hub.
#[tokio::test]
async fn slow_streams_that_nobody_reads_hold_little_each() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path()).await;
    let hub = program.as_hub();
    let line = format!("{{\"data\":\"{}\"}}\n", "x".repeat(1000));
    for _ in 0..2 {
        let batch = hub.post("/events").body(line.repeat(1000));
        let batch = batch.header("content-type", "application/x-ndjson");
        assert_eq!(answer(batch).await.status, 201);
    }
    let before = resident_bytes(program.id());
    let mut connections = Vec::new();
    for _ in 0..5 {
        let mut raw = Raw::open(&hub, WINDOW_MAX).await;
        raw.send(&window_update(0, WINDOW_MAX - 65_535)).await;
        for n in 0..100 {
            raw.send(&get(2 * n + 1, "/sse?since=start")).await;
        }
        connections.push(raw);
    }
    // Until it makes no more.
    let mut last = (0, 0);
    while last.1 < 5 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = resident_bytes(program.id());
        last = match now > last.0 + 500_000 {
            true => (now, 0),
            false => (last.0, last.1 + 1),
        };
    }
    let each = last.0.saturating_sub(before) / 500;
    assert!(each < 120_000, "{each} bytes a stream");
}

#[tokio::test]
async fn slow_many_idle_streams_cost_little_and_all_get_what_comes() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path()).await;
    let hub = program.as_hub();
    let before = resident_bytes(program.id());
    let mut connections = Vec::new();
    for _ in 0..80 {
        let mut raw = Raw::open(&hub, 65_535).await;
        for n in 0..120 {
            raw.send(&get(2 * n + 1, "/sse")).await;
        }
        for _ in 0..120 {
            raw.until(DATA).await;
        }
        connections.push(raw);
    }
    let streams = 80 * 120;
    let each = (resident_bytes(program.id()) - before) / streams;
    assert!(each < 20_000, "{each} bytes a stream");
    hub.publish("t", ["x"]).await;
    for raw in &mut connections {
        let mut got = std::collections::BTreeSet::new();
        while got.len() < 120 {
            let frame = raw.until(DATA).await;
            if frame.payload.ends_with(b"id: 1\n\n") {
                got.insert(frame.stream);
            }
        }
    }
}
