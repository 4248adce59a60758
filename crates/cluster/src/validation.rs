//! What the original checks before a cluster is imported, and before its kubeconfig is replaced: its steps in its order, with its texts
//! (multicluster.md §4.2 to §4.4).
//!
//! Three things are otherwise: addresses that are no clusters are not asked ([`AddressGuard`]), no text holds what the cluster answered
//! (security-tests.md S5), and the secrets are compared only where they matter (`spec.trust`).

use std::{collections::BTreeMap, io, net::SocketAddr};

use base64::{DecodeError, Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, StatusCode, uri::PathAndQuery};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kah_api::{
    cluster::Trust,
    config::{ConfigError, Configuration},
    seed,
};
use kah_net::{Forward, Kind, Limits, ProxyError, Upstream, UpstreamSettings};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
    core::DynamicObject,
};

use crate::{
    Host, Kubeconfig, SettingsError,
    guard::{AddressGuard, GuardError},
    host::clusters,
    peek::read_at_most,
    target::SERVICE_PROXY,
};

/// For each question to the cluster.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(10);
/// The answer of `/kapis/version` is not larger.
const LARGEST_VERSION: usize = 64 * 1024;

/// Why a cluster or its kubeconfig is refused. The texts are the original's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ValidationError {
    /// Not direct.
    #[error("cluster connection type MUST be direct")]
    NotDirect,
    /// Nothing given.
    #[error("cluster kubeconfig MUST NOT be empty")]
    NoKubeconfig,
    /// Not base64.
    #[error("illegal base64 data at input byte {0}")]
    Base64(usize),
    /// It names no cluster.
    #[error(
        "invalid configuration: no configuration has been provided, try setting KUBERNETES_MASTER environment variable"
    )]
    NoConfiguration,
    /// It cannot be used.
    #[error("invalid configuration: {0}")]
    Settings(SettingsError),
    /// Its address is not asked.
    #[error("invalid configuration: {0}")]
    Guard(#[from] GuardError),
    /// No answer.
    #[error("Get {url:?}: {words}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why there is no answer.
        words: String,
    },
    /// An answer that is a refusal.
    #[error("{0}")]
    Refused(String),
    /// It is in the fleet.
    #[error("cluster {new} already exists ({existing}), MUST not import the same cluster twice")]
    Twice {
        /// The name to be.
        new: String,
        /// The name that it has.
        existing: String,
    },
    /// Its ks-apiserver does not answer as one.
    #[error("unable validate kubesphere endpoint, {0}")]
    Endpoint(String),
    /// Its configuration does not fit the host's.
    #[error("failed to validate member cluster configuration, err: {0}")]
    Configuration(String),
    /// No such Cluster.
    #[error("cluster.cluster.kubesphere.io {0:?} not found")]
    Unknown(String),
    /// The host's own.
    #[error("update kubeconfig of the host cluster is not allowed")]
    IsHost,
    /// Not one that the host holds a kubeconfig for.
    #[error(
        "update kubeconfig of member clusters which using proxy mode is not allowed, their certs are managed and will be renewed by tower"
    )]
    IsProxy,
    /// It leads to another cluster.
    #[error(
        "this kubeconfig corresponds to a different cluster than the previous one, you need to make sure that kubeconfig is not from another cluster"
    )]
    Different,
    /// The host's kube-apiserver refused, or was not reached.
    #[error("{0}")]
    Api(Box<kube::Error>),
}

/// Looks at a cluster that shall be imported under this name; `kubeconfig` is base64. Nothing is stored.
///
/// # Errors
/// [`ValidationError`].
pub async fn validate(
    host: &Host,
    guard: &AddressGuard,
    name: &str,
    kind: &str,
    trust: Trust,
    kubeconfig: &str,
) -> Result<(), ValidationError> {
    let kubeconfig = decode(kubeconfig)?;
    if kind != "direct" {
        return Err(ValidationError::NotDirect);
    }
    let asked = Asked::open(guard, &kubeconfig).await?;
    let checked = async {
        let uid = asked.identity().await?;
        let stored = clusters(host.client.clone())
            .list(&ListParams::default())
            .await
            .map_err(ours)?;
        let existing = stored
            .items
            .into_iter()
            .find(|object| identity(object) == uid);
        if let Some(existing) = existing.and_then(|object| object.metadata.name) {
            return Err(ValidationError::Twice {
                new: name.to_owned(),
                existing,
            });
        }
        asked.version().await?;
        asked.kubesphere().await?;
        asked.configuration(host, trust).await
    };
    let checked = checked.await;
    asked.upstream.close();
    checked
}

/// Replaces the kubeconfig (base64) of a direct member, if it leads to the same cluster and all is well there. Nothing is stored on a refusal
/// (differences.md R2).
///
/// # Errors
/// [`ValidationError`].
pub async fn replace_kubeconfig(
    host: &Host,
    guard: &AddressGuard,
    name: &str,
    kubeconfig: &str,
) -> Result<(), ValidationError> {
    let kubeconfig = decode(kubeconfig)?;
    let api = clusters(host.client.clone());
    let found = api.get_opt(name).await.map_err(ours)?;
    let mut object = found.ok_or_else(|| ValidationError::Unknown(name.to_owned()))?;
    let labels = object.metadata.labels.as_ref();
    if labels.is_some_and(|labels| labels.contains_key(kah_api::cluster::HOST_LABEL)) {
        return Err(ValidationError::IsHost);
    }
    if object.data["spec"]["connection"]["type"] == "proxy" {
        return Err(ValidationError::IsProxy);
    }
    let trust = serde_json::from_value(object.data["spec"]["trust"].clone()).unwrap_or_default();
    let asked = Asked::open(guard, &kubeconfig).await?;
    let checked = async {
        asked.version().await?;
        asked.kubesphere().await?;
        asked.configuration(host, trust).await?;
        let uid = asked.identity().await?;
        if identity(&object) != uid {
            return Err(ValidationError::Different);
        }
        Ok(())
    };
    let checked = checked.await;
    asked.upstream.close();
    checked?;
    object.data["spec"]["connection"]["kubeconfig"] = STANDARD.encode(&kubeconfig).into();
    api.replace(name, &PostParams::default(), &object)
        .await
        .map_err(ours)?;
    Ok(())
}

/// A cluster that is being looked at, through the kubeconfig alone.
struct Asked {
    upstream: Upstream,
    client: Client,
    /// `SCHEME://HOST[:PORT]`, as the kubeconfig says it.
    server: String,
    /// The host of that.
    host: String,
    /// What it means.
    dialled: SocketAddr,
}

impl Asked {
    async fn open(guard: &AddressGuard, yaml: &[u8]) -> Result<Self, ValidationError> {
        if yaml.is_empty() {
            return Err(ValidationError::NoKubeconfig);
        }
        let mut kubeconfig = Kubeconfig::read(yaml).map_err(|error| match error {
            SettingsError::Absent("current context") => ValidationError::NoConfiguration,
            error => ValidationError::Settings(error),
        })?;
        let server = kubeconfig.server.to_string();
        let meaning = match guard.check(&kubeconfig.server).await {
            Ok(meaning) => meaning,
            Err(GuardError::NotResolved(host)) => {
                return Err(ValidationError::Unreachable {
                    url: format!("{server}/api/v1/namespaces/kube-system?timeout=10s"),
                    words: format!("dial tcp: lookup {host}: no such host"),
                });
            }
            Err(error) => return Err(error.into()),
        };
        let host = kubeconfig.server.host.clone();
        // What was checked is what is asked: the name may mean something else in a moment.
        let dialled = *meaning
            .first()
            .ok_or_else(|| GuardError::NotResolved(host.clone()))?;
        kubeconfig.server.host = dialled.to_string();
        kubeconfig
            .tls
            .server_name
            .get_or_insert_with(|| host.clone());
        let dialled = SocketAddr::new(dialled, kubeconfig.server.port);
        let upstream = Upstream::new(UpstreamSettings {
            tls: kubeconfig.tls,
            credential: kubeconfig.credential,
            limits: Limits {
                answer: Some(ANSWER),
                ..Limits::default()
            },
            ..UpstreamSettings::new(kubeconfig.server)
        })
        .map_err(|error| ValidationError::Settings(SettingsError::Upstream(error.root_cause())))?;
        Ok(Self {
            client: crate::kubernetes::client(&upstream),
            upstream,
            server,
            host,
            dialled,
        })
    }

    /// The UID of namespace kube-system.
    async fn identity(&self) -> Result<String, ValidationError> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let asked = tokio::time::timeout(ANSWER, namespaces.get("kube-system")).await;
        let path = "/api/v1/namespaces/kube-system";
        let namespace = self.told(path, "namespaces \"kube-system\" not found", asked)?;
        Ok(namespace.metadata.uid.unwrap_or_default())
    }

    async fn version(&self) -> Result<(), ValidationError> {
        let asked = tokio::time::timeout(ANSWER, self.client.apiserver_version()).await;
        let not_found = "the server could not find the requested resource";
        self.told("/version", not_found, asked).map(|_| ())
    }

    /// Whether a ks-apiserver answers behind the kube-apiserver.
    async fn kubesphere(&self) -> Result<(), ValidationError> {
        let path = format!("{SERVICE_PROXY}/kapis/version");
        match tokio::time::timeout(ANSWER, self.body(&path)).await {
            Ok(Ok(Some(body))) if is_json(&body) => Ok(()),
            Ok(Err(error)) => {
                let url = format!("{}{path}", self.server);
                let words = self.words(&error);
                Err(ValidationError::Endpoint(format!("Get {url:?}: {words}")))
            }
            // The original puts the answer's body where the Service's name belongs.
            _ => Err(ValidationError::Endpoint(format!(
                "invalid response: ks-apiserver , please make sure {}.ks-apiserver.svc of member cluster is up and running",
                seed::NAMESPACE
            ))),
        }
    }

    /// The body of an answer that is 200.
    async fn body(&self, path: &str) -> Result<Option<Bytes>, ProxyError> {
        let Ok(target) = PathAndQuery::try_from(path) else {
            return Ok(None);
        };
        let request = Request::new(kah_net::empty());
        let answer = self.upstream.send(request, Forward::new(target)).await?;
        if answer.status() != StatusCode::OK {
            return Ok(None);
        }
        Ok(read_at_most(answer.into_body(), LARGEST_VERSION).await)
    }

    /// Whether the member's configuration fits the host's. Where trust is federated the secret of either is its own.
    async fn configuration(&self, host: &Host, trust: Trust) -> Result<(), ValidationError> {
        let own: Api<ConfigMap> = Api::namespaced(host.client.clone(), seed::NAMESPACE);
        let own = own.get(seed::CONFIG).await.map_err(|error| {
            let words = match error {
                kube::Error::Api(status) => status.message.clone(),
                error => error.to_string(),
            };
            ValidationError::Configuration(format!(
                "failed to get host cluster {}/configmap/{}, err: {words}",
                seed::NAMESPACE,
                seed::CONFIG
            ))
        })?;
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), seed::NAMESPACE);
        let asked = tokio::time::timeout(ANSWER, maps.get(seed::CONFIG)).await;
        let path = "/api/v1/namespaces/kubesphere-system/configmaps/kubesphere-config";
        let map = self
            .told(path, "configmaps \"kubesphere-config\" not found", asked)
            .map_err(|error| ValidationError::Configuration(error.to_string()))?;
        let (own, member) = (read(&own)?, read(&map)?);
        if member.multicluster.cluster_role != "member" {
            return Err(ValidationError::Configuration(
                "the clusterRole of the member cluster must be 'member'".to_owned(),
            ));
        }
        if trust == Trust::Federated {
            return Ok(());
        }
        let secret = |configuration: &Configuration| {
            configuration.authentication.jwt_secret.expose().to_vec()
        };
        let same =
            aws_lc_rs::constant_time::verify_slices_are_equal(&secret(&own), &secret(&member));
        same.map_err(|_| {
            ValidationError::Configuration(
                "hostcluster Jwt is not equal to member cluster jwt, please edit the member cluster cluster config"
                    .to_owned(),
            )
        })
    }

    /// What came of a question. Of a refusal nothing is told but its code, in the words that clients of Kubernetes know.
    fn told<T>(
        &self,
        path: &str,
        not_found: &str,
        asked: Result<Result<T, kube::Error>, tokio::time::error::Elapsed>,
    ) -> Result<T, ValidationError> {
        let unreachable = |words: String| {
            let url = format!("{}{path}?timeout=10s", self.server);
            Err(ValidationError::Unreachable { url, words })
        };
        match asked {
            Ok(Ok(told)) => Ok(told),
            Err(_) => unreachable(TIMEOUT.to_owned()),
            Ok(Err(kube::Error::Api(status))) => Err(ValidationError::Refused(match status.code {
                401 => "Unauthorized".to_owned(),
                403 => "the server does not allow access to the requested resource".to_owned(),
                404 => not_found.to_owned(),
                code => format!("the server answered with the code {code}"),
            })),
            Ok(Err(error)) => match proxy_error(&error) {
                Some(fault) => unreachable(self.words(fault)),
                None => Err(ValidationError::Refused(
                    "the server's answer is not one of a kube-apiserver".to_owned(),
                )),
            },
        }
    }

    /// A fault on the way, in words that hold nothing of what the other side sent.
    fn words(&self, error: &ProxyError) -> String {
        let Self { host, dialled, .. } = self;
        match error.kind() {
            Kind::NameNotResolved => format!("dial tcp: lookup {host}: no such host"),
            Kind::Unreachable if refused(error) => {
                format!("dial tcp {dialled}: connect: connection refused")
            }
            Kind::Unreachable => format!("dial tcp {dialled}: connect: no route to host"),
            Kind::ConnectTimeout => format!("dial tcp {dialled}: i/o timeout"),
            Kind::Timeout => TIMEOUT.to_owned(),
            Kind::TlsUntrusted => "x509: certificate signed by unknown authority".to_owned(),
            Kind::TlsExpired => "x509: certificate has expired or is not yet valid".to_owned(),
            Kind::TlsName => format!("x509: certificate is not valid for {host}"),
            Kind::Tls => "tls: handshake failure".to_owned(),
            Kind::CertificateRefused => "remote error: tls: bad certificate".to_owned(),
            _ => "EOF".to_owned(),
        }
    }
}

const TIMEOUT: &str = "net/http: request canceled (Client.Timeout exceeded while awaiting headers)";

fn refused(error: &ProxyError) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return io.kind() == io::ErrorKind::ConnectionRefused;
        }
        next = cause.source();
    }
    false
}

fn proxy_error(error: &kube::Error) -> Option<&ProxyError> {
    let first = error as &(dyn std::error::Error + 'static);
    std::iter::successors(Some(first), |error| (*error).source())
        .find_map(|error| error.downcast_ref())
}

fn is_json(body: &Bytes) -> bool {
    serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|value| value.is_object())
}

fn identity(object: &DynamicObject) -> &str {
    object.data["status"]["uid"].as_str().unwrap_or_default()
}

fn read(map: &ConfigMap) -> Result<Configuration, ValidationError> {
    let text = map
        .data
        .as_ref()
        .and_then(|data| data.get("kubesphere.yaml"));
    let text = text.ok_or_else(|| {
        ValidationError::Configuration("failed to get configmap kubesphere.yaml value".to_owned())
    })?;
    Configuration::read(text, &BTreeMap::new()).map_err(|error| {
        let words = match error {
            ConfigError::Syntax { line, .. } => format!("yaml: line {line}: it is not YAML"),
            ConfigError::Value { path, .. } => format!("yaml: {path} cannot be used"),
            ConfigError::Invalid(_) => "yaml: its values cannot be used together".to_owned(),
        };
        ValidationError::Configuration(format!(
            "failed to unmarshal value from configmap. err: {words}"
        ))
    })
}

/// Base64 as the original reads it: line breaks mean nothing.
fn decode(text: &str) -> Result<Vec<u8>, ValidationError> {
    let plain: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    STANDARD.decode(&plain).map_err(|error| {
        ValidationError::Base64(match error {
            DecodeError::InvalidByte(at, _) => at,
            // What is missing is missing behind the last whole group of four.
            _ => plain.len() / 4 * 4,
        })
    })
}

fn ours(error: kube::Error) -> ValidationError {
    ValidationError::Api(Box::new(error))
}
