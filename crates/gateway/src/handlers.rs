//! What this server answers itself, but for logins.

use axum::response::Response;
use http::StatusCode;
use kah_api::version::Version;

use crate::{
    answer,
    gateway::{Arrived, Inner},
    health::healthz,
    metrics::metrics,
    oauth,
    routes::{Endpoint, Matched},
};

impl Inner {
    pub(crate) async fn answer(&self, matched: Matched, mut arrived: Arrived) -> Response {
        let settings = &arrived.settings;
        match matched.endpoint {
            Endpoint::Healthz | Endpoint::Ping => healthz(Some(arrived.target.query())),
            Endpoint::Metrics => metrics(&self.registry),
            Endpoint::KapisVersion | Endpoint::Version => {
                // Asked anew each time: the cluster may have been upgraded. Without an answer the key is absent.
                let kubernetes = self.kube.ask("/version").await;
                answer::json(
                    StatusCode::OK,
                    &Version {
                        kubernetes,
                        ..Version::current()
                    },
                )
            }
            Endpoint::ConfigOauth => answer::json(StatusCode::OK, &settings.oauth),
            Endpoint::Configz => answer::json(StatusCode::OK, &settings.configz),
            Endpoint::GpuKinds => answer::json(StatusCode::OK, &settings.gpu_kinds),
            Endpoint::Token => oauth::token(&*self.callers, arrived).await,
            Endpoint::Userinfo => oauth::userinfo(&*self.callers, &arrived),
            Endpoint::HubCluster => or_status(&arrived, self.cluster_summary(matched.name())),
            Endpoint::HubDoctor => {
                let answered = self.examine(matched.name(), &mut arrived).await;
                or_status(&arrived, answered)
            }
            Endpoint::HubJoin => {
                let answered = self.join_cluster(&mut arrived).await;
                or_status(&arrived, answered)
            }
            Endpoint::HubLeave => {
                let by = arrived.caller.name.clone();
                let answered = self.leave_cluster(matched.name(), &by).await;
                or_status(&arrived, answered)
            }
            Endpoint::HubRestoreAccess => {
                let answered = self.restore_access(matched.name(), &mut arrived).await;
                or_status(&arrived, answered)
            }
            Endpoint::HubEnrol => {
                let answered = self.enrol(&mut arrived).await;
                or_status(&arrived, answered)
            }
            Endpoint::HubManifest => {
                let answered = self.manifest(matched.name()).await;
                or_status(&arrived, answered)
            }
            Endpoint::ClusterValidation => self.validate_cluster(arrived).await,
            Endpoint::ClusterKubeconfig => self.replace_kubeconfig(matched.name(), arrived).await,
            Endpoint::ClusterAgent => self.agent_deployment(matched.name(), arrived).await,
            Endpoint::HubTrust => {
                let answered = self.trust(arrived.settings.multicluster).await;
                or_status(&arrived, answered)
            }
            Endpoint::HubMoveTrust => {
                let answered = self.move_trust(matched.name(), &mut arrived).await;
                or_status(&arrived, answered)
            }
            Endpoint::HubRotate => {
                let by = arrived.caller.name.clone();
                let query = arrived.target.query().to_owned();
                let answered = self.rotate(&by, &query).await;
                or_status(&arrived, answered)
            }
            Endpoint::HubTunnel => self.tunnel(&mut arrived),
            Endpoint::Logout => oauth::logout(&*self.callers, arrived).await,
        }
    }
}

/// A refusal of a handler of ours is a Status.
fn or_status(
    arrived: &Arrived,
    answered: Result<Response, Box<kah_api::status::Status>>,
) -> Response {
    answered.unwrap_or_else(|status| arrived.refuse(&status))
}
