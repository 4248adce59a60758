//! `GET clusters/{cluster}/doctor`

use axum::response::Response;
use http::StatusCode;
use kah_api::status::Status;
use kah_cluster::doctor;

use crate::{
    answer,
    gateway::{Arrived, Inner},
};

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
        let proof = self.proof(
            arrived,
            "a member is asked only for those who say who they are",
        )?;
        let evidence = doctor::gather(host, &member, &proof).await;
        Ok(answer::json(StatusCode::OK, &doctor::report(&evidence)))
    }
}
