//! One stream of a session.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

/// Bytes both ways, with a flow control of their own: a reader that is slow here holds up nobody else.
///
/// Dropping it before its end resets it, and the other side sees an error rather than an end.
#[derive(Debug)]
pub struct Stream {
    inner: Compat<yamux::Stream>,
    /// Whether the session has ended: what looks like an end of this stream is then none.
    dead: Arc<AtomicBool>,
    said_end: bool,
    _counted: Counted,
}

/// Counts a stream, and holds its place, for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted {
    open: Arc<AtomicUsize>,
    _permit: OwnedSemaphorePermit,
}

impl Counted {
    pub(super) fn new(open: &Arc<AtomicUsize>, permit: OwnedSemaphorePermit) -> Self {
        open.fetch_add(1, Ordering::AcqRel);
        Self {
            open: Arc::clone(open),
            _permit: permit,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Stream {
    pub(super) fn new(inner: yamux::Stream, dead: Arc<AtomicBool>, counted: Counted) -> Self {
        Self {
            inner: inner.compat(),
            dead,
            said_end: false,
            _counted: counted,
        }
    }

    /// yamux shows a reset, and the end of the whole session, as it shows a good end.
    fn was_cut(&self) -> bool {
        self.dead.load(Ordering::Acquire) || (!self.said_end && self.inner.get_ref().is_closed())
    }
}

fn reset() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionReset,
        "the tunnel's stream was cut",
    )
}

fn written<T>(result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::WriteZero => reset(),
        _ => error,
    })
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if matches!(read, Poll::Ready(Ok(())))
            && buf.filled().len() == before
            && buf.remaining() > 0
            && self.was_cut()
        {
            return Poll::Ready(Err(reset()));
        }
        read.map(written)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf).map(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map(written)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.inner).poll_shutdown(cx).map(written);
        if matches!(ended, Poll::Ready(Ok(()))) {
            self.said_end = true;
        }
        ended
    }
}
