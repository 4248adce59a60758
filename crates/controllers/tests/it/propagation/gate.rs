//! The way to a member, which can be cut.

use std::net::SocketAddr;

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// Passes connections on while it is open; closing it cuts them all.
pub struct Gate {
    pub address: SocketAddr,
    open: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Gate {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, mut state) = watch::channel(true);
        let task = tokio::spawn(async move {
            let mut passing = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((mut near, _)) = accepted && *state.borrow() {
                        passing.spawn(async move {
                            if let Ok(mut far) = TcpStream::connect(target).await {
                                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                            }
                        });
                    },
                    changed = state.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        if !*state.borrow() {
                            passing.shutdown().await;
                        }
                    }
                }
            }
        });
        Self {
            address,
            open,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }
}
