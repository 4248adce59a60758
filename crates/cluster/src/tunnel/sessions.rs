//! The tunnels that this process holds.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kah_net::tunnel::Session;
use tokio::sync::watch;

/// By UID of the Cluster object: another object of the same name is another member.
#[derive(Debug)]
pub(crate) struct Sessions {
    held: Mutex<HashMap<String, Vec<Session>>>,
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

    fn held(&self) -> MutexGuard<'_, HashMap<String, Vec<Session>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one more; `false` where a member has as many as it may.
    pub(crate) fn add(&self, uid: &str, session: &Session) -> bool {
        let mut held = self.held();
        let sessions = held.entry(uid.to_owned()).or_default();
        sessions.retain(|session| !session.is_closed());
        if sessions.len() >= self.per_member {
            return false;
        }
        sessions.push(session.clone());
        let first = sessions.len() == 1;
        drop(held);
        if first {
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
        sessions.retain(|other| !other.is(session));
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
                let live = sessions.iter().filter(|session| !session.is_closed());
                live.cloned().collect()
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

    /// The members that are held, in order.
    pub(crate) fn uids(&self) -> Vec<String> {
        let mut uids: Vec<String> = self.held().keys().cloned().collect();
        uids.sort();
        uids
    }

    pub(crate) fn count(&self) -> usize {
        self.held().values().map(Vec::len).sum()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
