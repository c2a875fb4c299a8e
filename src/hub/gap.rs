//! Events that a subscriber misses, and why.

use super::position::Bounds;
use crate::event::EventId;

/// Events that a subscriber asked for and cannot get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
    /// The cursor it asked to go on from; `None` if that was no id.
    pub requested: Option<EventId>,
    /// What there is.
    pub bounds: Bounds,
    /// The cursor that reading goes on from.
    pub cursor: EventId,
}

/// Why there is a [`Gap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapReason {
    /// Events after the cursor were trimmed: the oldest of all, or of a topic that is wanted.
    Trimmed,
    /// The cursor is newer than the newest event: it is from another file, or the file is an older one.
    Ahead,
    /// An older copy of the file was put in its place, and events after the cursor were in the newer one only.
    Lost,
    /// The cursor is no id of this log.
    Unknown,
}

impl GapReason {
    /// The word for it, in what a subscriber is told.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trimmed => "trimmed",
            Self::Ahead => "ahead",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }
}
