//! The whole log of a hub, as a file.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use tokio::time::timeout;

use super::{Client, Error, accepted, tls::explain};

/// Longest wait for the head of the answer: the hub copies its log first, at some 100 MB a second.
const COPIED_WITHIN: Duration = Duration::from_mins(15);

/// Longest silence while it comes.
const SILENT_MAX: Duration = Duration::from_secs(30);

/// A log on its way. To be read to its end; nothing but a check tells whether it is sound.
#[derive(Debug)]
pub struct Snapshot(Response);

impl Client {
    /// Asks for a copy of the hub's log, as a SQLite file. Needs the right `operate`.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        let asked = async {
            let request = self.http.get(self.at("/snapshot"));
            accepted(request.send().await.map_err(explain)?).await
        };
        match timeout(COPIED_WITHIN, asked).await {
            Ok(answer) => answer.map(Snapshot),
            Err(_) => Err(Error::Silent(COPIED_WITHIN)),
        }
    }
}

impl Snapshot {
    /// The bytes that come next; `None` after the last. An answer that is cut is an error.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        match timeout(SILENT_MAX, self.0.chunk()).await {
            Ok(chunk) => chunk.map_err(explain),
            Err(_) => Err(Error::Silent(SILENT_MAX)),
        }
    }
}
