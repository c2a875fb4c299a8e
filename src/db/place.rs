//! Whether the files of the log are still where they were opened.
//!
//! SQLite goes on writing into a file that was deleted, moved or replaced: all it acknowledges from then on is gone with the
//! process. It does not look, so the writer does, before each commit.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::beside;

/// The file, its WAL and the index of the WAL, as they were when the log was opened.
#[derive(Debug)]
pub(super) struct Place {
    files: [(PathBuf, Identity); 3],
}

/// Which file it is, whatever its name: its device and its inode.
type Identity = (u64, u64);

impl Place {
    /// Of a log that is open, so that all three are there.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        // SQLite follows links, and has its WAL beside the file itself.
        let path = fs::canonicalize(path)?;
        let file = |path: PathBuf| {
            let identity = identity(&fs::metadata(&path)?);
            Ok::<_, io::Error>((path, identity))
        };
        let files = [
            file(path.clone())?,
            file(beside(&path, "-wal"))?,
            file(beside(&path, "-shm"))?,
        ];
        Ok(Self { files })
    }

    /// The first of the files that is not where it was.
    ///
    /// Costs three looks at the file system, 1 µs each; a commit takes a hundred times as long. Opens nothing, because
    /// closing a file again would drop SQLite's locks on it.
    pub(super) fn find_moved(&self) -> Option<&Path> {
        let moved = self.files.iter().find(|(path, opened)| {
            fs::metadata(path).map_or(true, |metadata| identity(&metadata) != *opened)
        });
        moved.map(|(path, _)| path.as_path())
    }
}

fn identity(metadata: &fs::Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}
