//! Questions that are asked by creating an object: who am I, may I, whose token is this.

use serde_json::Value;

use crate::authentication::Authenticator;
use crate::identity::User;
use crate::rbac::Policy;
use crate::status::ApiError;

/// Answers a review. `resource` is the plural (`selfsubjectaccessreviews`, …); `namespace` is that of
/// the request path, if any.
pub fn answer(
    resource: &str,
    namespace: Option<&str>,
    body: &Value,
    user: &User,
    policy: &Policy,
    authenticator: &Authenticator,
) -> Result<Value, ApiError> {
    let _ = (resource, namespace, body, user, policy, authenticator);
    Err(ApiError::method_not_allowed())
}
