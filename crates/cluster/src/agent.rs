//! A member's end of the tunnels: dials the host, holds a few tunnels, and leads the host's streams to two servers of the member and nowhere else.
//!
//! The host holds no credential of the member: at the kube-apiserver the agent's own account acts, whatever a request says.

mod credentials;
mod pod;
mod renewal;
mod serve;
mod tunnels;

use std::{fmt, sync::Arc, time::Duration};

use kah_iam::Clock;
use kah_net::{
    Address, Kind, ProxyError,
    tunnel::{ConnectSettings, Dialled, Proxies, connect},
};
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use credentials::{Credentials, CredentialsError, Enrolment, Folder, Store, Stored};

use crate::{
    OwnKubernetes,
    retry::Retry,
    tunnel::{
        PATH, Reason, Refusal,
        authority::{AuthorityError, Issued, SERVER_NAME, client_config},
        protocol::{ALPN, Answer, WORD, hear},
    },
};
use tunnels::Live;

/// What an agent is told.
#[derive(Clone)]
pub struct Settings {
    /// The host's address.
    pub hub: Address,
    /// On the way to it.
    pub proxies: Proxies,
    /// SHA-256 of the public key of the host's authority, in hex: no other host is spoken to.
    pub pin: String,
    /// Who this agent is.
    pub store: Arc<dyn Store>,
    /// The member's ks-apiserver.
    pub kubesphere: Address,
    /// The member's kube-apiserver, with this agent's account.
    pub kubernetes: OwnKubernetes,
    /// Tunnels that are held at the same time.
    pub tunnels: usize,
    /// For each step of dialling.
    pub step: Duration,
    /// How long what goes on in a tunnel may go on after another took its place.
    pub drain: Duration,
    /// Pauses after a failure.
    pub retry: Retry,
    /// Pauses after a refusal that somebody has to mend.
    pub refused: Retry,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("hub", &self.hub)
            .field("kubesphere", &self.kubesphere)
            .finish_non_exhaustive()
    }
}

/// Why a tunnel could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The agent's certificate cannot be read.
    #[error("read the agent's certificate")]
    Credentials(#[from] CredentialsError),
    /// The certificate, or the authority that was stored with it, cannot be used.
    #[error("use the agent's certificate")]
    Authority(#[from] AuthorityError),
    /// Whoever answers at the host's address is not certified by the authority that this agent was told.
    #[error(
        "what answers at {hub} is not the hub that this cluster joined: its certificate is not signed by the authority with the pin {pin}; \
         nothing was told to it. If the hub was set up anew, join again"
    )]
    AnotherHub {
        /// The address.
        hub: Address,
        /// The pin.
        pin: String,
        /// What TLS says.
        #[source]
        source: ProxyError,
    },
    /// The host does not take our certificate.
    #[error("the hub at {hub} does not accept this agent's certificate; join again")]
    NotAccepted {
        /// The address.
        hub: Address,
        /// What TLS says.
        #[source]
        source: ProxyError,
    },
    /// The host knows us and says no.
    #[error("the hub at {hub} refuses this agent")]
    Refused {
        /// The address.
        hub: Address,
        /// Its words.
        #[source]
        source: Refusal,
    },
    /// The way to the host.
    #[error("reach the hub")]
    Way(#[source] ProxyError),
    /// The host did not say whether it takes us.
    #[error("the hub at {0} accepted the connection and said nothing")]
    Silent(Address),
}

impl TunnelError {
    /// Whether somebody has to mend it first.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Way(_) | Self::Silent(_) => false,
            Self::Credentials(error) => !error.may_pass(),
            Self::Refused { source, .. } => source.reason != Reason::Busy,
            _ => true,
        }
    }
}

/// Holds tunnels until `stop`. Never gives up.
pub async fn run(settings: Settings, stop: CancellationToken, tasks: TaskTracker) {
    let settings = Arc::new(settings);
    let live = Arc::new(Live::default());
    for _ in 0..settings.tunnels.max(1) {
        let (settings, live) = (Arc::clone(&settings), Arc::clone(&live));
        let (stop, owner) = (stop.clone(), tasks.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            tunnels::hold(&settings, &live, &stop, &owner).await;
        }));
    }
    stop.run_until_cancelled(renewal::renew(&settings, &live))
        .await;
}

/// Opens one tunnel and ends it: whether the host can be reached, is the one that was pinned, and takes this agent.
///
/// # Errors
/// [`TunnelError`]
pub async fn check(settings: &Settings) -> Result<(), TunnelError> {
    dial(settings).await.map(drop)
}

/// Dials the host and hears whether it takes us; also when our certificate ends.
async fn dial(settings: &Settings) -> Result<(Dialled, Option<jiff::Timestamp>), TunnelError> {
    let Credentials {
        chain,
        key,
        authority,
    } = settings.store.load().await?;
    let ends = crate::tunnel::authority::expires(&chain);
    let own = Issued { chain, key };
    let mut tls = client_config(&authority, &settings.pin, &own, Arc::clone(&settings.clock))?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let connection = ConnectSettings {
        address: settings.hub.clone(),
        path: PATH,
        proxies: settings.proxies.clone(),
        tls: Arc::new(tls),
        server_name: ServerName::try_from(SERVER_NAME)
            .map_err(|error| AuthorityError::Tls(error.into()))?,
        step: settings.step,
    };
    let hub = || settings.hub.clone();
    let mut transport = connect(&connection)
        .await
        .map_err(|source| match source.kind() {
            Kind::TlsUntrusted | Kind::TlsName | Kind::TlsExpired => TunnelError::AnotherHub {
                hub: hub(),
                pin: settings.pin.clone(),
                source,
            },
            Kind::CertificateRefused => TunnelError::NotAccepted { hub: hub(), source },
            _ => TunnelError::Way(source),
        })?;
    // In TLS 1.3 a certificate is refused after the handshake, with the first bytes that are read.
    match timeout(WORD, hear::<Answer>(&mut transport)).await {
        Ok(Ok(Answer::Yes)) => Ok((transport, ends)),
        Ok(Ok(Answer::No(source))) => Err(TunnelError::Refused { hub: hub(), source }),
        Ok(Err(error)) => {
            let source = ProxyError::of_connection(&settings.hub, error);
            Err(match source.kind() {
                Kind::CertificateRefused => TunnelError::NotAccepted { hub: hub(), source },
                _ => TunnelError::Way(source),
            })
        }
        Ok(Ok(_)) | Err(_) => Err(TunnelError::Silent(hub())),
    }
}
