//! How much a caller may take, as the access file says: from whatever address it comes, and however the file changes.

use std::{fs, process::Command};

use reqwest::StatusCode;
use serde_json::json;

use super::{
    access::{hub_with, token_entry},
    jwt_issuer::{Signer, good_claims, jwks},
    test_hub::{Answer, TestHub, TestStream, answer, within},
};

const FOLLOWER: &str = "segno_follower";
const PUBLISHER: &str = "segno_publisher";

async fn follow(hub: &TestHub, token: &str) -> TestStream {
    TestStream::open(hub.get("/sse").bearer_auth(token)).await
}

async fn refused(hub: &TestHub, token: &str) -> Answer {
    let answer = answer(hub.get("/sse").bearer_auth(token)).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{answer:?}");
    answer
}

async fn publish(hub: &TestHub, token: &str, events: usize) -> Answer {
    let batch = vec![json!({"topic": "a", "data": 1}); events];
    let request = hub.post_json("/events", json!(batch).to_string());
    answer(request.bearer_auth(token)).await
}

fn follower(limits: &str) -> String {
    let writer = token_entry("segno_writer", "publish = [\"**\"]");
    token_entry(FOLLOWER, &format!("follow = [\"**\"]\n{limits}")) + &writer
}

#[tokio::test]
async fn a_token_has_as_many_streams_as_its_entry_allows_also_when_the_file_changes() {
    let hub = hub_with(&follower("streams = 2")).await;
    let first = follow(&hub, FOLLOWER).await;
    // A ticket is counted as what it came from.
    let made = hub.post_json("/tickets", r#"{"follow":["**"]}"#);
    let ticket = answer(made.bearer_auth(FOLLOWER)).await.json();
    let ticket = ticket["ticket"].as_str().unwrap().to_owned();
    let mut second = hub.follow(&format!("?ticket={ticket}")).await;
    let hit = refused(&hub, FOLLOWER).await;
    assert_eq!(hit.code(), "too_many_streams_of_caller");
    assert_eq!(
        hit.json()["detail"],
        "you have as many streams open as `streams` of your entry in the access file allows, which is 2"
    );
    assert_eq!(hit.json()["limit"], 2);
    assert_eq!(hit.header("retry-after"), "5");
    // A browser is told by a stream, which it comes back after.
    let as_browser = hub
        .get(&format!("/sse?ticket={ticket}"))
        .header("accept", "text/event-stream");
    let told = answer(as_browser).await;
    assert!(
        told.body.contains("event: segno.refused") && told.body.contains("streams_of_caller"),
        "{told:?}"
    );

    // The streams that are open go on, and count.
    let path = hub.db().with_file_name("access.toml");
    fs::write(&path, follower("streams = 3")).unwrap();
    within("the change", async {
        while answer(hub.get("/whoami").bearer_auth(FOLLOWER))
            .await
            .json()["streams"]
            != 3
        {}
    })
    .await;
    let third = follow(&hub, FOLLOWER).await;
    assert_eq!(refused(&hub, FOLLOWER).await.json()["limit"], 3);
    drop(first);
    within("a place", async {
        let ask = || hub.get("/sse").bearer_auth(FOLLOWER).send();
        while ask().await.unwrap().status() == StatusCode::TOO_MANY_REQUESTS {}
    })
    .await;
    drop(third);
    let stays = answer(hub.post("/topics/a").bearer_auth("segno_writer").body("x")).await;
    assert_eq!(stays.status, StatusCode::CREATED, "{stays:?}");
    assert_eq!(second.next_data().await, ["\"x\""]);
}

#[tokio::test]
async fn a_token_publishes_at_its_rate_and_others_at_theirs() {
    let slow = token_entry(PUBLISHER, "publish = [\"**\"]\nrate = 1\nburst = 5");
    let fast = token_entry("segno_fast", "publish = [\"**\"]");
    let hub = hub_with(&(slow + &fast)).await;
    assert_eq!(
        publish(&hub, PUBLISHER, 5).await.status,
        StatusCode::CREATED
    );
    let hit = publish(&hub, PUBLISHER, 5).await;
    assert_eq!(hit.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(hit.code(), "too_many_events_of_caller");
    assert_eq!(
        hit.json()["detail"],
        "you published more events a second than `rate` of your entry in the access file allows, which is 1"
    );
    let wait: u64 = hit.header("retry-after").parse().unwrap();
    assert!((1..=5).contains(&wait), "{wait}");
    // By every way in.
    for path in ["/topics/a", "/messages", "/send_rest"] {
        let request = match path {
            "/topics/a" => hub.post(path).body("x"),
            _ => hub.post_json(path, r#"{"message":"x"}"#),
        };
        let answer = answer(request.bearer_auth(PUBLISHER)).await;
        assert_eq!(answer.code(), "too_many_events_of_caller", "{path}");
    }
    assert_eq!(
        publish(&hub, "segno_fast", 1000).await.status,
        StatusCode::CREATED
    );
}

#[tokio::test]
async fn each_subject_of_an_issuer_has_its_own_and_who_shows_nothing_shares_one() {
    let folder = tempfile::tempdir().unwrap();
    let signer = Signer::new("ES256", "one", folder.path());
    fs::write(folder.path().join("keys.json"), jwks([&signer])).unwrap();
    let rules = format!(
        "[anonymous]\nfollow = [\"**\"]\nstreams = 1\n[[issuer]]\nissuer = \"https://id.example\"\naudience = \"segno\"\n\
         keys = \"{}\"\nalgorithms = [\"ES256\"]\nfollow = [\"**\"]\nstreams = 1\n",
        folder.path().join("keys.json").display()
    );
    let hub = hub_with(&rules).await;
    let token_of = |subject: &str| {
        let mut claims = good_claims();
        claims["sub"] = subject.into();
        signer.sign(&claims)
    };
    let (ada, bob) = (token_of("ada"), token_of("bob"));
    let _ada = follow(&hub, &ada).await;
    let _bob = follow(&hub, &bob).await;
    assert_eq!(
        refused(&hub, &ada).await.code(),
        "too_many_streams_of_caller"
    );
    let _anybody = hub.follow("").await;
    let hit = answer(hub.get("/sse")).await;
    assert_eq!(hit.code(), "too_many_streams_of_caller");
}

#[test]
fn limits_of_a_token_are_set_listed_and_checked_by_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_segno"))
            .args(args)
            .current_dir(&folder)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.success(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let add = [
        "token",
        "add",
        "a",
        "--publish",
        "x",
        "--streams",
        "3",
        "--rate",
        "100",
        "--burst",
        "7",
    ];
    let (ok, token, _) = run(&add);
    assert!(ok);
    let file = fs::read_to_string(folder.path().join("access.toml")).unwrap();
    assert!(
        file.contains("streams = 3\nrate = 100\nburst = 7\n"),
        "{file}"
    );
    let (_, listed, _) = run(&["token", "list"]);
    assert_eq!(
        listed,
        "a  publish x; at most 3 streams; at most 100 events a second\n"
    );
    let (_, checked, _) = run(&["token", "check", token.trim()]);
    assert!(checked.contains("streams  3\nrate     100\n"), "{checked}");
    for (args, told) in [
        (["--rate", "0"], "a rate is 1 to 1000000 events a second"),
        (
            ["--rate", "1000001"],
            "a rate is 1 to 1000000 events a second",
        ),
        (["--streams", "0"], "streams"),
        (["--burst", "1"], "--rate"),
    ] {
        let (ok, _, error) = run(&[&["token", "add", "b"], &args[..]].concat());
        assert!(!ok && error.contains(told), "{args:?}: {error}");
    }
}
