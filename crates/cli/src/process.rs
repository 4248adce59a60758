//! What every server of this program needs of the process that it is: its root folder, its configuration, its way to the kube-apiserver, its end.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use kah_api::config::{ConfigError, Configuration};
use tokio::io::AsyncReadExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::logging;

/// Below the container's root: what a kubelet mounts.
const SERVICE_ACCOUNT: &str = "var/run/secrets/kubernetes.io/serviceaccount";

/// Takes as many files as the system allows: what a shell gives a process by default is little for a server with a connection for each caller. Tells
/// how many that are.
pub fn open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        // Then it stays as it is.
        Err(_) => current,
    };
    now.unwrap_or(u64::MAX)
}

/// The folder that stands for `/`: a Pod that runs as a local process has its own.
pub fn root() -> PathBuf {
    env::var_os("KAH_ROOT").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

pub fn find_configuration(given: Option<&Path>, root: &Path) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let mounted = root.join("etc/kubesphere");
    let here = env::current_dir().unwrap_or_default();
    let names = ["kubesphere.json", "kubesphere.yaml", "kubesphere.yml"];
    for folder in [&mounted, &here] {
        for name in names {
            let path = folder.join(name);
            if path.is_file() {
                return Ok(path);
            }
        }
    }
    bail!(
        "Failed to load configuration from disk: Config File \"kubesphere\" Not Found in \"[{} {}]\"",
        mounted.display(),
        here.display()
    )
}

pub fn configuration(text: &str) -> Result<Configuration, ConfigError> {
    let environment = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let configuration = Configuration::read(text, &environment)?;
    configuration.validate()?;
    for finding in configuration.findings() {
        tracing::warn!("kubesphere.yaml: {finding}");
    }
    Ok(configuration)
}

/// A path as the container sees it.
pub fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// From a kubeconfig, or from what a kubelet gives every Pod, below our own root.
pub async fn kube_config(kubeconfig: Option<&Path>, root: &Path) -> anyhow::Result<kube::Config> {
    use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
    if let Some(path) = kubeconfig {
        let read =
            Kubeconfig::read_from(path).with_context(|| format!("read {}", path.display()))?;
        return kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("use {}", path.display()));
    }
    let variable = |name: &str| {
        env::var(name)
            .with_context(|| format!("{name} is not set; is this a Pod? if not, use --kubeconfig"))
    };
    let (host, port) = (
        variable("KUBERNETES_SERVICE_HOST")?,
        variable("KUBERNETES_SERVICE_PORT")?,
    );
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    let folder = root.join(SERVICE_ACCOUNT);
    let authority = folder.join("ca.crt");
    let pem = std::fs::read(&authority).with_context(|| format!("read {}", authority.display()))?;
    let mut config = kube::Config::new(
        format!("https://{host}:{port}")
            .parse()
            .context("read KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT")?,
    );
    config.root_cert =
        Some(certificates(&pem).with_context(|| format!("read {}", authority.display()))?);
    config.auth_info = AuthInfo {
        token_file: Some(folder.join("token").to_string_lossy().into_owned()),
        ..AuthInfo::default()
    };
    Ok(config)
}

/// A kubeconfig of what this process itself uses, for the Cluster object of the host; empty where it cannot be written down.
pub fn own_kubeconfig(config: &kube::Config) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use secrecy::ExposeSecret;
    let pem = |der: &Vec<u8>| {
        let text: Vec<String> = STANDARD
            .encode(der)
            .as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            text.join("\n")
        )
    };
    let mut cluster = serde_json::json!({
        "server": config.cluster_url.to_string().trim_end_matches('/'),
    });
    if let Some(authorities) = &config.root_cert {
        let text: String = authorities.iter().map(pem).collect();
        cluster["certificate-authority-data"] = STANDARD.encode(text).into();
    }
    let auth = &config.auth_info;
    let mut user = serde_json::json!({});
    let token = auth
        .token
        .as_ref()
        .map(|token| token.expose_secret().to_owned());
    let file = auth.token_file.as_ref();
    let token = token.or_else(|| std::fs::read_to_string(file?).ok());
    if let Some(token) = token {
        user["token"] = token.trim().into();
    }
    if let Some(certificate) = &auth.client_certificate_data {
        user["client-certificate-data"] = certificate.as_str().into();
    }
    if let Some(key) = &auth.client_key_data {
        user["client-key-data"] = key.expose_secret().into();
    }
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "kubernetes", "cluster": cluster}],
        "users": [{"name": "kubernetes-admin", "user": user}],
        "contexts": [{
            "name": "kubernetes-admin@kubernetes",
            "context": {"cluster": "kubernetes", "user": "kubernetes-admin"},
        }],
        "current-context": "kubernetes-admin@kubernetes",
    });
    serde_saphyr::to_string(&kubeconfig).unwrap_or_default()
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let certificates = CertificateDer::pem_slice_iter(pem)
        .map(|certificate| certificate.map(|der| der.to_vec()))
        .collect::<Result<Vec<_>, _>>()?;
    if certificates.is_empty() {
        bail!("there is no certificate in it");
    }
    Ok(certificates)
}

/// Does a server's work until it ends or this process is told to stop; then what it has begun gets `end` to come to its own end.
///
/// # Errors
/// Those of the work.
pub async fn until_stopped(
    verbosity: u8,
    end: Duration,
    work: impl AsyncFnOnce(&CancellationToken, &TaskTracker) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    logging::init(verbosity);
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(end_on_signal(stop.clone()));
    let result = work(&stop, &tasks).await;
    stop.cancel();
    tasks.close();
    // Whatever does not end by itself now ends with the process.
    let _ = tokio::time::timeout(end, tasks.wait()).await;
    result
}

/// Writes why a server ends, as klog does.
pub fn log_fatal(error: &anyhow::Error) {
    tracing::error!(klog.fatal = true, "command failed: {error:#}");
}

/// The usual signals; and, where a parent asked for it, the end of standard input: a Pod never outlives what runs it.
async fn end_on_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                terminate.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    let orphaned = async {
        if env::var_os("KAH_PARENT_PIPE").is_none_or(|value| value != "1") {
            return std::future::pending().await;
        }
        let mut input = tokio::io::stdin();
        let mut ignored = [0_u8; 256];
        while matches!(input.read(&mut ignored).await, Ok(read) if read > 0) {}
    };
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = terminated => tracing::info!("asked to end"),
        () = interrupted => tracing::info!("interrupted"),
        () = orphaned => tracing::info!("the program that ran this one has gone"),
    }
    stop.cancel();
}
