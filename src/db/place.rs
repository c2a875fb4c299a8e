//! Which file a path means, who may have it, and whether the files of the log are still where they were opened.
//!
//! SQLite goes on writing into a file that was deleted, moved or replaced: all it acknowledges from then on is gone with the
//! process. It does not look, so the writer does, before each commit.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{fs::OFlags, io::Errno};

use super::OpenError;
use crate::files::{OWNER_ONLY, beside, create_new};

/// Where the system says what is mounted where. Source: `man 5 proc_pid_mountinfo`.
const MOUNTS: &str = "/proc/self/mountinfo";

/// The path of the file that `path` means: absolute, without symbolic links, and UTF-8. There need not be a file yet.
///
/// SQLite puts the WAL beside this one, so the lock and the notes belong there too. An absolute path is also never taken for
/// more than a name: SQLite gives `file:x` and `:memory:` a meaning of their own.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, OpenError> {
    let failed = |source| io_error(path, source);
    let resolved = match fs::canonicalize(path) {
        Ok(resolved) => resolved,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(OpenError::DanglingLink(path.into()));
            }
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(failed(error));
            };
            let folder = match folder.as_os_str().is_empty() {
                true => Path::new("."),
                false => folder,
            };
            fs::canonicalize(folder).map_err(failed)?.join(name)
        }
        Err(error) => return Err(failed(error)),
    };
    if resolved.to_str().is_none() {
        return Err(OpenError::NotUtf8(resolved));
    }
    match fs::metadata(&resolved) {
        // Opening a named pipe would wait for whoever writes to it.
        Ok(metadata) if !metadata.is_file() => Err(OpenError::NotAFile(resolved)),
        _ => Ok(resolved),
    }
}

/// Refuses a file whose WAL somebody would not find, at a [resolved](resolve) path.
pub(super) fn refuse_shared(path: &Path) -> Result<(), OpenError> {
    let Ok(metadata) = fs::metadata(path) else {
        return Ok(());
    };
    if metadata.nlink() > 1 {
        return Err(OpenError::HardLinked(path.into()));
    }
    let mounts = fs::read_to_string(MOUNTS).unwrap_or_default();
    match mount_points(&mounts).any(|mount| Path::new(&mount) == path) {
        true => Err(OpenError::MountPoint(path.into())),
        false => Ok(()),
    }
}

fn mount_points(mounts: &str) -> impl Iterator<Item = String> {
    let escaped = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    escaped.map(|path| {
        [
            ("\\040", " "),
            ("\\011", "\t"),
            ("\\012", "\n"),
            ("\\134", "\\"),
        ]
        .iter()
        .fold(path.to_owned(), |path, (octal, character)| {
            path.replace(octal, character)
        })
    })
}

/// Makes an empty file that only its owner may read, unless there is one: whoever reads it reads every event.
pub(super) fn make(path: &Path) -> Result<(), OpenError> {
    match create_new(path, OWNER_ONLY) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(io_error(path, error)),
        _ => Ok(()),
    }
}

/// The lock on a log, held as long as this is.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    /// Lets go of it. To close the file is not enough: a program that is being started has all files of this process open for
    /// a moment, and with this one the lock.
    fn drop(&mut self) {
        // Where it fails it ends with the process.
        _ = self.0.unlock();
    }
}

/// Locks the log at a [resolved](resolve) path for this process. Two hubs on one file would each announce only their own
/// events.
pub(super) fn lock(path: &Path) -> Result<Lock, OpenError> {
    let lock = beside(path, "-lock");
    let file = lock_options()
        .create(true)
        .truncate(false)
        .mode(OWNER_ONLY)
        .open(&lock);
    let file = file.map_err(|source| match source.raw_os_error() {
        Some(error) if error == Errno::LOOP.raw_os_error() => OpenError::LinkedLock(lock),
        _ => io_error(path, source),
    })?;
    try_lock(file).map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::InUse(path.into()),
        TryLockError::Error(source) => io_error(path, source),
    })
}

/// A link that somebody put there would have a file made or held wherever it leads.
fn lock_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

fn try_lock(file: File) -> Result<Lock, TryLockError> {
    file.try_lock()?;
    Ok(Lock(file))
}

/// Whether a process has the log at a [resolved](resolve) path locked.
pub(super) fn is_locked(path: &Path) -> bool {
    let file = lock_options().open(beside(path, "-lock"));
    file.is_ok_and(|file| matches!(try_lock(file), Err(TryLockError::WouldBlock)))
}

pub(super) fn io_error(path: &Path, source: io::Error) -> OpenError {
    OpenError::Io {
        path: path.into(),
        source,
    }
}

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
        let file = |path: PathBuf| {
            let identity = identity(&fs::metadata(&path)?);
            Ok::<_, io::Error>((path, identity))
        };
        let files = [
            file(path.into())?,
            file(beside(path, "-wal"))?,
            file(beside(path, "-shm"))?,
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn mount_points_are_read_as_the_system_writes_them() {
        let mounts = "36 35 98:0 /mnt1 /data/my\\040log\\134.db rw,noatime - ext3 /dev/root rw\n22 1 0:21 / /proc rw - proc proc rw\n";
        let points: Vec<_> = mount_points(mounts).collect();
        assert_eq!(points, ["/data/my log\\.db", "/proc"]);
    }

    #[test]
    fn a_lock_ends_with_whoever_held_it_though_a_program_that_is_being_started_has_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("segno.db");
        let held = lock(&log).unwrap();
        assert!(matches!(lock(&log), Err(OpenError::InUse(_))));
        // What a child has until it becomes another program.
        let inherited = held.0.try_clone().unwrap();
        drop(held);
        assert!(!is_locked(&log));
        lock(&log).unwrap();
        drop(inherited);
    }

    #[test]
    fn a_lock_is_not_made_or_held_where_a_link_leads() {
        let folder = tempfile::tempdir().unwrap();
        let (log, led_to) = (folder.path().join("segno.db"), folder.path().join("led-to"));
        symlink(&led_to, beside(&log, "-lock")).unwrap();
        assert!(matches!(lock(&log), Err(OpenError::LinkedLock(_))));
        assert!(!led_to.exists());
        fs::write(&led_to, "precious").unwrap();
        let held = File::open(&led_to).unwrap();
        held.lock().unwrap();
        assert!(matches!(lock(&log), Err(OpenError::LinkedLock(_))));
        assert!(!is_locked(&log), "what is locked is another file");
        assert_eq!(fs::read(&led_to).unwrap(), b"precious");
    }
}
