//! What all subscriptions read from: the newest events in memory, and the log.

use std::sync::Arc;

use super::{
    announcements::Announcements, position::Position, progress::ProgressTable, recent::RecentPage,
};
use crate::{
    db::{self, EventLog, Order, Page, Range},
    filter::Filter,
    metrics::Metrics,
};

/// Events a subscription takes from the log at a time. With [64 KiB of data](db::EventLog::page) this bounds what
/// a replay holds in memory.
pub(super) const PAGE_MAX_EVENTS: usize = 512;

/// What all subscriptions read from.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) log: EventLog,
    pub(super) announcements: Arc<Announcements>,
    pub(super) progress: ProgressTable,
    pub(super) metrics: Metrics,
}

impl Sources {
    pub(super) fn position(&self) -> &Position {
        &self.announcements.position
    }

    /// The first of the events in `range` that `filter` wants: from memory if they are recent, else a page of the log.
    pub(super) async fn page(
        &self,
        filter: &Arc<Filter>,
        range: Range,
    ) -> Result<RecentPage, db::Error> {
        let pages = &self.metrics.replayed_pages;
        let recent = &self.announcements.recent;
        let page = recent.page(self.log.scans(), filter, range, PAGE_MAX_EVENTS);
        if let Some(page) = page.await {
            pages.get_or_create(&[("source", "memory")]).inc();
            return Ok(page);
        }
        pages.get_or_create(&[("source", "file")]).inc();
        let page = self
            .log
            .page(filter, range, Order::Ascending, PAGE_MAX_EVENTS);
        let Page { events, read_on } = page.await?;
        Ok(RecentPage {
            events: events.into_iter().map(Arc::new).collect(),
            read_on,
        })
    }
}
