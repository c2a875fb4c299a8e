//! Room for deleting when the disk is full.
//!
//! To delete from a file, SQLite first writes more: pages go to the WAL before they go anywhere. So a hub on a full disk
//! could make no room by itself, nor start again. A file of random bytes beside the log keeps that room; it is given up when
//! deleting needs it, and made again when there is room. Publishing waits for that: it would eat the room at once.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::files::{OWNER_ONLY, beside, create_new};

/// Bytes of the reserve.
///
/// Half of it is for what the file [grows](GROWTH_MAX_BYTES) by when the WAL is copied into it, half for a step of trimming: that
/// writes about 1 MiB to the WAL, which is emptied after it.
const RESERVE_BYTES: usize = 8 * BLOCK_BYTES;

/// Bytes that the file may have to grow by when the WAL is copied into it. Above this no events are taken while the disk has
/// no room: SQLite copies a WAL of 4 MiB by itself, so that it is reached only when that fails, or a reader is in the way.
pub(super) const GROWTH_MAX_BYTES: u64 = 4 * BLOCK_BYTES as u64;

/// Random bytes are written in blocks that are all the same, and larger than what a file system compresses at once.
const BLOCK_BYTES: usize = 1024 * 1024;

/// How often the hub tries to make the reserve again.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// The reserve of one log.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nobody asked for one, or there was never room for it.
    None,
    Held,
    /// Deleting needed its room. Tried again after this.
    GivenUp {
        next_try: Instant,
    },
}

impl Reserve {
    pub(super) fn of(log_path: &Path) -> Self {
        let path = beside(log_path, "-reserve");
        let state = match path.exists() {
            true => State::Held,
            false => State::None,
        };
        Self { path, state }
    }

    /// Makes the reserve if there is none. Without room for it the log does without.
    pub(super) fn hold(&mut self) -> io::Result<()> {
        match self.state {
            State::Held | State::GivenUp { .. } => Ok(()),
            State::None => self.make(),
        }
    }

    fn make(&mut self) -> io::Result<()> {
        _ = fs::remove_file(&self.path);
        // Random, because some file systems keep zeros for nothing.
        let mut block = vec![0; BLOCK_BYTES];
        fastrand::fill(&mut block);
        let made = create_new(&self.path, OWNER_ONLY).and_then(|mut file| {
            (0..RESERVE_BYTES / BLOCK_BYTES).try_for_each(|_| file.write_all(&block))
        });
        match made {
            Ok(()) => self.state = State::Held,
            // What was written of it takes room.
            Err(_) => _ = fs::remove_file(&self.path),
        }
        made
    }

    /// Gives the room to whoever needs it; false if there is none to give.
    pub(super) fn give_up(&mut self) -> bool {
        if !matches!(self.state, State::Held) {
            return false;
        }
        let removed = fs::remove_file(&self.path);
        self.state = State::GivenUp {
            next_try: Instant::now() + TRY_EVERY,
        };
        tracing::warn!(
            "the disk is full; its reserve was given up so that deleting works, and publishing waits for room"
        );
        removed.is_ok()
    }

    pub(super) fn is_given_up(&self) -> bool {
        matches!(self.state, State::GivenUp { .. })
    }

    /// Whether it is time to try [`regain`](Self::regain).
    pub(super) fn is_due(&mut self) -> bool {
        match &mut self.state {
            State::GivenUp { next_try } if *next_try <= Instant::now() => {
                *next_try = Instant::now() + TRY_EVERY;
                true
            }
            State::GivenUp { .. } | State::Held | State::None => false,
        }
    }

    /// Makes it again after it was given up; true if that worked.
    pub(super) fn regain(&mut self) -> bool {
        let regained = self.make().is_ok();
        if regained {
            tracing::info!("there is room on the disk again");
        }
        regained
    }
}
