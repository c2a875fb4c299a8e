//! The console of a hub with an access file, in a browser: it asks for a token, and shows what that may do.

use std::{fs, path::PathBuf};

use reqwest::StatusCode;
use serde_json::json;

use super::{
    access::{hub_with, token_entry},
    browser::Browser,
    console::{FAINT, LIVE_IDS, STATE, down_from, prints},
    test_hub::{TestHub, TestStream, answer},
};

const ADMIN: &str = "segno_admin";
const READER: &str = "segno_reader";
const WRITER: &str = "segno_writer";

fn admin() -> String {
    token_entry(
        ADMIN,
        "publish = [\"**\"]\nfollow = [\"**\"]\nerase = [\"**\"]\noperate = true",
    )
}

fn reader(follow: &str) -> String {
    token_entry(READER, &format!("follow = [\"{follow}\"]"))
}

fn writer() -> String {
    token_entry(WRITER, "publish = [\"orders.*\"]")
}

fn access_file(hub: &TestHub) -> PathBuf {
    hub.db().with_file_name("access.toml")
}

async fn publish(hub: &TestHub, topic: &str, count: u64) {
    for number in 0..count {
        let request = hub.post(&format!("/topics/{topic}")).bearer_auth(ADMIN);
        let answer = answer(request.body(number.to_string())).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    }
}

/// Whether an element is hidden, by its id.
fn hidden(id: &str) -> String {
    format!("document.getElementById('{id}').hidden")
}

async fn sign_in(browser: &Browser, token: &str) {
    browser.expect(&hidden("sign-in"), false).await;
    browser.fill("#token", &format!("{token}\n")).await;
}

/// Opens the console and signs in.
async fn signed_in(hub: &TestHub, token: &str) -> Browser {
    let browser = Browser::open(&hub.url("/")).await;
    sign_in(&browser, token).await;
    browser.expect(&hidden("sign-in"), true).await;
    browser
}

async fn sign_out(browser: &Browser) {
    browser.click("#who summary").await;
    browser.click("#sign-out").await;
}

/// The menu as it is seen.
const VIEWS: &str = "[...document.querySelectorAll('[data-view]')].filter((it) => it.checkVisibility()).map((it) => it.dataset.view)";

#[tokio::test]
async fn a_token_is_asked_for_once_and_kept_for_the_tab() {
    let hub = hub_with(&admin()).await;
    publish(&hub, "orders.eu", 3).await;
    let browser = Browser::open(&hub.url("/#/history")).await;
    browser.expect(&hidden("sign-in"), false).await;
    assert_eq!(browser.value(VIEWS).await, json!([]));
    // What is no token at all is not even sent, and a wrong one is told in the words of the hub.
    for (token, told) in [
        ("two words", "A token is one line"),
        (
            "segno_wrong",
            "The credential is refused: this token is not in the access file",
        ),
        ("hunter2", "it is neither a token of this hub"),
    ] {
        sign_in(&browser, token).await;
        browser.expect_text("#sign-in-problem", told).await;
    }
    assert_eq!(browser.value("sessionStorage.length").await, 0);
    sign_in(&browser, ADMIN).await;
    // It goes where the address says, and follows.
    browser.expect(&hidden("history"), false).await;
    browser.expect_text("#history-rows", "orders.eu").await;
    browser.expect(STATE, "Live").await;
    browser.expect_text("#who-name", "admin").await;
    browser.click("[data-view=live]").await;
    browser.expect(LIVE_IDS, down_from(3, 1)).await;
    publish(&hub, "orders.eu", 1).await;
    browser.expect(LIVE_IDS, down_from(4, 1)).await;
    browser.click("[data-view=hub]").await;
    browser.expect_text("#tiles", "Subscribers").await;
    browser.expect_text("#hub-cards", "Refusals").await;

    // The tab is loaded again.
    browser.go("about:blank").await;
    browser.go(&hub.url("/")).await;
    browser.expect(LIVE_IDS, down_from(4, 1)).await;

    // Nothing stays behind, in the page or in the tab.
    sign_out(&browser).await;
    browser.expect(&hidden("sign-in"), false).await;
    browser.expect(&hidden("sign-in-problem"), true).await;
    assert_eq!(browser.value(LIVE_IDS).await, json!([]));
    assert_eq!(browser.value("sessionStorage.length").await, 0);
    assert_eq!(browser.value(VIEWS).await, json!([]));
    let rows = browser.value("document.body.innerText").await;
    assert!(!rows.as_str().unwrap().contains("orders"), "{rows}");
    browser.go("about:blank").await;
    browser.go(&hub.url("/")).await;
    browser.expect(&hidden("sign-in"), false).await;
}

/// The page follows with the client of the hub, which sends the token in a header.
#[tokio::test]
async fn the_stream_takes_no_ticket() {
    let hub = hub_with(&admin()).await;
    publish(&hub, "orders.eu", 3).await;
    let browser = Browser::open("about:blank").await;
    let script = json!({"source": "window.asked = []; const real = fetch; window.fetch = (url, options) => { asked.push(new URL(url).pathname); return real(url, options); };"});
    browser
        .devtools("Page.addScriptToEvaluateOnNewDocument", script)
        .await;
    browser.go(&hub.url("/")).await;
    sign_in(&browser, ADMIN).await;
    browser.expect(LIVE_IDS, down_from(3, 1)).await;
    publish(&hub, "orders.eu", 1).await;
    browser.expect(LIVE_IDS, down_from(4, 1)).await;
    let asked = browser.value("asked").await;
    let asked: Vec<String> = serde_json::from_value(asked).unwrap();
    assert!(asked.contains(&"/sse".to_owned()), "{asked:?}");
    assert!(!asked.contains(&"/tickets".to_owned()), "{asked:?}");
}

#[tokio::test]
async fn what_a_caller_may_not_do_is_not_offered() {
    let rules = admin() + &reader("orders.*") + &writer() + &token_entry("segno_nothing", "");
    let hub = hub_with(&rules).await;
    publish(&hub, "orders.eu", 2).await;
    publish(&hub, "secret", 1).await;

    let browser = signed_in(&hub, READER).await;
    browser.expect(LIVE_IDS, json!([2, 1])).await;
    browser.expect(STATE, "Live").await;
    let views = json!(["live", "history", "topics", "subscribe"]);
    assert_eq!(browser.value(VIEWS).await, views);
    browser.expect_text("#who-name", "reader").await;
    browser.click("#who summary").await;
    browser.expect_text("#who-may", "orders.*").await;
    browser.click("[data-view=topics]").await;
    browser.expect_text("#topics-body", "orders.eu").await;
    browser.expect(&hidden("tiles"), true).await;
    let topics = "document.querySelectorAll('#topics-body tr').length";
    assert_eq!(browser.value(topics).await, 1);
    // The form to send is not there by its address either.
    browser.go(&hub.url("/#/send")).await;
    browser.expect("location.hash", "#/live").await;
    assert_eq!(browser.value(&hidden("send")).await, true);
    // A topic that is asked for by name is refused in words.
    browser.go(&hub.url("/#/live?topic=secret")).await;
    let told = "'reader' does not have the right `follow` for the topic 'secret'";
    browser.expect_text("#filter-problem", told).await;

    browser.go(&hub.url("/#/live")).await;
    browser.expect(LIVE_IDS, json!([2, 1])).await;
    sign_out(&browser).await;
    sign_in(&browser, WRITER).await;
    browser.expect(&hidden("send"), false).await;
    assert_eq!(browser.value(VIEWS).await, json!(["send"]));
    browser.expect_text("#send-may", "orders.*").await;
    assert_eq!(browser.value(&hidden("send-about")).await, true);
    browser.fill("#send-topic", "orders.eu").await;
    browser.click("#publish").await;
    browser
        .expect_text("#answer-back", "Event 4 is stored.")
        .await;
    browser.fill("#send-topic", "secret").await;
    browser.click("#publish").await;
    browser.expect_text("#answer-body", "not_allowed").await;
    let command = "document.querySelector('#send-curl').textContent";
    let command = browser.value(command).await;
    let shown = command.as_str().unwrap();
    assert!(
        shown.contains("-H \"Authorization: Bearer $SEGNO_TOKEN\"") && !shown.contains(WRITER),
        "{shown}"
    );

    sign_out(&browser).await;
    sign_in(&browser, "segno_nothing").await;
    browser
        .expect_text("#nothing-allowed", "may neither follow nor publish")
        .await;
    assert_eq!(browser.value(VIEWS).await, json!([]));
}

#[tokio::test]
async fn a_token_that_is_removed_is_told_and_another_right_goes_on() {
    let rules = |follow: &str| admin() + &reader(follow);
    let hub = hub_with(&rules("orders.*")).await;
    publish(&hub, "orders.eu", 1).await;
    let browser = signed_in(&hub, READER).await;
    browser.expect(LIVE_IDS, json!([1])).await;
    browser.expect(STATE, "Live").await;
    // The right changes: the list stays, and goes on with what may be seen now.
    fs::write(access_file(&hub), rules("news")).unwrap();
    browser
        .expect(
            "document.querySelector('#who-may').textContent.includes('news')",
            true,
        )
        .await;
    publish(&hub, "orders.eu", 1).await;
    publish(&hub, "news", 1).await;
    browser.expect(LIVE_IDS, json!([3, 1])).await;
    assert_eq!(browser.value(&hidden("sign-in")).await, true);
    // The token is removed: nothing stays on screen, and the page says why.
    fs::write(access_file(&hub), admin()).unwrap();
    browser.expect(&hidden("sign-in"), false).await;
    browser
        .expect_text("#sign-in-problem", "this token is not in the access file")
        .await;
    assert_eq!(browser.value(LIVE_IDS).await, json!([]));
    sign_in(&browser, ADMIN).await;
    browser.expect(LIVE_IDS, json!([3, 2, 1])).await;
}

/// What a stream is refused for, and will pass, is told as long as it lasts.
#[tokio::test]
async fn a_limit_of_the_token_is_told_until_it_has_room() {
    let limited = token_entry(READER, "follow = [\"orders.*\"]\nstreams = 1");
    let hub = hub_with(&(admin() + &limited)).await;
    publish(&hub, "orders.eu", 1).await;
    let taken = TestStream::open(hub.get("/sse").bearer_auth(READER)).await;
    let browser = signed_in(&hub, READER).await;
    let told = "you have as many streams open as `streams` of your entry in the access file allows";
    browser.expect_text("#filter-problem", told).await;
    browser.expect(STATE, "Reconnecting").await;
    drop(taken);
    browser.expect(LIVE_IDS, json!([1])).await;
    browser.expect(STATE, "Live").await;
    browser.expect(&hidden("filter-problem"), true).await;
}

#[tokio::test]
async fn who_shows_no_token_sees_what_everybody_may_and_can_sign_in() {
    let rules = format!("[anonymous]\nfollow = [\"public.**\"]\n{}", admin());
    let hub = hub_with(&rules).await;
    publish(&hub, "public.news", 1).await;
    publish(&hub, "secret", 1).await;
    let browser = Browser::open(&hub.url("/")).await;
    browser.expect(LIVE_IDS, json!([1])).await;
    browser.expect(STATE, "Live").await;
    browser.expect_text("#who-name", "Not signed in").await;
    browser.click("#who summary").await;
    browser.expect_text("#sign-out", "Sign in").await;
    browser.click("#sign-out").await;
    browser.expect(&hidden("stay-out"), false).await;
    browser.click("#stay-out").await;
    browser.expect(LIVE_IDS, json!([1])).await;
    sign_out(&browser).await;
    // A token that is refused does not lock out whoever needs none.
    sign_in(&browser, "segno_wrong").await;
    browser.expect_text("#sign-in-problem", "refused").await;
    browser.expect(&hidden("stay-out"), false).await;
    sign_in(&browser, ADMIN).await;
    browser.expect(LIVE_IDS, json!([2, 1])).await;
    sign_out(&browser).await;
    browser.expect(LIVE_IDS, json!([1])).await;
}

/// Links can send no header: they go with a ticket, which is taken when they are used.
#[tokio::test]
async fn links_and_commands_work_with_a_token() {
    let hub = hub_with(&(admin() + &reader("orders.*"))).await;
    publish(&hub, "orders.eu", 2).await;
    let browser = signed_in(&hub, READER).await;
    browser.click("[data-view=history]").await;
    browser.expect_text("#history-rows", "orders.eu").await;
    browser.click("#download-range").await;
    let saved = browser.downloaded("segno-1-2.ndjson").await;
    assert_eq!(saved.lines().count(), 2, "{saved}");
    browser.click("#history-rows summary").await;
    let link = "#history-rows .links a:last-child";
    // The rest of the row comes when it is opened.
    let is_there = format!("document.querySelector({link:?}) != null");
    browser.expect(&is_there, true).await;
    // What the browser's menu would open or copy.
    let of_menu = format!(
        "(() => {{ const link = document.querySelector({link:?}); \
           link.dispatchEvent(new MouseEvent('contextmenu', {{button: 2}})); \
           return new URL(link.href).searchParams.has('ticket'); }})()"
    );
    browser.expect(&of_menu, true).await;
    let left = format!("new URL(document.querySelector({link:?}).href).searchParams.has('ticket')");
    browser.expect(&left, false).await;
    browser.click_aside(link).await;
    browser
        .expect("JSON.parse(document.body.innerText).events[0].id", 2)
        .await;
    browser.close_aside().await;
    browser.click(link).await;
    browser
        .expect("JSON.parse(document.body.innerText).events[0].id", 2)
        .await;

    browser.go(&hub.url("/#/subscribe?topic=orders.*")).await;
    let mut id = 2;
    for (name, program) in [("segno tail", "sh"), ("curl", "sh"), ("Python", "python3")] {
        let folder = tempfile::tempdir().unwrap();
        let pre =
            format!("document.querySelector('[data-snippet=\"{name}\"] pre')?.textContent ?? ''");
        browser.expect(&format!("({pre}).length > 0"), true).await;
        let snippet = browser.value(&pre).await;
        let snippet = snippet.as_str().unwrap();
        assert!(!snippet.contains(READER), "{snippet}");
        let with_token = match program {
            "sh" => format!("export SEGNO_TOKEN={READER}\n{snippet}"),
            _ => format!("import os; os.environ['SEGNO_TOKEN'] = '{READER}'\n{snippet}"),
        };
        fs::write(folder.path().join("segno.cursor"), format!("{id}")).unwrap();
        publish(&hub, "secret", 1).await;
        publish(&hub, "orders.eu", 1).await;
        id += 2;
        prints(&with_token, program, folder.path(), &[&format!("{id} 0")]).await;
    }
    let script = browser
        .value("document.querySelector('[data-snippet=JavaScript] pre').textContent")
        .await;
    let script = script
        .as_str()
        .unwrap()
        .replace("prompt(\"Token\")", &json!(READER).to_string())
        .replace("console.log(", "(window.got ??= []).push(");
    browser
        .value(&format!(
            "(() => {{ localStorage.setItem('segno.cursor', {id}); {script} }})()"
        ))
        .await;
    publish(&hub, "orders.eu", 1).await;
    browser
        .expect("window.got", json!([id + 1, "orders.eu", "message", 0]))
        .await;
}

/// *Authorize* of Swagger UI takes the token for what is then tried out, under a policy that runs nothing but the page.
#[tokio::test]
async fn the_docs_authorize_and_then_send() {
    let hub = hub_with(&admin()).await;
    let page = answer(hub.get("/docs")).await;
    let policy = page.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"),
        "{policy}"
    );
    let again = hub
        .get("/docs")
        .header("if-none-match", page.header("etag"));
    assert_eq!(answer(again).await.status, StatusCode::NOT_MODIFIED);
    let browser = Browser::open(&hub.url("/docs")).await;
    let publish = "#operations-Publish-publish";
    let send = async |expected: &str| {
        browser.click(&format!("{publish} .execute")).await;
        let status = format!("{publish} .live-responses-table tbody .response-col_status");
        browser.expect_text(&status, expected).await;
    };
    browser
        .click(&format!("{publish} .opblock-summary-control"))
        .await;
    browser.click(&format!("{publish} .try-out__btn")).await;
    send("401").await;
    browser.click(".btn.authorize").await;
    browser.fill(".auth-container input", ADMIN).await;
    browser.click(".auth-btn-wrapper .authorize").await;
    browser.click(".auth-btn-wrapper .btn-done").await;
    send("201").await;
    let stored = answer(hub.get("/events/1").bearer_auth(ADMIN)).await;
    assert_eq!(stored.json()["topic"], "greetings");
    // Each operation says what it needs.
    let needs = format!("document.querySelector('{publish} .renderedMarkdown').innerText");
    let needs = browser.value(&needs).await;
    assert!(
        needs.as_str().unwrap().contains("the right publish"),
        "{needs}"
    );
    let complaints = browser.complaints().await;
    assert!(
        complaints.iter().all(|complaint| complaint.contains("401")),
        "{complaints:?}"
    );
}

#[tokio::test]
async fn the_form_can_be_read_on_a_phone_and_in_the_dark() {
    let hub = hub_with(&admin()).await;
    publish(&hub, "orders.eu", 1).await;
    for scheme in ["light", "dark"] {
        let browser = Browser::open(&hub.url("/")).await;
        browser.prefer(scheme).await;
        browser.fit(390, 844).await;
        sign_in(&browser, "segno_wrong").await;
        browser.expect_text("#sign-in-problem", "refused").await;
        let faint = async |what: &str| {
            let found = browser.value(FAINT).await;
            assert_eq!(found["faint"], json!([]), "{what}, {scheme}");
            browser
                .expect("document.documentElement.scrollWidth <= innerWidth", true)
                .await;
        };
        faint("the form").await;
        let labels = "document.querySelector('#token').labels.length";
        assert_eq!(browser.value(labels).await, 1);
        assert_eq!(browser.value("document.activeElement.id").await, "token");
        sign_in(&browser, ADMIN).await;
        browser.expect(LIVE_IDS, json!([1])).await;
        browser.click("#who summary").await;
        faint("the menu").await;
        let box_of = "(({left, right}) => left >= 0 && right <= innerWidth)(document.querySelector('#who > div').getBoundingClientRect())";
        browser.expect(box_of, true).await;
        browser.press("\u{e00c}").await;
        browser
            .expect("document.querySelector('#who').open", false)
            .await;
    }
}

/// On a phone the bar has room for the name beside the rest, and its menu is whole.
#[tokio::test]
async fn the_bar_of_a_phone_has_room_for_who_is_signed_in() {
    let hub = hub_with(&admin()).await;
    publish(&hub, "orders.eu", 2).await;
    let browser = signed_in(&hub, ADMIN).await;
    browser.fit(390, 844).await;
    browser.expect(LIVE_IDS, json!([2, 1])).await;
    let name = "document.querySelector('#who-name').textContent = 'kitchen-display-by-the-window'";
    browser.value(name).await;
    let lines = "document.querySelector('#who').getBoundingClientRect().bottom <= document.querySelector('#views').getBoundingClientRect().top && Math.abs(document.querySelector('#who').getBoundingClientRect().top - document.querySelector('#theme').getBoundingClientRect().top) < 20";
    browser.expect(lines, true).await;
    browser.click("#live-rows summary").await;
    publish(&hub, "orders.eu", 1).await;
    browser
        .expect("document.querySelector('#newer').hidden", false)
        .await;
    browser.expect(lines, true).await;
    browser
        .expect(
            "document.querySelector('#newer').textContent",
            "1 newer event ↑",
        )
        .await;
    browser.click("#who summary").await;
    let menu = "(({left, right}) => left >= 8 && right <= innerWidth)(document.querySelector('#who > div').getBoundingClientRect())";
    browser.expect(menu, true).await;
}
