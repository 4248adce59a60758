//! A run of a restore: it holds the state in the Cluster object, goes on from whatever step was reached, and tells its observer each.

use std::{ops::ControlFlow, pin::pin, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kah_api::cluster::Trust;
use tokio::time::Instant;

use super::{
    Outcome, Plan, Report, Request, RestoreError,
    member::{self, OnMember},
    state::{State, Step, Stored},
    user,
};
use crate::{AccessCode, Answer, Host, retry::TRIES};

/// Told after every step that was written down; may end the run there.
pub type Observer<'a> = &'a mut (dyn FnMut(&State) -> ControlFlow<()> + Send);

/// For one write on the member, whatever the network does.
const WRITE: Duration = Duration::from_secs(15);

/// Acceptances in a row that prove access: while Pods are replaced, one that is new may answer between two that are old.
const STEADY: usize = 3;

/// A run that holds the restore of one member.
pub(super) struct Run<'a> {
    host: &'a Host,
    request: &'a Request,
    member: &'a OnMember<'a>,
    stored: Stored,
    state: State,
    resumed: bool,
}

/// What a run is to do beside the configuration.
pub(super) struct Beside {
    /// The Deployment gets a replica.
    pub(super) scaled: bool,
    /// This user is brought to the member.
    pub(super) user: Option<String>,
}

impl<'a> Run<'a> {
    pub(super) async fn begin(
        host: &'a Host,
        request: &'a Request,
        member: &'a OnMember<'a>,
        plan: &Plan,
        beside: Beside,
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
            scaled: beside.scaled,
            user: beside.user,
            restarted: false,
            trust: member.wanted(),
        };
        let stored = Stored::of(host, &request.cluster);
        let state = stored
            .change(|found| match found {
                Some(found) if !found.step.is_last() => Err(busy(&found)),
                _ => Ok(fresh.clone()),
            })
            .await?;
        Ok(Self {
            host,
            request,
            member,
            stored,
            state,
            resumed: false,
        })
    }

    /// Takes over what another run left; `None` where nothing is left. One that still writes is left alone, and whether it does is waited for: a run
    /// renews its state all the time, so one whose state stands still is over, whatever the clocks of two machines say. One that has said that it is
    /// over is not waited for.
    pub(super) async fn take_over(
        host: &'a Host,
        request: &'a Request,
        member: &'a OnMember<'a>,
    ) -> Result<Option<Self>, RestoreError> {
        let stored = Stored::of(host, &request.cluster);
        let mut seen: Option<(State, Instant)> = None;
        loop {
            let Some(found) = stored.read().await?.filter(|it| !it.step.is_last()) else {
                return Ok(None);
            };
            let still = match &seen {
                Some((before, since)) if *before == found => since.elapsed(),
                Some(_) => return Err(busy(&found)),
                None => {
                    seen = Some((found.clone(), Instant::now()));
                    Duration::ZERO
                }
            };
            if found.renewed != OVER && still < request.patience.stale {
                tokio::time::sleep(self::LOOK.min(request.patience.look)).await;
                continue;
            }
            let now = host.clock.now();
            let holder = uuid::Uuid::new_v4().to_string();
            let taken = stored
                .change(|state| match state {
                    Some(state) if state == found => Ok(State {
                        holder: holder.clone(),
                        renewed: now,
                        ..state
                    }),
                    // Somebody else took it over, or it ended: look again.
                    Some(state) => Err(busy(&state)),
                    None => Err(RestoreError::Unknown(request.cluster.clone())),
                })
                .await;
            match taken {
                Ok(state) => {
                    return Ok(Some(Self {
                        host,
                        request,
                        member,
                        stored,
                        state,
                        resumed: true,
                    }));
                }
                Err(RestoreError::Busy { .. }) => seen = None,
                Err(error) => return Err(error),
            }
        }
    }

    /// The trust that this run is to make work, where it is not the one that was in force.
    pub(super) fn trust(&self) -> Option<Trust> {
        self.state.trust
    }

    /// The same run on the member as it was begun for.
    pub(super) fn on<'b>(self, member: &'b OnMember<'b>) -> Run<'b>
    where
        'a: 'b,
    {
        Run { member, ..self }
    }

    /// From the plan to the end.
    pub(super) async fn carry_out(
        mut self,
        map: ConfigMap,
        plan: &Plan,
        observer: Observer<'_>,
    ) -> Result<Report, RestoreError> {
        let ended = async {
            self.observe(observer)?;
            self.change(map, plan, observer).await?;
            self.steps(observer).await
        }
        .await;
        self.let_go(ended).await
    }

    /// From whatever step was reached to the end.
    pub(super) async fn go_on(mut self, observer: Observer<'_>) -> Result<Report, RestoreError> {
        let ended = self.steps(observer).await;
        self.let_go(ended).await
    }

    /// A run that fails says that it is over, so that the next need not wait for it to fall silent.
    async fn let_go(mut self, ended: Result<Report, RestoreError>) -> Result<Report, RestoreError> {
        let over = self.state.step.is_last();
        let quiet = matches!(
            ended,
            Ok(_) | Err(RestoreError::Ended(_) | RestoreError::Busy { .. })
        );
        if !over && !quiet {
            // If that cannot be written it is found out by waiting.
            let _ = self.keep(|state| state.renewed = OVER).await;
        }
        ended
    }

    fn observe(&self, observer: Observer<'_>) -> Result<(), RestoreError> {
        match observer(&self.state) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(RestoreError::Ended(self.state.step)),
        }
    }

    /// Writes down where we stand; fails if another run holds it by now.
    async fn keep(&mut self, change: impl Fn(&mut State)) -> Result<(), RestoreError> {
        let holder = self.state.holder.clone();
        let now: Timestamp = self.host.clock.now();
        let cluster = &self.request.cluster;
        self.state = self
            .stored
            .change(|found| match found {
                Some(mut found) if found.holder == holder => {
                    found.renewed = now;
                    change(&mut found);
                    Ok(found)
                }
                Some(other) => Err(busy(&other)),
                None => Err(RestoreError::Unknown(cluster.clone())),
            })
            .await?;
        Ok(())
    }

    /// Does something while saying all the time that this run is alive; drops it if another run holds the restore by now.
    async fn holding<T>(
        &mut self,
        work: impl Future<Output = Result<T, RestoreError>>,
    ) -> Result<T, RestoreError> {
        let mut work = pin!(work);
        loop {
            let renew = self.request.patience.stale / 5;
            match tokio::time::timeout(renew, &mut work).await {
                Ok(done) => return done,
                Err(_) => match self.keep(|_| {}).await {
                    // The host's own API may be away for a moment; whether we still hold it is asked again before anything is written down.
                    Ok(()) | Err(RestoreError::Api { .. }) => {}
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// The one write that changes the member's configuration, and what goes with it.
    async fn change(
        &mut self,
        map: ConfigMap,
        plan: &Plan,
        observer: Observer<'_>,
    ) -> Result<(), RestoreError> {
        if !plan.changes.is_empty()
            && let Err(Unwritten { error, refused }) = self.write(map, plan).await
        {
            // What got no answer may be there, or arrive in a moment: whoever goes on is told by the mark.
            if refused {
                self.keep(|state| state.step = Step::Undone).await?;
            }
            return Err(error);
        }
        self.observe(observer)?;
        self.changed(observer).await
    }

    /// Writes what is planned. Where somebody else has written in between, the same keys are planned anew in what they wrote.
    async fn write(&mut self, mut map: ConfigMap, plan: &Plan) -> Result<(), Unwritten> {
        let (member, id) = (self.member, self.state.id.clone());
        let mut refused = true;
        let mut again: Option<Plan> = None;
        let mut tries = 0;
        loop {
            let plan = again.as_ref().unwrap_or(plan);
            if plan.changes.is_empty() {
                return Ok(());
            }
            let write = limited(member.write(map, plan, &id));
            let Err(error) = self.holding(write).await else {
                return Ok(());
            };
            refused = refused && error.is_refusal();
            let unwritten = |error| Unwritten { error, refused };
            // It may have arrived nevertheless; only if it has not, the next one begins anew.
            map = limited(member.configuration()).await.map_err(unwritten)?;
            if member::is_marked(&map, &id) {
                return Ok(());
            }
            tries += 1;
            if !error.is_conflict() || tries == TRIES {
                return Err(unwritten(error));
            }
            let (key, keys) = (uuid::Uuid::new_v4(), self.state.keys.clone());
            let text = member::text(&map);
            let plan = member.plan(&text, key.as_bytes(), Some(&keys)).await;
            again = Some(plan.map_err(unwritten)?);
        }
    }

    /// What goes with the configuration; all of it may be done twice.
    async fn changed(&mut self, observer: Observer<'_>) -> Result<(), RestoreError> {
        let (member, id) = (self.member, self.state.id.clone());
        if self.state.scaled {
            self.holding(limited(member.scale_up(&id))).await?;
        }
        if let Some(name) = self.state.user.clone() {
            let host = self.host;
            let brought = limited(user::ensure(host, member.member(), &name));
            if let Err(error) = self.holding(brought).await {
                // What only people can change would fail in each later run, and none of them could repair anything else.
                if error.is_for_people() {
                    self.put_back(observer).await?;
                }
                return Err(error);
            }
        }
        self.keep(|state| state.step = Step::Changed).await?;
        self.observe(observer)
    }

    async fn steps(&mut self, observer: Observer<'_>) -> Result<Report, RestoreError> {
        if self.state.step == Step::Planned {
            // Cut off before or just after the write. The write carries our mark, so it can be told.
            let map = limited(self.member.configuration()).await?;
            if member::is_marked(&map, &self.state.id) || self.state.keys.is_empty() {
                self.changed(observer).await?;
            } else {
                let key = uuid::Uuid::new_v4();
                let plan = self
                    .member
                    .plan(&member::text(&map), key.as_bytes(), Some(&self.state.keys))
                    .await?;
                self.change(map, &plan, observer).await?;
            }
        }
        let mut last = None;
        if self.state.step == Step::Changed {
            last = self.prove(self.request.patience.live).await?;
            if last.is_some() {
                let (member, at) = (self.member, self.state.restart);
                self.holding(limited(member.restart(at))).await?;
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
                outcome: Outcome::Restored,
                scaled: self.state.scaled,
                restarted: self.state.restarted,
                resumed: self.resumed,
                ..Report::nothing_to_do(&self.request.cluster)
            });
        };
        self.undo(code, evidence, observer).await
    }

    /// Puts back what is as this restore left it; what people have changed since is theirs.
    async fn undo(
        &mut self,
        code: Option<AccessCode>,
        evidence: String,
        observer: Observer<'_>,
    ) -> Result<Report, RestoreError> {
        let back = self.put_back(observer).await?;
        if !back && !self.state.keys.is_empty() {
            return Err(RestoreError::NotUndone { evidence });
        }
        Err(RestoreError::NotProven { code, evidence })
    }

    /// Puts back what can be; whether the member's configuration is the old one.
    async fn put_back(&mut self, observer: Observer<'_>) -> Result<bool, RestoreError> {
        if self.state.step != Step::Undoing {
            self.keep(|state| state.step = Step::Undoing).await?;
            self.observe(observer)?;
        }
        let member = self.member;
        let (id, keys) = (self.state.id.clone(), self.state.keys.clone());
        let back = self.holding(limited(member.put_back(&id, &keys))).await?;
        self.observe(observer)?;
        if self.state.scaled {
            self.holding(limited(member.scale_down(&id))).await?;
        } else if self.state.restarted && back {
            // What runs now has read the new text.
            let at = self.state.restart;
            self.holding(limited(member.restart_again(at))).await?;
        }
        self.keep(|state| state.step = Step::Undone).await?;
        self.observe(observer)?;
        Ok(back)
    }

    /// Asks until the member accepts, and goes on to; what it last said if it does not in this time.
    async fn prove(
        &mut self,
        within: Duration,
    ) -> Result<Option<(Option<AccessCode>, String)>, RestoreError> {
        let deadline = Instant::now() + within;
        let (member, look) = (self.member, self.request.patience.look);
        self.holding(async {
            let mut accepted = 0;
            loop {
                match member.probe().await {
                    Answer::Accepted => accepted += 1,
                    Answer::Refused { code, evidence } => {
                        accepted = 0;
                        if Instant::now() >= deadline {
                            return Ok(Some((code, evidence)));
                        }
                    }
                }
                if accepted == STEADY {
                    return Ok(None);
                }
                tokio::time::sleep(look).await;
            }
        })
        .await
    }
}

/// `renewed` of a run that has ended before its time, and has said so.
const OVER: Timestamp = Timestamp::UNIX_EPOCH;

/// A configuration that was not written, as far as is known.
struct Unwritten {
    error: RestoreError,
    /// Whether the member has said no each time.
    refused: bool,
}

/// Between two looks at another run's state.
const LOOK: Duration = Duration::from_millis(200);

async fn limited<T>(
    work: impl Future<Output = Result<T, RestoreError>>,
) -> Result<T, RestoreError> {
    match tokio::time::timeout(WRITE, work).await {
        Ok(done) => done,
        Err(_) => Err(RestoreError::Silent),
    }
}

fn busy(state: &State) -> RestoreError {
    RestoreError::Busy {
        by: state.by.clone(),
        step: state.step,
    }
}
