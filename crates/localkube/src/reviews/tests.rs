use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::authority::Authority;
use crate::service_account::{Accounts, Reference, TokenSpec};

struct OneAccount;

impl Accounts for OneAccount {
    fn uid(&self, resource: &str, namespace: &str, name: &str) -> Option<String> {
        ((resource, namespace, name) == ("serviceaccounts", "t", "bob")).then(|| "u1".to_owned())
    }
}

fn policy() -> Policy {
    let role = json!({"metadata": {"namespace": "t", "name": "mini"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    let binding = json!({"metadata": {"namespace": "t", "name": "mini"},
        "roleRef": {"kind": "Role", "name": "mini"},
        "subjects": [{"kind": "ServiceAccount", "name": "bob", "namespace": "t"}]});
    Policy::from_objects(&[], &[role], &[], &[binding])
}

fn ask(resource: &str, spec: Value) -> Result<Value, ApiError> {
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let authority = Arc::new(Authority::in_memory("ca", now).unwrap());
    let account = Reference {
        name: "bob".to_owned(),
        uid: "u1".to_owned(),
    };
    let token = TokenSpec {
        namespace: "t",
        account,
        pod: None,
        secret: None,
        audiences: &[],
        life: std::time::Duration::from_secs(60),
    };
    let token = authority.token_key().issue(token, now).unwrap();
    let policy = Arc::new(ArcSwap::from_pointee(policy()));
    let authenticator = Authenticator::new(
        authority,
        Arc::new(OneAccount),
        Arc::clone(&policy),
        Arc::new(move || now),
    );
    let mut spec = spec;
    if spec["token"] == "good" {
        spec["token"] = token.into();
    }
    let user = User {
        name: "system:serviceaccount:t:bob".to_owned(),
        uid: "u1".to_owned(),
        groups: vec!["g".to_owned()],
        extra: Vec::new(),
    };
    answer(
        resource,
        Some("t"),
        &json!({"spec": spec}),
        &user,
        &policy.load(),
        &authenticator,
    )
}

#[test]
fn answers_as_kubernetes_does() {
    let bob = "system:serviceaccount:t:bob";
    let pods = json!({"verb": "get", "resource": "pods", "namespace": "t"});
    let allowed = json!({"allowed": true, "reason": "RBAC: allowed by RoleBinding \"mini/t\" of Role \"mini\" to ServiceAccount \"bob/t\""});
    for (resource, spec, status) in [
        (
            "selfsubjectaccessreviews",
            json!({"resourceAttributes": pods}),
            allowed.clone(),
        ),
        (
            "selfsubjectaccessreviews",
            json!({"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "t"}}),
            json!({"allowed": false}),
        ),
        (
            "selfsubjectaccessreviews",
            json!({"nonResourceAttributes": {"verb": "get", "path": "/x"}}),
            json!({"allowed": false}),
        ),
        (
            "subjectaccessreviews",
            json!({"user": bob, "resourceAttributes": pods}),
            allowed.clone(),
        ),
        (
            "subjectaccessreviews",
            json!({"user": "x", "resourceAttributes": pods}),
            json!({"allowed": false}),
        ),
        (
            "subjectaccessreviews",
            json!({"groups": ["system:masters"], "resourceAttributes": pods}),
            json!({"allowed": true}),
        ),
        (
            "localsubjectaccessreviews",
            json!({"user": bob, "resourceAttributes": pods}),
            allowed.clone(),
        ),
        (
            "selfsubjectrulesreviews",
            json!({"namespace": "t"}),
            json!({
                "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}], "nonResourceRules": [], "incomplete": false,
            }),
        ),
        (
            "tokenreviews",
            json!({"token": "abc"}),
            json!({"user": {}, "error": "invalid bearer token"}),
        ),
        (
            "tokenreviews",
            json!({"token": "good", "audiences": ["x"]}),
            json!({"user": {}, "error": "invalid bearer token"}),
        ),
    ] {
        assert_eq!(
            ask(resource, spec.clone()).unwrap()["status"],
            status,
            "{resource} {spec}"
        );
    }
    let whose = ask("tokenreviews", json!({"token": "good"})).unwrap();
    assert_eq!(whose["status"]["user"]["username"], bob);
    assert_eq!(
        whose["status"]["user"]["groups"],
        json!([
            "system:serviceaccounts",
            "system:serviceaccounts:t",
            "system:authenticated"
        ])
    );
    let me = ask("selfsubjectreviews", json!({})).unwrap();
    assert_eq!(
        me["status"]["userInfo"],
        json!({"username": bob, "uid": "u1", "groups": ["g"]})
    );
}

#[test]
fn refuses_as_kubernetes_does() {
    let pods = json!({"verb": "get", "resource": "pods", "namespace": "other"});
    for (resource, spec, code, message) in [
        (
            "subjectaccessreviews",
            json!({}),
            422,
            ".authorization.k8s.io \"\" is invalid: [spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified, spec.user: Invalid value: \"\": at least one of user or group must be specified]",
        ),
        (
            "subjectaccessreviews",
            json!({"user": "x", "resourceAttributes": pods, "nonResourceAttributes": {"path": "/"}}),
            422,
            ".authorization.k8s.io \"\" is invalid: spec.nonResourceAttributes: Invalid value: {\"Path\":\"/\",\"Verb\":\"\"}: cannot be specified in combination with resourceAttributes",
        ),
        (
            "localsubjectaccessreviews",
            json!({"user": "x", "resourceAttributes": pods}),
            422,
            ".authorization.k8s.io \"\" is invalid: spec.resourceAttributes.namespace: Invalid value: \"other\": must match metadata.namespace",
        ),
        (
            "selfsubjectrulesreviews",
            json!({}),
            400,
            "no namespace on request",
        ),
        (
            "tokenreviews",
            json!({}),
            400,
            "token is required for TokenReview in authentication",
        ),
    ] {
        let error = ask(resource, spec).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (code, message));
    }
}
