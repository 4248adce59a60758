//! Paths that name no resource: discovery, OpenAPI, version, health.

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::connect::{Body, full};
use crate::discovery;
use crate::status::ApiError;

use super::Api;
use super::answer::Form;
use super::path::{Query, Target};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// How OpenAPI v2 in protobuf is asked for, and what the answer says of itself.
const OPENAPI_V2_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const OPENAPI_V2_GIVEN: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What `/readyz?verbose` lists.
const CHECKS: [&str; 3] = ["ping", "log", "storage"];

pub(super) fn plain(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        http::header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

pub(super) fn not_found() -> Response<Body> {
    plain(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn wants_aggregated(request: &Request<Body>) -> bool {
    request
        .headers()
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| {
            let parameters: Vec<&str> = range.split(';').map(str::trim).collect();
            parameters.contains(&"application/json")
                && parameters.contains(&"g=apidiscovery.k8s.io")
                && parameters.contains(&"v=v2")
        })
}

impl Api {
    fn openapi_v2(&self, request: &Request<Body>) -> Response<Body> {
        let asked = request
            .headers()
            .get(ACCEPT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if !asked.contains(OPENAPI_V2_ASKED) {
            return Form::JSON.answer(StatusCode::OK, self.documents().v2());
        }
        let mut response = Form::JSON.answer(StatusCode::OK, self.documents().v2_protobuf());
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(OPENAPI_V2_GIVEN));
        response
    }

    /// Answers a request that names no resource.
    pub(super) fn system(
        &self,
        target: &Target,
        query: &Query,
        request: &Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let path = target.path.trim_end_matches('/');
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if !reads {
            let known = matches!(path, "/api" | "/apis" | "/version" | "/healthz");
            return if known {
                Err(ApiError::method_not_allowed())
            } else {
                Ok(not_found())
            };
        }
        let kinds = self.kinds();
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let document = match parts.as_slice() {
            ["healthz" | "livez" | "readyz"] => {
                return Ok(self.health(parts.first().copied().unwrap_or_default(), query));
            }
            ["healthz" | "livez" | "readyz", check] => {
                return Ok(if CHECKS.contains(check) {
                    plain(StatusCode::OK, "ok")
                } else {
                    not_found()
                });
            }
            ["version"] => Some(self.version()),
            ["api" | "apis"] if wants_aggregated(request) => {
                let core = parts == ["api"];
                let form = Form::negotiate(&http::HeaderMap::new(), query)?;
                let mut response =
                    form.document(StatusCode::OK, &discovery::aggregated(kinds.all(), core));
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
                response
                    .headers_mut()
                    .insert(http::header::VARY, HeaderValue::from_static("Accept"));
                return Ok(response);
            }
            ["api"] => Some(discovery::api_versions(&self.address())),
            ["apis"] => Some(discovery::api_group_list(kinds.all())),
            ["apis", group] => discovery::api_group(kinds.all(), group),
            ["api", "v1"] => discovery::api_resource_list(kinds.all(), "", "v1"),
            ["apis", group, version] => discovery::api_resource_list(kinds.all(), group, version),
            ["openapi", "v3"] => Some(self.documents().v3_index(kinds.all())),
            ["openapi", "v2"] => {
                return Ok(self.openapi_v2(request));
            }
            ["openapi", "v3", "api", version] => {
                return Ok(self.openapi("", version));
            }
            ["openapi", "v3", "apis", group, version] => {
                return Ok(self.openapi(group, version));
            }
            [""] => {
                let mut paths: Vec<String> = vec!["/api".into(), "/api/v1".into(), "/apis".into()];
                for kind in kinds.all() {
                    if !kind.group.is_empty() {
                        paths.push(format!("/apis/{}", kind.group));
                        paths.push(format!("/apis/{}/{}", kind.group, kind.version));
                    }
                }
                for path in [
                    "/healthz",
                    "/livez",
                    "/openapi/v2",
                    "/openapi/v3",
                    "/readyz",
                    "/version",
                ] {
                    paths.push(path.to_owned());
                }
                paths.sort();
                paths.dedup();
                Some(json!({"paths": paths}))
            }
            _ => None,
        };
        match document {
            Some(document) => {
                // Discovery has one view; what asks for another gets it too.
                let form = Form::negotiate(request.headers(), query).unwrap_or(Form::JSON);
                Ok(form.document(StatusCode::OK, &document))
            }
            None => Ok(not_found()),
        }
    }

    fn openapi(&self, group: &str, version: &str) -> Response<Body> {
        match self
            .documents()
            .v3_group(self.kinds().all(), group, version)
        {
            Some(bytes) => Form::JSON.answer(StatusCode::OK, bytes),
            None => not_found(),
        }
    }

    fn health(&self, name: &str, query: &Query) -> Response<Body> {
        if query.get("verbose").is_none() {
            return plain(StatusCode::OK, "ok");
        }
        let mut text: String = CHECKS
            .iter()
            .map(|check| format!("[+]{check} ok\n"))
            .collect();
        text.push_str(&format!("{name} check passed\n"));
        plain(StatusCode::OK, text)
    }

    fn version(&self) -> Value {
        let version = self.git_version();
        let mut numbers = version.trim_start_matches('v').split('.');
        let major = numbers.next().unwrap_or("1").to_owned();
        let minor = numbers.next().unwrap_or("0").to_owned();
        json!({
            "major": major, "minor": minor,
            "emulationMajor": major, "emulationMinor": minor,
            "minCompatibilityMajor": major, "minCompatibilityMinor": minor,
            "gitVersion": version, "gitCommit": "", "gitTreeState": "",
            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
            "platform": format!("{}/{}", std::env::consts::OS, if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }),
        })
    }
}
