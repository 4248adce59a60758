//! What a TLS server shows, looked at without trusting it.

use std::sync::Arc;

use rustls::pki_types::ServerName;

use crate::{Address, Allow, Kind, Limits, ProxyError, TlsSettings, Verify, connect::Connector};

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
    };
    let tcp = connector.tcp_within().await?;
    let (stream, _) = connector.handshake(tcp).await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(shown
        .iter()
        .map(|certificate| certificate.to_vec())
        .collect())
}
