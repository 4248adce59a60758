use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

mod forms;

/// The expectations below are answers of kube-apiserver 1.36 to this schema.
fn schema() -> Schema {
    let properties: Value = serde_json::from_str(
        r#"{
            "s": {"type": "string", "enum": ["a", "b", "c"]},
            "r": {"type": "string"},
            "i": {"type": "integer", "minimum": 1, "maximum": 5, "format": "int32"},
            "im": {"type": "integer", "minimum": 1, "exclusiveMinimum": true, "maximum": 10, "exclusiveMaximum": true, "multipleOf": 2},
            "nu": {"type": "number"}, "b": {"type": "boolean"},
            "p": {"type": "string", "pattern": "^a+$"},
            "l": {"type": "string", "minLength": 2, "maxLength": 3},
            "a": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string"}},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                    "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "string"}}}},
            "ios": {"x-kubernetes-int-or-string": true},
            "nn": {"type": "string", "nullable": true},
            "o": {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2, "minProperties": 1},
            "oo": {"type": "object", "required": ["xx", "yy"], "properties": {"xx": {"type": "string"}, "yy": {"type": "string"}}},
            "dt": {"type": "string", "format": "date-time"}, "em": {"type": "string", "format": "email"},
            "ip": {"type": "string", "format": "ipv4"}, "uri": {"type": "string", "format": "uri"},
            "by": {"type": "string", "format": "byte"}, "du": {"type": "string", "format": "duration"},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {"e": {"type": "integer"}}, "anyOf": [{"required": ["e"]}, {"required": ["f"]}]},
            "one": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "oneOf": [{"required": ["e"]}, {"required": ["f"]}]},
            "not": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "not": {"required": ["e"]}},
            "all": {"type": "string", "allOf": [{"minLength": 3}, {"pattern": "^x"}]},
            "emb": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "x-kubernetes-embedded-resource": true},
            "dd": {"type": "string", "default": "hello"},
            "de": {"type": "object", "default": {}, "properties": {"q": {"type": "integer", "default": 7}}},
            "ie": {"type": "integer", "enum": [1, 2]}
        }"#,
    )
    .unwrap();
    let spec = json!({"type": "object", "required": ["r"], "properties": properties});
    Schema::compile(&json!({"type": "object", "properties": {"spec": spec}})).unwrap()
}

fn faults(schema: &Schema, spec: &Value) -> Vec<String> {
    let mut object =
        json!({"apiVersion": "e.io/v1", "kind": "Foo", "metadata": {"name": "g"}, "spec": spec});
    schema.prune(&mut object);
    schema.default(&mut object);
    let faults = schema.validate(&object);
    faults
        .iter()
        .map(|fault| format!("{}: {}", fault.field, fault.detail))
        .collect()
}

#[test]
fn judges_in_the_words_of_kubernetes() {
    let schema = schema();
    for (spec, expected) in [
        (json!({}), vec!["spec.r: Required value"]),
        (json!({"r": null}), vec!["spec.r: Required value"]),
        (
            json!({"r": 5}),
            vec![
                "spec.r: Invalid value: \"integer\": spec.r in body must be of type string: \"integer\"",
            ],
        ),
        (
            json!({"r": 1.5}),
            vec![
                "spec.r: Invalid value: \"number\": spec.r in body must be of type string: \"number\"",
            ],
        ),
        (
            json!({"r": {"a": 1}}),
            vec![
                "spec.r: Invalid value: \"object\": spec.r in body must be of type string: \"object\"",
            ],
        ),
        (
            json!({"r": "x", "s": "z"}),
            vec!["spec.s: Unsupported value: \"z\": supported values: \"a\", \"b\", \"c\""],
        ),
        (
            json!({"r": "x", "s": 5}),
            vec![
                "spec.s: Invalid value: \"integer\": spec.s in body must be of type string: \"integer\"",
                "spec.s: Unsupported value: 5: supported values: \"a\", \"b\", \"c\"",
            ],
        ),
        (
            json!({"r": "x", "i": 0}),
            vec!["spec.i: Invalid value: 0: spec.i in body should be greater than or equal to 1"],
        ),
        (
            json!({"r": "x", "i": 9}),
            vec!["spec.i: Invalid value: 9: spec.i in body should be less than or equal to 5"],
        ),
        (
            json!({"r": "x", "i": 1.5}),
            vec![
                "spec.i: Invalid value: \"float64\": spec.i in body must be of type int32: \"float64\"",
                "<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec.i",
            ],
        ),
        (
            json!({"r": "x", "i": 3_000_000_000_u64}),
            vec![
                "<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec.i",
                "spec.i: Invalid value: 3000000000: spec.i in body should be less than or equal to 5",
            ],
        ),
        (
            json!({"r": "x", "im": 1}),
            vec![
                "spec.im: Invalid value: 1: spec.im in body should be a multiple of 2",
                "spec.im: Invalid value: 1: spec.im in body should be greater than 1",
            ],
        ),
        (
            json!({"r": "x", "im": 10}),
            vec!["spec.im: Invalid value: 10: spec.im in body should be less than 10"],
        ),
        (json!({"r": "x", "nu": 1}), vec![]),
        (
            json!({"r": "x", "b": 1}),
            vec![
                "spec.b: Invalid value: \"integer\": spec.b in body must be of type boolean: \"integer\"",
            ],
        ),
        (
            json!({"r": "x", "p": "b"}),
            vec!["spec.p: Invalid value: \"b\": spec.p in body should match '^a+$'"],
        ),
        (
            json!({"r": "x", "l": "b"}),
            vec!["spec.l: Invalid value: \"b\": spec.l in body should be at least 2 chars long"],
        ),
        (
            json!({"r": "x", "l": "bbbb"}),
            vec!["spec.l: Too long: may not be more than 3 bytes"],
        ),
        (
            json!({"r": "x", "a": []}),
            vec!["spec.a: Invalid value: 0: spec.a in body should have at least 1 items"],
        ),
        (
            json!({"r": "x", "a": ["a", "b", "c"]}),
            vec!["spec.a: Too many: 3: must have at most 2 items"],
        ),
        (
            json!({"r": "x", "a": [1]}),
            vec![
                "spec.a[0]: Invalid value: \"integer\": spec.a[0] in body must be of type string: \"integer\"",
            ],
        ),
        (
            json!({"r": "x", "set": ["a", "b", "a"]}),
            vec!["spec.set[2]: Duplicate value: \"a\""],
        ),
        (
            json!({"r": "x", "map": [{"k": "a"}, {"k": "a"}]}),
            vec!["spec.map[1]: Duplicate value: {\"k\":\"a\"}"],
        ),
        (
            json!({"r": "x", "map": [{"v": "a"}]}),
            vec!["spec.map[0].k: Required value"],
        ),
        (
            json!({"r": "x", "ios": true}),
            vec![
                "spec.ios: Invalid value: \"boolean\": spec.ios in body must be of type integer,string: \"boolean\"",
            ],
        ),
        (json!({"r": "x", "ios": "5", "nn": null, "s": null}), vec![]),
        (
            json!({"r": "x", "o": {}}),
            vec!["spec.o: Invalid value: 0: spec.o in body should have at least 1 properties"],
        ),
        (
            json!({"r": "x", "o": {"a": 1, "b": 2, "c": 3}}),
            vec!["spec.o: Too many: 3: must have at most 2 items"],
        ),
        (
            json!({"r": "x", "o": {"a": "x"}}),
            vec![
                "spec.o.a: Invalid value: \"string\": spec.o.a in body must be of type integer: \"string\"",
            ],
        ),
        (
            json!({"r": "x", "oo": {}}),
            vec!["spec.oo.xx: Required value", "spec.oo.yy: Required value"],
        ),
        (
            json!({"r": "x", "oo": []}),
            vec![
                "spec.oo: Invalid value: \"array\": spec.oo in body must be of type object: \"array\"",
            ],
        ),
        (
            json!({"r": "x", "dt": "x"}),
            vec!["spec.dt: Invalid value: \"x\": spec.dt in body must be of type date-time: \"x\""],
        ),
        (
            json!({"r": "x", "em": "x"}),
            vec!["spec.em: Invalid value: \"x\": spec.em in body must be of type email: \"x\""],
        ),
        (
            json!({"r": "x", "ip": "x"}),
            vec!["spec.ip: Invalid value: \"x\": spec.ip in body must be of type ipv4: \"x\""],
        ),
        (
            json!({"r": "x", "uri": "x y"}),
            vec!["spec.uri: Invalid value: \"x y\": spec.uri in body must be of type uri: \"x y\""],
        ),
        (
            json!({"r": "x", "by": "%"}),
            vec!["spec.by: Invalid value: \"%\": spec.by in body must be of type byte: \"%\""],
        ),
        (
            json!({"r": "x", "du": "x"}),
            vec!["spec.du: Invalid value: \"x\": spec.du in body must be of type duration: \"x\""],
        ),
        (
            json!({"r": "x", "dt": "2026-01-02T03:04:05Z", "em": "a@b", "ip": "1.2.3.4", "uri": "http://x/y", "by": "YQ==", "du": "1h30m"}),
            vec![],
        ),
        (
            json!({"r": "x", "any": {}}),
            vec![
                "<nil>: Invalid value: \"\": \"spec.any\" must validate at least one schema (anyOf)",
                "spec.any.e: Required value",
            ],
        ),
        (
            json!({"r": "x", "one": {}}),
            vec![
                "<nil>: Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf). Found none valid",
                "spec.one.e: Required value",
            ],
        ),
        (
            json!({"r": "x", "one": {"e": 1, "f": 2}}),
            vec![
                "<nil>: Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
            ],
        ),
        (
            json!({"r": "x", "not": {"e": 1}}),
            vec!["<nil>: Invalid value: \"\": \"spec.not\" must not validate the schema (not)"],
        ),
        (
            json!({"r": "x", "all": "a"}),
            vec![
                "spec.all: Invalid value: \"a\": spec.all in body should be at least 3 chars long",
                "spec.all: Invalid value: \"a\": spec.all in body should match '^x'",
                "<nil>: Invalid value: \"\": \"spec.all\" must validate all the schemas (allOf). None validated",
            ],
        ),
        (
            json!({"r": "x", "emb": {}}),
            vec![
                "spec.emb.apiVersion: Required value",
                "spec.emb.kind: Required value",
            ],
        ),
        (
            json!({"r": "x", "ie": 3}),
            vec!["spec.ie: Unsupported value: 3: supported values: \"1\", \"2\""],
        ),
        (
            json!("x"),
            vec![
                "spec: Invalid value: \"string\": spec in body must be of type object: \"string\"",
            ],
        ),
        (
            json!([]),
            vec!["spec: Invalid value: \"array\": spec in body must be of type object: \"array\""],
        ),
        (Value::Null, vec![]),
    ] {
        assert_eq!(faults(&schema, &spec), expected, "{spec}");
    }
}

#[test]
fn fills_defaults_and_drops_what_is_unknown() {
    let schema = schema();
    for (spec, expected, dropped) in [
        (
            json!({"r": "x", "zz": 1, "de": {}}),
            json!({"r": "x", "de": {"q": 7}, "dd": "hello"}),
            vec!["spec.zz"],
        ),
        (
            json!({"r": "x", "de": null, "dd": "me"}),
            json!({"r": "x", "dd": "me", "de": {"q": 7}}),
            vec![],
        ),
        (
            json!({"r": "x", "nn": null, "s": null, "any": {"q": {"deep": 1}}}),
            json!({"r": "x", "nn": null, "any": {"q": {"deep": 1}}, "dd": "hello", "de": {"q": 7}}),
            vec![],
        ),
        (
            json!({"map": [{"k": "a", "w": 1}], "emb": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "A B", "foo": 1}}}),
            json!({"map": [{"k": "a"}], "emb": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "A B"}}, "dd": "hello", "de": {"q": 7}}),
            vec!["spec.map[0].w", "spec.emb.metadata.foo"],
        ),
    ] {
        let mut object = json!({"kind": "Foo", "metadata": {"x": 1}, "spec": spec});
        assert_eq!(schema.prune(&mut object), dropped);
        schema.default(&mut object);
        assert_eq!(
            object,
            json!({"kind": "Foo", "metadata": {"x": 1}, "spec": expected})
        );
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-c%]{0,3}".prop_map(Value::from),
    ];
    let key = "spec|metadata|a|map|k|any|emb|o|de|set|ios|type|items|properties|default|pattern";
    leaf.prop_recursive(5, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn pruning_and_defaulting_are_done_after_one_pass(value in any_json()) {
        let schema = schema();
        let mut once = value;
        schema.prune(&mut once);
        let mut twice = once.clone();
        prop_assert!(schema.prune(&mut twice).is_empty());
        prop_assert_eq!(&once, &twice);
        schema.default(&mut once);
        let mut twice = once.clone();
        schema.default(&mut twice);
        prop_assert_eq!(&once, &twice);
        schema.validate(&once);
    }

    #[test]
    fn no_schema_panics(schema in any_json(), value in any_json()) {
        if let Ok(schema) = Schema::compile(&schema) {
            let mut value = value;
            schema.prune(&mut value);
            schema.default(&mut value);
            schema.validate(&value);
        }
    }
}
