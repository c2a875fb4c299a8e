//! Pages of other sites in a real browser: what they can make it send to a hub on loopback changes nothing and tells nothing.

use segno::http::CorsOrigin;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    browser::Browser,
    test_hub::{TestHub, answer},
};

/// Serves an empty page on another port, and gives the address under a name of another site. Browsers of these tests find every
/// name under `.example` on this machine.
async fn page_of_another_site() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let page = "<!doctype html><title>hostile</title><body></body>";
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{page}",
                page.len()
            );
            _ = socket.read(&mut [0; 4096]).await;
            _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://hostile.example:{port}/")
}

async fn refusals(hub: &TestHub, code: &str) -> u64 {
    let figures = answer(hub.get("/metrics")).await.body;
    let name = format!("code=\"{code}\"}} ");
    let line = figures
        .lines()
        .find(|line| line.contains("refus") && line.contains(&name));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// All the ways in which a page sends something unasked.
fn attempts(hub: &str) -> Vec<String> {
    let no_cors = |path: &str, body: &str| {
        format!(
            "fetch('{hub}{path}', {{method: 'POST', mode: 'no-cors', credentials: 'include', body: {body}}}).catch(() => 0)"
        )
    };
    let form = |path: &str, encoding: &str| {
        format!(
            "new Promise(done => {{ const frame = document.createElement('iframe'); frame.name = 'f' + Math.random(); \
             document.body.append(frame); const form = document.createElement('form'); \
             Object.assign(form, {{method: 'post', action: '{hub}{path}', enctype: '{encoding}', target: frame.name}}); \
             const field = document.createElement('input'); field.name = '{{\"data\":\"'; field.value = '\"}}'; \
             form.append(field); document.body.append(form); frame.onload = done; form.submit(); setTimeout(done, 3000); }})"
        )
    };
    let json = r#"'{"data":1}'"#;
    let untyped = r#"new Blob(['{"data":1}'])"#;
    let message = r#"new Blob(['{"message":1}'])"#;
    vec![
        no_cors("/topics/t", "'text'"),
        no_cors("/topics/t", untyped),
        no_cors("/topics/t", "new URLSearchParams('a=b')"),
        no_cors("/topics/t", "new FormData()"),
        no_cors("/events", json),
        no_cors("/events", untyped),
        no_cors("/messages", message),
        no_cors("/send_rest", message),
        form("/topics/t", "text/plain"),
        form("/topics/t", "multipart/form-data"),
        form("/topics/t", "application/x-www-form-urlencoded"),
        form("/events", "text/plain"),
        format!("navigator.sendBeacon('{hub}/events', {untyped})"),
        format!("navigator.sendBeacon('{hub}/topics/t', 'text')"),
        format!("fetch('{hub}/topics/t', {{method: 'DELETE'}}).catch(() => 0)"),
        format!(
            "fetch('{hub}/events', {{method: 'POST', headers: {{'content-type': 'application/json'}}, body: {json}}}).catch(() => 0)"
        ),
    ]
}

#[tokio::test]
async fn a_page_of_another_site_writes_nothing() {
    let hub = TestHub::start().await;
    let browser = Browser::open(&page_of_another_site().await).await;
    let attempts = attempts(&hub.url(""));
    for attempt in &attempts {
        browser
            .value(&format!("Promise.resolve({attempt}).then(() => 1)"))
            .await;
    }
    // The last two ask before they send, and are not answered with leave. A beacon is sent when the browser has time.
    let sent = attempts.len() - 2;
    super::test_hub::within("the refusals", async {
        while refusals(&hub, "cross_site").await < u64::try_from(sent).unwrap() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(hub.last_id().await, 0, "something was stored");
}

/// The same attempts, by a page that was allowed: what is refused then is only a body that says nothing of itself.
#[tokio::test]
async fn a_page_that_is_allowed_writes() {
    let page = page_of_another_site().await;
    let origin: CorsOrigin = page.trim_end_matches('/').parse().unwrap();
    let hub = TestHub::start_with(|settings| settings.cors_origins = vec![origin]).await;
    let browser = Browser::open(&page).await;
    let url = hub.url("");
    let post = |path: &str, body: &str| {
        format!(
            "fetch('{url}{path}', {{method: 'POST', body: {body}}}).then(answer => answer.status)"
        )
    };
    let untyped = r#"new Blob(['{"data":1}'])"#;
    assert_eq!(browser.value(&post("/topics/t", "'text'")).await, 201);
    assert_eq!(browser.value(&post("/events", untyped)).await, 415);
    assert_eq!(hub.last_id().await, 1);
    assert_eq!(refusals(&hub, "cross_site").await, 0);
}

#[tokio::test]
async fn the_hubs_own_page_writes_wherever_it_is_found() {
    let hub = TestHub::start().await;
    let port = hub.address().rsplit(':').next().unwrap().to_owned();
    for host in ["127.0.0.1", "localhost"] {
        let browser = Browser::open(&format!("http://{host}:{port}/openapi.json")).await;
        let post = "fetch('/topics/t', {method: 'POST', body: 'x'}).then(answer => answer.status)";
        assert_eq!(browser.value(post).await, 201, "{host}");
    }
}

/// DNS rebinding: the page's own name now leads to the hub, so that for the browser they are one site.
#[tokio::test]
async fn a_name_that_was_rebound_to_the_hub_gets_nothing() {
    let hub = TestHub::start().await;
    hub.publish("secret", ["theirs"]).await;
    let port = hub.address().rsplit(':').next().unwrap().to_owned();
    let browser = Browser::open(&format!("http://rebound.example:{port}/openapi.json")).await;
    let read = |path: &str, options: &str| {
        format!(
            "fetch('{path}', {options}).then(async answer => [answer.status, (await answer.json()).code])"
        )
    };
    for (path, options) in [
        ("/events", "{}"),
        ("/topics", "{}"),
        ("/stats", "{}"),
        (
            "/sse?since=start",
            "{headers: {accept: 'application/problem+json'}}",
        ),
        ("/topics/t", "{method: 'POST', body: 'x'}"),
        ("/topics/secret", "{method: 'DELETE'}"),
    ] {
        let found = browser.value(&read(path, options)).await;
        assert_eq!(found, json!([421, "wrong_host"]), "{path}");
    }
    assert_eq!(hub.last_id().await, 1);

    // The same name, where it is the hub's.
    let own = format!("http://rebound.example:{port}").parse().unwrap();
    let folder = hub.stop().await;
    let listen = format!("127.0.0.1:{port}").parse().unwrap();
    let hub = TestHub::start_in(folder, |settings| {
        settings.public_url = Some(own);
        settings.listen = vec![listen];
    })
    .await;
    browser
        .go(&format!("http://rebound.example:{port}/openapi.json"))
        .await;
    let post = "fetch('/topics/t', {method: 'POST', body: 'x'}).then(answer => answer.status)";
    assert_eq!(browser.value(post).await, 201);
    assert_eq!(hub.last_id().await, 2);
}

#[tokio::test]
async fn the_console_and_the_docs_are_in_no_frame_of_another_page() {
    let hub = TestHub::start().await;
    for path in ["/", "/docs", "/openapi.json", "/console/app.js"] {
        let page = answer(hub.get(path)).await;
        assert_eq!(page.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(page.header("referrer-policy"), "no-referrer", "{path}");
        let policy = page.header("content-security-policy");
        assert!(
            policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
    }
    let browser = Browser::open(&page_of_another_site().await).await;
    let frame = |path: &str| {
        format!(
            "new Promise(done => {{ const frame = document.createElement('iframe'); frame.src = '{}'; \
             frame.onload = () => done(1); document.body.append(frame); setTimeout(() => done(0), 5000); }})",
            hub.url(path)
        )
    };
    for path in ["/", "/docs"] {
        browser.value(&frame(path)).await;
    }
    let complaints = browser.complaints().await;
    let framed = complaints
        .iter()
        .filter(|line| line.contains("frame-ancestors"));
    assert_eq!(framed.count(), 2, "{complaints:?}");
}
