//! The stored connection of a member is replaced by one that leads to the same cluster, or not at all.

#![allow(clippy::unwrap_used)]

use std::{net::SocketAddr, ops::ControlFlow, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Node},
    rbac::v1::ClusterRoleBinding,
};
use kah_api::{access::AccessCode, network::Network, seed::Role};
use kah_cluster::{
    Host, Kubeconfig, Registry,
    doctor::{self, Outcome as Look},
    guard::AddressGuard,
    restore::{Outcome, Report, Request, RestoreError, State, renew_credential, restore},
    trust,
};
use kah_iam::clock::SystemClock;
use kah_iam::federated::HOST_TRUST;
use kah_localkube::Cluster;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::{
    member::{self, Member},
    restore::{PATIENCE, plane, proof},
};

/// A host, and a member whose ks-apiserver accepts everybody.
struct Fleet {
    host: Host,
    planes: [Cluster; 2],
    server: Member,
}

impl Fleet {
    async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let planes = [
            plane(Role::Host, "secret", "2h").await,
            plane(Role::Member, "secret", "0").await,
        ];
        // What a controller of a whole cluster does.
        for name in ["kube-system", "kubesphere-system"] {
            let maps: Api<k8s_openapi::api::core::v1::ConfigMap> =
                Api::namespaced(planes[1].client(), name);
            let map = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": planes[1].authority().ca_pem()}});
            maps.create(
                &PostParams::default(),
                &serde_json::from_value(map).unwrap(),
            )
            .await
            .unwrap();
        }
        let server = Member::start(None, |_| {
            member::answer(200, "application/json", "{\"gitVersion\":\"v3.4.1\"}")
        })
        .await
        .unwrap();
        let registry = crate::registry();
        let fleet = Self {
            host: Host {
                client: planes[0].client(),
                prover: kah_cluster::proof::Prover::without_key(
                    Arc::default(),
                    Arc::default(),
                    Arc::new(kah_iam::clock::SystemClock::default()),
                ),
                registry: registry.clone(),
                clock: Arc::new(SystemClock::default()),
                tasks: TaskTracker::new(),
            },
            planes,
            server,
        };
        let kubeconfig = fleet.planes[1].admin_kubeconfig().to_owned();
        fleet.create(&kubeconfig).await;
        let client = fleet.planes[0].client();
        tokio::spawn(async move { registry.follow(client).await });
        fleet.host.registry.synced().await;
        fleet
    }

    fn clusters(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("cluster.kubesphere.io", "v1alpha1", "Cluster");
        let resource = ApiResource::from_gvk_with_plural(&kind, "clusters");
        Api::all_with(self.planes[0].client(), &resource)
    }

    /// The Cluster with this kubeconfig, and no identity; the registry knows it.
    async fn store(&self, kubeconfig: &str) {
        let uid = self.create(kubeconfig).await;
        crate::until("the registry has it", || {
            let member = self.registry().get("m");
            member.is_some_and(|member| member.uid() == uid)
        })
        .await;
    }

    async fn create(&self, kubeconfig: &str) -> String {
        let server = format!("https://{}", self.planes[1].address());
        let object =
            kah_api::seed::member_cluster("m", kubeconfig, &server, Some(&self.server.url()));
        let clusters = self.clusters();
        let _ = clusters.delete("m", &Default::default()).await;
        let created = clusters
            .create(
                &PostParams::default(),
                &serde_json::from_value(object).unwrap(),
            )
            .await
            .unwrap();
        created.metadata.uid.unwrap()
    }

    fn registry(&self) -> &Registry {
        &self.host.registry
    }

    async fn object(&self) -> Value {
        serde_json::to_value(self.clusters().get("m").await.unwrap()).unwrap()
    }

    async fn stored(&self) -> String {
        let object = self.object().await;
        let text = object["spec"]["connection"]["kubeconfig"].as_str().unwrap();
        String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
    }

    async fn restore(&self, change: impl FnOnce(&mut Request)) -> Result<Report, RestoreError> {
        let mut request = Request {
            patience: PATIENCE,
            guard: AddressGuard::new(&["127.0.0.0/8".parse::<Network>().unwrap()]),
            ..Request::new("m", "tester", proof())
        };
        change(&mut request);
        restore(&self.host, &request, &mut |_: &State| {
            ControlFlow::Continue(())
        })
        .await
    }

    async fn codes(&self) -> Vec<AccessCode> {
        let member = self.registry().get("m").unwrap();
        let evidence = doctor::gather(&self.host, &member, &proof()).await;
        let found = doctor::examine(&evidence);
        found.into_iter().map(|finding| finding.code).collect()
    }
}

/// The kubeconfig with another authority's certificate.
fn with_authority_of(kubeconfig: &str, from: &Cluster, to: &Cluster) -> String {
    let (old, new) = (
        STANDARD.encode(from.authority().ca_pem()),
        STANDARD.encode(to.authority().ca_pem()),
    );
    assert!(kubeconfig.contains(&old));
    kubeconfig.replace(&old, &new)
}

#[tokio::test]
async fn a_changed_authority_is_shown_and_taken_only_at_its_fingerprint() {
    let fleet = Fleet::new().await;
    let good = fleet.stored().await;
    let [host, member] = &fleet.planes;
    fleet.store(&with_authority_of(&good, member, host)).await;
    assert_eq!(fleet.codes().await, [AccessCode::TLSUntrusted]);
    let wrong = fleet.stored().await;

    let Err(RestoreError::Authority { known, shown }) = fleet.restore(|_| {}).await else {
        panic!("it asks first")
    };
    assert_ne!(known, shown);
    let other = fleet
        .restore(|request| request.accept_ca = Some(known))
        .await;
    assert!(
        matches!(other, Err(RestoreError::Authority { .. })),
        "{other:?}"
    );
    let planned = fleet
        .restore(|request| {
            request.accept_ca = Some(shown.clone());
            request.dry_run = true;
        })
        .await
        .unwrap();
    assert_eq!(planned.outcome, Outcome::Planned);
    assert_eq!(planned.actions[0].to, shown);
    assert_eq!(fleet.stored().await, wrong, "nothing is stored so far");

    let done = fleet
        .restore(|request| request.accept_ca = Some(format!("SHA256:{}", shown.replace(':', ""))))
        .await
        .unwrap();
    assert_eq!(done.outcome, Outcome::Restored);
    assert_eq!(fleet.codes().await, []);
    // Where nothing has changed no fingerprint raises an alarm.
    let unchanged = fleet
        .restore(|request| request.accept_ca = Some("zz".to_owned()))
        .await
        .unwrap();
    assert_eq!(unchanged.outcome, Outcome::NothingToDo);
}

/// A kubeconfig that is brought is no way to ask what is no cluster, nor to hear what it says.
#[tokio::test]
async fn s1_s5_a_brought_kubeconfig_leads_to_no_other_address_and_tells_no_answer() {
    use crate::member::{Member, answer, status};
    let fleet = Fleet::new().await;
    let good = fleet.stored().await;
    let asked = Member::start(None, |_| answer(200, "text/plain", "canary"))
        .await
        .unwrap();
    let at = |server: &str| crate::kubeconfig(server, "", "token: x").into_bytes();
    for server in [
        asked.url().as_str(),
        "http://[::1]:1",
        "http://169.254.169.254",
        "http://[::ffff:127.0.0.1]:1",
        "http://2130706433:1",
        "http://0x7f000001:1",
        "http://0:1",
        "http://localhost:1",
    ] {
        let brought = at(server);
        let refused = fleet
            .restore(|request| {
                request.kubeconfig = Some(brought);
                request.guard = AddressGuard::default();
            })
            .await
            .unwrap_err();
        assert!(
            matches!(refused, RestoreError::Address(_)),
            "{server}: {refused}"
        );
    }
    assert_eq!(asked.opened(), 0);
    // Allowed, and no cluster.
    let refusing = Member::start(None, |_| status(418, "canary", "canary"))
        .await
        .unwrap();
    for member in [&asked, &refusing] {
        let brought = at(&member.url());
        let refused = fleet
            .restore(|request| request.kubeconfig = Some(brought))
            .await
            .unwrap_err();
        assert!(matches!(refused, RestoreError::Closed { .. }), "{refused}");
        assert!(
            !kah_cluster::with_causes(&refused).contains("canary"),
            "{refused}"
        );
        assert!(!member.seen().is_empty());
    }
    assert_eq!(fleet.stored().await, good);
}

#[tokio::test]
async fn r2_a_kubeconfig_is_stored_only_if_it_opens_the_same_cluster() {
    let fleet = Fleet::new().await;
    let good = fleet.stored().await;
    let line = |key: &str| {
        let line = good.lines().find(|line| line.contains(key)).unwrap();
        line.split(": ")
            .nth(1)
            .unwrap()
            .trim()
            .trim_matches('"')
            .to_owned()
    };
    let revoked = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: k, cluster: {{server: '{}', certificate-authority-data: {}}}}}]\n\
         users: [{{name: u, user: {{token: revoked}}}}]\n\
         contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n",
        line("server"),
        line("certificate-authority-data"),
    );
    fleet.store(&revoked).await;
    assert_eq!(fleet.codes().await, [AccessCode::CredentialRejected]);
    let ended = fleet.restore(|_| {}).await.unwrap_err();
    assert_eq!(ended.code(), Some(AccessCode::CredentialRejected));
    assert!(ended.remedy().unwrap().text.contains("--kubeconfig"));

    let bring = |text: &str| {
        let text = text.as_bytes().to_vec();
        fleet.restore(move |request| request.kubeconfig = Some(text))
    };
    assert!(matches!(
        bring("rubbish: [").await,
        Err(RestoreError::Kubeconfig(_))
    ));
    assert!(matches!(
        bring(&revoked).await,
        Err(RestoreError::Closed { .. })
    ));
    let of_host = fleet.planes[0].admin_kubeconfig().to_owned();
    assert!(matches!(bring(&of_host).await, Err(RestoreError::Other(_))));
    assert_eq!(fleet.stored().await, revoked);
    assert_eq!(fleet.object().await["status"]["uid"], Value::Null);

    let done = bring(&good).await.unwrap();
    assert_eq!(done.outcome, Outcome::Restored);
    assert_eq!(done.actions[0].what, "stored credential");
    assert_eq!(fleet.stored().await, good);
    assert_eq!(fleet.codes().await, []);
    // From now on it is known who it is.
    let uid = fleet.object().await["status"]["uid"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(!uid.is_empty());
    let other = json!({"status": {"uid": "of another cluster"}});
    fleet
        .clusters()
        .patch("m", &Default::default(), &Patch::Merge(other))
        .await
        .unwrap();
    crate::until("the registry has it", || {
        fleet.registry().get("m").unwrap().identity() == Some("of another cluster")
    })
    .await;
    let Err(RestoreError::Another { found, wanted }) = bring(&good).await else {
        panic!("it is another cluster")
    };
    assert_eq!((found, wanted.as_str()), (uid, "of another cluster"));
}

/// A way on which the first connection waits until it is let through.
struct Way {
    address: SocketAddr,
    came: oneshot::Receiver<()>,
    go: oneshot::Sender<()>,
    _task: AbortOnDropHandle<()>,
}

impl Way {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (comes, came) = oneshot::channel();
        let (go, may_go) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let (mut passing, mut near) = (JoinSet::new(), listener.accept().await.unwrap().0);
            comes.send(()).unwrap();
            may_go.await.unwrap();
            loop {
                passing.spawn(async move {
                    let mut far = TcpStream::connect(target).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
                near = listener.accept().await.unwrap().0;
            }
        });
        Self {
            address,
            came,
            go,
            _task: AbortOnDropHandle::new(task),
        }
    }
}

#[tokio::test]
async fn what_others_write_while_a_connection_is_tried_stays() {
    let fleet = Fleet::new().await;
    let good = fleet.stored().await;
    let at = fleet.planes[1].address();
    let theirs = format!("{good}# theirs\n");
    for (what, spoilt) in [
        ("a label", false),
        ("the connection", true),
        ("the object", true),
    ] {
        fleet.store(&good).await;
        let way = Way::to(at).await;
        let brought = good.replace(&at.to_string(), &way.address.to_string());
        let mut uid = String::new();
        let write = async {
            // The Cluster was read before that.
            way.came.await.unwrap();
            let patch = match what {
                "a label" => json!({"metadata": {"labels": {"somebody": "was-here"}}}),
                "the connection" => {
                    json!({"spec": {"connection": {"kubeconfig": STANDARD.encode(&theirs)}}})
                }
                _ => {
                    uid = fleet.create(&theirs).await;
                    json!({})
                }
            };
            let clusters = fleet.clusters();
            clusters
                .patch("m", &Default::default(), &Patch::Merge(patch))
                .await
                .unwrap();
            way.go.send(()).unwrap();
        };
        let bring =
            fleet.restore(|request| request.kubeconfig = Some(brought.clone().into_bytes()));
        let (restored, ()) = tokio::join!(bring, write);
        let object = fleet.object().await;
        if spoilt {
            assert!(
                matches!(&restored, Err(RestoreError::Api { source, .. })
                    if matches!(&**source, kube::Error::Api(status) if status.code == 409)),
                "{what}: {restored:?}"
            );
            assert_eq!(fleet.stored().await, theirs, "{what}");
            assert_eq!(object["status"]["uid"], Value::Null, "{what}");
            assert!(
                uid.is_empty() || object["metadata"]["uid"] == *uid,
                "{what}"
            );
        } else {
            assert_eq!(restored.unwrap().outcome, Outcome::Restored);
            assert_eq!(fleet.stored().await, brought);
            assert_eq!(object["metadata"]["labels"]["somebody"], "was-here");
        }
    }
}

#[tokio::test]
async fn a_credential_that_ends_soon_is_replaced_by_one_of_the_hosts_own() {
    let fleet = Fleet::new().await;
    let server = format!("https://{}", fleet.planes[1].address());
    let authority = fleet.planes[1].authority();
    // A year from then ends in ten days.
    let then = Timestamp::now() - SignedDuration::from_hours(355 * 24);
    let short = authority
        .client_certificate("kubernetes-admin", &["system:masters"], then)
        .unwrap();
    fleet
        .store(&authority.kubeconfig("m", &server, &short))
        .await;
    assert_eq!(fleet.codes().await, [AccessCode::CredentialExpiring]);

    let planned = fleet
        .restore(|request| request.dry_run = true)
        .await
        .unwrap();
    assert_eq!(
        (planned.outcome, planned.actions.len()),
        (Outcome::Planned, 1)
    );
    assert_eq!(fleet.codes().await, [AccessCode::CredentialExpiring]);
    let done = fleet.restore(|_| {}).await.unwrap();
    assert_eq!(done.outcome, Outcome::Restored);
    assert_eq!(done.code, Some(AccessCode::CredentialExpiring));
    assert_eq!(fleet.codes().await, []);
    let stored = fleet.stored().await;
    let read = Kubeconfig::read(stored.as_bytes()).unwrap();
    assert!(read.tls.client_certificate.is_none() && !stored.contains("client-key"));
    let left = read.expiry.unwrap().left(Timestamp::now());
    assert!(left > SignedDuration::from_hours(80 * 24), "{left}");

    // The account renews itself, and can do what a host does: look, restore, bring users.
    let member = fleet.registry().get("m").unwrap();
    let renewed = renew_credential(&fleet.host, &member).await.unwrap();
    assert!(renewed.ends.unwrap() >= read.expiry.unwrap().ends);
    let member = fleet.registry().get("m").unwrap();
    let evidence = doctor::gather(&fleet.host, &member, &proof()).await;
    let report = doctor::report(&evidence);
    assert!(
        report.findings.is_empty() && report.unknown.is_empty(),
        "{report:?}"
    );
    assert!(
        report
            .stages
            .iter()
            // Without controllers there is no replica.
            .all(|stage| stage.outcome == Look::Passed || stage.name == "deployment"),
        "{report:?}"
    );
    // What is asked of each cluster for its status, and of propagation.
    let client = member.kubernetes().unwrap();
    let roles = Api::<ClusterRoleBinding>::all(client.clone());
    let labels = ListParams::default().labels("iam.kubesphere.io/user-ref");
    roles.list(&labels).await.unwrap();
    let nodes = Api::<Node>::all(client.clone());
    nodes.list_metadata(&ListParams::default()).await.unwrap();
    client.apiserver_version().await.unwrap();
    // Trust is told and taken back; nothing else is deleted.
    let maps = |client| Api::<ConfigMap>::namespaced(client, "kubesphere-system");
    let map: ConfigMap = serde_json::from_value(
        json!({"metadata": {"name": HOST_TRUST}, "data": {"issuer": "https://host", "jwks": "{}"}}),
    )
    .unwrap();
    let theirs = maps(client.clone());
    theirs.create(&PostParams::default(), &map).await.unwrap();
    trust::withdraw(&client, "https://host").await.unwrap();
    assert!(theirs.get_opt(HOST_TRUST).await.unwrap().is_none());
    let refused = theirs
        .delete("kubesphere-config", &Default::default())
        .await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));
    // But not whatever an administrator may.
    let secrets: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(member.kubernetes().unwrap(), "kubesphere-system");
    let refused = secrets.list(&Default::default()).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 403));
}

/// Its rights do not reach for an account of the host's own; what they reach for is repaired nevertheless.
#[tokio::test]
async fn a_credential_that_cannot_be_replaced_is_kept_and_the_rest_is_repaired() {
    let fleet = Fleet::new().await;
    let admin = fleet.planes[1].client();
    let group = "rbac.authorization.k8s.io";
    for (kind, object) in [
        (
            "ClusterRole",
            json!({"metadata": {"name": "some"}, "rules": [
                {"apiGroups": ["", "apps"], "resources": ["configmaps", "deployments", "namespaces"], "verbs": ["*"]},
            ]}),
        ),
        (
            "ClusterRoleBinding",
            json!({
                "metadata": {"name": "some"},
                "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "some"},
                "subjects": [{"apiGroup": group, "kind": "User", "name": "somebody"}],
            }),
        ),
    ] {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        let api: Api<DynamicObject> = Api::all_with(admin.clone(), &resource);
        let object = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }
    let server = format!("https://{}", fleet.planes[1].address());
    let authority = fleet.planes[1].authority();
    let then = Timestamp::now() - SignedDuration::from_hours(355 * 24);
    let short = authority.client_certificate("somebody", &[], then).unwrap();
    let kubeconfig = authority.kubeconfig("m", &server, &short);
    fleet.store(&kubeconfig).await;

    // That is all there is to do, and it cannot be done.
    let error = fleet.restore(|_| {}).await.unwrap_err();
    assert!(matches!(error, RestoreError::Api { .. }), "{error:?}");
    // Nobody asked for it.
    let done = fleet.restore(|request| request.renew = false).await;
    assert_eq!(done.unwrap().outcome, Outcome::NothingToDo);

    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> =
        Api::namespaced(admin, "kubesphere-system");
    let mut map = maps.get("kubesphere-config").await.unwrap();
    let text = map
        .data
        .as_mut()
        .unwrap()
        .get_mut("kubesphere.yaml")
        .unwrap();
    *text = text.replace("clusterRole: member", "clusterRole: none");
    maps.replace("kubesphere-config", &PostParams::default(), &map)
        .await
        .unwrap();
    let done = fleet.restore(|_| {}).await.unwrap();
    assert_eq!(
        (done.outcome, done.code),
        (Outcome::Restored, Some(AccessCode::WrongRole))
    );
    let kept = &done.actions[0];
    assert_eq!(kept.what, "stored credential");
    assert!(kept.to.starts_with("not replaced: "), "{kept:?}");
    assert_eq!(fleet.stored().await, kubeconfig);
}
