use jiff::Timestamp;

use super::*;

fn widgets() -> Value {
    let mut crd = json!({
        "metadata": {"name": "widgets.shop.example.com"},
        "spec": {
            "group": "shop.example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object"}}}},
            }],
        },
    });
    default(&mut crd);
    crd
}

#[test]
fn a_definition_becomes_a_kind() {
    let kinds = kinds_of(&widgets()).expect("kinds");
    let kind = &kinds[0];
    assert_eq!(kind.api_version(), "shop.example.com/v1");
    assert_eq!(
        (kind.singular.as_str(), kind.list_kind.as_str()),
        ("widget", "WidgetList")
    );
    assert!(kind.status_subresource && kind.scale.is_some() && kind.namespaced);
    assert_eq!(validate(&widgets(), None), []);
}

#[test]
fn what_is_wrong_is_said_in_kubernetes_words() {
    let mut crd = widgets();
    crd["metadata"]["name"] = "wrong.shop.example.com".into();
    crd["spec"]["scope"] = "Nowhere".into();
    crd["spec"]["versions"][0]["storage"] = false.into();
    crd["spec"]["versions"][0]["schema"] = Value::Null;
    let faults: Vec<String> = validate(&crd, None)
        .into_iter()
        .map(|f| format!("{}: {}", f.field, f.detail))
        .collect();
    assert_eq!(
        faults[0],
        r#"metadata.name: Invalid value: "wrong.shop.example.com": must be spec.names.plural+"."+spec.group"#
    );
    assert_eq!(
        faults[1],
        r#"spec.scope: Unsupported value: "Nowhere": supported values: "Cluster", "Namespaced""#
    );
    assert!(faults[2].ends_with("must have exactly one version marked as storage version"));
    assert_eq!(
        faults[3],
        "spec.versions[0].schema.openAPIV3Schema: Required value"
    );
}

#[test]
fn names_are_accepted_once() {
    let now = Timestamp::UNIX_EPOCH;
    let mut first = widgets();
    establish(&mut first, &[], now);
    assert_eq!(
        first["status"]["conditions"][1]["reason"],
        "InitialNamesAccepted"
    );
    assert_eq!(first["status"]["storedVersions"], json!(["v1"]));
    let mut second = widgets();
    second["metadata"]["name"] = "gadgets.shop.example.com".into();
    second["spec"]["names"] = json!({"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList", "shortNames": ["wd"]});
    establish(&mut second, &[first.clone()], now);
    assert_eq!(
        second["status"]["conditions"][0]["reason"],
        "ShortNamesConflict"
    );
    // A second pass changes nothing, times included.
    let before = first.clone();
    establish(&mut first, &[], Timestamp::MAX);
    assert_eq!(first, before);
}

#[test]
fn rules_that_are_not_evaluated_are_announced() {
    let mut crd = widgets();
    assert_eq!(warnings(&crd), Vec::<String>::new());
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["x-kubernetes-validations"] =
        json!([{"rule": "true"}]);
    assert_eq!(warnings(&crd).len(), 1);
}

fn faults(spec: Value, name: &str) -> Vec<String> {
    let mut crd = json!({"metadata": {"name": name}, "spec": spec});
    default(&mut crd);
    let faults = validate(&crd, None);
    faults
        .iter()
        .map(|f| format!("{}: {}", f.field, f.detail))
        .collect()
}

/// Answers of kube-apiserver 1.36.
#[test]
fn a_definition_is_judged_as_kube_apiserver_judges_it() {
    let with = |field: &str, value: Value| {
        let mut spec = json!({
            "group": "e.io", "scope": "Namespaced", "names": {"plural": "bars", "kind": "Bar"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}],
        });
        *spec.pointer_mut(field).expect("a field") = value;
        faults(spec, "bars.e.io")
    };
    let schema = "/versions/0/schema/openAPIV3Schema";
    let root = "spec.validation.openAPIV3Schema";
    let fields = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "a": {}, "b": {"type": "foo"}, "d": {"type": "array"},
        "e": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}},
    }}}});
    let at = format!("{root}.properties[spec].properties");
    for (field, value, expected) in [
        ("/scope", json!("Namespaced"), vec![]),
        ("/scope", Value::Null, vec!["spec.scope: Required value".to_owned()]),
        ("/scope", json!("X"), vec!["spec.scope: Unsupported value: \"X\": supported values: \"Cluster\", \"Namespaced\"".to_owned()]),
        ("/versions/0/schema", Value::Null, vec!["spec.versions[0].schema.openAPIV3Schema: Required value".to_owned()]),
        (schema, json!({}), vec![format!("{root}.type: Required value: must not be empty at the root")]),
        (schema, json!({"type": "string"}), vec![format!("{root}.type: Invalid value: \"string\": must be object at the root")]),
        (schema, fields, vec![
            format!("{at}[a].type: Required value: must not be empty for specified object fields"),
            format!("{at}[b].type: Unsupported value: \"foo\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\""),
            format!("{at}[d].items: Required value: must be specified"),
            format!("{at}[e].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"),
        ]),
        ("/versions/0/storage", json!(false), vec!["spec.versions: Invalid value: [{\"Name\":\"v1\",\"Served\":true,\"Storage\":false,\"Deprecated\":false,\"DeprecationWarning\":null,\"Schema\":null,\"Subresources\":null,\"AdditionalPrinterColumns\":null,\"SelectableFields\":null}]: must have exactly one version marked as storage version".to_owned()]),
    ] {
        assert_eq!(with(field, value.clone()), expected, "{field} {value}");
    }
    let mut old = widgets();
    establish(&mut old, &[], Timestamp::UNIX_EPOCH);
    for (field, value, expected) in [
        (
            "/spec/scope",
            "Cluster",
            "spec.scope: Invalid value: \"Cluster\": field is immutable",
        ),
        (
            "/spec/names/kind",
            "Other",
            "spec.names.kind: Invalid value: \"Other\": field is immutable",
        ),
    ] {
        let mut new = old.clone();
        *new.pointer_mut(field).expect("a field") = value.into();
        let faults = validate(&new, Some(&old));
        assert_eq!(
            format!("{}: {}", faults[0].field, faults[0].detail),
            expected
        );
    }
}

#[test]
fn a_kind_that_is_taken_leaves_the_other_names() {
    let definition = |plural: &str| {
        let mut crd = json!({"metadata": {"name": format!("{plural}.e.io")}, "spec": {
            "group": "e.io", "names": {"plural": plural, "kind": "Foo", "shortNames": [format!("{plural}x")], "categories": ["all"]},
            "versions": [{"name": "v1", "served": true, "storage": true}],
        }});
        default(&mut crd);
        crd
    };
    let (mut first, mut second) = (definition("foos"), definition("foos2"));
    establish(&mut first, &[], Timestamp::UNIX_EPOCH);
    establish(&mut second, &[first], Timestamp::UNIX_EPOCH);
    let status = &second["status"];
    assert_eq!(
        status["acceptedNames"],
        json!({"categories": ["all"], "kind": "", "plural": "foos2", "shortNames": ["foos2x"]})
    );
    assert_eq!(status["conditions"][0]["reason"], "ListKindConflict");
    assert_eq!(
        status["conditions"][0]["message"],
        "\"FooList\" is already in use"
    );
    assert_eq!(status["conditions"][1]["reason"], "NotAccepted");
    assert_eq!(status["storedVersions"], json!(["v1"]));
}
