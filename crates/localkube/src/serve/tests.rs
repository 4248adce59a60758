use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use http_body_util::{Empty, Full};
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsConnector;

use super::*;
use crate::authority::{Authority, Issued};

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

struct Server {
    address: std::net::SocketAddr,
    authority: Arc<Authority>,
    clock: Arc<AtomicI64>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

/// Answers with the number of certificates that the client showed.
async fn server() -> Server {
    let authority = Arc::new(Authority::in_memory("ca", at(NOW)).unwrap());
    let clock = Arc::new(AtomicI64::new(NOW));
    let time = Arc::clone(&clock);
    let tls = authority
        .server_config(&[], Arc::new(move || at(time.load(Ordering::SeqCst))))
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let service = tower::service_fn(|request: Request<Body>| async move {
        let shown = request
            .extensions()
            .get::<PeerCertificates>()
            .map_or(0, |peer| peer.0.len());
        let body = Full::new(Bytes::from(shown.to_string())).map_err(|never| match never {});
        Ok(Response::new(body.boxed_unsync()))
    });
    let task = tokio::spawn(serve(listener, tls, service, shutdown.clone()));
    Server {
        address,
        authority,
        clock,
        shutdown,
        task,
    }
}

async fn get(server: &Server, identity: Option<&Issued>, http2: bool) -> Result<String, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.authority.ca_der().clone()).unwrap();
    let builder = rustls::ClientConfig::builder_with_details(
        provider,
        Arc::new(Fixed(server.clock.load(Ordering::SeqCst))),
    )
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(issued) => {
            let certificate =
                CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
            builder
                .with_client_auth_cert(vec![certificate], key)
                .unwrap()
        }
    };
    config.alpn_protocols = vec![if http2 {
        b"h2".to_vec()
    } else {
        b"http/1.1".to_vec()
    }];
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("kubernetes.default.svc").unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|e| e.to_string())?;
    let io = TokioIo::new(stream);
    let request = Request::get("https://kubernetes/api")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = if http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    let body = response.map_err(|e| e.to_string())?.into_body();
    let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

#[derive(Debug)]
struct Fixed(i64);

impl rustls::time_provider::TimeProvider for Fixed {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let seconds = u64::try_from(self.0).ok()?;
        Some(rustls::pki_types::UnixTime::since_unix_epoch(
            Duration::from_secs(seconds),
        ))
    }
}

#[tokio::test]
async fn only_certificates_of_this_authority_in_their_time_are_let_in() {
    let server = server().await;
    let own = server
        .authority
        .client_certificate("u", &[], at(NOW))
        .unwrap();
    for http2 in [false, true] {
        assert_eq!(get(&server, None, http2).await.as_deref(), Ok("0"));
        assert_eq!(get(&server, Some(&own), http2).await.as_deref(), Ok("1"));
        let foreign = Authority::in_memory("ca", at(NOW)).unwrap();
        let foreign = foreign
            .client_certificate("u", &["system:masters"], at(NOW))
            .unwrap();
        assert!(get(&server, Some(&foreign), http2).await.is_err());
        let expired = server
            .authority
            .client_certificate("u", &[], at(NOW - 366 * DAY))
            .unwrap();
        assert!(get(&server, Some(&expired), http2).await.is_err());
        let early = server
            .authority
            .client_certificate("u", &[], at(NOW + DAY))
            .unwrap();
        assert!(get(&server, Some(&early), http2).await.is_err());
        let wrong_use = server.authority.server_certificate(&[], at(NOW)).unwrap();
        assert!(get(&server, Some(&wrong_use), http2).await.is_err());
    }
    // A year later the client's certificate has ended, and the server's has renewed itself.
    server.clock.store(NOW + 370 * DAY, Ordering::SeqCst);
    assert!(get(&server, Some(&own), true).await.is_err());
    assert_eq!(get(&server, None, true).await.as_deref(), Ok("0"));
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), server.task)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn plain_http_is_told_so() {
    let server = server().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(
        answer,
        "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
    );
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), server.task)
        .await
        .unwrap()
        .unwrap();
}
