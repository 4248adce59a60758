//! A request that turns its connection into something else.

use std::{future::Future, pin::Pin, sync::Arc};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use crate::{
    Body, Kind, ProxyError,
    body::{Inbound, closed},
    gauge::Counted,
    headers::clean_response,
    splice::splice,
    upstream::Inner,
};

type Drive = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// Sends an upgrade on a connection of its own, once.
///
/// The connection lives no longer than what came of it: the splice after a 101, or the body of a refusal.
pub(crate) async fn send(
    inner: &Inner,
    request: Request<Body>,
    client_side: OnUpgrade,
    counted: Counted,
    ends: Option<Arc<CancellationToken>>,
) -> Result<Response<Body>, ProxyError> {
    let wire = tokio::select! {
        wire = inner.raw.clone().connect() => wire?,
        () = inner.stop.cancelled() => return Err(ProxyError::new(Kind::Closed, &inner.name, None)),
    };
    // The request counts as sent when it begins: an upgrade has no body to speak of, and its time is limited as a whole.
    let sent = CancellationToken::new();
    sent.cancel();
    let limit = Some(inner.limits.upgrade);
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(inner.limits.max_head.max(16 * 1024));
    let (mut sender, connection) = inner.answer(builder.handshake(wire), limit, &sent).await?;
    let alive = inner.stop.child_token();
    let guard = alive.clone().drop_guard();
    let until = alive.clone();
    // A fault of the connection reaches the request, or the body of its answer.
    let drive: Drive = Box::pin(connection.with_upgrades());
    inner
        .tasks
        .spawn(async move { until.run_until_cancelled(drive).await });
    let mut response = inner
        .answer(sender.send_request(request), limit, &sent)
        .await?;
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => {
            let upstream_side = hyper::upgrade::on(&mut response);
            let protocol = response.headers().get(header::UPGRADE).cloned();
            let (limits, stop) = (inner.limits, inner.stop.clone());
            let open = Counted::splice(&inner.gauges);
            inner.tasks.spawn(async move {
                let _held = (open, guard, counted);
                let both = async { tokio::try_join!(client_side, upstream_side) };
                let Some(Ok(Ok((client, upstream)))) = stop
                    .run_until_cancelled(tokio::time::timeout(limits.upgrade, both))
                    .await
                else {
                    return;
                };
                let spliced = splice(
                    TokioIo::new(client),
                    TokioIo::new(upstream),
                    limits.half_closed,
                    &stop,
                );
                match ends {
                    None => spliced.await,
                    // Dropping both connections is how either side learns of it.
                    Some(ends) => {
                        ends.run_until_cancelled(spliced).await;
                    }
                }
            });
            clean_response(response.headers_mut());
            let (mut parts, _) = response.into_parts();
            parts
                .headers
                .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            if let Some(protocol) = protocol {
                parts.headers.insert(header::UPGRADE, protocol);
            }
            Ok(Response::from_parts(parts, crate::empty()))
        }
        status if status.is_client_error() || status.is_server_error() => {
            clean_response(response.headers_mut());
            let (parts, body) = response.into_parts();
            let body = Inbound::new(
                body,
                closed(inner.stop.clone(), ends),
                (counted, Arc::new(guard)),
            );
            Ok(Response::from_parts(parts, body.boxed_unsync()))
        }
        status => Err(ProxyError::invalid_upgrade(&inner.name, status)),
    }
}
