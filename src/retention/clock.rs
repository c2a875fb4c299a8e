//! Whether the clock of the machine may decide what is old. Pure.
//!
//! A clock that jumped a year ahead would have every event trimmed within a second. So it is held against the monotonic
//! clock, which nobody can set: where the two part, ages rest until somebody had the time to look.

use std::time::Duration;

use crate::event::Timestamp;

/// How far the clock may jump without being doubted. A clock that is set right by a few seconds is no news.
const JUMP_MAX: Duration = Duration::from_secs(60);

/// How much newer than the newest event the clock may be at a start without being doubted.
const START_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a clock is doubted. Then it is taken for right: machines sleep, and what they hold must be trimmed all the same.
const DOUBT: Duration = Duration::from_secs(60 * 60);

/// The clock of the machine, held against the monotonic one.
#[derive(Debug)]
pub(super) struct Clock {
    /// What the clock showed when the monotonic one was at zero, going by the last time that the two agreed.
    zero_ms: i64,
    doubt: Option<Doubt>,
}

#[derive(Debug)]
enum Doubt {
    /// It is far ahead of the newest event, and was so from the start.
    AtStart,
    /// It jumped at this reading of the monotonic clock.
    Jumped(Duration),
}

impl Clock {
    /// A clock that showed `now` when the monotonic one was at zero.
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            zero_ms: now.as_millis(),
            doubt: None,
        }
    }

    /// Doubts a clock that is far ahead of the time of the newest event.
    pub(super) fn compare_at_start(&mut self, newest: Timestamp) {
        let ahead_ms = self.zero_ms.saturating_sub(newest.as_millis());
        if ahead_ms > millis(START_MAX) {
            tracing::warn!(
                ahead_s = ahead_ms / 1000,
                "the clock is far ahead of the newest event; for an hour no event is trimmed for its age"
            );
            self.doubt = Some(Doubt::AtStart);
        }
    }

    /// Whether `now`, which the clock shows when the monotonic one is at `elapsed`, may be believed.
    pub(super) fn is_trusted(&mut self, now: Timestamp, elapsed: Duration) -> bool {
        let zero_ms = now.as_millis().saturating_sub(millis(elapsed));
        let jump_ms = zero_ms.saturating_sub(self.zero_ms);
        let jumped = jump_ms.saturating_abs() > millis(JUMP_MAX);
        let trusted = match self.doubt {
            None if jumped => {
                tracing::warn!(
                    jump_s = jump_ms / 1000,
                    "the clock jumped; for an hour, or until it is set back, no event is trimmed for its age"
                );
                self.doubt = Some(Doubt::Jumped(elapsed));
                return false;
            }
            None => true,
            Some(Doubt::AtStart) => elapsed >= DOUBT,
            Some(Doubt::Jumped(since)) => !jumped || elapsed.saturating_sub(since) >= DOUBT,
        };
        if trusted {
            if self.doubt.take().is_some() {
                tracing::info!("the clock is trusted again");
            }
            // A clock that is slowed down or sped up to be right drifts away from what it was.
            self.zero_ms = zero_ms;
        }
        trusted
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    const NOON: i64 = 1_800_000_000_000;

    /// What the clock shows `later`, if it is `ahead` of what it should show.
    fn shown(later: Duration, ahead_ms: i64) -> Timestamp {
        Timestamp::from_millis(NOON + millis(later) + ahead_ms)
    }

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(minutes * 60)
    }

    #[test]
    fn a_jump_is_doubted_for_an_hour_and_one_that_is_taken_back_no_longer() {
        for ahead_ms in [millis(YEAR), -millis(minutes(60))] {
            let mut clock = Clock::new(Timestamp::from_millis(NOON));
            assert!(clock.is_trusted(shown(minutes(1), 0), minutes(1)));
            assert!(!clock.is_trusted(shown(minutes(2), ahead_ms), minutes(2)));
            assert!(!clock.is_trusted(shown(minutes(61), ahead_ms), minutes(61)));
            assert!(clock.is_trusted(shown(minutes(62), ahead_ms), minutes(62)));
            assert!(clock.is_trusted(shown(minutes(63), ahead_ms), minutes(63)));
            assert!(!clock.is_trusted(shown(minutes(64), 0), minutes(64)));
            assert!(clock.is_trusted(shown(minutes(65), ahead_ms), minutes(65)));
        }
    }

    #[test]
    fn small_steps_and_slow_drift_are_no_jump() {
        let mut clock = Clock::new(Timestamp::from_millis(NOON));
        for step in 1..1000 {
            let ahead_ms = i64::try_from(step).unwrap() * 59_000;
            assert!(clock.is_trusted(shown(minutes(step), ahead_ms), minutes(step)));
        }
    }

    #[test]
    fn a_clock_far_ahead_of_the_newest_event_at_a_start_is_doubted_for_an_hour() {
        for (newest_ms, trusted) in [
            (NOON - millis(YEAR), false),
            (NOON - 1000, true),
            (NOON + 1000, true),
        ] {
            let mut clock = Clock::new(Timestamp::from_millis(NOON));
            clock.compare_at_start(Timestamp::from_millis(newest_ms));
            assert_eq!(
                clock.is_trusted(shown(minutes(59), 0), minutes(59)),
                trusted
            );
            assert!(clock.is_trusted(shown(minutes(60), 0), minutes(60)));
        }
    }
}
