//! Every route, as nobody and as a user without a role.

use kah_gateway::ROUTES;

use crate::room::Room;

/// Path, and what nobody and the weakest user get.
const EXPECTED: &[(&str, u16, u16)] = &[
    ("/healthz", 200, 200),
    ("/healthz/ping", 403, 403),
    ("/kapis/metrics", 200, 200),
    ("/kapis/version", 200, 200),
    ("/version", 403, 403),
    (
        "/kapis/config.kubesphere.io/v1alpha2/configs/oauth",
        200,
        200,
    ),
    (
        "/kapis/config.kubesphere.io/v1alpha2/configs/configz",
        200,
        200,
    ),
    (
        "/kapis/config.kubesphere.io/v1alpha2/configs/gpu/kinds",
        200,
        200,
    ),
    ("/oauth/token", 401, 401),
    ("/oauth/userinfo", 401, 500),
    ("/oauth/logout", 200, 200),
    ("/kapis/hub.kubeaihub.io/v1/clusters", 403, 403),
    ("/kapis/hub.kubeaihub.io/v1/clusters/{cluster}", 403, 403),
    (
        "/kapis/hub.kubeaihub.io/v1/clusters/{cluster}/doctor",
        403,
        403,
    ),
    (
        "/kapis/hub.kubeaihub.io/v1/clusters/{cluster}/restore-access",
        403,
        403,
    ),
    (
        "/kapis/hub.kubeaihub.io/v1/clusters/{cluster}/trust",
        403,
        403,
    ),
    (TRUST, 403, 403),
    ("/kapis/hub.kubeaihub.io/v1/trust/rotate", 403, 403),
    // Open: they look at a token. These rooms are no hosts.
    ("/kapis/hub.kubeaihub.io/v1/enrol", 404, 404),
    ("/kapis/hub.kubeaihub.io/v1/join/{token}", 404, 404),
    (
        "/kapis/cluster.kubesphere.io/v1alpha1/clusters/validation",
        403,
        403,
    ),
    (
        "/kapis/cluster.kubesphere.io/v1alpha1/clusters/{cluster}/kubeconfig",
        403,
        403,
    ),
    (
        "/kapis/cluster.kubesphere.io/v1alpha1/clusters/{cluster}/agent/deployment",
        403,
        403,
    ),
    // This server holds no tunnels.
    ("/kapis/hub.kubeaihub.io/v1/tunnel", 404, 404),
];

/// A member tells it to anyone; a host does not.
const TRUST: &str = "/kapis/hub.kubeaihub.io/v1/trust";

#[tokio::test]
async fn every_route_is_tried_as_nobody_and_as_the_weakest() {
    for host in [true, false] {
        let room = if host {
            Room::host().await
        } else {
            Room::member().await
        };
        for route in ROUTES {
            let (_, nobody, weakest) = EXPECTED
                .iter()
                .find(|row| row.0 == route.path)
                .unwrap_or_else(|| panic!("{} is on no list", route.path));
            for (token, code) in [
                (None, nobody),
                (Some(("authorization", "Bearer weak")), weakest),
            ] {
                let mut headers: Vec<_> = token.into_iter().collect();
                if route.form {
                    headers.push(("content-type", "application/x-www-form-urlencoded"));
                }
                let body = if route.form { "a=b" } else { "" };
                let answer = room
                    .ask(
                        route.method.unwrap_or("GET"),
                        &route
                            .path
                            .replace("{cluster}", "m")
                            .replace("{token}", "m.0"),
                        &headers,
                        body,
                    )
                    .await;
                // These callers can be vouched for by nobody, so there is nothing to tell.
                let code = if route.path == TRUST && !host {
                    404
                } else {
                    *code
                };
                assert_eq!(answer.status.as_u16(), code, "{} {token:?}", route.path);
                assert_eq!(
                    kah_gateway::is_open(route.path),
                    route.open,
                    "{}",
                    route.path
                );
            }
        }
        let paths: std::collections::BTreeSet<&str> =
            ROUTES.iter().map(|route| route.path).collect();
        assert_eq!(EXPECTED.len(), paths.len());
    }
}

/// differences.md S14: what no route serves is served by nothing.
#[tokio::test]
async fn s14_unrouted_paths_fall_through_to_nothing() {
    let room = Room::host().await;
    for path in [
        "/kapis/iam.kubesphere.io/v1alpha2/users",
        "/kapis/resources.kubesphere.io/v1alpha3/users",
        "/kapis/apps/v1/deployments",
    ] {
        assert_eq!(room.get(path, "weak").await.status, 403, "{path}");
        assert_eq!(room.get(path, "admin").await.status, 404, "{path}");
    }
    assert_eq!((room.kube.count(), room.member.count()), (0, 0));
}

#[tokio::test]
async fn s18_every_request_leaves_one_record() {
    let room = Room::host().await;
    for (target, token, code) in [
        ("/healthz", "", 200),
        ("/api/v1/pods", "", 403),
        ("/api/v1/pods", "unknown", 401),
        ("/api/v1/../pods", "admin", 400),
        ("/clusters/m1/api/v1/namespaces/a/pods/b/log", "weak", 200),
        ("/healthz", "panic", 500),
    ] {
        room.records.0.lock().unwrap().clear();
        assert_eq!(room.get(target, token).await.status, code, "{target}");
        let records = room.records.0.lock().unwrap().clone();
        assert_eq!(records.len(), 1, "{target}");
        assert!(records[0].code == code || code == 500, "{records:?}");
    }
    let pods = room
        .get("/clusters/m1/api/v1/namespaces/a/pods/b/log", "weak")
        .await;
    assert_eq!(pods.status, 200);
    let last = room.records.0.lock().unwrap().last().cloned().unwrap();
    assert_eq!(
        (
            last.user.as_str(),
            last.verb.as_str(),
            last.cluster.as_str()
        ),
        ("weak", "get", "m1")
    );
    assert_eq!(
        (
            last.object.resource.as_str(),
            last.object.name.as_str(),
            last.object.subresource.as_str()
        ),
        ("pods", "b", "log")
    );
    // R1: caught and counted; the next request is served.
    assert_eq!(
        room.gateway
            .counters()
            .panics
            .load(std::sync::atomic::Ordering::Relaxed),
        1
    );
}

#[tokio::test]
async fn request_ids_are_made_honoured_and_only_echoed() {
    let room = Room::host().await;
    let admin = ("authorization", "Bearer admin");
    let answer = room
        .ask(
            "GET",
            "/api/v1/pods",
            &[admin, ("x-request-id", "abc-1")],
            "",
        )
        .await;
    assert_eq!(answer.header("x-request-id"), "abc-1");
    assert_eq!(room.kube.last().headers["x-request-id"], "abc-1");
    let answer = room
        .ask(
            "GET",
            "/api/v1/pods",
            &[admin, ("x-request-id", "a b\u{e9}")],
            "",
        )
        .await;
    assert_eq!(answer.header("x-request-id"), "");
    assert_eq!(room.kube.last().headers["x-request-id"].len(), 36);
}

/// The doors of agents open here, and nowhere else: what a member would be asked needs somebody.
#[tokio::test]
async fn s14_the_doors_of_agents_lead_to_no_member() {
    let room = Room::host().await;
    for path in [
        "/clusters/m1/kapis/hub.kubeaihub.io/v1/join/m.0",
        "/kapis/clusters/m1/hub.kubeaihub.io/v1/join/m.0",
        "/clusters/m1/kapis/hub.kubeaihub.io/v1/enrol",
    ] {
        assert_eq!(room.get(path, "").await.status, 401, "{path}");
    }
    assert_eq!((room.kube.count(), room.member.count()), (0, 0));
}

/// A join token in a path is in no record, whatever becomes of the request.
#[tokio::test]
async fn w4_a_join_token_in_a_path_is_not_recorded() {
    let room = Room::host().await;
    let digits = "0123456789abcdef".repeat(4);
    let token = format!("m1.{digits}");
    for path in [
        format!("/kapis/hub.kubeaihub.io/v1/join/{token}"),
        format!("/kapis/hub.kubeaihub.io/v1/join/{token}/"),
        format!("/kapis/hub.kubeaihub.io/v1/join/{token}/more"),
        format!("/kapis/hub.kubeaihub.io/v1/other/{token}"),
        format!("/clusters/m1/kapis/hub.kubeaihub.io/v1/join/{token}"),
        format!("/clusters/host/kapis/hub.kubeaihub.io/v1/join/{token}"),
        format!("/kapis/hub.kubeaihub.io/v1/%6aoin/{token}"),
        format!("//kapis/hub.kubeaihub.io/v1/join/{token}"),
    ] {
        for user in ["", "admin"] {
            room.get(&path, user).await;
        }
        let records = format!("{:?}", room.records.0.lock().unwrap());
        assert!(!records.contains(&digits), "{path}: {records}");
    }
    assert_eq!(room.records.0.lock().unwrap().len(), 16);
}
