//! Who may speak inside the tunnel: the host's own certificate authority for it, and what it signs.
//!
//! The authority signs for nobody but servers of the host, their peers and agents. An agent's private key never leaves the agent, and of what its
//! request asks for only the public key is used. Members keep the fingerprint of the authority's key ([`TunnelAuthority::pin`]) from the day they
//! join, so no other authority can take its place.

use std::{fmt, time::Duration};

use aws_lc_rs::{digest, rand};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kah_api::seed;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::parse_x509_certificate;

mod identity;
mod tls;

pub use identity::{AgentIdentity, Identity};
pub use tls::client_config;

/// The Secret that keeps the authority, in the host's namespace.
pub const SECRET: &str = "hub-tunnel";
/// The name that every server certificate carries and every client asks for.
pub const SERVER_NAME: &str = "tunnel.hub.kubeaihub.io";
/// How long a certificate of an agent, a server or a peer holds.
pub const LIFE: Duration = DAY.saturating_mul(90);
/// A certificate this near to its end is renewed.
pub const RENEW_BEFORE: Duration = DAY.saturating_mul(30);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AUTHORITY_LIFE: Duration = DAY.saturating_mul(3650);
/// Clocks of two machines may differ by this much.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// A certificate request with room to spare.
const LARGEST_REQUEST: usize = 16 * 1024;
const CERTIFICATE_KEY: &str = "ca.crt";
const PRIVATE_KEY: &str = "ca.key";
/// Tries to create the Secret or to read what another replica created.
const TRIES: usize = 5;

/// Why the authority cannot be had, or does not sign. Never holds a part of a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The host's kube-apiserver refused, or was not reached.
    #[error("{doing}")]
    Api {
        /// What was being tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// The Secret is there and does not hold an authority.
    #[error(
        "Secret {}/{SECRET}: {CERTIFICATE_KEY} and {PRIVATE_KEY} are not a certificate with its key",
        seed::NAMESPACE
    )]
    Damaged,
    /// Others created and deleted the Secret all the time.
    #[error("Secret {}/{SECRET} comes and goes", seed::NAMESPACE)]
    Unsteady,
    /// What is to be signed is no certificate request with an ECDSA P-256 key.
    #[error(
        "csr: it is no certificate request in PEM, signed by an ECDSA P-256 key, of at most {LARGEST_REQUEST} bytes"
    )]
    Request,
    /// A name that must not stand in a certificate.
    #[error("{0:?} cannot be named in a certificate")]
    Name(String),
    /// A certificate could not be made.
    #[error("make a certificate")]
    Make(#[from] rcgen::Error),
    /// TLS cannot be set up.
    #[error("prepare TLS of the tunnel")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The authority that was shown is not the one that was pinned.
    #[error("the hub's authority has the fingerprint {found}, and {pinned} was expected")]
    Pin {
        /// Of the authority shown.
        found: String,
        /// Of the authority wanted.
        pinned: String,
    },
    /// Randomness failed.
    #[error("draw random bytes")]
    Random,
}

/// A certificate with its private key, both PEM. `Debug` shows neither.
#[derive(Clone)]
pub struct Issued {
    /// The chain, own certificate first.
    pub chain: String,
    /// The private key (PKCS#8). Secret.
    pub key: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").finish_non_exhaustive()
    }
}

/// The host's authority for its tunnels. `Debug` shows nothing of it.
pub struct TunnelAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    pin: String,
}

impl fmt::Debug for TunnelAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelAuthority")
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

impl TunnelAuthority {
    /// The authority that the host keeps, made at first use. Of two replicas that make one at the same time, one wins, and both use that.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub async fn open(client: &Client, now: Timestamp) -> Result<Self, AuthorityError> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), seed::NAMESPACE);
        for _ in 0..TRIES {
            let found = secrets
                .get_opt(SECRET)
                .await
                .map_err(api("read the Secret of the tunnel's authority"))?;
            if let Some(found) = found {
                return Self::of_secret(&found);
            }
            let (certificate, key) = generate(now)?;
            let data = [
                (
                    CERTIFICATE_KEY.to_owned(),
                    ByteString(certificate.into_bytes()),
                ),
                (PRIVATE_KEY.to_owned(), ByteString(key.into_bytes())),
            ];
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(SECRET.to_owned()),
                    namespace: Some(seed::NAMESPACE.to_owned()),
                    ..ObjectMeta::default()
                },
                data: Some(data.into()),
                ..Secret::default()
            };
            match secrets.create(&PostParams::default(), &secret).await {
                Ok(created) => return Self::of_secret(&created),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => {
                    return Err(api("create the Secret of the tunnel's authority")(error));
                }
            }
        }
        Err(AuthorityError::Unsteady)
    }

    /// A new authority that nobody keeps.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn in_memory(now: Timestamp) -> Result<Self, AuthorityError> {
        let (certificate, key) = generate(now)?;
        Self::resume(&certificate, &key)
    }

    fn of_secret(secret: &Secret) -> Result<Self, AuthorityError> {
        let text = |key: &str| {
            let bytes = &secret.data.as_ref()?.get(key)?.0;
            std::str::from_utf8(bytes).ok()
        };
        match (text(CERTIFICATE_KEY), text(PRIVATE_KEY)) {
            (Some(certificate), Some(key)) => {
                Self::resume(certificate, key).map_err(|_| AuthorityError::Damaged)
            }
            _ => Err(AuthorityError::Damaged),
        }
    }

    fn resume(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key)?;
        let pin = pin(certificate).ok_or(AuthorityError::Damaged)?;
        if hex(digest::digest(&digest::SHA256, &key.subject_public_key_info()).as_ref()) != pin {
            return Err(AuthorityError::Damaged);
        }
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(certificate, key)?,
            pem: certificate.to_owned(),
            pin,
        })
    }

    /// The certificate of the authority, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the authority's SubjectPublicKeyInfo, in hex: what members pin.
    #[must_use]
    pub fn pin(&self) -> &str {
        &self.pin
    }

    /// A certificate for the host's end of the tunnel.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn server_certificate(&self, now: Timestamp) -> Result<Issued, AuthorityError> {
        let name = SanType::DnsName(SERVER_NAME.try_into()?);
        let purpose = ExtendedKeyUsagePurpose::ServerAuth;
        self.with_key(certificate(SERVER_NAME, name, purpose, now)?)
    }

    /// A certificate for a replica of the host that asks another one.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn issue_peer(&self, replica: &str, now: Timestamp) -> Result<Issued, AuthorityError> {
        let identity = Identity::Peer {
            replica: replica.to_owned(),
        };
        self.with_key(client(replica, &identity, now)?)
    }

    /// The chain, PEM, for an agent that holds the key behind this request. Whatever names the request asks for are ignored.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn issue_agent(
        &self,
        csr_pem: &str,
        agent: &AgentIdentity,
        now: Timestamp,
    ) -> Result<String, AuthorityError> {
        let request = read_request(csr_pem)?;
        let identity = Identity::Agent(agent.clone());
        let params = client(&agent.cluster, &identity, now)?;
        Ok(params.signed_by(&request.public_key, &self.issuer)?.pem())
    }

    fn with_key(&self, params: CertificateParams) -> Result<Issued, AuthorityError> {
        let key = new_key()?;
        Ok(Issued {
            chain: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// Whether `ca_pem` is the authority with this pin, and it alone.
///
/// # Errors
/// [`AuthorityError::Pin`].
pub fn check_pin(ca_pem: &str, pinned: &str) -> Result<(), AuthorityError> {
    let found = pin(ca_pem).unwrap_or_else(|| "none".to_owned());
    if found.eq_ignore_ascii_case(pinned) {
        return Ok(());
    }
    Err(AuthorityError::Pin {
        found,
        pinned: pinned.to_owned(),
    })
}

/// The pin of the one certificate in this PEM.
#[must_use]
pub fn pin(ca_pem: &str) -> Option<String> {
    let certificates = chain(ca_pem).ok()?;
    let [certificate] = certificates.as_slice() else {
        return None;
    };
    key_of(certificate)
}

/// SHA-256 of the SubjectPublicKeyInfo, in hex.
fn key_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    let print = digest::digest(&digest::SHA256, parsed.tbs_certificate.subject_pki.raw);
    Some(hex(print.as_ref()))
}

/// When the first certificate of a chain ends.
#[must_use]
pub fn expires(chain_pem: &str) -> Option<Timestamp> {
    let certificates = chain(chain_pem).ok()?;
    let (_, parsed) = parse_x509_certificate(certificates.first()?).ok()?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
}

/// A new private key, PEM. Secret.
///
/// # Errors
/// [`AuthorityError`].
pub fn private_key() -> Result<String, AuthorityError> {
    Ok(new_key()?.serialize_pem())
}

/// The request, PEM, by which the holder of this key asks for a certificate.
///
/// # Errors
/// [`AuthorityError`].
pub fn request_certificate(key_pem: &str) -> Result<String, AuthorityError> {
    let key = KeyPair::from_pem(key_pem)?;
    Ok(CertificateParams::default()
        .serialize_request(&key)?
        .pem()?)
}

/// The identity in the first certificate of a chain, if it is for this private key (PEM). Whether an authority signed it is not looked at.
#[must_use]
pub fn certifies(chain_pem: &str, key_pem: &str) -> Option<Identity> {
    let key = KeyPair::from_pem(key_pem).ok()?;
    let certificates = chain(chain_pem).ok()?;
    let certificate = certificates.first()?;
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    (parsed.tbs_certificate.subject_pki.raw == key.subject_public_key_info())
        .then(|| Identity::of(certificate))
        .flatten()
}

/// SHA-256 of the key behind a certificate request, in hex.
///
/// # Errors
/// [`AuthorityError::Request`].
pub(crate) fn request_key(csr_pem: &str) -> Result<String, AuthorityError> {
    let key = read_request(csr_pem)?.public_key.subject_public_key_info();
    Ok(hex(digest::digest(&digest::SHA256, &key).as_ref()))
}

/// Reads a request whose signature shows that its maker holds the key.
fn read_request(csr_pem: &str) -> Result<CertificateSigningRequestParams, AuthorityError> {
    if csr_pem.len() > LARGEST_REQUEST {
        return Err(AuthorityError::Request);
    }
    let request =
        CertificateSigningRequestParams::from_pem(csr_pem).map_err(|_| AuthorityError::Request)?;
    if *request.public_key.algorithm() != PKCS_ECDSA_P256_SHA256 {
        return Err(AuthorityError::Request);
    }
    Ok(request)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn generate(now: Timestamp) -> Result<(String, String), AuthorityError> {
    let key = new_key()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("Kube AI Hub tunnel");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    set_validity(&mut params, now, AUTHORITY_LIFE);
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn new_key() -> Result<KeyPair, AuthorityError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

fn client(
    name: &str,
    identity: &Identity,
    now: Timestamp,
) -> Result<CertificateParams, AuthorityError> {
    if !identity.is_plain() {
        return Err(AuthorityError::Name(identity.uri()));
    }
    let uri = SanType::URI(identity.uri().try_into()?);
    certificate(name, uri, ExtendedKeyUsagePurpose::ClientAuth, now)
}

fn certificate(
    name: &str,
    alternative: SanType,
    purpose: ExtendedKeyUsagePurpose,
    now: Timestamp,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    // A common name takes 64 characters; who somebody is stands in the alternative name.
    let short: String = name.chars().take(64).collect();
    params.distinguished_name = common_name(&short);
    params.subject_alt_names = vec![alternative];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial()?);
    set_validity(&mut params, now, LIFE);
    Ok(params)
}

/// Random: a renewed certificate of the same key is another one.
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| AuthorityError::Random)?;
    // Positive, and of full length.
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
    params.not_before = epoch + now.saturating_sub(BACKDATE);
    params.not_after = epoch + now + life;
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| AuthorityError::Tls(error.into()))
}

fn api(doing: &'static str) -> impl FnOnce(kube::Error) -> AuthorityError {
    move |source| AuthorityError::Api {
        doing,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests;
