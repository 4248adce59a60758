//! The caller's User on the member, where it is missing or disabled there.

use std::sync::Arc;

use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};

use super::{RestoreError, connection::failed};
use crate::{AccessCode, CallerCredential, Host, Member};

/// Written by the host on what it brings to members, so that their own controllers leave it alone.
const MANAGED: &str = "kubefed.io/managed";

/// Who is to be brought to the member, if that is what is wrong.
pub(super) fn at_fault(code: Option<AccessCode>, proof: &CallerCredential) -> Option<String> {
    match (code, proof) {
        (
            Some(AccessCode::UserMissing | AccessCode::UserDisabled),
            CallerCredential::User { name, .. },
        ) => Some(name.clone()),
        _ => None,
    }
}

fn objects(client: &Client, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("iam.kubesphere.io", "v1alpha2", kind);
    Api::all_with(client.clone(), &ApiResource::from_gvk(&kind))
}

/// Brings this user with its global roles from the host to the member; what is there already is brought up to date. May be done twice.
pub(super) async fn ensure(
    host: &Host,
    member: &Arc<Member>,
    name: &str,
) -> Result<(), RestoreError> {
    let there = member
        .kubernetes()
        .map_err(|error| RestoreError::Settings(error.clone()))?;
    let read = failed("read the user and its roles on the host");
    let of_user = async {
        let user = objects(&host.client, "User").get(name).await?;
        let bindings = objects(&host.client, "GlobalRoleBinding");
        let bindings = bindings.list(&ListParams::default()).await?.items;
        let roles = objects(&host.client, "GlobalRole");
        let mut found = vec![("User", user)];
        for binding in bindings.into_iter().filter(|it| is_for(it, name)) {
            let role = binding.data.pointer("/roleRef/name");
            if let Some(role) = role.and_then(Value::as_str)
                && let Some(role) = roles.get_opt(role).await?
            {
                found.push(("GlobalRole", role));
            }
            found.push(("GlobalRoleBinding", binding));
        }
        Ok(found)
    };
    for (kind, object) in of_user.await.map_err(read)? {
        bring(&objects(&there, kind), &object)
            .await
            .map_err(failed("bring the user and its roles to the member"))?;
    }
    Ok(())
}

fn is_for(binding: &DynamicObject, user: &str) -> bool {
    let subjects = binding.data.get("subjects").and_then(Value::as_array);
    subjects.into_iter().flatten().any(|subject| {
        let field = |name: &str| subject.get(name).and_then(Value::as_str);
        field("kind") == Some("User") && field("name") == Some(user)
    })
}

async fn bring(api: &Api<DynamicObject>, object: &DynamicObject) -> Result<(), kube::Error> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let mut labels = object.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED.into(), "true".into());
    let mut copy = json!({"metadata": {"name": name, "labels": labels}});
    // Of a user its annotations stay where they were written (multicluster.md §6.1).
    if object.data.get("spec").is_none() {
        copy["metadata"]["annotations"] = json!(object.metadata.annotations);
    }
    for (key, value) in object.data.as_object().into_iter().flatten() {
        copy[key] = value.clone();
    }
    if api.get_opt(&name).await?.is_some() {
        api.patch(&name, &PatchParams::default(), &Patch::Merge(copy))
            .await?;
        return Ok(());
    }
    if let Some(types) = &object.types {
        copy["apiVersion"] = types.api_version.clone().into();
        copy["kind"] = types.kind.clone().into();
    }
    let copy: DynamicObject = serde_json::from_value(copy).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &copy).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        created => created.map(drop),
    }
}
