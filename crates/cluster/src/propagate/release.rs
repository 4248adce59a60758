//! A member leaves the fleet: what of ours stays in it, and what goes.

use futures::StreamExt;
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
/// A copy that was on its way when the first look was taken, or that somebody changed meanwhile, is seen by the next; looks end when there is nothing
/// more to do.
const LOOKS: usize = 4;

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
/// [`PropagateError`]; what was done by then stays done. What the member refuses for one object keeps no other from going.
pub async fn release(
    host: &Host,
    member: &Member,
    moved: &(dyn Fn() + Sync),
) -> Result<Released, PropagateError> {
    let owner = Owner::of(&host.client).await?;
    let client = member_client(member, &owner).await?;
    let (mut all, mut refused) = (Released::default(), None);
    for _ in 0..LOOKS {
        let released;
        (released, refused) = release_once(&client, &owner, moved).await?;
        all.deleted += released.deleted;
        all.given_back += released.given_back;
        let again = refused.as_ref().is_some_and(PropagateError::is_conflict);
        if released == Released::default() && !again {
            break;
        }
    }
    refused.map_or(Ok(all), Err)
}

/// One look: what it did, and something that the member refused.
async fn release_once(
    client: &Client,
    owner: &Owner,
    moved: &(dyn Fn() + Sync),
) -> Result<(Released, Option<PropagateError>), PropagateError> {
    let (mut released, mut refused) = (Released::default(), None);
    // Bindings before what they refer to.
    for kind in KINDS.iter().rev() {
        let copies = match marked(client, kind, owner, moved).await {
            Err(error) if error.is_of_the_object() => {
                note(&mut refused, error);
                continue;
            }
            copies => copies?,
        };
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
                let done = carry_out(client, kind, &action, Some(&copy)).await;
                moved();
                done.map(|_| deleted)
            })
            .collect();
        let mut steps = futures::stream::iter(steps).buffer_unordered(AT_ONCE);
        while let Some(step) = steps.next().await {
            match step {
                Ok(true) => released.deleted += 1,
                Ok(false) => released.given_back += 1,
                Err(error) if error.is_of_the_object() => note(&mut refused, error),
                Err(error) => return Err(error),
            }
        }
    }
    Ok((released, refused))
}

/// A conflict is worth another look: it is told before anything else.
fn note(refused: &mut Option<PropagateError>, error: PropagateError) {
    let known = refused.as_ref();
    if known.is_none_or(|known| error.is_conflict() && !known.is_conflict()) {
        *refused = Some(error);
    }
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

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Mutex};

    use http::{Method, Request, Response};
    use http_body_util::Full;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    #[tokio::test]
    async fn what_is_refused_for_one_object_keeps_no_other_from_going() {
        let deleted = std::sync::Arc::new(Mutex::new(Vec::new()));
        let seen = deleted.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let path = request.uri().path().to_owned();
            let list =
                |name: &str| json!({"metadata": {}, "items": [{"metadata": {"name": name}}]});
            let refused = |code: u16| json!({"kind": "Status", "status": "Failure", "code": code});
            let (code, answer): (u16, Value) = match (request.method(), path.as_str()) {
                (&Method::DELETE, path) => {
                    seen.lock().unwrap().push(path.to_owned());
                    (200, json!({"kind": "Status", "status": "Success"}))
                }
                (&Method::PATCH, _) => (409, refused(409)),
                (_, path) if path.ends_with("/groupbindings") => (500, refused(500)),
                (_, path) if path.ends_with("/groups") => (200, list("g")),
                (_, path) if path.ends_with("/users") => (200, list("u")),
                _ => (200, json!({"metadata": {}, "items": []})),
            };
            async move {
                let answer = Full::from(answer.to_string());
                Ok::<_, Infallible>(Response::builder().status(code).body(answer).unwrap())
            }
        });
        let client = Client::new(service, "default");
        let (released, refused) = release_once(&client, &Owner::new("host"), &|| {})
            .await
            .unwrap();
        let wanted = Released {
            deleted: 1,
            given_back: 0,
        };
        assert_eq!(released, wanted);
        assert_eq!(
            *deleted.lock().unwrap(),
            ["/apis/iam.kubesphere.io/v1alpha2/users/u"]
        );
        assert!(refused.unwrap().is_conflict());
    }
}
