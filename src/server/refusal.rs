//! Connections over a limit, or without the TLS that is spoken here: each gets an answer that says so, without hyper, and is closed.
//!
//! The answer is for a client that meant well. So it is given when the request is there, since some clients take bytes that come
//! before it for a fault, and what else the client sends is read for a while: to close a socket with unread bytes in it is to
//! reset it, and a reset throws away what the client has not read yet. All of this is bounded in time, bytes and number, so that
//! refusing costs less than serving.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use poem::{
    Response,
    http::{HeaderValue, header},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};

use super::{
    connection::BUFFER_MAX_BYTES,
    framing::{Framing, answer_head},
    listener::Socket,
    paced_socket::begins_http2,
    tls::Tls,
};
use crate::{
    http::{self, HeadersOfAll, NotServed},
    limits::{Limit, LimitHit, Limits},
    metrics::Counters,
};

/// Connections that are answered at once; where few are served, fewer. More are closed without an answer.
const REFUSALS_AT_ONCE: u32 = 256;

/// Longest wait for the head of the request, and then for the client to read the answer and close.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of a head that are looked at: all that a request may have. With those that are answered at once 16 MB, for two seconds.
const HEAD_MAX_BYTES: usize = BUFFER_MAX_BYTES;

/// Bytes behind the head that are read and thrown away.
const DISCARD_MAX_BYTES: u64 = 1024 * 1024;

/// How many connections may be answered with a refusal at once while `connections` are served.
pub(super) fn refusals_beside(connections: u32) -> u32 {
    REFUSALS_AT_ONCE.min(connections / 16 + 8)
}

/// Answers connections that are over a limit.
#[derive(Debug)]
pub(super) struct Refuser {
    /// Headers of every answer of the hub, as soon as they are known.
    headers: Arc<OnceLock<HeadersOfAll>>,
    limits: Arc<Limits>,
    refusals: Counters,
    room: Arc<Semaphore>,
    /// What a connection begins with that is encrypted.
    tls: Option<Arc<Tls>>,
}

impl Refuser {
    pub(super) fn new(limits: Arc<Limits>, refusals: Counters, tls: Option<Arc<Tls>>) -> Self {
        let room = refusals_beside(limits.settings.max_connections.get());
        Self {
            headers: Arc::default(),
            limits,
            refusals,
            room: Arc::new(Semaphore::new(room.try_into().unwrap_or(usize::MAX))),
            tls,
        }
    }

    /// Puts `headers` into every answer from now on.
    pub(super) fn add(&self, headers: HeadersOfAll) {
        self.headers.set(headers).expect("they are known once");
    }

    /// Answers and closes, in a future to be run; `None` where too many are being answered, and the connection is closed.
    pub(super) fn refuse(
        &self,
        socket: Socket,
        peer: IpAddr,
        hit: LimitHit,
    ) -> Option<impl Future<Output = ()> + use<>> {
        http::count(hit, &self.refusals);
        let room = self.room.clone().try_acquire_owned().ok()?;
        let (limits, headers) = (self.limits.clone(), self.headers.clone());
        let tls = self.tls.clone();
        Some(async move {
            let why = |head: &[u8]| NotServed::Limit(explain(hit, peer, head, &limits));
            // An error means that the client has gone, which needs no note.
            _ = match (tls, socket) {
                (Some(tls), Socket::Ip(socket)) => {
                    match timeout(PATIENCE, tls.greet_refused(socket)).await {
                        Ok(Ok(stream)) => tell(stream, why, headers.get()).await,
                        Ok(Err(_)) | Err(_) => Ok(()),
                    }
                }
                (_, socket) => tell(socket, why, headers.get()).await,
            };
            drop(room);
        })
    }

    /// Answers a client that speaks HTTP in the clear where TLS is spoken, and closes.
    pub(super) async fn tell_tls_is_required(&self, socket: TcpStream) {
        http::count_tls_is_required(&self.refusals);
        if let Ok(_room) = self.room.try_acquire() {
            _ = tell(
                socket,
                |_: &[u8]| NotServed::TlsRequired,
                self.headers.get(),
            )
            .await;
        }
    }
}

/// The limit, with what the head of the request says of it.
fn explain(hit: LimitHit, peer: IpAddr, head: &[u8], limits: &Limits) -> LimitHit {
    if hit.limit != Limit::ConnectionsOfAddress || !http::is_forwarded(head) {
        return hit;
    }
    limits.note_proxy(peer);
    LimitHit {
        is_forwarded: true,
        ..hit
    }
}

async fn tell<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: S,
    why: impl FnOnce(&[u8]) -> NotServed,
    headers: Option<&HeadersOfAll>,
) -> io::Result<()> {
    let mut head = Vec::new();
    // A client that is too slow gets the answer all the same.
    if let Ok(read) = timeout(PATIENCE, read_head(&mut socket, &mut head)).await {
        read?;
    }
    let telling = async {
        let why = why(&head);
        let bytes = match begins_http2(&head) {
            true => goaway(why),
            false => in_bytes(why.answer(&head, headers)).await,
        };
        socket.write_all(&bytes).await?;
        socket.shutdown().await?;
        let mut rest = socket.take(DISCARD_MAX_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    timeout(PATIENCE, telling).await??;
    Ok(())
}

/// Reads until the end of the head is there, or as much as a head may have; fails where the client has gone.
async fn read_head(socket: &mut (impl AsyncRead + Unpin), head: &mut Vec<u8>) -> io::Result<()> {
    let end = b"\r\n\r\n";
    let mut looked = 0;
    while head.len() < HEAD_MAX_BYTES
        && !head[looked..].windows(end.len()).any(|bytes| bytes == end)
    {
        looked = head.len().saturating_sub(end.len());
        if socket.read_buf(head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// The same for a client of HTTP/2 that knew beforehand: no settings, and the end of the connection, in which nothing was begun.
///
/// Source: RFC 9113, 4.1, 6.5, 6.8 and 7.
fn goaway(why: NotServed) -> Vec<u8> {
    const ENHANCE_YOUR_CALM: u8 = 0xb;
    const INADEQUATE_SECURITY: u8 = 0xc;
    let error = match why {
        NotServed::Limit(_) => ENHANCE_YOUR_CALM,
        NotServed::TlsRequired => INADEQUATE_SECURITY,
    };
    let words = why.in_words();
    // The last stream that was begun, which is none, and the code.
    let payload = [&[0, 0, 0, 0, 0, 0, 0, error], words.as_bytes()].concat();
    let length = u16::try_from(payload.len()).expect("words are short");
    let [high, low] = length.to_be_bytes();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let head = [0, high, low, 7, 0, 0, 0, 0, 0];
    [&settings[..], &head, &payload].concat()
}

async fn in_bytes(mut response: Response) -> Vec<u8> {
    let body = response.take_body().into_vec().await.unwrap_or_default();
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, body.len().into());
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    let mut bytes = answer_head(&response, Framing::Plain);
    bytes.extend(body);
    bytes
}
