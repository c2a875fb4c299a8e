//! What connections of HTTP/1 and HTTP/2 share: whom they ask, who asks, and what is noted of them.

use std::{fmt::Display, net::SocketAddr, sync::Arc};

use hyper::body::Incoming;
use poem::{
    Addr, Endpoint, Request, Response,
    http::uri::Scheme,
    web::{LocalAddr, RemoteAddr},
};
use tokio_util::sync::CancellationToken;

use crate::{
    http::{Answer, OneASecond},
    limits::ConnectionPermit,
    metrics::Metrics,
    peer_address::PeerAddress,
};

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
    pub(super) fn note_end(&self, error: &hyper::Error, client: &Client) {
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

    pub(super) fn note_late(&self) {
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
        self.metrics.refusals.get_or_create(&[("code", code)]).inc();
        if let Some(untold) = self.refused_below.pass() {
            let client = client.peer;
            tracing::info!(%client, code, %error, untold, "{what}");
        }
    }
}

/// The client of a connection, and what all its requests share. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Client {
    /// The hub's side; `None` for a socket file.
    pub(super) local: Option<SocketAddr>,
    pub(super) peer: PeerAddress,
    pub(super) scheme: Scheme,
    pub(super) permit: Arc<ConnectionPermit>,
}

impl Client {
    /// A request of this client, as the hub takes it.
    pub(super) fn request(&self, request: hyper::Request<Incoming>) -> Request {
        let local = LocalAddr(self.local.map_or_else(Addr::default, Addr::from));
        let remote = match self.peer {
            PeerAddress::Ip(address) => address.into(),
            PeerAddress::Unix => Addr::default(),
        };
        let parts = (request, local, RemoteAddr(remote), self.scheme.clone());
        let mut request = Request::from(parts);
        request.set_data(self.permit.clone());
        request
    }
}

/// An answer for hyper to write, and whether it may stand still: one of any length, which holds no more than a page of it. A stream
/// asks whether its client is there when `half_closed` says that the client sends no more.
pub(super) fn into_response(
    answer: Answer,
    half_closed: Option<&CancellationToken>,
) -> (Response, bool) {
    let is_stream = matches!(answer, Answer::Stream(..));
    let response = answer.with_body(half_closed);
    let may_wait = is_stream || is_open_ended(&response);
    (response, may_wait)
}

fn is_open_ended(response: &Response) -> bool {
    let media_type = response.content_type().unwrap_or_default();
    ["text/event-stream", "application/x-ndjson"]
        .iter()
        .any(|open_ended| media_type.starts_with(open_ended))
}
