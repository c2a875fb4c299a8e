//! Events a second of an address, or of a caller.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// How many seconds' events may be published at once, if nothing else is said.
const BURST_SECONDS: u64 = 10;

/// A token bucket, told by the time at which it is full again. Source: the "generic cell rate algorithm" of ATM, which is a
/// bucket in one number.
#[derive(Debug)]
pub(super) struct Rate {
    pub(super) events_per_second: u32,
    burst_events: u64,
    event_ns: u64,
}

impl Rate {
    /// `burst_events` may be published at once, or if that is `None` the events of ten seconds.
    pub(super) fn new(events_per_second: u32, burst_events: Option<NonZeroU32>) -> Self {
        let burst = burst_events.map_or(u64::from(events_per_second) * BURST_SECONDS, |burst| {
            u64::from(burst.get())
        });
        Self {
            events_per_second,
            burst_events: burst,
            event_ns: 1_000_000_000 / u64::from(events_per_second),
        }
    }

    /// Gives back `events` that were taken a moment ago.
    pub(super) fn give_back(&self, full_at_ns: &AtomicU64, events: usize) {
        let events = u64::try_from(events).expect("a batch is small");
        full_at_ns.fetch_sub(events * self.event_ns, Relaxed);
    }

    /// Takes `events` out of the bucket, or says how long that must wait. A batch larger than the bucket wants it full, and leaves
    /// it with a debt: it would else never be taken.
    pub(super) fn take(
        &self,
        full_at_ns: &AtomicU64,
        now_ns: u64,
        events: usize,
    ) -> Result<(), Duration> {
        let events = u64::try_from(events).expect("a batch is small");
        let wanted_ns = events.min(self.burst_events) * self.event_ns;
        let latest_ns = now_ns + self.burst_events * self.event_ns;
        let taken = full_at_ns.fetch_update(Relaxed, Relaxed, |full_at_ns| {
            let full_at_ns = full_at_ns.max(now_ns);
            (full_at_ns + wanted_ns <= latest_ns).then_some(full_at_ns + events * self.event_ns)
        });
        match taken {
            Ok(_) => Ok(()),
            Err(full_at_ns) => Err(Duration::from_nanos(
                (full_at_ns.max(now_ns) + wanted_ns).saturating_sub(latest_ns),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_a_burst_and_fills_at_its_rate() {
        let rate = Rate {
            events_per_second: 10,
            burst_events: 20,
            event_ns: 100_000_000,
        };
        let second = 1_000_000_000;
        let full_at_ns = AtomicU64::new(0);
        let take = |at_ns, events| rate.take(&full_at_ns, at_ns, events);
        let wait = |millis| Err(Duration::from_millis(millis));
        assert_eq!(take(second, 15), Ok(()));
        assert_eq!(take(second, 5), Ok(()));
        assert_eq!(take(second, 1), wait(100));
        assert_eq!(take(second, 20), wait(2000));
        assert_eq!(take(second + second / 2, 6), wait(100));
        assert_eq!(take(second + second / 2, 5), Ok(()));
        // A batch larger than the bucket waits until it is full, and is paid for afterwards.
        assert_eq!(take(3 * second, 50), wait(500));
        assert_eq!(take(3 * second + second / 2, 50), Ok(()));
        assert_eq!(take(3 * second + second / 2, 1), wait(3100));
        // What is not used does not add up.
        assert_eq!(take(1000 * second, 20), Ok(()));
        assert_eq!(take(1000 * second, 1), wait(100));
    }
}
