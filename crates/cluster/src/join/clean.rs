//! A member that leaves forgets its host, as far as it can be reached.

use std::{
    fmt,
    future::Future,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Secret, ServiceAccount},
    rbac::v1::ClusterRoleBinding,
};
use kah_api::{cluster::Trust, seed};
use kah_iam::federated::HOST_TRUST;
use kube::{
    Api, Client, Error,
    api::{DeleteParams, DynamicObject, WatchEvent, WatchParams},
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    Host, Member, Route,
    doctor::Expiry,
    enrol::manifest::AGENT,
    identity::{ANSWER, identity_within},
    kubeconfig::ACCOUNT,
    propagate::{HOST_LABEL, KINDS, release},
    trust,
};

/// For the removal of an agent: a member that is gone holds nobody up for longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Copies are taken out for as long as something moves within this time.
const QUIET: Duration = Duration::from_secs(5);
/// And never for longer than this: what is left then is told.
const MOST: Duration = Duration::from_secs(60);
/// How long whoever takes a member out waits for the controllers to begin.
const BEGIN: Duration = Duration::from_secs(10);
/// And how long for their end, once they have begun: longer than all of the above.
const END: Duration = Duration::from_secs(90);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// Characters of a reason.
const LONGEST: usize = 300;

/// What the controllers took out of a member that leaves. They write it into the Cluster object, whose last state whoever asked for it sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cleaned {
    /// Whether they are done with it, well or not.
    pub ended: bool,
    /// Whether the member trusts the host's keys no more.
    pub trust: bool,
    /// Whether the copies are gone, or the member's own.
    pub copies: bool,
    /// Whether the agent is gone, where it had one.
    pub agent: bool,
    /// Why something of it is not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl Cleaned {
    /// Where it is written.
    pub const ANNOTATION: &'static str = "hub.kubeaihub.io/cleaned";

    /// What a Cluster object says.
    #[must_use]
    pub fn of(object: &DynamicObject) -> Option<Self> {
        let text = object
            .metadata
            .annotations
            .as_ref()?
            .get(Self::ANNOTATION)?;
        serde_json::from_str(text).ok()
    }

    fn because(&mut self, why: impl fmt::Display) {
        let known = std::mem::take(&mut self.why);
        let both = match known.as_str() {
            "" => why.to_string(),
            known => format!("{known}; {why}"),
        };
        self.why = both.chars().take(LONGEST).collect();
    }
}

impl fmt::Display for Cleaned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// Takes from a member what this host has put into it: its trust, what gives the host's users access, the agent. The Cluster object has to be on its
/// way out, and nothing may be propagated any more.
///
/// Whether the member's ks-apiserver answers is of no account: what is asked is its kube-apiserver. It always ends, however many copies there are, and
/// whatever the member does.
pub async fn clean_member(host: &Host, member: &Member) -> Cleaned {
    let mut cleaned = Cleaned {
        ended: true,
        ..Cleaned::default()
    };
    let name = member.name();
    let client = match member.kubernetes() {
        Ok(client) => client,
        Err(error) => {
            cleaned.because(error);
            return cleaned;
        }
    };
    let silent = match identity_within(client.clone()).await {
        Ok(Some(_)) => None,
        Ok(None) => Some(format!("no answer within {} s", ANSWER.as_secs())),
        Err(error) => Some(crate::with_causes(&error)),
    };
    if let Some(silent) = silent {
        tracing::info!(
            cluster = name,
            "leave a member as it is that cannot be asked: {silent}"
        );
        cleaned.because(silent);
        return cleaned;
    }
    cleaned.trust = match host.registry.signer().keys() {
        // Who signs nothing has told nothing, unless the keys are not read yet.
        None => member.trust() != Trust::Federated,
        Some((issuer, _)) => match timeout(PATIENCE, trust::withdraw(&client, &issuer)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                cleaned.because(crate::with_causes(&error));
                false
            }
            Err(_) => false,
        },
    };
    let moved = AtomicUsize::new(0);
    let step = || {
        moved.fetch_add(1, Ordering::Relaxed);
    };
    match while_it_moves(Box::pin(release(host, member, &step)), &moved).await {
        Some(Ok(released)) => {
            cleaned.copies = true;
            tracing::info!(
                cluster = name,
                deleted = released.deleted,
                given_back = released.given_back,
                "took the copies out of a member that leaves"
            );
        }
        Some(Err(error)) => cleaned.because(crate::with_causes(&error)),
        None => cleaned.because("taking the copies out took too long"),
    }
    // Last: the way to the member ends with it.
    if by_agent(member) {
        cleaned.agent = remove_agent(member).await;
    }
    if !cleaned.why.is_empty() {
        tracing::warn!(
            cluster = name,
            "clean a member that leaves: {}",
            cleaned.why
        );
    }
    cleaned
}

/// The end of this work; `None` where nothing has moved for [`QUIET`], or it goes on after [`MOST`].
async fn while_it_moves<T>(work: impl Future<Output = T>, moved: &AtomicUsize) -> Option<T> {
    let end = Instant::now() + MOST;
    let mut work = pin!(work);
    loop {
        let before = moved.load(Ordering::Relaxed);
        let until = end.min(Instant::now() + QUIET);
        if let Ok(done) = timeout_at(until, &mut work).await {
            return Some(done);
        }
        if Instant::now() >= end || moved.load(Ordering::Relaxed) == before {
            return None;
        }
    }
}

/// Waits until the host's controllers have let this object go, and tells what they say of its member. `None`: they say nothing, as controllers that are
/// away, which let it go later: it is on its way out all the same.
pub(super) async fn told(
    clusters: &Api<DynamicObject>,
    name: &str,
    object: &DynamicObject,
) -> Option<Cleaned> {
    let begun = Instant::now();
    let which = WatchParams::default().fields(&format!("metadata.name={name}"));
    let version = object.metadata.resource_version.as_deref().unwrap_or("0");
    let mut last: Option<Cleaned> = None;
    let patience = |last: &Option<Cleaned>| begun + last.as_ref().map_or(BEGIN, |_| END);
    let watched = timeout_at(patience(&last), clusters.watch(&which, version)).await;
    if let Ok(Ok(events)) = watched {
        let mut events = events.boxed();
        while let Ok(Some(Ok(event))) = timeout_at(patience(&last), events.next()).await {
            match event {
                WatchEvent::Added(now) | WatchEvent::Modified(now) => {
                    last = Cleaned::of(&now).or(last);
                }
                WatchEvent::Deleted(now) => {
                    last = Cleaned::of(&now).or(last);
                    break;
                }
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(_) => break,
            }
        }
    }
    // Whatever ended the watch: a name that is taken still is not free yet.
    let _ = timeout_at(patience(&last), is_gone(clusters, name, object)).await;
    last.filter(|cleaned| cleaned.ended)
}

/// Ends when there is no such object any more.
async fn is_gone(clusters: &Api<DynamicObject>, name: &str, object: &DynamicObject) {
    loop {
        match clusters.get_opt(name).await {
            Ok(Some(found)) if found.metadata.uid == object.metadata.uid => {}
            Ok(_) => return,
            // Asked again: the deletion itself was accepted.
            Err(_) => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What the agent may remove of itself.
const REMOVED: [(&str, Option<&str>); 4] = [
    ("secret", Some(seed::NAMESPACE)),
    ("clusterrolebinding", None),
    ("deployment", Some(seed::NAMESPACE)),
    ("serviceaccount", Some(seed::NAMESPACE)),
];

/// What it may not remove.
const OWN_ROLES: [(&str, Option<&str>); 3] = [
    ("role", Some(seed::NAMESPACE)),
    ("rolebinding", Some(seed::NAMESPACE)),
    ("clusterrole", None),
];

/// What became of what a member holds of its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cleaning {
    /// What is gone from it now, whoever removed it.
    pub removed: Vec<String>,
    /// What is, or may be, still there.
    pub remains: Vec<String>,
    /// The commands, for an administrator of the member, that show or remove it.
    pub commands: Vec<String>,
}

impl Cleaning {
    fn note(&mut self, done: bool, kind: &str, namespace: Option<&str>, name: &str) {
        let shown = format!("{kind}/{name}");
        if done {
            self.removed.push(shown);
            return;
        }
        let within = namespace.map_or_else(String::new, |namespace| format!(" -n {namespace}"));
        self.commands
            .push(format!("kubectl delete{within} {shown} --ignore-not-found"));
        self.remains.push(shown);
    }
}

/// Whether this member is reached by an agent of ours.
fn by_agent(member: &Member) -> bool {
    matches!(member.route(), Ok(Route::Tunnel(_)))
}

/// What is, or may be, still in a member: what nobody has seen gone.
///
/// The agent may not remove its own roles. Without its account and the binding to the cluster's role they give nothing to anybody.
pub(super) fn cleaning(member: &Member, cleaned: Option<Cleaned>) -> Cleaning {
    let cleaned = cleaned.unwrap_or_default();
    let own_account = member.credential().is_some_and(|it| Expiry::is_ours(&it));
    let federated = member.trust() == Trust::Federated;
    said(&cleaned, federated, by_agent(member), own_account)
}

fn said(cleaned: &Cleaned, federated: bool, by_agent: bool, own_account: bool) -> Cleaning {
    let ours = Some(seed::NAMESPACE);
    let mut cleaning = Cleaning::default();
    if !cleaned.copies {
        let kinds: Vec<String> = KINDS
            .iter()
            .map(|kind| kind.copy())
            .map(|copy| format!("{}.{}", copy.plural, copy.group))
            .collect();
        cleaning
            .remains
            .push(format!("objects with the label {HOST_LABEL}"));
        // Some of them were the member's before: which may go is for people to say.
        cleaning
            .commands
            .push(format!("kubectl get {} -l {HOST_LABEL}", kinds.join(",")));
    }
    if federated {
        cleaning.note(cleaned.trust, "configmap", ours, HOST_TRUST);
    }
    if by_agent {
        for (kind, namespace) in REMOVED {
            cleaning.note(cleaned.agent, kind, namespace, AGENT);
        }
        for (kind, namespace) in OWN_ROLES {
            cleaning.note(false, kind, namespace, AGENT);
        }
    }
    if own_account {
        for (kind, namespace) in [
            ("serviceaccount", ours),
            ("clusterrolebinding", None),
            ("rolebinding", ours),
            ("clusterrole", None),
            ("role", ours),
        ] {
            cleaning.note(false, kind, namespace, ACCOUNT);
        }
    }
    cleaning
}

/// Removes the agent from a member, by the tunnel that it holds; so this comes last. What somebody has removed already counts as removed, and it never
/// takes longer than 10 s. Whether all of it is gone.
async fn remove_agent(member: &Member) -> bool {
    let Ok(client) = member.kubernetes() else {
        return false;
    };
    let until = Instant::now() + PATIENCE;
    // In this order: with the Deployment the tunnel ends, with the account every right.
    delete(until, namespaced::<Secret>(&client)).await
        && delete(until, Api::<ClusterRoleBinding>::all(client.clone())).await
        && delete(until, namespaced::<Deployment>(&client)).await
        && delete(until, namespaced::<ServiceAccount>(&client)).await
}

fn namespaced<K>(client: &Client) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    Api::namespaced(client.clone(), seed::NAMESPACE)
}

async fn delete<K>(until: Instant, api: Api<K>) -> bool
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let parameters = DeleteParams::background();
    let asked = async {
        match api.delete(AGENT, &parameters).await {
            Ok(_) => Ok(()),
            Err(Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    };
    limited(until, asked).await == Some(true)
}

/// Whether it went well; `None` where it took too long.
async fn limited<T, E: std::error::Error>(
    until: Instant,
    work: impl Future<Output = Result<T, E>>,
) -> Option<bool> {
    let until = until.min(Instant::now() + ANSWER);
    let ended = timeout_at(until, work).await.ok()?;
    if let Err(error) = &ended {
        tracing::debug!(error = %crate::with_causes(error), "clean a member up");
    }
    Some(ended.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_and_nothing_else() {
        let (all, none) = (
            Cleaned {
                ended: true,
                trust: true,
                copies: true,
                agent: true,
                why: String::new(),
            },
            Cleaned::default(),
        );
        let left = |cleaned: &Cleaned, federated, by_agent, own_account| {
            let said = said(cleaned, federated, by_agent, own_account);
            assert_eq!(said.remains.len(), said.commands.len());
            (said.removed.len(), said.remains)
        };
        assert_eq!(left(&all, false, false, false), (0, vec![]));
        assert_eq!(left(&all, true, false, false), (1, vec![]));
        let (removed, remains) = left(&all, true, true, false);
        assert_eq!((removed, remains.len()), (5, OWN_ROLES.len()));
        let copies = format!("objects with the label {HOST_LABEL}");
        assert_eq!(left(&none, false, false, false), (0, vec![copies.clone()]));
        let trusting = Cleaned {
            trust: false,
            ..all.clone()
        };
        assert_eq!(
            left(&trusting, true, false, false),
            (0, vec!["configmap/hub-trust".to_owned()])
        );
        let (removed, remains) = left(&none, true, true, false);
        assert_eq!(
            (removed, remains.len()),
            (0, 2 + REMOVED.len() + OWN_ROLES.len())
        );
        let (_, remains) = left(&all, true, false, true);
        assert!(remains.contains(&"serviceaccount/kubeaihub-host".to_owned()));
    }

    #[test]
    fn an_outcome_is_read_as_it_was_written_and_bounded() {
        let mut cleaned = Cleaned {
            ended: true,
            trust: true,
            ..Cleaned::default()
        };
        cleaned.because("é".repeat(100_000));
        cleaned.because("more");
        let annotations = [(Cleaned::ANNOTATION.to_owned(), cleaned.to_string())];
        let object: DynamicObject = serde_json::from_value(
            serde_json::json!({"metadata": {"name": "m", "annotations": std::collections::BTreeMap::from(annotations)}}),
        )
        .unwrap();
        let read = Cleaned::of(&object).unwrap();
        assert_eq!(read, cleaned);
        assert!(read.why.chars().count() <= LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn work_goes_on_while_it_moves_and_always_ends() {
        let moved = AtomicUsize::new(0);
        let steps = |count: u32, pause: Duration| {
            let moved = &moved;
            async move {
                for _ in 0..count {
                    tokio::time::sleep(pause).await;
                    moved.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let second = Duration::from_secs(1);
        assert_eq!(while_it_moves(steps(30, second), &moved).await, Some(()));
        assert_eq!(while_it_moves(steps(1, QUIET * 3), &moved).await, None);
        let began = Instant::now();
        assert_eq!(while_it_moves(steps(10_000, second), &moved).await, None);
        assert_eq!(began.elapsed(), MOST);
    }
}
