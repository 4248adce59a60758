//! Which lists merge, and by which key (`x-kubernetes-patch-merge-key` of the built-in kinds).

/// How a list is merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ListMerge {
    /// The patch's list takes the place of the old.
    Replace,
    /// A list of plain values, merged as a set.
    Set,
    /// A list of objects, merged by this field.
    Key(&'static str),
}

/// (kind or empty, field that holds the object or `*`, field, key; empty for sets)
const ROWS: &[(&str, &str, &str, &str)] = &[
    ("", "containers", "env", "name"),
    ("", "containers", "ports", "containerPort"),
    ("", "containers", "volumeDevices", "devicePath"),
    ("", "containers", "volumeMounts", "mountPath"),
    ("", "metadata", "finalizers", ""),
    ("", "metadata", "ownerReferences", "uid"),
    ("", "spec", "containers", "name"),
    ("", "spec", "ephemeralContainers", "name"),
    ("", "spec", "hostAliases", "ip"),
    ("", "spec", "imagePullSecrets", "name"),
    ("", "spec", "initContainers", "name"),
    ("", "spec", "resourceClaims", "name"),
    ("", "spec", "schedulingGates", "name"),
    ("", "spec", "topologySpreadConstraints", "topologyKey"),
    ("", "spec", "volumes", "name"),
    ("", "status", "conditions", "type"),
    ("CSINode", "spec", "drivers", "name"),
    ("Node", "spec", "podCIDRs", ""),
    ("Node", "status", "addresses", "type"),
    (
        "Pod",
        "containerStatuses",
        "allocatedResourcesStatus",
        "name",
    ),
    ("Pod", "containerStatuses", "volumeMounts", "mountPath"),
    ("Pod", "status", "hostIPs", "ip"),
    ("Pod", "status", "podIPs", "ip"),
    ("Pod", "status", "resourceClaimStatuses", "name"),
    ("Service", "spec", "ports", "port"),
    ("ServiceAccount", "", "secrets", "name"),
    ("MutatingWebhookConfiguration", "", "webhooks", "name"),
    ("ValidatingWebhookConfiguration", "", "webhooks", "name"),
    ("", "webhooks", "matchConditions", "name"),
];

/// How the list `field` of an object that stands under `parent` merges.
pub(super) fn list(kind: &str, parent: &str, field: &str) -> ListMerge {
    let parent = match parent {
        "initContainers" | "ephemeralContainers" => "containers",
        parent => parent,
    };
    ROWS.iter()
        .find(|(of, under, name, _)| {
            (of.is_empty() || *of == kind) && *under == parent && *name == field
        })
        .map_or(ListMerge::Replace, |(.., key)| match *key {
            "" => ListMerge::Set,
            key => ListMerge::Key(key),
        })
}

/// Objects that take the place of the old as a whole.
pub(super) fn replaces(kind: &str, parent: &str, field: &str) -> bool {
    (kind, parent, field) == ("PodDisruptionBudget", "spec", "selector")
}
