//! `GET /events`, `GET /events/{id}`, `GET /topics`.

use proptest::{prelude::*, sample::select};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::test_hub::{TestHub, answer};

fn ids(page: &Value) -> Vec<u64> {
    page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["id"].as_u64().unwrap())
        .collect()
}

/// Follows `next` to its end.
async fn all_pages(hub: &TestHub, path: &str) -> Vec<u64> {
    let mut all = Vec::new();
    let mut next = Some(path.to_owned());
    while let Some(path) = next {
        let page = answer(hub.get(&path)).await;
        assert_eq!(page.status, StatusCode::OK, "{page:?}");
        let json = page.json();
        all.extend(ids(&json));
        next = json["next"].as_str().map(str::to_owned);
        let link = page
            .headers
            .get("link")
            .map(|link| link.to_str().unwrap().to_owned());
        assert_eq!(
            link,
            next.as_ref().map(|next| format!("<{next}>; rel=\"next\""))
        );
    }
    all
}

#[tokio::test]
async fn an_empty_hub_has_an_empty_history() {
    let hub = TestHub::start().await;
    assert_eq!(
        hub.get_json("/events").await,
        json!({"events": [], "first_id": 1, "last_id": 0, "next": null, "cursor": 0})
    );
    assert_eq!(
        hub.get_json("/topics").await,
        json!({"topics": [], "next": null})
    );
    assert_eq!(
        answer(hub.get("/events").header("accept", "application/x-ndjson"))
            .await
            .body,
        ""
    );
}

#[tokio::test]
async fn ranges_orders_and_filters_choose_the_events() {
    let hub = TestHub::start().await;
    for (topic, event_type) in [
        ("a", "x"),
        ("b.1", "x"),
        ("b.2", "y"),
        ("a", "y"),
        ("c", "x"),
    ] {
        answer(
            hub.post(&format!("/topics/{topic}?type={event_type}"))
                .body("1"),
        )
        .await;
    }
    for (query, expected) in [
        ("", &[1, 2, 3, 4, 5][..]),
        ("?order=desc", &[5, 4, 3, 2, 1]),
        ("?after=2", &[3, 4, 5]),
        ("?before=3", &[1, 2]),
        ("?after=1&before=4&order=desc", &[3, 2]),
        ("?topic=a", &[1, 4]),
        ("?topic=a&topic=b.*", &[1, 2, 3, 4]),
        ("?topic=c&topic=a&order=desc", &[5, 4, 1]),
        ("?type=y", &[3, 4]),
        ("?topic=a&type=y", &[4]),
        ("?since=1h&until=1s", &[]),
        ("?since=1h", &[1, 2, 3, 4, 5]),
        ("?since=start&after=3", &[4, 5]),
        ("?until=2000-01-01T00:00:00Z", &[]),
        ("?until=2100-01-01T00:00:00%2B01:00", &[1, 2, 3, 4, 5]),
        ("?after=5", &[]),
        // Told as a gap: what is kept is given from its beginning.
        ("?after=99", &[1, 2, 3, 4, 5]),
        ("?limit=2", &[1, 2]),
    ] {
        assert_eq!(
            ids(&hub.get_json(&format!("/events{query}")).await),
            expected,
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_page_of_history_links_to_the_next() {
    let hub = TestHub::start().await;
    hub.publish_many(25, |_| "a/b".into()).await;
    assert_eq!(
        all_pages(&hub, "/events?limit=10&topic=a%2Fb").await,
        (1..=25).collect::<Vec<_>>()
    );
    assert_eq!(
        all_pages(&hub, "/events?limit=7&order=desc&before=20").await,
        (1..20).rev().collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn ndjson_gives_any_range_as_a_stream() {
    let hub = TestHub::start().await;
    hub.publish_many(3000, |n| format!("t{}", n % 3)).await;
    let lines = |path: &'static str| {
        let request = hub.get(path).header("accept", "application/x-ndjson");
        async move {
            let answer = answer(request).await;
            assert_eq!(answer.header("content-type"), "application/x-ndjson");
            answer
                .body
                .lines()
                .map(|line| {
                    serde_json::from_str::<Value>(line).unwrap()["id"]
                        .as_u64()
                        .unwrap()
                })
                .collect::<Vec<_>>()
        }
    };
    assert_eq!(lines("/events").await, (1..=3000).collect::<Vec<_>>());
    assert_eq!(
        lines("/events?order=desc&after=10").await,
        (11..=3000).rev().collect::<Vec<_>>()
    );
    assert_eq!(
        lines("/events?topic=t1&limit=600").await,
        (0..600).map(|n| 3 * n + 1).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn one_event_can_be_read_or_is_not_there() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a"]).await;
    let event = hub.get_json("/events/1").await;
    assert_eq!((&event["id"], &event["data"]), (&json!(1), &json!("a")));
    let missing = answer(hub.get("/events/2")).await;
    assert_eq!(
        (missing.status, missing.code()),
        (StatusCode::NOT_FOUND, "unknown_event".to_owned())
    );
}

#[tokio::test]
async fn topics_tell_what_there_is_of_each() {
    let hub = TestHub::start().await;
    hub.publish("b", ["1"]).await;
    hub.publish("a", ["2", "3"]).await;
    let last = hub.get_json("/events/3").await["created_at"].clone();
    let topics = hub.get_json("/topics").await;
    assert_eq!(
        topics["topics"][0],
        json!({"topic": "a", "events": 2, "first_id": 2, "last_id": 3, "last_created_at": last, "subscribers": 0})
    );
    assert_eq!(
        (&topics["topics"][1]["topic"], &topics["next"]),
        (&json!("b"), &Value::Null)
    );
    let first = hub.get_json("/topics?limit=1").await;
    assert_eq!(
        (&first["topics"][0]["topic"], &first["next"]),
        (&json!("a"), &json!("a"))
    );
    assert_eq!(
        hub.get_json("/topics?after=a").await["topics"][0]["topic"],
        "b"
    );
}

/// An answer with large events ends early and says where to go on.
#[tokio::test]
async fn a_page_is_bounded_in_bytes() {
    let hub = TestHub::start().await;
    let big = "x".repeat(1_000_000);
    for _ in 0..12 {
        hub.publish("t", [&big]).await;
    }
    let page = answer(hub.get("/events?limit=1000")).await;
    assert_eq!(ids(&page.json()).len(), 9, "8 MiB, and what is begun");
    assert_eq!(
        all_pages(&hub, "/events?limit=1000").await,
        (1..=12).collect::<Vec<_>>()
    );
}

#[test]
fn pages_put_together_are_the_whole() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let hub = runtime.block_on(TestHub::start());
    const TOPICS: [&str; 4] = ["a", "b.1", "b.2", "c/d"];
    runtime.block_on(hub.publish_many(700, |n| TOPICS[usize::try_from(n * n % 4).unwrap()].into()));
    let whole = runtime.block_on(all_pages(&hub, "/events?limit=1000"));
    let topic_of = |id: &u64| TOPICS[usize::try_from(id * id % 4).unwrap()];
    let filters = [
        ("", &TOPICS[..]),
        ("&topic=a", &["a"]),
        ("&topic=b.*", &["b.1", "b.2"]),
        ("&topic=c/d&topic=a", &["c/d", "a"]),
    ];
    proptest!(ProptestConfig::with_cases(40), |(limit in 1..300_u64, after in 0..700_u64, span in 0..800_u64, descending: bool, filter in select(filters.to_vec()))| {
        let (query, wanted) = filter;
        let (before, order) = (after + span, if descending { "desc" } else { "asc" });
        let path = format!("/events?limit={limit}&after={after}&before={before}&order={order}{query}");
        let mut expected: Vec<u64> =
            whole.iter().copied().filter(|id| (after + 1..before).contains(id) && wanted.contains(&topic_of(id))).collect();
        if descending {
            expected.reverse();
        }
        prop_assert_eq!(runtime.block_on(all_pages(&hub, &path)), expected, "{}", path);
    });
}

/// A long page is read piece by piece, and is the same JSON that short ones make.
#[tokio::test]
async fn a_page_in_pieces_is_what_its_parts_are() {
    let hub = TestHub::start().await;
    let data = |n: u64| match n % 50 {
        0 => "x".repeat(300_000),
        _ => "y".repeat(usize::try_from(n * 37 % 5000).unwrap()),
    };
    let lines: String = (1..=400)
        .map(|n| {
            format!(
                "{{\"topic\":\"t.{}\",\"key\":\"k{n}\",\"data\":\"{}\"}}\n",
                n % 3,
                data(n)
            )
        })
        .collect();
    let batch = hub.post("/events").body(lines);
    let batch = batch.header("content-type", "application/x-ndjson");
    assert_eq!(answer(batch).await.status, StatusCode::CREATED);
    for query in [
        "",
        "&order=desc",
        "&topic=t.1",
        "&topic=t.1&topic=t.2&order=desc",
        "&topic=t.*&after=20&before=390",
        "&type=message&order=desc&limit=220",
        "&topic=**.0&type=none",
    ] {
        let long = match query.contains("limit") {
            true => format!("/events?{query}"),
            false => format!("/events?limit=1000{query}"),
        };
        let page = hub.get_json(&long).await;
        let events = page["events"].as_array().unwrap();
        let mut parts = Vec::new();
        let mut next = Some(format!("/events?{query}&limit=7"));
        while let Some(path) = next
            && parts.len() < events.len()
        {
            let part = hub.get_json(&path).await;
            parts.extend(part["events"].as_array().unwrap().iter().cloned());
            next = part["next"].as_str().map(str::to_owned);
        }
        parts.truncate(events.len());
        assert_eq!(&parts, events, "{query}");
        assert_eq!(page["next"].is_null(), !query.contains("limit"), "{query}");
    }
}

async fn ids_page_by_page(hub: &TestHub, query: &str, limit: u64) -> Vec<u64> {
    let mut ids = Vec::new();
    let mut next = format!("/events?{query}&limit={limit}");
    loop {
        let page = hub.get_json(&next).await;
        let events = page["events"].as_array().unwrap();
        ids.extend(events.iter().map(|event| event["id"].as_u64().unwrap()));
        match page["next"].as_str() {
            Some(path) => next = path.to_owned(),
            None => return ids,
        }
    }
}

/// Farther apart than one read looks: they are found by the names of the topics.
#[tokio::test]
async fn a_pattern_finds_the_few_that_match_among_many() {
    let hub = TestHub::start().await;
    hub.publish_many(30_000, |n| match n {
        7 => "rare.a".into(),
        15_000 => "rare.".into(),
        15_001 => "rare.deep.er".into(),
        29_999 => "rare.b".into(),
        n if n % 10_000 == 0 => format!("many.{n}"),
        n => format!("noise.{}", n % 100),
    })
    .await;
    for limit in [1, 2, 1000] {
        let ids = ids_page_by_page(&hub, "topic=rare.*", limit).await;
        assert_eq!(ids, [7, 15_000, 29_999]);
        let ids = ids_page_by_page(&hub, "topic=rare.*&order=desc", limit).await;
        assert_eq!(ids, [29_999, 15_000, 7]);
        // No beginning that all have, and more names than are few: the rows are looked at.
        let ids = ids_page_by_page(&hub, "topic=**0000&topic=rare.b", limit).await;
        assert_eq!(ids, [10_000, 20_000, 29_999, 30_000]);
        let ids = ids_page_by_page(&hub, "topic=rare.**&type=message&after=7", limit).await;
        assert_eq!(ids, [15_000, 15_001, 29_999]);
        assert_eq!(
            ids_page_by_page(&hub, "topic=rare.*&type=none", limit).await,
            [0; 0]
        );
        assert_eq!(
            ids_page_by_page(&hub, "topic=nothing.*", limit).await,
            [0; 0]
        );
    }
    // A topic that is new between two pages.
    let first = hub.get_json("/events?topic=rare.*&limit=2").await;
    hub.publish_many(5000, |n| format!("noise.{}", n % 100))
        .await;
    hub.publish("rare.new", ["x"]).await;
    let next = first["next"]
        .as_str()
        .unwrap()
        .strip_prefix("/events?")
        .unwrap();
    assert_eq!(ids_page_by_page(&hub, next, 2).await, [29_999, 35_001]);
}

/// More topics match than are few, and none of their events is near.
#[tokio::test]
async fn a_pattern_of_many_topics_finds_them_far_away_too() {
    let hub = TestHub::start().await;
    hub.publish_many(10_200, |n| match n {
        ..=10_000 => "noise".into(),
        n => format!("many.{n}"),
    })
    .await;
    let ids = ids_page_by_page(&hub, "topic=many.*", 1000).await;
    assert_eq!(ids, Vec::from_iter(10_001..=10_200));
}

/// New topics that match come up all the time while subscribers look for the few there are.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_by_pattern_misses_no_topic_that_is_new_meanwhile() {
    const RARE: u64 = 40;
    let hub = std::sync::Arc::new(TestHub::start().await);
    hub.publish_many(20_000, |_| "noise".into()).await;
    let subscribers: Vec<_> = (0..10)
        .map(|n| {
            let hub = hub.clone();
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis(n * 150)).await;
                let mut stream = hub.resume("?topic=rare.*&format=event", 0).await;
                let mut topics = Vec::new();
                for _ in 0..RARE {
                    let event: serde_json::Value =
                        serde_json::from_str(&stream.next().await.data).unwrap();
                    topics.push(event["topic"].as_str().unwrap().to_owned());
                }
                topics
            })
        })
        .collect();
    let expected: Vec<String> = (0..RARE).map(|n| format!("rare.{n}")).collect();
    for topic in &expected {
        hub.publish(topic, ["x"]).await;
        hub.publish_many(5000, |_| "noise".into()).await;
    }
    for subscriber in subscribers {
        assert_eq!(subscriber.await.unwrap(), expected);
    }
}
