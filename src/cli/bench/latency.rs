//! How long things took.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer latencies count as this one.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

/// Digits to which a latency is kept.
const LATENCY_DIGITS: u8 = 3;

/// Times, of which the distribution is kept. In microseconds.
#[derive(Debug)]
pub(super) struct Latencies(Mutex<Histogram<u64>>);

impl Latencies {
    pub(super) fn new() -> Self {
        let longest = micros(LATENCY_MAX);
        let empty = Histogram::new_with_bounds(1, longest, LATENCY_DIGITS);
        Self(Mutex::new(empty.expect("the bounds are valid")))
    }

    pub(super) fn record(&self, times: impl IntoIterator<Item = Duration>) {
        let mut histogram = self.histogram();
        for time in times {
            histogram.saturating_record(micros(time));
        }
    }

    pub(super) fn summary(&self) -> Latency {
        Latency::of(&self.histogram())
    }

    fn histogram(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.0
            .lock()
            .expect("nobody panics while holding the histogram")
    }
}

/// A distribution of times, in microseconds: to the answer, to the receipt, or to the first event of a replay.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) p999_us: u64,
    pub(super) max_us: u64,
}

impl Latency {
    pub(super) fn of(micros: &Histogram<u64>) -> Self {
        Self {
            p50_us: micros.value_at_quantile(0.5),
            p99_us: micros.value_at_quantile(0.99),
            p999_us: micros.value_at_quantile(0.999),
            max_us: micros.max(),
        }
    }
}

/// Whole microseconds.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).expect("a run is no longer than an age")
}
