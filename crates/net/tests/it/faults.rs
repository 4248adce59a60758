use std::time::Duration;

use kah_net::{ClientCertificate, Kind, Roots, TlsSettings, Upstream, UpstreamSettings, Verify};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    front, get,
    member::{Authority, Member, Reply, answer},
    settings, soon, to, until, upstream,
};

async fn kind(settings: UpstreamSettings) -> Kind {
    let upstream = Upstream::new(settings).expect("upstream");
    let error = soon(upstream.send(get("/x"), to("/x")))
        .await
        .expect_err("no answer");
    let open = upstream.open();
    assert_eq!(open.requests, 0, "{error:?}");
    assert!(
        error.to_string().contains("127.0.0.1") || error.to_string().contains("invalid"),
        "{error}"
    );
    error.kind()
}

#[tokio::test]
async fn each_fault_has_its_kind() {
    let closed = TcpListener::bind(("127.0.0.1", 0))
        .await
        .expect("port")
        .local_addr()
        .expect("address");
    assert_eq!(
        kind(settings(&format!("http://{closed}"))).await,
        Kind::Unreachable
    );
    assert_eq!(
        kind(settings("http://no-such-name.invalid")).await,
        Kind::NameNotResolved
    );

    let member = Member::start(None, |seen| match seen.target.as_str() {
        "/x" => Reply::Hangup,
        _ => Reply::Stall,
    })
    .await
    .expect("member");
    assert_eq!(kind(settings(&member.url())).await, Kind::Reset);
    // A GET is tried twice, not more.
    assert_eq!(member.seen().len(), 2);
    // A peer without TLS.
    assert_eq!(
        kind(settings(&member.url().replace("http", "https"))).await,
        Kind::Tls
    );
    let mut forward = to("/stall");
    forward.answer_within = Some(Some(Duration::from_millis(50)));
    let error = soon(upstream(&member.url()).send(get("/stall"), forward))
        .await
        .expect_err("no answer");
    assert_eq!(error.kind(), Kind::Timeout);
}

#[tokio::test]
async fn each_fault_of_tls_has_its_kind() {
    let ours = Authority::new().expect("authority");
    let other = Authority::new().expect("authority");
    let ok = |_: &_| answer(200, "text/plain", "ok");
    let trust = |url: &str, authority: &Authority| {
        let mut settings = settings(url);
        settings.tls.roots = Roots::Pem(authority.pem().into());
        settings
    };
    let serve = |name: &str, expired: bool, clients: Option<&Authority>| {
        ours.issue(name, expired)
            .expect("certificate")
            .server(clients)
            .expect("config")
    };

    let good = Member::start(Some(serve("127.0.0.1", false, None)), ok)
        .await
        .expect("member");
    assert_eq!(kind(trust(&good.url(), &other)).await, Kind::TlsUntrusted);
    assert_eq!(kind(settings(&good.url())).await, Kind::TlsUntrusted);
    let expired = Member::start(Some(serve("127.0.0.1", true, None)), ok)
        .await
        .expect("member");
    assert_eq!(kind(trust(&expired.url(), &ours)).await, Kind::TlsExpired);
    let named = Member::start(Some(serve("member.example", false, None)), ok)
        .await
        .expect("member");
    assert_eq!(kind(trust(&named.url(), &ours)).await, Kind::TlsName);
    let mut by_name = trust(&named.url(), &ours);
    by_name.tls.server_name = Some("member.example".into());
    let answered = soon(
        Upstream::new(by_name)
            .expect("upstream")
            .send(get("/x"), to("/x")),
    )
    .await;
    assert_eq!(answered.expect("answer").status(), 200);

    let closed = Member::start(Some(serve("127.0.0.1", false, Some(&ours))), ok)
        .await
        .expect("member");
    assert_eq!(
        kind(trust(&closed.url(), &ours)).await,
        Kind::CertificateRefused
    );
    let mut stranger = trust(&closed.url(), &ours);
    let pair = other.issue("somebody", false).expect("certificate");
    stranger.tls.client_certificate = Some(ClientCertificate {
        chain: pair.certificate.into(),
        key: pair.key.into(),
    });
    // The alert may be lost when the server closes with unread bytes of ours.
    assert!(matches!(
        kind(stranger).await,
        Kind::CertificateRefused | Kind::Reset
    ));

    let mut careless = settings(&expired.url());
    careless.tls = TlsSettings {
        verify: Verify::Nothing,
        ..TlsSettings::default()
    };
    let answered = soon(
        Upstream::new(careless)
            .expect("upstream")
            .send(get("/x"), to("/x")),
    )
    .await;
    assert_eq!(answered.expect("answer").status(), 200);
}

/// Answers every connection with these bytes.
async fn raw(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listen");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(bytes).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn w8_answers_with_doubtful_framing_are_refused() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\nabcd",
        b"this is not HTTP\r\n\r\n",
    ] {
        let error = soon(upstream(&raw(bytes).await).send(get("/x"), to("/x")))
            .await
            .err();
        assert_eq!(
            error.expect("refused").kind(),
            Kind::Malformed,
            "{}",
            String::from_utf8_lossy(bytes)
        );
    }
}

#[tokio::test]
async fn s10_an_endless_head_is_cut() {
    let mut bytes = b"HTTP/1.1 200 OK\r\n".to_vec();
    bytes.resize(1024 * 1024, b'a');
    let error = soon(upstream(&raw(bytes.leak()).await).send(get("/x"), to("/x")))
        .await
        .err();
    assert!(matches!(
        error.expect("refused").kind(),
        Kind::Malformed | Kind::Reset
    ));
}

/// Sends raw bytes to a forwarding server and returns all that comes back.
async fn exchange(bytes: &[u8], member: &Member) -> String {
    let address = front(upstream(&member.url())).await;
    let mut client = tokio::net::TcpStream::connect(address)
        .await
        .expect("connect");
    client.write_all(bytes).await.expect("write");
    let mut text = Vec::new();
    let _ = tokio::time::timeout(Duration::from_millis(500), client.read_to_end(&mut text)).await;
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn w8_smuggled_requests_never_arrive() {
    for bytes in [
        // CL.TE and TE.CL
        &b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"[..],
        b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\nContent-Length: 3\r\n\r\nabcGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 35\r\n\r\nabcGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nX: y\n\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n\r\nabc",
        b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\nContent-Length: 3\r\n\r\nabcGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        let member = Member::start(None, |_| answer(200, "text/plain", "ok")).await.expect("member");
        let text = exchange(bytes, &member).await;
        let shown = String::from_utf8_lossy(bytes);
        // Either the doubtful request is refused, or what follows it was plainly a request of its own, seen as such on both sides.
        let answers = text.matches("HTTP/1.1 200").count();
        assert_eq!(member.seen().len(), answers, "{shown}\n{text}");
        for seen in member.seen() {
            let framings = seen.headers.get_all("content-length").iter().count()
                + seen.headers.get_all("transfer-encoding").iter().count();
            assert!(framings <= 1, "{shown}: {seen:?}");
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_the_callers_fault() {
    let member = Member::start(None, |_| Reply::Echo).await.expect("member");
    let upstream = upstream(&member.url());
    let address = front(upstream.clone()).await;
    let mut client = tokio::net::TcpStream::connect(address)
        .await
        .expect("connect");
    client
        .write_all(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc")
        .await
        .expect("write");
    until("the request arrives", || member.seen().len() == 1).await;
    drop(client);
    until("nothing stays open", || {
        upstream.open().requests == 0 && upstream.open().connections == 0
    })
    .await;
}
