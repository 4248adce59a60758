//! `POST clusters` and `DELETE clusters/{cluster}`

use axum::response::Response;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{StatusCode, header};
use kah_api::{
    access::JOIN_UNDER_WAY,
    cluster::Trust,
    status::{Cause, Details, Status},
};
use kah_cluster::join::{Cleaning, JoinError, Report, Request, join, leave};
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
    let (code, reason) = match error {
        JoinError::Trust(error) => super::trust::kind(error),
        JoinError::Unknown(_) => (404, "NotFound"),
        JoinError::Taken(_) => (409, "AlreadyExists"),
        JoinError::Same(_) | JoinError::UnderWay { .. } => (409, "Conflict"),
        JoinError::Name(_)
        | JoinError::Kubeconfig(_)
        | JoinError::Address(_)
        | JoinError::IsHost(_) => (400, "BadRequest"),
        JoinError::Unfit(_) => (422, "Invalid"),
        _ => (502, "BadGateway"),
    };
    let cause = match error {
        JoinError::UnderWay { .. } => JOIN_UNDER_WAY.to_owned(),
        error => error
            .code()
            .map_or_else(String::new, |code| code.to_string()),
    };
    let remedy = error.remedy(cluster).map(|remedy| Cause {
        reason: cause,
        message: remedy,
        ..Cause::default()
    });
    Status {
        details: Some(Details {
            causes: remedy.into_iter().collect(),
            retry_after_seconds: match error {
                JoinError::UnderWay { seconds } => u32::try_from(*seconds).unwrap_or(u32::MAX),
                _ => 0,
            },
            ..Details::default()
        }),
        ..Status::failure(code, reason, error.words())
    }
}

#[cfg(test)]
mod tests {
    use kah_cluster::{AccessCode, trust::TrustError};

    use super::*;

    #[test]
    fn a_cluster_that_somebody_else_joins_is_to_be_tried_later() {
        let status = refusal(&JoinError::UnderWay { seconds: 12 }, "m");
        assert_eq!((status.code, &*status.reason), (409, "Conflict"));
        let words = "the cluster is being joined by somebody else at this moment";
        assert!(status.message.starts_with(words), "{status:?}");
        let details = status.details.unwrap();
        assert_eq!(details.retry_after_seconds, 12);
        let cause = &details.causes[0];
        assert_eq!(cause.reason, "JoinUnderWay");
        assert!(cause.message.contains("in 12 s"), "{cause:?}");
    }

    #[test]
    fn what_to_do_is_about_a_cluster_that_is_not_in_the_fleet() {
        let refused = TrustError::NotAccepted {
            code: Some(AccessCode::TLSUntrusted),
            evidence: "canary".into(),
        };
        let offered = TrustError::NotOffered {
            cluster: "m".into(),
            evidence: "it says so".into(),
        };
        let foreign = TrustError::Foreign("kubeaihub:another".into());
        for (error, code, reason, words) in [
            (refused, 422, "TLSUntrusted", "Give a kubeconfig"),
            (offered, 422, "", "--trust shared-secret"),
            (foreign, 409, "", "--force"),
        ] {
            let status = refusal(&JoinError::Trust(Box::new(error)), "m");
            assert_eq!(status.code, code, "{status:?}");
            assert!(!format!("{status:?}").contains("canary"), "{status:?}");
            let cause = &status.details.unwrap().causes[0];
            assert_eq!(cause.reason, reason);
            assert!(cause.message.contains(words), "{cause:?}");
            assert!(!cause.message.contains("restore-access"), "{cause:?}");
        }
    }
}
