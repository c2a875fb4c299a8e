//! Which topics were trimmed lately, so that a replay learns without a look at the file whether it is concerned.
//!
//! A mark is put here when it is committed and before the first event goes: a reader that finds events gone also finds the
//! mark. All marks stand in the file; here are the newest.

use std::{
    collections::VecDeque,
    sync::{
        RwLock,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
};

use crate::event::{EventId, Topic};

/// Marks that are held. A subscription reads a page in a few milliseconds, and each mark is a commit: more than a few do not
/// come meanwhile.
const MARKS_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct TrimMarks {
    /// How many there ever were since the file was opened, and one for those before.
    count: AtomicU64,
    newest: RwLock<VecDeque<TrimMark>>,
}

/// Events of `topic` up to `through` are gone, or are about to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TrimMark {
    pub(super) topic: Topic,
    pub(super) through: EventId,
}

impl TrimMarks {
    /// `any_stored`: whether the file has marks.
    pub(super) fn new(any_stored: bool) -> Self {
        Self {
            count: AtomicU64::new(any_stored.into()),
            newest: RwLock::default(),
        }
    }

    /// How many there were so far. Changes with each.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Acquire)
    }

    /// Adds a mark that was committed. Only the writer calls this.
    pub(super) fn push(&self, mark: TrimMark) {
        let mut newest = self
            .newest
            .write()
            .expect("nobody panics while holding the marks");
        if newest.len() == MARKS_MAX {
            newest.pop_front();
        }
        newest.push_back(mark);
        self.count.fetch_add(1, Release);
    }

    /// The marks that came after the first `seen`, and how many there are with them; `None` if some of them are not held any
    /// more.
    pub(super) fn since(&self, seen: u64) -> Option<(Vec<TrimMark>, u64)> {
        let newest = self
            .newest
            .read()
            .expect("nobody panics while holding the marks");
        let count = self.count();
        let fresh = usize::try_from(count - seen).ok()?;
        let known = newest.len().checked_sub(fresh)?;
        Some((newest.range(known..).cloned().collect(), count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_known_as_long_as_they_are_held() {
        let marks = TrimMarks::new(true);
        assert_eq!(marks.since(0), None, "stored before");
        let mark = |n| TrimMark {
            topic: Topic::from_row(&format!("t{n}")),
            through: EventId::from_row(n),
        };
        for n in 1..=3 {
            marks.push(mark(n));
        }
        assert_eq!(marks.since(2), Some((vec![mark(2), mark(3)], 4)));
        assert_eq!(marks.since(4), Some((vec![], 4)));
        for n in 0..1024 {
            marks.push(mark(n));
        }
        assert_eq!(marks.since(3), None, "pushed out");
        assert_eq!(marks.since(4).unwrap().0.len(), 1024);
    }
}
