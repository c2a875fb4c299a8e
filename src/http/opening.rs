//! What is answered while the file is being opened: that the hub runs, and that it is not ready. All else waits.
//!
//! A browser gives its stream up for good when it is answered 503, so a request that came too early is not refused.

use poem::{Endpoint, IntoResponse, Request, Response, Result};
use tokio::sync::SetOnce;

use super::{
    Answer, HubEndpoint,
    api::Healthy,
    problem::{Code, Problem},
    request_id::{self, RequestId},
};

/// The hub from the moment it listens.
#[derive(Debug, Default)]
pub struct Opening {
    hub: SetOnce<HubEndpoint>,
}

impl Opening {
    /// The file is open: from now on `hub` answers, also what has waited.
    pub fn end(&self, hub: HubEndpoint) {
        assert!(self.hub.set(hub).is_ok(), "a hub is opened once");
    }
}

impl Endpoint for Opening {
    type Output = Answer;

    async fn call(&self, request: Request) -> Result<Answer> {
        let hub = match (self.hub.get(), request.uri().path()) {
            (Some(hub), _) => hub,
            (None, "/health/live") => return Ok(early(&request, Healthy::yes()).into()),
            (None, "/health/ready") => {
                let problem = Problem::new(
                    Code::Starting,
                    "the hub is opening its file; try again soon",
                );
                return Ok(early(&request, problem).into());
            }
            (None, _) => self.hub.wait().await,
        };
        hub.call(request).await
    }
}

fn early(request: &Request, answer: impl IntoResponse) -> Response {
    let request_id = RequestId::of(request).into_header();
    let mut response = answer.into_response();
    let headers = response.headers_mut();
    headers.insert(request_id::HEADER, request_id);
    response
}
