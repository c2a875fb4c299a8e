//! What is told to who published.

use poem_openapi::{ApiResponse, Enum, Object, Union, types::Type};
use serde::Serialize;

use super::Api;
use crate::http::{public_url::public, schema::Json};
use crate::{
    db::Stored,
    event::{EventId, EventType, Key, Timestamp, Topic},
};

/// A stored event without its data.
#[derive(Debug, Serialize, Object)]
pub(super) struct Receipt {
    /// The event's id.
    id: EventId,
    /// The name that groups events.
    topic: Topic,
    /// What happened.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    event_type: EventType,
    /// When it was committed.
    created_at: Timestamp,
    /// The key it was published with, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Key>,
    /// Whether the key was published before, so that nothing was added.
    #[serde(skip_serializing_if = "is_false")]
    #[oai(default)]
    duplicate: bool,
    /// `string` where the body looks like JSON and is not, so that it was stored as a string.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_as: Option<StoredAs>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl Receipt {
    /// The same, with how its data was read.
    pub(super) fn stored_as(self, stored_as: Option<StoredAs>) -> Self {
        Self { stored_as, ..self }
    }
}

impl From<&Stored> for Receipt {
    fn from(Stored { event, duplicate }: &Stored) -> Self {
        Self {
            id: event.id,
            topic: event.topic.clone(),
            event_type: event.event_type.clone(),
            created_at: event.created_at,
            key: event.key.clone(),
            duplicate: *duplicate,
            stored_as: None,
        }
    }
}

/// How a body was stored whose sender may have meant something else.
#[derive(Debug, Clone, Copy, Serialize, Enum)]
#[serde(rename_all = "lowercase")]
#[oai(rename_all = "lowercase")]
pub(super) enum StoredAs {
    /// As a string, though it looks like JSON: it is none.
    String,
}

/// The ids of a stored batch.
#[derive(Debug, Serialize, Object)]
pub(super) struct Ids {
    /// One for each event, in the order of the batch.
    ids: Vec<EventId>,
    /// The ids of events whose key was published before. Left out if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[oai(default)]
    duplicates: Vec<EventId>,
}

/// What is told of a stored event, or of a batch.
#[derive(Debug, Serialize, Union)]
#[serde(untagged)]
#[oai(one_of)]
pub(super) enum ReceiptOrIds {
    /// Of an event.
    Receipt(Receipt),
    /// Of a batch.
    Ids(Ids),
}

/// The answer to who published.
#[derive(Debug, ApiResponse)]
pub(super) enum Published<T: Type + Serialize> {
    /// Committed, synced and announced.
    #[oai(status = 201)]
    Created(
        Json<T>,
        /// Where the event can be read: `/events/{id}`. A batch has none.
        #[oai(header = "Location")]
        Option<String>,
    ),
    /// The key was published before: the first event's id. Nothing was added.
    #[oai(status = 200)]
    Known(
        Json<T>,
        /// Where the event can be read: `/events/{id}`. A batch has none.
        #[oai(header = "Location")]
        Option<String>,
    ),
}

impl<T: Type + Serialize> Published<T> {
    pub(super) fn new(answer: &T, location: Option<String>, all_known: bool) -> Self {
        match all_known {
            true => Self::Known(Json::of(answer), location),
            false => Self::Created(Json::of(answer), location),
        }
    }
}

impl Api {
    /// The answer to who published one event.
    pub(super) fn published<T: Type + Serialize>(
        &self,
        stored: &[Stored],
        answer: impl FnOnce(Receipt) -> T,
    ) -> Published<T> {
        let stored = stored.first().expect("one event gives one");
        let public_url = self.settings.public_url.as_ref();
        let location = public(public_url, format_args!("/events/{}", stored.event.id));
        Published::new(&answer(stored.into()), Some(location), stored.duplicate)
    }
}

impl Published<ReceiptOrIds> {
    /// Known only if all its keys were.
    pub(super) fn batch(stored: &[Stored]) -> Self {
        let id = |stored: &Stored| stored.event.id;
        let known = stored.iter().filter(|stored| stored.duplicate);
        let ids = Ids {
            ids: stored.iter().map(id).collect(),
            duplicates: known.map(id).collect(),
        };
        let all_known = ids.duplicates.len() == ids.ids.len();
        Self::new(&ReceiptOrIds::Ids(ids), None, all_known)
    }
}
