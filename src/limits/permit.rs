//! What was taken, until it is dropped.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use super::{
    Account, BODY_RETRY_AFTER, FILTERS_MAX_BYTES_OF_ADDRESS, Limit, LimitHit, Limits,
    ONE_LESS_RETRY_AFTER, address::Usage, give_back, give_one_back, nanoseconds, rate::Rate, take,
    take_one,
};

/// Permits one connection. The next may take its place when this is dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    pub(super) limits: Arc<Limits>,
    pub(super) peer: Peer,
}

#[derive(Debug)]
pub(super) enum Peer {
    Client(IpAddr, Arc<Usage>),
    Proxy(IpAddr),
}

impl ConnectionPermit {
    /// The limits that hold for it.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Permits one more stream of the client, and of the caller if that is counted. `forwarded` is what the request's
    /// `X-Forwarded-For` says, if it has one.
    pub fn open_stream(
        self: &Arc<Self>,
        filter_bytes: usize,
        forwarded: Option<&str>,
        account: Option<Account<'_>>,
    ) -> Result<StreamPermit, LimitHit> {
        let of_caller = account
            .map(|account| self.open_stream_of_caller(account))
            .transpose()?;
        let usage = self.client(forwarded);
        let max = self.limits.settings.max_streams_per_address.get();
        if !take_one(&usage.streams, max) {
            let hit = LimitHit::new(Limit::StreamsOfAddress, max, ONE_LESS_RETRY_AFTER);
            return Err(self.explain(hit, forwarded));
        }
        if !take(
            &usage.filter_bytes,
            filter_bytes,
            FILTERS_MAX_BYTES_OF_ADDRESS,
        ) {
            give_one_back(&usage.streams);
            let hit = LimitHit::new(
                Limit::FilterBytesOfAddress,
                u32::try_from(FILTERS_MAX_BYTES_OF_ADDRESS).unwrap_or(u32::MAX),
                ONE_LESS_RETRY_AFTER,
            );
            return Err(self.explain(hit, forwarded));
        }
        self.limits.streams.fetch_add(1, Relaxed);
        Ok(StreamPermit {
            connection: self.clone(),
            usage,
            filter_bytes,
            _of_caller: of_caller,
        })
    }

    /// Counted also where there is no limit: the access file may set one while the stream is open.
    fn open_stream_of_caller(&self, account: Account<'_>) -> Result<StreamOfCaller, LimitHit> {
        let usage = self.limits.usage_of_caller(account);
        let max = account.quota.streams.map_or(u32::MAX, NonZeroU32::get);
        match take_one(&usage.streams, max) {
            true => Ok(StreamOfCaller(usage)),
            false => Err(LimitHit::new(
                Limit::StreamsOfCaller,
                max,
                ONE_LESS_RETRY_AFTER,
            )),
        }
    }

    /// Takes `events` events out of what the caller, if it is counted, and the client may publish. Costs nothing where there is no
    /// rate.
    pub fn publish(
        &self,
        events: usize,
        forwarded: Option<&str>,
        account: Option<Account<'_>>,
    ) -> Result<(), LimitHit> {
        let now_ns = || nanoseconds(self.limits.began.elapsed());
        let of_caller = account.and_then(|account| {
            let rate = Rate::new(account.quota.rate?.get(), account.quota.burst);
            Some((rate, self.limits.usage_of_caller(account)))
        });
        if let Some((rate, usage)) = &of_caller {
            let taken = rate.take(&usage.full_at_ns, now_ns(), events);
            let max = rate.events_per_second;
            taken.map_err(|wait| LimitHit::new(Limit::EventsOfCaller, max, wait))?;
        }
        let Some(rate) = &self.limits.rate else {
            return Ok(());
        };
        let usage = self.client(forwarded);
        let taken = rate.take(&usage.full_at_ns, now_ns(), events);
        taken.map_err(|wait| {
            if let Some((rate, usage)) = &of_caller {
                rate.give_back(&usage.full_at_ns, events);
            }
            let hit = LimitHit::new(Limit::EventsOfAddress, rate.events_per_second, wait);
            self.explain(hit, forwarded)
        })
    }

    /// Permits a body of `announced` bytes, if they would fit now. They are not taken: what [arrives](BodyPermit::grow) is.
    pub fn hold_body(
        self: &Arc<Self>,
        announced: usize,
        forwarded: Option<&str>,
    ) -> Result<BodyPermit, LimitHit> {
        let permit = BodyPermit {
            connection: self.clone(),
            bytes: 0,
        };
        match permit.would_exceed(announced) {
            Some(hit) => Err(self.explain(hit, forwarded)),
            None => Ok(permit),
        }
    }

    /// The address of the client: the other end of the connection, or whom a trusted proxy forwards for.
    pub fn client_address(&self, forwarded: Option<&str>) -> IpAddr {
        match &self.peer {
            Peer::Client(address, _) => *address,
            Peer::Proxy(proxy) => self.limits.client(*proxy, forwarded.unwrap_or_default()),
        }
    }

    fn client(&self, forwarded: Option<&str>) -> Arc<Usage> {
        match &self.peer {
            Peer::Client(_, usage) => usage.clone(),
            Peer::Proxy(proxy) => {
                let client = self.limits.client(*proxy, forwarded.unwrap_or_default());
                self.limits.usage(client)
            }
        }
    }

    fn explain(&self, hit: LimitHit, forwarded: Option<&str>) -> LimitHit {
        match self.peer {
            Peer::Client(address, _) if forwarded.is_some() => {
                self.limits.note_proxy(address);
                LimitHit {
                    is_forwarded: true,
                    ..hit
                }
            }
            Peer::Client(..) | Peer::Proxy(_) => hit,
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        give_one_back(&self.limits.connections);
        if let Peer::Client(_, usage) = &self.peer {
            give_one_back(&usage.connections);
        }
    }
}

/// Permits one stream, and the connection it is sent by: while this lives, both are open and count.
#[derive(Debug)]
pub struct StreamPermit {
    connection: Arc<ConnectionPermit>,
    usage: Arc<Usage>,
    filter_bytes: usize,
    _of_caller: Option<StreamOfCaller>,
}

/// One stream of a caller that is counted.
#[derive(Debug)]
struct StreamOfCaller(Arc<Usage>);

impl Drop for StreamOfCaller {
    fn drop(&mut self) {
        give_one_back(&self.0.streams);
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        give_one_back(&self.connection.limits.streams);
        give_one_back(&self.usage.streams);
        give_back(&self.usage.filter_bytes, self.filter_bytes);
    }
}

/// The memory that one body takes. Given back when this is dropped.
#[derive(Debug)]
pub struct BodyPermit {
    connection: Arc<ConnectionPermit>,
    bytes: usize,
}

impl BodyPermit {
    /// Takes memory for `bytes` that arrived.
    pub fn grow(&mut self, bytes: usize) -> Result<(), LimitHit> {
        let limits = &self.connection.limits;
        let usage = self.usage();
        if !take(&limits.body_bytes, bytes, limits.settings.max_body_memory) {
            return Err(self.hit(Limit::BodyBytes));
        }
        if usage.is_some_and(|usage| !take(&usage.body_bytes, bytes, self.max_of_address())) {
            give_back(&limits.body_bytes, bytes);
            return Err(self.hit(Limit::BodyBytesOfAddress));
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Gives back memory for `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        assert!(bytes <= self.bytes, "nobody gives back what was not taken");
        self.bytes -= bytes;
        give_back(&self.connection.limits.body_bytes, bytes);
        if let Some(usage) = self.usage() {
            give_back(&usage.body_bytes, bytes);
        }
    }

    /// The address whose share it takes from. A trusted proxy speaks for many, and has no share of its own.
    fn usage(&self) -> Option<&Usage> {
        match &self.connection.peer {
            Peer::Client(_, usage) => Some(usage),
            Peer::Proxy(_) => None,
        }
    }

    fn max_of_address(&self) -> usize {
        self.connection.limits.settings.max_body_memory / 4
    }

    fn would_exceed(&self, bytes: usize) -> Option<LimitHit> {
        let limits = &self.connection.limits;
        let fits = |count: &AtomicUsize, max| count.load(Relaxed) + bytes <= max;
        if !fits(&limits.body_bytes, limits.settings.max_body_memory) {
            return Some(self.hit(Limit::BodyBytes));
        }
        let usage = self.usage()?;
        (!fits(&usage.body_bytes, self.max_of_address()))
            .then(|| self.hit(Limit::BodyBytesOfAddress))
    }

    fn hit(&self, limit: Limit) -> LimitHit {
        let max = self.connection.limits.settings.max_body_memory;
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        LimitHit::new(limit, max, BODY_RETRY_AFTER)
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}
