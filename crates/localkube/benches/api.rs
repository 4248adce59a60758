//! The API without network: single objects, long lists, and one write that a hundred watches see.

use std::sync::atomic::{AtomicU64, Ordering};

use divan::Bencher;
use http::{Request, Response};
use http_body_util::BodyExt;
use kah_localkube::connect::{Body, full};
use kah_localkube::identity::User;
use kah_localkube::{Cluster, Options};
use serde_json::json;
use tokio::runtime::Runtime;
use tower::ServiceExt;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WATCHES: usize = 100;

fn main() {
    divan::main();
}

/// A cluster without controllers, and what drives it.
struct Bench {
    runtime: Runtime,
    cluster: Cluster,
    made: AtomicU64,
    /// Kept until the end.
    _folder: Option<tempfile::TempDir>,
}

impl Bench {
    /// With `durable`, every write is in the storage file before it is answered.
    fn new(durable: bool) -> Bench {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime = Runtime::new().expect("runtime");
        let folder = durable.then(|| tempfile::tempdir().expect("folder"));
        let mut options = Options::new("bench");
        options.controllers = false;
        options.data_dir = folder.as_ref().map(|folder| folder.path().to_owned());
        let cluster = runtime.block_on(Cluster::start(options)).expect("start");
        Bench {
            runtime,
            cluster,
            made: AtomicU64::new(0),
            _folder: folder,
        }
    }

    async fn send(&self, method: &str, path: &str, body: String) -> Response<Body> {
        let admin = User {
            name: "admin".to_owned(),
            groups: vec!["system:masters".to_owned()],
            ..User::default()
        };
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .extension(admin)
            .body(full(body))
            .expect("request");
        let response = self.cluster.service().oneshot(request).await;
        let response = response.expect("infallible");
        assert!(response.status().is_success(), "{}", response.status());
        response
    }

    /// One more ConfigMap, of the size that configurations have.
    async fn create(&self) -> usize {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let object = json!({
            "metadata": {"name": format!("map-{number}"), "labels": {"odd": (number % 2).to_string()}},
            "data": {"key": "x".repeat(400)},
        });
        length(self.send("POST", MAPS, object.to_string()).await).await
    }

    fn fill(&self, count: usize) {
        self.runtime.block_on(async {
            // In groups, so that they share commits.
            for _ in 0..count / 100 {
                futures::future::join_all((0..100).map(|_| self.create())).await;
            }
        });
    }
}

async fn length(response: Response<Body>) -> usize {
    let body = response.into_body().collect().await.expect("body");
    body.to_bytes().len()
}

#[divan::bench(args = [false, true], max_time = 3)]
fn create(bencher: Bencher<'_, '_>, durable: bool) {
    let bench = Bench::new(durable);
    bencher.bench_local(|| bench.runtime.block_on(bench.create()));
}

#[divan::bench(max_time = 3)]
fn get(bencher: Bencher<'_, '_>) {
    let bench = Bench::new(false);
    bench.fill(100);
    let path = format!("{MAPS}/map-7");
    let read = async || length(bench.send("GET", &path, String::new()).await).await;
    bencher.bench_local(|| bench.runtime.block_on(read()));
}

/// By the number of objects and what is asked of them.
#[divan::bench(args = [(1_000, ""), (10_000, ""), (10_000, "?limit=500"), (10_000, "?labelSelector=odd%3D1")], max_time = 4)]
fn list(bencher: Bencher<'_, '_>, (count, query): (usize, &str)) {
    let bench = Bench::new(false);
    bench.fill(count);
    let path = format!("{MAPS}{query}");
    let read = async || length(bench.send("GET", &path, String::new()).await).await;
    bencher.bench_local(|| bench.runtime.block_on(read()));
}

/// From one write until all watches have told it.
#[divan::bench(max_time = 3)]
fn fan_out(bencher: Bencher<'_, '_>) {
    let bench = Bench::new(false);
    bench.fill(100);
    let path = format!("{MAPS}?watch=1&resourceVersion={}", revision(&bench));
    let mut watches: Vec<Body> = bench.runtime.block_on(async {
        let opening = (0..WATCHES).map(|_| bench.send("GET", &path, String::new()));
        let opened = futures::future::join_all(opening).await;
        opened.into_iter().map(Response::into_body).collect()
    });
    let object = format!("{MAPS}/map-7");
    let mut count = 0_u64;
    bencher.bench_local(|| {
        count += 1;
        let change = json!({"data": {"count": count.to_string()}}).to_string();
        bench.runtime.block_on(async {
            length(bench.send("PATCH", &object, change).await).await;
            let told = watches.iter_mut().map(BodyExt::frame);
            for frame in futures::future::join_all(told).await {
                frame.expect("open").expect("an event");
            }
        });
    });
}

/// The revision of the store now.
fn revision(bench: &Bench) -> String {
    let reading = async {
        let response = bench
            .send("GET", &format!("{MAPS}?limit=1"), String::new())
            .await;
        let body = response.into_body().collect().await.expect("body");
        let list: serde_json::Value = serde_json::from_slice(&body.to_bytes()).expect("list");
        list["metadata"]["resourceVersion"]
            .as_str()
            .expect("revision")
            .to_owned()
    };
    bench.runtime.block_on(reading)
}
