//! Who a request comes from. Found once, before the ways of a request part; asked by all that depends on it.

use std::{net::SocketAddr, sync::Arc};

use poem::{Request, http::HeaderMap};

use crate::{
    filter::Filter,
    limits::{BodyPermit, ConnectionPermit, LimitHit, Limits, StreamPermit},
};

/// The sender of a request. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// The other end of the connection.
    pub(super) address: SocketAddr,
    connection: Arc<ConnectionPermit>,
    /// What `X-Forwarded-For` says, if the request has one.
    forwarded: Option<Arc<str>>,
}

impl Caller {
    /// Reads it from a request that comes from the server, and notes it in the request.
    pub(super) fn find(request: &mut Request) {
        let connection = request
            .data::<Arc<ConnectionPermit>>()
            .expect("the server puts it into every request");
        let address = request.remote_addr().as_socket_addr();
        let caller = Self {
            address: *address.expect("connections are TCP"),
            connection: connection.clone(),
            forwarded: forwarded(request.headers()),
        };
        request.set_data(caller);
    }

    /// The caller of a request in which it was [noted](Self::find).
    pub(super) fn of(request: &Request) -> &Self {
        request
            .data::<Self>()
            .expect("noted before the ways of a request part")
    }

    /// The limits that hold for it.
    pub(super) fn limits(&self) -> &Limits {
        self.connection.limits()
    }

    /// Opens one more stream, if it may.
    pub(super) fn open_stream(&self, filter: &Filter) -> Result<StreamPermit, LimitHit> {
        let forwarded = self.forwarded.as_deref();
        self.connection.open_stream(filter.size_bytes(), forwarded)
    }

    /// Permits a body of `announced` bytes, if there is memory for it.
    pub(super) fn hold_body(&self, announced: usize) -> Result<BodyPermit, LimitHit> {
        self.connection
            .hold_body(announced, self.forwarded.as_deref())
    }

    /// Publishes `events` events, if its rate allows it.
    pub(super) fn publish(&self, events: usize) -> Result<(), LimitHit> {
        self.connection.publish(events, self.forwarded.as_deref())
    }
}

/// Where the header is there more than once, the last is the newest.
fn forwarded(headers: &HeaderMap) -> Option<Arc<str>> {
    let values = headers.get_all("x-forwarded-for").iter();
    let hops: Vec<_> = values.map(|value| value.to_str().unwrap_or("?")).collect();
    (!hops.is_empty()).then(|| hops.join(",").into())
}

/// Whether a head, which nobody has parsed, has an `X-Forwarded-For`.
pub(crate) fn is_forwarded(head: &[u8]) -> bool {
    let name = b"\nx-forwarded-for:";
    head.windows(name.len())
        .any(|bytes| bytes.eq_ignore_ascii_case(name))
}
