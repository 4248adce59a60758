//! Structural schemas of custom resources: validation, defaults, pruning
//! (`apiextensions.k8s.io/v1` JSONSchemaProps). CEL rules (`x-kubernetes-validations`) are not evaluated;
//! `crd::warnings` says so to whoever creates one.

use indexmap::IndexMap;
use regex::Regex;
use serde_json::{Number, Value};

use crate::status::FieldError;

mod compile;
mod format;
mod go_syntax;
mod shape;
mod validate;

pub(crate) use go_syntax::go_syntax;

/// A compiled structural schema.
#[derive(Clone, Debug)]
pub struct Schema {
    source: Value,
    root: Node,
}

/// One level of a schema.
#[derive(Clone, Debug, Default)]
struct Node {
    kind: Option<Kind>,
    format: String,
    nullable: bool,
    default: Option<Value>,
    enumeration: Vec<Value>,
    properties: IndexMap<String, Node>,
    additional: Additional,
    items: Option<Box<Node>>,
    required: Vec<String>,
    pattern: Option<Regex>,
    length: Bounds,
    count: Bounds,
    fields: Bounds,
    minimum: Option<Limit>,
    maximum: Option<Limit>,
    multiple_of: Option<Number>,
    unique: Unique,
    preserve_unknown: bool,
    embedded: bool,
    int_or_string: bool,
    all_of: Vec<Node>,
    any_of: Vec<Node>,
    one_of: Vec<Node>,
    not: Option<Box<Node>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

#[derive(Clone, Debug, Default)]
enum Additional {
    #[default]
    None,
    Any,
    Schema(Box<Node>),
}

#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    least: Option<u64>,
    most: Option<u64>,
}

#[derive(Clone, Debug)]
struct Limit {
    value: Number,
    exclusive: bool,
}

#[derive(Clone, Debug, Default)]
enum Unique {
    #[default]
    No,
    Items,
    /// By these fields of each item.
    Keys(Vec<String>),
}

impl Schema {
    /// Compiles `openAPIV3Schema`.
    ///
    /// # Errors
    /// What is wrong with the schema; field paths start at the schema itself.
    pub fn compile(schema: &Value) -> Result<Self, Vec<FieldError>> {
        let mut faults = Vec::new();
        let root = compile::node(schema, "", compile::Place::Root, &mut faults);
        if faults.is_empty() {
            Ok(Schema {
                source: schema.clone(),
                root,
            })
        } else {
            Err(faults)
        }
    }

    /// Drops nulls where the schema has no null, and fills absent fields with their defaults. Fields
    /// that a default brings get their own defaults too.
    pub fn default(&self, value: &mut Value) {
        shape::default(&self.root, value);
    }

    /// Drops fields that the schema does not know; returns their paths. `apiVersion`, `kind` and
    /// `metadata` of the object itself are not the schema's business.
    pub fn prune(&self, value: &mut Value) -> Vec<String> {
        let mut dropped = Vec::new();
        shape::prune_object(&self.root, value, &mut dropped);
        dropped
    }

    /// All that is wrong with an object, in the words of kube-apiserver.
    pub fn validate(&self, value: &Value) -> Vec<FieldError> {
        let mut faults = Vec::new();
        validate::node(&self.root, value, "", &mut faults);
        validate::unique(&self.root, value, "", &mut faults);
        faults
    }

    /// The schema as it was given; OpenAPI v3 has the same shape.
    pub fn to_openapi(&self) -> Value {
        self.source.clone()
    }
}

fn child(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

#[cfg(test)]
mod tests;
