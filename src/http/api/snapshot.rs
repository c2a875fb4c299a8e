//! A copy of the whole log, for another hub or for a backup.

use poem::Body;
use poem_openapi::{ApiResponse, OpenApi, payload::Binary};
use tokio::fs::File;
use tokio_util::io::ReaderStream;

use super::{Api, Tag};
use crate::{
    db::{CopyError, OpenError},
    http::problem::{Code, Codes, Problem, ProblemOf},
};

/// Bytes that are read from the copy at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// The operation that copies the log.
#[derive(Clone)]
pub(in crate::http) struct SnapshotApi(pub(in crate::http) Api);

#[OpenApi]
impl SnapshotApi {
    /// Snapshot
    ///
    /// The whole log as it is at one moment, as a SQLite file: a backup that `segno restore` takes, and what a hub of a cluster begins
    /// with. The answer begins when the copy is made, which takes as much of the hub's disk as the log has, and a moment for each
    /// 100 MB. One is made at a time; publishing goes on meanwhile.
    #[oai(
        path = "/snapshot",
        method = "get",
        tag = "Tag::Health",
        operation_id = "snapshot"
    )]
    async fn snapshot(&self) -> Result<SnapshotMade, ProblemOf<MakeSnapshot>> {
        let (file, bytes) = self.0.hub.snapshot().await?;
        let stream = ReaderStream::with_capacity(File::from_std(file), CHUNK_BYTES);
        let body = Body::from_bytes_stream(stream);
        Ok(SnapshotMade::Made(Binary(body), bytes, "no-store".into()))
    }
}

/// The answer of `GET /snapshot`.
#[derive(Debug, ApiResponse)]
pub(super) enum SnapshotMade {
    /// The file.
    #[oai(status = 200, content_type = "application/vnd.sqlite3")]
    Made(
        Binary<Body>,
        #[oai(header = "Content-Length")] u64,
        #[oai(header = "Cache-Control")] String,
    ),
}

impl From<CopyError> for Problem {
    fn from(error: CopyError) -> Self {
        match &error {
            CopyError::Open(OpenError::Full(_)) => Self::new(
                Code::DiskFull,
                "there is no room beside the log for a copy of it; free space",
            ),
            CopyError::Open(_)
            | CopyError::NoBackup(_)
            | CopyError::Exists(_)
            | CopyError::LogExists(_)
            | CopyError::Unsound { .. }
            | CopyError::Write { .. } => {
                Self::new(Code::Internal, "internal error").because(&error)
            }
        }
    }
}

/// The refusals of `GET /snapshot`.
#[derive(Debug)]
pub(super) struct MakeSnapshot;

impl Codes for MakeSnapshot {
    const CODES: &'static [Code] = &[Code::DiskFull, Code::Internal];
}
