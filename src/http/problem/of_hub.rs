//! The codes of what the hub and its log refuse.

use super::{Code, Problem};
use crate::{db, hub};

impl From<&db::Error> for Problem {
    fn from(error: &db::Error) -> Self {
        match error {
            db::Error::Full(_) => {
                Self::new(Code::DiskFull, "the disk is full; nothing was stored. Free space, or keep less with the --keep flags")
            }
            db::Error::ReadOnly(_) => Self::new(
                Code::ReadOnly,
                "the file cannot be written; nothing was stored. Check its permissions and its file system",
            ),
            db::Error::Busy(_) => Self::new(
                Code::LogBusy,
                "another process holds the file; nothing was stored. Try again",
            ),
            db::Error::Moved(_) => Self::new(
                Code::LogMoved,
                "the file was moved, deleted or replaced while the hub runs; nothing was stored. Put that very file back, or \
                 stop the hub, check which file is there, and start it",
            ),
            db::Error::Changed(_) => Self::new(
                Code::LogChanged,
                "another program changed the file while the hub runs; nothing was stored. Stop the hub, decide which file is \
                 right, and start it: what is lost then is told to subscribers",
            ),
            db::Error::IdsExhausted => Self::new(
                Code::IdsExhausted,
                "the last id there can be was given; nothing was stored. Begin a new log with --db",
            ),
            db::Error::Corrupt(_) => Self::new(
                Code::LogCorrupt,
                "the file is damaged; nothing was stored. `segno check` says where, `segno restore` replaces it with a backup",
            )
            .because(error),
            db::Error::Disk(_) => Self::new(
                Code::DiskFailed,
                "the disk failed to read, write or sync. The events are refused, but a crash of the machine may bring them \
                 back: send them again with a key, so that each is stored once",
            )
            .because(error),
            db::Error::Other(_) => {
                Self::new(Code::Internal, "internal error").because(error)
            }
        }
    }
}

impl From<db::Error> for Problem {
    fn from(error: db::Error) -> Self {
        Self::from(&error)
    }
}

impl From<hub::PublishError> for Problem {
    fn from(error: hub::PublishError) -> Self {
        match &error {
            hub::PublishError::Busy(_) => Self::new(
                Code::Busy,
                format_args!("{error} (--max-queue, --max-queue-bytes); try again"),
            ),
            hub::PublishError::Draining => Self::new(Code::Draining, error),
            hub::PublishError::KeyConflict(conflict) => Self::new(Code::KeyConflict, conflict),
            hub::PublishError::Log(log_error) => Self::from(&**log_error),
            hub::PublishError::Unordered(_) => Self::new(Code::Unordered, error),
            hub::PublishError::OutcomeUnknown => Self::new(
                Code::OutcomeUnknown,
                format_args!(
                    "{error}; send them again with the same key, so that each is stored once"
                ),
            ),
            hub::PublishError::TooLarge(_) => Self::new(
                Code::CommandTooLarge,
                format_args!("{error}; send fewer, or raise max_payload of the servers"),
            ),
        }
    }
}

impl From<hub::WorkError> for Problem {
    fn from(error: hub::WorkError) -> Self {
        match &error {
            hub::WorkError::Draining => Self::new(Code::Draining, error),
            hub::WorkError::Log(log_error) => Self::from(&**log_error),
            hub::WorkError::Unordered(_) => Self::new(Code::Unordered, error),
            hub::WorkError::OutcomeUnknown => Self::new(
                Code::OutcomeUnknown,
                format_args!("{error}; look, and try again"),
            ),
        }
    }
}

impl From<hub::SubscribeError> for Problem {
    fn from(error: hub::SubscribeError) -> Self {
        match &error {
            hub::SubscribeError::Draining => Self::new(Code::Draining, error),
            hub::SubscribeError::Log(log_error) => Self::from(log_error),
            hub::SubscribeError::NotJoined(_) => Self::new(Code::NotJoined, error),
        }
    }
}

impl From<hub::NotReady> for Problem {
    fn from(error: hub::NotReady) -> Self {
        match &error {
            hub::NotReady::Draining => Self::new(Code::Draining, error),
            hub::NotReady::Busy => Self::new(Code::Busy, error),
            hub::NotReady::Late(_) => Self::new(Code::CanaryLate, error),
            hub::NotReady::CommitsFail(_) => Self::new(Code::CommitsFail, error),
            hub::NotReady::NotJoined(_) => Self::new(Code::NotJoined, error),
        }
    }
}
