//! What each address has taken.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use super::{Settings, nanoseconds};

/// Addresses at which the table is searched for those without a connection.
pub(super) const SWEEP_MIN_ADDRESSES: usize = 1024;

/// What is one client to the limits: an IPv4 address, or the /64 network of an IPv6 address, which is what one customer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Address(IpAddr);

impl Address {
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (!0 << 64)).into(),
        })
    }
}

/// What an address has now.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub(super) connections: AtomicU32,
    pub(super) streams: AtomicU32,
    pub(super) body_bytes: AtomicUsize,
    pub(super) filter_bytes: AtomicUsize,
    /// When its bucket is full again, since the limits began.
    pub(super) full_at_ns: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Addresses {
    pub(super) usages: HashMap<Address, Arc<Usage>>,
    /// Addresses at which those that are gone are let go.
    pub(super) sweep_at: usize,
    /// Never more addresses than this.
    pub(super) max: usize,
}

impl Addresses {
    pub(super) fn new(settings: &Settings) -> Self {
        let connections = usize::try_from(settings.max_connections.get()).unwrap_or(usize::MAX);
        Self {
            usages: HashMap::new(),
            sweep_at: SWEEP_MIN_ADDRESSES,
            max: connections
                .saturating_mul(2)
                .saturating_add(2 * SWEEP_MIN_ADDRESSES),
        }
    }

    pub(super) fn usage(&mut self, address: Address, began: Instant) -> Arc<Usage> {
        if let Some(usage) = self.usages.get(&address) {
            return usage.clone();
        }
        if self.usages.len() >= self.sweep_at {
            self.sweep(nanoseconds(began.elapsed()));
        }
        self.usages.entry(address).or_default().clone()
    }

    /// Lets go of addresses that have nothing open and a full bucket, and where that is not enough, of those that have nothing
    /// open: at most as many as there are connections are left. Doubling where it is done next makes it cheap.
    fn sweep(&mut self, now_ns: u64) {
        // Only the table, which is locked, hands out more of what it alone holds.
        let is_open = |usage: &Arc<Usage>| Arc::strong_count(usage) > 1;
        self.usages
            .retain(|_, usage| is_open(usage) || usage.full_at_ns.load(Relaxed) > now_ns);
        if self.usages.len() > self.max / 2 {
            self.usages.retain(|_, usage| is_open(usage));
        }
        self.sweep_at = (2 * self.usages.len()).clamp(SWEEP_MIN_ADDRESSES, self.max);
    }
}
