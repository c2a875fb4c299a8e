//! The hub in figures, for whoever runs it.

use std::sync::Arc;

use poem::{IntoResponse, Response, http::header};
use poem_openapi::{
    ApiResponse,
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
};
use serde_json::{Value, json};

use super::problem::Code;
use crate::{
    hub::Stats,
    limits::{Limit, Limits},
    metrics::Metrics,
};

/// The answer of `GET /stats`.
///
/// Shape: `{"version":"0.1.0","log_id":"…","uptime_seconds":60,"subscribers":2,"events":9,"first_id":1,"last_id":9,"file_bytes":4096,
/// "wal_bytes":0,"canary_ms":0.4,"connections":3,"refused":{"connections":0,"connections_of_address":0,
/// "streams_of_address":0,"events_of_address":0,"late_heads":0}}`.
#[derive(Debug)]
pub(super) struct HubStats {
    pub(super) hub: Stats,
    pub(super) metrics: Metrics,
    pub(super) limits: Arc<Limits>,
}

impl IntoResponse for HubStats {
    fn into_response(self) -> Response {
        let stats = self.hub;
        let refused = |limit| {
            let label = [("code", Code::of(limit).as_str())];
            self.metrics.refusals.get_or_create(&label).get()
        };
        let body = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "log_id": &*stats.log_id,
            "uptime_seconds": stats.uptime.as_secs(),
            "subscribers": self.limits.streams(),
            "events": stats.events,
            "first_id": stats.bounds.first_id,
            "last_id": stats.bounds.last_id,
            "file_bytes": stats.size.file_bytes,
            "wal_bytes": stats.size.wal_bytes,
            "canary_ms": stats.canary.as_secs_f64() * 1000.0,
            "connections": self.limits.connections(),
            "refused": {
                "connections": refused(Limit::Connections),
                "connections_of_address": refused(Limit::ConnectionsOfAddress),
                "streams_of_address": refused(Limit::StreamsOfAddress),
                "events_of_address": refused(Limit::EventsOfAddress),
                "late_heads": self.metrics.late_heads.get(),
            },
        });
        Response::builder()
            .content_type("application/json")
            .header(header::CACHE_CONTROL, "no-store")
            .body(body.to_string())
    }
}

fn stats_schema() -> MetaSchema {
    let field = |schema: MetaSchema, description, example: Value| {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            description: Some(description),
            example: Some(example),
            ..schema
        }))
    };
    let number = |description, example: u64| {
        let schema = MetaSchema::new_with_format("integer", "int64");
        field(schema, description, json!(example))
    };
    let properties = vec![
        (
            "version",
            field(
                MetaSchema::new("string"),
                "The version of the hub.",
                json!(env!("CARGO_PKG_VERSION")),
            ),
        ),
        (
            "log_id",
            field(
                MetaSchema::new("string"),
                "The log's own id: a cursor of one log means nothing in another.",
                json!("5f6c1d0e-8f0b-4c7e-9d43-0b8a0d6f5a11"),
            ),
        ),
        (
            "uptime_seconds",
            number("How long it has been running.", 86_400),
        ),
        ("subscribers", number("Streams that are open.", 2)),
        ("events", number("Events that are kept.", 1000)),
        (
            "first_id",
            number("The oldest event kept. Above `last_id` when nothing is.", 1),
        ),
        (
            "last_id",
            number(
                "The newest event committed; 0 if there never was one.",
                1000,
            ),
        ),
        ("file_bytes", number("Size of the file.", 262_144)),
        (
            "wal_bytes",
            number(
                "Size of the newest commits, which stand beside the file until they are copied into it.",
                32_768,
            ),
        ),
        ("connections", number("Connections that are open.", 3)),
        ("refused", MetaSchemaRef::Inline(Box::new(refused_schema()))),
        (
            "canary_ms",
            field(
                MetaSchema::new("number"),
                "Time in which what the hub published to itself came back; 0 before the first time.",
                json!(0.4),
            ),
        ),
    ];
    MetaSchema {
        description: Some("The hub in figures."),
        required: properties.iter().map(|(name, _)| *name).collect(),
        properties,
        ..MetaSchema::new("object")
    }
}

fn refused_schema() -> MetaSchema {
    let number = |description, example: u64| {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            description: Some(description),
            example: Some(json!(example)),
            ..MetaSchema::new_with_format("integer", "int64")
        }))
    };
    let properties = vec![
        (
            "connections",
            number("Connections over the limit in all.", 0),
        ),
        (
            "connections_of_address",
            number("Connections over the limit of their address.", 0),
        ),
        (
            "streams_of_address",
            number("Streams over the limit of their address.", 0),
        ),
        (
            "events_of_address",
            number("Publishing requests over the rate of their address.", 0),
        ),
        (
            "late_heads",
            number(
                "Connections that ended because no head of a request came in time, those that were idle too.",
                4,
            ),
        ),
    ];
    MetaSchema {
        description: Some("How often clients were refused since the start, by limit."),
        required: properties.iter().map(|(name, _)| *name).collect(),
        properties,
        ..MetaSchema::new("object")
    }
}

impl ApiResponse for HubStats {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The figures of this moment.",
                status: Some(200),
                status_range: None,
                content: vec![MetaMediaType {
                    content_type: "application/json",
                    schema: MetaSchemaRef::Reference("Stats".into()),
                }],
                headers: vec![],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        registry.create_schema::<Self, _>("Stats".into(), |_| stats_schema());
    }
}
