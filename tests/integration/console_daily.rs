//! The console, in a browser: what is done with events every day, and what those who run the hub look at.

use serde_json::{Value, json};

use super::{
    browser::Browser,
    console::{LIVE_IDS, STATE, down_from},
    test_hub::{TestHub, answer},
};

async fn console(hub: &TestHub, view: &str) -> Browser {
    let browser = Browser::open(&hub.url(&format!("/#/{view}"))).await;
    browser.expect(STATE, "Live").await;
    browser
}

async fn publish(hub: &TestHub, event: Value) {
    answer(hub.post_json("/events", event.to_string())).await;
}

/// The ids of the rows that are seen.
const SEEN: &str = "[...document.querySelectorAll('#live-rows > [data-id]')].filter((row) => row.checkVisibility()).map((row) => Number(row.dataset.id))";

#[tokio::test]
async fn rows_are_searched_by_their_data() {
    let hub = TestHub::start().await;
    hub.publish("orders", ["\"Apple\"", "\"pear\"", "\"apple pie\""])
        .await;
    let browser = console(&hub, "live").await;
    browser.expect(LIVE_IDS, down_from(3, 1)).await;
    browser.fill("#live-search", "APPLE").await;
    browser.expect(SEEN, json!([3, 1])).await;
    // What comes meanwhile is searched too.
    hub.publish("orders", ["\"apple tree\"", "\"plum\""]).await;
    browser.expect(LIVE_IDS, down_from(5, 1)).await;
    browser.expect(SEEN, json!([4, 3, 1])).await;
    browser.fill("#live-search", "kiwi").await;
    browser
        .expect_text("#live-none", "None of the 5 events here has “kiwi”")
        .await;
    browser.fill("#live-search", "").await;
    browser.press("\u{e003}").await;
    browser
        .value("document.querySelector('#live-search').dispatchEvent(new Event('input'))")
        .await;
    browser.expect(SEEN, down_from(5, 1)).await;
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn columns_and_the_clock_are_chosen_and_kept() {
    let hub = TestHub::start().await;
    hub.publish("orders", ["1"]).await;
    let browser = console(&hub, "live").await;
    browser.expect(LIVE_IDS, json!([1])).await;
    let devtools = json!({"timezoneId": "Asia/Kolkata"});
    browser
        .devtools("Emulation.setTimezoneOverride", devtools)
        .await;
    browser.go("about:blank").await;
    browser.go(&hub.url("/")).await;
    browser.expect(LIVE_IDS, json!([1])).await;
    browser
        .expect_text("#live-columns .time", "Time (local)")
        .await;
    let stored = hub.get_json("/events/1").await["created_at"].clone();
    let utc = &stored.as_str().unwrap()[11..23];
    let shown = "document.querySelector('#live-rows time').textContent";
    assert_ne!(browser.value(shown).await, utc);
    browser.click("#live-columns summary").await;
    browser.click("#live-columns [data-utc]").await;
    browser.expect(shown, utc).await;
    browser
        .expect_text("#live-columns .time", "Time (UTC)")
        .await;
    browser.click("#live-columns [data-column=type]").await;
    let seen = "['id', 'time', 'topic', 'type', 'data'].filter((name) => document.querySelector(name === 'time' ? '#live-rows time' : `#live-rows .${name}`).checkVisibility())";
    browser
        .expect(seen, json!(["id", "time", "topic", "data"]))
        .await;
    browser.go("about:blank").await;
    browser.go(&hub.url("/")).await;
    browser.expect(LIVE_IDS, json!([1])).await;
    browser
        .expect(seen, json!(["id", "time", "topic", "data"]))
        .await;
    browser.expect(shown, utc).await;
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn an_event_is_published_again_with_every_digit() {
    let hub = TestHub::start().await;
    let event = r#"{"topic": "orders.eu", "type": "paid", "data": {"n": 12345678901234567890123, "x": 1.10}}"#;
    answer(hub.post_json("/events", event)).await;
    let browser = console(&hub, "live").await;
    browser.click("#live-rows summary").await;
    browser
        .click("#live-rows .links button:nth-of-type(2)")
        .await;
    browser.expect("location.hash", "#/send").await;
    browser.click("#publish").await;
    browser
        .expect_text("#answer-back", "Event 2 was back")
        .await;
    let [first, second] = [
        answer(hub.get("/events/1")).await.body,
        answer(hub.get("/events/2")).await.body,
    ];
    let data = |text: &str| {
        text[text.find("\"topic\"").unwrap()..text.find("\"created_at\"").unwrap()].to_owned()
    };
    assert_eq!(data(&first), data(&second));
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn an_event_is_erased_after_the_page_asked_and_is_gone_everywhere() {
    let hub = TestHub::start().await;
    hub.publish("orders", ["\"keep\"", "\"secret\"", "\"keep\""])
        .await;
    let browser = console(&hub, "live").await;
    let other = console(&hub, "live").await;
    other.expect(LIVE_IDS, down_from(3, 1)).await;
    browser.click("#live-rows [data-id='2'] summary").await;
    browser.click("#live-rows .erase button").await;
    browser
        .expect_text("#live-rows .erase", "Erase event 2 for good?")
        .await;
    // Nothing has happened, and the keyboard is on the way out.
    assert_eq!(
        browser.value("document.activeElement.textContent").await,
        "Cancel"
    );
    browser.press("\n").await;
    browser.expect_text("#live-rows .erase", "Erase …").await;
    assert_eq!(hub.get_json("/events/2").await["data"], "secret");
    browser.click("#live-rows .erase button").await;
    browser
        .click("#live-rows .erase button:nth-of-type(1)")
        .await;
    for page in [&browser, &other] {
        page.expect_text("#live-rows [data-id='2']", "Event 2 was erased.")
            .await;
        let text = page.value("document.body.innerText").await;
        assert!(!text.as_str().unwrap().contains("secret"), "{text}");
    }
    assert_eq!(hub.get_json("/events/2").await["type"], "segno.erased");
}

#[tokio::test]
async fn the_graph_begins_with_what_was_before_the_page() {
    let hub = TestHub::start().await;
    hub.publish_many(1000, |_| "orders".into()).await;
    let browser = console(&hub, "live").await;
    browser.expect(LIVE_IDS, down_from(1000, 801)).await;
    // 200 events came on the stream; the peak is of all.
    let peak = "Number(/[\\d,]+/.exec(document.querySelector('#rate-peak').textContent)?.[0].replace(',', ''))";
    browser.expect(&format!("{peak} >= 250"), true).await;
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn an_idle_graph_is_small() {
    let hub = TestHub::start().await;
    let browser = console(&hub, "live").await;
    let height = "document.querySelector('#rate').offsetHeight";
    browser.expect(&format!("{height} < 50"), true).await;
    hub.publish("orders", ["1"]).await;
    browser.expect(&format!("{height} > 60"), true).await;
}

#[tokio::test]
async fn the_theme_is_switched_and_kept() {
    let hub = TestHub::start().await;
    let browser = console(&hub, "live").await;
    browser.prefer("light").await;
    let ground = "getComputedStyle(document.body).backgroundColor";
    let light = browser.value(ground).await;
    browser.click("#theme").await;
    browser.expect(ground, light.clone()).await;
    browser.click("#theme").await;
    browser.expect(&format!("{ground} !== {light}"), true).await;
    let dark = browser.value(ground).await;
    browser.go("about:blank").await;
    browser.go(&hub.url("/")).await;
    browser.expect(ground, dark.clone()).await;
    browser.click("#theme").await;
    browser.expect(ground, light).await;
    browser.prefer("dark").await;
    browser.expect(ground, dark).await;
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn the_tutorial_buttons_take_a_message_alone_and_a_filter_that_hides_it_is_told_at_once() {
    let hub = TestHub::start().await;
    let browser = console(&hub, "live?topic=orders").await;
    browser.click("[data-view=send]").await;
    let told = "its filter takes topic orders only";
    browser.expect_text("#send-hidden", told).await;
    browser.fill("#send-topic", "orders").await;
    browser
        .expect("document.querySelector('#send-hidden').textContent", "")
        .await;
    let unused = "document.querySelector('#send-names').classList.contains('unused')";
    assert_eq!(browser.value(unused).await, false);
    browser
        .expect_text("#send-about", "Tutorial endpoints")
        .await;
    browser.click("#send-sse").await;
    browser
        .expect_text(
            "#answer-back",
            "Event 1 is stored. The live view does not show it",
        )
        .await;
    browser.expect(unused, true).await;
    browser.expect_text("#send-hidden", told).await;
    browser.click("#send-topic").await;
    browser.expect(unused, false).await;
    assert_eq!(hub.get_json("/events/1").await["topic"], "messages");
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn a_name_in_an_open_row_follows_it_alone() {
    let hub = TestHub::start().await;
    publish(&hub, json!({"topic": "a", "type": "paid", "data": 1})).await;
    publish(&hub, json!({"topic": "a", "type": "sent", "data": 2})).await;
    let browser = console(&hub, "live").await;
    browser.click("#live-rows [data-id='1'] summary").await;
    browser
        .click("#live-rows [data-id='1'] dd a[href*='type=']")
        .await;
    browser.expect(LIVE_IDS, json!([1])).await;
    browser.expect_text("#type-filter", "paid").await;
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn the_hub_is_shown_to_who_runs_it() {
    let hub = TestHub::start_with(|settings| {
        settings.keep.events = std::num::NonZeroU64::new(100_000);
    })
    .await;
    answer(hub.post_json("/events", "{")).await;
    hub.publish("orders", ["1"]).await;
    let browser = console(&hub, "hub").await;
    for told in [
        "invalid_json\n1",
        "the newest 100000 events",
        "Full at this rate in",
        "of 50,000",
        "Free on the disk",
        "segno backup FILE",
        "Behind the newest event\n0",
    ] {
        browser.expect_text("#hub-cards", told).await;
    }
    browser.close_without_complaints().await;
}

/// Source of 44: WCAG 2.2, 2.5.5.
#[tokio::test]
async fn on_a_phone_a_finger_hits_everything_and_nothing_lies_over_it() {
    let hub = TestHub::start().await;
    publish(
        &hub,
        json!({"topic": "orders", "type": "paid", "data": {"a": [1, {"b": 2}]}}),
    )
    .await;
    let browser = console(&hub, "live").await;
    browser.fit(390, 844).await;
    for view in ["live", "history", "send", "topics", "subscribe", "hub"] {
        browser.go(&hub.url(&format!("/#/{view}"))).await;
        browser
            .expect(&format!("document.querySelector('#{view}').hidden"), false)
            .await;
        if ["live", "history"].contains(&view) {
            browser.click(&format!("#{view}-rows summary")).await;
        }
        if view == "topics" {
            browser.expect_text("#topics-body", "orders").await;
        }
        let low = "[...document.querySelectorAll('button, a, summary, input:not([type=radio], [type=checkbox])')].filter((it) => it.checkVisibility() && !it.closest('.skip')).filter((it) => it.getBoundingClientRect().height < 43.5).map((it) => `${it.id} ${it.className} ${it.textContent} ${it.getBoundingClientRect().height}`)";
        assert_eq!(browser.value(low).await, json!([]), "{view}");
        let narrow = "[...document.querySelectorAll('button, nav a')].filter((it) => it.checkVisibility()).filter((it) => it.getBoundingClientRect().width < 43.5 || it.getBoundingClientRect().right > innerWidth).map((it) => it.outerHTML)";
        assert_eq!(browser.value(narrow).await, json!([]), "{view}");
        let covered = "[...document.querySelectorAll('main button, main a, main input, main summary')].filter((it) => it.checkVisibility()).filter((it) => {
            it.scrollIntoView({ block: 'center' });
            const { left, top, width, height } = it.getBoundingClientRect();
            const hit = document.elementFromPoint(left + width / 2, top + height / 2);
            return hit !== null && !it.contains(hit) && !hit.contains(it);
        }).map((it) => it.outerHTML)";
        assert_eq!(browser.value(covered).await, json!([]), "{view}");
    }
}
