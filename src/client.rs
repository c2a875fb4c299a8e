//! The hub as seen from outside: publish to it, and follow it across cuts and restarts.
//!
//! Knows HTTP and nothing of the hub's inside. The command line, the tests and the benches use it.

mod address;
mod snapshot;
mod sse_parser;
mod tls;
mod upkeep;
mod wire;

use std::{path::Path, str::FromStr, time::Duration};

use reqwest::{
    Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderValue},
};
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::{address::Address, tls::explain};
pub use self::{
    snapshot::Snapshot,
    sse_parser::{Message, SseParser},
    tls::{Authorities, AuthoritiesError, CertificateFault},
    upkeep::{TopicFigures, TopicPage},
    wire::{Wire, WireSettings, WireStream},
};

/// Wait before the first try again; doubles up to [`RETRY_MAX`], each with a spread, so that clients do not come together.
const RETRY_FIRST: Duration = Duration::from_millis(250);

/// Longest wait between tries.
const RETRY_MAX: Duration = Duration::from_secs(15);

/// Longest wait for a connection, and for the head of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest wait for the hub to say whether it is ready. Its answer needs no work, so one that takes longer is a no.
const READY_TIMEOUT: Duration = Duration::from_secs(3);

/// Wait between questions whether the hub is ready: short, because whoever asks waits to begin.
const READY_INTERVAL: Duration = Duration::from_millis(200);

/// A hub. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
}

/// Why the hub did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address of the hub cannot be one.
    #[error(
        "'{0}' is not the address of a hub; it looks like http://127.0.0.1:8000, localhost:8000 or unix:/run/segno.sock"
    )]
    InvalidUrl(String),
    /// The hub could not be reached, or the connection was cut.
    #[error("no answer from the hub")]
    Unreachable(#[source] reqwest::Error),
    /// Its name has no address.
    #[error("cannot find the address of the hub's name")]
    Name(#[source] std::io::Error),
    /// The hub did not take a connection.
    #[error("cannot connect to the hub")]
    Connect(#[source] std::io::Error),
    /// The hub's certificate is not taken.
    #[error(transparent)]
    Certificate(CertificateFault),
    /// The hub answers, but not in TLS.
    #[error("the hub does not speak TLS there; use http:// instead of https://")]
    NoTls,
    /// The connection was cut in the middle.
    #[error("the connection to the hub was cut")]
    Cut(#[source] hyper::Error),
    /// The hub sent nothing for too long.
    #[error("nothing came from the hub for {}", humantime::format_duration(*.0))]
    Silent(Duration),
    /// The hub ended a stream, as it does when it stops.
    #[error("the hub ended the stream")]
    Ended,
    /// The hub refuses now, and may not later.
    #[error("the hub refuses for now: {detail}")]
    Later {
        /// What the hub said.
        detail: String,
        /// When it asked to be asked again, if it did.
        after: Option<Duration>,
    },
    /// The hub refused; asking again will not help.
    #[error("{detail} ({code})")]
    Refused {
        /// The word for programs.
        code: String,
        /// The sentence for people.
        detail: String,
    },
}

impl Error {
    /// Whether the same request may succeed later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::Name(_)
            | Self::Connect(_)
            | Self::Cut(_)
            | Self::Silent(_)
            | Self::Ended
            | Self::Later { .. } => true,
            Self::InvalidUrl(_) | Self::Certificate(_) | Self::NoTls | Self::Refused { .. } => {
                false
            }
        }
    }
}

/// A credential that a client shows. [`Debug`](std::fmt::Debug) does not show it.
#[derive(Debug, Clone)]
pub struct Token(HeaderValue);

/// Why a file has no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Io(#[from] std::io::Error),
    /// It has something else.
    #[error(transparent)]
    Form(#[from] InvalidToken),
}

impl Token {
    /// The token that is all of a file.
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        Ok(std::fs::read_to_string(path)?.parse()?)
    }
}

/// Text that cannot be sent as a token.
#[derive(Debug, thiserror::Error)]
#[error("a token is one line of visible ASCII")]
pub struct InvalidToken;

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidToken);
        }
        let value = HeaderValue::from_str(&format!("Bearer {text}"));
        let mut value = value.map_err(|_| InvalidToken)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

/// What the hub says when it refuses.
#[derive(Debug, Deserialize)]
struct Problem {
    code: String,
    detail: String,
}

/// The answer to a batch.
#[derive(Debug, Deserialize)]
struct Ids {
    ids: Vec<u64>,
}

impl Client {
    /// A client of the hub at `url`, such as `https://hub.example`, `localhost:8000` or `unix:/run/segno.sock`, which shows `token` if there is one, and trusts `authorities` beside those of the system. Connects
    /// when it is first used.
    pub fn new(url: &str, token: Option<&Token>, authorities: &Authorities) -> Result<Self, Error> {
        let Address { base, socket } = address::parse(url)?;
        // There is one, and the process may have several clients: the first installs it.
        _ = rustls::crypto::ring::default_provider().install_default();
        let headers: HeaderMap = token
            .map(|token| (header::AUTHORIZATION, token.0.clone()))
            .into_iter()
            .collect();
        let http = || {
            let client = reqwest::Client::builder()
                .connect_timeout(ANSWER_TIMEOUT)
                .default_headers(headers.clone());
            match &socket {
                Some(path) => client.unix_socket(path.as_path()),
                None => client,
            }
        };
        let trusted = authorities.certificates().map_err(Error::Unreachable)?;
        let http = match http().tls_certs_merge(trusted.clone()).build() {
            // A machine without any certificate of an authority, such as a small container, needs none for the clear, and for TLS
            // only the one that was named.
            Err(_) if base.scheme() == "http" || !trusted.is_empty() => {
                http().tls_certs_only(trusted).build()
            }
            built => built,
        };
        Ok(Self {
            // All that it has to read is whom to trust.
            http: http.map_err(|_| Error::Certificate(CertificateFault::NobodyTrusted))?,
            base,
        })
    }

    /// Publishes events, given as NDJSON, as one batch; tries again for `retry_for` while the hub is away.
    ///
    /// Give every event a key: a try whose answer was lost is then not a second event. Returns the ids, in order.
    pub async fn publish(&self, ndjson: &str, retry_for: Duration) -> Result<Vec<u64>, Error> {
        let give_up = Instant::now() + retry_for;
        let mut backoff = Backoff::default();
        loop {
            let error = match self.publish_once(ndjson).await {
                Ok(ids) => return Ok(ids),
                Err(error) => error,
            };
            let wait = backoff.next(&error);
            if !error.may_pass() || Instant::now() + wait > give_up {
                return Err(error);
            }
            sleep(wait).await;
        }
    }

    async fn publish_once(&self, ndjson: &str) -> Result<Vec<u64>, Error> {
        let request = self
            .http
            .post(self.at("/events"))
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .timeout(ANSWER_TIMEOUT)
            .body(ndjson.to_owned());
        let answer = accepted(request.send().await.map_err(explain)?).await?;
        let body = answer.bytes().await.map_err(explain)?;
        let ids: Ids = serde_json::from_slice(&body).map_err(|error| Error::Refused {
            code: "unknown_answer".into(),
            detail: format!("the answer is not that of a hub: {error}"),
        })?;
        Ok(ids.ids)
    }

    /// Asks whether the hub would take an event now; asks again for `wait` while it says no, or nothing. The error is that
    /// of the last answer.
    pub async fn ready(&self, wait: Duration) -> Result<(), Error> {
        let give_up = Instant::now() + wait;
        loop {
            let error = match self.ready_now().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if !error.may_pass() || Instant::now() + READY_INTERVAL > give_up {
                return Err(error);
            }
            sleep(READY_INTERVAL).await;
        }
    }

    async fn ready_now(&self) -> Result<(), Error> {
        let asked = async {
            let request = self.http.get(self.at("/health/ready"));
            let answer = request.send().await.map_err(explain)?;
            accepted(answer).await.map(drop)
        };
        timeout(READY_TIMEOUT, asked)
            .await
            .unwrap_or(Err(Error::Silent(READY_TIMEOUT)))
    }

    /// Follows what `query` asks for. Connects when the first message is asked for.
    pub fn follow(&self, query: FollowQuery) -> Follow {
        Follow {
            client: self.clone(),
            query,
            connection: None,
            cursor: None,
            backoff: Backoff::default(),
            resume_at: None,
        }
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        url
    }
}

/// Sorts an answer that is not a success into what may pass and what will not.
async fn accepted(answer: Response) -> Result<Response, Error> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let headers = answer.headers().clone();
    let body = answer.bytes().await.unwrap_or_default();
    Err(refusal(status, &headers, &body))
}

fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
    let after = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let Problem { code, detail } = problem(body).unwrap_or_else(|| Problem {
        code: "http".into(),
        detail: format!("the answer is {status}"),
    });
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Error::Later {
            detail,
            after: after.map(Duration::from_secs),
        },
        _ if status.is_server_error() => Error::Later {
            detail,
            after: after.map(Duration::from_secs),
        },
        _ => Error::Refused { code, detail },
    }
}

fn problem(json: &[u8]) -> Option<Problem> {
    serde_json::from_slice(json).ok()
}

/// What the hub's own types begin with. A reader skips those that it does not know. Source: the hub's HTTP contract.
const OWN_TYPES: &str = "segno.";

/// The types of the hub's own that a subscriber is handed: events were lost, or erased.
const HANDED_ON_TYPES: [&str; 2] = ["segno.gap", "segno.erased"];

/// The types of what a stream says before it ends: the log failed, or the hub refuses for now.
const ENDING_TYPES: [&str; 2] = ["segno.error", "segno.refused"];

/// What a request to follow accepts: a refusal comes as a problem, with a status of its own, and not as a stream.
const ACCEPT_STREAM: &str = "text/event-stream, application/problem+json";

/// Names the log that an answer is about. Source: the hub's HTTP contract.
const LOG_ID_HEADER: &str = "segno-log-id";

/// What to follow, and from where.
#[derive(Debug, Clone)]
pub struct FollowQuery {
    /// Query parameters of `/sse`: topics, types, format, and the start if there is no cursor.
    pub parameters: Vec<(&'static str, String)>,
    /// The id of the last event there is.
    pub cursor: Option<String>,
    /// Silence after which the connection is taken for dead.
    pub idle_timeout: Duration,
}

/// What a stream brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// An event, a `segno.gap` or a `segno.erased`.
    Message(Message),
    /// The connection is there; the cursor is that of the first block.
    Connected,
    /// The connection was lost, or refused for now. The next call waits, then tries again.
    Waiting {
        /// Why.
        reason: String,
        /// How long.
        wait: Duration,
    },
}

/// A stream that reconnects by itself and resumes where it was.
#[derive(Debug)]
pub struct Follow {
    client: Client,
    query: FollowQuery,
    connection: Option<Connection>,
    cursor: Option<String>,
    backoff: Backoff,
    /// When to try again.
    resume_at: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    answer: Response,
    parser: SseParser,
    messages: std::collections::VecDeque<Message>,
}

impl Follow {
    /// The id to resume after; `None` before the first block.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref().or(self.query.cursor.as_deref())
    }

    /// The id of the log that the hub follows now, in which the cursor means something; `None` while there is no connection.
    pub fn log_id(&self) -> Option<&str> {
        let headers = self.connection.as_ref()?.answer.headers();
        headers.get(LOG_ID_HEADER)?.to_str().ok()
    }

    /// Whether [`next`](Self::next) has a message at hand, without waiting.
    pub fn has_next(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| !connection.messages.is_empty())
    }

    /// Waits for what comes next. An error is one that another try would meet again.
    ///
    /// Dropping the future while it waits for the hub loses nothing that was received.
    pub async fn next(&mut self) -> Result<Followed, Error> {
        if let Some(resume_at) = self.resume_at {
            sleep_until(resume_at).await;
            self.resume_at = None;
        }
        loop {
            let Some(connection) = &mut self.connection else {
                match self.connect().await {
                    Ok(connection) => self.connection = Some(connection),
                    Err(error) => return self.wait(&error, None).map_err(|()| error),
                }
                return Ok(Followed::Connected);
            };
            if let Some(message) = connection.messages.pop_front() {
                if !message.last_event_id.is_empty() {
                    self.cursor = Some(message.last_event_id.clone());
                }
                let event_type = message.event_type.as_str();
                if ENDING_TYPES.contains(&event_type) {
                    let error = Error::Later {
                        detail: problem(message.data.as_bytes())
                            .map_or(message.data, |problem| problem.detail),
                        after: None,
                    };
                    let retry = connection.parser.retry();
                    self.connection = None;
                    return self.wait(&error, retry).map_err(|()| error);
                }
                if event_type.starts_with(OWN_TYPES) && !HANDED_ON_TYPES.contains(&event_type) {
                    continue;
                }
                return Ok(Followed::Message(message));
            }
            if !connection.parser.last_event_id().is_empty() {
                self.cursor = Some(connection.parser.last_event_id().to_owned());
            }
            let error = match timeout(self.query.idle_timeout, connection.answer.chunk()).await {
                Ok(Ok(Some(bytes))) => {
                    self.backoff = Backoff::default();
                    let messages = &mut connection.messages;
                    connection
                        .parser
                        .feed(&bytes, |message| messages.push_back(message));
                    continue;
                }
                Ok(Ok(None)) => Error::Ended,
                Ok(Err(error)) => Error::Unreachable(error),
                Err(_) => Error::Silent(self.query.idle_timeout),
            };
            let retry = connection.parser.retry();
            self.connection = None;
            return self.wait(&error, retry).map_err(|()| error);
        }
    }

    /// Has the next call wait and try again, if that can help.
    fn wait(&mut self, error: &Error, retry: Option<Duration>) -> Result<Followed, ()> {
        if !error.may_pass() {
            return Err(());
        }
        let wait = retry.unwrap_or_else(|| self.backoff.next(error));
        self.resume_at = Some(Instant::now() + wait);
        Ok(Followed::Waiting {
            reason: error.to_string(),
            wait,
        })
    }

    async fn connect(&self) -> Result<Connection, Error> {
        let mut url = self.client.at("/sse");
        url.query_pairs_mut().extend_pairs(&self.query.parameters);
        let mut request = self
            .client
            .http
            .get(url)
            .header(header::ACCEPT, ACCEPT_STREAM);
        if let Some(cursor) = self.cursor() {
            request = request.header("last-event-id", cursor);
        }
        let answer = timeout(ANSWER_TIMEOUT, request.send())
            .await
            .map_err(|_| Error::Silent(ANSWER_TIMEOUT))?
            .map_err(explain)?;
        let answer = accepted(answer).await?;
        Ok(Connection {
            answer,
            parser: SseParser::default(),
            messages: std::collections::VecDeque::new(),
        })
    }
}

/// How long to wait before the next try.
#[derive(Debug)]
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(RETRY_FIRST)
    }
}

impl Backoff {
    /// The wait the hub asked for, or one that doubles, with a spread of a half.
    fn next(&mut self, error: &Error) -> Duration {
        if let Error::Later {
            after: Some(after), ..
        } = error
        {
            return *after;
        }
        let wait = self.0.mul_f64(0.75 + fastrand::f64() / 2.0);
        self.0 = (self.0 * 2).min(RETRY_MAX);
        wait
    }
}
