//! kubectl judges localkube: one table of commands, the same output from both control planes.
//!
//! `kubectl/expected.txt` is what the real control plane answered. Each plane is compared with it, so the
//! comparison also holds on machines without a real one. `KAH_RECORD=1` writes it anew from the real plane.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kah_localkube::node::{ApiServer, Options as NodeOptions};
use kah_localkube::{Cluster, Options};
use kah_testkit::kubectl::Kubectl;
use kah_testkit::kubelet::{self, Kubelet};
use kah_testkit::plane::{self, RealPlane};
use regex::Regex;

const TABLE: &str = include_str!("kubectl/table.txt");

/// Rows below this line are not run; docs/localkube.md says why.
const SET_ASIDE: &str = "# not served yet";

/// The one node, on both planes.
const NODE: &str = "node";

/// Longer than any wait that a row asks for.
const LIMIT: Duration = Duration::from_secs(90);

/// The table's rows that are run, the names of scenarios among them.
fn lines() -> impl Iterator<Item = &'static str> {
    TABLE
        .lines()
        .take_while(|line| *line != SET_ASIDE)
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/kubectl")
}

/// Runs every line of the table and gives a transcript in the form of `expected.txt`.
fn transcript(kubectl: &Kubectl, only: Option<&str>) -> String {
    let workspace = tempfile::tempdir().expect("a folder to work in");
    let manifests = workspace.path().join("manifests");
    std::fs::create_dir(&manifests).expect("the manifests' folder");
    for entry in std::fs::read_dir(folder().join("manifests")).expect("manifests") {
        let entry = entry.expect("a manifest");
        std::fs::copy(entry.path(), manifests.join(entry.file_name())).expect("copying a manifest");
    }
    let normal = Normal::new();
    let mut text = String::new();
    let mut chosen = true;
    for line in lines() {
        if let Some(name) = line.strip_prefix("== ") {
            chosen = only.is_none_or(|only| only.split(',').any(|one| one == name));
            if chosen {
                let _ = writeln!(text, "== {name}");
            }
            continue;
        }
        if !chosen {
            continue;
        }
        let ran = kubectl.shell_within(line, workspace.path(), LIMIT);
        let _ = writeln!(text, "$ {line}");
        text.push_str(&normal.apply(&ran.stdout));
        for line in normal.apply(&ran.stderr).lines() {
            let _ = writeln!(text, "! {line}");
        }
        if ran.code != 0 {
            let _ = writeln!(text, "? {}", ran.code);
        }
    }
    text
}

/// Takes out of an output what differs between two runs of the same command.
struct Normal(Vec<(Regex, &'static str)>);

impl Normal {
    fn new() -> Self {
        let rule = |pattern: &str, with| (Regex::new(pattern).expect("a pattern"), with);
        Normal(vec![
            rule(
                r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
                "UID",
            ),
            rule(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
            rule(
                r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}",
                "TIME",
            ),
            rule(r#"(resourceVersion\\*"?: ?)\\*"?\d+\\*"?"#, "${1}N"),
            rule(r"Resource Version: +\d+", "Resource Version: N"),
            rule(r"X509SHA256=[0-9a-f]{64}", "X509SHA256=SUM"),
            rule(r"\b10\.\d+\.\d+\.\d+\b", "ADDRESS"),
            rule(r"\b127\.\d+\.\d+\.\d+(:\d+)?", "LOCAL"),
            rule(r"\b3[0-2]\d{3}\b", "NODEPORT"),
            // Template hash and random suffix of generated names, from the letters Kubernetes uses for them.
            rule(r"-[bcdfghjklmnpqrstvwxz2456789]{8,10}\b", "-HASH"),
            rule(r"=[bcdfghjklmnpqrstvwxz2456789]{8,10}\b", "=HASH"),
            rule(r"-HASH-[bcdfghjklmnpqrstvwxz2456789]{5}\b", "-HASH-ID"),
            rule(
                r"\b(agent|once|tick)-[bcdfghjklmnpqrstvwxz2456789]{5}\b",
                "$1-ID",
            ),
            rule(r"(?m)\b\d+(ms|s|m|h)(\d+(ms|s))?( ?\(| +|$)", "AGE$4"),
            rule(r"(?m)[ \t]+", " "),
            rule(r"(?m) $", ""),
        ])
    }

    fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (pattern, with) in &self.0 {
            text = pattern.replace_all(&text, *with).into_owned();
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text
    }
}

/// Rows (command and answer) of a transcript, so that a difference names its command.
fn rows(text: &str) -> Vec<(String, String)> {
    let mut rows: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if line.starts_with("$ ") || line.starts_with("== ") {
            rows.push((line.to_owned(), String::new()));
        } else if let Some((_, answer)) = rows.last_mut() {
            answer.push_str(line);
            answer.push('\n');
        }
    }
    rows
}

fn compare(got: &str, only: Option<&str>) {
    let expected = std::fs::read_to_string(folder().join("expected.txt")).expect("expected.txt");
    let expected = rows(&expected);
    let got = rows(got);
    let mut differences = String::new();
    let mut count = 0;
    let mut at = 0;
    for (command, answer) in &got {
        // The table is in the order of the recording; a chosen scenario skips ahead.
        let rest = expected.get(at..).unwrap_or_default();
        let Some(ahead) = rest.iter().position(|(other, _)| other == command) else {
            count += 1;
            let _ = writeln!(
                differences,
                "{command}\n--- is not in expected.txt: record it with KAH_RECORD=1\n+++ here\n{answer}"
            );
            continue;
        };
        let wanted = &rest[ahead].1;
        at += ahead + 1;
        if wanted != answer {
            count += 1;
            let _ = writeln!(
                differences,
                "{command}\n--- real\n{wanted}+++ here\n{answer}"
            );
        }
    }
    if only.is_none() {
        assert!(
            at == expected.len(),
            "expected.txt holds more rows than the table"
        );
    }
    assert!(
        count == 0,
        "{count} of {} rows differ:\n{differences}",
        got.len()
    );
}

fn chosen() -> Option<String> {
    std::env::var("KAH_SCENARIO").ok()
}

#[test]
fn kubectl_table_on_the_real_control_plane() {
    let Some(assets) = plane::assets() else {
        eprintln!("KUBEBUILDER_ASSETS is not set: only localkube is compared with the recording");
        return;
    };
    let plane = RealPlane::start(&assets).expect("a control plane");
    let runtime = runtime();
    let folder_of_node = tempfile::tempdir().expect("the node's folder");
    let node = runtime.block_on(async {
        let client = kubelet::client(&plane.kubeconfig_path())
            .await
            .expect("a client");
        let options = NodeOptions {
            name: NODE.to_owned(),
            folder: folder_of_node.path().to_owned(),
            program: None,
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
    let kubectl = Kubectl::new(&plane.kubeconfig_path()).expect("kubectl");
    let only = chosen();
    let text = transcript(&kubectl, only.as_deref());
    runtime.block_on(node.stop());
    if std::env::var_os("KAH_RECORD").is_some() {
        std::fs::write(folder().join("expected.txt"), text).expect("writing the recording");
        return;
    }
    compare(&text, only.as_deref());
}

#[test]
fn kubectl_table_on_localkube() {
    let runtime = runtime();
    let cluster = runtime
        .block_on(Cluster::start(Options::new(NODE)))
        .expect("a cluster");
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, cluster.admin_kubeconfig()).expect("writing the kubeconfig");
    let kubectl = Kubectl::new(&kubeconfig).expect("kubectl");
    let only = chosen();
    let text = transcript(&kubectl, only.as_deref());
    runtime.block_on(cluster.stop());
    compare(&text, only.as_deref());
}

/// Serves while the test's own thread waits for kubectl.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

#[test]
fn the_table_is_large_enough() {
    let rows = lines().filter(|line| line.contains("kubectl")).count();
    assert!(rows >= 120, "{rows} rows");
}
