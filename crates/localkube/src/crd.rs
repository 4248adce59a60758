//! CustomResourceDefinitions: from the object to the kinds it serves.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::kind::{Columns, Kind, OwnedColumn, Scale, Strategy};
use crate::schema::Schema;
use crate::status::ApiError;

mod names;
mod validation;

pub use names::establish;
pub use validation::validate;

/// Verbs in the order in which Kubernetes' discovery gives them for custom resources.
const VERBS: [&str; 8] = [
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];

/// The kinds that an established CRD serves, one a served version.
///
/// # Errors
/// A stored schema that does not compile; validation refuses such a CRD before it is stored.
pub fn kinds_of(crd: &Value) -> Result<Vec<Kind>, ApiError> {
    let storage_version = versions(crd)
        .find(|version| flag(version, "storage"))
        .map(|version| text(version, "name"))
        .unwrap_or_default();
    versions(crd)
        .filter(|version| flag(version, "served"))
        .map(|version| kind_of(crd, version, storage_version))
        .collect()
}

fn kind_of(crd: &Value, version: &Value, storage_version: &str) -> Result<Kind, ApiError> {
    let spec = &crd["spec"];
    let names = &spec["names"];
    let schema = Schema::compile(&version["schema"]["openAPIV3Schema"]).map_err(|faults| {
        let name = text(&crd["metadata"], "name");
        ApiError::invalid(
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            name,
            &faults,
        )
    })?;
    let subresources = &version["subresources"];
    Ok(Kind {
        group: text(spec, "group").to_owned(),
        version: text(version, "name").to_owned(),
        plural: text(names, "plural").to_owned(),
        singular: text(names, "singular").to_owned(),
        kind: text(names, "kind").to_owned(),
        list_kind: text(names, "listKind").to_owned(),
        namespaced: text(spec, "scope") == "Namespaced",
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        verbs: VERBS.to_vec(),
        status_subresource: subresources["status"].is_object(),
        scale: scale_of(&subresources["scale"]),
        subresources: Vec::new(),
        storage_version: storage_version.to_owned(),
        columns: Columns::Printed(columns_of(version)),
        strategy: Strategy::PLAIN,
        schema: Some(Arc::new(schema)),
        selectable_fields: Vec::new(),
        generation: true,
    })
}

fn scale_of(scale: &Value) -> Option<Scale> {
    let path = |name: &str| scale.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(Scale {
        spec_replicas: path("specReplicasPath")?,
        status_replicas: path("statusReplicasPath")?,
        label_selector: path("labelSelectorPath"),
    })
}

fn columns_of(version: &Value) -> Vec<(OwnedColumn, String)> {
    items(&version["additionalPrinterColumns"])
        .map(|column| {
            let definition = OwnedColumn {
                name: text(column, "name").to_owned(),
                kind: text(column, "type").to_owned(),
                format: text(column, "format").to_owned(),
                description: text(column, "description").to_owned(),
                priority: column["priority"]
                    .as_i64()
                    .and_then(|priority| i32::try_from(priority).ok())
                    .unwrap_or(0),
            };
            (definition, text(column, "jsonPath").to_owned())
        })
        .collect()
}

/// Fills what kube-apiserver fills in a CRD.
pub fn default(crd: &mut Value) {
    let Some(spec) = crd.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    spec.entry("conversion")
        .or_insert_with(|| json!({"strategy": "None"}));
    let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) else {
        return;
    };
    let kind = names
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if !kind.is_empty() {
        fill(names, "singular", kind.to_lowercase());
        fill(names, "listKind", format!("{kind}List"));
    }
}

fn fill(map: &mut Map<String, Value>, name: &str, value: String) {
    let absent = map
        .get(name)
        .and_then(Value::as_str)
        .is_none_or(str::is_empty);
    if absent {
        map.insert(name.to_owned(), value.into());
    }
}

/// Warnings for the writer of a CRD: what it asks for that is not done here.
pub fn warnings(crd: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, version) in versions(crd).enumerate() {
        if mentions(&version["schema"], "x-kubernetes-validations") {
            warnings.push(format!(
                "spec.versions[{index}].schema.openAPIV3Schema: x-kubernetes-validations are kept but not evaluated by this server"
            ));
        }
    }
    if text(&crd["spec"]["conversion"], "strategy") == "Webhook" {
        warnings.push(
            "spec.conversion.strategy: webhooks are not called by this server; versions are converted by changing apiVersion only"
                .into(),
        );
    }
    warnings
}

fn mentions(schema: &Value, field: &str) -> bool {
    match schema {
        Value::Object(map) => {
            map.contains_key(field) || map.values().any(|inner| mentions(inner, field))
        }
        Value::Array(list) => list.iter().any(|inner| mentions(inner, field)),
        _ => false,
    }
}

fn versions(crd: &Value) -> impl Iterator<Item = &Value> {
    items(&crd["spec"]["versions"])
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn texts(list: &Value) -> Vec<String> {
    items(list)
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn flag(object: &Value, field: &str) -> bool {
    object.get(field).and_then(Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
mod tests;
