//! The clusters of `kah up`, started and stopped together.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kah_api::cluster::Trust;
use kah_api::seed::{self, Role, Seed};
use kah_localkube::authority::Authority;
use kah_localkube::node::Program;
use kah_localkube::{Cluster, Options};
use kube::api::{Api, PostParams};
use serde_json::Value;

use super::data::{DataDir, random_text};
use super::fault::{Fault, Kind};
use super::standing::Standing;
use super::{adjust, joining, port, trust};
use crate::failure::Failure;
use crate::output;

/// Between looks at what is not ready yet.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What bcrypt costs: as the original hashes.
const HASH_COST: u32 = 10;
/// Name of the host's Cluster object.
const HOST: &str = "host";

/// A running host and its members.
pub struct Fleet {
    address: SocketAddr,
    password: String,
    password_file: PathBuf,
    authority_file: PathBuf,
    clusters: Vec<Running>,
}

struct Running {
    place: Place,
    cluster: Cluster,
}

/// Where one cluster is.
pub struct Place {
    /// Its name.
    pub name: String,
    /// An administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// Its Kubernetes API.
    pub address: String,
    /// The name of its Cluster; a member that has left the fleet has none.
    pub in_fleet_as: Option<String>,
}

impl Place {
    /// What a person has to know of a member that is not in the fleet under its own name.
    fn told(&self, standing: &Standing) -> Option<String> {
        let name = &self.name;
        let join = |as_name: &str| {
            let kubeconfig = self.kubeconfig.display();
            format!("kah cluster join {as_name} --kubeconfig {kubeconfig}")
        };
        match standing {
            Standing::New | Standing::Joined => None,
            Standing::As(other) => Some(format!("{name} is in the fleet as {other}.")),
            Standing::Left => Some(format!(
                "{name} has left the fleet; not joined again: {}",
                join(name)
            )),
            Standing::NameTaken => Some(format!(
                "{name} is not in the fleet, and another cluster is, under its name; not joined: {}",
                join("NAME")
            )),
        }
    }
}

impl Fleet {
    /// Starts all clusters, creates what is missing in them, and joins the members to the host.
    /// Members that are new know callers by `trust`; the others by what they did.
    pub async fn start(
        data: &DataDir,
        address: SocketAddr,
        members: u16,
        trust: Trust,
    ) -> Result<Self, Failure> {
        let ports = data.ports();
        let password = data.password()?;
        let plan = Plan {
            data,
            ports: &ports,
            program: program()?,
            password_hash: hash(password.clone()).await?,
            certificate: certificate(data)?,
        };
        // The host first: a member that is new and shares a secret gets the one that the host has now.
        let host = plan
            .start(HOST, Role::Host, &random_text(32), Some(address.port()))
            .await?;
        let secret = jwt_secret(&host.cluster).await?;
        let names: Vec<String> = (1..=members)
            .map(|number| format!("member-{number}"))
            .collect();
        let trusts = trust::of_members(&host.cluster.client(), &names, trust).await?;
        let started = futures::future::join_all(names.iter().map(|name| {
            let secret = match trusts.get(name) {
                Some(Trust::Federated) => random_text(32),
                _ => secret.clone(),
            };
            let plan = &plan;
            async move { plan.start(name, Role::Member, &secret, None).await }
        }))
        .await;
        let mut fleet = Fleet {
            address,
            password,
            password_file: data.password_file(),
            authority_file: data.authority_file(),
            clusters: vec![host],
        };
        let mut failed = None;
        for member in started {
            match member {
                Ok(member) => fleet.clusters.push(member),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let joined = match failed {
            None => fleet.join(data, &trusts).await,
            Some(error) => Err(error),
        };
        let joined = match joined {
            Ok(()) => fleet.tell_left_out(data, members).await,
            failed => failed,
        };
        if let Err(error) = joined {
            fleet.stop().await;
            return Err(error);
        }
        Ok(fleet)
    }

    /// Writes kubeconfigs and ports, and tells the host where its members are.
    async fn join(
        &mut self,
        data: &DataDir,
        trusts: &BTreeMap<String, Trust>,
    ) -> Result<(), Failure> {
        let mut ports = data.ports();
        for running in &self.clusters {
            data.write(
                &running.place.kubeconfig,
                running.cluster.admin_kubeconfig(),
            )?;
            ports.insert(running.place.name.clone(), running.cluster.address().port());
        }
        data.keep_ports(&ports)?;
        let Some((host, members)) = self.clusters.split_first() else {
            return Ok(());
        };
        let client = host.cluster.client();
        let agents = members.iter().map(|member| member.cluster.client());
        let adjusted = adjust::host(&client, self.address.port(), agents.collect());
        let host_object = seed::host_cluster(host.cluster.admin_kubeconfig(), &host.place.address);
        let host_written = joining::write(&client, HOST, host_object);
        let members: Vec<joining::Member> = members
            .iter()
            .map(|member| joining::Member {
                name: &member.place.name,
                client: member.cluster.client(),
                kubeconfig: member.cluster.admin_kubeconfig(),
                address: &member.place.address,
                trust: trusts.get(&member.place.name).copied().unwrap_or_default(),
            })
            .collect();
        let joined = joining::join(data, &client, &members);
        let images = futures::future::join_all(
            self.clusters
                .iter()
                .map(|running| adjust::images(running.cluster.client())),
        );
        let (adjusted, host_written, joined, images) =
            tokio::join!(adjusted, host_written, joined, images);
        adjusted?;
        host_written?;
        let standings = joined?;
        images.into_iter().collect::<Result<(), _>>()?;
        for running in &mut self.clusters {
            let Some(standing) = standings.get(&running.place.name) else {
                continue;
            };
            running.place.in_fleet_as = standing.cluster(&running.place.name).map(str::to_owned);
            if let Some(told) = running.place.told(standing) {
                output::talk(&told);
            }
        }
        Ok(())
    }

    /// Tells which members of earlier starts the host misses.
    async fn tell_left_out(&self, data: &DataDir, members: u16) -> Result<(), Failure> {
        let left_out = data.left_out(members);
        if let (Some(host), false) = (self.clusters.first(), left_out.is_empty()) {
            let host = host.cluster.client();
            for (name, cluster) in joining::kept_as(data, &host, left_out).await? {
                output::talk(&format!(
                    "{name} of an earlier start is kept but not started: the host shows {cluster} as unreachable."
                ));
            }
        }
        Ok(())
    }

    /// Takes a member's trust away and restarts its ks-apiserver. Says what was done. There is nothing to break between those who share no secret, so
    /// a federated member is made to share the host's first.
    pub async fn break_member(&self, fault: &Fault) -> Result<Vec<String>, Failure> {
        let member = &fault.member;
        let next = "Leave --break out, and edit ConfigMap kubesphere-config with kubectl instead.";
        let failed = |what: &str| Failure::new(format!("{what} of {member}"), next);
        let running = self
            .clusters
            .iter()
            .find(|running| running.place.name == *member)
            .ok_or_else(|| failed("find the cluster"))?;
        let client = running.cluster.client();
        let cluster = running.place.in_fleet_as.as_deref().ok_or_else(|| {
            let join = format!(
                "Join it with `kah cluster join {member} --kubeconfig {}`, or leave --break out.",
                running.place.kubeconfig.display()
            );
            Failure::new(
                format!("{member} has left the fleet: there is no trust to break"),
                join,
            )
        })?;
        let mut told = Vec::new();
        if let Some(host) = self.clusters.first() {
            let secret = jwt_secret(&host.cluster).await?;
            let host = host.cluster.client();
            if trust::share_secret(cluster, &host, &client, &secret).await? {
                told.push(format!(
                    "Put {member} into shared-secret trust: it has the host's jwtSecret now."
                ));
            }
        }
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), seed::NAMESPACE);
        let mut map = maps
            .get(seed::CONFIG)
            .await
            .map_err(|error| failed("read the configuration").because(error))?;
        let text = map
            .data
            .get_or_insert_default()
            .entry("kubesphere.yaml".into())
            .or_default();
        let (path, value, said) = match fault.kind {
            Kind::TokenCache => (
                ["authentication", "oauthOptions", "accessTokenMaxAge"].as_slice(),
                "2h".to_owned(),
                "accessTokenMaxAge is 2h, so it looks every token up in its own cache",
            ),
            Kind::JwtSecret => (
                ["authentication", "jwtSecret"].as_slice(),
                random_text(32),
                "jwtSecret is another one than the host's",
            ),
        };
        *text = kah_api::config::edit::set(text, path, &value)
            .map_err(|error| failed("edit the configuration").because(error))?;
        maps.replace(seed::CONFIG, &PostParams::default(), &map)
            .await
            .map_err(|error| failed("write the configuration").because(error))?;
        let deployments: Api<Deployment> = Api::namespaced(client, seed::NAMESPACE);
        deployments
            .restart(seed::SERVER)
            .await
            .map_err(|error| failed("restart ks-apiserver").because(error))?;
        told.push(format!("Broke {member}: {said}. See it with `kah doctor`."));
        Ok(told)
    }

    /// Ends when every ks-apiserver runs as its Deployment says, and the address answers.
    pub async fn ready(&self) {
        let deployments = self
            .clusters
            .iter()
            .map(|running| rolled_out(running.cluster.client()));
        futures::future::join_all(deployments).await;
        self.none_is_said_not_to_be_ready().await;
        // The node port follows the endpoints a moment later.
        let Ok(hub) = crate::hub::Hub::new(&self.address(), None) else {
            return;
        };
        while !hub
            .get("/healthz")
            .await
            .is_ok_and(|answer| answer.status.is_success())
        {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The host's controllers may have found a member that was starting still; they tell a moment later that it is there.
    async fn none_is_said_not_to_be_ready(&self) {
        let Some((host, members)) = self.clusters.split_first() else {
            return;
        };
        let clusters = kah_cluster::clusters(host.cluster.client());
        for member in members {
            // What joined under another name may wait for its agent, or for people.
            if member.place.in_fleet_as.as_deref() != Some(&member.place.name) {
                continue;
            }
            let not_ready = || async {
                let object = clusters.get_opt(&member.place.name).await.ok().flatten();
                // An agent connects when it does, or never.
                let object = object.filter(|it| it.data["spec"]["connection"]["type"] != "proxy");
                let conditions = object.and_then(|mut object| {
                    Some(object.data.pointer_mut("/status/conditions")?.take())
                });
                let conditions = conditions.as_ref().and_then(Value::as_array);
                conditions
                    .into_iter()
                    .flatten()
                    .any(|it| it["type"] == "Ready" && it["status"] == "False")
            };
            while not_ready().await {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// The address of the host's ks-apiserver.
    pub fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The initial password of admin.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Where the initial password lies.
    pub fn password_file(&self) -> &Path {
        &self.password_file
    }

    /// The CA certificate for TLS at the address.
    pub fn authority_file(&self) -> &Path {
        &self.authority_file
    }

    /// Where every cluster is, the host first.
    pub fn clusters(&self) -> Vec<&Place> {
        self.clusters.iter().map(|running| &running.place).collect()
    }

    /// Stops all clusters and their Pods.
    pub async fn stop(self) {
        futures::future::join_all(
            self.clusters
                .into_iter()
                .map(|running| running.cluster.stop()),
        )
        .await;
    }
}

/// What all clusters of one start have in common.
struct Plan<'a> {
    data: &'a DataDir,
    ports: &'a BTreeMap<String, u16>,
    program: Program,
    password_hash: String,
    certificate: [Value; 2],
}

impl Plan<'_> {
    async fn start(
        &self,
        name: &str,
        role: Role,
        jwt_secret: &str,
        node_port: Option<u16>,
    ) -> Result<Running, Failure> {
        let port = port::again(self.ports.get(name).copied()).unwrap_or(0);
        let mut options = Options::new(name);
        options.data_dir = Some(self.data.cluster(name));
        options.address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        options.program = Some(self.program.clone());
        options.crds = kah_api::definition::all()
            .into_iter()
            .filter_map(|definition| serde_json::to_value(definition).ok())
            .collect();
        options.objects = seed::objects(&Seed {
            role,
            jwt_secret,
            access_token_max_age: match role {
                Role::Host => "2h",
                Role::Member => "0",
            },
            image: &self.program.image,
            password_hash: &self.password_hash,
            node_port,
            // The members of this fleet are at home here.
            allowed_addresses: &["127.0.0.0/8"],
        });
        seed::name(&mut options.objects, name);
        if role == Role::Host {
            options.objects.extend(self.certificate.clone());
        }
        let cluster = Cluster::start(options).await.map_err(|error| {
            Failure::new(
                format!("start cluster {name}"),
                "See that the data folder is whole and its disk not full; --data-dir names another.",
            )
            .because(error)
        })?;
        let place = Place {
            name: name.to_owned(),
            kubeconfig: self.data.kubeconfig(name),
            address: format!("https://{}", cluster.address()),
            in_fleet_as: Some(name.to_owned()),
        };
        Ok(Running { place, cluster })
    }
}

/// The certificate of the address, from an authority that is made at the first start and kept. It is good for
/// a year and used as long as its Secret stands; delete the Secret to have a new one at the next start.
fn certificate(data: &DataDir) -> Result<[Value; 2], Failure> {
    let failed = || {
        Failure::new(
            "make the certificate of the host's address",
            "Check the space and rights of the data folder, or name another one with --data-dir.",
        )
    };
    let now = jiff::Timestamp::now();
    let authority = Authority::open(&data.authority_folder(), "kube-ai-hub", now)
        .map_err(|error| failed().because(error))?;
    let issued = authority
        .server_certificate(&[], now)
        .map_err(|error| failed().because(error))?;
    data.write(&data.authority_file(), authority.ca_pem())?;
    Ok(seed::certificate(
        &issued.certificate,
        &issued.key,
        authority.ca_pem(),
    ))
}

/// Name and file of the image that is this program.
fn program() -> Result<Program, Failure> {
    let path = std::env::current_exe().map_err(|error| {
        Failure::new("find this program's own file", "Start it by its full path.").because(error)
    })?;
    Ok(Program {
        image: adjust::image(),
        path,
    })
}

async fn hash(password: String) -> Result<String, Failure> {
    let failed = || Failure::new("hash the initial password", "Report this.");
    tokio::task::spawn_blocking(move || bcrypt::hash(password, HASH_COST))
        .await
        .map_err(|error| failed().because(error))?
        .map_err(|error| failed().because(error))
}

/// The secret that the host signs tokens with now.
async fn jwt_secret(host: &Cluster) -> Result<String, Failure> {
    let next =
        "Correct ConfigMap kubesphere-config of the host, or start anew with another --data-dir.";
    let maps: Api<ConfigMap> = Api::namespaced(host.client(), seed::NAMESPACE);
    let map = maps
        .get(seed::CONFIG)
        .await
        .map_err(|error| Failure::new("read the host's configuration", next).because(error))?;
    let text = map
        .data
        .and_then(|mut data| data.remove("kubesphere.yaml"))
        .unwrap_or_default();
    let configuration =
        kah_api::config::Configuration::read(&text, &BTreeMap::new()).map_err(|error| {
            Failure::new("understand the host's configuration", next).because(error)
        })?;
    let secret = configuration.authentication.jwt_secret;
    String::from_utf8(secret.expose().to_vec())
        .map_err(|_| Failure::new("use the host's jwtSecret: it is no text", next))
}

/// Ends when Deployment ks-apiserver has all its replicas, new and available.
async fn rolled_out(client: kube::Client) {
    let deployments: Api<Deployment> = Api::namespaced(client, seed::NAMESPACE);
    loop {
        if let Ok(deployment) = deployments.get(seed::SERVER).await
            && is_rolled_out(&deployment)
        {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn is_rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let Some(status) = &deployment.status else {
        return false;
    };
    let observed = status.observed_generation >= deployment.metadata.generation;
    let all = |count: Option<i32>| count.unwrap_or(0) == wanted;
    observed
        && all(status.updated_replicas)
        && all(status.available_replicas)
        && all(status.replicas)
}
