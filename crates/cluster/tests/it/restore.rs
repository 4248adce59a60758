//! A restore that is cut off anywhere is finished or undone by the next one.

#![allow(clippy::unwrap_used)]

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use kah_api::{
    config::edit,
    seed::{self, Role, Seed},
};
use kah_cluster::{
    CallerCredential, Host,
    proof::Prover,
    restore::{Outcome, Patience, Report, Request, RestoreError, Step, restore},
};
use kah_iam::Clock;
use kah_localkube::{Cluster, Options};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PostParams},
};
use tokio_util::task::TaskTracker;

use crate::member::{self, Member, Seen};

const SECRET: &str = "secret of the host";

pub const PATIENCE: Patience = Patience {
    live: Duration::from_millis(300),
    restarted: Duration::from_millis(300),
    look: Duration::from_millis(10),
    stale: Duration::from_millis(500),
};

pub fn proof() -> CallerCredential {
    CallerCredential::User {
        name: "admin".into(),
        authorization: HeaderValue::from_static("Bearer of-the-host"),
    }
}

/// A clock that is set by hand.
pub struct Hands(pub AtomicI64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap()
    }

    fn uptime(&self) -> f64 {
        0.0
    }
}

/// A host and a member on localkube, and a stand-in for the member's ks-apiserver that reads the ConfigMap while it runs.
pub struct Stage {
    pub host: Host,
    clock: Arc<Hands>,
    pub maps: Api<ConfigMap>,
    deployments: Api<Deployment>,
    /// Whether the stand-in accepts tokens now.
    pub accepting: Arc<AtomicBool>,
    /// Whether it reads the ConfigMap, or refuses for ever.
    pub obeys: Arc<AtomicBool>,
    /// Whether every other question is answered well, whatever it reads.
    alternates: Arc<AtomicBool>,
    /// What it says when it refuses.
    pub words: Arc<Mutex<&'static str>>,
    /// Whether it reads it only when its Deployment is restarted.
    pub lazy: Arc<AtomicBool>,
    pub planes: [Cluster; 2],
    _server: Member,
    _reader: tokio_util::task::AbortOnDropHandle<()>,
}

pub async fn plane(role: Role, secret: &str, age: &str) -> Cluster {
    let mut options = Options::new("plane");
    options.controllers = false;
    options.crds = kah_api::definition::all()
        .into_iter()
        .map(|definition| serde_json::to_value(definition).unwrap())
        .collect();
    options.objects = seed::objects(&Seed {
        role,
        jwt_secret: secret,
        access_token_max_age: age,
        image: "image",
        password_hash: "Passw0rd-of-tests",
        node_port: None,
        allowed_addresses: &[],
    });
    Cluster::start(options).await.unwrap()
}

fn restarted(deployment: Deployment) -> Option<String> {
    let annotations = deployment.spec?.template.metadata?.annotations?;
    annotations
        .get("kubectl.kubernetes.io/restartedAt")
        .cloned()
}

fn accepts(map: &ConfigMap) -> bool {
    let text = &map.data.as_ref().unwrap()["kubesphere.yaml"];
    text.contains("accessTokenMaxAge: 0") && text.contains(SECRET)
}

impl Stage {
    pub async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let planes = [
            plane(Role::Host, SECRET, "2h").await,
            plane(Role::Member, "another one", "2h").await,
        ];

        let maps: Api<ConfigMap> = Api::namespaced(planes[1].client(), seed::NAMESPACE);
        let deployments: Api<Deployment> = Api::namespaced(planes[1].client(), seed::NAMESPACE);
        let (accepting, obeys, lazy) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(true)),
            Arc::new(AtomicBool::new(false)),
        );
        let reader = {
            let (maps, deployments) = (maps.clone(), deployments.clone());
            let (accepting, obeys, lazy) = (accepting.clone(), obeys.clone(), lazy.clone());
            tokio::spawn(async move {
                loop {
                    let map = maps.get(seed::CONFIG).await.unwrap();
                    let read = !lazy.load(Ordering::SeqCst)
                        || deployments
                            .get_opt(seed::SERVER)
                            .await
                            .unwrap()
                            .is_some_and(|it| restarted(it).is_some());
                    let now = accepts(&map) && obeys.load(Ordering::SeqCst) && read;
                    accepting.store(now, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        };
        let words = Arc::new(Mutex::new("Unauthorized: token not found in cache"));
        let alternates = Arc::new(AtomicBool::new(false));
        let (alternating, asked) = (alternates.clone(), AtomicUsize::new(0));
        let (says, said) = (accepting.clone(), words.clone());
        let server = Member::start(None, move |seen: &Seen| {
            if seen.header("authorization") != "Bearer of-the-host" {
                return member::status(401, "Unauthorized", "Unauthorized: no");
            }
            let odd = asked.fetch_add(1, Ordering::SeqCst) % 2 == 1;
            let accepts = match alternating.load(Ordering::SeqCst) {
                true => odd,
                false => says.load(Ordering::SeqCst),
            };
            if accepts {
                member::answer(200, "application/json", "{}")
            } else {
                member::status(401, "Unauthorized", *said.lock().unwrap())
            }
        })
        .await
        .unwrap();
        let kind = GroupVersionKind::gvk("cluster.kubesphere.io", "v1alpha1", "Cluster");
        let resource = ApiResource::from_gvk_with_plural(&kind, "clusters");
        let clusters: Api<DynamicObject> = Api::all_with(planes[0].client(), &resource);
        let object = seed::member_cluster(
            "m",
            planes[1].admin_kubeconfig(),
            &format!("https://{}", planes[1].address()),
            Some(&server.url()),
        );
        clusters
            .create(
                &PostParams::default(),
                &serde_json::from_value(object).unwrap(),
            )
            .await
            .unwrap();
        let registry = crate::registry();
        {
            let (registry, client) = (registry.clone(), planes[0].client());
            tokio::spawn(async move { registry.follow(client).await });
        }
        registry.synced().await;
        let clock = Arc::new(Hands(AtomicI64::new(1_800_000_000)));
        Self {
            host: Host {
                client: planes[0].client(),
                registry,
                prover: Prover::without_key(Arc::default(), Arc::default(), clock.clone()),
                clock: clock.clone(),
                tasks: TaskTracker::new(),
            },
            clock,
            deployments,
            lazy,
            maps: Api::namespaced(planes[1].client(), seed::NAMESPACE),
            accepting,
            obeys,
            alternates,
            words,
            planes,
            _server: server,
            _reader: tokio_util::task::AbortOnDropHandle::new(reader),
        }
    }

    /// Runs until `end` says so; gives the steps that were told, too.
    pub async fn run(
        &self,
        end: impl FnMut(usize) -> bool + Send,
    ) -> (Vec<Step>, Result<Report, RestoreError>) {
        self.run_as(&self.host, end).await
    }

    /// The same by another replica of the host.
    pub async fn run_as(
        &self,
        host: &Host,
        end: impl FnMut(usize) -> bool + Send,
    ) -> (Vec<Step>, Result<Report, RestoreError>) {
        let request = Request {
            patience: PATIENCE,
            ..Request::new("m", "tester", proof())
        };
        let (steps, end) = (Mutex::new(Vec::new()), Mutex::new(end));
        let mut observer = |state: &kah_cluster::restore::State| {
            let mut steps = steps.lock().unwrap();
            steps.push(state.step);
            if (end.lock().unwrap())(steps.len()) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let ended = restore(host, &request, &mut observer).await;
        (steps.into_inner().unwrap(), ended)
    }

    pub async fn text(&self) -> String {
        let map = self.maps.get(seed::CONFIG).await.unwrap();
        map.data.unwrap()["kubesphere.yaml"].clone()
    }

    pub async fn restarts(&self) -> Option<String> {
        restarted(self.deployments.get(seed::SERVER).await.unwrap())
    }

    /// The registry has read what the run wrote last.
    pub async fn seen(&self, wanted: &str) {
        crate::until("the registry has seen the state", || {
            let member = self.host.registry.get("m").unwrap();
            member
                .annotation(kah_cluster::restore::ANNOTATION)
                .is_some_and(|state| state.contains(wanted))
        })
        .await;
    }

    pub fn later(&self) {
        self.clock.0.fetch_add(60, Ordering::SeqCst);
    }

    /// The member's configuration as it was before.
    pub async fn break_again(&self, broken: &str) {
        let mut map = self.maps.get(seed::CONFIG).await.unwrap();
        map.data = Some([("kubesphere.yaml".to_owned(), broken.to_owned())].into());
        map.binary_data = None;
        self.maps
            .replace(seed::CONFIG, &PostParams::default(), &map)
            .await
            .unwrap();
        let never = serde_json::json!({"spec": {"template": {"metadata": {"annotations": null}}}});
        self.deployments
            .patch(seed::SERVER, &Default::default(), &Patch::Merge(never))
            .await
            .unwrap();
        crate::until("the member refuses", || {
            !self.accepting.load(Ordering::SeqCst)
        })
        .await;
    }

    async fn replicas(&self, wanted: i32) {
        let patch = serde_json::json!({"spec": {"replicas": wanted}});
        self.deployments
            .patch(seed::SERVER, &Default::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    async fn has_replicas(&self) -> Option<i32> {
        let deployment = self.deployments.get(seed::SERVER).await.unwrap();
        deployment.spec.unwrap().replicas
    }
}

#[tokio::test]
async fn a_run_that_is_cut_off_after_any_step_is_finished_by_the_next() {
    let stage = Stage::new().await;
    let broken = stage.text().await;
    let (whole, done) = stage.run(|_| false).await;
    assert_eq!(done.unwrap().outcome, Outcome::Restored);
    assert_eq!(whole.last(), Some(&Step::Restored));
    let cured = stage.text().await;
    assert_eq!(stage.restarts().await, None, "it reads while it runs");
    for cut in 1..whole.len() {
        stage.break_again(&broken).await;
        stage.later();
        let (steps, ended) = stage.run(|told| told == cut).await;
        assert!(matches!(ended, Err(RestoreError::Ended(_))), "{ended:?}");
        let between = stage.text().await;
        assert!(
            between == broken || between == cured,
            "cut {cut}: {between}"
        );
        let last = *steps.last().unwrap();
        stage.seen(&format!("{last:?}")).await;
        stage.later();
        let (_, ended) = stage.run(|_| false).await;
        let report = ended.unwrap();
        assert!(report.resumed && report.outcome == Outcome::Restored);
        assert_eq!(stage.text().await, cured);
        stage.seen("Restored").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_writes_meanwhile_stays_and_the_restore_goes_on() {
    let stage = Stage::new().await;
    let (runtime, maps) = (tokio::runtime::Handle::current(), stage.maps.clone());
    let rename = async || {
        let mut map = maps.get(seed::CONFIG).await.unwrap();
        let text = map.data.as_mut().unwrap().get_mut("kubesphere.yaml");
        let text = text.unwrap();
        *text = edit::set(text, &["multicluster", "clusterName"], "m").unwrap();
        let parameters = PostParams::default();
        maps.replace(seed::CONFIG, &parameters, &map).await.unwrap();
    };
    // The plan was made, and is not written yet.
    let renaming = |told: usize| {
        if told == 1 {
            tokio::task::block_in_place(|| runtime.block_on(rename()));
        }
        false
    };
    let (steps, ended) = stage.run(renaming).await;
    assert_eq!(ended.unwrap().outcome, Outcome::Restored);
    assert_eq!(steps.first(), Some(&Step::Planned));
    let text = stage.text().await;
    assert!(text.contains("clusterName: m"), "{text}");
    assert!(text.contains("accessTokenMaxAge: 0"), "{text}");
}

#[tokio::test]
async fn what_does_not_help_is_undone_also_by_the_next_run() {
    let stage = Stage::new().await;
    stage.obeys.store(false, Ordering::SeqCst);
    let broken = stage.text().await;
    let (whole, ended) = stage.run(|_| false).await;
    assert!(
        matches!(ended, Err(RestoreError::NotProven { .. })),
        "{ended:?}"
    );
    assert!(whole.contains(&Step::Restarted) && whole.last() == Some(&Step::Undone));
    assert_eq!(stage.text().await, broken);
    let map = stage.maps.get(seed::CONFIG).await.unwrap();
    assert!(map.binary_data.unwrap_or_default().is_empty());
    for cut in 1..whole.len() {
        stage.seen("Undone").await;
        stage.later();
        let (steps, ended) = stage.run(|told| told == cut).await;
        assert!(matches!(ended, Err(RestoreError::Ended(_))), "{ended:?}");
        stage.seen(&format!("{:?}", steps.last().unwrap())).await;
        stage.later();
        let restarted = stage.restarts().await;
        let (_, ended) = stage.run(|_| false).await;
        assert!(
            matches!(ended, Err(RestoreError::NotProven { .. })),
            "cut {cut}: {ended:?}"
        );
        assert_eq!(stage.text().await, broken, "cut {cut}");
        assert!(stage.restarts().await >= restarted);
    }
}

#[tokio::test]
async fn what_somebody_else_wrote_meanwhile_is_left() {
    let stage = Stage::new().await;
    stage.obeys.store(false, Ordering::SeqCst);
    let (_, ended) = stage.run(|told| told == 3).await;
    assert!(
        matches!(ended, Err(RestoreError::Ended(Step::Changed))),
        "{ended:?}"
    );
    stage.seen("Changed").await;
    let mut map = stage.maps.get(seed::CONFIG).await.unwrap();
    map.data = Some([("kubesphere.yaml".to_owned(), "# mine\n".to_owned())].into());
    stage
        .maps
        .replace(seed::CONFIG, &PostParams::default(), &map)
        .await
        .unwrap();
    stage.later();
    let (_, ended) = stage.run(|_| false).await;
    assert!(
        matches!(ended, Err(RestoreError::NotUndone { .. })),
        "{ended:?}"
    );
    assert_eq!(stage.text().await, "# mine\n");
}

#[tokio::test]
async fn a_deployment_without_replicas_gets_one() {
    let stage = Stage::new().await;
    stage.replicas(0).await;
    let (_, done) = stage.run(|_| false).await;
    assert!(done.unwrap().scaled);
    assert_eq!(stage.has_replicas().await, Some(1));
    // The registry may not have seen yet that it ended; whoever comes next is not told that it goes on.
    let (_, again) = stage.run(|_| false).await;
    assert_eq!(again.unwrap().outcome, Outcome::NothingToDo);
}

#[tokio::test]
async fn what_people_made_of_the_deployment_meanwhile_is_theirs() {
    let stage = Stage::new().await;
    stage.obeys.store(false, Ordering::SeqCst);
    stage.replicas(0).await;
    let (steps, ended) = stage.run(|_| false).await;
    assert!(
        matches!(ended, Err(RestoreError::NotProven { .. })),
        "{ended:?}"
    );
    assert_eq!(stage.has_replicas().await, Some(0), "as it was");

    let undoing = steps
        .iter()
        .position(|step| *step == Step::Undoing)
        .unwrap();
    let (_, ended) = stage.run(|told| told == undoing + 1).await;
    assert!(
        matches!(ended, Err(RestoreError::Ended(Step::Undoing))),
        "{ended:?}"
    );
    stage.replicas(3).await;
    stage.later();
    let (_, ended) = stage.run(|_| false).await;
    assert!(
        matches!(ended, Err(RestoreError::NotProven { .. })),
        "{ended:?}"
    );
    assert_eq!(stage.has_replicas().await, Some(3), "somebody scaled it up");

    // Nor is one restarted again that somebody else has restarted since.
    let (_, ended) = stage.run(|told| told == undoing + 1).await;
    assert!(
        matches!(ended, Err(RestoreError::Ended(Step::Undoing))),
        "{ended:?}"
    );
    let theirs = serde_json::json!({"spec": {"template": {"metadata": {"annotations": {
        "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"
    }}}}});
    stage
        .deployments
        .patch(seed::SERVER, &Default::default(), &Patch::Merge(theirs))
        .await
        .unwrap();
    stage.later();
    let (_, ended) = stage.run(|_| false).await;
    assert!(
        matches!(ended, Err(RestoreError::NotProven { .. })),
        "{ended:?}"
    );
    assert_eq!(stage.restarts().await.unwrap(), "2026-01-01T00:00:00Z");
}

/// A clock that goes on by itself, as the machine's does.
struct Running;

impl Clock for Running {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn uptime(&self) -> f64 {
        0.0
    }
}

#[tokio::test]
async fn a_run_that_is_alive_is_left_alone_and_a_dead_one_is_not_waited_for_long() {
    let stage = Stage::new().await;
    stage.obeys.store(false, Ordering::SeqCst);
    let host = Host {
        clock: Arc::new(Running),
        ..stage.host.clone()
    };
    let request = Request {
        patience: Patience {
            live: Duration::from_secs(4),
            ..PATIENCE
        },
        ..Request::new("m", "first", proof())
    };
    let first = {
        let host = host.clone();
        tokio::spawn(async move {
            restore(&host, &request, &mut |_: &kah_cluster::restore::State| {
                ControlFlow::Continue(())
            })
            .await
        })
    };
    stage.seen("Changed").await;
    let (_, ended) = stage.run_as(&host, |_| false).await;
    let Err(RestoreError::Busy { by, .. }) = ended else {
        panic!("{ended:?}")
    };
    assert_eq!(by, "first");
    assert!(matches!(
        first.await.unwrap(),
        Err(RestoreError::NotProven { .. })
    ));

    // Cut off without a word, as by a kill: the next run waits until it is sure, and goes on.
    stage.obeys.store(true, Ordering::SeqCst);
    let (_, ended) = stage.run_as(&host, |told| told == 2).await;
    assert!(matches!(ended, Err(RestoreError::Ended(_))), "{ended:?}");
    let since = std::time::Instant::now();
    let (_, ended) = stage.run_as(&host, |_| false).await;
    assert!(ended.unwrap().resumed);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    println!("a run that was cut off was finished after {took:?}");
}

/// Passes bytes on to the member's kube-apiserver. Once it is down it closes each connection at the first byte of an answer, and takes no new one.
async fn front(of: std::net::SocketAddr, down: Arc<AtomicBool>) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            if down.load(Ordering::SeqCst) {
                continue;
            }
            let (far, down) = (
                tokio::net::TcpStream::connect(of).await.unwrap(),
                down.clone(),
            );
            tokio::spawn(async move {
                let (mut near_read, mut near_write) = near.into_split();
                let (far_read, mut far_write) = far.into_split();
                let out = tokio::io::copy(&mut near_read, &mut far_write);
                let back = async {
                    let mut buffer = vec![0; 16 * 1024];
                    loop {
                        let _ = far_read.readable().await;
                        let length = match far_read.try_read(&mut buffer) {
                            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                                continue;
                            }
                            Ok(0) | Err(_) => return,
                            Ok(length) => length,
                        };
                        if down.load(Ordering::SeqCst) {
                            return;
                        }
                        let bytes = &buffer[..length];
                        if tokio::io::AsyncWriteExt::write_all(&mut near_write, bytes)
                            .await
                            .is_err()
                        {
                            return;
                        }
                    }
                };
                tokio::select! { _ = out => {} () = back => {} }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_lost_is_not_taken_for_undone() {
    let stage = Stage::new().await;
    let down = Arc::new(AtomicBool::new(false));
    let front = front(stage.planes[1].address(), down.clone()).await;
    let kind = GroupVersionKind::gvk("cluster.kubesphere.io", "v1alpha1", "Cluster");
    let resource = ApiResource::from_gvk_with_plural(&kind, "clusters");
    let clusters: Api<DynamicObject> = Api::all_with(stage.planes[0].client(), &resource);
    let before = stage.host.registry.get("m").unwrap();
    let through = format!("https://{front}");
    let spec = serde_json::json!({"spec": {"connection": {"kubernetesAPIEndpoint": through}}});
    clusters
        .patch("m", &Default::default(), &Patch::Merge(spec))
        .await
        .unwrap();
    crate::until("the registry has seen the way", || {
        !stage.host.registry.get("m").unwrap().is_reached_as(&before)
    })
    .await;

    let cutting = down.clone();
    let (steps, ended) = stage
        .run(|_| {
            cutting.store(true, Ordering::SeqCst);
            false
        })
        .await;
    assert!(ended.is_err(), "{ended:?}");
    assert_eq!(steps, [Step::Planned]);
    let member = clusters.get("m").await.unwrap();
    let state = &member.metadata.annotations.unwrap()[kah_cluster::restore::ANNOTATION];
    assert!(state.contains("Planned"), "{state}");

    down.store(false, Ordering::SeqCst);
    let (_, ended) = stage.run(|_| false).await;
    let report = ended.unwrap();
    assert!(
        report.resumed && report.outcome == Outcome::Restored,
        "{report:?}"
    );
}

#[tokio::test]
async fn what_was_not_agreed_to_is_not_done() {
    let stage = Stage::new().await;
    let broken = stage.text().await;
    let ask = async |dry_run, agreed| {
        let request = Request {
            dry_run,
            agreed,
            patience: PATIENCE,
            ..Request::new("m", "tester", proof())
        };
        let mut observer = |_: &kah_cluster::restore::State| ControlFlow::Continue(());
        restore(&stage.host, &request, &mut observer).await
    };
    let planned = ask(true, None).await.unwrap();
    let agreed: Vec<String> = planned.actions.into_iter().map(|it| it.what).collect();
    let fewer = agreed[1..].to_vec();
    let error = ask(false, Some(fewer)).await.unwrap_err();
    assert!(matches!(&error, RestoreError::Otherwise(now) if now.contains("jwtSecret")));
    assert_eq!(stage.text().await, broken);
    let done = ask(false, Some(agreed.clone())).await.unwrap();
    assert_eq!(done.outcome, Outcome::Restored);
    // Somebody else was faster: there is nothing left to disagree about.
    let done = ask(false, Some(agreed)).await.unwrap();
    assert_eq!(done.outcome, Outcome::NothingToDo);
}

/// While Pods are replaced, one that is new answers between two that are old.
#[tokio::test]
async fn one_good_answer_is_no_proof() {
    let stage = Stage::new().await;
    stage.alternates.store(true, Ordering::SeqCst);
    let (_, ended) = stage.run(|_| false).await;
    assert!(
        matches!(ended, Err(RestoreError::NotProven { .. })),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_member_without_a_deployment_is_not_left_half_way() {
    let stage = Stage::new().await;
    stage
        .deployments
        .delete(seed::SERVER, &kube::api::DeleteParams::default())
        .await
        .unwrap();
    stage.obeys.store(false, Ordering::SeqCst);
    let broken = stage.text().await;
    let (steps, ended) = stage.run(|_| false).await;
    assert!(
        matches!(ended, Err(RestoreError::NotProven { .. })),
        "{ended:?}"
    );
    assert_eq!(steps.last(), Some(&Step::Undone));
    assert_eq!(stage.text().await, broken);
}
