//! What an operator asks of a hub: its topics, its figures, and that something be erased.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{RequestBuilder, header};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{ANSWER_TIMEOUT, Client, Error, accepted, tls::explain};

/// A topic that has events. On the wire, and in the output of `segno topics --json`, it is one JSON object with these fields.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TopicFigures {
    /// Its name.
    pub topic: String,
    /// How many of its events are kept.
    pub events: u64,
    /// The oldest of them.
    pub first_id: u64,
    /// The newest of them.
    pub last_id: u64,
    /// When the newest was committed, in RFC 3339.
    pub last_created_at: String,
    /// How many follow it at this hub; `None` if the hub is too old to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribers: Option<u32>,
    /// `Some(true)` where there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribers_at_least: Option<bool>,
}

/// Topics in the order of their names.
#[derive(Debug, Deserialize)]
pub struct TopicPage {
    /// Those of this page.
    pub topics: Vec<TopicFigures>,
    /// The name after which the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// What the event that reports an erased topic has in its data.
#[derive(Debug, Deserialize)]
struct ErasedTopic {
    events: u64,
}

/// The event that reports an erased topic.
#[derive(Debug, Deserialize)]
struct ErasedNotice {
    data: ErasedTopic,
}

impl Client {
    /// The topics whose names come after `after`; from the first if it is empty.
    pub async fn topics(&self, after: &str) -> Result<TopicPage, Error> {
        let mut url = self.at("/topics");
        url.query_pairs_mut().append_pair("after", after);
        self.ask(self.http.get(url).timeout(ANSWER_TIMEOUT)).await
    }

    /// The figures of `GET /stats`: an object whose fields depend on the version of the hub.
    pub async fn stats(&self) -> Result<Value, Error> {
        let request = self.http.get(self.at("/stats")).timeout(ANSWER_TIMEOUT);
        self.ask(request).await
    }

    /// Erases an event. Erasing it again changes nothing.
    pub async fn erase(&self, id: u64) -> Result<(), Error> {
        let request = self.http.delete(self.at(&format!("/events/{id}")));
        self.ask::<Value>(request.timeout(ANSWER_TIMEOUT))
            .await
            .map(drop)
    }

    /// Erases a topic, and says how many events it had. Waits as long as that takes: a gigabyte takes about a minute. The hub goes on
    /// with what it has begun also when the future is dropped.
    pub async fn erase_topic(&self, topic: &str) -> Result<u64, Error> {
        let topic = utf8_percent_encode(topic, NON_ALPHANUMERIC);
        let request = self.http.delete(self.at(&format!("/topics/{topic}")));
        let notice: ErasedNotice = self.ask(request).await?;
        Ok(notice.data.events)
    }

    async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        let request = request.header(header::ACCEPT, "application/json");
        let answer = accepted(request.send().await.map_err(explain)?).await?;
        let body = answer.bytes().await.map_err(explain)?;
        serde_json::from_slice(&body).map_err(|error| Error::Refused {
            code: "unknown_answer".into(),
            detail: format!("the answer is not that of a hub: {error}"),
        })
    }
}
