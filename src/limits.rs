//! The limits on connections, on connections, streams and events of an address, and on streams and events of a caller. Pure but
//! for the clock, and for the turns that are kept here.
//!
//! A connection looks its address up once, and its requests share what it found: a limit then costs an atomic. Only behind a
//! trusted proxy, where each request may be another client's, a stream looks up again, and a publish if there is a rate.
//! Refusals are counted where they are answered, by their code. Counts and buckets of addresses without a connection are dropped:
//! the table has at most two addresses for each connection that is allowed, and a few more.

mod address;
mod hit;
mod permit;
mod rate;

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use ipnet::IpNet;

use self::{
    address::{Address, Usage, Usages},
    permit::Peer,
    rate::Rate,
};
pub use self::{
    hit::{Limit, LimitHit},
    permit::{BodyPermit, ConnectionPermit, StreamPermit},
};
use crate::{
    event::DATA_MAX_BYTES,
    rights::{self, Quota},
    turns::Turns,
};

/// Bytes of the body of a batch. Source: the hub's HTTP contract.
pub const BATCH_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Events of a batch. Source: the hub's HTTP contract.
pub const BATCH_MAX_EVENTS: usize = 10_000;

/// The largest body fits into the quarter of one address, as it was sent and decoded, and leaves some for others.
pub const BODY_MEMORY_MIN_BYTES: usize = 10 * BATCH_MAX_BYTES;

/// Source: a [`LimitHit`] has 32 bits for it.
pub const BODY_MEMORY_MAX_BYTES: usize = 4 * 1024 * 1024 * 1024 - 1;

/// Events a second that a flag may allow. Source: [`rights::RATE_MAX_EVENTS`].
pub const RATE_MAX_EVENTS: i64 = rights::RATE_MAX_EVENTS as i64;

/// When a client may try again that hit a limit of connections or streams: another must end first.
const ONE_LESS_RETRY_AFTER: Duration = Duration::from_secs(5);

/// When a client may try again that found no memory for its body: bodies arrive within seconds.
const BODY_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bytes that the filters of an address's streams may take: 400 streams of 700 topics each, or 3,500 of 80, or 3,300 of many patterns.
///
/// Not a setting: who needs more than that can ask for patterns, and whoever runs the hub can allow fewer streams.
const FILTERS_MAX_BYTES_OF_ADDRESS: usize = 64 * 1024 * 1024;

/// The limits. A request over one gets an answer that names it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Longest time a request's head may take to arrive, and a connection may idle between requests.
    pub header_timeout: Duration,
    /// Longest time a request's body may take to arrive.
    pub body_timeout: Duration,
    /// Longest time an answer may wait for its client to take a byte of it. Streams and NDJSON may wait for ever.
    pub write_timeout: Duration,
    /// Connections in all.
    pub max_connections: NonZeroU32,
    /// Connections of an address. For IPv6 an address is its /64 network, here and below.
    pub max_connections_per_address: NonZeroU32,
    /// Streams that an address may have open.
    pub max_streams_per_address: NonZeroU32,
    /// Events a second that an address may publish, at most [`RATE_MAX_EVENTS`]; `None` is no limit.
    pub rate_per_address: Option<u32>,
    /// Events that an address may publish at once before its rate counts; `None` is the events of ten seconds.
    pub burst_per_address: Option<NonZeroU32>,
    /// Bytes of an event's data, at most [`DATA_MAX_BYTES`].
    pub max_event_bytes: usize,
    /// Bytes of the body of a batch, at most [`BATCH_MAX_BYTES`].
    pub max_batch_bytes: usize,
    /// Bytes of all bodies that are being read, from [`BODY_MEMORY_MIN_BYTES`] to [`BODY_MEMORY_MAX_BYTES`]. An address has a
    /// quarter of it.
    pub max_body_memory: usize,
    /// Events of a batch, at most [`BATCH_MAX_EVENTS`].
    pub max_batch_events: usize,
    /// Proxies whose `X-Forwarded-For` says who the client is.
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for Settings {
    fn default() -> Self {
        let some = |n| NonZeroU32::new(n).expect("it is not zero");
        Self {
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            max_connections: some(50_000),
            max_connections_per_address: some(10_000),
            max_streams_per_address: some(10_000),
            rate_per_address: None,
            burst_per_address: None,
            max_event_bytes: DATA_MAX_BYTES,
            max_batch_bytes: BATCH_MAX_BYTES,
            max_body_memory: 256 * 1024 * 1024,
            max_batch_events: BATCH_MAX_EVENTS,
            trusted_proxies: Vec::new(),
        }
    }
}

/// A caller as it is counted, from whatever address it comes.
#[derive(Debug, Clone, Copy)]
pub struct Account<'a> {
    /// What it is counted under.
    pub name: &'a Arc<str>,
    /// How much it may take.
    pub quota: Quota,
}

/// What is taken now, and how much may be.
#[derive(Debug)]
pub struct Limits {
    /// The limits.
    pub settings: Settings,
    /// Where what is large waits for each other.
    pub turns: Turns,
    rate: Option<Rate>,
    /// The time that buckets count from.
    began: Instant,
    connections: AtomicU32,
    streams: AtomicU32,
    body_bytes: AtomicUsize,
    addresses: Mutex<Usages<Address>>,
    callers: Mutex<Usages<Arc<str>>>,
    /// Whether it was logged that a proxy should perhaps be trusted.
    proxy_was_logged: AtomicBool,
}

impl Limits {
    /// Nothing is taken yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            rate: settings
                .rate_per_address
                .map(|rate| Rate::new(rate, settings.burst_per_address)),
            began: Instant::now(),
            connections: AtomicU32::new(0),
            streams: AtomicU32::new(0),
            body_bytes: AtomicUsize::new(0),
            turns: Turns::default(),
            addresses: Mutex::new(Usages::new(&settings)),
            callers: Mutex::new(Usages::new(&settings)),
            proxy_was_logged: AtomicBool::new(false),
            settings,
        }
    }

    /// Connections that are served.
    pub fn connections(&self) -> u32 {
        self.connections.load(Relaxed)
    }

    /// Streams that are open.
    pub fn streams(&self) -> u32 {
        self.streams.load(Relaxed)
    }

    /// Permits a connection from `peer`, if one more may be open.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Result<ConnectionPermit, LimitHit> {
        let max = self.settings.max_connections.get();
        if !take_one(&self.connections, max) {
            return Err(LimitHit::new(Limit::Connections, max, ONE_LESS_RETRY_AFTER));
        }
        if self.trusts(peer) {
            return Ok(self.permit_proxy(peer));
        }
        let usage = self.usage(peer);
        let max = self.settings.max_connections_per_address.get();
        if !take_one(&usage.connections, max) {
            give_one_back(&self.connections);
            return Err(LimitHit::new(
                Limit::ConnectionsOfAddress,
                max,
                ONE_LESS_RETRY_AFTER,
            ));
        }
        let limits = self.clone();
        let peer = Peer::Client(peer, usage);
        Ok(ConnectionPermit { limits, peer })
    }

    /// Permits a connection from `peer`, which may say for whom it speaks whatever its address is, if one more may be open.
    pub fn admit_proxy(self: &Arc<Self>, peer: IpAddr) -> Result<ConnectionPermit, LimitHit> {
        let max = self.settings.max_connections.get();
        match take_one(&self.connections, max) {
            true => Ok(self.permit_proxy(peer)),
            false => Err(LimitHit::new(Limit::Connections, max, ONE_LESS_RETRY_AFTER)),
        }
    }

    fn permit_proxy(self: &Arc<Self>, proxy: IpAddr) -> ConnectionPermit {
        ConnectionPermit {
            limits: self.clone(),
            peer: Peer::Proxy(proxy),
        }
    }

    /// Logs that a request of `peer`, which hit a limit of its address, seems to come through a proxy that is not trusted.
    ///
    /// Logged once: it explains all refusals that follow.
    pub fn note_proxy(&self, peer: IpAddr) {
        if !self.proxy_was_logged.swap(true, Relaxed) {
            tracing::warn!(
                address = %peer,
                "an address that looks like a proxy hit a limit; if it is yours, start with --trusted-proxy {peer}"
            );
        }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.settings
            .trusted_proxies
            .iter()
            .any(|proxies| proxies.contains(&address))
    }

    /// The client that `proxy` forwards for: of the addresses in its header, the last that is no trusted proxy. Who wrote it
    /// was trusted, and what stands before it is anybody's word. Where there is none, or something else, it is the proxy.
    fn client(&self, proxy: IpAddr, forwarded: &str) -> IpAddr {
        for hop in forwarded.rsplit(',') {
            match read_hop(hop.trim()) {
                Some(address) if self.trusts(address) => (),
                Some(address) => return address,
                None => break,
            }
        }
        proxy
    }

    fn usage(&self, address: IpAddr) -> Arc<Usage> {
        let mut addresses = self
            .addresses
            .lock()
            .expect("nobody panics while holding it");
        addresses.usage(Address::of(address), self.began)
    }

    fn usage_of_caller(&self, account: Account<'_>) -> Arc<Usage> {
        let mut callers = self.callers.lock().expect("nobody panics while holding it");
        callers.usage(account.name.clone(), self.began)
    }
}

/// An address of `X-Forwarded-For`; some proxies write the port behind it, or brackets around it.
fn read_hop(hop: &str) -> Option<IpAddr> {
    let bare = hop.trim_start_matches('[').trim_end_matches(']');
    let with_port = || Some(hop.parse::<SocketAddr>().ok()?.ip());
    bare.parse().ok().or_else(with_port)
}

fn take_one(count: &AtomicU32, max: u32) -> bool {
    let one_more = |count| (count < max).then_some(count + 1);
    count.fetch_update(Relaxed, Relaxed, one_more).is_ok()
}

fn take(count: &AtomicUsize, bytes: usize, max: usize) -> bool {
    let more = |count: usize| (count + bytes <= max).then_some(count + bytes);
    count.fetch_update(Relaxed, Relaxed, more).is_ok()
}

fn give_back(count: &AtomicUsize, bytes: usize) {
    let before = count.fetch_sub(bytes, Relaxed);
    assert!(before >= bytes, "nobody gives back what was not taken");
}

fn give_one_back(count: &AtomicU32) {
    let before = count.fetch_sub(1, Relaxed);
    assert!(before > 0, "nobody gives back what was not taken");
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("584 years are not over")
}

#[cfg(test)]
mod tests {
    use super::{address::SWEEP_MIN_ADDRESSES, *};

    fn limits(change: impl FnOnce(&mut Settings)) -> Arc<Limits> {
        let mut settings = Settings::default();
        change(&mut settings);
        Arc::new(Limits::new(settings))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn addresses(limits: &Limits) -> usize {
        limits.addresses.lock().unwrap().usages.len()
    }

    #[test]
    fn filters_count_for_their_address_until_the_stream_ends() {
        let limits = limits(|_| ());
        let connection = Arc::new(limits.admit(ip("10.0.0.1")).unwrap());
        let half = FILTERS_MAX_BYTES_OF_ADDRESS / 2;
        let first = connection.open_stream(half, None, None).unwrap();
        let _second = connection.open_stream(half, None, None).unwrap();
        let refused = connection.open_stream(100, None, None).unwrap_err();
        assert_eq!(refused.limit, Limit::FilterBytesOfAddress);
        let other = Arc::new(limits.admit(ip("10.0.0.2")).unwrap());
        assert!(other.open_stream(half, None, None).is_ok());
        drop(first);
        assert!(connection.open_stream(100, None, None).is_ok());
    }

    #[test]
    fn a_caller_is_counted_wherever_it_comes_from_and_by_the_quota_of_the_moment() {
        let limits = limits(|settings| settings.rate_per_address = Some(1000));
        let at = |address| Arc::new(limits.admit(ip(address)).unwrap());
        let (here, there) = (at("10.0.0.1"), at("10.0.0.2"));
        let (name, other): (Arc<str>, Arc<str>) = ("token a".into(), "token b".into());
        let some = |n: u32| n.try_into().ok();
        let quota = |streams, rate, burst| Quota {
            streams,
            rate,
            burst,
        };
        let account = |name, quota| Some(Account { name, quota });
        let two = account(&name, quota(some(2), None, None));
        let refused = |hit: Result<StreamPermit, LimitHit>| {
            let hit = hit.unwrap_err();
            (hit.limit, hit.max)
        };
        let first = here.open_stream(0, None, two).unwrap();
        let _second = there.open_stream(0, None, two).unwrap();
        assert_eq!(
            refused(here.open_stream(0, None, two)),
            (Limit::StreamsOfCaller, 2)
        );
        let _others = here.open_stream(0, None, account(&other, quota(some(2), None, None)));
        // The file says three now; those that are open still count.
        let three = account(&name, quota(some(3), None, None));
        let _third = here.open_stream(0, None, three).unwrap();
        assert_eq!(
            refused(here.open_stream(0, None, three)),
            (Limit::StreamsOfCaller, 3)
        );
        drop(first);
        assert!(here.open_stream(0, None, three).is_ok());
        // Those that were opened while there was no limit count, too.
        let free = account(&other, Quota::default());
        let _more = [(); 3].map(|()| there.open_stream(0, None, free).unwrap());
        let two = account(&other, quota(some(2), None, None));
        assert_eq!(
            refused(there.open_stream(0, None, two)),
            (Limit::StreamsOfCaller, 2)
        );

        let slow = account(&name, quota(None, some(1), some(10)));
        here.publish(6, None, slow).unwrap();
        let hit = there.publish(6, None, slow).unwrap_err();
        assert_eq!((hit.limit, hit.max), (Limit::EventsOfCaller, 1));
        there.publish(4, None, slow).unwrap();
        assert!(there.publish(1, None, slow).is_err());
        there.publish(1, None, free).unwrap();

        // What the address refuses is not taken from the caller.
        let narrow = limits_of_rate(1);
        let here = narrow.admit(ip("10.0.0.1")).unwrap();
        let ten = account(&name, quota(None, some(1), some(10)));
        here.publish(10, None, free).unwrap();
        let hit = here.publish(10, None, ten).unwrap_err();
        assert_eq!(hit.limit, Limit::EventsOfAddress);
        let there = narrow.admit(ip("10.0.0.2")).unwrap();
        there.publish(10, None, ten).unwrap();
    }

    fn limits_of_rate(rate: u32) -> Arc<Limits> {
        limits(|settings| settings.rate_per_address = Some(rate))
    }

    #[test]
    fn an_ipv6_address_is_its_network_and_an_embedded_ipv4_address_is_itself() {
        let is_one = |a, b| Address::of(ip(a)) == Address::of(ip(b));
        assert!(is_one("2001:db8:1:2::1", "2001:db8:1:2:ffff::9"));
        assert!(!is_one("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(is_one("::ffff:192.0.2.7", "192.0.2.7"));
        assert!(!is_one("192.0.2.7", "192.0.2.8"));
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_no_trusted_proxy() {
        let limits = limits(|settings| {
            let trusted = ["10.0.0.0/8", "fd00::/8"];
            settings.trusted_proxies = trusted.map(|proxies| proxies.parse().unwrap()).into();
        });
        for (forwarded, client) in [
            ("192.0.2.7", "192.0.2.7"),
            ("198.51.100.1, 192.0.2.7", "192.0.2.7"),
            ("192.0.2.7,10.1.1.1 , fd00::3", "192.0.2.7"),
            ("192.0.2.7:4711", "192.0.2.7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:4711,10.1.1.1", "2001:db8::7"),
            ("rubbish, 192.0.2.7", "192.0.2.7"),
            // From here on the proxy itself counts.
            ("192.0.2.7, rubbish", "10.0.0.1"),
            ("192.0.2.7, rubbish, 10.1.1.1", "10.0.0.1"),
            ("192.0.2.7,", "10.0.0.1"),
            ("10.1.1.1, 10.2.2.2", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            let found = limits.client(ip("10.0.0.1"), forwarded);
            assert_eq!(found, ip(client), "{forwarded:?}");
        }
        assert!(limits.trusts(ip("::ffff:10.1.2.3")));
        assert!(!limits.trusts(ip("192.0.2.7")));
    }

    #[test]
    fn a_place_is_free_again_when_it_is_dropped_and_no_sooner() {
        let limits = limits(|settings| {
            settings.max_connections = 3.try_into().unwrap();
            settings.max_connections_per_address = 2.try_into().unwrap();
        });
        let refused = |address| limits.admit(ip(address)).unwrap_err().limit;
        let first = limits.admit(ip("192.0.2.7")).unwrap();
        let _second = limits.admit(ip("192.0.2.7")).unwrap();
        assert_eq!(refused("192.0.2.7"), Limit::ConnectionsOfAddress);
        let _third = limits.admit(ip("192.0.2.8")).unwrap();
        assert_eq!(refused("192.0.2.9"), Limit::Connections);
        drop(first);
        assert_eq!(limits.connections(), 2);
        let _again = limits.admit(ip("192.0.2.7")).unwrap();
        assert_eq!(refused("192.0.2.8"), Limit::Connections);
    }

    #[test]
    fn addresses_that_are_gone_are_let_go_and_the_table_has_an_end() {
        let limits = limits(|settings| {
            settings.max_connections = 100.try_into().unwrap();
            settings.max_connections_per_address = 1.try_into().unwrap();
            settings.rate_per_address = Some(1);
        });
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        let stays = limits.admit(address(0)).unwrap();
        stays.publish(10, None, None).unwrap();
        for n in 1..5000 {
            limits.admit(address(n)).unwrap();
        }
        assert!(addresses(&limits) <= SWEEP_MIN_ADDRESSES);
        assert!(limits.admit(address(0)).is_err(), "it is remembered");

        // Now each leaves a bucket that is not full, which is worth to be remembered, but not without end.
        for n in 1..20_000 {
            let place = limits.admit(address(n)).unwrap();
            place.publish(10, None, None).unwrap();
        }
        assert!(addresses(&limits) <= 2 * 100 + 2 * SWEEP_MIN_ADDRESSES);
        let back = limits.admit(address(19_999)).unwrap();
        assert!(back.publish(1, None, None).is_err(), "it is remembered");
        assert!(limits.admit(address(0)).is_err(), "it is remembered");
    }
}
