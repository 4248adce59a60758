//! Short messages with their length in front.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A frame is not larger than this.
pub const LARGEST_FRAME: usize = 64 * 1024;

/// Writes one frame: its length in four bytes, then itself.
///
/// # Errors
/// Where the stream does not take it, or where it is larger than [`LARGEST_FRAME`].
pub async fn write_frame<W: AsyncWrite + Unpin>(mut to: W, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len())
        .ok()
        .filter(|_| bytes.len() <= LARGEST_FRAME)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the frame is too large"))?;
    let mut whole = Vec::with_capacity(bytes.len() + 4);
    whole.extend_from_slice(&length.to_be_bytes());
    whole.extend_from_slice(bytes);
    to.write_all(&whole).await?;
    to.flush().await
}

/// Reads one frame of at most `largest` bytes. Whoever asks limits the time.
///
/// # Errors
/// Where the stream ends before, or where the frame is larger.
pub async fn read_frame<R: AsyncRead + Unpin>(mut from: R, largest: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > largest.min(LARGEST_FRAME) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the frame is too large",
        ));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame).await?;
    Ok(frame)
}
