//! Who may do what over HTTP: every way in asks, and nothing goes round it.

use std::fs;

use reqwest::{Method, RequestBuilder, StatusCode};
use segno::{auth::TokenHash, retention::Keep};
use serde_json::{Value, json};

use super::test_hub::{TestHub, TestStream, answer, seeded};

/// Tokens of these tests. Any text will do: the file has its hash.
pub(crate) const ALL: &str = "segno_all";
pub(crate) const ORDERS: &str = "segno_orders";
const NOTHING: &str = "segno_nothing";
const OLD: &str = "segno_old";

pub(crate) fn token_entry(token: &str, rights: &str) -> String {
    let name = token.trim_start_matches("segno_");
    let hash = TokenHash::of(token);
    format!("[[token]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n{rights}\n")
}

pub(crate) fn rules() -> String {
    [
        token_entry(
            ALL,
            "publish = [\"**\"]\nfollow = [\"**\"]\nerase = [\"**\"]\noperate = true",
        ),
        token_entry(ORDERS, "publish = [\"orders.*\"]\nfollow = [\"orders.*\"]"),
        token_entry(NOTHING, ""),
        token_entry(OLD, "follow = [\"**\"]\nexpires = 2020-01-01T00:00:00Z"),
    ]
    .concat()
}

/// A hub with an access file.
pub(crate) async fn hub_with(rules: &str) -> TestHub {
    hub_keeping(rules, Keep::default()).await
}

pub(crate) async fn hub_keeping(rules: &str, keep: Keep) -> TestHub {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    fs::write(&path, rules).unwrap();
    TestHub::start_in(folder, |settings| {
        settings.access = Some(path);
        settings.keep = keep;
    })
    .await
}

fn request(hub: &TestHub, method: &str, path: &str) -> RequestBuilder {
    let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
    reqwest::Client::new().request(method, hub.url(path))
}

pub(crate) async fn publish_as(hub: &TestHub, token: &str, topic: &str, data: &str) -> u64 {
    let request = hub.post(&format!("/topics/{topic}")).bearer_auth(token);
    let answer = answer(request.body(data.to_owned())).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.json()["id"].as_u64().unwrap()
}

pub(crate) async fn follow_as(hub: &TestHub, token: &str, query: &str) -> TestStream {
    TestStream::open(hub.get(&format!("/sse{query}")).bearer_auth(token)).await
}

/// An operation of the document with what it takes to reach its handler.
fn operations() -> Vec<(String, String, RequestBody)> {
    let document: Value = serde_json::from_str(&segno::http::openapi_document()).unwrap();
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let path = path.replace("{topic}", "secret").replace("{id}", "1");
            let bodies = operation["requestBody"]["content"].as_object();
            let body = bodies
                .and_then(|bodies| bodies.iter().next())
                .map(|(media_type, body)| {
                    let example = &body["schema"]["example"];
                    (media_type.clone(), example.clone())
                });
            operations.push((method.clone(), path, body));
        }
    }
    operations
}

type RequestBody = Option<(String, Value)>;

fn with_body(request: RequestBuilder, body: &RequestBody) -> RequestBuilder {
    match body {
        Some((media_type, example)) => {
            request
                .header("content-type", media_type)
                .body(if example.is_null() {
                    json!({"message": "hello"}).to_string()
                } else {
                    example.to_string()
                })
        }
        None => request,
    }
}

/// The one test that an operation cannot be added without: it walks the document.
#[tokio::test]
async fn no_operation_lets_a_caller_without_rights_through() {
    let hub = hub_with(&rules()).await;
    publish_as(&hub, ALL, "secret", "1").await;
    let mut refused = 0;
    for (method, path, body) in operations() {
        let is_public = path == "/health/live";
        // It tells a caller its own name, and that it may do nothing.
        let needs_no_right = path == "/whoami";
        for (token, status, code, challenge) in [
            (None, 401, "credential_missing", "Bearer"),
            (
                Some("segno_guess"),
                401,
                "credential_invalid",
                "Bearer error=\"invalid_token\"",
            ),
            (
                Some(OLD),
                401,
                "credential_invalid",
                "Bearer error=\"invalid_token\"",
            ),
            (
                Some(NOTHING),
                403,
                "not_allowed",
                "Bearer error=\"insufficient_scope\"",
            ),
        ] {
            let name = format!("{method} {path} with {token:?}");
            let mut sent = with_body(request(&hub, &method, &path), &body);
            if let Some(token) = token {
                sent = sent.bearer_auth(token);
            }
            let answer = answer(sent).await;
            if is_public {
                assert_eq!(answer.status, StatusCode::OK, "{name}");
                continue;
            }
            if needs_no_right && token == Some(NOTHING) {
                assert_eq!(answer.status, StatusCode::OK, "{name}");
                continue;
            }
            refused += 1;
            assert_eq!(answer.status.as_u16(), status, "{name}: {answer:?}");
            assert_eq!(answer.code(), code, "{name}");
            assert!(
                answer.header("www-authenticate").starts_with(challenge),
                "{name}"
            );
            for secret in ["segno_guess", OLD] {
                assert!(
                    !format!("{answer:?}").contains(secret),
                    "{name}: {answer:?}"
                );
            }
            if method == "get" {
                let mut head = request(&hub, "head", &path);
                if let Some(token) = token {
                    head = head.bearer_auth(token);
                }
                let head = head.send().await.unwrap();
                assert_eq!(head.status().as_u16(), status, "head of {name}");
            }
        }
    }
    assert!(refused > 4 * 10, "{refused} of how many operations?");
    let history = answer(hub.get("/events").bearer_auth(ALL)).await.json();
    assert_eq!(history["events"].as_array().unwrap().len(), 1, "{history}");
}

#[tokio::test]
async fn a_caller_is_told_who_it_is_and_what_it_may_do() {
    let until = token_entry(
        "segno_until",
        "publish = [\"a\"]\nfollow = [\"b.*\", \"a\"]\nerase = [\"a\"]\nexpires = 2037-01-01T00:00:00Z",
    );
    let hub = hub_with(&(rules() + &until)).await;
    let ask = async |hub: &TestHub, token: &str| {
        let told = answer(hub.get("/whoami").bearer_auth(token)).await;
        assert_eq!(told.status, StatusCode::OK, "{told:?}");
        assert_eq!(told.header("cache-control"), "no-store");
        told.json()
    };
    let everything = json!({"publish": ["**"], "follow": ["**"], "erase": ["**"], "operate": true});
    let nothing = json!({"publish": [], "follow": [], "erase": [], "operate": false});
    let told = |name: Option<&str>, open: bool, rights: &Value, expires: Option<&str>| {
        let mut told = json!({"name": name, "open": open, "streams": null, "rate": null, "expires_at": expires});
        let fields = told.as_object_mut().unwrap();
        fields.extend(rights.as_object().unwrap().clone());
        told
    };
    assert_eq!(
        ask(&hub, ALL).await,
        told(Some("all"), false, &everything, None)
    );
    assert_eq!(
        ask(&hub, NOTHING).await,
        told(Some("nothing"), false, &nothing, None)
    );
    assert_eq!(
        ask(&hub, "segno_until").await,
        told(
            Some("until"),
            false,
            &json!({"publish": ["a"], "follow": ["a", "b.*"], "erase": ["a"], "operate": false}),
            Some("2037-01-01T00:00:00.000Z")
        )
    );
    let refused = answer(hub.get("/whoami")).await;
    assert_eq!(refused.code(), "credential_missing");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("this needs a credential"), "{detail}");

    // What everybody may do is told to everybody, and added to what a token may.
    let hub = hub_with(&(rules() + "[anonymous]\nfollow = [\"public.**\"]\n")).await;
    let everybody = json!({"publish": [], "follow": ["public.**"], "erase": [], "operate": false});
    let anonymous = answer(hub.get("/whoami")).await.json();
    assert_eq!(anonymous, told(None, false, &everybody, None));
    let with_orders = ask(&hub, ORDERS).await;
    assert_eq!(with_orders["follow"], json!(["orders.*", "public.**"]));

    let hub = TestHub::start().await;
    assert_eq!(ask(&hub, "any").await, told(None, true, &everything, None));
}

#[tokio::test]
async fn what_everybody_needs_to_begin_is_public_and_nothing_else() {
    let hub = hub_with(&rules()).await;
    let page = answer(hub.get("/")).await;
    assert_eq!(page.status, StatusCode::OK);
    let parts = page
        .body
        .split(['"', '\''])
        .filter(|part| part.starts_with("console/"));
    let mut paths: Vec<String> = parts.map(|part| format!("/{part}")).collect();
    assert!(paths.len() >= 2, "{paths:?}");
    paths.extend(["/docs", "/openapi.json", "/health/live", "/favicon.ico"].map(str::to_owned));
    for path in paths {
        assert_eq!(
            answer(hub.get(&path)).await.status,
            StatusCode::OK,
            "{path}"
        );
        // A page that sends an old token by habit must still load.
        let with_old = answer(hub.get(&path).bearer_auth(OLD)).await;
        assert_eq!(with_old.status, StatusCode::OK, "{path}");
    }
    // Spelled otherwise they are nothing at all, and never the operation that a looser reading might find.
    for path in [
        "/docsx",
        "/%65vents",
        "//events",
        "/Events",
        "/events//",
        "/sse/",
        "/stats/",
    ] {
        let status = answer(hub.get(path)).await.status;
        assert!(
            [StatusCode::NOT_FOUND, StatusCode::UNAUTHORIZED].contains(&status),
            "{path}: {status}"
        );
    }
}

#[tokio::test]
async fn a_token_is_shown_as_bearer_or_as_the_password_of_basic() {
    let hub = hub_with(&rules()).await;
    let refused = async |request: RequestBuilder| {
        let answer = answer(request).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{answer:?}");
        assert_eq!(answer.code(), "credential_invalid");
        answer.json()["detail"].as_str().unwrap().to_owned()
    };
    let ask = || hub.get("/events");
    let with_query = |query: &str| hub.get(&format!("/events?{query}"));
    for good in [
        ask().bearer_auth(ALL),
        ask().basic_auth("", Some(ALL)),
        ask().basic_auth("anybody", Some(ALL)),
        ask().header("authorization", format!("bearer {ALL}")),
    ] {
        assert_eq!(answer(good).await.status, StatusCode::OK);
    }
    for (bad, reason) in [
        (ask().basic_auth(ALL, Some("")), "it is neither a token"),
        (
            ask().bearer_auth(OLD),
            "it expired at 2020-01-01T00:00:00.000Z",
        ),
        (
            ask().bearer_auth("segno_allx"),
            "this token is not in the access file",
        ),
        (
            ask().bearer_auth("hunter2"),
            "it is neither a token of this hub",
        ),
        (
            ask().header("authorization", "Digest x=y"),
            "the header is neither",
        ),
        (
            ask().bearer_auth(ALL).bearer_auth(ALL),
            "more than one credential",
        ),
        (
            with_query("ticket=a.b").bearer_auth(ALL),
            "more than one credential",
        ),
        (
            with_query("access_token=segno_all"),
            "only tickets are taken in a URL",
        ),
        (
            with_query("ticket=segno_all"),
            "only tickets are taken in a URL",
        ),
        (
            with_query("ticket=a.b.c"),
            "only tickets are taken in a URL",
        ),
        (with_query("ticket=abc"), "it does not look like a ticket"),
        (
            with_query("ticket=abcd.abcd"),
            "its signature was not made with",
        ),
    ] {
        let detail = refused(bad).await;
        assert!(detail.contains(reason), "{detail}");
        assert!(
            !detail.contains("hunter2") && !detail.contains(ALL),
            "{detail}"
        );
    }
}

/// A token for `orders.*` tries everything else, through every parameter.
#[tokio::test]
async fn a_token_for_some_topics_gets_at_no_other() {
    let hub = hub_with(&rules()).await;
    let own = publish_as(&hub, ALL, "orders.eu", "mine").await;
    let secret = publish_as(&hub, ALL, "secret", "theirs").await;
    let below = publish_as(&hub, ALL, "orders.eu.north", "theirs").await;
    publish_as(&hub, ALL, "orders/eu", "theirs").await;
    let status = async |request: RequestBuilder| {
        let answer = answer(request.bearer_auth(ORDERS)).await;
        let code = match answer.status.is_success() {
            true => String::new(),
            false => answer.code(),
        };
        (answer.status.as_u16(), code)
    };
    let not_allowed = (403, "not_allowed".to_owned());
    let json = |body: &str| hub.post_json("/events", body);

    // Publish: in the path, in the body, in a batch, by default, and the messages of the tutorial.
    for path in [
        "/topics/secret",
        "/topics/orders",
        "/topics/orders.eu.north",
        "/topics/orders/eu",
        "/topics/orders%2Feu",
        "/topics/orders.%2Feu",
        "/topics/orders.eu%2Fx",
        "/topics/%73ecret",
        "/topics/Orders.eu",
    ] {
        assert_eq!(
            status(hub.post(path).body("x")).await,
            not_allowed,
            "{path}"
        );
    }
    for body in [
        r#"{"topic":"secret","data":1}"#,
        r#"{"data":1}"#,
        r#"{"topic":"secret","data":1}"#,
        r#"[{"topic":"orders.eu","data":1},{"topic":"secret","data":2}]"#,
        r#"[{"topic":"orders.eu","data":1},{"data":2}]"#,
    ] {
        assert_eq!(status(json(body)).await, not_allowed, "{body}");
        let with_query = hub.post_json("/events?ticket=x", body);
        assert!(status(with_query).await.0 >= 400, "{body}");
    }
    let ndjson = hub
        .post("/events")
        .header("content-type", "application/x-ndjson")
        .body("{\"topic\":\"orders.eu\",\"data\":1}\n{\"topic\":\"secret\",\"data\":2}\n");
    assert_eq!(status(ndjson).await, not_allowed);
    for path in ["/messages", "/send_rest"] {
        assert_eq!(
            status(hub.post_json(path, r#"{"message":1}"#)).await,
            not_allowed
        );
    }
    // A refusal names the topic and the right.
    let refused = answer(json(r#"{"topic":"secret","data":1}"#).bearer_auth(ORDERS)).await;
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert_eq!(
        detail,
        "'orders' does not have the right `publish` for the topic 'secret'"
    );
    // Nothing of a batch was stored.
    let all = answer(hub.get("/events").bearer_auth(ALL)).await.json();
    assert_eq!(all["events"].as_array().unwrap().len(), 4, "{all}");

    // Read: by name is refused, by pattern gives what is allowed.
    for query in [
        "topic=secret",
        "topic=orders.eu&topic=secret",
        "topic=orders.eu.north",
        "topic=orders/eu",
        "topic=%73ecret",
    ] {
        for path in ["/events", "/sse"] {
            let asked = hub.get(&format!("{path}?{query}"));
            assert_eq!(status(asked).await, not_allowed, "{path}?{query}");
        }
        let lines = hub.get(&format!("/events?{query}&format=ndjson"));
        assert_eq!(status(lines).await, not_allowed, "{query}");
    }
    for query in [
        "",
        "topic=**",
        "topic=orders.**",
        "topic=*&topic=**",
        "topic=s*&topic=o*.eu",
    ] {
        for form in [
            "",
            "&format=ndjson",
            "&order=desc",
            "&after=0",
            "&limit=1000",
        ] {
            let path = format!("/events?{query}{form}");
            let answer = answer(hub.get(&path).bearer_auth(ORDERS)).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}");
            assert!(answer.body.contains("mine"), "{path}: {}", answer.body);
            assert!(!answer.body.contains("theirs"), "{path}: {}", answer.body);
        }
    }
    // One event by its id: not there, in the same words.
    assert_eq!(status(hub.get(&format!("/events/{own}"))).await.0, 200);
    for id in [secret, below, 999] {
        let read = answer(hub.get(&format!("/events/{id}")).bearer_auth(ORDERS)).await;
        assert_eq!(read.code(), "unknown_event");
        let detail = read.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!(
            detail,
            format!("no event has the id {id}, or it was trimmed")
        );
    }
    // Topics: others are not named, not even as the place to go on.
    for query in ["", "?limit=1", "?after=a&limit=2", "?after=orders.e"] {
        let topics = answer(hub.get(&format!("/topics{query}")).bearer_auth(ORDERS)).await;
        assert!(
            topics.body.contains("\"orders.eu\""),
            "{query}: {}",
            topics.body
        );
        for other in ["secret", "orders.eu.north", "orders/eu"] {
            assert!(!topics.body.contains(other), "{query}: {}", topics.body);
        }
    }
    // Erase: what may be read may not be erased, and what may not be read is not there.
    for (path, expected) in [
        (format!("/events/{own}"), (403, "not_allowed")),
        ("/topics/orders.eu".into(), (403, "not_allowed")),
        (format!("/events/{secret}"), (404, "unknown_event")),
        (format!("/events/{below}"), (404, "unknown_event")),
        ("/topics/secret".into(), (404, "unknown_topic")),
        ("/topics/orders%2Feu".into(), (404, "unknown_topic")),
    ] {
        let (status, code) = status(request(&hub, "delete", &path)).await;
        assert_eq!((status, &*code), expected, "{path}");
    }
    // Figures of the hub.
    for path in ["/stats", "/metrics", "/health/ready"] {
        assert_eq!(status(hub.get(path)).await, not_allowed, "{path}");
    }
}

/// Starts, replay and live: whichever way a stream begins, other topics are not in it.
#[tokio::test]
async fn a_stream_gives_what_is_wanted_and_allowed_however_it_begins() {
    let hub = hub_with(&rules()).await;
    for number in 0..10 {
        publish_as(&hub, ALL, "secret", &format!("theirs {number}")).await;
        publish_as(&hub, ALL, "orders.eu", &format!("mine {number}")).await;
    }
    for query in [
        "?since=start",
        "?last=5",
        "?last_event_id=0",
        "?last_event_id=7&topic=**",
        "?since=1h&format=event",
        "?last=3&topic=orders.*&topic=s*",
        "",
    ] {
        let mut stream = follow_as(&hub, ORDERS, query).await;
        publish_as(&hub, ALL, "secret", "theirs, live").await;
        publish_as(&hub, ALL, "orders.eu.north", "theirs, live").await;
        publish_as(&hub, ALL, "orders.us", "the last").await;
        stream
            .read_until("the last event", |stream| {
                stream.received.contains("the last")
            })
            .await;
        assert!(
            !stream.received.contains("theirs"),
            "{query}: {}",
            stream.received
        );
        if query == "?last=5" {
            // The fifth is the one that the stream before this one waited for.
            let mine = stream.received.matches("mine").count();
            assert_eq!(mine, 4, "of those that may be read: {}", stream.received);
        }
    }
    let resumed = hub
        .get("/sse")
        .header("last-event-id", "2")
        .bearer_auth(ORDERS);
    let mut resumed = TestStream::open(resumed).await;
    resumed
        .read_until("what was missed", |stream| {
            stream.received.contains("mine 9")
        })
        .await;
    assert!(!resumed.received.contains("theirs"), "{}", resumed.received);
}

#[tokio::test]
async fn a_gap_of_topics_that_may_not_be_read_is_not_told() {
    let keep = Keep {
        topics: vec!["secret=2".parse().unwrap()],
        ..Keep::default()
    };
    let hub = hub_keeping(&rules(), keep).await;
    publish_as(&hub, ALL, "orders.eu", "mine").await;
    for _ in 0..10 {
        publish_as(&hub, ALL, "secret", "theirs").await;
    }
    // Retention looks once a second.
    let all = || answer(hub.get("/events?topic=secret").bearer_auth(ALL));
    super::test_hub::within("the trim", async {
        while all().await.json()["events"].as_array().unwrap().len() != 2 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    let mut told = follow_as(&hub, ALL, "?last_event_id=1").await;
    told.read_until("the gap", |stream| stream.received.contains("segno.gap"))
        .await;
    let mut untold = follow_as(&hub, ORDERS, "?last_event_id=1").await;
    publish_as(&hub, ALL, "orders.eu", "the last").await;
    untold
        .read_until("the last event", |stream| {
            stream.received.contains("the last")
        })
        .await;
    assert!(
        !untold.received.contains("segno.gap"),
        "{}",
        untold.received
    );
}

/// What a pattern stands for, as the documents say it and with no thought of speed: `*` is any run of characters but `.` and `/`, `**`
/// any run at all.
fn stands_for(pattern: &str, topic: &str) -> bool {
    let rest_of = |stars: usize| &pattern[stars..];
    let ends = || (0..=topic.len()).filter(|end| topic.is_char_boundary(*end));
    if pattern.starts_with("**") {
        return ends().any(|end| stands_for(rest_of(2), &topic[end..]));
    }
    if pattern.starts_with('*') {
        let mut runs = ends().filter(|end| !topic[..*end].contains(['.', '/']));
        return runs.any(|end| stands_for(rest_of(1), &topic[end..]));
    }
    match (pattern.chars().next(), topic.chars().next()) {
        (None, None) => true,
        (Some(wanted), Some(found)) => {
            let next = wanted.len_utf8();
            wanted == found && stands_for(&pattern[next..], &topic[next..])
        }
        _ => false,
    }
}

/// Replay, live, history and its NDJSON, single events and the list of topics agree with the rule as it is said, under random rights
/// and wishes.
#[tokio::test]
async fn replay_live_and_history_agree_under_random_rights() {
    let mut random = seeded();
    let letters = ["a", "b", "*", "**", ".", "/"];
    let name = |random: &mut fastrand::Rng, letters: &[&str]| -> String {
        let length = random.usize(1..4);
        (0..length)
            .map(|_| letters[random.usize(..letters.len())])
            .collect()
    };
    let patterns = |random: &mut fastrand::Rng, from: usize| -> Vec<String> {
        let count = random.usize(from..3);
        (0..count).map(|_| name(random, &letters)).collect()
    };
    const READERS: usize = 12;
    let rights: Vec<Vec<String>> = (0..READERS).map(|_| patterns(&mut random, 1)).collect();
    let everybody = patterns(&mut random, 0);
    let mut rules = format!("[anonymous]\nfollow = {everybody:?}\n");
    rules += &token_entry(ALL, "publish = [\"**\"]\nfollow = [\"**\"]");
    for (number, follow) in rights.iter().enumerate() {
        rules += &token_entry(&format!("segno_r{number}"), &format!("follow = {follow:?}"));
    }
    let hub = hub_with(&rules).await;
    let topics: Vec<String> = (0..40)
        .map(|_| name(&mut random, &["a", "b", ".", "/"]))
        .collect();
    let publish_all = async || {
        let events: Vec<Value> = topics
            .iter()
            .map(|topic| json!({"topic": topic, "data": topic}))
            .collect();
        let request = hub.post("/events").bearer_auth(ALL);
        let request = request.header("content-type", "application/json");
        let answer = answer(request.body(json!(events).to_string())).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    };
    publish_all().await;

    let mut streams = Vec::new();
    for (number, follow) in rights.iter().enumerate() {
        // Patterns only: a name that is not allowed is refused, which is told elsewhere.
        let mut wanted = patterns(&mut random, 0);
        wanted.retain(|pattern| pattern.contains('*'));
        let matches = |patterns: &[String], topic: &str| {
            patterns.iter().any(|pattern| stands_for(pattern, topic))
        };
        let expected: Vec<&String> = topics
            .iter()
            .filter(|topic| matches(follow, topic) || matches(&everybody, topic))
            .filter(|topic| wanted.is_empty() || matches(&wanted, topic))
            .collect();
        let query: String = wanted
            .iter()
            .map(|pattern| format!("topic={pattern}&"))
            .collect();
        let token = format!("segno_r{number}");
        let stream = follow_as(&hub, &token, &format!("?{query}since=start")).await;
        let context = format!("{follow:?} and {everybody:?}, wanted {wanted:?}");

        let page = answer(
            hub.get(&format!("/events?{query}limit=1000"))
                .bearer_auth(&token),
        )
        .await;
        let of_page: Vec<String> = page.json()["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["topic"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            of_page.iter().collect::<Vec<_>>(),
            expected,
            "history: {context}"
        );
        let lines = answer(
            hub.get(&format!("/events?{query}format=ndjson"))
                .bearer_auth(&token),
        )
        .await;
        assert_eq!(
            lines.body.lines().count(),
            expected.len(),
            "NDJSON: {context}"
        );
        // Beside the wish: one by one, and by name.
        let is_allowed = |topic: &str| matches(follow, topic) || matches(&everybody, topic);
        for (id, topic) in (1..).zip(&topics) {
            let one = answer(hub.get(&format!("/events/{id}")).bearer_auth(&token)).await;
            assert_eq!(
                one.status.is_success(),
                is_allowed(topic),
                "event {id} of {topic}: {context}"
            );
        }
        let listed = answer(hub.get("/topics").bearer_auth(&token)).await.json();
        let listed: Vec<&str> = listed["topics"]
            .as_array()
            .unwrap()
            .iter()
            .map(|summary| summary["topic"].as_str().unwrap())
            .collect();
        let mut names: Vec<&str> = topics.iter().map(String::as_str).collect();
        names.retain(|topic| is_allowed(topic));
        names.sort_unstable();
        names.dedup();
        assert_eq!(listed, names, "{context}");
        // The newest few, and what comes after a cursor.
        let last = follow_as(&hub, &token, &format!("?{query}last=3&count=3")).await;
        let after = random.usize(..topics.len());
        let resumed = follow_as(&hub, &token, &format!("?{query}last_event_id={after}")).await;
        let newest = &expected[expected.len().saturating_sub(3)..];
        let behind: Vec<&String> = (1..)
            .zip(&topics)
            .filter(|(id, topic)| {
                *id > after && is_allowed(topic) && (wanted.is_empty() || matches(&wanted, topic))
            })
            .map(|(_, topic)| topic)
            .collect();
        for (mut stream, expected) in [(last, newest), (resumed, &behind[..])] {
            for topic in expected {
                assert_eq!(
                    stream.next().await.data,
                    json!(topic).to_string(),
                    "{context}"
                );
            }
        }
        let expected: Vec<String> = expected.into_iter().cloned().collect();
        streams.push((stream, expected, context));
    }
    publish_all().await;
    for (stream, expected, context) in &mut streams {
        // Once replayed, once live.
        for way in ["replay", "live"] {
            for topic in expected.iter() {
                let message = stream.next().await;
                assert_eq!(message.data, json!(topic).to_string(), "{way}: {context}");
            }
        }
        assert!(stream.take_received().is_empty(), "{context}");
    }
}
