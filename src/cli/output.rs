//! Standard output, and whether anybody reads it: a program ends well when nobody does.

use std::{
    future,
    io::{self, ErrorKind, Write},
    os::fd::AsFd,
};

use anyhow::anyhow;
use tokio::{io::Interest, net::unix::pipe};

/// Whether somebody still reads what is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reader {
    There,
    Gone,
}

impl Reader {
    /// What came of writing to standard output.
    pub(super) fn of(written: io::Result<()>) -> anyhow::Result<Self> {
        match written {
            Ok(()) => Ok(Self::There),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Self::Gone),
            Err(error) => Err(anyhow!(error).context("cannot write to standard output")),
        }
    }
}

/// Writes to standard output, at once.
pub(super) fn write(text: &str) -> anyhow::Result<Reader> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    Reader::of(written.and_then(|()| stdout.flush()))
}

/// Writes to standard output. That nobody reads it any more is no failure.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    write(text).map(|_| ())
}

/// Waits until nobody reads standard output any more, as after `| head -1`: a write would say so, but the next one may be far.
/// Never ends for what cannot lose its reader, such as a file.
pub(super) async fn reader_gone() {
    // A copy of the descriptor, which is only watched: to write without blocking would change standard output for everybody.
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    let Ok(stdout) = stdout.and_then(pipe::Sender::from_owned_fd_unchecked) else {
        return future::pending().await;
    };
    if stdout.ready(Interest::ERROR).await.is_err() {
        future::pending().await
    }
}
