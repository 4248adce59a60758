//! One client: its streams, tied into connections.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Pod;
use super::spdy::{self, Answer, CHUNK, Error, Frame, Frames, Reset};

/// Most streams of a client at a time; a connection takes two.
const STREAMS: usize = 1024;
/// Answers that wait to be written.
const ANSWERS: usize = 16;
/// Chunks of a stream that wait for the Pod to take them.
const CHUNKS: usize = 8;
/// How long the second stream of a connection may be missing.
const PAIRING: Duration = Duration::from_secs(30);
/// How long a Pod may take to accept a connection.
const CONNECTING: Duration = Duration::from_secs(30);

/// Serves a client until it leaves. Connections to the Pod end with it.
pub(super) async fn run<R, W>(reader: R, writer: W, pod: &Pod) -> Result<(), Error>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (answers, queue) = mpsc::channel(ANSWERS);
    let session = Session {
        pod,
        frames: Frames::new(reader),
        answers,
        streams: HashMap::new(),
        pairs: HashMap::new(),
        tasks: JoinSet::new(),
        last: 0,
    };
    let mut writing = std::pin::pin!(spdy::write(writer, queue));
    let read = tokio::select! {
        written = &mut writing => return written,
        read = session.read() => read,
    };
    // What is on its way still goes out; who does not take it has left.
    let _ = tokio::time::timeout(Duration::from_secs(1), writing).await;
    read
}

/// One of the two streams of a connection.
enum Half {
    Error(u32),
    Data {
        id: u32,
        input: mpsc::Receiver<Bytes>,
        stop: CancellationToken,
    },
}

/// A stream for bytes that is open.
struct Open {
    /// Towards the Pod, until the client has sent all.
    input: Option<mpsc::Sender<Bytes>>,
    /// What ties it to the stream for an error.
    request: String,
    /// Ends the connection to the Pod; cancelled once it has ended.
    stop: CancellationToken,
}

struct Session<'a, R> {
    pod: &'a Pod,
    frames: Frames<R>,
    answers: mpsc::Sender<Answer>,
    streams: HashMap<u32, Open>,
    /// Connections that wait for their second stream, by request ID.
    pairs: HashMap<String, oneshot::Sender<Half>>,
    tasks: JoinSet<()>,
    /// The last stream that was opened.
    last: u32,
}

impl<R: AsyncRead + Unpin> Session<'_, R> {
    async fn read(mut self) -> Result<(), Error> {
        let ended = loop {
            match self.frames.next().await {
                Ok(Some(frame)) => {
                    if let Err(error) = self.take(frame).await {
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if ended.is_err() {
            self.answer(Answer::GoAway { last: self.last }).await;
        }
        ended
    }

    /// Whether anybody still reads answers shows at the end of the session.
    async fn answer(&mut self, answer: Answer) {
        let _ = self.answers.send(answer).await;
    }

    async fn take(&mut self, frame: Frame) -> Result<(), Error> {
        match frame {
            Frame::Open { id, fin, headers } => {
                let answer = match self.open(id, fin, &headers) {
                    Ok(()) => Answer::Reply { id },
                    Err(why) => Answer::Reset { id, why },
                };
                self.answer(answer).await;
            }
            Frame::Reset { id } => {
                if let Some(open) = self.streams.remove(&id) {
                    open.stop.cancel();
                }
            }
            Frame::Ping { id } => self.answer(Answer::Ping { id }).await,
            Frame::Data { id, fin, length } => {
                let mut left = length;
                while left > 0 {
                    let chunk = self.frames.data(left).await?;
                    left -= chunk.len();
                    self.pass(id, chunk).await;
                }
                if fin && let Some(open) = self.streams.get_mut(&id) {
                    open.input = None;
                }
            }
            Frame::Other => {}
        }
        Ok(())
    }

    /// Passes bytes on to the Pod. What comes for a stream that has ended is dropped.
    async fn pass(&mut self, id: u32, chunk: Bytes) {
        let Some(open) = self.streams.get(&id) else {
            return;
        };
        let Some(input) = open.input.clone() else {
            return;
        };
        if self.pairs.contains_key(&open.request) {
            // Nobody takes it yet, and waiting here would keep the other stream from coming.
            if let Err(mpsc::error::TrySendError::Full(_)) = input.try_send(chunk) {
                open.stop.cancel();
                self.streams.remove(&id);
                let why = Reset::Cancel;
                self.answer(Answer::Reset { id, why }).await;
            }
            return;
        }
        let _ = input.send(chunk).await;
    }

    fn open(&mut self, id: u32, fin: bool, headers: &[(String, String)]) -> Result<(), Reset> {
        if id.is_multiple_of(2) || id <= self.last {
            return Err(Reset::ProtocolError);
        }
        self.last = id;
        while self.tasks.try_join_next().is_some() {}
        self.streams.retain(|_, open| !open.stop.is_cancelled());
        self.pairs.retain(|_, waiting| !waiting.is_closed());
        if self.tasks.len() * 2 >= STREAMS || self.streams.len() >= STREAMS {
            return Err(Reset::RefusedStream);
        }
        let get = |name: &str| {
            headers
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.as_str())
        };
        let data = match get("streamtype") {
            Some("data") => true,
            Some("error") => false,
            other => return Err(self.reject(&format!("invalid stream type {other:?}"))),
        };
        let port = get("port").unwrap_or_default();
        let Some(port) = port.parse::<u16>().ok().filter(|port| *port > 0) else {
            return Err(self.reject(&format!("unable to parse {port:?} as a port")));
        };
        // Clients of old open the error's stream right before the other.
        let request = match get("requestid") {
            Some(request) if !request.is_empty() => request.to_owned(),
            _ => id.saturating_sub(if data { 2 } else { 0 }).to_string(),
        };
        let half = if data {
            let (sender, input) = mpsc::channel(CHUNKS);
            let stop = CancellationToken::new();
            let open = Open {
                input: (!fin).then_some(sender),
                request: request.clone(),
                stop: stop.clone(),
            };
            self.streams.insert(id, open);
            Half::Data { id, input, stop }
        } else {
            Half::Error(id)
        };
        if let Some(waiting) = self.pairs.remove(&request) {
            // It may have given up just now; then it has told the client.
            let _ = waiting.send(half);
            return Ok(());
        }
        let (sender, other) = oneshot::channel();
        self.pairs.insert(request, sender);
        let (pod, answers) = (self.pod.clone(), self.answers.clone());
        self.tasks
            .spawn(connection(pod, port, half, other, answers));
        Ok(())
    }

    fn reject(&self, why: &str) -> Reset {
        tracing::debug!(pod = self.pod.name, why, "a stream is refused");
        Reset::Cancel
    }
}

/// Waits for the second stream of a connection, then carries bytes both ways.
async fn connection(
    pod: Pod,
    port: u16,
    first: Half,
    other: oneshot::Receiver<Half>,
    answers: mpsc::Sender<Answer>,
) {
    let second = tokio::time::timeout(PAIRING, other).await;
    let end = |id, text: Option<String>| {
        let answers = answers.clone();
        async move {
            if let Some(text) = text {
                let (bytes, fin) = (text.into(), false);
                let _ = answers.send(Answer::Data { id, bytes, fin }).await;
            }
            let (bytes, fin) = (Bytes::new(), true);
            let _ = answers.send(Answer::Data { id, bytes, fin }).await;
        }
    };
    match (first, second) {
        (Half::Error(error), Ok(Ok(Half::Data { id, input, stop })))
        | (Half::Data { id, input, stop }, Ok(Ok(Half::Error(error)))) => {
            let carried = tokio::select! {
                () = stop.cancelled() => Ok(()),
                carried = carry(&pod, port, id, input, &answers) => carried,
            };
            let text = carried.err().map(|why| {
                format!(
                    "error forwarding port {port} to pod {}, uid {}: {why}",
                    pod.name, pod.uid
                )
            });
            end(error, text).await;
            end(id, None).await;
            stop.cancel();
        }
        (Half::Error(error), _) => {
            let text = format!("timed out waiting for the data stream of port {port}");
            end(error, Some(text)).await;
        }
        (Half::Data { id, stop, .. }, _) => {
            stop.cancel();
            let why = Reset::Cancel;
            let _ = answers.send(Answer::Reset { id, why }).await;
        }
    }
}

/// Carries bytes both ways until the Pod has sent all.
async fn carry(
    pod: &Pod,
    port: u16,
    id: u32,
    mut input: mpsc::Receiver<Bytes>,
    answers: &mpsc::Sender<Answer>,
) -> Result<(), String> {
    let address = (pod.resolve)(port)
        .await
        .map_err(|error| format!("find port {port}: {error}"))?;
    let refused = |why: &str| format!("dial tcp {address}: connect: {why}");
    let mut stream = tokio::time::timeout(CONNECTING, TcpStream::connect(address))
        .await
        .map_err(|_| refused("i/o timeout"))?
        .map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => refused("connection refused"),
            _ => refused(&error.to_string()),
        })?;
    // Small writes are what the client sent as such.
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.split();
    // The Pod may have closed its end for what is sent to it and still have something to say.
    let to_pod = async {
        let sent = async {
            while let Some(chunk) = input.recv().await {
                writer.write_all(&chunk).await?;
            }
            writer.shutdown().await
        };
        if let Err(error) = sent.await {
            tracing::debug!(%error, port, "a pod takes no more");
        }
        std::future::pending::<std::convert::Infallible>().await
    };
    let to_client = async {
        loop {
            let mut buffer = Vec::with_capacity(CHUNK);
            if reader.read_buf(&mut buffer).await? == 0 {
                return Ok::<(), io::Error>(());
            }
            let (bytes, fin) = (buffer.into(), false);
            if answers.send(Answer::Data { id, bytes, fin }).await.is_err() {
                return Ok(());
            }
        }
    };
    tokio::select! {
        done = to_client => done.map_err(|error| format!("read from {address}: {error}")),
        never = to_pod => match never {},
    }
}
