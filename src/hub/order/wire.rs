//! Commands as bytes: JSON with named fields.
//!
//! `{"id":"…","at":1764000000000,"publish":[[{"topic":…,"type":…,"data":…,"key":…}]]}`, and in place of `publish` one of
//! `trim_step`, `mark_trimmed`, `erase`, `tell_erased` or `beat`. A field that is not known is a command of a later version:
//! it is refused, never skipped, because the hubs would have different files from there on.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::{
    cluster::Beat,
    command::{Act, Command},
};
use crate::{
    db::Trim,
    event::{Data, EventId, EventType, Key, NewEvent, Timestamp, Topic},
};

/// Why bytes are not a command that this version knows.
#[derive(Debug, thiserror::Error)]
#[error("a command of the cluster is not known to this version: {0}")]
pub(super) struct UnknownCommand(String);

fn unknown(error: impl ToString) -> UnknownCommand {
    UnknownCommand(error.to_string())
}

/// A command with the id that it was proposed under.
#[derive(Debug)]
pub(super) struct Identified {
    pub(super) id: String,
    pub(super) command: Command,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    at: i64,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    publish: Option<Vec<Vec<WireEvent<'a>>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trim_step: Option<WireTrim>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mark_trimmed: Option<WireTrim>,
    #[serde(skip_serializing_if = "Option::is_none")]
    erase: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tell_erased: Option<WireTrim>,
    #[serde(skip_serializing_if = "Option::is_none")]
    beat: Option<Beat>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireEvent<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireTrim {
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    through: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    erases: bool,
}

/// The bytes of publications, each of which may go into a command with others.
#[derive(Debug, Default)]
pub(super) struct Lists {
    json: Vec<u8>,
}

impl Lists {
    /// The bytes of one publication.
    pub(super) fn encode(events: &[NewEvent]) -> Vec<u8> {
        let events: Vec<_> = events
            .iter()
            .map(|event| WireEvent {
                topic: event.topic.as_str().into(),
                event_type: event.event_type.as_str().into(),
                data: serde_json::from_str(event.data.as_str()).expect("data is JSON"),
                key: event.key.as_ref().map(|key| key.as_str().into()),
            })
            .collect();
        serde_json::to_vec(&events).expect("strings serialize into memory")
    }

    /// Adds an encoded publication.
    pub(super) fn push(&mut self, list: &[u8]) {
        if !self.json.is_empty() {
            self.json.push(b',');
        }
        self.json.extend_from_slice(list);
    }

    pub(super) fn bytes(&self) -> usize {
        self.json.len()
    }

    /// The command that publishes them.
    pub(super) fn into_command(self, id: &str, at: Timestamp) -> Vec<u8> {
        let head = format!("{{\"id\":\"{id}\",\"at\":{},\"publish\":[", at.as_millis());
        let mut json = head.into_bytes();
        json.extend_from_slice(&self.json);
        json.extend_from_slice(b"]}");
        json
    }
}

/// Bytes of a command around the publications in it, at most.
pub(super) const PUBLISH_ENVELOPE_BYTES: usize = 128;

/// A command as bytes. Those that publish are made of [`Lists`], so that none is encoded twice.
pub(super) fn encode(id: &str, command: &Command) -> Vec<u8> {
    let mut wire = Wire {
        id: id.into(),
        at: command.at.as_millis(),
        publish: None,
        trim_step: None,
        mark_trimmed: None,
        erase: None,
        tell_erased: None,
        beat: None,
    };
    match &command.act {
        Act::Publish(lists) => {
            let mut encoded = Lists::default();
            for list in lists {
                encoded.push(&Lists::encode(list));
            }
            return encoded.into_command(id, command.at);
        }
        Act::TrimStep(trim) => {
            wire.trim_step = Some(WireTrim {
                topic: trim.topic.as_ref().map(|topic| topic.as_str().to_owned()),
                through: trim.through.as_i64(),
                events: None,
                erases: trim.erases,
            });
        }
        Act::MarkTrimmed { topic, through } => {
            wire.mark_trimmed = Some(WireTrim {
                topic: Some(topic.as_str().to_owned()),
                through: through.as_i64(),
                events: None,
                erases: false,
            });
        }
        Act::Erase(id) => wire.erase = Some(id.as_i64()),
        Act::TellErased {
            topic,
            through,
            events,
        } => {
            wire.tell_erased = Some(WireTrim {
                topic: Some(topic.as_str().to_owned()),
                through: through.as_i64(),
                events: Some(*events),
                erases: false,
            });
        }
        Act::Beat(beat) => wire.beat = Some(beat.clone()),
    }
    serde_json::to_vec(&wire).expect("strings and numbers serialize into memory")
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(bytes: &[u8]) -> Result<Identified, UnknownCommand> {
    let wire: Wire<'_> = serde_json::from_slice(bytes).map_err(unknown)?;
    let acts = [
        wire.publish.map(publish).transpose()?,
        wire.trim_step.map(trim).transpose()?.map(Act::TrimStep),
        wire.mark_trimmed.map(mark_trimmed).transpose()?,
        wire.erase.map(|id| Act::Erase(EventId::from_row(id))),
        wire.tell_erased.map(tell_erased).transpose()?,
        wire.beat.map(Act::Beat),
    ];
    let mut acts = acts.into_iter().flatten();
    let (Some(act), None) = (acts.next(), acts.next()) else {
        return Err(unknown("it does not say one thing to do"));
    };
    Ok(Identified {
        id: wire.id.into_owned(),
        command: Command {
            at: Timestamp::from_millis(wire.at),
            act,
        },
    })
}

fn publish(lists: Vec<Vec<WireEvent<'_>>>) -> Result<Act, UnknownCommand> {
    let event = |event: WireEvent<'_>| {
        Ok(NewEvent {
            topic: Topic::of_log(&event.topic).map_err(unknown)?,
            event_type: EventType::of_log(&event.event_type).map_err(unknown)?,
            data: Data::of_log(event.data).map_err(unknown)?,
            key: event
                .key
                .as_deref()
                .map(Key::new)
                .transpose()
                .map_err(unknown)?,
        })
    };
    let list = |events: Vec<WireEvent<'_>>| events.into_iter().map(event).collect();
    let lists: Result<_, _> = lists.into_iter().map(list).collect();
    Ok(Act::Publish(lists?))
}

fn topic(trim: &WireTrim) -> Result<Topic, UnknownCommand> {
    let topic = trim
        .topic
        .as_ref()
        .ok_or_else(|| unknown("it lacks a topic"))?;
    Topic::of_log(topic).map_err(unknown)
}

fn trim(trim: WireTrim) -> Result<Trim, UnknownCommand> {
    Ok(Trim {
        topic: trim.topic.is_some().then(|| topic(&trim)).transpose()?,
        through: EventId::from_row(trim.through),
        erases: trim.erases,
    })
}

fn mark_trimmed(trim: WireTrim) -> Result<Act, UnknownCommand> {
    Ok(Act::MarkTrimmed {
        topic: topic(&trim)?,
        through: EventId::from_row(trim.through),
    })
}

fn tell_erased(trim: WireTrim) -> Result<Act, UnknownCommand> {
    Ok(Act::TellErased {
        topic: topic(&trim)?,
        through: EventId::from_row(trim.through),
        events: trim
            .events
            .ok_or_else(|| unknown("it lacks a number of events"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(command: &Command) -> Command {
        let encoded = encode("an-id", command);
        let decoded = decode(&encoded).unwrap();
        assert_eq!(decoded.id, "an-id");
        assert_eq!(encode("an-id", &decoded.command), encoded);
        decoded.command
    }

    #[test]
    fn a_command_is_the_same_after_it_was_sent() {
        let at = Timestamp::from_millis(1_764_000_000_000);
        let topic = Topic::new("orders/\"eu\"").unwrap();
        let events = [
            "1.10",
            "12345678901234567890123",
            "\"\\u0000\\ud834\\udd1e\"",
            "{\"b\":1,\"a\":[]}",
        ];
        let event = |data: &&str| NewEvent {
            topic: topic.clone(),
            event_type: EventType::default(),
            data: Data::from_row((*data).to_owned()),
            key: Some(Key::new(data).unwrap()),
        };
        let list: Vec<_> = events.iter().map(event).collect();
        let published = again(&Command {
            at,
            act: Act::Publish(vec![list.clone(), Vec::new(), list.clone()]),
        });
        assert_eq!(published.at, at);
        let Act::Publish(lists) = published.act else {
            panic!("{published:?}")
        };
        assert_eq!(lists, [list.clone(), Vec::new(), list]);
        let through = EventId::from_row(7);
        for act in [
            Act::TrimStep(Trim {
                topic: None,
                through,
                erases: false,
            }),
            Act::TrimStep(Trim {
                topic: Some(topic.clone()),
                through,
                erases: true,
            }),
            Act::MarkTrimmed {
                topic: topic.clone(),
                through,
            },
            Act::Erase(through),
            Act::TellErased {
                topic,
                through,
                events: 3,
            },
        ] {
            again(&Command { at, act });
        }
    }

    #[test]
    fn what_a_later_version_says_is_refused_and_not_skipped() {
        for later in [
            r#"{"id":"a","at":1}"#,
            r#"{"id":"a","at":1,"cursor":{}}"#,
            r#"{"id":"a","at":1,"erase":1,"publish":[]}"#,
            r#"{"id":"a","at":1,"publish":[[{"topic":"t","type":"m","data":1,"meta":1}]]}"#,
            r#"{"id":"a","at":1,"tell_erased":{"topic":"t","through":1}}"#,
        ] {
            assert!(decode(later.as_bytes()).is_err(), "{later}");
        }
    }
}
