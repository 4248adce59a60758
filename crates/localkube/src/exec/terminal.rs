//! Input of a session: bytes as they come, or lines typed at a terminal that we echo.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::shell::Stream;

/// What the client sends on standard input.
pub struct Input {
    receiver: mpsc::Receiver<Bytes>,
    pending: VecDeque<u8>,
    terminal: bool,
    /// Told by whoever takes the bytes in when Ctrl-C is among them.
    interrupt: Arc<Notify>,
}

/// A longer line is cut.
const LONGEST: usize = 4096;
const END: u8 = 4;
pub const INTERRUPT: u8 = 3;

impl Input {
    pub fn new(receiver: mpsc::Receiver<Bytes>, terminal: bool, interrupt: Arc<Notify>) -> Input {
        Input {
            receiver,
            pending: VecDeque::new(),
            terminal,
            interrupt,
        }
    }

    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Ends when Ctrl-C is typed.
    pub fn interrupted(&self) -> impl Future<Output = ()> + Send + use<> {
        let interrupt = self.interrupt.clone();
        async move { interrupt.notified().await }
    }

    async fn byte(&mut self) -> Option<u8> {
        loop {
            if let Some(byte) = self.pending.pop_front() {
                return Some(byte);
            }
            self.pending.extend(self.receiver.recv().await?);
        }
    }

    /// The next line without its end; `None` at the end of the input.
    pub async fn line(&mut self, echo: &mpsc::Sender<(Stream, Bytes)>) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            let Some(byte) = self.byte().await else {
                return (!line.is_empty()).then_some(line);
            };
            let shown: Bytes = match byte {
                b'\n' if !self.terminal => return Some(line),
                _ if !self.terminal => {
                    if line.len() < LONGEST {
                        line.push(byte);
                    }
                    continue;
                }
                b'\r' | b'\n' => {
                    let _ = echo.send((Stream::Stdout, Bytes::from_static(b"\n"))).await;
                    return Some(line);
                }
                INTERRUPT => {
                    line.clear();
                    let _ = echo
                        .send((Stream::Stdout, Bytes::from_static(b"^C\n")))
                        .await;
                    return Some(line);
                }
                END if line.is_empty() => return None,
                8 | 127 => {
                    // A letter may be several bytes long.
                    let mut erased = false;
                    while let Some(last) = line.pop() {
                        erased = true;
                        if last & 0xc0 != 0x80 {
                            break;
                        }
                    }
                    if !erased {
                        continue;
                    }
                    Bytes::from_static(b"\x08 \x08")
                }
                byte if byte >= b' ' && line.len() < LONGEST => {
                    line.push(byte);
                    vec![byte].into()
                }
                _ => continue,
            };
            let _ = echo.send((Stream::Stdout, shown)).await;
        }
    }

    /// The next bytes, at a terminal a line at a time; `None` at the end of the input.
    pub async fn bytes(&mut self, echo: &mpsc::Sender<(Stream, Bytes)>) -> Option<Bytes> {
        if self.terminal {
            let mut line = self.line(echo).await?;
            line.push(b'\n');
            return Some(line.into());
        }
        if !self.pending.is_empty() {
            let rest: Vec<u8> = self.pending.drain(..).collect();
            return Some(rest.into());
        }
        self.receiver.recv().await
    }
}
