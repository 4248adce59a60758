//! `kah apiserver`: ks-apiserver of a host or a member, as its configuration says.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use kah_api::config::ConfigError;
use kah_cluster::{
    Host, Registry,
    guard::AddressGuard,
    proof::Prover,
    tunnel::{TunnelLimits, Tunnels},
};
use kah_gateway::{
    AuditLog, Encryption, Follower, Gateway, GatewayParts, KubeProxy, ReloadCounters, ServerLimits,
    Sessions, Settings,
};
use kah_iam::{
    Authentication, GlobalRoles, HostTrust, Signer,
    cache::MemoryCache,
    clock::{Clock, SystemClock},
    follow_host_trust, follow_signing_keys,
    users::{Users, follow_roles, follow_users},
};
use kah_net::Limits;
use tokio::{net::TcpListener, sync::oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    failure::Failure,
    process::{
        below, configuration, find_configuration, kube_config, log_fatal, open_files, root,
        until_stopped,
    },
};

/// Between two looks at the configuration's file.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks at whether those whose requests go on still may.
const JUDGE_STREAMS: Duration = Duration::from_secs(2);
/// For the first lists of what is watched.
const SYNC: Duration = Duration::from_secs(60);

/// Flags of `kah apiserver`. Those of the original that have no meaning here are accepted and say so.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// The configuration's file [default: kubesphere.yaml in /etc/kubesphere, then in the working directory]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The address to listen on
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The port for plain HTTP, and for TLS too where a certificate is given; 0 turns it off
    #[arg(long, default_value_t = 9090)]
    pub insecure_port: u16,
    /// The port for HTTPS; when set, it replaces the plain one
    #[arg(long, default_value_t = 0)]
    pub secure_port: u16,
    /// The certificate chain for HTTPS, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// The private key for HTTPS, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_private_key: Option<PathBuf>,
    /// How to reach the kube-apiserver [default: as a Pod does]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The address by which other replicas reach this one [default: the one that leads to the kube-apiserver]
    #[arg(long, value_name = "IP", env = "POD_IP")]
    pub advertise_address: Option<IpAddr>,
    /// The name of this replica, unlike that of any other [default: one made up]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub replica_name: Option<String>,
    /// How much is logged: 4 adds requests, 8 everything
    #[arg(short = 'v', long = "v", default_value_t = 0)]
    pub verbosity: u8,
    /// Accepted for compatibility: the log always goes to standard error
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, hide = true)]
    pub logtostderr: Option<Option<bool>>,
}

/// Runs until it is told to stop.
///
/// # Errors
/// What keeps it from starting, worded for the person who reads the log.
pub async fn run(args: Arguments) -> Result<(), Failure> {
    let (verbosity, end) = (args.verbosity, Duration::from_secs(2));
    let result = until_stopped(verbosity, end, async |stop, tasks| {
        serve(args, stop, tasks).await.inspect_err(log_fatal)
    })
    .await;
    result.map_err(|error| {
        Failure::new(
            format!("ks-apiserver: {error:#}"),
            "Check kubesphere.yaml with `kah config check`, and that the kube-apiserver can be reached.",
        )
    })
}

async fn serve(
    args: Arguments,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<()> {
    let root = root();
    let path = find_configuration(args.config.as_deref(), &root)?;
    let text = kah_gateway::read(&path)
        .await
        .with_context(|| format!("Failed to load configuration from disk: {}", path.display()))?;
    let configuration = configuration(&text)
        .with_context(|| format!("Failed to load configuration from disk: {}", path.display()))?;
    let listener = listener(&args, &root)?;

    let kube = kube_config(args.kubeconfig.as_deref(), &root).await?;
    let kube_url = kube.cluster_url.clone();
    let client =
        kube::Client::try_from(kube.clone()).context("prepare the client of the kube-apiserver")?;
    // Requests that are under way may end in the time that the listener gives them; only then are the connections behind them closed.
    let connections = CancellationToken::new();
    let kube = KubeProxy::new(&kube, Limits::default(), connections.clone(), tasks.clone())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let signer = Arc::new(Signer::new(Arc::clone(&clock)));
    let tunnels = Tunnels::new(TunnelLimits::default(), connections.clone(), tasks.clone());
    let guard = AddressGuard::new(&configuration.hub.allowed_addresses);
    let registry = Registry::over(
        Limits::default(),
        Some(guard.clone()),
        tunnels,
        Arc::clone(&signer),
        connections.clone(),
        tasks.clone(),
    );
    let (users, roles) = (Arc::new(Users::default()), Arc::new(GlobalRoles::default()));
    let cache = Arc::new(MemoryCache::new(Arc::clone(&clock)));
    let trust = Arc::new(HostTrust::default());
    let authentication = Authentication::new(
        &configuration,
        cache,
        Arc::clone(&users),
        Arc::clone(&clock),
    )
    .trusting(Arc::clone(&trust));
    let prover = Prover::new(
        &configuration,
        Arc::clone(&users),
        Arc::clone(&roles),
        Arc::clone(&clock),
    );
    let callers = Arc::new(Sessions::new(
        &configuration,
        authentication,
        Arc::clone(&roles),
    ));
    let (users_listed, users_are) = oneshot::channel::<()>();
    let (roles_listed, roles_are) = oneshot::channel::<()>();
    // The receivers may have given up; then nobody waits.
    tasks.spawn(follow_users(
        client.clone(),
        users,
        stop.clone(),
        move || {
            let _ = users_listed.send(());
        },
    ));
    tasks.spawn(follow_roles(
        client.clone(),
        roles,
        stop.clone(),
        move || {
            let _ = roles_listed.send(());
        },
    ));
    let host = configuration.multicluster.enable;
    let (trust_known, trust_is) = oneshot::channel::<()>();
    let known = move || {
        let _ = trust_known.send(());
    };
    if host {
        let (registry, members) = (registry.clone(), client.clone());
        tasks.spawn(async move { registry.follow(members).await });
        tasks.spawn(follow_signing_keys(
            client.clone(),
            signer,
            stop.clone(),
            known,
        ));
    } else {
        tasks.spawn(follow_host_trust(
            client.clone(),
            trust,
            stop.clone(),
            known,
        ));
    }
    // Nobody is answered from caches that are empty still.
    let synced = async {
        let _ = tokio::join!(users_are, roles_are, trust_is);
        if host {
            registry.synced().await;
        }
    };
    match stop
        .run_until_cancelled(tokio::time::timeout(SYNC, synced))
        .await
    {
        None => return Ok(()),
        Some(Err(_)) => {
            bail!("users, roles, clusters and keys could not be listed within {SYNC:?}")
        }
        Some(Ok(())) => {}
    }

    let (tunnels, tunnel_client, tunnel_clock) = (
        registry.tunnels().clone(),
        client.clone(),
        Arc::clone(&clock),
    );
    let limits = ServerLimits::for_files(open_files());
    let parts = GatewayParts {
        settings: Settings::from(&configuration),
        callers: callers.clone(),
        host: host.then(|| Host {
            client,
            registry: registry.clone(),
            prover: prover.clone(),
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
        }),
        registry,
        kube,
        audit: Arc::new(AuditLog),
    };
    let gateway = Gateway::with_upgrades(parts, limits.upgrades);
    let (judged, judge_stop) = (gateway.clone(), stop.clone());
    tasks.spawn(async move { judged.end_streams(JUDGE_STREAMS, judge_stop).await });
    let reloading = gateway.clone();
    let follower = Follower {
        path,
        interval: LOOK,
        current: text,
    };
    let reload_stop = stop.clone();
    tasks.spawn(async move {
        let counters = ReloadCounters::default();
        let apply = |text: &str| {
            let configuration = crate::process::configuration(text)?;
            callers.reload(&configuration);
            prover.reload(&configuration);
            guard.reload(&configuration.hub.allowed_addresses);
            reloading.reload(Settings::from(&configuration));
            Ok::<(), ConfigError>(())
        };
        follower.run(&counters, reload_stop, apply).await;
    });

    let (listener, encryption) = listener;
    let listener = TcpListener::bind(listener)
        .await
        .with_context(|| format!("listen on {listener}"))?;
    tracing::info!("Start listening on {}", listener.local_addr()?);
    if host {
        let advertised = match args.advertise_address {
            Some(ip) => ip,
            None => own_address(&kube_url).await?,
        };
        let scheme = match encryption {
            Encryption::Tls(_) => "https",
            _ => "http",
        };
        let at = SocketAddr::new(advertised, listener.local_addr()?.port());
        let name = args
            .replica_name
            .unwrap_or_else(|| format!("ks-apiserver-{:08x}", rand::random::<u32>()));
        tasks.spawn(async move {
            let address = Some(format!("{scheme}://{at}"));
            tunnels
                .run(tunnel_client, tunnel_clock, name, address)
                .await;
        });
    }
    let ended = kah_gateway::serve(listener, encryption, gateway, limits, stop.clone()).await;
    connections.cancel();
    ended.context("serve")
}

/// The address of this machine or Pod on the way to the kube-apiserver, by which others of the cluster reach it too. Nothing is sent.
async fn own_address(kube: &http::Uri) -> anyhow::Result<IpAddr> {
    let trying = "find out the own address; give it with --advertise-address";
    let host = kube.host().context(trying)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let to = tokio::net::lookup_host((host, kube.port_u16().unwrap_or(443)))
        .await
        .context(trying)?
        .next()
        .context(trying)?;
    let any: SocketAddr = if to.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = tokio::net::UdpSocket::bind(any).await.context(trying)?;
    socket.connect(to).await.context(trying)?;
    Ok(socket.local_addr().context(trying)?.ip())
}

fn listener(args: &Arguments, root: &Path) -> anyhow::Result<(SocketAddr, Encryption)> {
    let at = |port| SocketAddr::new(args.bind_address, port);
    let files = (&args.tls_cert_file, &args.tls_private_key);
    if args.secure_port == 0 {
        if args.insecure_port == 0 {
            bail!("insecure and secure port can not be disabled at the same time");
        }
        let encryption = match files {
            (Some(chain), Some(key)) => {
                let (chain, key) = (below(root, chain), below(root, key));
                // The Secret that holds them is optional: without it there is plain HTTP.
                if chain.exists() {
                    Encryption::Either(Arc::new(tls(&chain, &key)?))
                } else {
                    tracing::info!("{} is absent: no TLS", chain.display());
                    Encryption::None
                }
            }
            _ => Encryption::None,
        };
        return Ok((at(args.insecure_port), encryption));
    }
    let Some(chain) = files.0 else {
        bail!("tls cert file is empty while secure serving")
    };
    let Some(key) = files.1 else {
        bail!("tls private key file is empty while secure serving")
    };
    let tls = tls(&below(root, chain), &below(root, key))?;
    Ok((at(args.secure_port), Encryption::Tls(Arc::new(tls))))
}

fn tls(chain: &Path, key: &Path) -> anyhow::Result<rustls::ServerConfig> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let certificates = CertificateDer::pem_file_iter(chain)
        .with_context(|| format!("read {}", chain.display()))?
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("read {}", chain.display()))?;
    let private =
        PrivateKeyDer::from_pem_file(key).with_context(|| format!("read {}", key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, private)
        .context("use the certificate and its key")?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}
