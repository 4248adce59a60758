//! One user and what gives it global roles, at once.

use std::collections::BTreeSet;

use futures::{FutureExt, StreamExt, future::BoxFuture};
use kah_api::iam::{GlobalRoleBinding, User};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
};

use super::{
    Action, Ending, Kind, Owner, Place, PropagateError, Wanted, answered, carry_out, decide,
    is_federated, kind, member_client, read_copy, read_source, share_passwords, wanted,
};
use crate::{Host, Member};

/// Objects that are brought at once.
const AT_ONCE: usize = 8;

/// What was brought to a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ensured {
    /// Kind and name of what was written; empty where all was there and equal.
    pub written: Vec<(&'static str, String)>,
}

/// Brings one User, the GlobalRoleBindings that name it or one of its groups, and their GlobalRoles to a member. What is there and equal is not
/// written.
///
/// # Errors
/// [`PropagateError`].
pub async fn ensure_user(
    host: &Host,
    member: &Member,
    user: &str,
) -> Result<Ensured, PropagateError> {
    bring_user(host, member, user, true).await
}

/// Whether [`ensure_user`] could bring this user. Nothing is written.
///
/// # Errors
/// [`PropagateError`], as that one would give it.
pub async fn check_user(host: &Host, member: &Member, user: &str) -> Result<(), PropagateError> {
    bring_user(host, member, user, false).await.map(drop)
}

async fn bring_user(
    host: &Host,
    member: &Member,
    user: &str,
    write: bool,
) -> Result<Ensured, PropagateError> {
    let owner = Owner::of(&host.client).await?;
    let sources = sources(&host.client, user).await?;
    let client = member_client(member, &owner).await?;
    let bring = Bring {
        client: &client,
        owner: &owner,
        // The kinds that are brought here are not placed.
        place: Place {
            name: member.name(),
            labels: &Default::default(),
            passwords: share_passwords(member.trust(), member.is_undecided()),
        },
        write,
    };
    let mut ensured = Ensured::default();
    // What others refer to first, as in the table.
    for (kind, objects) in &sources {
        if is_federated(&host.client, kind).await? {
            return Err(PropagateError::LeftToKubeFed(kind.name));
        }
        // Boxed: the compiler does not see by itself that these may move between threads.
        let asked: Vec<BoxFuture<'_, _>> = objects
            .iter()
            .map(|source| bring.one(kind, source).boxed())
            .collect();
        let mut results = futures::stream::iter(asked).buffered(AT_ONCE);
        while let Some(written) = results.next().await {
            if let Some(name) = written? {
                ensured.written.push((kind.name, name));
            }
        }
    }
    Ok(ensured)
}

struct Bring<'a> {
    client: &'a Client,
    owner: &'a Owner,
    place: Place<'a>,
    /// Or only look whether it could be written.
    write: bool,
}

impl Bring<'_> {
    async fn one(
        &self,
        kind: &'static Kind,
        source: &DynamicObject,
    ) -> Result<Option<String>, PropagateError> {
        let name = source.metadata.name.clone().unwrap_or_default();
        let wanted = wanted(kind, source, self.owner, self.place);
        if let Wanted::AsItIs(reason) = wanted {
            return Err(PropagateError::NotYet {
                kind: kind.name,
                name,
                reason,
            });
        }
        let live = read_copy(self.client, kind, &name).await?;
        let action = decide(
            kind,
            &wanted,
            live.as_ref(),
            self.owner,
            Ending::KeepDependents,
        );
        if action == Action::Nothing {
            return Ok(None);
        }
        if self.write || matches!(action, Action::Foreign(_)) {
            carry_out(self.client, kind, &action, live.as_ref()).await?;
        }
        Ok(Some(name))
    }
}

type Sources = Vec<(&'static Kind, Vec<DynamicObject>)>;

/// Roles, the user, and bindings, as the host has them.
async fn sources(host: &Client, name: &str) -> Result<Sources, PropagateError> {
    let [Some(role_kind), Some(user_kind), Some(binding_kind)] =
        ["GlobalRole", "User", "GlobalRoleBinding"].map(kind)
    else {
        return Ok(Vec::new());
    };
    let user = read_source(host, user_kind, name)
        .await?
        .filter(|user| user.metadata.deletion_timestamp.is_none())
        .ok_or_else(|| PropagateError::UnknownUser(name.to_owned()))?;
    let groups = user
        .clone()
        .try_parse::<User>()
        .map(|user| user.spec.groups)
        .unwrap_or_default();
    let all: Api<DynamicObject> = Api::all_with(host.clone(), &binding_kind.source());
    let every = ListParams::default();
    let doing = || "list the global role bindings of the host".into();
    let all = answered(doing, all.list(&every)).await?;
    let (mut bindings, mut roles) = (Vec::new(), BTreeSet::new());
    for object in all {
        let Ok(binding) = object.clone().try_parse::<GlobalRoleBinding>() else {
            continue;
        };
        let named = binding
            .subjects
            .iter()
            .flatten()
            .any(|subject| match subject.kind.as_str() {
                "User" => subject.name == name,
                "Group" => groups.contains(&subject.name),
                _ => false,
            });
        if named && binding.metadata.deletion_timestamp.is_none() {
            roles.insert(binding.role_ref.name);
            bindings.push(object);
        }
    }
    let mut found = Vec::new();
    for role in roles {
        found.extend(read_source(host, role_kind, &role).await?);
    }
    Ok(vec![
        (role_kind, found),
        (user_kind, vec![user]),
        (binding_kind, bindings),
    ])
}
