//! `POST clusters` and `DELETE clusters/{cluster}`

use axum::response::Response;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{StatusCode, header};
use kah_api::status::{Cause, Details, Status};
use kah_cluster::{
    CallerCredential,
    join::{JoinError, Request, join, leave},
};
use serde::Deserialize;
use serde_json::json;

use super::{LARGEST_BODY, body};
use crate::{
    answer,
    gateway::{Arrived, Inner},
};

/// What may be asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wanted {
    name: String,
    /// YAML, in base64. Secret.
    kubeconfig: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    force: bool,
}

impl Inner {
    /// Looks at a cluster and joins it.
    pub(crate) async fn join_cluster(&self, arrived: Arrived) -> Result<Response, Box<Status>> {
        let host = self.host()?.clone();
        let Some(credential) = arrived.parts.headers.get(header::AUTHORIZATION).cloned() else {
            return Err(Box::new(Status::unauthorized(
                "clusters join only at the word of those who say who they are",
            )));
        };
        let by = arrived.caller.name.clone();
        let wanted: Wanted = body(arrived, LARGEST_BODY).await?;
        let kubeconfig = STANDARD
            .decode(wanted.kubeconfig.trim())
            .map_err(|_| Box::new(Status::bad_request("kubeconfig: it is not base64")))?;
        let request = Request {
            name: wanted.name,
            kubeconfig,
            dry_run: wanted.dry_run,
            force: wanted.force,
            proof: CallerCredential::Authorization(credential),
        };
        match join(&host, &request).await {
            Ok(report) => {
                tracing::info!(
                    by,
                    cluster = report.cluster,
                    joined = report.joined,
                    "join a cluster"
                );
                Ok(answer::json(StatusCode::OK, &report))
            }
            Err(error) => Err(Box::new(refusal(&error))),
        }
    }

    /// Takes a member out of the fleet.
    pub(crate) async fn leave_cluster(
        &self,
        name: &str,
        by: &str,
    ) -> Result<Response, Box<Status>> {
        let host = self.host()?;
        leave(host, name)
            .await
            .map_err(|error| Box::new(refusal(&error)))?;
        tracing::info!(by, cluster = name, "leave the fleet");
        Ok(answer::json(
            StatusCode::OK,
            &json!({"cluster": name, "left": true}),
        ))
    }
}

fn refusal(error: &JoinError) -> Status {
    let (code, reason) = match error {
        JoinError::Unknown(_) => (404, "NotFound"),
        JoinError::Taken(_) => (409, "AlreadyExists"),
        JoinError::Same(_) => (409, "Conflict"),
        JoinError::Name(_) | JoinError::Kubeconfig(_) | JoinError::IsHost(_) => (400, "BadRequest"),
        JoinError::Unfit(_) => (422, "Invalid"),
        _ => (502, "BadGateway"),
    };
    let cause = match error {
        JoinError::Unfit(finding) => Some(Cause {
            reason: finding.code.to_string(),
            message: finding.remedy.clone(),
            ..Cause::default()
        }),
        _ => None,
    };
    let mut message = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        let words = source.to_string();
        if !message.contains(&words) {
            message = format!("{message}: {words}");
        }
    }
    Status {
        details: Some(Details {
            causes: cause.into_iter().collect(),
            ..Details::default()
        }),
        ..Status::failure(code, reason, message)
    }
}
