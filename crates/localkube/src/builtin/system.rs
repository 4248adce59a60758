//! What the cluster itself is made of: `storage.k8s.io`, `apiextensions.k8s.io`, `scheduling.k8s.io`,
//! `coordination.k8s.io` and `node.k8s.io`.

use super::defaults;
use super::row::{Group, Row};
use super::rules;
use crate::kind::Kind;
use crate::table;

const API_EXTENSIONS: Group = Group("apiextensions.k8s.io", "v1");
const COORDINATION: Group = Group("coordination.k8s.io", "v1");
const NODE: Group = Group("node.k8s.io", "v1");
const SCHEDULING: Group = Group("scheduling.k8s.io", "v1");
const STORAGE: Group = Group("storage.k8s.io", "v1");

pub(super) fn kinds() -> Vec<Kind> {
    [
        STORAGE
            .cluster("csidrivers", "CSIDriver")
            .print(table::system::CSI_DRIVER, table::system::csi_driver)
            .defaults(defaults::csi_driver),
        STORAGE
            .cluster("csinodes", "CSINode")
            .print(table::system::CSI_NODE, table::system::csi_node),
        STORAGE
            .cluster("storageclasses", "StorageClass")
            .validate(rules::storage_class)
            .print(table::system::STORAGE_CLASS, table::system::storage_class)
            .defaults(defaults::storage_class)
            .short(&["sc"]),
        STORAGE
            .cluster("volumeattachments", "VolumeAttachment")
            .validate(rules::volume_attachment)
            .print(
                table::system::VOLUME_ATTACHMENT,
                table::system::volume_attachment,
            )
            .defaults(defaults::volume_attachment)
            .created(defaults::volume_attachment_created)
            .status(),
        API_EXTENSIONS
            .cluster("customresourcedefinitions", "CustomResourceDefinition")
            .defaults(defaults::custom_resource_definition)
            .created(defaults::custom_resource_definition_created)
            .short(&["crd", "crds"])
            .category("api-extensions")
            .status()
            .generation(),
        SCHEDULING
            .cluster("priorityclasses", "PriorityClass")
            .validate(rules::priority_class)
            .print(table::system::PRIORITY_CLASS, table::system::priority_class)
            .defaults(defaults::priority_class)
            .short(&["pc"])
            .generation(),
        COORDINATION
            .namespaced("leases", "Lease")
            .validate(rules::lease)
            .print(table::system::LEASE, table::system::lease)
            .defaults(defaults::lease),
        NODE.cluster("runtimeclasses", "RuntimeClass")
            .validate(rules::runtime_class)
            .print(table::system::RUNTIME_CLASS, table::system::runtime_class),
    ]
    .into_iter()
    .map(Row::build)
    .collect()
}
