//! Of two candidates one works.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1::Lease;
use kah_api::seed::{self, Role};
use kah_controllers::{Leader, leader::Pace};
use kah_testkit::eventually;
use kube::Api;
use tokio::sync::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::stage::{SOON, plane};

/// Who works now, in the order in which they began.
type Working = Arc<Mutex<Vec<String>>>;

struct Candidate {
    stop: CancellationToken,
    abort: tokio::task::AbortHandle,
}

fn candidate(
    client: kube::Client,
    name: &str,
    working: &Working,
    tasks: &TaskTracker,
) -> Candidate {
    let pace = Pace {
        duration: Duration::from_secs(1),
        give_up: Duration::from_millis(700),
        look: Duration::from_millis(50),
    };
    let leader = Leader::new(client, seed::NAMESPACE, "lease", name, pace);
    let (stop, name, working) = (CancellationToken::new(), name.to_owned(), working.clone());
    let until = stop.clone();
    let task = tasks.spawn(async move {
        leader
            .lead(&until, |end| async move {
                working.lock().await.push(name.clone());
                end.cancelled().await;
                working.lock().await.retain(|it| *it != name);
            })
            .await;
    });
    Candidate {
        stop,
        abort: task.abort_handle(),
    }
}

#[tokio::test]
async fn one_works_and_the_next_when_it_ends_or_dies() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let plane = plane(Role::Host, "secret", "2h").await;
    let (working, tasks) = (Working::default(), TaskTracker::new());
    let are = async |wanted: &[&str]| {
        eventually(SOON, &format!("{wanted:?} works"), async || {
            *working.lock().await == wanted
        })
        .await
        .unwrap();
    };
    let leases: Api<Lease> = Api::namespaced(plane.client(), seed::NAMESPACE);
    let spec = async || leases.get("lease").await.unwrap().spec.unwrap();

    let first = candidate(plane.client(), "first", &working, &tasks);
    are(&["first"]).await;
    let second = candidate(plane.client(), "second", &working, &tasks);
    let renewed = spec().await.renew_time;
    eventually(SOON, "the first renews", async || {
        spec().await.renew_time != renewed
    })
    .await
    .unwrap();
    assert_eq!(spec().await.holder_identity.as_deref(), Some("first"));
    assert_eq!(*working.lock().await, ["first"]);

    // A clean end gives it back: nobody waits for it to run out.
    first.stop.cancel();
    are(&["second"]).await;
    assert_eq!(spec().await.holder_identity.as_deref(), Some("second"));

    // A death does not, but it runs out.
    let third = candidate(plane.client(), "third", &working, &tasks);
    second.abort.abort();
    are(&["second", "third"]).await;
    assert!(spec().await.lease_transitions >= Some(2));

    // Somebody who takes it by force ends the work.
    let mut lease = leases.get("lease").await.unwrap();
    lease.spec.as_mut().unwrap().holder_identity = Some("thief".into());
    leases
        .replace("lease", &Default::default(), &lease)
        .await
        .unwrap();
    are(&["second"]).await;
    third.stop.cancel();
    tasks.close();
    tasks.wait().await;
}
