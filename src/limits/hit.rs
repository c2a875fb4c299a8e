//! A limit that was hit, in words.

use std::{fmt, time::Duration};

/// A limit that a client may hit and come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Connections in all.
    Connections,
    /// Connections of an address.
    ConnectionsOfAddress,
    /// Streams of an address.
    StreamsOfAddress,
    /// Bytes of the filters of an address's streams.
    FilterBytesOfAddress,
    /// Events a second of an address.
    EventsOfAddress,
    /// Streams of a caller.
    StreamsOfCaller,
    /// Events a second of a caller.
    EventsOfCaller,
    /// Bytes of bodies in all.
    BodyBytes,
    /// Bytes of bodies of an address.
    BodyBytesOfAddress,
}

/// A limit that a client has hit: it is refused for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitHit {
    /// What was hit.
    pub limit: Limit,
    /// Its value.
    pub max: u32,
    /// When it is worth to try again.
    pub retry_after: Duration,
    /// Whether the address may be a proxy's: the request has `X-Forwarded-For`, and its sender is not a trusted proxy.
    pub is_forwarded: bool,
}

impl LimitHit {
    pub(super) fn new(limit: Limit, max: u32, retry_after: Duration) -> Self {
        Self {
            limit,
            max,
            retry_after,
            is_forwarded: false,
        }
    }
}

impl fmt::Display for LimitHit {
    /// Names the flag or the entry, which an operator can change.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (who_has_what, flag) = match self.limit {
            Limit::Connections => ("the hub has as many connections as", "--max-connections"),
            Limit::ConnectionsOfAddress => (
                "your address has as many connections as",
                "--max-connections-per-address",
            ),
            Limit::StreamsOfAddress => (
                "your address has as many streams open as",
                "--max-streams-per-address",
            ),
            Limit::FilterBytesOfAddress => {
                return write!(
                    f,
                    "the filters of your address's streams would take more than {} bytes; ask for fewer topics, or use patterns",
                    self.max
                );
            }
            Limit::EventsOfAddress => (
                "your address published more events a second than",
                "--max-rate-per-address",
            ),
            Limit::StreamsOfCaller => (
                "you have as many streams open as",
                "`streams` of your entry in the access file",
            ),
            Limit::EventsOfCaller => (
                "you published more events a second than",
                "`rate` of your entry in the access file",
            ),
            Limit::BodyBytes => (
                "unfinished requests fill the memory that",
                "--max-body-memory",
            ),
            Limit::BodyBytesOfAddress => (
                "unfinished requests of your address fill the quarter of the memory that",
                "--max-body-memory",
            ),
        };
        write!(f, "{who_has_what} {flag} allows, which is {}", self.max)?;
        if self.is_forwarded {
            f.write_str(
                "; the request came through a proxy, whose address counts for all its clients until the hub is started with \
                 --trusted-proxy and that address",
            )?;
        }
        Ok(())
    }
}
