//! The highest id that was announced, noted in a small file beside the log.
//!
//! The log itself says what its newest id is, unless an older copy of it is put in its place. The note stays where it is
//! then, and ids go on above it.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

use super::{OpenError, beside};
use crate::event::EventId;

/// Ids that may have been announced since the note was written, at most: it is written once a second, and the log takes
/// 460,000 events a second at its best.
pub(super) const UNNOTED_MAX_IDS: i64 = 1_000_000;

/// The note of one log.
#[derive(Debug)]
pub(super) struct Highest {
    path: PathBuf,
}

impl Highest {
    pub(super) fn of(log_path: &Path) -> Self {
        Self {
            path: beside(log_path, "-highest"),
        }
    }

    /// The id that was noted; zero if none was.
    pub(super) fn read(&self) -> Result<EventId, OpenError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => text
                .trim()
                .parse()
                .map_err(|_| OpenError::InvalidHighest(self.path.clone())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(EventId::ZERO),
            Err(source) => Err(OpenError::Io {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// Replaces the note in one step: a crash leaves the old one or the new one.
    pub(super) fn write(&self, id: EventId) -> io::Result<()> {
        let new = beside(&self.path, ".new");
        let mut file = File::create(&new)?;
        file.write_all(format!("{id}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}
