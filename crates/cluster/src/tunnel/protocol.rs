//! What the two ends of a tunnel say to each other before bytes flow: short JSON, one frame each.

use std::{io, time::Duration};

use kah_net::{
    DialError, Kind,
    tunnel::{Session, Stream, read_frame, write_frame},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

/// What ends of a tunnel agree on by ALPN; another version is another protocol.
pub(crate) const ALPN: &[u8] = b"kubeaihub-tunnel/1";
/// A word of the protocol is not larger; a certificate chain is the largest.
const LARGEST: usize = 32 * 1024;
/// For the other end's word, where nothing has to be done for it elsewhere.
pub(crate) const WORD: Duration = Duration::from_secs(5);
/// Between two signs of life of the end that dialled; [`SessionLimits::silence`](kah_net::tunnel::SessionLimits::silence) is more than three times as long.
const BEAT: Duration = Duration::from_millis(2500);

/// A server of a member that a stream leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Its ks-apiserver: bytes as they are.
    KsApiserver,
    /// Its kube-apiserver, with the agent's account: HTTP.
    KubeApiserver,
}

/// The first word on a stream, by the end that opened it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Opening {
    /// Host to agent.
    To(Target),
    /// Replica of the host to another: to a member whose tunnel the other one holds.
    Relay {
        /// UID of the Cluster object.
        cluster: String,
        target: Target,
    },
    /// From the end that dialled: every frame comes back.
    Heartbeat,
    /// Agent to host: a new certificate for the same identity.
    Renew {
        /// PEM.
        csr: String,
    },
}

/// The answer to an [`Opening`], and the host's first word to whoever dialled.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Yes,
    /// To [`Opening::Renew`]: the chain, PEM.
    Certificate(String),
    No(Refusal),
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{words}")]
pub struct Refusal {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub words: String,
}

/// Why the other end says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The Cluster that the certificate names is not, or no longer, a member of this host.
    UnknownCluster,
    /// The cluster has enrolled anew after the certificate was issued.
    Superseded,
    /// Nobody here holds a tunnel of that member.
    NoTunnel,
    /// The agent cannot reach what the stream was to lead to.
    Unreachable,
    /// This end does not do that for the other.
    NotAllowed,
    /// As many are served as may be.
    Busy,
    /// A fault of its own.
    Failed,
    /// Something that a later version says.
    #[serde(other)]
    Other,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, words: impl Into<String>) -> Self {
        Self {
            reason,
            words: words.into(),
        }
    }
}

/// Why a stream of a tunnel could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the tunnel has ended")]
    Ended,
    #[error("speak with the other end of the tunnel")]
    Io(#[from] io::Error),
    #[error("the other end of the tunnel did not answer in time")]
    Late,
    #[error("{0}")]
    Refused(Refusal),
    #[error("the other end of the tunnel said something that does not belong here")]
    Nonsense,
}

impl OpenError {
    /// Whether another tunnel to the same place may do better.
    pub(crate) fn is_of_this_tunnel(&self) -> bool {
        match self {
            Self::Ended | Self::Io(_) | Self::Late => true,
            Self::Refused(refusal) => matches!(refusal.reason, Reason::NoTunnel | Reason::Busy),
            Self::Nonsense => false,
        }
    }

    /// As the fault of an attempt to connect.
    pub(crate) fn into_dial_error(self) -> DialError {
        let kind = match &self {
            Self::Late => Kind::ConnectTimeout,
            Self::Refused(refusal) => match refusal.reason {
                Reason::NoTunnel | Reason::Unreachable => Kind::Unreachable,
                _ => Kind::Reset,
            },
            Self::Ended | Self::Io(_) => Kind::Reset,
            Self::Nonsense => Kind::Malformed,
        };
        DialError::new(kind, crate::with_causes(&self))
    }
}

/// Says one word.
pub(crate) async fn say<T: Serialize + Sync>(
    to: impl AsyncWrite + Unpin,
    word: &T,
) -> io::Result<()> {
    write_frame(to, &serde_json::to_vec(word)?).await
}

/// Hears one word. Whoever asks limits the time.
pub(crate) async fn hear<T: DeserializeOwned>(from: impl AsyncRead + Unpin) -> io::Result<T> {
    let frame = read_frame(from, LARGEST).await?;
    // What came may be a secret, or anything: it is not quoted.
    serde_json::from_slice(&frame)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a word that is not understood"))
}

/// Opens a stream with this word and waits for the answer to it.
pub(crate) async fn ask(
    session: &Session,
    opening: &Opening,
    within: Duration,
) -> Result<(Stream, Answer), OpenError> {
    let asked = async {
        let mut stream = session.open().await.map_err(|_| OpenError::Ended)?;
        say(&mut stream, opening).await?;
        match hear(&mut stream).await? {
            Answer::No(refusal) => Err(OpenError::Refused(refusal)),
            answer => Ok((stream, answer)),
        }
    };
    timeout(within, asked).await.map_err(|_| OpenError::Late)?
}

/// Opens a stream that leads somewhere.
pub(crate) async fn open(
    session: &Session,
    opening: &Opening,
    within: Duration,
) -> Result<Stream, OpenError> {
    match ask(session, opening, within).await? {
        (stream, Answer::Yes) => Ok(stream),
        _ => Err(OpenError::Nonsense),
    }
}

/// Signs of life, by the end that dialled, until the session ends. Both ends notice their absence: the session ends when nothing comes.
pub(crate) async fn beat(session: &Session) {
    let Ok(mut stream) = open(session, &Opening::Heartbeat, WORD).await else {
        session.close();
        return;
    };
    loop {
        tokio::time::sleep(BEAT).await;
        if write_frame(&mut stream, b"").await.is_err()
            || read_frame(&mut stream, LARGEST).await.is_err()
        {
            return;
        }
    }
}

/// The other end of [`beat`].
pub(crate) async fn echo_beats(mut stream: Stream) {
    if say(&mut stream, &Answer::Yes).await.is_err() {
        return;
    }
    while let Ok(frame) = read_frame(&mut stream, LARGEST).await {
        if write_frame(&mut stream, &frame).await.is_err() {
            return;
        }
    }
}
