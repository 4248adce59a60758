//! A cluster is looked at before it joins: what it is shown until its trust is decided, and what is told of what it says.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kah_api::{
    cluster::Trust,
    config::Configuration,
    iam::{GlobalRoleBinding, PLATFORM_ADMIN, User, UserSpec, UserStatus},
    network::Network,
    seed::{self, Role},
};
use kah_cluster::{
    CallerCredential, Host,
    enrol::{self, EnrolError},
    guard::AddressGuard,
    join::{self, JoinError, Report, Request},
    proof::Prover,
    trust::{Patience, TrustError, keys},
    tunnel::authority,
};
use kah_iam::{Clock, GlobalRoles, Users};
use kah_localkube::Cluster;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::{
    member::{self, Member, Reply, Seen},
    restore::plane,
};

const UID: &str = "uid-of-the-member";
const PROXY: &str = "/api/v1/namespaces/kubesphere-system/services/:ks-apiserver:/proxy";
const MAPS: &str = "/api/v1/namespaces/kubesphere-system/configmaps";
const TOLD: &str = "/api/v1/namespaces/kubesphere-system/configmaps/hub-trust";
/// Where a token for a ks-apiserver behind a service proxy stands.
const IDENTITY: &str = "x-kubesphere-authorization";

/// What a cluster says of its trust.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Offer {
    Federated,
    /// It is none of ours.
    Nothing,
    /// A moment at which it does not answer well.
    Fault,
}

/// What the stand-in says: one that is fit to join but for what `odd` changes.
#[derive(Clone)]
struct Says {
    uid: &'static str,
    offer: Offer,
    /// The path that is answered in this way instead.
    odd: Option<(&'static str, u16, String)>,
    /// What it was told to trust.
    told: Option<serde_json::Value>,
    /// What it is told by a write; without it, a write changes nothing.
    keeps: Option<serde_json::Value>,
    /// Whether it takes no token.
    refuses: bool,
}

impl Says {
    fn of(uid: &'static str) -> Self {
        Self {
            uid,
            offer: Offer::Federated,
            odd: None,
            told: None,
            keeps: None,
            refuses: false,
        }
    }
}

/// The machine's time, and so many seconds.
struct Shifted(AtomicI64);

impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        Timestamp::now() + SignedDuration::from_secs(self.0.load(Ordering::SeqCst))
    }

    fn uptime(&self) -> f64 {
        0.0
    }
}

fn says(says: &mut Says, seen: &Seen) -> Reply {
    let path = seen.target.split('?').next().unwrap_or_default();
    if let Some((odd, status, body)) = &says.odd
        && path.ends_with(odd)
    {
        return member::answer(*status, "application/json", body.clone());
    }
    let body = match path {
        "/api/v1/namespaces/kube-system" => {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": says.uid}})
        }
        MAPS if seen.method == "POST" => {
            says.told.clone_from(&says.keeps);
            says.told.clone().unwrap_or_default()
        }
        TOLD => match &says.told {
            _ if seen.method == "DELETE" => {
                if says.keeps.is_some() {
                    says.told = None;
                }
                json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})
            }
            Some(_) if seen.method == "PUT" && says.keeps.is_some() => {
                says.told.clone_from(&says.keeps);
                says.told.clone().unwrap_or_default()
            }
            Some(told) => told.clone(),
            None => return member::status(404, "NotFound", "canary"),
        },
        "/version" => json!({
            "major": "1", "minor": "36", "gitVersion": "v1.36.2", "gitCommit": "", "gitTreeState": "", "buildDate": "",
            "goVersion": "", "compiler": "", "platform": "",
        }),
        "/api/v1/namespaces/kubesphere-system/configmaps/kubesphere-config" => json!({
            "metadata": {"name": "kubesphere-config"},
            "data": {"kubesphere.yaml": "multicluster:\n  clusterRole: member\n"},
        }),
        "/apis/apps/v1/namespaces/kubesphere-system/deployments/ks-apiserver" => json!({
            "metadata": {"name": "ks-apiserver"},
            "spec": {"replicas": 1, "selector": {}, "template": {}},
            "status": {"replicas": 1, "readyReplicas": 1},
        }),
        "/api/v1/namespaces/kubesphere-system/pods" => json!({"metadata": {}, "items": []}),
        path => match path.strip_prefix(PROXY) {
            Some("/kapis/version") => json!({"gitVersion": "v3.4.1"}),
            Some("/kapis/hub.kubeaihub.io/v1/trust") => match says.offer {
                Offer::Federated => {
                    json!({"offers": ["shared-secret", "federated"], "audience": says.uid, "issuer": "", "keys": []})
                }
                Offer::Nothing => return member::status(403, "Forbidden", "canary"),
                Offer::Fault => return member::status(500, "InternalError", "canary"),
            },
            Some(_) if says.refuses || seen.header(IDENTITY).is_empty() => {
                return member::status(401, "Unauthorized", "Unauthorized: canary");
            }
            Some(_) => json!({"gitVersion": "v3.4.1"}),
            None => return member::status(404, "NotFound", "canary"),
        },
    };
    member::answer(200, "application/json", body.to_string())
}

/// The body of a refusal.
fn refusal(code: u16, message: &str) -> String {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "code": code,
    })
    .to_string()
}

async fn stand_in(uid: &'static str) -> (Member, Arc<Mutex<Says>>) {
    let known = Arc::new(Mutex::new(Says::of(uid)));
    let told = known.clone();
    let server = Member::start(None, move |seen| says(&mut told.lock().unwrap(), seen))
        .await
        .unwrap();
    (server, known)
}

struct Stage {
    host: Host,
    server: Member,
    says: Arc<Mutex<Says>>,
    clock: Arc<Shifted>,
    _plane: Cluster,
}

impl Stage {
    async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let plane = plane(Role::Host, "secret of the host", "2h").await;
        let (server, known) = stand_in(UID).await;
        let shifted = Arc::new(Shifted(AtomicI64::new(0)));
        let (users, roles) = (Arc::new(Users::default()), Arc::new(GlobalRoles::default()));
        let mut admin = User::new("admin", UserSpec::default());
        admin.status = Some(UserStatus {
            state: "Active".into(),
            ..UserStatus::default()
        });
        users.apply(admin);
        roles.replace(vec![GlobalRoleBinding::for_user(
            "admin",
            "admin",
            PLATFORM_ADMIN,
        )]);
        let text = "authentication:\n  jwtSecret: \"secret of the host\"\n";
        let configuration = Configuration::read(text, &BTreeMap::new()).unwrap();
        let clock: Arc<dyn Clock> = shifted.clone();
        Self {
            host: Host {
                client: plane.client(),
                registry: crate::registry(),
                prover: Prover::new(&configuration, users, roles, clock.clone()),
                clock,
                tasks: TaskTracker::new(),
            },
            server,
            says: known,
            clock: shifted,
            _plane: plane,
        }
    }

    fn request(&self, name: &str, trust: Option<Trust>, dry_run: bool) -> Request {
        Request {
            name: name.into(),
            kubeconfig: crate::kubeconfig(&self.server.url(), "", "token: stored").into_bytes(),
            dry_run,
            force: false,
            guard: AddressGuard::new(&["127.0.0.0/8".parse::<Network>().unwrap()]),
            trust,
            patience: Patience {
                accept: Duration::from_secs(1),
                ..Patience::default()
            },
            proof: CallerCredential::User {
                name: "admin".into(),
                authorization: HeaderValue::from_static("Bearer of-the-administrator"),
            },
        }
    }

    /// A join that has told the cluster, and waits for it to accept that.
    async fn begun(&self, name: &str, force: bool) -> JoinHandle<Result<Report, JoinError>> {
        self.says.lock().unwrap().refuses = true;
        let (host, mut request) = (self.host.clone(), self.request(name, None, false));
        (request.force, request.patience.accept) = (force, Duration::from_secs(20));
        let before = self.asked("POST") + self.asked("PUT");
        let begun = tokio::spawn(async move { join::join(&host, &request).await });
        crate::until("the cluster is told", || {
            self.asked("POST") + self.asked("PUT") > before
        })
        .await;
        begun
    }

    /// How often the cluster was asked so for what it is told to trust.
    fn asked(&self, method: &str) -> usize {
        let seen = self.server.seen();
        let told = seen.iter().filter(|seen| seen.target.starts_with(MAPS));
        told.filter(|seen| seen.method == method).count()
    }

    /// What the cluster is told by this host, and keeps.
    async fn keeps(&self) -> serde_json::Value {
        keys::signing(&self.host).await.unwrap();
        let ours = self.host.registry.signer().trusted(UID).unwrap().to_data();
        let map = json!({"metadata": {"name": "hub-trust", "resourceVersion": "1"}, "data": ours});
        self.says.lock().unwrap().keeps = Some(map.clone());
        map
    }

    async fn claims(&self) -> usize {
        let leases: Api<Lease> = Api::namespaced(self.host.client.clone(), seed::NAMESPACE);
        leases
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len()
    }

    async fn look(&self, trust: Option<Trust>) -> Result<Report, JoinError> {
        join::join(&self.host, &self.request("new", trust, true)).await
    }

    /// The tokens that the ks-apiserver was shown.
    fn shown(&self) -> Vec<String> {
        let seen = self.server.seen();
        let proxied = seen.iter().filter(|seen| seen.target.starts_with(PROXY));
        proxied
            .map(|seen| seen.header(IDENTITY))
            .filter(|token| !token.is_empty())
            .collect()
    }
}

#[tokio::test]
async fn a_cluster_is_shown_no_token_before_its_trust_is_decided() {
    let stage = Stage::new().await;
    let offers = |offer| stage.says.lock().unwrap().offer = offer;

    let report = stage.look(None).await.unwrap();
    assert_eq!(report.trust, Trust::Federated);
    assert_eq!(
        stage.look(Some(Trust::Federated)).await.unwrap().trust,
        Trust::Federated
    );
    // That it did not answer is no decision.
    offers(Offer::Fault);
    for trust in [None, Some(Trust::Federated)] {
        let refused = stage.look(trust).await.unwrap_err();
        let JoinError::Trust(error) = &refused else {
            panic!("{refused}")
        };
        assert!(matches!(**error, TrustError::Unasked { .. }), "{refused}");
    }
    // Nor is a no of somebody who is no ks-apiserver otherwise.
    offers(Offer::Nothing);
    let no_version = ("/kapis/version", 404, refusal(404, "canary"));
    stage.says.lock().unwrap().odd = Some(no_version);
    let refused = stage.look(None).await.unwrap_err();
    assert!(matches!(refused, JoinError::Trust(_)), "{refused}");
    stage.says.lock().unwrap().odd = None;
    // Who asked for federated trust gets nothing less.
    let refused = stage.look(Some(Trust::Federated)).await.unwrap_err();
    assert!(
        matches!(&refused, JoinError::Trust(error) if matches!(**error, TrustError::NotOffered { .. }))
    );
    assert_eq!(stage.shown(), Vec::<String>::new());

    // A cluster that clearly offers nothing else shares the secret, and sees a short token of the host and not that of the administrator.
    assert_eq!(stage.look(None).await.unwrap().trust, Trust::SharedSecret);
    let shown = stage.shown();
    assert!(!shown.is_empty(), "nothing was asked");
    for token in shown {
        let payload = token.split('.').nth(1).unwrap().to_owned();
        let payload =
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, payload);
        let claims: serde_json::Value = serde_json::from_slice(&payload.unwrap()).unwrap();
        let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
        assert!(life <= 300, "{claims}");
    }
}

#[tokio::test]
async fn an_administrators_word_asks_for_no_offer() {
    let stage = Stage::new().await;
    let report = stage.look(Some(Trust::SharedSecret)).await.unwrap();
    assert_eq!(report.trust, Trust::SharedSecret);
    assert!(
        stage
            .server
            .seen()
            .iter()
            .all(|seen| !seen.target.ends_with("/trust"))
    );
}

/// Each answer that keeps a cluster from joining holds a word of its own; no error tells it.
#[tokio::test]
async fn s5_no_error_of_a_join_quotes_an_answer() {
    let stage = Stage::new().await;
    stage.says.lock().unwrap().offer = Offer::Nothing;
    let map = |role: &str| {
        let text = format!("multicluster:\n  clusterRole: {role}\n");
        json!({"metadata": {}, "data": {"kubesphere.yaml": text}}).to_string()
    };
    let mut refusals = 0;
    let (space, config) = ("/namespaces/kube-system", "/configmaps/kubesphere-config");
    let (version, trust) = (":ks-apiserver:/proxy/version", "/hub.kubeaihub.io/v1/trust");
    for (path, status, body) in [
        (space, 403, refusal(403, "canary")),
        (space, 200, "canary".to_owned()),
        (space, 404, "canary".to_owned()),
        (space, 200, r#"{"metadata":"canary"}"#.to_owned()),
        (config, 401, refusal(401, "canary")),
        (config, 500, refusal(500, "canary")),
        (config, 200, map("canary")),
        (config, 200, map("{canary")),
        (version, 401, refusal(401, "Unauthorized: canary")),
        (version, 418, "canary".to_owned()),
        (version, 503, refusal(503, "canary")),
        (trust, 200, r#"{"audience":"canary"}"#.to_owned()),
    ] {
        let shown = format!("{path} {status} {body}");
        stage.says.lock().unwrap().odd = Some((path, status, body));
        let refused = match stage.look(None).await {
            // What callers do not feel is a warning.
            Ok(report) => {
                assert!(
                    !format!("{report:?}").contains("canary"),
                    "{shown}: {report:?}"
                );
                continue;
            }
            Err(refused) => refused,
        };
        refusals += 1;
        let words = refused.words();
        assert!(!words.contains("canary"), "{shown}: {words}");
        if let JoinError::Unfit(finding) = &refused {
            let all = format!("{finding:?}");
            assert!(!all.contains("canary"), "{shown}: {all}");
        }
    }
    assert!(refusals >= 8, "{refusals}");
}

fn is_under_way(joined: &Result<Report, JoinError>) -> bool {
    matches!(joined, Err(JoinError::UnderWay { seconds: 1..=30 }))
}

/// Whichever is first: the other writes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_join_one_cluster_at_once_one_does() {
    let stage = Stage::new().await;
    for (one, two) in [("one", "two"), ("same", "same")] {
        let shared = Some(Trust::SharedSecret);
        let [one, two] = [one, two].map(|name| stage.request(name, shared, false));
        let together = tokio::join!(join::join(&stage.host, &one), join::join(&stage.host, &two));
        let joined = [together.0, together.1];
        for refused in joined.iter().filter_map(|joined| joined.as_ref().err()) {
            let late = matches!(refused, JoinError::Same(_) | JoinError::Taken(_));
            assert!(
                late || matches!(refused, JoinError::UnderWay { .. }),
                "{refused}"
            );
        }
        let good = joined.iter().filter(|joined| joined.is_ok()).count();
        assert_eq!(good, 1, "{joined:?}");
        let clusters = kah_cluster::clusters(stage.host.client.clone());
        let stored = clusters.list(&ListParams::default()).await.unwrap();
        assert_eq!(stored.items.len(), 1, "{stored:?}");
        let name = stored.items[0].metadata.name.clone().unwrap();
        clusters
            .delete(&name, &DeleteParams::default())
            .await
            .unwrap();
        assert_eq!(stage.claims().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_takes_nothing_from_another_of_the_same_cluster() {
    let stage = Stage::new().await;
    let ours = stage.keeps().await;
    let theirs = json!({
        "metadata": {"name": "hub-trust", "resourceVersion": "1"}, "data": {"issuer": "kubeaihub:another"},
    });
    for (name, force) in [
        ("other", false),
        ("other", true),
        ("first", false),
        ("first", true),
    ] {
        stage.says.lock().unwrap().told = force.then(|| theirs.clone());
        let first = stage.begun("first", force).await;
        let wrote = (stage.asked("POST"), stage.asked("PUT"));
        let mut request = stage.request(name, None, false);
        request.force = force;
        let second = join::join(&stage.host, &request).await;
        assert!(is_under_way(&second), "{second:?}");
        assert!(!first.is_finished());
        assert_eq!((stage.asked("POST"), stage.asked("PUT")), wrote);
        stage.says.lock().unwrap().refuses = false;
        let joined = first.await.unwrap().unwrap();
        assert_eq!(joined.trust, Trust::Federated);
        assert_eq!(stage.asked("DELETE"), 0);
        assert_eq!(stage.says.lock().unwrap().told.as_ref(), Some(&ours));
        assert_eq!(stage.claims().await, 0);
        kah_cluster::clusters(stage.host.client.clone())
            .delete("first", &DeleteParams::default())
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_join_that_was_killed_had_begun_is_finished_when_its_claim_has_run_out() {
    let stage = Stage::new().await;
    let ours = stage.keeps().await;
    let killed = stage.begun("new", false).await;
    killed.abort();
    assert!(killed.await.unwrap_err().is_cancelled());
    stage.says.lock().unwrap().refuses = false;
    let request = stage.request("new", None, false);
    let refused = join::join(&stage.host, &request).await;
    assert!(is_under_way(&refused), "{refused:?}");
    // Looking writes nothing, and needs no claim.
    stage.look(None).await.unwrap();
    stage.clock.0.store(30, Ordering::SeqCst);
    join::join(&stage.host, &request).await.unwrap();
    assert_eq!(stage.asked("DELETE"), 0);
    assert_eq!(stage.says.lock().unwrap().told.as_ref(), Some(&ours));
    assert_eq!(stage.claims().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_fails_leaves_no_claim() {
    let stage = Stage::new().await;
    stage.keeps().await;
    let request = stage.request("new", None, false);
    stage.says.lock().unwrap().refuses = true;
    let refused = join::join(&stage.host, &request).await.unwrap_err();
    assert!(matches!(refused, JoinError::Trust(_)), "{refused}");
    assert_eq!((stage.claims().await, stage.asked("DELETE")), (0, 1));
    let text = "multicluster:\n  clusterRole: none\n";
    let map = json!({"metadata": {}, "data": {"kubesphere.yaml": text}});
    let odd = ("/configmaps/kubesphere-config", 200, map.to_string());
    stage.says.lock().unwrap().odd = Some(odd);
    let refused = join::join(&stage.host, &request).await.unwrap_err();
    assert!(matches!(refused, JoinError::Unfit(_)), "{refused}");
    assert_eq!(stage.claims().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_of_two_clusters_do_not_hold_each_other_up() {
    let stage = Stage::new().await;
    let told = stage.keeps().await;
    let first = stage.begun("first", false).await;
    let (server, says) = stand_in("uid-of-another").await;
    says.lock().unwrap().keeps = Some(told);
    let mut request = stage.request("second", None, false);
    request.kubeconfig = crate::kubeconfig(&server.url(), "", "token: stored").into_bytes();
    let joined = join::join(&stage.host, &request).await.unwrap();
    assert_eq!(joined.uid, "uid-of-another");
    assert!(!first.is_finished());
    stage.says.lock().unwrap().refuses = false;
    first.await.unwrap().unwrap();
}

/// By a kubeconfig and by an agent at once: the agent is told to come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_does_not_enrol_what_is_being_joined() {
    let stage = Stage::new().await;
    stage.keeps().await;
    let wanted = enrol::Invite {
        name: "agent".into(),
        hub: "https://hub.example.org".into(),
        insecure_hub: false,
        proxy: None,
        image: None,
        again: false,
    };
    let invitation = enrol::invite(&stage.host, &wanted).await.unwrap();
    let key = authority::private_key().unwrap();
    let application = enrol::Application {
        token: invitation.token,
        csr: authority::request_certificate(&key).unwrap(),
        facts: enrol::Facts {
            uid: UID.into(),
            kubernetes_version: "v1.36.2".into(),
            cluster_role: "member".into(),
        },
    };
    let first = stage.begun("new", false).await;
    let refused = enrol::enrol(&stage.host, &application).await;
    assert!(
        matches!(refused, Err(EnrolError::Join(JoinError::UnderWay { .. }))),
        "{refused:?}"
    );
    // Where that came to nothing its token is good still.
    first.abort();
    first.await.unwrap_err();
    stage.clock.0.store(30, Ordering::SeqCst);
    enrol::enrol(&stage.host, &application).await.unwrap();
    assert_eq!(stage.claims().await, 0);
    let request = stage.request("new", None, false);
    let refused = join::join(&stage.host, &request).await.unwrap_err();
    assert!(
        matches!(&refused, JoinError::Same(other) if other == "agent"),
        "{refused}"
    );
}

/// A join that was killed after it had told the cluster has left the host's words there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_fails_takes_away_also_what_an_earlier_one_had_told() {
    let stage = Stage::new().await;
    keys::signing(&stage.host).await.unwrap();
    let ours = stage.host.registry.signer().trusted(UID).unwrap().to_data();
    let map = json!({"metadata": {"name": "hub-trust", "resourceVersion": "1"}, "data": ours});
    {
        let mut says = stage.says.lock().unwrap();
        (says.told, says.refuses) = (Some(map.clone()), true);
    }
    let asked = |method: &str| {
        let seen = stage.server.seen();
        let told = seen.iter().filter(|seen| seen.target.starts_with(TOLD));
        told.filter(|seen| seen.method == method).count()
    };
    let request = stage.request("new", None, false);
    let refused = join::join(&stage.host, &request).await.unwrap_err();
    assert!(
        matches!(&refused, JoinError::Trust(error) if matches!(**error, TrustError::NotAccepted { .. })),
        "{refused}"
    );
    assert_eq!((asked("DELETE"), asked("PUT")), (1, 0));

    // What another host had told it comes back instead.
    let theirs = json!({"issuer": "kubeaihub:another"}).to_string();
    let kept = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, theirs);
    let mut with = map.clone();
    with["binaryData"] = json!({"replaced.json": kept});
    stage.says.lock().unwrap().told = Some(with);
    join::join(&stage.host, &request).await.unwrap_err();
    assert_eq!((asked("DELETE"), asked("PUT")), (1, 1));

    // Nothing is taken from a cluster that another request made a member meanwhile.
    stage.says.lock().unwrap().told = Some(map);
    let before = asked("GET");
    let meanwhile = async {
        let told = async {
            while asked("GET") == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let told = tokio::time::timeout(Duration::from_secs(5), told).await;
        told.unwrap();
        let mut object = kah_api::seed::member_cluster("other", "", &stage.server.url(), None);
        object["status"] = json!({"uid": UID});
        kah_cluster::clusters(stage.host.client.clone())
            .create(
                &Default::default(),
                &serde_json::from_value(object).unwrap(),
            )
            .await
            .unwrap();
    };
    let (refused, ()) = tokio::join!(join::join(&stage.host, &request), meanwhile);
    let refused = refused.unwrap_err();
    assert!(matches!(refused, JoinError::Trust(_)), "{refused}");
    assert_eq!((asked("DELETE"), asked("PUT")), (1, 1));
}
