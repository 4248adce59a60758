use serde_json::json;

use super::*;

fn now() -> jiff::Timestamp {
    "2026-01-10T12:00:00Z".parse().expect("time")
}

fn row(plural: &str, object: Value) -> Vec<Value> {
    let kinds = crate::builtin::kinds();
    let kind = kinds
        .iter()
        .find(|kind| kind.plural == plural)
        .expect("kind");
    let table = render(kind, &[object], &json!({}), IncludeObject::Metadata, now());
    let columns = table["columnDefinitions"]
        .as_array()
        .expect("columns")
        .len();
    let cells = table["rows"][0]["cells"].as_array().expect("cells").clone();
    assert_eq!(cells.len(), columns, "{plural}");
    cells
}

#[test]
fn every_printer_fills_every_column_of_an_empty_object() {
    for kind in crate::builtin::kinds() {
        let table = render(&kind, &[json!({})], &json!({}), IncludeObject::None, now());
        let columns = table["columnDefinitions"].as_array().map(Vec::len);
        let cells = table["rows"][0]["cells"].as_array().map(Vec::len);
        assert_eq!(columns, cells, "{}", kind.plural);
    }
}

#[test]
fn rows_carry_metadata_by_default() {
    let kinds = crate::builtin::kinds();
    let kind = kinds
        .iter()
        .find(|kind| kind.plural == "configmaps")
        .expect("kind");
    let object = json!({"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let list = json!({"resourceVersion": "7"});
    let table = render(
        kind,
        std::slice::from_ref(&object),
        &list,
        IncludeObject::Metadata,
        now(),
    );
    assert_eq!(table["metadata"], list);
    assert_eq!(
        table["rows"][0]["object"],
        json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
            "metadata": {"name": "a"},
        })
    );
    let table = render(
        kind,
        std::slice::from_ref(&object),
        &list,
        IncludeObject::Object,
        now(),
    );
    assert_eq!(table["rows"][0]["object"], object);
}

#[test]
fn durations_get_coarser() {
    for (seconds, text) in [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (600, "10m"),
        (179 * 60, "179m"),
        (180 * 60, "3h"),
        (7 * 3600 + 60, "7h1m"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (49 * 3600, "2d1h"),
        (8 * 86400, "8d"),
        (729 * 86400, "729d"),
        (730 * 86400, "2y"),
        (1105 * 86400, "3y10d"),
        (9 * 365 * 86400, "9y"),
    ] {
        assert_eq!(
            cells::duration(jiff::SignedDuration::from_secs(seconds)),
            text
        );
    }
}

/// Status of one Pod (containers `a` and `b`, and init containers where the status names them) and the
/// cells Ready, Status and Restarts.
#[test]
fn pods_show_what_state_they_are_in() {
    let running = json!({"running": {}});
    let one = |name: &str, ready: bool, restarts: i64, state: Value| {
        json!({"name": name, "ready": ready, "restartCount": restarts, "state": state,
            "lastState": {"terminated": {"finishedAt": "2026-01-10T11:55:00Z"}}})
    };
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let cases = [
        (json!({"phase": "Pending"}), ["0/2", "Pending", "0"]),
        (
            json!({"phase": "Running", "containerStatuses": [
                one("a", true, 2, running.clone()), one("b", true, 0, running.clone()),
            ]}),
            ["2/2", "Running", "2 (5m ago)"],
        ),
        (
            json!({"phase": "Running", "containerStatuses": [
                one("a", false, 7, json!({"waiting": {"reason": "CrashLoopBackOff"}})),
                one("b", true, 0, running.clone()),
            ]}),
            ["1/2", "CrashLoopBackOff", "7 (5m ago)"],
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [
                one("a", false, 0, json!({"terminated": {"exitCode": 3}})),
                one("b", false, 0, json!({"terminated": {"exitCode": 0, "signal": 9}})),
            ]}),
            ["0/2", "ExitCode:3", "0"],
        ),
        (
            json!({"phase": "Failed", "reason": "Evicted"}),
            ["0/2", "Evicted", "0"],
        ),
        (
            json!({"phase": "Running", "conditions": ready, "containerStatuses": [
                one("a", false, 0, json!({"terminated": {"exitCode": 0, "reason": "Completed"}})),
                one("b", true, 0, running.clone()),
            ]}),
            ["1/2", "Running", "0"],
        ),
        (
            json!({"phase": "Running", "containerStatuses": [
                one("a", false, 0, json!({"terminated": {"exitCode": 0, "reason": "Completed"}})),
                one("b", true, 0, running.clone()),
            ]}),
            ["1/2", "NotReady", "0"],
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [one("i", false, 0, running.clone())]}),
            ["0/2", "Init:0/1", "0"],
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [
                one("i", false, 3, json!({"terminated": {"exitCode": 2}})),
            ]}),
            ["0/2", "Init:ExitCode:2", "3 (5m ago)"],
        ),
        (
            json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"},
            ]}),
            ["0/2", "SchedulingGated", "0"],
        ),
    ];
    for (status, wanted) in cases {
        let pod = json!({
            "metadata": {"name": "p"},
            "spec": {
                "initContainers": [{"name": "i"}],
                "containers": [{"name": "a"}, {"name": "b"}],
            },
            "status": status,
        });
        let cells = row("pods", pod.clone());
        assert_eq!(cells[1..4], wanted.map(Value::from), "{status}");
        let mut deleted = pod;
        deleted["metadata"]["deletionTimestamp"] = "2026-01-10T12:00:00Z".into();
        let over = status["phase"] == "Failed";
        assert_eq!(row("pods", deleted)[2] == "Terminating", !over, "{status}");
    }
}

#[test]
fn objects_are_printed_as_kubectl_prints_them() {
    let created = json!({"name": "x", "creationTimestamp": "2026-01-10T11:00:00Z"});
    let template = json!({"spec": {"containers": [
        {"name": "a", "image": "i:1"}, {"name": "b", "image": "j:2"},
    ]}});
    let with = |mut object: Value| {
        object["metadata"] = created.clone();
        object
    };
    for (plural, object, cells) in [
        (
            "deployments",
            json!({"spec": {"replicas": 3, "template": template, "selector": {
                "matchLabels": {"b": "c"},
                "matchExpressions": [
                    {"key": "a", "operator": "In", "values": ["y", "x"]},
                    {"key": "z", "operator": "DoesNotExist"},
                ],
            }}, "status": {"readyReplicas": 1, "updatedReplicas": 2}}),
            json!([
                "x",
                "1/3",
                2,
                0,
                "60m",
                "a,b",
                "i:1,j:2",
                "a in (x,y),b=c,!z"
            ]),
        ),
        (
            "services",
            json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9", "ports": [
                {"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"},
            ]}}),
            json!([
                "x",
                "LoadBalancer",
                "10.96.0.9",
                "<pending>",
                "80:30080/TCP,53/UDP",
                "60m",
                "<none>"
            ]),
        ),
        (
            "jobs",
            json!({"spec": {"completions": 4, "template": template}, "status": {
                "succeeded": 4, "startTime": "2026-01-10T11:00:00Z",
                "completionTime": "2026-01-10T11:01:30Z",
                "conditions": [{"type": "Complete", "status": "True"}],
            }}),
            json!([
                "x", "Complete", "4/4", "90s", "60m", "a,b", "i:1,j:2", "<none>"
            ]),
        ),
        (
            "endpoints",
            json!({"subsets": [{"ports": [{"port": 80}], "addresses": [
                {"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}, {"ip": "fd00::1"}, {"ip": "10.0.0.4"},
            ]}]}),
            json!([
                "x",
                "10.0.0.1:80,10.0.0.2:80,[fd00::1]:80 + 1 more...",
                "60m"
            ]),
        ),
        (
            "horizontalpodautoscalers",
            json!({"spec": {"minReplicas": 1, "maxReplicas": 3,
            "scaleTargetRef": {"kind": "Deployment", "name": "d"},
            "metrics": [{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80},
            }}]},
            "status": {"currentReplicas": 2, "currentMetrics": [{"type": "Resource", "resource": {
                "name": "cpu", "current": {"averageUtilization": 40},
            }}]}}),
            json!(["x", "Deployment/d", "cpu: 40%/80%", "1", 3, 2, "60m"]),
        ),
        (
            "resourcequotas",
            json!({"status": {
                "hard": {"requests.cpu": "4", "limits.cpu": "5", "pods": "10"}, "used": {"pods": "2"},
            }}),
            json!([
                "x",
                "pods: 2/10, requests.cpu: 0/4",
                "limits.cpu: 0/5",
                "60m"
            ]),
        ),
        (
            "clusterroles",
            json!({}),
            json!(["x", "2026-01-10T11:00:00Z"]),
        ),
    ] {
        assert_eq!(Value::from(row(plural, with(object))), cells, "{plural}");
    }
}

#[test]
fn custom_columns_follow_their_type() {
    let mut kind = crate::builtin::kinds().remove(0);
    let column = |name: &str, kind: &str| OwnedColumn {
        name: name.to_owned(),
        kind: kind.to_owned(),
        format: String::new(),
        description: String::new(),
        priority: 0,
    };
    kind.columns = Columns::Printed(vec![
        (column("Text", "string"), ".spec.text".to_owned()),
        (column("List", "string"), ".spec.list".to_owned()),
        (column("Number", "integer"), ".spec.number".to_owned()),
        (column("Since", "date"), ".spec.time".to_owned()),
        (column("Absent", "string"), ".spec.nope".to_owned()),
        (column("Wrong", "boolean"), ".spec.text".to_owned()),
    ]);
    let object = json!({"metadata": {"name": "x"}, "spec": {
        "text": "t", "list": [1], "number": 4, "time": "2026-01-10T11:59:00Z",
    }});
    let table = render(
        &kind,
        std::slice::from_ref(&object),
        &json!({}),
        IncludeObject::None,
        now(),
    );
    assert_eq!(
        table["rows"][0]["cells"],
        json!(["x", "t", "[1]", 4, "60s", null, null])
    );
    kind.columns = Columns::Printed(Vec::new());
    let table = render(&kind, &[object], &json!({}), IncludeObject::None, now());
    assert_eq!(table["columnDefinitions"][1]["name"], "Age");
    assert_eq!(table["rows"][0]["cells"], json!(["x", "<unknown>"]));
}
