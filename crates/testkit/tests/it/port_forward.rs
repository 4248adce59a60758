//! `kubectl port-forward` to a Pod that is a process, on localkube and on a real control plane.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use kah_localkube::node::{ApiServer, Options as NodeOptions, Program};
use kah_localkube::{Cluster, Options};
use kah_testkit::fleet::until;
use kah_testkit::kubectl::Kubectl;
use kah_testkit::kubelet::{self, Kubelet};
use kah_testkit::plane::{self, RealPlane};

const IMAGE: &str = "test/echo:1";
/// Tells this program that it is to be the Pod's process, and on which address.
const ADDRESS: &str = "ECHO_ADDRESS";
const PORT: u16 = 7000;
const CLOSED: u16 = 7001;
const LIMIT: Duration = Duration::from_secs(30);

/// The program that the Pod runs: this test's own, which answers with what it was sent, in capitals, once the
/// client has sent all.
fn echo() -> Program {
    Program {
        image: IMAGE.to_owned(),
        path: std::env::current_exe().expect("this program"),
    }
}

#[test]
fn serves_in_a_pod() {
    let Ok(address) = std::env::var(ADDRESS) else {
        return;
    };
    let listener = TcpListener::bind((address.as_str(), PORT)).expect("the Pod's port");
    for stream in listener.incoming() {
        std::thread::spawn(move || {
            let mut stream = stream.expect("a connection");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("a question");
            stream
                .write_all(text.to_uppercase().as_bytes())
                .expect("answering");
        });
    }
}

fn manifest() -> String {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "echo"},
        "spec": {"containers": [{
            "name": "echo", "image": IMAGE,
            "args": ["port_forward::serves_in_a_pod", "--exact", "--nocapture"],
            "ports": [{"containerPort": PORT}],
            "env": [{"name": ADDRESS, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        }]},
    })
    .to_string()
}

/// A running `kubectl port-forward`.
struct Forward {
    child: Child,
    local: u16,
    /// Kept open: kubectl says something about every connection, and ends when nobody listens.
    _says: BufReader<ChildStdout>,
}

impl Forward {
    /// `websocket` is what kubectl 1.31 and later try first; without it, it speaks SPDY as those before.
    fn start(kubectl: &Kubectl, port: u16, websocket: bool) -> Forward {
        let mut child = kubectl
            .command()
            .args(["port-forward", "pod/echo", &format!(":{port}")])
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websocket.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl");
        let mut line = String::new();
        let mut says = BufReader::new(child.stdout.take().expect("a pipe"));
        says.read_line(&mut line).expect("what it says");
        let local = line
            .strip_prefix("Forwarding from 127.0.0.1:")
            .and_then(|rest| rest.split(' ').next())
            .and_then(|port| port.parse().ok());
        let Some(local) = local else {
            let _ = child.kill();
            let mut errors = String::new();
            let _ = child
                .stderr
                .take()
                .expect("a pipe")
                .read_to_string(&mut errors);
            panic!("kubectl port-forward said {line:?} and {errors:?}");
        };
        Forward {
            child,
            local,
            _says: says,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.local)).expect("kubectl's port");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        stream
    }

    fn ask(&self, text: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).expect("asking");
        stream.shutdown(Shutdown::Write).expect("having asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn check(kubectl: &Kubectl) {
    let ran = kubectl.run_with_input(&["create", "-f", "-"], &manifest());
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = kubectl.run(&["wait", "--for=condition=Ready", "pod/echo", "--timeout=60s"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for websocket in [true, false] {
        let forward = Forward::start(kubectl, PORT, websocket);
        // Several at once, on one session: one that waits does not keep the others.
        let mut idle = forward.connect();
        idle.write_all(b"and ").expect("asking");
        let long = "many words ".repeat(50_000);
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (forward, long) = (&forward, &long);
                scope.spawn(move || {
                    let text = format!("{number} {long}");
                    assert!(forward.ask(&text) == text.to_uppercase());
                });
            }
        });
        idle.write_all(b"at last").expect("asking");
        idle.shutdown(Shutdown::Write).expect("having asked");
        let mut answer = String::new();
        idle.read_to_string(&mut answer).expect("an answer");
        assert_eq!(answer, "AND AT LAST");
        drop(forward);

        let mut closed = Forward::start(kubectl, CLOSED, websocket);
        // kubectl may have closed the connection before all is said.
        let _ = closed.connect().write_all(b"anyone?");
        let mut errors = closed.child.stderr.take().expect("a pipe");
        let child = &mut closed.child;
        let ended = until(LIMIT, "kubectl gives up", || {
            child.try_wait().ok().flatten()
        });
        let mut text = String::new();
        errors.read_to_string(&mut text).expect("errors");
        assert!(!ended.expect("an end").success());
        assert!(
            text.contains(&format!("error forwarding port {CLOSED} to pod echo, uid"))
                && text.contains(&format!(":{CLOSED}: connect: connection refused"))
                && text.contains("lost connection to pod"),
            "{text}"
        );
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

#[test]
fn kubectl_forwards_ports_on_localkube() {
    let runtime = runtime();
    let mut options = Options::new("node");
    options.program = Some(echo());
    let cluster = runtime
        .block_on(Cluster::start(options))
        .expect("a cluster");
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, cluster.admin_kubeconfig()).expect("writing the kubeconfig");
    check(&Kubectl::new(&kubeconfig).expect("kubectl"));
    runtime.block_on(cluster.stop());
}

#[test]
fn kubectl_forwards_ports_on_the_real_control_plane() {
    let Some(assets) = plane::assets() else {
        eprintln!("KUBEBUILDER_ASSETS is not set: only localkube is asked");
        return;
    };
    let plane = RealPlane::start(&assets).expect("a control plane");
    let runtime = runtime();
    let folder = tempfile::tempdir().expect("the node's folder");
    let node = runtime.block_on(async {
        let client = kubelet::client(&plane.kubeconfig_path())
            .await
            .expect("a client");
        let options = NodeOptions {
            name: "node".to_owned(),
            folder: folder.path().to_owned(),
            program: Some(echo()),
            api_server: ApiServer {
                host: "127.0.0.1".to_owned(),
                port: plane.port(),
                ca: plane.authority_pem(),
            },
            network: kah_localkube::node::Network::LOOPBACK,
            clock: jiff::Timestamp::now,
        };
        Kubelet::start(client, options).await.expect("a node")
    });
    check(&Kubectl::new(&plane.kubeconfig_path()).expect("kubectl"));
    runtime.block_on(node.stop());
}
