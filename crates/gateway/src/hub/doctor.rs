//! `GET clusters/{cluster}/doctor`

use axum::response::Response;
use http::StatusCode;
use kah_api::status::Status;
use kah_cluster::doctor;
use serde::Serialize;

use super::proof;
use crate::{
    answer,
    gateway::{Arrived, Inner},
};

/// What was found about one member.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    cluster: String,
    /// No finding is an error.
    healthy: bool,
    /// The cause first, then warnings.
    findings: Vec<doctor::Finding>,
    /// Of the member's Kubernetes, where it was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    kubernetes: Option<String>,
}

impl Inner {
    /// Examines one member with the caller's own token.
    pub(crate) async fn examine(
        &self,
        name: &str,
        arrived: &mut Arrived,
    ) -> Result<Response, Box<Status>> {
        let host = self.host()?;
        let member = self.member(name)?;
        if member.is_host() {
            return Err(Box::new(Status::bad_request(format!(
                "cluster {name} is the host itself: this answer shows that it can be reached"
            ))));
        }
        let proof = proof(
            arrived,
            "a member is asked only for those who say who they are",
        )?;
        let evidence = doctor::gather(host, &member, &proof).await;
        let findings = doctor::examine(&evidence);
        let report = Report {
            cluster: evidence.cluster,
            healthy: findings
                .iter()
                .all(|finding| finding.severity != doctor::Severity::Error),
            findings,
            kubernetes: match evidence.kubernetes {
                doctor::Asked::Told((major, minor)) => Some(format!("{major}.{minor}")),
                _ => None,
            },
        };
        Ok(answer::json(StatusCode::OK, &report))
    }
}
