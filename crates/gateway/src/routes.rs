//! What this server answers itself, as one table; and what it says about everything that is not in it (gateway.md §3.3).

use axum::response::Response;
use http::{HeaderMap, Method, StatusCode, header};
use kah_api::path::Target;

use crate::answer::{accepted, not_served, routing_error, with_header};

/// One thing that is answered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is named after its path")]
pub enum Endpoint {
    Healthz,
    Ping,
    Metrics,
    KapisVersion,
    Version,
    ConfigOauth,
    Configz,
    GpuKinds,
    Token,
    Userinfo,
    Logout,
    HubCluster,
    HubJoin,
    HubLeave,
    HubDoctor,
    HubRestoreAccess,
    HubEnrol,
    HubManifest,
    ClusterValidation,
    ClusterKubeconfig,
    ClusterAgent,
    HubTrust,
    HubMoveTrust,
    HubRotate,
    HubTunnel,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The only method that is served; `None` for any.
    pub method: Option<&'static str>,
    /// The whole path. A segment in braces stands for a name: lower-case letters, digits, `-` and `.`, as Kubernetes names are.
    pub path: &'static str,
    /// What answers.
    pub endpoint: Endpoint,
    /// Whether a body has to be a form.
    pub form: bool,
    /// Whether the answer is JSON, which the caller's `Accept` has to allow.
    pub json: bool,
    /// Whether nobody needs a role for it.
    pub open: bool,
}

const fn get(path: &'static str, endpoint: Endpoint) -> Route {
    Route {
        method: Some("GET"),
        path,
        endpoint,
        form: false,
        json: true,
        open: true,
    }
}

const fn health(path: &'static str, endpoint: Endpoint) -> Route {
    Route {
        method: None,
        path,
        endpoint,
        form: false,
        json: false,
        open: true,
    }
}

/// Every route. A test asks each of them as nobody and as the weakest user, and fails if one is not on its own list.
pub const ROUTES: &[Route] = &[
    health("/healthz", Endpoint::Healthz),
    Route {
        open: false,
        ..health("/healthz/ping", Endpoint::Ping)
    },
    Route {
        json: false,
        ..get("/kapis/metrics", Endpoint::Metrics)
    },
    get("/kapis/version", Endpoint::KapisVersion),
    Route {
        open: false,
        ..get("/version", Endpoint::Version)
    },
    get(
        "/kapis/config.kubesphere.io/v1alpha2/configs/oauth",
        Endpoint::ConfigOauth,
    ),
    get(
        "/kapis/config.kubesphere.io/v1alpha2/configs/configz",
        Endpoint::Configz,
    ),
    get(
        "/kapis/config.kubesphere.io/v1alpha2/configs/gpu/kinds",
        Endpoint::GpuKinds,
    ),
    Route {
        method: Some("POST"),
        form: true,
        ..get("/oauth/token", Endpoint::Token)
    },
    get("/oauth/userinfo", Endpoint::Userinfo),
    get("/oauth/logout", Endpoint::Logout),
    Route {
        open: false,
        ..get(
            "/kapis/hub.kubeaihub.io/v1/clusters/{cluster}",
            Endpoint::HubCluster,
        )
    },
    Route {
        method: Some("POST"),
        open: false,
        ..get("/kapis/hub.kubeaihub.io/v1/clusters", Endpoint::HubJoin)
    },
    Route {
        method: Some("DELETE"),
        open: false,
        ..get(
            "/kapis/hub.kubeaihub.io/v1/clusters/{cluster}",
            Endpoint::HubLeave,
        )
    },
    Route {
        open: false,
        ..get(
            "/kapis/hub.kubeaihub.io/v1/clusters/{cluster}/doctor",
            Endpoint::HubDoctor,
        )
    },
    Route {
        method: Some("POST"),
        open: false,
        ..get(
            "/kapis/hub.kubeaihub.io/v1/clusters/{cluster}/restore-access",
            Endpoint::HubRestoreAccess,
        )
    },
    Route {
        method: Some("POST"),
        ..get("/kapis/hub.kubeaihub.io/v1/enrol", Endpoint::HubEnrol)
    },
    Route {
        json: false,
        ..get(
            "/kapis/hub.kubeaihub.io/v1/join/{token}",
            Endpoint::HubManifest,
        )
    },
    Route {
        method: Some("POST"),
        open: false,
        ..get(
            "/kapis/cluster.kubesphere.io/v1alpha1/clusters/validation",
            Endpoint::ClusterValidation,
        )
    },
    Route {
        method: Some("PUT"),
        open: false,
        ..get(
            "/kapis/cluster.kubesphere.io/v1alpha1/clusters/{cluster}/kubeconfig",
            Endpoint::ClusterKubeconfig,
        )
    },
    Route {
        open: false,
        ..get(
            "/kapis/cluster.kubesphere.io/v1alpha1/clusters/{cluster}/agent/deployment",
            Endpoint::ClusterAgent,
        )
    },
    // Open on a member only.
    Route {
        open: false,
        ..get(TRUST, Endpoint::HubTrust)
    },
    Route {
        method: Some("PUT"),
        open: false,
        ..get(
            "/kapis/hub.kubeaihub.io/v1/clusters/{cluster}/trust",
            Endpoint::HubMoveTrust,
        )
    },
    Route {
        method: Some("POST"),
        open: false,
        ..get(
            "/kapis/hub.kubeaihub.io/v1/trust/rotate",
            Endpoint::HubRotate,
        )
    },
    // Agents and replicas prove who they are inside: with a certificate, and only after the upgrade.
    Route {
        json: false,
        ..get(kah_cluster::tunnel::PATH, Endpoint::HubTunnel)
    },
];

/// What a member says about its trust, and a host about that of all its members.
const TRUST: &str = "/kapis/hub.kubeaihub.io/v1/trust";

/// Whether this asks for that, of this server itself.
pub(crate) fn is_trust(method: &Method, target: &Target) -> bool {
    method == Method::GET && target.cluster.is_none() && target.path == TRUST
}

/// What answers a request, and the names in its path, in the order of the pattern's braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Matched {
    pub(crate) endpoint: Endpoint,
    pub(crate) names: Vec<String>,
}

impl Matched {
    /// The first name in the path; empty where the pattern has none.
    pub(crate) fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

/// The endpoint for a request, or the answer that says why there is none.
pub(crate) fn find(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<Matched, Box<Response>> {
    // A slash at the end means nothing, but for the probes, which are compared to the letter.
    let trimmed = match path.strip_suffix('/') {
        Some(trimmed) if !trimmed.is_empty() => trimmed,
        _ => path,
    };
    let here: Vec<(&Route, Vec<String>)> = ROUTES
        .iter()
        .filter_map(|route| {
            let path = if route.path.starts_with("/healthz") || route.path == "/kapis/metrics" {
                path
            } else {
                trimmed
            };
            Some((route, names(route.path, path)?))
        })
        .collect();
    if here.is_empty() {
        return Err(Box::new(unrouted(path)));
    }
    let served = here.iter().find(|(route, _)| {
        route
            .method
            .is_none_or(|allowed| allowed == method.as_str())
    });
    let Some((route, names)) = served else {
        let allowed: Vec<&str> = here.iter().filter_map(|(route, _)| route.method).collect();
        let answer = routing_error(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
        return Err(Box::new(with_header(
            answer,
            header::ALLOW,
            &allowed.join(", "),
        )));
    };
    let acceptable = !route.json || accepts_json(headers);
    if route.form && !is_form(headers) {
        return Err(Box::new(wrong_content_type(headers)));
    }
    if !acceptable {
        return Err(Box::new(routing_error(
            StatusCode::NOT_ACCEPTABLE,
            "406: Not Acceptable\n\nAvailable representations: application/json",
        )));
    }
    Ok(Matched {
        endpoint: route.endpoint,
        names: names.clone(),
    })
}

/// The names that stand where the pattern has braces, if the path fits it.
fn names(pattern: &str, path: &str) -> Option<Vec<String>> {
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    let mut names = Vec::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(names),
            (Some(wanted), Some(given)) if wanted.starts_with('{') => {
                let plain = |byte: u8| {
                    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte)
                };
                let named = (1..=253).contains(&given.len())
                    && given.bytes().all(plain)
                    && !given.starts_with('.');
                if !named {
                    return None;
                }
                names.push(given.to_owned());
            }
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

/// The router's words where a root is served here, the server's own where none is.
fn unrouted(path: &str) -> Response {
    let root = path.split('/').nth(1).unwrap_or_default();
    if matches!(root, "oauth" | "kapis" | "version") {
        routing_error(StatusCode::NOT_FOUND, "404: Page Not Found")
    } else {
        not_served()
    }
}

/// `Accept` names JSON, or nothing in particular; `application/*` does not count (oauth.md §1).
fn accepts_json(headers: &HeaderMap) -> bool {
    let accept = accepted(headers);
    if accept.trim().is_empty() {
        return true;
    }
    accept
        .split(',')
        .filter_map(|clause| clause.split(';').next())
        .any(|media| matches!(media.trim(), "application/json" | "*/*"))
}

fn is_form(headers: &HeaderMap) -> bool {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    value.is_some_and(|value| {
        let media = value.split(';').next().unwrap_or_default().trim();
        media.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    })
}

/// 415 with a body; without one 406, or 415 where the length is not even said.
fn wrong_content_type(headers: &HeaderMap) -> Response {
    let length = headers
        .get(header::CONTENT_LENGTH)
        .map(|value| value.as_bytes());
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    match length {
        None if !chunked => routing_error(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "415: Unsupported Media Type\n\nAvailable representations: ",
        ),
        Some(b"0") => routing_error(
            StatusCode::NOT_ACCEPTABLE,
            "406: Not Acceptable\n\nAvailable representations: ",
        ),
        _ => routing_error(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "415: Unsupported Media Type",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_name_stands_where_the_pattern_has_braces() {
        let pattern = "/kapis/x/v1/clusters/{cluster}/doctor";
        assert_eq!(
            names(pattern, "/kapis/x/v1/clusters/member-1/doctor"),
            Some(vec!["member-1".to_owned()])
        );
        for path in [
            "/kapis/x/v1/clusters//doctor",
            "/kapis/x/v1/clusters/../doctor",
            "/kapis/x/v1/clusters/A/doctor",
            "/kapis/x/v1/clusters/a%2Fb/doctor",
            "/kapis/x/v1/clusters/a/doctor/",
            "/kapis/x/v1/clusters/a",
            "/kapis/x/v1/clusters/a/b/doctor",
        ] {
            assert_eq!(names(pattern, path), None, "{path}");
        }
        assert_eq!(names("/healthz", "/healthz"), Some(Vec::new()));
    }
}
