//! `POST clusters` and `DELETE clusters/{cluster}`

use axum::response::Response;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::StatusCode;
use kah_api::{cluster::Trust, status::Status};
use kah_cluster::join::{JoinError, Request, join, leave};
use serde::Deserialize;
use serde_json::json;

use super::{LARGEST_BODY, body, proof, refused};
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
    /// Where nobody says: federated if the member offers it.
    trust: Option<Trust>,
}

impl Inner {
    /// Looks at a cluster and joins it.
    pub(crate) async fn join_cluster(
        &self,
        arrived: &mut Arrived,
    ) -> Result<Response, Box<Status>> {
        let host = self.host()?.clone();
        let proof = proof(
            arrived,
            "clusters join only at the word of those who say who they are",
        )?;
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
            trust: wanted.trust,
            proof,
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
    if let JoinError::Trust(error) = error {
        return super::trust::refusal(error);
    }
    let (code, reason) = match error {
        JoinError::Unknown(_) => (404, "NotFound"),
        JoinError::Taken(_) => (409, "AlreadyExists"),
        JoinError::Same(_) => (409, "Conflict"),
        JoinError::Name(_) | JoinError::Kubeconfig(_) | JoinError::IsHost(_) => (400, "BadRequest"),
        JoinError::Unfit(_) => (422, "Invalid"),
        _ => (502, "BadGateway"),
    };
    let cause = match error {
        JoinError::Unfit(finding) => Some((finding.code, finding.remedy.as_str())),
        _ => None,
    };
    let message = match error {
        JoinError::Api { doing, source } => format!("{doing}: {source}"),
        error => error.to_string(),
    };
    refused(code, reason, message, cause)
}
