//! Who a request comes from, and what it wants: the two halves that authorisation compares.

/// An authenticated caller of this API.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    /// `extra` of TokenReview, e.g. a Pod's name for service-account tokens.
    pub extra: Vec<(String, Vec<String>)>,
}

/// The attributes of a request, as `k8s.io/apiserver/pkg/authorization/authorizer` names them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Attributes {
    pub verb: String,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// The URL path, for non-resource requests.
    pub path: String,
    pub is_resource: bool,
}
