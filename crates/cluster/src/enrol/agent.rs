//! The agent's half of enrolment: from a token to credentials, which its own Secret keeps.
//!
//! The private key is made here and goes nowhere but into that Secret. The hub is believed when the authority that it shows is the one pinned.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header, uri::PathAndQuery};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Namespace, Secret},
    apimachinery::pkg::version::Info,
};
use kah_api::{config::Configuration, seed};
use kah_net::{
    Address, Forward, ProxyError, Roots, TlsSettings, Upstream, UpstreamSettings,
    tunnel::{ProxiedDial, Proxies},
};
use kube::{Api, Client, api::PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Enrolled, Facts, manifest::AGENT};
use crate::tunnel::authority::{
    AuthorityError, Identity, Issued, certifies, check_pin, private_key, request_certificate,
};
use crate::{peek::read_at_most, retry::TRIES};

const ENROL: &str = "/kapis/hub.kubeaihub.io/v1/enrol";
/// Bytes of the hub's answer.
const LARGEST_ANSWER: usize = 256 * 1024;
/// For the hub's answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Of a proxy's URL, and of the list of those that it is not for.
const LONGEST_PROXY: usize = 1024;

/// Why an agent has no credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// Nobody applied the manifest.
    #[error(
        "Secret {}/{AGENT} is absent or names no hub: apply the manifest of `kah cluster join NAME --agent`",
        seed::NAMESPACE
    )]
    NotInvited,
    /// The token was used up or has ended before there was a certificate.
    #[error(
        "Secret {}/{AGENT} holds neither a token nor a certificate",
        seed::NAMESPACE
    )]
    NotEnrolled,
    /// The hub's address is not used.
    #[error("hub: {0}")]
    Hub(String),
    /// The hub was not reached.
    #[error("ask the hub at {hub}")]
    Unreachable {
        /// Its address.
        hub: String,
        /// Why.
        #[source]
        source: Box<ProxyError>,
    },
    /// The hub said no.
    #[error("the hub refused: {message}")]
    Refused {
        /// The code of its answer.
        code: StatusCode,
        /// Its words.
        message: String,
    },
    /// The hub's answer is not one of a hub.
    #[error("understand the hub's answer: {0}")]
    Answer(&'static str),
    /// Keys and certificates, among them another authority than the one pinned.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The member's kube-apiserver refused, or was not reached.
    #[error("{doing}")]
    Api {
        /// What was being tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// The configuration cannot be read.
    #[error(
        "read kubesphere.yaml in ConfigMap {}/{}",
        seed::NAMESPACE,
        seed::CONFIG
    )]
    Configuration,
    /// Others wrote the Secret all the time.
    #[error(
        "Secret {}/{AGENT} is being changed by others all the time",
        seed::NAMESPACE
    )]
    Unsteady,
}

impl AgentError {
    /// Whether the same request may succeed later without anybody's doing.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Api { .. } | Self::Unsteady => true,
            Self::Refused { code, .. } => {
                code.is_server_error() || *code == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }
}

/// Where the hub is, and by what it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hub {
    /// `https://HOST[:PORT]`.
    pub address: String,
    /// The authority behind its certificate, PEM, where it is not one that the system trusts.
    pub authority: Option<String>,
    /// The fingerprint of its tunnel's authority.
    pub pin: String,
    /// Whether plain HTTP is accepted.
    pub insecure: bool,
}

/// An agent that may open its tunnel. `Debug` shows no key.
#[derive(Clone)]
pub struct Agent {
    /// The hub.
    pub hub: Hub,
    /// Name of the Cluster.
    pub cluster: String,
    /// The tunnel's authority, PEM; it is the one pinned.
    pub authority: String,
    /// The agent's certificate and key.
    pub credentials: Issued,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("hub", &self.hub.address)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// The address of a hub as agents use it: nothing but scheme, host and port.
///
/// # Errors
/// A text for people.
pub fn check_hub(address: &str, insecure: bool) -> Result<String, String> {
    let parsed =
        Address::parse(address).map_err(|error| format!("{address:?} is no address: {error}"))?;
    let whole = address.trim().trim_end_matches('/');
    let bare = whole
        .split_once("://")
        .is_some_and(|(_, rest)| !rest.contains(['/', '?', '#']));
    if !bare {
        return Err(format!(
            "{address:?} has more than a scheme, a host and a port"
        ));
    }
    let loopback = parsed.host == "localhost"
        || parsed
            .host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback());
    if !parsed.tls && !loopback && !insecure {
        return Err(format!(
            "{parsed} is not https: the token would travel in clear; give an https address, or accept that with --insecure-hub"
        ));
    }
    Ok(parsed.to_string())
}

/// An HTTP proxy between an agent and its hub.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// `http://[USER:PASSWORD@]HOST[:PORT]`. Secret.
    pub url: String,
    /// Where it is not used, as `NO_PROXY` says it.
    pub no: String,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proxy(…)")
    }
}

/// Whether agents can use this proxy.
///
/// # Errors
/// A text for people, which names the field, and does not tell the password.
pub fn check_proxy(proxy: &Proxy) -> Result<(), String> {
    let words = "proxy: give http://[USER:PASSWORD@]HOST[:PORT] and no more; other kinds of proxies cannot be used";
    let rest = proxy.url.strip_prefix("http://").ok_or(words)?;
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let bare = host.strip_suffix('/').unwrap_or(host);
    let plain = proxy.url.bytes().all(|byte| byte.is_ascii_graphic());
    if !plain
        || proxy.url.len() > LONGEST_PROXY
        || rest.matches('@').count() > 1
        || bare.contains(['/', '?', '#'])
        || proxy.url.parse::<http::Uri>().is_err()
        || Address::parse(&format!("http://{host}")).is_err()
    {
        return Err(words.to_owned());
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b".,-_:/*[] ".contains(&byte);
    if proxy.no.len() > LONGEST_PROXY || !proxy.no.bytes().all(known) {
        return Err("noProxy: give names and addresses with commas between them".to_owned());
    }
    Ok(())
}

/// What this cluster is.
///
/// # Errors
/// [`AgentError`].
pub async fn facts(client: &Client) -> Result<Facts, AgentError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), seed::NAMESPACE);
    let (namespace, version, map) = tokio::join!(
        namespaces.get("kube-system"),
        client.apiserver_version(),
        maps.get(seed::CONFIG)
    );
    let namespace = namespace.map_err(failed("read the identity of this cluster"))?;
    let version = version.map_err(failed("read the version of Kubernetes"))?;
    let map = map.map_err(failed("read ConfigMap kubesphere-config"))?;
    let text = map
        .data
        .as_ref()
        .and_then(|data| data.get("kubesphere.yaml"));
    let configuration = text
        .and_then(|text| Configuration::read(text, &std::collections::BTreeMap::new()).ok())
        .ok_or(AgentError::Configuration)?;
    Ok(Facts {
        uid: namespace.metadata.uid.unwrap_or_default(),
        kubernetes_version: version_of(version),
        cluster_role: configuration.multicluster.cluster_role,
    })
}

/// A kube-apiserver that was built outside of a release calls itself v0.0.0, and tells the version that it has in the numbers beside that.
fn version_of(info: Info) -> String {
    let digits = |text: &str| -> String { text.chars().take_while(char::is_ascii_digit).collect() };
    let (major, minor) = (digits(&info.major), digits(&info.minor));
    if info.git_version.starts_with("v0.0.0") && !major.is_empty() && !minor.is_empty() {
        return format!("v{major}.{minor}");
    }
    info.git_version
}

/// Exchanges a token for a certificate of this key (PEM). The same key may ask again where an answer was lost.
///
/// # Errors
/// [`AgentError`].
pub async fn request(
    hub: &Hub,
    proxies: &Proxies,
    token: &str,
    key: &str,
    facts: &Facts,
) -> Result<Agent, AgentError> {
    let body = json!({"token": token, "csr": request_certificate(key)?, "facts": facts});
    let enrolled: Enrolled = ask(hub, proxies, ENROL, &body).await?;
    accept(hub, enrolled, key)
}

/// Believes an answer only if it comes from the pinned authority and is for our key.
fn accept(hub: &Hub, enrolled: Enrolled, key: &str) -> Result<Agent, AgentError> {
    check_pin(&enrolled.authority, &hub.pin)?;
    match certifies(&enrolled.certificate, key) {
        Some(Identity::Agent(agent)) if agent.cluster == enrolled.cluster => {}
        _ => return Err(AgentError::Answer("the certificate is not for this agent")),
    }
    Ok(Agent {
        hub: hub.clone(),
        cluster: enrolled.cluster,
        authority: enrolled.authority,
        credentials: Issued {
            chain: enrolled.certificate,
            key: key.to_owned(),
        },
    })
}

async fn ask<T: DeserializeOwned>(
    hub: &Hub,
    proxies: &Proxies,
    path: &'static str,
    body: &Value,
) -> Result<T, AgentError> {
    let address = check_hub(&hub.address, hub.insecure).map_err(AgentError::Hub)?;
    let unreachable = |source: ProxyError| AgentError::Unreachable {
        hub: address.clone(),
        source: Box::new(source),
    };
    let parsed = Address::parse(&address).map_err(|error| AgentError::Hub(error.to_string()))?;
    let upstream = Upstream::new(UpstreamSettings {
        tls: TlsSettings {
            roots: match &hub.authority {
                Some(pem) => Roots::Pem(pem.clone().into_bytes()),
                None => Roots::Platform,
            },
            ..TlsSettings::default()
        },
        // By the way of the tunnel that is to follow.
        dial: Some(Arc::new(ProxiedDial {
            address: parsed.clone(),
            proxies: proxies.clone(),
        })),
        ..UpstreamSettings::new(parsed.clone())
    })
    .map_err(unreachable)?;
    let mut request = Request::new(kah_net::full(body.to_string()));
    *request.method_mut() = Method::POST;
    let json = HeaderValue::from_static("application/json");
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, json.clone());
    request.headers_mut().insert(header::ACCEPT, json);
    if let Ok(host) = HeaderValue::try_from(parsed.authority()) {
        request.headers_mut().insert(header::HOST, host);
    }
    let mut forward = Forward::new(PathAndQuery::from_static(path));
    forward.answer_within = Some(Some(ANSWER));
    let answered = async {
        let answer = upstream.send(request, forward).await.map_err(unreachable)?;
        let status = answer.status();
        let body = read_at_most(answer.into_body(), LARGEST_ANSWER)
            .await
            .ok_or(AgentError::Answer("it broke off, or is too large"))?;
        understand(status, &body)
    };
    let answered = tokio::time::timeout(ANSWER, answered).await;
    upstream.close();
    answered.unwrap_or(Err(AgentError::Answer("it took too long")))
}

fn understand<T: DeserializeOwned>(status: StatusCode, body: &Bytes) -> Result<T, AgentError> {
    if status.is_success() {
        // The decoder's words may quote what it met.
        return serde_json::from_slice(body)
            .map_err(|_| AgentError::Answer("it has not the shape of a hub's"));
    }
    let said: Option<Value> = serde_json::from_slice(body).ok();
    let message = said.as_ref().and_then(|said| said.get("message")?.as_str());
    Err(AgentError::Refused {
        code: status,
        message: message.map_or_else(
            || status.to_string(),
            |text| text.chars().take(500).collect(),
        ),
    })
}

/// The Secret of an agent.
#[derive(Clone)]
pub struct Kept {
    secrets: Api<Secret>,
    proxies: Proxies,
}

impl Kept {
    /// In the cluster of this client, from which the hub is reached through these proxies.
    #[must_use]
    pub fn of(client: &Client, proxies: Proxies) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), seed::NAMESPACE),
            proxies,
        }
    }

    /// Credentials for the tunnel: those that are kept, or, where the Secret holds a token, those that the token brings.
    ///
    /// # Errors
    /// [`AgentError`]; with [`AgentError::may_pass`] it makes sense to try again.
    pub async fn agent(&self, client: &Client) -> Result<Agent, AgentError> {
        let (hub, token, key) = match self.prepared().await? {
            Prepared::Enrolled(agent) => return Ok(*agent),
            Prepared::Invited { hub, token, key } => (hub, token, key),
        };
        let facts = facts(client).await?;
        match request(&hub, &self.proxies, &token, &key, &facts).await {
            Ok(agent) => {
                self.keep(&agent, Some(&token)).await?;
                Ok(agent)
            }
            Err(error @ AgentError::Refused { .. }) if !error.may_pass() => {
                // The manifest was applied again after its token was used: what is kept goes on to serve.
                let secret = self.secret().await?;
                match kept(&secret, &hub) {
                    Some(agent) => {
                        self.keep(&agent, Some(&token)).await?;
                        Ok(agent)
                    }
                    None => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps an agent's credentials, in place of the token that brought them.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn keep(&self, agent: &Agent, token: Option<&str>) -> Result<(), AgentError> {
        for _ in 0..TRIES {
            let mut secret = self.secret().await?;
            let held = text(&secret, "token");
            let data = secret.data.get_or_insert_default();
            let mut keep = |key: &str, value: &str| {
                data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
            };
            keep("cluster", &agent.cluster);
            keep("tls.crt", &agent.credentials.chain);
            keep("tls.key", &agent.credentials.key);
            keep("ca.crt", &agent.authority);
            // A newer token stays, to be used next.
            if held.as_deref() == token {
                data.remove("token");
                data.remove("enrol.key");
            }
            match self
                .secrets
                .replace(AGENT, &PostParams::default(), &secret)
                .await
            {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(failed("keep the agent's certificate")(error)),
            }
        }
        Err(AgentError::Unsteady)
    }

    async fn secret(&self) -> Result<Secret, AgentError> {
        self.secrets
            .get_opt(AGENT)
            .await
            .map_err(failed("read the agent's Secret"))?
            .ok_or(AgentError::NotInvited)
    }

    /// What the Secret says; a key for the token is made and kept first, so that a process that dies asks again with the same.
    async fn prepared(&self) -> Result<Prepared, AgentError> {
        for _ in 0..TRIES {
            let mut secret = self.secret().await?;
            let hub = hub(&secret).ok_or(AgentError::NotInvited)?;
            let Some(token) = text(&secret, "token") else {
                let agent = kept(&secret, &hub).ok_or(AgentError::NotEnrolled)?;
                check_pin(&agent.authority, &hub.pin)?;
                return Ok(Prepared::Enrolled(Box::new(agent)));
            };
            if let Some(key) = text(&secret, "enrol.key") {
                return Ok(Prepared::Invited { hub, token, key });
            }
            let key = private_key()?;
            let data = secret.data.get_or_insert_default();
            data.insert("enrol.key".to_owned(), ByteString(key.clone().into_bytes()));
            match self
                .secrets
                .replace(AGENT, &PostParams::default(), &secret)
                .await
            {
                Ok(_) => return Ok(Prepared::Invited { hub, token, key }),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(failed("keep the agent's key")(error)),
            }
        }
        Err(AgentError::Unsteady)
    }
}

enum Prepared {
    Enrolled(Box<Agent>),
    Invited {
        hub: Hub,
        token: String,
        key: String,
    },
}

fn hub(secret: &Secret) -> Option<Hub> {
    Some(Hub {
        address: text(secret, "hub")?,
        authority: text(secret, "hub-ca.crt"),
        pin: text(secret, "pin")?,
        insecure: text(secret, "insecure-hub").as_deref() == Some("true"),
    })
}

fn kept(secret: &Secret, hub: &Hub) -> Option<Agent> {
    Some(Agent {
        hub: hub.clone(),
        cluster: text(secret, "cluster")?,
        authority: text(secret, "ca.crt")?,
        credentials: Issued {
            chain: text(secret, "tls.crt")?,
            key: text(secret, "tls.key")?,
        },
    })
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = &secret.data.as_ref()?.get(key)?.0;
    String::from_utf8(bytes.clone())
        .ok()
        .filter(|text| !text.is_empty())
}

fn failed(doing: &'static str) -> impl FnOnce(kube::Error) -> AgentError {
    move |source| AgentError::Api {
        doing,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::{Info, Proxy, check_hub, check_proxy, version_of};

    #[test]
    fn proxies_that_an_agent_can_use() {
        for (url, no, field) in [
            ("http://proxy:3128", "", None),
            (
                "http://me:secret@proxy.example.org:3128/",
                "10.0.0.0/8,.svc,[::1]",
                None,
            ),
            ("http://[fd00::1]:3128", "*", None),
            ("https://proxy:3128", "", Some("proxy:")),
            ("socks5://proxy", "", Some("proxy:")),
            ("proxy:3128", "", Some("proxy:")),
            ("http://", "", Some("proxy:")),
            ("http://a:b@c@proxy", "", Some("proxy:")),
            ("http://proxy/path", "", Some("proxy:")),
            ("http://proxy?x", "", Some("proxy:")),
            ("http://pro xy", "", Some("proxy:")),
            ("http://proxy\nx: y", "", Some("proxy:")),
            ("http://proxy", "a\nb", Some("noProxy:")),
            ("http://proxy", "$(id)", Some("noProxy:")),
        ] {
            let proxy = Proxy {
                url: url.to_owned(),
                no: no.to_owned(),
            };
            let refused = check_proxy(&proxy).err();
            assert_eq!(
                refused
                    .as_deref()
                    .and_then(|words| words.split_inclusive(':').next()),
                field,
                "{url} {no}"
            );
            assert!(!format!("{refused:?} {proxy:?}").contains("secret"));
        }
    }

    #[test]
    fn a_version_that_is_no_release_is_told_by_its_numbers() {
        for (git, major, minor, expected) in [
            ("v1.36.2", "1", "36", "v1.36.2"),
            ("v1.19.0-eks", "1", "19+", "v1.19.0-eks"),
            ("v0.0.0-master+8e16b12", "1", "36+", "v1.36"),
            ("v0.0.0-master+8e16b12", "", "", "v0.0.0-master+8e16b12"),
        ] {
            let info = Info {
                git_version: git.to_owned(),
                major: major.to_owned(),
                minor: minor.to_owned(),
                ..Info::default()
            };
            assert_eq!(version_of(info), expected);
        }
    }

    #[test]
    fn a_token_travels_in_clear_only_where_that_was_accepted() {
        for (address, insecure, expected) in [
            (
                "https://hub.example.org/",
                false,
                Some("https://hub.example.org"),
            ),
            (
                "https://hub.example.org:8443",
                false,
                Some("https://hub.example.org:8443"),
            ),
            (
                "http://127.0.0.1:30880",
                false,
                Some("http://127.0.0.1:30880"),
            ),
            ("http://[::1]:30880", false, Some("http://[::1]:30880")),
            ("http://localhost", false, Some("http://localhost")),
            ("http://hub.example.org", false, None),
            (
                "http://hub.example.org",
                true,
                Some("http://hub.example.org"),
            ),
            ("http://localhost.example.org", false, None),
            ("http://127.0.0.1@hub.example.org", false, None),
            ("https://hub.example.org/path", false, None),
            ("https://hub.example.org?x", false, None),
            ("ftp://hub.example.org", true, None),
            ("hub.example.org", true, None),
            ("https://hub\nx: y", false, None),
            ("https://hub'; rm -rf", false, None),
        ] {
            assert_eq!(
                check_hub(address, insecure).ok().as_deref(),
                expected,
                "{address}"
            );
        }
    }
}
