//! Reading our own CustomResourceDefinitions, which are written as JSON beside their types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// Turns a definition written in this crate into its type. A mistake in it gives the empty definition, which
/// every API server refuses; the tests of this module keep that from being released.
pub(crate) fn read(value: serde_json::Value) -> CustomResourceDefinition {
    serde_json::from_value(value).unwrap_or_default()
}

/// All definitions that this slice installs, in the order in which to apply them.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        crate::cluster::definition(),
        crate::iam::user_definition(),
        crate::iam::global_role_definition(),
        crate::iam::global_role_binding_definition(),
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
        assert_eq!(super::all().len(), 4);
    }
}
