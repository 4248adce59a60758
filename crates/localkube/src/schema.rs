//! Structural schemas of custom resources: validation, defaults, pruning.
//!
//! The rules and the words of errors are those of `apiextensions.k8s.io/v1`. CEL rules
//! (`x-kubernetes-validations`) are not evaluated; `crd::warnings` says so to whoever creates one.

mod compile;
mod go_syntax;
mod validate;

use serde_json::{Map, Value};

use crate::status::FieldError;

pub(crate) use go_syntax::go_syntax;

/// A compiled structural schema.
#[derive(Clone, Debug)]
pub struct Schema {
    source: Value,
    root: Node,
}

/// One level of a schema. What a level does not say is empty.
#[derive(Clone, Debug, Default)]
struct Node {
    kind: Option<Type>,
    int_or_string: bool,
    nullable: bool,
    preserve_unknown_fields: bool,
    embedded_resource: bool,
    properties: Vec<(String, Node)>,
    additional: Additional,
    items: Option<Box<Node>>,
    required: Vec<String>,
    default: Option<Value>,
    rules: Rules,
    list: List,
    all_of: Vec<Node>,
    any_of: Vec<Node>,
    one_of: Vec<Node>,
    not: Option<Box<Node>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

/// `additionalProperties`.
#[derive(Clone, Debug, Default)]
enum Additional {
    #[default]
    Unsaid,
    Any,
    Of(Box<Node>),
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, Default)]
enum List {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

/// Limits on a value itself.
#[derive(Clone, Debug, Default)]
struct Rules {
    enumeration: Option<Vec<Value>>,
    pattern: Option<regex::Regex>,
    format: Option<String>,
    minimum: Option<f64>,
    exclusive_minimum: bool,
    maximum: Option<f64>,
    exclusive_maximum: bool,
    multiple_of: Option<f64>,
    min_length: Option<u64>,
    max_length: Option<u64>,
    min_items: Option<u64>,
    max_items: Option<u64>,
    unique_items: bool,
    min_properties: Option<u64>,
    max_properties: Option<u64>,
}

impl Schema {
    /// Compiles `openAPIV3Schema`.
    ///
    /// # Errors
    /// What is wrong with the schema; field paths start at the schema itself.
    pub fn compile(schema: &Value) -> Result<Self, Vec<FieldError>> {
        let mut faults = Vec::new();
        let root = compile::node(schema, "", true, &mut faults);
        if faults.is_empty() {
            Ok(Schema {
                source: schema.clone(),
                root,
            })
        } else {
            Err(faults)
        }
    }

    /// Fills absent fields with their defaults. A null where null is not allowed counts as absent if there is a default.
    pub fn default(&self, value: &mut Value) {
        fill(&self.root, value);
    }

    /// Drops fields that the schema does not know; returns their paths.
    pub fn prune(&self, value: &mut Value) -> Vec<String> {
        let mut dropped = Vec::new();
        prune(&self.root, value, true, "", &mut dropped);
        dropped
    }

    /// All that is wrong with an object.
    pub fn validate(&self, value: &Value) -> Vec<FieldError> {
        let mut faults = Vec::new();
        validate::object(&self.root, value, &mut faults);
        faults
    }

    /// The schema as OpenAPI v3 publishes it.
    pub fn to_openapi(&self) -> Value {
        self.source.clone()
    }
}

impl Node {
    fn property(&self, name: &str) -> Option<&Node> {
        self.properties
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, node)| node)
    }
}

fn fill(node: &Node, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, property) in &node.properties {
                let absent = match map.get(name) {
                    None => true,
                    Some(Value::Null) => !property.nullable,
                    Some(_) => false,
                };
                if absent && let Some(default) = &property.default {
                    map.insert(name.clone(), default.clone());
                }
                if let Some(inner) = map.get_mut(name) {
                    fill(property, inner);
                }
            }
            if let Additional::Of(additional) = &node.additional {
                for (name, inner) in map.iter_mut() {
                    if node.property(name).is_none() {
                        fill(additional, inner);
                    }
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &node.items {
                for inner in list {
                    fill(items, inner);
                }
            }
        }
        _ => {}
    }
}

/// `apiVersion`, `kind` and `metadata` belong to every resource, whatever its schema says.
fn is_resource_field(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

fn prune(node: &Node, value: &mut Value, resource: bool, path: &str, dropped: &mut Vec<String>) {
    match value {
        Value::Object(map) => prune_object(node, map, resource, path, dropped),
        Value::Array(list) => {
            if let Some(items) = &node.items {
                for (index, inner) in list.iter_mut().enumerate() {
                    let path = format!("{path}[{index}]");
                    prune(items, inner, items.embedded_resource, &path, dropped);
                }
            }
        }
        _ => {}
    }
}

fn prune_object(
    node: &Node,
    map: &mut Map<String, Value>,
    resource: bool,
    path: &str,
    dropped: &mut Vec<String>,
) {
    let names: Vec<String> = map.keys().cloned().collect();
    for name in names {
        let inner_path = child(path, &name);
        if resource && is_resource_field(&name) {
            continue;
        }
        if let Some(property) = node.property(&name) {
            if let Some(inner) = map.get_mut(&name) {
                prune(
                    property,
                    inner,
                    property.embedded_resource,
                    &inner_path,
                    dropped,
                );
            }
            continue;
        }
        match &node.additional {
            Additional::Of(additional) => {
                if let Some(inner) = map.get_mut(&name) {
                    prune(
                        additional,
                        inner,
                        additional.embedded_resource,
                        &inner_path,
                        dropped,
                    );
                }
            }
            Additional::Any => {}
            Additional::Unsaid if node.preserve_unknown_fields => {}
            Additional::Unsaid => {
                map.shift_remove(&name);
                dropped.push(inner_path);
            }
        }
    }
}

/// The path of a field below `path`.
fn child(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
mod tests;
