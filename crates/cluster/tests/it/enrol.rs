//! A member is invited and enrols: once, and nobody else.

#![allow(clippy::unwrap_used)]

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kah_api::seed::{self, Role};
use kah_cluster::{
    Host,
    enrol::{
        self, Application, EnrolError, Enrolled, Facts, GENERATION, Invitation, Invite, Token,
        enrol, invite,
    },
    join::JoinError,
    tunnel::authority::{
        self, AgentIdentity, Identity, SECRET, TunnelAuthority, certifies, check_pin,
    },
};
use kah_localkube::Cluster;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, PostParams},
};
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::restore::{Hands, plane};

const NOW: i64 = 1_800_000_000;

struct Stage {
    host: Host,
    clock: Arc<Hands>,
    clusters: Api<DynamicObject>,
    secrets: Api<Secret>,
    plane: Cluster,
}

impl Stage {
    async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let plane = plane(Role::Host, "secret", "2h").await;
        let kind = GroupVersionKind::gvk("cluster.kubesphere.io", "v1alpha1", "Cluster");
        let resource = ApiResource::from_gvk_with_plural(&kind, "clusters");
        let clock = Arc::new(Hands(AtomicI64::new(NOW)));
        let registry = crate::registry();
        {
            let (registry, client) = (registry.clone(), plane.client());
            tokio::spawn(async move { registry.follow(client).await });
        }
        registry.synced().await;
        Self {
            host: Host {
                client: plane.client(),
                registry,
                prover: kah_cluster::proof::Prover::without_key(
                    Arc::default(),
                    Arc::default(),
                    clock.clone(),
                ),
                clock: clock.clone(),
                tasks: TaskTracker::new(),
            },
            clock,
            clusters: Api::all_with(plane.client(), &resource),
            secrets: Api::namespaced(plane.client(), seed::NAMESPACE),
            plane,
        }
    }

    async fn invite(&self, name: &str) -> Result<Invitation, EnrolError> {
        invite(&self.host, &wanted(name, false)).await
    }

    async fn invite_again(&self, name: &str) -> Invitation {
        invite(&self.host, &wanted(name, true)).await.unwrap()
    }

    async fn status(&self, name: &str) -> serde_json::Value {
        self.clusters.get(name).await.unwrap().data["status"].clone()
    }
}

fn wanted(name: &str, again: bool) -> Invite {
    Invite {
        name: name.to_owned(),
        hub: "https://hub.example.org".to_owned(),
        insecure_hub: false,
        proxy: None,
        image: None,
        again,
    }
}

fn facts(uid: &str) -> Facts {
    Facts {
        uid: uid.to_owned(),
        kubernetes_version: "v1.36.2".to_owned(),
        cluster_role: "member".to_owned(),
    }
}

/// An application with a key of its own, and the key.
fn application(token: &Token, facts: Facts) -> (Application, String) {
    let key = authority::private_key().unwrap();
    let application = Application {
        token: token.clone(),
        csr: authority::request_certificate(&key).unwrap(),
        facts,
    };
    (application, key)
}

#[tokio::test]
async fn the_image_of_an_invitation_stays() {
    let stage = Stage::new().await;
    let wanted = Invite {
        name: "m".to_owned(),
        hub: "https://hub.example.org".to_owned(),
        insecure_hub: false,
        proxy: None,
        image: Some("registry.example.org/kah:1".parse().unwrap()),
        again: false,
    };
    let named = invite(&stage.host, &wanted).await.unwrap();
    let read = enrol::manifest(&stage.host, &named.token).await.unwrap();
    assert_eq!(read, named.manifest);
    assert!(
        read.contains("image: registry.example.org/kah:1\n"),
        "{read}"
    );
    let unnamed = stage.invite("m").await.unwrap();
    assert!(!unnamed.manifest.contains("registry.example.org"));
}

#[tokio::test]
async fn a_member_is_invited_and_enrols() {
    let stage = Stage::new().await;
    let invitation = stage.invite("m").await.unwrap();
    assert_eq!(invitation.expires.as_second(), NOW + 15 * 60);
    // Reading the manifest uses nothing up.
    for _ in 0..2 {
        let text = enrol::manifest(&stage.host, &invitation.token)
            .await
            .unwrap();
        assert_eq!(text, invitation.manifest);
    }
    assert!(invitation.manifest.contains(invitation.token.expose()));
    let spec = stage.clusters.get("m").await.unwrap().data["spec"].clone();
    assert_eq!(spec["connection"], json!({"type": "proxy"}));
    assert_eq!(
        (&spec["joinFederation"], &spec["enable"]),
        (&json!(true), &json!(true))
    );

    let (application, key) = application(&invitation.token, facts("uid-m"));
    let enrolled = enrol(&stage.host, &application).await.unwrap();
    let object = stage.clusters.get("m").await.unwrap();
    let identity = Identity::Agent(AgentIdentity::first("m", &object.uid().unwrap()));
    assert_eq!(certifies(&enrolled.certificate, &key), Some(identity));
    assert_eq!(
        stage.status("m").await,
        json!({"uid": "uid-m", "kubernetesVersion": "v1.36.2"})
    );
    // What the manifest pins is what answered.
    let pin = authority::pin(&enrolled.authority).unwrap();
    assert!(invitation.manifest.contains(&pin));
    check_pin(&enrolled.authority, &pin).unwrap();

    // The answer may have been lost: the same key may ask again, while the token is good.
    assert!(enrol(&stage.host, &application).await.is_ok());
    stage.clock.0.store(NOW + 15 * 60, Ordering::SeqCst);
    let late = enrol(&stage.host, &application).await;
    assert!(matches!(late, Err(EnrolError::TokenExpired(_))), "{late:?}");
}

#[tokio::test]
async fn j15_a_token_is_used_once_short_lived_and_bound_to_one_cluster() {
    let stage = Stage::new().await;
    let first = stage.invite("m").await.unwrap();
    // Only a hash of it is kept.
    for secret in stage.secrets.list(&ListParams::default()).await.unwrap() {
        let text = format!("{:?}", secret.data);
        let random = first.token.expose().strip_prefix("m.").unwrap();
        assert!(!text.contains(random), "{}", secret.name_any());
        for value in secret.data.unwrap_or_default().values() {
            assert!(
                !String::from_utf8_lossy(&value.0).contains(random),
                "{:?}",
                secret.metadata.name
            );
        }
    }
    assert!(!format!("{first:?} {:?}", first.token).contains("m."));

    // Asking again makes a new one, and the old one is dead.
    let second = stage.invite("m").await.unwrap();
    let (old, _) = application(&first.token, facts("uid-m"));
    assert!(matches!(
        enrol(&stage.host, &old).await,
        Err(EnrolError::TokenUnknown)
    ));
    assert!(matches!(
        enrol::manifest(&stage.host, &first.token).await,
        Err(EnrolError::TokenUnknown)
    ));

    // Ended.
    stage.clock.0.fetch_add(15 * 60, Ordering::SeqCst);
    let (late, _) = application(&second.token, facts("uid-m"));
    assert!(matches!(
        enrol(&stage.host, &late).await,
        Err(EnrolError::TokenExpired(_))
    ));
    assert!(matches!(
        enrol::manifest(&stage.host, &second.token).await,
        Err(EnrolError::TokenExpired(_))
    ));
    assert_eq!(stage.status("m").await, serde_json::Value::Null);

    // Used by another key.
    let third = stage.invite("m").await.unwrap();
    let (winner, _) = application(&third.token, facts("uid-m"));
    enrol(&stage.host, &winner).await.unwrap();
    let (loser, _) = application(&third.token, facts("uid-m"));
    assert!(matches!(
        enrol(&stage.host, &loser).await,
        Err(EnrolError::TokenUsed)
    ));
    assert!(matches!(
        enrol::manifest(&stage.host, &third.token).await,
        Err(EnrolError::TokenUsed)
    ));
    // An enrolled cluster is not invited anew by accident, and never as another one.
    let taken = stage.invite("m").await;
    assert!(
        matches!(taken, Err(EnrolError::Join(JoinError::Taken(_)))),
        "{taken:?}"
    );
    let again = stage.invite_again("m").await;
    let (other, _) = application(&again.token, facts("uid-other"));
    assert!(matches!(
        enrol(&stage.host, &other).await,
        Err(EnrolError::Other(_))
    ));
    let (same, _) = application(&again.token, facts("uid-m"));
    enrol(&stage.host, &same).await.unwrap();

    // A cluster that leaves and comes back under its name: the token of the first is worth nothing.
    let gone = stage.invite("gone").await.unwrap();
    stage
        .clusters
        .delete("gone", &DeleteParams::default())
        .await
        .unwrap();
    let (late, _) = application(&gone.token, facts("uid-gone"));
    assert!(matches!(
        enrol(&stage.host, &late).await,
        Err(EnrolError::TokenUnknown)
    ));
    stage.invite("gone").await.unwrap();
    let (late, _) = application(&gone.token, facts("uid-gone"));
    assert!(matches!(
        enrol(&stage.host, &late).await,
        Err(EnrolError::TokenUnknown)
    ));
    // Nor is one for another name.
    let stolen = again.token.expose().replacen("m.", "gone.", 1);
    let (stolen, _) = application(&Token::given(&stolen), facts("uid-gone"));
    assert!(matches!(
        enrol(&stage.host, &stolen).await,
        Err(EnrolError::TokenUnknown)
    ));
}

#[tokio::test]
async fn t2_each_new_enrolment_ends_the_certificates_of_those_before() {
    let stage = Stage::new().await;
    let counted = async |invitation: &Invitation| {
        let (application, key) = application(&invitation.token, facts("uid-m"));
        let mut generations = Vec::new();
        // The answer may have been lost: whoever repeats the request gets the same.
        for _ in 0..2 {
            let enrolled = enrol(&stage.host, &application).await.unwrap();
            match certifies(&enrolled.certificate, &key) {
                Some(Identity::Agent(agent)) => generations.push(agent.generation),
                other => panic!("{other:?}"),
            }
        }
        let annotations = stage.clusters.get("m").await.unwrap().annotations().clone();
        (generations, annotations.get(GENERATION).cloned())
    };
    let first = stage.invite("m").await.unwrap();
    assert_eq!(counted(&first).await, (vec![0, 0], None));
    for round in 1..=2 {
        // An invitation alone ends nothing.
        let again = stage.invite_again("m").await;
        let before = (round > 1).then(|| (round - 1).to_string());
        let object = stage.clusters.get("m").await.unwrap();
        assert_eq!(object.annotations().get(GENERATION), before.as_ref());
        let expected = (vec![round, round], Some(round.to_string()));
        assert_eq!(counted(&again).await, expected);
    }
    assert_eq!(stage.status("m").await["uid"], "uid-m");
}

#[tokio::test]
async fn j15_of_many_enrolments_with_one_token_one_wins() {
    let stage = Stage::new().await;
    let invitation = stage.invite("m").await.unwrap();
    let applications: Vec<(Application, String)> = (0..8)
        .map(|number| application(&invitation.token, facts(&format!("uid-{number}"))))
        .collect();
    let ended: Vec<Result<Enrolled, EnrolError>> = futures::future::join_all(
        applications
            .iter()
            .map(|(application, _)| enrol(&stage.host, application)),
    )
    .await;
    let won: Vec<usize> = (0..8).filter(|number| ended[*number].is_ok()).collect();
    assert_eq!(won.len(), 1, "{ended:?}");
    for (number, ended) in ended.iter().enumerate() {
        let lost = matches!(ended, Err(EnrolError::TokenUsed | EnrolError::Other(_)));
        assert!(lost || won == [number], "{ended:?}");
    }
    assert_eq!(stage.status("m").await["uid"], format!("uid-{}", won[0]));
}

#[tokio::test]
async fn one_cluster_does_not_enrol_under_two_names() {
    let stage = Stage::new().await;
    let (a, b) = (
        stage.invite("a").await.unwrap(),
        stage.invite("b").await.unwrap(),
    );
    let (first, _) = application(&a.token, facts("uid-x"));
    let (second, _) = application(&b.token, facts("uid-x"));
    let (first, second) = tokio::join!(enrol(&stage.host, &first), enrol(&stage.host, &second));
    let won = usize::from(first.is_ok()) + usize::from(second.is_ok());
    assert_eq!(won, 1, "{first:?} {second:?}");
    for (name, ended) in [("a", &first), ("b", &second)] {
        let status = stage.status(name).await;
        assert_eq!(
            status["uid"] == "uid-x",
            ended.is_ok(),
            "{name} {status} {ended:?}"
        );
        if let Err(error) = ended {
            let EnrolError::Join(JoinError::Same(_) | JoinError::UnderWay { .. }) = error else {
                panic!("{error:?}")
            };
        }
    }
    // Who was refused has used up no token.
    let (token, won) = if first.is_ok() {
        (b.token, "a")
    } else {
        (a.token, "b")
    };
    let (again, _) = application(&token, facts("uid-x"));
    let refused = enrol(&stage.host, &again).await;
    assert!(
        matches!(&refused, Err(EnrolError::Join(JoinError::Same(other))) if other == won),
        "{refused:?}"
    );
}

#[tokio::test]
async fn what_an_agent_says_of_its_cluster_is_judged_and_the_token_stays_good() {
    let stage = Stage::new().await;
    // A direct member whose identity is known.
    let mut direct = seed::member_cluster("direct", "", "https://10.0.0.1:6443", None);
    direct["status"] = json!({"uid": "uid-direct"});
    let direct = serde_json::from_value(direct).unwrap();
    stage
        .clusters
        .create(&PostParams::default(), &direct)
        .await
        .unwrap();
    let own: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(stage.plane.client());
    let own = own.get("kube-system").await.unwrap().uid().unwrap();

    let invitation = stage.invite("m").await.unwrap();
    let with = |change: fn(&mut Facts)| {
        let mut facts = facts("uid-m");
        change(&mut facts);
        facts
    };
    for (facts, words) in [
        (
            facts("uid-direct"),
            "this is the cluster direct, which is in the fleet already",
        ),
        (facts(&own), "cluster host is the host itself"),
        (facts(""), "facts.uid:"),
        (facts("a\nb"), "facts.uid:"),
        (
            with(|facts| facts.cluster_role = "host".into()),
            "facts.clusterRole: it is \"host\"",
        ),
        (
            with(|facts| facts.cluster_role = String::new()),
            "facts.clusterRole: it is \"\"",
        ),
        (
            with(|facts| facts.kubernetes_version = "v1.19.16".into()),
            "Kubernetes 1.19 is older than 1.20",
        ),
        (
            with(|facts| facts.kubernetes_version = "rubbish".into()),
            "facts.kubernetesVersion:",
        ),
        (
            with(|facts| facts.kubernetes_version = format!("v1.30.{}", "9".repeat(100))),
            "facts.kubernetesVersion:",
        ),
    ] {
        let (application, _) = application(&invitation.token, facts);
        let refused = enrol(&stage.host, &application)
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains(words), "{refused}");
    }
    let (mut application, _) = application(&invitation.token, facts("uid-m"));
    let good = std::mem::replace(&mut application.csr, "rubbish".to_owned());
    let refused = enrol(&stage.host, &application)
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.starts_with("csr:"), "{refused}");
    // Nothing was left behind, and the token is good still.
    assert_eq!(stage.status("m").await, serde_json::Value::Null);
    application.csr = good;
    enrol(&stage.host, &application).await.unwrap();
}

#[tokio::test]
async fn j16_names_and_addresses_cannot_inject() {
    let stage = Stage::new().await;
    for name in ["a$(id)", "a\nb", "a'b", "a b", "A", "a/b", "", "a.b", "-a"] {
        let refused = stage.invite(name).await;
        assert!(
            matches!(refused, Err(EnrolError::Join(JoinError::Name(_)))),
            "{name:?}"
        );
    }
    for hub in [
        "https://h\nx: y",
        "https://h/$(id)",
        "h",
        "http://hub.example.org",
        "https://a@b",
    ] {
        let wanted = Invite {
            name: "m".to_owned(),
            hub: hub.to_owned(),
            insecure_hub: false,
            proxy: None,
            image: None,
            again: false,
        };
        let refused = invite(&stage.host, &wanted).await;
        assert!(matches!(refused, Err(EnrolError::Hub(_))), "{hub:?}");
    }
    for token in [
        "",
        "m",
        "m.",
        "../x.00",
        &format!("m.{}", "g".repeat(64)),
        &format!("M.{}", "0".repeat(64)),
    ] {
        let (application, _) = application(&Token::given(token), facts("u"));
        let refused = enrol(&stage.host, &application).await;
        assert!(
            matches!(refused, Err(EnrolError::TokenUnknown)),
            "{token:?}"
        );
    }
    assert!(
        stage
            .clusters
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn of_two_replicas_one_makes_the_authority_and_both_use_it() {
    let stage = Stage::new().await;
    let client = stage.plane.client();
    let now = jiff::Timestamp::from_second(NOW).unwrap();
    let opened =
        futures::future::join_all((0..4).map(|_| TunnelAuthority::open(&client, now))).await;
    let pins: Vec<String> = opened
        .into_iter()
        .map(|one| one.unwrap().pin().to_owned())
        .collect();
    assert!(
        pins.iter().all(|pin| *pin == pins[0] && pin.len() == 64),
        "{pins:?}"
    );
    // A damaged Secret is told, and not replaced.
    let mut secret = stage.secrets.get(SECRET).await.unwrap();
    let data = secret.data.as_mut().unwrap();
    let other = authority::private_key().unwrap();
    data.insert(
        "ca.key".to_owned(),
        k8s_openapi::ByteString(other.into_bytes()),
    );
    stage
        .secrets
        .replace(SECRET, &PostParams::default(), &secret)
        .await
        .unwrap();
    let error = TunnelAuthority::open(&client, now)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("Secret kubesphere-system/hub-tunnel"),
        "{error}"
    );
}

#[tokio::test]
async fn the_manifest_brings_the_authority_behind_the_hubs_certificate() {
    let stage = Stage::new().await;
    let maps: Api<ConfigMap> = Api::namespaced(stage.plane.client(), seed::NAMESPACE);
    let [_, map] = seed::certificate(
        "",
        "",
        "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n",
    );
    maps.create(
        &PostParams::default(),
        &serde_json::from_value(map).unwrap(),
    )
    .await
    .unwrap();
    let invitation = stage.invite("m").await.unwrap();
    assert!(
        invitation.manifest.contains("hub-ca.crt: |"),
        "{}",
        invitation.manifest
    );
}

const NAMES: [&str; 6] = [
    "other",
    "kah-agent",
    "hub-trust",
    "kubesphere-config",
    "ks-apiserver",
    "kube-system",
];

/// What the API of this cluster lets somebody do with anything it serves, one line each. `other` stands for every name but those that are ours.
async fn allowed(
    plane: &Cluster,
    user: &str,
    groups: &[&str],
) -> std::collections::BTreeSet<String> {
    use k8s_openapi::api::authorization::v1::{
        ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
    };
    let reviews: Api<SubjectAccessReview> = Api::all(plane.client());
    let discovery = kube::Discovery::new(plane.client()).run().await.unwrap();
    let mut resources = std::collections::BTreeSet::new();
    for group in discovery.groups() {
        let versions = group.versions().map(str::to_owned).collect::<Vec<_>>();
        for (resource, capabilities) in versions
            .iter()
            .flat_map(|version| group.versioned_resources(version))
        {
            let subresources = capabilities.subresources.iter();
            resources.insert((
                resource.group.clone(),
                resource.plural.clone(),
                String::new(),
            ));
            resources.extend(subresources.map(|(sub, _)| {
                let name = sub.plural.rsplit('/').next().unwrap().to_owned();
                (resource.group.clone(), resource.plural.clone(), name)
            }));
        }
    }
    for (group, resource, subresource) in [
        ("", "pods", "exec"),
        ("", "pods", "attach"),
        ("", "pods", "portforward"),
        ("", "pods", "proxy"),
        ("", "services", "proxy"),
        ("", "nodes", "proxy"),
        ("", "serviceaccounts", "token"),
        ("", "users", ""),
        ("", "groups", ""),
    ] {
        resources.insert((group.into(), resource.into(), subresource.into()));
    }
    assert!(resources.len() > 60, "{}", resources.len());
    let mut lines = std::collections::BTreeSet::new();
    for (group, resource, subresource) in resources {
        // Names of ours matter where a rule could name them.
        let named = matches!(group.as_str(), "" | "apps" | "rbac.authorization.k8s.io");
        let names = if named { NAMES.as_slice() } else { &["other"] };
        for namespace in ["kubesphere-system", "default"] {
            for name in names {
                for verb in [
                    "get",
                    "list",
                    "watch",
                    "create",
                    "update",
                    "patch",
                    "delete",
                    "deletecollection",
                    "impersonate",
                    "bind",
                    "escalate",
                    "approve",
                    "sign",
                ] {
                    let review = SubjectAccessReview {
                        spec: SubjectAccessReviewSpec {
                            user: Some(user.to_owned()),
                            groups: Some(groups.iter().map(|group| (*group).to_owned()).collect()),
                            resource_attributes: Some(ResourceAttributes {
                                group: Some(group.clone()),
                                resource: Some(resource.clone()),
                                subresource: Some(subresource.clone()),
                                namespace: Some(namespace.to_owned()),
                                name: Some((*name).to_owned()),
                                verb: Some(verb.to_owned()),
                                ..ResourceAttributes::default()
                            }),
                            ..SubjectAccessReviewSpec::default()
                        },
                        ..SubjectAccessReview::default()
                    };
                    let answer = reviews
                        .create(&PostParams::default(), &review)
                        .await
                        .unwrap();
                    if answer.status.unwrap().allowed {
                        let slash = if subresource.is_empty() { "" } else { "/" };
                        lines.insert(format!(
                            "{namespace} {verb} {group}/{resource}{slash}{subresource} {name}"
                        ));
                    }
                }
            }
        }
    }
    lines
}

/// What lies behind the role's text: asked of the API itself, for everything that it serves, in and beside our namespace.
#[tokio::test]
async fn d10_t3_an_agents_account_can_do_nothing_else() {
    use kah_cluster::enrol::manifest;
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let plane = plane(Role::Member, "secret", "0").await;
    for object in manifest::objects(&manifest::Member {
        cluster: "m",
        hub: "https://hub.example.org",
        hub_authority: None,
        insecure_hub: false,
        proxy: None,
        image: None,
        pin: "pin",
        token: "token",
    }) {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let types = object.types.clone().unwrap();
        let (group, version) = types
            .api_version
            .split_once('/')
            .unwrap_or(("", &types.api_version));
        let kind = GroupVersionKind::gvk(group, version, &types.kind);
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(plane.client(), namespace, &resource),
            None => Api::all_with(plane.client(), &resource),
        };
        api.create(&PostParams::default(), &object).await.unwrap();
    }
    let groups = [
        "system:serviceaccounts",
        "system:serviceaccounts:kubesphere-system",
        "system:authenticated",
    ];
    let account = "system:serviceaccount:kubesphere-system:kah-agent";
    let agent = allowed(&plane, account, &groups).await;
    let others = allowed(
        &plane,
        "system:serviceaccount:kubesphere-system:other",
        &groups,
    )
    .await;
    let found: std::collections::BTreeSet<String> = agent.difference(&others).cloned().collect();

    let both = ["kubesphere-system", "default"];
    let ours = ["kubesphere-system"];
    let follow = [
        "get", "list", "watch", "create", "update", "patch", "delete",
    ];
    let mut expected = std::collections::BTreeSet::new();
    let mut may = |namespaces: &[&str], verbs: &[&str], resource: &str, names: &[&str]| {
        for namespace in namespaces {
            for verb in verbs {
                for name in names {
                    expected.insert(format!("{namespace} {verb} {resource} {name}"));
                }
            }
        }
    };
    for kind in [
        "iam.kubesphere.io/users",
        "iam.kubesphere.io/globalroles",
        "iam.kubesphere.io/globalrolebindings",
        "iam.kubesphere.io/workspaceroles",
        "iam.kubesphere.io/workspacerolebindings",
        "iam.kubesphere.io/groups",
        "iam.kubesphere.io/groupbindings",
        "tenant.kubesphere.io/workspaces",
    ] {
        may(&both, &follow, kind, &["other"]);
    }
    may(&both, &["get"], "/namespaces", &["kube-system"]);
    may(&both, &["list"], "/nodes", &NAMES);
    may(
        &both,
        &["list"],
        "rbac.authorization.k8s.io/clusterrolebindings",
        &NAMES,
    );
    may(
        &both,
        &["delete"],
        "rbac.authorization.k8s.io/clusterrolebindings",
        &["kah-agent"],
    );
    may(
        &ours,
        &["get", "update"],
        "/configmaps",
        &["kubesphere-config"],
    );
    may(
        &ours,
        &["get", "update", "delete"],
        "/configmaps",
        &["hub-trust"],
    );
    may(&ours, &["create"], "/configmaps", &NAMES);
    may(
        &ours,
        &["get", "patch"],
        "apps/deployments",
        &["ks-apiserver"],
    );
    may(&ours, &["delete"], "apps/deployments", &["kah-agent"]);
    may(&ours, &["get", "list"], "/pods", &NAMES);
    may(&ours, &["get"], "/pods/log", &NAMES);
    may(
        &ours,
        &["get", "update", "delete"],
        "/secrets",
        &["kah-agent"],
    );
    may(&ours, &["delete"], "/serviceaccounts", &["kah-agent"]);
    let more: Vec<&String> = found.difference(&expected).collect();
    let less: Vec<&String> = expected.difference(&found).collect();
    assert!(
        more.is_empty() && less.is_empty(),
        "more: {more:#?}\nless: {less:#?}"
    );
    // Nothing that decides over others is among what everybody may do.
    assert!(
        others
            .iter()
            .all(|line| line.contains(" create authorization.k8s.io/")
                || line.contains(" create authentication.k8s.io/")),
        "{others:#?}"
    );
}

/// The name of the hub means nothing here: only the proxy knows the way.
#[tokio::test]
async fn an_agent_enrols_through_the_proxy_that_is_its_only_way_out() {
    use kah_cluster::enrol::agent::{AgentError, Hub, request};
    use kah_net::tunnel::Proxies;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let server = crate::member::Member::start(None, |_| {
        crate::member::status(410, "Gone", "token: it was used already")
    })
    .await
    .unwrap();
    let behind = server.address();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let proxy = format!("http://me:secret@{}", listener.local_addr().unwrap());
    let (heads, mut seen) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            heads.send(String::from_utf8(head).unwrap()).await.unwrap();
            let mut onward = tokio::net::TcpStream::connect(behind).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
            });
        }
    });
    let hub = Hub {
        address: "http://hub.invalid".to_owned(),
        authority: None,
        pin: "pin".to_owned(),
        insecure: true,
    };
    let proxies = Proxies {
        http: proxy,
        ..Proxies::default()
    };
    let key = authority::private_key().unwrap();
    let refused = request(&hub, &proxies, "token", &key, &facts("uid")).await;
    assert!(
        matches!(&refused, Err(AgentError::Refused { code, .. }) if *code == 410),
        "{refused:?}"
    );
    let head = seen.recv().await.unwrap();
    assert!(
        head.starts_with("CONNECT hub.invalid:80 HTTP/1.1\r\n"),
        "{head}"
    );
    assert_eq!(server.seen()[0].target, "/kapis/hub.kubeaihub.io/v1/enrol");
    let direct = request(&hub, &Proxies::default(), "token", &key, &facts("uid")).await;
    assert!(
        matches!(direct, Err(AgentError::Unreachable { .. })),
        "{direct:?}"
    );
}
