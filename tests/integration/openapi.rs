//! The OpenAPI document and the page that reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;

use super::{
    docs::written_from_the_code,
    test_hub::{TestHub, answer, reqwest_client},
};

#[test]
fn the_committed_document_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/openapi.json");
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == segno::http::openapi_document(),
        "openapi/openapi.json is stale; write it anew with `cargo run -- openapi > openapi/openapi.json`"
    );
}

#[tokio::test]
async fn the_hub_serves_its_document_and_a_page_that_needs_no_internet() {
    let hub = TestHub::start().await;
    let document = answer(hub.get("/openapi.json")).await;
    assert_eq!(
        document.json(),
        serde_json::from_str::<Value>(&segno::http::openapi_document()).unwrap()
    );
    let page = answer(hub.get("/docs")).await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.body.contains("SwaggerUIBundle"));
    for tag in ["<script src", "<link ", "<img "] {
        assert!(!page.body.contains(&format!("{tag}=\"http")), "{tag}");
    }
}

#[test]
fn every_operation_is_described_with_its_refusals() {
    let document: Value = serde_json::from_str(&segno::http::openapi_document()).unwrap();
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            operations += 1;
            let name = format!("{method} {path}");
            assert!(
                operation["summary"]
                    .as_str()
                    .is_some_and(|summary| !summary.is_empty()),
                "{name}"
            );
            let answers: BTreeSet<_> = operation["responses"].as_object().unwrap().keys().collect();
            assert!(
                answers.iter().any(|status| status.starts_with('2')),
                "{name}"
            );
            if method == "post" {
                let body = &operation["requestBody"]["content"];
                assert!(
                    body.as_object().is_some_and(|types| !types.is_empty()),
                    "{name}"
                );
                // A ticket is stored nowhere.
                let is_stored = path != "/tickets";
                let statuses = ["400", "408", "413", "429", "500", "503", "507"];
                for status in statuses.iter().take(if is_stored { 7 } else { 6 }) {
                    assert!(
                        answers.iter().any(|answer| answer == status),
                        "{name} has no {status}"
                    );
                }
            }
            for (status, answer) in operation["responses"].as_object().unwrap() {
                assert!(
                    answer["description"]
                        .as_str()
                        .is_some_and(|text| !text.is_empty()),
                    "{name} {status}"
                );
            }
        }
    }
    assert!(operations >= 10);
}

#[test]
fn the_table_of_codes_is_written_from_the_code() {
    written_from_the_code("docs/http.md", "codes", &codes_table());
}

/// Every code of the API document, with its status and its meaning.
fn codes_table() -> String {
    let document: Value = serde_json::from_str(&segno::http::openapi_document()).unwrap();
    let mut codes = BTreeMap::new();
    let operations = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|methods| methods.as_object().unwrap().values());
    for operation in operations {
        for (status, answer) in operation["responses"].as_object().unwrap() {
            let description = answer["description"].as_str().unwrap();
            // "`code`: meaning; `code`: meaning", where a meaning may have "; " and "`" in it.
            let mut last: Option<String> = None;
            for part in description.split("; ") {
                let begun = part
                    .strip_prefix('`')
                    .and_then(|part| part.split_once("`: "));
                match (begun, &last) {
                    (Some((code, meaning)), _) => {
                        codes.insert((status.clone(), code.to_owned()), meaning.to_owned());
                        last = Some(code.to_owned());
                    }
                    (None, Some(code)) => {
                        let meaning = codes.get_mut(&(status.clone(), code.clone())).unwrap();
                        *meaning += "; ";
                        *meaning += part;
                    }
                    (None, None) => (),
                }
            }
        }
    }
    assert!(codes.len() > 30);
    let mut table = String::from("| status | code | |\n|---|---|---|\n");
    for ((status, code), meaning) in codes {
        table += &format!("| {status} | `{code}` | {meaning} |\n");
    }
    table
}

/// A page that shows the document shows what each answer looks like.
#[tokio::test]
async fn every_answer_has_the_example_of_its_own_status() {
    let document: Value = serde_json::from_str(&segno::http::openapi_document()).unwrap();
    let mut refusals = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            for (status, answer) in operation["responses"].as_object().unwrap() {
                let Some(problem) = answer["content"].get("application/problem+json") else {
                    continue;
                };
                refusals += 1;
                let example = &problem["example"];
                let name = format!("{method} {path} {status}: {example}");
                assert_eq!(example["status"].to_string(), *status, "{name}");
                let word = format!("`{}`", example["code"].as_str().unwrap());
                let codes = answer["description"].as_str().unwrap();
                assert!(codes.contains(&word), "{name}");
            }
        }
    }
    assert!(refusals > 50, "{refusals}");

    // What is published and erased as the examples say is answered as they say.
    let hub = TestHub::start().await;
    let shape = |value: &Value| {
        let fields = value.as_object().unwrap().iter();
        fields
            .filter(|(name, _)| *name != "created_at")
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<BTreeMap<_, _>>()
    };
    let example = |path: &str, method: &str, status: &str| {
        shape(
            &document["paths"][path][method]["responses"][status]["content"]["application/json"]["example"],
        )
    };
    let publish = async || {
        let request = hub.post("/topics/greetings").header("idempotency-key", "k");
        shape(&answer(request.body(r#"{"text":"hello"}"#)).await.json())
    };
    let mut created = publish().await;
    created.remove("key");
    assert_eq!(created, example("/topics/{topic}", "post", "201"));
    assert_eq!(created, example("/events", "post", "201"));
    let known = publish().await;
    assert_eq!(known, example("/topics/{topic}", "post", "200"));
    assert_eq!(known, example("/events", "post", "200"));
    let erased = answer(reqwest_client().delete(hub.url("/topics/greetings"))).await;
    let topic = example("/topics/{topic}", "delete", "200");
    assert_eq!(shape(&erased.json()), topic);
    hub.publish("greetings", ["\"hello\""]).await;
    let erased = answer(reqwest_client().delete(hub.url("/events/3"))).await;
    let event = example("/events/{id}", "delete", "200");
    assert_eq!(
        shape(&erased.json()).keys().collect::<Vec<_>>(),
        event.keys().collect::<Vec<_>>()
    );
    assert_eq!(erased.json()["type"], event["type"]);
}
