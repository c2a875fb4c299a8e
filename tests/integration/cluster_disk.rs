//! The disk of a hub of a cluster: its commits are not synced, because the order is, but what it tells that it has is.

use std::time::Duration;

use reqwest::StatusCode;
use segno::hub::{NewestBeat, find_beats};
use serde_json::json;

use super::{
    cluster::{hub, publish, same_content, wait_until_ready},
    cluster_faults::wait_until_not_ready,
    disk::FaultyDisk,
    nats::Nats,
    test_hub::{TestHub, within},
};

/// What the hub of the address told last that it has on its disk, once that is as much as `last_id`.
async fn told(nats: &Nats, hub: &str, last_id: i64) -> NewestBeat {
    let stream = nats.open("segno").await;
    let telling = async {
        loop {
            let beats = find_beats(&stream).await.unwrap();
            let found = beats
                .into_iter()
                .find(|heard| heard.beat.hub == hub && heard.beat.last_id >= last_id);
            if let Some(found) = found {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within(format_args!("a hub that has {last_id}"), telling).await
}

/// Two hubs, the second on a disk that can be told to fail.
async fn start() -> (Nats, TestHub, FaultyDisk) {
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let hub = hub(&nats).await;
    let disk = FaultyDisk::start_with(&["--cluster", &nats.urls().join(",")]).await;
    wait_until_ready(&disk.program.as_hub()).await;
    (nats, hub, disk)
}

async fn name_of(hub: &TestHub) -> String {
    let stats = hub.get_json("/stats").await;
    stats["cluster"]["hub"].as_str().unwrap().to_owned()
}

/// `synchronous=normal`: the file goes back to an earlier commit, which is never before what the hub has told, and the stream has
/// the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_takes_a_hub_back_to_what_it_has_told_and_no_further() {
    let (nats, b, disk) = start().await;
    let a = disk.program.as_hub();
    for n in 1..=20 {
        assert_eq!(a.publish("t", ["x"]).await, [n]);
    }
    let told = told(&nats, &name_of(&a).await, 20).await.beat;
    // No publisher waits for the disk.
    disk.fail("stall-sync-wal");
    for n in 21..=40 {
        assert_eq!(a.publish("t", ["y"]).await, [n]);
    }
    let kept = disk.cut_power_alone();

    let sql = "select sequence, (select max(id) from events) from position";
    let place = std::process::Command::new("sqlite3")
        .arg(kept.path().join("segno.db"))
        .arg(sql)
        .output()
        .unwrap();
    let place = String::from_utf8(place.stdout).unwrap();
    let (sequence, last_id) = place.trim().split_once('|').expect("it has a place");
    assert!(sequence.parse::<u64>().unwrap() >= told.sequence, "{place}");
    let last_id: u64 = last_id.parse().unwrap();
    assert!((20..40).contains(&last_id), "{last_id}");

    let a = TestHub::start_in(kept, |settings| settings.cluster = nats.cluster("segno")).await;
    wait_until_ready(&a).await;
    same_content(&[&a.db(), &b.db()]).await;
    let mut all = a.follow("?since=start").await;
    assert_eq!(all.next_ids(40).await, Vec::from_iter(1..=40));
    assert_eq!(a.publish("t", ["z"]).await, [41]);
}

/// Linux tells of a failed sync once. The hub takes nothing more: what is missing in its file then is nowhere noted.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_whose_disk_keeps_nothing_stops_and_goes_on_when_it_is_started_anew() {
    let (nats, b, disk) = start().await;
    let a = disk.program.as_hub();
    a.publish("t", ["x"]).await;
    told(&nats, &name_of(&a).await, 1).await;
    disk.fail("fail-sync-wal");
    wait_until_not_ready(&a, "the disk does not keep the file").await;
    let refused = publish(&a, json!({"data": 1})).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "unordered")
    );
    assert_eq!(b.publish("t", ["y"]).await, [2]);
    let kept = disk.cut_power_alone();
    let a = TestHub::start_in(kept, |settings| settings.cluster = nats.cluster("segno")).await;
    wait_until_ready(&a).await;
    same_content(&[&a.db(), &b.db()]).await;
}
