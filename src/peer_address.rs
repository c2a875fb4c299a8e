//! Who is at the other end of a connection.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// The other end of a connection. Shown as `192.0.2.7:4711`, or as `unix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAddress {
    /// A client that reached the hub at an address of IP. One of IPv4 is always told as such, never within IPv6.
    Ip(SocketAddr),
    /// A program of this machine that opened the file of a socket. The system gives it no address.
    Unix,
}

impl PeerAddress {
    /// Its address, as limits count it: that of loopback where it has none.
    pub fn ip(self) -> IpAddr {
        match self {
            Self::Ip(address) => address.ip(),
            Self::Unix => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip((address.ip().to_canonical(), address.port()).into())
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_ipv4_is_told_as_such_and_a_socket_file_is_this_machine() {
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:4711".parse().unwrap();
        assert_eq!(PeerAddress::from(mapped).to_string(), "192.0.2.7:4711");
        let other: SocketAddr = "[2001:db8::7]:4711".parse().unwrap();
        assert_eq!(PeerAddress::from(other).to_string(), "[2001:db8::7]:4711");
        assert!(PeerAddress::Unix.ip().is_loopback());
        assert_eq!(PeerAddress::Unix.to_string(), "unix");
    }
}
