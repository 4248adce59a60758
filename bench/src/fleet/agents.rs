//! Agents of simulated members, in this process: each dials the host as `kah agent` does.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use jiff::Timestamp;
use kah_cluster::{
    OwnKubernetes,
    agent::{self, Credentials, Settings, Store, Stored},
    retry::Retry,
    tunnel::authority::{AgentIdentity, TunnelAuthority, private_key, request_certificate},
};
use kah_iam::clock::SystemClock;
use kah_net::{Address, Limits, tunnel::Proxies};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::simulated::Simulated;

/// Tunnels that each agent holds, as by default.
const TUNNELS: usize = 2;

/// Running agents. They end when this is dropped.
pub struct Agents(CancellationToken);

impl Drop for Agents {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

struct InMemory(Credentials);

impl Store for InMemory {
    fn load(&self) -> Stored<'_, Credentials> {
        Box::pin(async { Ok(self.0.clone()) })
    }

    fn save(&self, _: Credentials) -> Stored<'_, ()> {
        // A bench does not live as long as a certificate.
        Box::pin(async { Ok(()) })
    }
}

impl Agents {
    /// Starts an agent for each member, with a certificate of the host's authority.
    ///
    /// # Errors
    /// The authority cannot be had, or a member is none of the host's Clusters.
    pub async fn start(
        host: kube::Client,
        hub: &str,
        members: &[Simulated],
        uids: &HashMap<String, String>,
    ) -> Result<Self> {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let now = Timestamp::now();
        let authority = TunnelAuthority::open(&host, now).await?;
        let clock = Arc::new(SystemClock::default());
        for member in members {
            let uid = uids
                .get(&member.name)
                .with_context(|| format!("the Cluster {}", member.name))?;
            let key = private_key()?;
            let request = request_certificate(&key)?;
            let chain =
                authority.issue_agent(&request, &AgentIdentity::first(&member.name, uid), now)?;
            let server = format!("http://{}", member.address);
            let mut config = kube::Config::new(server.parse()?);
            config.auth_info.token = Some("simulated".to_owned().into());
            let settings = Settings {
                hub: Address::parse(hub).map_err(anyhow::Error::from_boxed)?,
                proxies: Proxies::default(),
                pin: authority.pin().to_owned(),
                store: Arc::new(InMemory(Credentials {
                    chain,
                    key,
                    authority: authority.ca_pem().to_owned(),
                })),
                kubesphere: Address::parse(&server).map_err(anyhow::Error::from_boxed)?,
                kubernetes: OwnKubernetes::new(
                    &config,
                    Limits::default(),
                    stop.clone(),
                    tasks.clone(),
                )?,
                tunnels: TUNNELS,
                step: Duration::from_secs(10),
                drain: Duration::from_secs(60),
                retry: Retry::TRANSIENT,
                refused: Retry::REFUSED,
                clock: clock.clone(),
            };
            tokio::spawn(agent::run(settings, stop.clone(), tasks.clone()));
        }
        Ok(Self(stop))
    }
}
