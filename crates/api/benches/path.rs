//! Reading a request's path: done once for each request, on every server that it passes.

use http::Method;
use kah_api::path::parse;

fn main() {
    divan::main();
}

const PATHS: [&str; 6] = [
    "/healthz",
    "/api/v1/namespaces/default/pods?limit=500",
    "/apis/apps/v1/namespaces/kubesphere-system/deployments/ks-apiserver/scale",
    "/kapis/clusters/member-1/iam.kubesphere.io/v1alpha2/users?sortBy=createTime",
    "/clusters/member-1/api/v1/namespaces/default/pods/web-0/exec?command=ls&stdin=true&tty=true",
    "/api/v1/namespaces/%2e%2e/nodes",
];

#[divan::bench(args = PATHS)]
fn read(path: &str) -> bool {
    parse(&Method::GET, divan::black_box(path)).is_ok()
}

/// The longest that is looked at, made of as many segments as fit.
#[divan::bench]
fn longest(bencher: divan::Bencher<'_, '_>) {
    let path = format!(
        "/api/v1/{}",
        "a/".repeat(kah_api::path::MAXIMUM_PATH / 2 - 8)
    );
    bencher.bench(|| parse(&Method::GET, divan::black_box(&path)).is_ok());
}
