//! `Impersonate-*` headers: acting as another user, where RBAC allows it.

use http::HeaderMap;

use crate::identity::{Attributes, User};
use crate::status::ApiError;

type Authorize<'a> = &'a dyn Fn(&User, &Attributes) -> Result<(), String>;

const EXTRA: &str = "impersonate-extra-";

/// The user that the headers ask for, if `user` may impersonate each part of it.
pub(super) fn apply(
    user: User,
    headers: &HeaderMap,
    authorize: Authorize<'_>,
) -> Result<User, ApiError> {
    let values = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .map(str::to_owned)
            .collect()
    };
    let name = values("impersonate-user")
        .into_iter()
        .next()
        .unwrap_or_default();
    let uid = values("impersonate-uid")
        .into_iter()
        .next()
        .unwrap_or_default();
    let groups = values("impersonate-group");
    let mut extra: Vec<(String, Vec<String>)> = Vec::new();
    for key in headers.keys() {
        if let Some(key) = key.as_str().strip_prefix(EXTRA) {
            let decoded = percent_encoding::percent_decode_str(key)
                .decode_utf8_lossy()
                .into_owned();
            extra.push((decoded, values(&format!("{EXTRA}{key}"))));
        }
    }
    if name.is_empty() {
        if uid.is_empty() && groups.is_empty() && extra.is_empty() {
            return Ok(user);
        }
        return Err(ApiError::bad_request(format!(
            "requested &user.DefaultInfo{{Name:\"\", UID:{}, Groups:{}, Extra:{}}} without impersonating a user name",
            serde_json::Value::from(uid),
            go_strings(&groups),
            go_extra(&extra),
        )));
    }

    let check = |attributes: Attributes| -> Result<(), ApiError> {
        authorize(&user, &attributes).map_err(|why| {
            let resource = if attributes.subresource.is_empty() {
                attributes.resource.clone()
            } else {
                format!("{}/{}", attributes.resource, attributes.subresource)
            };
            ApiError::forbidden(&attributes.group, &resource, &attributes.name, &why)
        })
    };
    let attributes = |group: &str, resource: &str, subresource: &str, name: &str| Attributes {
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        version: if group.is_empty() { "" } else { "v1" }.to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        name: name.to_owned(),
        is_resource: true,
        ..Attributes::default()
    };

    let account = name
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, account)) => check(Attributes {
            namespace: namespace.to_owned(),
            ..attributes("", "serviceaccounts", "", account)
        })?,
        None => check(attributes("", "users", "", &name))?,
    }
    for group in &groups {
        check(attributes("", "groups", "", group))?;
    }
    for (key, values) in &extra {
        for value in values {
            check(attributes(
                "authentication.k8s.io",
                "userextras",
                key,
                value,
            ))?;
        }
    }
    if !uid.is_empty() {
        check(attributes("authentication.k8s.io", "uids", "", &uid))?;
    }

    let mut groups = groups;
    if let Some((namespace, _)) = account
        && groups.is_empty()
    {
        groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
    }
    let implied = if name == "system:anonymous" {
        "system:unauthenticated"
    } else {
        "system:authenticated"
    };
    if !groups.iter().any(|group| group == implied) {
        groups.push(implied.to_owned());
    }
    Ok(User {
        name,
        uid,
        groups,
        extra,
    })
}

/// A list as Go's `%#v` prints it.
fn go_strings(list: &[String]) -> String {
    if list.is_empty() {
        return "[]string(nil)".to_owned();
    }
    let items: Vec<String> = list
        .iter()
        .map(|item| serde_json::Value::from(item.as_str()).to_string())
        .collect();
    format!("[]string{{{}}}", items.join(", "))
}

fn go_extra(extra: &[(String, Vec<String>)]) -> String {
    if extra.is_empty() {
        return "map[string][]string(nil)".to_owned();
    }
    let items: Vec<String> = extra
        .iter()
        .map(|(key, values)| {
            let key = serde_json::Value::from(key.as_str());
            format!("{key}:{}", go_strings(values))
        })
        .collect();
    format!("map[string][]string{{{}}}", items.join(", "))
}
