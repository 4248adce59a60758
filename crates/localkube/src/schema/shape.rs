//! Defaults and pruning: what a schema changes in an object.

use serde_json::Value;

use super::{Additional, Node, child};

/// Fields of every object that no schema describes.
const IMPLIED: [&str; 3] = ["apiVersion", "kind", "metadata"];

const METADATA: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

impl Node {
    fn of_field(&self, field: &str) -> Option<&Node> {
        self.properties.get(field).or(match &self.additional {
            Additional::Schema(node) => Some(node),
            _ => None,
        })
    }
}

pub(super) fn default(node: &Node, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| {
                !value.is_null() || node.of_field(name).is_none_or(|inner| inner.nullable)
            });
            for (name, inner) in &node.properties {
                if let Some(default) = &inner.default
                    && !fields.contains_key(name)
                {
                    fields.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in fields {
                if let Some(inner) = node.of_field(name) {
                    default(inner, value);
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = &node.items {
                items.iter_mut().for_each(|item| default(inner, item));
            }
        }
        _ => {}
    }
}

pub(super) fn prune_object(node: &Node, value: &mut Value, dropped: &mut Vec<String>) {
    fields(node, value, "", true, dropped);
}

fn prune(node: &Node, value: &mut Value, path: &str, dropped: &mut Vec<String>) {
    match value {
        Value::Object(_) => {
            if node.embedded
                && let Some(Value::Object(metadata)) = value.get_mut("metadata")
            {
                metadata.retain(|name, _| {
                    let known = METADATA.contains(&name.as_str());
                    if !known {
                        dropped.push(child(&child(path, "metadata"), name));
                    }
                    known
                });
            }
            fields(node, value, path, node.embedded, dropped);
        }
        Value::Array(items) => {
            if let Some(inner) = &node.items {
                for (index, item) in items.iter_mut().enumerate() {
                    prune(inner, item, &format!("{path}[{index}]"), dropped);
                }
            }
        }
        _ => {}
    }
}

fn fields(node: &Node, value: &mut Value, path: &str, implied: bool, dropped: &mut Vec<String>) {
    let Value::Object(fields) = value else {
        return;
    };
    fields.retain(|name, value| {
        if implied && IMPLIED.contains(&name.as_str()) {
            return true;
        }
        if let Some(inner) = node.of_field(name) {
            prune(inner, value, &child(path, name), dropped);
            return true;
        }
        let keep = node.preserve_unknown || matches!(node.additional, Additional::Any);
        if !keep {
            dropped.push(child(path, name));
        }
        keep
    });
}
