//! The same fleet on real control planes: the first objects as `kah up` creates them, a node stand-in that runs
//! ks-apiserver's Pods, and a fixed address before each ks-apiserver.
//!
//! A real kube-apiserver refuses loopback addresses as endpoints of a Service, and the Pods here have no others, unless the test runs in a
//! network of its own ([`crate::network`]). There the host reaches its members through their kube-apiserver (multicluster.md §7.3), elsewhere by
//! the endpoint of their ks-apiserver (§7.4).

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kah_api::seed::{self, Role, Seed};
use kah_localkube::authority::Authority;
use kah_localkube::node::{self, ApiServer, Network, Program};
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{ClusterFacts, Facts};
use crate::kubectl::Kubectl;
use crate::kubelet::Kubelet;
use crate::plane::RealPlane;

/// The image that the program names in what it has others apply.
const IMAGE: &str = concat!("kubeaihub.io/kah:", env!("CARGO_PKG_VERSION"));
const SECRET: &str = "TestingTestingTestingTestingTest";
const PASSWORD: &str = "P4ssword-of-tests";

/// Real control planes with our Pods on them. Everything ends when it is dropped.
pub struct RealFleet {
    // Pods and forwarders end before their control planes.
    clusters: Vec<Running>,
    authority: Authority,
    shutdown: CancellationToken,
    runtime: Option<Runtime>,
}

struct Running {
    kubelet: Option<Kubelet>,
    plane: RealPlane,
    name: String,
    endpoint: SocketAddr,
}

impl RealFleet {
    /// Starts a host and members below `folder`, and waits until every ks-apiserver is ready.
    ///
    /// # Errors
    /// Whatever does not start; the error names it.
    pub fn start(
        assets: &Path,
        program: &Path,
        folder: &Path,
        members: usize,
    ) -> Result<(Self, Facts)> {
        // TLS needs its provider once a process; a second installation is refused, which is fine.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let mut fleet = RealFleet {
            clusters: Vec::new(),
            authority: Authority::in_memory("kube-ai-hub", jiff::Timestamp::now())?,
            shutdown: CancellationToken::new(),
            runtime: Some(runtime),
        };
        let hash = bcrypt::hash(PASSWORD, 4)?;
        let names =
            std::iter::once("host".to_owned()).chain((1..=members).map(|n| format!("member-{n}")));
        for name in names {
            let running = fleet.start_cluster(assets, program, &folder.join(&name), name, &hash)?;
            fleet.clusters.push(running);
        }
        fleet.join()?;
        for running in &fleet.clusters {
            let ran = Kubectl::new(&running.plane.kubeconfig_path())?.run(&[
                "-n",
                seed::NAMESPACE,
                "rollout",
                "status",
                "deploy",
                seed::SERVER,
                "--timeout=60s",
            ]);
            ensure!(
                ran.code == 0,
                "ks-apiserver of {} is not ready: {ran:?}",
                running.name
            );
        }
        let host = fleet.clusters.first().context("a fleet without a host")?;
        let ran = Kubectl::new(&host.plane.kubeconfig_path())?.run(&[
            "wait",
            "--for=condition=Ready",
            "clusters",
            "--all",
            "--timeout=60s",
        ]);
        ensure!(
            ran.code == 0,
            "the controllers do not say who is ready: {ran:?}"
        );
        let facts = fleet.facts(folder)?;
        Ok((fleet, facts))
    }

    /// The control plane of a cluster.
    pub fn plane(&self, cluster: &str) -> Option<&RealPlane> {
        let found = self.clusters.iter().find(|it| it.name == cluster);
        found.map(|running| &running.plane)
    }

    fn facts(&self, folder: &Path) -> Result<Facts> {
        let password_file = folder.join("admin-password");
        std::fs::write(&password_file, format!("{PASSWORD}\n"))?;
        let certificate_authority = folder.join("hub-ca.crt");
        std::fs::write(&certificate_authority, self.authority.ca_pem())?;
        let host = self.clusters.first().context("a fleet without a host")?;
        Ok(Facts {
            address: format!("http://{}", host.endpoint),
            user: "admin".into(),
            password_file,
            certificate_authority,
            clusters: self
                .clusters
                .iter()
                .map(|running| ClusterFacts {
                    name: running.name.clone(),
                    kubeconfig: running.plane.kubeconfig_path(),
                    address: server(&running.plane),
                    endpoint: Some(format!("http://{}", running.endpoint)),
                    in_fleet_as: Some(running.name.clone()),
                })
                .collect(),
        })
    }

    fn start_cluster(
        &self,
        assets: &Path,
        program: &Path,
        folder: &Path,
        name: String,
        hash: &str,
    ) -> Result<Running> {
        let plane = RealPlane::start(assets)?;
        let kubectl = Kubectl::new(&plane.kubeconfig_path())?;
        let role = if name == "host" {
            Role::Host
        } else {
            Role::Member
        };
        let definitions = kah_api::definition::all()
            .into_iter()
            .map(serde_json::to_value)
            .collect::<Result<Vec<Value>, _>>()?;
        create(&kubectl, definitions)?;
        let ran = kubectl.run(&[
            "wait",
            "--for=condition=Established",
            "crd",
            "--all",
            "--timeout=30s",
        ]);
        ensure!(ran.code == 0, "definitions of {name}: {ran:?}");
        let mut objects = seed::objects(&Seed {
            role,
            jwt_secret: SECRET,
            access_token_max_age: if role == Role::Host { "2h" } else { "0" },
            image: IMAGE,
            password_hash: hash,
            node_port: None,
            allowed_addresses: &["127.0.0.0/8"],
        });
        seed::name(&mut objects, &name);
        if role == Role::Host {
            let issued = self
                .authority
                .server_certificate(&[], jiff::Timestamp::now())?;
            objects.extend(seed::certificate(
                &issued.certificate,
                &issued.key,
                self.authority.ca_pem(),
            ));
        }
        create(&kubectl, objects)?;
        let runtime = self.runtime.as_ref().context("the runtime has ended")?;
        let shutdown = self.shutdown.clone();
        let (kubelet, endpoint) = runtime.block_on(async {
            let client = client(&plane).await?;
            let options = node::Options {
                name: format!("{name}-node"),
                folder: folder.to_owned(),
                program: Some(Program {
                    image: IMAGE.into(),
                    path: program.to_owned(),
                }),
                api_server: ApiServer {
                    host: "127.0.0.1".into(),
                    port: plane.port(),
                    ca: plane.authority_pem(),
                },
                network: crate::network::pods(),
                clock: jiff::Timestamp::now,
            };
            let kubelet = Kubelet::start(client.clone(), options).await?;
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let endpoint = listener.local_addr()?;
            tokio::spawn(async move {
                shutdown
                    .run_until_cancelled_owned(forward(listener, client))
                    .await;
            });
            anyhow::Ok((kubelet, endpoint))
        })?;
        Ok(Running {
            kubelet: Some(kubelet),
            plane,
            name,
            endpoint,
        })
    }

    /// Tells the host where everyone is.
    fn join(&self) -> Result<()> {
        let (host, members) = self
            .clusters
            .split_first()
            .context("a fleet without a host")?;
        let kubectl = Kubectl::new(&host.plane.kubeconfig_path())?;
        let own = seed::host_cluster(&host.plane.kubeconfig()?, &server(&host.plane));
        let ran = kubectl.run_with_input(&["create", "-f", "-"], &own.to_string());
        // The host's controllers may have been faster.
        ensure!(
            ran.code == 0 || ran.stderr.contains("AlreadyExists"),
            "create the host's Cluster: {ran:?}"
        );
        let mut objects = Vec::new();
        for member in members {
            let endpoint = (crate::network::pods() == Network::LOOPBACK)
                .then(|| format!("http://{}", member.endpoint));
            objects.push(seed::member_cluster(
                &member.name,
                &member.plane.kubeconfig()?,
                &server(&member.plane),
                endpoint.as_deref(),
            ));
        }
        create(&kubectl, objects)
    }
}

impl Drop for RealFleet {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(runtime) = self.runtime.take() {
            let kubelets: Vec<Kubelet> = self
                .clusters
                .iter_mut()
                .filter_map(|running| running.kubelet.take())
                .collect();
            runtime.block_on(async {
                let stopped = futures::future::join_all(kubelets.into_iter().map(Kubelet::stop));
                let _ = tokio::time::timeout(Duration::from_secs(20), stopped).await;
            });
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

fn server(plane: &RealPlane) -> String {
    format!("https://127.0.0.1:{}", plane.port())
}

/// `kubectl create`: unlike `apply` it leaves no annotation with the whole object in it.
fn create(kubectl: &Kubectl, items: Vec<Value>) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let ran = kubectl.run_with_input(&["create", "-f", "-"], &list);
    ensure!(ran.code == 0, "create the first objects: {ran:?}");
    Ok(())
}

async fn client(plane: &RealPlane) -> Result<kube::Client> {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&plane.kubeconfig()?)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// Hands each connection to the ks-apiserver Pod that is ready now, as a Service would.
async fn forward(listener: TcpListener, client: kube::Client) {
    let pods: Api<Pod> = Api::namespaced(client, seed::NAMESPACE);
    while let Ok((mut near, _)) = listener.accept().await {
        let pods = pods.clone();
        tokio::spawn(async move {
            let Some(address) = ready_pod(&pods).await else {
                return;
            };
            if let Ok(mut far) = TcpStream::connect(address).await {
                // Either side may break off: that is what the tests look at.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}

async fn ready_pod(pods: &Api<Pod>) -> Option<String> {
    let list = pods
        .list(&ListParams::default().labels("app=ks-apiserver"))
        .await
        .ok()?;
    list.items
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter_map(|pod| pod.status)
        .filter(|status| {
            let conditions = status.conditions.as_deref().unwrap_or_default();
            conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        })
        .find_map(|status| Some(format!("{}:9090", status.pod_ip?)))
}
