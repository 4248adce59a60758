//! What a TLS server shows: looked at without trusting it, and remembered where it is connected to.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{ClientConnection, HandshakeKind, pki_types::ServerName};
use tokio::time::Instant;

use crate::{
    Address, Allow, Kind, Limits, ProxyError, TlsSettings, Upstream, Verify, connect::Connector,
};

/// The certificate that a peer showed at a handshake, which was verified as far as its upstream verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its own certificate, DER.
    pub certificate: Vec<u8>,
    /// When that was.
    pub at: Instant,
}

/// What a peer showed last. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Option<Shown>>>);

impl Memory {
    /// Notes what was shown at the handshake of this session. One that was taken up again only repeats what was shown when it began.
    pub(crate) fn note(&self, session: &ClientConnection) {
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let Some(leaf) = leaf.filter(|_| session.handshake_kind() != Some(HandshakeKind::Resumed))
        else {
            return;
        };
        let shown = Shown {
            certificate: leaf.to_vec(),
            at: Instant::now(),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
    }

    pub(crate) fn last(&self) -> Option<Shown> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Upstream {
    /// The certificate that the peer showed last; `None` before it was connected to, and where no TLS is spoken.
    #[must_use]
    pub fn shown(&self) -> Option<Shown> {
        self.0.raw.shown.last()
    }

    /// Connects once more for nothing but to see what the peer shows now: connections live long, and a session that is taken up again shows nothing.
    ///
    /// # Errors
    /// [`ProxyError`] where there is no connection; what was shown before is still remembered then.
    pub async fn look_anew(&self) -> Result<(), ProxyError> {
        let mut connector = self.0.raw.clone();
        let Some((config, _)) = &mut connector.tls else {
            return Ok(());
        };
        let mut anew = rustls::ClientConfig::clone(config);
        anew.resumption = rustls::client::Resumption::disabled();
        *config = Arc::new(anew);
        tokio::select! {
            wire = connector.connect() => wire.map(drop),
            () = self.0.stop.cancelled() => Err(ProxyError::new(Kind::Closed, &self.0.name, None)),
        }
    }
}

/// The certificates that the server at this address shows, its own first, DER. Nothing is sent to it and nothing is believed: they are for people
/// to compare.
///
/// # Errors
/// [`ProxyError`] where there is no connection, or no TLS.
pub async fn shown_certificates(
    address: &Address,
    server_name: Option<&str>,
    limits: Limits,
    allow: Option<Arc<dyn Allow>>,
) -> Result<Vec<Vec<u8>>, ProxyError> {
    let name: Arc<str> = address.to_string().into();
    let settings = |error| ProxyError::because(Kind::Settings, &name, error);
    let server = server_name.unwrap_or(&address.host).to_owned();
    let server = ServerName::try_from(server).map_err(|error| settings(error.into()))?;
    let anybody = TlsSettings {
        verify: Verify::Nothing,
        ..TlsSettings::default()
    };
    let configs = anybody.build().map_err(settings)?;
    let connector = Connector {
        address: Arc::new(address.clone()),
        name: name.clone(),
        dial: None,
        allow,
        tls: Some((configs.http1, server)),
        limits,
        gauges: Arc::default(),
        refused: Arc::default(),
        shown: Memory::default(),
    };
    let tcp = connector.tcp_within().await?;
    let (stream, _) = connector.handshake(tcp).await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(shown
        .iter()
        .map(|certificate| certificate.to_vec())
        .collect())
}
