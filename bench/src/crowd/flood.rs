//! Connections that are opened for nothing, and again when they are closed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

/// What such a connection says before it falls silent.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// It opens the tunnel's websocket and does not begin TLS inside.
    Websocket,
    /// Nothing.
    Silent,
}

impl Kind {
    fn head(self) -> Vec<u8> {
        match self {
            Self::Silent => Vec::new(),
            Self::Websocket => format!(
                "GET {} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
                kah_cluster::tunnel::PATH
            )
            .into_bytes(),
        }
    }
}

/// Many of them. They are closed when this is dropped.
pub struct Flood {
    stop: CancellationToken,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    opened: AtomicUsize,
    open: AtomicUsize,
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Between the end of one connection and the next.
const AGAIN: Duration = Duration::from_secs(1);

impl Flood {
    /// Begins with all of them at once.
    pub fn start(address: &str, kind: Kind, connections: usize) -> Self {
        let (stop, counts) = (CancellationToken::new(), Arc::new(Counts::default()));
        let head: Arc<[u8]> = kind.head().into();
        for _ in 0..connections {
            let (address, head, counts) = (address.to_owned(), head.clone(), counts.clone());
            let hold = async move {
                loop {
                    // Refused and cut ones are what is measured.
                    let _ = one(&address, &head, &counts).await;
                    tokio::time::sleep(AGAIN).await;
                }
            };
            let stop = stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled(hold).await });
        }
        Self { stop, counts }
    }

    /// Connections that were opened so far.
    pub fn opened(&self) -> usize {
        self.counts.opened.load(Ordering::Relaxed)
    }

    /// Those that are open now.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::Relaxed)
    }
}

struct Open<'a>(&'a AtomicUsize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn one(address: &str, head: &[u8], counts: &Counts) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    counts.opened.fetch_add(1, Ordering::Relaxed);
    counts.open.fetch_add(1, Ordering::Relaxed);
    let _open = Open(&counts.open);
    stream.write_all(head).await?;
    let mut said = [0; 512];
    while stream.read(&mut said).await? > 0 {}
    Ok(())
}
