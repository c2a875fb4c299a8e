//! Which request a publication came from, for the log lines and spans alone. Nothing is made of it while nobody reads them.

use std::{fmt, sync::Arc};

use tracing::{Level, Span};

/// Requests of a commit that its log line names.
const NAMED_MAX_REQUESTS: usize = 32;

/// Whether requests, commits and announcements are logged. Costs a look at a few atomics.
pub fn is_traced() -> bool {
    tracing::enabled!(Level::DEBUG)
}

/// The request that a publication came from, if requests are logged. The default is none.
#[derive(Debug, Clone, Default)]
pub struct Origin(Option<Box<Request>>);

#[derive(Debug, Clone)]
struct Request {
    id: Arc<str>,
    span: Span,
}

impl Origin {
    /// The request with this id, in whose `span` the commit is to be a child.
    pub fn request(id: Arc<str>, span: Span) -> Self {
        Self(Some(Box::new(Request { id, span })))
    }
}

/// The requests that share a commit.
#[derive(Debug, Default)]
pub(super) struct Origins(Vec<Request>);

impl Origins {
    pub(super) fn push(&mut self, origin: Origin) {
        self.0.extend(origin.0.map(|request| *request));
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
    /// The first ids, separated by spaces, and the number of the others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, request) in self.0.iter().take(NAMED_MAX_REQUESTS).enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{}", request.id)?;
        }
        match self.0.len().saturating_sub(NAMED_MAX_REQUESTS) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
