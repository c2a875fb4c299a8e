//! Whether the hub runs, and whether it takes events.

use poem::{IntoResponse, Response};
use poem_openapi::{
    ApiResponse, OpenApi,
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
};
use serde_json::json;

use super::{
    api::{Api, Tag},
    metrics::{Figures, ReadMetrics},
    problem::{Code, Codes, Problem, ProblemOf},
    stats::HubStats,
};

/// The operations for whoever runs the hub.
#[derive(Clone)]
pub(in crate::http) struct HealthApi(pub(in crate::http) Api);

#[OpenApi]
impl HealthApi {
    /// Does it run?
    ///
    /// 503 when the process should be restarted: the hub publishes to itself, and nothing has come back for twelve times
    /// `--canary`, which is a minute unless it was changed.
    #[oai(
        path = "/health/live",
        method = "get",
        tag = "Tag::Health",
        operation_id = "live"
    )]
    async fn live(&self) -> Result<Healthy, ProblemOf<Liveness>> {
        match self.0.hub.is_stuck() {
            true => Err(Problem::new(Code::Stuck, "the writer does not work any more").into()),
            false => Ok(Healthy),
        }
    }

    /// Would it take an event now?
    ///
    /// 503 with the reason when it would not: it stops, too many events wait, the last commit failed and so does another try,
    /// or what the hub publishes to itself has not come back for three times `--canary`.
    #[oai(
        path = "/health/ready",
        method = "get",
        tag = "Tag::Health",
        operation_id = "ready"
    )]
    async fn ready(&self) -> Result<Healthy, ProblemOf<Readiness>> {
        self.0.hub.ready().await?;
        Ok(Healthy)
    }

    /// The hub in figures
    ///
    /// Cheap to ask for, however many events there are: the page at `/` asks every two seconds.
    #[oai(
        path = "/stats",
        method = "get",
        tag = "Tag::Health",
        operation_id = "stats"
    )]
    async fn stats(&self) -> Result<HubStats, ProblemOf<Looking>> {
        Ok(HubStats {
            hub: self.0.hub.stats().await,
            metrics: self.0.hub.metrics().clone(),
            limits: self.0.settings.limits.clone(),
        })
    }

    /// The hub in figures, for Prometheus
    ///
    /// To be scraped every few seconds. Counters begin at zero when the hub starts.
    #[oai(
        path = "/metrics",
        method = "get",
        tag = "Tag::Health",
        operation_id = "metrics"
    )]
    async fn metrics(&self) -> Result<Figures, ProblemOf<ReadMetrics>> {
        Ok(Figures::of(&self.0.hub, &self.0.settings.limits).await?)
    }
}

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

impl Codes for Looking {
    const CODES: &'static [Code] = &[];
}

/// The refusals of `GET /health/ready`.
#[derive(Debug)]
pub(super) struct Readiness;

impl Codes for Readiness {
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

impl Codes for Liveness {
    const CODES: &'static [Code] = &[Code::Stuck];
}
