//! CustomResourceDefinitions: from the object to the kinds it serves.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::kind::{Columns, Kind, OwnedColumn, Scale, Strategy};
use crate::schema::{Schema, go_syntax};
use crate::status::{ApiError, FieldError};

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
    if !matches!(text(spec, "scope"), "Cluster" | "Namespaced") {
        faults.push(FieldError {
            field: "spec.scope".into(),
            reason: "FieldValueNotSupported",
            detail: format!(
                "Unsupported value: {}: supported values: \"Cluster\", \"Namespaced\"",
                go_syntax(&text(spec, "scope").into())
            ),
        });
    }
    for field in ["plural", "singular", "kind", "listKind"] {
        require(
            &mut faults,
            &format!("spec.names.{field}"),
            text(names, field),
        );
    }
    validate_versions(crd, &mut faults);
    if let Some(old) = old {
        for field in ["group", "scope"] {
            if old["spec"][field] != spec[field] {
                let path = format!("spec.{field}");
                faults.push(invalid(&path, &spec[field], "field is immutable"));
            }
        }
    }
    faults
}

fn validate_versions(crd: &Value, faults: &mut Vec<FieldError>) {
    let stored = versions(crd)
        .filter(|version| flag(version, "storage"))
        .count();
    if stored != 1 {
        let why = "must have exactly one version marked as storage version";
        faults.push(invalid("spec.versions", &crd["spec"]["versions"], why));
    }
    for (index, version) in versions(crd).enumerate() {
        let path = format!("spec.versions[{index}]");
        require(faults, &format!("{path}.name"), text(version, "name"));
        let schema_path = format!("{path}.schema.openAPIV3Schema");
        let schema = &version["schema"]["openAPIV3Schema"];
        if schema.is_null() {
            faults.push(FieldError {
                field: schema_path,
                reason: "FieldValueRequired",
                detail: "Required value: schemas are required".into(),
            });
            continue;
        }
        if let Err(inner) = Schema::compile(schema) {
            faults.extend(inner.into_iter().map(|fault| FieldError {
                field: format!("{schema_path}.{}", fault.field),
                ..fault
            }));
        }
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

/// Sets `status` (accepted names, stored versions, conditions). `others` are all stored CRDs.
pub fn establish(crd: &mut Value, others: &[Value], now: Timestamp) {
    let conflict = conflict(crd, others);
    let names = crd["spec"]["names"].clone();
    let storage: Vec<String> = versions(crd)
        .filter(|version| flag(version, "storage"))
        .map(|version| text(version, "name").to_owned())
        .collect();
    let mut stored = texts(&crd["status"]["storedVersions"]);
    for version in storage {
        if !stored.contains(&version) {
            stored.push(version);
        }
    }
    let established = [
        (
            "NamesAccepted",
            "True",
            "NoConflicts",
            "no conflicts found".to_owned(),
        ),
        (
            "Established",
            "True",
            "InitialNamesAccepted",
            "the initial names have been accepted".to_owned(),
        ),
    ];
    let conditions = match conflict {
        None => established,
        Some((reason, message)) => [
            ("NamesAccepted", "False", reason, message),
            (
                "Established",
                "False",
                "NotAccepted",
                "not all names are accepted".to_owned(),
            ),
        ],
    };
    let accepted = if conditions[0].1 == "True" {
        names
    } else {
        json!({"plural": "", "kind": ""})
    };
    let before = crd["status"]["conditions"].clone();
    let conditions: Vec<Value> = conditions
        .into_iter()
        .map(|(kind, status, reason, message)| {
            let unchanged =
                items(&before).find(|old| old["type"] == kind && old["status"] == status);
            let since = unchanged.map_or_else(
                || rfc3339(now).into(),
                |old| old["lastTransitionTime"].clone(),
            );
            json!({"type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message})
        })
        .collect();
    crd["status"] =
        json!({"conditions": conditions, "acceptedNames": accepted, "storedVersions": stored});
}

/// Whether names are taken by another CRD of the group: the reason and the message.
fn conflict(crd: &Value, others: &[Value]) -> Option<(&'static str, String)> {
    let spec = &crd["spec"];
    let own_name = &crd["metadata"]["name"];
    let taken: Vec<&Value> = others
        .iter()
        .filter(|other| {
            other["metadata"]["name"] != *own_name && other["spec"]["group"] == spec["group"]
        })
        .map(|other| &other["status"]["acceptedNames"])
        .collect();
    let in_use = |name: &str| {
        taken.iter().any(|names| {
            text(names, "plural") == name
                || text(names, "singular") == name
                || texts(&names["shortNames"])
                    .iter()
                    .any(|short| short == name)
        })
    };
    let names = &spec["names"];
    for (field, reason) in [
        ("plural", "PluralConflict"),
        ("singular", "SingularConflict"),
    ] {
        let name = text(names, field);
        if in_use(name) {
            return Some((reason, format!("{name:?} is already in use")));
        }
    }
    if let Some(short) = texts(&names["shortNames"])
        .into_iter()
        .find(|short| in_use(short))
    {
        return Some(("ShortNamesConflict", format!("{short:?} is already in use")));
    }
    let kind = text(names, "kind");
    let kind_taken = taken
        .iter()
        .any(|names| text(names, "kind") == kind || text(names, "listKind") == kind);
    kind_taken.then(|| ("KindConflict", format!("{kind:?} is already in use")))
}

fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
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
mod tests {
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
            "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required"
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
}
