//! A kubeconfig that somebody stored for us, read with distrust.
//!
//! Only data travels in it: address, authority, client certificate, token. Whatever would make this process run a program, read a file, use another
//! way or trust anybody is refused, never ignored (security-tests.md S11).

use base64::{Engine, engine::general_purpose::STANDARD};
use kah_net::{Address, ClientCertificate, Credential, Roots, TlsSettings, Verify};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{AccessCode, doctor::Expiry};

/// A kubeconfig larger than this is not read.
const LARGEST: usize = 256 * 1024;

/// Why a Cluster's connection cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Neither a kubeconfig nor an endpoint.
    #[error("the Cluster has no connection settings")]
    Missing,
    /// `spec` has not the shape of a Cluster's.
    #[error("read the Cluster: {0}")]
    Cluster(String),
    /// It is not YAML of the expected shape.
    #[error("read the kubeconfig: {0}")]
    Unreadable(String),
    /// Larger than we read.
    #[error("the kubeconfig is larger than {LARGEST} bytes")]
    TooLarge,
    /// The current context, or what it names, is absent.
    #[error("the kubeconfig has no {0}")]
    Absent(&'static str),
    /// Something that we never do on a stored kubeconfig's word.
    #[error("the kubeconfig uses {0}, which is refused")]
    Refused(&'static str),
    /// A value that cannot be used.
    #[error("the kubeconfig's {0} cannot be used")]
    Invalid(&'static str),
    /// An endpoint that is no URL.
    #[error("{field} cannot be used: {reason}")]
    Endpoint {
        /// The field of `spec.connection`.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// What the kubeconfig holds cannot be turned into a connection: no certificate in its PEM, a key that does not fit.
    #[error("the connection cannot be prepared: {0}")]
    Upstream(String),
}

impl SettingsError {
    /// The cause's stable name: with nothing to show there is no credential, and what is there cannot be read.
    #[must_use]
    pub fn code(&self) -> AccessCode {
        match self {
            Self::Missing | Self::Absent(_) => AccessCode::CredentialRejected,
            _ => AccessCode::ConfigUnreadable,
        }
    }
}

/// Who we are at a member once the host has minted a credential of its own there.
pub(crate) const ACCOUNT: &str = "kubeaihub-host";

/// What we take from a kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubeconfig {
    /// `cluster.server`.
    pub server: Address,
    /// Authority, client certificate, server name.
    pub tls: TlsSettings,
    /// The bearer token or password.
    pub credential: Option<Credential>,
    /// When what it shows ends.
    pub expiry: Option<Expiry>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default, rename = "current-context")]
    current: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: ClusterEntry,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: Option<UserEntry>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    user: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterEntry {
    server: Option<String>,
    certificate_authority_data: Option<String>,
    certificate_authority: Option<Value>,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: Option<Value>,
    proxy_url: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UserEntry {
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
    username: Option<String>,
    password: Option<String>,
    client_certificate: Option<Value>,
    client_key: Option<Value>,
    #[serde(rename = "tokenFile")]
    token_file: Option<Value>,
    exec: Option<Value>,
    auth_provider: Option<Value>,
    #[serde(rename = "as")]
    as_user: Option<Value>,
    as_uid: Option<Value>,
    as_groups: Option<Value>,
    as_user_extra: Option<Value>,
}

fn is_set(value: &Option<Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(_) => true,
    }
}

impl Kubeconfig {
    /// Reads what the current context names.
    ///
    /// # Errors
    /// [`SettingsError`], which never quotes a value of the file.
    pub fn read(yaml: &[u8]) -> Result<Self, SettingsError> {
        if yaml.len() > LARGEST {
            return Err(SettingsError::TooLarge);
        }
        let text = std::str::from_utf8(yaml)
            .map_err(|_| SettingsError::Unreadable("it is not UTF-8".into()))?;
        // The parser's own words may quote the line at fault, and with it a key.
        let file: File = serde_saphyr::from_str(text).map_err(|_| {
            SettingsError::Unreadable("it is not a kubeconfig in YAML or JSON".into())
        })?;
        // Not only the context in use: a file with such entries was not made for us.
        for entry in &file.clusters {
            refuse_cluster(&entry.cluster)?;
        }
        for entry in file.users.iter().filter_map(|named| named.user.as_ref()) {
            refuse_user(entry)?;
        }
        let context = file
            .contexts
            .iter()
            .find(|context| context.name == file.current)
            .ok_or(SettingsError::Absent("current context"))?;
        let cluster = file
            .clusters
            .iter()
            .find(|cluster| cluster.name == context.context.cluster)
            .ok_or(SettingsError::Absent("cluster of the current context"))?;
        let nobody = UserEntry::default();
        let user = file
            .users
            .iter()
            .find(|user| user.name == context.context.user)
            .and_then(|user| user.user.as_ref())
            .unwrap_or(&nobody);
        Self::build(&cluster.cluster, user)
    }

    /// The same kubeconfig with another authority, or another token in the place of what the user shows. It is written as JSON, which is YAML.
    ///
    /// # Errors
    /// [`SettingsError`] where it cannot be read.
    pub(crate) fn changed(
        yaml: &[u8],
        authority: Option<&str>,
        token: Option<&str>,
    ) -> Result<Vec<u8>, SettingsError> {
        Self::read(yaml)?;
        let unreadable = || SettingsError::Unreadable("it is not a kubeconfig".into());
        let text = std::str::from_utf8(yaml).map_err(|_| unreadable())?;
        let mut file: Value = serde_saphyr::from_str(text).map_err(|_| unreadable())?;
        let entry = |list: &str, name: &str| {
            let entries = file.get(list).and_then(Value::as_array)?;
            entries
                .iter()
                .position(|entry| entry.get("name").and_then(Value::as_str) == Some(name))
        };
        let current = file
            .get("current-context")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let context = entry("contexts", current).ok_or(SettingsError::Absent("context"))?;
        let named = |what: &str| {
            let name = file.pointer(&format!("/contexts/{context}/context/{what}"));
            name.and_then(Value::as_str).unwrap_or_default()
        };
        let cluster = entry("clusters", named("cluster"));
        let user = entry("users", named("user"));
        if let Some(pem) = authority {
            let at = cluster.ok_or(SettingsError::Absent("cluster of the current context"))?;
            file["clusters"][at]["cluster"]["certificate-authority-data"] =
                STANDARD.encode(pem).into();
        }
        if let Some(token) = token {
            let at = user.ok_or(SettingsError::Absent("user of the current context"))?;
            file["users"][at]["user"] = json!({"token": token});
        }
        serde_json::to_vec(&file).map_err(|_| unreadable())
    }

    /// What it shows, for people: nothing that is secret.
    pub(crate) fn words(&self) -> String {
        let what = match (&self.tls.client_certificate, &self.credential) {
            (Some(_), _) => "a client certificate",
            (None, Some(_)) => "a token or password",
            (None, None) => "nothing",
        };
        match self.expiry {
            Some(expiry) => format!("{what}, which ends {}", expiry.ends),
            None => what.to_owned(),
        }
    }

    fn build(cluster: &ClusterEntry, user: &UserEntry) -> Result<Self, SettingsError> {
        let server = cluster
            .server
            .as_deref()
            .ok_or(SettingsError::Absent("server"))?;
        let server = Address::parse(server).map_err(|_| SettingsError::Invalid("server"))?;
        let roots = match &cluster.certificate_authority_data {
            None => Roots::Platform,
            Some(data) => Roots::Pem(decode(data, "certificate-authority-data")?),
        };
        let client_certificate = match (&user.client_certificate_data, &user.client_key_data) {
            (Some(chain), Some(key)) => Some(ClientCertificate {
                chain: decode(chain, "client-certificate-data")?,
                key: decode(key, "client-key-data")?,
            }),
            (None, None) => None,
            _ => return Err(SettingsError::Absent("client certificate with its key")),
        };
        let credential = match (
            user.token.as_deref().filter(|token| !token.is_empty()),
            &user.username,
        ) {
            (Some(token), _) => {
                Some(Credential::bearer(token).ok_or(SettingsError::Invalid("token"))?)
            }
            (None, Some(name)) => {
                let pair = format!("{name}:{}", user.password.as_deref().unwrap_or_default());
                let value = http::HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair)))
                    .map_err(|_| SettingsError::Invalid("username"))?;
                Some(Credential::new(http::header::AUTHORIZATION, value))
            }
            (None, None) => None,
        };
        let ours = format!(
            "system:serviceaccount:{}:{ACCOUNT}",
            kah_api::seed::NAMESPACE
        );
        let of_certificate = client_certificate
            .as_ref()
            .and_then(|certificate| Expiry::of_certificate(&certificate.chain));
        let of_token = user
            .token
            .as_deref()
            .and_then(|token| Expiry::of_token(token, &ours));
        let expiry = of_certificate
            .into_iter()
            .chain(of_token)
            .min_by_key(|expiry| expiry.ends);
        Ok(Self {
            server,
            expiry,
            tls: TlsSettings {
                roots,
                client_certificate,
                server_name: cluster
                    .tls_server_name
                    .clone()
                    .filter(|name| !name.is_empty()),
                verify: Verify::Full,
            },
            credential,
        })
    }
}

fn refuse_cluster(cluster: &ClusterEntry) -> Result<(), SettingsError> {
    for (value, name) in [
        (
            &cluster.certificate_authority,
            "certificate-authority (a file)",
        ),
        (
            &cluster.insecure_skip_tls_verify,
            "insecure-skip-tls-verify",
        ),
        (&cluster.proxy_url, "proxy-url"),
    ] {
        if is_set(value) {
            return Err(SettingsError::Refused(name));
        }
    }
    Ok(())
}

fn refuse_user(user: &UserEntry) -> Result<(), SettingsError> {
    for (value, name) in [
        (&user.exec, "exec"),
        (&user.auth_provider, "auth-provider"),
        (&user.client_certificate, "client-certificate (a file)"),
        (&user.client_key, "client-key (a file)"),
        (&user.token_file, "tokenFile"),
        (&user.as_user, "impersonation"),
        (&user.as_uid, "impersonation"),
        (&user.as_groups, "impersonation"),
        (&user.as_user_extra, "impersonation"),
    ] {
        if is_set(value) {
            return Err(SettingsError::Refused(name));
        }
    }
    Ok(())
}

fn decode(data: &str, field: &'static str) -> Result<Vec<u8>, SettingsError> {
    let compact: String = data.split_whitespace().collect();
    STANDARD
        .decode(compact)
        .map_err(|_| SettingsError::Invalid(field))
}
