//! What a host says and does about its members: `/kapis/hub.kubeaihub.io/v1`.
//!
//! Each subject has a file of its own below. A handler takes the request that arrived, asks the room `cluster`, and gives an answer or a Status;
//! it holds no logic of its own.

mod doctor;
mod enrol;
mod join;
mod restore;
mod trust;
mod tunnel;

use std::{sync::Arc, time::Duration};

use axum::response::Response;
use http::StatusCode;
use kah_api::status::{Cause, Details, Status};
use kah_cluster::{AccessCode, CallerCredential, Host, Member, Readiness};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    answer,
    gateway::{Arrived, Inner},
    member::credential,
    receive::{NotReceived, WITHIN, receive},
};

/// Bytes of a request's body, unless a handler says otherwise: a kubeconfig with room to spare.
const LARGEST_BODY: usize = 1024 * 1024;

impl Inner {
    /// What this server holds toward members.
    ///
    /// # Errors
    /// 404 on a server that is no host.
    pub(crate) fn host(&self) -> Result<&Host, Box<Status>> {
        self.host.as_ref().ok_or_else(|| {
            Box::new(Status::not_found(
                "this cluster is no host: its multicluster.enable is false",
            ))
        })
    }

    /// A member of the fleet by name.
    ///
    /// # Errors
    /// 404 where there is none, or this server is no host.
    pub(crate) fn member(&self, name: &str) -> Result<Arc<Member>, Box<Status>> {
        self.host()?.registry.get(name).ok_or_else(|| {
            Box::new(Status::not_found(format!(
                "clusters.cluster.kubesphere.io {name:?} not found"
            )))
        })
    }
}

/// A cluster of the fleet, in one row.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    name: &'a str,
    role: &'static str,
    ready: bool,
}

impl Inner {
    /// `GET clusters/{cluster}`
    pub(crate) fn cluster_summary(&self, name: &str) -> Result<Response, Box<Status>> {
        let member = self.member(name)?;
        let summary = Summary {
            name: member.name(),
            role: if member.is_host() { "host" } else { "member" },
            ready: *member.readiness() == Readiness::Ready,
        };
        Ok(answer::json(StatusCode::OK, &summary))
    }
}

impl Inner {
    /// The caller's own credential, by which a member is asked.
    ///
    /// # Errors
    /// 401, with these words, for a caller without one.
    fn proof(&self, arrived: &Arrived, without: &str) -> Result<CallerCredential, Box<Status>> {
        credential(self.host.as_ref(), arrived)
            .ok_or_else(|| Box::new(Status::unauthorized(without)))
    }
}

/// A Status that names the access code behind it, and what to do.
fn refused(code: u16, reason: &str, message: String, cause: Option<(AccessCode, &str)>) -> Status {
    let cause = cause.map(|(code, remedy)| Cause {
        reason: code.to_string(),
        message: remedy.to_owned(),
        ..Cause::default()
    });
    Status {
        details: Some(Details {
            causes: cause.into_iter().collect(),
            ..Details::default()
        }),
        ..Status::failure(code, reason, message)
    }
}

/// Reads a JSON body of at most `limit` bytes; an empty one counts as `{}`.
///
/// # Errors
/// 400 with the field or place at fault, 413 where it is larger, 408 where it comes too slowly.
async fn body<T: DeserializeOwned>(arrived: &mut Arrived, limit: usize) -> Result<T, Box<Status>> {
    body_within(arrived, limit, WITHIN).await
}

/// The same for a body that has to come sooner or later.
async fn body_within<T: DeserializeOwned>(
    arrived: &mut Arrived,
    limit: usize,
    within: Duration,
) -> Result<T, Box<Status>> {
    let body = std::mem::take(&mut arrived.body);
    let bytes = receive(body, limit, within).await.map_err(|error| {
        let (code, reason) = match error {
            NotReceived::TooLarge(_) => (413, "RequestEntityTooLarge"),
            NotReceived::Late(_) => (408, "RequestTimeout"),
        };
        Box::new(Status::failure(code, reason, error.to_string()))
    })?;
    let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    // The words of the decoder name a field or a place, never a value that could be a secret: values of a wrong type are quoted, so they go.
    serde_json::from_slice(bytes).map_err(|error| {
        let what = if error.is_data() {
            "a field is missing, unknown or of a wrong type"
        } else {
            "it is not JSON"
        };
        Box::new(Status::bad_request(format!(
            "read the body: {what} (line {}, column {})",
            error.line(),
            error.column()
        )))
    })
}
