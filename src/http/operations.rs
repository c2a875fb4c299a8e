//! Which paths, methods and parameters there are, read from the OpenAPI document.

use percent_encoding::percent_decode_str;
use poem::{Request, http::Method};

use super::problem::{Code, Problem};
use crate::rights::Right;

/// Bytes of a parameter's name that a refusal repeats. The longest that there is has 13, and a token has 70.
const NAME_MAX_BYTES: usize = 32;

/// What a caller must have to be let in to an operation at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// It is public.
    Nothing,
    /// This right, to some topic at least.
    Right(Right),
    /// The right to read the hub's figures.
    Operate,
    /// A credential that is good, whatever it may do, or that everybody may do something.
    Credential,
}

impl Need {
    /// What the operations of a group need. The groups are the tags of the document, so a new operation cannot forget it.
    pub(super) fn of(tag: &str, path: &str) -> Self {
        match tag {
            _ if path == "/health/live" => Self::Nothing,
            "Publish" => Self::Right(Right::Publish),
            "Stream" | "History" | "Topics" => Self::Right(Right::Follow),
            "Erase" => Self::Right(Right::Erase),
            "Health" => Self::Operate,
            "Access" => Self::Credential,
            other => panic!("say what the operations of the group {other} need"),
        }
    }
}

/// Which methods each path takes, and which query parameters each method, read from the document.
pub(super) struct Operations(Vec<DocumentedPath>);

struct DocumentedPath {
    template: Vec<String>,
    methods: Vec<DocumentedMethod>,
}

struct DocumentedMethod {
    /// In capital letters.
    name: String,
    query_parameters: Vec<String>,
    need: Need,
}

impl Operations {
    pub(super) fn of(document: &str) -> Self {
        let document: serde_json::Value =
            serde_json::from_str(document).expect("the document is JSON");
        let paths = document["paths"]
            .as_object()
            .expect("the document has paths");
        let documented = paths.iter().map(|(path, operations)| DocumentedPath {
            template: path.split('/').map(str::to_owned).collect(),
            methods: operations
                .as_object()
                .expect("a path has operations")
                .iter()
                .map(|(method, operation)| DocumentedMethod {
                    name: method.to_uppercase(),
                    query_parameters: query_parameters(operation),
                    need: Need::of(operation["tags"][0].as_str().unwrap_or_default(), path),
                })
                .collect(),
        });
        Self(documented.collect())
    }

    fn find(&self, path: &str) -> Option<&DocumentedPath> {
        let segments: Vec<_> = path.split('/').collect();
        self.0.iter().find(|documented| {
            documented.template.len() == segments.len()
                && documented
                    .template
                    .iter()
                    .zip(&segments)
                    .all(|(part, segment)| part == segment || part.starts_with('{'))
        })
    }

    fn find_method(&self, request: &Request) -> Option<&DocumentedMethod> {
        let method = match *request.method() {
            Method::HEAD => Method::GET,
            ref method => method.clone(),
        };
        let mut methods = self.find(request.uri().path())?.methods.iter();
        methods.find(|documented| documented.name == method.as_str())
    }

    /// What the operation that `request` asks for needs; `None` if there is no such operation.
    pub(super) fn need(&self, request: &Request) -> Option<Need> {
        Some(self.find_method(request)?.need)
    }

    /// Whether there is anything at this path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.find(path).is_some()
    }

    pub(super) fn allowed(&self, path: &str) -> Option<String> {
        // What is not in the document is read only: the document itself and its page.
        Some(self.find(path).map_or("GET".into(), |documented| {
            let methods: Vec<&str> = documented
                .methods
                .iter()
                .map(|method| method.name.as_str())
                .collect();
            methods.join(", ")
        }))
    }

    /// An unknown query parameter. It is not ignored, because `topics=orders` would then get every topic.
    ///
    /// Costs nothing where there is no query.
    pub(super) fn find_unknown_parameter(&self, request: &Request) -> Option<Problem> {
        let query = request.uri().query()?;
        let known = &self.find_method(request)?.query_parameters;
        let (unknown, _) = form_urlencoded::parse(query.as_bytes())
            .find(|(name, _)| !known.iter().any(|known| known == name))?;
        let unknown = named(&unknown);
        let detail = match known.is_empty() {
            true => format!("{unknown} is unknown; this operation has none"),
            false => format!(
                "{unknown} is unknown; this operation has {}",
                known.join(", ")
            ),
        };
        Some(Problem::new(Code::UnknownParameter, detail))
    }
}

/// A query that is not UTF-8 when it is decoded. poem would put replacement characters in, and look for another topic.
pub(super) fn find_unreadable_query(request: &Request) -> Option<Problem> {
    let unreadable = request
        .uri()
        .query()?
        .split('&')
        .find(|pair| percent_decode_str(pair).decode_utf8().is_err())?;
    let (name, _) = unreadable.split_once('=').unwrap_or((unreadable, ""));
    let detail = format!("{} is not UTF-8 when it is decoded", named(name));
    Some(Problem::new(Code::InvalidParameter, detail))
}

/// A parameter in words. Never its value, which may be a ticket; nor a name that is longer than any, which may be a token.
fn named(name: &str) -> String {
    match name.len() <= NAME_MAX_BYTES {
        true => format!("parameter '{name}'"),
        false => "a parameter with a long name".into(),
    }
}

fn query_parameters(operation: &serde_json::Value) -> Vec<String> {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    parameters
        .filter(|parameter| parameter["in"] == "query")
        .filter_map(|parameter| parameter["name"].as_str())
        .map(str::to_owned)
        .collect()
}
