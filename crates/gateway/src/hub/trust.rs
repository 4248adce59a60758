//! `GET trust`, `PUT clusters/{cluster}/trust` and `POST trust/rotate`

use super::{LARGEST_BODY, body, refused, restore};
use crate::{
    answer,
    gateway::{Arrived, Inner},
};
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use kah_api::{cluster::Trust, status::Status};
use kah_cluster::{
    Host,
    join::JoinError,
    trust::{
        Patience, Report, Request, Rotation, TrustError, move_to, rotate, rotation::Told, survey,
    },
    with_causes,
};
use kah_iam::federated::{KeyState, KeysError};
use serde::{Deserialize, Serialize};

/// What may be asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    trust: Trust,
}

/// What a host says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Overview {
    /// The name by which members know it; empty before the first key.
    issuer: String,
    keys: Vec<Key>,
    members: Vec<Row>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    id: String,
    state: KeyState,
    made: Timestamp,
    since: Timestamp,
    /// Seconds since it was made.
    age: i64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    cluster: String,
    trust: Trust,
    /// `current`, `differs`, `foreign`, `away`; absent where a secret is shared.
    #[serde(skip_serializing_if = "Option::is_none")]
    told: Option<&'static str>,
    /// What shows it.
    #[serde(skip_serializing_if = "String::is_empty")]
    evidence: String,
    /// The ids of the keys that it accepts, where it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepts: Option<Vec<String>>,
}

impl Inner {
    /// A member says what it offers and holds; a host what it signs with, and what each of its members holds.
    pub(crate) async fn trust(&self, host: bool) -> Result<Response, Box<Status>> {
        if host {
            let overview = overview(self.host()?).await;
            return Ok(answer::json(StatusCode::OK, &overview));
        }
        match self.callers.offer() {
            Some(offer) => Ok(answer::json(StatusCode::OK, &offer)),
            None => Err(Box::new(Status::not_found(
                "this cluster is no member: its multicluster.clusterRole is not member",
            ))),
        }
    }

    /// Moves a member to another trust. It goes on when the caller leaves.
    pub(crate) async fn move_trust(
        &self,
        cluster: &str,
        arrived: &mut Arrived,
    ) -> Result<Response, Box<Status>> {
        let host = self.host()?.clone();
        let proof = self.proof(
            arrived,
            "trust is moved only at the word of those who say who they are",
        )?;
        let by = arrived.caller.name.clone();
        let wanted: Wanted = body(arrived, LARGEST_BODY).await.map_err(|mut status| {
            status.message.push_str(
                "; the body is {\"trust\": \"federated\"} or {\"trust\": \"shared-secret\"}",
            );
            status
        })?;
        let request = Request {
            cluster: cluster.to_owned(),
            trust: wanted.trust,
            by,
            proof,
            patience: Patience::default(),
        };
        let running = host.tasks.clone().spawn(async move {
            let ended = move_to(&host, &request).await;
            if let Err(error) = &ended {
                tracing::warn!(
                    by = request.by,
                    cluster = request.cluster,
                    error = error as &dyn std::error::Error,
                    "move trust"
                );
            }
            ended
        });
        let ended: Result<Report, TrustError> = running
            .await
            .map_err(|_| Box::new(Status::internal_error("the move broke off")))?;
        match ended {
            Ok(report) => Ok(answer::json(StatusCode::OK, &report)),
            Err(error) => Err(Box::new(refusal(&error, cluster))),
        }
    }

    /// Begins to change the signing key.
    pub(crate) async fn rotate(&self, by: &str, query: &str) -> Result<Response, Box<Status>> {
        let host = self.host()?;
        let force = forced(query)?;
        let rotation = rotate(host, force)
            .await
            .map_err(|error| Box::new(refusal(&error, "")))?;
        let Rotation { next, behind } = &rotation;
        tracing::info!(by, next, force, ?behind, "rotate the signing keys");
        Ok(answer::json(StatusCode::ACCEPTED, &rotation))
    }
}

/// Whether the query says `force=true`.
fn forced(query: &str) -> Result<bool, Box<Status>> {
    let mut force = false;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        force = match (&*name, &*value) {
            ("force", "true") => true,
            ("force", "false") => false,
            ("force", other) => {
                let words = format!("force: {other:?} is neither true nor false");
                return Err(Box::new(Status::bad_request(words)));
            }
            _ => force,
        };
    }
    Ok(force)
}

async fn overview(host: &Host) -> Overview {
    let now = host.clock.now();
    let (issuer, keys) = host.registry.signer().keys().unwrap_or_default();
    let surveys = survey(host).await;
    let row = |member: std::sync::Arc<kah_cluster::Member>| {
        let found = surveys
            .iter()
            .find(|survey| survey.keys.cluster == member.name());
        let (told, evidence) = match found.map(|survey| &survey.keys.told) {
            None if member.is_undecided() => {
                (None, "not decided: nobody's token is sent there".to_owned())
            }
            None => (None, String::new()),
            Some(Told::All) => (Some("current"), String::new()),
            Some(Told::Other(ids)) => (Some("differs"), ids.join(", ")),
            Some(Told::Foreign(issuer)) => (Some("foreign"), format!("it trusts {issuer}")),
            Some(Told::Away(words)) => (Some("away"), words.clone()),
        };
        Row {
            cluster: member.name().to_owned(),
            trust: member.trust(),
            told,
            evidence,
            accepts: found.and_then(|survey| survey.keys.accepts.clone()),
        }
    };
    Overview {
        issuer,
        keys: keys
            .records()
            .iter()
            .map(|key| Key {
                id: key.id.clone(),
                state: key.state,
                made: key.made,
                since: key.since,
                age: now.duration_since(key.made).as_secs(),
            })
            .collect(),
        members: host
            .registry
            .members()
            .into_iter()
            .filter(|member| !member.is_host())
            .map(row)
            .collect(),
    }
}

pub(super) fn refusal(error: &TrustError, cluster: &str) -> Status {
    if let TrustError::Restore(error) = error {
        return restore::refusal(error, cluster);
    }
    let (code, reason) = kind(error);
    let advice = error.advice(cluster).unwrap_or_default();
    let cause = error.code().map(|code| (code, advice.as_str()));
    refused(code, reason, with_causes(error), cause)
}

/// The HTTP status of an error, and its reason.
pub(super) fn kind(error: &TrustError) -> (u16, &'static str) {
    match error {
        TrustError::Known(error)
            if matches!(**error, JoinError::Same(_) | JoinError::IsHost(_)) =>
        {
            (422, "Invalid")
        }
        TrustError::Unknown(_) => (404, "NotFound"),
        TrustError::IsHost(_) => (400, "BadRequest"),
        TrustError::Busy { .. }
        | TrustError::Foreign(_)
        | TrustError::Keys(KeysError::UnderWay) => (409, "Conflict"),
        TrustError::NotOffered { .. }
        | TrustError::Other { .. }
        | TrustError::NotAccepted { .. }
        | TrustError::NoIdentity(_)
        | TrustError::Settings(_) => (422, "Invalid"),
        TrustError::Keys(_) => (500, "InternalError"),
        _ => (502, "BadGateway"),
    }
}

#[cfg(test)]
mod tests {
    use kah_api::access::AccessCode;

    use super::*;

    #[test]
    fn what_to_do_is_about_the_trust_that_was_tried() {
        for (error, words) in [
            (
                TrustError::NotAccepted {
                    code: Some(AccessCode::SignatureInvalid),
                    evidence: "401".into(),
                },
                "hub-trust",
            ),
            (
                TrustError::Unasked {
                    cluster: "m".into(),
                    code: Some(AccessCode::TLSUntrusted),
                    evidence: "x".into(),
                },
                "`kah restore-access m --accept-ca FINGERPRINT`",
            ),
        ] {
            let cause = refusal(&error, "m").details.unwrap().causes.remove(0);
            assert!(cause.message.contains(words), "{cause:?}");
            assert!(!cause.message.contains("jwtSecret"), "{cause:?}");
        }
    }

    #[test]
    fn only_the_word_true_forces() {
        for (query, force) in [
            ("", Some(false)),
            ("force=true", Some(true)),
            ("force=false", Some(false)),
            ("other=true", Some(false)),
            ("force=", None),
            ("force=yes", None),
        ] {
            assert_eq!(forced(query).ok(), force, "{query}");
        }
    }
}
