//! Whether the files of the log are still where they were opened.
//!
//! SQLite goes on writing into a file that was deleted, moved or replaced: all it acknowledges from then on is gone with the
//! process. It does not look, so the writer does, before each commit.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::beside;

/// Age from which the time of a folder's last change tells it from the next change. Linux before 6.13 stamps a change with
/// the time of its last tick, and a tick takes 10 ms at most.
const FOLDER_SETTLES: Duration = Duration::from_millis(50);

/// The file, its WAL and the index of the WAL, as they were when the log was opened.
#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
    files: [(PathBuf, Identity); 3],
    /// How the folder was when all three were there: as long as it is so, they are.
    settled: Option<FolderState>,
}

/// Which file it is, whatever its name: its device and its inode.
type Identity = (u64, u64);

/// Changes with every file that comes into the folder, goes, or gets another name.
#[derive(Debug, PartialEq, Eq)]
struct FolderState {
    identity: Identity,
    changed_at: (i64, i64),
}

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
        Ok(Self {
            folder: path.parent().unwrap_or(Path::new("/")).to_owned(),
            files,
            settled: None,
        })
    }

    /// The first of the files that is not where it was.
    ///
    /// Costs one look at the folder, about 2 µs, and three more after a change in it. Opens nothing, because closing a file
    /// again would drop SQLite's locks on it.
    pub(super) fn find_moved(&mut self) -> Option<&Path> {
        let folder = FolderState::of(&self.folder);
        if folder.is_some() && folder == self.settled {
            return None;
        }
        // Looked at after the folder: a change in between is another state of it.
        let moved = self.files.iter().find(|(path, opened)| {
            fs::metadata(path).map_or(true, |metadata| identity(&metadata) != *opened)
        });
        self.settled = folder.filter(|folder| moved.is_none() && folder.is_settled());
        moved.map(|(path, _)| path.as_path())
    }
}

impl FolderState {
    fn of(folder: &Path) -> Option<Self> {
        let metadata = fs::metadata(folder).ok()?;
        Some(Self {
            identity: identity(&metadata),
            changed_at: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }

    /// Whether a change from now on would be seen. Not on a file system that counts in whole seconds.
    fn is_settled(&self) -> bool {
        let (seconds, nanos) = self.changed_at;
        let (Ok(seconds), Ok(nanos @ 1..)) = (u64::try_from(seconds), u32::try_from(nanos)) else {
            return false;
        };
        let changed_at = UNIX_EPOCH + Duration::new(seconds, nanos);
        SystemTime::now()
            .duration_since(changed_at)
            .is_ok_and(|age| age > FOLDER_SETTLES)
    }
}

fn identity(metadata: &fs::Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many changes within one tick of the system: where it stamps them with the tick, the time of the folder does not tell
    /// them apart.
    #[test]
    fn a_move_in_the_moment_after_a_look_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segno.db");
        let away = folder.path().join("away");
        for part in ["", "-wal", "-shm"] {
            fs::write(beside(&path, part), "").unwrap();
        }
        let mut place = Place::of(&path).unwrap();
        for _ in 0..1000 {
            assert_eq!(place.find_moved(), None);
            fs::rename(&path, &away).unwrap();
            assert!(place.find_moved().is_some());
            fs::rename(&away, &path).unwrap();
        }
    }

    #[test]
    fn a_folder_that_is_left_alone_is_looked_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segno.db");
        for part in ["", "-wal", "-shm"] {
            fs::write(beside(&path, part), "").unwrap();
        }
        let mut place = Place::of(&path).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while place.settled.is_none() {
            assert_eq!(place.find_moved(), None);
            assert!(std::time::Instant::now() < deadline, "it never settles");
        }
    }
}
