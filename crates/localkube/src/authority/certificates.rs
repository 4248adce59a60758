//! The certificate in use by the TLS listener, and what it asks of clients.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};

use super::{Authority, AuthorityError, Clock, RENEW_BEFORE};

pub(super) fn server_config(
    authority: &Arc<Authority>,
    extra: &[String],
    clock: Clock,
) -> Result<Arc<ServerConfig>, AuthorityError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.ca_der().clone())?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
    let now = clock();
    let certificates = ServerCertificates {
        current: Mutex::new(issue(authority, extra, now)?),
        authority: Arc::clone(authority),
        extra: extra.to_vec(),
        clock: Arc::clone(&clock),
    };
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The server's certificate: issued anew when a client comes and its end is near.
struct ServerCertificates {
    authority: Arc<Authority>,
    extra: Vec<String>,
    clock: Clock,
    current: Mutex<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    renew_at: Timestamp,
}

impl fmt::Debug for ServerCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificates").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ServerCertificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let now = (self.clock)();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= current.renew_at {
            match issue(&self.authority, &self.extra, now) {
                Ok(renewed) => *current = renewed,
                Err(error) => tracing::error!(%error, "cannot renew the server certificate"),
            }
        }
        Some(Arc::clone(&current.key))
    }
}

fn issue(
    authority: &Authority,
    extra: &[String],
    now: Timestamp,
) -> Result<Current, AuthorityError> {
    let issued = authority.server_certificate(extra, now)?;
    let certificate = parse(&issued.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).map_err(AuthorityError::Pem)?;
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)?;
    let renew_after = super::CERTIFICATE_LIFE.saturating_sub(RENEW_BEFORE);
    Ok(Current {
        key: Arc::new(CertifiedKey::new(vec![certificate], signer)),
        renew_at: now.saturating_add(renew_after).unwrap_or(now),
    })
}

pub(super) fn parse(pem: &str) -> Result<CertificateDer<'static>, AuthorityError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(AuthorityError::Pem)
}

/// Whether the certificate should be replaced now; one that cannot be read should.
pub(super) fn ends_soon(certificate: &CertificateDer<'_>, now: Timestamp) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return true;
    };
    let margin = i64::try_from(RENEW_BEFORE.as_secs()).unwrap_or(i64::MAX);
    now.as_second().saturating_add(margin) >= parsed.validity().not_after.timestamp()
}

struct ClockTime(Clock);

impl fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClockTime").finish_non_exhaustive()
    }
}

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from((self.0)().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            seconds,
        )))
    }
}
