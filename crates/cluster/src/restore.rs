//! Restoring access to a member: plan, back up, change, restart if that is needed, prove, and put everything back if it did not help.
//!
//! Invariants, which hold wherever a run is cut off:
//! * The member's `kubesphere.yaml` is either the old text or the new one; the old one is kept beside the new one by the same write, in the same
//!   ConfigMap, because no other object may hold its secrets.
//! * Another run finds the state in the Cluster object and finishes or undoes what was begun. Only one run at a time goes on.

mod member;
mod plan;
mod state;

use std::{ops::ControlFlow, time::Duration};

use jiff::Timestamp;
use kah_api::{access::Remedy, cluster::Trust};
use serde::Serialize;

use crate::{AccessCode, Answer, CallerCredential, Host};
use member::OnMember;
use state::Stored;

pub use plan::{Change, Plan, plan};
pub use state::{ANNOTATION, STALE, State, Step};

/// Why access was not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// No such Cluster.
    #[error("clusters.cluster.kubesphere.io {0:?} not found")]
    Unknown(String),
    /// The cluster is the host itself.
    #[error("cluster {0} is the host itself: there is no way to it that could be lost")]
    IsHost(String),
    /// The member is a host of other members.
    #[error(
        "the cluster acts as a host of its own (multicluster.enable is true): to make it a member is a decision for people"
    )]
    ActsAsHost,
    /// A configuration cannot be read or edited.
    #[error("read kubesphere.yaml of {of}")]
    Configuration {
        /// Whose.
        of: &'static str,
        /// What is wrong with it; it quotes no value.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The host signs with nothing.
    #[error("the host has no jwtSecret that could be given to the member")]
    NoSecret,
    /// The member cannot be reached with what the host stores.
    #[error("reach the member's kube-apiserver: {0}")]
    Settings(crate::SettingsError),
    /// A kube-apiserver refused, or was not reached.
    #[error("{doing}")]
    Api {
        /// What was being tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// The host's keys could not be published.
    #[error("tell the member the keys of this host")]
    Keys(#[source] Box<crate::trust::TrustError>),
    /// Another run is at it.
    #[error("access is being restored by {by}, at step {step:?}: wait for it to end")]
    Busy {
        /// Who asked for that one.
        by: String,
        /// Where it stands.
        step: Step,
    },
    /// It is nothing that a change on the member could cure.
    #[error("this cannot be repaired from here: {evidence}")]
    NotRepairable {
        /// The cause.
        code: Option<AccessCode>,
        /// What shows it.
        evidence: String,
    },
    /// The member still refuses; all is as it was.
    #[error("the member still refuses after the change, so everything was put back: {evidence}")]
    NotProven {
        /// The cause.
        code: Option<AccessCode>,
        /// What shows it.
        evidence: String,
    },
    /// It did not help, and the old text could not be put back.
    #[error(
        "the member still refuses, and somebody else has changed its configuration meanwhile: it was left as it is ({evidence})"
    )]
    NotUndone {
        /// What shows it.
        evidence: String,
    },
    /// The observer ended the run, as a killed process would.
    #[error("the run was ended at step {0:?}")]
    Ended(Step),
}

impl RestoreError {
    /// The cause of the lost access, where it is known.
    #[must_use]
    pub fn code(&self) -> Option<AccessCode> {
        match self {
            Self::NotRepairable { code, .. } | Self::NotProven { code, .. } => *code,
            Self::Configuration {
                of: "the member", ..
            } => Some(AccessCode::ConfigUnreadable),
            _ => None,
        }
    }

    /// What a person can do instead.
    #[must_use]
    pub fn remedy(&self) -> Option<Remedy> {
        self.code().map(AccessCode::remedy)
    }
}

/// How long each part may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a member that reads its configuration while it runs, before it is restarted.
    pub live: Duration,
    /// For a member that was restarted.
    pub restarted: Duration,
    /// Between two looks.
    pub look: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            live: Duration::from_secs(4),
            restarted: Duration::from_secs(90),
            look: Duration::from_millis(250),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The Cluster's name.
    pub cluster: String,
    /// Who asks.
    pub by: String,
    /// Only the plan.
    pub dry_run: bool,
    /// A token of the host, by which access is proven over the real route.
    pub proof: CallerCredential,
    /// Time limits.
    pub patience: Patience,
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
    /// Whether the member's Deployment had no replicas and gets one.
    pub scaled: bool,
    /// Whether ks-apiserver was restarted.
    pub restarted: bool,
    /// Whether an earlier run was finished.
    pub resumed: bool,
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

/// Told after every step that was written down; may end the run there.
pub type Observer<'a> = &'a mut (dyn FnMut(&State) -> ControlFlow<()> + Send);

/// Restores access to one member, or says why that cannot be done.
///
/// # Errors
/// [`RestoreError`]. Whatever it is, the member holds its old configuration or the new one.
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
    let on_member = OnMember::find(host, request, trust)?;
    let stored = Stored::of(host, &request.cluster);
    if let Some(begun) = on_member.begun()
        && !request.dry_run
    {
        // Somebody began and did not end: that comes first.
        let run = Run::take_over(host, request, &on_member, stored, begun).await?;
        return run.go_on(observer).await;
    }
    let before = on_member.probe().await;
    if let Answer::Refused { code, evidence } = &before
        && let Some(told) = on_member.untold().await
    {
        // Nothing of its configuration is at fault as long as it does not know the keys by which the host signs.
        let report = Report {
            cluster: request.cluster.clone(),
            outcome: Outcome::Planned,
            code: *code,
            evidence: evidence.clone(),
            changes: vec![told],
            scaled: false,
            restarted: false,
            resumed: false,
        };
        if request.dry_run {
            return Ok(report);
        }
        if on_member.tell_again().await? {
            let outcome = Outcome::Restored;
            return Ok(Report { outcome, ..report });
        }
    }
    let map = on_member.configuration().await?;
    let plan = on_member
        .plan(&member::text(&map), uuid::Uuid::new_v4().as_bytes())
        .await?;
    let scaled = on_member.has_no_replicas().await?;
    let (code, evidence) = match before {
        Answer::Accepted => {
            return Ok(Report {
                cluster: request.cluster.clone(),
                outcome: Outcome::NothingToDo,
                code: None,
                evidence: String::new(),
                changes: Vec::new(),
                scaled: false,
                restarted: false,
                resumed: false,
            });
        }
        Answer::Refused { code, evidence } => (code, evidence),
    };
    // A configuration that is right but was never read: a restart is all that is missing.
    let unread = matches!(
        code,
        Some(AccessCode::TokenNotInCache | AccessCode::SignatureInvalid)
    );
    if plan.changes.is_empty() && !scaled && !unread {
        return Err(RestoreError::NotRepairable { code, evidence });
    }
    let mut report = Report {
        cluster: request.cluster.clone(),
        outcome: Outcome::Planned,
        code,
        evidence,
        changes: plan.changes.clone(),
        scaled,
        restarted: false,
        resumed: false,
    };
    if request.dry_run {
        return Ok(report);
    }
    let run = Run::begin(host, request, &on_member, stored, &plan, scaled).await?;
    run.observe(observer)?;
    let run = run.change(map, &plan, observer).await?;
    let done = run.go_on(observer).await?;
    report.outcome = done.outcome;
    report.restarted = done.restarted;
    Ok(report)
}

/// A run that holds the restore of one member.
struct Run<'a> {
    host: &'a Host,
    request: &'a Request,
    member: &'a OnMember<'a>,
    stored: Stored,
    state: State,
    resumed: bool,
}

impl<'a> Run<'a> {
    async fn begin(
        host: &'a Host,
        request: &'a Request,
        member: &'a OnMember<'a>,
        stored: Stored,
        plan: &Plan,
        scaled: bool,
    ) -> Result<Self, RestoreError> {
        let now = host.clock.now();
        let fresh = State {
            id: uuid::Uuid::new_v4().to_string(),
            by: request.by.clone(),
            holder: uuid::Uuid::new_v4().to_string(),
            renewed: now,
            step: Step::Planned,
            restart: now,
            keys: plan
                .changes
                .iter()
                .map(|change| change.key.clone())
                .collect(),
            scaled,
            restarted: false,
        };
        let next = |found: Option<State>| match found {
            Some(found) if !found.step.is_last() => Err(busy(&found)),
            _ => Ok(fresh.clone()),
        };
        Self::hold(host, request, member, stored, false, next).await
    }

    /// Goes on with what another run left. One that still writes is left alone.
    async fn take_over(
        host: &'a Host,
        request: &'a Request,
        member: &'a OnMember<'a>,
        stored: Stored,
        begun: State,
    ) -> Result<Self, RestoreError> {
        let now = host.clock.now();
        let holder = uuid::Uuid::new_v4().to_string();
        let next = |found: Option<State>| {
            let found = found.unwrap_or_else(|| begun.clone());
            if now.duration_since(found.renewed) < STALE || found.step.is_last() {
                return Err(busy(&found));
            }
            Ok(State {
                holder: holder.clone(),
                renewed: now,
                ..found
            })
        };
        Self::hold(host, request, member, stored, true, next).await
    }

    async fn hold(
        host: &'a Host,
        request: &'a Request,
        member: &'a OnMember<'a>,
        stored: Stored,
        resumed: bool,
        next: impl FnMut(Option<State>) -> Result<State, RestoreError>,
    ) -> Result<Self, RestoreError> {
        Ok(Self {
            host,
            request,
            member,
            state: stored.change(next).await?,
            stored,
            resumed,
        })
    }

    fn observe(
        &self,
        observer: &mut (dyn FnMut(&State) -> ControlFlow<()> + Send),
    ) -> Result<(), RestoreError> {
        match observer(&self.state) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(RestoreError::Ended(self.state.step)),
        }
    }

    /// Writes down where we stand; fails if another run holds it by now.
    async fn keep(&mut self, change: impl Fn(&mut State)) -> Result<(), RestoreError> {
        let holder = self.state.holder.clone();
        let now: Timestamp = self.host.clock.now();
        self.state = self
            .stored
            .change(|found| match found {
                Some(mut found) if found.holder == holder => {
                    found.renewed = now;
                    change(&mut found);
                    Ok(found)
                }
                Some(other) => Err(busy(&other)),
                None => Err(RestoreError::Unknown(self.request.cluster.clone())),
            })
            .await?;
        Ok(())
    }

    /// The one write that changes the member's configuration.
    async fn change(
        mut self,
        map: k8s_openapi::api::core::v1::ConfigMap,
        plan: &Plan,
        observer: &mut (dyn FnMut(&State) -> ControlFlow<()> + Send),
    ) -> Result<Self, RestoreError> {
        if !plan.changes.is_empty()
            && let Err(error) = self.member.write(map, plan, &self.state.id).await
        {
            // Nothing was changed: the next one begins anew.
            self.keep(|state| state.step = Step::Undone).await?;
            return Err(error);
        }
        self.observe(observer)?;
        if self.state.scaled {
            self.member.scale(1).await?;
        }
        self.keep(|state| state.step = Step::Changed).await?;
        self.observe(observer)?;
        Ok(self)
    }

    /// From whatever step was reached to the end.
    async fn go_on(
        mut self,
        observer: &mut (dyn FnMut(&State) -> ControlFlow<()> + Send),
    ) -> Result<Report, RestoreError> {
        if self.state.step == Step::Planned {
            // Cut off before or just after the write. The write carries our mark, so it can be told.
            let map = self.member.configuration().await?;
            if member::is_marked(&map, &self.state.id) || self.state.keys.is_empty() {
                if self.state.scaled {
                    self.member.scale(1).await?;
                }
                self.keep(|state| state.step = Step::Changed).await?;
            } else {
                let plan = self
                    .member
                    .plan(&member::text(&map), uuid::Uuid::new_v4().as_bytes())
                    .await?;
                self = self.change(map, &plan, observer).await?;
            }
            self.observe(observer)?;
        }
        let mut last = None;
        if self.state.step == Step::Changed {
            last = self.prove(self.request.patience.live).await?;
            if last.is_some() {
                self.member.restart(self.state.restart).await?;
                self.observe(observer)?;
                self.keep(|state| {
                    state.step = Step::Restarted;
                    state.restarted = true;
                })
                .await?;
                self.observe(observer)?;
            }
        }
        if self.state.step == Step::Restarted {
            last = self.prove(self.request.patience.restarted).await?;
        }
        if self.state.step == Step::Undoing {
            let evidence = "an earlier run found that it did not help".to_owned();
            last = Some((None, evidence));
        }
        let Some((code, evidence)) = last else {
            self.keep(|state| state.step = Step::Restored).await?;
            self.observe(observer)?;
            return Ok(Report {
                cluster: self.request.cluster.clone(),
                outcome: Outcome::Restored,
                code: None,
                evidence: String::new(),
                changes: Vec::new(),
                scaled: self.state.scaled,
                restarted: self.state.restarted,
                resumed: self.resumed,
            });
        };
        if self.state.step != Step::Undoing {
            self.keep(|state| state.step = Step::Undoing).await?;
            self.observe(observer)?;
        }
        let back = self.member.put_back(&self.state.id).await?;
        self.observe(observer)?;
        if self.state.scaled {
            self.member.scale(0).await?;
        } else if self.state.restarted && back {
            // What runs now has read the new text.
            let again = self
                .state
                .restart
                .saturating_add(jiff::SignedDuration::from_secs(1))
                .unwrap_or(self.state.restart);
            self.member.restart(again).await?;
        }
        self.keep(|state| state.step = Step::Undone).await?;
        self.observe(observer)?;
        if !back && !self.state.keys.is_empty() {
            return Err(RestoreError::NotUndone { evidence });
        }
        Err(RestoreError::NotProven { code, evidence })
    }

    /// Asks until the member accepts; what it last said if it does not in this time.
    async fn prove(
        &mut self,
        within: Duration,
    ) -> Result<Option<(Option<AccessCode>, String)>, RestoreError> {
        let deadline = tokio::time::Instant::now() + within;
        let mut renew = tokio::time::Instant::now() + RENEW;
        loop {
            let (code, evidence) = match self.member.probe().await {
                Answer::Accepted => return Ok(None),
                Answer::Refused { code, evidence } => (code, evidence),
            };
            let now = tokio::time::Instant::now();
            if now >= deadline {
                return Ok(Some((code, evidence)));
            }
            if now >= renew {
                self.keep(|_| {}).await?;
                renew = now + RENEW;
            }
            tokio::time::sleep(self.request.patience.look).await;
        }
    }
}

/// Between two signs of life of a run, well under [`STALE`].
const RENEW: Duration = Duration::from_secs(4);

fn busy(state: &State) -> RestoreError {
    RestoreError::Busy {
        by: state.by.clone(),
        step: state.step,
    }
}
