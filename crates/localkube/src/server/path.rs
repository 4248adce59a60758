//! From a URL to what it names, as `k8s.io/apiserver/pkg/endpoints/request` reads it.

use http::{Method, Uri};
use percent_encoding::percent_decode_str;

use crate::status::ApiError;

/// What a request names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The decoded path.
    pub path: String,
    pub is_resource: bool,
    /// The verb that authorisation sees.
    pub verb: String,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub name: String,
    pub subresource: String,
    /// What follows the subresource, with its leading slash.
    pub rest: String,
    /// The old `/watch/` prefix was there.
    pub watch_prefix: bool,
}

impl Target {
    /// Reads a method and a URL. The path is decoded once, before it is split.
    ///
    /// # Errors
    /// 400 when the path is not text.
    pub fn parse(method: &Method, uri: &Uri, query: &Query) -> Result<Target, ApiError> {
        let path = percent_decode_str(uri.path())
            .decode_utf8()
            .map_err(|_| ApiError::bad_request("the path is not UTF-8"))?
            .into_owned();
        let mut target = Target {
            verb: method.as_str().to_ascii_lowercase(),
            ..Target::default()
        };
        target.read(method, &path, query);
        target.path = path;
        Ok(target)
    }

    fn read(&mut self, method: &Method, path: &str, query: &Query) {
        let trimmed = path.trim_matches('/');
        let parts: Vec<&str> = trimmed.split('/').collect();
        let mut parts = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                self.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                self.group = (*group).to_owned();
                self.version = (*version).to_owned();
                rest
            }
            _ => return,
        };
        self.is_resource = true;
        self.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
        if let ["watch", rest @ ..] = parts
            && !rest.is_empty()
        {
            self.watch_prefix = true;
            parts = rest;
        }
        if let ["namespaces", namespace, rest @ ..] = parts {
            self.namespace = (*namespace).to_owned();
            if !rest.is_empty() && !matches!(rest, ["status" | "finalize", ..]) {
                parts = rest;
            }
        }
        if let [resource, rest @ ..] = parts {
            self.resource = (*resource).to_owned();
            if let [name, rest @ ..] = rest {
                self.name = (*name).to_owned();
                if let [subresource, rest @ ..] = rest {
                    self.subresource = (*subresource).to_owned();
                    if !rest.is_empty() {
                        self.rest = format!("/{}", rest.join("/"));
                    }
                }
            }
        }
        // The path is trimmed, but what is proxied keeps its last slash.
        if !self.subresource.is_empty() && path.ends_with('/') {
            self.rest.push('/');
        }
        if self.watch_prefix {
            self.verb = "watch".to_owned();
        } else if self.name.is_empty() && self.verb == "get" {
            self.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned();
        } else if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection".to_owned();
        }
        if self.name.is_empty()
            && matches!(self.verb.as_str(), "list" | "watch" | "deletecollection")
        {
            // A selector that demands one name is authorised as that name.
            let selector = query.get("fieldSelector").unwrap_or_default();
            for term in selector.split(',') {
                if let Some(name) = term.strip_prefix("metadata.name=") {
                    self.name = name.trim_start_matches('=').to_owned();
                }
            }
        }
    }
}

/// The query parameters, decoded.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Of a URL.
    pub fn parse(uri: &Uri) -> Query {
        Query(
            form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// The first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is there and means yes: anything but `false` and `0`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| !matches!(value, "false" | "0" | "False" | "F" | "f"))
    }

    /// A number.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        match self.get(name).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!(
                    "strconv.ParseInt: parsing {text:?}: invalid syntax"
                ))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_kubernetes_says() {
        for (method, uri, want) in [
            ("GET", "/api/v1/pods", "list  v1  pods  "),
            ("GET", "/api/v1/pods?watch=1", "watch  v1  pods  "),
            ("GET", "/api/v1/namespaces/a", "get  v1 a namespaces a "),
            (
                "PUT",
                "/api/v1/namespaces/a/finalize",
                "update  v1 a namespaces a finalize",
            ),
            (
                "GET",
                "/api/v1/namespaces/a/pods/p/log",
                "get  v1 a pods p log",
            ),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection apps v1 a deployments  ",
            ),
            (
                "GET",
                "/apis/apps/v1/watch/namespaces/a/deployments/d",
                "watch apps v1 a deployments d ",
            ),
            (
                "GET",
                "/api/v1/pods?fieldSelector=metadata.name%3Dx",
                "list  v1  pods x ",
            ),
            (
                "POST",
                "/api/v1/namespaces/a/services/:s:/proxy/x/y/",
                "create  v1 a services :s: proxy/x/y/",
            ),
        ] {
            let uri: Uri = uri.parse().expect("uri");
            let method = Method::from_bytes(method.as_bytes()).expect("method");
            let target = Target::parse(&method, &uri, &Query::parse(&uri)).expect("target");
            assert!(target.is_resource);
            let got = format!(
                "{} {} {} {} {} {} {}{}",
                target.verb,
                target.group,
                target.version,
                target.namespace,
                target.resource,
                target.name,
                target.subresource,
                target.rest
            );
            assert_eq!(got, want);
        }
        for uri in ["/", "/api", "/api/v1", "/apis/apps/v1", "/healthz"] {
            let uri: Uri = uri.parse().expect("uri");
            let target = Target::parse(&Method::GET, &uri, &Query::default()).expect("target");
            assert!(!target.is_resource, "{uri}");
        }
    }
}
