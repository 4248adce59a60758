//! `kah controller-manager`: the reconcilers of a host. On a cluster that is none it idles.

mod observed;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;
use kah_api::{
    config::{ConfigError, Configuration},
    seed,
};
use kah_cluster::{
    Host, Registry,
    guard::AddressGuard,
    proof::Prover,
    tunnel::{TunnelLimits, Tunnels},
};
use kah_controllers::{Leader, Metrics, Settings, leader::Pace};
use kah_gateway::{Follower, ReloadCounters};
use kah_iam::{
    GlobalRoles, Signer, Users,
    clock::{Clock, SystemClock},
    follow_signing_keys,
    users::{follow_roles, follow_users},
};
use kah_net::Limits;
use tokio::sync::{oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    failure::Failure,
    process::{
        configuration, find_configuration, kube_config, log_fatal, own_kubeconfig, root,
        until_stopped,
    },
};

/// Between two looks at the configuration's file.
const LOOK: Duration = Duration::from_millis(500);
/// For the first lists of what is watched.
const SYNC: Duration = Duration::from_secs(60);
/// For an orderly end, the Lease given back included.
const END: Duration = Duration::from_secs(5);
/// The Lease by which one process of several is chosen.
const LEASE: &str = "ks-controller-manager.kubesphere.io";

/// Flags of `kah controller-manager`. Those of the original that have no meaning here are accepted.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// The configuration's file [default: kubesphere.yaml in /etc/kubesphere, then in the working directory]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How to reach the kube-apiserver [default: as a Pod does]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where /metrics and /healthz are served, to whoever can reach it: an address, a port like :8080 for all addresses, or 0 for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = observed::DEFAULT)]
    pub metrics_bind_address: String,
    /// How much is logged: 4 adds requests, 8 everything
    #[arg(short = 'v', long = "v", default_value_t = 0)]
    pub verbosity: u8,
    /// Accepted for compatibility: of several processes one is always chosen
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, hide = true)]
    pub leader_elect: Option<Option<bool>>,
    /// Accepted for compatibility: the log always goes to standard error
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, hide = true)]
    pub logtostderr: Option<Option<bool>>,
}

/// Runs until it is told to stop.
///
/// # Errors
/// What keeps it from starting, worded for the person who reads the log.
pub async fn run(args: Arguments) -> Result<(), Failure> {
    let (verbosity, end) = (args.verbosity, END);
    let result = until_stopped(verbosity, end, async |stop, tasks| {
        work(args, stop, tasks).await.inspect_err(log_fatal)
    })
    .await;
    result.map_err(|error| {
        Failure::new(
            format!("ks-controller-manager: {error:#}"),
            "Check kubesphere.yaml with `kah config check`, and that the kube-apiserver can be reached.",
        )
    })
}

async fn work(
    args: Arguments,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<()> {
    let address = observed::address(&args.metrics_bind_address)?;
    let root = root();
    let path = find_configuration(args.config.as_deref(), &root)?;
    let unread = || format!("Failed to load configuration from disk: {}", path.display());
    let text = kah_gateway::read(&path).await.with_context(unread)?;
    let first = configuration(&text).with_context(unread)?;
    let kube = kube_config(args.kubeconfig.as_deref(), &root).await?;
    let client =
        kube::Client::try_from(kube.clone()).context("prepare the client of the kube-apiserver")?;
    let metrics = Metrics::default();
    if let Some(address) = address {
        observed::serve(address, metrics.clone(), stop.clone(), tasks).await?;
    }

    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let (users, roles) = (Arc::new(Users::default()), Arc::new(GlobalRoles::default()));
    let prover = Prover::new(&first, users.clone(), roles.clone(), clock.clone());
    let guard = AddressGuard::new(&first.hub.allowed_addresses);
    let (changed, mut current) = watch::channel(first);
    let follower = Follower {
        path,
        interval: LOOK,
        current: text,
    };
    let (proving, guarding, reload_stop) = (prover.clone(), guard.clone(), stop.clone());
    tasks.spawn(async move {
        let apply = |text: &str| {
            let configuration = crate::process::configuration(text)?;
            proving.reload(&configuration);
            guarding.reload(&configuration.hub.allowed_addresses);
            changed.send_replace(configuration);
            Ok::<(), ConfigError>(())
        };
        follower
            .run(&ReloadCounters::default(), reload_stop, apply)
            .await;
    });

    let name = format!("{}-{:016x}", host_name(), rand::random::<u64>());
    let leader = Leader::new(
        client.clone(),
        seed::NAMESPACE,
        LEASE,
        name.clone(),
        Pace::default(),
    );
    let kubeconfig = own_kubeconfig(&kube);
    loop {
        // A cluster that is no host has nothing to reconcile, and no Lease.
        let enabled = current.wait_for(|now| now.multicluster.enable);
        let settings = match stop.run_until_cancelled(enabled).await {
            Some(Ok(now)) => settings(&now, &kubeconfig),
            _ => return Ok(()),
        };
        let end = stop.child_token();
        let (client, prover, metrics) = (client.clone(), prover.clone(), metrics.clone());
        let guard = guard.clone();
        let (users, roles, clock) = (users.clone(), roles.clone(), clock.clone());
        let name = name.clone();
        let led = leader.lead(&end, |end| async move {
            let work = Work {
                name,
                client,
                guard,
                prover,
                users,
                roles,
                clock,
            };
            if let Err(error) = work.reconcile(settings, metrics, end).await {
                tracing::error!("reconcile: {error:#}");
            }
        });
        let mut disabled = current.clone();
        let disabled = async {
            // Ends with the follower, that is, with the process.
            if disabled
                .wait_for(|now| !now.multicluster.enable)
                .await
                .is_err()
            {
                std::future::pending::<()>().await;
            }
        };
        tokio::pin!(led);
        tokio::select! {
            _ = &mut led => {}
            () = disabled => {
                tracing::info!("multicluster.enable is false now");
                end.cancel();
                led.await;
            }
        }
        if stop.is_cancelled() {
            return Ok(());
        }
        // Lost, or ended by a fault that was logged: others, or we ourselves, begin anew.
        let _ = stop
            .run_until_cancelled(tokio::time::sleep(Duration::from_secs(1)))
            .await;
    }
}

fn settings(configuration: &Configuration, kubeconfig: &str) -> Settings {
    let multicluster = &configuration.multicluster;
    let resync = multicluster.cluster_controller_resync_period.to_std();
    Settings {
        host_cluster: multicluster.host_cluster_name.clone(),
        host_kubeconfig: kubeconfig.to_owned(),
        resync: resync.max(Duration::from_secs(1)),
    }
}

/// What one time of being the leader needs.
struct Work {
    /// Unlike that of any other process of the host.
    name: String,
    client: kube::Client,
    guard: AddressGuard,
    prover: Prover,
    users: Arc<Users>,
    roles: Arc<GlobalRoles>,
    clock: Arc<dyn Clock>,
}

impl Work {
    /// Follows what the reconcilers look at, and runs them until `stop`.
    async fn reconcile(
        self,
        settings: Settings,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let stop = stop.child_token();
        let tasks = TaskTracker::new();
        let signer = Arc::new(Signer::new(Arc::clone(&self.clock)));
        let tunnels = Tunnels::new(TunnelLimits::default(), stop.clone(), tasks.clone());
        let registry = Registry::over(
            Limits::default(),
            Some(self.guard),
            tunnels.clone(),
            Arc::clone(&signer),
            stop.clone(),
            tasks.clone(),
        );
        // Agents dial ks-apiserver; through it this process reaches their clusters too.
        let (tunnel_client, tunnel_clock, name) =
            (self.client.clone(), Arc::clone(&self.clock), self.name);
        tasks.spawn(async move {
            tunnels.run(tunnel_client, tunnel_clock, name, None).await;
        });
        let (users_listed, users_are) = oneshot::channel::<()>();
        let (roles_listed, roles_are) = oneshot::channel::<()>();
        // The receivers may have given up; then nobody waits.
        let listed = move || {
            let _ = users_listed.send(());
        };
        let client = || self.client.clone();
        tasks.spawn(follow_users(client(), self.users, stop.clone(), listed));
        let listed = move || {
            let _ = roles_listed.send(());
        };
        tasks.spawn(follow_roles(client(), self.roles, stop.clone(), listed));
        let (keys_listed, keys_are) = oneshot::channel::<()>();
        let listed = move || {
            let _ = keys_listed.send(());
        };
        tasks.spawn(follow_signing_keys(client(), signer, stop.clone(), listed));
        let (following, client_of_registry) = (registry.clone(), client());
        tasks.spawn(async move { following.follow(client_of_registry).await });
        let synced = async {
            let _ = tokio::join!(users_are, roles_are, keys_are, registry.synced());
        };
        let synced = tokio::time::timeout(SYNC, synced);
        let ended = match stop.run_until_cancelled(synced).await {
            None => Ok(()),
            Some(Err(_)) => Err(anyhow::anyhow!(
                "users, roles, clusters and keys could not be listed within {SYNC:?}"
            )),
            Some(Ok(())) => {
                let host = Host {
                    client: client(),
                    registry,
                    prover: self.prover,
                    clock: self.clock,
                    tasks: tasks.clone(),
                };
                kah_controllers::run(host, settings, metrics, stop.clone()).await;
                Ok(())
            }
        };
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        ended
    }
}

/// The name of the Pod, as Kubernetes gives it to its host.
fn host_name() -> String {
    std::env::var("POD_NAME")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_else(|_| "ks-controller-manager".into())
}
