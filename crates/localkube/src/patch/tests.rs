use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::kind::{Columns, Strategy as KindStrategy};
use crate::schema::Schema;

fn kind(name: &str, custom: bool) -> Kind {
    Kind {
        group: String::new(),
        version: "v1".to_owned(),
        plural: String::new(),
        singular: String::new(),
        kind: name.to_owned(),
        list_kind: String::new(),
        namespaced: true,
        short_names: Vec::new(),
        categories: Vec::new(),
        verbs: Vec::new(),
        status_subresource: false,
        scale: None,
        subresources: Vec::new(),
        storage_version: "v1".to_owned(),
        columns: Columns::Default,
        strategy: KindStrategy::PLAIN,
        schema: custom.then(|| Arc::new(Schema::compile(&json!({"type": "object"})).unwrap())),
        selectable_fields: Vec::new(),
        generation: false,
    }
}

#[test]
fn json_patch_does_what_kube_apiserver_does() {
    let current = json!({"data": {"a": "1"}, "list": [{"name": "x"}], "s~/t": 1});
    let refused = "the server rejected our request due to an error in our request";
    let decode = "error decoding patch: ";
    for (patch, expected) in [
        (
            r#"[{"op":"test","path":"/data/a","value":"2"}]"#,
            Err((422, refused.to_owned())),
        ),
        (
            r#"[{"op":"test","path":"/data/a","value":"1"}]"#,
            Ok(current.clone()),
        ),
        (r#"[{"op":"test","path":"/data/q"}]"#, Ok(current.clone())),
        (
            r#"[{"op":"test","path":"/data/a"}]"#,
            Err((422, refused.to_owned())),
        ),
        (
            r#"[{"op":"test","path":"/nope/q","value":"2"}]"#,
            Err((422, refused.to_owned())),
        ),
        (
            r#"[{"op":"test","path":"/data","value":{"a":"1"}}]"#,
            Ok(current.clone()),
        ),
        (
            r#"[{"op":"remove","path":"/data/zz"}]"#,
            Err((422, refused.to_owned())),
        ),
        (
            r#"[{"op":"remove","path":""}]"#,
            Err((422, refused.to_owned())),
        ),
        (
            r#"[{"op":"add","path":"/nope/zz","value":"x"}]"#,
            Err((422, refused.to_owned())),
        ),
        (
            r#"[{"op":"add","value":"x"}]"#,
            Err((422, refused.to_owned())),
        ),
        (
            r#"[{"op":"foo","path":"/data/zz"}]"#,
            Err((422, refused.to_owned())),
        ),
        (
            r#"[{"op":"move","from":"/data/q","path":"/data/zz"}]"#,
            Err((422, refused.to_owned())),
        ),
        (
            r#"[{"op":"add","path":"/data/a/b","value":"1"}]"#,
            Err((422, refused.to_owned())),
        ),
        (
            r#"[{"op":"add","path":"/list/7","value":{}}]"#,
            Err((422, refused.to_owned())),
        ),
        (
            r#"[{"op":"remove","path":"/list/-"}]"#,
            Err((422, refused.to_owned())),
        ),
        (
            r#"[{"op":"add","path":"/list/-5","value":{}}]"#,
            Err((422, refused.to_owned())),
        ),
        (
            r#"[{"op":"add","path":"/list/-1","value":{"name":"y"}}]"#,
            Ok(json!({"data": {"a": "1"}, "list": [{"name": "x"}, {"name": "y"}], "s~/t": 1})),
        ),
        (
            r#"[{"op":"add","path":"/list/0","value":{"name":"y"}}]"#,
            Ok(json!({"data": {"a": "1"}, "list": [{"name": "y"}, {"name": "x"}], "s~/t": 1})),
        ),
        (
            r#"[{"op":"replace","path":"/data/zz","value":"x"}]"#,
            Ok(json!({"data": {"a": "1", "zz": "x"}, "list": [{"name": "x"}], "s~/t": 1})),
        ),
        (
            r#"[{"op":"move","from":"/data/a","path":"/data/b"},{"op":"remove","path":"/s~0~1t"}]"#,
            Ok(json!({"data": {"b": "1"}, "list": [{"name": "x"}]})),
        ),
        (
            r#"[{"op":"copy","from":"/data/q","path":"/data/b"}]"#,
            Ok(json!({"data": {"a": "1", "b": null}, "list": [{"name": "x"}], "s~/t": 1})),
        ),
        ("[]", Ok(current.clone())),
        ("null", Ok(current.clone())),
        (
            "",
            Err((400, format!("{decode}unexpected end of JSON input"))),
        ),
        (
            "{\"a\"",
            Err((400, format!("{decode}unexpected end of JSON input"))),
        ),
        (
            "x",
            Err((
                400,
                format!("{decode}invalid character 'x' looking for beginning of value"),
            )),
        ),
        (
            "[1]",
            Err((
                400,
                format!(
                    "{decode}json: cannot unmarshal number into Go value of type handlers.jsonPatchOp"
                ),
            )),
        ),
        (
            "{}",
            Err((
                400,
                format!(
                    "{decode}json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
                ),
            )),
        ),
        (
            r#"[{"op":"add","path":5}]"#,
            Err((
                400,
                format!(
                    "{decode}json: cannot unmarshal number into Go struct field jsonPatchOp.path of type string"
                ),
            )),
        ),
    ] {
        let answer = apply(
            &kind("ConfigMap", false),
            PatchType::Json,
            patch.as_bytes(),
            &current,
        );
        let answer = answer.map_err(|error| (error.code, error.message));
        assert_eq!(answer, expected, "{patch}");
    }
}

#[test]
fn merge_patch_follows_rfc_7386() {
    for (current, patch, expected) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": "b", "b": "c"}),
            json!({"a": null}),
            json!({"b": "c"}),
        ),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        ),
        (
            json!({"a": [{"b": "c"}]}),
            json!({"a": [1]}),
            json!({"a": [1]}),
        ),
        (
            json!({"e": null}),
            json!({"a": 1}),
            json!({"e": null, "a": 1}),
        ),
        (
            json!({}),
            json!({"a": {"bb": {"ccc": null}}}),
            json!({"a": {"bb": {}}}),
        ),
        (
            json!({"a": 1}),
            json!({"a": {"b": {"c": 1, "d": null}}}),
            json!({"a": {"b": {"c": 1}}}),
        ),
    ] {
        let body = patch.to_string();
        let answer = apply(
            &kind("Foo", true),
            PatchType::Merge,
            body.as_bytes(),
            &current,
        );
        assert_eq!(answer.unwrap(), expected, "{patch}");
    }
    let refuse = |body: &str| {
        let answer = apply(
            &kind("Foo", true),
            PatchType::Merge,
            body.as_bytes(),
            &json!({}),
        );
        answer.unwrap_err().message
    };
    assert_eq!(refuse("null"), "Invalid JSON Patch");
    assert_eq!(
        refuse("[]"),
        "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
    );
}

#[test]
fn strategic_patch_knows_lists_and_directives() {
    let containers = |items: Value| json!({"spec": {"containers": items}});
    for (kind_name, current, patch, expected) in [
        (
            "Pod",
            containers(json!([{"name": "x", "image": "1"}, {"name": "z"}])),
            containers(json!([{"name": "x", "image": "2"}])),
            containers(json!([{"name": "x", "image": "2"}, {"name": "z"}])),
        ),
        (
            "Pod",
            containers(json!([{"name": "x"}])),
            containers(json!([{"name": "y"}])),
            containers(json!([{"name": "y"}, {"name": "x"}])),
        ),
        (
            "Pod",
            containers(json!([{"name": "x"}, {"name": "y"}])),
            json!({"spec": {"$setElementOrder/containers": [{"name": "x"}, {"name": "y"}, {"name": "n"}],
                         "containers": [{"name": "n", "image": "i"}]}}),
            containers(json!([{"name": "x"}, {"name": "y"}, {"name": "n", "image": "i"}])),
        ),
        (
            "Pod",
            containers(json!([{"name": "x"}, {"name": "y"}])),
            json!({"spec": {"$setElementOrder/containers": [{"name": "y"}, {"name": "x"}]}}),
            containers(json!([{"name": "y"}, {"name": "x"}])),
        ),
        (
            "Pod",
            containers(json!([{"name": "x"}, {"name": "y"}])),
            containers(json!([{"name": "x", "$patch": "delete"}])),
            containers(json!([{"name": "y"}])),
        ),
        (
            "Pod",
            containers(json!([{"name": "x"}, {"name": "y"}])),
            containers(json!([{"$patch": "replace"}, {"name": "n"}])),
            containers(json!([{"name": "n"}])),
        ),
        (
            "Pod",
            containers(
                json!([{"name": "x", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                                   "ports": [{"containerPort": 80}], "command": ["a"]}]),
            ),
            containers(
                json!([{"name": "x", "env": [{"name": "A", "value": null, "valueFrom": {}}],
                            "ports": [{"containerPort": 80, "name": "http"}], "command": ["b"]}]),
            ),
            containers(
                json!([{"name": "x", "env": [{"name": "A", "valueFrom": {}}, {"name": "B", "value": "2"}],
                            "ports": [{"containerPort": 80, "name": "http"}], "command": ["b"]}]),
            ),
        ),
        (
            "Service",
            json!({"spec": {"ports": [{"port": 80, "targetPort": 1}]}}),
            json!({"spec": {"ports": [{"port": 80, "targetPort": 2}]}}),
            json!({"spec": {"ports": [{"port": 80, "targetPort": 2}]}}),
        ),
        (
            "Pod",
            json!({"spec": {"tolerations": [{"key": "a"}]}}),
            json!({"spec": {"tolerations": [{"key": "b"}]}}),
            json!({"spec": {"tolerations": [{"key": "b"}]}}),
        ),
        (
            "ConfigMap",
            json!({"data": {"a": "1", "b": "2"}}),
            json!({"data": {"$patch": "replace", "c": "3"}}),
            json!({"data": {"c": "3"}}),
        ),
        (
            "ConfigMap",
            json!({"data": {"a": "1"}}),
            json!({"data": {"$patch": "delete"}}),
            json!({"data": {}}),
        ),
        (
            "ConfigMap",
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}}),
            json!({"metadata": {"finalizers": ["c", "b"]}}),
        ),
        (
            "Deployment",
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
        ),
        (
            "Deployment",
            json!({"status": {"conditions": [{"type": "A", "status": "True"}]}}),
            json!({"status": {"conditions": [{"type": "A", "status": "False"}]}}),
            json!({"status": {"conditions": [{"type": "A", "status": "False"}]}}),
        ),
        (
            "Deployment",
            json!({}),
            json!({"spec": {"a": null, "b": {"c": null, "$patch": "merge"}}}),
            json!({"spec": {"b": {}}}),
        ),
    ] {
        let body = patch.to_string();
        let answer = apply(
            &kind(kind_name, false),
            PatchType::Strategic,
            body.as_bytes(),
            &current,
        );
        assert_eq!(answer.unwrap(), expected, "{patch}");
    }
}

#[test]
fn strategic_patch_is_refused_in_the_words_of_kubernetes() {
    let current = json!({"spec": {"containers": [{"name": "x"}], "a": {}}});
    for (patch, code, message) in [
        (
            "[]",
            400,
            "json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
        ("{", 400, "unexpected end of JSON input"),
        (
            r#"{"spec":{"containers":[{"image":"y"}]}}"#,
            500,
            "map: map[image:y] does not contain declared merge key: name",
        ),
        (
            r#"{"spec":{"$patch":"foo"}}"#,
            500,
            "unknown patch type: foo in map: map[$patch:foo]",
        ),
        (
            r#"{"spec":{"containers":[{"name":"x","$patch":"foo"}]}}"#,
            500,
            "unknown patch type: foo in map: map[$patch:foo name:x]",
        ),
        (
            r#"{"spec":{"containers":{"image":"y"}}}"#,
            422,
            " \"\" is invalid: patch: Invalid value: \"map[spec:map[containers:map[image:y]]]\": cannot restore slice from map",
        ),
    ] {
        let error = apply(
            &kind("Pod", false),
            PatchType::Strategic,
            patch.as_bytes(),
            &current,
        )
        .unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (code, message),
            "{patch}"
        );
    }
    let custom = kind("Foo", true);
    let error = PatchType::from_content_type(&custom, "application/strategic-merge-patch+json")
        .unwrap_err();
    assert_eq!((error.code, error.reason), (415, "UnsupportedMediaType"));
    assert_eq!(
        error.message,
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    );
    assert!(
        PatchType::from_content_type(&custom, "application/merge-patch+json; charset=utf-8")
            .is_ok()
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-c/~0-]{0,3}".prop_map(Value::from),
    ];
    let key = prop_oneof![
        "[a-c]",
        Just("containers".to_owned()),
        Just("name".to_owned()),
        Just("spec".to_owned()),
        Just("$patch".to_owned()),
        Just("$retainKeys".to_owned()),
        Just("$setElementOrder/containers".to_owned()),
        Just("$deleteFromPrimitiveList/finalizers".to_owned()),
        Just("path".to_owned()),
        Just("op".to_owned()),
    ];
    leaf.prop_recursive(4, 32, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_patch_panics(current in any_json(), patch in any_json(), bytes in prop::collection::vec(any::<u8>(), 0..20)) {
        let body = patch.to_string();
        for patch_type in [PatchType::Json, PatchType::Merge, PatchType::Strategic, PatchType::Apply] {
            let _ = apply(&kind("Pod", false), patch_type, body.as_bytes(), &current);
            let _ = apply(&kind("Pod", false), patch_type, &bytes, &current);
        }
    }

    #[test]
    fn no_operation_panics(current in any_json(), op in "add|remove|replace|move|copy|test", path in "(/([a-c]|-?[0-3]|-|spec)){0,4}", from in "(/([a-c]|[0-3])){0,3}") {
        let body = json!([{"op": op, "path": path, "from": from, "value": {}}]).to_string();
        let _ = apply(&kind("Pod", false), PatchType::Json, body.as_bytes(), &current);
    }
}
