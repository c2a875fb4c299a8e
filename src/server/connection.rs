//! One connection: hyper reads its requests and writes its answers, until one of them is a stream.
//!
//! A stream that answers the first request of a connection gets the socket to itself. hyper's buffers and its state are
//! freed, and an event goes from the bytes that all subscribers of a feed share to the socket without a copy. A stream that
//! answers a later request goes through hyper: an earlier answer may still wait in its buffers.
//!
//! Every connection begins as one of HTTP/1. Where the client speaks HTTP/2, hyper says so before it writes anything, and the
//! connection begins again as one of HTTP/2: see `http2.rs`.

use std::{
    convert::Infallible,
    fmt::Display,
    future::{pending, poll_fn},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    time::SystemTime,
};

use bytes::Bytes;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioTimer;
use poem::{
    Endpoint, IntoResponse, Request, Response,
    http::uri::Scheme,
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    framing::Framing,
    http2,
    paced_socket::{PacedSocket, is_http2},
    refusal::Refuser,
    tls::{ALPN_HTTP2, Greeting, Tls},
};
use crate::{
    http::{Answer, Following, OneASecond},
    limits::ConnectionPermit,
    metrics::Metrics,
};

/// Bytes of a connection that hyper holds, read or to be written. Bounds what a slow reader costs, and the head of a
/// request.
pub(super) const BUFFER_MAX_BYTES: usize = 64 * 1024;

/// What a connection needs to know.
#[derive(Debug)]
pub(super) struct Terms<E> {
    pub(super) endpoint: E,
    pub(super) metrics: Metrics,
    /// Log lines of what was refused below the hub.
    pub(super) refused_below: OneASecond,
    /// Cancelled when the connection should end after the request it is at.
    pub(super) ending: CancellationToken,
}

/// A stream with a socket to itself.
#[derive(Debug)]
pub(super) struct StreamSocket {
    pub(super) socket: TcpStream,
    /// What is to be sent before the stream.
    pub(super) head: Vec<u8>,
    pub(super) following: Following,
    pub(super) framing: Framing,
}

/// Whether a connection may still be handed over, and to what.
#[derive(Debug)]
enum Handover {
    FirstRequest,
    Stream(Box<(Vec<u8>, Following, Framing)>),
    Never,
}

/// The client of a connection, and what all its requests share. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) local: LocalAddr,
    pub(super) remote: RemoteAddr,
    pub(super) scheme: Scheme,
    pub(super) permit: Arc<ConnectionPermit>,
}

impl Client {
    /// A request of this client, as the hub takes it.
    pub(super) fn request(&self, request: hyper::Request<Incoming>) -> Request {
        let (local, remote) = (self.local.clone(), self.remote.clone());
        let mut request = Request::from((request, local, remote, self.scheme.clone()));
        request.set_data(self.permit.clone());
        request
    }
}

/// What a connection of HTTP/1 has come to.
enum Outcome<S> {
    /// The socket is a stream's from now on.
    Stream(S, Box<(Vec<u8>, Following, Framing)>),
    /// The client speaks HTTP/2. Nothing has been answered.
    Http2(PacedSocket<S>),
    /// It was served to its end.
    Ended,
}

/// Serves the requests of a connection. Gives the socket back if it is a stream's from now on; else it is closed.
pub(super) async fn serve<E: Endpoint<Output: Into<Answer>> + 'static>(
    socket: TcpStream,
    client: Client,
    terms: Arc<Terms<E>>,
) -> Option<StreamSocket> {
    match serve_http1(socket, Handover::FirstRequest, &client, &terms).await {
        Outcome::Stream(socket, stream) => {
            let (head, following, framing) = *stream;
            Some(StreamSocket {
                socket,
                head,
                following,
                framing,
            })
        }
        Outcome::Http2(socket) => {
            Box::pin(http2::serve(socket, client, terms)).await;
            None
        }
        Outcome::Ended => None,
    }
}

/// Serves the requests of a connection that begins with a handshake, to its end. A client that speaks HTTP in the clear is told so.
pub(super) async fn serve_tls<E: Endpoint<Output: Into<Answer>> + 'static>(
    socket: TcpStream,
    tls: Arc<Tls>,
    client: Client,
    terms: Arc<Terms<E>>,
    refuser: Arc<Refuser>,
) {
    let limits = client.permit.limits();
    let greeting = timeout(limits.settings.header_timeout, tls.greet(socket));
    let greeted = tokio::select! {
        greeted = greeting => greeted,
        () = terms.ending.cancelled() => return,
    };
    let stream = match greeted {
        Err(_) => return terms.note_late(),
        Ok(Ok(Greeting::Tls(stream))) => *stream,
        Ok(Ok(Greeting::Clear(socket))) => return refuser.tell_tls_is_required(socket).await,
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            return terms.note_refused(
                "failed_handshake",
                &client,
                &error,
                "a TLS handshake failed",
            );
        }
        Ok(Err(_)) => return, // The client has gone.
    };
    if stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2) {
        let write_timeout = limits.settings.write_timeout;
        let socket = PacedSocket::new(stream, write_timeout, Arc::default());
        return Box::pin(http2::serve(
            socket.begin_again(Bytes::new()),
            client,
            terms,
        ))
        .await;
    }
    let served = serve_http1(stream, Handover::Never, &client, &terms);
    if let Outcome::Http2(socket) = Box::pin(served).await {
        Box::pin(http2::serve(socket, client, terms)).await;
    }
}

async fn serve_http1<S, E>(
    socket: S,
    handover: Handover,
    client: &Client,
    terms: &Arc<Terms<E>>,
) -> Outcome<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    E: Endpoint<Output: Into<Answer>> + 'static,
{
    let (header_timeout, write_timeout) = {
        let settings = &client.permit.limits().settings;
        (settings.header_timeout, settings.write_timeout)
    };
    let may_wait = Arc::new(AtomicBool::new(false));
    let has_answered = Arc::new(AtomicBool::new(false));
    let handover = Arc::new(Mutex::new(handover));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (terms, handover, may_wait) = (terms.clone(), handover.clone(), may_wait.clone());
        has_answered.store(true, Relaxed);
        let version = request.version();
        let request = client.request(request);
        async move {
            let first = matches!(set(&handover, Handover::Never), Handover::FirstRequest);
            let (response, open_ended) = match terms.answer(request).await {
                Answer::Stream(head, following) if first => {
                    let framing = Framing::of(version);
                    let head = answer_head(&head, framing);
                    let stream = (head, *following, framing);
                    set(&handover, Handover::Stream(Box::new(stream)));
                    return pending().await; // Dropped with hyper's side of the connection.
                }
                answer @ (Answer::Response(_) | Answer::Stream(..)) => into_response(answer),
            };
            may_wait.store(open_ended, Relaxed);
            Ok::<hyper::Response<_>, Infallible>(response.into())
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(BUFFER_MAX_BYTES)
        // A client that has sent all it has to say may still wait for its answers.
        .half_close(true)
        .serve_connection(
            PacedSocket::new(socket, write_timeout, may_wait.clone()),
            service,
        );

    let until_handover = poll_fn(|context| {
        let served = Pin::new(&mut connection).poll(context);
        match set(&handover, Handover::Never) {
            Handover::Stream(stream) => Poll::Ready((Ok(()), Some(stream))),
            state @ (Handover::FirstRequest | Handover::Never) => {
                set(&handover, state);
                served.map(|ended| (ended, None))
            }
        }
    });
    let (ended, stream) = tokio::select! {
        handed_over = until_handover => handed_over,
        () = terms.ending.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            _ = (&mut connection).await;
            return Outcome::Ended;
        }
    };
    let parts = connection.into_parts();
    if let Some(stream) = stream {
        return Outcome::Stream(parts.io.into_inner(), stream);
    }
    if is_http2(&parts.read_buf) && !has_answered.load(Relaxed) {
        return Outcome::Http2(parts.io.begin_again(parts.read_buf));
    }
    if let Err(error) = ended {
        terms.note_end(&error, client);
    }
    Outcome::Ended
}

/// An answer for hyper to write, and whether it may stand still: one of any length, which holds no more than a page of it.
pub(super) fn into_response(answer: Answer) -> (Response, bool) {
    let is_stream = matches!(answer, Answer::Stream(..));
    let response = answer.into_response();
    let may_wait = is_stream || is_open_ended(&response);
    (response, may_wait)
}

fn is_open_ended(response: &Response) -> bool {
    let media_type = response.content_type().unwrap_or_default();
    ["text/event-stream", "application/x-ndjson"]
        .iter()
        .any(|open_ended| media_type.starts_with(open_ended))
}

impl<E: Endpoint<Output: Into<Answer>>> Terms<E> {
    pub(super) async fn answer(&self, request: Request) -> Answer {
        match self.endpoint.call(request).await {
            Ok(answer) => answer.into(),
            Err(error) => error.into_response().into(),
        }
    }
}

impl<E> Terms<E> {
    /// Counts what hyper answered by itself, or cut. Other ends need no note: the client has gone.
    fn note_end(&self, error: &hyper::Error, client: &Client) {
        if error.is_timeout() {
            return self.note_late();
        }
        let code = if error.is_parse_too_large() {
            "head_too_large" // 431, or 414 if the address was read to its end
        } else if error.is_parse() {
            "invalid_head" // 400
        } else {
            return;
        };
        self.note_refused(code, client, error, "refused what is no request of HTTP/1");
    }

    fn note_late(&self) {
        self.metrics.late_heads.inc();
    }

    /// Counts what was refused below the hub, and logs it, but not more than once a second.
    pub(super) fn note_refused(
        &self,
        code: &'static str,
        client: &Client,
        error: &dyn Display,
        what: &'static str,
    ) {
        self.count_refused(code);
        if let Some(untold) = self.refused_below.pass() {
            let client = &client.remote;
            tracing::info!(%client, code, %error, untold, "{what}");
        }
    }

    pub(super) fn count_refused(&self, code: &'static str) {
        self.metrics.refusals.get_or_create(&[("code", code)]).inc();
    }
}

fn set(handover: &Mutex<Handover>, state: Handover) -> Handover {
    std::mem::replace(
        &mut handover.lock().expect("nobody panics while holding it"),
        state,
    )
}

/// The head of an answer as bytes.
pub(super) fn answer_head(response: &Response, framing: Framing) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    if framing == Framing::Chunked {
        head.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    let date = httpdate::fmt_http_date(SystemTime::now());
    // Not `connection: close`, although the connection ends with the stream: Node's `fetch` would take a kill for a clean end.
    head.extend_from_slice(format!("date: {date}\r\n\r\n").as_bytes());
    head
}
