//! Two connections as one, after an upgrade. Nothing that passes is looked at.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// Bytes held for each direction.
const BUFFER: usize = 16 * 1024;

/// Copies both ways until both directions have ended, one fails, or `stop` is cancelled.
///
/// The end of one direction is passed on as such. The other goes on for as long as it moves: after `half_closed` without a byte it ends too,
/// so that a peer which is gone for good cannot hold the other.
pub async fn splice<A, B>(client: A, upstream: B, half_closed: Duration, stop: &CancellationToken)
where
    A: AsyncRead + AsyncWrite + Send,
    B: AsyncRead + AsyncWrite + Send,
{
    let (client_read, client_write) = tokio::io::split(client);
    let (upstream_read, upstream_write) = tokio::io::split(upstream);
    let moved = AtomicU64::new(0);
    let out = copy(client_read, upstream_write, &moved);
    let back = copy(upstream_read, client_write, &moved);
    tokio::pin!(out, back);
    tokio::select! {
        () = stop.cancelled() => {}
        ended = &mut out => if ended.is_ok() { rest(back, half_closed, &moved, stop).await },
        ended = &mut back => if ended.is_ok() { rest(out, half_closed, &moved, stop).await },
    }
}

async fn rest(
    mut direction: std::pin::Pin<&mut impl Future<Output = io::Result<()>>>,
    limit: Duration,
    moved: &AtomicU64,
    stop: &CancellationToken,
) {
    loop {
        let before = moved.load(Ordering::Relaxed);
        tokio::select! {
            () = stop.cancelled() => return,
            _ = &mut direction => return,
            () = tokio::time::sleep(limit) => if moved.load(Ordering::Relaxed) == before { return },
        }
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
            return to.shutdown().await;
        };
        to.write_all(bytes).await?;
        to.flush().await?;
        moved.fetch_add(1, Ordering::Relaxed);
        if length == BUFFER {
            // There is more, and there may be for long. Those with little to say take their turn now, or they wait for this one at every step.
            tokio::task::yield_now().await;
        }
    }
}
