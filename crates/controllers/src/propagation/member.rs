//! The worker of one member.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    mem::{Discriminant, discriminant},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::{FutureExt, StreamExt, TryStreamExt};
use kah_cluster::{
    Host, Member,
    propagate::{
        Action, Ending, KINDS, Kind, Owner, Pages, Place, PropagateError, Wanted, carry_out,
        decide, member_client, read_copy, read_source, wanted,
    },
    retry::spread,
};
use kube::{Api, Client, api::DynamicObject};
use tokio::time::Instant;

use super::{
    Pace,
    fleet::Seen,
    overdue::Cause,
    queue::{Key, Queue},
    sources::Sources,
    told::Told,
};

/// Objects of one member that are written at once.
const AT_ONCE: usize = 8;
/// Objects of a long look after which single changes have their turn.
const BETWEEN: usize = 200;

pub(super) struct Worker {
    pub(super) pace: Pace,
    pub(super) host: Host,
    pub(super) owner: Owner,
    pub(super) sources: Arc<Sources>,
    /// Of the Cluster.
    pub(super) name: String,
    /// Of the Cluster.
    pub(super) uid: String,
    pub(super) seen: Arc<ArcSwap<Seen>>,
    pub(super) queue: Arc<Queue>,
    pub(super) memory: Memory,
    pub(super) told: Told,
}

/// What a worker remembers of single objects.
#[derive(Default)]
pub(super) struct Memory {
    /// What the member makes of copies that it does not store as they are: not written again until one side changes.
    settled: HashMap<Key, Settled>,
    /// Objects that the member refuses, and why; without a name the list of a kind.
    refused: HashMap<Key, Refused>,
}

#[derive(PartialEq, Eq)]
struct Refused {
    cause: Discriminant<PropagateError>,
    reason: String,
}

#[derive(PartialEq, Eq)]
struct Settled {
    version: Option<String>,
    copy: u64,
}

/// Why a worker cannot go on.
#[derive(Debug, thiserror::Error)]
enum Stuck {
    #[error("the registry does not know this cluster yet")]
    Unknown,
    #[error(transparent)]
    Way(#[from] PropagateError),
}

/// What came of one object.
enum Outcome {
    /// It is as it should be.
    Done,
    /// The member keeps it otherwise than it was written.
    Settled(Settled),
    Refused(PropagateError),
}

impl Worker {
    pub(super) async fn run(mut self) {
        tokio::time::sleep(self.pace.stagger.mul_f64((self.pace.chance)())).await;
        let mut failures = 0;
        loop {
            let stuck = self.until_stuck(&mut failures).await;
            self.tell(Some(&stuck)).await;
            match stuck {
                stuck if failures == 0 => {
                    tracing::warn!(
                        cluster = self.name,
                        error = super::chain(&stuck),
                        "nothing can be propagated to this member; trying again"
                    );
                }
                stuck => tracing::debug!(
                    cluster = self.name,
                    error = super::chain(&stuck),
                    "nothing can be propagated to this member yet"
                ),
            }
            failures = failures.saturating_add(1);
            let pause = self.pace.retry.pause(failures, (self.pace.chance)());
            let again = tokio::time::sleep(pause);
            tokio::select! {
                () = again => {}
                () = self.woken() => {}
            }
        }
    }

    /// Waits until somebody says that everything may have changed, the way to the member for one.
    async fn woken(&self) {
        while !self.queue.take().await.all {}
    }

    /// Looks and carries changes until the member cannot be reached.
    async fn until_stuck(&mut self, failures: &mut u32) -> Stuck {
        loop {
            // What was pushed before is seen by the look.
            self.queue.take_now();
            let read = match self.look().await {
                Ok(read) => read,
                Err(stuck) => return stuck,
            };
            if std::mem::take(failures) > 0 {
                tracing::info!(cluster = self.name, "this member is up to date again");
            }
            self.tell(None).await;
            let next = Instant::now() + self.pause(read);
            while let Some(work) = self.queue.take_until(next).await {
                if work.all {
                    break;
                }
                let carried = match self.client().await {
                    Ok(client) => self.carry(&client, work.keys).await,
                    Err(stuck) => Err(stuck),
                };
                if let Err(stuck) = carried {
                    return stuck;
                }
                self.tell(None).await;
            }
        }
    }

    /// Tells what is in the way, if anything is.
    async fn tell(&mut self, stuck: Option<&Stuck>) {
        let mut names: HashMap<Cause, (&str, &str, usize)> = HashMap::new();
        for ((kind, name), refused) in &self.memory.refused {
            let cause = Cause::Objects(*kind, refused.cause);
            let first = names.entry(cause).or_insert((name, &refused.reason, 0));
            if name.as_str() < first.0 {
                (first.0, first.1) = (name, &refused.reason);
            }
            first.2 += 1;
        }
        let mut present: Vec<(Cause, String)> = names
            .into_iter()
            .map(|(cause, (_, reason, count))| match count {
                1 => (cause, reason.to_owned()),
                _ => (cause, format!("{reason}, and {} more", count - 1)),
            })
            .collect();
        if let Some(stuck) = stuck {
            let cause = match stuck {
                Stuck::Unknown => None,
                Stuck::Way(error) => Some(discriminant(error)),
            };
            present.push((Cause::Member(cause), super::chain(stuck)));
        }
        let waiting = self.memory.refused.len() + self.queue.waiting();
        self.told
            .tell(&self.host, &self.pace, &self.uid, waiting, &present)
            .await;
    }

    fn pause(&self, read: u32) -> Duration {
        spread(self.pace.look, 50, (self.pace.chance)()).max(self.pace.rest.saturating_mul(read))
    }

    async fn client(&self) -> Result<Client, Stuck> {
        let member: Arc<Member> = self
            .host
            .registry
            .get(&self.name)
            .filter(|member| member.uid() == self.uid)
            .ok_or(Stuck::Unknown)?;
        Ok(member_client(&member, &self.owner).await?)
    }

    /// Compares everything that the member holds with what it should hold, and mends the difference. Gives the number of objects that were read.
    async fn look(&mut self) -> Result<u32, Stuck> {
        let client = self.client().await?;
        let mut read = 0u32;
        for (index, kind) in KINDS.iter().enumerate() {
            let Some(mut missing) = self.sources.all(index) else {
                continue;
            };
            let objects: Api<DynamicObject> = Api::all_with(client.clone(), &kind.copy());
            let (mut pages, mut known) = (Pages::of(objects, None), false);
            let whole = (index, String::new());
            loop {
                let page = match pages.next().await {
                    Ok(Some(page)) => page,
                    Ok(None) => {
                        self.memory.refused.remove(&whole);
                        break;
                    }
                    // Other kinds may well be read; of this one nothing is known.
                    Err(error) if error.is_of_the_object() => {
                        self.note(whole, Outcome::Refused(error));
                        known = false;
                        break;
                    }
                    Err(error) => return Err(error.into()),
                };
                known = true;
                read = read.saturating_add(u32::try_from(page.len()).unwrap_or(u32::MAX));
                let pairs = page.into_iter().filter_map(|live| {
                    let name = live.metadata.name.clone()?;
                    missing.remove(&name);
                    Some(((index, name), Some(live)))
                });
                self.settle(&client, pairs.collect()).await?;
                self.carry_between(&client).await?;
            }
            if known {
                let mut missing = missing
                    .into_keys()
                    .map(|name| ((index, name), None))
                    .peekable();
                while missing.peek().is_some() {
                    let some = missing.by_ref().take(BETWEEN).collect();
                    self.settle(&client, some).await?;
                    self.carry_between(&client).await?;
                }
            }
        }
        let sources = &self.sources;
        let exists = |key: &Key| matches!(sources.get(key.0, &key.1), Some(Some(_)));
        self.memory.settled.retain(|key, _| exists(key));
        self.memory
            .refused
            .retain(|key, _| key.1.is_empty() || exists(key));
        Ok(read)
    }

    /// Carries what has changed since a long look began.
    async fn carry_between(&mut self, client: &Client) -> Result<(), Stuck> {
        let keys = self.queue.take_keys();
        if keys.is_empty() {
            return Ok(());
        }
        self.carry(client, keys).await
    }

    /// Carries single changes.
    async fn carry(&mut self, client: &Client, keys: HashSet<Key>) -> Result<(), Stuck> {
        let read = keys.into_iter().map(|key| {
            let read = async move {
                let live = match KINDS.get(key.0) {
                    Some(kind) => read_copy(client, kind, &key.1).await,
                    None => Ok(None),
                };
                (key, live)
            };
            read.boxed()
        });
        let read: Vec<_> = read.collect();
        let mut read = futures::stream::iter(read).buffer_unordered(AT_ONCE);
        let mut pairs = Vec::new();
        while let Some((key, live)) = read.next().await {
            match live {
                Ok(live) => pairs.push((key, live)),
                Err(error) if error.is_of_the_object() => self.note(key, Outcome::Refused(error)),
                Err(error) => return Err(error.into()),
            }
        }
        self.settle(client, pairs).await
    }

    /// Mends what differs. Ends early only where the member cannot be reached.
    async fn settle(
        &mut self,
        client: &Client,
        pairs: Vec<(Key, Option<DynamicObject>)>,
    ) -> Result<(), Stuck> {
        let this = &*self;
        let outcomes: Vec<(Key, Outcome)> = futures::stream::iter(pairs)
            .map(|(key, live)| async {
                let outcome = this.mend(client, &key, live).await;
                match outcome {
                    Ok(outcome) => Ok((key, outcome)),
                    Err(error) if error.is_of_the_object() => Ok((key, Outcome::Refused(error))),
                    Err(error) => Err(error),
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        for (key, outcome) in outcomes {
            self.note(key, outcome);
        }
        Ok(())
    }

    fn note(&mut self, key: Key, outcome: Outcome) {
        match outcome {
            Outcome::Done => {
                self.memory.settled.remove(&key);
                self.memory.refused.remove(&key);
            }
            Outcome::Settled(settled) => {
                self.memory.refused.remove(&key);
                self.memory.settled.insert(key, settled);
            }
            Outcome::Refused(error) => {
                if error.is_conflict()
                    && !key.1.is_empty()
                    && !self.memory.refused.contains_key(&key)
                {
                    self.queue.push(key.clone());
                }
                let reason = super::chain(&error);
                let refused = Refused {
                    cause: discriminant(&error),
                    reason,
                };
                if self.memory.refused.get(&key) != Some(&refused) {
                    let reason = &refused.reason;
                    let kind = KINDS.get(key.0).map_or("", |kind| kind.name);
                    // Every new user's password is in clear text for a moment.
                    if matches!(error, PropagateError::NotYet { kind: "User", .. }) {
                        tracing::debug!(
                            cluster = self.name,
                            kind,
                            name = key.1,
                            error = reason,
                            "a user is not propagated yet"
                        );
                    } else {
                        tracing::warn!(
                            cluster = self.name,
                            kind,
                            name = key.1,
                            error = reason,
                            "an object is not propagated to this member"
                        );
                    }
                    self.memory.refused.insert(key, refused);
                }
            }
        }
    }

    async fn mend(
        &self,
        client: &Client,
        key: &Key,
        live: Option<DynamicObject>,
    ) -> Result<Outcome, PropagateError> {
        let (index, name) = key;
        let (Some(kind), Some(source)) = (KINDS.get(*index), self.sources.get(*index, name)) else {
            return Ok(Outcome::Done);
        };
        let wanted = self.wanted(kind, source.as_deref());
        if let Wanted::AsItIs(reason) = wanted {
            return Err(PropagateError::NotYet {
                kind: kind.name,
                name: name.clone(),
                reason,
            });
        }
        let ending = self.sources.ending(*index, name);
        let action = decide(kind, &wanted, live.as_ref(), &self.owner, ending);
        let copy = match &action {
            Action::Nothing => return Ok(Outcome::Done),
            Action::Delete(_) | Action::GiveBack => {
                return self.take_away(client, kind, name, ending, live).await;
            }
            Action::Apply(copy) => fingerprint(copy),
            Action::Foreign(_) => 0,
        };
        let settled = |live: Option<&DynamicObject>| Settled {
            version: live.and_then(|live| live.metadata.resource_version.clone()),
            copy,
        };
        let before = settled(live.as_ref());
        if live.is_some() && self.memory.settled.get(key) == Some(&before) {
            return Ok(Outcome::Settled(before));
        }
        let after = carry_out(client, kind, &action, live.as_ref()).await?;
        let equal = decide(kind, &wanted, after.as_ref(), &self.owner, ending) == Action::Nothing;
        Ok(if equal {
            Outcome::Done
        } else {
            Outcome::Settled(settled(after.as_ref()))
        })
    }

    fn wanted(&self, kind: &Kind, source: Option<&DynamicObject>) -> Wanted {
        let seen = self.seen.load();
        let place = Place {
            name: &self.name,
            labels: &seen.labels,
            passwords: seen.passwords,
        };
        source.map_or(Wanted::Nothing, |source| {
            wanted(kind, source, &self.owner, place)
        })
    }

    /// A watch may lag behind, and somebody else may have brought a copy already: the host is asked once more before one is taken away.
    async fn take_away(
        &self,
        client: &Client,
        kind: &Kind,
        name: &str,
        ending: Ending,
        live: Option<DynamicObject>,
    ) -> Result<Outcome, PropagateError> {
        let source = read_source(&self.host.client, kind, name).await?;
        let wanted = self.wanted(kind, source.as_ref());
        if wanted == Wanted::Nothing {
            let action = decide(kind, &wanted, live.as_ref(), &self.owner, ending);
            carry_out(client, kind, &action, live.as_ref()).await?;
        }
        Ok(Outcome::Done)
    }
}

fn fingerprint(copy: &DynamicObject) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(copy)
        .unwrap_or_default()
        .hash(&mut hasher);
    hasher.finish()
}
