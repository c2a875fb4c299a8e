//! Every way to publish.

use std::collections::BTreeSet;

use proptest::prelude::*;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::test_hub::{TestHub, answer};

#[tokio::test]
async fn an_event_is_answered_with_its_place_in_the_log() {
    let hub = TestHub::start().await;
    let event = r#"{"topic":"orders","type":"paid","data":{"n":1},"key":"k"}"#;
    let created = answer(hub.post_json("/events", event)).await;
    assert_eq!(created.status, StatusCode::CREATED);
    assert_eq!(created.header("location"), "/events/1");
    let receipt = created.json();
    assert_eq!(
        (&receipt["id"], &receipt["topic"], &receipt["type"]),
        (&json!(1), &json!("orders"), &json!("paid"))
    );
    assert!(receipt.get("data").is_none() && receipt.get("duplicate").is_none());

    let stored = hub.get_json("/events/1").await;
    assert_eq!(stored["data"], json!({"n": 1}));
    assert_eq!(stored["key"], "k");
    assert_eq!(stored["created_at"], receipt["created_at"]);
}

#[tokio::test]
async fn only_data_is_needed() {
    let hub = TestHub::start().await;
    let receipt = answer(hub.post_json("/events", r#"{"data":null}"#))
        .await
        .json();
    assert_eq!(
        (&receipt["topic"], &receipt["type"]),
        (&json!("events"), &json!("message"))
    );
    assert_eq!(hub.get_json("/events/1").await["data"], Value::Null);
}

#[tokio::test]
async fn the_curl_commands_of_the_tutorial_work() {
    let hub = TestHub::start().await;
    let sent = answer(hub.post_json("/messages", r#"{"message": "hi"}"#)).await;
    assert_eq!(
        (sent.status, sent.body.as_str()),
        (
            StatusCode::OK,
            r#"{"status":"Received","message":"hi","id":1}
"#
        )
    );
    let sent = answer(hub.post_json("/send_rest", r#"{"message": {"a": 1.10}}"#)).await;
    assert_eq!(
        sent.body,
        r#"{"status":"Received via REST","message":{"a": 1.10},"id":2}
"#
    );
    let events = hub.get_json("/events?topic=messages").await;
    assert_eq!(
        events["events"][0]["data"],
        json!({"status": "Received", "message": "hi"})
    );
    assert_eq!(events["events"][1]["data"]["status"], "Received via REST");
}

#[tokio::test]
async fn a_raw_body_is_kept_as_json_or_becomes_a_string() {
    let hub = TestHub::start().await;
    for (body, data) in [
        ("hello", r#""hello""#),
        ("42", "42"),
        (r#" {"a": 1.10} "#, r#"{"a": 1.10}"#),
        ("{broken", r#""{broken""#),
        ("", r#""""#),
        ("two\nlines", r#""two\nlines""#),
        ("\"\\ud800\"", "\"\\ud800\""),
    ] {
        let receipt = answer(hub.post("/topics/raw/of/slashes?type=noted").body(body)).await;
        assert_eq!(receipt.status, StatusCode::CREATED, "{receipt:?}");
        assert_eq!(
            (&receipt.json()["topic"], &receipt.json()["type"]),
            (&json!("raw/of/slashes"), &json!("noted"))
        );
        let stored = answer(hub.get(receipt.header("location"))).await.body;
        assert!(
            stored.contains(&format!("\"data\":{data},")),
            "{body}: {stored}"
        );
    }
    let encoded = answer(hub.post("/topics/with%2Fslash%3F").body("x"))
        .await
        .json();
    assert_eq!(encoded["topic"], "with/slash?");
}

#[tokio::test]
async fn a_batch_is_one_transaction_as_array_or_lines() {
    let hub = TestHub::start().await;
    let array = answer(hub.post_json("/events", r#"[{"data":1},{"data":2,"topic":"t"}]"#)).await;
    assert_eq!(
        (array.status, array.json()),
        (StatusCode::CREATED, json!({"ids": [1, 2]}))
    );
    let lines = "{\"data\":3}\n\n{\"data\":4}\r\n";
    let lines = answer(
        hub.post("/events")
            .header("content-type", "application/x-ndjson")
            .body(lines),
    )
    .await;
    assert_eq!(
        (lines.status, lines.json()),
        (StatusCode::CREATED, json!({"ids": [3, 4]}))
    );
    let events = hub.get_json("/events").await;
    assert_eq!(
        events["events"][2]["created_at"],
        events["events"][3]["created_at"]
    );
}

#[tokio::test]
async fn a_key_is_one_event_for_its_topic() {
    let hub = TestHub::start().await;
    let publish = |topic: &str, data: &str| {
        hub.post(&format!("/topics/{topic}"))
            .header("idempotency-key", "k")
            .body(data.to_owned())
    };
    assert_eq!(answer(publish("a", "1")).await.status, StatusCode::CREATED);

    let again = answer(publish("a", "1")).await;
    assert_eq!(again.status, StatusCode::OK);
    assert_eq!(
        (&again.json()["id"], &again.json()["duplicate"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(again.header("location"), "/events/1");

    let other = answer(publish("a", "2")).await;
    assert_eq!(
        (other.status, other.code()),
        (StatusCode::CONFLICT, "key_conflict".to_owned())
    );
    assert_eq!(answer(publish("b", "2")).await.status, StatusCode::CREATED);
    assert_eq!(hub.last_id().await, 2);
}

#[tokio::test]
async fn a_key_holds_inside_a_batch_too() {
    let hub = TestHub::start().await;
    let batch = |json: &str| hub.post_json("/events", json);
    let twice = answer(batch(
        r#"[{"data":1,"key":"k"},{"data":1,"key":"k"},{"data":2}]"#,
    ))
    .await;
    assert_eq!(twice.json(), json!({"ids": [1, 1, 2], "duplicates": [1]}));

    let conflict = answer(batch(r#"[{"data":8,"key":"new"},{"data":9,"key":"k"}]"#)).await;
    assert_eq!(conflict.code(), "key_conflict");
    assert_eq!(hub.last_id().await, 2);
    // What the refused batch named is not taken for stored.
    assert_eq!(
        answer(batch(r#"{"data":8,"key":"new"}"#)).await.status,
        StatusCode::CREATED
    );
}

#[tokio::test]
async fn a_batch_with_one_bad_event_stores_nothing() {
    let hub = TestHub::start().await;
    let bad = answer(hub.post_json("/events", r#"[{"data":1},{"data":2,"topic":"a b"}]"#)).await;
    assert_eq!(bad.code(), "invalid_topic");
    assert!(bad.body.contains("event 2 of the array"), "{bad:?}");
    let bad = answer(
        hub.post("/events")
            .header("content-type", "application/x-ndjson")
            .body("{\"data\":1}\n{\"data\":\n"),
    )
    .await;
    assert_eq!(bad.code(), "invalid_json");
    assert!(bad.body.contains("line 2 of the body"), "{bad:?}");
    assert_eq!(hub.last_id().await, 0);
}

/// Four publishers' requests share commits; each gets its own ids and all are there.
#[tokio::test]
async fn ten_publishers_at_once_get_ids_without_repetition() {
    let hub = TestHub::start().await;
    let publishers = (0..10).map(|publisher| {
        let hub = &hub;
        async move {
            let mut ids = Vec::new();
            for n in 0..30 {
                ids.extend(hub.publish("busy", [&format!("{publisher}-{n}")]).await);
            }
            assert!(
                ids.is_sorted(),
                "a publisher's events are in the order it sent them"
            );
            ids
        }
    });
    let ids: Vec<u64> = futures_util::future::join_all(publishers).await.concat();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 300);
    assert_eq!(hub.last_id().await, 300);
}

fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,12})?([eE][+-]?[0-9]{1,3})?",
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just(r#""\ud800 \u0000 \/ 😀 \u2028""#.to_owned()),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6)
                .prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::vec((any::<String>(), inner), 0..6).prop_map(|fields| {
                let fields: Vec<_> = fields
                    .into_iter()
                    .map(|(name, value)| {
                        format!("{}:{value}", serde_json::to_string(&name).unwrap())
                    })
                    .collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

#[test]
fn the_json_that_comes_out_is_the_json_that_went_in() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let hub = runtime.block_on(TestHub::start());
    let stream = tokio::sync::Mutex::new(runtime.block_on(hub.follow("")));
    proptest!(ProptestConfig::with_cases(200), |(json in any_json())| {
        runtime.block_on(async {
            let receipt = answer(hub.post_json("/events", format!("{{\"data\":{json}}}"))).await;
            prop_assert_eq!(receipt.status, StatusCode::CREATED);
            prop_assert_eq!(&stream.lock().await.next().await.data, &json);
            let stored = answer(hub.get(receipt.header("location"))).await.body;
            prop_assert!(stored.contains(&format!("\"data\":{json},\"created_at\"")), "{}", stored);
            Ok(())
        })?;
    });
}
