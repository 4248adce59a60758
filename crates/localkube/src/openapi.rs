//! OpenAPI documents: v3 for each group version, and a minimal v2.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::kind::Kind;

/// The documents of one server. Those of built-in kinds are built when first asked for, and kept.
#[derive(Default)]
pub struct Documents {}

impl Documents {
    /// `GET /openapi/v3`.
    pub fn v3_index(&self, kinds: &[Arc<Kind>]) -> Value {
        let _ = kinds;
        json!({"paths": {}})
    }

    /// `GET /openapi/v3/api/v1` (empty group) and `/openapi/v3/apis/{group}/{version}`, as JSON.
    /// Also answered when `application/com.github.proto-openapi.spec.v3@v1.0+protobuf` is preferred: kubectl
    /// reads the content type. `None` if nothing is served there.
    pub fn v3_group(&self, kinds: &[Arc<Kind>], group: &str, version: &str) -> Option<Bytes> {
        let _ = (kinds, group, version);
        None
    }

    /// `GET /openapi/v2`, as JSON.
    pub fn v2(&self, kinds: &[Arc<Kind>]) -> Bytes {
        let _ = kinds;
        Bytes::from_static(b"{\"swagger\":\"2.0\",\"info\":{\"title\":\"Kubernetes\",\"version\":\"v1.36.0\"},\"paths\":{},\"definitions\":{}}")
    }
}
