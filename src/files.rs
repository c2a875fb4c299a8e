//! Files that others change while the hub runs: what tells that one has changed, and when it is whole. Files that segno makes: never
//! where a link leads.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// Read and write for the owner, nothing for anybody else.
pub(crate) const OWNER_ONLY: u32 = 0o600;

/// How often files are looked at. Half of the two seconds within which a change is in force.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long a file that has changed must stay as it is before it is read: far longer than a script takes between the pieces of it.
const SETTLE_INTERVAL: Duration = Duration::from_millis(50);

/// A file that changes all the time is read after this many looks all the same, half a second.
const SETTLE_MAX_LOOKS: usize = 10;

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileState {
    modified: (i64, i64),
    bytes: u64,
    inode: (u64, u64),
}

impl FileState {
    /// `None` where there is no file.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        // Follows links: Kubernetes changes a file by changing where a link points.
        let found = fs::metadata(path).ok()?;
        Some(Self {
            modified: (found.mtime(), found.mtime_nsec()),
            bytes: found.len(),
            inode: (found.dev(), found.ino()),
        })
    }
}

/// What `look` sees of some files once nobody writes them: one that is written over in place is short for a moment, and what is not
/// there yet must not count as gone. At once where it is what is known.
pub(crate) async fn look_settled<S: PartialEq>(known: &S, look: impl Fn() -> S) -> S {
    let mut now = look();
    for _ in 0..SETTLE_MAX_LOOKS {
        if now == *known {
            break;
        }
        tokio::time::sleep(SETTLE_INTERVAL).await;
        let later = look();
        if later == now {
            break;
        }
        now = later;
    }
    now
}

/// The path with `suffix` behind its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes an empty file with these permissions, less the process's umask. Follows no link, and refuses where there is anything already.
pub(crate) fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
}

/// The path of what is to be put at `path` when it is complete.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    beside(path, ".new")
}

/// Makes an empty file at [`unfinished`], as [`create_new`] does, in the place of anything that is there.
pub(crate) fn begin_beside(path: &Path, mode: u32) -> io::Result<File> {
    let unfinished = unfinished(path);
    // Of a write that was broken off, or a link that somebody put there: not to be followed.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => create_new(&unfinished, mode),
    }
}

/// Puts a file with these permissions and bytes in the place of the one at `path`, and syncs it: a crash leaves the old one or the new
/// one. The rename itself is not synced.
pub(crate) fn replace(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut file = begin_beside(path, OWNER_ONLY)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(unfinished(path), path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Somebody may put a link there after what was there is removed.
    #[test]
    fn a_file_that_is_made_is_a_new_one_and_not_where_a_link_leads() {
        let folder = tempfile::tempdir().unwrap();
        let (link, led_to) = (folder.path().join("link"), folder.path().join("led-to"));
        symlink(&led_to, &link).unwrap();
        let refused = create_new(&link, OWNER_ONLY).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        assert!(!led_to.exists());
        fs::write(&led_to, "precious").unwrap();
        create_new(&link, OWNER_ONLY).unwrap_err();
        assert_eq!(fs::read(&led_to).unwrap(), b"precious");
    }

    #[test]
    fn a_file_is_replaced_whatever_a_crash_or_somebody_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, led_to) = (folder.path().join("file"), folder.path().join("led-to"));
        fs::write(&led_to, "precious").unwrap();
        symlink(&led_to, unfinished(&path)).unwrap();
        replace(&path, 0o640, b"first").unwrap();
        assert_eq!(fs::read(&led_to).unwrap(), b"precious");
        assert!(path.symlink_metadata().unwrap().is_file());
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o640);

        fs::write(unfinished(&path), "half of what was to be written").unwrap();
        replace(&path, OWNER_ONLY, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, OWNER_ONLY);
        assert!(!unfinished(&path).exists());
    }
}
