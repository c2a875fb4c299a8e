//! A copy of the whole log on its way from one hub to another.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use sqlx::Connection;

use super::{
    CopyError, EventLog, Findings, Reached,
    copy::{begin_beside, connect, copy_beside, put_in_place, set_aside, sound},
    open_error,
    ordered::find_reached,
    place::{self, Lock, resolve},
};
use crate::files::beside;

impl EventLog {
    /// Copies the log, as it is at one moment, to a file that has no name any more: it is gone when the handle is. Its length is in
    /// bytes. A hub may publish meanwhile; it keeps its WAL until the copy is made.
    ///
    /// Takes as much of the disk as the log has, beside it. Two at once would overwrite each other.
    pub async fn snapshot(&self) -> Result<(File, u64), CopyError> {
        let unfinished = copy_beside(self.path(), &beside(self.path(), "-snapshot")).await?;
        let opened = File::open(&unfinished).and_then(|file| {
            fs::remove_file(&unfinished)?;
            let bytes = file.metadata()?.len();
            Ok((file, bytes))
        });
        opened.map_err(|source| CopyError::Write {
            path: unfinished,
            source,
        })
    }
}

/// A log that comes from elsewhere and is to be put at a path, where no hub may run.
#[derive(Debug)]
pub struct Incoming {
    db: PathBuf,
    unfinished: PathBuf,
    file: File,
    lock: Lock,
}

impl Incoming {
    /// Begins to take a log for the path `db`, beside it, where only the owner may read it.
    pub fn begin(db: &Path) -> Result<Self, CopyError> {
        let db = resolve(db)?;
        place::refuse_shared(&db)?;
        let lock = place::lock(&db)?;
        let (unfinished, file) = begin_beside(&db)?;
        Ok(Self {
            db,
            unfinished,
            file,
            lock,
        })
    }

    /// Adds what came next.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CopyError> {
        self.file
            .write_all(bytes)
            .map_err(|source| CopyError::Write {
                path: self.unfinished.clone(),
                source,
            })
    }

    /// Checks whether what came is a sound log, and how far it has come in the order of a cluster; `None` if it is of none.
    pub async fn check(&self) -> Result<(Findings, Option<Reached>), CopyError> {
        let failed = |source| open_error(&self.unfinished, source);
        let findings = sound(&self.unfinished).await?;
        let mut connection = connect(&self.unfinished).await?;
        let reached = find_reached(&mut connection).await.map_err(failed)?;
        connection.close().await.map_err(failed)?;
        Ok((findings, reached.map(|(reached, _)| reached)))
    }

    /// Puts it at the path. A file that is there is kept under another name, which is returned.
    pub async fn put_in_place(self) -> Result<Option<PathBuf>, CopyError> {
        let Self {
            db,
            unfinished,
            file,
            lock,
        } = self;
        drop(file);
        // To set a log aside it is opened, under the same lock.
        drop(lock);
        let kept = match db.exists() {
            true => Some(set_aside(&db).await?),
            false => None,
        };
        let _lock = place::lock(&db)?;
        put_in_place(&unfinished, &db)?;
        Ok(kept)
    }
}
