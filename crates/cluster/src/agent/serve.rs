//! Streams of the host, each led to one of two servers of the member.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode};
use hyper::{body::Incoming as Inbound, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use kah_net::{
    Body,
    tunnel::{Incoming, Stream},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Settings, pod};
use crate::{
    AccountError, OwnKubernetes,
    tunnel::{
        Reason, Refusal, Target,
        protocol::{Answer, Opening, WORD, hear, say},
    },
};

/// For a connection within the member; the host waits a little longer.
const CONNECT: Duration = Duration::from_secs(3);
/// The share of [`CONNECT`] that a name has for itself. A nameserver that says nothing may take longer than all of it.
const LOOKUP: Duration = Duration::from_secs(1);
/// How long a spliced pair stays after one direction has ended and the other is silent.
const HALF_CLOSED: Duration = Duration::from_secs(10);
/// For the head of the host's next request on a stream that it keeps.
const HEAD: Duration = Duration::from_secs(90);
/// Bytes of a request's head.
const LARGEST_HEAD: usize = 256 * 1024;

/// Serves what the host opens, until the tunnel ends. Once it is `leaving`, another tunnel is there for what is new.
pub(super) async fn serve(
    settings: &Arc<Settings>,
    mut incoming: Incoming,
    leaving: &CancellationToken,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    while let Some(stream) = incoming.next().await {
        let (settings, stop) = (Arc::clone(settings), stop.clone());
        let left = leaving.is_cancelled();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            if left {
                // Whoever hears that it is busy takes another one.
                let words = "this tunnel was replaced by another one".to_owned();
                return no(stream, Reason::Busy, words).await;
            }
            lead(&settings, stream, &stop).await;
        }));
    }
}

async fn lead(settings: &Settings, mut stream: Stream, stop: &CancellationToken) {
    let Ok(Ok(opening)) = timeout(WORD, hear::<Opening>(&mut stream)).await else {
        return;
    };
    match opening {
        Opening::To(Target::KsApiserver) => match ks_apiserver(settings).await {
            Ok(server) => {
                if yes(&mut stream).await {
                    kah_net::splice(stream, server, HALF_CLOSED, stop).await;
                }
            }
            Err(words) => no(stream, Reason::Unreachable, words).await,
        },
        Opening::To(Target::KubeApiserver) => {
            if yes(&mut stream).await {
                http(settings.kubernetes.clone(), stream).await;
            }
        }
        _ => {
            let words = "an agent leads to its own ks-apiserver and kube-apiserver only";
            no(stream, Reason::NotAllowed, words.to_owned()).await;
        }
    }
}

async fn yes(stream: &mut Stream) -> bool {
    matches!(timeout(WORD, say(stream, &Answer::Yes)).await, Ok(Ok(())))
}

async fn no(mut stream: Stream, reason: Reason, words: String) {
    let refusal = Answer::No(Refusal::new(reason, words));
    let said = async {
        say(&mut stream, &refusal).await?;
        tokio::io::AsyncWriteExt::shutdown(&mut stream).await
    };
    let _ = timeout(WORD, said).await;
}

/// The member's ks-apiserver by its Service; where a Service's name means nothing to this process, by the address of a Pod behind it.
async fn ks_apiserver(settings: &Settings) -> Result<TcpStream, String> {
    let address = &settings.kubesphere;
    let failed = |why: String| format!("the agent cannot reach ks-apiserver at {address}: {why}");
    let late = |_| failed("no connection in time".to_owned());
    let connected = async {
        let named = async {
            let name = (address.host.as_str(), address.port);
            tokio::net::lookup_host(name).await.map(Iterator::collect)
        };
        let found = found(named, pod::address(settings.kubernetes.clone())).await;
        let stream = match found {
            Ok(found) => TcpStream::connect(found.as_slice()).await,
            Err(unknown) => Err(unknown),
        };
        stream.map_err(|error| failed(error.to_string()))
    };
    let stream = timeout(CONNECT, connected).await.map_err(late)??;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// What the name stands for. Where it stands for nothing, or no nameserver says so in time, the address of a Pod; a late answer counts while that is
/// looked for.
async fn found(
    named: impl Future<Output = io::Result<Vec<SocketAddr>>>,
    pod: impl Future<Output = Option<SocketAddr>>,
) -> io::Result<Vec<SocketAddr>> {
    let (mut named, mut pod) = (pin!(named), pin!(pod));
    let unknown = match timeout(LOOKUP, named.as_mut()).await {
        Ok(Ok(found)) => return Ok(found),
        Ok(Err(unknown)) => unknown,
        Err(_) => tokio::select! {
            found = pod.as_mut() => match found {
                Some(pod) => return Ok(vec![pod]),
                None => return named.await,
            },
            named = named.as_mut() => match named {
                Ok(found) => return Ok(found),
                Err(unknown) => unknown,
            },
        },
    };
    pod.await.map(|pod| vec![pod]).ok_or(unknown)
}

/// HTTP on a stream, to the kube-apiserver. Only what may travel does: no credential or identity of whoever asks (see `kah_net::request_header_passes`).
async fn http(kubernetes: OwnKubernetes, stream: Stream) {
    let service = service_fn(move |request: Request<Inbound>| {
        let kubernetes = kubernetes.clone();
        async move { Ok::<_, Infallible>(forward(&kubernetes, request).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(LARGEST_HEAD)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(250);
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a stream to the kube-apiserver ended");
    }
}

async fn forward(kubernetes: &OwnKubernetes, request: Request<Inbound>) -> Response<Body> {
    let Some(target) = request.uri().path_and_query().cloned() else {
        return told(
            StatusCode::BAD_REQUEST,
            "the request has no path".to_owned(),
        );
    };
    match kubernetes.send(request, target, None, None).await {
        Ok(response) => response,
        Err(AccountError::Proxy(error)) => told(
            StatusCode::BAD_GATEWAY,
            format!(
                "the agent cannot reach its kube-apiserver: {}",
                crate::with_causes(&error)
            ),
        ),
        Err(error) => {
            tracing::error!(%error, "the agent's account cannot be used");
            let words = "the agent cannot read its own credential".to_owned();
            told(StatusCode::BAD_GATEWAY, words)
        }
    }
}

fn told(status: StatusCode, words: String) -> Response<Body> {
    let mut response = Response::new(kah_net::full(words));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: SocketAddr = SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
        80,
    );
    const POD: SocketAddr = SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)),
        9090,
    );

    /// After so many milliseconds.
    async fn after<T>(milliseconds: u64, said: T) -> T {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        said
    }

    fn unknown() -> io::Result<Vec<SocketAddr>> {
        Err(io::Error::other("unknown"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_nameserver_that_says_nothing_leaves_time_for_the_pod() {
        const NEVER: u64 = 60_000;
        let service = || Ok(vec![SERVICE]);
        for (named, pod, want) in [
            (after(900, service()), after(0, Some(POD)), Some(SERVICE)),
            (after(0, unknown()), after(100, Some(POD)), Some(POD)),
            (after(0, unknown()), after(100, None), None),
            (after(NEVER, unknown()), after(100, Some(POD)), Some(POD)),
            // Late, and better than nothing.
            (after(1500, service()), after(NEVER, None), Some(SERVICE)),
            (after(1500, service()), after(100, None), Some(SERVICE)),
            (after(1500, unknown()), after(1000, Some(POD)), Some(POD)),
        ] {
            let found = timeout(CONNECT, found(named, pod)).await.unwrap().ok();
            assert_eq!(found, want.map(|address| vec![address]));
        }
    }
}
