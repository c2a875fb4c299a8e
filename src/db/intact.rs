//! Whether another program has changed the log while it is open.
//!
//! People copy a backup over the file, truncate it, restore into it, or insert a row with `sqlite3`. Nothing may be
//! acknowledged on top of that: at the next start it would be gone, or stand before what came first. Two questions tell:
//!
//! * Has somebody committed through SQLite? `pragma data_version` says so, on the writing connection, and the statement that
//!   inserts events asks it in the same transaction.
//! * Has somebody written to the file outside SQLite? Its size and time change only when the WAL is copied into it, and that
//!   is the work of the writing connection. SQLite itself does not notice such a write.
//!
//! A tool that does both properly, as Litestream does, is no harm: then SQLite tells of the change, and the newest event, the
//! first, the last id, the log's id and the schema are what they were.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use sqlx::SqliteConnection;

use super::{
    Appender, Error, OpenError, open_error,
    place::io_error,
    schema::{Objects, difference, objects},
};
use crate::files::beside;

/// Bytes of the head of every SQLite file. Source: <https://sqlite.org/fileformat2.html>, 1.3.
const HEAD_BYTES: usize = 100;

pub(super) const DATA_VERSION: &str = "select data_version from pragma_data_version";

/// Where the page is that holds the last id: it differs in any two copies of a log between which something was published.
const SEQUENCE_PAGE: &str = "
select rootpage, (select page_size from pragma_page_size) from sqlite_schema where name = 'sqlite_sequence'";

/// What only the writing connection changes.
const FACTS: &str = "
select coalesce((select id from log), ''),
       coalesce((select seq from sqlite_sequence where name = 'events'), 0),
       (select min(id) from events),
       (select max(id) from events),
       (select created_at from events where id = ?1)";

/// The file and its WAL as this process left them.
#[derive(Debug)]
pub(super) struct Intact {
    path: PathBuf,
    /// Open as long as SQLite has the file open: to close it drops the locks that SQLite holds on it in this process.
    file: File,
    pub(super) wal: Arc<File>,
    sequence_page: Span,
    schema: Objects,
    seen: Seen,
    wal_bytes: u64,
    index: File,
    checkpoint: Checkpoint,
    pub(super) data_version: i64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Intact,
    /// By a commit of another program. The file is sound, and may be closed as ever.
    ChangedInside,
    /// By a write outside SQLite. The WAL does not belong to what the file is now.
    ChangedOutside,
}

/// Bytes of the file.
#[derive(Debug, Clone, Copy)]
struct Span {
    offset: u64,
    bytes: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    stamp: Stamp,
    content: Vec<u8>,
}

/// Size and time of a file.
type Stamp = (u64, i64, i64);

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// How far the WAL was copied into the file, as its index says. Source: <https://sqlite.org/walformat.html>, 2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Checkpoint {
    /// Differs in each WAL that is begun.
    salt: [u8; 8],
    copied_frames: [u8; 4],
    /// Frames up to here are being copied, or were.
    attempted_frames: [u8; 4],
}

/// Pages of the log as its newest commit left it.
fn pages(index: &File) -> u32 {
    let mut pages = [0; 4];
    let _ = index.read_exact_at(&mut pages, 20);
    u32::from_ne_bytes(pages)
}

impl Checkpoint {
    fn of(index: &File) -> Self {
        let mut checkpoint = Self::default();
        // An index that cannot be read says nothing, and then nothing is excused by it.
        let _ = index.read_exact_at(&mut checkpoint.salt, 32);
        let _ = index.read_exact_at(&mut checkpoint.copied_frames, 96);
        let _ = index.read_exact_at(&mut checkpoint.attempted_frames, 128);
        checkpoint
    }

    fn is_being_made(self) -> bool {
        self.copied_frames != self.attempted_frames
    }
}

impl Intact {
    /// Of a log that is open on `connection`.
    pub(super) async fn of(
        path: &Path,
        connection: &mut SqliteConnection,
    ) -> Result<Self, OpenError> {
        let failed = |source| open_error(path, source);
        let (page, page_bytes): (i64, i64) = sqlx::query_as(SEQUENCE_PAGE)
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
        let (Ok(page), Ok(page_bytes)) = (u64::try_from(page - 1), usize::try_from(page_bytes))
        else {
            return Err(OpenError::Corrupt(path.into()));
        };
        let sequence_page = Span {
            offset: page * page_bytes as u64,
            bytes: page_bytes,
        };
        let data_version = sqlx::query_scalar(DATA_VERSION)
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
        let schema = objects(connection).await.map_err(failed)?;
        let open = || {
            let (file, wal) = (File::open(path)?, File::open(beside(path, "-wal"))?);
            let index = File::open(beside(path, "-shm"))?;
            Ok(Self {
                path: path.into(),
                seen: Seen::of(&file, sequence_page)?,
                wal_bytes: wal.metadata()?.len(),
                checkpoint: Checkpoint::of(&index),
                file,
                wal: Arc::new(wal),
                index,
                sequence_page,
                schema,
                data_version,
                state: State::Intact,
            })
        };
        open().map_err(|source| io_error(path, source))
    }

    /// Whether the files are as this process left them. Costs two looks at open files, 1 µs.
    fn is_untouched(&mut self) -> bool {
        let Ok(wal) = self.wal.metadata() else {
            return false;
        };
        // It may be longer: a transaction that another program took back leaves frames behind, which count for nothing.
        if wal.len() < self.wal_bytes {
            return false;
        }
        match self.file.metadata() {
            Ok(file) if stamp(&file) == self.seen.stamp => true,
            Ok(_) => self.has_same_content(),
            Err(_) => false,
        }
    }

    /// Whether the file has only another time, as after a `touch`.
    fn has_same_content(&mut self) -> bool {
        match Seen::of(&self.file, self.sequence_page) {
            Ok(now) if now.stamp.0 == self.seen.stamp.0 && now.content == self.seen.content => {
                self.seen = now;
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// Remembers the files as they are, after a write of this process. Costs a few looks at open files, 3 µs.
    fn remember(&mut self) {
        self.checkpoint = Checkpoint::of(&self.index);
        if let Ok(wal) = self.wal.metadata() {
            self.wal_bytes = wal.len();
        }
        let is_new = |file: Metadata| stamp(&file) != self.seen.stamp;
        if self.file.metadata().is_ok_and(is_new)
            && let Ok(seen) = Seen::of(&self.file, self.sequence_page)
        {
            self.seen = seen;
        }
    }

    /// Whether SQLite has copied the WAL into the file since, or is about it: another program's SQLite, that is.
    fn is_copied_by_sqlite(&self) -> bool {
        let now = Checkpoint::of(&self.index);
        now != self.checkpoint || now.is_being_made()
    }

    /// Bytes by which the file grows when the WAL is copied into it.
    pub(super) fn growth_bytes(&self) -> u64 {
        let bytes = u64::from(pages(&self.index)) * self.sequence_page.bytes as u64;
        bytes.saturating_sub(self.seen.stamp.0)
    }

    fn error(&self) -> Error {
        Error::Changed(self.path.clone())
    }
}

impl Seen {
    fn of(file: &File, sequence_page: Span) -> io::Result<Self> {
        let mut content = vec![0; HEAD_BYTES + sequence_page.bytes];
        let (head, sequence) = content.split_at_mut(HEAD_BYTES);
        let stamp = stamp(&file.metadata()?);
        // What is not there counts as zeros: a new log is in its WAL alone.
        let _ = file.read_exact_at(head, 0);
        let _ = file.read_exact_at(sequence, sequence_page.offset);
        Ok(Self { stamp, content })
    }
}

impl Appender {
    /// Looks whether the files are where they were opened, and as this process left them; an error if not.
    ///
    /// Where the WAL alone is gone, what stands in it is put into the file: a kill would else lose it.
    pub async fn look_in_place(&mut self) -> Result<(), Error> {
        self.look_at_files().await?;
        self.look_at_version().await
    }

    /// The part that asks SQLite nothing, as long as all is well.
    pub(super) async fn look_at_files(&mut self) -> Result<(), Error> {
        if self.intact.state != State::Intact {
            return Err(self.intact.error());
        }
        if let Some(moved) = self.place.find_moved() {
            let moved = Error::Moved(moved.to_owned());
            // Where this fails nothing is worse than before, and a stop tries it again.
            _ = sqlx::query("pragma wal_checkpoint(full)")
                .execute(&mut self.connection)
                .await;
            return Err(moved);
        }
        match self.intact.is_untouched() {
            true => Ok(()),
            false => self.judge().await,
        }
    }

    /// Asks SQLite whether somebody else has committed. Inside a transaction the answer holds until its end.
    pub(super) async fn look_at_version(&mut self) -> Result<(), Error> {
        match self.data_version().await? == self.intact.data_version {
            true => Ok(()),
            false => self.judge().await,
        }
    }

    /// Judges a change that is not this process's own.
    pub(super) async fn judge(&mut self) -> Result<(), Error> {
        let told_by_sqlite = match self.is_told_by_sqlite().await {
            // SQLite cannot read what somebody has put there.
            Err(Error::Corrupt(_)) => false,
            told => told?,
        };
        if told_by_sqlite && self.facts_hold().await? {
            self.intact.data_version = self.data_version().await?;
            self.intact.remember();
            return Ok(());
        }
        self.intact.state = match told_by_sqlite {
            true => State::ChangedInside,
            false => {
                self.set_wal_aside();
                State::ChangedOutside
            }
        };
        Err(self.intact.error())
    }

    /// Whether a commit or a checkpoint of another program is the reason.
    async fn is_told_by_sqlite(&mut self) -> Result<bool, Error> {
        Ok(self.intact.is_copied_by_sqlite()
            || self.data_version().await? != self.intact.data_version)
    }

    async fn data_version(&mut self) -> Result<i64, Error> {
        Ok(sqlx::query_scalar(DATA_VERSION)
            .fetch_one(&mut self.connection)
            .await?)
    }

    async fn facts_hold(&mut self) -> Result<bool, Error> {
        let end = self.end;
        let (id, seq, first_id, newest_id, newest_at): (
            String,
            i64,
            Option<i64>,
            Option<i64>,
            Option<i64>,
        ) = sqlx::query_as(FACTS)
            .bind(end.last_id.as_i64())
            .fetch_one(&mut self.connection)
            .await?;
        let schema = objects(&mut self.connection).await?;
        Ok(difference(&schema, &self.intact.schema).is_none()
            && *id == *self.id
            && seq == end.last_id.as_i64()
            && first_id == self.first_id.map(|id| id.as_i64())
            && newest_id <= Some(end.last_id.as_i64())
            && newest_at.is_none_or(|at| at == end.last_created_at.as_millis()))
    }

    /// Remembers the files as they are, after a write of this process, whether it worked or not.
    pub(super) fn remember(&mut self) {
        self.intact.remember();
    }

    /// At the next start SQLite would copy the WAL into a file that it does not belong to.
    fn set_wal_aside(&self) {
        let suffix = format!(
            "-wal-left-{}",
            chrono::Utc::now().format("%Y%m%dT%H%M%S%3f")
        );
        let (wal, aside) = (
            beside(&self.intact.path, "-wal"),
            beside(&self.intact.path, &suffix),
        );
        match fs::rename(&wal, &aside) {
            Ok(()) => tracing::error!(
                kept = %aside.display(),
                "another program has overwritten the file; the WAL, which does not belong to it, was set aside"
            ),
            Err(error) => tracing::error!(
                %error,
                "another program has overwritten the file, and the WAL, which does not belong to it, cannot be set aside"
            ),
        }
    }

    /// Whether SQLite must not write to the file any more, not even to close it.
    pub(super) fn must_not_write(&self) -> bool {
        self.intact.state == State::ChangedOutside
    }
}
