//! How a peer is verified, and what we show it.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use crate::BoxError;

/// The authorities that may have signed a peer's certificate.
#[derive(Debug, Clone, Default)]
pub enum Roots {
    /// Those that the operating system trusts.
    #[default]
    Platform,
    /// Only these, PEM.
    Pem(Vec<u8>),
}

/// A certificate that we present, with its key. `Debug` shows neither.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The chain, own certificate first, PEM.
    pub chain: Vec<u8>,
    /// The private key, PEM.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientCertificate(…)")
    }
}

/// Whether a peer has to prove who it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verify {
    /// Chain, dates and name are checked.
    #[default]
    Full,
    /// Anybody may answer. Only for those who say so in their configuration.
    Nothing,
}

/// TLS toward one upstream.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// The trusted authorities.
    pub roots: Roots,
    /// What we present, if asked.
    pub client_certificate: Option<ClientCertificate>,
    /// The name that the certificate must carry, where it is not the host of the URL.
    pub server_name: Option<String>,
    /// How much is verified.
    pub verify: Verify,
}

impl TlsSettings {
    /// Builds the configurations for the pooled client (HTTP/2 and HTTP/1.1 offered) and for upgrades (HTTP/1.1 only).
    pub(crate) fn build(&self) -> Result<(Arc<ClientConfig>, Arc<ClientConfig>), BoxError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = match (self.verify, &self.roots) {
            (Verify::Nothing, _) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider))),
            (Verify::Full, Roots::Platform) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(
                    rustls_platform_verifier::Verifier::new(provider)?,
                )),
            (Verify::Full, Roots::Pem(pem)) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    roots.add(certificate?)?;
                }
                if roots.is_empty() {
                    return Err("the authority's PEM holds no certificate".into());
                }
                builder.with_root_certificates(roots)
            }
        };
        let mut any = match &self.client_certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let chain = CertificateDer::pem_slice_iter(&certificate.chain)
                    .collect::<Result<Vec<_>, _>>()?;
                let key = PrivateKeyDer::from_pem_slice(&certificate.key)?;
                builder.with_client_auth_cert(chain, key)?
            }
        };
        let mut http1 = any.clone();
        any.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((Arc::new(any), Arc::new(http1)))
    }
}

/// Accepts every certificate; signatures of the handshake are still checked, so the peer holds the key of what it shows.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
