//! Forwarding and reading under load, beside the original where it is at hand, as ratios of one run.
//!
//! `make bench` runs it after `cargo bench`. Figures are for this machine at this moment: read the ratios.

mod crowd;
mod fleet;
mod load;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use kah_testkit::kubectl::Kubectl;
use kah_testkit::original::{self, Original, Role};
use load::{Measured, Work};
use serde_json::Value;

const SECRET: &str = "one-secret-for-both-sides-32-long";

#[derive(Parser)]
struct Arguments {
    /// The program to measure.
    #[arg(long, default_value = "target/release/kah")]
    kah: PathBuf,
    /// Seconds for each figure.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Measure a fleet of simulated members instead.
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// A host with simulated members: idle cost, black holes, detection times
    Fleet {
        /// Members in all.
        #[arg(long, default_value_t = 300)]
        members: usize,
        /// How many turn into black holes.
        #[arg(long, default_value_t = 60)]
        black_holes: usize,
        /// Seconds for each figure of an idle fleet.
        #[arg(long, default_value_t = 60)]
        idle: u64,
    },
    /// A host whose agents come back all at once, and whose port is flooded
    Crowd {
        /// Agents, with two tunnels each.
        #[arg(long, default_value_t = 200)]
        agents: usize,
        /// How often the host ends and is started at once.
        #[arg(long, default_value_t = 3)]
        restarts: usize,
        /// Seconds for which it stays away, and for which it stands still.
        #[arg(long, default_value_t = 60)]
        away: u64,
        /// Connections that are opened for nothing.
        #[arg(long, default_value_t = 10_000)]
        half_open: usize,
        /// Files that the host may have open [default: as many as the system allows]
        #[arg(long)]
        files: Option<u64>,
    },
}

/// A host with a member that it reaches at its endpoint.
struct Pair {
    name: &'static str,
    host: String,
    /// The Cluster's name.
    cluster: &'static str,
    /// The member's own address, where it takes the token as it is.
    member: Option<String>,
    token: String,
}

/// What our host is called, with members of both kinds of trust.
const OURS: &str = "Kube AI Hub";
const OURS_FEDERATED: &str = "Kube AI Hub, federated";
const THROUGH: &str = "member through the host";
/// For a member to answer at first.
const READY: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let time = Duration::from_secs(arguments.seconds);
    match arguments.what {
        None => {}
        Some(What::Fleet {
            members,
            black_holes,
            idle,
        }) => {
            let plan = fleet::Plan {
                members,
                black_holes,
                time: time * 3,
                idle: Duration::from_secs(idle),
            };
            return print(&fleet::run(&arguments.kah, plan).await?);
        }
        Some(What::Crowd {
            agents,
            restarts,
            away,
            half_open,
            files,
        }) => {
            let plan = crowd::Plan {
                agents,
                restarts,
                away: Duration::from_secs(away),
                half_open,
                files,
                time: time * 3,
            };
            return crowd::run(&arguments.kah, plan).await;
        }
    }
    let mut report = Report::new();
    for (name, trust) in [(OURS, "shared-secret"), (OURS_FEDERATED, "federated")] {
        let ours = Ours::start(&arguments.kah, &["--members", "1", "--trust", trust])?;
        report.pair(&ours.pair(name).await?, time).await?;
    }
    if let Some(reference) = original::reference() {
        // It waits with a runtime of its own.
        let start = |role, age| {
            tokio::task::block_in_place(|| Original::start(&reference, role, age, SECRET))
        };
        let (host, member) = (start(Role::Host, "2h")?, start(Role::Member, "0")?);
        report
            .pair(&original_pair(&host, &member).await?, time)
            .await?;
    } else {
        report.say("KAH_REFERENCE is not set: the original was not measured.");
    }
    report.ratios();
    print(&report.lines)
}

fn print(lines: &[String]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Our own fleet, as processes.
struct Ours {
    child: Child,
    ready: Value,
    _data: tempfile::TempDir,
}

impl Ours {
    /// With these arguments of `kah up`.
    fn start(program: &std::path::Path, arguments: &[&str]) -> Result<Self> {
        use std::io::BufRead;
        let data = tempfile::tempdir()?;
        let mut child = Command::new(program)
            .args(["up", "--port", "0", "-o", "json", "--data-dir"])
            .arg(data.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| {
                format!(
                    "starting {} (build it with cargo build --release)",
                    program.display()
                )
            })?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the program's output")?;
        std::io::BufReader::new(stdout).read_line(&mut line)?;
        let ready = serde_json::from_str(&line).context("the line that says all is ready")?;
        Ok(Ours {
            child,
            ready,
            _data: data,
        })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `host:port`
    fn address(&self) -> String {
        let address = self.ready["address"].as_str().unwrap_or_default();
        address.trim_start_matches("http://").to_owned()
    }

    fn password(&self) -> Result<String> {
        let file = self.ready["passwordFile"].as_str().unwrap_or_default();
        Ok(std::fs::read_to_string(file)?.trim().to_owned())
    }

    /// An administrator's kubeconfig of the cluster of this number; 0 is the host.
    fn kubeconfig(&self, number: usize) -> String {
        let file = self.ready["clusters"][number]["kubeconfig"].as_str();
        file.unwrap_or_default().to_owned()
    }

    /// Has the host reach its member at its Pod's address.
    async fn pair(&self, name: &'static str) -> Result<Pair> {
        const CLUSTER: &str = "member-1";
        let kubectl = Kubectl::new(self.kubeconfig(0).as_ref())?;
        let member = Kubectl::new(self.kubeconfig(1).as_ref())?;
        let pod = member.run(&[
            "-n",
            "kubesphere-system",
            "get",
            "pods",
            "-o",
            "jsonpath={.items[0].status.podIP}",
        ]);
        let endpoint = format!("{}:9090", pod.stdout.trim());
        let direct = serde_json::json!({"spec": {"connection": {
            "kubesphereAPIEndpoint": format!("http://{endpoint}"),
        }}});
        let patch = direct.to_string();
        let ran = kubectl.run(&["patch", "cluster", CLUSTER, "--type=merge", "-p", &patch]);
        anyhow::ensure!(ran.code == 0, "the member's endpoint: {}", ran.stderr);
        let host = self.address();
        Ok(Pair {
            name,
            cluster: CLUSTER,
            member: (name == OURS).then_some(endpoint),
            token: token(&host, &self.password()?).await?,
            host,
        })
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        // A plain kill would leave nothing behind either; the signal lets Pods end in order.
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.child.wait();
    }
}

async fn original_pair(host: &Original, member: &Original) -> Result<Pair> {
    let kubectl = Kubectl::new(&host.kubeconfig_path())?;
    let strip = |address: String| address.trim_start_matches("http://").to_owned();
    let endpoint = strip(member.address());
    join(
        &kubectl,
        &std::fs::read_to_string(member.kubeconfig_path())?,
        &endpoint,
    )?;
    let ready = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
    kubectl.run(&["patch", "cluster", "measured", "--type=merge", "-p", ready]);
    let host = strip(host.address());
    let token = token(&host, "P@88w0rd").await?;
    Ok(Pair {
        name: "original",
        cluster: "measured",
        host,
        member: Some(endpoint),
        token,
    })
}

/// Makes the Cluster object `measured` on a host.
fn join(host: &Kubectl, kubeconfig: &str, endpoint: &str) -> Result<()> {
    use base64::Engine;
    let cluster = serde_json::json!({
        "apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster", "metadata": {"name": "measured"},
        "spec": {"joinFederation": true, "enable": true, "connection": {
            "type": "direct",
            "kubesphereAPIEndpoint": format!("http://{endpoint}"),
            "kubeconfig": base64::engine::general_purpose::STANDARD.encode(kubeconfig),
        }},
    });
    let ran = host.run_with_input(&["apply", "-f", "-"], &cluster.to_string());
    anyhow::ensure!(ran.code == 0, "joining the member: {}", ran.stderr);
    Ok(())
}

/// A token by the password grant.
async fn token(host: &str, password: &str) -> Result<String> {
    use http_body_util::{BodyExt, Full};
    let stream = tokio::net::TcpStream::connect(host).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let form = format!(
        "grant_type=password&username=admin&password={}&client_id=kubesphere&client_secret=kubesphere",
        password
            .replace('%', "%25")
            .replace('@', "%40")
            .replace('+', "%2B")
            .replace('&', "%26")
    );
    let request = http::Request::post("/oauth/token")
        .header("host", host)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::new(bytes::Bytes::from(form)))?;
    let answer = sender
        .send_request(request)
        .await?
        .into_body()
        .collect()
        .await?
        .to_bytes();
    driver.abort();
    let answer: Value = serde_json::from_slice(&answer)?;
    Ok(answer["access_token"]
        .as_str()
        .context("no access_token in the answer")?
        .to_owned())
}

/// Rows of the report, and what the ratios are made of.
struct Report {
    lines: Vec<String>,
    rows: Vec<(&'static str, String, usize, Measured)>,
}

impl Report {
    fn new() -> Self {
        Report {
            lines: vec![
                "| system | work | connections | requests/s | median µs | p99 µs |".into(),
                "|---|---|---|---|---|---|".into(),
            ],
            rows: Vec::new(),
        }
    }

    fn say(&mut self, text: &str) {
        self.lines.push(String::new());
        self.lines.push(text.to_owned());
    }

    async fn pair(&mut self, pair: &Pair, time: Duration) -> Result<()> {
        let work = |address: &String, path: &str| Work {
            address: address.clone(),
            path: path.to_owned(),
            token: pair.token.clone(),
        };
        let path = "/api/v1/namespaces/kubesphere-system";
        let cluster = pair.cluster;
        let through = format!("/api/clusters/{cluster}/v1/namespaces/kubesphere-system");
        let through = work(&pair.host, &through);
        through.answers(Instant::now() + READY).await?;
        let mut works = vec![(THROUGH, through)];
        if let Some(member) = &pair.member {
            works.splice(
                0..0,
                [
                    (
                        "version, not authenticated work",
                        work(&pair.host, "/kapis/version"),
                    ),
                    ("proxied GET of a namespace", work(&pair.host, path)),
                    ("member directly", work(member, path)),
                ],
            );
        }
        for connections in [1, 16, 64] {
            for (name, work) in &works {
                work.run(connections, Duration::from_millis(300))
                    .await
                    .with_context(|| format!("{}: {name}", pair.name))?;
                let measured = work.run(connections, time).await?;
                self.lines.push(format!(
                    "| {} | {name} | {connections} | {:.0} | {} | {} |",
                    pair.name,
                    measured.rate,
                    measured.median.as_micros(),
                    measured.p99.as_micros()
                ));
                self.rows
                    .push((pair.name, (*name).to_owned(), connections, measured));
            }
        }
        Ok(())
    }

    fn find(&self, system: &str, work: &str, connections: usize) -> Option<Measured> {
        self.rows
            .iter()
            .find(|row| row.0 == system && row.1 == work && row.2 == connections)
            .map(|row| row.3)
    }

    fn ratios(&mut self) {
        self.say("| ratio | 1 connection | 16 | 64 |");
        self.lines.push("|---|---|---|---|".into());
        let over =
            |a: Option<Measured>, b: Option<Measured>, figure: fn(&Measured) -> f64| match (a, b) {
                (Some(a), Some(b)) => format!("{:.2}", figure(&a) / figure(&b)),
                _ => "not measured".to_owned(),
            };
        let median: fn(&Measured) -> f64 = |measured| measured.median.as_secs_f64();
        let rate: fn(&Measured) -> f64 = |measured| measured.rate;
        let mut rows = Vec::new();
        for system in [OURS, "original"] {
            let cells: Vec<String> = [1, 16, 64]
                .iter()
                .map(|&n| {
                    over(
                        self.find(system, THROUGH, n),
                        self.find(system, "member directly", n),
                        median,
                    )
                })
                .collect();
            rows.push(format!(
                "| {system}: median through the host / directly | {} |",
                cells.join(" | ")
            ));
        }
        for work in [
            "version, not authenticated work",
            "proxied GET of a namespace",
            THROUGH,
        ] {
            let cells: Vec<String> = [1, 16, 64]
                .iter()
                .map(|&n| {
                    over(
                        self.find(OURS, work, n),
                        self.find("original", work, n),
                        rate,
                    )
                })
                .collect();
            rows.push(format!(
                "| requests/s, ours / the original: {work} | {} |",
                cells.join(" | ")
            ));
        }
        let cells: Vec<String> = [1, 16, 64]
            .iter()
            .map(|&n| {
                let federated = self.find(OURS_FEDERATED, THROUGH, n);
                over(federated, self.find(OURS, THROUGH, n), median)
            })
            .collect();
        rows.push(format!(
            "| {THROUGH}, median: federated / shared secret | {} |",
            cells.join(" | ")
        ));
        self.lines.extend(rows);
    }
}
