//! The bodies of requests that this server reads itself. They are small: one that comes slowly is not waited for.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use bytes::Bytes;

/// For a body, unless a handler says otherwise.
pub(crate) const WITHIN: Duration = Duration::from_secs(15);

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotReceived {
    /// It has more bytes than it may, or broke off.
    #[error("the body is larger than {0} bytes or broke off")]
    TooLarge(usize),
    /// It took too long.
    #[error("the body did not come within {} s", .0.as_secs())]
    Late(Duration),
}

/// The whole of a body.
pub(crate) async fn receive(
    body: Body,
    most: usize,
    within: Duration,
) -> Result<Bytes, NotReceived> {
    match tokio::time::timeout(within, to_bytes(body, most)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(NotReceived::TooLarge(most)),
        Err(_) => Err(NotReceived::Late(within)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_whole_and_in_time_or_not_at_all() {
        let some = || Body::from("some");
        assert_eq!(receive(some(), 4, WITHIN).await.unwrap(), "some");
        let larger = receive(some(), 3, WITHIN).await.unwrap_err();
        assert_eq!(
            larger.to_string(),
            "the body is larger than 3 bytes or broke off"
        );
        let first = futures::stream::iter([Ok::<_, std::io::Error>("a")]);
        let slow = futures::StreamExt::chain(first, futures::stream::pending());
        let began = tokio::time::Instant::now();
        let late = receive(Body::from_stream(slow), 4, WITHIN).await;
        assert_eq!(late.unwrap_err(), NotReceived::Late(WITHIN));
        assert_eq!(began.elapsed(), WITHIN);
    }
}
