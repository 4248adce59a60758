//! `kah agent`: a member's end of the tunnels.

use std::{env, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use kah_cluster::{
    OwnKubernetes,
    agent::{self, Enrolment, Folder, Settings, Store},
    retry::Retry,
};
use kah_iam::clock::SystemClock;
use kah_net::{Address, Limits, tunnel::Proxies};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    failure::Failure,
    process::{kube_config, root, until_stopped},
};

/// For each step of dialling the host.
const STEP: Duration = Duration::from_secs(10);

/// Tunnels stay for so long after the agent was told to stop: a host that takes it out of a cluster deletes its Deployment through one, and has its
/// account still to delete.
const FAREWELL: Duration = Duration::from_secs(1);

/// What goes on in a tunnel that was opened by an older certificate may go on for so long; that certificate itself holds for weeks then.
const DRAIN: Duration = Duration::from_secs(60 * 60);

/// Flags of `kah agent`. In a cluster that applied the manifest of `kah cluster join NAME --agent` none is needed.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// The host's address [default: as the agent's Secret says]
    #[arg(long, value_name = "URL", requires = "credentials")]
    pub hub: Option<String>,
    /// SHA-256 of the public key of the host's tunnel authority, in hex [default: as the agent's Secret says]
    #[arg(long, value_name = "HEX", requires = "credentials")]
    pub pin: Option<String>,
    /// A folder with tls.crt, tls.key and ca.crt, in the place of the agent's Secret
    #[arg(long, value_name = "FOLDER", requires = "hub", requires = "pin")]
    pub credentials: Option<PathBuf>,
    /// This cluster's ks-apiserver
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://ks-apiserver.kubesphere-system.svc"
    )]
    pub kubesphere_service: String,
    /// How to reach this cluster's kube-apiserver, and with which account [default: as a Pod does]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Tunnels that are held at the same time
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub tunnels: u8,
    /// Open one tunnel, say whether the host takes it, and end
    #[arg(long)]
    pub check: bool,
    /// How much is logged
    #[arg(short = 'v', long = "v", default_value_t = 0)]
    pub verbosity: u8,
}

/// Runs until it is told to stop.
///
/// # Errors
/// What keeps it from starting; with `--check` also what the host says.
pub async fn run(args: Arguments) -> Result<(), Failure> {
    let (verbosity, end) = (args.verbosity, Duration::from_secs(2));
    let result = until_stopped(verbosity, end, async |stop, tasks| {
        serve(args, stop, tasks).await
    })
    .await;
    result.map_err(|error| {
        Failure::new(
            format!("agent: {error:#}"),
            "Check the host's address and pin; `kah cluster join NAME --agent` at the host gives a new manifest.",
        )
    })
}

async fn serve(
    args: Arguments,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<()> {
    let kube = kube_config(args.kubeconfig.as_deref(), &root()).await?;
    let held = CancellationToken::new();
    let _held = held.clone().drop_guard();
    let kubernetes = OwnKubernetes::new(&kube, Limits::default(), held.clone(), tasks.clone())?;
    let kubesphere = address("--kubesphere-service", &args.kubesphere_service)?;
    if kubesphere.tls {
        bail!("--kubesphere-service: only http:// within the cluster is supported");
    }
    let (store, hub, pin): (Arc<dyn Store>, String, String) =
        match (args.credentials, args.hub, args.pin) {
            (Some(folder), Some(hub), Some(pin)) => (Arc::new(Folder(folder)), hub, pin),
            _ => {
                let client = kube::Client::try_from(kube)
                    .context("prepare the client of the kube-apiserver")?;
                let enrolment = Enrolment::of(client, proxies());
                let joined = enrolment.hub(Retry::TRANSIENT, Retry::REFUSED);
                let Some(hub) = stop.run_until_cancelled(joined).await else {
                    return Ok(());
                };
                (Arc::new(enrolment), hub.address, hub.pin)
            }
        };
    let settings = Settings {
        hub: address("--hub", &hub)?,
        proxies: proxies(),
        pin,
        store,
        kubesphere,
        kubernetes,
        tunnels: args.tunnels.into(),
        step: STEP,
        drain: DRAIN,
        retry: Retry::TRANSIENT,
        refused: Retry::REFUSED,
        clock: Arc::new(SystemClock::default()),
    };
    if args.check {
        return match stop.run_until_cancelled(agent::check(&settings)).await {
            Some(Err(error)) => Err(error.into()),
            _ => Ok(()),
        };
    }
    let farewell = async {
        stop.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
        held.cancel();
    };
    tokio::join!(agent::run(settings, held.clone(), tasks.clone()), farewell);
    Ok(())
}

fn address(flag: &str, url: &str) -> anyhow::Result<Address> {
    Address::parse(url).map_err(|error| anyhow::anyhow!("{flag}: {url:?}: {error}"))
}

/// As other programs read them: the small letters win.
fn proxies() -> Proxies {
    let variable = |name: &str| {
        env::var(name.to_lowercase())
            .or_else(|_| env::var(name))
            .unwrap_or_default()
    };
    Proxies {
        http: variable("HTTP_PROXY"),
        https: variable("HTTPS_PROXY"),
        no: variable("NO_PROXY"),
    }
}
