//! The core group.

use super::row::{CONNECT, CREATE, Group, READ_WRITE, STREAM};
use super::{defaults, pod_defaults, service, workload_defaults};
use super::{network_rules, pod_rules, rules, workload_rules};
use crate::kind::{Kind, NameRule};
use crate::table;

const V1: Group = Group("", "v1");

pub(super) fn kinds() -> Vec<Kind> {
    [
        V1.namespaced("configmaps", "ConfigMap")
            .validate(rules::config_map)
            .print(table::core::CONFIG_MAP, table::core::config_map)
            .short(&["cm"]),
        V1.namespaced("endpoints", "Endpoints")
            .validate(network_rules::endpoints)
            .print(table::core::ENDPOINTS, table::core::endpoints)
            .defaults(defaults::endpoints)
            .short(&["ep"]),
        V1.namespaced("events", "Event")
            .validate(rules::event)
            .print(table::core::EVENT, table::core::event)
            .defaults(defaults::event)
            .short(&["ev"])
            .select(&[
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
            .defaults(defaults::limit_range)
            .short(&["limits"]),
        V1.cluster("namespaces", "Namespace")
            .print(table::core::NAMESPACE, table::core::namespace)
            .defaults(defaults::namespace)
            .created(defaults::namespace_created)
            .updated(defaults::namespace_updated)
            .names(NameRule::Label)
            .short(&["ns"])
            .without("deletecollection")
            .status()
            .sub("finalize", "Namespace", &["update"])
            .select(&[("status.phase", "")]),
        V1.cluster("nodes", "Node")
            .print(table::core::NODE, table::core::node)
            .defaults(defaults::node)
            .short(&["no"])
            .status()
            .sub("proxy", "NodeProxyOptions", CONNECT)
            .select(&[("spec.unschedulable", "false")]),
        V1.namespaced("persistentvolumeclaims", "PersistentVolumeClaim")
            .validate(rules::claim)
            .print(table::core::CLAIM, table::core::claim)
            .defaults(defaults::claim)
            .created(defaults::claim_created)
            .short(&["pvc"])
            .status(),
        V1.cluster("persistentvolumes", "PersistentVolume")
            .validate(rules::volume)
            .print(table::core::VOLUME, table::core::volume)
            .defaults(defaults::volume)
            .created(defaults::volume_created)
            .short(&["pv"])
            .status(),
        V1.namespaced("pods", "Pod")
            .validate(pod_rules::pod)
            .print(table::pods::COLUMNS, table::pods::cells)
            .defaults(pod_defaults::pod)
            .created(pod_defaults::prepare_create)
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
        V1.namespaced("podtemplates", "PodTemplate")
            .print(table::pods::TEMPLATE_COLUMNS, table::pods::template_cells)
            .defaults(workload_defaults::pod_template)
            .generation(),
        V1.namespaced("replicationcontrollers", "ReplicationController")
            .validate(workload_rules::replication_controller)
            .print(
                table::workloads::REPLICA_SET,
                table::workloads::replication_controller,
            )
            .defaults(workload_defaults::replication_controller)
            .created(workload_defaults::replicas_created)
            .short(&["rc"])
            .all()
            .status()
            .scale()
            .generation()
            .select(&[("status.replicas", "0")]),
        V1.namespaced("resourcequotas", "ResourceQuota")
            .validate(rules::quota)
            .print(table::core::QUOTA, table::core::quota)
            .defaults(defaults::resource_quota)
            .created(defaults::empty_status)
            .short(&["quota"])
            .status(),
        V1.namespaced("secrets", "Secret")
            .validate(rules::secret)
            .print(table::core::SECRET, table::core::secret)
            .defaults(defaults::secret)
            .select(&[("type", "")]),
        V1.namespaced("serviceaccounts", "ServiceAccount")
            .print(table::core::NAME_AND_AGE, table::core::name_and_age)
            .short(&["sa"])
            .foreign_sub("token", ("authentication.k8s.io", "v1"), "TokenRequest"),
        V1.namespaced("services", "Service")
            .validate(network_rules::service)
            .print(table::network::SERVICE, table::network::service)
            .defaults(service::defaults)
            .created(service::prepare_create)
            .updated(service::prepare_update)
            .names(NameRule::Label)
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
