//! What a request is answered with.

use poem::{
    IntoResponse, Response,
    http::{HeaderMap, StatusCode},
};
use tokio_util::sync::CancellationToken;

use super::api::Following;

/// A response or a stream.
#[derive(Debug)]
pub enum Answer {
    /// A head and a body.
    Response(Response),
    /// A head without a body, and the stream that follows it.
    Stream(Response, Box<Following>),
}

impl Answer {
    /// Its head; the body is there if it is not a stream.
    pub(super) fn head(&self) -> &Response {
        match self {
            Self::Response(head) | Self::Stream(head, _) => head,
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.head().status()
    }

    pub(super) fn headers_mut(&mut self) -> &mut HeaderMap {
        match self {
            Self::Response(head) | Self::Stream(head, _) => head.headers_mut(),
        }
    }
}

impl Answer {
    /// The stream as a body, for whoever cannot give it a socket. `half_closed` is cancelled when its reader has closed its side;
    /// `None` where the reader tells that it has gone.
    pub(crate) fn with_body(self, half_closed: Option<&CancellationToken>) -> Response {
        match self {
            Self::Response(response) => response,
            Self::Stream(mut head, following) => {
                head.set_body(following.into_body(half_closed.cloned()));
                head
            }
        }
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self::Response(response)
    }
}

impl From<Following> for Answer {
    fn from(following: Following) -> Self {
        Self::Stream(following.head(), Box::new(following))
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        self.with_body(None)
    }
}
