//! A host and its members, on localkube or on real control planes, and the reconciler between them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::{authentication::v1::TokenRequest, core::v1::ServiceAccount};
use kah_api::seed;
use kah_cluster::{
    Host, Registry,
    propagate::{HOST_LABEL, KINDS, Kind},
    retry::Retry,
};
use kah_controllers::{
    Departures, Metrics,
    propagation::{Pace, run_at},
};
use kah_iam::SystemClock;
use kah_testkit::{eventually, plane::RealPlane};
use kube::{
    Api, Client,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
    },
    config::Kubeconfig,
};
use serde_json::{Value, json};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use super::gate::Gate;

/// Far more than anything needs, also on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

pub enum Plane {
    Embedded(Box<kah_localkube::Cluster>, Client),
    Real(Box<RealPlane>, Client),
}

impl Plane {
    /// With the garbage collector or without, which is enough where many are needed.
    pub async fn embedded(name: &str, controllers: bool) -> Self {
        let mut options = kah_localkube::Options::new(name);
        options.controllers = controllers;
        options.crds = definitions();
        let cluster = kah_localkube::Cluster::start(options).await.unwrap();
        let client = cluster.client();
        Self::Embedded(Box::new(cluster), client)
    }

    pub async fn real(assets: &std::path::Path) -> Self {
        let assets = assets.to_owned();
        let plane = tokio::task::spawn_blocking(move || RealPlane::start(&assets))
            .await
            .unwrap()
            .unwrap();
        let kubeconfig = Kubeconfig::from_yaml(&plane.kubeconfig().unwrap()).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
            .await
            .unwrap();
        let client = Client::try_from(config).unwrap();
        let plane = Self::Real(Box::new(plane), client);
        for definition in definitions() {
            define(&plane.client(), definition).await;
        }
        plane
    }

    pub fn client(&self) -> Client {
        match self {
            Self::Embedded(_, client) | Self::Real(_, client) => client.clone(),
        }
    }

    fn kubeconfig(&self) -> String {
        match self {
            Self::Embedded(cluster, _) => cluster.admin_kubeconfig().to_owned(),
            Self::Real(plane, _) => plane.kubeconfig().unwrap(),
        }
    }

    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Embedded(cluster, _) => cluster.address(),
            Self::Real(plane, _) => ([127, 0, 0, 1], plane.port()).into(),
        }
    }
}

/// Creates a kind and waits until it is served.
async fn define(client: &Client, definition: Value) {
    let definition: DynamicObject = serde_json::from_value(definition).unwrap();
    let crds = api(
        client,
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
    );
    let name = definition.metadata.name.clone().unwrap();
    crds.create(&PostParams::default(), &definition)
        .await
        .unwrap();
    eventually(LIMIT, "the kind is served", async || {
        let conditions = crds.get(&name).await.unwrap().data["status"]["conditions"].clone();
        let conditions = conditions.as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .any(|one| one["type"] == "Established" && one["status"] == "True")
    })
    .await
    .unwrap();
}

fn definitions() -> Vec<Value> {
    let all = kah_api::definition::all().into_iter();
    all.map(|definition| serde_json::to_value(definition).unwrap())
        .collect()
}

/// The objects of a kind in one cluster.
pub struct Objects {
    api: Api<DynamicObject>,
    resource: ApiResource,
}

impl std::ops::Deref for Objects {
    type Target = Api<DynamicObject>;

    fn deref(&self) -> &Api<DynamicObject> {
        &self.api
    }
}

impl Objects {
    fn of(client: Client, resource: ApiResource) -> Self {
        let api = Api::all_with(client, &resource);
        Self { api, resource }
    }

    /// One of them, to be.
    pub fn object(&self, name: &str, mut content: Value) -> DynamicObject {
        content["metadata"]["name"] = name.into();
        content["apiVersion"] = self.resource.api_version.clone().into();
        content["kind"] = self.resource.kind.clone().into();
        serde_json::from_value(content).unwrap()
    }
}

pub fn api(client: &Client, version: &str, kind: &str, plural: &str) -> Objects {
    let (group, version) = version.split_once('/').unwrap();
    let kind = GroupVersionKind::gvk(group, version, kind);
    Objects::of(
        client.clone(),
        ApiResource::from_gvk_with_plural(&kind, plural),
    )
}

/// A member of the stage.
pub struct Place {
    pub name: String,
    pub plane: Plane,
    pub gate: Gate,
}

pub struct Stage {
    pub host: Host,
    pub plane: Plane,
    pub members: Vec<Place>,
    pub uid: String,
    pub metrics: Metrics,
    running: Option<(CancellationToken, AbortOnDropHandle<()>)>,
    _follow: AbortOnDropHandle<()>,
}

/// Quick enough for tests.
pub fn pace() -> Pace {
    Pace {
        look: Duration::from_millis(400),
        rest: Duration::ZERO,
        stagger: Duration::ZERO,
        overdue: Duration::from_secs(1),
        retry: Retry {
            first: Duration::from_millis(20),
            longest: Duration::from_millis(200),
            at_least: 50,
        },
        chance: || 0.5,
    }
}

impl Stage {
    /// On localkube, with members of these names.
    pub async fn embedded(names: &[&str]) -> Self {
        let mut planes = Vec::new();
        for name in names {
            planes.push(((*name).to_owned(), Plane::embedded(name, true).await));
        }
        Self::of(Plane::embedded("host", true).await, planes).await
    }

    /// A host of these members; nothing runs yet.
    pub async fn of(plane: Plane, planes: Vec<(String, Plane)>) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let registry = Registry::new(
            kah_net::Limits::default(),
            CancellationToken::new(),
            TaskTracker::new(),
        );
        let host = Host {
            client: plane.client(),
            registry: registry.clone(),
            prover: kah_cluster::proof::Prover::without_key(
                Arc::default(),
                Arc::default(),
                Arc::new(SystemClock::default()),
            ),
            clock: Arc::new(SystemClock::default()),
            tasks: TaskTracker::new(),
        };
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(plane.client());
        let uid = namespaces
            .get("kube-system")
            .await
            .unwrap()
            .metadata
            .uid
            .unwrap();
        let client = plane.client();
        let follow = tokio::spawn(async move { registry.follow(client).await });
        let mut stage = Self {
            host,
            plane,
            members: Vec::new(),
            uid,
            metrics: Metrics::default(),
            running: None,
            _follow: AbortOnDropHandle::new(follow),
        };
        for (name, plane) in planes {
            let gate = Gate::to(plane.address()).await;
            stage.join(&name, &plane, gate.address, json!({})).await;
            stage.members.push(Place { name, plane, gate });
        }
        stage
    }

    pub fn clusters(&self) -> Objects {
        api(
            &self.host.client,
            "cluster.kubesphere.io/v1alpha1",
            "Cluster",
            "clusters",
        )
    }

    /// Creates the Cluster object of a plane that is reached at this address.
    pub async fn join(&self, name: &str, plane: &Plane, address: SocketAddr, labels: Value) {
        let kubeconfig = plane
            .kubeconfig()
            .replace(&plane.address().to_string(), &address.to_string());
        let mut cluster =
            seed::member_cluster(name, &kubeconfig, &format!("https://{address}"), None);
        cluster["metadata"]["labels"] = labels;
        let cluster = serde_json::from_value(cluster).unwrap();
        self.clusters()
            .create(&PostParams::default(), &cluster)
            .await
            .unwrap();
    }

    /// The kubeconfig that is stored for a member.
    pub async fn stored(&self, name: &str) -> String {
        let object = look(&self.clusters(), name).await;
        let stored = object["spec"]["connection"]["kubeconfig"].as_str();
        String::from_utf8(STANDARD.decode(stored.unwrap()).unwrap()).unwrap()
    }

    /// Stores another kubeconfig for a member, and waits until it is reached by it.
    pub async fn reach_by(&self, name: &str, kubeconfig: &str) {
        let before = self.host.registry.get(name).unwrap();
        let kubeconfig = STANDARD.encode(kubeconfig);
        let connection = json!({"spec": {"connection": {"kubeconfig": kubeconfig}}});
        put(&self.clusters(), name, connection).await;
        eventually(LIMIT, "it is reached by another way", async || {
            let now = self.host.registry.get(name);
            now.is_some_and(|now| !now.is_reached_as(&before))
        })
        .await
        .unwrap();
    }

    pub fn start(&mut self) {
        self.start_at(pace());
    }

    pub fn start_at(&mut self, pace: Pace) {
        let stop = CancellationToken::new();
        let (host, metrics) = (self.host.clone(), self.metrics.clone());
        let run = tokio::spawn(run_at(
            pace,
            host,
            metrics,
            Departures::default(),
            stop.clone(),
        ));
        self.running = Some((stop, AbortOnDropHandle::new(run)));
    }

    /// Stops the reconciler and waits for its end.
    pub async fn stop(&mut self) {
        let (stop, run) = self.running.take().unwrap();
        stop.cancel();
        tokio::time::timeout(LIMIT, run).await.unwrap().unwrap();
    }

    /// Creates or changes an object of the host.
    pub async fn put(&self, kind: &str, name: &str, content: Value) {
        put(&sources(&self.host.client, kind), name, content).await;
    }

    /// Creates a kind on the host.
    pub async fn define(&self, definition: Value) {
        define(&self.host.client, definition).await;
    }

    pub async fn delete(&self, kind: &str, name: &str) {
        delete(&sources(&self.host.client, kind), name).await;
    }

    pub fn member(&self, name: &str) -> &Place {
        self.members
            .iter()
            .find(|member| member.name == name)
            .unwrap()
    }

    /// Waits until a member's copy is as it should be.
    pub async fn until(
        &self,
        member: &str,
        kind: &str,
        name: &str,
        what: &str,
        mut holds: impl FnMut(&Value) -> bool,
    ) -> Value {
        let copies = self.member(member).copies(kind);
        let mut last = Value::Null;
        let reached = eventually(LIMIT, what, async || {
            last = look(&copies, name).await;
            holds(&last)
        })
        .await;
        assert!(reached.is_ok(), "{member}: {kind} {name}: {what}: {last:#}");
        last
    }

    pub async fn until_there(&self, member: &str, kind: &str, name: &str) -> Value {
        let uid = self.uid.clone();
        self.until(member, kind, name, "has arrived", move |live| {
            live["metadata"]["labels"][HOST_LABEL] == *uid
                && live["metadata"]["labels"]["kubefed.io/managed"] == "true"
        })
        .await
    }

    pub async fn until_gone(&self, member: &str, kind: &str, name: &str) {
        self.until(member, kind, name, "is gone", Value::is_null)
            .await;
    }

    /// Waits until every object of a member has been looked at since this was called.
    pub async fn looked_at(&self, member: &str) {
        // A look goes through the kinds in the order of the table; a copy of the last kind, spoilt twice, is mended by two looks, of which the
        // second began after this did.
        if look(&self.member(member).copies("GroupBinding"), "barrier")
            .await
            .is_null()
        {
            self.put("GroupBinding", "barrier", json!({"users": ["barrier"]}))
                .await;
            self.until_there(member, "GroupBinding", "barrier").await;
        }
        for _ in 0..2 {
            put(
                &self.member(member).copies("GroupBinding"),
                "barrier",
                json!({"users": ["spoilt"]}),
            )
            .await;
            self.until(member, "GroupBinding", "barrier", "is mended", |live| {
                live["users"] == json!(["barrier"])
            })
            .await;
        }
    }
}

impl Place {
    pub fn copies(&self, kind: &str) -> Objects {
        Objects::of(self.plane.client(), row(kind).copy())
    }

    pub async fn get(&self, kind: &str, name: &str) -> Value {
        look(&self.copies(kind), name).await
    }

    /// Of an account that may do everything but list the copies of this kind.
    pub async fn kubeconfig_without_list(&self, kind: &str) -> String {
        let client = self.plane.client();
        let others = KINDS.iter().filter(|row| row.name != kind);
        let others: Vec<_> = others.map(|row| row.copy().plural).collect();
        let groups = ["iam.kubesphere.io", "tenant.kubesphere.io"];
        let verbs = ["get", "watch", "create", "update", "patch", "delete"];
        let rules = json!([
            {"apiGroups": ["*"], "resources": ["*"], "verbs": verbs},
            {"apiGroups": groups, "resources": others, "verbs": ["list"]},
        ]);
        let roles = "rbac.authorization.k8s.io/v1";
        let role = api(&client, roles, "ClusterRole", "clusterroles");
        put(&role, "without-list", json!({"rules": rules})).await;
        let binding = api(&client, roles, "ClusterRoleBinding", "clusterrolebindings");
        let content = json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "without-list"},
            "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": "without-list"}],
        });
        put(&binding, "without-list", content).await;
        let accounts: Api<ServiceAccount> = Api::namespaced(client, "default");
        let account = json!({"metadata": {"name": "without-list"}});
        let account = serde_json::from_value(account).unwrap();
        let parameters = PostParams::default();
        accounts.create(&parameters, &account).await.unwrap();
        let token = accounts
            .create_token_request("without-list", &parameters, &TokenRequest::default())
            .await
            .unwrap();
        let known = Kubeconfig::from_yaml(&self.plane.kubeconfig()).unwrap();
        let known = known.clusters[0].cluster.as_ref().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://{}", self.gate.address),
                "certificate-authority-data": known.certificate_authority_data,
            }}],
            "users": [{"name": "c", "user": {"token": token.status.unwrap().token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        });
        kubeconfig.to_string()
    }
}

pub fn row(kind: &str) -> &'static Kind {
    KINDS.iter().find(|row| row.name == kind).unwrap()
}

pub fn sources(client: &Client, kind: &str) -> Objects {
    Objects::of(client.clone(), row(kind).source())
}

pub async fn look(objects: &Objects, name: &str) -> Value {
    let found = objects.get_opt(name).await.unwrap();
    found.map_or(Value::Null, |found| serde_json::to_value(found).unwrap())
}

/// Creates, or changes by a merge patch.
pub async fn put(objects: &Objects, name: &str, content: Value) {
    if objects.get_opt(name).await.unwrap().is_some() {
        objects
            .patch(name, &PatchParams::default(), &Patch::Merge(content))
            .await
            .unwrap();
        return;
    }
    let object = objects.object(name, content);
    objects
        .create(&PostParams::default(), &object)
        .await
        .unwrap();
}

pub async fn delete(objects: &Objects, name: &str) {
    objects
        .delete(name, &DeleteParams::default())
        .await
        .unwrap();
}
