//! How a peer is verified, and what we show it.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, InconsistentKeys, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
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
    /// Builds the configurations that the connections of one upstream are made with.
    pub(crate) fn build(&self) -> Result<Configs, BoxError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = match (self.verify, &self.roots) {
            (Verify::Nothing, _) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider.clone()))),
            (Verify::Full, Roots::Platform) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(
                    rustls_platform_verifier::Verifier::new(provider.clone())?,
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
        let base = match &self.client_certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let chain = CertificateDer::pem_slice_iter(&certificate.chain)
                    .collect::<Result<Vec<_>, _>>()?;
                let key = PrivateKeyDer::from_pem_slice(&certificate.key)?;
                let key = provider.key_provider.load_private_key(key)?;
                let certified = CertifiedKey::new(chain, key);
                // A certificate of version 1 cannot be parsed here, so its key cannot be compared; the peer, who has to accept it, may well know it.
                if let Err(error @ Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) =
                    certified.keys_match()
                {
                    return Err(error.into());
                }
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        let offering = |protocols: &[&[u8]]| {
            let mut config = base.clone();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(config)
        };
        Ok(Configs {
            either: offering(&[b"h2", b"http/1.1"]),
            http1: offering(&[b"http/1.1"]),
            http2: offering(&[b"h2"]),
        })
    }
}

/// One configuration for each set of protocols that is offered.
pub(crate) struct Configs {
    pub(crate) either: Arc<ClientConfig>,
    pub(crate) http1: Arc<ClientConfig>,
    pub(crate) http2: Arc<ClientConfig>,
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
