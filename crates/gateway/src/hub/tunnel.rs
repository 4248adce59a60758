//! The websocket inside which agents and other replicas of the host prove who they are.
//!
//! Nobody has to log in for it: before a certificate of the host's authority was shown nothing is done for whoever dialled, and how many may be in
//! that state is bounded (`kah_cluster::tunnel`).

use axum::{body::Body, response::Response};
use http::{StatusCode, header};
use kah_api::status::Status;
use kah_cluster::tunnel::NotAccepted;

use crate::{
    answer::{routing_error, with_header},
    gateway::{Arrived, Inner},
};

/// Seconds that those who came at a bad moment are asked to wait.
const RETRY_AFTER: u32 = 2;

impl Inner {
    pub(crate) fn tunnel(&self, arrived: &mut Arrived) -> Response {
        let tunnels = self.registry.tunnels();
        if !tunnels.are_served() {
            return routing_error(StatusCode::NOT_FOUND, "404: Page Not Found");
        }
        let mut request = http::Request::new(());
        request.method_mut().clone_from(&arrived.parts.method);
        request.headers_mut().clone_from(&arrived.parts.headers);
        std::mem::swap(request.extensions_mut(), &mut arrived.parts.extensions);
        let (response, upgrade) = match kah_net::tunnel::answer(&mut request) {
            Ok(answered) => answered,
            Err(error) => {
                let status = Status::failure(426, "UpgradeRequired", error.to_string());
                return with_header(arrived.refuse(&status), header::UPGRADE, "websocket");
            }
        };
        match tunnels.accept(&self.registry, upgrade) {
            Ok(()) => response.map(|()| Body::empty()),
            Err(NotAccepted::NotServed) => {
                routing_error(StatusCode::NOT_FOUND, "404: Page Not Found")
            }
            Err(error @ NotAccepted::Busy) => {
                let status =
                    Status::service_unavailable(error.to_string(), Vec::new(), RETRY_AFTER);
                arrived.refuse(&status)
            }
        }
    }
}
