//! What tests stand on: control planes, real and embedded; the real kubectl; fleets; scripted members.

pub mod fleet;
pub mod http_client;
pub mod kubectl;
pub mod kubelet;
pub mod member;
pub mod network;
pub mod original;
pub mod plane;

use std::time::Duration;

/// Polls `holds` until it is true.
///
/// # Errors
/// It was not within `limit`; `what` is named.
pub async fn eventually(
    limit: Duration,
    what: &str,
    mut holds: impl AsyncFnMut() -> bool,
) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + limit;
    while !holds().await {
        anyhow::ensure!(
            tokio::time::Instant::now() < deadline,
            "{what}: not within {limit:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
