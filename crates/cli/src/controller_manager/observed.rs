//! `/healthz` and `/metrics` of ks-controller-manager.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use kah_controllers::Metrics;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// No credential is asked for here, and the metrics name the clusters of the fleet: only this machine, or this Pod, is told, unless the operator says
/// otherwise.
pub const DEFAULT: &str = "127.0.0.1:8080";
/// Connections at the same time.
const MOST: usize = 32;
/// For one request and its answer.
const WITHIN: Duration = Duration::from_secs(10);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Reads `--metrics-bind-address`: `:8080`, `10.0.0.1:8080`, or `0` for nowhere.
pub fn address(text: &str) -> anyhow::Result<Option<SocketAddr>> {
    if text == "0" {
        return Ok(None);
    }
    let whole = match text.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None => text.to_owned(),
    };
    match whole.parse() {
        Ok(address) => Ok(Some(address)),
        Err(_) => bail!(
            "--metrics-bind-address is {text:?}; allowed are an address with a port like 127.0.0.1:8080, a port like :8080, and 0 for none"
        ),
    }
}

/// Listens, and answers until `stop`.
pub async fn serve(
    address: SocketAddr,
    metrics: Metrics,
    stop: CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}"))?;
    tracing::info!("Metrics are at {}", listener.local_addr()?);
    if !address.ip().is_loopback() {
        tracing::warn!(
            "--metrics-bind-address is {address}: whoever reaches it can read the names of the clusters and how they are"
        );
    }
    let (connections, places) = (tasks.clone(), Arc::new(Semaphore::new(MOST)));
    tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (metrics, stop) = (metrics.clone(), stop.clone());
            connections.spawn(stop.run_until_cancelled_owned(async move {
                let answer = service_fn(|request: Request<Incoming>| {
                    let answered = answer(request.uri().path(), &metrics);
                    std::future::ready(Ok::<_, Infallible>(answered))
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), answer);
                // Whoever breaks off or is too slow has had its chance.
                let _ = tokio::time::timeout(WITHIN, connection).await;
                drop(place);
            }));
        }
    }));
    Ok(())
}

fn answer(path: &str, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, kind, text) = match path {
        "/healthz" => (StatusCode::OK, "text/plain; charset=utf-8", "ok".to_owned()),
        "/metrics" => (StatusCode::OK, OPEN_METRICS, metrics.text()),
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain; charset=utf-8",
            "404 page not found\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        for (text, expected) in [
            (":8080", Some("0.0.0.0:8080")),
            ("127.0.0.1:0", Some("127.0.0.1:0")),
            ("[::1]:8080", Some("[::1]:8080")),
            ("0", None),
        ] {
            let read = address(text).unwrap();
            assert_eq!(read.map(|it| it.to_string()).as_deref(), expected, "{text}");
        }
        for text in ["", "8080", ":x", "host:8080"] {
            let said = address(text).unwrap_err().to_string();
            assert!(
                said.contains("--metrics-bind-address") && said.contains(":8080"),
                "{said}"
            );
        }
    }

    #[test]
    fn s6_without_a_word_of_the_operator_only_this_machine_is_told() {
        let read = address(DEFAULT).unwrap().unwrap();
        assert!(read.ip().is_loopback(), "{read}");
    }

    #[test]
    fn what_is_served() {
        let metrics = Metrics::default();
        assert_eq!(answer("/healthz", &metrics).status(), StatusCode::OK);
        assert_eq!(answer("/", &metrics).status(), StatusCode::NOT_FOUND);
        let told = answer("/metrics", &metrics);
        assert_eq!(told.headers()[header::CONTENT_TYPE], OPEN_METRICS);
    }
}
