//! Log lines of requests that ended with 5xx, and of credentials that are refused: one each, but one a second at most.
//!
//! A hub that refuses because it is overloaded must not be kept busy by telling so. What was not told is counted, in the next
//! line and by code in the figures.

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Relaxed},
    },
    time::Instant,
};

use poem::{
    Response,
    http::{Method, Uri},
};

use super::{
    problem::{Code, ProblemCause},
    request_id::RequestId,
};

/// Lets one log line a second pass, and counts those that it holds back.
#[derive(Debug)]
pub(crate) struct OneASecond {
    begun: Instant,
    /// The second in which a line was written last, counted from 1.
    second: AtomicU64,
    untold: AtomicU64,
}

impl Default for OneASecond {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            second: AtomicU64::new(0),
            untold: AtomicU64::new(0),
        }
    }
}

impl OneASecond {
    /// How many lines were held back since the last one, if this one may be written.
    pub(crate) fn pass(&self) -> Option<u64> {
        let second = self.begun.elapsed().as_secs() + 1;
        if self.second.swap(second, AcqRel) == second {
            self.untold.fetch_add(1, Relaxed);
            return None;
        }
        Some(self.untold.swap(0, Relaxed))
    }
}

/// The log lines of refused credentials.
#[derive(Debug, Default)]
pub(super) struct RefusedCredentials(OneASecond);

impl RefusedCredentials {
    /// Logs a credential that was refused or was not enough, never what it was. Not one that was not shown.
    pub(super) fn log(&self, refusal: &ProblemCause) {
        let Some(caller) = &refusal.caller else {
            return;
        };
        if refusal.code == Code::CredentialMissing {
            return;
        }
        if let Some(untold) = self.0.pass() {
            tracing::warn!(
                address = %caller.address,
                name = caller.name.as_deref(),
                code = refusal.code.as_str(),
                reason = caller.detail,
                untold,
                "a credential is refused"
            );
        }
    }
}

/// The log lines of failed requests.
#[derive(Debug, Default)]
pub(super) struct Failures(OneASecond);

impl Failures {
    /// Logs an answer with 5xx.
    pub(super) fn log(
        &self,
        request_id: &RequestId,
        method: &Method,
        uri: &Uri,
        answer: &Response,
    ) {
        let Some(untold) = self.0.pass() else {
            return;
        };
        let refusal = answer.extensions().get::<ProblemCause>();
        tracing::error!(
            request_id = request_id.as_str(),
            %method,
            path = uri.path(),
            status = refusal.map_or(answer.status(), |refusal| refusal.code.status()).as_u16(),
            code = refusal.map(|refusal| refusal.code.as_str()),
            cause = refusal.and_then(|refusal| refusal.cause.as_deref()),
            untold,
            "a request failed"
        );
    }
}
