use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::openapi::Documents;

/// A built-in kind with what describes it.
struct Described {
    kind: Kind,
    name: String,
    schemas: std::sync::Arc<Map<String, Value>>,
}

fn described(kind: &str) -> Described {
    let kind = crate::builtin::kinds()
        .into_iter()
        .find(|known| known.kind == kind)
        .expect("a built-in kind");
    let (name, schemas) = Documents::default().schemas_of(&kind);
    Described {
        kind,
        name,
        schemas,
    }
}

fn author(manager: &str) -> Author {
    Author {
        manager: manager.to_owned(),
        api_version: "v1".to_owned(),
        subresource: String::new(),
    }
}

impl Described {
    fn by<'a>(&'a self, author: &'a Author) -> Ownership<'a> {
        Ownership::new(
            &self.kind,
            (&self.name, &self.schemas),
            Some("status"),
            Some(author),
            "2026-01-01T00:00:00Z".to_owned(),
        )
    }
}

fn config_map(data: Value) -> Value {
    let mut config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    // An empty map would be a claim on the map itself.
    if data != json!({}) {
        config["data"] = data;
    }
    config
}

/// Without the nulls that stand where everything was dropped; the API reads them away.
fn read(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    object
}

/// manager → owned paths.
fn owners(object: &Value) -> Vec<(String, Vec<String>)> {
    let entries = managed_fields(object).as_array().cloned();
    entries
        .unwrap_or_default()
        .iter()
        .map(|entry| {
            let set = FieldSet::from_value(&entry["fieldsV1"]).expect("fields");
            (
                entry["manager"].as_str().expect("a name").to_owned(),
                set.paths(),
            )
        })
        .collect()
}

#[test]
fn a_shared_field_stays_until_its_last_owner_drops_it() {
    let (kind, one, two) = (described("ConfigMap"), author("one"), author("two"));
    let both = config_map(json!({"a": "1", "b": "1"}));
    let object = kind.by(&one).apply(None, &both, false).expect("applied");
    let object = kind
        .by(&two)
        .apply(Some(&object), &config_map(json!({"b": "1"})), false)
        .expect("shared");
    let object = kind
        .by(&one)
        .apply(Some(&object), &config_map(json!({})), false)
        .expect("given up");
    assert_eq!(object["data"], json!({"b": "1"}));
    assert_eq!(
        owners(&object),
        [("two".to_owned(), vec![".data.b".to_owned()])]
    );
    let object = kind
        .by(&two)
        .apply(Some(&object), &config_map(json!({})), false)
        .expect("given up");
    assert_eq!(read(object), config_map(json!({})));
}

#[test]
fn an_ordinary_write_takes_what_it_changes_and_the_applier_is_told() {
    let (kind, one, two) = (described("ConfigMap"), author("one"), author("two"));
    let config = config_map(json!({"a": "1", "b": "1"}));
    let object = kind.by(&one).apply(None, &config, false).expect("applied");
    let mut changed = object.clone();
    changed["data"]["a"] = "2".into();
    let fields = kind.by(&two).write(Some(&object), &changed);
    changed["metadata"]["managedFields"] = fields;
    assert_eq!(
        owners(&changed),
        [
            ("one".to_owned(), vec![".data.b".to_owned()]),
            ("two".to_owned(), vec![".data.a".to_owned()])
        ]
    );
    let error = kind
        .by(&one)
        .apply(Some(&changed), &config, false)
        .expect_err("a conflict");
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"two\" using v1: .data.a"
    );
    assert_eq!(error.details["causes"][0]["reason"], "FieldManagerConflict");
    let object = kind
        .by(&one)
        .apply(Some(&changed), &config, true)
        .expect("forced");
    assert_eq!(object["data"], json!({"a": "1", "b": "1"}));
    assert_eq!(owners(&object).len(), 1);
}

#[test]
fn a_write_without_an_author_takes_and_owns_nothing() {
    let (kind, one) = (described("ConfigMap"), author("one"));
    let object = kind
        .by(&one)
        .apply(None, &config_map(json!({"a": "1", "b": "1"})), false)
        .expect("applied");
    let mut changed = object.clone();
    changed["data"]["a"] = "2".into();
    let nobody = Ownership::new(
        &kind.kind,
        (&kind.name, &kind.schemas),
        None,
        None,
        String::new(),
    );
    changed["metadata"]["managedFields"] = nobody.write(Some(&object), &changed);
    assert_eq!(
        owners(&changed),
        [("one".to_owned(), vec![".data.b".to_owned()])]
    );
    assert_eq!(nobody.write(None, &config_map(json!({}))), Value::Null);
}

#[test]
fn paths_name_list_items_by_their_keys() {
    let (kind, one) = (described("Service"), author("one"));
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "s", "finalizers": ["x.io/y"]},
        "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]},
    });
    let object = kind.by(&one).apply(None, &service, false).expect("applied");
    let (_, paths) = owners(&object).remove(0);
    assert_eq!(
        paths,
        [
            r#".metadata.finalizers[="x.io/y"]"#,
            r#".spec.ports[port=53,protocol="UDP"]"#,
            r#".spec.ports[port=53,protocol="UDP"].port"#,
            r#".spec.ports[port=53,protocol="UDP"].protocol"#,
            r#".spec.ports[port=80,protocol="TCP"]"#,
            r#".spec.ports[port=80,protocol="TCP"].port"#,
            ".spec.selector",
        ]
    );
}

#[test]
fn managed_fields_that_do_not_parse_count_for_nothing() {
    let (kind, one) = (described("ConfigMap"), author("one"));
    for fields in [
        json!([{"manager": "x"}]),
        json!("x"),
        json!([{"manager": "x", "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": {"f:a": 1}}]),
        json!([{"manager": "x", "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": {"k:{": {}}}]),
    ] {
        let object = kind
            .by(&one)
            .apply(None, &config_map(json!({"a": "1"})), false)
            .expect("applied");
        let mut sent = object.clone();
        sent["metadata"]["managedFields"] = fields;
        assert_eq!(
            kind.by(&one).write(Some(&object), &sent),
            *managed_fields(&object)
        );
    }
}

fn data() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[a-d]", "[0-1]", 0..4)
        .prop_map(|map| serde_json::to_value(map).expect("a map"))
}

proptest! {
    /// After any sequence of forced applies, each field is there that the last configuration of some manager
    /// has, with the value that was applied last, and applying again changes nothing.
    #[test]
    fn the_object_is_what_its_managers_say(writes in proptest::collection::vec((0..3_usize, data()), 1..8)) {
        let kind = described("ConfigMap");
        let authors = ["x", "y", "z"].map(author);
        let mut object: Option<Value> = None;
        let mut said: [Value; 3] = [json!({}), json!({}), json!({})];
        let mut wanted = Map::new();
        for (by, data) in writes {
            let config = config_map(data.clone());
            let applied = kind.by(&authors[by]).apply(object.as_ref(), &config, true);
            let applied = read(applied.expect("forced"));
            for (key, value) in data.as_object().expect("data") {
                // What is forced is taken from those who said otherwise.
                for other in said.iter_mut() {
                    if other.get(key).is_some_and(|old| old != value) {
                        other.as_object_mut().expect("data").shift_remove(key);
                    }
                }
                wanted.insert(key.clone(), value.clone());
            }
            said[by] = data;
            wanted.retain(|key, _| said.iter().any(|data| data.get(key).is_some()));
            let got = applied["data"].as_object().cloned().unwrap_or_default();
            prop_assert_eq!(Value::Object(got), Value::Object(wanted.clone()));
            let again = kind.by(&authors[by]).apply(Some(&applied), &config, false);
            prop_assert_eq!(&read(again.expect("no conflict")), &applied);
            object = Some(applied);
        }
    }

    #[test]
    fn sets_survive_their_form(names in proptest::collection::vec(proptest::collection::vec("[a-c]", 1..4), 0..8)) {
        let mut set = FieldSet::default();
        for path in &names {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            set = set.union(&FieldSet::of(&path));
        }
        prop_assert_eq!(FieldSet::from_value(&set.to_value()), Some(set.clone()));
        prop_assert!(set.difference(&set).is_empty());
        prop_assert_eq!(set.intersection(&set), set);
    }
}
