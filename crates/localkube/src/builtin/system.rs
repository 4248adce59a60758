//! What the cluster itself is made of: `storage.k8s.io`, `apiextensions.k8s.io`, `scheduling.k8s.io`,
//! `coordination.k8s.io` and `node.k8s.io`.

use super::row::{Group, Row};
use crate::kind::Kind;

const API_EXTENSIONS: Group = Group("apiextensions.k8s.io", "v1");
const COORDINATION: Group = Group("coordination.k8s.io", "v1");
const NODE: Group = Group("node.k8s.io", "v1");
const SCHEDULING: Group = Group("scheduling.k8s.io", "v1");
const STORAGE: Group = Group("storage.k8s.io", "v1");

pub(super) fn kinds() -> Vec<Kind> {
    [
        STORAGE.cluster("csidrivers", "CSIDriver"),
        STORAGE.cluster("csinodes", "CSINode"),
        STORAGE
            .cluster("storageclasses", "StorageClass")
            .short(&["sc"]),
        STORAGE
            .cluster("volumeattachments", "VolumeAttachment")
            .status(),
        API_EXTENSIONS
            .cluster("customresourcedefinitions", "CustomResourceDefinition")
            .short(&["crd", "crds"])
            .category("api-extensions")
            .status()
            .generation(),
        SCHEDULING
            .cluster("priorityclasses", "PriorityClass")
            .short(&["pc"])
            .generation(),
        COORDINATION.namespaced("leases", "Lease"),
        NODE.cluster("runtimeclasses", "RuntimeClass"),
    ]
    .into_iter()
    .map(Row::build)
    .collect()
}
