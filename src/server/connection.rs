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
    future::{pending, poll_fn},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
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
    paced_socket::{PacedSocket, is_http2},
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
    socket: Socket,
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

fn set(handover: &Mutex<Handover>, state: Handover) -> Handover {
    std::mem::replace(
        &mut handover.lock().expect("nobody panics while holding it"),
        state,
    )
}
