//! The hub over HTTP: what is common to all answers, and which way a request goes.
//!
//! Handlers turn a request into words of the hub, ask the hub, and turn what it says into an answer. No SQL, and no rule
//! about events: those are in [`event`](crate::event).

mod accept;
mod answer;
mod api;
mod caller;
mod cluster;
mod console;
mod content_coding;
mod cors;
mod credential;
mod cross_site;
mod docs;
mod event_stream;
mod failures;
mod frame;
#[cfg(test)]
mod large_requests;
mod metrics;
mod opening;
mod operations;
mod problem;
mod public_url;
mod refused_stream;
mod request_id;
mod schema;
mod stats;
#[cfg(test)]
pub(crate) mod test_endpoint;
mod turn;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use poem::{
    Endpoint, IntoResponse, Request, Response, Route,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
};
use tracing::Instrument;

pub use self::{
    answer::Answer,
    api::{Following, openapi_document},
    cors::{CorsOrigin, InvalidOrigin},
    opening::Opening,
    problem::codes,
    public_url::{InvalidPublicUrl, PublicUrl},
};
use self::{
    api::{Api, FollowApi, PublishApi},
    caller::Caller,
    content_coding::ContentCoding,
    cors::Cors,
    credential::RefusedCredential,
    cross_site::CrossSite,
    failures::{Failures, RefusedCredentials},
    operations::{Need, Operations},
    problem::{Code, PROBLEM_JSON, Problem, ProblemCause},
    refused_stream::RefusedStream,
    request_id::RequestId,
};
pub(crate) use self::{
    caller::is_forwarded,
    event_stream::{EventStream, StreamKind},
    failures::OneASecond,
    turn::Turn,
};
use crate::{
    auth::Access,
    hub::{self, Hub, Origin},
    limits::{LimitHit, Limits},
    metrics::Counters,
    rights::Right,
    turns::Turns,
};

/// Which log an answer is about: a cursor of one means nothing in another. On every answer.
const LOG_ID_HEADER: HeaderName = HeaderName::from_static("segno-log-id");

/// Bytes of a query from which on a request waits for its turn: 150 topics, 0.1 ms of work.
const LARGE_QUERY_BYTES: usize = 2000;

const EVENTS_PATH: &str = "/events";

const STREAM_PATH: &str = "/sse";

/// What the path of a topic begins with.
const TOPIC_PREFIX: &str = "/topics/";

const DOCS_PATH: &str = "/docs";

const DOCUMENT_PATH: &str = "/openapi.json";

/// What the HTTP side may be told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Silence after which a stream sends a heartbeat.
    pub heartbeat: Duration,
    /// Whose pages may use the hub.
    pub cors_origins: Vec<CorsOrigin>,
    /// Whether their pages may have the browser add what it knows for the hub.
    pub cors_credentials: bool,
    /// Whether pages are packed for clients that ask for it.
    pub packs_pages: bool,
    /// Address under which clients reach the hub.
    pub public_url: Option<PublicUrl>,
    /// Names of the hub beside that of its address, in lower case: those that its certificate was ordered for.
    pub names: Vec<String>,
    /// What is kept, in words, for the figures. Empty where everything is.
    pub kept: Vec<String>,
    /// How much is taken; the figures show what was not.
    pub limits: Arc<Limits>,
    /// Who may do what.
    pub access: Arc<Access>,
}

/// Everything that the hub answers. Each request carries the [`ConnectionPermit`](crate::limits::ConnectionPermit) of its connection.
pub fn endpoint(hub: Hub, settings: Settings) -> HubEndpoint {
    let headers_of_all = HeadersOfAll::of(&hub, &settings);
    let refusals = hub.metrics().refusals.clone();
    let (access, packs_pages) = (settings.access.clone(), settings.packs_pages);
    let turns = settings.limits.turns.clone();
    let cross_site = CrossSite {
        public: settings.public_url.clone(),
        names: settings.names.clone(),
        asks_host: access.is_open(),
    };
    let api = Api { hub, settings };
    let service = api::service(api::Operations::of(&api), api.settings.public_url.as_ref());
    let operations = Operations::of(&service.spec());
    let document = api::document(&service);
    let docs = docs::page(&service.swagger_ui_html(), api.settings.public_url.as_ref());
    HubEndpoint {
        publish: PublishApi(api.clone()),
        follow: FollowApi(api),
        access,
        cross_site,
        operations,
        refusals,
        failures: Failures::default(),
        refused_credentials: RefusedCredentials::default(),
        headers_of_all,
        packs_pages,
        turns,
        routes: console::add_to(Route::new())
            .at(DOCUMENT_PATH, poem::get(json_page(document)))
            .nest(DOCS_PATH, Route::new().at("/", poem::get(docs)))
            .nest("/", service),
    }
}

/// The routes, what is common to all answers, and the short ways: of the request that comes most often, and of streams.
pub struct HubEndpoint {
    publish: PublishApi,
    follow: FollowApi,
    access: Arc<Access>,
    cross_site: CrossSite,
    operations: Operations,
    refusals: Counters,
    failures: Failures,
    refused_credentials: RefusedCredentials,
    headers_of_all: HeadersOfAll,
    packs_pages: bool,
    turns: Turns,
    routes: Route,
}

impl fmt::Debug for HubEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubEndpoint").finish_non_exhaustive()
    }
}

impl Endpoint for HubEndpoint {
    type Output = Answer;

    async fn call(&self, mut request: Request) -> poem::Result<Answer> {
        let found = Caller::find(&mut request, &self.access).await;
        let request_id = RequestId::of(&request);
        let method = request.method().clone();
        // What is the request's own holds the buffer that the next one is read into.
        let uri = match is_plain_publish(&request) {
            true => Uri::from_static(EVENTS_PATH),
            false => request.uri().clone(),
        };
        let cors_headers = self.headers_of_all.cors_headers(request.headers());
        let mut answer = match hub::is_traced() {
            // In a box: a future is moved about whole, with what it would need if it were traced.
            true => Box::pin(self.answer_traced(&request_id, &method, &uri, request, found)).await,
            false => self.answer(request, found).await,
        };
        if let Some(refusal) = answer.head().extensions().get::<ProblemCause>() {
            count_code(refusal.code, &self.refusals);
            self.refused_credentials.log(refusal);
        }
        if is_failure(&answer) {
            self.failures.log(&request_id, &method, &uri, answer.head());
        }
        let headers = answer.headers_mut();
        headers.insert(request_id::HEADER, request_id.into_header());
        self.headers_of_all.put_on(headers, cors_headers);
        Ok(answer)
    }
}

impl HubEndpoint {
    fn cors(&self) -> Option<&Cors> {
        self.headers_of_all.cors.as_ref()
    }

    async fn answer(&self, mut request: Request, found: Result<(), RefusedCredential>) -> Answer {
        if let Err(problem) =
            self.cross_site
                .check(&request, Caller::of(&request).peer, self.cors())
        {
            return problem.into_response().into();
        }
        if is_plain_publish(&request) {
            return match self.let_in(&request, Need::Right(Right::Publish), found) {
                Ok(()) => self.publish.answer_publish(request).await.into(),
                Err(problem) => problem.into_response().into(),
            };
        }
        if let Some(response) = self.cors().and_then(|cors| cors.preflight(&request)) {
            return response.into();
        }
        join_topic(&mut request);
        let let_in = self
            .need(&request)
            .and_then(|need| self.let_in(&request, need, found));
        if let Err(problem) = let_in {
            return problem.into_response().into();
        }
        let query_bytes = request.uri().query().map_or(0, str::len);
        if query_bytes >= LARGE_QUERY_BYTES {
            self.turns.next().await;
        }
        if let Some(problem) = operations::find_unreadable_query(&request) {
            return problem.into_response().into();
        }
        if let Some(problem) = self.operations.find_unknown_parameter(&request) {
            return problem.into_response().into();
        }
        if is_follow(&request) {
            return Box::pin(self.follow.answer_follow(request)).await;
        }
        let is_public = is_public(request.uri().path());
        let coding = ContentCoding::wanted(request.headers());
        if request.method() == Method::HEAD {
            // poem would forget what the body is like. It is not sent: the server drops it.
            request.set_method(Method::GET);
        }
        // In a box: what the routes need would else be moved about with every event.
        let answered = Box::pin(answer(&self.routes, request, &self.operations)).await;
        let mut answered = match self.packs_pages {
            true => content_coding::pack(answered, coding, &self.turns),
            false => answered,
        };
        if is_public {
            protect_page(answered.headers_mut());
        }
        answered.into()
    }

    /// What a request needs. No other way leads to the routes: what neither the document nor the list of public paths has is
    /// not there, whatever the routes say.
    fn need(&self, request: &Request) -> Result<Need, Problem> {
        let path = request.uri().path();
        match self.operations.need(request) {
            Some(need) => Ok(need),
            None if is_public(path) => Ok(Need::Nothing),
            None => {
                let status = match self.operations.has(path) {
                    true => StatusCode::METHOD_NOT_ALLOWED,
                    false => StatusCode::NOT_FOUND,
                };
                let allowed = self.operations.allowed(path);
                let advice = match path == STREAM_PATH {
                    true => "; publish with POST /events or POST /topics/{topic}",
                    false => "",
                };
                Err(problem::translate(status, advice, allowed))
            }
        }
    }

    /// Refuses a request whose credential is not good, or not enough for anything of this kind.
    fn let_in(
        &self,
        request: &Request,
        need: Need,
        found: Result<(), RefusedCredential>,
    ) -> Result<(), Problem> {
        let caller = Caller::of(request);
        match found {
            Err(refused) if need != Need::Nothing => Err(caller.invalid(refused)),
            _ => caller.enter(need),
        }
    }

    /// Answers in a span of its own, and logs a line when it is done. Of the address only the path is logged: a query may hold
    /// a token.
    async fn answer_traced(
        &self,
        request_id: &RequestId,
        method: &Method,
        uri: &Uri,
        mut request: Request,
        found: Result<(), RefusedCredential>,
    ) -> Answer {
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
        let origin = Origin::request(request_id.to_shared(), span.clone());
        request.extensions_mut().insert(origin);
        let answer = self.answer(request, found).instrument(span.clone()).await;
        let status = answer.status().as_u16();
        span.record("http.response.status_code", status);
        let duration_ms = milliseconds(begun.elapsed());
        tracing::debug!(request_id = id, %method, path, status, duration_ms, "request");
        answer
    }
}

/// Whether everybody may read what is at this path: the console, the docs, and the document. `/health/live` is in the document.
fn is_public(path: &str) -> bool {
    console::has(path)
        || path == DOCUMENT_PATH
        || path
            .strip_prefix(DOCS_PATH)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Keeps a page of the hub out of frames of others, its parts from being taken for what they are not, and its address, which may
/// have a ticket in it, from other sites.
fn protect_page(headers: &mut HeaderMap) {
    let framing = HeaderValue::from_static("frame-ancestors 'none'");
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(framing);
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Whether it is a `POST /events`. With a query it goes the way that refuses unknown parameters.
fn is_plain_publish(request: &Request) -> bool {
    let uri = request.uri();
    request.method() == Method::POST && uri.path() == EVENTS_PATH && uri.query().is_none()
}

/// Whether it is a `GET /sse` or a `GET /topics/{topic}`, whose answer is no response: poem passes only those.
fn is_follow(request: &Request) -> bool {
    let path = request.uri().path();
    let is_of_topic = || {
        path.strip_prefix(TOPIC_PREFIX)
            .is_some_and(|topic| !topic.is_empty())
    };
    request.method() == Method::GET && (path == STREAM_PATH || is_of_topic())
}

fn log_id_of(hub: &Hub) -> HeaderValue {
    HeaderValue::from_str(hub.log().id()).expect("a UUID has only letters, digits and '-'")
}

/// What stands on every answer, also on one that is given to a connection that is not served.
#[derive(Debug)]
pub(crate) struct HeadersOfAll {
    log_id: HeaderValue,
    cors: Option<Cors>,
}

impl HeadersOfAll {
    pub(crate) fn of(hub: &Hub, settings: &Settings) -> Self {
        Self {
            log_id: log_id_of(hub),
            cors: Cors::of(&settings.cors_origins, settings.cors_credentials),
        }
    }

    /// Those that depend on the request, of the answer to one with these headers.
    fn cors_headers(&self, request: &HeaderMap) -> Option<HeaderMap> {
        self.cors.as_ref().map(|cors| cors.headers(request))
    }

    /// Puts them on an answer.
    fn put_on(&self, answer: &mut HeaderMap, cors_headers: Option<HeaderMap>) {
        answer.insert(LOG_ID_HEADER, self.log_id.clone());
        for (name, value) in cors_headers.iter().flatten() {
            match *name == header::VARY {
                // An answer may depend on `Accept` as well.
                true => answer.append(name, value.clone()),
                false => answer.insert(name, value.clone()).is_some(),
            };
        }
    }
}

/// Why a connection is not served.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NotServed {
    /// A limit was reached.
    Limit(LimitHit),
    /// The client speaks HTTP in the clear where TLS is spoken.
    TlsRequired,
}

impl NotServed {
    fn problem(self) -> Problem {
        match self {
            Self::Limit(hit) => hit.into(),
            Self::TlsRequired => {
                let detail = "the hub speaks TLS here; use https:// instead of http://";
                Problem::new(Code::TlsRequired, detail)
            }
        }
    }

    /// What the client is told. `head` is what there is of its first request; `headers` are known when the hub is open.
    pub(crate) fn answer(self, head: &[u8], headers: Option<&HeadersOfAll>) -> Response {
        let request = refused_stream::parse_head(head).unwrap_or_default();
        let stream = RefusedStream::of(&request).filter(|_| matches!(self, Self::Limit(_)));
        let mut answer = match stream {
            Some(stream) => stream.answer(&self.problem()),
            None => self.problem().into_response(),
        };
        if let Some(headers) = headers {
            let cors_headers = headers.cors_headers(request.headers());
            headers.put_on(answer.headers_mut(), cors_headers);
        }
        answer
    }

    /// The same for people, where there is no request that could be answered.
    pub(crate) fn in_words(self) -> String {
        self.problem().in_words()
    }
}

/// Counts such a client.
pub(crate) fn count_tls_is_required(refusals: &Counters) {
    count_code(Code::TlsRequired, refusals);
}

/// Counts a connection that is not served, whether it is told or not.
pub(crate) fn count(hit: LimitHit, refusals: &Counters) {
    count_code(Code::of(hit.limit), refusals);
}

/// Whether the hub failed to do what it was asked, whatever status the client was given.
fn is_failure(answer: &Answer) -> bool {
    let cause = answer.head().extensions().get::<ProblemCause>();
    let status = cause.map_or(answer.status(), |cause| cause.code.status());
    status.is_server_error()
}

fn count_code(code: Code, refusals: &Counters) {
    refusals.get_or_create(&[("code", code.as_str())]).inc();
}

/// A page of JSON that does not change.
fn json_page(json: String) -> impl Endpoint {
    poem::endpoint::make_sync(move |_| {
        Response::builder()
            .content_type("application/json")
            .body(json.clone())
    })
}

/// Milliseconds to three places: more would be noise.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
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
    let Some(topic) = request
        .uri()
        .path()
        .strip_prefix(TOPIC_PREFIX)
        .filter(|topic| topic.contains('/'))
    else {
        return;
    };
    let path = format!("{TOPIC_PREFIX}{}", topic.replace('/', "%2F"));
    let path_and_query = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    if let Ok(uri) = path_and_query.parse() {
        *request.uri_mut() = uri;
    }
}

/// What the hub is to log of a request that publishes.
fn origin_of(request: &Request) -> Origin {
    request.extensions().get().cloned().unwrap_or_default()
}
