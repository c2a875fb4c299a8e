//! What a reader knows of the events that are gone, and what it has yet to be told.

use std::sync::Arc;

use super::{
    gap::{Gap, GapReason},
    sources::Sources,
    trim_marks::TrimMark,
};
use crate::{
    db::{self, Lost, Range},
    event::EventId,
    filter::Filter,
};

/// Up to where a reader knows of trimmed topics and of lost events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// How many marks of trimmed topics there were when they were last looked at.
    marks_seen: u64,
    /// The id up to which it knows of trimmed topics.
    trimmed: EventId,
    /// The id up to which it knows of lost events.
    lost: EventId,
}

impl Told {
    /// It knows of nothing.
    pub(super) const NOTHING: Self = Self {
        marks_seen: 0,
        trimmed: EventId::ZERO,
        lost: EventId::ZERO,
    };

    /// The lost events after `cursor` that the reader does not know of yet. From now on it does.
    pub(super) fn find_lost(&mut self, sources: &Sources, cursor: EventId) -> Option<Lost> {
        let known = self.lost.max(cursor);
        let lost = *sources
            .log
            .lost()
            .last()
            .filter(|lost| lost.through > known)?;
        self.lost = lost.through;
        Some(lost)
    }

    /// Whether a topic that is wanted was trimmed to beyond `cursor`, and the reader does not know of it yet. From now on it does.
    ///
    /// To be called after the page was read that it is to hold for.
    pub(super) async fn find_trimmed(
        &mut self,
        sources: &Sources,
        filter: &Filter,
        cursor: EventId,
    ) -> Result<bool, db::Error> {
        let marks = &sources.announcements.trim_marks;
        // Read before the marks of the file: one that is committed later changes it again.
        let count = marks.count();
        if self.marks_seen == count {
            return Ok(false);
        }
        let known = self.trimmed.max(cursor);
        let (trimmed, seen) = match marks.since(self.marks_seen) {
            Some((marks, seen)) => (highest_wanted(sources, filter, &marks, known).await, seen),
            None => (sources.log.trimmed_after(filter, known).await?, count),
        };
        self.marks_seen = seen;
        self.trimmed = trimmed.unwrap_or(known);
        Ok(trimmed.is_some())
    }
}

/// The highest id above `known` up to which a topic that is wanted was trimmed by one of `marks`.
async fn highest_wanted(
    sources: &Sources,
    filter: &Filter,
    marks: &[TrimMark],
    known: EventId,
) -> Option<EventId> {
    let mut scan = sources.log.scans().begin(filter).await;
    let mut highest = None;
    for mark in marks {
        if mark.through > known && filter.wants_topic(mark.topic.as_str()) {
            highest = highest.max(Some(mark.through));
        }
        scan.pause().await;
    }
    highest
}

/// Finds the holes in a range of events that is read page by page.
#[derive(Debug)]
pub struct Holes {
    sources: Arc<Sources>,
    told: Told,
    /// The oldest event there was when the reader was last told of one.
    first_id: EventId,
}

impl Holes {
    /// For a reader that asks for what is kept now, and misses nothing that was gone before. To be called before its first page
    /// is read.
    pub(super) fn of_what_is_kept(sources: Arc<Sources>) -> Self {
        let told = Told {
            marks_seen: sources.announcements.trim_marks.count(),
            trimmed: EventId::ZERO,
            lost: sources
                .log
                .lost()
                .last()
                .map_or(EventId::ZERO, |lost| lost.through),
        };
        Self {
            told,
            first_id: sources.announcements.position.first_id(),
            sources,
        }
    }

    /// For a reader that has what lies up to a cursor, and asks for all that lies after it.
    pub(super) fn after_a_cursor(sources: Arc<Sources>) -> Self {
        Self {
            sources,
            told: Told::NOTHING,
            first_id: EventId::ZERO,
        }
    }

    /// A gap, if events that `filter` wants are gone from `range`, or may be, and the reader was not told yet.
    ///
    /// To be called after a page of `range` was read, which may have a hole already, and before anybody is given it.
    pub async fn find(&mut self, filter: &Filter, range: Range) -> Result<Option<Gap>, db::Error> {
        let bounds = self.sources.announcements.position.bounds();
        let known = self.first_id.max(range.after.next());
        self.first_id = self.first_id.max(bounds.first_id);
        let is_overtaken = known < bounds.first_id.min(range.before);
        let lost = self.told.find_lost(&self.sources, range.after);
        let is_lost = lost.is_some_and(|lost| lost.after.next() < range.before);
        let trimmed = self
            .told
            .find_trimmed(&self.sources, filter, range.after)
            .await?;
        let reason = match (is_lost, is_overtaken || trimmed) {
            (true, _) => GapReason::Lost,
            (false, true) => GapReason::Trimmed,
            (false, false) => return Ok(None),
        };
        Ok(Some(Gap {
            reason,
            requested: Some(range.after),
            bounds,
            cursor: range.after,
        }))
    }
}
