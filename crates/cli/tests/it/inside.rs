//! Parts of a member that run inside the test, where what is wrong with it cannot be had from a process: a clock that is moved, an old version, a
//! certificate that has ended.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kah_api::{
    config::Configuration,
    seed::{self, Role, Seed},
};
use kah_cluster::Registry;
use kah_gateway::{
    AuditLog, Encryption, Gateway, GatewayParts, KubeProxy, ServerLimits, Sessions, Settings,
};
use kah_iam::{
    Authentication, GlobalRoles,
    cache::MemoryCache,
    clock::Clock,
    users::{Users, follow_roles, follow_users},
};
use kah_localkube::{Cluster, Options};
use kah_net::Limits;
use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The machine's clock, moved.
struct Moved(SignedDuration);

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        Timestamp::now() + self.0
    }

    fn uptime(&self) -> f64 {
        0.0
    }
}

/// What runs inside the test; it ends with this.
pub struct Inside {
    runtime: Runtime,
    stop: CancellationToken,
}

impl Inside {
    pub fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Self {
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            stop: CancellationToken::new(),
        }
    }

    /// A ks-apiserver of a member on the cluster of this kubeconfig, its clock moved by so much. Gives its address.
    pub fn server(&self, kubeconfig: &str, secret: &str, moved: SignedDuration) -> String {
        let text = format!(
            "authentication:\n  jwtSecret: \"{secret}\"\n  oauthOptions:\n    accessTokenMaxAge: 0\nmulticluster:\n  clusterRole: member\n"
        );
        self.runtime
            .block_on(serve(kubeconfig, &text, moved, self.stop.clone()))
    }

    /// A Kubernetes of this version, or with a clock of its own, with what a member starts with.
    pub fn kubernetes(&self, version: &str, clock: fn() -> Timestamp, secret: &str) -> Cluster {
        let mut options = Options::new("inside");
        options.controllers = false;
        options.version = version.to_owned();
        options.clock = clock;
        options.crds = kah_api::definition::all()
            .into_iter()
            .map(|definition| serde_json::to_value(definition).unwrap())
            .collect();
        options.objects = seed::objects(&Seed {
            role: Role::Member,
            jwt_secret: secret,
            access_token_max_age: "0",
            image: "image",
            password_hash: "Passw0rd-of-tests",
            node_port: None,
            allowed_addresses: &[],
        });
        self.runtime.block_on(Cluster::start(options)).unwrap()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(
    kubeconfig: &str,
    configuration: &str,
    moved: SignedDuration,
    stop: CancellationToken,
) -> String {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .unwrap();
    let client = kube::Client::try_from(config.clone()).unwrap();
    let configuration = Configuration::read(configuration, &Default::default()).unwrap();
    let tasks = TaskTracker::new();
    let (users, roles) = (Arc::new(Users::default()), Arc::new(GlobalRoles::default()));
    let clock: Arc<dyn Clock> = Arc::new(Moved(moved));
    let authentication = Authentication::new(
        &configuration,
        Arc::new(MemoryCache::new(Arc::clone(&clock))),
        Arc::clone(&users),
        clock,
    );
    let callers = Arc::new(Sessions::new(
        &configuration,
        authentication,
        Arc::clone(&roles),
    ));
    let (users_listed, users_are) = oneshot::channel::<()>();
    let (roles_listed, roles_are) = oneshot::channel::<()>();
    tasks.spawn(follow_users(
        client.clone(),
        users,
        stop.clone(),
        move || {
            let _ = users_listed.send(());
        },
    ));
    tasks.spawn(follow_roles(client, roles, stop.clone(), move || {
        let _ = roles_listed.send(());
    }));
    users_are.await.unwrap();
    roles_are.await.unwrap();
    let limits = Limits::default();
    let gateway = Gateway::new(GatewayParts {
        settings: Settings::from(&configuration),
        callers,
        registry: Registry::new(limits, stop.clone(), tasks.clone()),
        host: None,
        kube: KubeProxy::new(&config, limits, stop.clone(), tasks.clone()).unwrap(),
        audit: Arc::new(AuditLog),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(kah_gateway::serve(
        listener,
        Encryption::None,
        gateway,
        ServerLimits::default(),
        stop,
    ));
    format!("http://{address}")
}
