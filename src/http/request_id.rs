//! The id of a request: the client's own, or a new one. It is in the answer and in the log lines.

use std::{sync::Arc, time::SystemTime};

use poem::{
    Request,
    http::{HeaderName, HeaderValue},
};
use uuid::{Builder, Uuid};

/// The header, of the request and of its answer.
pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken from a client.
const ID_MAX_BYTES: usize = 128;

/// The id of a request. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The client's, if it is 1 to 128 visible characters of ASCII; else a new UUID, whose first part is the time.
    pub(super) fn of(request: &Request) -> Self {
        match request.headers().get(HEADER) {
            Some(id) if is_sane(id.as_bytes()) => Self(id.clone()),
            _ => Self::new(),
        }
    }

    fn new() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let millis = since_1970.map_or(0, |time| time.as_millis());
        let mut random = [0; 10];
        // An id need not be hard to guess, and the system's random numbers take a call.
        fastrand::fill(&mut random);
        let millis = u64::try_from(millis).unwrap_or_default();
        let id = Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
        let mut text = Uuid::encode_buffer();
        let text = id.hyphenated().encode_lower(&mut text);
        Self(HeaderValue::from_str(text).expect("a UUID has only letters, digits and '-'"))
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().expect("it is visible ASCII")
    }

    pub(super) fn to_shared(&self) -> Arc<str> {
        self.as_str().into()
    }

    pub(super) fn into_header(self) -> HeaderValue {
        self.0
    }
}

fn is_sane(id: &[u8]) -> bool {
    (1..=ID_MAX_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}
