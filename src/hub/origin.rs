//! Which request a publication came from, for the traces alone. Nothing is made of it while nobody traces.

use std::{fmt, sync::Arc};

use tracing::{Level, Span};

tokio::task_local! {
    static REQUEST_ID: Arc<str>;
}

/// Requests of a commit that its line names.
const NAMED_MAX_REQUESTS: usize = 32;

/// Whether requests, commits and announcements are traced. Costs a look at a few atomics.
pub fn is_traced() -> bool {
    tracing::enabled!(Level::DEBUG)
}

/// Does `work` for a request: what it publishes is traced as that request's.
pub async fn for_request<T>(request_id: Arc<str>, work: impl Future<Output = T>) -> T {
    REQUEST_ID.scope(request_id, work).await
}

/// The request that a publication came from.
#[derive(Debug)]
pub(super) struct Origin {
    request_id: Arc<str>,
    span: Span,
}

impl Origin {
    /// The request that is worked for, if requests are traced.
    pub(super) fn current() -> Option<Box<Self>> {
        if !is_traced() {
            return None;
        }
        let request_id = REQUEST_ID.try_with(Arc::clone).ok()?;
        let span = Span::current();
        Some(Box::new(Self { request_id, span }))
    }
}

/// The requests that share a commit.
#[derive(Debug, Default)]
pub(super) struct Origins(Vec<Origin>);

impl Origins {
    pub(super) fn push(&mut self, origin: Option<Box<Origin>>) {
        self.0.extend(origin.map(|origin| *origin));
    }

    /// The span of their commit: a child of the first of them, linked with the others.
    pub(super) fn commit_span(&self) -> Span {
        let Some((first, others)) = self.0.split_first() else {
            return Span::none();
        };
        let span = tracing::debug_span!(parent: &first.span, "commit", requests = self.0.len());
        for other in others {
            span.follows_from(&other.span);
        }
        span
    }
}

impl fmt::Display for Origins {
    /// Their ids, parted by spaces; how many more there are when they are very many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, origin) in self.0.iter().take(NAMED_MAX_REQUESTS).enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{}", origin.request_id)?;
        }
        match self.0.len().saturating_sub(NAMED_MAX_REQUESTS) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
