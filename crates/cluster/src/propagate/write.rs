//! The member's end: reading what it holds, and doing what was decided.

use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

use super::{
    Action, FIELD_MANAGER, HOST_LABEL, Kind, Owner, PropagateError, TAKEN_OVER_ANNOTATION,
    answered, compare::surplus, identity,
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
    let doing = || "read the identity of the member".into();
    let found = answered(doing, identity(&client)).await?;
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

/// All objects of a kind, page by page.
pub struct Pages {
    objects: Api<DynamicObject>,
    /// `None` after the last page.
    next: Option<ListParams>,
}

impl Pages {
    /// Those with these labels, or all.
    #[must_use]
    pub fn of(objects: Api<DynamicObject>, labels: Option<&str>) -> Self {
        let parameters = ListParams::default().limit(PAGE);
        let next = Some(match labels {
            Some(labels) => parameters.labels(labels),
            None => parameters,
        });
        Self { objects, next }
    }

    /// The next page; none after the last, and none at all where the server does not know the kind.
    ///
    /// # Errors
    /// [`PropagateError::Api`], [`PropagateError::Silent`].
    pub async fn next(&mut self) -> Result<Option<Vec<DynamicObject>>, PropagateError> {
        let Some(parameters) = self.next.take() else {
            return Ok(None);
        };
        let doing = || format!("list {}", self.objects.resource_url());
        let question = self.objects.list(&parameters);
        let Some(list) = answered(doing, async { or_gone(question.await) }).await? else {
            return Ok(None);
        };
        let token = list.metadata.continue_.filter(|token| !token.is_empty());
        self.next = token.map(|token| parameters.continue_token(&token));
        Ok(Some(list.items))
    }
}

/// What a member holds under this name.
///
/// # Errors
/// [`PropagateError::Api`], [`PropagateError::Silent`].
pub async fn read_copy(
    member: &Client,
    kind: &Kind,
    name: &str,
) -> Result<Option<DynamicObject>, PropagateError> {
    let objects: Api<DynamicObject> = Api::all_with(member.clone(), &kind.copy());
    let doing = || format!("read {} {name} of the member", kind.name);
    answered(doing, objects.get_opt(name)).await
}

/// What the host holds under this name.
///
/// # Errors
/// [`PropagateError::Api`], [`PropagateError::Silent`].
pub async fn read_source(
    host: &Client,
    kind: &Kind,
    name: &str,
) -> Result<Option<DynamicObject>, PropagateError> {
    let objects: Api<DynamicObject> = Api::all_with(host.clone(), &kind.source());
    let doing = || format!("read {} {name} of the host", kind.name);
    answered(doing, objects.get_opt(name)).await
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
            let doing = || format!("delete {} {name}", kind.name);
            let question = objects.delete(name, &parameters);
            answered(doing, async { or_gone(question.await) }).await?;
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
    let live = match apply_once(objects, kind, copy).await {
        Err(PropagateError::Api { doing, source }) => match known_there(copy, &source) {
            Some(less) => apply_once(objects, kind, &less).await?,
            None => return Err(PropagateError::Api { doing, source }),
        },
        applied => applied?,
    };
    let Some(mut removed) = surplus(kind, copy, &live) else {
        return Ok(live);
    };
    removed.insert(
        "metadata".into(),
        json!({ "resourceVersion": live.metadata.resource_version }),
    );
    let doing = || format!("take what is not the host's from {} {name}", kind.name);
    let patch = Patch::Merge(Value::Object(removed));
    answered(doing, objects.patch(name, &merging(), &patch)).await
}

async fn apply_once(
    objects: &Api<DynamicObject>,
    kind: &Kind,
    copy: &DynamicObject,
) -> Result<DynamicObject, PropagateError> {
    let name = copy.metadata.name.as_deref().unwrap_or_default();
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let doing = || format!("apply {} {name}", kind.name);
    answered(doing, objects.patch(name, &parameters, &Patch::Apply(copy))).await
}

/// The copy without the fields that the member's definition of the kind does not have: an older one. All other writes drop them, but what is applied
/// is refused whole.
fn known_there(copy: &DynamicObject, refusal: &kube::Error) -> Option<DynamicObject> {
    const UNKNOWN: &str = ": field not declared in schema";
    let kube::Error::Api(status) = refusal else {
        return None;
    };
    let mut known = copy.clone();
    let mut found = false;
    for (before, _) in status.message.match_indices(UNKNOWN) {
        let text = status.message.get(..before)?;
        let path = text
            .rsplit(|c: char| c.is_whitespace() || c == ':')
            .next()?;
        let mut names: Vec<&str> = path.trim_start_matches('.').split('.').collect();
        let last = names.pop()?;
        let parent = names
            .into_iter()
            .try_fold(&mut known.data, |value, name| value.get_mut(name));
        found |= parent
            .and_then(|parent| parent.as_object_mut()?.remove(last))
            .is_some();
    }
    found.then_some(known)
}

fn merging() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
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
    let doing = || format!("give {} {name} back", kind.name);
    let (parameters, patch) = (merging(), Patch::Merge(patch));
    let question = objects.patch(name, &parameters, &patch);
    answered(doing, async { or_gone(question.await) }).await?;
    Ok(())
}

/// What is not there need not be done away with.
pub(super) fn or_gone<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(answer) => Ok(Some(answer)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_an_older_definition_does_not_have_are_left_out() {
        let copy: DynamicObject = serde_json::from_value(json!({
            "metadata": {"name": "x"}, "spec": {"a": 1, "b": {"c": 2, "d": 3}},
        }))
        .unwrap();
        let less = |message: &str| {
            let status = kube::core::Status::failure(message, "InternalError").with_code(500);
            known_there(&copy, &kube::Error::Api(status.boxed())).map(|less| less.data)
        };
        let begin =
            "failed to create typed patch object (/x; iam.kubesphere.io/v1alpha2, Kind=User): ";
        assert_eq!(
            less(&format!("{begin}.spec.a: field not declared in schema")),
            Some(json!({"spec": {"b": {"c": 2, "d": 3}}}))
        );
        assert_eq!(
            less(&format!(
                "{begin}errors:\n  .spec.a: field not declared in schema\n  .spec.b.c: field not declared in schema"
            )),
            Some(json!({"spec": {"b": {"d": 3}}}))
        );
        assert_eq!(
            less(&format!("{begin}.spec.z.y: field not declared in schema")),
            None
        );
        assert_eq!(less("anything else"), None);
    }
}
