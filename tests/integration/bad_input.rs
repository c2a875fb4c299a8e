//! What bad input gets: a status, a code, a sentence, and nothing stored.

use std::time::Duration;

use reqwest::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::test_hub::{Answer, TestHub, answer, reqwest_client, within};

const JSON: &str = "application/json";

/// Posts, expects a refusal, and that nothing was stored.
async fn refused(
    hub: &TestHub,
    path: &str,
    content_type: &str,
    body: impl Into<reqwest::Body>,
) -> (u16, String, Answer) {
    let refusal = answer(
        hub.post(path)
            .header("content-type", content_type)
            .body(body),
    )
    .await;
    let code = refusal.code();
    assert_eq!(hub.last_id().await, 0, "{refusal:?}");
    (refusal.status.as_u16(), code, refusal)
}

#[tokio::test]
async fn what_cannot_be_published_is_refused_with_a_code() {
    let hub = TestHub::start().await;
    let long = "x".repeat(256);
    let long_topic = format!(r#"{{"data":1,"topic":"{long}"}}"#);
    let long_key = format!(r#"{{"data":1,"key":"{long}"}}"#);
    let cases: &[(&str, &str, &str, u16, &str)] = &[
        ("/events", JSON, "{", 400, "invalid_json"),
        ("/events", JSON, "", 400, "invalid_json"),
        ("/events", JSON, "hello", 400, "invalid_json"),
        ("/events", JSON, r#"{"data":1} x"#, 400, "invalid_json"),
        ("/events", JSON, r#"{"data":01}"#, 400, "invalid_json"),
        ("/events", JSON, "{\"data\":\"\t\"}", 400, "invalid_json"),
        ("/events", JSON, "{}", 400, "missing_field"),
        ("/events", JSON, r#"{"topic":"t"}"#, 400, "missing_field"),
        (
            "/events",
            JSON,
            r#"{"data":1,"tpoic":"t"}"#,
            400,
            "unknown_field",
        ),
        (
            "/events",
            JSON,
            r#"{"data":1,"data":2}"#,
            400,
            "invalid_field",
        ),
        (
            "/events",
            JSON,
            r#"{"data":1,"topic":7}"#,
            400,
            "invalid_field",
        ),
        ("/events", JSON, "7", 400, "invalid_field"),
        ("/events", JSON, "[[]]", 400, "invalid_field"),
        ("/events", JSON, "[]", 400, "empty_batch"),
        (
            "/events",
            "application/x-ndjson",
            "\n\n",
            400,
            "empty_batch",
        ),
        (
            "/events",
            "application/x-ndjson",
            "{\"data\":1}\nnope\n",
            400,
            "invalid_json",
        ),
        (
            "/events",
            JSON,
            r#"{"data":1,"topic":""}"#,
            400,
            "invalid_topic",
        ),
        (
            "/events",
            JSON,
            r#"{"data":1,"topic":"a b"}"#,
            400,
            "invalid_topic",
        ),
        (
            "/events",
            JSON,
            r#"{"data":1,"topic":"a\ndata: x"}"#,
            400,
            "invalid_topic",
        ),
        (
            "/events",
            JSON,
            r#"{"data":1,"topic":"a.*"}"#,
            400,
            "invalid_topic",
        ),
        ("/events", JSON, &long_topic, 400, "invalid_topic"),
        (
            "/events",
            JSON,
            r#"{"data":1,"topic":"segno.mine"}"#,
            400,
            "invalid_topic",
        ),
        (
            "/events",
            JSON,
            r#"{"data":1,"type":"segno.gap"}"#,
            400,
            "invalid_type",
        ),
        (
            "/events",
            JSON,
            r#"{"data":1,"type":"a\rid: 9"}"#,
            400,
            "invalid_type",
        ),
        (
            "/events",
            JSON,
            r#"{"data":1,"key":""}"#,
            400,
            "invalid_key",
        ),
        (
            "/events",
            JSON,
            r#"{"data":1,"key":"a\u0000"}"#,
            400,
            "invalid_key",
        ),
        ("/events", JSON, &long_key, 400, "invalid_key"),
        (
            "/events",
            "text/plain",
            r#"{"data":1}"#,
            415,
            "unsupported_content_type",
        ),
        (
            "/events",
            "application/x-www-form-urlencoded",
            r#"{"data":1}"#,
            415,
            "unsupported_content_type",
        ),
        ("/messages", JSON, "{}", 400, "missing_field"),
        (
            "/messages",
            JSON,
            r#"{"message":"a","x":1}"#,
            400,
            "unknown_field",
        ),
        ("/messages", JSON, "{", 400, "invalid_json"),
        (
            "/messages",
            "text/plain",
            "{}",
            415,
            "unsupported_content_type",
        ),
        ("/send_rest", JSON, r#"["message"]"#, 400, "invalid_field"),
        ("/topics/a%20b", "text/plain", "x", 400, "invalid_topic"),
        ("/topics/a.*", "text/plain", "x", 400, "invalid_topic"),
        ("/topics/a%0Ab", "text/plain", "x", 400, "invalid_topic"),
        (
            "/topics/segno.canary",
            "text/plain",
            "x",
            400,
            "invalid_topic",
        ),
        (
            "/topics/a?type=segno.x",
            "text/plain",
            "x",
            400,
            "invalid_type",
        ),
        ("/topics/a?type=", "text/plain", "x", 400, "invalid_type"),
        (
            "/topics/a?type=error",
            "text/plain",
            "x",
            400,
            "invalid_type",
        ),
        (
            "/events",
            JSON,
            r#"{"type":"open","data":1}"#,
            400,
            "invalid_type",
        ),
        ("/topics/a", JSON, "{broken", 400, "invalid_json"),
    ];
    for &(path, content_type, body, status, code) in cases {
        let (refused_with, refused_code, refusal) =
            refused(&hub, path, content_type, body.to_owned()).await;
        assert_eq!(
            (refused_with, refused_code.as_str()),
            (status, code),
            "{path} {body}: {refusal:?}"
        );
    }
    let (status, code, _) = refused(&hub, "/topics/a", "text/plain", vec![0xff, 0xfe]).await;
    assert_eq!((status, code.as_str()), (400, "invalid_text"));
    let (_, _, refusal) = refused(&hub, "/events", JSON, "{\"data\": 1,\n \"topic\": oops}").await;
    assert!(
        refusal.body.contains("line 2 column"),
        "it says where: {refusal:?}"
    );
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_told() {
    let hub = TestHub::start().await;
    let mib = 1024 * 1024;
    let event = |bytes: usize| format!("{{\"data\":\"{}\"}}", "x".repeat(bytes - 2));
    let (status, code, _) = refused(&hub, "/events", JSON, event(mib + 1)).await;
    assert_eq!((status, code.as_str()), (413, "event_too_large"));
    let (status, code, _) = refused(&hub, "/topics/t", "text/plain", "x".repeat(mib - 1)).await;
    assert_eq!((status, code.as_str()), (413, "event_too_large"));
    let (status, code, _) = refused(&hub, "/topics/t", "text/plain", "x".repeat(5 * mib)).await;
    assert_eq!((status, code.as_str()), (413, "event_too_large"));
    let (status, code, _) = refused(&hub, "/events", JSON, event(17 * mib)).await;
    assert_eq!((status, code.as_str()), (413, "batch_too_large"));
    let (status, code, _) = refused(
        &hub,
        "/events",
        "application/x-ndjson",
        "{\"data\":1}\n".repeat(10_001),
    )
    .await;
    assert_eq!((status, code.as_str()), (413, "batch_too_large"));

    let largest = answer(hub.post_json("/events", event(mib))).await;
    assert_eq!(largest.status, StatusCode::CREATED, "{largest:?}");
    let most = "{\"data\":1}\n".repeat(10_000);
    let most = answer(
        hub.post("/events")
            .header("content-type", "application/x-ndjson")
            .body(most),
    )
    .await;
    assert_eq!(most.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_body_without_a_length_is_bounded_too() {
    let hub = TestHub::start().await;
    let chunks = futures_util::stream::iter(
        (0..40).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 1024 * 1024])),
    );
    let (status, code, _) =
        refused(&hub, "/events", JSON, reqwest::Body::wrap_stream(chunks)).await;
    assert_eq!((status, code.as_str()), (413, "batch_too_large"));
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_a_code() {
    let hub = TestHub::start().await;
    for (path, status, code) in [
        ("/sse?last_event_id=abc", 400, "invalid_cursor"),
        ("/sse?last_event_id=-1", 400, "invalid_cursor"),
        ("/sse?last_event_id=1.5", 400, "invalid_cursor"),
        (
            "/sse?last_event_id=99999999999999999999",
            400,
            "invalid_cursor",
        ),
        (
            "/sse?last_event_id=1&since=start",
            400,
            "conflicting_starts",
        ),
        ("/sse?since=1h&last=3", 400, "conflicting_starts"),
        ("/sse?since=yesterday", 400, "invalid_time"),
        ("/sse?last=many", 400, "invalid_limit"),
        ("/sse?format=xml", 400, "invalid_format"),
        ("/sse?topic=a%20b", 400, "invalid_topic"),
        ("/sse?topic=", 400, "invalid_topic"),
        ("/sse?type=a%0Ab", 400, "invalid_type"),
        ("/events?limit=0", 400, "invalid_limit"),
        ("/events?limit=1001", 400, "invalid_limit"),
        ("/events?limit=x", 400, "invalid_limit"),
        ("/events?after=x", 400, "invalid_cursor"),
        ("/events?before=x", 400, "invalid_cursor"),
        ("/events?since=x", 400, "invalid_time"),
        ("/events?until=x", 400, "invalid_time"),
        ("/events?order=up", 400, "invalid_order"),
        ("/events/abc", 400, "invalid_id"),
        ("/events/7", 404, "unknown_event"),
        ("/topics?limit=0", 400, "invalid_limit"),
        ("/nothing", 404, "unknown_path"),
        ("/events/7/more", 404, "unknown_path"),
    ] {
        let refusal = answer(hub.get(path)).await;
        assert_eq!(
            (refusal.status.as_u16(), refusal.code().as_str()),
            (status, code),
            "{path}: {refusal:?}"
        );
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let hub = TestHub::start().await;
    for (path, allow) in [
        ("/sse", "GET"),
        ("/messages", "POST"),
        ("/topics/a/b", "DELETE, GET, POST"),
        ("/openapi.json", "GET"),
        ("/health/live", "GET"),
    ] {
        let refusal = answer(reqwest_put(&hub, path)).await;
        assert_eq!(
            (refusal.status.as_u16(), refusal.code().as_str()),
            (405, "method_not_allowed"),
            "{path}"
        );
        let mut allowed: Vec<_> = refusal.header("allow").split(", ").collect();
        allowed.sort_unstable();
        assert_eq!(allowed.join(", "), allow, "{path}");
    }
    let refusal = answer(reqwest_put(&hub, "/events")).await;
    assert!(refusal.header("allow").contains("GET") && refusal.header("allow").contains("POST"));
}

fn reqwest_put(hub: &TestHub, path: &str) -> reqwest::RequestBuilder {
    super::test_hub::reqwest_client().put(hub.url(path))
}

/// Sends bytes and reads until the hub closes.
async fn raw(hub: &TestHub, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(hub.address()).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut received = Vec::new();
    // A reset is an end too.
    _ = within("the hub to close", socket.read_to_end(&mut received)).await;
    String::from_utf8_lossy(&received).into_owned()
}

#[tokio::test]
async fn half_a_request_does_not_hold_a_connection_for_ever() {
    let hub = TestHub::start_with(|config| {
        config.limits.header_timeout = Duration::from_millis(200);
        config.limits.body_timeout = Duration::from_millis(200);
    })
    .await;
    for half in ["", "GET /sse HT", "POST /events HTTP/1.1\r\nhost: x\r\n"] {
        assert_eq!(raw(&hub, half.as_bytes()).await, "", "{half:?}");
    }
    let head = "POST /events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{";
    let told = raw(&hub, head.as_bytes()).await;
    assert!(
        told.starts_with("HTTP/1.1 408 ") && told.contains("request_timeout"),
        "{told}"
    );
    assert_eq!(hub.last_id().await, 0);
}

/// Every byte comes in time, and all of them would not.
#[tokio::test]
async fn a_publisher_that_sends_a_byte_now_and_then_is_cut_when_its_time_is_up() {
    let hub = TestHub::start_with(|config| {
        config.limits.header_timeout = Duration::from_millis(500);
        config.limits.body_timeout = Duration::from_millis(500);
    })
    .await;
    let head = "POST /events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n";
    for (at_once, answer) in [("", ""), (head, "HTTP/1.1 408 ")] {
        let socket = TcpStream::connect(hub.address()).await.unwrap();
        let (mut received, mut sender) = socket.into_split();
        let dripping = tokio::spawn(async move {
            sender.write_all(at_once.as_bytes()).await.unwrap();
            for byte in head.bytes().cycle() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if sender.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
        });
        let mut told = Vec::new();
        // A reset is an end, too: it was still sending.
        _ = within("the connection to end", received.read_to_end(&mut told)).await;
        let told = String::from_utf8(told).unwrap();
        assert!(told.starts_with(answer), "{told}");
        within("the publisher to notice", dripping).await.unwrap();
    }
    assert_eq!(hub.last_id().await, 0);
}

#[tokio::test]
async fn rubbish_is_answered_and_the_hub_lives() {
    let hub = TestHub::start().await;
    assert!(
        raw(&hub, b"\x16\x03\x01\x02\x00 this is no HTTP\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 400 ")
    );
    assert!(
        raw(&hub, b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 400 ")
    );
    let long = format!(
        "GET /events?topic={} HTTP/1.1\r\nhost: x\r\n\r\n",
        "x".repeat(100_000)
    );
    assert!(raw(&hub, long.as_bytes()).await.starts_with("HTTP/1.1 4"));
    assert_eq!(hub.publish("t", ["alive"]).await, [1]);
}

/// A publisher that resets its connection in the middle leaves an event that is stored and announced, or neither.
#[tokio::test]
async fn a_publisher_that_resets_leaves_an_event_or_none() {
    let hub = TestHub::start().await;
    let mut stream = hub.follow("?topic=reset").await;
    let body = "{\"topic\":\"reset\",\"data\":1}";
    let request = format!(
        "POST /events HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for cut in (0..=request.len()).chain([request.len(); 200]) {
        let mut socket = TcpStream::connect(hub.address()).await.unwrap();
        socket.write_all(&request.as_bytes()[..cut]).await.unwrap();
        socket.set_zero_linger().unwrap(); // Closing sends a reset.
        drop(socket);
    }
    hub.publish("reset", ["last"]).await;
    let mut announced = Vec::new();
    loop {
        let message = stream.next().await;
        announced.push(message.last_event_id.parse::<u64>().unwrap());
        if message.data == "\"last\"" {
            break;
        }
    }
    let stored: Vec<u64> = hub.get_json("/events?topic=reset&limit=1000").await["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["id"].as_u64().unwrap())
        .collect();
    assert_eq!(announced, stored);
}

/// `topics=` for `topic=` was ignored, and whoever wrote it got everything.
#[tokio::test]
async fn a_parameter_that_nobody_knows_is_refused_on_every_operation() {
    let hub = TestHub::start().await;
    let document: serde_json::Value =
        serde_json::from_str(&segno::http::openapi_document()).unwrap();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let url = path.replace("{id}", "1").replace("{topic}", "a/b");
        for (method, operation) in operations.as_object().unwrap() {
            let method = method.to_uppercase().parse().unwrap();
            let request =
                reqwest_client().request(method, hub.url(&format!("{url}?topics=orders")));
            let refusal = answer(request).await;
            assert_eq!(refusal.status, 400, "{path}: {refusal:?}");
            assert_eq!(refusal.code(), "unknown_parameter", "{path}");
            let told = operation["responses"]["400"]["description"].as_str();
            assert!(told.unwrap().contains("unknown_parameter"), "{path}");
        }
    }
    let refusal = answer(hub.get("/sse?topic=orders&topics=orders")).await;
    let detail = refusal.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.starts_with(
            "parameter 'topics' is unknown; this operation has topic, type, last_event_id, "
        ),
        "{detail}"
    );

    // What polyfills of EventSource send, also as some of them write it, and a query with nothing in it.
    for query in [
        "lastEventId=0",
        "Last-Event-ID=0",
        "Last%2DEvent%2DID=0&topic=orders",
        "&topic=orders&",
        "",
    ] {
        hub.follow(&format!("?{query}")).await;
    }
    // The page keeps what it shows in its own query, and nobody else reads that.
    assert_eq!(answer(hub.get("/?topics=orders")).await.status, 200);
}
