//! A real host under a crowd: agents that all come back at once, connections that are opened for nothing, members that say too much.

mod flood;
mod host;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use kah_testkit::kubectl::Kubectl;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::{net::TcpStream, task::JoinSet};

use crate::{
    Ours,
    fleet::{
        Simulation,
        agents::Agents,
        mebibytes,
        process::{files, forget_peak, resident, sockets, usage},
        uids,
    },
    load::{self, Work},
    print, token,
};
use flood::{Flood, Kind};
use host::Host;

/// How the crowd is made.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Agents, with two tunnels each.
    pub agents: usize,
    /// How often the host ends and is started at once.
    pub restarts: usize,
    /// For how long it stays away, and stands still.
    pub away: Duration,
    /// Connections that are opened for nothing.
    pub half_open: usize,
    /// Files that the host may have open.
    pub files: Option<u64>,
    /// For each figure of load.
    pub time: Duration,
}

/// Members whose small answers are measured while others do harm.
const HEALTHY: usize = 16;
/// All agents have to be back by then, however slow.
const BACK: Duration = Duration::from_secs(120);
/// Requests at one time whose answers are too much.
const MANY: usize = 200;
/// Blocks of 32 KiB that make 10 GB.
const TEN_GIGABYTES: usize = 10_000_000_000 / (32 * 1024);

/// Runs it and prints the report, in Markdown, each line as soon as it is known.
///
/// # Errors
/// Something does not start, or agents do not come back in minutes.
pub async fn run(program: &Path, plan: Plan) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )
    .context("raise the limit on open files")?;
    let ours = Ours::start(program, &["--members", "0"])?;
    let kubeconfig = ours.kubeconfig(0);
    let kubectl = Kubectl::new(kubeconfig.as_ref())?;
    let mut host = Host::instead(program, kubeconfig.as_ref(), &kubectl, plan.files).await?;
    let since = host.start().await?;
    // Two more: one that is reached directly, and one whose agent comes during a flood.
    let simulation = Simulation::start(plan.agents + 2, 1).await?;
    simulation.join(&kubectl)?;
    let uids = uids(&kubectl)?;
    let client = kah_testkit::kubelet::client(kubeconfig.as_ref()).await?;
    let (late, members) = simulation.members.split_last().context("members")?;
    let tunnelled = members.get(1..).context("members")?;
    let hub = format!("http://{}", host.address());
    let _agents = Agents::start(client.clone(), &hub, tunnelled, &uids).await?;
    let names: Vec<&str> = tunnelled
        .iter()
        .map(|member| member.name.as_str())
        .collect();
    let mut crowd = Crowd {
        token: token(&host.address(), &ours.password()?).await?,
        address: host.address(),
        names: names.into_iter().map(str::to_owned).collect(),
    };
    crowd.back(since).await.context("agents connect at first")?;

    print(&[
        format!(
            "| {} agents, two tunnels each; seconds since the host listens again | first | half | last |",
            plan.agents
        ),
        "|---|---|---|---|".into(),
    ])?;
    let password = ours.password()?;
    let mut kinds = vec![Restart::AtOnce; plan.restarts];
    if !plan.away.is_zero() {
        kinds.extend([Restart::After(plan.away), Restart::Still(plan.away)]);
    }
    for kind in kinds {
        let since = kind.happen(&mut host).await?;
        crowd.token = token(&host.address(), &password).await?;
        let back = crowd.back(since).await.with_context(|| kind.name())?;
        let at = |share: f64| load::at(&back, share).as_secs_f64();
        print(&[format!(
            "| {} | {:.1} | {:.1} | {:.1} |",
            kind.name(),
            at(0.0),
            at(0.5),
            at(1.0)
        )])?;
    }

    if plan.half_open > 0 {
        print(&Crowd::flood_table(plan.half_open))?;
        for kind in [Kind::Websocket, Kind::Silent] {
            crowd.anew(&mut host, &password).await?;
            let newcomer = async || {
                Agents::start(client.clone(), &hub, std::slice::from_ref(late), &uids).await
            };
            print(&[crowd.flood(&host, plan, kind, &late.name, newcomer).await?])?;
        }
    }
    if plan.time.is_zero() {
        return Ok(());
    }
    print(&[
        String::new(),
        "| what one member says | way | resident MiB before | most | after | MiB of all sockets | the host's processor meanwhile | p99 of others µs before | meanwhile | ratio |".into(),
        "|---|---|---|---|---|---|---|---|---|---|".into(),
    ])?;
    let tunnelled = tunnelled.first().context("members")?;
    let direct = members.first().context("members")?;
    for (way, member) in [("tunnel", tunnelled), ("directly", direct)] {
        for what in [Saying::Unread, Saying::Slow, Saying::Drip, Saying::Large] {
            crowd.anew(&mut host, &password).await?;
            let row = crowd.too_much(&host, (way, &member.name), what, plan.time);
            print(&[row.await?])?;
        }
    }
    Ok(())
}

/// How a host goes and comes.
#[derive(Clone, Copy, Debug)]
enum Restart {
    AtOnce,
    After(Duration),
    Still(Duration),
}

impl Restart {
    fn name(self) -> String {
        match self {
            Self::AtOnce => "SIGKILL, started at once".into(),
            Self::After(time) => format!("SIGKILL, away for {} s", time.as_secs()),
            Self::Still(time) => format!("SIGSTOP, stands still for {} s", time.as_secs()),
        }
    }

    /// Since when the host answers again.
    async fn happen(self, host: &mut Host) -> Result<Instant> {
        match self {
            Self::AtOnce => host.end(),
            Self::After(time) => {
                host.end();
                tokio::time::sleep(time).await;
            }
            Self::Still(time) => {
                host.signal(Signal::STOP)?;
                tokio::time::sleep(time).await;
                host.signal(Signal::CONT)?;
                return Ok(Instant::now());
            }
        }
        host.start().await
    }
}

/// Members behind tunnels, and how to ask them.
struct Crowd {
    address: String,
    token: String,
    names: Vec<String>,
}

/// The host's memory, in one line of a table.
fn memory(host: &Host) -> Result<(f64, f64)> {
    let resident = resident(host.pid()?)?;
    Ok((mebibytes(resident.now), mebibytes(resident.peak)))
}

impl Crowd {
    fn work(&self, name: &str) -> Work {
        Work {
            address: self.address.clone(),
            path: format!("/clusters/{name}/api/v1/namespaces/default"),
            token: self.token.clone(),
        }
    }

    fn healthy(&self) -> Vec<Work> {
        let names = self.names.iter().rev().take(HEALTHY);
        names.map(|name| self.work(name)).collect()
    }

    /// How long after `since` each member answers through its tunnel, sorted.
    async fn back(&self, since: Instant) -> Result<Vec<Duration>> {
        let mut asking = JoinSet::new();
        for (number, name) in self.names.iter().enumerate() {
            let work = self.work(name);
            // Not all at the same moment: to ask is load too.
            let begin = Duration::from_millis((number % 50) as u64 * 10);
            asking.spawn(async move {
                tokio::time::sleep(begin).await;
                work.answers(since + BACK).await?;
                Ok::<_, anyhow::Error>(since.elapsed())
            });
        }
        let (mut back, mut away) = (Vec::new(), Vec::new());
        while let Some(one) = asking.join_next().await {
            match one? {
                Ok(time) => back.push(time),
                Err(error) => away.push(format!("{error:#}")),
            }
        }
        back.sort_unstable();
        let (last, examples) = (back.last(), away.iter().take(5));
        ensure!(
            away.is_empty(),
            "{} came back, the last after {last:?}; {} did not: {:?}",
            back.len(),
            away.len(),
            examples.collect::<Vec<_>>()
        );
        Ok(back)
    }

    /// A figure that the host counts.
    async fn counted(&self, name: &str) -> Result<u64> {
        let mut work = self.work("");
        work.path = "/kapis/metrics".into();
        let text = work.send().await?.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.with_context(|| format!("the figure {name}"))?;
        Ok(number.trim().parse()?)
    }

    /// A host that remembers nothing of what was done to it before: memory that was given back stays with the process.
    async fn anew(&mut self, host: &mut Host, password: &str) -> Result<()> {
        host.end();
        let since = host.start().await?;
        self.token = token(&self.address, password).await?;
        self.back(since).await?;
        // Everything that a start begins has been done.
        tokio::time::sleep(Duration::from_secs(3)).await;
        load::percentiles(&self.healthy(), Duration::from_secs(1)).await?;
        Ok(())
    }

    fn flood_table(connections: usize) -> [String; 3] {
        [
            String::new(),
            format!(
                "| {connections} connections, opened again when they are closed | open at the end | files of the host | resident MiB before | most \
                 | 15 s after | p99 µs before | while they come | while they stay | after | those / before | a new agent answers after s | tunnels lost |"
            ),
            "|---|---|---|---|---|---|---|---|---|---|---|---|---|".into(),
        ]
    }

    async fn flood(
        &self,
        host: &Host,
        plan: Plan,
        kind: Kind,
        late: &str,
        newcomer: impl AsyncFn() -> Result<Agents>,
    ) -> Result<String> {
        const ACCEPTED: &str = "kubeaihub_tunnels_dialled_total{outcome=\"accepted\"}";
        const HELD: &str = "kubeaihub_tunnels ";
        let works = self.healthy();
        let (_, before) = load::percentiles(&works, plan.time).await?;
        let (accepted, held) = (self.counted(ACCEPTED).await?, self.counted(HELD).await?);
        let (calm, _) = memory(host)?;
        forget_peak(host.pid()?)?;
        let flood = Flood::start(&self.address, kind, plan.half_open);
        let (_, coming) = load::percentiles(&works, plan.time).await?;
        let opened = flood.opened();
        ensure!(opened >= plan.half_open, "only {opened} were opened");
        let began = Instant::now();
        let joining = newcomer().await?;
        let work = self.work(late);
        let (staying, joined) = tokio::join!(load::percentiles(&works, plan.time), async {
            work.answers(began + BACK).await?;
            Ok::<_, anyhow::Error>(began.elapsed())
        });
        let ((_, staying), joined) = (staying?, joined?);
        let (open, used) = (flood.open(), files(host.pid()?)?);
        let (_, most) = memory(host)?;
        drop(flood);
        let (_, after) = load::percentiles(&works, plan.time).await?;
        tokio::time::sleep(Duration::from_secs(15)).await;
        let (rest, _) = memory(host)?;
        // One that was lost was dialled again: then more were accepted than are held more.
        let more = self.counted(ACCEPTED).await? - accepted;
        let lost = more.saturating_sub(self.counted(HELD).await?.saturating_sub(held));
        drop(joining);
        let times = |p99: Duration| p99.as_secs_f64() / before.as_secs_f64();
        Ok(format!(
            "| {} | {open} | {used} | {calm:.0} | {most:.0} | {rest:.0} | {} | {} | {} | {} | {:.2}, {:.2}, {:.2} | {:.1} | {lost} |",
            match kind {
                Kind::Websocket => "that open the tunnel's websocket and say no more",
                Kind::Silent => "that say nothing",
            },
            before.as_micros(),
            coming.as_micros(),
            staying.as_micros(),
            after.as_micros(),
            times(coming),
            times(staying),
            times(after),
            joined.as_secs_f64(),
        ))
    }

    /// One member's answers are too much.
    async fn too_much(
        &self,
        host: &Host,
        (way, member): (&str, &str),
        what: Saying,
        time: Duration,
    ) -> Result<String> {
        let works = self.healthy();
        let (_, before) = load::percentiles(&works, time).await?;
        let (calm, _) = memory(host)?;
        forget_peak(host.pid()?)?;
        let mut readers = JoinSet::new();
        let begun = Instant::now();
        for _ in 0..what.requests() {
            let mut work = self.work(member);
            work.path = format!("/kapis/clusters/{member}/bench.io/v1/{}", what.path());
            readers.spawn(async move { what.read(work.send().await?).await });
        }
        if !matches!(what, Saying::Large) {
            // What is taken in before it stops is taken in now.
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let (used, since) = (usage(host.pid()?)?.processor, Instant::now());
        let (_, meanwhile) = load::percentiles(&works, time).await?;
        let kept = mebibytes(sockets()?);
        let used = usage(host.pid()?)?.processor.saturating_sub(used);
        let used = 100.0 * used.as_secs_f64() / since.elapsed().as_secs_f64();
        let mut rate = String::new();
        if matches!(what, Saying::Large) {
            while let Some(done) = readers.join_next().await {
                done??;
            }
            rate = format!(", {:.0} MB/s", 1e4 / begun.elapsed().as_secs_f64());
        }
        if let Some(ended) = readers.try_join_next() {
            ended??;
        }
        let (_, most) = memory(host)?;
        readers.shutdown().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (rest, _) = memory(host)?;
        Ok(format!(
            "| {}{rate} | {way} | {calm:.0} | {most:.0} | {rest:.0} | {kept:.0} | {used:.0} % | {} | {} | {:.2} |",
            what.name(),
            before.as_micros(),
            meanwhile.as_micros(),
            meanwhile.as_secs_f64() / before.as_secs_f64(),
        ))
    }
}

/// What a member says too much of, and how it is read.
#[derive(Clone, Copy, Debug)]
enum Saying {
    Unread,
    Slow,
    Drip,
    Large,
}

impl Saying {
    fn name(self) -> String {
        match self {
            Self::Unread => format!("{MANY} endless answers that nobody reads"),
            Self::Slow => format!("{MANY} endless answers, read a piece a second"),
            Self::Drip => format!("{MANY} watches of one byte a second"),
            Self::Large => "one list of 10 GB, read as fast as it comes".into(),
        }
    }

    fn requests(self) -> usize {
        if matches!(self, Self::Large) { 1 } else { MANY }
    }

    fn path(self) -> String {
        match self {
            Self::Unread | Self::Slow => format!("blocks/{}", usize::MAX),
            Self::Drip => "drip".into(),
            Self::Large => format!("blocks/{TEN_GIGABYTES}"),
        }
    }

    async fn read(self, answer: http::Response<Incoming>) -> Result<()> {
        ensure!(answer.status() == 200, "{self:?}: {}", answer.status());
        let mut body = answer.into_body();
        match self {
            Self::Unread => std::future::pending::<()>().await,
            Self::Slow => {
                while let Some(frame) = body.frame().await {
                    frame?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Self::Drip => while body.frame().await.transpose()?.is_some() {},
            Self::Large => {
                let mut read = 0;
                while let Some(frame) = body.frame().await {
                    read += frame?.data_ref().map_or(0, Bytes::len);
                }
                ensure!(read == TEN_GIGABYTES * 32 * 1024, "{read} bytes came");
                return Ok(());
            }
        }
        anyhow::bail!("{self:?} has ended")
    }
}

impl Work {
    /// One GET on a connection of its own.
    async fn send(&self) -> Result<http::Response<Incoming>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        // What the host's system keeps is measured, not what that of a caller keeps.
        socket2::SockRef::from(&stream).set_recv_buffer_size(crate::fleet::simulated::KERNEL)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer's body.
        tokio::spawn(connection);
        let request = http::Request::get(&self.path)
            .header("host", &self.address)
            .header("authorization", format!("Bearer {}", self.token))
            .header("connection", "close")
            .body(Empty::<Bytes>::new())?;
        Ok(sender.send_request(request).await?)
    }

    /// Asks until the answer is 200.
    pub async fn answers(&self, deadline: Instant) -> Result<()> {
        loop {
            let asked = tokio::time::timeout(Duration::from_secs(5), self.send()).await;
            let said = match asked {
                Ok(Ok(answer)) if answer.status() == 200 => return Ok(()),
                Ok(Ok(answer)) => {
                    let status = answer.status();
                    let words = answer.into_body().collect().await?.to_bytes();
                    format!("{status}: {}", String::from_utf8_lossy(&words))
                }
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "nothing in time".into(),
            };
            ensure!(Instant::now() < deadline, "{}: {said}", self.path);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}
