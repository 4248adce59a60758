//! Restoring access to a member: plan, back up, change, restart if that is needed, prove, and put everything back if it did not help.
//!
//! Invariants, which hold wherever a run is cut off:
//! * The member's `kubesphere.yaml` is either the old text or the new one; the old one is kept beside the new one by the same write, in the same
//!   ConfigMap, because no other object may hold its secrets.
//! * Another run finds the state in the Cluster object and finishes or undoes what was begun. Only one run at a time goes on.
//! * The connection that the host stores is replaced by one that was tried, and that leads to the same cluster, or not at all.

mod authority;
mod connection;
mod credential;
mod error;
mod member;
mod plan;
mod run;
mod state;
mod user;

use std::{sync::Arc, time::Duration};

use kah_api::cluster::Trust;
use serde::Serialize;

use crate::{AccessCode, Answer, CallerCredential, Host, Member, guard::AddressGuard};
use member::OnMember;
use run::{Beside, Run};

pub use credential::{Renewed, renew_credential};
pub use error::RestoreError;
pub use plan::{Change, Plan, plan};
pub use run::Observer;
pub use state::{ANNOTATION, STALE, State, Step};

/// How long each part may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a member that reads its configuration while it runs, before it is restarted.
    pub live: Duration,
    /// For a member that was restarted.
    pub restarted: Duration,
    /// Between two looks.
    pub look: Duration,
    /// How long another run's state has to stand still before it is taken over. A run renews its own five times as often.
    pub stale: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            live: Duration::from_secs(4),
            restarted: Duration::from_secs(90),
            look: Duration::from_millis(250),
            stale: STALE.unsigned_abs(),
        }
    }
}

/// What is asked for.
#[derive(Clone)]
pub struct Request {
    /// The Cluster's name.
    pub cluster: String,
    /// Who asks.
    pub by: String,
    /// Only the plan.
    pub dry_run: bool,
    /// What somebody has agreed to: [`Action::what`] of each action of a plan. Where something else is to be done by now, nothing is.
    pub agreed: Option<Vec<String>>,
    /// A token of the host, by which access is proven over the real route.
    pub proof: CallerCredential,
    /// Time limits.
    pub patience: Patience,
    /// Whether a stored credential that ends soon may be replaced by one of the host's own.
    pub renew: bool,
    /// A kubeconfig of the member, YAML, to take the place of the stored one.
    pub kubeconfig: Option<Vec<u8>>,
    /// Which addresses that kubeconfig may name, where it is not the one that is stored.
    pub guard: AddressGuard,
    /// The SHA-256 fingerprint of the member's new authority, as somebody who knows it has given it.
    pub accept_ca: Option<String>,
}

impl Request {
    /// To restore this cluster with what the host has.
    #[must_use]
    pub fn new(cluster: &str, by: &str, proof: CallerCredential) -> Self {
        Self {
            cluster: cluster.to_owned(),
            by: by.to_owned(),
            dry_run: false,
            agreed: None,
            proof,
            patience: Patience::default(),
            renew: true,
            kubeconfig: None,
            guard: AddressGuard::default(),
            accept_ca: None,
        }
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("cluster", &self.cluster)
            .field("by", &self.by)
            .field("dry_run", &self.dry_run)
            .finish_non_exhaustive()
    }
}

/// One thing that is done, before and after; secrets as fingerprints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Action {
    /// What is changed.
    pub what: String,
    /// As it is.
    pub from: String,
    /// As it will be.
    pub to: String,
}

impl Action {
    fn new(what: &str, from: impl Into<String>, to: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            from: from.into(),
            to: to.into(),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The Cluster's name.
    pub cluster: String,
    /// What was done.
    pub outcome: Outcome,
    /// Why the member refused before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<AccessCode>,
    /// What showed it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub evidence: String,
    /// What changes, or has changed, in the member's configuration.
    pub changes: Vec<Change>,
    /// All that is done, or was.
    pub actions: Vec<Action>,
    /// Whether the member's Deployment had no replicas and gets one.
    pub scaled: bool,
    /// Whether ks-apiserver was restarted.
    pub restarted: bool,
    /// Whether an earlier run was finished.
    pub resumed: bool,
}

impl Report {
    fn nothing_to_do(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            outcome: Outcome::NothingToDo,
            code: None,
            evidence: String::new(),
            changes: Vec::new(),
            actions: Vec::new(),
            scaled: false,
            restarted: false,
            resumed: false,
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// The member accepts the host's tokens as it is.
    NothingToDo,
    /// A plan was made, and nothing changed.
    Planned,
    /// The member accepts the host's tokens again.
    Restored,
}

/// Restores access to one member, or says why that cannot be done.
///
/// # Errors
/// [`RestoreError`]. Whatever it is, the member holds its old configuration or the new one, and the Cluster a connection that led to it.
pub async fn restore(
    host: &Host,
    request: &Request,
    observer: Observer<'_>,
) -> Result<Report, RestoreError> {
    restore_for(host, request, None, observer).await
}

/// The same for a member that is to accept the shared secret, whatever trust is in force.
pub(crate) async fn restore_shared_secret(
    host: &Host,
    request: &Request,
    observer: Observer<'_>,
) -> Result<Report, RestoreError> {
    restore_for(host, request, Some(Trust::SharedSecret), observer).await
}

async fn restore_for(
    host: &Host,
    request: &Request,
    trust: Option<Trust>,
    observer: Observer<'_>,
) -> Result<Report, RestoreError> {
    let name = &request.cluster;
    let member = host
        .registry
        .get(name)
        .ok_or_else(|| RestoreError::Unknown(name.clone()))?;
    if member.is_host() {
        return Err(RestoreError::IsHost(name.clone()));
    }
    if trust.is_none() && member.is_undecided() {
        // What would be written there is the secret of the host.
        return Err(RestoreError::Undecided(name.clone()));
    }
    if let Some(agreed) = request.agreed.as_ref().filter(|_| !request.dry_run) {
        let again = Request {
            dry_run: true,
            agreed: None,
            ..request.clone()
        };
        let planned = Box::pin(restore_for(host, &again, trust, observer)).await?;
        if planned.outcome == Outcome::NothingToDo {
            return Ok(planned);
        }
        let now: Vec<&String> = planned.actions.iter().map(|action| &action.what).collect();
        if !now.iter().copied().eq(agreed) {
            let now = now.iter().map(|what| what.as_str()).collect::<Vec<_>>();
            return Err(RestoreError::Otherwise(now.join(", ")));
        }
    }
    // Nothing is changed on a cluster that is not the one that joined; one that is brought is looked at anew.
    if let Some(evidence) = member.stranger().filter(|_| request.kubeconfig.is_none()) {
        return Err(RestoreError::NotRepairable {
            code: Some(AccessCode::SignatureInvalid),
            evidence: evidence.to_owned(),
        });
    }
    let connected = connection::mend(host, &member, request).await?;
    let on_member = OnMember::new(
        host,
        request,
        connected.member.clone(),
        connected.is_candidate,
        connected.client,
        trust,
    )?;
    let ended = on_the_member(host, request, &on_member, observer).await;
    if connected.is_candidate {
        connected.member.close();
    }
    let mut report = ended?;
    if report.outcome == Outcome::NothingToDo
        && let Some(error) = connected.failed
    {
        return Err(error);
    }
    if !connected.actions.is_empty() && report.outcome == Outcome::NothingToDo {
        report.outcome = if request.dry_run {
            Outcome::Planned
        } else {
            Outcome::Restored
        };
        report.code = connected.code;
        report.evidence = connected.evidence;
    }
    report.actions.splice(0..0, connected.actions);
    Ok(report)
}

/// All that is to be done behind the connection.
async fn on_the_member(
    host: &Host,
    request: &Request,
    on_member: &OnMember<'_>,
    observer: Observer<'_>,
) -> Result<Report, RestoreError> {
    // Where somebody began and did not end, that comes first.
    if !request.dry_run
        && let Some(run) = Run::take_over(host, request, on_member).await?
    {
        let begun = run.trust();
        let begun_for = on_member.for_trust(begun);
        let ended = run.on(&begun_for).go_on(observer).await?;
        // What was begun for the trust in force proves nothing of another one that is asked for.
        if on_member.wanted().is_none_or(|it| begun == Some(it)) {
            return Ok(ended);
        }
    }
    let before = on_member.probe().await;
    if let Answer::Refused { code, evidence } = &before
        && let Some(told) = on_member.untold().await?
    {
        // Nothing of its configuration is at fault as long as it does not know the keys by which the host signs.
        let report = Report {
            outcome: Outcome::Planned,
            code: *code,
            evidence: evidence.clone(),
            actions: vec![Action::new(&told.key, &told.from, &told.to)],
            changes: vec![told],
            ..Report::nothing_to_do(&request.cluster)
        };
        if request.dry_run {
            return Ok(report);
        }
        if on_member.tell_again().await? {
            let outcome = Outcome::Restored;
            return Ok(Report { outcome, ..report });
        }
    }
    let map = match on_member.configuration().await {
        Ok(map) => map,
        Err(error) => return Err(authority::explained(on_member.member(), error).await),
    };
    // What a member accepts it is left with, but for its role: that does not keep the host out, and is wrong nevertheless.
    let role = [plan::ROLE_KEY.to_owned()];
    let only = match &before {
        Answer::Refused { code, evidence } if is_beyond(*code) => {
            let (code, evidence) = (*code, evidence.clone());
            return Err(RestoreError::NotRepairable { code, evidence });
        }
        Answer::Refused { code, .. } if !is_of_user(*code) => None,
        _ => Some(role.as_slice()),
    };
    let key = uuid::Uuid::new_v4();
    let plan = on_member
        .plan(&member::text(&map), key.as_bytes(), only)
        .await?;
    let nothing = Report::nothing_to_do(&request.cluster);
    let (code, evidence) = match before {
        Answer::Accepted => match plan.changes.first() {
            None => return Ok(nothing),
            Some(change) => (
                Some(change.code),
                format!("{} is {}", change.key, change.from),
            ),
        },
        Answer::Refused { code, evidence } => (code, evidence),
    };
    let beside = Beside {
        scaled: only.is_none() && on_member.has_no_replicas().await?,
        user: user::at_fault(code, &request.proof),
    };
    if let Some(user) = &beside.user {
        // What cannot be done is said before anything is begun.
        user::may_be_brought(host, on_member.member(), user, code).await?;
    }
    let silent = matches!(code, None | Some(AccessCode::MemberUnreachable));
    let code = if beside.scaled && silent {
        // As doctor names it, whatever the way says of a server that was stopped.
        Some(AccessCode::MemberNotReady)
    } else {
        code
    };
    // A configuration that is right but was never read: a restart is all that is missing.
    let unread = matches!(
        code,
        Some(AccessCode::TokenNotInCache | AccessCode::SignatureInvalid)
    );
    if plan.changes.is_empty() && !beside.scaled && beside.user.is_none() && !unread {
        return Err(RestoreError::NotRepairable { code, evidence });
    }
    let report = Report {
        outcome: Outcome::Planned,
        code,
        evidence,
        changes: plan.changes.clone(),
        actions: actions(&plan, &beside, unread, code),
        scaled: beside.scaled,
        ..nothing
    };
    if request.dry_run {
        return Ok(report);
    }
    let run = Run::begin(host, request, on_member, &plan, beside).await?;
    let done = run.carry_out(map, &plan, observer).await?;
    Ok(Report {
        outcome: done.outcome,
        restarted: done.restarted,
        ..report
    })
}

/// Whether the cause is one that no change on the member cures. Its configuration is left alone then, whatever it says.
fn is_beyond(code: Option<AccessCode>) -> bool {
    matches!(
        code,
        Some(
            AccessCode::ClockSkew
                | AccessCode::RouteForbidden
                | AccessCode::VersionUnsupported
                | AccessCode::NameNotResolved
                | AccessCode::TLSExpired
                | AccessCode::TLSUntrusted
        )
    )
}

/// Whether the member has found the token good, and does not let its bearer in.
fn is_of_user(code: Option<AccessCode>) -> bool {
    matches!(
        code,
        Some(AccessCode::UserMissing | AccessCode::UserDisabled)
    )
}

fn actions(plan: &Plan, beside: &Beside, unread: bool, code: Option<AccessCode>) -> Vec<Action> {
    let mut actions: Vec<Action> = plan
        .changes
        .iter()
        .map(|change| Action::new(&change.key, &change.from, &change.to))
        .collect();
    if beside.scaled {
        actions.push(Action::new("Deployment ks-apiserver, replicas", "0", "1"));
    }
    if let Some(user) = &beside.user {
        let is = match code {
            Some(AccessCode::UserDisabled) => "disabled",
            _ => "missing",
        };
        let what = format!("User {user} with its roles");
        actions.push(Action::new(&what, is, "as on the host"));
    }
    if unread && plan.changes.is_empty() {
        let is = "runs with an older configuration";
        actions.push(Action::new("Deployment ks-apiserver", is, "restarted"));
    }
    actions
}

/// The member behind its connection, as it is or will be.
struct Connected {
    member: Arc<Member>,
    /// It is tried only: the Cluster object does not say so.
    is_candidate: bool,
    /// Of its kube-apiserver, where what is stored opens nothing.
    client: Option<kube::Client>,
    actions: Vec<Action>,
    code: Option<AccessCode>,
    evidence: String,
    /// Why a credential that still works was not replaced. Whatever else is wrong is repaired all the same.
    failed: Option<RestoreError>,
}
