//! The console, in a browser.

use std::{
    collections::BTreeSet,
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    browser::Browser,
    test_hub::{Port, Program, TestHub, answer, within},
};

/// The ids in the rows of the live view, from the top.
pub(super) const LIVE_IDS: &str =
    "[...document.querySelectorAll('#live-rows > [data-id]')].map((row) => Number(row.dataset.id))";
const HISTORY_IDS: &str = "[...document.querySelectorAll('#history-rows > [data-id]')].map((row) => Number(row.dataset.id))";
pub(super) const STATE: &str = "document.querySelector('#state-text').textContent";

pub(super) fn down_from(newest: u64, oldest: u64) -> Value {
    (oldest..=newest).rev().collect::<Vec<_>>().into()
}

/// Opens the console and waits until it is live.
async fn console(hub: &TestHub, view: &str) -> Browser {
    let browser = Browser::open(&hub.url(&format!("/#/{view}"))).await;
    browser.expect(STATE, "Live").await;
    browser
}

/// Runs a command beside the hub, which is in this process.
pub(super) async fn shell(command: String) {
    let run = move || {
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    };
    within("a command", tokio::task::spawn_blocking(run))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_event_published_by_curl_appears() {
    let hub = TestHub::start().await;
    let browser = console(&hub, "live").await;
    browser.expect_text("#live-empty", "No events yet").await;
    // The page tells a newcomer what to do; this does it.
    let command = browser
        .value("document.querySelector('#live-empty pre').textContent")
        .await;
    shell(format!(
        "{} --silent --show-error",
        command.as_str().unwrap()
    ))
    .await;
    browser.expect(LIVE_IDS, json!([1])).await;
    browser.expect_text("#live-rows", "greetings").await;
    browser.expect_text("#live-rows", "\"hello\"").await;
    assert_eq!(
        browser
            .value("document.querySelector('#live-empty').hidden")
            .await,
        true
    );
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn both_send_buttons_work_and_the_event_comes_back_on_the_stream() {
    let hub = TestHub::start().await;
    let browser = console(&hub, "send").await;
    browser
        .fill(
            "#send-data",
            r#"{"price": 1.10, "big": 12345678901234567890123}"#,
        )
        .await;
    for (id, button, status) in [
        (1, "#send-sse", "Received"),
        (2, "#send-rest", "Received via REST"),
    ] {
        browser.click(button).await;
        browser
            .expect_text(
                "#answer-back",
                &format!("Event {id} was back on the live stream"),
            )
            .await;
        browser.expect_text("#answer-status", "200 OK").await;
        browser
            .expect(
                "document.querySelector('#answer-body').textContent",
                format!(r#"{{"status":"{status}","message":{{"price": 1.10, "big": 12345678901234567890123}},"id":{id}}}"#),
            )
            .await;
    }
    browser.fill("#send-topic", "orders").await;
    browser.fill("#send-type", "paid").await;
    browser.click("#publish").await;
    browser.expect_text("#answer-status", "201 Created").await;
    browser
        .expect_text("#answer-back", "Event 3 was back")
        .await;
    // The command that is shown does the same.
    let command = browser
        .value("document.querySelector('#send-curl').textContent")
        .await;
    shell(format!(
        "{} --silent --show-error",
        command.as_str().unwrap()
    ))
    .await;
    let [third, fourth] = [
        hub.get_json("/events/3").await,
        hub.get_json("/events/4").await,
    ];
    assert_eq!(
        (&third["topic"], &third["type"]),
        (&json!("orders"), &json!("paid"))
    );
    assert_eq!(
        (&third["topic"], &third["type"], &third["data"]),
        (&fourth["topic"], &fourth["type"], &fourth["data"])
    );
    browser.click("[data-view=live]").await;
    browser.expect(LIVE_IDS, down_from(4, 1)).await;
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn what_is_typed_is_checked_and_a_refusal_is_shown_as_it_came() {
    let hub = TestHub::start().await;
    let browser = console(&hub, "send").await;
    browser.fill("#send-data", r#"{"a": }"#).await;
    browser
        .expect_text("#send-check", "Not JSON: Unexpected token '}'")
        .await;
    browser
        .expect("document.querySelector('#publish').disabled", true)
        .await;
    // The same as text is a JSON string, quotes, apostrophes and all.
    let text = "it's {\"a\": }";
    browser.fill("#send-data", text).await;
    browser.click("#send-plain").await;
    browser.click("#publish").await;
    browser
        .expect_text("#answer-back", "Event 1 was back")
        .await;
    assert_eq!(hub.get_json("/events/1").await["data"], text);
    let command = browser
        .value("document.querySelector('#send-curl').textContent")
        .await;
    shell(format!(
        "{} --silent --show-error",
        command.as_str().unwrap()
    ))
    .await;
    assert_eq!(hub.get_json("/events/2").await["data"], text);

    browser.fill("#send-topic", "no spaces").await;
    browser.click("#publish").await;
    browser
        .expect_text("#answer-status", "400 Bad Request")
        .await;
    browser
        .expect_text("#answer-body", "\"code\":\"invalid_topic\"")
        .await;
    browser
        .expect_text("#answer-back", "Nothing was stored")
        .await;
}

#[tokio::test]
async fn a_killed_hub_comes_back_and_the_page_shows_the_meantime_exactly_once() {
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let program = Program::start_at(folder.path(), &port).await;
    let hub = program.as_hub();
    hub.publish("orders", ["1", "2", "3"]).await;
    let browser = console(&hub, "live").await;
    hub.publish("orders", ["4", "5"]).await;
    browser.expect(LIVE_IDS, down_from(5, 1)).await;
    program.kill();
    browser.expect(STATE, "Reconnecting after 5").await;

    // Nobody tells the browser where the hub is meanwhile.
    let meantime = Program::start(folder.path()).await;
    meantime
        .as_hub()
        .publish_many(20, |_| "orders".into())
        .await;
    meantime.kill();
    let program = Program::start_at(folder.path(), &port).await;
    browser.expect(LIVE_IDS, down_from(25, 1)).await;
    browser.expect(STATE, "Live").await;
    program.as_hub().publish("orders", ["26"]).await;
    browser.expect(LIVE_IDS, down_from(26, 1)).await;
    assert_eq!(
        browser.value("document.querySelector('#gap').hidden").await,
        true
    );
}

#[tokio::test]
async fn a_hub_that_drains_is_followed_again_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let mut program = Program::start_at(folder.path(), &port).await;
    let browser = console(&program.as_hub(), "live").await;
    program.signal("TERM");
    assert_eq!(program.exit_code().await, Some(0));
    browser.expect_text("#state-text", "Reconnecting").await;
    let program = Program::start_at(folder.path(), &port).await;
    program.as_hub().publish("orders", ["1"]).await;
    browser.expect(LIVE_IDS, json!([1])).await;
    browser.expect(STATE, "Live").await;
}

#[tokio::test]
async fn a_gap_is_shown() {
    let hub = TestHub::start().await;
    hub.publish("orders", ["1", "2", "3", "4", "5", "6"]).await;
    let browser = console(&hub, "live?after=999").await;
    let told = "asked to go on after event 999, but the hub's newest is 6: its file is another one, or an older one. Going on from event 1.";
    browser.expect_text("#gap", told).await;
    browser.expect_text("#live-rows > .gap", told).await;
    browser.expect(LIVE_IDS, down_from(6, 1)).await;
    browser.click("#gap-dismiss").await;
    assert_eq!(
        browser.value("document.querySelector('#gap').hidden").await,
        true
    );

    // Events that are no longer kept.
    let db = hub.db();
    let folder = hub.stop().await;
    shell(format!(
        "sqlite3 {} 'delete from events where id < 5'",
        db.display()
    ))
    .await;
    let hub = TestHub::start_in(folder, |_| ()).await;
    browser.go("about:blank").await;
    browser.go(&hub.url("/#/live?after=1")).await;
    browser
        .expect_text(
            "#gap",
            "Gap: Events 2 to 4 are no longer kept. Going on from event 5.",
        )
        .await;
    browser.expect(LIVE_IDS, down_from(6, 5)).await;
    // The gap stands where it is: below what came after it.
    browser
        .expect(
            "document.querySelector('#live-rows').lastElementChild.className",
            "row gap",
        )
        .await;
}

#[tokio::test]
async fn html_and_script_in_an_event_are_shown_as_text() {
    let hub = TestHub::start().await;
    let attack =
        "<img src=x onerror='window.hit=1'><script>window.hit=2</script><svg/onload=window.hit=3>";
    let event = json!({"topic": "<b>bold</b><img/src=x/onerror=window.hit=4>", "type": "<i>kind</i>", "data": {attack: [attack, "</script>&lt;"]}});
    answer(hub.post_json("/events", event.to_string())).await;
    let browser = console(&hub, "live").await;
    for view in ["live", "history"] {
        browser.click(&format!("[data-view={view}]")).await;
        browser.click(&format!("#{view}-rows summary")).await;
        browser
            .expect_text(&format!("#{view}-rows .tree"), attack)
            .await;
        browser
            .expect_text(&format!("#{view}-rows .tree"), "\"</script>&lt;\"")
            .await;
        browser
            .expect_text(&format!("#{view}-rows .topic"), "<b>bold</b>")
            .await;
        let made =
            format!("document.querySelectorAll('#{view}-rows :is(img, script, svg, b, i)').length");
        assert_eq!(browser.value(&made).await, 0);
    }
    browser.click("[data-view=topics]").await;
    browser.expect_text("#topics-body", "<b>bold</b>").await;
    assert_eq!(browser.value("window.hit === undefined").await, true);
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn the_filter_takes_topics_patterns_and_types() {
    let hub = TestHub::start().await;
    for (topic, event_type) in [
        ("orders.created", "eu"),
        ("orders.paid", "us"),
        ("sensors/kitchen", "eu"),
        ("greetings", "us"),
    ] {
        let event = json!({"topic": topic, "type": event_type, "data": 1});
        answer(hub.post_json("/events", event.to_string())).await;
    }
    let browser = console(&hub, "live").await;
    browser.expect(LIVE_IDS, down_from(4, 1)).await;
    browser.click("#topic-input").await;
    let suggested =
        "[...document.querySelectorAll('#topic-names option')].map((option) => option.value)";
    browser
        .expect(
            suggested,
            json!([
                "greetings",
                "orders.created",
                "orders.paid",
                "sensors/kitchen",
                "orders.**",
                "sensors/**"
            ]),
        )
        .await;
    browser.fill("#topic-input", "orders.*\n").await;
    browser.expect(LIVE_IDS, json!([2, 1])).await;
    browser.fill("#topic-input", "sensors/**\n").await;
    browser.expect(LIVE_IDS, json!([3, 2, 1])).await;
    browser.fill("#type-input", "eu\n").await;
    browser.expect(LIVE_IDS, json!([3, 1])).await;
    assert!(
        browser
            .address()
            .await
            .ends_with("/#/live?topic=orders.*&topic=sensors/**&type=eu"),
        "{}",
        browser.address().await
    );
    // What comes is filtered as what was there.
    hub.publish("orders.created", ["1"]).await;
    let event = r#"{"topic": "orders.created", "type": "eu", "data": 6}"#;
    answer(hub.post_json("/events", event)).await;
    browser.expect(LIVE_IDS, json!([6, 3, 1])).await;
    // The history has the same filter.
    browser.click("[data-view=history]").await;
    browser.expect(HISTORY_IDS, json!([6, 3, 1])).await;
    browser.click("[aria-label='Remove topic orders.*']").await;
    browser.expect(HISTORY_IDS, json!([3])).await;
    browser.click("#filter-clear").await;
    browser.expect(HISTORY_IDS, down_from(6, 1)).await;
    browser.close_without_complaints().await;
}

/// A page that was opened with a filter knows what its fields say without one, and a gap is about what was followed.
#[tokio::test]
async fn clearing_the_filter_leaves_nothing_of_it() {
    let hub = TestHub::start().await;
    hub.publish("orders", ["1", "2"]).await;
    let browser = console(&hub, "live?topic=orders&after=999").await;
    browser
        .expect("document.querySelector('#gap').hidden", false)
        .await;
    let placeholder = "document.querySelector('#topic-input').placeholder";
    browser.expect(placeholder, "or …").await;
    browser.click("#filter-clear").await;
    browser.expect(placeholder, "all; or orders.*").await;

    browser.go("about:blank").await;
    browser.go(&hub.url("/#/live?topic=orders&after=999")).await;
    browser
        .expect("document.querySelector('#gap').hidden", false)
        .await;
    browser.go(&hub.url("/#/live?topic=orders&after=1")).await;
    browser.expect(LIVE_IDS, json!([2])).await;
    browser
        .expect("document.querySelector('#gap').hidden", true)
        .await;

    browser.go(&hub.url("/#/history?topic=nope")).await;
    browser
        .expect_text("#history-empty", "No stored event matches topic nope.")
        .await;
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn a_filter_out_of_rule_is_explained() {
    let hub = TestHub::start().await;
    let browser = Browser::open(&hub.url("/#/live?type=a%20b")).await;
    browser
        .expect_text("#filter-problem", "type 'a b': it has white space")
        .await;
}

#[tokio::test]
async fn pause_and_continue_keep_the_place() {
    let hub = TestHub::start().await;
    hub.publish("orders", ["1", "2"]).await;
    let browser = console(&hub, "live").await;
    browser.expect(LIVE_IDS, down_from(2, 1)).await;
    browser.click("#pause").await;
    browser.expect(STATE, "Paused after 2").await;
    hub.publish_many(30, |_| "orders".into()).await;
    browser
        .expect_text("#live-lead", "The hub is at event 32.")
        .await;
    browser.expect_text("#pause", "Continue (30 new)").await;
    assert_eq!(browser.value(LIVE_IDS).await, down_from(2, 1));
    browser.click("#pause").await;
    browser.expect(LIVE_IDS, down_from(32, 1)).await;
    browser.expect(STATE, "Live").await;

    // Or the reader gives up the place.
    browser.click("#pause").await;
    hub.publish_many(1000, |_| "orders".into()).await;
    browser.click("#jump").await;
    browser.expect(LIVE_IDS, down_from(1032, 833)).await;
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn rows_stay_where_they_are_while_one_is_read() {
    let hub = TestHub::start().await;
    hub.publish("orders", ["1", "2"]).await;
    let browser = console(&hub, "live").await;
    browser.expect(LIVE_IDS, json!([2, 1])).await;
    browser.click("#live-rows summary").await;
    hub.publish("orders", ["3", "4"]).await;
    browser.expect_text("#newer", "2 newer events").await;
    assert_eq!(browser.value(LIVE_IDS).await, json!([2, 1]));
    // It has a place of its own: nothing that is read lies under it, and the bar is as high as before.
    for width in [1280, 390] {
        browser.fit(width, 844).await;
        let in_bar = "(() => { const inside = document.querySelector('#newer').getBoundingClientRect(), bar = document.querySelector('.top').getBoundingClientRect(); return inside.top >= bar.top && inside.bottom <= bar.bottom && inside.left >= 0 && inside.right <= innerWidth; })()";
        browser.expect(in_bar, true).await;
        let height = "document.querySelector('.top').offsetHeight";
        let with = browser.value(height).await;
        browser
            .value("document.querySelector('#newer').hidden = true")
            .await;
        assert_eq!(browser.value(height).await, with, "{width}");
        browser
            .value("document.querySelector('#newer').hidden = false")
            .await;
    }
    browser.click("[data-view=send]").await;
    browser
        .expect("document.querySelector('#newer').checkVisibility()", false)
        .await;
    browser.click("[data-view=live]").await;
    browser.click("#newer").await;
    browser.expect(LIVE_IDS, down_from(4, 1)).await;
}

#[tokio::test]
async fn the_history_is_paged_and_its_address_shows_the_same_to_others() {
    let hub = TestHub::start().await;
    hub.publish_many(120, |n| format!("t{}", n % 2)).await;
    let browser = console(&hub, "history").await;
    browser.expect(HISTORY_IDS, down_from(120, 71)).await;
    browser.click("#history-older").await;
    browser.expect(HISTORY_IDS, down_from(70, 21)).await;
    let address = browser.address().await;
    browser.click("#history-older").await;
    browser.expect(HISTORY_IDS, down_from(20, 1)).await;
    browser
        .expect(
            "document.querySelector('#history-older').hasAttribute('href')",
            false,
        )
        .await;
    browser.click("#history-newer").await;
    browser.expect(HISTORY_IDS, down_from(70, 21)).await;

    let other = Browser::open(&address).await;
    other.expect(HISTORY_IDS, down_from(70, 21)).await;
    other.fill("#history-id", "42\n").await;
    other.expect(HISTORY_IDS, down_from(42, 1)).await;
    other
        .expect(
            "document.querySelector('#history-rows [data-id=\"42\"] details').open",
            true,
        )
        .await;
    other.fill("#history-id", "1000\n").await;
    other
        .expect_text("#history-problem", "no event has the id 1000")
        .await;
    other.fill("#topic-input", "t1\n").await;
    let odd: Vec<_> = (21..=119).rev().filter(|id| id % 2 == 1).collect();
    other.expect(HISTORY_IDS, odd).await;

    let time = hub.get_json("/events/1").await["created_at"].clone();
    other
        .go(&hub.url(&format!("/#/history?until={}", time.as_str().unwrap())))
        .await;
    other.expect_text("#history-empty", "No events").await;
    // The refusal of the event that is not there is in the console, as it should be, and nothing else.
    assert!(
        other
            .complaints()
            .await
            .iter()
            .all(|complaint| complaint.contains("404"))
    );
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn the_range_shown_is_downloaded_as_ndjson() {
    let hub = TestHub::start().await;
    hub.publish_many(1500, |_| "orders".into()).await;
    let browser = console(&hub, "history?before=1000").await;
    browser.expect(HISTORY_IDS, down_from(999, 950)).await;
    browser.click("#download-range").await;
    let text = browser.downloaded("segno-950-999.ndjson").await;
    let ids = |text: &str| -> Vec<u64> {
        let events = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.map(|event| event["id"].as_u64().unwrap()).collect()
    };
    assert_eq!(ids(&text), (950..=999).collect::<Vec<_>>());
    browser.click("#download-all").await;
    let text = browser.downloaded("segno.ndjson").await;
    assert_eq!(ids(&text), (1..=1500).collect::<Vec<_>>());
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn topics_and_the_hub_are_shown_in_figures() {
    let hub = TestHub::start().await;
    hub.publish_many(1000, |n| {
        if n % 4 == 0 { "sensors" } else { "orders" }.into()
    })
    .await;
    let browser = console(&hub, "hub").await;
    for (nth, figure) in [
        (1, "1"),
        (2, "1,000"),
        (3, "1,000"),
        (6, env!("CARGO_PKG_VERSION")),
    ] {
        browser
            .expect_text(&format!("#tiles div:nth-child({nth}) dd"), figure)
            .await;
    }
    browser.click("[data-view=topics]").await;
    browser
        .expect_text("#topics-body tr:nth-child(1)", "orders\t750")
        .await;
    browser
        .expect_text("#topics-body tr:nth-child(2)", "sensors\t250")
        .await;
    hub.publish("sensors", ["1"]).await;
    browser
        .expect_text("#topics-body tr:nth-child(2)", "sensors\t251\t0.")
        .await;
    // With this page, which follows everything.
    let _streams = [
        hub.follow("?topic=sensors").await,
        hub.follow("?topic=sen*").await,
    ];
    browser
        .expect_text("#topics-body tr:nth-child(2) td:nth-child(4)", "3")
        .await;
    browser.click("[data-sort=subscribers]").await;
    browser
        .expect_text("#topics-body tr:nth-child(1)", "sensors\t251")
        .await;
    browser
        .expect_text("#topics-body tr:nth-child(2) td:nth-child(4)", "1")
        .await;
    browser.fill("#topics-find", "ord").await;
    browser
        .expect("document.querySelectorAll('#topics-body tr').length", 1)
        .await;
    browser.click("#topics-body a").await;
    browser.expect_text("#topic-filter", "orders").await;
    browser.close_without_complaints().await;
}

/// Runs a script until it has printed `expected`, then ends all its processes.
pub(super) async fn prints(script: &str, program: &str, folder: &Path, expected: &[&str]) {
    let out = folder.join("out");
    let mut path = Path::new(env!("CARGO_BIN_EXE_segno"))
        .parent()
        .unwrap()
        .as_os_str()
        .to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let mut child = Command::new(program)
        .env("PATH", path)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(&out).unwrap())
        .process_group(0)
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let printed = || std::fs::read_to_string(&out).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let state = folder.join("segno.cursor");
    let last_id = expected.last().unwrap().split(' ').next().unwrap();
    // It remembers its place after it has printed.
    while printed().lines().count() < expected.len()
        || std::fs::read_to_string(&state).is_ok_and(|state| state.lines().next() != Some(last_id))
    {
        assert!(Instant::now() < deadline, "{script}\nprinted {}", printed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    shell(format!("kill -9 -{}", child.id())).await;
    child.wait().unwrap();
    for (line, expected) in printed().lines().zip(expected) {
        assert!(
            line.contains(expected.split_once(' ').unwrap().1),
            "{script}\nprinted {line}"
        );
    }
    assert_eq!(
        printed().lines().count(),
        expected.len(),
        "{script}\nprinted {}",
        printed()
    );
}

#[tokio::test]
async fn the_commands_to_subscribe_follow_the_filter_and_resume() {
    let hub = TestHub::start().await;
    let browser = console(&hub, "subscribe?topic=orders.*").await;
    let mut id = 0;
    for (name, program) in [("segno tail", "sh"), ("curl", "sh"), ("Python", "python3")] {
        let folder = tempfile::tempdir().unwrap();
        let snippet = browser
            .value(&format!(
                "document.querySelector('[data-snippet=\"{name}\"] pre').textContent"
            ))
            .await;
        // From a place, so that nothing hangs on when it connects.
        std::fs::write(folder.path().join("segno.cursor"), format!("{id}")).unwrap();
        hub.publish("orders.eu", ["first-1"]).await;
        hub.publish("other", ["no"]).await;
        hub.publish("orders.us", ["first-2"]).await;
        id += 3;
        prints(
            snippet.as_str().unwrap(),
            program,
            folder.path(),
            &[&format!("{} first-1", id - 2), &format!("{id} first-2")],
        )
        .await;
        hub.publish("orders.eu", ["second"]).await;
        id += 1;
        prints(
            snippet.as_str().unwrap(),
            program,
            folder.path(),
            &[&format!("{id} second")],
        )
        .await;
    }
    // The one for browsers, in this browser.
    let script = browser
        .value("document.querySelector('[data-snippet=JavaScript] pre').textContent")
        .await;
    let script = script
        .as_str()
        .unwrap()
        .replace("console.log(", "(window.got ??= []).push(");
    browser
        .value(&format!(
            "(() => {{ localStorage.setItem('segno.cursor', {id}); {script} }})()"
        ))
        .await;
    let event = r#"{"topic": "orders.eu", "type": "paid", "data": {"a": 1}}"#;
    answer(hub.post_json("/events", event)).await;
    browser
        .expect("window.got", json!([id + 1, "orders.eu", "paid", {"a": 1}]))
        .await;
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn the_page_asks_nobody_but_its_hub_and_fits_a_phone() {
    let hub = TestHub::start().await;
    let long = "x".repeat(255);
    answer(hub.post_json(
        "/events",
        json!({"topic": long, "type": long, "data": {&long: "long ".repeat(2000)}}).to_string(),
    ))
    .await;
    let browser = Browser::open_watched(&hub.url("/#/live")).await;
    browser.expect(STATE, "Live").await;
    browser.resize(390, 844).await;
    for view in VIEWS {
        browser.click(&format!("[data-view={view}]")).await;
        browser
            .expect(&format!("document.querySelector('#{view}').hidden"), false)
            .await;
        if ["live", "history"].contains(&view) {
            browser.click(&format!("#{view}-rows summary")).await;
            browser
                .expect_text(&format!("#{view}-rows .opened"), "Copy data")
                .await;
        }
        browser
            .expect("document.documentElement.scrollWidth <= innerWidth", true)
            .await;
        // Everything that can be used has a name to be called by.
        let nameless = "[...document.querySelectorAll('button, a, input, textarea')].filter((it) => !(it.innerText || it.ariaLabel || it.labels?.length || it.textContent)).map((it) => it.outerHTML)";
        assert_eq!(browser.value(nameless).await, json!([]));
    }
    let requests: BTreeSet<String> = browser.requests().await.into_iter().collect();
    assert!(
        requests.iter().any(|url| url.contains("/sse?")),
        "{requests:?}"
    );
    let elsewhere: Vec<_> = requests
        .iter()
        .filter(|url| !url.starts_with(&hub.url("/")))
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    browser.close_without_complaints().await;
}

#[tokio::test]
async fn the_keyboard_is_enough() {
    let hub = TestHub::start().await;
    hub.publish("orders", ["1"]).await;
    let browser = console(&hub, "live").await;
    browser.expect(LIVE_IDS, json!([1])).await;
    browser
        .value("document.querySelector('#live-columns summary').focus()")
        .await;
    browser.press("\t").await;
    browser
        .expect("document.activeElement.tagName", "SUMMARY")
        .await;
    browser.press("\n").await;
    browser.expect_text("#live-rows .opened", "Copy data").await;
    browser.press("\t").await;
    browser
        .expect("document.activeElement.closest('.opened') !== null", true)
        .await;
}

/// Events a second, for how long; `SEGNO_BURST_SECONDS=60` for a closer look.
const BURST_EVENTS_PER_SECOND: u64 = 10_000;
const BURST: Duration = Duration::from_secs(15);

/// With more that want each processor, how soon a page draws says little about the page.
const BUSY_LOAD: f64 = 3.0;

/// Notes down what reaches the page, how long it draws nothing, and how often a screen reader is told something.
const WATCH: &str = "
    window.seen = 0; window.missing = 0; window.frames = []; window.told = 0;
    let last = 0;
    const real = fetch;
    window.fetch = async (url, options) => {
        const answer = await real(url, options);
        if (!String(url).includes('/sse?')) return answer;
        const decoder = new TextDecoder();
        let rest = '';
        const body = answer.body.pipeThrough(new TransformStream({
            transform(chunk, out) {
                const lines = (rest + decoder.decode(chunk, { stream: true })).split('\\n');
                rest = lines.pop();
                for (const line of lines) {
                    if (!line.startsWith('{\"id\":')) continue;
                    const id = parseInt(line.slice(6));
                    seen += 1;
                    if (id !== last + 1) missing += 1;
                    last = id;
                }
                out.enqueue(chunk);
            },
        }));
        return new Response(body, answer);
    };
    addEventListener('DOMContentLoaded', () => {
        let drawn = performance.now();
        const frame = (now) => { frames.push(now - drawn); drawn = now; requestAnimationFrame(frame); };
        requestAnimationFrame(frame);
        new MutationObserver(() => told += 1).observe(document.querySelector('#news'), { childList: true, characterData: true, subtree: true });
    });";

/// Programs that wanted a processor over the last minute, for each that there is.
fn load() -> f64 {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = load.split(' ').next().unwrap().parse().unwrap();
    load / thread::available_parallelism().unwrap().get() as f64
}

/// Publishes for so long, at the rate of the burst or as near as the machine gets; how many.
async fn burst(hub: &TestHub, length: Duration) -> u64 {
    let begin = Instant::now();
    let mut sent = 0;
    while begin.elapsed() < length {
        hub.publish_many(1000, |n| format!("burst.{}", n % 7)).await;
        sent += 1000;
        let due = Duration::from_secs_f64(sent as f64 / BURST_EVENTS_PER_SECOND as f64);
        tokio::time::sleep(due.saturating_sub(begin.elapsed())).await;
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::print_stdout,
    reason = "the figures, for whoever runs it with --nocapture"
)]
async fn slow_a_burst_neither_freezes_the_page_nor_fills_its_memory() {
    let length = std::env::var("SEGNO_BURST_SECONDS").map_or(BURST, |seconds| {
        Duration::from_secs(seconds.parse().unwrap())
    });
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path()).await;
    let hub = program.as_hub();
    let browser = Browser::open("about:blank").await;
    let watch = json!({"source": WATCH});
    browser
        .devtools("Page.addScriptToEvaluateOnNewDocument", watch)
        .await;
    browser.go(&hub.url("/#/live")).await;
    browser.expect(STATE, "Live").await;
    let cpu_before = browser.cpu_time().await;
    browser.value("frames.length = 0").await;

    let begin = Instant::now();
    let sent = burst(&hub, length).await;
    let arrived = browser.value("seen").await.as_u64().unwrap();
    let rate = arrived as f64 / begin.elapsed().as_secs_f64();
    let rows = browser
        .value("document.querySelectorAll('#live-rows > li').length")
        .await;
    let frames = browser.value("frames.sort((a, b) => a - b)").await;
    let frames: Vec<f64> = serde_json::from_value(frames).unwrap();
    let (usual, longest) = (frames[frames.len() * 95 / 100], frames[frames.len() - 1]);
    browser.expect("seen", sent).await;
    let cpu = (browser.cpu_time().await - cpu_before).as_secs_f64() * 1e6 / sent as f64;
    browser.expect(STATE, "Live").await;
    // When it is calm again, all rows are there.
    browser.expect(LIVE_IDS, down_from(sent, sent - 499)).await;
    let heap = "(gc(), performance.memory.usedJSHeapSize)";
    let heap = browser.value(heap).await.as_f64().unwrap();
    let told = browser.value("told").await.as_u64().unwrap();
    println!(
        "{arrived} of {sent} events reached the page at {rate:.0}/s; it drew within {usual:.0} ms in 95 of 100 cases, \
         {longest:.0} ms at most; {cpu:.0} us of CPU an event; heap {:.1} MB; load {:.1}",
        heap / 1e6,
        load()
    );

    assert_eq!(browser.value("missing").await, 0, "each event comes once");
    assert!(rows.as_u64().unwrap() <= 500, "{rows} rows");
    assert!(heap < 10e6, "{heap} bytes of heap");
    // One announcement in 5 s, and what was told before and after.
    assert!(told <= length.as_secs() / 5 + 4, "{told} announcements");
    // What an event costs does not hang on what else the machine does: measured are 35 to 45 us, most of it the browser's own.
    assert!(cpu < 120.0, "{cpu} us of CPU an event");
    let (usual_bound, longest_bound) = if load() < BUSY_LOAD {
        assert!(
            rate > 0.9 * BURST_EVENTS_PER_SECOND as f64,
            "{rate} events/s"
        );
        (100.0, 1000.0)
    } else {
        println!("LOOSE BOUNDS, and none for the rate: the machine is busy with something else.");
        (500.0, 5000.0)
    };
    assert!(
        usual <= usual_bound && longest <= longest_bound,
        "{usual} ms, at most {longest} ms"
    );
}

#[tokio::test]
async fn a_stream_that_is_far_behind_says_so_and_then_is_live() {
    let hub = TestHub::start().await;
    hub.publish_many(200_000, |_| "orders".into()).await;
    let browser = console(&hub, "live").await;
    // What the state was, from now on.
    browser
        .value("(() => { const state = document.querySelector('#state-text'); window.states = []; new MutationObserver(() => states.at(-1) === state.textContent || states.push(state.textContent)).observe(state, { childList: true }); })()")
        .await;
    browser.go(&hub.url("/#/live?after=0")).await;
    browser.expect("states.at(-1)", "Live").await;
    browser.expect(LIVE_IDS, down_from(200_000, 199_501)).await;
    let states: Vec<String> = serde_json::from_value(browser.value("states").await).unwrap();
    let behind: Vec<u64> = states
        .iter()
        .filter_map(|state| state.strip_prefix("Replaying, ")?.strip_suffix(" behind"))
        .map(|behind| behind.replace(',', "").parse().unwrap())
        .collect();
    assert!(!behind.is_empty(), "{states:?}");
    assert!(behind.is_sorted_by(|a, b| a > b), "{states:?}");
    assert_eq!(
        states.iter().filter(|state| *state == "Live").count(),
        1,
        "{states:?}"
    );
}

#[tokio::test]
async fn a_page_that_was_left_holds_no_stream() {
    let hub = TestHub::start().await;
    hub.publish("orders", ["1"]).await;
    let browser = Browser::open("about:blank").await;
    // A browser opens six connections to a host: were they held, the page would not load again.
    for _ in 0..8 {
        browser.go(&hub.url("/#/live")).await;
        browser.expect(STATE, "Live").await;
        browser.go("about:blank").await;
    }
    within("the streams to end", async {
        while hub.get_json("/stats").await["subscribers"] != 0 {}
    })
    .await;
    browser.back().await;
    browser
        .expect("document.querySelector('#state-text')?.textContent", "Live")
        .await;
    hub.publish("orders", ["2"]).await;
    browser.expect(LIVE_IDS, json!([2, 1])).await;
}

#[tokio::test]
async fn a_gap_is_told_for_each_reason() {
    let hub = TestHub::start().await;
    let browser = console(&hub, "live").await;
    for (reason, requested, first_id, last_id, told) in [
        (
            "trimmed",
            1,
            5,
            6,
            "Events 2 to 4 are no longer kept. Going on from event 5.",
        ),
        (
            "trimmed",
            1,
            3,
            6,
            "Event 2 is no longer kept. Going on from event 3.",
        ),
        (
            "trimmed",
            6,
            8,
            7,
            "Event 7 is no longer kept. Going on with the next event.",
        ),
        (
            "trimmed",
            3,
            1,
            6,
            "some events after 3 are no longer kept. Going on with those that are.",
        ),
        (
            "lost",
            3,
            1,
            6,
            "events after 3 are lost. Going on with the events there are.",
        ),
        (
            "ahead",
            9,
            1,
            6,
            "asked to go on after event 9, but the hub's newest is 6: its file is another one, or an older one. Going on from event 1.",
        ),
        (
            "unknown",
            0,
            1,
            6,
            "the cursor is not one of this hub's. Going on from event 1.",
        ),
    ] {
        let gap = json!({"reason": reason, "requested": requested, "first_id": first_id, "last_id": last_id});
        let text = browser
            .value(&format!(
                "import('/console/rows.js').then(({{ gapText }}) => gapText({gap}))"
            ))
            .await;
        assert!(text.as_str().unwrap().ends_with(told), "{text} for {gap}");
    }
}

const VIEWS: [&str; 6] = ["live", "history", "send", "topics", "subscribe", "hub"];

/// Roles that a person acts on.
const CONTROLS: [&str; 9] = [
    "link",
    "button",
    "textbox",
    "searchbox",
    "radio",
    "combobox",
    "DisclosureTriangle",
    "Date",
    "InputTime",
];

fn ax<'a>(node: &'a Value, property: &str) -> &'a Value {
    let properties = node["properties"].as_array();
    properties
        .and_then(|properties| properties.iter().find(|it| it["name"] == property))
        .map_or(&Value::Null, |it| &it["value"]["value"])
}

#[tokio::test]
async fn a_screen_reader_finds_its_way() {
    let hub = TestHub::start().await;
    let browser = console(&hub, "live").await;
    for has_events in [false, true] {
        if has_events {
            hub.publish("orders", ["1", r#"{"a": [1, {"b": 2}]}"#])
                .await;
        }
        for view in VIEWS {
            browser.go(&hub.url(&format!("/#/{view}"))).await;
            if has_events && ["live", "history"].contains(&view) {
                browser.click(&format!("#{view}-rows summary")).await;
                browser
                    .expect_text(&format!("#{view}-rows .opened"), "Copy data")
                    .await;
            }
            let tree = browser
                .devtools("Accessibility.getFullAXTree", json!({}))
                .await;
            let nodes: Vec<&Value> = tree["nodes"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|node| node["ignored"] == false)
                .collect();
            let role = |node: &Value| node["role"]["value"].as_str().unwrap_or("").to_owned();
            let controls = nodes.iter().filter(|node| {
                CONTROLS.contains(&role(node).as_str())
                    || ax(node, "focusable") == true && role(node) != "RootWebArea"
            });
            let mut count = 0;
            for control in
                controls.filter(|node| role(node) != "main" && !role(node).starts_with("Spin"))
            {
                count += 1;
                let name = control["name"]["value"].as_str().unwrap_or("");
                assert!(
                    !name.trim().is_empty()
                        && !["generic", "none"].contains(&role(control).as_str()),
                    "{view}: {control}"
                );
            }
            assert!(count > 8, "{view} has {count} controls");
            let levels: Vec<u64> = nodes
                .iter()
                .filter(|node| role(node) == "heading")
                .map(|node| ax(node, "level").as_u64().unwrap())
                .collect();
            assert_eq!(levels[0], 1, "{view}: {levels:?}");
            assert!(
                levels[1..].iter().all(|level| *level == 2),
                "{view}: {levels:?}"
            );
            for landmark in ["banner", "navigation", "main"] {
                let found = nodes.iter().filter(|node| role(node) == landmark).count();
                assert_eq!(found, 1, "{view}: {landmark}");
            }
            // A placeholder is not a name: it goes when something is typed.
            let unnamed = "[...document.querySelectorAll('input, textarea')].filter((it) => !it.labels.length && !it.ariaLabel).map(({ id }) => id)";
            assert_eq!(browser.value(unnamed).await, json!([]), "{view}");
            // In the order of the page, and no id twice.
            let ids = "[...document.querySelectorAll('[id]')].map(({ id }) => id)";
            let twice = format!("{ids}.filter((id, at, all) => all.indexOf(id) !== at)");
            assert_eq!(browser.value(&twice).await, json!([]), "{view}");
            let forced = "[...document.querySelectorAll('[tabindex]')].filter((it) => it.tabIndex > 0).length";
            assert_eq!(browser.value(forced).await, 0, "{view}");
        }
    }
    let tree = browser
        .devtools("Accessibility.getFullAXTree", json!({}))
        .await;
    let nodes = tree["nodes"].as_array().unwrap();
    let is_polite =
        |node: &&Value| node["role"]["value"] == "status" && ax(node, "live") == "polite";
    assert!(nodes.iter().filter(is_polite).count() > 0, "{tree}");

    // The first stop of the keyboard leads past the menu, and leaves the address as it is.
    browser.go("about:blank").await;
    browser.go(&hub.url("/#/topics")).await;
    browser.expect(STATE, "Live").await;
    browser.press("\t").await;
    browser
        .expect("document.activeElement.className", "skip")
        .await;
    browser.press("\n").await;
    browser.expect("document.activeElement.id", "main").await;
    assert!(browser.address().await.ends_with("/#/topics"));
    // What comes is told.
    browser.click("[data-view=live]").await;
    hub.publish("orders", ["3"]).await;
    browser.expect_text("#news", "new event").await;
}

/// Texts whose contrast to what is behind them is less than AA asks for.
pub(super) const FAINT: &str = "(() => {
    const rgba = (colour) => {
        const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
        return colour.startsWith('color(srgb') ? [255 * r, 255 * g, 255 * b, a] : [r, g, b, a];
    };
    const over = ([r, g, b, a], [x, y, z]) => [a * r + (1 - a) * x, a * g + (1 - a) * y, a * b + (1 - a) * z, 1];
    const ground = (node) => {
        if (node === null) return [255, 255, 255, 1];
        const own = rgba(getComputedStyle(node).backgroundColor);
        return own[3] === 1 ? own : over(own, ground(node.parentElement));
    };
    const light = (colour) => {
        const [r, g, b] = colour.slice(0, 3).map((c) => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const ratio = (a, b) => (Math.max(light(a), light(b)) + .05) / (Math.min(light(a), light(b)) + .05);
    let looked = 0;
    const faint = [];
    const look = (node, style, text) => {
        if (!node.checkVisibility() || node.closest(':disabled, [aria-disabled=true], .unseen, datalist')) return;
        looked += 1;
        const behind = ground(node);
        const size = parseFloat(style.fontSize);
        const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
        const found = ratio(over(rgba(style.color), behind), behind);
        if (found < (isLarge ? 3 : 4.5)) faint.push(`${found.toFixed(2)} ${node.tagName}.${node.className}: ${text}`);
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const { parentElement, data } = texts.currentNode;
        if (data.trim()) look(parentElement, getComputedStyle(parentElement), data);
    }
    for (const field of document.querySelectorAll('input, textarea')) {
        look(field, getComputedStyle(field), 'what is typed');
        look(field, getComputedStyle(field, '::placeholder'), 'placeholder');
    }
    return { faint, looked };
})()";

#[tokio::test]
async fn all_text_has_the_contrast_of_aa_in_light_and_dark() {
    let hub = TestHub::start().await;
    let browser = console(&hub, "live").await;
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        let ground = browser
            .value("getComputedStyle(document.body).backgroundColor")
            .await;
        for view in [
            "live",
            "history",
            "send",
            "topics",
            "subscribe",
            "hub",
            "live?after=999999",
            "live?topic=none&type=a%20b",
            "history?id=999999",
        ] {
            browser.go("about:blank").await;
            browser.go(&hub.url(&format!("/#/{view}"))).await;
            let shown = view.split('?').next().unwrap();
            browser
                .expect(&format!("document.querySelector('#{shown}').hidden"), false)
                .await;
            match view {
                "live" | "history" if scheme == "dark" => {
                    browser.click(&format!("#{view}-rows summary")).await;
                    browser
                        .expect_text(&format!("#{view}-rows .opened"), "Copy data")
                        .await;
                }
                "send" => {
                    browser.click("#publish").await;
                    browser.expect_text("#answer-back", "was back").await;
                    browser.fill("#send-data", "{").await;
                    browser.expect_text("#send-check", "Not JSON").await;
                }
                "hub" => browser.expect_text("#hub-cards", "Full at this rate").await,
                "live?after=999999" => browser.expect_text("#gap", "Gap").await,
                "history?id=999999" => browser.expect_text("#history-problem", "no event").await,
                _ => (),
            }
            let found = browser.value(FAINT).await;
            assert_eq!(found["faint"], json!([]), "{view}, {scheme} on {ground}");
            assert!(found["looked"].as_u64().unwrap() > 20, "{view}: {found}");
        }
        let event =
            r#"{"topic": "orders", "type": "paid", "data": {"a": [1, null, "text"]}, "key": "k"}"#;
        answer(hub.post_json("/events", event)).await;
    }
}

/// Largest picture that belongs into a repository.
const SCREENSHOT_MAX_BYTES: usize = 200_000;

/// The pictures of the README. `SEGNO_SCREENSHOTS=src/console/screenshots` takes them anew.
#[tokio::test]
async fn the_pictures_of_the_readme_can_be_taken() {
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("events.ndjson");
    std::fs::write(&events, some_minutes_of_a_shop()).unwrap();
    let import = format!(
        "{} import {} --db {}",
        env!("CARGO_BIN_EXE_segno"),
        events.display(),
        folder.path().join("segno.db").display()
    );
    shell(import).await;
    let program = Program::start(folder.path()).await;
    let browser = console(&program.as_hub(), "live?after=0").await;
    browser.fit(1200, 760).await;
    browser.click("#live-rows > li:nth-child(3) summary").await;
    browser.expect_text("#live-rows .opened", "Copy data").await;
    browser
        .expect(
            "document.querySelector('#rate-path').getAttribute('d').length > 1000",
            true,
        )
        .await;
    browser.value("document.activeElement.blur()").await;
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        let picture = browser.screenshot().await;
        assert!(
            picture.len() < SCREENSHOT_MAX_BYTES,
            "{} bytes",
            picture.len()
        );
        if let Some(folder) = std::env::var_os("SEGNO_SCREENSHOTS") {
            let path = Path::new(&folder).join(format!("live-{scheme}.png"));
            std::fs::write(path, picture).unwrap();
        }
    }
}

/// Events as `segno export` writes them, the newest a moment ago.
fn some_minutes_of_a_shop() -> String {
    let now = chrono::Utc::now();
    let mut lines = String::new();
    let mut ago_ms: i64 = 300_000;
    for id in 1..=900_i64 {
        // A wave, so that the graph has a shape.
        ago_ms -= 140 + id * 7 % 200 + (id % 180 - 90).abs() * 2;
        let (topic, event_type, data) = match id % 5 {
            0 => (
                "orders.eu",
                "created",
                json!({"order": 1000 + id, "items": [{"sku": "A-17", "count": 2}, {"sku": "C-4", "count": 1}], "total": 59.9}),
            ),
            1 => (
                "sensors/kitchen",
                "message",
                json!({"celsius": 21.4, "open": false}),
            ),
            2 => (
                "orders.eu",
                "paid",
                json!({"order": 999 + id, "by": "card"}),
            ),
            3 => (
                "mail",
                "sent",
                json!({"to": "ada@example.com", "subject": "Your order"}),
            ),
            _ => (
                "orders.us",
                "shipped",
                json!({"order": 900 + id, "parcel": null}),
            ),
        };
        let created_at = (now - chrono::TimeDelta::milliseconds(ago_ms.max(1000)))
            .to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let event = json!({"id": id, "topic": topic, "type": event_type, "data": data, "created_at": created_at});
        lines += &format!("{event}\n");
    }
    lines
}

#[tokio::test]
async fn the_figures_are_true_and_survive_a_restart() {
    let hub = TestHub::start().await;
    let stats = hub.get_json("/stats").await;
    for (field, value) in [
        ("events", 0),
        ("subscribers", 0),
        ("first_id", 1),
        ("last_id", 0),
    ] {
        assert_eq!(stats[field], value, "{stats}");
    }
    hub.publish_many(2500, |_| "orders".into()).await;
    let streams = [
        hub.follow("").await,
        hub.follow("?topic=a").await,
        hub.follow("").await,
    ];
    let stats = hub.get_json("/stats").await;
    for (field, value) in [
        ("events", 2500),
        ("subscribers", 3),
        ("first_id", 1),
        ("last_id", 2500),
    ] {
        assert_eq!(stats[field], value, "{stats}");
    }
    assert!(
        stats["file_bytes"].as_u64().unwrap() + stats["wal_bytes"].as_u64().unwrap() > 100_000,
        "{stats}"
    );
    drop(streams);
    within("the subscribers to be gone", async {
        while hub.get_json("/stats").await["subscribers"] != 0 {}
    })
    .await;
    let hub = TestHub::start_in(hub.stop().await, |_| ()).await;
    assert_eq!(hub.get_json("/stats").await["events"], 2500);
    // A key that was there before is not one event more.
    for _ in 0..2 {
        answer(hub.post_json("/events", r#"{"data": 1, "key": "k"}"#)).await;
    }
    assert_eq!(hub.get_json("/stats").await["events"], 2501);
}

#[tokio::test]
async fn the_parts_of_the_page_are_guarded_and_asked_for_again() {
    let hub = TestHub::start().await;
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/console/app.js", "text/javascript; charset=utf-8"),
        ("/console/style.css", "text/css; charset=utf-8"),
        ("/favicon.ico", "image/svg+xml"),
    ] {
        let part = answer(hub.get(path)).await;
        assert_eq!(part.status, StatusCode::OK, "{path}");
        assert_eq!(part.header("content-type"), content_type);
        assert_eq!(part.header("cache-control"), "no-cache");
        let policy = part.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';")
                && !policy.contains("unsafe"),
            "{policy}"
        );
        let again = answer(hub.get(path).header("if-none-match", part.header("etag"))).await;
        assert_eq!(
            (again.status, again.body.as_str()),
            (StatusCode::NOT_MODIFIED, "")
        );
    }
    let refused = answer(hub.post("/")).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
    );
}
