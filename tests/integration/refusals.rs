//! What the log says of credentials that are refused: who, from where and why, and never the credential.

use std::{fs, time::Duration};

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::{
    access::token_entry,
    jwt_issuer::{Signer, good_claims, jwks},
    sight::Traced,
    test_hub::{answer, within},
};

const READER: &str = "segno_reader";
const OLD: &str = "segno_old";
const GONE: &str = "segno_gone";

/// The next line of a refusal after `known` of them, once there is one.
async fn next_line(traced: &Traced, known: usize) -> Value {
    within("a line of a refusal", async {
        loop {
            let lines = traced.lines("a credential is refused");
            if let Some(line) = lines.get(known) {
                return line.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// One line a second is written.
async fn next_second() {
    tokio::time::sleep(Duration::from_millis(1100)).await;
}

#[tokio::test]
async fn a_refused_credential_is_logged_with_its_name_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let signer = Signer::new("ES256", "one", folder.path());
    fs::write(folder.path().join("keys.json"), jwks([&signer])).unwrap();
    let access = folder.path().join("access.toml");
    let rules = [
        "[anonymous]\nfollow = [\"public\"]\noperate = true\n".to_owned(),
        token_entry(READER, "follow = [\"orders.*\"]"),
        token_entry(OLD, "follow = [\"**\"]\nexpires = 2020-01-01T00:00:00Z"),
        "[[issuer]]\nissuer = \"https://id.example\"\naudience = \"segno\"\nkeys = \"keys.json\"\nalgorithms = [\"ES256\"]\n".to_owned(),
    ];
    fs::write(&access, rules.concat()).unwrap();
    let args = [
        "--access",
        access.to_str().unwrap(),
        "--trusted-proxy",
        "127.0.0.1",
    ];
    let traced = Traced::start(folder.path(), &args, "info").await;
    let hub = &traced.hub;
    let mut claims = good_claims();
    claims["sub"] = "ada\nlovelace".into();
    claims["exp"] = 1_600_000_000.into();
    let expired_jwt = signer.sign(&claims);
    let stranger = Signer::new("ES256", "one", tempfile::tempdir().unwrap().path());
    let forged_jwt = stranger.sign(&claims);
    let made = hub.post_json("/tickets", r#"{"follow":["orders.*"],"expires_in":"1s"}"#);
    let ticket = answer(made.bearer_auth(READER)).await.json();
    let ticket = ticket["ticket"].as_str().unwrap().to_owned();
    next_second().await;

    let ask = |path: &str| hub.get(path);
    let refusals: Vec<(RequestBuilder, &str, Value, &str)> = vec![
        (
            ask("/events").bearer_auth(OLD),
            "credential_invalid",
            json!("old"),
            "it expired at 2020",
        ),
        (
            ask("/events").bearer_auth(GONE),
            "credential_invalid",
            Value::Null,
            "not in the access file",
        ),
        (
            ask("/events?topic=secret").bearer_auth(READER),
            "not_allowed",
            json!("reader"),
            "the right `follow` for the topic 'secret'",
        ),
        (
            ask("/sse?topic=secret").bearer_auth(READER),
            "not_allowed",
            json!("reader"),
            "the right `follow`",
        ),
        (
            hub.post("/topics/orders.eu").body("x").bearer_auth(READER),
            "not_allowed",
            json!("reader"),
            "the right `publish`",
        ),
        (
            hub.post_json("/tickets", r#"{"follow":["secret"]}"#)
                .bearer_auth(READER),
            "not_allowed",
            json!("reader"),
            "'secret'",
        ),
        (
            ask("/events").bearer_auth(&expired_jwt),
            "credential_invalid",
            json!("adalovelace"),
            "(exp)",
        ),
        (
            ask("/events").bearer_auth(&forged_jwt),
            "credential_invalid",
            Value::Null,
            "signature",
        ),
        (
            ask(&format!("/sse?ticket={ticket}")),
            "credential_invalid",
            json!("reader"),
            "it expired at",
        ),
    ];
    for (number, (request, code, name, reason)) in refusals.into_iter().enumerate() {
        let from = format!("192.0.2.{number}");
        let refused = answer(request.header("x-forwarded-for", &from)).await;
        assert_eq!(refused.code(), code, "{refused:?}");
        let line = next_line(&traced, number).await;
        assert_eq!(line["level"], "WARN", "{line}");
        assert_eq!(line["code"], code, "{line}");
        assert_eq!(line["name"], name, "{line}");
        assert_eq!(line["address"], from.as_str(), "{line}");
        assert_eq!(line["untold"], 0, "{line}");
        assert!(line["reason"].as_str().unwrap().contains(reason), "{line}");
        next_second().await;
    }
    // Who shows nothing is no refused credential; what is held back within a second is counted in the next line.
    let missing = answer(hub.post("/topics/a").body("x")).await;
    assert_eq!(missing.code(), "credential_missing");
    let known = traced.lines("a credential is refused").len();
    assert_eq!(known, 9);
    for _ in 0..4 {
        answer(ask("/events").bearer_auth(GONE)).await;
    }
    next_second().await;
    answer(ask("/events").bearer_auth(GONE)).await;
    let told: u64 = within("the count", async {
        loop {
            let lines = traced.lines("a credential is refused");
            let told = lines[known..]
                .iter()
                .map(|line| 1 + line["untold"].as_u64().unwrap());
            let told: u64 = told.sum();
            if told >= 5 {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(told, 5);
    let log = traced.log();
    for secret in [OLD, GONE, READER, &expired_jwt, &forged_jwt, &ticket] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    let figures = answer(hub.get("/metrics")).await.body;
    let counted = |code: &str| {
        let sign = format!("code=\"{code}\"}} ");
        let line = figures.lines().find(|line| line.contains(&sign)).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(counted("credential_invalid"), 5 + 5);
    assert_eq!(counted("not_allowed"), 4);
    assert_eq!(counted("credential_missing"), 1);
}
