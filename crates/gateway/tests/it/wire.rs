//! The listener: what arrives as bytes.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use kah_gateway::{ServerLimits, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::room::Room;

struct Wire {
    room: Room,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Wire {
    async fn start() -> Self {
        Self::within(ServerLimits {
            head_within: Duration::from_millis(300),
            drain: Duration::from_millis(300),
            ..ServerLimits::default()
        })
        .await
    }

    async fn within(limits: ServerLimits) -> Self {
        let room = Room::host().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(
            listener,
            kah_gateway::Encryption::None,
            room.gateway.clone(),
            limits,
            stop.clone(),
        ));
        Self {
            room,
            address,
            stop,
            serving,
        }
    }

    /// Sends bytes and reads until the other side closes.
    async fn say(&self, bytes: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let (mut read, mut write) = stream.split();
        // The server may answer, and close, before it has read everything.
        let _ = write.write_all(bytes.as_bytes()).await;
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        while let Ok(Ok(n @ 1..)) =
            tokio::time::timeout(Duration::from_secs(5), read.read(&mut chunk)).await
        {
            answer.extend_from_slice(&chunk[..n]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[tokio::test]
async fn the_401_on_the_wire() {
    let wire = Wire::start().await;
    let answer = wire.say("GET /kapis/version HTTP/1.1\r\nhost: x\r\nauthorization: Bearer unknown\r\nconnection: close\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("HTTP/1.1 401 Unauthorized"));
    let mut names: Vec<_> = lines
        .map(|line| line.split(':').next().unwrap().to_ascii_lowercase())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["connection", "content-length", "content-type", "date"]
    );
    assert!(body.ends_with("\"code\":401}\n"), "{body}");
}

#[tokio::test]
async fn j4_an_oversized_head_is_refused_in_bounded_time() {
    let wire = Wire::start().await;
    let token = "a".repeat(1 << 20);
    let answer = wire
        .say(&format!(
            "GET /healthz HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
        ))
        .await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    // Half a head is not waited for.
    assert!(
        !wire
            .say("GET /healthz HTTP/1.1\r\nhost: x\r\nauthor")
            .await
            .contains("200 OK")
    );
    assert!(
        wire.say("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .ends_with("ok")
    );
}

#[tokio::test]
async fn w8_requests_do_not_hide_in_others() {
    let wire = Wire::start().await;
    let hidden = "GET /api/v1/smuggled HTTP/1.1\r\nhost: x\r\nauthorization: Bearer admin\r\n\r\n";
    for head in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5, 6\r\n",
        "content-length: +5\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding : chunked\r\n",
        "bad\u{1}name: x\r\n",
    ] {
        let answer = wire.say(&format!("POST /clusters/m1/api/v1/pods HTTP/1.1\r\nhost: x\r\nauthorization: Bearer weak\r\n{head}\r\n0\r\n\r\n{hidden}")).await;
        assert!(
            answer.starts_with("HTTP/1.1 400") || answer.is_empty(),
            "{head:?}: {answer}"
        );
    }
    // Both: the length goes, the chunks decide, and what follows is a request of its own to everybody.
    let both = "POST /clusters/m1/api/v1/pods HTTP/1.1\r\nhost: x\r\nauthorization: Bearer weak\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n";
    wire.say(both).await;
    for seen in wire.room.member.seen.lock().unwrap().iter() {
        assert_eq!(seen.target, "/api/v1/pods");
        assert!(
            !(seen.headers.contains_key("content-length")
                && seen.headers.contains_key("transfer-encoding"))
        );
    }
    assert_eq!(wire.room.kube.count(), 0);
}

#[tokio::test]
async fn w2_a_refused_upgrade_leaves_no_connection() {
    let wire = Wire::start().await;
    // The stand-in answers 200 to an upgrade, so nothing may be spliced; a second request must not reach it on the same connection.
    let upgrade = "GET /clusters/m1/api/v1/namespaces/a/pods/b/exec?command=ls HTTP/1.1\r\nhost: x\r\nauthorization: Bearer weak\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    let hidden = "GET /secret HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = wire.say(&format!("{upgrade}{hidden}")).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert_eq!(wire.room.member.count(), 1, "once, and nothing behind it");
}

#[tokio::test]
async fn the_end_is_graceful_and_bounded() {
    let wire = Wire::start().await;
    let mut idle = TcpStream::connect(wire.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    wire.stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), wire.serving)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(wire.address).await.is_err());
}

/// Whoever connects and then says nothing, or half of something, keeps nobody out.
#[tokio::test]
async fn w11_silent_connections_make_room_for_those_who_ask() {
    const ALLOWED: usize = 8;
    let wire = Wire::within(ServerLimits {
        connections: ALLOWED,
        grace: Duration::from_millis(1),
        head_within: Duration::from_secs(600),
        ..ServerLimits::default()
    })
    .await;
    let mut silent = Vec::new();
    for number in 0..20 * ALLOWED {
        let mut stream = TcpStream::connect(wire.address).await.unwrap();
        let said: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET /healthz HTTP/1.1\r\nhost: x\r\nauthor",
            _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        };
        // It may have had to go already.
        let _ = stream.write_all(said).await;
        silent.push(stream);
        if number % ALLOWED == 0 {
            let answer = wire
                .say("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .await;
            assert!(answer.ends_with("ok"), "{number}: {answer}");
        }
    }
    // All but as many as may be have been closed.
    let mut closed = 0;
    for stream in &mut silent {
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        closed += usize::from(
            tokio::time::timeout(Duration::from_millis(20), read)
                .await
                .is_ok(),
        );
    }
    assert!(closed >= silent.len() - ALLOWED, "{closed}");
}

/// Set in the process that may have few files only.
const FEW_FILES: &str = "KAH_TEST_FEW_FILES";
const HEALTHZ: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
const FORWARDED: &str = "GET /clusters/m1/api/v1/pods HTTP/1.1\r\nhost: x\r\nauthorization: Bearer weak\r\nconnection: close\r\n\r\n";

/// Says where it listens, and serves until its standard input ends.
#[expect(clippy::print_stdout, reason = "its parent reads it")]
#[tokio::main(flavor = "current_thread")]
async fn serve_with_few_files() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let wire = Wire::within(ServerLimits {
        grace: Duration::from_millis(1),
        head_within: Duration::from_secs(600),
        ..ServerLimits::default()
    })
    .await;
    println!("\nlistens at {}", wire.address);
    let mut input = tokio::io::stdin();
    while let Ok(1..) = input.read(&mut [0; 64]).await {}
}

/// Runs itself once more, in a process that may have few files only.
#[test]
fn a_process_without_files_makes_room_and_answers_again() {
    if std::env::var_os(FEW_FILES).is_some() {
        serve_with_few_files();
        return;
    }
    let name = "wire::a_process_without_files_makes_room_and_answers_again";
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 48 && exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(FEW_FILES, "1")
        // It ends with this process.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| {
        let line = line.unwrap();
        line.strip_prefix("listens at ").map(str::to_owned)
    });
    let address = address.expect("it listens");
    // Reads it all, or what has come after half a minute of silence.
    let ask = |text: &str| {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        let limit = Duration::from_secs(30);
        stream.set_read_timeout(Some(limit)).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    };
    assert!(ask(FORWARDED).starts_with("HTTP/1.1 200"));

    let silent: Vec<_> = (0..64)
        .map(|_| std::net::TcpStream::connect(&address).unwrap())
        .collect();
    // Whoever asks is last in the queue.
    let answer = ask(HEALTHZ);
    assert!(answer.ends_with("ok"), "{answer:?}");
    drop(silent);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !ask(FORWARDED).starts_with("HTTP/1.1 200") {
        assert!(Instant::now() < deadline, "it does not come back");
    }

    drop(child.stdin.take());
    let ended = child.wait_with_output().unwrap();
    let log = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success(), "{log}");
    // Whoever keeps it so does not fill the log as well.
    assert_eq!(log.matches("Too many open files").count(), 1, "{log}");
}
