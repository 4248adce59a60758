//! Where KubeFed is at work, we are not.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};

use super::{Kind, PropagateError, api};

/// Whether KubeFed propagates this kind: the host holds objects of KubeFed's kind for it.
///
/// # Errors
/// [`PropagateError::Api`].
pub async fn is_federated(host: &Client, kind: &Kind) -> Result<bool, PropagateError> {
    let federated = GroupVersionKind::gvk("types.kubefed.io", "v1beta1", "Federated");
    let resource = ApiResource::from_gvk_with_plural(&federated, kind.federated);
    let objects: Api<DynamicObject> = Api::all_with(host.clone(), &resource);
    match objects.list(&ListParams::default().limit(1)).await {
        Ok(list) => Ok(!list.items.is_empty()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(api(format!("look for {}", kind.federated))(error)),
    }
}
