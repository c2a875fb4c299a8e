//! Which events of a numbered row came, and how. Pure.

use std::{collections::BTreeSet, ops::AddAssign};

use serde::Serialize;

/// The events of one publisher on one topic, numbered from 0.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    next: u64,
    /// Numbers below `next` that did not come.
    missing: BTreeSet<u64>,
    duplicated: u64,
    reordered: u64,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct Faults {
    /// Events that never came.
    pub(super) missing: u64,
    /// Events that came again.
    pub(super) duplicated: u64,
    /// Events that came after a later one.
    pub(super) reordered: u64,
}

impl Sequence {
    /// Takes the event with this number. False if it was there already.
    pub(super) fn take(&mut self, number: u64) -> bool {
        if number >= self.next {
            self.missing.extend(self.next..number);
            self.next = number + 1;
        } else if self.missing.remove(&number) {
            self.reordered += 1;
        } else {
            self.duplicated += 1;
            return false;
        }
        true
    }

    /// What went wrong, when `published` were sent in all.
    pub(super) fn faults(&self, published: u64) -> Faults {
        let missing = u64::try_from(self.missing.len()).expect("a set fits in memory");
        Faults {
            missing: missing + published.saturating_sub(self.next),
            duplicated: self.duplicated,
            reordered: self.reordered,
        }
    }
}

impl Faults {
    pub(super) fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl AddAssign for Faults {
    fn add_assign(&mut self, other: Self) {
        self.missing += other.missing;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(numbers: &[u64], published: u64) -> (u64, u64, u64) {
        let mut sequence = Sequence::default();
        for &number in numbers {
            sequence.take(number);
        }
        let Faults {
            missing,
            duplicated,
            reordered,
        } = sequence.faults(published);
        (missing, duplicated, reordered)
    }

    #[test]
    fn tells_missing_duplicated_and_reordered_apart() {
        assert_eq!(faults(&[0, 1, 2], 3), (0, 0, 0));
        assert_eq!(faults(&[], 2), (2, 0, 0));
        assert_eq!(faults(&[0, 3], 5), (3, 0, 0));
        assert_eq!(faults(&[0, 1, 1, 0], 2), (0, 2, 0));
        assert_eq!(faults(&[1, 0, 2], 3), (0, 0, 1));
        assert_eq!(faults(&[0, 3, 1, 1], 4), (1, 1, 1));
    }
}
