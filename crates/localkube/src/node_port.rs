//! NodePort Services: one TCP listener for each node port, forwarding to a ready endpoint.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::Api;
use kube::runtime::watcher;
use rand::seq::IndexedRandom;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::controllers::{Change, Key, feed};
use crate::proxy::ready;
use crate::recorder::{Clock, Recorder, reference};

/// How long a connection waits for a ready endpoint.
const WAIT: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
/// Pause before a port that was taken is tried again.
const RETRY: Duration = Duration::from_secs(3);
/// Connections of one port at a time.
const CONNECTIONS: usize = 1024;

/// One node port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Port {
    service: Key,
    number: u16,
    /// Its name in the Service, empty for the only one.
    name: String,
}

/// Keeps a listener on `listen_ip` for each node port of Services of type NodePort and LoadBalancer,
/// until `shutdown`; returns when all of its tasks have ended. A port that is taken is reported as an
/// Event of the Service and tried again every few seconds.
pub async fn run(
    client: kube::Client,
    listen_ip: IpAddr,
    clock: Clock,
    shutdown: CancellationToken,
) {
    let (recorder, writer) = Recorder::new(client.clone(), shutdown.clone());
    let recorder = recorder.component("localkube-node-port");
    let tasks = Arc::new(Mutex::new(JoinSet::new()));
    let mut listeners: HashMap<Port, CancellationToken> = HashMap::new();
    let services: Api<Service> = Api::all(client.clone());
    let spawn = {
        let (tasks, shutdown) = (tasks.clone(), shutdown.clone());
        move |port: &Port, object: ObjectReference| {
            let stop = shutdown.child_token();
            let listener = Listener {
                client: client.clone(),
                address: SocketAddr::new(listen_ip, port.number),
                port: port.clone(),
                object,
                recorder: recorder.clone(),
                clock,
                stop: stop.clone(),
            };
            let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that ended are let go here, so that the set does not grow.
            while tasks.try_join_next().is_some() {}
            tasks.spawn(listener.run());
            stop
        }
    };
    let on = |change: Change<'_, Service>| {
        let (service, wanted) = match change {
            Change::Applied(service) => (service, ports(service)),
            Change::Deleted(service) => (service, Vec::new()),
            Change::Resynced => return,
        };
        let key = Key::of(service);
        listeners.retain(|port, stop| {
            let stays = port.service != key || wanted.contains(port);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for port in wanted {
            listeners
                .entry(port)
                .or_insert_with_key(|port| spawn(port, reference(service)));
        }
    };
    let feeding = feed(services, watcher::Config::default(), shutdown.clone(), on);
    tokio::join!(feeding, writer);
    let mut tasks = std::mem::take(&mut *tasks.lock().unwrap_or_else(PoisonError::into_inner));
    while tasks.join_next().await.is_some() {}
}

fn ports(service: &Service) -> Vec<Port> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    if !matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")) {
        return Vec::new();
    }
    let tcp = spec
        .ports
        .iter()
        .flatten()
        .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    tcp.filter_map(|port| {
        Some(Port {
            service: Key::of(service),
            number: u16::try_from(port.node_port?)
                .ok()
                .filter(|port| *port != 0)?,
            name: port.name.clone().unwrap_or_default(),
        })
    })
    .collect()
}

struct Listener {
    client: kube::Client,
    address: SocketAddr,
    port: Port,
    object: ObjectReference,
    recorder: Recorder,
    clock: Clock,
    stop: CancellationToken,
}

impl Listener {
    async fn run(self) {
        let Some(listener) = self.bind().await else {
            return;
        };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                _ = connections.join_next(), if !connections.is_empty() => {}
                accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(serve(self.client.clone(), self.port.clone(), stream));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a connection to a node port was not accepted");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                },
            }
        }
        connections.shutdown().await;
    }

    /// Binds the port, again and again while another program has it.
    async fn bind(&self) -> Option<TcpListener> {
        let mut reported = false;
        loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => return Some(listener),
                Err(error) => {
                    if !reported {
                        let message =
                            format!("node port {} cannot be opened: {error}", self.address);
                        tracing::error!(service = self.port.service.name, "{message}");
                        self.recorder.warning(
                            self.clock,
                            self.object.clone(),
                            "PortInUse",
                            message,
                        );
                        reported = true;
                    }
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}

async fn serve(client: kube::Client, port: Port, mut stream: TcpStream) {
    let found = tokio::time::timeout(WAIT, connect(&client, &port)).await;
    let Ok(mut upstream) = found else {
        tracing::debug!(
            service = port.service.name,
            "no endpoint became ready for a node port"
        );
        return;
    };
    let _ = stream.set_nodelay(true);
    let _ = upstream.set_nodelay(true);
    // How a connection between two others ends is theirs to know.
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
}

/// A connection to a ready endpoint; waits until there is one that accepts.
async fn connect(client: &kube::Client, port: &Port) -> TcpStream {
    let mut pause = Duration::from_millis(20);
    loop {
        let found = ready(
            client,
            &port.service.namespace,
            &port.service.name,
            &port.name,
        )
        .await;
        match found {
            Ok(found) => {
                let chosen = found.addresses.choose(&mut rand::rng()).copied();
                if let Some(address) = chosen
                    && let Ok(Ok(stream)) =
                        tokio::time::timeout(CONNECT, TcpStream::connect(address)).await
                {
                    return stream;
                }
            }
            Err(error) => tracing::debug!(%error, "endpoints could not be read"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}
