//! A cluster becomes a member: everything is looked at first, and only then something is written. Leaving is the deletion of the Cluster object.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use kah_api::{cluster::Trust, seed};
use kube::{
    Client,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
    core::DynamicObject,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    CallerCredential, Host, Kubeconfig, Member, SettingsError,
    doctor::{self, Finding, Severity},
    fault_of,
    guard::{AddressGuard, GuardError},
    host::clusters,
    identity::{ANSWER, identity, identity_within},
    trust::{self, Over, Published, TrustError, WANTED},
    with_causes,
};

mod actions;
pub(crate) mod claim;
mod clean;
mod remedy;

pub use clean::{Cleaned, Cleaning, clean_member};

/// Members that are asked who they are at the same time.
const AT_ONCE: usize = 16;
/// A Cluster's name is a label and part of paths.
const LONGEST_NAME: usize = 63;

/// Why a cluster did not join, or leave. Unless it says otherwise, nothing was written then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The name cannot be one.
    #[error(
        "name: {0:?} is no name for a cluster: lower-case letters, digits and '-', at most 63, beginning and ending with a letter or digit"
    )]
    Name(String),
    /// The name is in use.
    #[error("name: there is a cluster {0} already")]
    Taken(String),
    /// The kubeconfig cannot be used.
    #[error("kubeconfig: {0}")]
    Kubeconfig(#[from] SettingsError),
    /// The kubeconfig leads to an address that is not asked.
    #[error("kubeconfig: {0}")]
    Address(#[from] GuardError),
    /// The cluster is in the fleet already.
    #[error("this is the cluster {0}, which is in the fleet already")]
    Same(String),
    /// Something is wrong with it.
    #[error("the cluster cannot join: {}: {}", .0.code, .0.evidence)]
    Unfit(Box<Finding>),
    /// No such Cluster.
    #[error("clusters.cluster.kubesphere.io {0:?} not found")]
    Unknown(String),
    /// The host does not leave its own fleet.
    #[error("cluster {0} is the host itself")]
    IsHost(String),
    /// A kube-apiserver refused, or was not reached.
    #[error("{doing}")]
    Api {
        /// What was being tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// The member and the host could not be made to trust each other.
    #[error(transparent)]
    Trust(Box<TrustError>),
    /// It did not say who it is in time.
    #[error("the cluster did not say its identity within {} s", ANSWER.as_secs())]
    Silent,
    /// Somebody else is at it, or was a moment ago. Nothing was begun.
    #[error("the cluster is being joined by somebody else at this moment: wait for that to end")]
    UnderWay {
        /// Until what was cut off holds nobody up any more.
        seconds: u64,
    },
    /// Others may join it by now. What was begun is still there.
    #[error(
        "the join was broken off: the host could not keep others from joining the cluster meanwhile"
    )]
    BrokenOff,
}

impl JoinError {
    /// All that is known, but for words of whatever answered: it may be something that the caller could not ask themselves (security-tests.md S5).
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Api { doing, source } => format!("{doing}: {}", status_of(source)),
            Self::Trust(error) => match &**error {
                TrustError::Api { doing, source } => format!("{doing}: {}", status_of(source)),
                TrustError::NotAccepted { code, .. } => {
                    let code = code.map_or_else(String::new, |code| format!(": {code}"));
                    format!(
                        "the cluster does not accept the host's tokens, so it does not join{code}"
                    )
                }
                // Only what has a Cluster could have it there.
                TrustError::NoIdentity(_) => "the cluster does not tell its identity".to_owned(),
                TrustError::Other { cluster, .. } => format!(
                    "cluster {cluster} is another one than it should be: its ks-apiserver and its kube-apiserver are not of the same cluster"
                ),
                error => with_causes(error),
            },
            error => error.to_string(),
        }
    }
}

/// How a kube-apiserver answered, without its words.
fn status_of(error: &kube::Error) -> String {
    match (error, fault_of(error)) {
        (kube::Error::Api(status), _) => format!("it answered {}", status.code),
        // The words of a fault on the way are ours.
        (error, Some(_)) => with_causes(error),
        _ => "it answered as no kube-apiserver does".to_owned(),
    }
}

/// What is asked for.
pub struct Request {
    /// The name to be.
    pub name: String,
    /// The kubeconfig, YAML.
    pub kubeconfig: Vec<u8>,
    /// Only look.
    pub dry_run: bool,
    /// Join although the member refuses the host's tokens in a way that `restore` repairs, or trusts another host.
    pub force: bool,
    /// The addresses that may be asked.
    pub guard: AddressGuard,
    /// The trust to join with; where nobody says, federated if the member offers it.
    pub trust: Option<Trust>,
    /// How long it has for accepting what it is told.
    pub patience: trust::Patience,
    /// Who asks. Only their name is used: what a cluster is shown is signed for that purpose.
    pub proof: CallerCredential,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The Cluster's name.
    pub cluster: String,
    /// Whether it was joined, or only looked at.
    pub joined: bool,
    /// By what it knows callers.
    pub trust: Trust,
    /// Where its kube-apiserver is.
    pub server: String,
    /// Its identity: the UID of its namespace kube-system.
    pub uid: String,
    /// What is written, or was, in words.
    pub actions: Vec<String>,
    /// What is to be done still, or will be soon.
    pub findings: Vec<Finding>,
}

/// Looks at a cluster, and creates its Cluster object if it may join.
///
/// # Errors
/// [`JoinError`]; nothing was written then.
pub async fn join(host: &Host, request: &Request) -> Result<Report, JoinError> {
    let name = &request.name;
    if !is_name(name) {
        return Err(JoinError::Name(name.clone()));
    }
    let kubeconfig = Kubeconfig::read(&request.kubeconfig)?;
    let clusters = clusters(host.client.clone());
    let taken = clusters
        .get_opt(name)
        .await
        .map_err(api("look for the name among the Clusters"))?;
    if taken.is_some() {
        return Err(JoinError::Taken(name.clone()));
    }
    request.guard.check(&kubeconfig.server).await?;
    let server = kubeconfig.server.to_string();
    let text = String::from_utf8_lossy(&request.kubeconfig);
    let object = seed::member_cluster(name, &text, &server, None);
    let candidate = candidate(host, &object).ok_or_else(|| JoinError::Name(name.clone()))?;
    let client = candidate
        .kubernetes()
        .map_err(|error| JoinError::Kubeconfig(error.clone()))?;

    // Whatever else is wrong with a cluster that is a member already, that is what people have to know.
    let identified = identity_within(client)
        .await
        .map_err(api("read the identity of the cluster"));
    let uid = match identified {
        Ok(Some(uid)) => uid,
        silent => {
            examined(host, request, &candidate).await?;
            silent?;
            return Err(JoinError::Silent);
        }
    };
    refuse_known(host, &uid, None).await?;
    let (trust, findings) = if request.dry_run {
        examined(host, request, &candidate).await?
    } else {
        let writing = written(host, request, &candidate, &uid, object);
        claim::alone(host, &uid, Box::pin(writing)).await?
    };
    candidate.close();
    Ok(Report {
        cluster: name.clone(),
        joined: !request.dry_run,
        trust,
        server,
        uid,
        actions: actions::actions(trust),
        findings,
    })
}

/// Looks at a cluster that nobody else joins meanwhile, and makes it a member.
async fn written(
    host: &Host,
    request: &Request,
    candidate: &Arc<Member>,
    uid: &str,
    mut object: Value,
) -> Result<(Trust, Vec<Finding>), JoinError> {
    let name = &request.name;
    // Whoever had the claim before has made it a member, perhaps.
    refuse_known_stored(host, uid, None).await?;
    let (trust, findings) = examined(host, request, candidate).await?;
    let client = candidate
        .kubernetes()
        .map_err(|error| JoinError::Kubeconfig(error.clone()))?;
    let mut told = None;
    if trust == Trust::Federated {
        let over = if request.force { Over::Any } else { Over::Own };
        let (proof, patience) = (&request.proof, &request.patience);
        let introduced = trust::introduce(host, candidate, uid, proof, patience, over).await;
        match introduced {
            Ok(published) => told = Some(published),
            Err(refused) => {
                if let Some(published) = &refused.published {
                    take_back(host, &client, uid, published).await;
                }
                return Err(JoinError::Trust(Box::new(refused.error)));
            }
        }
        object["spec"]["trust"] = trust.as_str().into();
    }
    object["status"] = json!({"uid": uid});
    object["spec"]["connection"]["kubeconfig"] = STANDARD.encode(&request.kubeconfig).into();
    if let Err(error) = stored(host, name, uid, object).await {
        if let Some(told) = &told {
            take_back(host, &client, uid, told).await;
        }
        return Err(error);
    }
    if matches!(told, Some(Published::Replaced(_))) {
        trust::settle(host, &client).await;
    }
    Ok((trust, findings))
}

async fn stored(host: &Host, name: &str, uid: &str, object: Value) -> Result<(), JoinError> {
    let object: DynamicObject =
        serde_json::from_value(object).map_err(|_| JoinError::Name(name.to_owned()))?;
    let clusters = clusters(host.client.clone());
    match clusters.create(&PostParams::default(), &object).await {
        Ok(created) => only(host, &created, uid).await,
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Err(JoinError::Taken(name.to_owned()))
        }
        Err(error) => Err(api("create the Cluster")(error)),
    }
}

/// A cluster that did not join after all is not to trust this host, also where an earlier join told it, and was killed: it trusts whom it trusted before.
/// One that became a member meanwhile, whoever made a Cluster of it, needs what it was told.
async fn take_back(host: &Host, client: &Client, uid: &str, told: &Published) {
    if let Err(JoinError::Same(_)) = refuse_known_stored(host, uid, None).await {
        return;
    }
    match told {
        Published::Replaced(_) => trust::undo(host, client, told).await,
        _ => trust::take_back(host, client).await,
    }
}

/// A Cluster of the same cluster that was made without a claim, by kubectl say: both are stored by now, and at least one of two joins sees the other, and
/// goes.
async fn only(host: &Host, created: &DynamicObject, uid: &str) -> Result<(), JoinError> {
    let name = created.metadata.name.as_deref().unwrap_or_default();
    let twice = refuse_known_stored(host, uid, Some(name)).await;
    if twice.is_err() {
        let ours = DeleteParams {
            preconditions: Some(Preconditions {
                uid: created.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        clusters(host.client.clone())
            .delete(name, &ours)
            .await
            .map_err(api("delete the Cluster of a cluster that joined twice"))?;
    }
    twice
}

/// What the cluster would be as a member whose trust is not decided: whoever looks at it shows it no token.
fn candidate(host: &Host, object: &Value) -> Option<Arc<Member>> {
    let mut object: DynamicObject = serde_json::from_value(object.clone()).ok()?;
    let annotations = object.metadata.annotations.get_or_insert_default();
    annotations.insert(WANTED.to_owned(), Trust::Federated.as_str().to_owned());
    host.registry.candidate(&object)
}

/// The trust that is wanted and can be had. Without a word of anybody it is the shared secret only where the cluster clearly offers nothing else.
async fn decided(wanted: Option<Trust>, candidate: &Member) -> Result<Trust, TrustError> {
    if wanted == Some(Trust::SharedSecret) {
        return Ok(Trust::SharedSecret);
    }
    match trust::offered(candidate).await {
        Ok(_) => Ok(Trust::Federated),
        Err(TrustError::NotOffered { .. }) if wanted.is_none() => Ok(Trust::SharedSecret),
        Err(error) => Err(error),
    }
}

/// Decides over the trust, and finds nothing that speaks against the cluster. What it is shown before that says nothing of anybody; one that shares the
/// secret is shown a short token of the host's own.
async fn examined(
    host: &Host,
    request: &Request,
    candidate: &Arc<Member>,
) -> Result<(Trust, Vec<Finding>), JoinError> {
    let mut again = true;
    let (offered, evidence) = loop {
        let offered = decided(request.trust, candidate).await;
        // The cause of a refusal is told by the same stages that the doctor goes through.
        let mut evidence = match offered {
            Ok(Trust::SharedSecret) => {
                let proof = match &request.proof {
                    CallerCredential::User { name, .. } => host.prover.proof_of(name),
                    CallerCredential::Anonymous => host.proof(),
                };
                let proof = proof.map_err(TrustError::Proof);
                let proof = proof.map_err(|error| JoinError::Trust(Box::new(error)))?;
                let shared = Arc::new(candidate.with_trust(Trust::SharedSecret, ""));
                doctor::gather(host, &shared, &proof).await
            }
            _ => doctor::gather(host, candidate, &CallerCredential::Anonymous).await,
        };
        evidence.mute();
        // Whether it accepts what the host signs for it is seen when it was told the keys.
        let answers = evidence.forgive_undecided();
        // A slip must not decide.
        if !(answers && again && matches!(offered, Err(TrustError::Unasked { .. }))) {
            break (offered, evidence);
        }
        again = false;
    };
    let mut findings = doctor::examine(&evidence);
    let unfit = findings.iter().find(|finding| {
        finding.severity == Severity::Error && !(request.force && finding.repairable)
    });
    match (unfit, offered) {
        // What it offers is known, or is all that is odd about it: that decides, whatever else is wrong.
        (
            _,
            Err(error @ (TrustError::NotOffered { .. } | TrustError::Unasked { code: None, .. })),
        ) => Err(JoinError::Trust(Box::new(error))),
        (Some(unfit), _) => Err(JoinError::Unfit(Box::new(unfit.clone()))),
        (None, Err(error)) => Err(JoinError::Trust(Box::new(error))),
        (None, Ok(trust)) => {
            // Nothing of what repairs a member can be done before it is one.
            for finding in findings.iter_mut().filter(|_| request.dry_run) {
                finding.remedy = remedy::remedy(finding);
            }
            Ok((trust, findings))
        }
    }
}

/// Takes a member out of the fleet, and what is ours out of the member, which need not be reachable.
///
/// # Errors
/// [`JoinError`].
pub async fn leave(host: &Host, name: &str) -> Result<Cleaning, JoinError> {
    let member = host.registry.get(name);
    if member.as_ref().is_some_and(|member| member.is_host()) {
        return Err(JoinError::IsHost(name.to_owned()));
    }
    let clusters = clusters(host.client.clone());
    let before = clusters
        .get_opt(name)
        .await
        .map_err(api("look for the Cluster"))?;
    let left = match clusters.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            Err(JoinError::Unknown(name.to_owned()))
        }
        Err(error) => Err(api("delete the Cluster")(error)),
    };
    let mut cleaned = None;
    if let (Ok(()), Some(before)) = (&left, &before) {
        cleaned = clean::told(&clusters, name, before).await;
    }
    // A cluster that is out of reach goes on trusting keys that sign nothing for it any more. What the registry knew of it is closed by now.
    let apart = before.and_then(|object| host.registry.candidate(&object));
    let mut cleaning = Cleaning::default();
    if let (Ok(()), Some(apart)) = (&left, apart) {
        let kept = !cleaned.as_ref().is_some_and(|cleaned| cleaned.trust);
        if let (true, Trust::Federated, Ok(client)) = (kept, apart.trust(), apart.kubernetes()) {
            trust::take_back(host, &client).await;
        }
        cleaning = clean::cleaning(&apart, cleaned);
        apart.close();
    }
    left?;
    Ok(cleaning)
}

/// Whether this can be a Cluster's name.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(|byte| plain(byte) || byte == b'-')
        && name.bytes().next().is_some_and(plain)
        && name.bytes().next_back().is_some_and(plain)
}

/// Refuses a cluster that is in the fleet already, but for the member named `except`. One that does not answer is taken by what its object says.
pub(crate) async fn refuse_known(
    host: &Host,
    uid: &str,
    except: Option<&str>,
) -> Result<(), JoinError> {
    let own = identity(host.client.clone())
        .await
        .map_err(api("read the identity of the host"))?;
    let members = host.registry.members();
    if own == uid {
        let host = members.iter().find(|member| member.is_host());
        let name = host.map_or("host", |member| member.name());
        return Err(JoinError::IsHost(name.to_owned()));
    }
    refuse_known_stored(host, uid, except).await?;
    let asked: Vec<BoxFuture<'static, Option<String>>> = members
        .into_iter()
        .filter(|member| !member.is_host() && Some(member.name()) != except)
        .map(|member| is_it(member, uid.to_owned()).boxed())
        .collect();
    let found: Vec<Option<String>> = futures::stream::iter(asked)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    match found.into_iter().flatten().next() {
        Some(other) => Err(JoinError::Same(other)),
        None => Ok(()),
    }
}

/// The same, by what the Cluster objects say at this moment.
pub(crate) async fn refuse_known_stored(
    host: &Host,
    uid: &str,
    except: Option<&str>,
) -> Result<(), JoinError> {
    let stored = clusters(host.client.clone())
        .list(&ListParams::default())
        .await
        .map_err(api("list the Clusters"))?;
    let other = stored.items.into_iter().find(|object| {
        object.data["status"]["uid"] == uid && object.metadata.name.as_deref() != except
    });
    match other.and_then(|object| object.metadata.name) {
        Some(other) => Err(JoinError::Same(other)),
        None => Ok(()),
    }
}

/// The member's name, if this is its identity.
async fn is_it(member: Arc<Member>, uid: String) -> Option<String> {
    let known = match member.identity() {
        Some(known) => known.to_owned(),
        None => {
            let client = member.kubernetes().ok()?;
            let answer = tokio::time::timeout(ANSWER, identity(client)).await;
            answer.ok()?.ok()?
        }
    };
    (known == uid).then(|| member.name().to_owned())
}

fn api(doing: &'static str) -> impl FnOnce(kube::Error) -> JoinError {
    move |source| JoinError::Api {
        doing,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_of_clusters() {
        for (name, good) in [
            ("member-1", true),
            ("a", true),
            ("9", true),
            ("", false),
            ("-a", false),
            ("a-", false),
            ("A", false),
            ("a.b", false),
            ("a/b", false),
            ("a$(id)", false),
            (&*"a".repeat(63), true),
            (&*"a".repeat(64), false),
        ] {
            assert_eq!(is_name(name), good, "{name}");
        }
    }
}
