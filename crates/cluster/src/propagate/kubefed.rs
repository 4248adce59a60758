//! Where KubeFed is at work, we are not.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};

use super::{Kind, PropagateError, answered, write::or_gone};

/// Whether KubeFed propagates this kind: the host holds objects of KubeFed's kind for it.
///
/// # Errors
/// [`PropagateError::Api`].
pub async fn is_federated(host: &Client, kind: &Kind) -> Result<bool, PropagateError> {
    let federated = GroupVersionKind::gvk("types.kubefed.io", "v1beta1", "Federated");
    let resource = ApiResource::from_gvk_with_plural(&federated, kind.federated);
    let objects: Api<DynamicObject> = Api::all_with(host.clone(), &resource);
    let one = ListParams::default().limit(1);
    let found = answered(|| format!("look for {}", kind.federated), async {
        or_gone(objects.list(&one).await)
    })
    .await?;
    Ok(found.is_some_and(|list| !list.items.is_empty()))
}
