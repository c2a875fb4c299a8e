//! What each address, and each caller, has taken.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use super::{Settings, nanoseconds};

/// Entries at which a table is searched for those that have nothing open.
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

/// What an address, or a caller, has now.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub(super) connections: AtomicU32,
    pub(super) streams: AtomicU32,
    pub(super) body_bytes: AtomicUsize,
    pub(super) filter_bytes: AtomicUsize,
    /// When its bucket is full again, since the limits began.
    pub(super) full_at_ns: AtomicU64,
}

/// What each has that is counted by a `K`: an address, or the name of a caller.
#[derive(Debug)]
pub(super) struct Usages<K> {
    pub(super) usages: HashMap<K, Arc<Usage>>,
    /// How many there are when those that are gone are let go.
    pub(super) sweep_at: usize,
    /// Never more than this.
    pub(super) max: usize,
}

impl<K: Eq + Hash> Usages<K> {
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

    pub(super) fn usage(&mut self, of: K, began: Instant) -> Arc<Usage> {
        if let Some(usage) = self.usages.get(&of) {
            return usage.clone();
        }
        if self.usages.len() >= self.sweep_at {
            self.sweep(nanoseconds(began.elapsed()));
        }
        self.usages.entry(of).or_default().clone()
    }

    /// Lets go of those that have nothing open and a full bucket, and where that is not enough, of those that have nothing
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
