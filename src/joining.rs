//! A hub of a cluster takes the file of another one, where the stream has not all of the log any more.

use std::{
    cmp::Reverse,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tracing::Instrument;

use crate::{
    client::{Authorities, AuthoritiesError, Client, Error, Token, TokenFileError},
    db::{CopyError, Findings, Incoming},
    hub::find_beats,
    jetstream::{self, About, JetStream},
};

/// Longest wait for a hub that tells its address: each does so every 2 s.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// Rest before it is looked for one again.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How the other hubs are asked.
#[derive(Debug, Clone, Default)]
pub struct PeerAccess {
    /// File with the token to show; it needs the right `operate`.
    pub token_file: Option<PathBuf>,
    /// File with the authority of their certificates, where the system does not know it.
    pub ca: Option<PathBuf>,
}

/// A file that was taken.
#[derive(Debug)]
pub struct Joined {
    /// Whose it was.
    pub from: String,
    /// What is in it.
    pub findings: Findings,
    /// The name that the file has now that was there before.
    pub kept: Option<PathBuf>,
}

/// Why no file was taken.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The stream cannot be asked.
    #[error(transparent)]
    Stream(#[from] jetstream::Error),
    /// The file with the token.
    #[error("cannot use the token in {path}")]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenFileError,
    },
    /// The file with the authorities.
    #[error("cannot use the authorities in {path}")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: AuthoritiesError,
    },
    /// Nobody to ask.
    #[error(
        "no hub of the cluster tells an address: start one with --advertise URL, or name it with `segno cluster join --from URL`"
    )]
    NoPeer,
    /// One was asked, and did not give it.
    #[error("cannot take the file of {url}")]
    Peer {
        /// Who was asked.
        url: String,
        /// What it said.
        source: Error,
    },
    /// The file could not be written, or is not sound.
    #[error("cannot use the file of {url}")]
    Copy {
        /// Who was asked.
        url: String,
        /// What is wrong.
        source: CopyError,
    },
    /// It is no file of this cluster, or has not come far enough.
    #[error("the file of {url} {what}")]
    Unfit {
        /// Who was asked.
        url: String,
        /// Why it does not do.
        what: &'static str,
    },
}

/// Takes the file of the hub at `from`, or of one that told of itself, and puts it at `db`, where no hub may run.
///
/// What is there is kept under another name. Each hub is tried once, the one that has come furthest first.
pub async fn join(
    stream: &jetstream::Settings,
    access: &PeerAccess,
    db: &Path,
    from: Option<&str>,
) -> Result<Joined, JoinError> {
    let stream = JetStream::open(stream).await?;
    let about = stream.about_within(jetstream::OPENED_WITHIN).await?;
    let urls = match from {
        Some(url) => vec![url.to_owned()],
        None => find_urls(&stream).await?,
    };
    let mut last_error = JoinError::NoPeer;
    for url in urls {
        let span = tracing::info_span!("join", url);
        match take(&url, access, db, &about).instrument(span).await {
            Ok(joined) => return Ok(joined),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

/// The addresses of the hubs, that of the one that has come furthest first. Waits for some to tell theirs.
async fn find_urls(stream: &JetStream) -> Result<Vec<String>, jetstream::Error> {
    let give_up = Instant::now() + TOLD_WITHIN;
    loop {
        let mut heard = find_beats(stream).await?;
        heard.sort_by_key(|heard| Reverse(heard.beat.sequence));
        let urls = heard.into_iter().filter_map(|heard| heard.beat.url);
        let urls: Vec<_> = urls.collect();
        if !urls.is_empty() || Instant::now() > give_up {
            return Ok(urls);
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn take(
    url: &str,
    access: &PeerAccess,
    db: &Path,
    about: &About,
) -> Result<Joined, JoinError> {
    let peer = |source| JoinError::Peer {
        url: url.into(),
        source,
    };
    let copy = |source| JoinError::Copy {
        url: url.into(),
        source,
    };
    let unfit = |what| {
        Err(JoinError::Unfit {
            url: url.into(),
            what,
        })
    };
    let client = access.client(url)?;
    tracing::info!("taking the file of another hub");
    let mut snapshot = client.map_err(peer)?.snapshot().await.map_err(peer)?;
    let mut incoming = Incoming::begin(db).map_err(copy)?;
    while let Some(bytes) = snapshot.chunk().await.map_err(peer)? {
        incoming.write(&bytes).map_err(copy)?;
    }
    let (findings, reached) = incoming.check().await.map_err(copy)?;
    match reached {
        _ if findings.log_id != about.log_id => return unfit("is another log's"),
        None => return unfit("is of no cluster"),
        Some(reached) if reached.epoch != about.epoch => return unfit("is of another cluster"),
        Some(reached) if reached.sequence + 1 < about.first_sequence => {
            return unfit(
                "is older than what the stream has left; ask another hub, with --from URL",
            );
        }
        Some(_) => (),
    }
    Ok(Joined {
        from: url.into(),
        findings,
        kept: incoming.put_in_place().await.map_err(copy)?,
    })
}

impl PeerAccess {
    fn client(&self, url: &str) -> Result<Result<Client, Error>, JoinError> {
        let token = |path: &PathBuf| {
            Token::read(path).map_err(|source| JoinError::Token {
                path: path.clone(),
                source,
            })
        };
        let authorities = |path: &PathBuf| {
            Authorities::read(path).map_err(|source| JoinError::Authorities {
                path: path.clone(),
                source,
            })
        };
        let token = self.token_file.as_ref().map(token).transpose()?;
        let authorities = self.ca.as_ref().map(authorities).transpose()?;
        Ok(Client::new(
            url,
            token.as_ref(),
            &authorities.unwrap_or_default(),
        ))
    }
}
