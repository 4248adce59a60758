//! What is done about one cluster: it is probed, looked at, told of, and let go.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use kah_api::cluster::{Cluster, ClusterCondition, FINALIZER, IDENTITY};
use kah_cluster::{
    AccessCode, Host, Kubeconfig, clusters, doctor,
    health::Verdict,
    join::{self, Cleaned},
    restore::{self, State},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    core::DynamicObject,
};
use serde_json::json;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    asking::find,
    events::{self, News},
    facts::Found,
    granted,
    probing::{Held, probe},
    status::{self, ACCEPTED, HOST_ACCESS, Known, Look},
};
use crate::{Departures, Metrics, auto_restore, renewal, trust};

/// Between two deep looks at a member that is well.
const LOOK: Duration = Duration::from_secs(60);
/// Before a fault that only a deep look shows is believed, it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(4);
/// For the registry to follow a change of the Cluster that we have seen.
const FOLLOWED: Duration = Duration::from_millis(500);
/// After something failed.
const AGAIN: Duration = Duration::from_secs(2);
/// For one write to the host.
const WRITE: Duration = Duration::from_secs(10);
/// Tries of a write that somebody else came before.
const TRIES: usize = 8;

/// What a worker works on.
#[derive(Clone)]
pub struct Work {
    pub host: Host,
    pub name: String,
    pub resync: Duration,
    pub metrics: Metrics,
    pub departures: Departures,
}

/// Works until `stop`.
pub async fn run(work: Work, object: watch::Receiver<Arc<DynamicObject>>, stop: CancellationToken) {
    let held = watch::channel(Held::default());
    let latency = watch::channel(None);
    let is_host = super::is_host(&object.borrow());
    let probing = async {
        if is_host {
            held.0.send_replace(Held {
                verdict: Some(Verdict::Accepted),
                ..Held::default()
            });
            std::future::pending::<()>().await;
        }
        probe(&work.host, &work.name, &work.metrics, &held.0, &latency.0).await;
    };
    let restoring = async {
        if is_host {
            std::future::pending::<()>().await;
        }
        auto_restore::run(&work.host, &work.name, &work.metrics, object.clone()).await;
    };
    let minding = async {
        if is_host {
            std::future::pending::<()>().await;
        }
        tokio::join!(
            Box::pin(trust::wanted::run(&work.host, &work.name, object.clone())),
            Box::pin(renewal::run(&work.host, &work.name, object.clone())),
        );
    };
    let keeper = Keeper {
        work: &work,
        is_host,
        object: object.clone(),
        held: held.1,
        last: Held::default(),
        latency: latency.1,
        latency_told: None,
        look: None,
        suspect: false,
        made: Made::default(),
        found: None,
        look_at: Instant::now(),
        find_at: Instant::now(),
    };
    let all = async {
        tokio::join!(
            Box::pin(probing),
            Box::pin(restoring),
            Box::pin(minding),
            Box::pin(keeper.keep())
        );
    };
    stop.run_until_cancelled(all).await;
}

/// A job beside the probes. All of them only ask, or write what may be written twice: they may be dropped anywhere.
enum Done {
    Looked(Look),
    Found(Option<Found>),
    Nothing,
}

/// What of a Cluster says that faults which only a deep look shows may have come or gone.
#[derive(Debug, Default, PartialEq)]
struct Made {
    spec: serde_json::Value,
    /// The last restore that has ended.
    restored: Option<String>,
}

impl Made {
    fn of(object: &DynamicObject) -> Self {
        let annotations = object.metadata.annotations.as_ref();
        let state = annotations
            .and_then(|annotations| annotations.get(restore::ANNOTATION))
            .and_then(|text| serde_json::from_str::<State>(text).ok());
        Self {
            spec: object.data.get("spec").cloned().unwrap_or_default(),
            restored: state.filter(|it| it.step.is_last()).map(|it| it.id),
        }
    }
}

struct Keeper<'a> {
    work: &'a Work,
    is_host: bool,
    object: watch::Receiver<Arc<DynamicObject>>,
    held: watch::Receiver<Held>,
    /// What was held when the present job was chosen.
    last: Held,
    latency: watch::Receiver<Option<Duration>>,
    /// The latency that is told: looked at as seldom as the rest, or noise would be news.
    latency_told: Option<Duration>,
    look: Option<Look>,
    /// Whether the last look saw a fault for the first time.
    suspect: bool,
    /// As the Cluster was at the last look.
    made: Made,
    found: Option<Found>,
    look_at: Instant,
    find_at: Instant,
}

impl<'a> Keeper<'a> {
    async fn keep(mut self) {
        let mut job = self.job();
        loop {
            let object = self.object.borrow_and_update().clone();
            if self.turned(&object) {
                job = self.job();
            }
            let written = if object.metadata.deletion_timestamp.is_some() {
                self.let_go(&object).await
            } else {
                self.store(&object).await
            };
            if let Err(error) = written {
                tracing::warn!(cluster = self.work.name, %error, "write the Cluster");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            tokio::select! {
                done = &mut job => {
                    self.take(done);
                    job = self.job();
                }
                changed = self.held.changed() => if changed.is_err() { return },
                changed = self.object.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Whether what is held by now, or what people have made of the Cluster, asks for another job at once.
    fn turned(&mut self, object: &DynamicObject) -> bool {
        let made = Made::of(object);
        let remade = made != self.made;
        self.made = made;
        let now = self.held.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.last, now.clone());
        let another = before.verdict != now.verdict;
        if another && now.verdict == Some(Verdict::Accepted) {
            // What was seen while it was away tells nothing of how it is now.
            self.look = None;
            self.suspect = false;
            self.find_at = Instant::now();
        }
        let doubted = now.in_doubt && !before.in_doubt;
        if another || doubted {
            self.look_at = Instant::now();
        } else if remade {
            self.look_at = self.look_at.min(Instant::now() + FOLLOWED);
        }
        another || doubted || remade
    }

    /// What is due next, when it is due.
    fn job(&self) -> BoxFuture<'a, Done> {
        let work = self.work;
        let held = &self.last;
        let reached = held.verdict.as_ref().is_some_and(Verdict::is_reached);
        let accepted = held.verdict == Some(Verdict::Accepted);
        let (look_at, find_at, is_host) = (self.look_at, self.find_at, self.is_host);
        let may_look = !is_host && (held.verdict.is_some() || held.in_doubt);
        Box::pin(async move {
            let (looks, finds) = (may_look.then_some(look_at), reached.then_some(find_at));
            let (due, looking) = match (looks, finds) {
                (None, None) => return std::future::pending().await,
                (Some(look), Some(find)) if look <= find => (look, true),
                (_, Some(find)) => (find, false),
                (Some(look), None) => (look, true),
            };
            tokio::time::sleep_until(due).await;
            if looking {
                look(work).await
            } else {
                Done::Found(find(work, is_host, accepted).await)
            }
        })
    }

    fn take(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Nothing => self.look_at = now + jittered(AGAIN),
            Done::Looked(look) => {
                self.latency_told = *self.latency.borrow();
                let fault = look.accepted && look.error().is_some();
                let news = self.look.as_ref().and_then(Look::error).is_none();
                self.look_at = now + jittered(LOOK);
                if fault && news && !self.suspect {
                    self.suspect = true;
                    self.look_at = now + LOOK_AGAIN;
                    return;
                }
                self.suspect = false;
                self.look = Some(look);
            }
            Done::Found(found) => {
                let pause = if found.is_some() {
                    self.work.resync
                } else {
                    AGAIN * 5
                };
                self.find_at = now + jittered(pause);
                self.found = found.or(self.found.take());
            }
        }
    }

    fn known(&self, object: &Cluster) -> Known {
        let held = self.held.borrow().clone();
        let connection = &object.spec.connection;
        let member = self.work.host.registry.get(&self.work.name);
        let route = match (
            connection.kind.as_str(),
            connection.kubesphere_api_endpoint.as_str(),
        ) {
            ("proxy", _) => "tunnel",
            (_, "") => "service-proxy",
            _ => "endpoint",
        };
        Known {
            name: self.work.name.clone(),
            host: self.is_host,
            joined: object.spec.join_federation,
            verdict: held.verdict,
            unproven: held.unproven,
            agent: held.agent,
            look: self.look.clone(),
            facts: self.found.as_ref().map(|found| found.facts.clone()),
            double: self.found.as_ref().and_then(|found| found.double.clone()),
            route: if self.is_host { "" } else { route },
            trust: match &member {
                _ if self.is_host => String::new(),
                Some(member) if member.is_undecided() => "undecided".to_owned(),
                _ => object.spec.trust.as_str().to_owned(),
            },
            latency: self.latency_told,
            credential_ends: member
                .as_ref()
                .and_then(|member| member.credential())
                .map(|expiry| expiry.ends),
            certificate_ends: member
                .filter(|_| !self.is_host)
                .and_then(|member| member.certificate_ends()),
            tells_certificate: !self.is_host
                && connection.kind != "proxy"
                && connection.kubeconfig.is_some(),
        }
    }

    /// Writes what changed, if anything did.
    async fn store(&self, seen: &DynamicObject) -> Result<(), kube::Error> {
        let now = self.work.host.clock.now();
        let mut tried = seen.clone();
        let told = self.change(&mut tried, now);
        self.measure(&tried, now);
        if told.is_none() {
            return Ok(());
        }
        let api = clusters(self.work.host.client.clone());
        let written = async {
            let mut tries = 0;
            loop {
                let Some(mut object) = self.fresh(&api, seen).await? else {
                    return Ok(());
                };
                let Some(news) = self.change(&mut object, now) else {
                    return Ok(());
                };
                match api
                    .replace(&self.work.name, &PostParams::default(), &object)
                    .await
                {
                    Ok(_) => {
                        for news in news {
                            events::tell(&self.work.host.client, &object, news, now).await;
                        }
                        return Ok(());
                    }
                    Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => {
                        tries += 1;
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        within(written).await
    }

    /// The object as it is stored; `None` where another one, or none, has its name by now.
    async fn fresh(
        &self,
        api: &Api<DynamicObject>,
        seen: &DynamicObject,
    ) -> Result<Option<DynamicObject>, kube::Error> {
        let object = api.get_opt(&self.work.name).await?;
        Ok(object.filter(|object| object.metadata.uid == seen.metadata.uid))
    }

    /// Makes the object say what is known; the Events that follow, or `None` where it says so already.
    fn change(&self, object: &mut DynamicObject, now: jiff::Timestamp) -> Option<Vec<News>> {
        // An object of another shape is people's to mend; the registry tells it of every request.
        let value = serde_json::to_value(&*object).ok()?;
        let cluster: Cluster = serde_json::from_value(value).ok()?;
        let before = cluster.status.clone().unwrap_or_default();
        let after = status::next(&before, &self.known(&cluster), now);
        let mut changed = after != before;
        if changed {
            let after = serde_json::to_value(&after).ok()?;
            *object
                .data
                .as_object_mut()?
                .entry("status")
                .or_insert(json!(null)) = after;
        }
        let finalizers = object.metadata.finalizers.get_or_insert_default();
        if object.metadata.deletion_timestamp.is_none()
            && !finalizers.iter().any(|name| name == FINALIZER)
        {
            finalizers.push(FINALIZER.to_owned());
            changed = true;
        }
        let connection = &cluster.spec.connection;
        if connection.kubernetes_api_endpoint.is_empty()
            && let Some(kubeconfig) = &connection.kubeconfig
            && let Ok(kubeconfig) = Kubeconfig::read(&kubeconfig.0)
            && let Some(stored) = object.data.pointer_mut("/spec/connection")
            && let Some(stored) = stored.as_object_mut()
        {
            stored.insert(
                "kubernetesAPIEndpoint".into(),
                kubeconfig.server.to_string().into(),
            );
            changed = true;
        }
        changed.then(|| news(&before, &after).into_iter().collect())
    }

    fn measure(&self, object: &DynamicObject, now: jiff::Timestamp) {
        let (metrics, name) = (&self.work.metrics, self.work.name.as_str());
        let conditions = object.data.pointer("/status/conditions");
        let conditions = conditions
            .and_then(|it| it.as_array())
            .into_iter()
            .flatten();
        for condition in conditions {
            let text = |field| {
                condition
                    .get(field)
                    .and_then(|it| it.as_str())
                    .unwrap_or("")
            };
            match text("type") {
                "Ready" => metrics.ready(name, text("status") == "True"),
                HOST_ACCESS => metrics.access(name, text("reason")),
                _ => {}
            }
        }
        let member = self.work.host.registry.get(name).filter(|_| !self.is_host);
        let ends = member.and_then(|member| member.certificate_ends());
        metrics.expires(name, ends.map(|ends| ends.duration_since(now).as_secs()));
    }

    /// The cluster leaves. Nothing that has to be asked of the member is waited for: deletion always works.
    async fn let_go(&self, seen: &DynamicObject) -> Result<(), kube::Error> {
        let mut finalizers = seen.metadata.finalizers.iter().flatten();
        if !finalizers.any(|name| name == FINALIZER) {
            return Ok(());
        }
        if !Cleaned::of(seen).is_some_and(|cleaned| cleaned.ended) {
            self.clean(seen).await;
        }
        let done = async {
            match granted::tell(&self.work.host, &self.work.name, &BTreeSet::new()).await {
                // A user who cannot be written for good must not hold a cluster.
                Err(kube::Error::Api(status)) if !matches!(status.code, 409 | 429 | 502..=504) => {
                    let (cluster, error) = (&self.work.name, &status.message);
                    tracing::warn!(cluster, error, "take a cluster that leaves from its users");
                }
                told => told?,
            }
            let api = clusters(self.work.host.client.clone());
            let mut tries = 0;
            loop {
                let Some(mut object) = self.fresh(&api, seen).await? else {
                    return Ok(());
                };
                let finalizers = object.metadata.finalizers.get_or_insert_default();
                finalizers.retain(|name| name != FINALIZER);
                match api
                    .replace(&self.work.name, &PostParams::default(), &object)
                    .await
                {
                    Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => {
                        tries += 1;
                    }
                    Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                    done => return done.map(drop),
                }
            }
        };
        within(done).await
    }

    /// Takes what is the host's from a member whose kube-apiserver answers, and writes down for whoever asked what became of it. One that does not is
    /// let go as it is.
    async fn clean(&self, seen: &DynamicObject) {
        let member = self.work.host.registry.get(&self.work.name);
        let Some(member) = member.filter(|_| !self.is_host) else {
            return;
        };
        let uid = seen.metadata.uid.as_deref().unwrap_or_default();
        self.work.departures.leave(uid).await;
        self.note(seen, &Cleaned::default()).await;
        let cleaned = Box::pin(join::clean_member(&self.work.host, &member)).await;
        self.note(seen, &cleaned).await;
    }

    /// Best effort: a note that cannot be written holds up no deletion.
    async fn note(&self, seen: &DynamicObject, cleaned: &Cleaned) {
        let api = clusters(self.work.host.client.clone());
        let patch = json!({"metadata": {
            "uid": seen.metadata.uid,
            "annotations": {Cleaned::ANNOTATION: cleaned.to_string()},
        }});
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
        if let Err(error) = within(api.patch(&self.work.name, &parameters, &patch)).await {
            tracing::warn!(cluster = self.work.name, %error, "note what is left on a member");
        }
    }
}

/// A host that does not answer is no reason to wait for ever.
pub(super) async fn within<T>(
    write: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    kah_cluster::within(WRITE, write).await
}

/// What it is whose end is told: of one that is renewed the next may be told at once.
fn ending(condition: &ClusterCondition) -> Option<&str> {
    let is = condition.reason == AccessCode::CredentialExpiring.as_str();
    is.then(|| doctor::parts(&condition.message).0)
}

/// The Event about access, where that changed.
fn news(
    before: &kah_api::cluster::ClusterStatus,
    after: &kah_api::cluster::ClusterStatus,
) -> Option<News> {
    let now = status::find(&after.conditions, HOST_ACCESS)?;
    let stranger = |status: &kah_api::cluster::ClusterStatus| {
        status::find(&status.conditions, IDENTITY).is_some()
    };
    let same = status::find(&before.conditions, HOST_ACCESS).is_some_and(|it| {
        it.status == now.status && it.reason == now.reason && ending(it) == ending(now)
    }) && stranger(before) == stranger(after);
    (!same).then(|| News {
        warning: now.reason != ACCEPTED,
        reason: now.reason.clone(),
        message: now.message.clone(),
    })
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.85 + 0.3 * rand::random::<f64>())
}

/// The deep look.
async fn look(work: &Work) -> Done {
    let (Some(member), Ok(proof)) = (work.host.registry.get(&work.name), work.host.proof()) else {
        return Done::Nothing;
    };
    let evidence = Box::pin(doctor::gather(&work.host, &member, &proof)).await;
    Done::Looked(Look::new(&evidence.route, doctor::examine(&evidence)))
}

#[cfg(test)]
mod tests {
    use kah_api::cluster::ClusterStatus;

    use super::*;

    #[test]
    fn each_thing_that_ends_is_told_once() {
        let told = |evidence: &str| {
            let finding = doctor::finding("m", AccessCode::CredentialExpiring, evidence);
            ClusterStatus {
                conditions: vec![ClusterCondition {
                    kind: HOST_ACCESS.into(),
                    status: "True".into(),
                    last_update_time: None,
                    last_transition_time: None,
                    reason: finding.code.as_str().into(),
                    message: finding.sentence(),
                }],
                ..ClusterStatus::default()
            }
        };
        let stored = told("the token ends, in 3 days");
        let shown = told("the serving certificate of its kube-apiserver ends, in 9 days");
        assert_eq!(news(&stored, &told("the token ends, in 2 days")), None);
        assert!(news(&stored, &shown).is_some_and(|it| it.reason == "CredentialExpiring"));
    }
}
