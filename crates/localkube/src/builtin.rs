//! The built-in kinds, as rows: what is served, with which defaults and validation.

use serde_json::Value;

use crate::kind::Kind;

/// Every built-in kind of every served version, in discovery order.
pub fn kinds() -> Vec<Kind> {
    Vec::new()
}

/// The objects that every new cluster has: its four namespaces, the `kubernetes` Service and the
/// two system priority classes. They lack uid, resourceVersion and creationTimestamp.
pub fn objects() -> Vec<Value> {
    Vec::new()
}
