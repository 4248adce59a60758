//! Bytes through an upstream, seen from both ends.

// The stand-in alone: the rest of testkit would make every room a part of this one's tests.
#[allow(dead_code)]
#[path = "../../../testkit/src/member.rs"]
mod member;

mod faults;
mod headers;
mod shown;
mod streams;
mod tunnel;
mod upgrades;

use std::{future::Future, sync::Arc, time::Duration};

use http::{Request, Response, uri::PathAndQuery};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{rt::TokioIo, server::conn::auto};
use kah_net::{Address, Body, Forward, Roots, Upstream, UpstreamSettings};
use member::{Authority, Member, Reply, Seen};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub fn settings(url: &str) -> UpstreamSettings {
    UpstreamSettings::new(Address::parse(url).expect("address"))
}

pub fn upstream(url: &str) -> Upstream {
    Upstream::new(settings(url)).expect("upstream")
}

/// A member that speaks TLS, and the upstream to it.
pub async fn over_tls(
    reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
) -> (Member, Upstream) {
    let authority = Authority::new().expect("authority");
    let certificate = authority.issue("127.0.0.1", false).expect("certificate");
    let tls = certificate.server(None).expect("config");
    let member = Member::start(Some(tls), reply).await.expect("member");
    let mut settings = settings(&member.url());
    settings.tls.roots = Roots::Pem(authority.pem().into());
    let upstream = Upstream::new(settings).expect("upstream");
    (member, upstream)
}

pub fn to(target: &str) -> Forward {
    Forward::new(target.parse::<PathAndQuery>().expect("target"))
}

pub fn get(target: &str) -> Request<Body> {
    Request::builder()
        .uri(target)
        .body(kah_net::empty())
        .expect("request")
}

/// Waits for a condition, at most 10 s.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let ticks = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(10), ticks)
            .await
            .is_ok(),
        "{what}"
    );
}

/// At most 10 s of patience.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), work)
        .await
        .expect("in time")
}

/// An HTTP server that sends everything on to an upstream; returns its address.
pub async fn front(upstream: Upstream) -> std::net::SocketAddr {
    front_until(upstream, None).await
}

/// The same, where `ends` ends what goes on.
pub async fn front_until(
    upstream: Upstream,
    ends: Option<Arc<CancellationToken>>,
) -> std::net::SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listen");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let (upstream, ends) = (upstream.clone(), ends.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let (upstream, ends) = (upstream.clone(), ends.clone());
                    async move {
                        let target = request.uri().path_and_query().expect("target").clone();
                        let mut forward = Forward::new(target);
                        forward.client = Some(peer.ip());
                        forward.ends = ends;
                        Ok::<_, std::convert::Infallible>(
                            match upstream.send(request, forward).await {
                                Ok(response) => response,
                                Err(error) => Response::builder()
                                    .status(502)
                                    .body(kah_net::full(format!("{:?}", error.kind())))
                                    .expect("response"),
                            },
                        )
                    }
                });
                let server = auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                let _ = server
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}
