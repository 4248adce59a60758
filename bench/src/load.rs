//! A closed-loop load: so many connections, each with one request under way.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// One GET, repeated.
#[derive(Clone, Debug)]
pub struct Work {
    /// `host:port`.
    pub address: String,
    /// Path and query.
    pub path: String,
    /// Bearer token.
    pub token: String,
}

/// What a load measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Requests a second over all connections.
    pub rate: f64,
    /// Median latency.
    pub median: Duration,
    /// 99th percentile of latency.
    pub p99: Duration,
}

/// The median and the 99th percentile of all, one connection each, for about `time`.
///
/// # Errors
/// A connection fails or an answer is not 200.
pub async fn percentiles(works: &[Work], time: Duration) -> Result<(Duration, Duration)> {
    let runs = works.iter().map(|work| work.latencies(time));
    let runs = futures::future::try_join_all(runs).await?;
    let mut all: Vec<Duration> = runs.into_iter().flatten().collect();
    all.sort_unstable();
    Ok((at(&all, 0.5), at(&all, 0.99)))
}

/// The one at this share of the way, of sorted ones.
pub fn at(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    let place = (last as f64 * share) as usize;
    sorted.get(place).copied().unwrap_or_default()
}

impl Work {
    /// Runs for about `time` on `connections` connections.
    ///
    /// # Errors
    /// A connection fails or an answer is not 200.
    pub async fn run(&self, connections: usize, time: Duration) -> Result<Measured> {
        let started = Instant::now();
        let end = started + time;
        let loops = (0..connections).map(|_| self.one_connection(end));
        let latencies: Vec<Vec<Duration>> = futures::future::try_join_all(loops).await?;
        let elapsed = started.elapsed().as_secs_f64();
        let mut all: Vec<Duration> = latencies.into_iter().flatten().collect();
        all.sort_unstable();
        let at = |share: f64| {
            all.get((all.len() as f64 * share) as usize)
                .copied()
                .unwrap_or_default()
        };
        Ok(Measured {
            rate: all.len() as f64 / elapsed,
            median: at(0.5),
            p99: at(0.99),
        })
    }

    /// The latency of each request on one connection, for about `time`.
    ///
    /// # Errors
    /// The connection fails or an answer is not 200.
    pub async fn latencies(&self, time: Duration) -> Result<Vec<Duration>> {
        self.one_connection(Instant::now() + time).await
    }

    async fn one_connection(&self, end: Instant) -> Result<Vec<Duration>> {
        let stream = TcpStream::connect(&self.address)
            .await
            .with_context(|| format!("connecting to {}", self.address))?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let mut latencies = Vec::new();
        while Instant::now() < end {
            let request = http::Request::get(&self.path)
                .header("host", &self.address)
                .header("authorization", format!("Bearer {}", self.token))
                .header("accept", "application/json")
                .body(Empty::<Bytes>::new())?;
            sender.ready().await?;
            let begun = Instant::now();
            let response = sender.send_request(request).await?;
            let status = response.status();
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                frame?;
            }
            ensure!(status == 200, "{} answered {status}", self.path);
            latencies.push(begun.elapsed());
        }
        driver.abort();
        Ok(latencies)
    }
}
