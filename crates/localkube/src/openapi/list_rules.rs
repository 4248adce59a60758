//! Which lists and maps are owned item by item under server-side apply, for the published schemas.

/// (definition, property, keys divided by commas). A list without keys is a set; one that is not named here
/// is owned as a whole.
pub(crate) const LIST_RULES: &[(&str, &str, &str)] = &[
    ("io.k8s.api.apps.v1.DaemonSetStatus", "conditions", "type"),
    ("io.k8s.api.apps.v1.DeploymentStatus", "conditions", "type"),
    ("io.k8s.api.apps.v1.ReplicaSetStatus", "conditions", "type"),
    ("io.k8s.api.apps.v1.StatefulSetStatus", "conditions", "type"),
    (
        "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerStatus",
        "conditions",
        "type",
    ),
    (
        "io.k8s.api.batch.v1.PodFailurePolicyOnExitCodesRequirement",
        "values",
        "",
    ),
    ("io.k8s.api.batch.v1.UncountedTerminatedPods", "failed", ""),
    (
        "io.k8s.api.batch.v1.UncountedTerminatedPods",
        "succeeded",
        "",
    ),
    ("io.k8s.api.core.v1.ComponentStatus", "conditions", "type"),
    ("io.k8s.api.core.v1.Container", "env", "name"),
    (
        "io.k8s.api.core.v1.Container",
        "ports",
        "containerPort,protocol",
    ),
    (
        "io.k8s.api.core.v1.Container",
        "volumeDevices",
        "devicePath",
    ),
    ("io.k8s.api.core.v1.Container", "volumeMounts", "mountPath"),
    (
        "io.k8s.api.core.v1.ContainerRestartRuleOnExitCodes",
        "values",
        "",
    ),
    (
        "io.k8s.api.core.v1.ContainerStatus",
        "allocatedResourcesStatus",
        "name",
    ),
    (
        "io.k8s.api.core.v1.ContainerStatus",
        "volumeMounts",
        "mountPath",
    ),
    ("io.k8s.api.core.v1.EphemeralContainer", "env", "name"),
    (
        "io.k8s.api.core.v1.EphemeralContainer",
        "ports",
        "containerPort,protocol",
    ),
    (
        "io.k8s.api.core.v1.EphemeralContainer",
        "volumeDevices",
        "devicePath",
    ),
    (
        "io.k8s.api.core.v1.EphemeralContainer",
        "volumeMounts",
        "mountPath",
    ),
    ("io.k8s.api.core.v1.NamespaceStatus", "conditions", "type"),
    (
        "io.k8s.api.core.v1.NodeAllocatableResourceClaimStatus",
        "containers",
        "",
    ),
    ("io.k8s.api.core.v1.NodeSpec", "podCIDRs", ""),
    ("io.k8s.api.core.v1.NodeStatus", "addresses", "type"),
    ("io.k8s.api.core.v1.NodeStatus", "conditions", "type"),
    (
        "io.k8s.api.core.v1.PersistentVolumeClaimStatus",
        "conditions",
        "type",
    ),
    ("io.k8s.api.core.v1.PodSpec", "containers", "name"),
    ("io.k8s.api.core.v1.PodSpec", "ephemeralContainers", "name"),
    ("io.k8s.api.core.v1.PodSpec", "hostAliases", "ip"),
    ("io.k8s.api.core.v1.PodSpec", "imagePullSecrets", "name"),
    ("io.k8s.api.core.v1.PodSpec", "initContainers", "name"),
    ("io.k8s.api.core.v1.PodSpec", "resourceClaims", "name"),
    ("io.k8s.api.core.v1.PodSpec", "schedulingGates", "name"),
    (
        "io.k8s.api.core.v1.PodSpec",
        "topologySpreadConstraints",
        "topologyKey,whenUnsatisfiable",
    ),
    ("io.k8s.api.core.v1.PodSpec", "volumes", "name"),
    ("io.k8s.api.core.v1.PodStatus", "conditions", "type"),
    ("io.k8s.api.core.v1.PodStatus", "podIPs", "ip"),
    (
        "io.k8s.api.core.v1.PodStatus",
        "resourceClaimStatuses",
        "name",
    ),
    (
        "io.k8s.api.core.v1.ReplicationControllerStatus",
        "conditions",
        "type",
    ),
    ("io.k8s.api.core.v1.ResourceRequirements", "claims", "name"),
    (
        "io.k8s.api.core.v1.ResourceStatus",
        "resources",
        "resourceID",
    ),
    ("io.k8s.api.core.v1.ServiceAccount", "secrets", "name"),
    ("io.k8s.api.core.v1.ServiceSpec", "ports", "port,protocol"),
    ("io.k8s.api.core.v1.ServiceStatus", "conditions", "type"),
    ("io.k8s.api.discovery.v1.Endpoint", "addresses", ""),
    (
        "io.k8s.api.networking.v1.ServiceCIDRStatus",
        "conditions",
        "type",
    ),
    (
        "io.k8s.api.policy.v1.PodDisruptionBudgetStatus",
        "conditions",
        "type",
    ),
    (
        "io.k8s.api.storage.v1.CSIDriverSpec",
        "volumeLifecycleModes",
        "",
    ),
    ("io.k8s.api.storage.v1.CSINodeSpec", "drivers", "name"),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus",
        "conditions",
        "type",
    ),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
        "x-kubernetes-validations",
        "rule",
    ),
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        "finalizers",
        "",
    ),
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        "ownerReferences",
        "uid",
    ),
];

/// (definition, property or empty for the definition itself, `atomic` or `granular`).
pub(crate) const MAP_RULES: &[(&str, &str, &str)] = &[
    ("io.k8s.api.core.v1.ConfigMapKeySelector", "", "atomic"),
    ("io.k8s.api.core.v1.EndpointAddress", "", "atomic"),
    ("io.k8s.api.core.v1.EndpointPort", "", "atomic"),
    ("io.k8s.api.core.v1.FileKeySelector", "", "atomic"),
    ("io.k8s.api.core.v1.LocalObjectReference", "", "atomic"),
    ("io.k8s.api.core.v1.NodeSelector", "", "atomic"),
    ("io.k8s.api.core.v1.NodeSelectorTerm", "", "atomic"),
    ("io.k8s.api.core.v1.ObjectFieldSelector", "", "atomic"),
    ("io.k8s.api.core.v1.ObjectReference", "", "atomic"),
    (
        "io.k8s.api.core.v1.PersistentVolumeClaimStatus",
        "allocatedResourceStatuses",
        "granular",
    ),
    (
        "io.k8s.api.core.v1.PersistentVolumeSpec",
        "claimRef",
        "granular",
    ),
    ("io.k8s.api.core.v1.PodSpec", "nodeSelector", "atomic"),
    (
        "io.k8s.api.core.v1.ReplicationControllerSpec",
        "selector",
        "atomic",
    ),
    ("io.k8s.api.core.v1.ResourceFieldSelector", "", "atomic"),
    ("io.k8s.api.core.v1.ScopeSelector", "", "atomic"),
    ("io.k8s.api.core.v1.SecretKeySelector", "", "atomic"),
    ("io.k8s.api.core.v1.SecretReference", "", "atomic"),
    ("io.k8s.api.core.v1.ServiceSpec", "selector", "atomic"),
    ("io.k8s.api.core.v1.TopologySelectorTerm", "", "atomic"),
    ("io.k8s.api.core.v1.TypedLocalObjectReference", "", "atomic"),
    ("io.k8s.api.discovery.v1.EndpointPort", "", "atomic"),
    ("io.k8s.api.networking.v1.ServiceBackendPort", "", "atomic"),
    ("io.k8s.api.node.v1.Scheduling", "nodeSelector", "atomic"),
    ("io.k8s.api.rbac.v1.RoleRef", "", "atomic"),
    ("io.k8s.api.rbac.v1.Subject", "", "atomic"),
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
        "",
        "atomic",
    ),
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
        "",
        "atomic",
    ),
];

/// (definition, property, default) of keys that may be left out.
pub(crate) const KEY_DEFAULTS: &[(&str, &str, &str)] = &[
    ("io.k8s.api.core.v1.ContainerPort", "protocol", "TCP"),
    ("io.k8s.api.core.v1.ServicePort", "protocol", "TCP"),
];
