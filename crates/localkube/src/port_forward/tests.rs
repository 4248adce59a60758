//! A client's half of the protocol, spoken by hand, against real sockets.

use std::net::Ipv4Addr;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;

use super::*;

/// A client that writes frames and reads answers.
struct Client {
    stream: DuplexStream,
    headers: headers::Writer,
    answers: headers::Reader,
}

#[derive(Debug, PartialEq)]
enum Heard {
    Reply(u32),
    Data(u32, String),
    End(u32),
    Reset(u32, u32),
    Ping(u32),
    GoAway,
}

impl Client {
    /// A client of a Pod at 127.0.0.1.
    fn start() -> (Client, tokio::task::JoinHandle<Result<(), Error>>) {
        let (stream, server) = tokio::io::duplex(1 << 16);
        let pod = Pod {
            name: "web".to_owned(),
            uid: "u".to_owned(),
            resolve: Arc::new(|port| {
                Box::pin(async move { Ok((Ipv4Addr::LOCALHOST, port).into()) })
            }),
        };
        let served = tokio::spawn(async move { serve(server, &pod).await });
        let client = Client {
            stream,
            headers: headers::Writer::new().expect("zlib"),
            answers: headers::Reader::new(),
        };
        (client, served)
    }

    async fn control(&mut self, kind: u16, content: &[u8]) {
        let mut frame = BytesMut::new();
        frame.put_u16(0x8003);
        frame.put_u16(kind);
        frame.put_u32(u32::try_from(content.len()).expect("short"));
        frame.put_slice(content);
        self.stream.write_all(&frame).await.expect("sent");
    }

    async fn open(&mut self, id: u32, kind: &str, port: &str, request: &str) {
        let mut headers = vec![("streamtype", kind), ("port", port)];
        if !request.is_empty() {
            headers.push(("requestid", request));
        }
        let block = self.headers.write(&headers).expect("a block");
        let content = [&id.to_be_bytes()[..], &[0; 6], &block].concat();
        self.control(1, &content).await;
    }

    async fn data(&mut self, id: u32, text: &[u8], fin: bool) {
        let mut frame = BytesMut::new();
        frame.put_u32(id);
        frame.put_u32(u32::from(fin) << 24 | u32::try_from(text.len()).expect("short"));
        frame.put_slice(text);
        self.stream.write_all(&frame).await.expect("sent");
    }

    async fn hear(&mut self) -> Heard {
        let (first, second) = (
            self.stream.read_u32().await.expect("a frame"),
            self.stream.read_u32().await.expect("a frame"),
        );
        let mut content = vec![0; (second & 0x00ff_ffff) as usize];
        self.stream.read_exact(&mut content).await.expect("content");
        let word =
            |at: usize| u32::from_be_bytes(content[at..at + 4].try_into().expect("four bytes"));
        match first {
            0x8003_0002 => {
                assert_eq!(self.answers.read(&content[4..]).expect("a block"), []);
                Heard::Reply(word(0))
            }
            0x8003_0003 => Heard::Reset(word(0), word(4)),
            0x8003_0006 => Heard::Ping(word(0)),
            0x8003_0007 => Heard::GoAway,
            id if second >> 24 & 1 == 1 => {
                assert!(content.is_empty());
                Heard::End(id)
            }
            id => Heard::Data(id, String::from_utf8(content).expect("text")),
        }
    }
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port.to_string())
}

#[tokio::test]
async fn bytes_go_both_ways_and_a_closed_half_lets_the_other_speak() {
    let (listener, port) = listener().await;
    let (mut client, served) = Client::start();
    client.open(1, "error", &port, "0").await;
    client.data(1, b"", true).await;
    client.open(3, "data", &port, "0").await;
    assert_eq!(client.hear().await, Heard::Reply(1));
    assert_eq!(client.hear().await, Heard::Reply(3));
    let (mut pod, _) = listener.accept().await.expect("a connection");
    client.data(3, b"question", true).await;
    let mut question = String::new();
    pod.read_to_string(&mut question).await.expect("all of it");
    assert_eq!(question, "question");
    pod.write_all(b"answer").await.expect("sent");
    assert_eq!(client.hear().await, Heard::Data(3, "answer".to_owned()));
    drop(pod);
    assert_eq!(client.hear().await, Heard::End(1));
    assert_eq!(client.hear().await, Heard::End(3));
    client.control(6, &7_u32.to_be_bytes()).await;
    assert_eq!(client.hear().await, Heard::Ping(7));
    drop(client);
    served.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_closed_port_is_told_on_the_error_stream() {
    let (listener, port) = listener().await;
    drop(listener);
    let (mut client, _served) = Client::start();
    // Without request IDs, as old clients do it.
    client.open(1, "error", &port, "").await;
    client.open(3, "data", &port, "").await;
    assert_eq!(client.hear().await, Heard::Reply(1));
    assert_eq!(client.hear().await, Heard::Reply(3));
    let text = format!(
        "error forwarding port {port} to pod web, uid u: dial tcp 127.0.0.1:{port}: connect: connection refused"
    );
    assert_eq!(client.hear().await, Heard::Data(1, text));
    assert_eq!(client.hear().await, Heard::End(1));
    assert_eq!(client.hear().await, Heard::End(3));
}

#[tokio::test]
async fn a_stream_that_the_client_resets_takes_its_connection_along() {
    let (listener, port) = listener().await;
    let (mut client, _served) = Client::start();
    client.open(1, "error", &port, "0").await;
    client.open(3, "data", &port, "0").await;
    let (mut pod, _) = listener.accept().await.expect("a connection");
    assert_eq!(client.hear().await, Heard::Reply(1));
    assert_eq!(client.hear().await, Heard::Reply(3));
    client.control(3, &[0, 0, 0, 3, 0, 0, 0, 5]).await;
    assert_eq!(client.hear().await, Heard::End(1));
    assert_eq!(pod.read(&mut [0; 1]).await.expect("the end"), 0);
}

#[tokio::test]
async fn bad_streams_are_refused_and_the_session_goes_on() {
    let (mut client, _served) = Client::start();
    client.open(1, "error", "0", "0").await;
    assert_eq!(client.hear().await, Heard::Reset(1, 5));
    client.open(3, "other", "80", "0").await;
    assert_eq!(client.hear().await, Heard::Reset(3, 5));
    client.open(2, "error", "80", "0").await;
    assert_eq!(client.hear().await, Heard::Reset(2, 1));
    client.open(3, "error", "80", "0").await;
    assert_eq!(client.hear().await, Heard::Reset(3, 1));
    // Settings, a window, and data of no stream.
    client.control(4, &0_u32.to_be_bytes()).await;
    client.control(9, &[0; 8]).await;
    client.data(99, b"lost", false).await;
    // Bytes before anyone takes them are bounded.
    client.open(5, "data", "80", "1").await;
    assert_eq!(client.hear().await, Heard::Reply(5));
    for _ in 0..9 {
        client.data(5, b"x", false).await;
    }
    assert_eq!(client.hear().await, Heard::Reset(5, 5));
}

#[tokio::test]
async fn who_does_not_speak_spdy_is_sent_away() {
    let (mut client, served) = Client::start();
    client
        .stream
        .write_all(&[0x80, 2, 0, 1, 0, 0, 0, 0])
        .await
        .expect("sent");
    assert_eq!(client.hear().await, Heard::GoAway);
    let ended = served.await.expect("no panic");
    assert!(matches!(ended, Err(Error::Version(2))), "{ended:?}");
}

#[tokio::test]
async fn much_goes_through_little_memory() {
    const MUCH: usize = 8 << 20;
    let (listener, port) = listener().await;
    let (mut client, _served) = Client::start();
    client.open(1, "error", &port, "0").await;
    client.open(3, "data", &port, "0").await;
    assert_eq!(client.hear().await, Heard::Reply(1));
    assert_eq!(client.hear().await, Heard::Reply(3));
    let (mut pod, _) = listener.accept().await.expect("a connection");
    let echo = tokio::spawn(async move {
        let (mut reader, mut writer) = pod.split();
        tokio::io::copy(&mut reader, &mut writer).await
    });
    let Client { stream, .. } = client;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sending = tokio::spawn(async move {
        for _ in 0..MUCH / (1 << 18) {
            let mut frame = BytesMut::new();
            frame.put_u32(3);
            frame.put_u32(1 << 18);
            frame.put_bytes(b'x', 1 << 18);
            writer.write_all(&frame).await.expect("sent");
        }
        let mut frame = BytesMut::new();
        frame.put_u32(3);
        frame.put_u32(1 << 24);
        writer.write_all(&frame).await.expect("sent");
        writer
    });
    let mut heard = 0;
    loop {
        let (id, length) = (
            reader.read_u32().await.expect("a frame"),
            reader.read_u32().await.expect("a frame"),
        );
        if length >> 24 == 1 {
            assert_eq!(id, 1);
            break;
        }
        let mut content = vec![0; length as usize];
        reader.read_exact(&mut content).await.expect("content");
        heard += content.len();
    }
    assert_eq!(heard, MUCH);
    sending.await.expect("all sent");
    assert_eq!(echo.await.expect("no panic").expect("echoed"), MUCH as u64);
}
