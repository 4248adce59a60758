//! `pods/NAME/exec`: a small built-in shell in the Pod's own folder. It never runs a program of the machine.
//!
//! The protocol is `v5.channel.k8s.io` or `v4.channel.k8s.io` over a websocket: each binary message is one
//! byte naming the channel, then its content (`k8s.io/apimachinery/pkg/util/remotecommand`).

mod root;
mod shell;
mod terminal;
mod words;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::Response;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connect::{Body, Connect, refuse};
use crate::status::ApiError;
use crate::websocket::{self, Handshake};
use root::Root;
use shell::{Shell, Stream};
use terminal::{INTERRUPT, Input};

const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
/// v5: the channel named by the next byte has ended.
const CLOSE: u8 = 255;
/// Messages that wait in either direction.
const QUEUE: usize = 16;

/// Where commands run.
pub struct Target {
    /// Nothing outside of this folder can be reached.
    pub root: PathBuf,
    /// What `env` shows.
    pub variables: Vec<(String, String)>,
    /// Ends every session.
    pub stopped: CancellationToken,
    /// Owns the sessions.
    pub tasks: TaskTracker,
}

/// Answers a request for exec.
pub fn answer(target: Result<Target, ApiError>, connect: Connect) -> Response<Body> {
    match target.and_then(|target| start(target, connect)) {
        Ok(response) => response,
        Err(error) => refuse(&error),
    }
}

struct Session {
    command: Vec<String>,
    stdin: bool,
    terminal: bool,
}

fn start(target: Target, connect: Connect) -> Result<Response<Body>, ApiError> {
    let mut request = connect.request;
    let query = request.uri().query().unwrap_or_default().to_owned();
    let session = session(&query)?;
    let protocol = websocket::value(request.headers(), "upgrade").to_ascii_lowercase();
    if protocol.contains("spdy") {
        return Err(ApiError::bad_request(
            "localkube speaks websocket for exec, not SPDY/3.1: use kubectl 1.30 or newer",
        ));
    }
    if protocol != "websocket" {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    let handshake = Handshake::read(request.headers(), &PROTOCOLS)?;
    let root = Root::open(&target.root)
        .map_err(|error| ApiError::internal(format!("open the pod's folder: {error}")))?;
    let upgrade = hyper::upgrade::on(&mut request);
    target.tasks.clone().spawn(async move {
        let upgraded = tokio::select! {
            () = target.stopped.cancelled() => return,
            upgraded = upgrade => match upgraded {
                Ok(upgraded) => TokioIo::new(upgraded),
                Err(error) => {
                    tracing::debug!(%error, "an exec session did not come about");
                    return;
                }
            },
        };
        let socket = websocket::open(upgraded).await;
        tokio::select! {
            () = target.stopped.cancelled() => {}
            () = serve(socket, root, target.variables, session) => {}
        }
    });
    Ok(handshake.response())
}

fn session(query: &str) -> Result<Session, ApiError> {
    let mut session = Session {
        command: Vec::new(),
        stdin: false,
        terminal: false,
    };
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let truth = !matches!(value.as_ref(), "false" | "0" | "");
        match key.as_ref() {
            "command" => session.command.push(value.into_owned()),
            "stdin" => session.stdin = truth,
            "tty" => session.terminal = truth,
            _ => {}
        }
    }
    if session.command.is_empty() {
        return Err(ApiError::bad_request(
            "you must specify at least one command",
        ));
    }
    Ok(session)
}

fn message(channel: u8, content: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(content.len() + 1);
    bytes.put_u8(channel);
    bytes.put_slice(content);
    Message::Binary(bytes.freeze())
}

async fn serve<S>(
    socket: WebSocketStream<S>,
    root: Root,
    variables: Vec<(String, String)>,
    session: Session,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut sink, mut stream) = socket.split();
    let (typed, receiver) = mpsc::channel(QUEUE);
    let (output, mut printed) = mpsc::channel(QUEUE);
    let interrupt = Arc::new(Notify::new());
    let terminal = session.terminal;
    let mut shell = Shell {
        root,
        folder: "/".to_owned(),
        variables,
        input: Input::new(receiver, terminal, interrupt.clone()),
        output,
        last: 0,
        left: false,
    };
    let command = session.command;
    // An empty message tells the client that the connection stands.
    if sink.send(message(STDOUT, b"")).await.is_err() {
        return;
    }
    let running = async move { shell.run(&command).await };
    let writing = async {
        while let Some((stream, bytes)) = printed.recv().await {
            let channel = match stream {
                Stream::Stderr if !terminal => STDERR,
                _ => STDOUT,
            };
            let bytes = if terminal {
                with_returns(&bytes)
            } else {
                bytes
            };
            sink.send(message(channel, &bytes)).await?;
        }
        Ok::<_, tokio_tungstenite::tungstenite::Error>(())
    };
    let reading = async {
        let mut typed = session.stdin.then_some(typed);
        while let Some(Ok(received)) = stream.next().await {
            let Message::Binary(bytes) = received else {
                if matches!(received, Message::Close(_)) {
                    return;
                }
                continue;
            };
            match bytes.split_first() {
                Some((&STDIN, content)) if !content.is_empty() => {
                    if terminal && content.contains(&INTERRUPT) {
                        interrupt.notify_waiters();
                    }
                    if let Some(typed) = &typed {
                        // Nobody may be reading any more; the rest of the session goes on without it.
                        let _ = typed.send(bytes.slice(1..)).await;
                    }
                }
                Some((&CLOSE, [STDIN])) => typed = None,
                // Sizes of the terminal change nothing here.
                _ => {}
            }
        }
    };
    let finished = async { tokio::join!(running, writing) };
    let (code, written) = tokio::select! {
        finished = finished => finished,
        () = reading => return,
    };
    if written.is_err() {
        return;
    }
    let _ = sink
        .send(message(ERROR, verdict(code).to_string().as_bytes()))
        .await;
    // Clients take anything but a normal closure for a failure.
    let normal = CloseFrame {
        code: CloseCode::Normal,
        reason: Default::default(),
    };
    let _ = sink.send(Message::Close(Some(normal))).await;
    let _ = sink.close().await;
}

/// A terminal begins a new line only where it is told to return as well.
fn with_returns(bytes: &Bytes) -> Bytes {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    for byte in bytes {
        if *byte == b'\n' {
            out.push(b'\r');
        }
        out.push(*byte);
    }
    out.into()
}

/// The Status on the error channel that ends a session.
fn verdict(code: u8) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}
