//! A member leaves the fleet: what of ours stays in it, and what goes.

use kube::{
    Api, Client,
    api::{DynamicObject, PropagationPolicy},
};

use super::{
    Action, HOST_LABEL, KINDS, Kind, Owner, Pages, PropagateError, carry_out,
    compare::was_taken_over, member_client,
};
use crate::{Host, Member};

/// What became of the copies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Released {
    /// Copies that are deleted.
    pub deleted: usize,
    /// Objects that are the member's own from now on.
    pub given_back: usize,
}

/// Takes what gives the host's users access away from a member, and leaves it the rest as its own: Users and bindings that the host brought are
/// deleted, those that were the member's before lose our marks, and so do roles, groups and Workspaces, with which its namespaces would go.
///
/// The Cluster object has to be on its way out by then, or the reconciler brings everything back. Doing it again does what is left.
///
/// # Errors
/// [`PropagateError`]; what was done by then stays done.
pub async fn release(host: &Host, member: &Member) -> Result<Released, PropagateError> {
    let owner = Owner::of(&host.client).await?;
    let client = member_client(member, &owner).await?;
    let mut released = Released::default();
    // Bindings before what they refer to.
    for kind in KINDS.iter().rev() {
        for copy in marked(&client, kind, &owner).await? {
            if copy.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let action = if kind.gives_access && !was_taken_over(&copy) {
                released.deleted += 1;
                Action::Delete(PropagationPolicy::Background)
            } else {
                released.given_back += 1;
                Action::GiveBack
            };
            carry_out(&client, kind, &action, Some(&copy)).await?;
        }
    }
    Ok(released)
}

async fn marked(
    client: &Client,
    kind: &Kind,
    owner: &Owner,
) -> Result<Vec<DynamicObject>, PropagateError> {
    let objects: Api<DynamicObject> = Api::all_with(client.clone(), &kind.copy());
    let selector = format!("{HOST_LABEL}={}", owner.as_str());
    let mut pages = Pages::of(objects, Some(&selector));
    let mut found = Vec::new();
    while let Some(page) = pages.next().await? {
        found.extend(page);
    }
    Ok(found)
}
