//! Reading the beginning of a body without taking it from whoever comes next.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use kah_net::{Body, BoxError};

/// Words of refusal are short; a longer body is somebody's data.
const MOST: usize = 16 * 1024;
/// A body that comes slower is passed on as it comes.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads up to [`MOST`] bytes, or until the body ends or falters; returns them, and the body as it was.
pub(crate) async fn peek(mut body: Body) -> (Bytes, Body) {
    let mut read = VecDeque::new();
    let mut prefix = BytesMut::new();
    let known = http_body::Body::size_hint(&body).exact();
    if known.is_some_and(|length| length > MOST as u64) {
        return (Bytes::new(), body);
    }
    let _ = tokio::time::timeout(PATIENCE, async {
        while prefix.len() < MOST {
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        prefix.extend_from_slice(&data);
                        read.push_back(Ok(data));
                    }
                }
                Some(Err(error)) => {
                    read.push_back(Err(error));
                    break;
                }
                None => break,
            }
        }
    })
    .await;
    (
        prefix.freeze(),
        Replayed {
            read,
            rest: body,
            failed: false,
        }
        .boxed_unsync(),
    )
}

/// What was read, then the rest.
struct Replayed {
    read: VecDeque<Result<Bytes, BoxError>>,
    rest: Body,
    failed: bool,
}

impl http_body::Body for Replayed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.failed {
            return Poll::Ready(None);
        }
        match self.read.pop_front() {
            Some(Ok(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Err(error)) => {
                self.failed = true;
                Poll::Ready(Some(Err(error)))
            }
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let held: u64 = self
            .read
            .iter()
            .flatten()
            .map(|data| data.len() as u64)
            .sum();
        let mut hint = self.rest.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint.set_lower(hint.lower().saturating_add(held));
        hint
    }
}
/// The whole of a body; `None` where it breaks off or is larger than this.
pub(crate) async fn read_at_most(mut body: Body, limit: usize) -> Option<Bytes> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            if read.len().saturating_add(data.len()) > limit {
                return None;
            }
            read.extend_from_slice(&data);
        }
    }
    Some(read.into())
}
