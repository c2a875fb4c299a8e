//! Swagger UI at `/docs`, in a browser.

use serde_json::{Value, json};

use super::{browser::Browser, console::FAINT, test_hub::TestHub};

/// The names of the groups, from the top.
const GROUPS: &str =
    "[...document.querySelectorAll('.opblock-tag')].map((group) => group.dataset.tag)";

async fn docs(hub: &TestHub) -> Browser {
    let browser = Browser::open(&hub.url("/docs")).await;
    browser
        .expect(
            "document.querySelector('[data-tag=Erase]')?.dataset.isOpen",
            "false",
        )
        .await;
    browser
}

/// Opens an operation and sends it as the page has filled it in.
async fn try_out(browser: &Browser, operation: &str) {
    let operation = format!("#operations-{operation}");
    browser
        .click(&format!("{operation} .opblock-summary-control"))
        .await;
    browser.click(&format!("{operation} .try-out__btn")).await;
    browser.click(&format!("{operation} .execute")).await;
}

async fn expect_answer(browser: &Browser, operation: &str, status: &str, body: &str) {
    let table = format!("#operations-{operation} .live-responses-table tbody");
    browser
        .expect_text(&format!("{table} .response-col_status"), status)
        .await;
    browser.expect_text(&table, body).await;
}

#[tokio::test]
async fn what_is_needed_first_is_first_and_what_deletes_is_last_and_closed() {
    let hub = TestHub::start().await;
    let browser = docs(&hub).await;
    let groups = json!([
        "Publish", "Stream", "History", "Topics", "Health", "Access", "Erase"
    ]);
    assert_eq!(browser.value(GROUPS).await, groups);
    let shown = "document.querySelectorAll('[id^=operations-Erase-]').length";
    assert_eq!(browser.value(shown).await, 0);
    browser.click("[data-tag=Erase]").await;
    browser.expect(shown, 2).await;
    assert_eq!(browser.value("document.title").await, "API · segno");
    // The other spellings of the cursor are taken, and not shown.
    browser
        .click("#operations-Stream-follow .opblock-summary-control")
        .await;
    let names = "[...document.querySelectorAll('#operations-Stream-follow tr[data-param-name]')].map((row) => row.dataset.paramName)";
    let names = browser.value(names).await;
    assert_eq!(
        names,
        json!([
            "topic",
            "type",
            "last_event_id",
            "since",
            "last",
            "count",
            "format",
            "ticket",
            "Last-Event-ID"
        ])
    );
    browser.click("#back").await;
    browser.expect("document.title", "segno").await;
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn what_the_page_fills_in_works_as_it_is() {
    let hub = TestHub::start().await;
    let browser = docs(&hub).await;
    try_out(&browser, "Publish-publish").await;
    expect_answer(&browser, "Publish-publish", "201", "greetings").await;
    // A second one is a second event.
    browser.click("#operations-Publish-publish .execute").await;
    super::test_hub::within("the second event", async {
        while hub.get_json("/stats").await["last_id"] != 2 {}
    })
    .await;
    try_out(&browser, "Publish-send_message").await;
    expect_answer(&browser, "Publish-send_message", "200", "Received").await;
    try_out(&browser, "History-history").await;
    expect_answer(&browser, "History-history", "200", "greetings").await;
    try_out(&browser, "Topics-topics").await;
    expect_answer(&browser, "Topics-topics", "200", "messages").await;
    browser.close_without_complaints().await;
}

/// It shows an answer when that is whole, so the stream ends after a few events.
#[tokio::test]
async fn a_stream_that_is_tried_shows_events_and_ends() {
    let hub = TestHub::start().await;
    hub.publish("greetings", ["1", "2", "3", "4", "5", "6"])
        .await;
    let browser = docs(&hub).await;
    try_out(&browser, "Stream-follow").await;
    expect_answer(&browser, "Stream-follow", "200", "id: 2").await;
    expect_answer(&browser, "Stream-follow", "200", "id: 6").await;
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn it_fits_a_phone_and_takes_the_theme_of_the_console() {
    let hub = TestHub::start().await;
    let browser = docs(&hub).await;
    browser.fit(390, 844).await;
    for operation in ["Publish-publish", "Stream-follow"] {
        browser
            .click(&format!("#operations-{operation} .opblock-summary-control"))
            .await;
        browser
            .expect("document.documentElement.scrollWidth <= innerWidth", true)
            .await;
    }
    let theme = "document.documentElement.dataset.theme";
    for scheme in ["dark", "light"] {
        browser.prefer(scheme).await;
        browser.expect(theme, scheme).await;
    }
    browser
        .value("localStorage.setItem('segno.theme', 'dark')")
        .await;
    browser.go("about:blank").await;
    browser.go(&hub.url("/docs")).await;
    browser.expect(theme, Value::from("dark")).await;
    browser.close_without_complaints().await;
}

/// In the dark it is turned about with the same contrast.
#[tokio::test]
async fn all_of_its_text_has_the_contrast_of_aa() {
    let hub = TestHub::start().await;
    let browser = docs(&hub).await;
    browser.prefer("light").await;
    browser.click("[data-tag=Erase]").await;
    for operation in ["Publish-publish", "Stream-follow", "Erase-erase_event"] {
        let operation = format!("#operations-{operation}");
        browser
            .click(&format!("{operation} .opblock-summary-control"))
            .await;
        browser
            .expect_text(&format!("{operation} .responses-wrapper"), "Code")
            .await;
    }
    // Its colours change slowly.
    browser.expect(&format!("{FAINT}.faint"), json!([])).await;
    let looked = browser.value(&format!("{FAINT}.looked")).await;
    assert!(looked.as_u64() > Some(300), "{looked}");
    browser.close_without_complaints().await;
}
