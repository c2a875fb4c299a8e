//! Pages of other origins: allowed ones can do all that a page can, others nothing, and by default there is no word of it.

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};
use segno::http::CorsOrigin;
use serde_json::{Value, json};

use super::{
    browser::Browser,
    command_line::run,
    test_hub::{Answer, TestHub, TestStream, answer, reqwest_client, segno},
};

const SHOP: &str = "https://shop.example";
const DESK: &str = "http://desk.example:3000";

fn origins(origins: &[&str]) -> Vec<CorsOrigin> {
    let origins = origins.iter().map(|origin| origin.parse().unwrap());
    origins.collect()
}

async fn hub_for(allowed: &[&str]) -> TestHub {
    TestHub::start_with(|config| {
        config.cors_origins = origins(allowed);
        config.limits.max_streams_per_address = 1.try_into().unwrap();
    })
    .await
}

fn preflight(hub: &TestHub, path: &str, method: &str) -> RequestBuilder {
    reqwest_client()
        .request(Method::OPTIONS, hub.url(path))
        .header("access-control-request-method", method)
        .header("access-control-request-headers", "last-event-id")
}

/// The status of a request that changes something where it comes from a page of another site.
fn from_elsewhere(method: &Method, status: u16) -> u16 {
    match *method {
        Method::POST => 403,
        _ if status == 204 => 405, // A preflight that is none.
        _ => status,
    }
}

/// One request of each kind of answer, with the status it has.
///
/// A preflight is 204 where it is one, and else a method that the path does not have.
fn requests(hub: &TestHub) -> Vec<(RequestBuilder, u16)> {
    vec![
        (hub.post("/topics/t").body("x"), 201),
        (hub.get("/events"), 200),
        (hub.get("/events?order=asc&limit=0"), 400),
        (hub.get("/nowhere"), 404),
        (hub.post("/stats"), 405),
        (hub.get("/openapi.json"), 200),
        (hub.get("/sse"), 429),
        (preflight(hub, "/stats", "GET"), 204),
        (preflight(hub, "/sse", "GET"), 204),
        (preflight(hub, "/events/1", "DELETE"), 204),
    ]
}

fn varies_by_origin(answer: &Answer) -> bool {
    let mut values = answer.headers.get_all("vary").iter();
    values.any(|value| value == "origin")
}

fn cors_headers(answer: &Answer) -> Vec<&str> {
    let names = answer.headers.keys().map(|name| name.as_str());
    // What depends on `Accept-Encoding` is no word of it.
    let is_of_it = |name: &&str| name.starts_with("access-control-") || *name == "vary";
    match varies_by_origin(answer) {
        true => names.filter(is_of_it).collect(),
        false => names
            .filter(|name| is_of_it(name) && *name != "vary")
            .collect(),
    }
}

#[tokio::test]
async fn without_an_origin_there_is_no_word_of_it() {
    let hub = hub_for(&[]).await;
    let stream = TestStream::open(hub.get("/sse").header("origin", SHOP)).await;
    assert!(!stream.has_header("access-control-allow-origin"));
    for (request, status) in requests(&hub) {
        let request = request.header("origin", SHOP).build().unwrap();
        let expected = from_elsewhere(request.method(), status);
        let answer = answer(RequestBuilder::from_parts(reqwest_client(), request)).await;
        assert_eq!(cors_headers(&answer), [""; 0], "{answer:?}");
        assert_eq!(answer.status.as_u16(), expected, "{answer:?}");
    }
}

#[tokio::test]
async fn allowed_origins_can_read_every_answer() {
    for (allowed, told) in [
        (&[SHOP, DESK][..], SHOP),
        (&[SHOP], SHOP),
        (&["*"], "*"),
        (&[DESK, "*"], "*"),
    ] {
        let hub = hub_for(allowed).await;
        let stream = TestStream::open(hub.get("/sse").header("origin", SHOP)).await;
        assert_eq!(stream.header("access-control-allow-origin"), told);
        let vary = stream.headers("vary");
        assert_eq!(vary.contains(&"origin"), told != "*", "{vary:?}");
        for (request, status) in requests(&hub) {
            let answer = answer(request.header("origin", SHOP)).await;
            assert_eq!(answer.status.as_u16(), status, "{answer:?}");
            assert_eq!(answer.header("access-control-allow-origin"), told);
            let exposed = answer.header("access-control-expose-headers");
            for name in ["segno-log-id", "location", "link", "retry-after", "allow"] {
                assert!(exposed.split(", ").any(|exposed| exposed == name), "{name}");
            }
            match told {
                "*" => assert!(!varies_by_origin(&answer), "{answer:?}"),
                _ => assert!(varies_by_origin(&answer), "{answer:?}"),
            }
            let credentials = "access-control-allow-credentials";
            assert!(!answer.headers.contains_key(credentials), "{answer:?}");
            if status == 204 {
                let methods = answer.header("access-control-allow-methods");
                assert_eq!(methods, "GET, POST, DELETE");
                assert_eq!(answer.header("access-control-max-age"), "7200");
                let headers = answer.header("access-control-allow-headers");
                for name in ["last-event-id", "idempotency-key", "content-type"] {
                    assert!(headers.split(", ").any(|allowed| allowed == name), "{name}");
                }
            }
        }
    }
}

#[tokio::test]
async fn other_origins_can_neither_read_nor_change_anything() {
    let hub = hub_for(&[SHOP, DESK]).await;
    let _stream = hub.follow("").await;
    for origin in [Some("https://evil.example"), Some("null"), None] {
        for (request, status) in requests(&hub) {
            let request = match origin {
                Some(origin) => request.header("origin", origin),
                None => request,
            };
            let request = request.build().unwrap();
            let expected = match origin {
                Some(_) => from_elsewhere(request.method(), status),
                None if status == 204 => 405,
                None => status,
            };
            let answer = answer(RequestBuilder::from_parts(reqwest_client(), request)).await;
            assert_eq!(answer.status.as_u16(), expected, "{answer:?}");
            assert_eq!(cors_headers(&answer), ["vary"], "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_without_a_place_is_told_so_where_a_page_can_read_it() {
    for (allowed, told) in [
        (&[SHOP][..], Some(SHOP)),
        (&["*"], Some("*")),
        (&[DESK, SHOP], Some(SHOP)),
        (&[DESK, "https://third.example"], None),
    ] {
        let hub = TestHub::start_with(|config| {
            config.cors_origins = origins(allowed);
            config.limits.max_connections = 2.try_into().unwrap();
        })
        .await;
        let _streams = join_all((0..2).map(|_| hub.follow(""))).await;
        let refusal = answer(hub.get("/events").header("origin", SHOP)).await;
        assert_eq!(refusal.code(), "too_many_connections");
        let allowed = refusal.headers.get("access-control-allow-origin");
        assert_eq!(allowed.map(|origin| origin.to_str().unwrap()), told);
    }
}

#[tokio::test]
async fn pages_of_named_origins_may_send_credentials_where_that_is_asked_for() {
    let hub = TestHub::start_with(|config| {
        config.cors_origins = origins(&[SHOP, DESK]);
        config.cors_credentials = true;
        config.limits.max_streams_per_address = 1.try_into().unwrap();
    })
    .await;
    let credentials = "access-control-allow-credentials";
    let stream = TestStream::open(hub.get("/sse").header("origin", SHOP)).await;
    assert_eq!(stream.header(credentials), "true");
    for (request, status) in requests(&hub) {
        let answer = answer(request.header("origin", SHOP)).await;
        assert_eq!(answer.status.as_u16(), status, "{answer:?}");
        assert_eq!(answer.header(credentials), "true");
        assert_eq!(answer.header("access-control-allow-origin"), SHOP);
    }
    for (request, _) in requests(&hub) {
        let answer = answer(request.header("origin", "https://evil.example")).await;
        assert!(!answer.headers.contains_key(credentials), "{answer:?}");
    }
}

#[tokio::test]
async fn credentials_for_all_origins_are_refused_in_words() {
    let refused = async |args: &[&str]| {
        let mut command = segno();
        command
            .args(args)
            .args(["--listen", "127.0.0.1:0", "--db", "/nowhere/segno.db"]);
        let ended = run(command, "").await;
        let stderr = String::from_utf8(ended.stderr).unwrap();
        (
            ended.status.code(),
            stderr + &String::from_utf8(ended.stdout).unwrap(),
        )
    };
    let all = ["--cors-credentials", "--cors-origin", "*"];
    let (code, told) = refused(&all).await;
    let sentence = "--cors-credentials does not go with --cors-origin '*'";
    assert!(code == Some(1) && told.contains(sentence), "{told}");
    let (code, told) = refused(&[&all[..], &["--check-config"]].concat()).await;
    let problem = format!("problem: {sentence}");
    assert!(code == Some(1) && told.contains(&problem), "{told}");
    let (code, told) = refused(&all[..1]).await;
    assert!(code == Some(2) && told.contains("--cors-origin"), "{told}");
}

/// What `fetch` gives a page: the status, the code of a refusal and a header, or that the browser keeps it away.
async fn fetch(browser: &Browser, url: &str, options: Value) -> Value {
    let read = "async answer => [answer.status, (await answer.json()).code ?? null, answer.headers.get('segno-log-id')]";
    let expression = format!("fetch('{url}', {options}).then({read}, error => error.name)");
    browser.value(&expression).await
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_follows_publishes_and_is_refused_in_words() {
    // Each page is of another origin, because its port is another.
    let (ours, theirs) = (TestHub::start().await, TestHub::start().await);
    let allowed = ours.url("");
    let hub = hub_for(&[&allowed, SHOP]).await;
    let log_id = answer(hub.get("/events"))
        .await
        .header("segno-log-id")
        .to_owned();
    let browser = Browser::open(&ours.url("/openapi.json")).await;

    let follow = format!(
        "(window.events = [], window.source = new EventSource('{}'), source.onmessage = event => events.push(event.data), \
         source.onopen = () => window.opened = true, 1)",
        hub.url("/sse")
    );
    browser.value(&follow).await;
    browser.expect("window.opened", true).await;
    let publish = |body: &str| {
        let headers = json!({"content-type": "application/json", "idempotency-key": "k", "x-request-id": "r"});
        json!({"method": "POST", "headers": headers, "body": body})
    };
    let posted = fetch(&browser, &hub.url("/events"), publish(r#"{"data":7}"#)).await;
    assert_eq!(posted, json!([201, null, log_id]));
    browser.expect("events.join()", "7").await;
    let refused = fetch(&browser, &hub.url("/events"), publish("{")).await;
    assert_eq!(refused, json!([400, "invalid_json", log_id]));
    let unknown = fetch(&browser, &hub.url("/nowhere"), json!({})).await;
    assert_eq!(unknown, json!([404, "unknown_path", log_id]));
    let resume = json!({"headers": {"last-event-id": "0"}});
    let second_stream = fetch(&browser, &hub.url("/sse"), resume).await;
    assert_eq!(
        second_stream,
        json!([429, "too_many_streams_of_address", log_id])
    );
    let erased = fetch(&browser, &hub.url("/events/1"), json!({"method": "DELETE"})).await;
    assert_eq!(erased, json!([200, null, log_id]));

    browser.go(&theirs.url("/openapi.json")).await;
    for options in [json!({}), publish(r#"{"data":8}"#)] {
        let kept_away = fetch(&browser, &hub.url("/events"), options).await;
        assert_eq!(kept_away, "TypeError");
    }
    assert_eq!(hub.last_id().await, 2, "the preflight stopped it");
}
