use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use kah_net::{Kind, Open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    front, get,
    member::{Member, Reply, answer, stream},
    over_tls, soon, to, until, upstream,
};

/// A member whose first answer is a stream under the test's control.
async fn watching() -> (Member, tokio::sync::mpsc::Sender<std::io::Result<Bytes>>) {
    let (sender, reply) = stream();
    let reply = Mutex::new(Some(reply));
    let member = Member::start(None, move |_| {
        reply
            .lock()
            .expect("lock")
            .take()
            .unwrap_or_else(|| answer(200, "text/plain", "again"))
    })
    .await
    .expect("member");
    (member, sender)
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let (member, events) = watching().await;
    let upstream = upstream(&member.url());
    let mut answer = soon(upstream.send(get("/watch"), to("/watch")))
        .await
        .expect("answer")
        .into_body();
    for event in ["one", "two", "three"] {
        events.send(Ok(Bytes::from(event))).await.expect("send");
        let frame = soon(answer.frame()).await.expect("frame").expect("data");
        assert_eq!(frame.into_data().ok().as_deref(), Some(event.as_bytes()));
    }
    drop(events);
    assert!(soon(answer.frame()).await.is_none());
    drop(answer);
    assert_eq!(upstream.open().requests, 0);
}

#[tokio::test]
async fn an_upstream_that_dies_ends_the_stream_with_an_error() {
    let (member, events) = watching().await;
    let upstream = upstream(&member.url());
    let address = front(upstream.clone()).await;
    let mut client = tokio::net::TcpStream::connect(address)
        .await
        .expect("connect");
    client
        .write_all(b"GET /watch HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .expect("write");
    events.send(Ok(Bytes::from("event"))).await.expect("send");
    let mut buffer = vec![0; 4096];
    let mut text = String::new();
    while !text.contains("event") {
        let length = soon(client.read(&mut buffer)).await.expect("read");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    member.kill().await;
    let mut rest = Vec::new();
    let _ = soon(client.read_to_end(&mut rest)).await;
    // Well ended would be a chunk of length 0.
    assert!(
        !String::from_utf8_lossy(&rest).contains("0\r\n\r\n"),
        "{rest:?}"
    );
    until("nothing stays open", || upstream.open() == Open::default()).await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_request_at_the_upstream() {
    let (member, events) = watching().await;
    let upstream = upstream(&member.url());
    let address = front(upstream.clone()).await;
    let mut client = tokio::net::TcpStream::connect(address)
        .await
        .expect("connect");
    client
        .write_all(b"GET /watch HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .expect("write");
    events.send(Ok(Bytes::from("event"))).await.expect("send");
    let mut buffer = vec![0; 4096];
    assert!(soon(client.read(&mut buffer)).await.expect("read") > 0);
    drop(client);
    soon(events.closed()).await;
    until("nothing stays open", || {
        upstream.open() == Open::default() && member.connections() == 0
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_ends_the_request() {
    let member = Member::start(None, |_| Reply::Stall).await.expect("member");
    let upstream = upstream(&member.url());
    let address = front(upstream.clone()).await;
    let mut client = tokio::net::TcpStream::connect(address)
        .await
        .expect("connect");
    client
        .write_all(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .expect("write");
    until("it arrives", || member.seen().len() == 1).await;
    drop(client);
    until("nothing stays open", || {
        upstream.open() == Open::default() && member.connections() == 0
    })
    .await;
}

#[tokio::test]
async fn closing_an_upstream_breaks_its_answers_off() {
    let (member, events) = watching().await;
    let upstream = upstream(&member.url());
    let mut answer = soon(upstream.send(get("/watch"), to("/watch")))
        .await
        .expect("answer")
        .into_body();
    events.send(Ok(Bytes::from("event"))).await.expect("send");
    assert!(soon(answer.frame()).await.expect("frame").is_ok());
    upstream.close();
    assert!(soon(answer.frame()).await.expect("not a good end").is_err());
    drop(answer);
    until("nothing stays open", || {
        upstream.open() == Open::default() && member.connections() == 0
    })
    .await;
    let error = soon(upstream.send(get("/x"), to("/x")))
        .await
        .expect_err("closed");
    assert_eq!(error.kind(), Kind::Closed);
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back() {
    let member = Member::start(None, |_| Reply::Echo).await.expect("member");
    let upstream = upstream(&member.url());
    let chunk = Bytes::from(vec![7; 64 * 1024]);
    let produced = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = produced.clone();
    const TOTAL: usize = 1024;
    let chunks = futures::stream::iter((0..TOTAL).map(move |_| {
        count.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        Ok::<_, std::io::Error>(Frame::data(chunk.clone()))
    }));
    let request = Request::post("/x")
        .body(BodyExt::boxed_unsync(StreamBody::new(chunks)))
        .expect("request");
    let mut answer = soon(upstream.send(request, to("/x")))
        .await
        .expect("answer")
        .into_body();
    // Nobody reads: what is under way is bounded by the buffers between, far from the 64 MiB that wait.
    let mut before = usize::MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = produced.load(std::sync::atomic::Ordering::Acquire);
        if now == before {
            break;
        }
        before = now;
    }
    assert!(
        before < TOTAL / 2,
        "{before} chunks were taken without a reader"
    );
    let mut length = 0;
    while let Some(frame) = soon(answer.frame()).await {
        length += frame
            .expect("data")
            .into_data()
            .map(|data| data.len())
            .unwrap_or_default();
    }
    assert_eq!(length, TOTAL * 64 * 1024);
}

#[tokio::test]
async fn h6_trailers_do_not_pass() {
    let member = Member::start(None, |_| Reply::Echo).await.expect("member");
    let mut trailers = HeaderMap::new();
    trailers.insert("impersonate-user", HeaderValue::from_static("admin"));
    let frames = [Frame::data(Bytes::from("data")), Frame::trailers(trailers)];
    let body = StreamBody::new(futures::stream::iter(
        frames.into_iter().map(Ok::<_, std::io::Error>),
    ));
    let mut request = Request::post("/x")
        .body(BodyExt::boxed_unsync(body))
        .expect("request");
    request
        .headers_mut()
        .insert("trailer", HeaderValue::from_static("impersonate-user"));
    let answer = soon(upstream(&member.url()).send(request, to("/x")))
        .await
        .expect("answer");
    let answer = soon(answer.into_body().collect()).await.expect("body");
    assert!(answer.trailers().is_none());
    assert_eq!(answer.to_bytes(), "data");
    assert_eq!(member.seen()[0].header("trailer"), "");
}

#[tokio::test]
async fn s3_redirects_are_answers() {
    let member = Member::start(None, |_| {
        let Reply::Answer(mut response) = answer(302, "text/plain", "") else {
            unreachable!()
        };
        response.headers_mut().insert(
            "location",
            HeaderValue::from_static("http://169.254.169.254/"),
        );
        Reply::Answer(response)
    })
    .await
    .expect("member");
    let answer = soon(upstream(&member.url()).send(get("/x"), to("/x")))
        .await
        .expect("answer");
    assert_eq!((answer.status().as_u16(), member.seen().len()), (302, 1));
}

#[tokio::test]
async fn s10_answers_that_nobody_reads_hold_up_no_other_on_their_connection() {
    const UNREAD: usize = 60;
    let large = Bytes::from(vec![b'x'; 1024 * 1024]);
    let (member, upstream) = over_tls(move |seen| match seen.target.as_str() {
        "/large" => answer(200, "text/plain", large.clone()),
        _ => answer(200, "text/plain", "ok"),
    })
    .await;
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        let sent = soon(upstream.send(get("/large"), to("/large"))).await;
        unread.push(sent.expect("answer"));
        let small = soon(upstream.send(get("/x"), to("/x"))).await;
        let small = soon(small.expect("answer").into_body().collect()).await;
        assert_eq!(small.expect("body").to_bytes(), "ok");
    }
    assert_eq!(member.seen().pop().expect("seen").version, Version::HTTP_2);
}

/// What of an answer the host may hold while its reader does not read: 128 KiB, and what the member was just about to say.
#[tokio::test]
async fn s10_what_nobody_reads_stays_with_the_member() {
    const UNREAD: usize = 8;
    const SHARE: usize = 128 * 1024;
    let piece = Bytes::from(vec![b'x'; 16 * 1024]);
    let said: [Arc<AtomicUsize>; UNREAD] = Default::default();
    let counts = said.clone();
    let (_member, upstream) = over_tls(move |seen| {
        let Ok(number) = seen.target.trim_start_matches('/').parse::<usize>() else {
            return answer(200, "text/plain", "ok");
        };
        let (piece, count) = (piece.clone(), counts[number].clone());
        let endless = futures::stream::repeat_with(move || {
            count.fetch_add(piece.len(), Ordering::AcqRel);
            Ok(Frame::data(piece.clone()))
        });
        Reply::Answer(Response::new(StreamBody::new(endless).boxed_unsync()))
    })
    .await;
    let mut unread = Vec::new();
    for number in 0..UNREAD {
        let target = format!("/{number}");
        let sent = soon(upstream.send(get(&target), to(&target))).await;
        unread.push(sent.expect("answer"));
    }
    // Everybody has many turns meanwhile.
    for _ in 0..200 {
        let small = soon(upstream.send(get("/x"), to("/x"))).await;
        soon(small.expect("answer").into_body().collect())
            .await
            .expect("body");
    }
    for count in &said {
        let said = count.load(Ordering::Acquire);
        assert!((SHARE..=SHARE + 64 * 1024).contains(&said), "{said}");
    }
}

#[tokio::test]
async fn http2_carries_many_streams_and_more_connections_carry_more() {
    let (member, upstream) = over_tls(|seen| match seen.target.as_str() {
        "/stall" => Reply::Stall,
        _ => answer(200, "text/plain", "ok"),
    })
    .await;
    // More than one connection is given; servers allow 100 to 250 on one.
    let waiting: Vec<_> = (0..300)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(async move { upstream.send(get("/stall"), to("/stall")).await.map(drop) })
        })
        .collect();
    until("all arrive", || member.seen().len() == 300).await;
    let answer = soon(upstream.send(get("/x"), to("/x")))
        .await
        .expect("answer");
    assert_eq!(answer.status(), 200);
    drop(answer);
    assert_eq!(member.seen().pop().expect("seen").version, Version::HTTP_2);
    assert!((2..=8).contains(&member.opened()), "{}", member.opened());
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    until("no request stays open", || upstream.open().requests == 0).await;
    drop(upstream);
    until("no connection stays open", || member.connections() == 0).await;
}

#[tokio::test]
async fn a_restarted_upstream_is_found_again() {
    let (member, _events) = watching().await;
    let upstream = upstream(&member.url());
    let address = member.address();
    drop(
        soon(upstream.send(get("/watch"), to("/watch")))
            .await
            .expect("answer"),
    );
    member.kill().await;
    let error = soon(upstream.send(get("/x"), to("/x")))
        .await
        .expect_err("gone");
    assert_eq!(error.kind(), Kind::Unreachable);
    // The same port again, by a plain listener.
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .expect("listen");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
        }
    });
    // The connection is then closed without notice, in the moment in which the next request may use it.
    for _ in 0..20 {
        let answer = soon(upstream.send(get("/x"), to("/x")))
            .await
            .expect("answer");
        assert_eq!(answer.status(), 200);
    }
}
