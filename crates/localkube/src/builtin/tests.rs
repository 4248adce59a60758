use serde_json::json;

use super::*;
use crate::status::FieldError;

fn kind(name: &str) -> Kind {
    kinds()
        .into_iter()
        .find(|kind| kind.kind == name)
        .expect("kind")
}

/// The object as it would be stored by a create.
fn created(mut object: Value) -> Value {
    let kind = kind(object["kind"].as_str().expect("kind"));
    object["apiVersion"] = kind.api_version().into();
    object["metadata"]["uid"] = "1b2c".into();
    if kind.namespaced {
        object["metadata"]["namespace"] = "shop".into();
    }
    (kind.strategy.default)(&mut object);
    (kind.strategy.prepare_create)(&mut object);
    object
}

fn faults(object: Value) -> Vec<String> {
    let object = created(object);
    let kind = kind(object["kind"].as_str().expect("kind"));
    lines((kind.strategy.validate)(&object, None))
}

fn update_faults(old: Value, change: impl FnOnce(&mut Value)) -> Vec<String> {
    let old = created(old);
    let kind = kind(old["kind"].as_str().expect("kind"));
    let mut new = old.clone();
    change(&mut new);
    (kind.strategy.default)(&mut new);
    (kind.strategy.prepare_update)(&mut new, &old);
    lines((kind.strategy.validate)(&new, Some(&old)))
}

fn lines(faults: Vec<FieldError>) -> Vec<String> {
    faults
        .into_iter()
        .map(|fault| format!("{}: {}", fault.field, fault.detail))
        .collect()
}

fn workload(kind: &str, spec: Value) -> Value {
    let mut object = json!({"kind": kind, "metadata": {"name": "x"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        },
    }});
    merge(&mut object["spec"], spec);
    object
}

/// Fields of `change` over those of `target`; null removes.
fn merge(target: &mut Value, change: Value) {
    let Value::Object(change) = change else {
        *target = change;
        return;
    };
    for (key, value) in change {
        if value.is_null() {
            fields::remove(target, &key);
        } else if value.is_object() && fields::has(target, &key) {
            merge(&mut target[key], value);
        } else {
            fields::set(target, &key, value);
        }
    }
}

fn pod(container: Value, spec: Value) -> Value {
    let mut object = json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "c", "image": "i"}],
    }});
    merge(&mut object["spec"]["containers"][0], container);
    merge(&mut object["spec"], spec);
    object
}

#[test]
fn default_objects_obey_their_own_rules() {
    for object in objects() {
        let kind = kind(object["kind"].as_str().expect("kind"));
        let mut copy = object.clone();
        (kind.strategy.default)(&mut copy);
        assert_eq!(copy, object);
        assert_eq!(lines((kind.strategy.validate)(&object, None)), [""; 0]);
    }
}

#[test]
fn no_strategy_minds_a_wrong_shape() {
    let shapes = [
        json!({}),
        json!({"metadata": 1, "spec": 2, "status": 3, "data": [], "rules": {}, "subjects": "x"}),
        json!({"spec": {"template": [], "containers": {}, "ports": 7, "strategy": "x", "selector": []}}),
        json!({"spec": {"containers": [1], "volumes": ["x"], "ports": [null], "jobTemplate": 5}}),
        json!({"spec": null, "metadata": null}),
    ];
    for kind in kinds() {
        for shape in &shapes {
            let mut object = shape.clone();
            (kind.strategy.default)(&mut object);
            (kind.strategy.prepare_create)(&mut object);
            (kind.strategy.validate)(&object, None);
            (kind.strategy.prepare_update)(&mut object, shape);
            (kind.strategy.validate)(&object, Some(shape));
        }
    }
}

#[test]
fn defaults_are_the_same_the_second_time() {
    for object in [
        pod(
            json!({"ports": [{"containerPort": 80}], "livenessProbe": {"httpGet": {"port": 80}}}),
            json!({}),
        ),
        workload("Deployment", json!({})),
        workload("StatefulSet", json!({})),
        workload("DaemonSet", json!({})),
        json!({"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}}),
        json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}),
    ] {
        let object = created(object);
        let mut again = object.clone();
        (kind(object["kind"].as_str().expect("kind"))
            .strategy
            .default)(&mut again);
        assert_eq!(again, object);
    }
}

#[test]
fn a_pod_gets_what_admission_adds() {
    let pod = created(pod(
        json!({"resources": {"limits": {"cpu": "1000m"}}}),
        json!({}),
    ));
    let spec = &pod["spec"];
    assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(
        spec["containers"][0]["resources"],
        json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}})
    );
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["priority"], 0);
    assert_eq!(
        spec["tolerations"][1]["key"],
        "node.kubernetes.io/unreachable"
    );
    let mount = &spec["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["name"], spec["volumes"][0]["name"]);
    assert_eq!(
        pod["status"],
        json!({"phase": "Pending", "qosClass": "Burstable"})
    );
}

#[test]
fn a_job_selects_its_own_pods() {
    let job = created(
        json!({"kind": "Job", "metadata": {"name": "j"}, "spec": {"template": {
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]},
        }}}),
    );
    assert_eq!(
        job["spec"]["selector"]["matchLabels"],
        json!({"batch.kubernetes.io/controller-uid": "1b2c"})
    );
    assert_eq!(
        job["spec"]["template"]["metadata"]["labels"]["job-name"],
        "j"
    );
    assert_eq!(job["metadata"]["labels"]["job-name"], "j");
}

#[test]
fn pods_are_refused_in_kubernetes_words() {
    let mount = json!([{"name": "v", "mountPath": "/x"}]);
    for (container, spec, wanted) in [
        (
            json!({}),
            json!({"containers": []}),
            "spec.containers: Required value",
        ),
        (
            json!({"image": null}),
            json!({}),
            "spec.containers[0].image: Required value",
        ),
        (
            json!({}),
            json!({"initContainers": [{"name": "c", "image": "i"}]}),
            "spec.initContainers[0].name: Duplicate value: \"c\"",
        ),
        (
            json!({"ports": [{"containerPort": 70000}]}),
            json!({}),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"ports": [{"containerPort": 80, "protocol": "X"}]}),
            json!({}),
            "spec.containers[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            json!({"env": [{"name": "a=b"}]}),
            json!({}),
            "spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
        ),
        (
            json!({"volumeMounts": mount}),
            json!({}),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            json!({"livenessProbe": {}}),
            json!({}),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}),
            json!({}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            json!({}),
            json!({"restartPolicy": "x"}),
            "spec.restartPolicy: Unsupported value: \"x\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            json!({}),
            json!({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}]}),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
    ] {
        assert_eq!(faults(pod(container, spec)), [wanted]);
    }
}

#[test]
fn a_running_pod_changes_its_image_and_little_else() {
    let old = || pod(json!({}), json!({}));
    let image = update_faults(old(), |pod| {
        pod["spec"]["containers"][0]["image"] = "j".into()
    });
    assert_eq!(image, [""; 0]);
    let policy = update_faults(old(), |pod| pod["spec"]["restartPolicy"] = "Never".into());
    assert!(policy[0].starts_with(
        "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
    ));
    let more = update_faults(old(), |pod| {
        let container = pod["spec"]["containers"][0].clone();
        pod["spec"]["containers"] = json!([container, {"name": "d", "image": "i"}]);
    });
    assert_eq!(
        more,
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
}

#[test]
fn workloads_are_refused_in_kubernetes_words() {
    for kind in ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"] {
        assert_eq!(faults(workload(kind, json!({}))), [""; 0], "{kind}");
        let other = json!({"template": {"metadata": {"labels": {"a": "c"}}}});
        assert_eq!(
            faults(workload(kind, other)),
            [
                "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`"
            ]
        );
        let never = json!({"template": {"spec": {"restartPolicy": "Never"}}});
        assert_eq!(
            faults(workload(kind, never)),
            [
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""
            ]
        );
    }
    assert_eq!(
        faults(workload("Deployment", json!({"selector": null}))),
        [
            "spec.selector: Required value",
            "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
        ]
    );
    assert_eq!(
        faults(workload("Deployment", json!({"replicas": -1}))),
        ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
    );
    let relabelled = update_faults(workload("Deployment", json!({})), |object| {
        object["spec"]["selector"]["matchLabels"]["a"] = "x".into();
        object["spec"]["template"]["metadata"]["labels"]["a"] = "x".into();
    });
    assert_eq!(
        relabelled,
        ["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"x\"}}: field is immutable"]
    );
    let renamed = update_faults(
        workload("StatefulSet", json!({"serviceName": "a"})),
        |object| {
            object["spec"]["serviceName"] = "b".into();
        },
    );
    assert!(
        renamed[0]
            .starts_with("spec: Forbidden: updates to statefulset spec for fields other than")
    );
}

#[test]
fn data_is_refused_in_kubernetes_words() {
    let config =
        |data: Value| json!({"kind": "ConfigMap", "metadata": {"name": "x"}, "data": data});
    assert_eq!(
        faults(config(json!({"a b": "x"}))),
        [
            "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
        ]
    );
    assert_eq!(
        faults(config(json!({"a": "x".repeat(1_100_000)}))),
        ["[]: Too long: may not be more than 1048576 bytes"]
    );
    let secret = |kind: &str| json!({"kind": "Secret", "metadata": {"name": "x"}, "type": kind});
    assert_eq!(
        faults(secret("kubernetes.io/tls")),
        [
            "data[tls.crt]: Required value",
            "data[tls.key]: Required value"
        ]
    );
    assert_eq!(
        update_faults(secret("Opaque"), |object| object["type"] = "x".into()),
        ["type: Invalid value: \"x\": field is immutable"]
    );
    let mut fixed = config(json!({"a": "b"}));
    fixed["immutable"] = true.into();
    assert_eq!(
        update_faults(fixed, |object| object["data"]["a"] = "c".into()),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
}

#[test]
fn services_are_refused_in_kubernetes_words() {
    let service = |spec: Value| json!({"kind": "Service", "metadata": {"name": "x"}, "spec": spec});
    for (spec, wanted) in [
        (json!({}), "spec.ports: Required value"),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}),
            "spec.ports[1].name: Duplicate value: \"a\"",
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30999}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            json!({"type": "ExternalName"}),
            "spec.externalName: Required value",
        ),
        (
            json!({"type": "X", "ports": [{"port": 80}]}),
            "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ),
        (
            json!({"clusterIP": "1.2.3", "ports": [{"port": 80}]}),
            "spec.clusterIPs[0]: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
    ] {
        assert_eq!(faults(service(spec)), [wanted]);
    }
    let moved = update_faults(service(json!({"ports": [{"port": 80}]})), |object| {
        object["spec"]["clusterIP"] = "10.96.200.1".into();
        object["spec"]["clusterIPs"] = json!(["10.96.200.1"]);
    });
    assert_eq!(
        moved,
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.200.1\"]: may not change once set"]
    );
}

#[test]
fn roles_and_bindings_are_refused_in_kubernetes_words() {
    let binding = |kind: &str, reference: Value, subjects: Value| json!({"kind": kind, "metadata": {"name": "x"}, "roleRef": reference, "subjects": subjects});
    assert_eq!(
        faults(binding(
            "RoleBinding",
            json!({}),
            json!([{"kind": "X", "name": "a"}])
        )),
        [
            "roleRef.kind: Unsupported value: \"\": supported values: \"Role\", \"ClusterRole\"",
            "roleRef.name: Required value",
            "subjects[0].kind: Unsupported value: \"X\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
        ]
    );
    let admin = json!({"kind": "ClusterRole", "name": "admin"});
    let robot = json!([{"kind": "ServiceAccount", "name": "robot"}]);
    assert_eq!(
        faults(binding("ClusterRoleBinding", admin.clone(), robot)),
        ["subjects[0].namespace: Required value"]
    );
    assert_eq!(
        update_faults(binding("ClusterRoleBinding", admin, json!([])), |object| {
            object["roleRef"]["name"] = "view".into();
        }),
        [
            "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"ClusterRole\",\"Name\":\"view\"}: cannot change roleRef"
        ]
    );
    assert_eq!(
        faults(json!({"kind": "Role", "metadata": {"name": "x"}, "rules": [{"verbs": ["get"]}]})),
        [
            "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            "rules[0].resources: Required value: resource rules must supply at least one resource",
        ]
    );
}
