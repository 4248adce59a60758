//! `POST clusters` and `DELETE clusters/{cluster}`

use axum::response::Response;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{StatusCode, header};
use kah_api::{cluster::Trust, status::Status};
use kah_cluster::join::{Cleaning, JoinError, Report, Request, join, leave};
use serde::Deserialize;
use serde_json::json;

use super::{LARGEST_BODY, body, refused};
use crate::{
    answer,
    gateway::{Arrived, Inner},
};

/// What may be asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Wanted {
    pub(super) name: String,
    /// YAML, in base64. Secret. Not with `agent`.
    #[serde(default)]
    kubeconfig: String,
    /// Whether the cluster dials out to this hub.
    #[serde(default)]
    pub(super) agent: bool,
    /// With `agent`: the address by which the cluster reaches this hub; without one, that of this request.
    #[serde(default)]
    pub(super) hub: Option<String>,
    /// With `agent`: whether that may be plain HTTP.
    #[serde(default)]
    pub(super) insecure_hub: bool,
    /// With `agent`: an HTTP proxy on its way to this hub. Secret.
    #[serde(default)]
    pub(super) proxy: Option<String>,
    /// With `proxy`: where it is not used.
    #[serde(default)]
    pub(super) no_proxy: String,
    /// With `agent`: the image that it runs; without one, that of the configuration.
    #[serde(default)]
    pub(super) image: Option<String>,
    #[serde(default)]
    pub(super) dry_run: bool,
    #[serde(default)]
    pub(super) force: bool,
    /// Where nobody says: federated if the member offers it.
    trust: Option<Trust>,
}

impl Inner {
    /// Looks at a cluster and joins it. It goes on when the caller leaves: what was begun on the cluster is ended or taken back.
    pub(crate) async fn join_cluster(
        &self,
        arrived: &mut Arrived,
    ) -> Result<Response, Box<Status>> {
        let host = self.host()?.clone();
        let proof = self.proof(
            arrived,
            "clusters join only at the word of those who say who they are",
        )?;
        let by = arrived.caller.name.clone();
        let wanted: Wanted = body(arrived, LARGEST_BODY).await?;
        if wanted.agent {
            let named = arrived.parts.headers.get(header::HOST);
            let named = named
                .and_then(|named| named.to_str().ok())
                .map(str::to_owned);
            return self
                .invite_cluster(&host, &by, named.as_deref(), &wanted, &arrived.settings)
                .await;
        }
        if wanted.kubeconfig.is_empty() {
            return Err(Box::new(Status::bad_request(
                "kubeconfig: give one, or agent: true for a cluster that dials out to this hub",
            )));
        }
        let kubeconfig = STANDARD
            .decode(wanted.kubeconfig.trim())
            .map_err(|_| Box::new(Status::bad_request("kubeconfig: it is not base64")))?;
        let name = wanted.name.clone();
        let request = Request {
            name: wanted.name,
            kubeconfig,
            dry_run: wanted.dry_run,
            force: wanted.force,
            guard: arrived.settings.guard.clone(),
            trust: wanted.trust,
            patience: kah_cluster::trust::Patience::default(),
            proof,
        };
        let running = host.tasks.clone().spawn(async move {
            let ended = join(&host, &request).await;
            match &ended {
                Ok(report) => tracing::info!(
                    by,
                    cluster = report.cluster,
                    joined = report.joined,
                    "join a cluster"
                ),
                Err(error) => tracing::info!(
                    by,
                    cluster = request.name,
                    why = error.words(),
                    "a cluster does not join"
                ),
            }
            ended
        });
        let ended: Result<Report, JoinError> = running
            .await
            .map_err(|_| Box::new(Status::internal_error("the join broke off")))?;
        match ended {
            Ok(report) => Ok(answer::json(StatusCode::OK, &report)),
            Err(error) => Err(Box::new(refusal(&error, &name))),
        }
    }

    /// Takes a member out of the fleet. It goes on when the caller leaves.
    pub(crate) async fn leave_cluster(
        &self,
        name: &str,
        by: &str,
    ) -> Result<Response, Box<Status>> {
        let host = self.host()?.clone();
        let (cluster, by) = (name.to_owned(), by.to_owned());
        let running = host.tasks.clone().spawn(async move {
            let ended = leave(&host, &cluster).await;
            match &ended {
                Ok(_) => tracing::info!(by, cluster, "leave the fleet"),
                Err(error) => tracing::info!(by, cluster, why = error.words(), "does not leave"),
            }
            ended
        });
        let ended: Result<Cleaning, JoinError> = running
            .await
            .map_err(|_| Box::new(Status::internal_error("the leaving broke off")))?;
        let cleaning = ended.map_err(|error| Box::new(refusal(&error, name)))?;
        Ok(answer::json(
            StatusCode::OK,
            &json!({"cluster": name, "left": true, "member": cleaning}),
        ))
    }
}

pub(super) fn refusal(error: &JoinError, cluster: &str) -> Status {
    if let JoinError::Trust(cause) = error {
        return Status {
            message: error.words(),
            ..super::trust::refusal(cause, cluster)
        };
    }
    let (code, reason) = match error {
        JoinError::Unknown(_) => (404, "NotFound"),
        JoinError::Taken(_) => (409, "AlreadyExists"),
        JoinError::Same(_) => (409, "Conflict"),
        JoinError::Name(_)
        | JoinError::Kubeconfig(_)
        | JoinError::Address(_)
        | JoinError::IsHost(_) => (400, "BadRequest"),
        JoinError::Unfit(_) => (422, "Invalid"),
        _ => (502, "BadGateway"),
    };
    let remedy = error.remedy().unwrap_or_default();
    let cause = match error {
        JoinError::Unfit(finding) => Some((finding.code, remedy.as_str())),
        _ => None,
    };
    refused(code, reason, error.words(), cause)
}
