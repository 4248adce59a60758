//! A member that dials out joins: the host invites it by a token, and its agent exchanges the token for a certificate.
//!
//! The host's half is here and in [`token`]; what a member runs is in [`manifest`], and the agent's half in [`agent`]. A token opens one thing once:
//! a certificate for the one Cluster object that it was made for. The host keeps a hash of it.

pub mod agent;
pub mod manifest;
mod token;

use jiff::Timestamp;
use kah_api::{cluster::Trust, image::Image, seed};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
    core::DynamicObject,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use agent::Proxy;
pub use token::{LIFE, Token, without_tokens};

use crate::{
    Host,
    doctor::OLDEST,
    host::clusters,
    join::{self, JoinError},
    retry::TRIES,
    trust::WANTED,
    tunnel::authority::{AgentIdentity, AuthorityError, TunnelAuthority, request_key},
};
use token::{Invitations, Invited};

/// The annotation of a Cluster that says how often it has enrolled anew: agents from before that are not let in.
pub const GENERATION: &str = "hub.kubeaihub.io/agent-generation";

/// Why an invitation or an enrolment is refused. Unless it says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// The name, or the cluster behind it.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The address of this hub cannot be used by agents.
    #[error("hub: {0}")]
    Hub(String),
    /// A proxy that agents cannot use.
    #[error("{0}")]
    Proxy(String),
    /// No Cluster was ever invited by this token, or it has left, or was invited anew.
    #[error(
        "token: this hub does not know it: it was mistyped, the cluster has left, or a newer token was made"
    )]
    TokenUnknown,
    /// Somebody enrolled with it.
    #[error("token: it was used already, and each is good for one cluster and one time")]
    TokenUsed,
    /// Too late.
    #[error("token: it was good until {0}")]
    TokenExpired(Timestamp),
    /// The identity is none.
    #[error("facts.uid: it is no UID of a namespace")]
    Uid,
    /// The version is none.
    #[error("facts.kubernetesVersion: {0:?} is no version of Kubernetes, like v1.36.2")]
    Version(String),
    /// Too old.
    #[error(
        "facts.kubernetesVersion: Kubernetes {0}.{1} is older than {major}.{minor}, which is the oldest that is supported",
        major = OLDEST.0,
        minor = OLDEST.1
    )]
    TooOld(u32, u32),
    /// It is not configured as a member.
    #[error(
        "facts.clusterRole: it is {0:?}; set multicluster.clusterRole to member in ConfigMap kubesphere-config of the cluster that joins"
    )]
    Role(String),
    /// A Cluster that was a member before is another cluster now.
    #[error("facts.uid: this is not the cluster that joined as {0}")]
    Other(String),
    /// The certificate request, or the host's authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The host's kube-apiserver refused, or was not reached.
    #[error("{doing}")]
    Api {
        /// What was being tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// Others wrote the same object all the time.
    #[error("the Cluster is being changed by others all the time")]
    Unsteady,
}

/// Who shall be invited.
#[derive(Debug, Clone)]
pub struct Invite {
    /// Name of the Cluster.
    pub name: String,
    /// The address by which the agent reaches this hub: `https://HOST[:PORT]`.
    pub hub: String,
    /// Whether that may be plain HTTP although it is not on the same machine: the token travels in clear then.
    pub insecure_hub: bool,
    /// An HTTP proxy on the agent's way out.
    pub proxy: Option<Proxy>,
    /// The image that the agent runs; none: that of this release.
    pub image: Option<Image>,
    /// Invite a cluster anew that has enrolled before. It keeps its Cluster object; only the same cluster may use the token.
    pub again: bool,
}

/// What a member needs to join. Holds the token; `Debug` does not show it.
pub struct Invitation {
    /// Name of the Cluster.
    pub cluster: String,
    /// Opens [`enrol`] once.
    pub token: Token,
    /// Until when.
    pub expires: Timestamp,
    /// The address of this hub.
    pub hub: String,
    /// What `kubectl apply` is to be given. Holds the token.
    pub manifest: String,
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invitation")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// What an agent says of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Facts {
    /// The UID of its namespace kube-system.
    pub uid: String,
    /// `gitVersion` of its kube-apiserver.
    pub kubernetes_version: String,
    /// `multicluster.clusterRole` of its configuration.
    pub cluster_role: String,
}

/// An agent's request. Holds the token.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// The join token.
    pub token: Token,
    /// A certificate request, PEM, of which only the key is used.
    pub csr: String,
    /// What it says of its cluster.
    pub facts: Facts,
}

/// What an agent gets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrolled {
    /// Name of the Cluster.
    pub cluster: String,
    /// UID of the Cluster object.
    pub uid: String,
    /// The certificate chain, PEM, own certificate first.
    pub certificate: String,
    /// The authority of the tunnel, PEM.
    pub authority: String,
}

/// Makes a Cluster that waits for its agent, and a token for it. A token made before for the same Cluster is dead then.
///
/// # Errors
/// [`EnrolError`].
pub async fn invite(host: &Host, wanted: &Invite) -> Result<Invitation, EnrolError> {
    let name = &wanted.name;
    if !join::is_name(name) {
        return Err(JoinError::Name(name.clone()).into());
    }
    let hub = agent::check_hub(&wanted.hub, wanted.insecure_hub).map_err(EnrolError::Hub)?;
    if let Some(proxy) = &wanted.proxy {
        agent::check_proxy(proxy).map_err(EnrolError::Proxy)?;
    }
    let now = host.clock.now();
    let authority = TunnelAuthority::open(&host.client, now).await?;
    let api = clusters(host.client.clone());
    let found = api
        .get_opt(name)
        .await
        .map_err(failed("look for the name among the Clusters"))?;
    let object = match found {
        Some(object) if waits(&object) || (wanted.again && is_ours(&object)) => object,
        Some(_) => return Err(JoinError::Taken(name.clone()).into()),
        None => match api.create(&PostParams::default(), &waiting(name)).await {
            Ok(object) => object,
            Err(kube::Error::Api(status)) if status.code == 409 => {
                return Err(JoinError::Taken(name.clone()).into());
            }
            Err(error) => return Err(failed("create the Cluster")(error)),
        },
    };
    let (token, expires) = Invitations::of(host)
        .make(&object, &hub, wanted, now)
        .await?;
    let manifest = manifest::text(&manifest::Member {
        cluster: name,
        hub: &hub,
        hub_authority: hub_authority(host).await?.as_deref(),
        insecure_hub: wanted.insecure_hub,
        proxy: wanted.proxy.as_ref(),
        image: wanted.image.as_ref(),
        pin: authority.pin(),
        token: token.expose(),
    });
    Ok(Invitation {
        cluster: name.clone(),
        token,
        expires,
        hub,
        manifest,
    })
}

/// The manifest that this token's cluster applies. The token stays good.
///
/// # Errors
/// [`EnrolError`].
pub async fn manifest(host: &Host, token: &Token) -> Result<String, EnrolError> {
    let now = host.clock.now();
    let invited = Invitations::of(host).find(token).await?;
    invited.check(now)?;
    let authority = TunnelAuthority::open(&host.client, now).await?;
    Ok(manifest::text(&manifest::Member {
        cluster: &invited.cluster,
        hub: &invited.hub,
        hub_authority: hub_authority(host).await?.as_deref(),
        insecure_hub: invited.insecure_hub,
        proxy: invited.proxy.as_ref(),
        image: invited.image.as_ref(),
        pin: authority.pin(),
        token: token.expose(),
    }))
}

/// Exchanges a token for a certificate. The token is used up by the key that it was first used with; whoever holds that key may repeat the request
/// while the token is good, because the answer may have been lost.
///
/// # Errors
/// [`EnrolError`]. A refusal for what the agent says of its cluster leaves the token good: the fault can be mended and the request repeated.
pub async fn enrol(host: &Host, application: &Application) -> Result<Enrolled, EnrolError> {
    let now = host.clock.now();
    let facts = &application.facts;
    let invitations = Invitations::of(host);
    let invited = invitations.find(&application.token).await?;
    let key = request_key(&application.csr)?;
    if !invited.is_used_by(&key) {
        invited.check(now)?;
    } else if invited.expires <= now {
        return Err(EnrolError::TokenExpired(invited.expires));
    }
    judge(facts)?;
    let cluster = current(host, &invited).await?;
    if identity(&cluster).is_some_and(|known| known != facts.uid) {
        return Err(EnrolError::Other(invited.cluster.clone()));
    }
    let authority = TunnelAuthority::open(&host.client, now).await?;
    let agent = AgentIdentity {
        // Whoever repeats a request is what the first made it.
        generation: invited.generation.unwrap_or_else(|| next(&cluster)),
        ..AgentIdentity::first(&invited.cluster, &invited.uid)
    };
    let certificate = authority.issue_agent(&application.csr, &agent, now)?;
    // Nobody joins it by its kubeconfig meanwhile: a join that fails would take from the cluster what it is told after this.
    let admitted = async {
        join::refuse_known(host, &facts.uid, Some(&invited.cluster)).await?;
        // From here on the token is used up: exactly one key gets past.
        invitations
            .use_up(&invited, &key, agent.generation, now)
            .await?;
        claim(host, &invited, facts, agent.generation).await?;
        // Two Clusters of the same cluster, one of them made without a join: both have claimed it by now, and at least one of them sees the other.
        if let Err(error) =
            join::refuse_known_stored(host, &facts.uid, Some(&invited.cluster)).await
        {
            disclaim(host, &invited, facts).await?;
            return Err(error.into());
        }
        Ok::<_, EnrolError>(())
    };
    join::claim::alone(host, &facts.uid, Box::pin(admitted)).await?;
    Ok(Enrolled {
        cluster: invited.cluster,
        uid: invited.uid,
        certificate,
        authority: authority.ca_pem().to_owned(),
    })
}

/// Whether what an agent says of its cluster lets it join.
fn judge(facts: &Facts) -> Result<(), EnrolError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !(1..=64).contains(&facts.uid.len()) || !facts.uid.bytes().all(plain) {
        return Err(EnrolError::Uid);
    }
    let version: String = facts.kubernetes_version.chars().take(64).collect();
    let mut numbers = version
        .strip_prefix('v')
        .unwrap_or(&version)
        .split('.')
        .map(|number| number.parse::<u32>().ok());
    let (Some(Some(major)), Some(Some(minor)), true) = (
        numbers.next(),
        numbers.next(),
        version.len() == facts.kubernetes_version.len(),
    ) else {
        return Err(EnrolError::Version(version));
    };
    if (major, minor) < OLDEST {
        return Err(EnrolError::TooOld(major, minor));
    }
    if facts.cluster_role != "member" {
        let role: String = facts.cluster_role.chars().take(64).collect();
        return Err(EnrolError::Role(role));
    }
    Ok(())
}

/// The Cluster object that the token was made for, as it is now.
async fn current(host: &Host, invited: &Invited) -> Result<DynamicObject, EnrolError> {
    let found = stored(host, &invited.cluster, &invited.uid).await?;
    found.ok_or(EnrolError::TokenUnknown)
}

/// The Cluster of this name, if it is this object and not about to go.
async fn stored(host: &Host, name: &str, uid: &str) -> Result<Option<DynamicObject>, EnrolError> {
    let found = clusters(host.client.clone())
        .get_opt(name)
        .await
        .map_err(failed("read the Cluster"))?;
    Ok(found.filter(|object| {
        object.metadata.uid.as_deref() == Some(uid) && object.metadata.deletion_timestamp.is_none()
    }))
}

/// What an annotation says of agents; one that is no number lets in none that enrolled before.
pub(crate) fn generation(annotation: Option<&str>) -> u64 {
    annotation.map_or(0, |text| text.trim().parse().unwrap_or(u64::MAX))
}

/// The generation of the agent that enrols in this Cluster now.
fn next(cluster: &DynamicObject) -> u64 {
    let annotations = cluster.metadata.annotations.as_ref();
    let last = annotations.and_then(|annotations| annotations.get(GENERATION));
    let last = generation(last.map(String::as_str));
    last.saturating_add(u64::from(identity(cluster).is_some()))
}

/// Writes what the agent says of its cluster into the Cluster object, and which generation of its agents counts from now on.
async fn claim(
    host: &Host,
    invited: &Invited,
    facts: &Facts,
    generation: u64,
) -> Result<(), EnrolError> {
    write(host, invited, |object| {
        let status = &mut object.data["status"];
        status["uid"] = facts.uid.as_str().into();
        status["kubernetesVersion"] = facts.kubernetes_version.as_str().into();
        if generation > 0 {
            let annotations = object.metadata.annotations.get_or_insert_default();
            annotations.insert(GENERATION.to_owned(), generation.to_string());
        }
        true
    })
    .await
}

/// Takes back what [`claim`] wrote of the cluster.
async fn disclaim(host: &Host, invited: &Invited, facts: &Facts) -> Result<(), EnrolError> {
    write(host, invited, |object| {
        let status = &mut object.data["status"];
        let ours = status["uid"] == facts.uid.as_str();
        if let (true, Some(status)) = (ours, status.as_object_mut()) {
            status.remove("uid");
            status.remove("kubernetesVersion");
        }
        ours
    })
    .await
}

/// Changes the Cluster against the version that was read. The kind has no subresource for its status.
async fn write(
    host: &Host,
    invited: &Invited,
    change: impl Fn(&mut DynamicObject) -> bool,
) -> Result<(), EnrolError> {
    let api = clusters(host.client.clone());
    for _ in 0..TRIES {
        let mut object = current(host, invited).await?;
        if !object.data["status"].is_object() {
            object.data["status"] = json!({});
        }
        if !change(&mut object) {
            return Ok(());
        }
        match api
            .replace(&invited.cluster, &PostParams::default(), &object)
            .await
        {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(failed("write the Cluster")(error)),
        }
    }
    Err(EnrolError::Unsteady)
}

/// A Cluster whose agent has not come yet.
fn waiting(name: &str) -> DynamicObject {
    DynamicObject {
        types: Some(kube::api::TypeMeta {
            api_version: "cluster.kubesphere.io/v1alpha1".to_owned(),
            kind: "Cluster".to_owned(),
        }),
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            // An agent of ours belongs to a member of ours, as a rule; what it is shows when it can be asked.
            annotations: Some([(WANTED.to_owned(), Trust::Federated.as_str().to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: json!({"spec": {
            "joinFederation": true,
            "enable": true,
            "provider": "kubesphere",
            "connection": {"type": "proxy"},
        }}),
    }
}

/// Whether a Cluster is reached by an agent of ours: one of the original's tunnel has a kubeconfig.
fn is_ours(object: &DynamicObject) -> bool {
    let connection = &object.data["spec"]["connection"];
    let empty = |field: &str| connection[field].as_str().is_none_or(str::is_empty);
    connection["type"] == "proxy"
        && empty("kubeconfig")
        && object.metadata.deletion_timestamp.is_none()
}

fn waits(object: &DynamicObject) -> bool {
    is_ours(object) && identity(object).is_none()
}

fn identity(object: &DynamicObject) -> Option<&str> {
    object.data["status"]["uid"]
        .as_str()
        .filter(|uid| !uid.is_empty())
}

/// The authority behind the certificate that this host shows, where it is not one that everybody trusts.
async fn hub_authority(host: &Host) -> Result<Option<String>, EnrolError> {
    use k8s_openapi::api::core::v1::ConfigMap;
    let maps: Api<ConfigMap> = Api::namespaced(host.client.clone(), seed::NAMESPACE);
    let found = maps
        .get_opt(seed::CERTIFICATE)
        .await
        .map_err(failed("read ConfigMap ks-apiserver-certificate"))?;
    Ok(found
        .and_then(|map| map.data?.remove("ca.crt"))
        .filter(|pem| !pem.trim().is_empty()))
}

fn failed(doing: &'static str) -> impl FnOnce(kube::Error) -> EnrolError {
    move |source| EnrolError::Api {
        doing,
        source: Box::new(source),
    }
}
