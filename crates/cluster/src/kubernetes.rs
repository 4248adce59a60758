//! A member's kube-apiserver as a [`kube::Client`]: with the credential that the host stores for it, or, where that is rejected, by the way of callers
//! and as one of them.
//!
//! Reconcilers, doctor and restore use it; callers' requests never do. What answers there is not ours: it may never answer, or never end.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri, uri::PathAndQuery};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use kah_net::{Body, BoxError, Forward, Kind, ProxyError, Upstream};
use kube::client;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use crate::{CallerCredential, Form, Hop, Member};

/// From the beginning of a request to the head of its answer.
const ANSWER: Duration = Duration::from_secs(30);
/// To the end of an answer that is no stream: a kube-apiserver itself gives up a request after 60 s.
const WHOLE: Duration = Duration::from_secs(65);
/// Bytes of an answer, or of one line of a stream.
const SIZE: usize = 32 * 1024 * 1024;

/// An answer beyond what is waited for, or held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Overrun {
    #[error("no answer within {} s", ANSWER.as_secs())]
    Answer,
    #[error("the answer did not end within {} s", WHOLE.as_secs())]
    Whole,
    #[error("the answer is larger than {} MiB", SIZE / 1024 / 1024)]
    Size,
    #[error("a line of the answer is longer than {} MiB", SIZE / 1024 / 1024)]
    Line,
}

impl Overrun {
    fn kind(self) -> Kind {
        match self {
            Self::Answer | Self::Whole => Kind::Timeout,
            Self::Size | Self::Line => Kind::Malformed,
        }
    }
}

/// Requests of a `kube::Client` over an upstream that adds the credential.
#[derive(Clone)]
struct Service(Upstream);

impl tower::Service<Request<client::Body>> for Service {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<client::Body>) -> Self::Future {
        let upstream = self.0.clone();
        Box::pin(async move {
            let (is_stream, target) = (is_stream(request.uri()), target(&request));
            bounded(is_stream, upstream.send(request, Forward::new(target))).await
        })
    }
}

/// The target as it is sent.
fn target<B>(request: &Request<B>) -> PathAndQuery {
    let target = request.uri().path_and_query().cloned();
    target.unwrap_or_else(|| PathAndQuery::from_static("/"))
}

/// Waits for an answer, and gives it no more time and memory than it may take. The limit is around all of the sending: a peer that takes no more than
/// the head of a request never gets to answering it.
async fn bounded<E>(
    is_stream: bool,
    sending: impl Future<Output = Result<Response<Body>, E>>,
) -> Result<Response<Body>, BoxError>
where
    E: Into<BoxError>,
{
    let began = Instant::now();
    let sent = timeout_at(began + ANSWER, sending).await;
    let response = sent.map_err(|_| Overrun::Answer)?.map_err(Into::into)?;
    Ok(response.map(|inner| {
        let ends = (!is_stream).then(|| Box::pin(sleep_until(began + WHOLE)));
        let read = 0;
        Bounded { inner, ends, read }.boxed_unsync()
    }))
}

/// Watches and followed logs go on for as long as somebody reads them.
fn is_stream(uri: &Uri) -> bool {
    let mut parameters = uri.query().unwrap_or_default().split('&');
    parameters.any(|it| matches!(it, "watch=true" | "watch=1" | "follow=true" | "follow=1"))
}

/// An answer that ends, or a stream of lines that do.
struct Bounded {
    inner: Body,
    /// `None`: it is a stream.
    ends: Option<Pin<Box<Sleep>>>,
    /// Bytes of the answer, or of the line, so far.
    read: usize,
}

impl Bounded {
    fn count(&mut self, data: &Bytes) -> Result<(), Overrun> {
        let last_line = data.iter().rposition(|byte| *byte == b'\n');
        self.read = match (&self.ends, last_line) {
            (None, Some(end)) => data.len() - end - 1,
            _ => self.read.saturating_add(data.len()),
        };
        match self.ends {
            _ if self.read <= SIZE => Ok(()),
            Some(_) => Err(Overrun::Size),
            None => Err(Overrun::Line),
        }
    }
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // First: who sends without a pause would never be late.
        if let Some(ends) = &mut self.ends
            && ends.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(Overrun::Whole.into())));
        }
        Pin::new(&mut self.inner).poll_frame(cx).map(|frame| {
            let frame = frame?;
            Some(frame.and_then(|frame| {
                if let Some(data) = frame.data_ref() {
                    self.count(data)?;
                }
                Ok(frame)
            }))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A client over this upstream.
pub(crate) fn client(upstream: &Upstream) -> kube::Client {
    kube::Client::new(Service(upstream.clone()), "default")
}

/// Requests of a `kube::Client` over the way of callers.
#[derive(Clone)]
struct ByCallersWay {
    member: Arc<Member>,
    caller: CallerCredential,
}

impl tower::Service<Request<client::Body>> for ByCallersWay {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<client::Body>) -> Self::Future {
        let Self { member, caller } = self.clone();
        Box::pin(async move {
            let is_stream = is_stream(request.uri());
            let hop = Hop {
                target: target(&request),
                form: Form::Segment,
                caller,
                client: None,
                long_running: false,
                ends: None,
            };
            bounded(is_stream, member.send(request, hop)).await
        })
    }
}

/// A client that may at the member what this caller may there.
pub(crate) fn client_of_caller(member: &Arc<Member>, caller: &CallerCredential) -> kube::Client {
    let service = ByCallersWay {
        member: Arc::clone(member),
        caller: caller.clone(),
    };
    kube::Client::new(service, "default")
}

/// The kind of fault on the way that a client's error came from, if it came from there.
#[must_use]
pub fn fault_of(error: &kube::Error) -> Option<Kind> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |error| {
        (*error).source()
    })
    .find_map(|error| {
        let fault = error.downcast_ref::<ProxyError>().map(ProxyError::kind);
        fault.or_else(|| error.downcast_ref::<Overrun>().map(|it| it.kind()))
    })
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt as _, StreamExt};
    use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
    use kah_net::{Address, Dial, Dialling, Duplex, UpstreamSettings};
    use kube::{
        Api,
        api::{ListParams, LogParams, WatchEvent, WatchParams},
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio_util::task::TaskTracker;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// What a member does with a connection once the head of a request has arrived.
    #[derive(Debug, Clone, Copy)]
    enum Answers {
        Nothing,
        /// This, after the head of an answer, again and again, with a pause.
        Endless(&'static [u8], Duration),
    }

    /// Connections in memory, so that the clock can be paused.
    #[derive(Debug)]
    struct Wires(Answers, TaskTracker);

    impl Dial for Wires {
        fn dial(&self) -> Dialling<'_> {
            let (ours, theirs) = duplex(64 * 1024);
            self.1.spawn(answer(theirs, self.0));
            Box::pin(async move { Ok(Box::new(ours) as Box<dyn Duplex>) })
        }
    }

    async fn answer(mut wire: DuplexStream, answers: Answers) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match wire.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let Answers::Endless(data, pause) = answers else {
            return std::future::pending().await;
        };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";
        let mut going = wire.write_all(head.as_bytes()).await;
        while going.is_ok() {
            tokio::time::sleep(pause).await;
            going = wire.write_all(data).await;
        }
    }

    fn to(answers: Answers) -> kube::Client {
        let address = Address {
            tls: false,
            host: "member".into(),
            port: 80,
        };
        let mut settings = UpstreamSettings::new(address);
        let wires = Wires(answers, settings.tasks.clone());
        settings.dial = Some(std::sync::Arc::new(wires));
        client(&Upstream::new(settings).unwrap())
    }

    fn kind<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> Option<Kind> {
        fault_of(&result.unwrap_err())
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_never_answers_is_given_up() {
        let client = to(Answers::Nothing);
        let began = Instant::now();
        let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
        assert_eq!(kind(maps.get("x").await), Some(Kind::Timeout));
        let watch = maps.watch(&WatchParams::default(), "0").await.map(drop);
        assert_eq!(kind(watch), Some(Kind::Timeout));
        assert_eq!(began.elapsed().as_secs(), 2 * ANSWER.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn s10_an_answer_ends_in_time_and_size() {
        let slow = to(Answers::Endless(b" ", Duration::from_secs(1)));
        let began = Instant::now();
        let nodes: Api<Node> = Api::all(slow.clone());
        let listed = nodes.list(&ListParams::default()).await;
        assert_eq!(kind(listed), Some(Kind::Timeout));
        let pods: Api<Pod> = Api::default_namespaced(slow);
        let logs = pods.logs("p", &LogParams::default()).await;
        assert_eq!(kind(logs), Some(Kind::Timeout));
        assert_eq!(began.elapsed().as_secs(), 2 * WHOLE.as_secs());

        let data = &[b' '; 32 * 1024];
        let large = to(Answers::Endless(data, Duration::ZERO));
        let nodes: Api<Node> = Api::all(large);
        let listed = nodes.list(&ListParams::default()).await;
        assert_eq!(kind(listed), Some(Kind::Malformed));
    }

    #[tokio::test(start_paused = true)]
    async fn streams_live_on_but_for_a_line_without_end() {
        let event = concat!(
            r#"{"type":"BOOKMARK","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"1"}}}"#,
            "\n"
        )
        .as_bytes();
        let (began, client) = (
            Instant::now(),
            to(Answers::Endless(event, Duration::from_secs(60))),
        );
        let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
        let mut events = maps
            .watch(&WatchParams::default(), "0")
            .await
            .unwrap()
            .boxed();
        while began.elapsed() < HOUR {
            let event = events.next().await.unwrap();
            assert!(matches!(event, Ok(WatchEvent::Bookmark(_))), "{event:?}");
        }
        let pods: Api<Pod> = Api::default_namespaced(client);
        let follow = LogParams {
            follow: true,
            ..LogParams::default()
        };
        let mut log = std::pin::pin!(pods.log_stream("p", &follow).await.unwrap());
        let mut read = vec![0; 60 * event.len()];
        log.read_exact(&mut read).await.unwrap();
        assert!(began.elapsed() >= HOUR * 2);

        let data = &[b' '; 32 * 1024];
        let maps: Api<ConfigMap> =
            Api::default_namespaced(to(Answers::Endless(data, Duration::ZERO)));
        let mut events = maps
            .watch(&WatchParams::default(), "0")
            .await
            .unwrap()
            .boxed();
        assert_eq!(kind(events.next().await.unwrap()), Some(Kind::Malformed));
    }
}
