//! `deploy/`: what watches a hub names only what a hub has.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{
    cluster,
    nats::Nats,
    test_hub::{answer, segno},
    tls::{Authority, hub_with},
};

const RULES: &str = "deploy/prometheus/segno.rules.yml";
const DASHBOARD: &str = "deploy/grafana/segno.json";

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The words of `text` that begin with `prefix`.
fn words<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let is_outside = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let words = text.split(is_outside);
    words
        .filter(|word| word.starts_with(prefix) && word.len() > prefix.len())
        .collect()
}

/// The metrics that Prometheus has of a hub that is alone and of one of a cluster, in every spelling that a query may use.
async fn metrics_of_a_hub() -> BTreeSet<String> {
    // With a certificate, because its end is a metric.
    let authority = Authority::new("a");
    let hub = hub_with(&authority, |_| ()).await;
    let client = authority.client(false);
    // What is counted by its code is there when the first has come.
    answer(client.get(hub.url("/nowhere"))).await;
    let exposition = answer(client.get(hub.url("/metrics"))).await.body;
    let mut names = BTreeSet::from(["up".to_owned()]);
    let nats = Nats::start(1).await;
    nats.make_stream("segno").await;
    let of_cluster = cluster::hub(&nats).await;
    let of_cluster = answer(of_cluster.get("/metrics")).await.body;
    for line in exposition.lines().chain(of_cluster.lines()) {
        let Some(line) = line.strip_prefix("# TYPE ") else {
            continue;
        };
        let (name, kind) = line.split_once(' ').unwrap();
        names.insert(name.to_owned());
        if kind == "histogram" {
            names.extend(["_bucket", "_sum", "_count"].map(|part| format!("{name}{part}")));
        }
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_and_the_alerts_name_metrics_that_there_are() {
    let known = metrics_of_a_hub().await;
    let of_files = ["segno.rules.yml", "segno.rules.test.yml", "segno.json"];
    for path in [RULES, "deploy/prometheus/segno.rules.test.yml", DASHBOARD] {
        let text = read(path);
        let used: BTreeSet<&str> = ["segno_", "process_"]
            .iter()
            .flat_map(|prefix| words(&text, prefix))
            .collect();
        assert!(used.len() > 10, "{path}: {used:?}");
        for name in used {
            assert!(
                known.contains(name) || of_files.contains(&name),
                "{path} names {name}, which no hub has"
            );
        }
    }
    // And the other way round: a metric that nobody looks at is one too many, or a panel too few.
    let seen = format!("{}{}", read(DASHBOARD), read(RULES));
    for name in &known {
        let is_seen = words(&seen, "").contains(name.as_str());
        let is_base = known.contains(&format!("{name}_bucket"));
        let of_few = [
            "segno_late_heads_total",
            "segno_trim_steps_total",
            "segno_canary_failures_total",
            "segno_first_id",
            "process_virtual_memory_bytes",
        ];
        let is_part = ["_bucket", "_sum", "_count"]
            .iter()
            .any(|part| name.ends_with(part));
        assert!(
            is_seen || is_base || is_part || of_few.contains(&name.as_str()),
            "no panel and no alert has {name}"
        );
    }
}

#[test]
fn the_alerts_name_codes_and_flags_that_there_are() {
    let rules = read(RULES);
    let (_, codes) = rules.split_once("code=~\"").unwrap();
    let (codes, _) = codes.split_once('"').unwrap();
    let documented = read("docs/http.md");
    for code in codes.split('|') {
        assert!(documented.contains(&format!("`{code}`")), "{code}");
    }
    let help = segno().args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for text in [&rules, &read(DASHBOARD)] {
        for flag in words(text, "--") {
            assert!(help.contains(flag), "{flag}");
        }
    }
}

#[test]
fn the_dashboard_has_no_panel_twice_and_none_in_the_place_of_another() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(x < 24 && taken.insert((x, y)), "{panel}");
            }
        }
    }
}

#[test]
fn the_alerts_are_raised_by_what_they_are_for_and_by_nothing_else() {
    for arguments in [
        ["check", "rules", "segno.rules.yml"],
        ["test", "rules", "segno.rules.test.yml"],
    ] {
        let checked = Command::new("promtool")
            .args(arguments)
            .current_dir("deploy/prometheus")
            .stdin(Stdio::null())
            .output()
            .expect("Debian's package `prometheus` has promtool");
        let said = String::from_utf8_lossy(&checked.stdout).into_owned()
            + &String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{said}");
    }
}
