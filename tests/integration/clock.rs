//! The clock of the machine, set while the hub runs.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
};

use serde_json::Value;

use super::test_hub::{DEADLINE, Program, TestHub, preload, segno, within};

const HOUR: i64 = 60 * 60;
const YEAR: i64 = 365 * 24 * HOUR;

/// A clock that the test sets.
struct SetClock(PathBuf);

impl SetClock {
    /// Moves it by so many seconds from what is right.
    fn set(&self, seconds: i64) {
        // In one step: the hub may read it at any moment.
        let new = self.0.with_extension("new");
        fs::write(&new, seconds.to_string()).unwrap();
        fs::rename(&new, &self.0).unwrap();
    }

    /// A hub with this clock, which keeps events of an hour, and of `counted` the newest; and its traces.
    async fn start_hub(&self, folder: &Path) -> (Program, mpsc::Receiver<String>) {
        let mut command: Command = segno();
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args([
                "--keep-age",
                "1h",
                "--keep",
                "counted=1",
                "--keep",
                "aged=1h",
            ])
            .arg("--db")
            .arg(folder.join("segno.db"))
            .env("LD_PRELOAD", preload("clock.c", folder))
            .env("SEGNO_CLOCK", &self.0)
            .stderr(Stdio::piped());
        let mut child = Program::spawn(command).await;
        let lines = BufReader::new(child.take_stderr()).lines();
        let (sender, traces) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                _ = sender.send(line);
            }
        });
        (child, traces)
    }
}

fn wait_for_trace(traces: &mpsc::Receiver<String>, text: &str) {
    let mut seen = Vec::new();
    loop {
        let line = traces.recv_timeout(DEADLINE);
        let Ok(line) = line else {
            panic!("waited for '{text}'; the traces were {seen:#?}")
        };
        if line.contains(text) {
            return;
        }
        seen.push(line);
    }
}

/// Waits until retention has looked at everything twice, which the topic `counted` shows.
async fn wait_for_looks(hub: &TestHub) {
    for _ in 0..2 {
        hub.publish("counted", ["a", "b"]).await;
        within("a look of retention", async {
            while hub.get_json("/events?topic=counted").await["events"]
                .as_array()
                .unwrap()
                .len()
                != 1
            {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

async fn ids(hub: &TestHub, query: &str) -> Vec<u64> {
    let history: Value = hub.get_json(&format!("/events?{query}")).await;
    let events = history["events"].as_array().unwrap();
    events
        .iter()
        .map(|event| event["id"].as_u64().unwrap())
        .collect()
}

async fn created_at(hub: &TestHub, id: u64) -> chrono::DateTime<chrono::Utc> {
    let event = hub.get_json(&format!("/events/{id}")).await;
    event["created_at"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_clock_that_jumps_a_year_ahead_trims_nothing_and_one_set_back_turns_no_time_back() {
    let folder = tempfile::tempdir().unwrap();
    let clock = SetClock(folder.path().join("clock"));
    clock.set(0);
    let (program, traces) = clock.start_hub(folder.path()).await;
    let hub = program.as_hub();
    let old = hub.publish("kept", ["a", "b"]).await;
    hub.publish("aged", ["c"]).await;
    wait_for_looks(&hub).await;

    clock.set(YEAR);
    wait_for_trace(&traces, "the clock jumped");
    let [ahead] = hub.publish("kept", ["d"]).await;
    let step = created_at(&hub, ahead).await - created_at(&hub, old[0]).await;
    assert!(step.num_seconds() >= YEAR, "{step}");
    wait_for_looks(&hub).await;
    assert_eq!(
        ids(&hub, "topic=kept").await,
        [old[0], old[1], ahead],
        "nothing is trimmed for its age"
    );
    assert_eq!(ids(&hub, "topic=aged").await.len(), 1);

    clock.set(-HOUR);
    let [behind] = hub.publish("kept", ["e"]).await;
    assert!(
        created_at(&hub, behind).await >= created_at(&hub, ahead).await,
        "no time goes backwards"
    );
    assert_eq!(
        ids(&hub, "topic=kept&since=15m").await,
        [old[0], old[1], ahead, behind]
    );
    clock.set(0);
    wait_for_trace(&traces, "the clock is trusted again");
    assert_eq!(
        ids(&hub, "topic=kept&since=15m").await,
        [old[0], old[1], ahead, behind]
    );
    drop(program);
    assert!(
        segno()
            .arg("check")
            .arg("--db")
            .arg(folder.path().join("segno.db"))
            .status()
            .unwrap()
            .success()
    );
}

/// As on a machine that has no time before the network gives it one.
#[tokio::test]
async fn a_clock_that_is_a_year_ahead_at_the_start_trims_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let clock = SetClock(folder.path().join("clock"));
    clock.set(0);
    let (program, _traces) = clock.start_hub(folder.path()).await;
    let old = program.as_hub().publish("kept", ["a", "b"]).await;
    program.kill();
    clock.set(YEAR);
    let (program, traces) = clock.start_hub(folder.path()).await;
    wait_for_trace(&traces, "the clock is far ahead of the newest event");
    wait_for_looks(&program.as_hub()).await;
    assert_eq!(ids(&program.as_hub(), "topic=kept").await, old);
}
