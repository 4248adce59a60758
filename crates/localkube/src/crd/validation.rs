//! What is wrong with a CustomResourceDefinition, in the words of kube-apiserver.

use serde_json::{Value, json};

use super::{flag, items, text, versions};
use crate::schema::{Schema, go_syntax};
use crate::status::FieldError;

/// All that is wrong with a CRD.
pub fn validate(crd: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let spec = &crd["spec"];
    let names = &spec["names"];
    let (group, plural) = (text(spec, "group"), text(names, "plural"));
    let name = text(&crd["metadata"], "name");
    if name != format!("{plural}.{group}") {
        let why = "must be spec.names.plural+\".\"+spec.group";
        faults.push(invalid("metadata.name", &name.into(), why));
    }
    require(&mut faults, "spec.group", group);
    if !group.is_empty() && !group.contains('.') {
        let why = "should be a domain with at least one dot";
        faults.push(invalid("spec.group", &group.into(), why));
    }
    if text(spec, "scope").is_empty() {
        require(&mut faults, "spec.scope", "");
    } else if !matches!(text(spec, "scope"), "Cluster" | "Namespaced") {
        faults.push(FieldError {
            field: "spec.scope".into(),
            reason: "FieldValueNotSupported",
            detail: format!(
                "Unsupported value: {}: supported values: \"Cluster\", \"Namespaced\"",
                go_syntax(&text(spec, "scope").into())
            ),
        });
    }
    validate_versions(crd, &mut faults);
    for field in ["plural", "singular", "kind", "listKind"] {
        require(
            &mut faults,
            &format!("spec.names.{field}"),
            text(names, field),
        );
    }
    if let Some(old) = old {
        for field in ["group", "scope"] {
            if old["spec"][field] != spec[field] {
                let path = format!("spec.{field}");
                faults.push(invalid(&path, &spec[field], "field is immutable"));
            }
        }
        // Names may change until they are accepted.
        if is_established(old) {
            for field in ["plural", "kind"] {
                if old["spec"]["names"][field] != names[field] {
                    let path = format!("spec.names.{field}");
                    faults.push(invalid(&path, &names[field], "field is immutable"));
                }
            }
        }
    }
    faults
}

fn validate_columns(version: &Value, faults: &mut Vec<FieldError>) {
    for (index, column) in items(&version["additionalPrinterColumns"]).enumerate() {
        let path = format!("spec.additionalPrinterColumns[{index}]");
        require(faults, &format!("{path}.name"), text(column, "name"));
        let kind = text(column, "type");
        if !matches!(kind, "boolean" | "date" | "integer" | "number" | "string") {
            let why = "must be one of boolean,date,integer,number,string";
            faults.push(invalid(&format!("{path}.type"), &kind.into(), why));
        }
        let json_path = text(column, "jsonPath");
        if !json_path.starts_with('.') {
            let why = "must be a simple json path starting with .";
            faults.push(invalid(&format!("{path}.JSONPath"), &json_path.into(), why));
        }
    }
}

fn is_established(crd: &Value) -> bool {
    items(&crd["status"]["conditions"])
        .any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

fn validate_versions(crd: &Value, faults: &mut Vec<FieldError>) {
    let stored = versions(crd)
        .filter(|version| flag(version, "storage"))
        .count();
    if stored != 1 {
        let why = "must have exactly one version marked as storage version";
        faults.push(invalid_versions(crd, why));
    }
    let mut names: Vec<&str> = versions(crd).map(|version| text(version, "name")).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    if names.len() != all {
        faults.push(invalid_versions(crd, "must contain unique version names"));
    }
    // What all versions share is judged once, at the place where it stood before versions had their own.
    let first = versions(crd).next().map(|version| &version["schema"]);
    let shared = versions(crd).all(|version| Some(&version["schema"]) == first);
    for (index, version) in versions(crd).enumerate() {
        let path = format!("spec.versions[{index}]");
        require(faults, &format!("{path}.name"), text(version, "name"));
        let schema_path = format!("{path}.schema.openAPIV3Schema");
        let schema = &version["schema"]["openAPIV3Schema"];
        if schema.is_null() {
            faults.push(FieldError {
                field: schema_path,
                reason: "FieldValueRequired",
                detail: "Required value".into(),
            });
            continue;
        }
        validate_columns(version, faults);
        if shared && index > 0 {
            continue;
        }
        let schema_path = if shared {
            "spec.validation.openAPIV3Schema".to_owned()
        } else {
            schema_path
        };
        if let Err(inner) = Schema::compile(schema) {
            faults.extend(inner.into_iter().map(|fault| FieldError {
                field: format!("{schema_path}.{}", fault.field),
                ..fault
            }));
        }
    }
}

/// The versions as kube-apiserver holds them inside: what they share has been moved elsewhere.
fn invalid_versions(crd: &Value, why: &str) -> FieldError {
    let list: Vec<Value> = versions(crd)
        .map(|version| {
            json!({
                "Name": text(version, "name"), "Served": flag(version, "served"),
                "Storage": flag(version, "storage"), "Deprecated": flag(version, "deprecated"),
                "DeprecationWarning": version["deprecationWarning"], "Schema": null,
                "Subresources": null, "AdditionalPrinterColumns": null, "SelectableFields": null,
            })
        })
        .collect();
    let shown = if crd["spec"]["versions"].is_array() {
        Value::Array(list)
    } else {
        Value::Null
    };
    FieldError {
        field: "spec.versions".to_owned(),
        reason: "FieldValueInvalid",
        detail: format!("Invalid value: {shown}: {why}"),
    }
}

fn invalid(field: &str, value: &Value, why: &str) -> FieldError {
    FieldError {
        field: field.to_owned(),
        reason: "FieldValueInvalid",
        detail: format!("Invalid value: {}: {why}", go_syntax(value)),
    }
}

fn require(faults: &mut Vec<FieldError>, field: &str, value: &str) {
    if value.is_empty() {
        faults.push(FieldError {
            field: field.to_owned(),
            reason: "FieldValueRequired",
            detail: "Required value".into(),
        });
    }
}
