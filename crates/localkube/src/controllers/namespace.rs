//! The end of a namespace: everything in it is deleted, then the namespace itself.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::discovery::{Discovery, Scope, verbs};

use super::{Context, Error, Key, error_code, unless_gone};

const FINALIZER: &str = "kubernetes";
/// Pause before looking again whether what was deleted has gone.
const AGAIN: Duration = Duration::from_millis(200);

/// Empties a namespace that was deleted and lets it go.
pub async fn reconcile(context: Context, key: Key) -> Result<Option<Duration>, Error> {
    let namespaces: Api<Namespace> = Api::all(context.client.clone());
    let Some(namespace) = namespaces
        .get_opt(&key.name)
        .await
        .map_err(Error::doing("get a namespace"))?
    else {
        return Ok(None);
    };
    let finalizers = namespace
        .spec
        .as_ref()
        .and_then(|spec| spec.finalizers.clone())
        .unwrap_or_default();
    if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER)
    {
        return Ok(None);
    }
    let mut left: Vec<String> = Vec::new();
    for resource in kinds(&context.client).await? {
        let api: Api<DynamicObject> =
            Api::namespaced_with(context.client.clone(), &key.name, &resource);
        let found = match api.list_metadata(&ListParams::default()).await {
            Err(error) if matches!(error_code(&error), Some(404 | 405)) => continue,
            found => {
                found
                    .map_err(Error::doing("list what is left in a namespace"))?
                    .items
            }
        };
        for object in &found {
            if object.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let name = object.metadata.name.as_deref().unwrap_or_default();
            let done = api.delete(name, &DeleteParams::background()).await;
            unless_gone(done, "delete an object of a namespace that ends")?;
        }
        if !found.is_empty() {
            let name = if resource.group.is_empty() {
                resource.plural.clone()
            } else {
                format!("{}.{}", resource.plural, resource.group)
            };
            left.push(format!("{name} has {} resource instances", found.len()));
        }
    }
    if !left.is_empty() {
        note(&context, &namespaces, &namespace, &left).await?;
        return Ok(Some(AGAIN));
    }
    let mut ending = namespace.clone();
    if let Some(spec) = &mut ending.spec {
        spec.finalizers = Some(finalizers.into_iter().filter(|f| f != FINALIZER).collect());
    }
    let done: Result<Namespace, _> = namespaces
        .replace_subresource("finalize", &key.name, &PostParams::default(), &ending)
        .await;
    unless_gone(done, "finalize a namespace")?;
    Ok(None)
}

/// Says in the conditions what the namespace still waits for.
async fn note(
    context: &Context,
    api: &Api<Namespace>,
    namespace: &Namespace,
    left: &[String],
) -> Result<(), Error> {
    let message = format!("Some resources are remaining: {}", left.join(", "));
    let mut changed = namespace.clone();
    let status = changed.status.get_or_insert_with(NamespaceStatus::default);
    let conditions = status.conditions.get_or_insert_default();
    if conditions
        .iter()
        .any(|c| c.message.as_ref() == Some(&message))
    {
        return Ok(());
    }
    conditions.retain(|c| c.type_ != "NamespaceContentRemaining");
    conditions.push(NamespaceCondition {
        type_: "NamespaceContentRemaining".to_owned(),
        status: "True".to_owned(),
        reason: Some("SomeResourcesRemain".to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(context.now())),
    });
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let done = api
        .replace_status(name, &PostParams::default(), &changed)
        .await;
    unless_gone(done, "write the status of a namespace")?;
    Ok(())
}

/// Every kind that lives in namespaces and can be deleted.
async fn kinds(client: &kube::Client) -> Result<Vec<ApiResource>, Error> {
    let discovery = Discovery::new(client.clone())
        .run()
        .await
        .map_err(Error::doing("discover the kinds"))?;
    let groups = discovery.groups();
    Ok(groups
        .flat_map(kube::discovery::ApiGroup::resources_by_stability)
        .filter(|(_, capabilities)| {
            matches!(capabilities.scope, Scope::Namespaced)
                && capabilities.supports_operation(verbs::LIST)
                && capabilities.supports_operation(verbs::DELETE)
        })
        .map(|(resource, _)| resource)
        .collect())
}
