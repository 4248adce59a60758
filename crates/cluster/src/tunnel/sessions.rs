//! The tunnels that this process holds.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use kah_net::tunnel::Session;
use tokio::sync::watch;

use super::authority::AgentIdentity;

/// A tunnel, and when the certificate ends that its agent showed.
#[derive(Debug)]
struct Held {
    session: Session,
    ends: Timestamp,
    /// Of the agent's enrolment.
    generation: u64,
}

/// By UID of the Cluster object: another object of the same name is another member.
#[derive(Debug)]
pub(crate) struct Sessions {
    held: Mutex<HashMap<String, Vec<Held>>>,
    per_member: usize,
    /// Counts the changes of which members are held.
    changed: watch::Sender<u64>,
}

impl Sessions {
    pub(crate) fn new(per_member: usize) -> Self {
        Self {
            held: Mutex::default(),
            per_member,
            changed: watch::Sender::new(0),
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Vec<Held>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one more, whose agent showed a certificate that ends then; `false` where a member has as many as it may.
    pub(crate) fn add(&self, agent: &AgentIdentity, session: &Session, ends: Timestamp) -> bool {
        let mut held = self.held();
        let sessions = held.entry(agent.uid.clone()).or_default();
        sessions.retain(|held| !held.session.is_closed());
        if sessions.len() >= self.per_member {
            return false;
        }
        let before = last(sessions);
        sessions.push(Held {
            session: session.clone(),
            ends,
            generation: agent.generation,
        });
        let news = before.is_none_or(|before| before < ends);
        drop(held);
        if news {
            self.changed.send_modify(|count| *count += 1);
        }
        true
    }

    /// Forgets one.
    pub(crate) fn remove(&self, uid: &str, session: &Session) {
        let mut held = self.held();
        let Some(sessions) = held.get_mut(uid) else {
            return;
        };
        sessions.retain(|held| !held.session.is(session));
        if sessions.is_empty() {
            held.remove(uid);
            drop(held);
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Those of one member that live, the least loaded first.
    pub(crate) fn of(&self, uid: &str) -> Vec<Session> {
        let mut sessions: Vec<Session> = self
            .held()
            .get(uid)
            .map(|sessions| {
                let all = sessions.iter().map(|held| &held.session);
                all.filter(|session| !session.is_closed())
                    .cloned()
                    .collect()
            })
            .unwrap_or_default();
        sessions.sort_by_key(Session::load);
        sessions
    }

    /// Ends those of one member.
    pub(crate) fn close(&self, uid: &str) {
        for session in self.of(uid) {
            session.close();
        }
    }

    /// Ends those of one member whose agents enrolled before this generation.
    pub(crate) fn close_before(&self, uid: &str, generation: u64) {
        for held in self.held().get(uid).into_iter().flatten() {
            if held.generation < generation {
                held.session.close();
            }
        }
    }

    /// The members that are held, in order, and when the certificates of their agents end.
    pub(crate) fn members(&self) -> Vec<(String, Timestamp)> {
        let held = self.held();
        let members = held.iter();
        let mut members: Vec<_> = members
            .filter_map(|(uid, sessions)| Some((uid.clone(), last(sessions)?)))
            .collect();
        members.sort();
        members
    }

    /// When the certificate of this member's agent ends.
    pub(crate) fn certificate_ends(&self, uid: &str) -> Option<Timestamp> {
        last(self.held().get(uid)?)
    }

    pub(crate) fn count(&self) -> usize {
        self.held().values().map(Vec::len).sum()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// An agent replaces its tunnels after it has got a new certificate: the newest counts.
fn last(sessions: &[Held]) -> Option<Timestamp> {
    sessions.iter().map(|held| held.ends).max()
}
