//! A host, and members as a test scripts them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::api::core::v1::{ConfigMap, Event};
use kah_api::{
    cluster::Cluster as ClusterObject,
    config::Configuration,
    seed::{self, Role, Seed},
};
use kah_cluster::{Host, Registry, clusters, proof::Prover};
use kah_controllers::{Metrics, Settings};
use kah_iam::{
    GlobalRoles, SystemClock, Users,
    users::{follow_roles, follow_users},
};
use kah_localkube::{Cluster, Options};
use kah_testkit::{
    eventually,
    member::{self, Member, Reply, Seen},
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub const SECRET: &str = "secret of the host";
/// Nothing here takes longer.
pub const SOON: Duration = Duration::from_secs(20);

/// What a scripted ks-apiserver does with tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Does {
    Accepts,
    Refuses,
    /// Takes requests and never answers.
    Stalls,
}

/// The host, and the reconcilers that run for it.
pub struct Stage {
    pub host: Host,
    pub metrics: Metrics,
    pub plane: Cluster,
    pub stop: CancellationToken,
    does: Arc<Mutex<HashMap<String, Does>>>,
    members: Vec<Member>,
    planes: Vec<Cluster>,
    tasks: TaskTracker,
}

pub async fn plane(role: Role, secret: &str, age: &str) -> Cluster {
    let mut options = Options::new("plane");
    options.controllers = false;
    options.crds = kah_api::definition::all()
        .into_iter()
        .map(|definition| serde_json::to_value(definition).unwrap())
        .collect();
    options.objects = seed::objects(&Seed {
        allowed_addresses: &["127.0.0.0/8"],
        role,
        jwt_secret: secret,
        access_token_max_age: age,
        image: "image",
        password_hash: "Passw0rd-of-tests",
        node_port: None,
    });
    Cluster::start(options).await.unwrap()
}

impl Stage {
    /// A host whose reconcilers do not run yet.
    pub async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let plane = plane(Role::Host, SECRET, "2h").await;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let registry = Registry::new(kah_net::Limits::default(), stop.clone(), tasks.clone());
        // Doctor compares it with what members say.
        let clock = Arc::new(SystemClock::default());
        let (users, roles) = (Arc::new(Users::default()), Arc::new(GlobalRoles::default()));
        let text = format!("authentication:\n  jwtSecret: \"{SECRET}\"\n");
        let configuration = Configuration::read(&text, &Default::default()).unwrap();
        let prover = Prover::new(&configuration, users.clone(), roles.clone(), clock.clone());
        let client = plane.client();
        tasks.spawn(follow_users(client.clone(), users, stop.clone(), || {}));
        tasks.spawn(follow_roles(client.clone(), roles, stop.clone(), || {}));
        let (following, of_registry) = (registry.clone(), client.clone());
        tasks.spawn(async move { following.follow(of_registry).await });
        Self {
            host: Host {
                client,
                registry,
                prover,
                clock,
                tasks: tasks.clone(),
            },
            metrics: Metrics::default(),
            plane,
            stop,
            does: Arc::default(),
            members: Vec::new(),
            planes: Vec::new(),
            tasks,
        }
    }

    /// Starts the reconcilers.
    pub fn run(&self) {
        let settings = Settings {
            host_cluster: "host".into(),
            host_kubeconfig: self.plane.admin_kubeconfig().to_owned(),
            resync: Duration::from_secs(1),
        };
        self.tasks.spawn(kah_controllers::run(
            self.host.clone(),
            settings,
            self.metrics.clone(),
            self.stop.clone(),
        ));
    }

    /// Joins a member without a Kubernetes: only its ks-apiserver is there. Gives its place among the members.
    pub async fn join(&mut self, name: &str, does: Does) -> usize {
        let server = self.server(name, does).await;
        self.create(json!({
            "apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster",
            "metadata": {"name": name},
            "spec": {"joinFederation": true, "connection": {"type": "direct", "kubesphereAPIEndpoint": server}},
        }))
        .await;
        self.members.len() - 1
    }

    /// Joins a member that is whole. Gives a client of its Kubernetes.
    pub async fn join_whole(
        &mut self,
        name: &str,
        does: Does,
        age: &str,
        spec: Value,
    ) -> kube::Client {
        let member = plane(Role::Member, SECRET, age).await;
        let server = self.server(name, does).await;
        let address = format!("https://{}", member.address());
        let mut object =
            seed::member_cluster(name, member.admin_kubeconfig(), &address, Some(&server));
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        self.create(object).await;
        let client = member.client();
        self.planes.push(member);
        client
    }

    /// Joins a member that dials out. Gives the UID of its Cluster, and where its ks-apiserver is.
    pub async fn join_dialling(&mut self, name: &str, does: Does) -> (String, String) {
        let server = self.server(name, does).await;
        self.create(json!({
            "apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster",
            "metadata": {"name": name},
            "spec": {"joinFederation": true, "connection": {"type": "proxy"}},
        }))
        .await;
        (self.cluster(name).await.metadata.uid.unwrap(), server)
    }

    async fn server(&mut self, name: &str, does: Does) -> String {
        self.does(name, does);
        let (all, name) = (self.does.clone(), name.to_owned());
        let member = Member::start(None, move |seen: &Seen| {
            answer(seen, all.lock().unwrap()[&name])
        })
        .await
        .unwrap();
        let url = member.url();
        self.members.push(member);
        url
    }

    async fn create(&self, object: Value) {
        let object = serde_json::from_value(object).unwrap();
        let clusters = clusters(self.host.client.clone());
        clusters
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
    }

    /// From now on the ks-apiserver of this member does so.
    pub fn does(&self, name: &str, does: Does) {
        self.does.lock().unwrap().insert(name.to_owned(), does);
    }

    /// Lets a member do what its own ConfigMap says, as one that reads it while it runs.
    pub fn obey(&self, name: &str, member: kube::Client) {
        let (does, name, stop) = (self.does.clone(), name.to_owned(), self.stop.clone());
        self.tasks.spawn(stop.run_until_cancelled_owned(async move {
            let maps: Api<ConfigMap> = Api::namespaced(member, seed::NAMESPACE);
            loop {
                let map = maps.get(seed::CONFIG).await.unwrap();
                let text = &map.data.as_ref().unwrap()["kubesphere.yaml"];
                let accepts = text.contains("accessTokenMaxAge: 0") && text.contains(SECRET);
                let now = if accepts {
                    Does::Accepts
                } else {
                    Does::Refuses
                };
                does.lock().unwrap().insert(name.clone(), now);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
    }

    pub fn member(&self, index: usize) -> &Member {
        &self.members[index]
    }

    pub async fn cluster(&self, name: &str) -> ClusterObject {
        let api: Api<ClusterObject> = Api::all(self.host.client.clone());
        api.get(name).await.unwrap()
    }

    /// `True/Accepted`
    pub async fn told(&self, name: &str, kind: &str) -> String {
        let cluster = self.cluster(name).await;
        let condition = cluster.condition(kind);
        condition.map_or("-".into(), |it| format!("{}/{}", it.status, it.reason))
    }

    /// Waits until conditions of a cluster are told so.
    pub async fn becomes(&self, name: &str, kind: &str, wanted: &str) {
        let mut last = String::new();
        let holds = eventually(SOON, wanted, async || {
            last = self.told(name, kind).await;
            last == wanted
        })
        .await;
        assert!(holds.is_ok(), "{name}: {kind} is {last}, not {wanted}");
    }

    /// Reasons of the Events about a cluster, oldest first.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let api: Api<Event> = Api::namespaced(self.host.client.clone(), "default");
        let mut events = api.list(&ListParams::default()).await.unwrap().items;
        events.retain(|event| event.involved_object.name.as_deref() == Some(name));
        events.sort_by_key(|event| {
            let version = event.metadata.resource_version.as_deref().unwrap_or("0");
            version.parse::<u64>().unwrap()
        });
        events
            .into_iter()
            .filter_map(|event| event.reason)
            .collect()
    }

    pub async fn patch(&self, name: &str, patch: Value) {
        let clusters = clusters(self.host.client.clone());
        clusters
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    pub async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        assert!(
            tokio::time::timeout(SOON, self.tasks.wait()).await.is_ok(),
            "the reconcilers end when they are told to"
        );
    }
}

fn answer(seen: &Seen, does: Does) -> Reply {
    let json = |value: Value| member::answer(200, "application/json", value.to_string());
    match (does, seen.target.as_str()) {
        (Does::Stalls, _) => Reply::Stall,
        (_, "/kapis/version") => json(json!({"gitVersion": "v0.0.0"})),
        (_, "/kapis/config.kubesphere.io/v1alpha2/configs/configz") => {
            json(json!({"multicluster": false}))
        }
        (Does::Accepts, _) if seen.header("authorization").starts_with("Bearer ey") => {
            json(json!({}))
        }
        _ => member::status(
            401,
            "Unauthorized",
            "Unauthorized: token not found in cache",
        ),
    }
}
