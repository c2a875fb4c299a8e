//! CORS: the origins whose pages may use the hub from a browser.
//!
//! Ours and not poem's: that one refuses every request that names another origin, and so the POSTs of the hub's own console, and it
//! leaves its headers out of refusals, so that a page could not read why it was refused.

use std::str::FromStr;

use poem::{
    IntoResponse, Request, Response,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};

/// How long a browser may remember the answer to a preflight: as long as Chromium does at the most.
const MAX_AGE_SECONDS: &str = "7200";

/// What the hub has methods for.
const METHODS: &str = "GET, POST, DELETE";

/// Headers that a page may send: what the hub reads, what reconnecting libraries add, and what a proxy before the hub may ask for.
/// What begins with `hx-` is of htmx, which adds it to all it asks for. Source: <https://htmx.org/reference/#request_headers> and
/// htmx 4.0.1.
const REQUEST_HEADERS: &str = "accept, authorization, cache-control, content-type, hx-boosted, hx-current-url, \
    hx-history-restore-request, hx-prompt, hx-request, hx-request-type, hx-source, hx-target, hx-trigger, hx-trigger-name, \
    idempotency-key, last-event-id, traceparent, tracestate, x-request-id, x-requested-with";

/// Headers of an answer that a page may read.
const EXPOSED_HEADERS: &str =
    "allow, link, location, retry-after, segno-log-id, www-authenticate, x-request-id";

/// Whose pages may use the hub from a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigin {
    /// Everybody's.
    Any,
    /// Those of one origin, spelled as browsers do: scheme and host in lower case, no usual port, no path.
    Exact(String),
}

/// Text that no browser would send as an origin.
#[derive(Debug, thiserror::Error)]
#[error(
    "an origin looks like https://example.com or http://localhost:3000: in lower case, without a path or a usual port; or *"
)]
pub struct InvalidOrigin;

impl FromStr for CorsOrigin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (scheme, host) = text.split_once("://").ok_or(InvalidOrigin)?;
        let is_usual = match scheme {
            "http" => host.ends_with(":80"),
            "https" => host.ends_with(":443"),
            _ => false,
        };
        let is_plain =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._~+:[]".contains(c);
        match !is_usual
            && !scheme.is_empty()
            && !host.is_empty()
            && text.replacen("://", "", 1).chars().all(is_plain)
        {
            true => Ok(Self::Exact(text.into())),
            false => Err(InvalidOrigin),
        }
    }
}

/// The origins whose pages may use the hub.
#[derive(Debug, Clone)]
pub(super) enum Cors {
    Any,
    Only(Named),
}

/// Origins that are named.
#[derive(Debug, Clone)]
pub(super) struct Named {
    origins: Vec<HeaderValue>,
    /// Whether their pages may have the browser add what it knows for the hub: cookies of a proxy, a password.
    credentials: bool,
}

impl Cors {
    /// `None` where nothing was asked for: then there is not one of these headers. No page has credentials where all are allowed:
    /// browsers refuse the two together.
    pub(super) fn of(origins: &[CorsOrigin], credentials: bool) -> Option<Self> {
        if origins.is_empty() {
            return None;
        }
        let only = origins.iter().map(|origin| match origin {
            CorsOrigin::Any => None,
            CorsOrigin::Exact(origin) => {
                let value = HeaderValue::from_str(origin);
                Some(value.expect("an origin is visible ASCII"))
            }
        });
        Some(match only.collect() {
            None => Self::Any,
            Some(origins) => Self::Only(Named {
                origins,
                credentials,
            }),
        })
    }

    /// The answer to a browser that asks before it sends what a page wants, if the page may.
    pub(super) fn preflight(&self, request: &Request) -> Option<Response> {
        let headers = request.headers();
        let asks = request.method() == Method::OPTIONS
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !asks || self.allowed(headers).is_none() {
            return None;
        }
        let mut response = StatusCode::NO_CONTENT.into_response();
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
            (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS),
        ] {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        Some(response)
    }

    /// What stands on every answer to a request with these headers, whatever else it says.
    pub(super) fn headers(&self, request: &HeaderMap) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(origin) = self.allowed(request) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            if matches!(self, Self::Only(named) if named.credentials) {
                let value = HeaderValue::from_static("true");
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, value);
            }
            headers.insert(
                header::ACCESS_CONTROL_EXPOSE_HEADERS,
                HeaderValue::from_static(EXPOSED_HEADERS),
            );
        }
        if let Self::Only(_) = self {
            // Also where it is not allowed: a cache must not keep that answer for those who are.
            headers.insert(header::VARY, HeaderValue::from_static("origin"));
        }
        headers
    }

    /// Whether a request with these headers is of a page that may change something.
    pub(super) fn lets_write(&self, request: &HeaderMap) -> bool {
        let mut origins = request.get_all(header::ORIGIN).iter();
        let (Some(origin), None) = (origins.next(), origins.next()) else {
            return false;
        };
        match self {
            Self::Any => true,
            Self::Only(named) => named.origins.contains(origin),
        }
    }

    fn allowed(&self, request: &HeaderMap) -> Option<HeaderValue> {
        match self {
            Self::Any => Some(HeaderValue::from_static("*")),
            Self::Only(named) => match &named.origins[..] {
                // The browser compares, so a connection that is refused unread can be told this too.
                [origin] => Some(origin.clone()),
                _ => {
                    let origin = request.get(header::ORIGIN)?;
                    named.origins.contains(origin).then(|| origin.clone())
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_spelled_as_browsers_do() {
        for good in [
            "https://example.com",
            "http://localhost:3000",
            "http://[::1]:8080",
            "chrome-extension://abcdefgh",
            "https://xn--bcher-kva.example",
        ] {
            let exact = CorsOrigin::Exact(good.into());
            assert_eq!(good.parse::<CorsOrigin>().unwrap(), exact);
        }
        assert_eq!("*".parse::<CorsOrigin>().unwrap(), CorsOrigin::Any);
        for bad in [
            "",
            "null",
            "example.com",
            "https://",
            "://example.com",
            "https://example.com/",
            "https://Example.com",
            "https://example.com:443",
            "http://example.com:80",
            "https://*.example.com",
            "https://bücher.example",
        ] {
            assert!(bad.parse::<CorsOrigin>().is_err(), "{bad:?}");
        }
    }
}
