//! The schemas of a group version, in the form in which kube-apiserver publishes them.

use std::sync::Arc;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::list_rules::{KEY_DEFAULTS, LIST_RULES, MAP_RULES};
use super::patch_rules::PATCH_RULES;
use super::{enums, types};
use crate::kind::Kind;

const PREFIX: &str = "#/components/schemas/";

/// References whose name is written as the empty string where it is absent.
const NAME_MAY_BE_ABSENT: &[&str] = &[
    "ConfigMapEnvSource",
    "ConfigMapKeySelector",
    "ConfigMapProjection",
    "ConfigMapVolumeSource",
    "LocalObjectReference",
    "SecretEnvSource",
    "SecretKeySelector",
    "SecretProjection",
];

/// The component name of a kind and the schemas of all kinds, everything they refer to included.
pub(super) struct Components {
    /// Where each kind's schema stands, in the order of the kinds given.
    pub names: Vec<String>,
    pub schemas: Map<String, Value>,
}

/// Describes these kinds.
pub(super) fn components(kinds: &[&Arc<Kind>]) -> Components {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        })
        .into_generator();
    let mut names = Vec::with_capacity(kinds.len());
    let mut custom = Vec::new();
    for kind in kinds {
        let built_in = match kind.schema {
            Some(_) => None,
            None => types::describe(&kind.group, &kind.kind),
        };
        let reference = match built_in {
            Some(describe) => describe(&mut generator),
            None => {
                let metadata = types::metadata(&mut generator);
                let name = custom_name(kind);
                custom.push((name.clone(), custom_schema(kind, &metadata.to_value())));
                names.push(name);
                continue;
            }
        };
        names.push(
            reference
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|reference| reference.strip_prefix(PREFIX))
                .unwrap_or_default()
                .to_owned(),
        );
    }
    let mut schemas = generator.take_definitions(false);
    for (name, schema) in &mut schemas {
        publish(schema);
        name_scalar(name, schema);
        if schema.pointer("/properties/apiVersion").is_some() {
            not_required(schema, "metadata");
        }
        if NAME_MAY_BE_ABSENT.contains(&name.rsplit('.').next().unwrap_or_default()) {
            not_required(schema, "name");
        }
    }
    for (definition, property, key, strategy) in PATCH_RULES {
        let Some(property) = property_of(&mut schemas, definition, property) else {
            continue;
        };
        if !key.is_empty() {
            property["x-kubernetes-patch-merge-key"] = (*key).into();
        }
        property["x-kubernetes-patch-strategy"] = (*strategy).into();
    }
    own_by_item(&mut schemas);
    for (definition, property, values) in enums::VALUES {
        if let Some(property) = property_of(&mut schemas, definition, property) {
            property["enum"] = json!(values);
            let lines: Vec<String> = values.iter().map(|one| format!(" - `{one:?}`")).collect();
            let description = property["description"].as_str().unwrap_or_default();
            property["description"] = format!(
                "{description}\n\nPossible enum values:\n{}",
                lines.join("\n")
            )
            .into();
        }
    }
    for (definition, property, values) in enums::ELEMENTS {
        let elements = property_of(&mut schemas, definition, property)
            .and_then(|property| property.get_mut("items"));
        if let Some(elements) = elements {
            elements["enum"] = json!(values);
        }
    }
    schemas.extend(custom);
    for (kind, name) in kinds.iter().zip(&names) {
        if let Some(Value::Object(schema)) = schemas.get_mut(name) {
            schema.insert(
                "x-kubernetes-group-version-kind".to_owned(),
                json!([{"group": kind.group, "kind": kind.kind, "version": kind.version}]),
            );
        }
    }
    schemas.sort_keys();
    Components { names, schemas }
}

/// Says of lists and maps how server-side apply owns them.
fn own_by_item(schemas: &mut Map<String, Value>) {
    for (definition, property, keys) in LIST_RULES {
        let Some(property) = property_of(schemas, definition, property) else {
            continue;
        };
        if keys.is_empty() {
            property["x-kubernetes-list-type"] = "set".into();
        } else {
            property["x-kubernetes-list-type"] = "map".into();
            property["x-kubernetes-list-map-keys"] = keys.split(',').collect();
        }
    }
    for (definition, property, form) in MAP_RULES {
        let place = match *property {
            "" => schemas.get_mut(*definition),
            property => property_of(schemas, definition, property),
        };
        if let Some(place) = place {
            place["x-kubernetes-map-type"] = (*form).into();
        }
    }
    for (definition, property, default) in KEY_DEFAULTS {
        if let Some(property) = property_of(schemas, definition, property) {
            property["default"] = (*default).into();
        }
    }
}

/// A reference with siblings becomes `allOf`, as OpenAPI 3.0 has it.
fn publish(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(publish);
            // A property may have the name `$ref`; its value is a schema then.
            if map.len() > 1
                && map.get("$ref").is_some_and(Value::is_string)
                && let Some(reference) = map.shift_remove("$ref")
            {
                map.insert("allOf".to_owned(), json!([{"$ref": reference}]));
            }
        }
        Value::Array(list) => list.iter_mut().for_each(publish),
        _ => {}
    }
}

fn property_of<'a>(
    schemas: &'a mut Map<String, Value>,
    definition: &str,
    property: &str,
) -> Option<&'a mut Value> {
    schemas
        .get_mut(definition)?
        .get_mut("properties")?
        .get_mut(property)
}

fn not_required(schema: &mut Value, field: &str) {
    let Some(Value::Array(required)) = schema.get_mut("required") else {
        return;
    };
    required.retain(|name| name != field);
    if required.is_empty()
        && let Value::Object(schema) = schema
    {
        schema.shift_remove("required");
    }
}

/// The two types that are written as a number or as a string.
fn name_scalar(name: &str, schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    if map.shift_remove("x-kubernetes-int-or-string").is_none() {
        return;
    }
    if name.ends_with(".Quantity") {
        map.insert(
            "oneOf".into(),
            json!([{"type": "string"}, {"type": "number"}]),
        );
    } else {
        map.insert("format".into(), "int-or-string".into());
        map.insert(
            "oneOf".into(),
            json!([{"type": "integer"}, {"type": "string"}]),
        );
    }
}

/// `com.example.shop.v1.Order` for group `shop.example.com`.
fn custom_name(kind: &Kind) -> String {
    let mut parts: Vec<&str> = kind.group.split('.').rev().collect();
    parts.push(&kind.version);
    parts.push(&kind.kind);
    parts.join(".")
}

/// The schema of a CRD version, with the fields that every object has.
fn custom_schema(kind: &Kind, metadata: &Value) -> Value {
    let mut schema = match &kind.schema {
        Some(schema) => schema.to_openapi(),
        None => json!({"type": "object"}),
    };
    let Value::Object(map) = &mut schema else {
        return json!({"type": "object"});
    };
    let properties = map
        .entry("properties")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(properties) = properties {
        for (name, description) in [
            (
                "apiVersion",
                "Group and version in which the object is written.",
            ),
            ("kind", "The kind of the object, in CamelCase."),
        ] {
            properties.insert(
                name.to_owned(),
                json!({"type": "string", "description": description}),
            );
        }
        let mut reference = metadata.clone();
        reference["description"] = "Name, labels and whatever else every object carries.".into();
        publish(&mut reference);
        properties.insert("metadata".to_owned(), reference);
    }
    schema
}
