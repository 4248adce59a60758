use std::sync::Mutex;

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use jiff::Timestamp;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// The time that tests move.
struct Running(Instant);

impl Clock for Running {
    fn now(&self) -> Timestamp {
        let since = SignedDuration::try_from(self.0.elapsed()).unwrap();
        Timestamp::from_second(1_800_000_000).unwrap() + since
    }

    fn uptime(&self) -> f64 {
        0.0
    }
}

/// A kube-apiserver that holds one Lease.
#[derive(Default)]
struct Held {
    lease: Option<Value>,
    version: u32,
    silent: bool,
}

struct Stage {
    held: Arc<Mutex<Held>>,
    client: Client,
    clock: Arc<Running>,
}

impl Stage {
    fn new() -> Self {
        let held = Arc::new(Mutex::new(Held::default()));
        let shared = held.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let shared = shared.clone();
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect().await?.to_bytes();
                let answer = {
                    let mut held = shared.lock().unwrap();
                    if held.silent {
                        None
                    } else {
                        Some(answered(&mut held, &method, &body))
                    }
                };
                let Some((code, answer)) = answer else {
                    return std::future::pending().await;
                };
                let answer = Body::from(answer.to_string().into_bytes());
                let answer = Response::builder().status(code).body(answer)?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(answer)
            }
        });
        Self {
            held,
            client: Client::new(service, "default"),
            clock: Arc::new(Running(Instant::now())),
        }
    }

    fn claim(&self, uid: &str) -> Claim {
        Claim::new(self.client.clone(), self.clock.clone(), uid)
    }

    fn holder(&self) -> Option<String> {
        let held = self.held.lock().unwrap();
        let holder = held.lease.as_ref()?.pointer("/spec/holderIdentity")?;
        Some(holder.as_str().unwrap().to_owned())
    }
}

fn answered(held: &mut Held, method: &Method, body: &[u8]) -> (u16, Value) {
    let refusal = |code: u16| {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "x", "code": code,
        });
        (code, status)
    };
    match (held.lease.take(), method) {
        (None, &Method::POST) => {
            held.version += 1;
            let mut lease: Value = serde_json::from_slice(body).unwrap();
            lease["metadata"]["resourceVersion"] = held.version.to_string().into();
            held.lease = Some(lease.clone());
            (201, lease)
        }
        (None, _) => refusal(404),
        (Some(lease), &Method::POST) => {
            held.lease = Some(lease);
            refusal(409)
        }
        (Some(lease), &Method::PUT) => {
            let mut new: Value = serde_json::from_slice(body).unwrap();
            let version = "/metadata/resourceVersion";
            if new.pointer(version) != lease.pointer(version) {
                held.lease = Some(lease);
                return refusal(409);
            }
            held.version += 1;
            new["metadata"]["resourceVersion"] = held.version.to_string().into();
            held.lease = Some(new.clone());
            (200, new)
        }
        (Some(lease), &Method::DELETE) => (200, lease),
        (Some(lease), _) => {
            held.lease = Some(lease.clone());
            (200, lease)
        }
    }
}

async fn nothing() -> Result<(), JoinError> {
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_claim_lasts_as_long_as_the_work_and_ends_with_it() {
    let stage = Stage::new();
    let (first, second) = (stage.claim("u"), stage.claim("u"));
    let long = async {
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            let refused = second.during(nothing()).await.unwrap_err();
            let JoinError::UnderWay { seconds } = refused else {
                panic!("{refused}")
            };
            assert!((1..=30).contains(&seconds), "{seconds}");
        }
        Err::<(), _>(JoinError::Silent)
    };
    let ended = first.during(long).await;
    assert!(matches!(ended, Err(JoinError::Silent)), "{ended:?}");
    assert_eq!(stage.holder(), None);
    second.during(nothing()).await.unwrap();
    assert_eq!(stage.holder(), None);
}

#[tokio::test(start_paused = true)]
async fn what_was_cut_off_holds_others_up_for_its_duration() {
    let stage = Stage::new();
    let (first, second) = (stage.claim("u"), stage.claim("u"));
    let cut_off = first.during(std::future::pending::<Result<(), JoinError>>());
    let _ = tokio::time::timeout(Duration::from_secs(7), cut_off).await;
    assert_eq!(stage.holder().as_ref(), Some(&first.holder));
    // It was renewed after 5 s.
    let refused = second.during(nothing()).await.unwrap_err();
    assert!(
        matches!(refused, JoinError::UnderWay { seconds: 28 }),
        "{refused:?}"
    );
    tokio::time::sleep(Duration::from_secs(28)).await;
    second.during(nothing()).await.unwrap();
    // What a clock that went wrong has written holds nobody up.
    let far = json!({"spec": {"holderIdentity": "x", "renewTime": "2099-01-01T00:00:00.000000Z"}, "metadata": {"resourceVersion": "1"}});
    stage.held.lock().unwrap().lease = Some(far);
    second.during(nothing()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_loses_the_claim_does_nothing_more_before_another_may_begin() {
    let duration = Duration::try_from(DURATION).unwrap();
    for overtaken in [false, true] {
        let stage = Stage::new();
        let last = Mutex::new(Instant::now());
        let work = async {
            loop {
                *last.lock().unwrap() = Instant::now();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            #[allow(unreachable_code)]
            Ok::<(), JoinError>(())
        };
        let claim = stage.claim("u");
        let lost = async {
            tokio::time::sleep(Duration::from_secs(12)).await;
            let mut held = stage.held.lock().unwrap();
            if overtaken {
                held.lease.as_mut().unwrap()["spec"]["holderIdentity"] = "another".into();
            } else {
                held.silent = true;
            }
            Instant::now()
        };
        let (ended, since) = tokio::join!(claim.during(work), lost);
        assert!(matches!(ended, Err(JoinError::BrokenOff)), "{ended:?}");
        // It was renewed 2 s before.
        let worked = *last.lock().unwrap() - since;
        assert!(worked < duration - Duration::from_secs(2), "{worked:?}");
        if overtaken {
            assert!(worked <= RENEWAL, "{worked:?}");
            assert_eq!(stage.holder().as_deref(), Some("another"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn claims_are_named_after_identities() {
    let stage = Stage::new();
    let long = "Ü/".repeat(1000);
    let names = ["a", "A", "", &long].map(|uid| stage.claim(uid).name);
    for name in &names {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        assert!(name.len() < 64 && name.bytes().all(plain), "{name}");
        assert_eq!(names.iter().filter(|it| *it == name).count(), 1);
    }
    assert_eq!(stage.claim("a").name, stage.claim("a").name);
}
