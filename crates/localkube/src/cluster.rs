//! One whole cluster: storage, API, TLS listener, controllers and node, started and stopped together.

mod endpoints;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authority::{Authority, AuthorityError};
use crate::identity::User;
use crate::node::{ApiServer, Node, Program, StartError};
use crate::recorder::Clock;
use crate::server::{Api, Settings};
use crate::store::{Limits, Store, StoreError};
use crate::{builtin, controllers, node, node_port, rbac, serve};

/// What a cluster is told by whoever starts it.
#[derive(Clone)]
pub struct Options {
    /// The cluster's name: of its kubeconfig's entries, and of its node.
    pub name: String,
    /// Where its state lies: the storage file, the authority's keys, the node's folder. Without one, nothing
    /// outlives the cluster.
    pub data_dir: Option<PathBuf>,
    /// Where the API listens over TLS; port 0 lets the system choose.
    pub address: SocketAddr,
    /// CustomResourceDefinitions that exist from the start. A later start brings them up to what is given.
    pub crds: Vec<Value>,
    /// Further objects that exist from the start. A later start leaves those that exist as they are.
    pub objects: Vec<Value>,
    /// The program that Pods of one image run as local processes.
    pub program: Option<Program>,
    /// What `/version` says.
    pub version: String,
    /// Whether controllers, node and node ports run; without them objects stay as they were written.
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
    /// A folder could not be made.
    #[error("make the folder {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The storage file.
    #[error("open the storage of cluster {cluster}")]
    Storage {
        cluster: String,
        #[source]
        source: StoreError,
    },
    /// The certificates.
    #[error("prepare the certificates of cluster {cluster}")]
    Authority {
        cluster: String,
        #[source]
        source: AuthorityError,
    },
    /// The address is taken, or not of this machine. Another may do.
    #[error("listen on {address} for cluster {cluster}")]
    Listen {
        cluster: String,
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// The node.
    #[error("start the node of cluster {cluster}")]
    Node {
        cluster: String,
        #[source]
        source: StartError,
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
    authority: Arc<Authority>,
    address: SocketAddr,
    kubeconfig: String,
    /// Ends controllers and node.
    work: CancellationToken,
    /// Ends connections and watches.
    serving: CancellationToken,
    workers: TaskTracker,
    servers: TaskTracker,
    node: Option<Node>,
    /// A folder that goes away with the cluster.
    scratch: Option<PathBuf>,
}

impl Cluster {
    /// Starts everything. When this returns, the API answers and what was asked to exist exists.
    ///
    /// # Errors
    /// When the storage, the address or an object is refused.
    pub async fn start(options: Options) -> Result<Cluster, Error> {
        let cluster = || options.name.clone();
        let authority_error = |source| Error::Authority {
            cluster: options.name.clone(),
            source,
        };
        let now = (options.clock)();
        let (folder, scratch) = match &options.data_dir {
            Some(folder) => (folder.clone(), None),
            None => {
                let folder =
                    std::env::temp_dir().join(format!("localkube-{}", uuid::Uuid::new_v4()));
                (folder.clone(), Some(folder))
            }
        };
        make_folder(&folder).await?;
        let storage = |source| Error::Storage {
            cluster: options.name.clone(),
            source,
        };
        let (store, authority) = if scratch.is_some() {
            (
                Store::memory(options.limits).map_err(storage)?,
                Authority::in_memory(&options.name, now).map_err(authority_error)?,
            )
        } else {
            let pki = folder.join("pki");
            make_folder(&pki).await?;
            let path = folder.join("store.redb");
            let limits = options.limits;
            let opened = tokio::task::spawn_blocking(move || Store::open(&path, limits)).await;
            (
                opened.unwrap_or(Err(StoreError::Closed)).map_err(storage)?,
                Authority::open(&pki, &options.name, now).map_err(authority_error)?,
            )
        };
        let authority = Arc::new(authority);
        let listener =
            TcpListener::bind(options.address)
                .await
                .map_err(|source| Error::Listen {
                    cluster: cluster(),
                    address: options.address,
                    source,
                })?;
        let address = listener.local_addr().unwrap_or(options.address);
        let clock = options.clock;
        let tls = authority
            .server_config(&[address.ip().to_string()], Arc::new(clock))
            .map_err(authority_error)?;
        let kubeconfig = authority
            .admin_kubeconfig(&options.name, &format!("https://{address}"), now)
            .map_err(authority_error)?;
        let serving = CancellationToken::new();
        let api = Api::new(
            store,
            authority.clone(),
            Settings {
                version: options.version.clone(),
                address: address.to_string(),
                clock,
                shutdown: serving.clone(),
            },
        );
        let mut started = Cluster {
            api,
            authority,
            address,
            kubeconfig,
            work: CancellationToken::new(),
            serving,
            workers: TaskTracker::new(),
            servers: TaskTracker::new(),
            node: None,
            scratch,
        };
        started.fill(&options).await?;
        if options.controllers {
            started.run_workers(&options, &folder).await?;
        }
        started.servers.spawn(serve::serve(
            listener,
            tls,
            started.api.clone(),
            started.serving.clone(),
        ));
        Ok(started)
    }

    /// Makes what must exist: namespaces before what lies in them, definitions before their instances.
    async fn fill(&self, options: &Options) -> Result<(), Error> {
        let all: Vec<Value> = builtin::objects()
            .into_iter()
            .chain(rbac::bootstrap())
            .chain(options.objects.iter().cloned())
            .collect();
        let (namespaces, others): (Vec<Value>, Vec<Value>) = all
            .into_iter()
            .partition(|object| object["kind"] == "Namespace");
        for stage in [namespaces, options.crds.clone(), others] {
            self.api
                .ensure(stage)
                .await
                .map_err(|refused| Error::Object {
                    cluster: options.name.clone(),
                    what: refused.what,
                    message: refused.error.message,
                })?;
        }
        endpoints::write(&self.client(), self.address)
            .await
            .map_err(|error| Error::Object {
                cluster: options.name.clone(),
                what: "the endpoints of default/kubernetes".to_owned(),
                message: error.to_string(),
            })
    }

    async fn run_workers(
        &mut self,
        options: &Options,
        folder: &std::path::Path,
    ) -> Result<(), Error> {
        let client = self.client();
        let ca = self.authority.ca_pem().to_owned();
        let node = Node::start(
            client.clone(),
            node::Options {
                name: options.name.clone(),
                folder: folder.join("node"),
                program: options.program.clone(),
                api_server: ApiServer {
                    host: self.address.ip().to_string(),
                    port: self.address.port(),
                    ca: ca.clone(),
                },
                network: node::Network::LOOPBACK,
                clock: options.clock,
            },
            self.work.clone(),
        )
        .await
        .map_err(|source| Error::Node {
            cluster: options.name.clone(),
            source,
        })?;
        self.api.set_connector(Arc::new(node.clone()));
        self.node = Some(node);
        self.workers.spawn(controllers::run(
            client.clone(),
            controllers::Options {
                root_ca: ca,
                clock: options.clock,
            },
            self.work.clone(),
        ));
        self.workers.spawn(node_port::run(
            client,
            self.address.ip(),
            options.clock,
            self.work.clone(),
        ));
        Ok(())
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

    /// The authority that vouches for this cluster and its clients.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// A kubeconfig, as YAML, with a client certificate of `system:masters`. Secret: it holds a private key.
    pub fn admin_kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends everything in order: node and controllers, then connections, then storage. Nothing is left running.
    pub async fn stop(mut self) {
        self.work.cancel();
        self.workers.close();
        self.workers.wait().await;
        if let Some(node) = self.node.take() {
            node.stopped().await;
        }
        self.serving.cancel();
        self.servers.close();
        self.servers.wait().await;
        self.api.store().close().await;
        if let Some(folder) = self.scratch.take() {
            // Left-overs in the system's folder for temporary files harm nobody.
            let _ = tokio::fs::remove_dir_all(folder).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.work.cancel();
        self.serving.cancel();
        if let Some(folder) = self.scratch.take() {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

async fn make_folder(path: &std::path::Path) -> Result<(), Error> {
    let mut builder = tokio::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    builder.mode(0o700);
    builder.create(path).await.map_err(|source| Error::Folder {
        path: path.to_owned(),
        source,
    })
}
