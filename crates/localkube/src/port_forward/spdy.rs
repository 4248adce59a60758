//! Frames of SPDY/3.1, as far as streams need them. There is no flow control: Kubernetes' clients have none.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::headers;

/// The version in control frames.
const VERSION: u16 = 3;
/// The bit that tells control frames from data.
const CONTROL: u16 = 0x8000;
const FIN: u8 = 1;
/// Largest control frame that is read.
const LARGEST_CONTROL: usize = 16 << 10;
/// How much of a data frame is read at a time.
pub(super) const CHUNK: usize = 32 << 10;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Why a stream ends before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reset {
    ProtocolError = 1,
    RefusedStream = 3,
    Cancel = 5,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client is gone.
    #[error("speak SPDY with a client")]
    Connection(#[from] io::Error),
    /// The client's fault.
    #[error("read a SPDY frame of version {0}: only 3 is spoken")]
    Version(u16),
    /// The client's fault.
    #[error("read a SPDY frame longer than is taken")]
    TooLong,
    /// The client's fault.
    #[error("read a SPDY frame shorter than its kind")]
    TooShort,
    /// The client's fault.
    #[error("read the headers of a SPDY stream")]
    Headers,
}

/// What a client sends.
#[derive(Debug)]
pub(super) enum Frame {
    Open {
        id: u32,
        fin: bool,
        headers: Vec<(String, String)>,
    },
    Reset {
        id: u32,
    },
    Ping {
        id: u32,
    },
    /// `length` bytes follow, which [`Frames::data`] reads.
    Data {
        id: u32,
        fin: bool,
        length: usize,
    },
    /// Nothing that concerns us.
    Other,
}

/// Reads the frames of a client.
pub(super) struct Frames<R> {
    reader: R,
    headers: headers::Reader,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub fn new(reader: R) -> Frames<R> {
        Frames {
            reader,
            headers: headers::Reader::new(),
        }
    }

    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        let mut head = [0_u8; 8];
        match self.reader.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let mut head = head.as_slice();
        let (first, second) = (head.get_u16(), head.get_u16());
        let flags_and_length = head.get_u32();
        let fin = (flags_and_length >> 24) as u8 & FIN != 0;
        let length = (flags_and_length & 0x00ff_ffff) as usize;
        if first & CONTROL == 0 {
            let id = u32::from(first) << 16 | u32::from(second);
            return Ok(Some(Frame::Data { id, fin, length }));
        }
        let version = first & !CONTROL;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        if length > LARGEST_CONTROL {
            return Err(Error::TooLong);
        }
        let mut content = vec![0; length];
        self.reader.read_exact(&mut content).await?;
        self.control(second, fin, content.into()).map(Some)
    }

    fn control(&mut self, kind: u16, fin: bool, mut content: Bytes) -> Result<Frame, Error> {
        let id = |content: &mut Bytes| match content.try_get_u32() {
            Ok(id) => Ok(id & 0x7fff_ffff),
            Err(_) => Err(Error::TooShort),
        };
        Ok(match kind {
            SYN_STREAM => {
                let id = id(&mut content)?;
                // The stream it belongs to, its priority, its slot.
                if content.len() < 6 {
                    return Err(Error::TooShort);
                }
                content.advance(6);
                let headers = self.headers.read(&content)?;
                Frame::Open { id, fin, headers }
            }
            // Blocks that do not matter are read all the same: the next ones are compressed with them.
            SYN_REPLY | HEADERS => {
                id(&mut content)?;
                self.headers.read(&content)?;
                Frame::Other
            }
            RST_STREAM => Frame::Reset {
                id: id(&mut content)?,
            },
            PING => Frame::Ping {
                id: content.try_get_u32().map_err(|_| Error::TooShort)?,
            },
            _ => Frame::Other,
        })
    }

    /// At most [`CHUNK`] of the `left` bytes of a data frame.
    pub async fn data(&mut self, left: usize) -> Result<Bytes, Error> {
        let mut chunk = vec![0; left.min(CHUNK)];
        self.reader.read_exact(&mut chunk).await?;
        Ok(chunk.into())
    }
}

/// What is sent to a client.
#[derive(Debug)]
pub(super) enum Answer {
    /// A stream is accepted.
    Reply {
        id: u32,
    },
    Data {
        id: u32,
        bytes: Bytes,
        fin: bool,
    },
    Reset {
        id: u32,
        why: Reset,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
    },
}

fn control(kind: u16, content: &[u8]) -> BytesMut {
    let mut frame = BytesMut::with_capacity(8 + content.len());
    frame.put_u16(CONTROL | VERSION);
    frame.put_u16(kind);
    // No flags; answers are far shorter than a length can say.
    frame.put_u32(u32::try_from(content.len()).unwrap_or_default());
    frame.put_slice(content);
    frame
}

/// Writes answers until there are no more.
pub(super) async fn write<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut answers: mpsc::Receiver<Answer>,
) -> Result<(), Error> {
    let mut headers = headers::Writer::new()?;
    while let Some(answer) = answers.recv().await {
        let two = |first: u32, second: u32| [first.to_be_bytes(), second.to_be_bytes()].concat();
        let frame = match answer {
            Answer::Reply { id } => {
                let block = headers.write(&[])?;
                control(SYN_REPLY, &[&id.to_be_bytes(), block.as_ref()].concat())
            }
            Answer::Reset { id, why } => control(RST_STREAM, &two(id, why as u32)),
            Answer::Ping { id } => control(PING, &id.to_be_bytes()),
            Answer::GoAway { last } => control(GOAWAY, &two(last, Reset::ProtocolError as u32)),
            Answer::Data { id, bytes, fin } => {
                let mut frame = BytesMut::with_capacity(8 + bytes.len());
                frame.put_u32(id & 0x7fff_ffff);
                let length = u32::try_from(bytes.len()).unwrap_or_default();
                frame.put_u32(u32::from(if fin { FIN } else { 0 }) << 24 | length);
                frame.put_slice(&bytes);
                frame
            }
        };
        writer.write_all(&frame).await?;
        if answers.is_empty() {
            writer.flush().await?;
        }
    }
    writer.shutdown().await?;
    Ok(())
}
