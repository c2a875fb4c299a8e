//! A socket with a limit on how long a write may wait for the client to read.
//!
//! An answer stays in memory until its client has read it: without the limit a few hundred clients that do not read hold
//! gigabytes for ever.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Sleep, sleep},
};

/// A connection's socket, as hyper uses it.
#[derive(Debug)]
pub(super) struct PacedSocket {
    socket: TokioIo<TcpStream>,
    timeout: Duration,
    /// Whether what is being written may stand still: a stream or a history of any length, which hold a page at most.
    may_wait: Arc<AtomicBool>,
    /// Runs from the moment that the socket takes no more.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl PacedSocket {
    pub(super) fn new(socket: TcpStream, timeout: Duration, may_wait: Arc<AtomicBool>) -> Self {
        Self {
            socket: TokioIo::new(socket),
            timeout,
            may_wait,
            stalled: None,
        }
    }

    pub(super) fn into_inner(self) -> TcpStream {
        self.socket.into_inner()
    }

    /// Passes on what a write gave; where it must wait, only until the time is over.
    fn pace(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() || self.may_wait.load(Relaxed) {
            self.stalled = None;
            return written;
        }
        let timeout = self.timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Read for PacedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl Write for PacedSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.pace(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, bytes);
        self.pace(context, written)
    }
}
