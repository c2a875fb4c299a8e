//! One connection: hyper reads its requests and writes its answers, until one of them is a stream.
//!
//! A stream that answers the first request of a connection gets the socket to itself. hyper's buffers and its state are
//! freed, and an event goes from the bytes that all subscribers of a feed share to the socket without a copy. A stream that
//! answers a later request goes through hyper: an earlier answer may still wait in its buffers.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    time::SystemTime,
};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioTimer;
use poem::{
    Endpoint, IntoResponse, Request, Response,
    http::uri::Scheme,
    web::{LocalAddr, RemoteAddr},
};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{framing::Framing, paced_socket::PacedSocket};
use crate::{
    http::{Answer, Following, OneASecond},
    limits::ConnectionPermit,
    metrics::Metrics,
};

/// Bytes of a connection that hyper holds, read or to be written. Bounds what a slow reader costs, and the head of a
/// request.
const BUFFER_MAX_BYTES: usize = 64 * 1024;

/// What a connection needs to know.
#[derive(Debug)]
pub(super) struct Terms<E> {
    pub(super) endpoint: E,
    pub(super) metrics: Metrics,
    /// Log lines of requests that hyper could not read.
    pub(super) invalid_heads: OneASecond,
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

/// Serves the requests of a connection. Gives the socket back if it is a stream's from now on; else it is closed.
pub(super) async fn serve<E: Endpoint<Output: Into<Answer>> + 'static>(
    socket: TcpStream,
    local: LocalAddr,
    remote: RemoteAddr,
    permit: ConnectionPermit,
    terms: Arc<Terms<E>>,
) -> Option<StreamSocket> {
    let permit = Arc::new(permit);
    let client = remote.clone();
    let (header_timeout, write_timeout) = {
        let settings = &permit.limits().settings;
        (settings.header_timeout, settings.write_timeout)
    };
    let may_wait = Arc::new(AtomicBool::new(false));
    let handover = Arc::new(Mutex::new(Handover::FirstRequest));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (terms, handover, may_wait) = (terms.clone(), handover.clone(), may_wait.clone());
        let version = request.version();
        let mut request = Request::from((request, local.clone(), remote.clone(), Scheme::HTTP));
        request.set_data(permit.clone());
        async move {
            let first = matches!(set(&handover, Handover::Never), Handover::FirstRequest);
            let answer = match terms.endpoint.call(request).await {
                Ok(answer) => answer.into(),
                Err(error) => error.into_response().into(),
            };
            let response = match answer {
                Answer::Response(response) => response,
                Answer::Stream(head, following) if first => {
                    let framing = Framing::of(version);
                    let head = answer_head(&head, framing);
                    let stream = (head, *following, framing);
                    set(&handover, Handover::Stream(Box::new(stream)));
                    return pending().await; // Dropped with hyper's side of the connection.
                }
                stream @ Answer::Stream(..) => stream.into_response(),
            };
            may_wait.store(is_open_ended(&response), Relaxed);
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

    let until_stream = poll_fn(|context| {
        let served = Pin::new(&mut connection).poll(context);
        match set(&handover, Handover::Never) {
            Handover::Stream(stream) => Poll::Ready(Some(stream)),
            state @ (Handover::FirstRequest | Handover::Never) => {
                set(&handover, state);
                served.map(|ended| {
                    if let Err(error) = ended {
                        terms.note_end(&error, &client);
                    }
                    None
                })
            }
        }
    });
    let stream = tokio::select! {
        stream = until_stream => stream,
        () = terms.ending.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            _ = (&mut connection).await;
            None
        }
    };
    let (head, following, framing) = *stream?;
    let socket = connection.into_parts().io.into_inner();
    Some(StreamSocket {
        socket,
        head,
        following,
        framing,
    })
}

/// Whether an answer is of any length, and holds no more than a page of it.
fn is_open_ended(response: &Response) -> bool {
    let media_type = response.content_type().unwrap_or_default();
    ["text/event-stream", "application/x-ndjson"]
        .iter()
        .any(|open_ended| media_type.starts_with(open_ended))
}

impl<E> Terms<E> {
    /// Counts what hyper answered by itself, or cut. Other ends need no note: the client has gone.
    fn note_end(&self, error: &hyper::Error, client: &RemoteAddr) {
        if error.is_timeout() {
            self.metrics.late_heads.inc();
            return;
        }
        let code = if error.is_parse_too_large() {
            "head_too_large" // 431, or 414 if the address was read to its end
        } else if error.is_parse() {
            "invalid_head" // 400
        } else {
            return;
        };
        self.metrics.refusals.get_or_create(&[("code", code)]).inc();
        if let Some(untold) = self.invalid_heads.pass() {
            tracing::info!(%client, code, %error, untold, "refused what is no request of HTTP/1");
        }
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
