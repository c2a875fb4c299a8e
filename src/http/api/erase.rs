//! Erasing: an event or a topic is deleted for good, and every subscriber is told.

use poem::Request;
use poem_openapi::{OpenApi, param::Path};

use super::{
    Api, Tag,
    history::{OneEvent, unknown_event},
    parameter::{Checked, KeptTopic},
};
use crate::event::EventId;
use crate::http::{
    caller::Caller,
    problem::{Code, Codes, Problem, ProblemOf},
};
use crate::rights::Right;

/// The operations that erase.
#[derive(Clone)]
pub(in crate::http) struct EraseApi(pub(in crate::http) Api);

#[OpenApi]
impl EraseApi {
    /// Erase an event
    ///
    /// Its data, type and key are deleted for good; its id, topic and time stay. The event becomes one of the type
    /// `segno.erased` with the data `{"id":…}`, which is the answer. An event of the same type and data is announced on its
    /// topic to every subscriber of the topic, whatever types it asked for. Erasing it again changes nothing.
    #[oai(
        path = "/events/:id",
        method = "delete",
        tag = "Tag::Erase",
        operation_id = "erase_event"
    )]
    async fn erase_event(
        &self,
        /// Its id.
        id: Path<Checked<EventId>>,
        request: &Request,
    ) -> Result<OneEvent, ProblemOf<EraseEvent>> {
        let id = id.0.get()?;
        let caller = Caller::of(request);
        let may_erase_all = [Right::Follow, Right::Erase]
            .into_iter()
            .all(|right| caller.may_everywhere(right));
        if !may_erase_all {
            // An id keeps its topic, so what was read a moment ago is true of what is erased.
            match self.0.hub.log().event(id).await? {
                Some(event) if caller.may(Right::Follow, event.topic.as_str()) => {
                    caller.must(Right::Erase, event.topic.as_str())?;
                }
                Some(_) | None => return Err(unknown_event(id).into()),
            }
        }
        match self.0.hub.erase(id).await? {
            Some(event) => Ok((&*event).into()),
            None => Err(unknown_event(id).into()),
        }
    }

    /// Erase a topic
    ///
    /// All its events are deleted for good. The answer is the event that reports it: of the type `segno.erased`, on the topic,
    /// with the data `{"topic":…,"through":…,"events":…}`. A subscriber that comes back with an older cursor gets a
    /// `segno.gap`.
    #[oai(
        path = "/topics/:topic",
        method = "delete",
        tag = "Tag::Erase",
        operation_id = "erase_topic"
    )]
    async fn erase_topic(
        &self,
        /// The topic; it may have slashes in it.
        topic: Path<Checked<KeptTopic>>,
        request: &Request,
    ) -> Result<OneEvent, ProblemOf<EraseTopic>> {
        let KeptTopic(topic) = topic.0.get()?;
        let caller = Caller::of(request);
        let unknown = || {
            let name = topic.as_str();
            let detail = format!("no stored event has the topic '{name}'");
            Problem::new(Code::UnknownTopic, detail)
        };
        if !caller.may(Right::Follow, topic.as_str()) {
            return Err(unknown().into());
        }
        caller.must(Right::Erase, topic.as_str())?;
        match self.0.hub.erase_topic(topic.clone()).await? {
            Some(notice) => Ok((&*notice).into()),
            None => Err(unknown().into()),
        }
    }
}

/// The refusals of `DELETE /events/{id}`.
#[derive(Debug)]
pub(super) struct EraseEvent;

impl Codes for EraseEvent {
    const CODES: &'static [Code] = &[
        Code::InvalidId,
        Code::UnknownEvent,
        Code::Internal,
        Code::Draining,
        Code::LogBusy,
        Code::LogMoved,
        Code::LogChanged,
        Code::Unordered,
        Code::OutcomeUnknown,
        Code::LogCorrupt,
        Code::DiskFailed,
        Code::DiskFull,
        Code::IdsExhausted,
        Code::ReadOnly,
    ];
}

/// The refusals of `DELETE /topics/{topic}`.
#[derive(Debug)]
pub(super) struct EraseTopic;

impl Codes for EraseTopic {
    const CODES: &'static [Code] = &[
        Code::InvalidTopic,
        Code::UnknownTopic,
        Code::Internal,
        Code::Draining,
        Code::LogBusy,
        Code::LogMoved,
        Code::LogChanged,
        Code::Unordered,
        Code::OutcomeUnknown,
        Code::LogCorrupt,
        Code::DiskFailed,
        Code::DiskFull,
        Code::IdsExhausted,
        Code::ReadOnly,
    ];
}
