//! Reading an object by its published schema, as the decoder of kube-apiserver reads it into a Go struct.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::builtin::quantity::Quantity;

const PREFIX: &str = "#/components/schemas/";
const NOT_A_QUANTITY: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
/// Types whose values may be anything.
pub(crate) const ANYTHING: [&str; 6] = [
    "JSON",
    "RawExtension",
    "FieldsV1",
    "JSONSchemaPropsOrArray",
    "JSONSchemaPropsOrBool",
    "JSONSchemaPropsOrStringArray",
];
/// Deeper than any Kubernetes type; only schemas inside CRDs nest without end.
const MOST_DEPTH: usize = 100;

/// Shapes an object by the schema of this name; gives the paths of its unknown fields.
pub(super) fn shape(
    schemas: &Map<String, Value>,
    name: &str,
    object: &mut Value,
) -> Result<Vec<String>, String> {
    let Some(schema) = schemas.get(name) else {
        return Ok(Vec::new());
    };
    let mut reader = Reader {
        schemas,
        unknown: Vec::new(),
    };
    let place = Place {
        path: String::new(),
        owner: short(name).to_owned(),
        field: String::new(),
        depth: 0,
    };
    reader.read(schema, &short_type(name), object, &place)?;
    Ok(reader.unknown)
}

/// Where a value stands: in the document, and in Go's types.
struct Place {
    /// e.g. `spec.containers[0].name`.
    path: String,
    /// The struct that has the field, e.g. `Container`.
    owner: String,
    /// The same path without indices and map keys.
    field: String,
    depth: usize,
}

impl Place {
    fn mismatch(&self, value: &Value, wanted: &str) -> String {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if wanted.starts_with("int") => format!("number {number}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        if self.field.is_empty() {
            return format!("json: cannot unmarshal {found} into Go value of type {wanted}");
        }
        format!(
            "json: cannot unmarshal {found} into Go struct field {}.{} of type {wanted}",
            self.owner, self.field
        )
    }
}

struct Reader<'a> {
    schemas: &'a Map<String, Value>,
    unknown: Vec<String>,
}

impl Reader<'_> {
    fn read(
        &mut self,
        schema: &Value,
        wanted: &str,
        value: &mut Value,
        place: &Place,
    ) -> Result<(), String> {
        if place.depth > MOST_DEPTH {
            return Err(format!("exceeded max depth of {MOST_DEPTH}"));
        }
        if let Some(name) = reference(schema) {
            let schemas = self.schemas;
            let Some(target) = schemas.get(name) else {
                return Ok(());
            };
            return match short(name) {
                "IntOrString" => match value {
                    Value::Number(_) | Value::String(_) => Ok(()),
                    other => Err(place.mismatch(other, "int32")),
                },
                "Quantity" => Quantity::from_value(value)
                    .map(|_| ())
                    .ok_or_else(|| NOT_A_QUANTITY.to_owned()),
                "Time" | "MicroTime" => time(value, place),
                name if ANYTHING.contains(&name) => Ok(()),
                _ => self.read(target, &short_type(name), value, place),
            };
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("object") => self.read_object(schema, wanted, value, place),
            Some("array") => {
                let Value::Array(list) = value else {
                    return Err(place.mismatch(value, wanted));
                };
                let items = schema.get("items").unwrap_or(&Value::Null);
                let element = go_type(items);
                for (index, item) in list.iter_mut().enumerate() {
                    let place = Place {
                        path: format!("{}[{index}]", place.path),
                        owner: place.owner.clone(),
                        field: place.field.clone(),
                        depth: place.depth + 1,
                    };
                    self.read(items, &element, item, &place)?;
                }
                Ok(())
            }
            Some("string") => {
                let Value::String(text) = value else {
                    return Err(place.mismatch(value, wanted));
                };
                if schema.get("format").and_then(Value::as_str) == Some("byte") {
                    return bytes(text);
                }
                Ok(())
            }
            Some("boolean") if !value.is_boolean() => Err(place.mismatch(value, wanted)),
            Some("integer") => {
                let fits = match (value.as_i64(), wanted) {
                    (Some(number), "int32") => i32::try_from(number).is_ok(),
                    (Some(_), _) => true,
                    (None, _) => false,
                };
                if fits {
                    return Ok(());
                }
                Err(place.mismatch(value, wanted))
            }
            Some("number") if !value.is_number() => Err(place.mismatch(value, wanted)),
            _ => Ok(()),
        }
    }

    fn read_object(
        &mut self,
        schema: &Value,
        wanted: &str,
        value: &mut Value,
        place: &Place,
    ) -> Result<(), String> {
        let Value::Object(map) = value else {
            return Err(place.mismatch(value, wanted));
        };
        if let Some(elements) = schema.get("additionalProperties") {
            let element = go_type(elements);
            for (key, value) in map {
                if value.is_null() {
                    continue;
                }
                let place = Place {
                    path: join(&place.path, key),
                    owner: place.owner.clone(),
                    field: place.field.clone(),
                    depth: place.depth + 1,
                };
                self.read(elements, &element, value, &place)?;
            }
            return Ok(());
        }
        let Some(Value::Object(properties)) = schema.get("properties") else {
            return Ok(());
        };
        let required = |name: &str| {
            schema
                .get("required")
                .and_then(Value::as_array)
                .is_some_and(|required| required.iter().any(|one| one == name))
        };
        let mut dropped = Vec::new();
        for (key, value) in map.iter_mut() {
            let path = join(&place.path, key);
            let Some(property) = properties.get(key) else {
                self.unknown.push(path);
                dropped.push(key.clone());
                continue;
            };
            if value.is_null() {
                dropped.push(key.clone());
                continue;
            }
            let place = Place {
                path,
                owner: wanted.rsplit('.').next().unwrap_or(wanted).to_owned(),
                field: join(&place.field, key),
                depth: place.depth + 1,
            };
            self.read(property, &go_type(property), value, &place)?;
            // Structs stay even if empty; lists and maps that may be left out do not.
            let collection = reference(property).is_none() && property.get("type").is_some();
            let empty = match value {
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            if collection && empty && !required(key) {
                dropped.push(key.clone());
            }
        }
        for key in dropped {
            map.shift_remove(&key);
        }
        Ok(())
    }
}

fn time(value: &Value, place: &Place) -> Result<(), String> {
    let Value::String(text) = value else {
        return Err(place.mismatch(value, "string"));
    };
    if text.parse::<jiff::Timestamp>().is_ok() {
        return Ok(());
    }
    Err(format!(
        "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
    ))
}

fn bytes(text: &str) -> Result<(), String> {
    let joined: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    match STANDARD.decode(&joined) {
        Ok(_) => Ok(()),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _)
                | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
                    joined.len() / 4 * 4
                }
            };
            Err(format!("illegal base64 data at input byte {at}"))
        }
    }
}

/// The name a schema refers to.
fn reference(schema: &Value) -> Option<&str> {
    let direct = schema.get("$ref");
    let wrapped = || schema.get("allOf")?.get(0)?.get("$ref");
    direct.or_else(wrapped)?.as_str()?.strip_prefix(PREFIX)
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// `v1.PodSpec` of `io.k8s.api.core.v1.PodSpec`.
fn short_type(name: &str) -> String {
    let mut parts = name.rsplit('.');
    match (parts.next(), parts.next()) {
        (Some(kind), Some(package)) => format!("{package}.{kind}"),
        _ => name.to_owned(),
    }
}

/// The Go type of a schema, as error messages name it.
fn go_type(schema: &Value) -> String {
    if let Some(name) = reference(schema) {
        return short_type(name);
    }
    let format = schema.get("format").and_then(Value::as_str);
    match schema.get("type").and_then(Value::as_str) {
        Some("integer") => format.unwrap_or("int").to_owned(),
        Some("boolean") => "bool".to_owned(),
        Some("number") => "float64".to_owned(),
        Some("string") if format == Some("byte") => "[]uint8".to_owned(),
        Some("array") => format!("[]{}", go_type(schema.get("items").unwrap_or(&Value::Null))),
        Some("object") => match schema.get("additionalProperties") {
            Some(elements) => format!("map[string]{}", go_type(elements)),
            None => "struct".to_owned(),
        },
        _ => "string".to_owned(),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::openapi::Documents;

    use super::*;

    fn read(kind: &str, object: &mut Value) -> Result<Vec<String>, String> {
        let kinds = crate::builtin::kinds();
        let kind = kinds.iter().find(|known| known.kind == kind).expect("kind");
        Documents::default().shape(kind, object)
    }

    #[test]
    fn wrong_types_are_named_as_go_names_them() {
        for (object, wanted) in [
            (
                json!({"spec": {"replicas": "x"}}),
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"replicas": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": "x"}}}}),
                "json: cannot unmarshal string into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"name": 5}]}}}}),
                "json: cannot unmarshal number into Go struct field Container.spec.template.spec.containers.name of type string",
            ),
            (
                json!({"spec": {"template": 5}}),
                "json: cannot unmarshal number into Go struct field DeploymentSpec.spec.template of type v1.PodTemplateSpec",
            ),
            (
                json!({"spec": {"selector": {"matchLabels": {"a": 5}}}}),
                "json: cannot unmarshal number into Go struct field LabelSelector.spec.selector.matchLabels of type string",
            ),
            (
                json!({"spec": {"selector": {"matchLabels": 5}}}),
                "json: cannot unmarshal number into Go struct field LabelSelector.spec.selector.matchLabels of type map[string]string",
            ),
            (
                json!({"spec": "x"}),
                "json: cannot unmarshal string into Go struct field Deployment.spec of type v1.DeploymentSpec",
            ),
            (
                json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": true}}}}),
                "json: cannot unmarshal bool into Go struct field RollingUpdateDeployment.spec.strategy.rollingUpdate.maxSurge of type int32",
            ),
            (
                json!({"metadata": {"creationTimestamp": "x"}}),
                "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\"",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "x"}}}]}}}}),
                NOT_A_QUANTITY,
            ),
        ] {
            let mut copy = object.clone();
            assert_eq!(
                read("Deployment", &mut copy),
                Err(wanted.to_owned()),
                "{object}"
            );
        }
        let mut secret = json!({"data": {"a": "%%%"}});
        assert_eq!(
            read("Secret", &mut secret),
            Err("illegal base64 data at input byte 0".to_owned())
        );
    }

    #[test]
    fn unknown_fields_are_listed_and_dropped() {
        let mut object = json!({
            "spec": {
                "template": {"spec": {"bar": 1, "containers": [{"baz": 1, "ports": [{"x": 1}]}]}},
                "foo": 1, "Replicas": 1,
            },
            "top": 1,
        });
        assert_eq!(
            read("Deployment", &mut object),
            Ok([
                "spec.template.spec.bar",
                "spec.template.spec.containers[0].baz",
                "spec.template.spec.containers[0].ports[0].x",
                "spec.foo",
                "spec.Replicas",
                "top",
            ]
            .map(str::to_owned)
            .to_vec())
        );
        assert_eq!(
            object,
            json!({"spec": {"template": {"spec": {"containers": [{"ports": [{}]}]}}}})
        );
    }

    #[test]
    fn empty_collections_go_and_empty_structs_stay() {
        let mut pod = json!({
            "metadata": {"labels": {}, "annotations": null, "finalizers": []},
            "spec": {"containers": [], "securityContext": {}, "nodeSelector": {},
                "volumes": [{"name": "v", "emptyDir": {}}]},
        });
        assert_eq!(read("Pod", &mut pod), Ok(Vec::new()));
        assert_eq!(
            pod,
            json!({
                "metadata": {},
                "spec": {"containers": [], "securityContext": {},
                    "volumes": [{"name": "v", "emptyDir": {}}]},
            })
        );
    }

    #[test]
    fn schemas_of_custom_resources_pass() {
        let mut definition = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"spec": {"type": "object", "default": {}, "enum": [1, "a"],
                "items": {"type": "string"}, "additionalProperties": false}},
        }}}]}});
        let before = definition.clone();
        assert_eq!(
            read("CustomResourceDefinition", &mut definition),
            Ok(Vec::new())
        );
        assert_eq!(definition, before);
    }
}
