//! `POST clusters/{cluster}/restore-access`

use std::ops::ControlFlow;

use axum::response::Response;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::StatusCode;
use kah_api::{
    access::{AUTHORITY_CHANGED, PLAN_CHANGED, RESTORE_UNDER_WAY},
    status::{Cause, Status},
};
use kah_cluster::{
    propagate::PropagateError,
    restore::{Report, Request, RestoreError, restore},
    with_causes,
};
use serde::Deserialize;

use super::{LARGEST_BODY, body, refused};
use crate::{
    answer,
    gateway::{Arrived, Inner},
};

/// What may be asked for.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Wanted {
    /// Only the plan.
    dry_run: bool,
    /// What was agreed to: `what` of each action of the plan. If something else is to be done by now the answer is 409.
    agreed: Option<Vec<String>>,
    /// A kubeconfig to take the place of the stored one: YAML, in base64. Secret.
    kubeconfig: Option<String>,
    /// The SHA-256 fingerprint of the member's new authority.
    accept_ca: Option<String>,
}

impl Inner {
    /// Plans or restores. It goes on when the caller leaves.
    pub(crate) async fn restore_access(
        &self,
        cluster: &str,
        arrived: &mut Arrived,
    ) -> Result<Response, Box<Status>> {
        let host = self.host()?.clone();
        let proof = self.proof(
            arrived,
            "access is restored only for those who say who they are",
        )?;
        let by = arrived.caller.name.clone();
        let wanted: Wanted = body(arrived, LARGEST_BODY).await?;
        let kubeconfig = match wanted.kubeconfig {
            None => None,
            Some(text) => Some(
                STANDARD
                    .decode(text.trim())
                    .map_err(|_| Box::new(Status::bad_request("kubeconfig: it is not base64")))?,
            ),
        };
        let request = Request {
            dry_run: wanted.dry_run,
            agreed: wanted.agreed,
            kubeconfig,
            guard: arrived.settings.guard.clone(),
            accept_ca: wanted.accept_ca,
            ..Request::new(cluster, &by, proof)
        };
        let running = host.tasks.clone().spawn(async move {
            let mut observer = |state: &kah_cluster::restore::State| {
                tracing::info!(
                    by = state.by,
                    step = ?state.step,
                    keys = ?state.keys,
                    "restore access"
                );
                ControlFlow::Continue(())
            };
            let ended = restore(&host, &request, &mut observer).await;
            match &ended {
                Ok(report) => tracing::info!(
                    by = request.by,
                    cluster = request.cluster,
                    outcome = ?report.outcome,
                    "restore access"
                ),
                Err(error) => tracing::warn!(
                    by = request.by,
                    cluster = request.cluster,
                    error = error as &dyn std::error::Error,
                    "restore access"
                ),
            }
            ended
        });
        let ended: Result<Report, RestoreError> = running
            .await
            .map_err(|_| Box::new(Status::internal_error("the restore broke off")))?;
        match ended {
            Ok(report) => Ok(answer::json(StatusCode::OK, &report)),
            Err(error) => Err(Box::new(refusal(&error, cluster))),
        }
    }
}

/// The access code comes first, where there is one, and then what machines may decide by.
pub(super) fn refusal(error: &RestoreError, cluster: &str) -> Status {
    let (code, reason) = match error {
        RestoreError::Unknown(_) => (404, "NotFound"),
        RestoreError::IsHost(_) => (400, "BadRequest"),
        RestoreError::Busy { .. } | RestoreError::Otherwise(_) => (409, "Conflict"),
        RestoreError::ActsAsHost
        | RestoreError::NotRepairable { .. }
        | RestoreError::NoSecret
        | RestoreError::Undecided(_)
        | RestoreError::Configuration { .. }
        | RestoreError::Closed { .. }
        | RestoreError::Another { .. }
        | RestoreError::Other(_)
        | RestoreError::Authority { .. }
        | RestoreError::AuthorityUnknown { .. }
        | RestoreError::NotRenewable(_)
        | RestoreError::Settings(_) => (422, "Invalid"),
        RestoreError::User { source, .. }
            if matches!(
                **source,
                PropagateError::Foreign { .. }
                    | PropagateError::LeftToKubeFed(_)
                    | PropagateError::NotYet { .. }
                    | PropagateError::UnknownUser(_)
            ) =>
        {
            (422, "Invalid")
        }
        RestoreError::Kubeconfig(_) | RestoreError::Address(_) => (400, "BadRequest"),
        _ => (502, "BadGateway"),
    };
    let advice = error.advice(cluster).unwrap_or_default();
    let cause = error.code().map(|code| (code, advice.as_str()));
    let mut status = refused(code, reason, with_causes(error), cause);
    let details = status.details.get_or_insert_default();
    cluster.clone_into(&mut details.name);
    let more = match error {
        RestoreError::Busy { .. } => Some((RESTORE_UNDER_WAY, "", advice)),
        RestoreError::Otherwise(_) => Some((PLAN_CHANGED, "agreed", advice)),
        RestoreError::Authority { shown, .. } => {
            Some((AUTHORITY_CHANGED, "acceptCa", shown.clone()))
        }
        _ => None,
    };
    details
        .causes
        .extend(more.map(|(reason, field, message)| Cause {
            reason: reason.to_owned(),
            message,
            field: field.to_owned(),
        }));
    status
}

#[cfg(test)]
mod tests {
    use kah_api::access::AccessCode;

    use super::*;

    #[test]
    fn a_user_whom_others_bring_is_no_fault_of_the_way_and_says_what_to_do() {
        let host = "another".to_owned();
        for (source, words) in [
            (PropagateError::LeftToKubeFed("User"), "FederatedUser"),
            (
                PropagateError::Foreign {
                    kind: "User",
                    name: "ann".into(),
                    owner: host,
                },
                "hub.kubeaihub.io/host",
            ),
            (PropagateError::UnknownUser("ann".into()), "user"),
        ] {
            let error = RestoreError::User {
                code: Some(AccessCode::UserMissing),
                source: Box::new(source),
            };
            let status = refusal(&error, "m");
            assert_eq!(status.code, 422);
            assert!(status.message.starts_with("bring the user"), "{status:?}");
            let cause = &status.details.unwrap().causes[0];
            assert_eq!(cause.reason, "UserMissing");
            assert!(cause.message.contains(words), "{cause:?}");
        }
    }

    #[test]
    fn machines_tell_refusals_apart_without_reading_sentences() {
        let busy = RestoreError::Busy {
            by: "ann".into(),
            step: kah_cluster::restore::Step::Planned,
        };
        let authority = RestoreError::Authority {
            known: "AA:AA".into(),
            shown: "BB:BB".into(),
        };
        for (error, code, reason, message) in [
            (busy, 409, "RestoreUnderWay", "Try again in a minute"),
            (
                RestoreError::Otherwise("a key".into()),
                409,
                "PlanChanged",
                "look at the new plan",
            ),
            (authority, 422, "AuthorityChanged", "BB:BB"),
        ] {
            let status = refusal(&error, "m");
            assert_eq!(status.code, code);
            let details = status.details.unwrap();
            assert_eq!(details.name, "m");
            let cause = details.causes.last().unwrap();
            assert_eq!(cause.reason, reason);
            assert!(cause.message.contains(message), "{cause:?}");
            if reason == "AuthorityChanged" {
                assert_eq!(cause.message, message);
                let first = &details.causes[0];
                assert_eq!(first.reason, "TLSUntrusted");
                let command = "`kah restore-access m --accept-ca BB:BB`";
                assert!(first.message.contains(command), "{first:?}");
            }
        }
    }
}
