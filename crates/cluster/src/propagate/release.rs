//! A member leaves the fleet: what of ours stays in it, and what goes.

use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Client,
    api::{DynamicObject, PropagationPolicy},
};

use super::{
    Action, HOST_LABEL, KINDS, Kind, Owner, Pages, PropagateError, carry_out,
    compare::was_taken_over, member_client,
};
use crate::{Host, Member};

/// Copies that are written at once.
const AT_ONCE: usize = 12;
/// A copy that was on its way when the first look was taken is seen by the next; looks end when there is nothing more to do.
const LOOKS: usize = 3;

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
/// The Cluster object has to be on its way out by then, or the reconciler brings everything back. Doing it again does what is left. `moved` is called
/// after each step.
///
/// # Errors
/// [`PropagateError`]; what was done by then stays done.
pub async fn release(
    host: &Host,
    member: &Member,
    moved: &(dyn Fn() + Sync),
) -> Result<Released, PropagateError> {
    let owner = Owner::of(&host.client).await?;
    let client = member_client(member, &owner).await?;
    let mut all = Released::default();
    for _ in 0..LOOKS {
        let released = release_once(&client, &owner, moved).await?;
        if released == Released::default() {
            break;
        }
        all.deleted += released.deleted;
        all.given_back += released.given_back;
    }
    Ok(all)
}

async fn release_once(
    client: &Client,
    owner: &Owner,
    moved: &(dyn Fn() + Sync),
) -> Result<Released, PropagateError> {
    let mut released = Released::default();
    // Bindings before what they refer to.
    for kind in KINDS.iter().rev() {
        let copies = marked(client, kind, owner, moved).await?;
        let copies = copies
            .into_iter()
            .filter(|copy| copy.metadata.deletion_timestamp.is_none());
        let steps: Vec<_> = copies
            .map(|copy| async move {
                let deleted = kind.gives_access && !was_taken_over(&copy);
                let action = if deleted {
                    Action::Delete(PropagationPolicy::Background)
                } else {
                    Action::GiveBack
                };
                carry_out(client, kind, &action, Some(&copy)).await?;
                moved();
                Ok(deleted)
            })
            .collect();
        let mut steps = futures::stream::iter(steps).buffer_unordered(AT_ONCE);
        while let Some(deleted) = steps.try_next().await? {
            if deleted {
                released.deleted += 1;
            } else {
                released.given_back += 1;
            }
        }
    }
    Ok(released)
}

async fn marked(
    client: &Client,
    kind: &Kind,
    owner: &Owner,
    moved: &(dyn Fn() + Sync),
) -> Result<Vec<DynamicObject>, PropagateError> {
    let objects: Api<DynamicObject> = Api::all_with(client.clone(), &kind.copy());
    let selector = format!("{HOST_LABEL}={}", owner.as_str());
    let mut pages = Pages::of(objects, Some(&selector));
    let mut found = Vec::new();
    while let Some(page) = pages.next().await? {
        found.extend(page);
        moved();
    }
    Ok(found)
}
