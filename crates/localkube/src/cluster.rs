//! One whole cluster: storage, API, TLS listener, controllers and node, started and stopped together.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::identity::User;
use crate::node::Program;
use crate::recorder::Clock;
use crate::server::Api;
use crate::store::{Limits, Store, StoreError};

/// What a cluster is told by whoever starts it.
#[derive(Clone)]
pub struct Options {
    /// The cluster's name: of its kubeconfig's entries, and of its node.
    pub name: String,
    /// Where its state lies: the storage file, the CA, the node's folder. Without one, nothing outlives the process.
    pub data_dir: Option<PathBuf>,
    /// Where the API listens over TLS; port 0 lets the system choose.
    pub address: SocketAddr,
    /// CustomResourceDefinitions that exist from the start. A later start replaces what differs.
    pub crds: Vec<Value>,
    /// Further objects that exist from the start. A later start leaves those that exist as they are.
    pub objects: Vec<Value>,
    /// The program that Pods of one image run as local processes.
    pub program: Option<Program>,
    /// Node ports are taken from here when a Service does not name one.
    pub node_port_range: RangeInclusive<u16>,
    /// What `/version` says after `v1.36.`-style parsing, e.g. `v1.36.2`.
    pub version: String,
    /// Whether controllers and node run; without them objects stay as they were written.
    pub controllers: bool,
    /// How much of the past is kept for watches.
    pub limits: Limits,
    /// The current time.
    pub clock: Clock,
}

impl Options {
    /// An empty cluster in memory, on a port of 127.0.0.1 that the system chooses, with controllers and node.
    pub fn new(name: impl Into<String>) -> Options {
        Options {
            name: name.into(),
            data_dir: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            crds: Vec::new(),
            objects: Vec::new(),
            program: None,
            node_port_range: 30000..=32767,
            version: "v1.36.2".to_owned(),
            controllers: true,
            limits: Limits::default(),
            clock: jiff::Timestamp::now,
        }
    }
}

/// Why a cluster could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage file.
    #[error("open the storage of cluster {cluster}")]
    Storage {
        cluster: String,
        #[source]
        source: StoreError,
    },
    /// An object that must exist from the start was refused.
    #[error("create {what} in cluster {cluster}: {message}")]
    Object {
        cluster: String,
        what: String,
        message: String,
    },
}

/// A running cluster. Dropping it without [`Cluster::stop`] cancels its tasks but does not wait for them.
pub struct Cluster {
    api: Api,
    address: SocketAddr,
    kubeconfig: String,
    shutdown: CancellationToken,
}

impl Cluster {
    /// Starts everything. When this returns, the API answers and what was asked to exist exists.
    ///
    /// # Errors
    /// When the storage, the address or an object is refused.
    pub async fn start(options: Options) -> Result<Cluster, Error> {
        let store = Store::memory(options.limits).map_err(|source| Error::Storage {
            cluster: options.name.clone(),
            source,
        })?;
        let api = Api::new(store, &options);
        Ok(Cluster {
            api,
            address: options.address,
            kubeconfig: String::new(),
            shutdown: CancellationToken::new(),
        })
    }

    /// A client inside the process, as `system:masters`: no TCP, no TLS.
    pub fn client(&self) -> kube::Client {
        self.client_as(User {
            name: "system:admin".to_owned(),
            groups: vec![
                "system:masters".to_owned(),
                "system:authenticated".to_owned(),
            ],
            ..User::default()
        })
    }

    /// A client inside the process that is this user: authentication is skipped, authorisation is not.
    pub fn client_as(&self, user: User) -> kube::Client {
        self.api.client(user)
    }

    /// The API as a tower service. A request carries its [`User`] as an extension, or is authenticated.
    pub fn service(&self) -> Api {
        self.api.clone()
    }

    /// A kubeconfig, as YAML, with a client certificate of `system:masters`.
    pub fn admin_kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends everything in order: node and controllers, then connections, then storage. Nothing is left running.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.api.store().close().await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
