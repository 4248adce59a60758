//! A kubeconfig is looked at as the original looks at it, and nothing is stored on a refusal.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use base64::{Engine, engine::general_purpose::STANDARD};
use kah_api::{
    cluster::Trust,
    network::Network,
    seed::{self, Role},
};
use kah_cluster::{
    CallerCredential, Host,
    guard::AddressGuard,
    join::{self, JoinError},
    validation::{ValidationError, replace_kubeconfig, validate},
};
use kah_iam::Clock;
use kah_localkube::Cluster;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::{
    member::{self, Member, Seen},
    restore::{Hands, plane},
};

const SECRET: &str = "secret of the host";

/// What the stand-in for a member's kube-apiserver, and for the ks-apiserver behind it, says.
#[derive(Clone)]
struct Says {
    role: &'static str,
    secret: &'static str,
    version: (u16, &'static str),
}

const UID: &str = "uid-of-the-member";

fn says(says: &Says, seen: &Seen) -> member::Reply {
    if seen.header("authorization") != "Bearer stored" {
        return member::status(401, "Unauthorized", "canary");
    }
    let path = seen.target.split('?').next().unwrap_or_default();
    let body = match path {
        "/api/v1/namespaces/kube-system" => {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": UID}})
        }
        "/version" => json!({
            "major": "1", "minor": "36", "gitVersion": "v1.36.2", "gitCommit": "", "gitTreeState": "", "buildDate": "",
            "goVersion": "", "compiler": "", "platform": "",
        }),
        "/api/v1/namespaces/kubesphere-system/services/:ks-apiserver:/proxy/kapis/version" => {
            return member::answer(says.version.0, "application/json", says.version.1);
        }
        "/api/v1/namespaces/kubesphere-system/configmaps/kubesphere-config" => {
            let text = format!(
                "authentication:\n  jwtSecret: \"{}\"\nmulticluster:\n  clusterRole: {}\n",
                says.secret, says.role
            );
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kubesphere-config"}, "data": {"kubesphere.yaml": text}})
        }
        _ => return member::status(404, "NotFound", "canary"),
    };
    member::answer(200, "application/json", body.to_string())
}

struct Stage {
    host: Host,
    clusters: Api<DynamicObject>,
    says: Arc<Mutex<Says>>,
    server: Member,
    guard: AddressGuard,
    _plane: Cluster,
}

impl Stage {
    async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let plane = plane(Role::Host, SECRET, "2h").await;
        let says = Arc::new(Mutex::new(Says {
            role: "member",
            secret: SECRET,
            version: (200, "{\"gitVersion\":\"v3.4.1\"}"),
        }));
        let told = says.clone();
        let server = Member::start(None, move |seen| self::says(&told.lock().unwrap(), seen))
            .await
            .unwrap();
        let kind = GroupVersionKind::gvk("cluster.kubesphere.io", "v1alpha1", "Cluster");
        let resource = ApiResource::from_gvk_with_plural(&kind, "clusters");
        let clock: Arc<dyn Clock> = Arc::new(Hands(1_800_000_000.into()));
        Self {
            host: Host {
                client: plane.client(),
                registry: crate::registry(),
                prover: kah_cluster::proof::Prover::without_key(
                    Arc::default(),
                    Arc::default(),
                    clock.clone(),
                ),
                clock,
                tasks: TaskTracker::new(),
            },
            clusters: Api::all_with(plane.client(), &resource),
            says,
            server,
            guard: AddressGuard::new(&["127.0.0.0/8".parse::<Network>().unwrap()]),
            _plane: plane,
        }
    }

    fn kubeconfig(&self) -> String {
        STANDARD.encode(crate::kubeconfig(&self.server.url(), "", "token: stored"))
    }

    async fn validate(&self, kubeconfig: &str) -> String {
        self.validate_with(Trust::SharedSecret, kubeconfig).await
    }

    async fn validate_with(&self, trust: Trust, kubeconfig: &str) -> String {
        let ended = validate(&self.host, &self.guard, "new", "direct", trust, kubeconfig).await;
        ended.map_or_else(|error| error.to_string(), |()| String::new())
    }

    async fn replace(&self, name: &str, kubeconfig: &str) -> String {
        let ended = replace_kubeconfig(&self.host, &self.guard, name, kubeconfig).await;
        ended.map_or_else(|error| error.to_string(), |()| String::new())
    }
}

/// The texts that are the same whoever is asked.
#[tokio::test]
async fn s5_the_steps_of_a_validation_in_their_order() {
    let stage = Stage::new().await;
    let kubeconfig = stage.kubeconfig();
    let kind = validate(
        &stage.host,
        &stage.guard,
        "new",
        "proxy",
        Trust::SharedSecret,
        "",
    )
    .await
    .unwrap_err();
    assert_eq!(kind.to_string(), "cluster connection type MUST be direct");
    for (given, words) in [
        ("", "cluster kubeconfig MUST NOT be empty"),
        ("a*b", "illegal base64 data at input byte 1"),
        ("YQ", "illegal base64 data at input byte 0"),
        (
            &*STANDARD.encode("apiVersion: v1\nkind: Config\n"),
            "invalid configuration: no configuration has been provided, try setting KUBERNETES_MASTER environment variable",
        ),
    ] {
        assert_eq!(stage.validate(given).await, words, "{given}");
    }
    assert_eq!(stage.validate(&kubeconfig).await, "");

    // The address is looked at before it is asked.
    let guarded = validate(
        &stage.host,
        &AddressGuard::default(),
        "new",
        "direct",
        Trust::SharedSecret,
        &kubeconfig,
    )
    .await;
    let words = guarded.unwrap_err().to_string();
    assert!(words.contains("hub.allowedAddresses"), "{words}");

    // Nobody there; a credential that is not accepted.
    let nobody = STANDARD.encode(crate::kubeconfig("http://127.0.0.1:1", "", "token: stored"));
    assert_eq!(
        stage.validate(&nobody).await,
        "Get \"http://127.0.0.1:1/api/v1/namespaces/kube-system?timeout=10s\": dial tcp 127.0.0.1:1: connect: connection refused"
    );
    let other = STANDARD.encode(crate::kubeconfig(&stage.server.url(), "", "token: x"));
    assert_eq!(stage.validate(&other).await, "Unauthorized");

    // Role before secret.
    let failed = "failed to validate member cluster configuration, err: ";
    stage.says.lock().unwrap().role = "host";
    stage.says.lock().unwrap().secret = "another one";
    assert_eq!(
        stage.validate(&kubeconfig).await,
        format!("{failed}the clusterRole of the member cluster must be 'member'")
    );
    stage.says.lock().unwrap().role = "member";
    assert_eq!(
        stage.validate(&kubeconfig).await,
        format!(
            "{failed}hostcluster Jwt is not equal to member cluster jwt, please edit the member cluster cluster config"
        )
    );
    // One that is to be federated has a secret of its own, and is a member nevertheless.
    assert_eq!(stage.validate_with(Trust::Federated, &kubeconfig).await, "");
    stage.says.lock().unwrap().role = "host";
    let words = stage.validate_with(Trust::Federated, &kubeconfig).await;
    assert!(words.contains("must be 'member'"), "{words}");
    // No ks-apiserver comes before the configuration; nothing of its answer is told.
    for answer in [
        (500, "canary"),
        (200, "canary"),
        (404, "{\"message\":\"canary\"}"),
    ] {
        stage.says.lock().unwrap().version = answer;
        assert_eq!(
            stage.validate(&kubeconfig).await,
            "unable validate kubesphere endpoint, invalid response: ks-apiserver , please make sure kubesphere-system.ks-apiserver.svc of member cluster is up and running"
        );
    }
    // In the fleet already comes before all that.
    let mut object = seed::member_cluster("known", "", "https://10.0.0.1", None);
    object["status"] = json!({"uid": UID});
    let object = serde_json::from_value(object).unwrap();
    stage
        .clusters
        .create(&PostParams::default(), &object)
        .await
        .unwrap();
    assert_eq!(
        stage.validate(&kubeconfig).await,
        "cluster new already exists (known), MUST not import the same cluster twice"
    );
}

/// Each door by which a kubeconfig comes: nothing is dialled, and the address is named.
#[tokio::test]
async fn s1_s5_join_validation_and_kubeconfig_ask_nothing_that_is_no_cluster() {
    let stage = Stage::new().await;
    let mut object = seed::member_cluster("m", "before", "https://10.0.0.1", None);
    object["status"] = json!({"uid": UID});
    let object = serde_json::from_value(object).unwrap();
    stage
        .clusters
        .create(&PostParams::default(), &object)
        .await
        .unwrap();
    let guard = AddressGuard::default();
    for server in [
        stage.server.url().as_str(),
        "http://localhost:1",
        "http://[::1]:1",
        "http://169.254.169.254",
        "http://[fe80::1]:1",
        "http://[::ffff:127.0.0.1]:1",
        "http://0:1",
        "http://0.0.0.0:1",
        "http://2130706433:1",
        "http://0x7f000001:1",
    ] {
        let yaml = crate::kubeconfig(server, "", "token: stored");
        let request = join::Request {
            name: "new".into(),
            kubeconfig: yaml.clone().into_bytes(),
            dry_run: false,
            force: true,
            guard: guard.clone(),
            patience: Default::default(),
            trust: None,
            proof: CallerCredential::Anonymous,
        };
        let joined = join::join(&stage.host, &request).await.unwrap_err();
        assert!(
            matches!(joined, JoinError::Address(_)),
            "{server}: {joined}"
        );
        let encoded = STANDARD.encode(yaml);
        let validated = validate(
            &stage.host,
            &guard,
            "new",
            "direct",
            Trust::SharedSecret,
            &encoded,
        )
        .await;
        let validated = validated.unwrap_err();
        assert!(
            matches!(validated, ValidationError::Guard(_)),
            "{server}: {validated}"
        );
        let replaced = replace_kubeconfig(&stage.host, &guard, "m", &encoded).await;
        let replaced = replaced.unwrap_err();
        assert!(
            matches!(replaced, ValidationError::Guard(_)),
            "{server}: {replaced}"
        );
    }
    assert_eq!(stage.server.opened(), 0);
    assert!(stage.clusters.get_opt("new").await.unwrap().is_none());
}

#[tokio::test]
async fn r2_a_refused_kubeconfig_is_not_stored() {
    let stage = Stage::new().await;
    let kubeconfig = stage.kubeconfig();
    for (name, uid, kind) in [
        ("m", UID, "direct"),
        ("other", "uid-other", "direct"),
        ("young", "", "direct"),
        ("far", "uid-far", "proxy"),
    ] {
        let mut object = seed::member_cluster(name, "before", "https://10.0.0.1", None);
        object["spec"]["connection"]["type"] = kind.into();
        object["status"] = json!({"uid": uid});
        let object = serde_json::from_value(object).unwrap();
        stage
            .clusters
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
    }
    let mut object = seed::host_cluster("before", "https://10.0.0.1");
    object["metadata"]["name"] = "host".into();
    let object = serde_json::from_value(object).unwrap();
    stage
        .clusters
        .create(&PostParams::default(), &object)
        .await
        .unwrap();
    let different = "this kubeconfig corresponds to a different cluster than the previous one, you need to make sure that kubeconfig is not from another cluster";
    let proxy = "update kubeconfig of member clusters which using proxy mode is not allowed, their certs are managed and will be renewed by tower";
    for (name, words) in [
        ("none", "cluster.cluster.kubesphere.io \"none\" not found"),
        (
            "host",
            "update kubeconfig of the host cluster is not allowed",
        ),
        ("far", proxy),
        ("other", different),
        ("young", different),
    ] {
        assert_eq!(stage.replace(name, &kubeconfig).await, words, "{name}");
    }
    assert_eq!(
        stage.replace("m", "").await,
        "cluster kubeconfig MUST NOT be empty"
    );
    // The original answers 400 here, and stores it.
    stage.says.lock().unwrap().secret = "another one";
    let words = stage.replace("m", &kubeconfig).await;
    assert!(words.contains("hostcluster Jwt is not equal"), "{words}");
    let stored = async |name: &str| {
        let object = stage.clusters.get(name).await.unwrap();
        object.data["spec"]["connection"]["kubeconfig"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    for name in ["m", "other", "young", "far", "host"] {
        assert_eq!(stored(name).await, STANDARD.encode("before"), "{name}");
    }
    stage.says.lock().unwrap().secret = SECRET;
    assert_eq!(stage.replace("m", &kubeconfig).await, "");
    // Where the host signs for a member alone, that has a secret of its own.
    let federated = json!({"spec": {"trust": "federated", "connection": {"kubeconfig": ""}}});
    stage
        .clusters
        .patch("m", &PatchParams::default(), &Patch::Merge(&federated))
        .await
        .unwrap();
    stage.says.lock().unwrap().secret = "another one";
    assert_eq!(stage.replace("m", &kubeconfig).await, "");
    assert_eq!(stored("m").await, kubeconfig);
}
