//! The tunnels that an agent holds: each is dialled again when it ends, and before that when the agent has a newer certificate than the one that
//! opened it, because the host cuts a tunnel whose certificate ends.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use kah_net::tunnel::{Session, SessionLimits, Side, session};
use tokio::{
    sync::{Mutex as Turn, Notify, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Settings, TunnelError, dial, serve};
use crate::{retry::Pauses, tunnel::protocol::beat};

/// A tunnel that held for so long was a success, whatever ended it.
const STEADY: Duration = Duration::from_secs(10);
/// Streams of the host that one tunnel serves.
const STREAMS: usize = 1024;
/// Streams of a tunnel in which nothing goes on: that of the signs of life.
const QUIET: usize = 1;
/// Between two looks whether something still goes on in a tunnel that was replaced.
const LOOK: Duration = Duration::from_millis(200);

/// What all tunnels of an agent share.
#[derive(Debug, Default)]
pub(super) struct Live {
    sessions: Mutex<Vec<Session>>,
    up: Notify,
    /// The end of the newest certificate.
    newest: watch::Sender<Option<Timestamp>>,
    /// Held by the one tunnel that is being replaced.
    turn: Turn<()>,
}

impl Live {
    fn sessions(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tunnel that is up; waits until there is one.
    pub(super) async fn any(&self) -> Session {
        loop {
            let found = self.sessions().iter().find(|it| !it.is_closed()).cloned();
            match found {
                Some(session) => return session,
                None => self.up.notified().await,
            }
        }
    }

    /// The certificate by which tunnels are dialled from now on ends then.
    pub(super) fn newest(&self, ends: Option<Timestamp>) {
        self.newest.send_if_modified(|before| {
            let newer = ends > *before;
            if newer {
                *before = ends;
            }
            newer
        });
    }

    /// Waits until a certificate is there that ends later than this one.
    async fn newer_than(&self, ends: Option<Timestamp>) {
        let mut newest = self.newest.subscribe();
        // The sender lives as long as `self`.
        let _ = newest.wait_for(|newest| *newest > ends).await;
    }
}

/// A tunnel that is up and served.
struct Tunnel {
    live: Arc<Live>,
    session: Session,
    /// When the certificate ends that opened it.
    ends: Option<Timestamp>,
    /// From then on the host's new streams are sent to another tunnel.
    leaving: CancellationToken,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.session.close();
        self.live.sessions().retain(|it| !it.is(&self.session));
    }
}

impl Tunnel {
    async fn open(
        settings: &Arc<Settings>,
        live: &Arc<Live>,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Self, TunnelError> {
        let (transport, ends) = dial(settings).await?;
        let limits = SessionLimits {
            ours: 8,
            theirs: STREAMS,
            ..SessionLimits::default()
        };
        let (session, incoming) = session(transport, Side::Dialled, limits, stop, tasks);
        tracing::info!(hub = %settings.hub, "a tunnel is up");
        live.sessions().push(session.clone());
        live.up.notify_one();
        let leaving = CancellationToken::new();
        let (beating, settings, gone) = (session.clone(), Arc::clone(settings), leaving.clone());
        let (stop, owner) = (stop.clone(), tasks.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            tokio::join!(
                beat(&beating),
                serve::serve(&settings, incoming, &gone, &stop, &owner)
            );
        }));
        Ok(Self {
            live: Arc::clone(live),
            session,
            ends,
            leaving,
        })
    }

    /// Ends it when nothing goes on in it any more, or after `within`.
    async fn drain(self, within: Duration) {
        self.leaving.cancel();
        let quiet = async {
            while !self.session.is_closed() && self.session.load() > QUIET {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(within, quiet).await;
    }
}

/// One tunnel, again and again.
pub(super) async fn hold(
    settings: &Arc<Settings>,
    live: &Arc<Live>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    let mut transient = Pauses::of(settings.retry);
    let mut refused = Pauses::of(settings.refused);
    loop {
        let since = Instant::now();
        let pause = match Tunnel::open(settings, live, stop, tasks).await {
            Ok(tunnel) => {
                until_it_ends(tunnel, settings, stop, tasks).await;
                tracing::info!(hub = %settings.hub, "a tunnel has ended");
                refused.succeeded();
                if since.elapsed() >= STEADY {
                    transient.succeeded();
                }
                transient.failed()
            }
            Err(error) => {
                let pause = if error.is_refusal() {
                    refused.failed()
                } else {
                    transient.failed()
                };
                let words = crate::with_causes(&error);
                tracing::warn!(error = %words, again_in = ?pause, "no tunnel");
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Waits for the end of a tunnel, which is that of the last one that took its place.
async fn until_it_ends(
    mut tunnel: Tunnel,
    settings: &Arc<Settings>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    let live = Arc::clone(&tunnel.live);
    let mut pauses = Pauses::of(settings.retry);
    let mut pause = Duration::ZERO;
    loop {
        let (session, ends) = (tunnel.session.clone(), tunnel.ends);
        let due = async {
            tokio::time::sleep(pause).await;
            live.newer_than(ends).await;
            live.turn.lock().await
        };
        let _turn = tokio::select! {
            () = session.closed() => return,
            turn = due => turn,
        };
        // The old one serves until the new one does.
        match Tunnel::open(settings, &live, stop, tasks).await {
            Ok(next) => {
                let old = std::mem::replace(&mut tunnel, next);
                let drained = old.drain(settings.drain);
                tasks.spawn(stop.clone().run_until_cancelled_owned(drained));
                pauses.succeeded();
                pause = Duration::ZERO;
            }
            Err(error) => {
                pause = pauses.failed();
                let words = crate::with_causes(&error);
                tracing::warn!(error = %words, again_in = ?pause, "replace a tunnel");
            }
        }
    }
}
