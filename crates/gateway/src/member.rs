//! The step from the host to a member (multicluster.md §7).

use std::sync::Arc;

use axum::{
    body::{Body, to_bytes},
    response::Response,
};
use http::{HeaderValue, StatusCode, header, uri::PathAndQuery};
use kah_api::{
    path::{ClusterForm, Target},
    status::Status,
    status::{Cause, Details},
};
use kah_cluster::{CallerCredential, Form, ForwardError, Hop, Host, Member, REFUSAL_HEADER};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    answer::{self, respond, with_header},
    callers::passes_for_nobody,
    gateway::Arrived,
};

/// The answer of `/kapis/version` is not larger.
const LARGEST_VERSION: usize = 64 * 1024;

/// No such cluster: 400, in the shape of the original, which is not a Status (multicluster.md §7.2).
pub(crate) fn unknown(name: &str) -> Response {
    let body = json!({"ErrStatus": {
        "metadata": {},
        "status": "Failure",
        "message": format!("cluster {name} not exists"),
        "reason": "BadRequest",
        "code": 400,
    }});
    let json = HeaderValue::from_static("application/json");
    respond(
        StatusCode::BAD_REQUEST,
        json,
        kah_api::go_json::pretty(&body, 2),
    )
}

/// The credential by which a member may know this caller; `None` for nobody in particular. A password is never sent on: in its place stands a token
/// that the host signs for this user, which ends soon.
pub(crate) fn credential(host: Option<&Host>, arrived: &Arrived) -> Option<CallerCredential> {
    let authorization = arrived.parts.headers.get(header::AUTHORIZATION)?;
    if arrived.caller.anonymous {
        return None;
    }
    let name = arrived.caller.name.clone();
    let basic = authorization
        .as_bytes()
        .get(..6)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic "));
    // Where the host signs nothing, the caller is told that the password cannot be conveyed.
    let signed = host
        .filter(|_| basic)
        .and_then(|host| host.prover.proof_of(&name).ok());
    Some(signed.unwrap_or_else(|| CallerCredential::User {
        name,
        authorization: authorization.clone(),
    }))
}

/// Sends a request on as its caller. Nobody in particular gets through only to what needs no role (differences.md S1).
pub(crate) async fn forward(
    host: Option<&Host>,
    member: &Member,
    mut arrived: Arrived,
    ends: Option<Arc<CancellationToken>>,
) -> Response {
    let caller = match credential(host, &arrived) {
        Some(caller) => caller,
        None if passes_for_nobody(arrived.target.forward_path()) => CallerCredential::Anonymous,
        None => {
            let status =
                Status::unauthorized("a member is asked only for those who say who they are");
            return arrived.refuse(&status);
        }
    };
    // A ks-apiserver answers `/version` with its own; kubectl, which names the cluster in `server:`, means that of Kubernetes, which is part of
    // what every ks-apiserver says at `/kapis/version`.
    let kubernetes_version = arrived.target.cluster_form == ClusterForm::Prefix
        && arrived.target.forward_path().trim_end_matches('/') == "/version"
        && arrived.parts.method == http::Method::GET;
    let target = if kubernetes_version {
        Ok(PathAndQuery::from_static("/kapis/version"))
    } else {
        PathAndQuery::try_from(arrived.target.forward.as_str())
    };
    let Ok(target) = target else {
        return arrived.refuse(&Status::bad_request("the request's target is not valid"));
    };
    let hop = Hop {
        target,
        form: match arrived.target.cluster_form {
            ClusterForm::Prefix => Form::Prefix,
            _ => Form::Segment,
        },
        caller,
        client: arrived.client,
        long_running: is_long_running(&arrived.target, &arrived.parts.headers),
        ends,
    };
    if kubernetes_version {
        // The answer has to be read here.
        arrived.parts.headers.remove(header::ACCEPT_ENCODING);
        arrived.parts.headers.remove(header::ACCEPT);
    }
    let (headers, query) = (
        arrived.parts.headers.clone(),
        arrived.parts.uri.query().map(str::to_owned),
    );
    let (request, _) = arrived.into_request();
    match member.forward(request, hop).await {
        Ok(response) if kubernetes_version && response.status() == StatusCode::OK => {
            only_kubernetes(response.map(Body::new)).await
        }
        Ok(response) => response.map(Body::new),
        Err(error) => {
            let answer = answer::status(&status(&error), &headers, query.as_deref());
            match error.code() {
                Some(code) => with_header(answer, REFUSAL_HEADER, &code.to_string()),
                None => answer,
            }
        }
    }
}

/// A member that could not be reached, as a Status (differences.md R9).
fn status(error: &ForwardError) -> Status {
    let code = error.status();
    let reason = answer::reason_word(code);
    let message = error.evidence();
    let causes = error.code().map(|code| Cause {
        reason: code.to_string(),
        message: message.clone(),
        ..Cause::default()
    });
    let retry_after_seconds = error
        .retry_after()
        .and_then(|after| u32::try_from(after.as_secs()).ok())
        .unwrap_or(0);
    Status {
        details: Some(Details {
            causes: causes.into_iter().collect(),
            retry_after_seconds,
            ..Details::default()
        }),
        ..Status::failure(code.as_u16(), reason, message)
    }
}

async fn only_kubernetes(response: Response) -> Response {
    let body = to_bytes(response.into_body(), LARGEST_VERSION).await;
    let version: Option<Value> = body
        .ok()
        .and_then(|body| serde_json::from_slice(&body).ok());
    match version
        .as_ref()
        .and_then(|version| version.get("kubernetes"))
    {
        Some(kubernetes) => {
            let json = HeaderValue::from_static("application/json");
            respond(
                StatusCode::OK,
                json,
                kah_api::go_json::pretty(kubernetes, 2),
            )
        }
        None => {
            let status = Status::bad_gateway(
                "the cluster does not say its Kubernetes version",
                Vec::new(),
            );
            answer::status(&status, &http::HeaderMap::new(), None)
        }
    }
}

/// What may go on for as long as the caller stays.
pub(crate) fn is_long_running(target: &Target, headers: &http::HeaderMap) -> bool {
    let asks = |name: &str| {
        form_urlencoded::parse(target.query().as_bytes())
            .any(|(key, value)| key == name && value != "0" && !value.eq_ignore_ascii_case("false"))
    };
    target.verb == "watch"
        || target.verb == "proxy"
        || matches!(
            target.subresource.as_str(),
            "exec" | "attach" | "portforward" | "proxy"
        )
        || (target.subresource == "log" && asks("follow"))
        || kah_net::is_upgrade(headers)
}
