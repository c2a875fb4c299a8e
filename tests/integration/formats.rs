//! More ways to read with the same cursor: lines of JSON, plain text, the address of a topic, and a stream that ends.

use std::time::Duration;

use reqwest::header::HeaderValue;
use serde_json::{Value, json};

use super::test_hub::{TestHub, TestStream, answer, within};

/// A stream of NDJSON, read line by line.
struct Lines {
    response: reqwest::Response,
    received: Vec<u8>,
}

impl Lines {
    async fn open(request: reqwest::RequestBuilder) -> Self {
        let response = within("the head", request.send()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        Self {
            response,
            received: Vec::new(),
        }
    }

    async fn follow(hub: &TestHub, query: &str) -> Self {
        let request = hub.get(&format!("/sse{query}"));
        Self::open(request.header("accept", "application/x-ndjson")).await
    }

    /// The next line; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk = within("a line", self.response.chunk()).await.unwrap();
            self.received.extend(chunk?);
        }
    }

    /// The next event, without what the hub says between.
    async fn next_event(&mut self) -> Value {
        loop {
            let line = self.next().await.expect("the stream goes on");
            if line.get("segno").is_none() {
                return line;
            }
        }
    }
}

#[tokio::test]
async fn a_line_of_ndjson_is_the_event_as_history_has_it() {
    let hub = TestHub::start().await;
    answer(hub.post_json(
        "/events",
        r#"{"topic":"t","type":"paid","data":{"n": 1.10, "text":"a\nb"},"key":"k"}"#,
    ))
    .await;
    let mut lines = Lines::follow(&hub, "?since=start").await;
    let opening = lines.next().await.unwrap();
    assert_eq!(opening["segno"], "cursor");
    assert_eq!(opening["cursor"], 0);
    assert_eq!(
        opening["log"],
        lines.response.headers()["segno-log-id"].to_str().unwrap()
    );
    let first = lines.next().await.unwrap();
    hub.publish("t", ["live"]).await;
    let second = lines.next().await.unwrap();
    let history = hub.get("/events").header("accept", "application/x-ndjson");
    let history = answer(history).await.body;
    let history: Vec<Value> = history
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!([first, second], history[..]);
}

#[tokio::test]
async fn a_reader_of_lines_comes_back_with_the_cursor_and_misses_nothing() {
    let hub = TestHub::start_with(|config| config.heartbeat = Duration::from_millis(100)).await;
    hub.publish("t", ["a", "b"]).await;
    let mut lines = Lines::follow(&hub, "?since=start&topic=t").await;
    assert_eq!(lines.next_event().await["id"], 1);
    assert_eq!(lines.next_event().await["id"], 2);
    // What it does not want moves the cursor all the same.
    hub.publish("other", ["x"]).await;
    let mut cursor = 0;
    while cursor < 3 {
        let line = lines.next().await.unwrap();
        assert_eq!(line["segno"], "cursor", "{line}");
        cursor = line["cursor"].as_u64().unwrap();
    }
    drop(lines);
    hub.publish("t", ["c"]).await;
    let mut lines = Lines::follow(&hub, &format!("?topic=t&last_event_id={cursor}")).await;
    assert_eq!(lines.next_event().await["id"], 4);
    hub.publish("t", ["d"]).await;
    assert_eq!(lines.next_event().await["id"], 5);
}

#[tokio::test]
async fn gaps_and_the_end_of_the_hub_are_lines_with_a_cursor() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a"]).await;
    let mut lines = Lines::follow(&hub, "?last_event_id=900").await;
    let opening = lines.next().await.unwrap();
    assert_eq!(opening["segno"], "cursor");
    let gap = lines.next().await.unwrap();
    assert_eq!(
        gap,
        json!({
            "segno": "gap", "cursor": 0, "reason": "ahead", "requested": 900, "first_id": 1, "last_id": 1
        })
    );
    assert_eq!(lines.next_event().await["id"], 1);
    hub.begin_to_stop();
    let farewell = lines.next().await.unwrap();
    assert_eq!(
        (&farewell["segno"], &farewell["cursor"]),
        (&json!("cursor"), &json!(1))
    );
    assert!(
        (1000..5000).contains(&farewell["retry_ms"].as_u64().unwrap()),
        "{farewell}"
    );
    assert_eq!(lines.next().await, None);
}

/// Readers of the same lines share a stream, beside those of server-sent events.
#[tokio::test]
async fn many_readers_of_each_format_get_the_same_events_in_it() {
    let hub = TestHub::start().await;
    let mut readers = vec![];
    let mut streams = vec![];
    for _ in 0..5 {
        readers.push(Lines::follow(&hub, "").await);
        streams.push(hub.follow("?format=text").await);
    }
    for reader in &mut readers {
        assert_eq!(reader.next().await.unwrap()["segno"], "cursor");
    }
    for round in 0..20 {
        hub.publish("t", [round.to_string().as_str()]).await;
    }
    for reader in &mut readers {
        for round in 0..20 {
            let event = reader.next_event().await;
            assert_eq!(
                (&event["id"], &event["data"]),
                (&json!(round + 1), &json!(round))
            );
        }
    }
    for stream in &mut streams {
        for round in 0..20 {
            assert_eq!(stream.next_data().await, [round.to_string()]);
        }
    }
}

#[tokio::test]
async fn text_is_what_a_json_string_says_and_other_json_is_as_it_was() {
    let hub = TestHub::start().await;
    let mut stream = hub.follow("?format=text").await;
    for data in [
        r#""two\nlines and \"quotes\"""#,
        r#"{"a":"b"}"#,
        r#""""#,
        r#""lone \ud800""#,
        r#""a\r\nid: 99\r\rdata: x""#,
    ] {
        answer(hub.post_json("/events", format!(r#"{{"topic":"t","data":{data}}}"#))).await;
    }
    assert_eq!(
        stream.next_data().await,
        [
            "two\nlines and \"quotes\"",
            r#"{"a":"b"}"#,
            "",
            r#""lone \ud800""#,
            "a\nid: 99\n\ndata: x",
        ]
    );
    assert_eq!(stream.cursor(), 5);
}

#[tokio::test]
async fn a_topic_is_followed_at_the_address_that_one_publishes_to() {
    let hub = TestHub::start().await;
    hub.publish("a/b.c", ["kept"]).await;
    hub.publish("other", ["kept"]).await;
    for path in [
        "/topics/a/b.c",
        "/topics/a%2Fb%2Ec",
        "/topics/a/*.c",
        "/topics/**.c",
    ] {
        let request = hub.get(&format!("{path}?last=1"));
        let mut stream = TestStream::open(request.header("accept", "text/event-stream")).await;
        assert_eq!(stream.header("vary"), "accept");
        assert_eq!(stream.next_data().await, ["\"kept\""], "{path}");
        hub.publish("other", ["live"]).await;
        let [live] = hub.publish("a/b.c", ["live"]).await;
        assert_eq!(stream.next_data().await, ["\"live\""], "{path}");
        hub.publish("a/b.c", ["kept"]).await;
        let resumed = hub.get(path).header("accept", "text/event-stream");
        let mut resumed = TestStream::open(resumed.header("last-event-id", live)).await;
        assert_eq!(resumed.next_data().await, ["\"kept\""], "{path}");
    }
    let request = hub.get("/topics/other?since=start");
    let mut lines = Lines::open(request.header("accept", "application/x-ndjson")).await;
    assert_eq!(lines.next_event().await["topic"], "other");
    let mut lines = Lines::open(hub.get("/topics/other?since=start&format=ndjson")).await;
    assert_eq!(lines.next_event().await["topic"], "other");
}

#[tokio::test]
async fn a_topic_that_is_asked_for_in_no_form_is_refused_with_those_there_are() {
    let hub = TestHub::start().await;
    for accept in ["*/*", "application/json", "text/event-stream;q=0"] {
        let refused = answer(hub.get("/topics/orders/eu").header("accept", accept)).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code().as_str()),
            (406, "not_acceptable")
        );
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        for part in [
            "text/event-stream",
            "application/x-ndjson",
            "GET /events?topic=orders",
        ] {
            assert!(detail.contains(part), "{detail}");
        }
    }
    let unreadable = hub.get("/topics/%ff").header("accept", "text/event-stream");
    let unreadable = answer(unreadable).await;
    assert_eq!(
        (unreadable.status.as_u16(), unreadable.code().as_str()),
        (400, "invalid_parameter")
    );
    let spaced = hub
        .get("/topics/a%20b")
        .header("accept", "text/event-stream");
    assert_eq!(answer(spaced).await.code(), "invalid_topic");
    let posted = answer(hub.post("/sse").body("x")).await;
    assert_eq!(posted.status, 405);
    assert!(
        posted.body.contains("publish with POST /events"),
        "{}",
        posted.body
    );
}

#[tokio::test]
async fn a_stream_with_a_count_ends_after_as_many_events() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a", "b", "c", "d"]).await;
    // In the middle of a page.
    let mut stream = hub.follow("?since=start&count=3").await;
    stream.read_to_end().await.unwrap();
    let ids = |stream: &mut TestStream| -> Vec<String> {
        let messages = stream.take_received();
        messages
            .into_iter()
            .map(|message| message.last_event_id)
            .collect()
    };
    assert_eq!(ids(&mut stream), ["1", "2", "3"]);
    assert_eq!(stream.cursor(), 3);
    // Partly stored, partly live, in the middle of a batch.
    let mut stream = hub.follow("?last=1&count=3").await;
    hub.publish_many(5, |_| "t".into()).await;
    stream.read_to_end().await.unwrap();
    assert_eq!(ids(&mut stream), ["4", "5", "6"]);
    // What is not there yet is waited for.
    let mut lines = Lines::follow(&hub, "?count=1").await;
    assert_eq!(lines.next().await.unwrap()["segno"], "cursor");
    hub.publish("t", ["x"]).await;
    assert_eq!(lines.next().await.unwrap()["id"], 10);
    assert_eq!(lines.next().await, None);
    for count in ["0", "-1", "many", "4294967296"] {
        let refused = answer(hub.get(&format!("/sse?count={count}"))).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code().as_str()),
            (400, "invalid_limit")
        );
    }
}

async fn poll(hub: &TestHub, query: &str) -> Value {
    let polled = answer(hub.get(&format!("/events{query}"))).await;
    assert_eq!(polled.status, 200, "{}", polled.body);
    polled.json()
}

fn ids(page: &Value) -> Vec<u64> {
    let events = page["events"].as_array().unwrap();
    events
        .iter()
        .map(|event| event["id"].as_u64().unwrap())
        .collect()
}

#[tokio::test]
async fn a_long_poll_answers_at_once_or_when_something_comes_or_empty() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a", "b"]).await;
    let page = poll(&hub, "?topic=t&after=0&wait=60s").await;
    assert_eq!((ids(&page), &page["cursor"]), (vec![1, 2], &json!(2)));

    let (page, ()) = tokio::join!(poll(&hub, "?topic=t&after=2&wait=60s"), async {
        hub.publish("other", ["x"]).await;
        hub.publish("t", ["c"]).await;
    });
    assert_eq!((ids(&page), &page["cursor"]), (vec![4], &json!(4)));

    // Nothing that matches; the cursor moves over what does not.
    hub.publish("other", ["y"]).await;
    let page = poll(&hub, "?topic=t&after=4&wait=50ms").await;
    assert_eq!((ids(&page), &page["cursor"]), (vec![], &json!(5)));
    assert_eq!(page.get("gap"), None);
}

#[tokio::test]
async fn whoever_polls_with_the_cursor_gets_every_event_once_in_order() {
    let hub = TestHub::start().await;
    let publishing = async {
        for round in 0..60 {
            let topic = ["t", "other", "t/more"][round % 3];
            hub.publish(topic, ["x"]).await;
        }
        hub.publish("t", ["end"]).await;
    };
    let polling = async {
        let (mut cursor, mut seen) = (0, vec![]);
        loop {
            let page = poll(&hub, &format!("?topic=t&limit=2&after={cursor}&wait=10s")).await;
            cursor = page["cursor"].as_u64().unwrap();
            for event in page["events"].as_array().unwrap() {
                seen.push(event["id"].as_u64().unwrap());
                if event["data"] == "end" {
                    return seen;
                }
            }
        }
    };
    let (seen, ()) = tokio::join!(polling, publishing);
    let expected: Vec<u64> = (0..60)
        .filter(|n| n % 3 == 0)
        .map(|n| n + 1)
        .chain([61])
        .collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_long_poll_tells_a_gap_once_and_goes_on_behind_it() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a"]).await;
    let page = poll(&hub, "?after=900&wait=60s").await;
    assert_eq!(
        page["gap"],
        json!({"reason": "ahead", "requested": 900, "first_id": 1, "last_id": 1})
    );
    assert_eq!((ids(&page), &page["cursor"]), (vec![1], &json!(1)));
}

/// A cursor of another log, or of a newer copy of this one, used to be answered as if nothing had come since.
#[tokio::test]
async fn a_history_after_a_cursor_that_is_ahead_tells_so_and_begins_at_the_first_event() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a", "b"]).await;
    hub.publish("u", ["c"]).await;
    let told = json!({"reason": "ahead", "requested": 900, "first_id": 1, "last_id": 3});
    for (query, expected, next) in [
        ("after=900", vec![1, 2, 3], Value::Null),
        ("after=900&wait=0s", vec![1, 2, 3], Value::Null),
        (
            "after=900&topic=t&limit=1",
            vec![1],
            json!("/events?topic=t&limit=1&after=1"),
        ),
        (
            "after=900&order=desc&limit=2",
            vec![3, 2],
            json!("/events?after=900&order=desc&limit=2&before=2"),
        ),
        ("after=900&before=3", vec![1, 2], Value::Null),
    ] {
        let page = poll(&hub, &format!("?{query}")).await;
        assert_eq!(ids(&page), expected, "{query}");
        assert_eq!((&page["gap"], &page["next"]), (&told, &next), "{query}");
    }
    let page = poll(&hub, "?after=900").await;
    assert_eq!(page["cursor"], 3);
    for cursor in [0, 3] {
        let page = poll(&hub, &format!("?after={cursor}")).await;
        assert_eq!(page.get("gap"), None, "{cursor}");
    }

    let lines = answer(hub.get("/events?after=900&topic=t&format=ndjson"))
        .await
        .body;
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        lines[0],
        json!({
            "segno": "gap", "cursor": 0, "reason": "ahead", "requested": 900, "first_id": 1, "last_id": 3
        })
    );
    let events: Vec<_> = lines[1..]
        .iter()
        .map(|event| event["id"].as_u64().unwrap())
        .collect();
    assert_eq!(events, [1, 2]);
}

#[tokio::test]
async fn a_long_poll_counts_as_a_stream_and_ends_with_the_hub() {
    let hub = TestHub::start_with(|config| {
        config.limits.max_streams_per_address = std::num::NonZeroU32::MIN;
    })
    .await;
    let address = hub.address().to_owned();
    let mut waiting = tokio::spawn(answer(hub.get("/events?wait=60s")));
    within("the poll to count", async {
        while answer(hub.get("/events?wait=1ms")).await.status != 429 {
            if waiting.is_finished() {
                // The other was first.
                waiting = tokio::spawn(answer(hub.get("/events?wait=60s")));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    hub.begin_to_stop();
    let ended = within("the poll to end", waiting).await.unwrap();
    assert_eq!(
        (ended.status.as_u16(), ended.json()["events"].clone()),
        (200, json!([])),
        "{address}"
    );
}

/// `Accept` says what the answer is, so one that cannot be read is refused wherever it is read, whatever else is asked for. And it is
/// read by the standard everywhere.
#[tokio::test]
async fn accept_is_read_the_same_way_everywhere() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a"]).await;
    for path in [
        "/events",
        "/events?format=json",
        "/sse",
        "/sse?format=data",
        "/topics/t",
    ] {
        let unreadable = HeaderValue::from_bytes(b"text/event-stream, \xff").unwrap();
        let refused = answer(hub.get(path).header("accept", unreadable)).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code().as_str()),
            (400, "invalid_header"),
            "{path}"
        );
    }
    for (accept, content_type) in [
        (
            "Application/X-NDJSON;q=0.5, text/html",
            "application/x-ndjson",
        ),
        ("application/x-ndjson;q=0, */*", "application/json"),
        ("application/x-ndjson-not", "application/json"),
    ] {
        let read = answer(hub.get("/events").header("accept", accept)).await;
        assert_eq!(read.header("content-type"), content_type, "{accept}");
    }
}

#[tokio::test]
async fn a_wait_for_what_cannot_come_is_refused() {
    let hub = TestHub::start().await;
    for query in ["order=desc", "before=9", "until=0s", "format=ndjson"] {
        let refused = answer(hub.get(&format!("/events?wait=1s&{query}"))).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code().as_str()),
            (400, "invalid_parameter"),
            "{query}"
        );
    }
    for wait in ["61s", "2m", "-1s", "soon", ""] {
        let refused = answer(hub.get(&format!("/events?wait={wait}"))).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code().as_str()),
            (400, "invalid_time"),
            "{wait}"
        );
    }
}
