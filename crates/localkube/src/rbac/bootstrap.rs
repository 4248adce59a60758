//! The roles and bindings that every cluster starts with.

use serde_json::{Value, json};

use super::aggregate;

/// (verbs, API groups, resources), each a list separated by spaces. The verbs `read` and `write` stand
/// for their usual sets, the group `core` for the one without a name, and the group `-` says that
/// paths follow instead of resources.
type Rule = (&'static str, &'static str, &'static str);

struct Row {
    name: &'static str,
    /// The aggregated role that takes its rules from this one.
    feeds: &'static str,
    rules: &'static [Rule],
}

#[rustfmt::skip]
const ROLES: &[Row] = &[
    Row { name: "cluster-admin", feeds: "", rules: &[
        ("*", "*", "*"),
        ("*", "-", "*"),
    ] },
    Row { name: "system:aggregate-to-admin", feeds: "admin", rules: &[
        ("create", "authorization.k8s.io", "localsubjectaccessreviews"),
        ("create delete deletecollection get list patch update watch", "rbac.authorization.k8s.io", "rolebindings roles"),
    ] },
    Row { name: "system:aggregate-to-edit", feeds: "edit", rules: &[
        ("read", "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
        ("impersonate", "core", "serviceaccounts"),
        ("write", "core", "pods pods/attach pods/exec pods/portforward pods/proxy"),
        ("create", "core", "pods/eviction"),
        ("write", "core", "configmaps persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy"),
        ("create", "core", "serviceaccounts/token"),
        ("write", "core events.k8s.io", "events"),
        ("write", "apps", "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale"),
        ("write", "autoscaling", "horizontalpodautoscalers"),
        ("write", "batch", "cronjobs jobs"),
        ("write", "extensions", "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets replicasets/scale replicationcontrollers/scale"),
        ("write", "policy", "poddisruptionbudgets"),
        ("write", "networking.k8s.io", "ingresses networkpolicies"),
        ("create delete deletecollection get list patch update watch", "coordination.k8s.io", "leases"),
        ("write", "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
    ] },
    Row { name: "system:aggregate-to-view", feeds: "view", rules: &[
        ("read", "core", "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status"),
        ("read", "core", "bindings limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status"),
        ("read", "core", "namespaces"),
        ("read", "core events.k8s.io", "events"),
        ("read", "discovery.k8s.io", "endpointslices"),
        ("read", "apps", "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status"),
        ("read", "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
        ("read", "batch", "cronjobs cronjobs/status jobs jobs/status"),
        ("read", "extensions", "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale"),
        ("read", "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
        ("read", "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
        ("read", "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
    ] },
    Row { name: "system:auth-delegator", feeds: "", rules: &[
        ("create", "authentication.k8s.io", "tokenreviews"),
        ("create", "authorization.k8s.io", "subjectaccessreviews"),
    ] },
    Row { name: "system:basic-user", feeds: "", rules: &[
        ("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
        ("create", "authentication.k8s.io", "selfsubjectreviews"),
    ] },
    Row { name: "system:discovery", feeds: "", rules: &[
        ("get", "-", "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/"),
    ] },
    Row { name: "system:monitoring", feeds: "", rules: &[
        ("get", "-", "/flagz /healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/* /statusz"),
        ("get", "core", "nodes/metrics"),
    ] },
    Row { name: "system:node", feeds: "", rules: &[
        ("create", "authentication.k8s.io", "tokenreviews"),
        ("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
        ("read", "core", "services"),
        ("create get list watch", "core", "nodes"),
        ("patch update", "core", "nodes/status"),
        ("patch update", "core", "nodes"),
        ("create patch update", "core events.k8s.io", "events"),
        ("read", "core", "pods"),
        ("create delete", "core", "pods"),
        ("patch update", "core", "pods/status"),
        ("create", "core", "pods/eviction"),
        ("read", "core", "configmaps secrets"),
        ("get", "core", "persistentvolumeclaims persistentvolumes"),
        ("get", "core", "endpoints"),
        ("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
        ("create delete get patch update", "coordination.k8s.io", "leases"),
        ("get", "storage.k8s.io", "volumeattachments"),
        ("create", "core", "serviceaccounts/token"),
        ("get patch update", "core", "persistentvolumeclaims/status"),
        ("read", "storage.k8s.io", "csidrivers"),
        ("create delete get patch update", "storage.k8s.io", "csinodes"),
        ("read", "node.k8s.io", "runtimeclasses"),
        ("get", "resource.k8s.io", "resourceclaims"),
        ("deletecollection", "resource.k8s.io", "resourceslices"),
        ("get", "core", "serviceaccounts"),
    ] },
    Row { name: "system:public-info-viewer", feeds: "", rules: &[
        ("get", "-", "/healthz /livez /readyz /version /version/"),
    ] },
    Row { name: "system:service-account-issuer-discovery", feeds: "", rules: &[
        ("get", "-", "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/"),
    ] },
];

/// Roles made of others: (name, which it feeds itself).
const AGGREGATED: &[(&str, &str)] = &[("admin", ""), ("edit", "admin"), ("view", "edit")];

/// (name of role and binding, groups)
const BINDINGS: &[(&str, &[&str])] = &[
    ("cluster-admin", &["system:masters"]),
    ("system:basic-user", &["system:authenticated"]),
    ("system:discovery", &["system:authenticated"]),
    ("system:monitoring", &["system:monitoring"]),
    // Kept without subjects, as kube-apiserver keeps it.
    ("system:node", &[]),
    (
        "system:public-info-viewer",
        &["system:authenticated", "system:unauthenticated"],
    ),
    (
        "system:service-account-issuer-discovery",
        &["system:serviceaccounts"],
    ),
];

/// The ClusterRoles and ClusterRoleBindings that every cluster starts with, aggregation done.
pub fn bootstrap() -> Vec<Value> {
    let mut roles: Vec<Value> = ROLES
        .iter()
        .map(|row| {
            let rules: Vec<Value> = row.rules.iter().map(rule).collect();
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "metadata": metadata(row.name, row.feeds),
                "rules": rules,
            })
        })
        .collect();
    for (name, feeds) in AGGREGATED {
        let label = aggregation_label(name);
        roles.push(json!({
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]},
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": metadata(name, feeds),
            "rules": [],
        }));
    }
    // A role can only gather what others already hold, so this ends after as many rounds as there are levels.
    for _ in AGGREGATED {
        for changed in aggregate(&roles) {
            let name = changed.pointer("/metadata/name");
            if let Some(role) = roles
                .iter_mut()
                .find(|role| role.pointer("/metadata/name") == name)
            {
                *role = changed;
            }
        }
    }
    let bindings = BINDINGS.iter().map(|(name, groups)| {
        let subjects: Vec<Value> = groups
            .iter()
            .map(|group| {
                json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group})
            })
            .collect();
        let mut binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata(name, ""),
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name,
            },
        });
        if !subjects.is_empty() {
            binding["subjects"] = subjects.into();
        }
        binding
    });
    roles.into_iter().chain(bindings).collect()
}

fn metadata(name: &str, feeds: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    });
    if !feeds.is_empty() {
        metadata["labels"][aggregation_label(feeds)] = "true".into();
    }
    metadata
}

fn aggregation_label(name: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{name}")
}

fn rule((verbs, groups, objects): &Rule) -> Value {
    let verbs: Vec<&str> = match *verbs {
        "read" => vec!["get", "list", "watch"],
        "write" => vec!["create", "delete", "deletecollection", "patch", "update"],
        verbs => verbs.split(' ').collect(),
    };
    let objects: Vec<&str> = objects.split(' ').collect();
    if *groups == "-" {
        return json!({"nonResourceURLs": objects, "verbs": verbs});
    }
    let groups: Vec<&str> = groups
        .split(' ')
        .map(|group| if group == "core" { "" } else { group })
        .collect();
    json!({"apiGroups": groups, "resources": objects, "verbs": verbs})
}
