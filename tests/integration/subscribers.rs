//! How many subscribers each topic has, as `GET /topics` tells it.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{
    access::{follow_as, hub_with, token_entry},
    test_hub::{DEADLINE, TestHub, TestStream, answer, within},
};

fn counts(topics: &Value) -> Value {
    let topics = topics["topics"].as_array().unwrap();
    let pair = |topic: &Value| json!([topic["topic"], topic["subscribers"]]);
    topics.iter().map(pair).collect()
}

async fn expect(hub: &TestHub, expected: Value) {
    let mut found = Value::Null;
    let waiting = async {
        while found != expected {
            found = counts(&hub.get_json("/topics").await);
        }
    };
    if tokio::time::timeout(DEADLINE, waiting).await.is_err() {
        panic!("waited for {expected}, found {found}");
    }
}

/// More than one audience is needed for them, and one of them does not read.
#[tokio::test]
async fn a_topic_tells_how_many_follow_it_however_they_do() {
    let hub = TestHub::start().await;
    hub.publish("a", ["1"]).await;
    hub.publish("b/c", ["2"]).await;
    expect(&hub, json!([["a", 0], ["b/c", 0]])).await;
    let mut audience = join_all((0..100).map(|_| hub.follow("?topic=a"))).await;
    let typed = hub.follow("?topic=a&type=never").await;
    let both = hub.follow("?topic=a&topic=b/c&topic=nobody").await;
    let pattern = hub.follow("?topic=b/*").await;
    let all = hub.follow("").await;
    let client = reqwest::Client::builder().http2_prior_knowledge();
    let client = client.build().unwrap();
    let streams = (0..3).map(|_| TestStream::open(client.get(hub.url("/sse?topic=b/c"))));
    let multiplexed = join_all(streams).await;
    let poll = hub.get("/events?topic=a&after=2&wait=60s");
    let poll = tokio::spawn(async move { poll.send().await.unwrap() });
    expect(&hub, json!([["a", 104], ["b/c", 6]])).await;

    // They share subscriptions from here on, but for those who are slow.
    let big = "x".repeat(1_000_000);
    for _ in 0..12 {
        hub.publish("a", [&big]).await;
    }
    for stream in audience.iter_mut().skip(1) {
        assert_eq!(stream.next_ids(12).await.last(), Some(&14));
    }
    poll.await.unwrap();
    expect(&hub, json!([["a", 103], ["b/c", 6]])).await;
    hub.publish("a", ["3"]).await;
    for stream in audience.iter_mut().skip(1) {
        assert_eq!(stream.next().await.data, "3");
    }
    drop(audience.split_off(30));
    expect(&hub, json!([["a", 33], ["b/c", 6]])).await;
    drop((typed, both));
    expect(&hub, json!([["a", 31], ["b/c", 5]])).await;
    drop((pattern, multiplexed));
    expect(&hub, json!([["a", 31], ["b/c", 1]])).await;

    // Who comes back after a restart counts again, and nobody twice.
    hub.begin_to_stop();
    for stream in audience.iter_mut().skip(1) {
        stream.read_to_end().await.unwrap();
    }
    drop((audience, all));
    let hub = TestHub::start_in(hub.stop().await, |_| ()).await;
    expect(&hub, json!([["a", 0], ["b/c", 0]])).await;
    let _back = join_all((0..100).map(|_| hub.resume("?topic=a", 15))).await;
    expect(&hub, json!([["a", 100], ["b/c", 0]])).await;
}

/// Nobody counts where it may not read, and nobody hears of a topic that it may not read.
#[tokio::test]
async fn rights_say_who_is_counted_and_who_is_told() {
    let hub = hub_with(
        &[
            token_entry("segno_all", "publish = [\"**\"]\nfollow = [\"**\"]"),
            token_entry("segno_a", "follow = [\"a.*\"]"),
        ]
        .concat(),
    )
    .await;
    for topic in ["a.1", "a.2", "b"] {
        let publish = hub.post(&format!("/topics/{topic}")).body("x");
        answer(publish.bearer_auth("segno_all")).await;
    }
    let _streams = [
        follow_as(&hub, "segno_all", "").await,
        follow_as(&hub, "segno_all", "?topic=b").await,
        follow_as(&hub, "segno_a", "").await,
        follow_as(&hub, "segno_a", "?topic=a.1").await,
        follow_as(&hub, "segno_a", "?topic=**").await,
    ];
    let told = async |token: &str| {
        let topics = answer(hub.get("/topics").bearer_auth(token)).await;
        counts(&topics.json())
    };
    let all = json!([["a.1", 4], ["a.2", 3], ["b", 2]]);
    assert_eq!(told("segno_all").await, all);
    assert_eq!(told("segno_a").await, json!([["a.1", 4], ["a.2", 3]]));
}

/// `subscribers_at_least` is there only where it is true.
#[tokio::test]
async fn where_filters_are_too_costly_to_look_at_all_the_count_says_so() {
    let hub = TestHub::start().await;
    hub.publish_many(1000, |n| format!("t{n}")).await;
    let _plain = hub.follow("?topic=t1").await;
    let exact = hub.get_json("/topics?limit=2").await;
    assert_eq!(exact["topics"][0]["subscribers"], 1);
    assert_eq!(exact["topics"][0].get("subscribers_at_least"), None);
    let costly = |n: usize| {
        let patterns = (0..100).map(|m| format!("topic=**t*{n}*{m}*x*y**"));
        let query = patterns.collect::<Vec<_>>().join("&");
        let hub = &hub;
        async move { hub.follow(&format!("?{query}")).await }
    };
    let _costly = join_all((0..20).map(costly)).await;
    let topics = within("the topics", hub.get_json("/topics")).await;
    let first = &topics["topics"][0];
    assert_eq!(first["topic"], "t1");
    assert_eq!(first["subscribers"], 1);
    assert_eq!(first["subscribers_at_least"], true);
    // Fewer topics, less work.
    let exact = hub.get_json("/topics?limit=2").await;
    assert_eq!(exact["topics"][0].get("subscribers_at_least"), None);
}
