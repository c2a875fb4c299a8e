//! A connection of HTTP/2: hyper reads its requests and writes its answers, and each stream is the body of one.
//!
//! One task serves the connection and all its exchanges. So what is announced to many streams of it goes out in one write, and
//! nothing outlives the connection. It counts once against the limits of connections, and each of its streams as a stream.
//!
//! HTTP/2 lets a client ask for much with few bytes, so what a connection may hold has bounds, each with a name below. What stands
//! still is ended as in HTTP/1, but for one exchange and not for the connection: [`Exchange`] sees whether the client takes its
//! answer, through the window or the socket, and a stream may wait for ever.

use std::{
    cell::Cell,
    convert::Infallible,
    error::Error,
    fmt::Display,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use http_body_util::combinators::BoxBody;
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Body, Frame, Incoming, SizeHint},
    header::{CONTENT_LENGTH, HOST, HeaderValue},
    rt::Executor,
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::TokioTimer;
use poem::Endpoint;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};

use super::{
    paced_socket::PacedSocket,
    terms::{Client, Terms, into_response},
};
use crate::http::{Answer, Turn};

/// Exchanges that a connection may have open, streams of events among them. A client with more opens another connection.
///
/// Source: RFC 9113, 6.5.2: no fewer than 100; nginx has 128.
const EXCHANGES_MAX: u32 = 128;

/// Answers of a connection that are made or wait for the client to take them; streams are none of these, nor is what waits for events
/// or for a body. More wait their [`Turn`]: an answer holds an event of up to 1 MiB, or a piece of a page of 64 KiB
/// (`http/api/history/page.rs`).
const ANSWERS_MAX: usize = 64;

/// Bytes of a request's head, as in HTTP/1. Each field counts for 32 bytes more than it has. Source: RFC 9113, 6.5.2. Also bounds the
/// CONTINUATION frames of a head (h2 ends the connection).
const HEAD_MAX_BYTES: u32 = 64 * 1024;

/// Fields of a head, as in HTTP/1: a field that the client names by its number takes one byte on the wire and a hundred here.
const HEAD_MAX_FIELDS: usize = 100;

/// Bytes of bodies that a client may send before the hub has read them, of a request and of the connection. 256 KiB give 2.5 MB/s
/// over a way of 100 ms.
const UNREAD_MAX_BYTES: u32 = 256 * 1024;

/// Bytes of an answer or a stream that wait for the client's window or for the socket. One frame, so that many slow streams of a
/// connection hold little.
const UNSENT_MAX_BYTES: usize = 16 * 1024;

/// The last bytes of an answer, of which nobody sees whether the client takes them.
const UNSEEN_MAX_BYTES: usize = 1024;

/// Requests that were reset by the client before the hub looked at them. Source: CVE-2023-44487; h2's own default.
const RESET_UNSEEN_MAX: usize = 20;

/// Streams that the hub itself reset for faults of the client. h2 ends the connection with the next.
const RESET_BY_US_MAX: usize = 128;

/// Exchanges that the client may reset at once before their end: twice as many as can be open, as a page does that closes all its
/// streams and opens them again.
const RESETS_MAX: f64 = 2.0 * EXCHANGES_MAX as f64;

/// How many more it may reset each second.
const RESETS_PER_SECOND: f64 = 10.0;

/// Serves the exchanges of a connection until it ends.
pub(super) async fn serve<S, E>(socket: PacedSocket<S>, client: Client, terms: Arc<Terms<E>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    E: Endpoint<Output: Into<Answer>> + 'static,
{
    let settings = &client.permit.limits().settings;
    let (header_timeout, write_timeout) = (settings.header_timeout, settings.write_timeout);
    let turns = Arc::new(Semaphore::new(ANSWERS_MAX));
    let service = {
        let (client, terms) = (client.clone(), terms.clone());
        service_fn(move |request| {
            let (client, terms, turns) = (client.clone(), terms.clone(), turns.clone());
            async move { Ok::<_, Infallible>(answer(request, &client, &terms, turns).await) }
        })
    };
    let begun = Begun::default();
    let connection = http2::Builder::new(begun.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(EXCHANGES_MAX)
        .max_header_list_size(HEAD_MAX_BYTES)
        .initial_stream_window_size(UNREAD_MAX_BYTES)
        .initial_connection_window_size(UNREAD_MAX_BYTES)
        .max_send_buf_size(UNSENT_MAX_BYTES)
        .max_pending_accept_reset_streams(RESET_UNSEEN_MAX)
        .max_local_error_reset_streams(RESET_BY_US_MAX)
        .serve_connection(socket, service);
    let mut connection = pin!(connection);
    let mut exchanges = FuturesUnordered::new();
    let mut resets = Resets::default();
    let mut idle = Idle::new(header_timeout);
    let mut drains = pin!(terms.ending.cancelled());
    let mut leaves = false;
    let ended = poll_fn(|context| {
        loop {
            // Before the connection, which then writes at once what they have to send.
            while let Poll::Ready(Some(outcome)) = exchanges.poll_next_unpin(context) {
                if outcome == Outcome::Reset && !resets.take_one() {
                    return Poll::Ready(End::Resets);
                }
            }
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                return Poll::Ready(ended.map_or_else(End::Fault, |()| End::Clean));
            }
            let new = begun.take();
            if !new.is_empty() {
                let exchange = |future| Exchange::new(future, write_timeout);
                exchanges.extend(new.into_iter().map(exchange));
                continue;
            }
            if !leaves && drains.as_mut().poll(context).is_ready() {
                leaves = true;
                connection.as_mut().graceful_shutdown();
                continue;
            }
            match idle.poll(exchanges.is_empty(), context) {
                Poll::Pending => return Poll::Pending,
                // It was told, and does not go.
                Poll::Ready(()) if leaves => return Poll::Ready(End::Clean),
                Poll::Ready(()) => {
                    leaves = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    })
    .await;
    let (code, error): (_, &dyn Display) = match &ended {
        End::Resets => (
            "too_many_resets",
            &"the client lets go of what it asks for, too often",
        ),
        End::Fault(error) if is_fault_of_client(error) => ("invalid_http2", error),
        End::Clean | End::Fault(_) => return, // The client has gone.
    };
    terms.note_refused(code, &client, error, "cut a connection of HTTP/2");
}

/// How a connection ended.
#[derive(Debug)]
enum End {
    Clean,
    /// The client began much and let go of it.
    Resets,
    Fault(hyper::Error),
}

/// Whether the connection was ended because of what the client sent.
fn is_fault_of_client(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    cause.is_some_and(|cause: &h2::Error| cause.is_library())
}

/// Answers one request.
async fn answer<E: Endpoint<Output: Into<Answer>> + 'static>(
    mut request: Request<Incoming>,
    client: &Client,
    terms: &Terms<E>,
    turns: Arc<Semaphore>,
) -> Response<AnswerBody> {
    if request.headers().len() > HEAD_MAX_FIELDS {
        terms.note_refused(
            "head_too_large",
            client,
            &format_args!("more than {HEAD_MAX_FIELDS} fields"),
            "refused a head of HTTP/2",
        );
        let mut refusal = Response::new(AnswerBody::empty());
        *refusal.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        PROGRESS.set(Some(Progress::Ended));
        return refusal;
    }
    name_host(&mut request);
    let is_head = request.method() == Method::HEAD;
    let turn = Turn::take(turns).await;
    let mut request = client.request(request);
    request.set_data(turn.clone());
    let (response, open_ended) = into_response(terms.answer(request).await, None);
    let turn = turn.into_permit().filter(|_| !open_ended);
    let mut response: Response<BoxBody<Bytes, io::Error>> = response.into();
    // hyper does this for HTTP/1 alone.
    if is_head {
        if let Some(bytes) = response.body().size_hint().exact() {
            let headers = response.headers_mut();
            headers.entry(CONTENT_LENGTH).or_insert(bytes.into());
        }
        *response.body_mut() = BoxBody::default();
    }
    if response.body().is_end_stream() {
        PROGRESS.set(Some(Progress::Ended));
    }
    response.map(|body| AnswerBody {
        body,
        rest: Bytes::new(),
        turn,
    })
}

/// Puts the host where the rest of the hub looks for it. One that is named twice and not the same is refused there.
fn name_host(request: &mut Request<Incoming>) {
    let Some(authority) = request.uri().authority() else {
        return;
    };
    let host = HeaderValue::from_str(authority.as_str()).expect("an authority is ASCII");
    let path = request.uri().path_and_query().cloned();
    let headers = request.headers_mut();
    if headers.get_all(HOST).iter().all(|named| *named != host) {
        headers.append(HOST, host);
    }
    if let Some(path) = path {
        *request.uri_mut() = Uri::from(path);
    }
}

/// Exchanges that hyper has begun and that nobody serves yet.
#[derive(Clone, Default)]
struct Begun(Arc<Mutex<Vec<ExchangeFuture>>>);

type ExchangeFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Begun {
    fn take(&self) -> Vec<ExchangeFuture> {
        let mut begun = self.0.lock().expect("nobody panics while holding it");
        std::mem::take(&mut begun)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Begun {
    fn execute(&self, future: F) {
        let mut begun = self.0.lock().expect("nobody panics while holding it");
        begun.push(Box::pin(future));
    }
}

/// What an answer did last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// It has nothing to send now, or may wait for its client.
    Free,
    /// It has given bytes, and the client is to take them.
    AwaitsClient,
    /// So it has, and they are the last.
    Ended,
}

thread_local! {
    /// What the answer of the exchange that is polled did meanwhile. hyper stands between the two, and tells neither of the other.
    static PROGRESS: Cell<Option<Progress>> = const { Cell::new(None) };
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered,
    /// The client let go of it.
    Reset,
    /// The client took nothing for too long. When the exchange is dropped, its stream is reset.
    Stalled,
}

/// A request and its answer, or a stream.
struct Exchange {
    future: ExchangeFuture,
    write_timeout: Duration,
    /// Runs from the moment that the client is to take bytes.
    stalled: Option<Pin<Box<Sleep>>>,
    is_answered: bool,
}

impl Exchange {
    fn new(future: ExchangeFuture, write_timeout: Duration) -> Self {
        Self {
            future,
            write_timeout,
            stalled: None,
            is_answered: false,
        }
    }
}

impl Future for Exchange {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        PROGRESS.set(None);
        let polled = self.future.as_mut().poll(context);
        let progress = PROGRESS.take();
        self.is_answered |= progress == Some(Progress::Ended);
        if polled.is_ready() {
            return Poll::Ready(match self.is_answered {
                true => Outcome::Answered,
                false => Outcome::Reset,
            });
        }
        match progress {
            None => (),
            Some(Progress::Free) => self.stalled = None,
            Some(Progress::AwaitsClient | Progress::Ended) => {
                self.stalled = Some(Box::pin(sleep(self.write_timeout)));
            }
        }
        match &mut self.stalled {
            Some(stalled) => stalled.as_mut().poll(context).map(|()| Outcome::Stalled),
            None => Poll::Pending,
        }
    }
}

/// The body of an answer, in pieces that hyper takes one by one as the client takes them.
struct AnswerBody {
    body: BoxBody<Bytes, io::Error>,
    /// What is left of the bytes that the body gave last.
    rest: Bytes,
    /// Held until the client has the answer; `None` for one of any length, which holds no more than a page and may wait.
    turn: Option<OwnedSemaphorePermit>,
}

impl AnswerBody {
    fn empty() -> Self {
        Self {
            body: BoxBody::default(),
            rest: Bytes::new(),
            turn: None,
        }
    }

    fn next_piece(&mut self) -> Bytes {
        let bytes = match self.rest.len() {
            // The last piece is a small one: hyper passes it on as soon as the client has room for its first byte, and is done.
            UNSEEN_MAX_BYTES.. if self.turn.is_some() => {
                UNSENT_MAX_BYTES.min(self.rest.len() - UNSEEN_MAX_BYTES / 2)
            }
            all => all.min(UNSENT_MAX_BYTES),
        };
        self.rest.split_to(bytes)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => {
                    PROGRESS.set(Some(Progress::Free));
                    return Poll::Pending;
                }
                Poll::Ready(None) => {
                    PROGRESS.set(Some(Progress::Ended));
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => self.rest = bytes,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
            }
        }
        let piece = self.next_piece();
        PROGRESS.set(Some(match (self.is_end_stream(), &self.turn) {
            (true, _) => Progress::Ended,
            (false, Some(_)) => Progress::AwaitsClient,
            (false, None) => Progress::Free,
        }));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint() // Asked before the first piece.
    }
}

/// How many exchanges the client may still reset.
#[derive(Debug)]
struct Resets {
    left: f64,
    counted_at: Instant,
}

impl Default for Resets {
    fn default() -> Self {
        Self {
            left: RESETS_MAX,
            counted_at: Instant::now(),
        }
    }
}

impl Resets {
    /// Whether this one is not too many.
    fn take_one(&mut self) -> bool {
        let now = Instant::now();
        let earned = (now - self.counted_at).as_secs_f64() * RESETS_PER_SECOND;
        self.left = (self.left + earned).min(RESETS_MAX) - 1.0;
        self.counted_at = now;
        self.left >= 0.0
    }
}

/// How long a connection has had no exchange.
struct Idle {
    timeout: Duration,
    since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl Idle {
    fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            since: None,
            timer: Box::pin(sleep(timeout)),
        }
    }

    /// Ready when it has had none for the whole time, and again after that time.
    fn poll(&mut self, is_idle: bool, context: &mut Context<'_>) -> Poll<()> {
        match is_idle {
            true => _ = self.since.get_or_insert_with(Instant::now),
            false => self.since = None,
        }
        // The timer is set anew only when it rings: an exchange costs none.
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let due = self.since.unwrap_or(now) + self.timeout;
            if due <= now {
                self.since = Some(now);
                self.timer.as_mut().reset(now + self.timeout);
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}
