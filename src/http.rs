//! The hub over HTTP: routes, the OpenAPI document, and one shape for every refusal.
//!
//! Handlers turn a request into words of the hub, ask the hub, and turn what it says into an answer. No SQL, and no rule
//! about events: those are in [`event`](crate::event).

mod api;
mod console;
mod cors;
mod failures;
mod frame;
mod health;
mod metrics;
mod opening;
mod operations;
mod problem;
mod request_id;
mod stats;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use poem::{
    Endpoint, IntoResponse, Request, Response, Route,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri},
};
use tracing::Instrument;

pub(crate) use self::api::{EventStream, Following, Framing, StreamKind, farewell, take_stream};
pub use self::{
    api::openapi_document,
    cors::{CorsOrigin, InvalidOrigin},
    opening::Opening,
};
use self::{
    api::{Api, PublishApi},
    cors::Cors,
    failures::Failures,
    operations::Operations,
    problem::{Code, PROBLEM_JSON, Problem, ProblemCause},
    request_id::RequestId,
};
use crate::{
    hub::{self, Hub},
    limits::{Limits, Place, Refusal},
    metrics::Counters,
};

/// Which log an answer is about: a cursor of one means nothing in another. On every answer.
const LOG_ID_HEADER: HeaderName = HeaderName::from_static("segno-log-id");

const EVENTS_PATH: &str = "/events";

/// What the HTTP side may be told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Silence after which a stream shows a sign of life.
    pub heartbeat: Duration,
    /// Whose pages may use the hub.
    pub cors_origins: Vec<CorsOrigin>,
    /// How much is taken; the figures show what was not.
    pub limits: Arc<Limits>,
}

/// All that the hub answers to. Each request carries the [`Place`] of its connection.
pub fn endpoint(hub: Hub, settings: Settings) -> HubEndpoint {
    let log_id = log_id_of(&hub);
    let refusals = hub.metrics().refusals.clone();
    let cors = Cors::of(&settings.cors_origins);
    let api = Api { hub, settings };
    let service = api::service(api::Operations::of(&api));
    let operations = Operations::of(&service.spec());
    let docs = service.swagger_ui();
    let spec = service.spec_endpoint();
    HubEndpoint {
        publish: PublishApi(api),
        operations,
        refusals,
        failures: Failures::new(),
        log_id,
        cors,
        routes: console::add_to(Route::new())
            .at("/openapi.json", poem::get(spec))
            .nest("/docs", docs)
            .nest("/", service),
    }
}

/// The routes, what is common to all answers, and a short way for the request that comes most often.
pub struct HubEndpoint {
    publish: PublishApi,
    operations: Operations,
    refusals: Counters,
    failures: Failures,
    log_id: HeaderValue,
    cors: Option<Cors>,
    routes: Route,
}

impl fmt::Debug for HubEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubEndpoint").finish_non_exhaustive()
    }
}

impl Endpoint for HubEndpoint {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let request_id = RequestId::of(&request);
        let method = request.method().clone();
        // What is the request's own holds the buffer that the next one is read into.
        let uri = match is_plain_publish(&request) {
            true => Uri::from_static(EVENTS_PATH),
            false => request.uri().clone(),
        };
        let cors = self.cors.as_ref();
        let cors_headers = cors.map(|cors| cors.headers(request.headers()));
        let mut response = match hub::is_traced() {
            // In a box: a future is moved about whole, with what it would need if it were traced.
            true => Box::pin(traced(&request_id, &method, &uri, self.answer(request))).await,
            false => self.answer(request).await,
        };
        count_refusal(&response, &self.refusals);
        if response.status().is_server_error() {
            self.failures.tell(&request_id, &method, &uri, &response);
        }
        let headers = response.headers_mut();
        headers.insert(request_id::HEADER, request_id.into_header());
        headers.insert(LOG_ID_HEADER, self.log_id.clone());
        if let Some(cors_headers) = cors_headers {
            headers.extend(cors_headers);
        }
        Ok(response)
    }
}

impl HubEndpoint {
    async fn answer(&self, request: Request) -> Response {
        if is_plain_publish(&request) {
            return self.publish.answer_publish(request).await;
        }
        if let Some(response) = self.cors.as_ref().and_then(|cors| cors.preflight(&request)) {
            return response;
        }
        // In a box: what the routes need would else be moved about with every event.
        Box::pin(answer(&self.routes, request, &self.operations)).await
    }
}

/// Whether it is a `POST /events`. With a query it goes the way that refuses unknown parameters.
fn is_plain_publish(request: &Request) -> bool {
    let uri = request.uri();
    request.method() == Method::POST && uri.path() == EVENTS_PATH && uri.query().is_none()
}

fn log_id_of(hub: &Hub) -> HeaderValue {
    HeaderValue::from_str(hub.log().id()).expect("a UUID has only letters, digits and '-'")
}

/// What stands on every answer, also on one that is given without a look at the request.
///
/// Where several origins are allowed, their pages cannot read such an answer.
pub(crate) fn headers_of_all(hub: &Hub, settings: &Settings) -> HeaderMap {
    let mut headers = HeaderMap::from_iter([(LOG_ID_HEADER, log_id_of(hub))]);
    if let Some(cors) = Cors::of(&settings.cors_origins) {
        headers.extend(cors.headers(&HeaderMap::new()));
    }
    headers
}

/// What a connection without a place is told.
pub(crate) fn refusal(refusal: Refusal) -> Response {
    Problem::from(refusal).into_response()
}

/// Counts a connection that has no place, whether it is told or not.
pub(crate) fn count(refusal: Refusal, refusals: &Counters) {
    count_code(Code::of(refusal.limit), refusals);
}

fn count_refusal(response: &Response, refusals: &Counters) {
    if let Some(refused) = response.extensions().get::<ProblemCause>() {
        count_code(refused.code, refusals);
    }
}

fn count_code(code: Code, refusals: &Counters) {
    refusals.get_or_create(&[("code", code.as_str())]).inc();
}

/// Waits for an answer in a span of its own, and writes a line when it is there. Of the address only the path is told: a query
/// may hold a token.
async fn traced(
    request_id: &RequestId,
    method: &Method,
    uri: &Uri,
    answer: impl Future<Output = Response>,
) -> Response {
    let begun = Instant::now();
    let (id, path) = (request_id.as_str(), uri.path());
    let span = tracing::debug_span!(
        "request",
        otel.name = %format_args!("{method} {path}"),
        otel.kind = "server",
        request_id = id,
        http.request.method = %method,
        url.path = path,
        http.response.status_code = tracing::field::Empty,
    );
    let answer = hub::for_request(request_id.to_shared(), answer).instrument(span.clone());
    let response = answer.await;
    let status = response.status().as_u16();
    span.record("http.response.status_code", status);
    let duration_ms = begun.elapsed().as_secs_f64() * 1000.0;
    tracing::debug!(request_id = id, %method, path, status, duration_ms, "request");
    response
}

/// Asks the routes, and tells what poem itself refused in our shape.
async fn answer<E: Endpoint>(
    endpoint: &E,
    mut request: Request,
    operations: &Operations,
) -> Response {
    if request.uri().path() == "/" {
        *request.uri_mut() = Uri::from_static(console::PAGE);
    }
    join_topic(&mut request);
    if let Some(problem) = operations.find_unknown_parameter(&request) {
        return problem.into_response();
    }
    let uri = request.uri().clone();
    let response = match endpoint.call(request).await {
        Ok(response) => response.into_response(),
        // Not by way of `poem::Error`, which would lose the code.
        Err(error) => match error.downcast::<Problem>() {
            Ok(problem) => problem.into_response(),
            Err(error) => error.into_response(),
        },
    };
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error())
        || response.content_type() == Some(PROBLEM_JSON)
    {
        return response;
    }
    let text = response.into_body().into_string().await.unwrap_or_default();
    problem::translate(status, &text, operations.allowed(uri.path())).into_response()
}

/// A topic may have slashes in it, and a path parameter may not: `/topics/a/b` is read as `/topics/a%2Fb`.
fn join_topic(request: &mut Request) {
    const PREFIX: &str = "/topics/";
    let Some(topic) = request
        .uri()
        .path()
        .strip_prefix(PREFIX)
        .filter(|topic| topic.contains('/'))
    else {
        return;
    };
    let path = format!("{PREFIX}{}", topic.replace('/', "%2F"));
    let path_and_query = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    if let Ok(uri) = path_and_query.parse() {
        *request.uri_mut() = uri;
    }
}

/// The place of the connection that a request came by.
fn place_of(request: &Request) -> &Place {
    request
        .data::<Arc<Place>>()
        .expect("the server puts it into every request")
}

/// All that a request's `X-Forwarded-For` says, if it has one. Where the header is there more than once, the last is the newest.
fn forwarded(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all("x-forwarded-for").iter();
    let hops: Vec<_> = values.map(|value| value.to_str().unwrap_or("?")).collect();
    (!hops.is_empty()).then(|| hops.join(","))
}

/// Whether a head, which nobody has parsed, has an `X-Forwarded-For`.
pub(crate) fn is_forwarded(head: &[u8]) -> bool {
    let name = b"\nx-forwarded-for:";
    head.windows(name.len())
        .any(|bytes| bytes.eq_ignore_ascii_case(name))
}
