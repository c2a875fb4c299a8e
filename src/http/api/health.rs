//! Whether the hub runs, and whether it takes events.

use poem_openapi::{ApiResponse, Enum, Object, OpenApi};
use serde::Serialize;

use super::{Api, Tag};
use crate::http::{
    cluster::ClusterFigures,
    metrics::{Figures, MetricsText, ReadMetrics},
    problem::{Code, Codes, Problem, ProblemOf},
    schema::Json,
    stats::HubStats,
};

/// The operations for operators.
#[derive(Clone)]
pub(in crate::http) struct HealthApi(pub(in crate::http) Api);

#[OpenApi]
impl HealthApi {
    /// Liveness
    ///
    /// 503 when the process must be restarted: the writer has not answered the hub's own pings for twelve times
    /// `--canary`, by default a minute.
    #[oai(
        path = "/health/live",
        method = "get",
        tag = "Tag::Health",
        operation_id = "live"
    )]
    async fn live(&self) -> Result<Healthy, ProblemOf<Liveness>> {
        match self.0.hub.is_stuck() {
            true => {
                Err(Problem::new(Code::Stuck, "the writer stopped working; restart the hub").into())
            }
            false => Ok(Healthy::yes()),
        }
    }

    /// Readiness
    ///
    /// 503 with the reason when the hub cannot take an event now: it is stopping, its publish queue is full, the last commit
    /// failed and a retry fails too, or its own pings have not been answered for three times `--canary`.
    #[oai(
        path = "/health/ready",
        method = "get",
        tag = "Tag::Health",
        operation_id = "ready"
    )]
    async fn ready(&self) -> Result<Healthy, ProblemOf<Readiness>> {
        self.0.hub.ready().await?;
        Ok(Healthy::yes())
    }

    /// Statistics
    ///
    /// Cheap for any number of events: the console at `/` reads it every two seconds.
    #[oai(
        path = "/stats",
        method = "get",
        tag = "Tag::Health",
        operation_id = "stats"
    )]
    async fn stats(&self) -> Result<HubStats, ProblemOf<Looking>> {
        let stats = self.0.hub.stats().await;
        let cluster = ClusterFigures::of(&self.0.hub);
        let metrics = self.0.hub.metrics();
        Ok(HubStats::of(&stats, cluster, &self.0.settings, metrics))
    }

    /// Metrics for Prometheus
    ///
    /// Can be scraped every few seconds. Counters begin at zero when the hub starts.
    #[oai(
        path = "/metrics",
        method = "get",
        tag = "Tag::Health",
        operation_id = "metrics"
    )]
    async fn metrics(&self) -> Result<MetricsText, ProblemOf<ReadMetrics>> {
        let figures = Figures::of(&self.0.hub, &self.0.settings.limits).await?;
        Ok(MetricsText::Read(figures, "no-store".into()))
    }
}

/// Whether the hub is well.
#[derive(Debug, Serialize, Object)]
pub(in crate::http) struct Health {
    /// A hub that is not well answers with a problem.
    status: HealthStatus,
}

/// The only answer that is not a problem.
#[derive(Debug, Serialize, Enum)]
#[serde(rename_all = "lowercase")]
#[oai(rename_all = "lowercase")]
enum HealthStatus {
    Ok,
}

/// The answer of `GET /health/live` and `GET /health/ready`.
#[derive(Debug, ApiResponse)]
pub(in crate::http) enum Healthy {
    /// It is.
    #[oai(status = 200)]
    Yes(Json<Health>),
}

impl Healthy {
    /// It is well.
    pub(in crate::http) fn yes() -> Self {
        Self::Yes(Json::of(&Health {
            status: HealthStatus::Ok,
        }))
    }
}

/// The refusals of `GET /stats`: none of its own.
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
        Code::NotJoined,
        Code::CanaryLate,
    ];
}

/// The refusals of `GET /health/live`.
#[derive(Debug)]
pub(super) struct Liveness;

impl Codes for Liveness {
    const CODES: &'static [Code] = &[Code::Stuck];
    const RIGHTS: &'static [Code] = &[];
}
