use std::sync::Arc;

use http::Version;
use kah_net::{Kind, Open};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use crate::{
    front, front_until, get,
    member::{Member, Reply, answer, status},
    over_tls, soon, to, until, upstream,
};

const SPDY: &str = "POST /exec?command=sh HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
    X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n";
const WEBSOCKET: &str = "GET /exec?command=sh HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n";

async fn head(client: &mut TcpStream) -> String {
    let mut text = String::new();
    while !text.contains("\r\n\r\n") {
        let byte = soon(client.read_u8()).await.expect("head");
        text.push(char::from(byte));
    }
    text
}

async fn ping(client: &mut TcpStream, words: &str) {
    client.write_all(words.as_bytes()).await.expect("write");
    let mut back = vec![0; words.len()];
    soon(client.read_exact(&mut back)).await.expect("read");
    assert_eq!(back, words.as_bytes());
}

#[tokio::test]
async fn upgrades_are_spliced_and_sent_once() {
    for (request, protocol) in [(SPDY, "SPDY/3.1"), (WEBSOCKET, "websocket")] {
        let member = Member::start(None, |_| Reply::Upgrade)
            .await
            .expect("member");
        let upstream = upstream(&member.url());
        let mut client = TcpStream::connect(front(upstream.clone()).await)
            .await
            .expect("connect");
        // The first bytes of the new protocol may come right behind the request.
        client
            .write_all(format!("{request}early").as_bytes())
            .await
            .expect("write");
        let head = head(&mut client).await.to_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(
            head.contains(&format!("upgrade: {}", protocol.to_lowercase())),
            "{head}"
        );
        let mut early = [0; 5];
        soon(client.read_exact(&mut early)).await.expect("read");
        assert_eq!(&early, b"early");
        ping(&mut client, &"x".repeat(100_000)).await;
        assert_eq!(upstream.open().splices, 1);
        assert_eq!((member.seen().len(), member.opened()), (1, 1));
        let seen = member.seen().remove(0);
        assert_eq!(seen.header("upgrade"), protocol);
        assert_eq!(seen.target, "/exec?command=sh");
        // Half-closed: the echo still ends by itself.
        client.shutdown().await.expect("shutdown");
        let mut rest = Vec::new();
        soon(client.read_to_end(&mut rest)).await.expect("read");
        until("nothing stays open", || {
            upstream.open() == Open::default() && member.connections() == 0
        })
        .await;
    }
}

#[tokio::test]
async fn w5_a_spliced_connection_and_an_answer_end_with_their_request() {
    let member = Member::start(None, |seen| {
        if seen.target.starts_with("/exec") {
            return Reply::Upgrade;
        }
        let (sender, reply) = crate::member::stream();
        let _ = sender.try_send(Ok("first".into()));
        // The answer goes on for as long as somebody could send.
        std::mem::forget(sender);
        reply
    })
    .await
    .expect("member");
    let upstream = upstream(&member.url());
    let ends = Arc::new(CancellationToken::new());
    let address = front_until(upstream.clone(), Some(ends.clone())).await;
    let mut terminal = TcpStream::connect(address).await.expect("connect");
    terminal.write_all(SPDY.as_bytes()).await.expect("write");
    assert!(head(&mut terminal).await.starts_with("HTTP/1.1 101"));
    ping(&mut terminal, "alive").await;
    let mut watch = TcpStream::connect(address).await.expect("connect");
    let request = "GET /watch HTTP/1.1\r\nHost: h\r\n\r\n";
    watch.write_all(request.as_bytes()).await.expect("write");
    assert!(head(&mut watch).await.starts_with("HTTP/1.1 200"));
    ends.cancel();
    let mut rest = Vec::new();
    soon(terminal.read_to_end(&mut rest))
        .await
        .expect("the end");
    assert!(rest.is_empty());
    // Broken off, not ended well: chunked, and without the last chunk.
    let _ = soon(watch.read_to_end(&mut rest)).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
    until("nothing stays open", || upstream.open().splices == 0).await;
}

#[tokio::test]
async fn an_upgrade_over_tls_goes_over_http1() {
    let (member, upstream) = over_tls(|_| Reply::Upgrade).await;
    let mut client = TcpStream::connect(front(upstream.clone()).await)
        .await
        .expect("connect");
    client.write_all(SPDY.as_bytes()).await.expect("write");
    assert!(head(&mut client).await.starts_with("HTTP/1.1 101"));
    ping(&mut client, "over tls").await;
    assert_eq!(member.seen()[0].version, Version::HTTP_11);
    drop(client);
    until("nothing stays open", || {
        upstream.open() == Open::default() && member.connections() == 0
    })
    .await;
}

#[tokio::test]
async fn w2_a_refused_upgrade_leaves_no_raw_connection() {
    let member = Member::start(None, |_| status(403, "Forbidden", "no"))
        .await
        .expect("member");
    let upstream = upstream(&member.url());
    let mut client = TcpStream::connect(front(upstream.clone()).await)
        .await
        .expect("connect");
    let smuggled = "GET /secret HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer x\r\n\r\n";
    client.write_all(WEBSOCKET.as_bytes()).await.expect("write");
    assert!(head(&mut client).await.starts_with("HTTP/1.1 403"));
    until("nothing stays open", || {
        upstream.open() == Open::default() && member.connections() == 0
    })
    .await;
    // What comes next is a request like any other, on another connection and without what the client must not send.
    client.write_all(smuggled.as_bytes()).await.expect("write");
    until("the second request arrives", || member.seen().len() == 2).await;
    let second = member.seen().remove(1);
    assert_eq!(
        (second.connection, second.header("authorization").as_str()),
        (2, "")
    );
}

#[tokio::test]
async fn s4_an_upgrade_answered_otherwise_is_an_error() {
    for code in [200, 204, 302] {
        let member = Member::start(None, move |_| answer(code, "text/plain", ""))
            .await
            .expect("member");
        let upstream = upstream(&member.url());
        let mut client = TcpStream::connect(front(upstream.clone()).await)
            .await
            .expect("connect");
        client.write_all(SPDY.as_bytes()).await.expect("write");
        assert!(head(&mut client).await.starts_with("HTTP/1.1 502"));
        let mut words = [0; 14];
        soon(client.read_exact(&mut words)).await.expect("read");
        assert_eq!(&words, b"InvalidUpgrade");
        until("nothing stays open", || {
            upstream.open() == Open::default() && member.connections() == 0
        })
        .await;
        assert_eq!(member.seen().len(), 1);
    }
}

#[tokio::test]
async fn either_end_that_dies_ends_the_other() {
    let member = Member::start(None, |_| Reply::Upgrade)
        .await
        .expect("member");
    let upstream = upstream(&member.url());
    let address = front(upstream.clone()).await;
    let mut client = TcpStream::connect(address).await.expect("connect");
    client.write_all(SPDY.as_bytes()).await.expect("write");
    head(&mut client).await;
    ping(&mut client, "hello").await;
    drop(client);
    until("the client's end is passed on", || {
        upstream.open() == Open::default() && member.connections() == 0
    })
    .await;

    let mut client = TcpStream::connect(address).await.expect("connect");
    client.write_all(SPDY.as_bytes()).await.expect("write");
    head(&mut client).await;
    ping(&mut client, "hello").await;
    member.kill().await;
    let mut rest = Vec::new();
    let _ = soon(client.read_to_end(&mut rest)).await;
    drop(client);
    until("the upstream's end is passed on", || {
        upstream.open() == Open::default()
    })
    .await;
}

#[tokio::test]
async fn closing_an_upstream_ends_its_splices() {
    let member = Member::start(None, |_| Reply::Upgrade)
        .await
        .expect("member");
    let upstream = upstream(&member.url());
    let mut client = TcpStream::connect(front(upstream.clone()).await)
        .await
        .expect("connect");
    client.write_all(SPDY.as_bytes()).await.expect("write");
    head(&mut client).await;
    ping(&mut client, "hello").await;
    upstream.close();
    let mut rest = Vec::new();
    let _ = soon(client.read_to_end(&mut rest)).await;
    until("nothing stays open", || {
        upstream.open() == Open::default() && member.connections() == 0
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_that_cannot_be_made_is_not_sent() {
    let member = Member::start(None, |_| Reply::Upgrade)
        .await
        .expect("member");
    let mut request = get("/exec");
    request
        .headers_mut()
        .insert("connection", "upgrade".parse().expect("value"));
    request
        .headers_mut()
        .insert("upgrade", "websocket".parse().expect("value"));
    let error = soon(upstream(&member.url()).send(request, to("/exec")))
        .await
        .expect_err("refused");
    assert_eq!((error.kind(), member.opened()), (Kind::Request, 0));
}
