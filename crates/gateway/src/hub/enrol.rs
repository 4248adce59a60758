//! `POST clusters` for a cluster that dials out, `GET join/{token}` and `POST enrol`
//!
//! The last two are open to anybody: what they look at is the token that they are shown.

use std::time::Duration;

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use kah_api::{image::NoImage, status::Status};
use kah_cluster::{
    Host,
    enrol::{self, Application, EnrolError, Invite, Proxy, Token},
    join::JoinError,
    tunnel::authority::AuthorityError,
};
use serde_json::json;
use tokio::sync::SemaphorePermit;

use super::{body_within, join};
use crate::{
    answer::{self, respond, with_header},
    gateway::{Arrived, Inner},
    settings::Settings,
};

/// Bytes of an enrolment: a token and a certificate request.
const LARGEST_BODY: usize = 64 * 1024;
/// For its body: it is one packet or two, and anybody may send it.
const BODY_WITHIN: Duration = Duration::from_secs(5);
/// After this many seconds one who was sent away may come back.
const COME_BACK: u32 = 2;

impl Inner {
    /// Invites a cluster that dials out; `named` is the host that this request was sent to. The answer holds the token, for the caller alone.
    pub(super) async fn invite_cluster(
        &self,
        host: &Host,
        by: &str,
        named: Option<&str>,
        wanted: &join::Wanted,
        settings: &Settings,
    ) -> Result<Response, Box<Status>> {
        if wanted.dry_run {
            let words = "dryRun: a cluster that dials out is looked at when it comes";
            return Err(Box::new(Status::bad_request(words)));
        }
        let own = || Some(format!("https://{}", named?));
        let hub = wanted.hub.clone().or_else(own).ok_or_else(|| {
            let words = "hub: give the address by which the cluster reaches this hub";
            Box::new(Status::bad_request(words))
        })?;
        let image = match &wanted.image {
            Some(image) => Some(image.parse().map_err(|error: NoImage| {
                Box::new(Status::bad_request(format!("image: {error}")))
            })?),
            None => settings.agent_image.clone(),
        };
        let invite = Invite {
            name: wanted.name.clone(),
            hub,
            insecure_hub: wanted.insecure_hub,
            proxy: wanted.proxy.clone().map(|url| Proxy {
                url,
                no: wanted.no_proxy.clone(),
            }),
            image,
            again: wanted.force,
        };
        let invitation = enrol::invite(host, &invite)
            .await
            .map_err(|error| Box::new(refusal(&error)))?;
        tracing::info!(by, cluster = invitation.cluster, "invite a cluster");
        let url = format!(
            "{}/kapis/hub.kubeaihub.io/v1/join/{}",
            invitation.hub,
            invitation.token.expose()
        );
        let told = json!({
            "cluster": invitation.cluster,
            "joined": false,
            "agent": true,
            "expires": invitation.expires.to_string(),
            "url": url,
            "manifest": invitation.manifest,
        });
        Ok(private(answer::json(StatusCode::OK, &told)))
    }

    /// What the cluster that this token invites has to apply.
    pub(crate) async fn manifest(&self, token: &str) -> Result<Response, Box<Status>> {
        let host = self.host()?;
        let _entry = self.entry()?;
        let text = enrol::manifest(host, &Token::given(token))
            .await
            .map_err(|error| Box::new(refusal(&error)))?;
        let yaml = HeaderValue::from_static("application/yaml");
        Ok(private(respond(StatusCode::OK, yaml, text)))
    }

    /// A token becomes a certificate.
    pub(crate) async fn enrol(&self, arrived: &mut Arrived) -> Result<Response, Box<Status>> {
        let host = self.host()?;
        // Whoever sends slowly takes nobody's place.
        let application: Application = body_within(arrived, LARGEST_BODY, BODY_WITHIN).await?;
        let _entry = self.entry()?;
        match enrol::enrol(host, &application).await {
            Ok(enrolled) => {
                tracing::info!(cluster = enrolled.cluster, "a cluster has enrolled");
                Ok(private(answer::json(StatusCode::OK, &enrolled)))
            }
            Err(error) => Err(Box::new(refusal(&error))),
        }
    }

    /// A place among those that anybody may take.
    fn entry(&self) -> Result<SemaphorePermit<'_>, Box<Status>> {
        self.entries.try_acquire().map_err(|_| {
            let words = "many clusters enrol at this moment";
            Box::new(Status::service_unavailable(words, Vec::new(), COME_BACK))
        })
    }
}

/// Nothing between here and the caller keeps what is secret.
fn private(response: Response) -> Response {
    with_header(response, header::CACHE_CONTROL, "no-store")
}

fn refusal(error: &EnrolError) -> Status {
    let (code, reason) = match error {
        // An agent tries again by itself what is no refusal of it.
        EnrolError::Join(JoinError::UnderWay { seconds }) => {
            let seconds = u32::try_from(*seconds).unwrap_or(u32::MAX);
            return Status::service_unavailable(error.to_string(), Vec::new(), seconds);
        }
        EnrolError::Join(error) if !matches!(error, JoinError::Api { .. }) => {
            return join::refusal(error, "");
        }
        EnrolError::TokenUnknown => (404, "NotFound"),
        EnrolError::TokenUsed | EnrolError::TokenExpired(_) => (410, "Gone"),
        EnrolError::Hub(_)
        | EnrolError::Proxy(_)
        | EnrolError::Uid
        | EnrolError::Version(_)
        | EnrolError::Authority(AuthorityError::Request) => (400, "BadRequest"),
        EnrolError::TooOld(..) | EnrolError::Role(_) => (422, "Invalid"),
        EnrolError::Other(_) => (409, "Conflict"),
        EnrolError::Unsteady => (503, "ServiceUnavailable"),
        _ => (500, "InternalError"),
    };
    if code >= 500 {
        // Whoever asks may be anybody: the cause is for those who run the hub.
        tracing::error!(error = %chain(error), "enrol a cluster");
    }
    Status::failure(code, reason, error.to_string())
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
