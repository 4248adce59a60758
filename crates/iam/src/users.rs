//! The users of this cluster, fed by a watch.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use futures::TryStreamExt;
use kah_api::iam::{GlobalRoleBinding, User};
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use tokio_util::sync::CancellationToken;

use crate::roles::GlobalRoles;

/// Users by name and by e-mail address.
#[derive(Default)]
pub struct Users {
    by_name: RwLock<HashMap<String, Arc<User>>>,
}

impl Users {
    /// Takes the place of all.
    pub fn replace(&self, users: Vec<User>) {
        let users = users
            .into_iter()
            .map(|user| (user.name_any(), Arc::new(user)))
            .collect();
        *self.by_name.write().unwrap_or_else(PoisonError::into_inner) = users;
    }

    /// Adds or changes one.
    pub fn apply(&self, user: User) {
        self.by_name
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(user.name_any(), Arc::new(user));
    }

    /// Forgets one.
    pub fn remove(&self, name: &str) {
        self.by_name
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }

    /// By name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<User>> {
        self.by_name
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// By what a person types: an e-mail address if it looks like one, else a name.
    #[must_use]
    pub fn find(&self, login: &str) -> Option<Arc<User>> {
        if !login.contains('@') {
            return self.get(login);
        }
        let users = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<_> = users
            .values()
            .filter(|user| user.spec.email == login)
            .collect();
        found.sort_by_key(|user| user.name_any());
        found.first().map(|user| Arc::clone(user))
    }
}

/// Keeps users current until cancelled. `synced` is called after the first whole list.
pub async fn follow_users(
    client: Client,
    users: Arc<Users>,
    cancel: CancellationToken,
    synced: impl FnOnce() + Send,
) {
    let mut synced = Some(synced);
    let mut listed = Vec::new();
    let stream = watcher(Api::<User>::all(client), watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            event = stream.try_next() => event,
        };
        match event {
            Ok(Some(watcher::Event::Init)) => listed.clear(),
            Ok(Some(watcher::Event::InitApply(user))) => listed.push(user),
            Ok(Some(watcher::Event::InitDone)) => {
                users.replace(std::mem::take(&mut listed));
                if let Some(synced) = synced.take() {
                    synced();
                }
            }
            Ok(Some(watcher::Event::Apply(user))) => users.apply(user),
            Ok(Some(watcher::Event::Delete(user))) => users.remove(&user.name_any()),
            Ok(None) => return,
            Err(error) => tracing::warn!(%error, "watch users"),
        }
    }
}

/// Keeps global role bindings current until cancelled. `synced` is called after the first whole list.
pub async fn follow_roles(
    client: Client,
    roles: Arc<GlobalRoles>,
    cancel: CancellationToken,
    synced: impl FnOnce() + Send,
) {
    let mut synced = Some(synced);
    let mut listed = Vec::new();
    let stream = watcher(
        Api::<GlobalRoleBinding>::all(client),
        watcher::Config::default(),
    )
    .default_backoff();
    let mut stream = std::pin::pin!(stream);
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            event = stream.try_next() => event,
        };
        match event {
            Ok(Some(watcher::Event::Init)) => listed.clear(),
            Ok(Some(watcher::Event::InitApply(binding))) => listed.push(binding),
            Ok(Some(watcher::Event::InitDone)) => {
                roles.replace(std::mem::take(&mut listed));
                if let Some(synced) = synced.take() {
                    synced();
                }
            }
            Ok(Some(watcher::Event::Apply(binding))) => roles.apply(binding),
            Ok(Some(watcher::Event::Delete(binding))) => roles.remove(&binding.name_any()),
            Ok(None) => return,
            Err(error) => tracing::warn!(%error, "watch global role bindings"),
        }
    }
}
