//! TLS by the certificates of the authority, on both ends.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use kah_iam::Clock;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::WebPkiServerVerifier,
    pki_types::{PrivateKeyDer, UnixTime, pem::PemObject},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
    time_provider::TimeProvider,
};

use super::{AuthorityError, Issued, LIFE, RENEW_BEFORE, TunnelAuthority, chain, check_pin};

impl TunnelAuthority {
    /// TLS for the host's end: clients must show a certificate of this authority, which [`Identity::of`] then reads. The server's own certificate
    /// is renewed when a client comes and its end is near.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn server_config(
        self: &Arc<Self>,
        clock: Arc<dyn Clock>,
    ) -> Result<ServerConfig, AuthorityError> {
        let own = Own::issue(self, clock.now())?;
        let own = Arc::new(Renewed {
            authority: Arc::clone(self),
            clock: Arc::clone(&clock),
            current: Mutex::new(own),
        });
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = self.verifier()?;
        Ok(
            ServerConfig::builder_with_details(provider, Arc::new(Time(clock)))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|error| AuthorityError::Tls(error.into()))?
                .with_client_cert_verifier(verifier)
                .with_cert_resolver(own),
        )
    }
}

impl TunnelAuthority {
    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, AuthorityError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&self.pem)?), provider)
            .build()
            .map_err(|error| AuthorityError::Tls(error.into()))
    }
}

/// The server's certificate as TLS uses it.
struct Own {
    key: Arc<CertifiedKey>,
    renew_at: Timestamp,
}

impl Own {
    fn issue(authority: &TunnelAuthority, now: Timestamp) -> Result<Self, AuthorityError> {
        let issued = authority.server_certificate(now)?;
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&private_key(&issued.key)?)
            .map_err(|error| AuthorityError::Tls(error.into()))?;
        let renew_after = LIFE.saturating_sub(RENEW_BEFORE);
        Ok(Self {
            key: Arc::new(CertifiedKey::new(chain(&issued.chain)?, key)),
            renew_at: now.saturating_add(renew_after).unwrap_or(now),
        })
    }
}

struct Renewed {
    authority: Arc<TunnelAuthority>,
    clock: Arc<dyn Clock>,
    current: Mutex<Own>,
}

impl fmt::Debug for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewed").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Renewed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let now = self.clock.now();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= current.renew_at {
            match Own::issue(&self.authority, now) {
                Ok(renewed) => *current = renewed,
                Err(error) => tracing::error!(%error, "renew the certificate of the tunnel"),
            }
        }
        Some(Arc::clone(&current.key))
    }
}

/// TLS for whoever dials the host: it must show a certificate of the authority with this pin, for [`SERVER_NAME`].
///
/// # Errors
/// [`AuthorityError`]; [`AuthorityError::Pin`] where `ca_pem` is another authority.
pub fn client_config(
    ca_pem: &str,
    pinned: &str,
    own: &Issued,
    clock: Arc<dyn Clock>,
) -> Result<ClientConfig, AuthorityError> {
    check_pin(ca_pem, pinned)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(
        Arc::new(roots(ca_pem)?),
        Arc::clone(&provider),
    )
    .build()
    .map_err(|error| AuthorityError::Tls(error.into()))?;
    ClientConfig::builder_with_details(provider, Arc::new(Time(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| AuthorityError::Tls(error.into()))?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(chain(&own.chain)?, private_key(&own.key)?)
        .map_err(|error| AuthorityError::Tls(error.into()))
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, AuthorityError> {
    // The cause could quote the text, which is the key.
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| AuthorityError::Tls("the private key is no PEM".into()))
}

fn roots(pem: &str) -> Result<RootCertStore, AuthorityError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(pem)? {
        roots
            .add(certificate)
            .map_err(|error| AuthorityError::Tls(error.into()))?;
    }
    Ok(roots)
}

/// The clock in the form that rustls asks.
struct Time(Arc<dyn Clock>);

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Time").finish_non_exhaustive()
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}
