//! The core group.

use super::row::{CONNECT, CREATE, Group, READ_WRITE, STREAM};
use crate::kind::Kind;

const V1: Group = Group("", "v1");

pub(super) fn kinds() -> Vec<Kind> {
    [
        V1.namespaced("configmaps", "ConfigMap").short(&["cm"]),
        V1.namespaced("endpoints", "Endpoints").short(&["ep"]),
        V1.namespaced("events", "Event").short(&["ev"]).select(&[
            ("involvedObject.kind", ""),
            ("involvedObject.namespace", ""),
            ("involvedObject.name", ""),
            ("involvedObject.uid", ""),
            ("involvedObject.apiVersion", ""),
            ("involvedObject.resourceVersion", ""),
            ("involvedObject.fieldPath", ""),
            ("reason", ""),
            ("reportingComponent", ""),
            ("type", ""),
        ]),
        V1.namespaced("limitranges", "LimitRange")
            .short(&["limits"]),
        V1.cluster("namespaces", "Namespace")
            .short(&["ns"])
            .without("deletecollection")
            .status()
            .sub("finalize", "Namespace", &["update"])
            .select(&[("status.phase", "")]),
        V1.cluster("nodes", "Node")
            .short(&["no"])
            .status()
            .sub("proxy", "NodeProxyOptions", CONNECT)
            .select(&[("spec.unschedulable", "false")]),
        V1.namespaced("persistentvolumeclaims", "PersistentVolumeClaim")
            .short(&["pvc"])
            .status(),
        V1.cluster("persistentvolumes", "PersistentVolume")
            .short(&["pv"])
            .status(),
        V1.namespaced("pods", "Pod")
            .short(&["po"])
            .all()
            .status()
            .generation()
            .sub("attach", "PodAttachOptions", STREAM)
            .sub("binding", "Binding", CREATE)
            .sub("ephemeralcontainers", "Pod", READ_WRITE)
            .foreign_sub("eviction", ("policy", "v1"), "Eviction")
            .sub("exec", "PodExecOptions", STREAM)
            .sub("log", "Pod", &["get"])
            .sub("portforward", "PodPortForwardOptions", STREAM)
            .sub("proxy", "PodProxyOptions", CONNECT)
            .select(&[
                ("spec.nodeName", ""),
                ("spec.restartPolicy", ""),
                ("spec.schedulerName", ""),
                ("spec.serviceAccountName", ""),
                ("spec.hostNetwork", "false"),
                ("status.phase", ""),
                ("status.podIP", ""),
                ("status.nominatedNodeName", ""),
            ]),
        V1.namespaced("podtemplates", "PodTemplate").generation(),
        V1.namespaced("replicationcontrollers", "ReplicationController")
            .short(&["rc"])
            .all()
            .status()
            .scale()
            .generation()
            .select(&[("status.replicas", "0")]),
        V1.namespaced("resourcequotas", "ResourceQuota")
            .short(&["quota"])
            .status(),
        V1.namespaced("secrets", "Secret").select(&[("type", "")]),
        V1.namespaced("serviceaccounts", "ServiceAccount")
            .short(&["sa"])
            .foreign_sub("token", ("authentication.k8s.io", "v1"), "TokenRequest"),
        V1.namespaced("services", "Service")
            .short(&["svc"])
            .all()
            .status()
            .sub("proxy", "ServiceProxyOptions", CONNECT)
            .select(&[("spec.clusterIP", ""), ("spec.type", "")]),
    ]
    .into_iter()
    .map(super::row::Row::build)
    .collect()
}
