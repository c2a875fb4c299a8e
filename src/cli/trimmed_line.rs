//! The line of an export that says that events of a topic are gone.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::event::{EventId, Topic};

/// Events of `topic` up to `through` were trimmed or erased out of the middle of the log.
///
/// On the line: `{"segno":"trimmed","topic":"a","through":7,"cursor":4}`. No event has a field `segno`, and as everywhere such a line has
/// the cursor that its reader has reached.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TrimmedLine {
    pub(super) topic: Topic,
    pub(super) through: EventId,
    pub(super) cursor: EventId,
}

/// The line as it is written.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    segno: Cow<'a, str>,
    topic: Cow<'a, str>,
    through: i64,
    cursor: i64,
}

const WORD: &str = "trimmed";

impl TrimmedLine {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let line = Line {
            segno: WORD.into(),
            topic: self.topic.as_str().into(),
            through: self.through.as_i64(),
            cursor: self.cursor.as_i64(),
        };
        serde_json::to_writer(&mut *out, &line).expect("memory takes every byte");
        out.push(b'\n');
    }

    /// `None` if `line` is another one.
    pub(super) fn read(line: &str) -> Option<Self> {
        let line: Line<'_> = serde_json::from_str(line).ok()?;
        let id = |id: i64| {
            (0..=EventId::LAST.as_i64())
                .contains(&id)
                .then(|| EventId::from_row(id))
        };
        if line.segno != WORD {
            return None;
        }
        Some(Self {
            topic: Topic::of_log(&line.topic).ok()?,
            through: id(line.through)?,
            cursor: id(line.cursor)?,
        })
    }
}
