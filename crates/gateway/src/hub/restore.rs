//! `POST clusters/{cluster}/restore-access`

use std::ops::ControlFlow;

use axum::response::Response;
use http::{StatusCode, header};
use kah_api::status::{Cause, Details, Status};
use kah_cluster::{
    CallerCredential,
    restore::{Patience, Report, Request, RestoreError, restore},
};
use serde::Deserialize;

use super::{LARGEST_BODY, body};
use crate::{
    answer,
    gateway::{Arrived, Inner},
};

/// What may be asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Wanted {
    /// Only the plan.
    dry_run: bool,
}

impl Inner {
    /// Plans or restores. It goes on when the caller leaves.
    pub(crate) async fn restore_access(
        &self,
        cluster: String,
        arrived: Arrived,
    ) -> Result<Response, Box<Status>> {
        let host = self.host()?.clone();
        let Some(credential) = arrived.parts.headers.get(header::AUTHORIZATION).cloned() else {
            return Err(Box::new(Status::unauthorized(
                "access is restored only for those who say who they are",
            )));
        };
        let by = arrived.caller.name.clone();
        let wanted: Wanted = body(arrived, LARGEST_BODY).await?;
        let request = Request {
            cluster,
            by,
            dry_run: wanted.dry_run,
            proof: CallerCredential::Authorization(credential),
            patience: Patience::default(),
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
            Err(error) => Err(Box::new(refusal(&error))),
        }
    }
}

fn refusal(error: &RestoreError) -> Status {
    let (code, reason) = match error {
        RestoreError::Unknown(_) => (404, "NotFound"),
        RestoreError::IsHost(_) => (400, "BadRequest"),
        RestoreError::Busy { .. } => (409, "Conflict"),
        RestoreError::ActsAsHost
        | RestoreError::NotRepairable { .. }
        | RestoreError::NoSecret
        | RestoreError::Configuration { .. }
        | RestoreError::Settings(_) => (422, "Invalid"),
        _ => (502, "BadGateway"),
    };
    let mut message = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let words = cause.to_string();
        if !message.ends_with(&words) {
            message = format!("{message}: {words}");
        }
        next = cause.source();
    }
    let remedy = error.remedy().map(|remedy| remedy.text).unwrap_or_default();
    let causes = error.code().map(|code| Cause {
        reason: code.to_string(),
        message: remedy.to_owned(),
        ..Cause::default()
    });
    Status {
        details: Some(Details {
            causes: causes.into_iter().collect(),
            ..Details::default()
        }),
        ..Status::failure(code, reason, message)
    }
}
