//! The one node of a cluster: binds Pods to itself and runs them, as local processes of one program or simulated.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::connect::{Body, Connect, Connector};
use crate::recorder::Clock;

/// The program that Pods of one image run as local processes.
#[derive(Clone, Debug)]
pub struct Program {
    /// Containers with exactly this image run the program.
    pub image: String,
    /// The executable file.
    pub path: PathBuf,
}

/// Where Pods find the API.
#[derive(Clone, Debug)]
pub struct ApiServer {
    /// For `KUBERNETES_SERVICE_HOST`.
    pub host: String,
    /// For `KUBERNETES_SERVICE_PORT`.
    pub port: u16,
    /// PEM of the CA, for `ca.crt` of service-account volumes.
    pub ca: String,
}

/// What the node is told by whoever starts it.
#[derive(Clone)]
pub struct Options {
    /// Name of the Node object.
    pub name: String,
    /// State of Pods lies below it; made if missing. Belongs to this node alone.
    pub folder: PathBuf,
    /// Without one, every Pod is simulated.
    pub program: Option<Program>,
    pub api_server: ApiServer,
    /// The current time.
    pub clock: Clock,
}

/// A running node. Clones share it.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Options>,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("make the node's folder {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Node {
    /// Prepares the folder, ends processes that an earlier run left behind, and starts the node's tasks.
    /// It does not wait for the API: what fails there is tried again.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub async fn start(
        client: kube::Client,
        options: Options,
        shutdown: CancellationToken,
    ) -> Result<Node, StartError> {
        let _ = (client, shutdown);
        Ok(Node {
            inner: Arc::new(options),
        })
    }

    /// Ends when, after the `shutdown` token given to `start`, every process and task of the node has ended.
    pub async fn stopped(&self) {}
}

impl Connector for Node {
    fn connect(&self, connect: Connect) -> BoxFuture<'static, http::Response<Body>> {
        let _ = (&self.inner, connect);
        Box::pin(async {
            crate::connect::refuse(&crate::status::ApiError::new(
                501,
                "NotImplemented",
                "the node does not answer this yet",
            ))
        })
    }
}
