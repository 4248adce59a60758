use serde_json::{Value, json};

use super::*;

fn user(name: &str, groups: &[&str]) -> User {
    User {
        name: name.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..User::default()
    }
}

fn role(namespace: &str, name: &str, rules: Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name}, "rules": rules})
}

fn binding(namespace: &str, kind: &str, role: &str, subjects: Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": role},
        "roleRef": {"kind": kind, "name": role}, "subjects": subjects})
}

/// `get pods/log a`, `get /path` or `list apps/deployments`; a group is written before a colon.
fn attributes(text: &str, namespace: &str) -> Attributes {
    let mut words = text.split(' ');
    let (verb, object) = (words.next().unwrap(), words.next().unwrap());
    let mut attributes = Attributes {
        verb: verb.to_owned(),
        namespace: namespace.to_owned(),
        name: words.next().unwrap_or_default().to_owned(),
        ..Attributes::default()
    };
    if object.starts_with('/') {
        attributes.path = object.to_owned();
        return attributes;
    }
    let (group, resource) = object.split_once(':').unwrap_or(("", object));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    attributes.is_resource = true;
    attributes.group = group.to_owned();
    attributes.resource = resource.to_owned();
    attributes.subresource = subresource.to_owned();
    attributes
}

fn policy() -> Policy {
    let bootstrap = bootstrap();
    let of = |kind: &str| -> Vec<Value> {
        bootstrap
            .iter()
            .filter(|object| object["kind"] == kind)
            .cloned()
            .collect()
    };
    let mut cluster_roles = of("ClusterRole");
    cluster_roles.push(role(
        "",
        "paths",
        json!([{"nonResourceURLs": ["/logs/*", "/x"], "verbs": ["get"]}]),
    ));
    let mut cluster_bindings = of("ClusterRoleBinding");
    cluster_bindings.push(binding(
        "",
        "ClusterRole",
        "paths",
        json!([{"kind": "User", "name": "eve"}]),
    ));
    let roles = [
        role(
            "t",
            "mini",
            json!([
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
                {"apiGroups": ["apps"], "resources": ["*/scale"], "verbs": ["*"]},
                {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get", "list"]},
            ]),
        ),
        role(
            "t",
            "writer",
            json!([
                {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"],
                 "verbs": ["create", "update", "get", "patch", "delete"]},
            ]),
        ),
    ];
    let bindings = [
        binding(
            "t",
            "Role",
            "mini",
            json!([{"kind": "ServiceAccount", "name": "bob", "namespace": "t"}]),
        ),
        binding(
            "t",
            "Role",
            "writer",
            json!([{"kind": "User", "name": "eve"}]),
        ),
        binding(
            "u",
            "ClusterRole",
            "view",
            json!([{"kind": "Group", "name": "readers"}]),
        ),
        binding(
            "u",
            "ClusterRole",
            "edit",
            json!([{"kind": "User", "name": "ed"}]),
        ),
    ];
    Policy::from_objects(&cluster_roles, &roles, &cluster_bindings, &bindings)
}

#[test]
fn allows_and_refuses() {
    let policy = policy();
    let bob = user("system:serviceaccount:t:bob", &["system:authenticated"]);
    let eve = user("eve", &["system:authenticated"]);
    let reader = user("r", &["readers"]);
    let ed = user("ed", &[]);
    let root = user("x", &["system:masters"]);
    let nobody = user("system:anonymous", &["system:unauthenticated"]);
    for (who, what, namespace, allowed) in [
        (&bob, "get pods a", "t", true),
        (&bob, "get pods a", "u", false),
        (&bob, "list pods", "t", false),
        (&bob, "get pods/log a", "t", false),
        (&bob, "update apps:deployments/scale a", "t", true),
        (&bob, "update apps:deployments a", "t", false),
        (&bob, "get secrets a", "t", true),
        (&bob, "get secrets b", "t", false),
        (&bob, "list secrets", "t", false),
        (&bob, "get /api", "", true),
        (&bob, "get /apis/apps/v1", "", true),
        (&bob, "post /apis/apps/v1", "", false),
        (
            &bob,
            "create authorization.k8s.io:selfsubjectaccessreviews",
            "",
            true,
        ),
        (&eve, "get /logs/a", "", true),
        (&eve, "get /logs", "", false),
        (&eve, "get /x", "", true),
        (&eve, "get /x/y", "", false),
        (&reader, "list pods", "u", true),
        (&reader, "get apps:deployments/status a", "u", true),
        (&reader, "get secrets a", "u", false),
        (&reader, "list pods", "t", false),
        (&reader, "list pods", "", false),
        (&ed, "list pods", "u", true),
        (&ed, "delete secrets a", "u", true),
        (&ed, "create pods/exec a", "u", true),
        (&ed, "create rbac.authorization.k8s.io:roles", "u", false),
        (&root, "delete nodes a", "", true),
        (&root, "get /anything", "", true),
        (&nobody, "get /healthz", "", true),
        (&nobody, "get /version", "", true),
        (&nobody, "get /api", "", false),
        (&nobody, "list pods", "t", false),
    ] {
        let answer = policy.authorize(who, &attributes(what, namespace));
        assert_eq!(
            answer.is_ok(),
            allowed,
            "{} {what} in {namespace:?}",
            who.name
        );
    }
}

#[test]
fn refuses_in_the_words_of_kubernetes() {
    let (policy, bob) = (Policy::default(), user("system:serviceaccount:t:bob", &[]));
    for (what, namespace, text) in [
        (
            "list pods",
            "",
            "pods is forbidden: User \"system:serviceaccount:t:bob\" cannot list resource \"pods\" in API group \"\" at the cluster scope",
        ),
        (
            "get pods x",
            "default",
            "pods \"x\" is forbidden: User \"system:serviceaccount:t:bob\" cannot get resource \"pods\" in API group \"\" in the namespace \"default\"",
        ),
        (
            "get pods/log x",
            "t",
            "pods \"x\" is forbidden: User \"system:serviceaccount:t:bob\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"t\"",
        ),
        (
            "list apps:deployments",
            "t",
            "deployments.apps is forbidden: User \"system:serviceaccount:t:bob\" cannot list resource \"deployments\" in API group \"apps\" in the namespace \"t\"",
        ),
        (
            "get /foo",
            "",
            "forbidden: User \"system:serviceaccount:t:bob\" cannot get path \"/foo\"",
        ),
    ] {
        let attributes = attributes(what, namespace);
        let why = policy.authorize(&bob, &attributes).unwrap_err();
        let error = forbidden(&attributes, &why);
        assert_eq!((error.code, error.message.as_str()), (403, text));
    }
}

#[test]
fn bootstrap_roles_are_aggregated() {
    let roles = bootstrap();
    let rules = |name: &str| {
        let role = roles
            .iter()
            .find(|role| role["kind"] == "ClusterRole" && role["metadata"]["name"] == name);
        role.unwrap()["rules"].as_array().unwrap().len()
    };
    let parts = |name: &str| rules(&format!("system:aggregate-to-{name}"));
    assert_eq!(rules("view"), parts("view"));
    assert_eq!(rules("edit"), parts("edit") + parts("view"));
    assert_eq!(
        rules("admin"),
        parts("admin") + parts("edit") + parts("view")
    );
    assert_eq!(
        aggregate(&roles[..14]).len(),
        0,
        "a second pass changes nothing"
    );
}

#[test]
fn refuses_escalation_in_the_words_of_kubernetes() {
    let policy = policy();
    let eve = user("eve", &["system:authenticated"]);
    let head = "user \"eve\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n";
    let cases = [
        (
            json!([{"apiGroups": [""], "resources": ["secrets", "pods"], "verbs": ["get", "list", "delete"]},
                   {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "delete"]}]),
            "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"list\" \"delete\"]}\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\" \"delete\"]}\n{APIGroups:[\"apps\"], Resources:[\"deployments\"], Verbs:[\"get\" \"list\" \"delete\"]}",
        ),
        (
            json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["b", "a"], "verbs": ["get", "list"]}]),
            "{APIGroups:[\"\"], Resources:[\"secrets\"], ResourceNames:[\"a\"], Verbs:[\"get\" \"list\"]}\n{APIGroups:[\"\"], Resources:[\"secrets\"], ResourceNames:[\"b\"], Verbs:[\"get\" \"list\"]}",
        ),
        (
            json!([{"apiGroups": ["", "rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["get", "list"]}]),
            "{APIGroups:[\"\"], Resources:[\"roles\"], Verbs:[\"get\" \"list\"]}\n{APIGroups:[\"rbac.authorization.k8s.io\"], Resources:[\"roles\"], Verbs:[\"list\"]}",
        ),
    ];
    for (rules, lines) in cases {
        let error = policy
            .check_escalation(&eve, "roles", &role("t", "up", rules), None)
            .unwrap_err();
        assert_eq!(
            error.message,
            format!("roles.rbac.authorization.k8s.io \"up\" is forbidden: {head}{lines}")
        );
    }
    let bind = |kind: &str, name: &str| {
        let mut object = binding("t", kind, name, json!([{"kind": "User", "name": "eve"}]));
        object["metadata"]["name"] = "up".into();
        policy.check_escalation(&eve, "rolebindings", &object, None)
    };
    assert_eq!(
        bind("Role", "nope").unwrap_err().message,
        "rolebindings.rbac.authorization.k8s.io \"nope\" not found"
    );
    assert!(
        bind("Role", "writer").is_ok(),
        "one may hand on what one has"
    );
    assert_eq!(
        bind("ClusterRole", "cluster-admin").unwrap_err().message,
        format!(
            "rolebindings.rbac.authorization.k8s.io \"up\" is forbidden: {head}{{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}}\n{{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}}"
        ),
    );
    let old = role(
        "t",
        "up",
        json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]),
    );
    let mut labelled = old.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert!(
        policy
            .check_escalation(&eve, "roles", &labelled, Some(&old))
            .is_ok()
    );
    assert!(
        policy
            .check_escalation(&user("x", &["system:masters"]), "roles", &old, None)
            .is_ok()
    );
}
