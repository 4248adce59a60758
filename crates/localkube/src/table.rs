//! `meta.k8s.io/v1` Tables: what `kubectl get` prints.

use serde_json::{Value, json};

use crate::kind::Kind;

/// What of each object travels in its row (`includeObject` of TableOptions).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// PartialObjectMetadata; the default.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

/// A Table of these objects. `list_metadata` becomes the Table's `metadata` (resourceVersion, continue, …).
pub fn render(
    kind: &Kind,
    objects: &[Value],
    list_metadata: &Value,
    include: IncludeObject,
    now: jiff::Timestamp,
) -> Value {
    let _ = (kind, objects, include, now);
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_metadata,
        "columnDefinitions": [], "rows": [],
    })
}
