//! What a caller with a small right tries next, beside what `access` has: side ways to what it may not read, and credentials that
//! come back in an answer or in the log.

use std::{fs, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{Method, RequestBuilder, StatusCode};
use segno::retention::Keep;
use serde_json::{Value, json};

use super::{
    access::{ALL, ORDERS, follow_as, hub_keeping, hub_with, publish_as, rules, token_entry},
    jwt_issuer::{Signer, good_claims, jwks},
    sight::Traced,
    test_hub::{TestHub, answer, within},
};

async fn delete_as(hub: &TestHub, token: &str, path: &str) {
    let request = reqwest::Client::new().delete(hub.url(path));
    let answer = answer(request.bearer_auth(token)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

/// Trimmed and erased events of other topics leave no trace in what is read: not in a page, not in its NDJSON, not in a poll, and
/// not in a stream.
#[tokio::test]
async fn what_happened_to_other_topics_is_not_told() {
    let keep = Keep {
        topics: vec!["secret=2".parse().unwrap()],
        ..Keep::default()
    };
    let hub = hub_keeping(&rules(), keep).await;
    publish_as(&hub, ALL, "orders.eu", "mine").await;
    let mut followed = follow_as(&hub, ORDERS, "").await;
    for _ in 0..10 {
        publish_as(&hub, ALL, "secret", "theirs").await;
    }
    publish_as(&hub, ALL, "other", "theirs").await;
    let last = publish_as(&hub, ALL, "gone", "theirs").await;
    let as_all = |path: &str| answer(hub.get(path).bearer_auth(ALL));
    // Retention looks once a second.
    within("the trim", async {
        while as_all("/events?topic=secret").await.json()["events"][1].is_null()
            || !as_all("/events?topic=secret").await.json()["events"][2].is_null()
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    delete_as(&hub, ALL, &format!("/events/{}", last - 1)).await;
    delete_as(&hub, ALL, "/topics/gone").await;
    let end = publish_as(&hub, ALL, "orders.eu", "the last").await;

    let reads = |caller: &'static str| {
        let hub = &hub;
        async move {
            let mut told = String::new();
            for path in [
                "/events?after=1",
                "/events?after=1&topic=**",
                "/events?after=1&format=ndjson",
                "/events?after=1&order=desc&limit=2",
                "/events?since=start",
                "/events?after=1&wait=5s",
                "/sse?last_event_id=1&count=1&topic=*.*",
                "/topics",
            ] {
                let lines = hub.get(path).header("accept", "application/json");
                let lines = match path.starts_with("/sse") {
                    true => hub.get(path),
                    false => lines,
                };
                let answer = answer(lines.bearer_auth(caller)).await;
                assert!(answer.status.is_success(), "{path}: {answer:?}");
                told += &answer.body;
            }
            let resumed = hub.get("/sse?count=1").header("last-event-id", "1");
            told + &answer(resumed.bearer_auth(caller)).await.body
        }
    };
    // Who may read them is told, so the signs are the right ones.
    let signs = [
        "\"gap\":{",
        "segno.gap",
        "segno.erased",
        "\"segno\":\"gap\"",
    ];
    let all = reads(ALL).await;
    for sign in signs {
        assert!(all.contains(sign), "{sign}: {all}");
    }
    let own = reads(ORDERS).await;
    followed
        .read_until("the last event", |stream| {
            stream.received.contains("the last")
        })
        .await;
    for told in [&own, &followed.received] {
        assert!(told.contains("the last"), "{told}");
        for sign in signs
            .iter()
            .copied()
            .chain(["theirs", "secret", "gone", "other"])
        {
            assert!(!told.contains(sign), "{sign}: {told}");
        }
    }
    assert!(end > last);
}

/// What a key stands for in a topic that is not allowed cannot be asked.
#[tokio::test]
async fn a_key_of_another_topic_is_not_told() {
    let hub = hub_with(&rules()).await;
    let with_key = |token: &'static str, body: &'static str| {
        let request = hub.post("/topics/secret").body(body);
        request.bearer_auth(token).header("idempotency-key", "k")
    };
    assert_eq!(answer(with_key(ALL, "a")).await.status, StatusCode::CREATED);
    for body in ["a", "b"] {
        let refused = answer(with_key(ORDERS, body)).await;
        assert_eq!(refused.code(), "not_allowed", "{refused:?}");
        let json = format!("{{\"topic\":\"secret\",\"key\":\"k\",\"data\":\"{body}\"}}");
        let refused = answer(hub.post_json("/events", json).bearer_auth(ORDERS)).await;
        assert_eq!(refused.code(), "not_allowed", "{refused:?}");
    }
}

/// No spelling of a path, and no other method, leads where its plain form asks for a credential.
#[tokio::test]
async fn no_spelling_of_a_path_goes_round_the_doors() {
    let hub = hub_with(&rules()).await;
    publish_as(&hub, ALL, "secret", "theirs").await;
    let methods = [
        "GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "FOO",
    ];
    for path in [
        "/events",
        "/%65vents",
        "/events/",
        "//events",
        "/./events",
        "/docs/../events",
        "/docs/%2e%2e/events",
        "/EVENTS",
        "/events;a=b",
        "/events%00",
        "/events%3Flimit=1",
        "/events/1",
        "/events/%31",
        "/events/01",
        "/events/+1",
        "/sse/",
        "/%73se?count=1",
        "/topics",
        "/topics/",
        "/topics//secret",
        "/topics/%2Fsecret",
        "/topics/secret?count=1&since=start",
        "/stats",
        "/%73tats",
        "/metrics",
        "/metrics/",
        "/health/ready",
        "/health//ready",
        "/health/live/../ready",
        "/whoami",
        "/index.html/../stats",
    ] {
        for method in methods {
            // As it stands: a library would tidy it.
            let told = ask_raw(&hub, method, path).await;
            let status: u16 = told[9..12].parse().unwrap();
            let is_let_in = (200..300).contains(&status);
            assert!(!is_let_in, "{method} {path}: {told}");
            assert!(!told.contains("theirs"), "{method} {path}: {told}");
        }
    }
    // What a proxy or a framework might take for another method or path.
    for header in [
        "x-http-method-override",
        "x-original-url",
        "x-rewrite-url",
        "x-forwarded-prefix",
    ] {
        let request = hub.get("/health/live").header(header, "/events");
        let told = answer(request).await;
        assert!(!told.body.contains("theirs"), "{header}: {told:?}");
    }
}

/// The answer to a request whose line is written as it is.
async fn ask_raw(hub: &TestHub, method: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(hub.address()).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut told = Vec::new();
    within("an answer", socket.read_to_end(&mut told))
        .await
        .unwrap();
    String::from_utf8(told).unwrap()
}

/// Whatever a client does wrong with a credential, the hub repeats it nowhere: a problem is copied into reports, and a log is read
/// by many.
#[tokio::test]
async fn no_answer_and_no_line_of_the_log_has_a_credential_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let signer = Signer::new("ES256", "one", folder.path());
    fs::write(folder.path().join("keys.json"), jwks([&signer])).unwrap();
    let good = segno::auth::new_token();
    let access = folder.path().join("access.toml");
    let issuer = "[[issuer]]\nissuer = \"https://id.example\"\naudience = \"segno\"\nkeys = \"keys.json\"\nalgorithms = [\"ES256\"]\n";
    let rules = token_entry(&good, "follow = [\"orders.*\"]\npublish = [\"orders.*\"]")
        .replace(&good[6..], "reader");
    let ready = "[anonymous]\noperate = true\n";
    fs::write(&access, [ready, &rules, issuer].concat()).unwrap();
    let traced = Traced::start(
        folder.path(),
        &["--access", access.to_str().unwrap()],
        "trace",
    )
    .await;
    let hub = &traced.hub;
    let made = hub.post_json("/tickets", r#"{"follow":["orders.*"]}"#);
    let ticket = answer(made.bearer_auth(&good)).await.json()["ticket"].clone();
    let ticket = ticket.as_str().unwrap().to_owned();
    let secrets = [
        good.clone(),
        segno::auth::new_token(),
        ticket.clone(),
        format!("{}A", &ticket[..ticket.len() - 1]),
        signer.sign(&good_claims()),
        signer.sign(&json!({"iss": "https://id.example", "aud": "other", "exp": 1})),
    ];
    let json = ("content-type", "application/json");
    for secret in &secrets {
        let mut requests: Vec<RequestBuilder> = Vec::new();
        for path in [
            "/events",
            "/sse",
            "/topics/orders.eu",
            "/topics",
            "/events/1",
            "/stats",
            "/none",
        ] {
            for query in [
                format!("ticket={secret}%ff"),
                format!("ticket=%ff{secret}"),
                format!("ticket={secret}%00"),
                format!("ticket={secret}&x=1"),
                format!("ticket={secret}&ticket={secret}"),
                format!("access_token={secret}"),
                format!("token={secret}"),
                format!("token={secret}%ff"),
                format!("authorization=Bearer+{secret}"),
                format!("after={secret}"),
                format!("last_event_id={secret}"),
                format!("since={secret}"),
                format!("limit={secret}"),
                format!("order={secret}"),
                format!("format={secret}"),
                format!("wait={secret}"),
                format!("count={secret}"),
                format!("last={secret}"),
                secret.clone(),
                format!("{secret}=1"),
                format!("{secret}%ff"),
            ] {
                let path = format!("{path}?{query}");
                requests.push(hub.get(&path).header("accept", "application/json"));
                requests.push(
                    hub.get(&path)
                        .bearer_auth(&good)
                        .header("accept", "application/problem+json"),
                );
                requests.push(hub.post(&path).bearer_auth(&good).body("x"));
            }
        }
        for value in [
            secret.clone(),
            format!("Bearer {secret}x"),
            format!("Bearer {secret} {secret}"),
            format!("Token {secret}"),
            format!("Basic {}", STANDARD.encode(format!("{secret}:"))),
            format!("Basic {secret}"),
        ] {
            let bad = |path: &str| hub.get(path).header("authorization", &value);
            requests.extend([bad("/whoami"), bad("/sse"), bad("/events?topic=secret")]);
        }
        for name in ["x-api-key", "cookie", "last-event-id", "segno-token"] {
            requests.push(hub.get("/events").header(name, secret));
        }
        for path in ["/events", "/tickets", "/messages"] {
            let body = json!({"topic": "secret", "data": 1, "token": secret}).to_string();
            requests.push(
                hub.post(path)
                    .bearer_auth(&good)
                    .header(json.0, json.1)
                    .body(body),
            );
            let body = json!([secret]).to_string();
            requests.push(
                hub.post(path)
                    .bearer_auth(&good)
                    .header(json.0, json.1)
                    .body(body),
            );
        }
        for request in requests {
            let asked = format!("{request:?}");
            // What is let in goes on for ever; its head is enough.
            let answer = within("a head", request.send()).await.unwrap();
            let head = format!("{:?}", answer.headers());
            let is_stream = head.contains("event-stream") && answer.status() == StatusCode::OK;
            let body = match is_stream {
                true => String::new(),
                false => within(&asked, answer.text()).await.unwrap(),
            };
            let shown = secret.trim_start_matches("segno_");
            assert!(!(head + &body).contains(shown), "{asked}: {body}");
        }
    }
    let log = traced.log();
    for secret in &secrets {
        let line = log.lines().find(|line| line.contains(&secret[6..]));
        assert_eq!(line, None, "{secret}");
    }
    assert!(log.contains("a credential is refused"), "{log}");
    // A path is logged as it stands, which the docs say; the answer says nothing of it.
    for secret in &secrets {
        for path in ["", "/events", "/sse"] {
            let request = hub.get(&format!("{path}/{secret}")).bearer_auth(&good);
            let answer = answer(request).await;
            assert!(!answer.body.contains(&secret[6..]), "{answer:?}");
        }
    }
}

/// A token that was lost is taken out of the file, and what it made ends with it: a stream, a poll, a ticket and what a ticket opened.
#[tokio::test]
async fn what_a_removed_token_opened_ends_with_it() {
    let hub = hub_with(&rules()).await;
    let made = hub.post_json("/tickets", r#"{"follow":["orders.*"]}"#);
    let ticket = answer(made.bearer_auth(ORDERS)).await.json()["ticket"].clone();
    let ticket = ticket.as_str().unwrap();
    let mut streams = [
        follow_as(&hub, ORDERS, "").await,
        hub.follow(&format!("?ticket={ticket}")).await,
    ];
    let poll = hub
        .get("/events?topic=orders.eu&wait=60s")
        .bearer_auth(ORDERS);
    let poll = tokio::spawn(answer(poll));
    let file = hub.db().parent().unwrap().join("access.toml");
    fs::write(
        &file,
        token_entry(ALL, "publish = [\"**\"]\nfollow = [\"**\"]"),
    )
    .unwrap();
    for stream in &mut streams {
        within("its end", stream.read_to_end()).await.unwrap();
        assert!(
            stream.received.contains("event: segno.expired"),
            "{}",
            stream.received
        );
    }
    let poll = within("the poll's end", poll).await.unwrap();
    assert_eq!(poll.code(), "credential_invalid", "{poll:?}");
    for request in [
        hub.get("/events").bearer_auth(ORDERS),
        hub.get(&format!("/events?ticket={ticket}")),
        hub.get(&format!("/sse?ticket={ticket}")),
    ] {
        assert_eq!(answer(request).await.code(), "credential_invalid");
    }
    let other = reqwest::Client::new().request(Method::GET, hub.url("/events"));
    let other: Value = answer(other.bearer_auth(ALL)).await.json();
    assert!(other["events"].is_array(), "{other}");
}
