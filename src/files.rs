//! Files that others change while the hub runs: what tells that one has changed, and when it is whole.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

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
