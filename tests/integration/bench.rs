//! `segno bench` against a hub that works, and against one that has lost an event.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::test_hub::{TestHub, segno, within};

/// Starts `segno bench` and gives its report when it has ended.
async fn bench(hub: &TestHub, args: &[&str]) -> (Output, Value) {
    let mut command = segno();
    command
        .arg("bench")
        .args(args)
        .arg("--json")
        .env("SEGNO_URL", hub.url(""))
        .stdin(Stdio::null());
    let running = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = within("the bench to end", running).await.unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output, report)
}

fn assert_faultless(output: &Output, report: &Value) {
    for fault in ["missing", "duplicated", "reordered"] {
        assert_eq!(report[fault], 0, "{report}");
    }
    assert!(output.status.success(), "{output:?}");
    let latency = &report["latency"];
    let percentiles = ["p50_us", "p99_us", "p999_us", "max_us"]
        .map(|percentile| latency[percentile].as_u64().unwrap());
    assert!(
        percentiles[0] > 0 && percentiles.is_sorted(),
        "{percentiles:?}"
    );
    assert!(report["per_second"].as_f64().unwrap() > 0.0, "{report}");
}

#[tokio::test]
async fn bench_publish_counts_what_the_hub_stored() {
    let hub = TestHub::start().await;
    hub.publish("other", ["before"]).await;
    let args = ["publish", "--connections=4", "--topics=3", "--duration=1s"];
    let (output, report) = bench(&hub, &args).await;
    assert_faultless(&output, &report);
    assert_eq!(report["bench"], "publish");
    assert_eq!(
        report["published"].as_u64().unwrap(),
        hub.last_id().await - 1
    );
    let topics = hub.get_json("/topics").await;
    assert_eq!(topics["topics"].as_array().unwrap().len(), 4, "{topics}");
}

#[tokio::test]
async fn bench_publish_keeps_to_rate_size_and_batch() {
    let hub = TestHub::start().await;
    let args = [
        "publish",
        "--connections=2",
        "--rate=100",
        "--batch=5",
        "--bytes=300",
        "--duration=1s",
    ];
    let (output, report) = bench(&hub, &args).await;
    assert_faultless(&output, &report);
    assert_eq!(report["published"], 100, "{report}");
    let events = hub.get_json("/events?limit=10").await;
    for event in events["events"].as_array().unwrap() {
        assert_eq!(event["data"].to_string().len(), 300, "{event}");
    }
    let times = events["events"].as_array().unwrap();
    assert_eq!(
        times[0]["created_at"], times[4]["created_at"],
        "one request is one commit"
    );
}

#[tokio::test]
async fn bench_follow_delivers_each_event_to_each_connection_of_its_topic() {
    let hub = TestHub::start().await;
    let args = [
        "follow",
        "--connections=20",
        "--topics=4",
        "--rate=200",
        "--duration=1s",
    ];
    let (output, report) = bench(&hub, &args).await;
    assert_faultless(&output, &report);
    assert_eq!(report["published"], 200, "{report}");
    // Five connections on each of the four topics.
    assert_eq!(report["delivered"], 200 * 5, "{report}");
    assert!(
        std::str::from_utf8(&output.stderr)
            .unwrap()
            .contains("received/s"),
        "progress is shown: {output:?}"
    );
}

#[tokio::test]
async fn bench_replay_replays_all_on_each_connection() {
    let hub = TestHub::start().await;
    let args = [
        "replay",
        "--connections=3",
        "--events=2500",
        "--topics=2",
        "--duration=1s",
    ];
    let (output, report) = bench(&hub, &args).await;
    assert_faultless(&output, &report);
    // Whole requests of 1,000.
    assert_eq!(report["published"], 3000, "{report}");
    let delivered = report["delivered"].as_u64().unwrap();
    assert!(
        delivered >= 3 * 3000 && delivered.is_multiple_of(3000),
        "{report}"
    );
}

/// Passes bytes on, and makes the data of one event of each stream a field that nobody knows: its block has as many bytes
/// as before, and is no event. Gives its address.
async fn losing_one_event(hub: String) -> String {
    const EVENT: &[u8] = b"\n\ndata: ";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let hub = hub.clone();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_hub, mut to_hub) =
                    TcpStream::connect(hub).await.unwrap().into_split();
                let asking = tokio::io::copy(&mut from_client, &mut to_hub);
                let answering = async {
                    let (mut bytes, mut lost) = (vec![0; 64 * 1024], false);
                    loop {
                        let read = from_hub.read(&mut bytes).await?;
                        let found = bytes[..read]
                            .windows(EVENT.len())
                            .position(|window| window == EVENT);
                        if let Some(at) = found.filter(|_| !lost) {
                            bytes[at + 3] = b'x';
                            lost = true;
                        }
                        to_client.write_all(&bytes[..read]).await?;
                        if read == 0 {
                            return std::io::Result::Ok(());
                        }
                    }
                };
                _ = tokio::join!(asking, answering);
            });
        }
    });
    url
}

#[tokio::test]
async fn slow_bench_tells_of_a_lost_event_and_fails() {
    let hub = TestHub::start().await;
    let url = losing_one_event(hub.address().to_owned()).await;
    let args = [
        "replay",
        "--events=10000",
        "--bytes=1000",
        "--duration=1ms",
        "--url",
        &url,
    ];
    let (output, report) = bench(&hub, &args).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(
        (
            &report["missing"],
            &report["duplicated"],
            &report["reordered"]
        ),
        (&1.into(), &0.into(), &0.into()),
        "{report}"
    );
}

#[tokio::test]
async fn bench_says_when_there_is_no_hub() {
    let nobody = super::test_hub::Port::reserve();
    let output = segno()
        .args(["bench", "publish", "--url", &nobody.url()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("cannot reach http://127.0.0.1"), "{told}");
}
