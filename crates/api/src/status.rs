//! The Kubernetes `Status` answer, byte for byte as the original writes it (gateway.md §3.1, authorization.md §8).

use serde::{Deserialize, Serialize};

use crate::go_json;

/// A `v1` `Status`: what every refusal of a filter looks like on the wire.
///
/// Field order is the order on the wire; do not sort it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Always `Status`.
    #[serde(default)]
    pub kind: String,
    /// Always `v1`.
    #[serde(default)]
    pub api_version: String,
    /// Always written as `{}`.
    #[serde(default)]
    pub metadata: EmptyMetadata,
    /// `Failure` or `Success`.
    #[serde(default)]
    pub status: String,
    /// The sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The word for machines, for example `Unauthorized`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What the refusal is about; `Some` and empty is written as `{}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// The HTTP status code.
    #[serde(default)]
    pub code: u16,
}

/// `metadata` of a Status: nothing of it is ever set by us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmptyMetadata {}

/// What a Status is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// Name of the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource (plural), in spite of the field's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Causes, one code each; ours carry the access codes of lost-access.md.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds after which another try makes sense.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

/// One cause within [`Details`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The code, for example `TokenNotInCache`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The field at fault.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Status {
    /// A failure with a code, a reason word and a message, without details.
    #[must_use]
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: EmptyMetadata {},
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            details: None,
            code,
        }
    }

    /// 401 of the authentication filter: the message is `Unauthorized: ` and the reason given.
    #[must_use]
    pub fn unauthorized(reason: &str) -> Self {
        Self::failure(401, "Unauthorized", format!("Unauthorized: {reason}"))
    }

    /// 403 of the authorisation filter, worded as authorization.md §8 for this user and target.
    ///
    /// `reason` is the authorizer's, empty if it gave none. `&`, `<` and `>` of the message become
    /// HTML entities, as in the original.
    #[must_use]
    pub fn forbidden(user: &str, target: &crate::path::Target, reason: &str) -> Self {
        let mut message = if target.is_resource {
            let resource = qualified(&target.resource, &target.group);
            let subject = if target.name.is_empty() {
                format!("{resource} is forbidden: ")
            } else {
                format!("{resource} \"{}\" is forbidden: ", target.name)
            };
            let asked = if target.subresource.is_empty() {
                target.resource.clone()
            } else {
                format!("{}/{}", target.resource, target.subresource)
            };
            let place = if target.namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace \"{}\"", target.namespace)
            };
            format!(
                "{subject}User \"{user}\" cannot {} resource \"{asked}\" in API group \"{}\" {place}",
                target.verb, target.group
            )
        } else {
            format!(
                "forbidden: User \"{user}\" cannot {} path \"{}\"",
                target.verb, target.path
            )
        };
        if !reason.is_empty() {
            message.push_str(": ");
            message.push_str(reason);
        }
        let message = message
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        let details = if target.is_resource {
            Details {
                name: target.name.clone(),
                group: target.group.clone(),
                kind: target.resource.clone(),
                ..Details::default()
            }
        } else {
            Details::default()
        };
        Self {
            details: Some(details),
            ..Self::failure(403, "Forbidden", message)
        }
    }

    /// 403 with a text of our own, for what no role could allow (a client's `Impersonate-*` header).
    #[must_use]
    pub fn refused(message: impl Into<String>) -> Self {
        Self {
            details: Some(Details::default()),
            ..Self::failure(403, "Forbidden", message)
        }
    }

    /// 400.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// 404 with a text of our own.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self {
            details: Some(Details::default()),
            ..Self::failure(404, "NotFound", message)
        }
    }

    /// 500.
    #[must_use]
    pub fn internal_error(message: impl Into<String>) -> Self {
        Self::failure(500, "InternalError", message)
    }

    /// 503 with causes and the seconds after which to try again (differences.md R9).
    #[must_use]
    pub fn service_unavailable(
        message: impl Into<String>,
        causes: Vec<Cause>,
        retry_after_seconds: u32,
    ) -> Self {
        Self {
            details: Some(Details {
                causes,
                retry_after_seconds,
                ..Details::default()
            }),
            ..Self::failure(503, "ServiceUnavailable", message)
        }
    }

    /// 502: the connection to the other side failed.
    #[must_use]
    pub fn bad_gateway(message: impl Into<String>, causes: Vec<Cause>) -> Self {
        Self {
            details: Some(Details {
                causes,
                ..Details::default()
            }),
            ..Self::failure(502, "BadGateway", message)
        }
    }

    /// 504: the other side did not answer in time.
    #[must_use]
    pub fn gateway_timeout(message: impl Into<String>, causes: Vec<Cause>) -> Self {
        Self {
            details: Some(Details {
                causes,
                ..Details::default()
            }),
            ..Self::failure(504, "Timeout", message)
        }
    }

    /// One line of JSON and a newline: the form of API clients.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut text = go_json::compact(self);
        text.push('\n');
        text
    }

    /// JSON indented by two spaces, without a newline at the end: the form of curl and browsers.
    #[must_use]
    pub fn to_pretty(&self) -> String {
        go_json::pretty(self, 2)
    }
}

fn qualified(resource: &str, group: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unauthorized_is_the_line_of_the_specification() {
        assert_eq!(
            Status::unauthorized("token not found in cache").to_line(),
            "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"Unauthorized: token not found in cache\",\"reason\":\"Unauthorized\",\"code\":401}\n"
        );
        assert!(
            Status::unauthorized("%!s(<nil>)")
                .to_line()
                .contains("%!s(\\u003cnil\\u003e)")
        );
    }

    #[test]
    fn forbidden_is_the_line_of_the_specification() {
        let target = |method: http::Method, path: &str| crate::path::parse(&method, path).unwrap();
        assert_eq!(
            Status::forbidden(
                "reg",
                &target(
                    http::Method::GET,
                    "/kapis/iam.kubesphere.io/v1alpha2/users/other"
                ),
                ""
            )
            .to_line(),
            "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"users.iam.kubesphere.io \\\"other\\\" is forbidden: User \\\"reg\\\" cannot get resource \\\"users\\\" in API group \\\"iam.kubesphere.io\\\" at the cluster scope\",\"reason\":\"Forbidden\",\"details\":{\"name\":\"other\",\"group\":\"iam.kubesphere.io\",\"kind\":\"users\"},\"code\":403}\n"
        );
        assert!(
            Status::forbidden("u", &target(http::Method::OPTIONS, "/api/v1/pods"), "")
                .message
                .contains("cannot  resource \"pods\"")
        );
        let path = Status::forbidden(
            "u",
            &target(http::Method::GET, "/version"),
            "Everything is forbidden.",
        );
        assert_eq!(
            path.message,
            "forbidden: User \"u\" cannot GET path \"/version\": Everything is forbidden."
        );
        assert!(path.to_line().contains("\"details\":{},\"code\":403"));
    }
}
