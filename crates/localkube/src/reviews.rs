//! Questions that are asked by creating an object: who am I, may I, whose token is this
//! (`authentication.k8s.io/v1`, `authorization.k8s.io/v1`). Nothing is stored.

use serde_json::{Map, Value, json};

use crate::authentication::Authenticator;
use crate::identity::{Attributes, User};
use crate::rbac::Policy;
use crate::service_account::ISSUER;
use crate::status::{ApiError, FieldError};

const AUTHORIZATION: &str = "authorization.k8s.io";

/// Answers a review. `resource` is the plural (`selfsubjectaccessreviews`, …); `namespace` is that of
/// the request path, if any.
///
/// # Errors
/// 422 and 400 for questions that make no sense, 404 for a resource that is no review.
pub fn answer(
    resource: &str,
    namespace: Option<&str>,
    body: &Value,
    user: &User,
    policy: &Policy,
    authenticator: &Authenticator,
) -> Result<Value, ApiError> {
    let empty = json!({});
    let spec = body
        .get("spec")
        .filter(|spec| spec.is_object())
        .unwrap_or(&empty);
    let (group, kind, metadata, status) = match resource {
        "selfsubjectreviews" => {
            let now = authenticator
                .now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string();
            return Ok(json!({
                "kind": "SelfSubjectReview",
                "apiVersion": "authentication.k8s.io/v1",
                "metadata": {"creationTimestamp": now},
                "status": {"userInfo": user_info(user)},
            }));
        }
        "tokenreviews" => {
            let status = review_token(spec, authenticator)?;
            ("authentication.k8s.io", "TokenReview", json!({}), status)
        }
        "selfsubjectaccessreviews" => {
            let attributes = attributes(spec, None)?;
            let status = access(policy, user, &attributes);
            (AUTHORIZATION, "SelfSubjectAccessReview", json!({}), status)
        }
        "subjectaccessreviews" | "localsubjectaccessreviews" => {
            let local = resource.starts_with("local").then_some(namespace).flatten();
            let subject = subject(spec);
            let mut faults = Vec::new();
            if subject.name.is_empty() && subject.groups.is_empty() {
                faults.push(invalid(
                    "spec.user",
                    "\"\": at least one of user or group must be specified",
                ));
            }
            let attributes = attributes_or(spec, local, faults)?;
            let status = access(policy, &subject, &attributes);
            match local {
                Some(namespace) => (
                    AUTHORIZATION,
                    "LocalSubjectAccessReview",
                    json!({"namespace": namespace}),
                    status,
                ),
                None => (AUTHORIZATION, "SubjectAccessReview", json!({}), status),
            }
        }
        "selfsubjectrulesreviews" => {
            let namespace = text(spec, "namespace");
            if namespace.is_empty() {
                return Err(ApiError::bad_request("no namespace on request"));
            }
            return Ok(json!({
                "kind": "SelfSubjectRulesReview",
                "apiVersion": "authorization.k8s.io/v1",
                "metadata": {},
                "spec": {},
                "status": rules(policy, user, &namespace),
            }));
        }
        other => return Err(ApiError::not_found("", other, "")),
    };
    Ok(json!({
        "kind": kind,
        "apiVersion": format!("{group}/v1"),
        "metadata": metadata,
        "spec": spec,
        "status": status,
    }))
}

fn text(value: &Value, field: &str) -> String {
    value
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array();
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn user_info(user: &User) -> Value {
    let mut info = Map::new();
    info.insert("username".to_owned(), user.name.clone().into());
    if !user.uid.is_empty() {
        info.insert("uid".to_owned(), user.uid.clone().into());
    }
    if !user.groups.is_empty() {
        info.insert("groups".to_owned(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        let extra: Map<String, Value> = user
            .extra
            .iter()
            .map(|(key, values)| (key.clone(), values.clone().into()))
            .collect();
        info.insert("extra".to_owned(), Value::Object(extra));
    }
    Value::Object(info)
}

fn review_token(spec: &Value, authenticator: &Authenticator) -> Result<Value, ApiError> {
    let token = text(spec, "token");
    if token.is_empty() {
        return Err(ApiError::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let mut audiences = spec.get("audiences").map(texts).unwrap_or_default();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    Ok(match authenticator.user_of_token(&token, &audiences) {
        Some((user, audiences)) => {
            json!({"authenticated": true, "user": user_info(&user), "audiences": audiences})
        }
        None => json!({"user": {}, "error": "invalid bearer token"}),
    })
}

fn access(policy: &Policy, user: &User, attributes: &Attributes) -> Value {
    match policy.explain(user, attributes) {
        Some(reason) if reason.is_empty() => json!({"allowed": true}),
        Some(reason) => json!({"allowed": true, "reason": reason}),
        None => json!({"allowed": false}),
    }
}

fn subject(spec: &Value) -> User {
    let extra = spec.get("extra").and_then(Value::as_object);
    User {
        name: text(spec, "user"),
        uid: text(spec, "uid"),
        groups: spec.get("groups").map(texts).unwrap_or_default(),
        extra: extra
            .into_iter()
            .flatten()
            .map(|(key, values)| (key.clone(), texts(values)))
            .collect(),
    }
}

fn invalid(field: &str, detail: &str) -> FieldError {
    FieldError {
        field: field.to_owned(),
        reason: "FieldValueInvalid",
        detail: format!("Invalid value: {detail}"),
    }
}

fn attributes(spec: &Value, local: Option<&str>) -> Result<Attributes, ApiError> {
    attributes_or(spec, local, Vec::new())
}

/// The attributes asked about, or all that is wrong with the question.
fn attributes_or(
    spec: &Value,
    local: Option<&str>,
    mut faults: Vec<FieldError>,
) -> Result<Attributes, ApiError> {
    let part = |name: &str| spec.get(name).filter(|part| part.is_object());
    let attributes = match (part("resourceAttributes"), part("nonResourceAttributes")) {
        (Some(_), Some(path)) => {
            let shown = json!({"Path": text(path, "path"), "Verb": text(path, "verb")});
            faults.push(invalid(
                "spec.nonResourceAttributes",
                &format!("{shown}: cannot be specified in combination with resourceAttributes"),
            ));
            Attributes::default()
        }
        (None, None) => {
            faults.insert(
                0,
                invalid(
                    "spec.resourceAttributes",
                    "null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
                ),
            );
            Attributes::default()
        }
        (None, Some(path)) => {
            if local.is_some() {
                faults.push(invalid(
                    "spec.nonResourceAttributes",
                    "null: disallowed on this kind of request",
                ));
            }
            Attributes {
                verb: text(path, "verb"),
                path: text(path, "path"),
                ..Attributes::default()
            }
        }
        (Some(resource), None) => {
            let namespace = text(resource, "namespace");
            if local.is_some_and(|local| local != namespace) {
                faults.push(invalid(
                    "spec.resourceAttributes.namespace",
                    &format!("{}: must match metadata.namespace", json!(namespace)),
                ));
            }
            Attributes {
                verb: text(resource, "verb"),
                group: text(resource, "group"),
                version: text(resource, "version"),
                resource: text(resource, "resource"),
                subresource: text(resource, "subresource"),
                name: text(resource, "name"),
                namespace,
                is_resource: true,
                ..Attributes::default()
            }
        }
    };
    if faults.is_empty() {
        Ok(attributes)
    } else {
        Err(ApiError::invalid(AUTHORIZATION, "", "", &faults))
    }
}

fn rules(policy: &Policy, user: &User, namespace: &str) -> Value {
    let (mut resource_rules, mut path_rules) = (Vec::new(), Vec::new());
    for rule in policy.rules_of(user, namespace) {
        if !rule.resources.is_empty() {
            let mut shown = json!({
                "verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources,
            });
            if !rule.resource_names.is_empty() {
                shown["resourceNames"] = rule.resource_names.clone().into();
            }
            resource_rules.push(shown);
        }
        if !rule.non_resource_urls.is_empty() {
            path_rules
                .push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
    }
    json!({"resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": false})
}

#[cfg(test)]
mod tests;
