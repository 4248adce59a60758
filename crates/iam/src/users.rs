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

/// What names of the system itself begin with. An object of that name is nobody, and a group of it is given by no object (security-tests.md H11).
pub const RESERVED: &str = "system:";

/// Users by name and by e-mail address. One with a reserved name is not among them.
#[derive(Default)]
pub struct Users {
    by_name: RwLock<HashMap<String, Arc<User>>>,
}

impl Users {
    /// Takes the place of all.
    pub fn replace(&self, users: Vec<User>) {
        let users = users
            .into_iter()
            .filter(|user| !user.name_any().starts_with(RESERVED))
            .map(|user| (user.name_any(), Arc::new(user)))
            .collect();
        *self.by_name.write().unwrap_or_else(PoisonError::into_inner) = users;
    }

    /// Adds or changes one.
    pub fn apply(&self, user: User) {
        if user.name_any().starts_with(RESERVED) {
            return;
        }
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

    /// All names, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let users = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<String> = users.keys().cloned().collect();
        names.sort_unstable();
        names
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
    let take = |change: Change<User>| match change {
        Change::All(listed) => users.replace(listed),
        Change::Apply(user) => users.apply(user),
        Change::Delete(user) => users.remove(&user.name_any()),
    };
    let all = watcher::Config::default();
    follow(Api::all(client), all, "watch users", take, cancel, synced).await;
}

/// Keeps global role bindings current until cancelled. `synced` is called after the first whole list.
pub async fn follow_roles(
    client: Client,
    roles: Arc<GlobalRoles>,
    cancel: CancellationToken,
    synced: impl FnOnce() + Send,
) {
    let take = |change: Change<GlobalRoleBinding>| match change {
        Change::All(listed) => roles.replace(listed),
        Change::Apply(binding) => roles.apply(binding),
        Change::Delete(binding) => roles.remove(&binding.name_any()),
    };
    let all = watcher::Config::default();
    follow(
        Api::all(client),
        all,
        "watch global role bindings",
        take,
        cancel,
        synced,
    )
    .await;
}

/// What a watch tells.
pub(crate) enum Change<K> {
    /// Everything there is; what is not in it is gone.
    All(Vec<K>),
    Apply(K),
    Delete(K),
}

/// Hands on the changes of one kind until cancelled; a watch that fails is begun again, with growing pauses.
pub(crate) async fn follow<K>(
    api: Api<K>,
    which: watcher::Config,
    doing: &'static str,
    mut take: impl FnMut(Change<K>) + Send,
    cancel: CancellationToken,
    synced: impl FnOnce() + Send,
) where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    let mut synced = Some(synced);
    let mut listed = Vec::new();
    let stream = watcher(api, which).default_backoff();
    let mut stream = std::pin::pin!(stream);
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            event = stream.try_next() => event,
        };
        match event {
            Ok(Some(watcher::Event::Init)) => listed.clear(),
            Ok(Some(watcher::Event::InitApply(object))) => listed.push(object),
            Ok(Some(watcher::Event::InitDone)) => {
                take(Change::All(std::mem::take(&mut listed)));
                if let Some(synced) = synced.take() {
                    synced();
                }
            }
            Ok(Some(watcher::Event::Apply(object))) => take(Change::Apply(object)),
            Ok(Some(watcher::Event::Delete(object))) => take(Change::Delete(object)),
            Ok(None) => return,
            Err(error) => tracing::warn!(%error, "{doing}"),
        }
    }
}
