//! The paths of a group version, with what kubectl looks for in them: which kind an operation is about,
//! and whether a patch takes `fieldValidation`.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::kind::Kind;

const JSON: &str = "application/json";

/// Paths of these kinds; `names` are their component names, in the same order.
pub(super) fn paths(kinds: &[&Arc<Kind>], names: &[String]) -> Map<String, Value> {
    let mut paths = Map::new();
    for (kind, name) in kinds.iter().zip(names) {
        let root = if kind.group.is_empty() {
            format!("/api/{}", kind.version)
        } else {
            format!("/apis/{}/{}", kind.group, kind.version)
        };
        let collection = if kind.namespaced {
            format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
        } else {
            format!("{root}/{}", kind.plural)
        };
        let mut collection_item = item(kind, false);
        let mut object_item = item(kind, true);
        for verb in &kind.verbs {
            let (target, method) = match *verb {
                "list" => (&mut collection_item, "get"),
                "create" => (&mut collection_item, "post"),
                "deletecollection" => (&mut collection_item, "delete"),
                "get" => (&mut object_item, "get"),
                "update" => (&mut object_item, "put"),
                "patch" => (&mut object_item, "patch"),
                "delete" => (&mut object_item, "delete"),
                _ => continue,
            };
            target.insert(method.to_owned(), operation(kind, name, verb));
        }
        if kind.verbs.contains(&"get") {
            paths.insert(format!("{collection}/{{name}}"), object_item.into());
        }
        paths.insert(collection, collection_item.into());
    }
    paths.sort_keys();
    paths
}

/// A path item with its path parameters.
fn item(kind: &Kind, named: bool) -> Map<String, Value> {
    let mut parameters = Vec::new();
    for (name, wanted) in [("name", named), ("namespace", kind.namespaced)] {
        if wanted {
            parameters.push(json!({
                "name": name, "in": "path", "required": true,
                "schema": {"type": "string", "uniqueItems": true},
            }));
        }
    }
    let mut item = Map::new();
    if !parameters.is_empty() {
        item.insert("parameters".to_owned(), parameters.into());
    }
    item
}

fn operation(kind: &Kind, name: &str, verb: &str) -> Value {
    let reference = json!({"$ref": format!("#/components/schemas/{name}")});
    let group = if kind.group.is_empty() {
        "core"
    } else {
        kind.group.split('.').next().unwrap_or_default()
    };
    let mut operation = json!({
        "tags": [format!("{group}_{}", kind.version)],
        "operationId": format!("{verb}{}{}{}", capital(group), capital(&kind.version), kind.kind),
    });
    let mut parameters = Vec::new();
    if matches!(verb, "create" | "update" | "patch") {
        for parameter in ["dryRun", "fieldManager", "fieldValidation"] {
            parameters.push(query(parameter, "string"));
        }
    }
    if verb == "patch" {
        parameters.push(query("force", "boolean"));
    }
    if verb == "delete" {
        parameters.push(query("dryRun", "string"));
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    let body = match verb {
        "create" | "update" => Some(json!({"*/*": {"schema": reference}})),
        "patch" => Some(patches(kind)),
        _ => None,
    };
    if let Some(content) = body {
        operation["requestBody"] = json!({"content": content, "required": true});
    }
    operation["responses"] = match verb {
        "create" | "get" | "update" | "patch" => json!({
            "200": {"description": "OK", "content": {JSON: {"schema": reference}}},
        }),
        _ => json!({"200": {"description": "OK"}}),
    };
    let action = match verb {
        "create" => "post",
        "update" => "put",
        verb => verb,
    };
    operation["x-kubernetes-action"] = action.into();
    operation["x-kubernetes-group-version-kind"] =
        json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    operation
}

/// The patch formats a kind takes: custom resources have no strategic merge.
fn patches(kind: &Kind) -> Value {
    let schema = json!({"schema": {"type": "object"}});
    let mut content = json!({
        "application/json-patch+json": schema,
        "application/merge-patch+json": schema,
        "application/apply-patch+yaml": schema,
    });
    if kind.schema.is_none() {
        content["application/strategic-merge-patch+json"] = schema;
    }
    content
}

fn query(name: &str, kind: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}

fn capital(word: &str) -> String {
    let mut characters = word.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}
