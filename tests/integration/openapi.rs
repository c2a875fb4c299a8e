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

/// Every code, with its status and its meaning.
fn codes_table() -> String {
    let mut codes: Vec<_> = segno::http::codes().collect();
    codes.sort_unstable();
    let mut table = String::from("| status | code | |\n|---|---|---|\n");
    for (status, code, meaning) in codes {
        table += &format!("| {status} | `{code}` | {meaning} |\n");
    }
    table
}

/// Whether the document says of this operation that it refuses with `code`.
fn says(operation: &Value, status: u16, code: &str) -> bool {
    let described = &operation["responses"][status.to_string()]["description"];
    let begin = format!("`{code}`: ");
    described
        .as_str()
        .is_some_and(|codes| codes.starts_with(&begin) || codes.contains(&format!("; {begin}")))
}

#[test]
fn every_code_stands_in_the_document_at_an_operation_that_refuses_with_it() {
    let document: Value = serde_json::from_str(&segno::http::openapi_document()).unwrap();
    let operations: Vec<&Value> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|methods| methods.as_object().unwrap().values())
        .collect();
    // These are of no operation: they say that there is none.
    let of_none = [(404, "unknown_path"), (405, "method_not_allowed")];
    let about = document["info"]["description"].as_str().unwrap();
    for (status, code, _) in segno::http::codes() {
        let is_said = operations
            .iter()
            .any(|operation| says(operation, status, code));
        assert_eq!(is_said, !of_none.contains(&(status, code)), "{code}");
        assert!(is_said || about.contains(&format!("`{code}`")), "{code}");
    }
}

/// Refusals that clients have to live with and cannot look up.
#[tokio::test]
async fn what_an_operation_refuses_with_stands_in_the_document() {
    let hub = TestHub::start_with(|config| {
        config.limits.max_body_memory = 64 * 1024;
        config.limits.max_streams_per_address = 1.try_into().unwrap();
    })
    .await;
    let _stream = hub.follow("").await;
    let document: Value = serde_json::from_str(&segno::http::openapi_document()).unwrap();
    let (mut refused, mut missing) = (BTreeSet::new(), Vec::new());
    for (path, methods) in document["paths"].as_object().unwrap() {
        let url = hub.url(&path.replace("{id}", "1").replace("{topic}", "t"));
        for (method, operation) in methods.as_object().unwrap() {
            let name = method.to_uppercase().parse().unwrap();
            let ask = |url| reqwest_client().request(reqwest::Method::clone(&name), url);
            let json = || ask(url.clone()).header("content-type", "application/json");
            let mut requests = vec![
                ask(format!("{url}?a=%ff")),
                ask(format!("{url}?nobody=knows")),
                ask(url.clone()).header("host", "evil.example"),
                ask(url.clone()).header("host", "büro"),
            ];
            if operation.get("requestBody").is_some() {
                requests.extend([
                    json().body("{"),
                    json().body(r#"{"unknown":1}"#),
                    json().header("content-encoding", "br").body("{}"),
                    json().header("content-encoding", "gzip").body("{}"),
                    json().header("ce-id", "1").body("{}"),
                    json().body("[".repeat(17 * 1024)),
                    ask(url.clone()).header("content-type", "multipart/a"),
                ]);
            }
            if path == "/events" && method == "get" {
                requests.push(ask(format!("{url}?wait=1s")));
                requests.push(ask(format!("{url}?wait=1s&order=desc")));
            }
            for request in requests {
                let told = format!("{request:?}");
                let refusal = answer(request).await;
                // A body without a type means any text.
                if refusal.status.is_success() {
                    continue;
                }
                let code = refusal.code();
                let status = refusal.status.as_u16();
                if !says(operation, status, &code) {
                    missing.push(format!("{status} {code}: {told}"));
                }
                refused.insert(code);
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    for code in [
        "invalid_parameter",
        "invalid_host",
        "too_many_streams_of_address",
        "too_many_body_bytes_of_address",
        "unsupported_content_encoding",
        "wrong_host",
    ] {
        assert!(refused.contains(code), "{code} of {refused:?}");
    }
}

#[tokio::test]
async fn an_object_with_a_field_that_is_not_described_is_refused_where_the_document_says_so() {
    let hub = TestHub::start().await;
    let document: Value = serde_json::from_str(&segno::http::openapi_document()).unwrap();
    let schemas = &document["components"]["schemas"];
    for (path, name) in [
        ("/events", "NewEvent"),
        ("/messages", "NewMessage"),
        ("/send_rest", "NewMessage"),
        ("/tickets", "NewTicket"),
    ] {
        let mut object = schemas[name]["example"].clone();
        object["more"] = 1.into();
        let refused = answer(hub.post_json(path, object.to_string())).await;
        assert_eq!(refused.code(), "unknown_field", "{path}");
        assert_eq!(schemas[name]["additionalProperties"], false, "{path}");
    }
    let follow = &schemas["NewTicket"]["properties"]["follow"];
    for (items, status) in [(0, 400), (1, 200), (20, 200), (21, 400)] {
        let wish = serde_json::json!({"follow": vec!["t"; items]}).to_string();
        let made = answer(hub.post_json("/tickets", &wish)).await;
        assert_eq!(made.status, status, "{items}");
        let is_described = follow["minItems"].as_u64() <= Some(items as u64)
            && Some(items as u64) <= follow["maxItems"].as_u64();
        assert_eq!(is_described, status == 200, "{items}");
    }
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
