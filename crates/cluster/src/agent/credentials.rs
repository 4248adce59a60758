//! Where an agent keeps who it is.

use std::{fmt, future::Future, io, path::PathBuf, pin::Pin};

use kah_net::tunnel::Proxies;

use crate::{
    enrol::agent::{AgentError, Hub, Kept},
    retry::{Pauses, Retry},
    tunnel::authority::Issued,
};

/// A certificate with its key, and the authority that signed it, all PEM. `Debug` shows none.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The chain, own certificate first.
    pub chain: String,
    /// The private key. Secret.
    pub key: String,
    /// The authority of the host's tunnels.
    pub authority: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Why they cannot be read or kept. Never holds a part of them.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct CredentialsError {
    doing: String,
    may_pass: bool,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl CredentialsError {
    /// What was being tried, and why it failed.
    pub fn new(
        doing: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            doing: doing.into(),
            may_pass: false,
            source: source.into(),
        }
    }

    /// Whether the same may succeed later without anybody's doing.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        self.may_pass
    }
}

impl From<AgentError> for CredentialsError {
    fn from(error: AgentError) -> Self {
        Self {
            may_pass: error.may_pass(),
            ..Self::new("use the agent's Secret", error)
        }
    }
}

/// What a [`Store`] gives in the end.
pub type Stored<'a, T> = Pin<Box<dyn Future<Output = Result<T, CredentialsError>> + Send + 'a>>;

/// Keeps an agent's credentials.
pub trait Store: Send + Sync {
    /// As they are now. Asked before each dialling, so what was renewed is used.
    fn load(&self) -> Stored<'_, Credentials>;
    /// Puts these in the place of what was kept, all or nothing.
    fn save(&self, credentials: Credentials) -> Stored<'_, ()>;
}

const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITY: &str = "ca.crt";
/// Names a folder of credentials that is complete.
const CURRENT: &str = "current";

/// A folder with `tls.crt`, `tls.key` and `ca.crt`, as a mounted Secret of type `kubernetes.io/tls` has them.
///
/// What is saved goes into a folder of its own below, and `current` leads there once all of it is written: a process that dies in between leaves
/// what was.
#[derive(Debug, Clone)]
pub struct Folder(pub PathBuf);

impl Folder {
    async fn read(&self) -> Result<Credentials, CredentialsError> {
        let saved = self.0.join(CURRENT);
        let folder = if tokio::fs::try_exists(&saved).await.unwrap_or(false) {
            saved
        } else {
            self.0.clone()
        };
        let read = async |name: &str| {
            let path = folder.join(name);
            tokio::fs::read_to_string(&path)
                .await
                .map_err(|error| CredentialsError::new(format!("read {}", path.display()), error))
        };
        Ok(Credentials {
            chain: read(CHAIN).await?,
            key: read(KEY).await?,
            authority: read(AUTHORITY).await?,
        })
    }

    async fn write(&self, credentials: &Credentials) -> io::Result<()> {
        let fresh = format!("saved-{}", uuid::Uuid::new_v4());
        let folder = self.0.join(&fresh);
        tokio::fs::create_dir_all(&folder).await?;
        for (name, text) in [
            (CHAIN, &credentials.chain),
            (KEY, &credentials.key),
            (AUTHORITY, &credentials.authority),
        ] {
            let mut options = tokio::fs::OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(folder.join(name))
                .await?;
            tokio::io::AsyncWriteExt::write_all(&mut file, text.as_bytes()).await?;
            file.sync_all().await?;
        }
        let current = self.0.join(CURRENT);
        let before = tokio::fs::read_link(&current).await.ok();
        let next = self.0.join(format!("{fresh}.link"));
        tokio::fs::symlink(&fresh, &next).await?;
        tokio::fs::rename(&next, &current).await?;
        if let Some(before) = before {
            tokio::fs::remove_dir_all(self.0.join(before)).await?;
        }
        Ok(())
    }
}

impl Store for Folder {
    fn load(&self) -> Stored<'_, Credentials> {
        Box::pin(self.read())
    }

    fn save(&self, credentials: Credentials) -> Stored<'_, ()> {
        Box::pin(async move {
            self.write(&credentials).await.map_err(|error| {
                let doing = format!("keep the agent's certificate in {}", self.0.display());
                CredentialsError::new(doing, error)
            })
        })
    }
}

/// The agent's Secret in its own cluster. Where it holds a join token, the token is exchanged first.
#[derive(Clone)]
pub struct Enrolment {
    kept: Kept,
    client: kube::Client,
}

impl Enrolment {
    /// In the cluster of this client, from which the hub is reached through these proxies.
    #[must_use]
    pub fn of(client: kube::Client, proxies: Proxies) -> Self {
        Self {
            kept: Kept::of(&client, proxies),
            client,
        }
    }
}

impl Enrolment {
    /// The hub that this cluster was invited by, once its token was exchanged. Waits for as long as that takes.
    pub async fn hub(&self, retry: Retry, refused: Retry) -> Hub {
        let (mut retry, mut refused) = (Pauses::of(retry), Pauses::of(refused));
        loop {
            match self.kept.agent(&self.client).await {
                Ok(agent) => return agent.hub,
                Err(error) => {
                    let pause = if error.may_pass() {
                        retry.failed()
                    } else {
                        refused.failed()
                    };
                    let error = crate::with_causes(&error);
                    tracing::warn!(%error, again_in = ?pause, "this cluster has not joined yet");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

impl Store for Enrolment {
    fn load(&self) -> Stored<'_, Credentials> {
        Box::pin(async {
            let agent = self.kept.agent(&self.client).await?;
            Ok(Credentials {
                chain: agent.credentials.chain,
                key: agent.credentials.key,
                authority: agent.authority,
            })
        })
    }

    fn save(&self, credentials: Credentials) -> Stored<'_, ()> {
        Box::pin(async move {
            let mut agent = self.kept.agent(&self.client).await?;
            agent.authority = credentials.authority;
            agent.credentials = Issued {
                chain: credentials.chain,
                key: credentials.key,
            };
            Ok(self.kept.keep(&agent, None).await?)
        })
    }
}
