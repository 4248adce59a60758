//! A real Kubernetes control plane for tests: etcd, kube-apiserver and kube-controller-manager on free ports.
//!
//! The programs are found as envtest finds them: the folder that `KUBEBUILDER_ASSETS` names. There is no
//! kubelet; [`crate::kubelet::Kubelet`] plays the node.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use tempfile::TempDir;

/// The folder of the control plane's programs, if this machine has one.
pub fn assets() -> Option<PathBuf> {
    std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from)
}

/// A running control plane. Its processes end when it is dropped, and its folder goes with them.
pub struct RealPlane {
    // kube-apiserver must end before etcd, or it never does: fields are dropped in this order.
    _controller_manager: Process,
    _api_server: Process,
    _etcd: Process,
    port: u16,
    authority: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl RealPlane {
    /// Starts a control plane from the programs in `assets` and waits until it is ready.
    ///
    /// # Errors
    /// A program that is missing or does not become ready within a minute; the error holds the end of its log.
    pub fn start(assets: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("plane-").tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let authority = authority("plane-ca")?;
        std::fs::write(at("ca.crt"), authority.pem())?;
        std::fs::write(at("ca.key"), authority.key().serialize_pem())?;
        let accounts = KeyPair::generate()?;
        std::fs::write(at("sa.key"), accounts.serialize_pem())?;
        std::fs::write(at("sa.pub"), accounts.public_key_pem())?;
        let server = server_certificate(&authority)?;
        std::fs::write(at("server.crt"), &server.certificate)?;
        std::fs::write(at("server.key"), &server.key)?;

        let [client, peer, port] = free_ports()?;
        let etcd = Process::start(
            &assets.join("etcd"),
            &at("etcd.log"),
            &[
                format!("--data-dir={}", at("etcd").display()),
                format!("--listen-client-urls=http://127.0.0.1:{client}"),
                format!("--advertise-client-urls=http://127.0.0.1:{client}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
                // The plane lives as long as one test: nothing needs to reach the disk.
                "--unsafe-no-fsync".into(),
            ],
        )?;
        let api_server = Process::start(
            &assets.join("kube-apiserver"),
            &at("kube-apiserver.log"),
            &[
                format!("--etcd-servers=http://127.0.0.1:{client}"),
                format!("--secure-port={port}"),
                "--bind-address=127.0.0.1".into(),
                format!("--cert-dir={}", at("certs").display()),
                format!("--tls-cert-file={}", at("server.crt").display()),
                format!("--tls-private-key-file={}", at("server.key").display()),
                format!("--client-ca-file={}", at("ca.crt").display()),
                "--service-account-issuer=https://kubernetes.default.svc".into(),
                format!("--service-account-key-file={}", at("sa.pub").display()),
                format!(
                    "--service-account-signing-key-file={}",
                    at("sa.key").display()
                ),
                "--service-cluster-ip-range=10.96.0.0/16".into(),
                "--authorization-mode=RBAC".into(),
                "--allow-privileged".into(),
                "--kubelet-preferred-address-types=InternalIP".into(),
                // Lets exec reach a node that speaks websocket instead of SPDY.
                "--feature-gates=NodeDeclaredFeatures=true,ExtendWebSocketsToKubelet=true".into(),
            ],
        )?;
        let admin = client_certificate(&authority, "kubernetes-admin", &["system:masters"])?;
        let kubeconfig = kubeconfig(&authority.pem(), port, &admin);
        write_private(&at("kubeconfig"), &kubeconfig)?;
        let controller_manager = Process::start(
            &assets.join("kube-controller-manager"),
            &at("kube-controller-manager.log"),
            &[
                format!("--kubeconfig={}", at("kubeconfig").display()),
                format!("--root-ca-file={}", at("ca.crt").display()),
                format!(
                    "--service-account-private-key-file={}",
                    at("sa.key").display()
                ),
                "--use-service-account-credentials".into(),
                format!("--cluster-signing-cert-file={}", at("ca.crt").display()),
                format!("--cluster-signing-key-file={}", at("ca.key").display()),
                "--leader-elect=false".into(),
                "--bind-address=127.0.0.1".into(),
                "--secure-port=0".into(),
            ],
        )?;
        let mut plane = RealPlane {
            _controller_manager: controller_manager,
            _api_server: api_server,
            _etcd: etcd,
            port,
            authority,
            folder,
        };
        plane.wait_ready()?;
        Ok(plane)
    }

    /// Where the administrator's kubeconfig lies.
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.kubeconfig_path())?)
    }

    /// Port of kube-apiserver on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The cluster's CA certificate in PEM.
    pub fn authority_pem(&self) -> String {
        self.authority.pem()
    }

    /// A kubeconfig for another client certificate of this cluster's CA.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<String> {
        let certificate = client_certificate(&self.authority, user, groups)?;
        Ok(kubeconfig(&self.authority.pem(), self.port, &certificate))
    }

    /// The same with a certificate that ends, or has ended, at the beginning of this day (UTC).
    pub fn kubeconfig_until(
        &self,
        user: &str,
        groups: &[&str],
        (year, month, day): (i32, u8, u8),
    ) -> Result<String> {
        let mut params = client_parameters(user, groups)?;
        params.not_after = rcgen::date_time_ymd(year, month, day);
        let certificate = signed(params, &self.authority)?;
        Ok(kubeconfig(&self.authority.pem(), self.port, &certificate))
    }

    fn wait_ready(&mut self) -> Result<()> {
        let kubectl = crate::kubectl::Kubectl::new(&self.kubeconfig_path())?;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            // The default service account is what the controller manager makes last of all that tests need.
            let ready = kubectl.run(&["get", "--raw", "/readyz"]).code == 0
                && kubectl.run(&["get", "serviceaccount", "default"]).code == 0;
            if ready {
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(self.folder.path().join("kube-apiserver.log"))
                    .unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                bail!(
                    "kube-apiserver did not become ready within 60 s; its last lines, newest first:\n{}",
                    tail.join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A child process that is killed when its owner goes.
pub struct Process(Child);

impl Process {
    /// Starts `program`, its output going to the file `log`.
    pub fn start(program: &Path, log: &Path, arguments: &[String]) -> Result<Self> {
        let output = File::create(log)?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Process(child))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing in these folders outlives the test, so a kill is a clean enough end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A certificate and its key, both PEM.
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: String,
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn server_certificate(authority: &CertifiedIssuer<'static, KeyPair>) -> Result<Pair> {
    let mut params = CertificateParams::new(vec![
        "localhost".to_owned(),
        "kubernetes.default.svc".to_owned(),
    ])?;
    params
        .subject_alt_names
        .push(SanType::IpAddress([127, 0, 0, 1].into()));
    params
        .subject_alt_names
        .push(SanType::IpAddress([10, 96, 0, 1].into()));
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "kube-apiserver");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn client_certificate(
    authority: &CertifiedIssuer<'static, KeyPair>,
    user: &str,
    groups: &[&str],
) -> Result<Pair> {
    signed(client_parameters(user, groups)?, authority)
}

fn client_parameters(user: &str, groups: &[&str]) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, user);
    for group in groups {
        params
            .distinguished_name
            .push(DnType::OrganizationName, *group);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn signed(
    params: CertificateParams,
    authority: &CertifiedIssuer<'static, KeyPair>,
) -> Result<Pair> {
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn kubeconfig(authority: &str, port: u16, client: &Pair) -> String {
    use base64::Engine;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: plane\n\
         clusters:\n- name: plane\n  cluster:\n    server: https://127.0.0.1:{port}\n    certificate-authority-data: {}\n\
         users:\n- name: admin\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n\
         contexts:\n- name: plane\n  context:\n    cluster: plane\n    user: admin\n",
        encode(authority),
        encode(&client.certificate),
        encode(&client.key),
    )
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

/// Neighbouring ports that were free a moment ago: these programs cannot be handed a listener. They lie below those that the system gives to whoever
/// dials, or one of the many connections of a fleet may have a port by the time that its program begins to listen; and below node ports.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    const LOWEST: u16 = 16_000;
    const RANGES: u16 = 2_500;
    const WIDTH: u16 = 4;
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    // Tests that run side by side begin at different places.
    let begin = (since.subsec_nanos() ^ std::process::id()) % u32::from(RANGES);
    let begin = u16::try_from(begin)?;
    for range in (0..RANGES).map(|range| (begin + range) % RANGES) {
        let first = LOWEST + range * WIDTH;
        let all: std::io::Result<Vec<TcpListener>> = (first..first + WIDTH)
            .map(|port| TcpListener::bind(("127.0.0.1", port)))
            .collect();
        if all.is_ok() {
            let mut ports = [0; N];
            for (port, free) in ports.iter_mut().zip(first..) {
                *port = free;
            }
            return Ok(ports);
        }
    }
    bail!("no {WIDTH} neighbouring free ports from {LOWEST} on")
}
