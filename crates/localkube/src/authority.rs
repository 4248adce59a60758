//! The certificate authority and the service-account key of one cluster.
//!
//! Each cluster has its own, so that a credential of one cluster means nothing to another. Time comes in
//! as an argument: nothing here asks the system for it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;

mod certificates;
mod files;

use crate::service_account::TokenKey;

/// Where the present time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The names that every server certificate carries besides those asked for.
const SERVER_NAMES: [&str; 7] = [
    "127.0.0.1",
    "::1",
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AUTHORITY_LIFE: Duration = DAY.saturating_mul(3650);
/// Life of the certificates that the authority signs.
pub const CERTIFICATE_LIFE: Duration = DAY.saturating_mul(365);
/// A certificate this near to its end is issued anew.
pub const RENEW_BEFORE: Duration = DAY.saturating_mul(30);
/// Clocks of two machines may differ by this much.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// Why a certificate or key could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The folder does not let itself be read or written.
    #[error("access {path}")]
    File {
        /// The file concerned.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A certificate or key could not be made, or a kept one is damaged.
    #[error("make or read a certificate")]
    Certificate(#[from] rcgen::Error),
    /// TLS refuses the certificate or key.
    #[error("configure TLS")]
    Tls(#[from] rustls::Error),
    /// The client certificate verifier cannot be built.
    #[error("verify client certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The service-account key is damaged.
    #[error("read the service-account signing key")]
    TokenKey(#[source] jsonwebtoken::errors::Error),
    /// A kept certificate is not PEM.
    #[error("read the certificate of the authority")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// More groups than a certificate made here can name.
    #[error("name {0} groups in a client certificate, which takes two")]
    Groups(usize),
    /// Only one half of a certificate and key pair is there: making a new one would silently turn away
    /// everyone who holds a credential of the old.
    #[error("{present} is there but {missing} is not")]
    Incomplete {
        /// The half that exists.
        present: PathBuf,
        /// The half that does not.
        missing: PathBuf,
    },
}

/// A certificate with its private key, both PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key (PKCS#8). Secret.
    pub key: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").finish_non_exhaustive()
    }
}

/// The certificate authority of one cluster, and the key that signs its service-account tokens.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    token_key: Arc<TokenKey>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority that lives only in memory. `name` becomes its common name.
    pub fn in_memory(name: &str, now: Timestamp) -> Result<Self, AuthorityError> {
        let key = new_key()?;
        let token_key = TokenKey::generate()?;
        Self::assemble(name, key, token_key, now)
    }

    /// The authority kept in `folder` (`ca.crt`, `ca.key`, `sa.key`), made on first use. Key files are
    /// readable by their owner only. The certificate is renewed, with the same key, before it ends.
    pub fn open(folder: &Path, name: &str, now: Timestamp) -> Result<Self, AuthorityError> {
        files::open(folder, name, now)
    }

    fn assemble(
        name: &str,
        key: KeyPair,
        token_key: TokenKey,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ];
        set_validity(&mut params, now, AUTHORITY_LIFE);
        let certificate = params.self_signed(&key)?;
        Self::resume(certificate.pem(), certificate.der().clone(), key, token_key)
    }

    fn resume(
        pem: String,
        certificate: CertificateDer<'static>,
        key: KeyPair,
        token_key: TokenKey,
    ) -> Result<Self, AuthorityError> {
        Ok(Authority {
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            certificate,
            pem,
            token_key: Arc::new(token_key),
        })
    }

    /// The certificate of the authority, PEM: what clients need to trust this cluster.
    pub fn ca_pem(&self) -> &str {
        &self.pem
    }

    /// The certificate of the authority, DER.
    pub fn ca_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The key of the cluster's service-account tokens.
    pub fn token_key(&self) -> &Arc<TokenKey> {
        &self.token_key
    }

    /// A certificate for a server on this machine, under `extra` names or addresses as well.
    pub fn server_certificate(
        &self,
        extra: &[String],
        now: Timestamp,
    ) -> Result<Issued, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name("kube-apiserver");
        let names = SERVER_NAMES.iter().copied();
        for name in names.chain(extra.iter().map(String::as_str)) {
            let name = match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.try_into()?),
            };
            if !params.subject_alt_names.contains(&name) {
                params.subject_alt_names.push(name);
            }
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, now)
    }

    /// A certificate that authenticates `user` (common name) as a member of `groups` (organisations),
    /// of which there may be two.
    pub fn client_certificate(
        &self,
        user: &str,
        groups: &[&str],
        now: Timestamp,
    ) -> Result<Issued, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(user);
        // A name holds one value of each type; the type written as its number (X.520 organizationName) is
        // a second type to the maker of the certificate and the same to its reader.
        let types = [
            DnType::OrganizationName,
            DnType::CustomDnType(vec![2, 5, 4, 10]),
        ];
        if groups.len() > types.len() {
            return Err(AuthorityError::Groups(groups.len()));
        }
        for (kind, group) in types.into_iter().zip(groups) {
            params.distinguished_name.push(kind, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, now)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        now: Timestamp,
    ) -> Result<Issued, AuthorityError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, CERTIFICATE_LIFE);
        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// A kubeconfig that holds everything it needs: one cluster called `name` at `server_url`, and a user
    /// of the group system:masters. Secret: it holds a private key.
    pub fn admin_kubeconfig(
        &self,
        name: &str,
        server_url: &str,
        now: Timestamp,
    ) -> Result<String, AuthorityError> {
        let client = self.client_certificate("kubernetes-admin", &["system:masters"], now)?;
        Ok(self.kubeconfig(name, server_url, &client))
    }

    /// A kubeconfig for any client certificate of this authority.
    pub fn kubeconfig(&self, name: &str, server_url: &str, client: &Issued) -> String {
        use base64::prelude::{BASE64_STANDARD, Engine};
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let (cluster, server) = (quoted(name), quoted(server_url));
        let user = quoted(&format!("{name}-admin"));
        let authority = BASE64_STANDARD.encode(self.ca_pem());
        let certificate = BASE64_STANDARD.encode(&client.certificate);
        let key = BASE64_STANDARD.encode(&client.key);
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: {cluster}\n  cluster:\n    server: {server}\n    certificate-authority-data: {authority}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\ncontexts:\n- name: {cluster}\n  context:\n    cluster: {cluster}\n    user: {user}\ncurrent-context: {cluster}\n"
        )
    }

    /// TLS for [`crate::serve::serve`]: a server certificate that renews itself, and client certificates
    /// that are optional but, if shown, must be of this authority and in date.
    pub fn server_config(
        self: &Arc<Self>,
        extra: &[String],
        clock: Clock,
    ) -> Result<Arc<ServerConfig>, AuthorityError> {
        certificates::server_config(self, extra, clock)
    }
}

fn new_key() -> Result<KeyPair, AuthorityError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
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

#[cfg(test)]
mod tests;
