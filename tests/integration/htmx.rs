//! Pages that are made with htmx, version 2 and 4, with their extensions for streams, in a browser.

use std::fs;

use serde_json::json;

use super::{
    browser::Browser,
    clients::installed,
    sight::pause,
    test_hub::{TestHub, within},
};

/// A version of htmx, and how one follows with it.
struct Htmx {
    scripts: [&'static str; 2],
    /// What stands on the page for the stream at `URL`.
    html: &'static str,
    /// What is done before the page is looked at.
    setting: &'static str,
}

const HTMX_2: Htmx = Htmx {
    scripts: ["htmx-2/dist/htmx.js", "htmx-ext-sse/sse.js"],
    html: r#"<div hx-ext="sse" sse-connect="URL"><p id="news" sse-swap="message"></p><p id="paid" sse-swap="paid"></p></div>"#,
    // Its extension always asks with `withCredentials`.
    setting: "",
};

/// Swaps messages without a type, and hands out the others as events of the page.
const HTMX_4: Htmx = Htmx {
    scripts: ["htmx-4/dist/htmx.js", "htmx-4/dist/ext/hx-sse.js"],
    html: r##"<div hx-sse:connect="URL" hx-target="#news" hx-config='credentials:"include"'></div>
        <p id="news"></p><p id="paid"></p>"##,
    setting: "htmx.config.mode = 'cors';
        document.addEventListener('paid', event => document.querySelector('#paid').innerHTML = event.detail.data);",
};

/// Puts htmx and the stream of `hub` on a page of `origin`, which has a page without a policy of its own.
async fn page(htmx: &Htmx, origin: &TestHub, hub: &TestHub) -> Browser {
    let browser = Browser::open(&origin.url("/health/live")).await;
    let modules = installed().join("node_modules");
    let scripts = htmx.scripts.map(|path| {
        let path = modules.join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    });
    let url = hub.url("/sse?topic=news&format=text");
    let html = htmx.html.replace("URL", &url);
    let put = format!(
        "(() => {{
            const add = text => {{
                const script = document.createElement('script');
                script.textContent = text;
                document.head.append(script);
            }};
            {}.forEach(add);
            {}
            document.body.innerHTML = {};
            htmx.process(document.body);
            return typeof htmx.version;
        }})()",
        json!(scripts),
        htmx.setting,
        json!(html)
    );
    assert_eq!(browser.value(&put).await, "string");
    browser
}

async fn follows(htmx: &Htmx, origin: &TestHub, hub: &TestHub) {
    let browser = page(htmx, origin, hub).await;
    within("the page to follow", async {
        while hub.get_json("/stats").await["subscribers"] == 0 {
            pause().await;
        }
    })
    .await;
    // Words and not quotes; lines; what a page is made of.
    for (data, text) in [
        ("hello", "hello"),
        ("two\nlines", "two lines"),
        ("<b>bold</b> and \"quoted\"", "bold and \"quoted\""),
    ] {
        hub.publish("news", [data]).await;
        let shown = "document.querySelector('#news').innerText";
        browser.expect(shown, text).await;
    }
    browser
        .expect("document.querySelector('#news b').innerText", "bold")
        .await;
    hub.publish("news?type=paid", ["19.90"]).await;
    let shown = "document.querySelector('#paid').innerText";
    browser.expect(shown, "19.90").await;
}

#[tokio::test]
async fn a_page_with_htmx_shows_the_text_of_events_of_its_own_origin() {
    for htmx in [HTMX_2, HTMX_4] {
        let hub = TestHub::start().await;
        follows(&htmx, &hub, &hub).await;
    }
}

#[tokio::test]
async fn a_page_with_htmx_follows_a_hub_of_another_origin_that_lets_it_send_credentials() {
    for htmx in [HTMX_2, HTMX_4] {
        let origin = TestHub::start().await;
        let allowed = origin.url("").parse().unwrap();
        let hub = TestHub::start_with(|settings| {
            settings.cors_origins = vec![allowed];
            settings.cors_credentials = true;
        })
        .await;
        follows(&htmx, &origin, &hub).await;
    }
}

/// The browser keeps the stream from a page that asks with credentials where only the origin is allowed.
#[tokio::test]
async fn without_the_flag_a_page_with_htmx_of_another_origin_is_told_nothing() {
    for htmx in [HTMX_2, HTMX_4] {
        let origin = TestHub::start().await;
        let allowed = origin.url("").parse().unwrap();
        let hub = TestHub::start_with(|settings| settings.cors_origins = vec![allowed]).await;
        let browser = page(&htmx, &origin, &hub).await;
        let asked = format!(
            "new Promise(resolve => {{
                const source = new EventSource('{}', {{withCredentials: true}});
                source.onerror = () => resolve(source.readyState);
            }})",
            hub.url("/sse?topic=news")
        );
        assert_eq!(browser.value(&asked).await, 2, "it is closed for good");
        hub.publish("news", ["hello"]).await;
        let shown = browser.value("document.querySelector('#news').innerText");
        assert_eq!(shown.await, "");
    }
}
