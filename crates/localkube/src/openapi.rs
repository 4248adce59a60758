//! OpenAPI documents: v3 for each group version, and a minimal v2.

mod components;
mod enums;
mod list_rules;
pub(crate) mod patch_rules;
mod paths;
mod shape;
mod types;

pub(crate) use shape::ANYTHING;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::kind::Kind;

/// The documents of one server. Each is built when first asked for, and again when its kinds have changed.
#[derive(Default)]
pub struct Documents {
    built: Mutex<HashMap<(String, String), Built>>,
    /// Schemas by group, version and kind.
    shapes: Mutex<HashMap<(String, String, String), Shape>>,
}

struct Built {
    /// What the document was built from: it is stale when these are no longer the kinds served.
    kinds: Vec<Arc<Kind>>,
    document: Bytes,
    hash: String,
}

type Schemas = Arc<Map<String, Value>>;

/// How many kinds' schemas are kept; definitions come and go, and what went is forgotten with the rest.
const MOST_SHAPES: usize = 512;

/// The schemas of one kind, with the component name of the kind itself.
struct Shape {
    name: String,
    schemas: Schemas,
    /// What the schema of a custom kind was built from: it is stale when the kind has another one.
    source: Option<Arc<crate::schema::Schema>>,
}

impl Documents {
    /// `GET /openapi/v3`.
    pub fn v3_index(&self, kinds: &[Arc<Kind>]) -> Value {
        let mut paths = Map::new();
        let mut served: Vec<(String, String)> = Vec::new();
        for kind in kinds {
            let key = (kind.group.clone(), kind.version.clone());
            if served.contains(&key) {
                continue;
            }
            let path = if kind.group.is_empty() {
                format!("api/{}", kind.version)
            } else {
                format!("apis/{}/{}", kind.group, kind.version)
            };
            let hash = self.hash(kinds, &kind.group, &kind.version);
            paths.insert(
                path.clone(),
                json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}),
            );
            served.push(key);
        }
        self.lock().retain(|key, _| served.contains(key));
        paths.sort_keys();
        json!({"paths": paths})
    }

    /// `GET /openapi/v3/api/v1` (empty group) and `/openapi/v3/apis/{group}/{version}`, as JSON.
    /// `None` if nothing is served there.
    pub fn v3_group(&self, kinds: &[Arc<Kind>], group: &str, version: &str) -> Option<Bytes> {
        self.built(kinds, group, version)
            .map(|(document, _)| document)
    }

    /// `GET /openapi/v2`, as JSON. Clients of this age read v3; v2 says only which API this is.
    pub fn v2(&self) -> Bytes {
        let document = json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": "v1.36.0"},
            "paths": {},
            "definitions": {},
        });
        document.to_string().into()
    }

    /// The same document as an `openapi.v2.Document` in protobuf: kubectl asks for v2 in this form only,
    /// when v3 does not know a kind.
    pub fn v2_protobuf(&self) -> Bytes {
        Bytes::from_static(b"\x0a\x032.0\x12\x15\x0a\x0aKubernetes\x12\x07v1.36.0")
    }

    /// Reads an object as the decoder of kube-apiserver does: fields that are null, unknown, or empty lists
    /// and maps are dropped. Custom kinds are left alone; their own schema prunes them. Gives the paths of the
    /// unknown fields, which strict field validation refuses with
    /// `strict decoding error: unknown field "spec.foo", unknown field "bar"`.
    ///
    /// # Errors
    /// The text after `Deployment in version "v1" cannot be handled as a Deployment: ` (400 BadRequest) when a
    /// value has the wrong type.
    pub fn shape(&self, kind: &Kind, object: &mut Value) -> Result<Vec<String>, String> {
        if kind.schema.is_some() {
            return Ok(Vec::new());
        }
        let (name, schemas) = self.schemas_of(kind);
        shape::shape(&schemas, &name, object)
    }

    /// The schemas that describe a kind, and the name of its own among them.
    pub(crate) fn schemas_of(&self, kind: &Kind) -> (String, Arc<Map<String, Value>>) {
        let key = (kind.group.clone(), kind.version.clone(), kind.kind.clone());
        let mut shapes = self.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |shape: &&Shape| match (&shape.source, &kind.schema) {
            (None, None) => true,
            (Some(built), Some(schema)) => Arc::ptr_eq(built, schema),
            _ => false,
        };
        if let Some(shape) = shapes.get(&key).filter(fresh) {
            return (shape.name.clone(), Arc::clone(&shape.schemas));
        }
        let components = components::components(&[&Arc::new(kind.clone())]);
        let shape = Shape {
            name: components.names.into_iter().next().unwrap_or_default(),
            schemas: Arc::new(components.schemas),
            source: kind.schema.clone(),
        };
        let found = (shape.name.clone(), Arc::clone(&shape.schemas));
        if shapes.len() >= MOST_SHAPES {
            shapes.clear();
        }
        shapes.insert(key, shape);
        found
    }

    /// A text that changes when the document does. Documents of built-in kinds change with the program
    /// only, and are not built for this.
    fn hash(&self, kinds: &[Arc<Kind>], group: &str, version: &str) -> String {
        let custom = kinds
            .iter()
            .any(|kind| kind.group == group && kind.version == version && kind.schema.is_some());
        if !custom {
            return env!("CARGO_PKG_VERSION").to_owned();
        }
        self.built(kinds, group, version)
            .map(|(_, hash)| hash)
            .unwrap_or_default()
    }

    fn built(&self, kinds: &[Arc<Kind>], group: &str, version: &str) -> Option<(Bytes, String)> {
        let members: Vec<&Arc<Kind>> = kinds
            .iter()
            .filter(|kind| kind.group == group && kind.version == version)
            .collect();
        if members.is_empty() {
            return None;
        }
        let key = (group.to_owned(), version.to_owned());
        if let Some(built) = self.lock().get(&key) {
            let fresh = built.kinds.len() == members.len()
                && built
                    .kinds
                    .iter()
                    .zip(&members)
                    .all(|(old, new)| Arc::ptr_eq(old, new));
            if fresh {
                return Some((built.document.clone(), built.hash.clone()));
            }
        }
        let document = Bytes::from(v3_document(&members).to_string());
        let hash: String = Sha256::digest(&document)
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02X}"))
            .collect();
        self.lock().insert(
            key,
            Built {
                kinds: members.into_iter().cloned().collect(),
                document: document.clone(),
                hash: hash.clone(),
            },
        );
        Some((document, hash))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Built>> {
        self.built.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn v3_document(kinds: &[&Arc<Kind>]) -> Value {
    let components = components::components(kinds);
    let paths = paths::paths(kinds, &components.names);
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "components": {"schemas": components.schemas},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds() -> Vec<Arc<Kind>> {
        crate::builtin::kinds().into_iter().map(Arc::new).collect()
    }

    fn document(group: &str, version: &str) -> Value {
        let bytes = Documents::default()
            .v3_group(&kinds(), group, version)
            .expect("served");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    /// Every `$ref` below a value.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    found.push(reference.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_kind_has_a_described_schema_and_no_reference_dangles() {
        for kind in kinds() {
            let document = document(&kind.group, &kind.version);
            let schemas = document["components"]["schemas"]
                .as_object()
                .expect("schemas");
            let gvk = json!([{"group": kind.group, "kind": kind.kind, "version": kind.version}]);
            let schema = schemas
                .values()
                .find(|schema| schema["x-kubernetes-group-version-kind"] == gvk)
                .unwrap_or_else(|| panic!("{} has no schema", kind.kind));
            assert!(schema["description"].is_string(), "{}", kind.kind);
            let mut found = Vec::new();
            references(&document, &mut found);
            for reference in found {
                let name = reference.rsplit('/').next().expect("name");
                assert!(schemas.contains_key(name), "{reference}");
            }
        }
    }

    #[test]
    fn patches_announce_field_validation() {
        let document = document("apps", "v1");
        let patch =
            &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "apps", "version": "v1", "kind": "Deployment"})
        );
        let parameters = patch["parameters"].as_array().expect("parameters");
        assert!(
            parameters
                .iter()
                .any(|one| one["name"] == "fieldValidation")
        );
        assert!(
            patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object()
        );
    }

    #[test]
    fn lists_say_how_they_merge() {
        let document = document("", "v1");
        let schemas = &document["components"]["schemas"];
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(
            schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["format"],
            "int-or-string"
        );
    }

    #[test]
    fn documents_are_kept_until_their_kinds_change() {
        let documents = Documents::default();
        let mut kinds = kinds();
        let first = documents.v3_group(&kinds, "batch", "v1").expect("batch");
        let again = documents.v3_group(&kinds, "batch", "v1").expect("batch");
        assert_eq!(first.as_ptr(), again.as_ptr());
        kinds.retain(|kind| kind.kind != "CronJob");
        let fewer = documents.v3_group(&kinds, "batch", "v1").expect("batch");
        assert!(fewer.len() < first.len());
        assert!(documents.v3_group(&kinds, "nope", "v1").is_none());
        let index = documents.v3_index(&kinds);
        assert!(index["paths"]["apis/batch/v1"]["serverRelativeURL"].is_string());
        assert!(index["paths"]["api/v1"]["serverRelativeURL"].is_string());
    }
}
