//! Bodies that pass through: never held whole, their ends always told.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tokio_util::sync::CancellationToken;

use crate::gauge::Counted;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streaming body.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body of no bytes.
#[must_use]
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body of these bytes.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// The caller's request body broke off.
#[derive(Debug, thiserror::Error)]
#[error("read the caller's request body")]
pub(crate) struct ClientBodyError(#[source] BoxError);

/// The answer was cut because its upstream was closed on our side, or the request was ended.
#[derive(Debug, thiserror::Error)]
#[error("the answer was ended while it was under way")]
pub(crate) struct Cut;

/// A caller's body on its way out. Trailers end here: a name in a trailer could say what the same name in the headers may not.
pub(crate) struct Outbound<B> {
    inner: B,
    /// Cancelled when the body has been read to its end (or dropped), which starts the wait for the answer's headers.
    sent: Option<tokio_util::sync::DropGuard>,
    done: bool,
}

impl<B> Outbound<B> {
    pub(crate) fn new(inner: B, sent: CancellationToken) -> Self {
        Self {
            inner,
            sent: Some(sent.drop_guard()),
            done: false,
        }
    }
}

impl<B> http_body::Body for Outbound<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) if frame.is_data() => Some(Ok(frame)),
                Some(Ok(_trailers)) => continue,
                Some(Err(error)) => Some(Err(Box::new(ClientBodyError(error.into())))),
                None => {
                    self.done = true;
                    self.sent = None;
                    None
                }
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.done || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An upstream's answer on its way back.
pub(crate) struct Inbound<B> {
    inner: B,
    closed: Closed,
    _open: (Counted, Arc<Held>),
}

/// Ready when an answer is to end.
pub(crate) type Closed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// When the upstream is closed, or this request is ended.
pub(crate) fn closed(
    upstream: CancellationToken,
    request: Option<Arc<CancellationToken>>,
) -> Closed {
    match request {
        None => Box::pin(upstream.cancelled_owned()),
        Some(request) => Box::pin(async move {
            tokio::select! {
                () = upstream.cancelled() => {}
                () = request.cancelled() => {}
            }
        }),
    }
}

/// Whatever else lives as long as an answer does.
pub(crate) type Held = dyn std::any::Any + Send + Sync;

impl<B> Inbound<B> {
    pub(crate) fn new(inner: B, closed: Closed, open: (Counted, Arc<Held>)) -> Self {
        Self {
            inner,
            closed,
            _open: open,
        }
    }
}

impl<B> http_body::Body for Inbound<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // Before the inner body: one whose connection was dropped may look as if it had ended well.
        if self.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(Box::new(Cut))));
        }
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) if frame.is_data() => Some(Ok(frame)),
                Some(Ok(_trailers)) => continue,
                Some(Err(error)) => Some(Err(error.into())),
                None => None,
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
