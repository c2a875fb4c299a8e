//! Whether the hub runs, and whether it takes events.

use poem::{IntoResponse, Response};
use poem_openapi::{
    ApiResponse,
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
};
use serde_json::json;

use super::problem::{Code, Refusals};

/// `{"status":"ok"}`.
#[derive(Debug)]
pub(super) struct Healthy;

impl IntoResponse for Healthy {
    fn into_response(self) -> Response {
        Response::builder()
            .content_type("application/json")
            .body(json!({"status": "ok"}).to_string())
    }
}

impl ApiResponse for Healthy {
    fn meta() -> MetaResponses {
        let schema = MetaSchema {
            example: Some(json!({"status": "ok"})),
            ..MetaSchema::new("object")
        };
        MetaResponses {
            responses: vec![MetaResponse {
                description: "Yes.",
                status: Some(200),
                status_range: None,
                content: vec![MetaMediaType {
                    content_type: "application/json",
                    schema: MetaSchemaRef::Inline(Box::new(schema)),
                }],
                headers: vec![],
            }],
        }
    }

    fn register(_: &mut Registry) {}
}

/// The refusals of what only looks at the hub: none of its own.
#[derive(Debug)]
pub(super) struct Looking;

impl Refusals for Looking {
    const CODES: &'static [Code] = &[];
}

/// The refusals of `GET /health/ready`.
#[derive(Debug)]
pub(super) struct Readiness;

impl Refusals for Readiness {
    const CODES: &'static [Code] = &[
        Code::Starting,
        Code::Busy,
        Code::Draining,
        Code::CommitsFail,
        Code::CanaryLate,
    ];
}

/// The refusals of `GET /health/live`.
#[derive(Debug)]
pub(super) struct Liveness;

impl Refusals for Liveness {
    const CODES: &'static [Code] = &[Code::Stuck];
}
