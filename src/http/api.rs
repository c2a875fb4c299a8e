//! The operations of the API, a file for each group. The OpenAPI document is derived from them.

mod body;
mod erase;
mod follow;
mod headers;
mod health;
mod history;
mod parameter;
mod publish;
mod receipt;
mod snapshot;
mod start;
mod tickets;
mod tutorial;
mod whoami;

use std::collections::HashMap;

use poem::{endpoint::BoxEndpoint, http::Method};
use poem_openapi::{
    OpenApi, OpenApiService, Tags,
    registry::{MetaApi, MetaPath, MetaSecurityScheme, Registry},
};
use serde_json::Value;

pub use self::follow::Following;
use self::{
    erase::EraseApi,
    health::HealthApi,
    history::HistoryApi,
    parameter::{Checked, TopicPattern, TypePattern, all},
    snapshot::SnapshotApi,
    tickets::TicketApi,
    tutorial::TutorialApi,
    whoami::AccessApi,
};
pub(super) use self::{
    follow::{FollowApi, set_stream_headers},
    health::Healthy,
    publish::PublishApi,
    start::cursor_of,
};
use super::{
    Settings,
    operations::Need,
    problem::{self, Problem},
    public_url::PublicUrl,
    schema::{NEW_NAME_PATTERN, NEW_TYPE_PATTERN},
};
use crate::{auth::TICKET_MAX_PATTERNS, filter::Filter, hub::Hub};

/// The OpenAPI document, as it stands under `openapi/`.
pub fn openapi_document() -> String {
    document(&service(Operations::DESCRIBED, None))
}

/// The document of an API, with what poem-openapi cannot say: the objects of a request have no other fields,
/// and some patterns are none of the regex crate, by which it would check them.
pub(super) fn document(service: &OpenApiService<Operations, ()>) -> String {
    let mut document: Value = serde_json::from_str(&service.spec()).expect("the document is JSON");
    for schema in sent_schemas(&mut document) {
        document["components"]["schemas"][schema]["additionalProperties"] = false.into();
    }
    for (field, pattern) in [("topic", NEW_NAME_PATTERN), ("type", NEW_TYPE_PATTERN)] {
        document["components"]["schemas"]["NewEvent"]["properties"][field]["pattern"] =
            pattern.into();
    }
    let follow = &mut document["components"]["schemas"]["NewTicket"]["properties"]["follow"];
    (follow["minItems"], follow["maxItems"]) = (1.into(), TICKET_MAX_PATTERNS.into());
    order_groups(&mut document);
    for operation in operations_of(&mut document) {
        mend_parameters(operation);
        add_examples(operation);
    }
    let mut document = serde_json::to_string_pretty(&document).expect("JSON always serializes");
    document.push('\n');
    document
}

/// Names of what a client sends, and must not add to: the schemas that bodies of requests refer to.
fn sent_schemas(document: &mut Value) -> Vec<String> {
    let mut names = Vec::new();
    for operation in operations_of(document) {
        add_referred(&operation["requestBody"], &mut names);
    }
    names
}

fn add_referred(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let reference = fields.get("$ref").and_then(Value::as_str);
            let name = reference.and_then(|path| path.strip_prefix("#/components/schemas/"));
            names.extend(name.map(str::to_owned));
            fields.values().for_each(|field| add_referred(field, names));
        }
        Value::Array(values) => values.iter().for_each(|value| add_referred(value, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
    }
}

/// The order of the groups: what one needs first, first, and what deletes for good last. A page that shows them keeps it.
const GROUPS: [&str; 7] = [
    "Publish", "Stream", "History", "Topics", "Health", "Access", "Erase",
];

fn order_groups(document: &mut Value) {
    let groups = document["tags"].as_array_mut().expect("there are groups");
    groups.sort_by_key(|group| {
        GROUPS
            .iter()
            .position(|name| group["name"] == *name)
            .expect("GROUPS has them all")
    });
}

fn operations_of(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    let paths = document["paths"]
        .as_object_mut()
        .expect("there are paths")
        .values_mut();
    paths.flat_map(|path| {
        path.as_object_mut()
            .expect("a path has operations")
            .values_mut()
    })
}

/// Other spellings of a parameter are taken, and not shown: in the code they are the deprecated ones.
///
/// A list may be empty, and poem-openapi says that it is required. A page fills examples in: one key for all that is tried would make
/// the second event a duplicate of the first.
fn mend_parameters(operation: &mut Value) {
    let Some(parameters) = operation
        .get_mut("parameters")
        .and_then(|parameters| parameters.as_array_mut())
    else {
        return;
    };
    parameters.retain(|parameter| parameter["deprecated"] != true);
    for parameter in parameters {
        if parameter["schema"]["type"] == "array" {
            parameter["required"] = false.into();
        }
        if parameter["name"] == "Idempotency-Key"
            && let Some(schema) = parameter["schema"].as_object_mut()
        {
            schema.remove("example");
        }
    }
}

/// Answers of which a type alone makes a poor example: the operation, the status, and the answer.
const ANSWERS: [(&str, &str, &str); 7] = [
    (
        "publish",
        "201",
        r#"{"id":1,"topic":"greetings","type":"message","created_at":"2026-01-31T12:00:00.000Z"}"#,
    ),
    (
        "publish",
        "200",
        r#"{"id":1,"topic":"greetings","type":"message","created_at":"2026-01-31T12:00:00.000Z","key":"k","duplicate":true}"#,
    ),
    (
        "publish_raw",
        "201",
        r#"{"id":1,"topic":"greetings","type":"message","created_at":"2026-01-31T12:00:00.000Z"}"#,
    ),
    (
        "publish_raw",
        "200",
        r#"{"id":1,"topic":"greetings","type":"message","created_at":"2026-01-31T12:00:00.000Z","key":"k","duplicate":true}"#,
    ),
    (
        "history",
        "200",
        r#"{"events":[{"id":1,"topic":"greetings","type":"message","data":{"text":"hello"},"created_at":"2026-01-31T12:00:00.000Z"}],"first_id":1,"last_id":2,"next":"/events?limit=1&after=1","cursor":1}"#,
    ),
    (
        "erase_event",
        "200",
        r#"{"id":1,"topic":"greetings","type":"segno.erased","data":{"id":1},"created_at":"2026-01-31T12:00:00.000Z"}"#,
    ),
    (
        "erase_topic",
        "200",
        r#"{"id":2,"topic":"greetings","type":"segno.erased","data":{"topic":"greetings","through":1,"events":1},"created_at":"2026-01-31T12:00:00.000Z"}"#,
    ),
];

/// An answer has the example of its own status: each refusal its first code, and not that of another one.
fn add_examples(operation: &mut Value) {
    let id = operation["operationId"].clone();
    let answers = operation["responses"]
        .as_object_mut()
        .expect("an operation has answers");
    for (status, answer) in answers {
        let description = answer["description"].as_str().unwrap_or_default();
        let example = match ANSWERS
            .iter()
            .find(|it| (&id, status.as_str()) == (&it.0.into(), it.1))
        {
            Some((_, _, json)) => serde_json::from_str(json).ok(),
            None => problem::example_of(description),
        };
        let media = answer.get_mut("content").and_then(Value::as_object_mut);
        for (media_type, content) in media.into_iter().flatten() {
            if let Some(example) = &example
                && media_type.ends_with("json")
            {
                content["example"] = example.clone();
            }
        }
    }
}

pub(super) fn service(
    operations: Operations,
    public_url: Option<&PublicUrl>,
) -> OpenApiService<Operations, ()> {
    let service = OpenApiService::new(operations, "segno", env!("CARGO_PKG_VERSION")).description(
        "A persistent event hub. Publish over REST; follow over Server-Sent Events; resume where you were. Every answer has \
         two headers: `segno-log-id` is the UUID of the event log, and a cursor is valid only in the log it came from; `x-request-id` \
         repeats that of the request if it is 1 to 128 visible ASCII characters, else the hub makes one. A path that is \
         not in this document is refused with 404 `unknown_path`, and a method that a path does not have with 405 `method_not_allowed`.",
    );
    match public_url {
        Some(url) => service.server(url.to_string()),
        None => service,
    }
}

/// All groups, in the order of the document.
type Groups = (
    PublishApi,
    TutorialApi,
    FollowApi,
    TicketApi,
    HistoryApi,
    EraseApi,
    AccessApi,
    HealthApi,
    SnapshotApi,
);

/// The groups as one API.
pub(super) struct Operations(Option<Groups>);

impl Operations {
    /// The operations of a hub.
    pub(super) fn of(api: &Api) -> Self {
        let api = || api.clone();
        Self(Some((
            PublishApi(api()),
            TutorialApi(api()),
            FollowApi(api()),
            TicketApi(api()),
            HistoryApi(api()),
            EraseApi(api()),
            AccessApi(api()),
            HealthApi(api()),
            SnapshotApi(api()),
        )))
    }

    /// The operations without a hub behind them: enough to describe them.
    const DESCRIBED: Self = Self(None);
}

impl OpenApi for Operations {
    /// Two groups may have methods of one path, which poem-openapi would write as two entries of one name.
    ///
    /// What an operation needs is said here for all: a group has one need, as [`Need`] says.
    fn meta() -> Vec<MetaApi> {
        let mut paths: Vec<MetaPath> = Vec::new();
        for path in Groups::meta().into_iter().flat_map(|api| api.paths) {
            match paths.iter_mut().find(|known| known.path == path.path) {
                Some(known) => known.operations.extend(path.operations),
                None => paths.push(path),
            }
        }
        for path in &mut paths {
            for operation in &mut path.operations {
                let tag = operation.tags.first().copied().unwrap_or_default();
                let Some(needed) = in_words(Need::of(tag, &path.path)) else {
                    continue;
                };
                operation.security = vec![HashMap::from([(SECURITY_SCHEME, vec![])])];
                // Made once for each run, when the document is built.
                let described = operation.description.unwrap_or_default();
                operation.description = Some(format!("{described}\n\n{needed}").leak());
            }
        }
        vec![MetaApi { paths }]
    }

    fn register(registry: &mut Registry) {
        Groups::register(registry);
        let scheme = MetaSecurityScheme {
            ty: "http",
            description: Some(
                "A token of the access file, as `segno token add` prints it, or a JSON Web Token of an issuer in it. Without \
                 `--access` none is needed.",
            ),
            name: None,
            key_in: None,
            scheme: Some("bearer"),
            bearer_format: None,
            flows: None,
            openid_connect_url: None,
        };
        registry.create_security_scheme(SECURITY_SCHEME, scheme);
    }

    fn add_routes(self, routes: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {
        if let Some(groups) = self.0 {
            groups.add_routes(routes);
        }
    }
}

/// What a credential is called in the document.
const SECURITY_SCHEME: &str = "token";

fn in_words(need: Need) -> Option<String> {
    match need {
        Need::Nothing => None,
        Need::Right(right) => Some(format!("With `--access`, this needs the right `{right}`.")),
        Need::Operate => Some("With `--access`, this needs the right `operate`.".into()),
        Need::Credential => Some(
            "With `--access`, this needs a credential that is good, whatever it may do.".into(),
        ),
    }
}

#[derive(Tags)]
pub(super) enum Tag {
    /// Send events. A 2xx means that they are committed, synced to disk and announced.
    Publish,
    /// Follow events live, from where you left off.
    Stream,
    /// Read stored events.
    History,
    /// Find out which topics there are.
    Topics,
    /// For operators of the hub.
    Health,
    /// Learn what you may do.
    Access,
    /// Delete events for good, and tell every subscriber.
    Erase,
}

/// What every operation may ask.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) hub: Hub,
    pub(super) settings: Settings,
}

async fn filter(
    hub: &Hub,
    topics: Vec<Checked<TopicPattern>>,
    types: Vec<Checked<TypePattern>>,
) -> Result<Filter, Problem> {
    let topics: Vec<_> = all(topics)?.into_iter().map(|topic| topic.0).collect();
    let types: Vec<_> = all(types)?.into_iter().map(|of_type| of_type.0).collect();
    Ok(hub.log().scans().make_filter(&topics, &types).await?)
}
