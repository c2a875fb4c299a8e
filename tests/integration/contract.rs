//! The contract of the hub, whoever puts its events in order: what publishers and subscribers may rely on, asked of [`Hub`] itself
//! and not over HTTP.
//!
//! Every promise of `segno::hub` that another engine would have to keep has its test here, and no test here looks behind the
//! handle: the suite is run once for each engine. What holds for one file alone (its size, its WAL, its place) is tested elsewhere.

use std::{path::Path, sync::Arc, time::Duration};

use segno::{
    db::{self, Order, Stored, Trim},
    event::{Data, Event, EventId, EventType, Key, NewEvent, Topic},
    filter::{Filter, Pattern},
    hub::{
        Batch, Delivery, GapReason, Hub, Origin, PublishError, QueueLimits, Settings, Start,
        SubscribeError, Subscription, WorkError, Writer,
    },
    metrics::Metrics,
    peer_address::PeerAddress,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::test_hub::{only_local, within};
#[cfg(feature = "cluster")]
use super::{engine, test_hub::is_jetstream};

/// A hub and its writer, in a folder of their own.
struct Engine {
    hub: Hub,
    writer: JoinHandle<Writer>,
    folder: TempDir,
}

impl Engine {
    async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    async fn start_with(settings: Settings) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), settings).await
    }

    async fn start_in(folder: TempDir, settings: Settings) -> Self {
        let path = folder.path().join("segno.db");
        let (hub, writer) = open(&path, settings).await;
        let writer = tokio::spawn(writer.run());
        within("the hub to be ready", async {
            while hub.ready().await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        Self {
            hub,
            writer,
            folder,
        }
    }

    /// Stops it in an orderly way.
    async fn stop(self) -> TempDir {
        self.hub.drain();
        let writer = within("the writer to end", self.writer).await.unwrap();
        writer.close().await.unwrap();
        self.folder
    }

    async fn restart(self) -> Self {
        Self::start_in(self.stop().await, Settings::default()).await
    }

    async fn publish(&self, topic: &str, data: &[&str]) -> Vec<i64> {
        let events = data.iter().map(|data| new(topic, data)).collect();
        ids(&self.hub.publish(events, Origin::default()).await.unwrap())
    }

    async fn publish_keyed(&self, key: &str, data: &str) -> Result<Vec<Stored>, PublishError> {
        let event = NewEvent {
            key: Some(Key::new(key).unwrap()),
            ..new("keyed", data)
        };
        self.hub.publish(vec![event], Origin::default()).await
    }

    async fn follow(&self, topics: &[&str], start: Start) -> Subscription {
        let subscribed = self.hub.subscribe(filter(topics), start, nowhere()).await;
        subscribed.unwrap()
    }
}

async fn open(path: &Path, settings: Settings) -> (Hub, Writer) {
    #[cfg(feature = "cluster")]
    if is_jetstream() {
        let cluster = engine::cluster_of(path);
        let opened = Hub::open_in_cluster(path, settings, &cluster, Metrics::default()).await;
        return opened.unwrap();
    }
    let opened = Hub::open(path, settings, Metrics::default()).await;
    opened.unwrap()
}

fn new(topic: &str, data: &str) -> NewEvent {
    NewEvent {
        topic: Topic::new(topic).unwrap(),
        event_type: EventType::default(),
        data: Data::from_text(data).unwrap(),
        key: None,
    }
}

fn filter(topics: &[&str]) -> Arc<Filter> {
    let patterns = topics.iter().map(|topic| Pattern::new(topic).unwrap());
    Filter::new(patterns.collect(), vec![]).unwrap().into()
}

fn nowhere() -> PeerAddress {
    PeerAddress::Unix
}

fn after(id: i64) -> Start {
    Start::After(EventId::from_row(id))
}

fn ids(stored: &[Stored]) -> Vec<i64> {
    stored
        .iter()
        .map(|stored| stored.event.id.as_i64())
        .collect()
}

async fn next(subscription: &mut Subscription) -> Option<Delivery> {
    let next = within("what comes next", subscription.next()).await;
    next.unwrap()
}

async fn next_batch(subscription: &mut Subscription) -> Arc<Batch> {
    match next(subscription).await {
        Some(Delivery::Events(batch)) => batch,
        other => panic!("{other:?} instead of events"),
    }
}

/// The next `count` events.
async fn next_events(subscription: &mut Subscription, count: usize) -> Vec<Arc<Event>> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(next_batch(subscription).await.events().to_vec());
    }
    events
}

async fn next_ids(subscription: &mut Subscription, count: usize) -> Vec<i64> {
    let events = next_events(subscription, count).await;
    events.iter().map(|event| event.id.as_i64()).collect()
}

async fn next_gap(subscription: &mut Subscription) -> (GapReason, i64, i64) {
    match next(subscription).await {
        Some(Delivery::Gap(gap)) => {
            let requested = gap.requested.expect("it asked for an id");
            (gap.reason, requested.as_i64(), gap.cursor.as_i64())
        }
        other => panic!("{other:?} instead of a gap"),
    }
}

fn trim(topic: Option<&str>, through: i64) -> Trim {
    Trim {
        erases: false,
        topic: topic.map(|topic| Topic::new(topic).unwrap()),
        through: EventId::from_row(through),
    }
}

#[tokio::test]
async fn what_is_published_has_growing_ids_and_is_followed_in_their_order() {
    let engine = Engine::start().await;
    let mut live = engine.follow(&[], Start::Live).await;
    assert_eq!(engine.publish("a", &["1"]).await, [1]);
    assert_eq!(engine.publish("b", &["2", "3"]).await, [2, 3]);
    let events = next_events(&mut live, 3).await;
    let seen: Vec<_> = events
        .iter()
        .map(|event| (event.id.as_i64(), event.topic.as_str(), event.data.as_str()))
        .collect();
    assert_eq!(
        seen,
        [(1, "a", "\"1\""), (2, "b", "\"2\""), (3, "b", "\"3\"")]
    );
    assert!(events.is_sorted_by(|a, b| a.created_at <= b.created_at));
    let bounds = engine.hub.bounds();
    assert_eq!((bounds.first_id.as_i64(), bounds.last_id.as_i64()), (1, 3));
}

#[tokio::test]
async fn many_publishers_at_once_are_seen_by_all_in_one_order() {
    let engine = Engine::start().await;
    let mut live = engine.follow(&[], Start::Live).await;
    let mut publishers = Vec::new();
    for publisher in 0..16 {
        let hub = engine.hub.clone();
        publishers.push(tokio::spawn(async move {
            for n in 0..50 {
                let events = vec![new("t", &format!("{publisher}.{n}")), new("t", "twin")];
                let stored = hub.publish(events, Origin::default()).await.unwrap();
                let ids = ids(&stored);
                assert_eq!(ids[0] + 1, ids[1], "a batch is not broken up");
            }
        }));
    }
    let followed = next_ids(&mut live, 1600).await;
    for publisher in publishers {
        publisher.await.unwrap();
    }
    assert_eq!(followed, (1..=1600).collect::<Vec<_>>());
    let mut replayed = engine.follow(&[], Start::First).await;
    assert_eq!(next_ids(&mut replayed, 1600).await, followed);
}

#[tokio::test]
async fn a_replay_goes_over_into_live_with_no_seam() {
    let engine = Engine::start().await;
    let hub = engine.hub.clone();
    let publishing = tokio::spawn(async move {
        for n in 0..3000 {
            let topic = ["a", "b"][n % 2];
            let published = hub.publish(vec![new(topic, "x")], Origin::default());
            published.await.unwrap();
        }
    });
    while engine.hub.bounds().last_id.as_i64() < 500 {
        tokio::task::yield_now().await;
    }
    let mut replayed = engine.follow(&["b"], Start::First).await;
    let ids = next_ids(&mut replayed, 1500).await;
    assert_eq!(ids, (1..=1500).map(|n| 2 * n).collect::<Vec<_>>());
    publishing.await.unwrap();
}

#[tokio::test]
async fn a_start_is_where_it_says() {
    let engine = Engine::start().await;
    engine.publish("a", &["1", "2"]).await;
    engine.publish("b", &["3"]).await;
    engine.publish("a", &["4"]).await;
    let time = engine.hub.log().event(EventId::from_row(1)).await.unwrap();
    for (start, expected) in [
        (Start::First, vec![1, 2, 4]),
        (after(1), vec![2, 4]),
        (Start::Last(2), vec![2, 4]),
        (Start::Since(time.unwrap().created_at), vec![1, 2, 4]),
    ] {
        let mut subscription = engine.follow(&["a"], start).await;
        assert_eq!(
            next_ids(&mut subscription, expected.len()).await,
            expected,
            "{start:?}"
        );
    }
    let mut live = engine.follow(&["a"], Start::Live).await;
    engine.publish("a", &["5"]).await;
    assert_eq!(next_ids(&mut live, 1).await, [5]);
}

#[tokio::test]
async fn a_subscription_that_lags_gets_everything_and_its_cursor_passes_what_it_does_not_want() {
    let engine = Engine::start().await;
    let mut lagging = engine.follow(&["a"], Start::Live).await;
    let mut idle = engine.follow(&["c"], Start::Live).await;
    for n in 0..200 {
        engine.publish(["a", "b"][n % 2], &["x"]).await;
    }
    let ids = next_ids(&mut lagging, 100).await;
    assert_eq!(ids, (0..100).map(|n| 2 * n + 1).collect::<Vec<_>>());
    idle.settle();
    assert_eq!(idle.cursor().as_i64(), 200);
}

#[tokio::test]
async fn a_key_is_one_event_and_a_batch_is_stored_whole_or_not_at_all() {
    let engine = Engine::start().await;
    let first = engine.publish_keyed("k", "x").await.unwrap();
    assert!(!first[0].duplicate);
    let again = engine.publish_keyed("k", "x").await.unwrap();
    assert!(again[0].duplicate);
    assert_eq!(ids(&again), ids(&first));
    let conflict = engine.publish_keyed("k", "other").await.unwrap_err();
    assert!(
        matches!(conflict, PublishError::KeyConflict(conflict) if conflict.id == first[0].event.id)
    );
    let keyed = NewEvent {
        key: Some(Key::new("k").unwrap()),
        ..new("keyed", "other")
    };
    let batch = vec![new("keyed", "before"), keyed];
    assert!(engine.hub.publish(batch, Origin::default()).await.is_err());
    assert_eq!(engine.publish("keyed", &["next"]).await, [2]);
    let engine = engine.restart().await;
    assert!(engine.publish_keyed("k", "x").await.unwrap()[0].duplicate);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart_and_ids_go_on() {
    let engine = Engine::start().await;
    engine.publish("a", &["1", "2"]).await;
    let log_id = engine.hub.log().id().to_owned();
    let engine = engine.restart().await;
    assert_eq!(engine.hub.log().id(), log_id);
    assert_eq!(engine.publish("a", &["3"]).await, [3]);
    let mut replayed = engine.follow(&[], after(1)).await;
    assert_eq!(next_ids(&mut replayed, 2).await, [2, 3]);
}

#[tokio::test]
async fn a_drain_stores_what_was_taken_hands_it_out_and_refuses_the_rest() {
    let engine = Engine::start().await;
    let mut live = engine.follow(&[], Start::Live).await;
    let mut far_behind = engine.follow(&[], after(0)).await;
    engine.publish("a", &["1"]).await;
    let hub = engine.hub.clone();
    engine.hub.drain();
    let writer = within("the writer", engine.writer).await.unwrap();
    assert_eq!(next_ids(&mut live, 1).await, [1]);
    assert!(next(&mut live).await.is_none());
    while next(&mut far_behind).await.is_some() {}
    let refused = hub.publish(vec![new("a", "2")], Origin::default()).await;
    assert!(matches!(refused, Err(PublishError::Draining)));
    let refused = hub.subscribe(filter(&[]), Start::Live, nowhere()).await;
    assert!(matches!(refused, Err(SubscribeError::Draining)));
    let refused = hub.trim(&trim(None, 1)).await;
    assert!(matches!(refused, Err(WorkError::Draining)));
    writer.close().await.unwrap();
}

/// All that waited used to be one commit: who published a line waited for every batch there was.
#[tokio::test]
async fn who_publishes_little_waits_for_one_large_batch_and_not_for_all() {
    if only_local("a cluster puts commands in the order in which they come") {
        return;
    }
    for drains in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (hub, writer) = open(&folder.path().join("segno.db"), Settings::default()).await;
        let publish = |count: usize, bytes: usize| {
            let (hub, data) = (hub.clone(), "x".repeat(bytes));
            let events = (0..count).map(|_| new("a", &data)).collect();
            tokio::spawn(async move { hub.publish(events, Origin::default()).await.unwrap() })
        };
        let mut large: Vec<_> = (0..8).map(|_| publish(20, 100_000)).collect();
        while hub.waiting().publications < 8 {
            tokio::task::yield_now().await;
        }
        let small = publish(1, 10);
        while hub.waiting().publications < 9 {
            tokio::task::yield_now().await;
        }
        if drains {
            hub.drain();
        }
        let writing = tokio::spawn(writer.run());
        assert_eq!(ids(&within("the small one", small).await.unwrap()), [1]);
        // What comes while the large ones have their turns waits for one of them.
        let later = (!drains).then(|| publish(1, 10));
        let mut firsts = Vec::new();
        for large in large.drain(..) {
            let ids = ids(&within("a large one", large).await.unwrap());
            assert!(ids.is_sorted_by(|a, b| a + 1 == *b), "{ids:?}");
            firsts.push(ids[0]);
        }
        assert!(
            firsts.is_sorted(),
            "in the order in which they came: {firsts:?}"
        );
        if let Some(later) = later {
            let id = ids(&within("the later one", later).await.unwrap())[0];
            let before = firsts.iter().filter(|first| **first < id).count();
            assert!(before < 4, "it came behind {before} of {firsts:?}: {id}");
        }
        hub.drain();
        let writer = within("the writer", writing).await.unwrap();
        assert_eq!(hub.waiting().bytes, 0);
        writer.close().await.unwrap();
    }
}

/// The search for a start has to wait here, as it would behind other readers or on a long log.
#[tokio::test]
async fn a_drain_does_not_wait_for_a_subscriber_whose_start_is_still_searched() {
    let engine = Engine::start().await;
    engine.publish("a", &["1"]).await;
    let topics: Vec<String> = (0..40).map(|n| format!("*{n}*x*")).collect();
    let costly = filter(&topics.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(costly.is_costly());
    let _turn = engine.hub.log().scans().begin(&costly).await;
    let hub = engine.hub.clone();
    let filter = costly.clone();
    let searching =
        tokio::spawn(async move { hub.subscribe(filter, Start::Last(1), nowhere()).await });
    let mut replaying = within(
        "a subscription",
        engine.hub.subscribe(costly.clone(), after(0), nowhere()),
    )
    .await
    .unwrap();
    let replaying = tokio::spawn(async move { replaying.next().await });
    tokio::task::yield_now().await;
    engine.hub.drain();
    let searched = within("the search to end", searching).await.unwrap();
    assert!(matches!(searched, Err(SubscribeError::Draining)));
    let replayed = within("the replay to end", replaying).await.unwrap();
    assert!(replayed.unwrap().is_none());
}

#[tokio::test]
async fn a_batch_as_large_as_the_queue_is_taken_when_the_queue_is_empty() {
    let data = "x".repeat(1000);
    let engine = Engine::start_with(Settings {
        queue: QueueLimits {
            publications: 8,
            bytes: data.len(),
        },
        ..Settings::default()
    })
    .await;
    assert_eq!(engine.publish("a", &[&data, &data]).await, [1, 2]);
    assert_eq!(engine.publish("a", &[&data]).await, [3]);
    assert_eq!(engine.hub.waiting().bytes, 0);
}

#[tokio::test]
async fn a_trimmed_log_tells_those_who_ask_for_what_is_gone() {
    let engine = Engine::start().await;
    engine.publish("a", &["1", "2", "3"]).await;
    assert_eq!(engine.hub.trim(&trim(None, 2)).await.unwrap(), 2);
    assert_eq!(engine.hub.kept_events(), 1);
    let mut asks_for_1 = engine.follow(&[], after(0)).await;
    assert_eq!(next_gap(&mut asks_for_1).await, (GapReason::Trimmed, 0, 2));
    assert_eq!(next_ids(&mut asks_for_1, 1).await, [3]);
    let mut asks_for_what_is_kept = engine.follow(&[], Start::First).await;
    assert_eq!(next_ids(&mut asks_for_what_is_kept, 1).await, [3]);
    let mut is_ahead = engine.follow(&[], after(9)).await;
    assert_eq!(next_gap(&mut is_ahead).await, (GapReason::Ahead, 9, 2));
    let engine = engine.restart().await;
    assert_eq!(
        engine.publish("a", &["4"]).await,
        [4],
        "no id is used twice"
    );
}

#[tokio::test]
async fn a_trimmed_topic_is_told_to_those_who_want_it_and_to_no_others() {
    let engine = Engine::start().await;
    engine.publish("b", &["1"]).await;
    engine.publish("a", &["2", "3"]).await;
    assert_eq!(engine.hub.trim(&trim(Some("a"), 2)).await.unwrap(), 1);
    engine.publish("a", &["4"]).await;
    let mut wants_b = engine.follow(&["b"], after(0)).await;
    assert_eq!(next_ids(&mut wants_b, 1).await, [1]);
    let engine = engine.restart().await;
    let mut wants_a = engine.follow(&["a"], after(0)).await;
    assert_eq!(next_gap(&mut wants_a).await, (GapReason::Trimmed, 0, 0));
    assert_eq!(next_ids(&mut wants_a, 2).await, [3, 4]);
}

/// Each mark used to throw away the page that was being read, of every replay.
#[tokio::test]
async fn topics_that_are_trimmed_all_the_time_hold_up_no_replay() {
    let engine = Engine::start().await;
    // More than the newest events that are in memory: while a page is read from the file, marks come.
    let data = "x".repeat(1000);
    for _ in 0..10 {
        for topic in ["a", "b"] {
            let events = (0..1000).map(|_| new(topic, &data)).collect();
            let published = engine.hub.publish(events, Origin::default());
            published.await.unwrap();
        }
    }
    let hub = engine.hub.clone();
    let trimming = tokio::spawn(async move {
        for through in 1001.. {
            hub.trim(&trim(Some("b"), through)).await.unwrap();
        }
    });
    let trim_steps = || engine.hub.metrics().trim_steps.get();
    while trim_steps() == 0 {
        tokio::task::yield_now().await;
    }
    let mut wants_a = engine.follow(&["a"], Start::First).await;
    let ids = next_ids(&mut wants_a, 10_000).await;
    assert!(ids.is_sorted() && ids.len() == 10_000);
    assert!(trim_steps() > 10, "topics were trimmed meanwhile");
    let pages = &engine.hub.metrics().replayed_pages;
    let of = |source| pages.get_or_create(&[("source", source)]).get();
    let pages_read = || of("file") + of("memory");
    let read = pages_read();
    // Pages of 64 KiB and a little more.
    assert!(
        read <= 160,
        "{read} pages were read for 10,000 events of 1,000 bytes"
    );

    let mut wants_all = engine.follow(&[], after(1)).await;
    let (mut last, mut gaps) = (1, 0);
    while last < 19_000 {
        match next(&mut wants_all).await {
            Some(Delivery::Events(batch)) => {
                assert!(batch.events()[0].id.as_i64() > last);
                last = batch.last_id().as_i64();
            }
            Some(Delivery::Gap(gap)) => {
                assert_eq!(gap.reason, GapReason::Trimmed);
                gaps += 1;
            }
            None => panic!("it ended"),
        }
    }
    assert!(gaps > 0);
    // A page that a mark came upon is given after the gap, and not read again.
    let read = pages_read() - read;
    assert!(
        read <= 320,
        "{read} pages were read for 19,000 events of 1,000 bytes, beside {gaps} gaps"
    );
    trimming.abort();
}

#[tokio::test]
async fn an_erased_event_is_told_in_its_place_and_to_those_who_follow() {
    let engine = Engine::start().await;
    engine.publish("a", &["secret", "2"]).await;
    let mut live = engine.follow(&["a"], Start::Live).await;
    let left = engine
        .hub
        .erase(EventId::from_row(1))
        .await
        .unwrap()
        .unwrap();
    assert!(left.event_type.is_erased() && left.data.as_str() == "{\"id\":1}");
    let told = next_events(&mut live, 1).await;
    assert!(told[0].id.as_i64() == 3 && told[0].event_type.is_erased());
    assert!(
        engine
            .hub
            .erase(EventId::from_row(9))
            .await
            .unwrap()
            .is_none()
    );
    let engine = engine.restart().await;
    let mut replayed = engine.follow(&["a"], Start::First).await;
    let events = next_events(&mut replayed, 3).await;
    let data: Vec<_> = events.iter().map(|event| event.data.as_str()).collect();
    assert_eq!(data, ["{\"id\":1}", "\"2\"", "{\"id\":1}"]);
}

#[tokio::test]
async fn an_erased_topic_is_gone_and_told() {
    let engine = Engine::start().await;
    engine.publish("a", &["1", "2"]).await;
    engine.publish("b", &["3"]).await;
    let mut live = engine.follow(&["a"], Start::Live).await;
    let topic = Topic::new("a").unwrap();
    let told = engine
        .hub
        .erase_topic(topic.clone())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        told.data.as_str(),
        r#"{"topic":"a","through":2,"events":2}"#
    );
    assert_eq!(next_events(&mut live, 1).await, [told]);
    let (all, from_first) = (filter(&[]), db::Range::after(EventId::ZERO));
    let log = engine.hub.log();
    let page = log.page(&all, from_first, Order::Ascending, 10);
    let kept = page.await.unwrap().events;
    assert_eq!(
        kept.iter()
            .map(|event| event.id.as_i64())
            .collect::<Vec<_>>(),
        [3, 4]
    );
    assert!(
        engine
            .hub
            .erase_topic(Topic::new("c").unwrap())
            .await
            .unwrap()
            .is_none()
    );
}
