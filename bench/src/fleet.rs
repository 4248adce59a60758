//! A host with hundreds of simulated members: what each costs while nothing happens, and whether dead ones disturb the others.

pub(crate) mod agents;
pub(crate) mod process;
pub(crate) mod simulated;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::StreamExt;
use kah_testkit::{kubectl::Kubectl, member::Authority};
use kube::runtime::watcher;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use crate::{
    Ours,
    load::{self, Work},
    token,
};
use agents::Agents;
use process::{Usage, child, usage};
use simulated::Simulated;

/// How the fleet is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Members in all.
    pub members: usize,
    /// How many of them turn into black holes.
    pub black_holes: usize,
    /// For each figure of load.
    pub time: Duration,
    /// For each figure of an idle fleet.
    pub idle: Duration,
}

/// The two programs of a host.
struct Host {
    apiserver: u32,
    controller_manager: u32,
}

impl Host {
    fn usage(&self) -> Result<[Usage; 2]> {
        Ok([usage(self.apiserver)?, usage(self.controller_manager)?])
    }

    /// Memory at the end, and processor time a second, of an idle while.
    async fn idle(&self, time: Duration) -> Result<[(u64, f64); 2]> {
        let before = self.usage()?;
        tokio::time::sleep(time).await;
        let after = self.usage()?;
        let row = |which: usize| {
            let spent = after[which]
                .processor
                .saturating_sub(before[which].processor);
            (
                after[which].memory,
                spent.as_secs_f64() / time.as_secs_f64(),
            )
        };
        Ok([row(0), row(1)])
    }
}

/// Runs it and prints the report, in Markdown.
///
/// # Errors
/// Something does not start, or does not become ready in minutes.
pub async fn run(program: &Path, plan: Plan) -> Result<Vec<String>> {
    let ours = Ours::start(program, &["--members", "0"])?;
    let host = Host {
        apiserver: child(ours.pid(), "apiserver")?,
        controller_manager: child(ours.pid(), "controller-manager")?,
    };
    tokio::time::sleep(Duration::from_secs(5)).await;
    let empty = host.idle(plan.idle).await?;

    let kubectl = Kubectl::new(ours.kubeconfig(0).as_ref())?;
    let simulation = Simulation::start(plan.members, plan.members.div_ceil(2)).await?;
    let members = &simulation.members;
    let joined = Instant::now();
    simulation.join(&kubectl)?;
    let (_, tunnelled) = members.split_at(simulation.direct);
    let client = kah_testkit::kubelet::client(ours.kubeconfig(0).as_ref()).await?;
    let hub = format!("http://{}", ours.address());
    let _agents = Agents::start(client.clone(), &hub, tunnelled, &uids(&kubectl)?).await?;
    let ready = wait(&kubectl, Duration::from_secs(300), |states| {
        states.iter().filter(|state| state.1 == "True").count() > members.len()
    })
    .await
    .context("all members ready")?;
    let mut lines = vec![format!(
        "{} members ({}) were ready {:.1} s after they were joined.",
        members.len(),
        format_args!(
            "{} directly, through a kube-apiserver over TLS; {} by tunnel",
            simulation.direct,
            tunnelled.len()
        ),
        (ready - joined).as_secs_f64()
    )];

    // Idle.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let bytes = || -> u64 {
        let sum = |counted: &Simulated| counted.counters.bytes.load(Ordering::Relaxed);
        members.iter().map(sum).sum()
    };
    let before = bytes();
    let full = host.idle(plan.idle).await?;
    let day = (bytes() - before) as f64 / members.len() as f64 * 86_400.0 / plan.idle.as_secs_f64();
    lines.extend([
        String::new(),
        "| idle | memory with no member | with all | a member | processor with no member | with all | a member |".into(),
        "|---|---|---|---|---|---|---|".into(),
    ]);
    for (name, which) in [("ks-apiserver", 0), ("controller-manager", 1)] {
        let count = members.len() as f64;
        let (before, after) = (empty[which], full[which]);
        lines.push(format!(
            "| {name} | {:.1} MiB | {:.1} MiB | {:.0} KiB | {:.2} % | {:.2} % | {:.4} % of a core |",
            mebibytes(before.0),
            mebibytes(after.0),
            (after.0 as f64 - before.0 as f64) / 1024.0 / count,
            before.1 * 100.0,
            after.1 * 100.0,
            (after.1 - before.1) * 100.0 / count,
        ));
    }
    lines.push(String::new());
    lines.push(format!(
        "Bytes between host and one idle member: {:.1} MB a day, in both directions.",
        day / 1e6
    ));

    // Load on the healthy ones, before and while the others are black holes.
    let token = token(&ours.address(), &ours.password()?).await?;
    // Both kinds among the dead and the living.
    let (direct, _) = members.split_at(simulation.direct);
    let half = (plan.black_holes / 2)
        .min(direct.len() / 2)
        .min(tunnelled.len() / 2);
    let dead: Vec<&Simulated> = direct
        .iter()
        .take(half)
        .chain(tunnelled.iter().take(half))
        .collect();
    let alive = direct
        .iter()
        .skip(half)
        .take(16)
        .chain(tunnelled.iter().skip(half).take(16));
    let works: Vec<Work> = alive
        .map(|member| Work {
            address: ours.address(),
            path: format!("/clusters/{}/api/v1/namespaces/default", member.name),
            token: token.clone(),
        })
        .collect();
    let p99 = async |time: Duration| load::percentiles(&works, time).await;
    p99(Duration::from_secs(1)).await?;
    let calm = p99(plan.time).await?;
    for member in &dead {
        member.counters.silent.store(true, Ordering::Release);
    }
    let since = Instant::now();
    let names: Vec<&str> = dead.iter().map(|member| member.name.as_str()).collect();
    let (stormy, noticed) = tokio::join!(p99(plan.time), notice(client.clone(), &names, since));
    let stormy = stormy?;
    let mut noticed: Vec<Duration> = noticed?.into_values().collect();
    noticed.sort_unstable();
    let after = p99(plan.time).await?;
    for member in &dead {
        member.counters.silent.store(false, Ordering::Release);
    }
    let since = Instant::now();
    let back = wait(&kubectl, Duration::from_secs(60), |states| {
        states.iter().filter(|state| state.1 == "True").count() > members.len()
    })
    .await
    .context("all members are back")?;
    lines.extend([
        String::new(),
        format!(
            "| GET through the host to {} healthy members, one connection each | median µs | p99 µs | p99 / before |",
            works.len()
        ),
        "|---|---|---|---|".into(),
    ]);
    for (name, (median, p99)) in [
        ("all healthy".to_owned(), calm),
        (format!("{} turn silent", dead.len()), stormy),
        (format!("{} known to be dead", dead.len()), after),
    ] {
        lines.push(format!(
            "| {name} | {} | {} | {:.2} |",
            median.as_micros(),
            p99.as_micros(),
            p99.as_secs_f64() / calm.1.as_secs_f64()
        ));
    }
    let second = |at: f64| noticed[((noticed.len() - 1) as f64 * at) as usize].as_secs_f64();
    lines.extend([
        String::new(),
        format!(
            "| {} silent members, seconds | first | median | last |",
            dead.len()
        ),
        "|---|---|---|---|".into(),
        format!(
            "| `Ready` is False | {:.1} | {:.1} | {:.1} |",
            second(0.0),
            second(0.5),
            second(1.0)
        ),
        format!(
            "| all `Ready` again after they answer | | | {:.1} |",
            (back - since).as_secs_f64()
        ),
    ]);
    Ok(lines)
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}

/// An authority and members that it certifies.
pub(crate) struct Simulation {
    authority: String,
    /// So many of them are reached directly, those behind by tunnel.
    pub(crate) direct: usize,
    pub(crate) members: Vec<Simulated>,
}

impl Simulation {
    pub(crate) async fn start(count: usize, direct: usize) -> Result<Self> {
        let authority = Authority::new()?;
        let pair = authority.issue("127.0.0.1", false)?;
        let tls = TlsAcceptor::from(Arc::new(pair.server(None)?));
        let mut members = Vec::with_capacity(count);
        for number in 1..=count {
            let tls = (number <= direct).then(|| tls.clone());
            members.push(Simulated::start(format!("m-{number}"), tls).await?);
        }
        Ok(Self {
            direct,
            authority: STANDARD.encode(authority.pem()),
            members,
        })
    }

    /// Makes a Cluster object for each.
    pub(crate) fn join(&self, kubectl: &Kubectl) -> Result<()> {
        let (direct, tunnelled) = self.members.split_at(self.direct);
        let dialled = |member: &Simulated| cluster(&member.name, json!({"type": "proxy"}));
        let items: Vec<Value> = direct
            .iter()
            .map(|member| self.cluster(member))
            .chain(tunnelled.iter().map(dialled))
            .collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        let ran = kubectl.run_with_input(&["create", "-f", "-"], &list.to_string());
        ensure!(ran.code == 0, "create the Clusters: {}", ran.stderr);
        Ok(())
    }

    fn cluster(&self, member: &Simulated) -> Value {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://{}", member.address),
                "certificate-authority-data": self.authority,
            }}],
            "users": [{"name": "u", "user": {"token": "simulated"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        let connection =
            json!({"type": "direct", "kubeconfig": STANDARD.encode(kubeconfig.to_string())});
        cluster(&member.name, connection)
    }
}

fn cluster(name: &str, connection: Value) -> Value {
    json!({
        "apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster",
        "metadata": {"name": name},
        "spec": {"joinFederation": true, "enable": true, "connection": connection},
    })
}

/// The UID of each Cluster object, by name.
pub(crate) fn uids(kubectl: &Kubectl) -> Result<HashMap<String, String>> {
    Ok(pairs(kubectl, "{.metadata.uid}")?.into_iter().collect())
}

/// Names and the status of their condition `Ready`.
fn states(kubectl: &Kubectl) -> Result<Vec<(String, String)>> {
    pairs(
        kubectl,
        r#"{.status.conditions[?(@.type=="Ready")].status}"#,
    )
}

/// The name of each Cluster, and something of it.
fn pairs(kubectl: &Kubectl, what: &str) -> Result<Vec<(String, String)>> {
    let form = format!(r#"jsonpath={{range .items[*]}}{{.metadata.name}} {what}{{"\n"}}{{end}}"#);
    let ran = kubectl.run(&["get", "clusters", "-o", &form]);
    ensure!(ran.code == 0, "list the Clusters: {}", ran.stderr);
    let pairs = ran.stdout.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs
        .map(|(name, state)| (name.to_owned(), state.to_owned()))
        .collect())
}

/// Looks until `holds`, and tells when that was.
pub(crate) async fn wait(
    kubectl: &Kubectl,
    limit: Duration,
    mut holds: impl FnMut(&[(String, String)]) -> bool,
) -> Result<Instant> {
    let deadline = Instant::now() + limit;
    loop {
        let states = states(kubectl)?;
        let now = Instant::now();
        if holds(&states) {
            return Ok(now);
        }
        let ready = states.iter().filter(|state| state.1 == "True").count();
        ensure!(now < deadline, "only {ready} are ready after {limit:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// How long after `since` each of these was first told not to be ready. A watch: to ask again and again would be load of its own.
async fn notice(
    client: kube::Client,
    names: &[&str],
    since: Instant,
) -> Result<HashMap<String, Duration>> {
    let mut noticed: HashMap<String, Duration> = HashMap::new();
    let events = watcher(kah_cluster::clusters(client), watcher::Config::default());
    let mut events = std::pin::pin!(events);
    while noticed.len() < names.len() {
        let event = tokio::time::timeout(Duration::from_secs(60), events.next())
            .await
            .with_context(|| format!("only {} of {} were noticed", noticed.len(), names.len()))?;
        let (watcher::Event::Apply(object) | watcher::Event::InitApply(object)) =
            event.context("the watch has ended")??
        else {
            continue;
        };
        let name = object.metadata.name.unwrap_or_default();
        let conditions = object.data["status"]["conditions"].as_array();
        let dead = conditions
            .into_iter()
            .flatten()
            .any(|it| it["type"] == "Ready" && it["status"] == "False");
        if dead && names.contains(&name.as_str()) {
            noticed.entry(name).or_insert(since.elapsed());
        }
    }
    Ok(noticed)
}
