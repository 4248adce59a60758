//! What a Cluster's status should say, from what is known. Pure.
//!
//! A status is written only where it changes: as long as nothing happens to a member, nothing is written about it. So what varies by itself
//! (words of an error, times, latency) stays as it was first written.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kah_api::{
    access::Severity,
    cluster::{ClusterCondition, ClusterStatus, HubStatus, IDENTITY, Stranger, is_uid},
    time::go_time,
};
use kah_cluster::{
    AccessCode, Answer,
    doctor::{self, Finding, finding},
    health::Verdict,
};

/// The condition that says whether the member lets in who comes through the host.
pub const HOST_ACCESS: &str = "HostAccess";
/// Its reason where all is well.
pub const ACCEPTED: &str = "Accepted";
/// Its reason where the host has nothing to ask with.
const NOT_PROVEN: &str = "NotProven";
/// The reason of [`IDENTITY`].
const ANOTHER: &str = "AnotherCluster";
const EXPIRES: &str = "KubeConfigCertExpiresInSevenDays";
const AGENT: &str = "AgentAvailable";

/// What the member's APIs say about it, as far as they may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `gitVersion` of its kube-apiserver.
    pub kubernetes: Option<String>,
    /// How many nodes it has.
    pub nodes: Option<i64>,
    /// UID of its namespace `kube-system`.
    pub uid: Option<String>,
    /// `gitVersion` of its ks-apiserver, where that answered.
    pub kubesphere: Option<String>,
    /// Which components it has, where its ks-apiserver answered.
    pub configz: Option<BTreeMap<String, bool>>,
}

/// What doctor found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Whether the member let the host in while it was looked at.
    pub accepted: bool,
    /// The cause first, then warnings.
    pub findings: Vec<Finding>,
}

impl Look {
    /// From the answer over the route, and the findings.
    #[must_use]
    pub fn new(route: &Answer, findings: Vec<Finding>) -> Self {
        Self {
            accepted: *route == Answer::Accepted,
            findings,
        }
    }

    /// What keeps people out, or may.
    #[must_use]
    pub fn error(&self) -> Option<&Finding> {
        self.findings
            .iter()
            .find(|finding| finding.severity == Severity::Error)
    }

    fn warning(&self) -> Option<&Finding> {
        self.findings
            .iter()
            .find(|it| it.severity == Severity::Warning)
    }
}

/// Everything that is known of one cluster.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The Cluster's name.
    pub name: String,
    /// Whether it is the host itself.
    pub host: bool,
    /// `spec.joinFederation`
    pub joined: bool,
    /// What the probes add up to.
    pub verdict: Option<Verdict>,
    /// Why nothing can be asked, where that is so.
    pub unproven: Option<String>,
    /// Whether its agent is connected; `None` where it has none.
    pub agent: Option<bool>,
    /// What doctor found last.
    pub look: Option<Look>,
    /// What its APIs say.
    pub facts: Option<Facts>,
    /// The other Cluster that has the identity which they tell.
    pub double: Option<String>,
    /// `service-proxy`, `endpoint` or `tunnel`.
    pub route: &'static str,
    /// The trust that is in force.
    pub trust: String,
    /// How long answers take, smoothed.
    pub latency: Option<Duration>,
    /// When the stored credential ends, where it has an end.
    pub credential_ends: Option<Timestamp>,
    /// The soonest end of what the way to the member depends on, as far as it was seen.
    pub certificate_ends: Option<Timestamp>,
    /// Whether the certificate's condition is told: a stored kubeconfig that people have to renew.
    pub tells_certificate: bool,
}

/// The status as it should be now.
#[must_use]
pub fn next(before: &ClusterStatus, known: &Known, now: Timestamp) -> ClusterStatus {
    let mut status = before.clone();
    let identity = identity(before, known);
    if let Some(facts) = &known.facts
        && !matches!(identity, Identity::Of(_))
    {
        if let Some(version) = &facts.kubernetes {
            status.kubernetes_version.clone_from(version);
        }
        status.node_count = facts.nodes.or(status.node_count);
        if let Some(version) = &facts.kubesphere {
            status.kubesphere_version = match version.as_str() {
                "" => "unknown",
                "v0.0.0" => "v3.0.0",
                version => version,
            }
            .to_owned();
        }
        if let Some(configz) = &facts.configz {
            status.configz.clone_from(configz);
        }
    }
    hub(status.hub.get_or_insert_default(), known, now);
    let before_stranger = find(&before.conditions, IDENTITY).is_some_and(|it| it.status == "False");
    let mut conditions = Vec::new();
    match &identity {
        Identity::Unknown => {}
        Identity::Good(uid) => {
            status.uid.clone_from(uid);
            status.conditions.retain(|it| it.kind != IDENTITY);
        }
        Identity::Of(stranger) => {
            let message = stranger.to_string();
            conditions.push(condition(IDENTITY, "False", ANOTHER, &message));
        }
    }
    let stranger = match &identity {
        Identity::Unknown => before_stranger,
        Identity::Good(_) => false,
        Identity::Of(_) => true,
    };
    conditions.extend(known.agent.map(agent));
    if let Some(verdict) = &known.verdict {
        if known.joined {
            let message = "Cluster has joined federation control plane successfully";
            conditions.push(condition("Federated", "True", "", message));
        }
        conditions.push(ready(verdict));
    }
    if known.tells_certificate {
        conditions.push(expires(known.credential_ends, now));
    }
    // The code alone does not tell what it is about now.
    if stranger != before_stranger {
        status.conditions.retain(|it| it.kind != HOST_ACCESS);
    }
    conditions.extend(match &identity {
        Identity::Of(stranger) => Some(locked_out(&known.name, stranger)),
        _ if stranger => None,
        _ => access(before, known),
    });
    for condition in conditions {
        put(&mut status.conditions, condition, now);
    }
    status
}

/// What the identity of a cluster amounts to.
enum Identity {
    /// Nothing was told yet: what is stored holds.
    Unknown,
    /// It is the one that joined, or one that nobody knew.
    Good(String),
    /// It is not.
    Of(Stranger),
}

/// `status.uid` is what tokens are signed for, so a member's own word never changes it once it is there, and never makes one member another.
fn identity(before: &ClusterStatus, known: &Known) -> Identity {
    let cluster = || known.name.clone();
    let uid = known.facts.as_ref().and_then(|facts| facts.uid.as_ref());
    match (uid, &known.double) {
        (None, _) => Identity::Unknown,
        (Some(uid), _) if known.host => Identity::Good(uid.clone()),
        (Some(uid), _) if !is_uid(uid) => Identity::Of(Stranger::Nameless { cluster: cluster() }),
        (Some(uid), _) if !before.uid.is_empty() && before.uid != *uid => {
            Identity::Of(Stranger::Another { cluster: cluster() })
        }
        (Some(_), Some(of)) => Identity::Of(Stranger::Double {
            cluster: cluster(),
            of: of.clone(),
        }),
        (Some(uid), None) => Identity::Good(uid.clone()),
    }
}

fn locked_out(cluster: &str, stranger: &Stranger) -> ClusterCondition {
    let finding = finding(cluster, AccessCode::SignatureInvalid, &stranger.to_string());
    told("False", &finding)
}

/// `HostAccess` in the words of the doctor.
fn told(status: &str, finding: &Finding) -> ClusterCondition {
    condition(
        HOST_ACCESS,
        status,
        finding.code.as_str(),
        &finding.sentence(),
    )
}

fn hub(hub: &mut HubStatus, known: &Known, now: Timestamp) {
    known.route.clone_into(&mut hub.route);
    hub.trust.clone_from(&known.trust);
    if let Some(latency) = known.latency {
        hub.latency = rounded(&hub.latency, latency);
    }
    let days = known
        .certificate_ends
        .map(|ends| ends.duration_since(now).as_secs().div_euclid(86_400));
    // Before it was looked at, this process does not know what its agent and its servers show: until then only a sooner end is news.
    let sooner = days.is_some_and(|days| hub.certificate_days.is_none_or(|told| days < told));
    if known.look.is_some() || sooner {
        hub.certificate_days = days;
    }
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> ClusterCondition {
    ClusterCondition {
        kind: kind.into(),
        status: status.into(),
        last_update_time: None,
        last_transition_time: None,
        reason: reason.into(),
        message: message.into(),
    }
}

/// As the original words it.
fn agent(connected: bool) -> ClusterCondition {
    if connected {
        let message = "Agent has connected to proxy successfully.";
        condition(AGENT, "True", "", message)
    } else {
        condition(AGENT, "False", "", "Agent has not connected to proxy.")
    }
}

fn ready(verdict: &Verdict) -> ClusterCondition {
    match verdict {
        Verdict::Refused { code, evidence } if !verdict.is_reached() => condition(
            "Ready",
            "False",
            code.as_str(),
            &format!("Cluster is Not Ready now: {evidence}"),
        ),
        _ => condition("Ready", "True", "Ready", "Cluster is available now"),
    }
}

/// As the original words it; its clients read the message as a date.
fn expires(ends: Option<Timestamp>, now: Timestamp) -> ClusterCondition {
    let soon = SignedDuration::from_hours(7 * 24);
    let is_soon = ends.is_some_and(|ends| ends.duration_since(now) < soon);
    let status = if is_soon { "True" } else { "False" };
    let message = ends.map(go_time).unwrap_or_default();
    condition(EXPIRES, status, EXPIRES, &message)
}

/// `HostAccess`; `None` where it stays as it is.
fn access(before: &ClusterStatus, known: &Known) -> Option<ClusterCondition> {
    let accepted = || {
        let message = if known.host {
            "This is the host itself."
        } else {
            "The member accepts those who come through the host."
        };
        condition(HOST_ACCESS, "True", ACCEPTED, message)
    };
    match (&known.verdict, &known.look) {
        (None, _) => known
            .unproven
            .as_deref()
            .map(|why| condition(HOST_ACCESS, "Unknown", NOT_PROVEN, why)),
        (Some(Verdict::Accepted), Some(look)) if look.accepted => Some(
            look.error()
                .map(|error| told("False", error))
                .or_else(|| look.warning().map(|warning| told("True", warning)))
                .unwrap_or_else(accepted),
        ),
        // Not looked at yet since it let us in: what a warning says still holds.
        (Some(Verdict::Accepted), _) => {
            let holds = find(&before.conditions, HOST_ACCESS).is_some_and(|it| it.status == "True");
            (!holds).then(accepted)
        }
        // What the last probe was not sent for has ended.
        (Some(Verdict::Refused { evidence, .. }), _) if AccessCode::is_about_identity(evidence) => {
            None
        }
        (Some(Verdict::Refused { code, evidence }), look) => {
            // Of silence doctor may know the cause: a Deployment without replicas is told by a kube-apiserver that answers.
            let cause = look
                .as_ref()
                .filter(|look| !look.accepted)
                .and_then(Look::error)
                .filter(|cause| knows_better(cause, *code, evidence));
            Some(match cause {
                Some(cause) => told("False", cause),
                None => told("False", &finding(&known.name, *code, evidence)),
            })
        }
    }
}

/// Whether what doctor found is the cause behind what the member says.
fn knows_better(cause: &Finding, code: AccessCode, evidence: &str) -> bool {
    // Only a member takes the word of a host: where its role is another, its word about the host's keys follows from that.
    let by_role = cause.code == AccessCode::WrongRole && AccessCode::is_about_keys(evidence);
    by_role || !is_word_of_ks_apiserver(code)
}

fn is_word_of_ks_apiserver(code: AccessCode) -> bool {
    matches!(
        code,
        AccessCode::TokenNotInCache
            | AccessCode::SignatureInvalid
            | AccessCode::ClockSkew
            | AccessCode::UserMissing
            | AccessCode::UserDisabled
            | AccessCode::TrustUndecided
    )
}

/// The condition of this type.
#[must_use]
pub fn find<'a>(conditions: &'a [ClusterCondition], kind: &str) -> Option<&'a ClusterCondition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

/// Takes over a condition that says something else than the stored one, and puts it at the end, as the original does. The words of an error may
/// differ from one time to the next; as long as status and reason are the same they are no news. Those that tell a date or what to decide are, those that mean
/// something else, and those by which it is found repairable that was not, or the other way round.
fn put(conditions: &mut Vec<ClusterCondition>, mut new: ClusterCondition, now: Timestamp) {
    let now = Some(Time(now));
    new.last_update_time = now.clone();
    new.last_transition_time = now;
    if let Some(old) = find(conditions, &new.kind) {
        let same = old.status == new.status && old.reason == new.reason;
        let code = new.reason.parse::<AccessCode>();
        let tells = [AccessCode::CredentialExpiring, AccessCode::TrustUndecided];
        let words_vary = code.is_ok_and(|code| {
            let repaired = |message: &str| doctor::is_repaired_alone(code, message);
            !tells.contains(&code)
                && doctor::parts(&old.message).0 == doctor::parts(&new.message).0
                && repaired(&old.message) == repaired(&new.message)
        });
        if same && (words_vary || old.message == new.message) {
            return;
        }
        if old.status == new.status {
            new.last_transition_time
                .clone_from(&old.last_transition_time);
        }
    }
    conditions.retain(|old| old.kind != new.kind);
    conditions.push(new);
}

/// The steps in which latency is told, in milliseconds.
const STEPS: [u64; 9] = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000];

/// Latency as one of a few steps. It leaves the step that is told only when it is well outside, so that noise is not news.
fn rounded(told: &str, latency: Duration) -> String {
    let name = |index: usize| match STEPS.get(index) {
        Some(step) => format!("<{step}ms"),
        None => ">5000ms".to_owned(),
    };
    let millis = latency.as_secs_f64() * 1000.0;
    #[allow(clippy::cast_precision_loss, reason = "they are small")]
    let step = |index: usize| STEPS.get(index).map_or(f64::INFINITY, |step| *step as f64);
    if let Some(index) = (0..=STEPS.len()).find(|index| name(*index) == told) {
        let below = index.checked_sub(1).map_or(0.0, step);
        if millis < step(index) * 2.0 && millis >= below * 0.5 {
            return told.to_owned();
        }
    }
    let index = STEPS
        .iter()
        .position(|step| latency.as_millis() < u128::from(*step));
    name(index.unwrap_or(STEPS.len()))
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
