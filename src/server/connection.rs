//! One connection: hyper reads its requests and writes its answers, until one of them is a stream.
//!
//! A stream gets the socket to itself. hyper's buffers and its state are freed, and an event goes from the bytes that all subscribers
//! of a feed share to the socket without a copy. Nothing of earlier answers is lost: the socket has taken them. Through hyper goes a
//! stream that ends after some events, so that the connection goes on, and one that is encrypted.
//!
//! Every connection begins as one of HTTP/1. Where the client speaks HTTP/2, hyper says so before it writes anything, and the
//! connection begins again as one of HTTP/2: see `http2.rs`.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
};

use bytes::Bytes;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioTimer;
use poem::Endpoint;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::{
    framing::{Framing, answer_head},
    http2,
    listener::Socket,
    paced_socket::{PacedSocket, Signals, is_http2},
    refusal::Refuser,
    terms::{Client, Terms, into_response},
    tls::{ALPN_HTTP2, Greeting, Tls},
};
use crate::http::{Answer, Following};

/// Bytes of a connection that hyper holds, read or to be written. Bounds what a slow reader costs, and the head of a
/// request.
pub(super) const BUFFER_MAX_BYTES: usize = 64 * 1024;

/// A stream with a socket to itself.
#[derive(Debug)]
pub(super) struct StreamSocket {
    pub(super) socket: Socket,
    pub(super) stream: Heir,
}

/// A stream that is to have a socket.
#[derive(Debug)]
pub(super) struct Heir {
    /// What is to be sent before it.
    pub(super) head: Vec<u8>,
    pub(super) following: Following,
    pub(super) framing: Framing,
}

/// What a connection of HTTP/1 has come to.
enum Outcome<S> {
    /// The socket is a stream's from now on.
    Stream(S, Box<Heir>),
    /// The client speaks HTTP/2. Nothing has been answered.
    Http2(PacedSocket<S>),
    /// It was served to its end.
    Ended,
}

/// Serves the requests of a connection. Gives the socket back if it is a stream's from now on; else it is closed.
pub(super) async fn serve<E: Endpoint<Output: Into<Answer>> + 'static>(
    socket: Socket,
    client: Client,
    terms: Arc<Terms<E>>,
) -> Option<StreamSocket> {
    match serve_http1(socket, true, &client, &terms).await {
        Outcome::Stream(socket, stream) => Some(StreamSocket {
            socket,
            stream: *stream,
        }),
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
    #[cfg(feature = "acme")]
    if stream.get_ref().1.alpn_protocol() == Some(super::certificates::ALPN_ACME) {
        return; // The handshake was all that the authority wanted.
    }
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
    let served = serve_http1(stream, false, &client, &terms);
    if let Outcome::Http2(socket) = Box::pin(served).await {
        Box::pin(http2::serve(socket, client, terms)).await;
    }
}

/// `hands_over` tells whether a stream may have the socket.
async fn serve_http1<S, E>(
    socket: S,
    hands_over: bool,
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
    let signals = Arc::<Signals>::default();
    let heir = Arc::new(Mutex::new(None::<Box<Heir>>));
    let has_answered = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (terms, heir, signals) = (terms.clone(), heir.clone(), signals.clone());
        has_answered.store(true, Relaxed);
        let version = request.version();
        let request = client.request(request);
        async move {
            let answer = match terms.answer(request).await {
                Answer::Stream(head, following)
                    if hands_over && !following.stream.ends_by_itself() =>
                {
                    let framing = Framing::of(version);
                    *lock(&heir) = Some(Box::new(Heir {
                        head: answer_head(&head, framing),
                        following: *following,
                        framing,
                    }));
                    return pending().await; // Dropped with hyper's side of the connection.
                }
                answer @ (Answer::Response(_) | Answer::Stream(..)) => answer,
            };
            let (response, open_ended) = into_response(answer, Some(&signals.half_closed));
            signals.may_wait.store(open_ended, Relaxed);
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
            PacedSocket::new(socket, write_timeout, signals.clone()),
            service,
        );

    let mut drains = pin!(terms.ending.cancelled());
    let mut leaves = false;
    let (ended, stream) = poll_fn(|context| {
        if !leaves && drains.as_mut().poll(context).is_ready() {
            leaves = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        let served = Pin::new(&mut connection).poll(context);
        // An answer without a body may still wait for the socket. hyper goes on with it then, and comes back.
        if !signals.is_blocked.load(Relaxed)
            && let Some(stream) = lock(&heir).take()
        {
            return Poll::Ready((Ok(()), Some(stream)));
        }
        served.map(|ended| (ended, None))
    })
    .await;
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding it")
}
