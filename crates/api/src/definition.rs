//! Reading our own CustomResourceDefinitions, which are written as JSON beside their types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// Turns a definition written in this crate into its type. A mistake in it gives the empty definition, which
/// every API server refuses; the tests of this module keep that from being released.
pub(crate) fn read(value: serde_json::Value) -> CustomResourceDefinition {
    serde_json::from_value(value).unwrap_or_default()
}

/// What distinguishes one of our cluster-scoped kinds with a single version and no status subresource.
pub(crate) struct Shape<'a> {
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) category: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) plural: &'a str,
    /// `additionalPrinterColumns`.
    pub(crate) columns: serde_json::Value,
    /// Properties of the schema beside `apiVersion`, `kind` and `metadata`.
    pub(crate) fields: serde_json::Value,
    /// Which of them must be there.
    pub(crate) required: &'a [&'a str],
}

/// The definition of such a kind.
pub(crate) fn cluster_scoped(shape: &Shape<'_>) -> CustomResourceDefinition {
    let mut properties = serde_json::json!({
        "apiVersion": { "type": "string" },
        "kind": { "type": "string" },
        "metadata": { "type": "object" }
    });
    if let (Some(all), Some(fields)) = (properties.as_object_mut(), shape.fields.as_object()) {
        all.extend(fields.clone());
    }
    let mut schema = serde_json::json!({ "type": "object", "properties": properties });
    if !shape.required.is_empty() {
        schema["required"] = serde_json::json!(shape.required);
    }
    read(serde_json::json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{}.{}", shape.plural, shape.group) },
        "spec": {
            "group": shape.group,
            "names": {
                "kind": shape.kind,
                "listKind": format!("{}List", shape.kind),
                "plural": shape.plural,
                "singular": shape.kind.to_lowercase(),
                "categories": [shape.category]
            },
            "scope": "Cluster",
            "versions": [{
                "name": shape.version,
                "served": true,
                "storage": true,
                "additionalPrinterColumns": shape.columns,
                "schema": { "openAPIV3Schema": schema }
            }]
        }
    }))
}

/// All definitions that this slice installs, in the order in which to apply them.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        crate::cluster::definition(),
        crate::iam::user_definition(),
        crate::iam::global_role_definition(),
        crate::iam::global_role_binding_definition(),
        crate::iam::workspace_role_definition(),
        crate::iam::workspace_role_binding_definition(),
        crate::iam::group_definition(),
        crate::iam::group_binding_definition(),
        crate::tenant::workspace_definition(),
        crate::tenant::workspace_template_definition(),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn definitions_are_whole() {
        for definition in super::all() {
            let name = definition.metadata.name.clone().unwrap_or_default();
            assert_eq!(
                name,
                format!("{}.{}", definition.spec.names.plural, definition.spec.group)
            );
            let version = &definition.spec.versions[0];
            assert!(version.served && version.storage, "{name}");
            assert!(
                version
                    .schema
                    .as_ref()
                    .unwrap()
                    .open_api_v3_schema
                    .is_some(),
                "{name}"
            );
            assert!(
                version
                    .subresources
                    .as_ref()
                    .is_none_or(|sub| sub.status.is_none()),
                "{name}"
            );
        }
        assert_eq!(super::all().len(), 10);
    }
}
