//! Which paths, methods and parameters there are, read from the OpenAPI document.

use poem::Request;

use super::problem::{Code, Problem};

/// Which methods each path takes, and which query parameters each method, read from the document.
pub(super) struct Operations(Vec<DocumentedPath>);

struct DocumentedPath {
    template: Vec<String>,
    /// Methods, in capital letters, with the names of their query parameters.
    methods: Vec<(String, Vec<String>)>,
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
                .map(|(method, operation)| (method.to_uppercase(), query_parameters(operation)))
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

    pub(super) fn allowed(&self, path: &str) -> Option<String> {
        // What is not in the document is read only: the document itself and its page.
        Some(self.find(path).map_or("GET".into(), |documented| {
            let methods: Vec<&str> = documented
                .methods
                .iter()
                .map(|(method, _)| method.as_str())
                .collect();
            methods.join(", ")
        }))
    }

    /// An unknown query parameter. It is not ignored, because `topics=orders` would then get every topic.
    ///
    /// Costs nothing where there is no query.
    pub(super) fn find_unknown_parameter(&self, request: &Request) -> Option<Problem> {
        request.uri().query()?;
        let (_, known) = self
            .find(request.uri().path())?
            .methods
            .iter()
            .find(|(method, _)| method == request.method().as_str())?;
        let given: Vec<(String, String)> = request.params().unwrap_or_default();
        let (unknown, _) = given.iter().find(|(name, _)| !known.contains(name))?;
        let detail = match known.is_empty() {
            true => format!("parameter '{unknown}' is unknown; this operation has none"),
            false => format!(
                "parameter '{unknown}' is unknown; this operation has {}",
                known.join(", ")
            ),
        };
        Some(Problem::new(Code::UnknownParameter, detail))
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
