//! One connection with its streams: one task drives it and owns it.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tokio_util::{
    compat::{Compat, TokioAsyncReadCompatExt},
    sync::CancellationToken,
    task::TaskTracker,
};

use super::stream::{Counted, Stream};

/// Streams that wait to be opened.
const QUEUE: usize = 64;
/// What a session may keep unread beyond each stream's own share, where a stream is fast and the way is long.
const GROWTH: usize = 64 * 1024 * 1024;

/// How much one session carries, and how long it may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    /// Streams that this side may have open; more wait.
    pub ours: usize,
    /// Streams that the other side may have open; more are reset.
    pub theirs: usize,
    /// A session from which nothing came for so long is dead. Whoever dials has to say something more often.
    pub silence: Duration,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            ours: 512,
            theirs: 16,
            silence: Duration::from_secs(8),
        }
    }
}

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that dialled.
    Dialled,
    /// The other one.
    Accepted,
}

/// There is no stream to be had: the session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tunnel has ended")]
pub struct NoStream;

type Asked = oneshot::Sender<(yamux::Stream, Counted)>;

/// Opens streams. Clones stand for the same session.
#[derive(Debug, Clone)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    asks: mpsc::Sender<(Asked, Counted)>,
    room: Arc<Semaphore>,
    open: Arc<AtomicUsize>,
    dead: Arc<AtomicBool>,
    stop: CancellationToken,
    ended: CancellationToken,
}

/// The streams that the other side opens.
#[derive(Debug)]
pub struct Incoming {
    streams: mpsc::Receiver<Stream>,
}

impl Incoming {
    /// The next one; `None` when the session has ended.
    pub async fn next(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }
}

impl Session {
    /// A new stream. Waits while as many are open as may be; whoever asks limits the time.
    ///
    /// The other side learns of it with the first byte that is written.
    ///
    /// # Errors
    /// [`NoStream`]
    pub async fn open(&self) -> Result<Stream, NoStream> {
        let inner = &self.0;
        let opened = async {
            let permit = Arc::clone(&inner.room)
                .acquire_owned()
                .await
                .map_err(|_| NoStream)?;
            let counted = Counted::new(&inner.open, permit);
            let (asked, answer) = oneshot::channel();
            inner
                .asks
                .send((asked, counted))
                .await
                .map_err(|_| NoStream)?;
            answer.await.map_err(|_| NoStream)
        };
        tokio::select! {
            biased;
            () = inner.ended.cancelled() => Err(NoStream),
            opened = opened => {
                let (stream, counted) = opened?;
                Ok(Stream::new(stream, Arc::clone(&inner.dead), counted))
            }
        }
    }

    /// Streams that are open now, of both sides.
    #[must_use]
    pub fn load(&self) -> usize {
        self.0.open.load(Ordering::Acquire)
    }

    /// Ends it at once; its streams break off.
    pub fn close(&self) {
        self.0.stop.cancel();
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.stop.is_cancelled() || self.0.ended.is_cancelled()
    }

    /// Waits for its end.
    pub async fn closed(&self) {
        self.0.ended.cancelled().await;
    }

    /// Whether both stand for the same session.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Begins a session over a connection. It ends with `stop`, with the connection, or after [`SessionLimits::silence`].
pub fn session<T>(
    transport: T,
    side: Side,
    limits: SessionLimits,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> (Session, Incoming)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (asks, asked) = mpsc::channel(QUEUE);
    // Room for all that the other side may have open: many who come at once must not be reset because they are not taken at once.
    let (taken, streams) = mpsc::channel(limits.theirs.max(1));
    let stop = stop.child_token();
    let heard = Heard::default();
    let inner = Arc::new(Inner {
        asks,
        room: Arc::new(Semaphore::new(limits.ours)),
        open: Arc::default(),
        dead: Arc::default(),
        stop: stop.clone(),
        ended: CancellationToken::new(),
    });
    let mut config = yamux::Config::default();
    // A stream that was dropped here counts until its end has reached the other side; yamux ends a whole session that has more than it may.
    let streams_at_most = 2 * (limits.ours + limits.theirs) + QUEUE;
    let shares = streams_at_most * yamux::DEFAULT_CREDIT as usize;
    config
        .set_max_connection_receive_window(None)
        .set_max_num_streams(streams_at_most)
        .set_max_connection_receive_window(Some(shares + GROWTH));
    let mode = match side {
        Side::Dialled => yamux::Mode::Client,
        Side::Accepted => yamux::Mode::Server,
    };
    let watched = Watched {
        inner: transport,
        heard: heard.clone(),
    };
    let driver = Driver {
        connection: yamux::Connection::new(watched.compat(), config, mode),
        asked,
        waiting: None,
        taken,
        theirs: Arc::new(Semaphore::new(limits.theirs)),
        open: Arc::clone(&inner.open),
        dead: Arc::clone(&inner.dead),
    };
    let ended = inner.ended.clone();
    tasks.spawn(async move {
        let _ended = ended.drop_guard();
        driver.run(stop, heard, limits.silence).await;
    });
    (Session(inner), Incoming { streams })
}

struct Driver<T> {
    connection: yamux::Connection<Compat<Watched<T>>>,
    asked: mpsc::Receiver<(Asked, Counted)>,
    /// Who waits until the other side has taken note of earlier streams.
    waiting: Option<(Asked, Counted)>,
    taken: mpsc::Sender<Stream>,
    theirs: Arc<Semaphore>,
    open: Arc<AtomicUsize>,
    dead: Arc<AtomicBool>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    async fn run(mut self, stop: CancellationToken, heard: Heard, silence: Duration) {
        let silent = async {
            loop {
                let until = heard.at() + silence;
                sleep_until(until).await;
                if heard.at() + silence <= Instant::now() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = silent => {}
            () = poll_fn(|cx| self.poll(cx)) => {}
        }
        // Before the streams are told: they read it to know what their end means.
        self.dead.store(true, Ordering::Release);
        // Not by `poll_close`, which would leave whoever reads a stream waiting.
        drop(self);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut moved = false;
            if self.waiting.is_none()
                && let Poll::Ready(Some(asked)) = self.asked.poll_recv(cx)
            {
                self.waiting = Some(asked);
            }
            if let Some((asked, counted)) = self.waiting.take() {
                moved = true;
                if !asked.is_closed() {
                    match self.connection.poll_new_outbound(cx) {
                        Poll::Ready(Ok(stream)) => {
                            // Whoever asked may have left; then the stream goes with the message.
                            let _ = asked.send((stream, counted));
                        }
                        Poll::Ready(Err(_)) => return self.failed(),
                        Poll::Pending => {
                            moved = false;
                            self.waiting = Some((asked, counted));
                        }
                    }
                }
            }
            match self.connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => {
                    moved = true;
                    self.take(stream);
                }
                Poll::Ready(Some(Err(_)) | None) => return self.failed(),
                Poll::Pending => {}
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    fn failed(&self) -> Poll<()> {
        self.dead.store(true, Ordering::Release);
        Poll::Ready(())
    }

    /// One that is too many is dropped, which resets it.
    fn take(&self, stream: yamux::Stream) {
        let Ok(permit) = Arc::clone(&self.theirs).try_acquire_owned() else {
            return;
        };
        let counted = Counted::new(&self.open, permit);
        let stream = Stream::new(stream, Arc::clone(&self.dead), counted);
        let _ = self.taken.try_send(stream);
    }
}

/// When something came from the other side last.
#[derive(Debug, Clone)]
struct Heard(Arc<Mutex<Instant>>);

impl Default for Heard {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Heard {
    fn at(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// A connection that notes when it was read from.
struct Watched<T> {
    inner: T,
    heard: Heard,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.now();
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
