//! A socket with a limit on how long a write may wait for the client to read, and which looks at what a client says first and when it
//! closes its side.
//!
//! An answer stays in memory until its client has read it: without the limit a few hundred clients that do not read hold
//! gigabytes for ever. Over HTTP/2 the limit is kept for each answer instead, by `http2.rs`.

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

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

/// What a client of HTTP/2 says first. Source: RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes that are read before hyper asks for them: at first, which is the head of nearly every request, and of later requests while an
/// answer of any length is written, to see the client close its side behind them.
const AHEAD_MAX_BYTES: usize = 2048;

/// What the socket of a connection and who answers on it tell each other.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Whether what is being written may stand still: a stream or a history of any length, which hold a page at most.
    pub(super) may_wait: AtomicBool,
    /// Whether the socket took nothing of what was written last.
    pub(super) is_blocked: AtomicBool,
    /// Cancelled when the client has closed its side while it is sent what may stand still.
    pub(super) half_closed: CancellationToken,
}

/// A connection's socket, as hyper uses it.
#[derive(Debug)]
pub(super) struct PacedSocket<S> {
    socket: TokioIo<S>,
    timeout: Duration,
    signals: Arc<Signals>,
    /// Runs from the moment that the socket takes no more.
    stalled: Option<Pin<Box<Sleep>>>,
    /// What was read from the socket and is still to be given.
    before: Bytes,
    /// Whether to read while an answer is written, which hyper's HTTP/1 does not.
    reads_ahead: bool,
    /// Whether what comes may be a part of [`PREFACE`]: hyper's HTTP/1 knows it only whole.
    is_opening: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> PacedSocket<S> {
    pub(super) fn new(socket: S, timeout: Duration, signals: Arc<Signals>) -> Self {
        Self {
            socket: TokioIo::new(socket),
            timeout,
            signals,
            stalled: None,
            before: Bytes::new(),
            reads_ahead: true,
            is_opening: true,
        }
    }

    pub(super) fn into_inner(self) -> S {
        self.socket.into_inner()
    }

    /// The same socket for another protocol, which reads `read` again first. Its writes may wait.
    pub(super) fn begin_again(self, read: Bytes) -> Self {
        let may_wait = AtomicBool::new(true);
        Self {
            before: read,
            signals: Arc::new(Signals {
                may_wait,
                ..Signals::default()
            }),
            reads_ahead: false,
            stalled: None,
            is_opening: false,
            ..self
        }
    }

    /// Passes on what a write or a flush gave; where it must wait, only until the time is over.
    ///
    /// Over TLS a piece may be written whole and wait to be flushed: in the clear a flush never waits.
    fn pace<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() || self.signals.may_wait.load(Relaxed) {
            self.stalled = None;
            return written;
        }
        let timeout = self.timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads what the client says first. A part of [`PREFACE`] is held back until the rest is there, or something else.
    fn poll_opening(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.is_opening {
            let is_end = ready!(self.poll_ahead(context, AHEAD_MAX_BYTES))? == 0;
            let is_part = PREFACE.starts_with(&self.before) && self.before.len() < PREFACE.len();
            self.is_opening = is_part && !is_end;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads up to `max_bytes` that are still to be given, and tells how many there were: none at the end of what the client sends.
    fn poll_ahead(
        &mut self,
        context: &mut Context<'_>,
        max_bytes: usize,
    ) -> Poll<io::Result<usize>> {
        let mut bytes = [0; AHEAD_MAX_BYTES];
        let mut read = ReadBuf::new(&mut bytes[..max_bytes]);
        ready!(Pin::new(&mut self.socket).poll_read(context, read.unfilled()))?;
        self.before = [&self.before, read.filled()].concat().into();
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Sees whether the client has closed its side, while it is sent what may stand still. A reset is an error.
    fn look_ahead(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while self.reads_ahead
            && self.signals.may_wait.load(Relaxed)
            && !self.signals.half_closed.is_cancelled()
            && self.before.len() < AHEAD_MAX_BYTES
        {
            let read = match self.poll_ahead(context, AHEAD_MAX_BYTES - self.before.len()) {
                Poll::Pending => break,
                // Over TLS, where the client did not say goodbye. It may still read, as in the clear.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                Poll::Ready(read) => read?,
            };
            if read == 0 {
                self.signals.half_closed.cancel();
            }
            context.waker().wake_by_ref(); // It may be what hyper waits for.
        }
        Ok(())
    }
}

/// Whether a client speaks HTTP/2 that has said this, up to the end of a head of HTTP/1 or further.
pub(super) fn begins_http2(head: &[u8]) -> bool {
    let line = &PREFACE[..18];
    head.starts_with(line)
}

/// Whether a client that says this first speaks HTTP/2.
pub(super) fn is_http2(read: &[u8]) -> bool {
    read.starts_with(PREFACE)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Read for PacedSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_opening(context))?;
        if self.before.has_remaining() {
            let bytes = buffer.remaining().min(self.before.len());
            buffer.put_slice(&self.before.split_to(bytes));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Write for PacedSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.signals.is_blocked.store(written.is_pending(), Relaxed);
        self.pace(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look_ahead(context)?;
        let flushed = Pin::new(&mut self.socket).poll_flush(context);
        self.pace(context, flushed)
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
        self.signals.is_blocked.store(written.is_pending(), Relaxed);
        self.pace(context, written)
    }
}
