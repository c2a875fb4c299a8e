//! Filters that are costly to test: what they take, they take from those who ask for them alone.

use std::time::{Duration, Instant};

use super::test_hub::{TestHub, answer, only_local, within};

/// A query for patterns that nearly match a topic of many letters a: each run of them can stand in many places.
fn costly(own: usize, patterns: usize) -> String {
    let runs = format!("*{}", "a".repeat(90)).repeat(2);
    let pattern = |n| format!("topic={runs}*{own}.{n}x*");
    (0..patterns).map(pattern).collect::<Vec<_>>().join("&")
}

#[tokio::test]
async fn a_filter_that_is_too_large_is_refused() {
    let hub = TestHub::start().await;
    let names = |count: usize| {
        let names = (0..count).map(|n| format!("topic=t{n}"));
        names.collect::<Vec<_>>().join("&")
    };
    for path in ["/sse", "/events"] {
        for query in [
            names(1001),
            format!("{}&type=x", names(1000)),
            costly(0, 101),
            format!("{}&type=x*", costly(0, 100)),
            "topic=a***b**c**d**".into(),
        ] {
            let refused = answer(hub.get(&format!("{path}?{query}"))).await;
            assert_eq!(
                (refused.status.as_u16(), &*refused.code()),
                (400, "filter_too_large")
            );
        }
    }
    let largest = format!("/events?{}&{}", names(1000), costly(0, 100));
    assert_eq!(answer(hub.get(&largest)).await.status, 200);
}

/// One such scan used to take 43 s in which nothing else was answered.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "the figures")]
async fn costly_scans_hold_up_nobody() {
    if only_local("it measures what one program costs, and not the way to the server") {
        return;
    }
    let hub = TestHub::start().await;
    // Each has a topic of its own: a scan judges a topic once.
    hub.publish_many(1000, |n| format!("{}{n}", "a".repeat(250)))
        .await;
    // History scans the file, streams the newest events in memory. All of it would take minutes, and nobody waits for it.
    let scans: Vec<_> = (0..3)
        .map(|own| {
            let (query, limit) = (costly(own, 60), 1 + own);
            let request = hub.get(&format!("/events?{query}&limit={limit}"));
            tokio::spawn(answer(request))
        })
        .collect();
    let mut streams = Vec::new();
    for own in 3..60 {
        let query = format!("?since=start&{}", costly(own, 60));
        streams.push(hub.follow(&query).await);
    }
    let mut waits = Vec::new();
    for _ in 0..200 {
        let begun = Instant::now();
        assert_eq!(answer(hub.get("/health/live")).await.status, 200);
        waits.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    waits.sort();
    let (median, longest) = (waits[100], waits[199]);
    println!(
        "while 60 costly filters are scanned for, /health/live takes {median:?}, at most {longest:?}"
    );
    assert!(median < Duration::from_millis(100), "{median:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    for scan in scans {
        scan.abort();
    }
}

/// Each of these used to be tested by the writer, while it held what others wait for: 1.7 s a publish for one of them.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "the figures")]
async fn a_publish_costs_the_same_whatever_subscribers_ask_for() {
    if only_local("it measures what one program costs, and not the way to the server") {
        return;
    }
    let hub = TestHub::start().await;
    // Each on a topic of its own: a filter is asked once for a topic.
    let publish = async |n: usize| {
        let begun = Instant::now();
        let published = hub.post(&format!("/topics/{}{n}", "a".repeat(250)));
        let published = published.body("x");
        assert_eq!(answer(published).await.status, 201);
        begun.elapsed()
    };
    let mut streams = Vec::new();
    for own in 0..150 {
        streams.push(hub.follow(&format!("?{}", costly(own, 100))).await);
    }
    let mut wants_it = hub
        .follow(&format!("?topic=aaa*&{}", costly(150, 99)))
        .await;
    let mut took = Vec::new();
    within("100 publishes", async {
        for n in 0..100 {
            took.push(publish(n).await);
        }
    })
    .await;
    took.sort();
    println!(
        "a publish beside 150 costly streams takes {:?}, at most {:?}",
        took[50], took[99]
    );
    assert!(took[50] < Duration::from_millis(100), "{took:?}");
    let ids = wants_it.next_ids(100).await;
    assert_eq!(ids, (1..=100).collect::<Vec<_>>());
}
