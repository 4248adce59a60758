use serde_json::{Value, json};

use crate::schema::Schema;

fn schema(spec: Value) -> Schema {
    Schema::compile(&json!({"type": "object", "properties": {"spec": spec}})).expect("a schema")
}

/// Texts as a kube-apiserver 1.36 gives them.
#[test]
fn faults_read_as_kubernetes_writes_them() {
    let row = |spec: Value, value: Value| -> Vec<String> {
        let object =
            json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "x"}, "spec": value});
        let faults = schema(spec).validate(&object);
        faults
            .into_iter()
            .map(|f| format!("{}: {}", f.field, f.detail))
            .collect()
    };
    let cases = [
        (
            json!({"type": "integer"}),
            json!("big"),
            r#"spec: Invalid value: "string": spec in body must be of type integer: "string""#,
        ),
        (
            json!({"type": "integer"}),
            Value::Null,
            r#"spec: Invalid value: "null": spec in body must be of type integer: "null""#,
        ),
        (
            json!({"type": "integer", "minimum": 1}),
            json!(0),
            "spec: Invalid value: 0: spec in body should be greater than or equal to 1",
        ),
        (
            json!({"type": "integer", "maximum": 100}),
            json!(1000),
            "spec: Invalid value: 1000: spec in body should be less than or equal to 100",
        ),
        (
            json!({"type": "string", "enum": ["red", "green"]}),
            json!("pink"),
            r#"spec: Unsupported value: "pink": supported values: "red", "green""#,
        ),
        (
            json!({"type": "string", "maxLength": 5}),
            json!("muchtoolong"),
            "spec: Too long: may not be more than 5 bytes",
        ),
        (
            json!({"type": "string", "pattern": "^a+$"}),
            json!("b"),
            r#"spec: Invalid value: "b": spec in body should match '^a+$'"#,
        ),
        (
            json!({"type": "object", "required": ["size"], "properties": {"size": {"type": "integer"}}}),
            json!({}),
            "spec.size: Required value",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
            json!(["a", "a"]),
            r#"spec[1]: Duplicate value: "a""#,
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                   "items": {"type": "object", "properties": {"name": {"type": "string"}}}}),
            json!([{"name": "a"}, {"name": "a"}]),
            r#"spec[1]: Duplicate value: {"name":"a"}"#,
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            r#"spec: Invalid value: "boolean": spec in body must be of type integer,string: "boolean""#,
        ),
    ];
    for (spec, value, expected) in cases {
        assert_eq!(row(spec.clone(), value), [expected], "{spec}");
    }
}

#[test]
fn what_fits_has_no_faults() {
    let cases = [
        (json!({"type": "integer"}), json!(3.0)),
        (json!({"type": "integer", "nullable": true}), Value::Null),
        (json!({"x-kubernetes-int-or-string": true}), json!("80%")),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"a": "b"}),
        ),
        (
            json!({"type": "string", "anyOf": [{"enum": ["a"]}, {"pattern": "^b"}]}),
            json!("bc"),
        ),
    ];
    for (spec, value) in cases {
        assert_eq!(
            schema(spec.clone()).validate(&json!({"spec": value})),
            [],
            "{spec}"
        );
    }
}

#[test]
fn defaults_fill_what_is_absent_and_nothing_else() {
    let schema = schema(json!({"type": "object", "properties": {
        "color": {"type": "string", "default": "green"},
        "nested": {"type": "object", "default": {}, "properties": {"deep": {"type": "integer", "default": 7}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer", "default": 1}}}},
    }}));
    let mut object = json!({"spec": {"color": null, "list": [{}, {"x": 2}]}});
    schema.default(&mut object);
    assert_eq!(
        object,
        json!({"spec": {"color": "green", "list": [{"x": 1}, {"x": 2}], "nested": {"deep": 7}}})
    );
}

#[test]
fn pruning_names_what_it_drops_and_is_idempotent() {
    let schema = schema(json!({"type": "object", "properties": {
        "size": {"type": "integer"},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer"}}}},
    }}));
    let mut object = json!({
        "apiVersion": "v1", "kind": "X", "metadata": {"labels": {"a": "b"}},
        "spec": {"size": 1, "unknown": true, "free": {"any": 1}, "list": [{"x": 1, "y": 2}]},
        "extra": 1,
    });
    assert_eq!(
        schema.prune(&mut object),
        ["spec.unknown", "spec.list[0].y", "extra"]
    );
    assert_eq!(schema.prune(&mut object), Vec::<String>::new());
    assert_eq!(
        object["spec"],
        json!({"size": 1, "free": {"any": 1}, "list": [{"x": 1}]})
    );
    assert_eq!(object["metadata"]["labels"]["a"], "b");
}

#[test]
fn a_schema_without_types_or_with_a_broken_pattern_is_refused() {
    let faults =
        Schema::compile(&json!({"type": "object", "properties": {"a": {}}})).expect_err("no type");
    assert_eq!(faults[0].field, "properties[a].type");
    let faults = Schema::compile(
        &json!({"type": "object", "properties": {"b": {"type": "string", "pattern": "("}}}),
    )
    .expect_err("pattern");
    assert_eq!(faults[0].field, "properties[b].pattern");
}
