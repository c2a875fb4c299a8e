//! Tickets over HTTP, and streams whose right to go on ends while they are open.

use std::{
    fs,
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    access::{hub_with, token_entry},
    test_hub::{Answer, TestHub, TestStream, answer, reqwest_client, within},
};

const PAGE: &str = "segno_page";
const WRITER: &str = "segno_writer";

fn page(follow: &str) -> String {
    token_entry(PAGE, &format!("follow = [{follow}]\noperate = true"))
}

fn writer() -> String {
    token_entry(WRITER, "publish = [\"**\"]\nfollow = [\"**\"]")
}

fn access_file(hub: &TestHub) -> std::path::PathBuf {
    hub.db().with_file_name("access.toml")
}

async fn publish(hub: &TestHub, topic: &str, data: &str) {
    let request = hub.post(&format!("/topics/{topic}")).bearer_auth(WRITER);
    let answer = answer(request.body(data.to_owned())).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
}

async fn ask_for_ticket(hub: &TestHub, token: &str, wish: Value) -> Answer {
    let request = hub.post_json("/tickets", wish.to_string());
    answer(request.bearer_auth(token)).await
}

async fn ticket(hub: &TestHub, wish: Value) -> String {
    let made = ask_for_ticket(hub, PAGE, wish).await;
    assert_eq!(made.status, StatusCode::OK, "{made:?}");
    made.json()["ticket"].as_str().unwrap().to_owned()
}

/// Reads to the end of a stream, and gives the reason that it ended with.
async fn reason_of_end(stream: &mut TestStream) -> String {
    stream.read_to_end().await.unwrap();
    let messages = stream.take_received();
    let last = messages
        .last()
        .unwrap_or_else(|| panic!("{}", stream.received));
    assert_eq!(last.event_type, "segno.expired", "{}", stream.received);
    let data: Value = serde_json::from_str(&last.data).unwrap();
    data["reason"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_ticket_reads_what_it_names_and_nothing_else() {
    let hub = hub_with(&(page("\"orders.**\"") + &writer())).await;
    publish(&hub, "orders.eu", "mine").await;
    publish(&hub, "orders.us", "theirs").await;
    let made = ask_for_ticket(
        &hub,
        PAGE,
        json!({"follow": ["orders.eu"], "expires_in": "10m"}),
    )
    .await;
    let expires = made.json()["expires_at"].as_str().unwrap().to_owned();
    let expires = chrono::DateTime::parse_from_rfc3339(&expires).unwrap();
    let left = expires.timestamp() - chrono::Utc::now().timestamp();
    assert!((590..=600).contains(&left), "{left}");
    let ticket = made.json()["ticket"].as_str().unwrap().to_owned();

    let mut stream = hub.follow(&format!("?ticket={ticket}&since=start")).await;
    publish(&hub, "orders.us", "theirs").await;
    publish(&hub, "orders.eu", "mine too").await;
    assert_eq!(stream.next_data().await, ["\"mine\"", "\"mine too\""]);
    assert!(!stream.received.contains("theirs"), "{}", stream.received);
    // As often as the browser reconnects.
    let mut again = hub.resume(&format!("?ticket={ticket}"), 1).await;
    assert_eq!(again.next_data().await, ["\"mine too\""]);
    let page = hub
        .get_json(&format!("/events?ticket={ticket}&limit=1"))
        .await;
    assert_eq!(page["events"].as_array().unwrap().len(), 1);
    let next = page["next"].as_str().unwrap();
    let page = hub.get_json(next).await;
    assert_eq!(page["events"][0]["data"], "mine too", "{page}");

    let topic = |topic: &str| {
        let request = hub.get(&format!(
            "/topics/{topic}?ticket={ticket}&since=start&count=2"
        ));
        request.header("accept", "application/x-ndjson")
    };
    let lines = answer(topic("orders.eu")).await;
    assert!(lines.body.contains("mine too"), "{lines:?}");
    assert_eq!(answer(topic("orders.us")).await.code(), "not_allowed");

    // By name what it does not have, and everything that is not reading.
    for path in ["/sse", "/events"] {
        let refused = answer(hub.get(&format!("{path}?ticket={ticket}&topic=orders.us"))).await;
        assert_eq!(refused.code(), "not_allowed", "{path}");
    }
    for path in ["/topics", "/stats", "/metrics", "/events/1"] {
        let refused = answer(hub.get(&format!("{path}?ticket={ticket}"))).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    let posted = hub.post_json(
        &format!("/events?ticket={ticket}"),
        r#"{"topic":"orders.eu","data":1}"#,
    );
    assert_eq!(answer(posted).await.status, StatusCode::UNAUTHORIZED);
    let more = hub.post_json(
        &format!("/tickets?ticket={ticket}"),
        r#"{"follow":["orders.eu"]}"#,
    );
    assert_eq!(answer(more).await.status, StatusCode::UNAUTHORIZED);
    // One changed character.
    let flip = |c: char| if c == 'A' { 'B' } else { 'A' };
    for at in [0, 20, ticket.len() / 2, ticket.len() - 2] {
        let mut letters: Vec<char> = ticket.chars().collect();
        letters[at] = flip(letters[at]);
        let bad: String = letters.into_iter().collect();
        let refused = answer(hub.get(&format!("/events?ticket={bad}"))).await;
        assert_eq!(refused.code(), "credential_invalid", "{bad}");
        assert!(!refused.body.contains(&bad), "{refused:?}");
    }
}

#[tokio::test]
async fn a_wish_for_a_ticket_that_cannot_be_met_is_refused_in_words() {
    let hub = hub_with(&(page("\"orders.**\"") + &token_entry(WRITER, "publish = [\"**\"]"))).await;
    for (token, wish, status, code) in [
        (PAGE, json!({"follow": ["secret"]}), 403, "not_allowed"),
        (
            PAGE,
            json!({"follow": ["orders.eu", "secret"]}),
            403,
            "not_allowed",
        ),
        (PAGE, json!({"follow": []}), 400, "invalid_field"),
        (
            PAGE,
            json!({"follow": vec!["orders.*"; 21]}),
            400,
            "invalid_field",
        ),
        (PAGE, json!({"follow": ["a b"]}), 400, "invalid_topic"),
        (
            PAGE,
            json!({"follow": ["orders.eu"], "expires_in": "soon"}),
            400,
            "invalid_time",
        ),
        (
            PAGE,
            json!({"follow": ["orders.eu"], "publish": ["a"]}),
            400,
            "unknown_field",
        ),
        (PAGE, json!({}), 400, "missing_field"),
        (WRITER, json!({"follow": ["orders.eu"]}), 403, "not_allowed"),
    ] {
        let refused = ask_for_ticket(&hub, token, wish.clone()).await;
        assert_eq!(refused.status.as_u16(), status, "{wish}: {refused:?}");
        assert_eq!(refused.code(), code, "{wish}");
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_ticket() {
    let hub = hub_with(&(page("\"orders.**\"") + &writer())).await;
    let ticket = ticket(&hub, json!({"follow": ["orders.eu"], "expires_in": "2s"})).await;
    let begun = Instant::now();
    let mut stream = hub.follow(&format!("?ticket={ticket}")).await;
    publish(&hub, "orders.eu", "before").await;
    let reason = reason_of_end(&mut stream).await;
    let took = begun.elapsed();
    assert!(reason.starts_with("it expired at 20"), "{reason}");
    assert!(
        (Duration::from_millis(1900)..Duration::from_secs(4)).contains(&took),
        "{took:?}"
    );
    assert_eq!(stream.cursor(), 1, "{}", stream.received);
    let refused = answer(hub.get(&format!("/sse?ticket={ticket}"))).await;
    assert_eq!(refused.code(), "credential_invalid");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("it expired at"), "{detail}");
}

/// A later request of a connection is answered by another part of the server.
#[tokio::test]
async fn a_stream_within_a_kept_connection_ends_with_its_ticket() {
    let hub = hub_with(&(page("\"orders.**\"") + &writer())).await;
    let ticket = ticket(&hub, json!({"follow": ["orders.eu"], "expires_in": "1s"})).await;
    let mut socket = TcpStream::connect(hub.address()).await.unwrap();
    let head = format!(
        "GET /health/live HTTP/1.1\r\nhost: x\r\n\r\nGET /sse?ticket={ticket} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut received = String::new();
    within(
        "the end of the stream",
        socket.read_to_string(&mut received),
    )
    .await
    .unwrap();
    assert!(received.contains("event: segno.expired\n"), "{received}");
    assert!(received.ends_with("0\r\n\r\n"), "{received}");
}

/// A range may take as long as a stream: it is cut, and not ended as if it were whole.
#[tokio::test]
async fn an_export_is_cut_when_its_right_ends() {
    let hub = hub_with(&(page("\"orders.**\"") + &writer())).await;
    let event = json!({"topic": "orders.eu", "data": "x".repeat(1000)});
    let lines = format!("{event}\n").repeat(10_000);
    for _ in 0..3 {
        let request = hub
            .post("/events")
            .header("content-type", "application/x-ndjson");
        let stored = answer(request.bearer_auth(WRITER).body(lines.clone())).await;
        assert_eq!(stored.status, StatusCode::CREATED, "{stored:?}");
    }
    let export = |token: &str| hub.get("/events?format=ndjson").bearer_auth(token).send();
    let mut cut = export(PAGE).await.unwrap();
    let mut whole = export(WRITER).await.unwrap();
    assert!(cut.chunk().await.unwrap().is_some());
    fs::write(access_file(&hub), writer()).unwrap();
    within("the change", async {
        let ask = || answer(hub.get("/whoami").bearer_auth(PAGE));
        while ask().await.status == StatusCode::OK {}
    })
    .await;
    let ended = within("the end", async {
        loop {
            match cut.chunk().await {
                Ok(Some(_)) => (),
                other => break other,
            }
        }
    })
    .await;
    assert!(ended.is_err(), "it ended as if it were whole");
    let mut lines = 0;
    while let Some(chunk) = whole.chunk().await.unwrap() {
        lines += chunk.iter().filter(|byte| **byte == b'\n').count();
    }
    assert_eq!(lines, 30_000);
}

#[tokio::test]
async fn what_everybody_may_follow_ends_with_the_rule_that_allowed_it() {
    let anonymous = |follow: &str| format!("[anonymous]\nfollow = [{follow}]\n") + &writer();
    let hub = hub_with(&anonymous("\"public.**\"")).await;
    let mut stream = hub.follow("").await;
    publish(&hub, "public.news", "hello").await;
    publish(&hub, "secret", "theirs").await;
    assert_eq!(stream.next_data().await, ["\"hello\""]);
    fs::write(access_file(&hub), anonymous("")).unwrap();
    let reason = reason_of_end(&mut stream).await;
    assert_eq!(reason, "the right to follow has changed");
    assert_eq!(answer(hub.get("/sse")).await.code(), "credential_missing");
}

/// 1,000 streams, of which some lose the right: those end within 2 s of the change of the file, and the others miss nothing.
#[tokio::test]
async fn slow_of_1000_streams_those_end_that_lose_the_right() {
    const STREAMS: usize = 1000;
    let stays = token_entry("segno_stays", "follow = [\"orders.**\"]");
    let goes = token_entry("segno_goes", "follow = [\"orders.**\"]");
    let narrows = |follow: &str| token_entry("segno_narrows", &format!("follow = [{follow}]"));
    let before = [&*stays, &*goes, &*narrows("\"orders.**\""), &*writer()].concat();
    let hub = hub_with(&before).await;
    let tokens = ["segno_stays", "segno_goes", "segno_narrows", "segno_stays"];
    let mut streams = Vec::new();
    let client = reqwest_client();
    for number in 0..STREAMS {
        let token = tokens[number % tokens.len()];
        let request = client.get(hub.url("/sse")).bearer_auth(token);
        streams.push((token, TestStream::open(request).await));
    }
    publish(&hub, "orders.eu", "before").await;
    let changed = Instant::now();
    fs::write(
        access_file(&hub),
        [&*stays, &*narrows("\"orders.us\""), &*writer()].concat(),
    )
    .unwrap();
    for (token, stream) in &mut streams {
        assert_eq!(stream.next_data().await, ["\"before\""], "{token}");
        if *token != "segno_stays" {
            let reason = reason_of_end(stream).await;
            let expected = match *token {
                "segno_goes" => {
                    "this token is not in the access file: it was removed, or it was not copied whole"
                }
                _ => "the right to follow has changed",
            };
            assert_eq!(reason, expected);
        }
    }
    let took = changed.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    publish(&hub, "orders.eu", "after").await;
    for (token, stream) in &mut streams {
        if *token == "segno_stays" {
            assert_eq!(stream.next_data().await, ["\"after\""]);
        }
    }
}

#[tokio::test]
async fn tickets_work_where_no_credential_is_asked_for() {
    let hub = TestHub::start().await;
    let made = answer(hub.post_json("/tickets", r#"{"follow":["a"],"expires_in":"1s"}"#)).await;
    let ticket = made.json()["ticket"].as_str().unwrap().to_owned();
    let mut stream = hub.follow(&format!("?ticket={ticket}")).await;
    hub.publish("b", ["theirs"]).await;
    hub.publish("a", ["mine"]).await;
    assert_eq!(stream.next_data().await, ["\"mine\""]);
    assert!(reason_of_end(&mut stream).await.starts_with("it expired"));
}
