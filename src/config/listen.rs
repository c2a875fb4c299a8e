//! The flags of `segno serve` for its sockets, for those who use it from elsewhere, and for waiting.

use std::{net::IpAddr, time::Duration};

use clap::Args;
use humantime::parse_duration;
use ipnet::IpNet;

use crate::{
    http::{CorsOrigin, PublicUrl},
    server::ListenAddress,
};

/// Where the hub listens, and how long it waits.
#[derive(Debug, Clone, Args)]
pub struct ListenFlags {
    /// Where to listen: `127.0.0.1:8000`; `8000` or `localhost:8000`, which mean the same; `:8000` for all addresses, as in a container;
    /// `unix:/run/segno.sock` for programs of this machine. Repeat the flag for more; separate them by spaces in the variable.
    #[arg(
        long = "listen",
        env = "SEGNO_LISTEN",
        default_value = "127.0.0.1:8000",
        value_name = "ADDRESS",
        value_delimiter = ' '
    )]
    pub addresses: Vec<ListenAddress>,

    /// Who may open a socket file of `--listen unix:…`: `0660` is the hub's user and group, `0666` everybody on this machine.
    #[arg(
        long,
        env = "SEGNO_LISTEN_MODE",
        default_value = "0660",
        value_name = "MODE",
        value_parser = parse_mode
    )]
    pub listen_mode: u32,

    /// Origin whose pages may use the hub from a browser, such as `https://example.com`; `*` allows all. Repeat the flag for
    /// more; separate them by spaces in the variable.
    #[arg(
        long = "cors-origin",
        env = "SEGNO_CORS_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ' '
    )]
    pub cors_origins: Vec<CorsOrigin>,

    /// Let pages of these origins send what the browser knows for the hub: cookies of a proxy, a password. `withCredentials` of an
    /// `EventSource`, as htmx sets it, needs this. Not with `*`.
    #[arg(long, env = "SEGNO_CORS_CREDENTIALS", requires = "cors_origins")]
    pub cors_credentials: bool,

    /// Send pages as they are also to clients that ask for gzip or zstd: who may publish, and sees how long encrypted answers are, could
    /// else guess at events beside its own.
    #[arg(long, env = "SEGNO_NO_COMPRESSION")]
    pub no_compression: bool,

    /// Address under which clients reach the hub, such as `https://example.com/segno`, where a proxy serves it under another
    /// or its name is not the machine's. `Location`, `Link`, `next` and the OpenAPI document begin with it, and browsers may use it.
    #[arg(long, env = "SEGNO_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<PublicUrl>,

    /// Address or network of a proxy, such as `10.0.0.0/8`, whose `X-Forwarded-For` names the client. Repeat the flag for more;
    /// separate them by spaces in the variable.
    #[arg(
        long = "trusted-proxy",
        env = "SEGNO_TRUSTED_PROXY",
        value_name = "ADDRESS",
        value_delimiter = ' ',
        value_parser = parse_network
    )]
    pub trusted_proxies: Vec<IpNet>,

    /// Interval of the heartbeat on a stream that has nothing else to send.
    #[arg(long, env = "SEGNO_HEARTBEAT", default_value = "15s", value_name = "DURATION", value_parser = parse_duration)]
    pub heartbeat: Duration,

    /// Longest time for the head of a request to arrive, and for a connection to idle between requests.
    #[arg(long, env = "SEGNO_HEADER_TIMEOUT", default_value = "30s", value_name = "DURATION", value_parser = parse_duration)]
    pub header_timeout: Duration,

    /// Longest time for the body of a request to arrive.
    #[arg(long, env = "SEGNO_BODY_TIMEOUT", default_value = "30s", value_name = "DURATION", value_parser = parse_duration)]
    pub body_timeout: Duration,

    /// Longest time an answer may wait for its client to take a byte of it. Streams and NDJSON may wait for ever.
    #[arg(long, env = "SEGNO_WRITE_TIMEOUT", default_value = "30s", value_name = "DURATION", value_parser = parse_duration)]
    pub write_timeout: Duration,

    /// Longest wait for open requests and streams when the hub stops.
    #[arg(long, env = "SEGNO_DRAIN_TIMEOUT", default_value = "10s", value_name = "DURATION", value_parser = parse_duration)]
    pub drain_timeout: Duration,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| *mode <= 0o777 && !text.starts_with('+'))
        .ok_or_else(|| "a mode looks like 0660".into())
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text
        .parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| "an address looks like 10.0.0.1, 10.0.0.0/8 or fd00::/8".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_octal() {
        assert_eq!(parse_mode("0660"), Ok(0o660));
        assert_eq!(parse_mode("600"), Ok(0o600));
        for bad in ["", "0o660", "888", "1777", "-1", "+1", "rw"] {
            assert!(parse_mode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_proxy_is_an_address_or_a_network() {
        let network = |text: &str| parse_network(text).map(|network| network.to_string());
        assert_eq!(network("10.0.0.1"), Ok("10.0.0.1/32".into()));
        assert_eq!(network("10.0.0.0/8"), Ok("10.0.0.0/8".into()));
        assert_eq!(network("fd00::/8"), Ok("fd00::/8".into()));
        for bad in ["", "proxy", "10.0.0.0/33", "10.0.0", "10.0.0.1:80"] {
            assert!(network(bad).is_err(), "{bad:?}");
        }
    }
}
