//! The member's end: reading what it holds, and doing what was decided.

use std::future::Future;

use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

use super::{
    Action, FIELD_MANAGER, HOST_LABEL, Kind, Owner, PropagateError, TAKEN_OVER_ANNOTATION, api,
    compare::surplus, identity,
};
use crate::Member;

/// Objects that are read at once.
const PAGE: u32 = 200;

/// The way to a member, after a look at who is at the other end: copies must not reach the host itself, nor a cluster that the Cluster object does
/// not mean.
///
/// # Errors
/// [`PropagateError`].
pub async fn member_client(member: &Member, owner: &Owner) -> Result<Client, PropagateError> {
    let client = member
        .kubernetes()
        .map_err(|error| PropagateError::Settings(error.clone()))?;
    let found = identity(&client)
        .await
        .map_err(api("read the identity of the member"))?;
    if found == owner.as_str() {
        return Err(PropagateError::LeadsToHost);
    }
    match member.identity() {
        Some(expected) if expected != found => Err(PropagateError::LeadsElsewhere {
            expected: expected.to_owned(),
            found,
        }),
        _ => Ok(client),
    }
}

/// Hands over all objects of a kind, page by page. `false` where the server does not know the kind.
///
/// # Errors
/// The server's.
pub async fn pages<F>(
    objects: &Api<DynamicObject>,
    labels: Option<&str>,
    mut take: impl FnMut(Vec<DynamicObject>) -> F,
) -> Result<bool, kube::Error>
where
    F: Future<Output = ()>,
{
    let mut parameters = ListParams::default().limit(PAGE);
    if let Some(labels) = labels {
        parameters = parameters.labels(labels);
    }
    loop {
        let list = match objects.list(&parameters).await {
            Ok(list) => list,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(false),
            Err(error) => return Err(error),
        };
        take(list.items).await;
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(true),
        }
    }
}

/// Does in the member what was decided about an object; `live` is what was looked at. Gives the object as it is then, where it was written.
///
/// # Errors
/// [`PropagateError::Foreign`], [`PropagateError::Api`].
pub async fn carry_out(
    client: &Client,
    kind: &Kind,
    action: &Action,
    live: Option<&DynamicObject>,
) -> Result<Option<DynamicObject>, PropagateError> {
    let objects: Api<DynamicObject> = Api::all_with(client.clone(), &kind.copy());
    match (action, live) {
        (Action::Nothing, _) | (Action::Delete(_) | Action::GiveBack, None) => Ok(None),
        (Action::Foreign(owner), live) => Err(PropagateError::Foreign {
            kind: kind.name,
            name: live
                .and_then(|live| live.metadata.name.clone())
                .unwrap_or_default(),
            owner: owner.clone(),
        }),
        (Action::Apply(copy), _) => apply(&objects, kind, copy).await.map(Some),
        (Action::Delete(policy), Some(live)) => {
            let parameters = DeleteParams {
                propagation_policy: Some(policy.clone()),
                ..DeleteParams::default()
            }
            .preconditions(Preconditions {
                uid: live.metadata.uid.clone(),
                resource_version: live.metadata.resource_version.clone(),
            });
            let name = live.metadata.name.as_deref().unwrap_or_default();
            gone_is_fine(objects.delete(name, &parameters).await.map(|_| ()))
                .map_err(api(format!("delete {} {name}", kind.name)))?;
            Ok(None)
        }
        (Action::GiveBack, Some(live)) => give_back(&objects, kind, live).await.map(|()| None),
    }
}

async fn apply(
    objects: &Api<DynamicObject>,
    kind: &Kind,
    copy: &DynamicObject,
) -> Result<DynamicObject, PropagateError> {
    let name = copy.metadata.name.as_deref().unwrap_or_default();
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let live = objects
        .patch(name, &parameters, &Patch::Apply(copy))
        .await
        .map_err(api(format!("apply {} {name}", kind.name)))?;
    let Some(mut removed) = surplus(kind, copy, &live) else {
        return Ok(live);
    };
    removed.insert(
        "metadata".into(),
        json!({ "resourceVersion": live.metadata.resource_version }),
    );
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    objects
        .patch(name, &parameters, &Patch::Merge(Value::Object(removed)))
        .await
        .map_err(api(format!(
            "take what is not the host's from {} {name}",
            kind.name
        )))
}

async fn give_back(
    objects: &Api<DynamicObject>,
    kind: &Kind,
    live: &DynamicObject,
) -> Result<(), PropagateError> {
    let name = live.metadata.name.as_deref().unwrap_or_default();
    let patch = json!({ "metadata": {
        "resourceVersion": live.metadata.resource_version,
        "labels": { HOST_LABEL: null, kah_api::iam::MANAGED_LABEL: null },
        "annotations": { TAKEN_OVER_ANNOTATION: null },
    } });
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patched = objects.patch(name, &parameters, &Patch::Merge(patch)).await;
    gone_is_fine(patched.map(|_| ())).map_err(api(format!("give {} {name} back", kind.name)))
}

fn gone_is_fine(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}
