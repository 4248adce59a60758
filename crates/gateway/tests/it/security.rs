//! Lines of security-tests.md, through the whole gateway; what a member sees is asserted at the member.

use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::room::Room;

const ADMIN: (&str, &str) = ("authorization", "Bearer admin");
const TARGETS: [&str; 4] = [
    "/api/v1/pods",
    "/clusters/m1/api/v1/pods",
    "/kapis/clusters/m1/a.io/v1/x",
    "/kapis/version",
];

#[tokio::test]
async fn h1_h2_h3_impersonation_is_refused() {
    let room = Room::host().await;
    for target in TARGETS {
        for name in [
            "Impersonate-User",
            "IMPERSONATE-GROUP",
            "impersonate-uid",
            "Impersonate-Extra-Scopes",
            "Impersonate-Anything",
        ] {
            for value in ["system:masters", ""] {
                let answer = room.ask("GET", target, &[ADMIN, (name, value)], "").await;
                assert_eq!(answer.status, 403, "{name} {target}");
            }
        }
    }
    assert_eq!((room.kube.count(), room.member.count()), (0, 0));
}

#[tokio::test]
async fn h4_h5_h6_made_up_identities_do_not_travel() {
    let room = Room::host().await;
    let headers = [
        ADMIN,
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
        ("x-remote-extra-a", "b"),
        ("x-forwarded-user", "root"),
        ("x-webauth-user", "root"),
        ("forwarded", "for=1.1.1.1"),
        ("cookie", "token=x"),
        ("te", "trailers, authorization"),
        (
            "connection",
            "Authorization, X-KubeSphere-Authorization, X-Request-Id",
        ),
        ("proxy-authorization", "Basic eDp5"),
    ];
    for target in ["/api/v1/pods", "/clusters/m1/api/v1/pods"] {
        assert_eq!(
            room.ask("GET", target, &headers, "").await.status,
            200,
            "{target}"
        );
    }
    for (seen, identity) in [
        (room.kube.last(), "Bearer server-account"),
        (room.member.last(), "Bearer admin"),
    ] {
        let authorization: Vec<_> = seen.headers.get_all("authorization").iter().collect();
        assert_eq!(authorization, [identity]);
        for name in seen.headers.keys() {
            let name = name.as_str();
            assert!(
                [
                    "authorization",
                    "host",
                    "x-request-id",
                    "content-length",
                    "x-forwarded-for"
                ]
                .contains(&name),
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn h14_our_hop_headers_are_dropped_at_the_edge() {
    let room = Room::host().await;
    let via = "/api/v1/namespaces/kubesphere-system/services/:ks-apiserver:/proxy/api/v1/pods";
    let headers = [
        ("x-kubesphere-authorization", "Bearer admin"),
        ("x-kubesphere-rawquery", "watch=1"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-uri", via),
    ];
    assert_eq!(
        room.ask("GET", "/api/v1/pods", &headers, "").await.status,
        403
    );
    assert_eq!(
        room.ask("GET", "/clusters/m1/api/v1/pods", &headers, "")
            .await
            .status,
        401
    );
    assert_eq!((room.kube.count(), room.member.count()), (0, 0));
    let mut own = headers.to_vec();
    own.push(("authorization", "Bearer weak"));
    assert_eq!(
        room.ask("GET", "/clusters/m1/api/v1/pods?dryrun=All", &own, "")
            .await
            .status,
        200
    );
    let seen = room.member.last();
    assert_eq!(
        (
            seen.target.as_str(),
            seen.headers["authorization"].to_str().unwrap()
        ),
        ("/api/v1/pods", "Bearer weak")
    );
    assert!(
        !seen.headers.contains_key("x-kubesphere-authorization")
            && !seen.headers.contains_key("x-kubesphere-rawquery")
    );

    // A member reads them on the route from the host, and only there.
    let member = Room::member().await;
    assert_eq!(
        member.ask("GET", "/api/v1/pods", &headers, "").await.status,
        200
    );
    assert_eq!(member.kube.last().target, "/api/v1/pods?watch=1");
    assert_eq!(
        member
            .ask("GET", "/api/v1/pods", &headers[..2], "")
            .await
            .status,
        403
    );
    assert_eq!(
        member
            .ask("GET", "/api/v1/pods", &headers[..3], "")
            .await
            .status,
        403
    );
}

#[tokio::test]
async fn p1_p2_paths_that_could_mean_two_things() {
    let room = Room::host().await;
    for path in [
        "/api/v1/namespaces/../nodes",
        "/api/v1/namespaces/%2e%2e/nodes",
        "/api/v1/namespaces/.%2E/nodes",
        "/api/v1/./nodes",
        "/api/v1//nodes",
        "//api/v1/nodes",
        "/clusters/../api/v1/nodes",
        "/clusters/%2e%2e/api/v1/nodes",
        "/clusters/m1%2fapi/api/v1/nodes",
        "/clusters//api/v1/nodes",
        "/clusters/m1/clusters/host/api/v1/nodes",
        "/api/clusters/m1/clusters/host/v1/nodes",
        "/clusters/m1/api/clusters/host/v1/nodes",
        "/clusters/m1/api/v1/%00",
        "/api/v1/namespaces/a%5cb/pods",
        "/api/v1/namespaces/%c0%ae/pods",
        "/clusters/m1/../host/api",
        "/api/v1/namespaces/a%252f..%252fb/../x",
    ] {
        for token in ["admin", ""] {
            let answer = room.get(path, token).await;
            let code = answer.status.as_u16();
            assert!(
                matches!(code, 400 | 401 | 403 | 404),
                "{path} {token}: {answer:?}"
            );
            assert!(
                token.is_empty() || code == 400 || code == 404,
                "{path}: {answer:?}"
            );
        }
    }
    assert_eq!((room.kube.count(), room.member.count()), (0, 0));
    // A crash in the original.
    assert_eq!(room.get("/api/clusters/m1/v1", "weak").await.status, 200);
    assert_eq!(room.member.last().target, "/api/v1");
    assert_eq!(
        room.get("/clusters/nowhere/api/v1/nodes", "admin")
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn p5_watches_are_classified_as_kubernetes_does() {
    let room = Room::host().await;
    for (target, verb) in [
        ("/api/v1/pods?watch=1", "watch"),
        ("/api/v1/pods?watch=0&watch=1", "list"),
        ("/api/v1/pods?watch", "watch"),
        ("/api/v1/watch/pods", "watch"),
        ("/api/v1/pods?fieldSelector=metadata.name=a", "list"),
    ] {
        let answer = room.get(target, "weak").await;
        assert_eq!(answer.status, 403);
        assert!(
            answer
                .body
                .contains(&format!("cannot {verb} resource \\\"pods\\\"")),
            "{target}: {}",
            answer.body
        );
    }
}

#[tokio::test]
async fn p6_methods_and_targets_of_other_kinds() {
    let room = Room::host().await;
    assert_eq!(
        room.ask(
            "GET",
            "/api/v1/pods",
            &[
                ("authorization", "Bearer weak"),
                ("x-http-method-override", "DELETE")
            ],
            ""
        )
        .await
        .status,
        403
    );
    assert_eq!(
        room.ask("TRACE", "/api/v1/pods", &[ADMIN], "").await.status,
        400
    );
    let absolute = room
        .ask(
            "GET",
            "http://elsewhere.example/api/v1/pods",
            &[ADMIN, ("host", "elsewhere.example")],
            "",
        )
        .await;
    assert_eq!(absolute.status, 200);
    assert_eq!(
        format!(
            "http://{}",
            room.kube.last().headers["host"].to_str().unwrap()
        ),
        room.kube.address
    );
    let count = room.kube.count();
    assert_eq!(
        room.ask("CONNECT", "elsewhere.example:443", &[ADMIN], "")
            .await
            .status,
        400
    );
    assert_eq!(room.kube.count(), count);
}

#[tokio::test]
async fn p9_dry_run_and_field_validation_arrive_unchanged() {
    let room = Room::host().await;
    let query = "dryRun=All&fieldValidation=Strict&fieldManager=x";
    for prefix in ["", "/clusters/m1"] {
        room.ask(
            "POST",
            &format!("{prefix}/api/v1/namespaces?{query}"),
            &[ADMIN],
            "{}",
        )
        .await;
    }
    assert_eq!(
        room.kube.last().target,
        format!("/api/v1/namespaces?{query}")
    );
    assert_eq!(
        room.member.last().target,
        format!("/api/v1/namespaces?{query}")
    );
}

#[tokio::test]
async fn j4_authorizations_that_say_nothing_or_two_things() {
    let room = Room::host().await;
    let two = [ADMIN, ("authorization", "Bearer weak")];
    let long = format!("Bearer {}", "a".repeat(1 << 20));
    for headers in [
        &two[..],
        &[("authorization", "Bearer ")],
        &[("authorization", "Bearer")],
        &[("authorization", long.as_str())],
        &[("authorization", "Foo bar")],
    ] {
        for target in TARGETS {
            assert_eq!(
                room.ask("GET", target, headers, "").await.status,
                401,
                "{target}"
            );
        }
    }
    assert_eq!((room.kube.count(), room.member.count()), (0, 0));
}

#[tokio::test]
async fn h9_without_our_own_credential_nothing_is_sent() {
    let account = kube::config::AuthInfo {
        token_file: Some("/nonexistent/token".into()),
        ..kube::config::AuthInfo::default()
    };
    let room = Room::host_as(account).await;
    let answer = room.ask("GET", "/api/v1/pods", &[ADMIN], "").await;
    assert_eq!(answer.status, 500, "{answer:?}");
    assert_eq!(room.kube.count(), 0);
    // Nor is it ever used for nobody: a member is asked as its caller.
    for target in ["/clusters/m1/api/v1/pods", "/api/clusters/m1/v1/pods"] {
        assert_eq!(room.ask("GET", target, &[], "").await.status, 401);
    }
    assert_eq!(room.member.count(), 0);
}

/// Names that mean something to somebody on the way.
const NAMES: [&str; 26] = [
    "accept",
    "accept-language",
    "cookie",
    "forwarded",
    "host",
    "if-match",
    "keep-alive",
    "proxy-authorization",
    "range",
    "te",
    "trailer",
    "user-agent",
    "x-auth-request-user",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-uri",
    "x-forwarded-user",
    "x-http-method-override",
    "x-kubesphere-authorization",
    "x-kubesphere-rawquery",
    "x-original-url",
    "x-remote-extra-scopes",
    "x-remote-group",
    "x-remote-user",
    "x-webauth-user",
];

/// Headers as somebody might try them.
pub fn any_headers() -> impl proptest::strategy::Strategy<Value = Vec<(String, String)>> {
    use proptest::{collection, prelude::*};
    let name = prop_oneof![
        proptest::sample::select(&NAMES[..]).prop_map(str::to_owned),
        "x-[a-z]{1,12}",
        "impersonate-[a-z]{1,6}",
        Just("connection".to_owned()),
    ];
    let value = prop_oneof![
        "[ -~]{0,24}",
        Just("Bearer admin".to_owned()),
        Just("authorization, x-kubesphere-authorization, host".to_owned()),
        Just("/api/v1/namespaces/kubesphere-system/services/:ks-apiserver:/proxy/x".to_owned()),
    ];
    collection::vec((name, value), 0..12)
}

#[test]
fn h8_what_goes_out_is_within_the_list_and_has_one_identity() {
    use proptest::{prelude::*, test_runner::TestRunner};
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let room = runtime.block_on(Room::host());
    let headers = any_headers();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(200));
    let sent = std::sync::atomic::AtomicUsize::new(0);
    let checked = runner.run(&headers, |headers| {
        let mut all: Vec<(&str, &str)> = vec![ADMIN];
        all.extend(
            headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        let impersonates = headers
            .iter()
            .any(|(name, _)| name.starts_with("impersonate-"));
        for (target, standin, identity) in [
            ("/api/v1/pods", &room.kube, "Bearer server-account"),
            ("/clusters/m1/api/v1/pods", &room.member, "Bearer admin"),
        ] {
            let before = standin.count();
            let answer = runtime.block_on(room.ask("GET", target, &all, ""));
            if impersonates {
                prop_assert_eq!(answer.status, 403);
                prop_assert_eq!(standin.count(), before);
                continue;
            }
            // A `Connection: upgrade` by chance is refused, as this request has no connection.
            prop_assert!(answer.status == 200 || answer.status == 400, "{:?}", answer);
            if standin.count() == before {
                continue;
            }
            sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let seen = standin.last();
            let identities: Vec<_> = seen.headers.get_all("authorization").iter().collect();
            prop_assert_eq!(identities, [identity]);
            for name in seen.headers.keys() {
                let ours = ["authorization", "host", "x-request-id", "content-length"];
                prop_assert!(
                    kah_net::request_header_passes(name) || ours.contains(&name.as_str()),
                    "{}",
                    name
                );
            }
        }
        Ok(())
    });
    checked.unwrap();
    assert!(sent.into_inner() > 20, "it must have seen requests go out");
}

/// Begins a watch as this caller, and reads its first line.
async fn watch(room: &Room, target: &str, token: &str) -> axum::body::BodyDataStream {
    let request = http::Request::get(target)
        .header("authorization", format!("Bearer {token}"))
        .body(axum::body::Body::empty())
        .unwrap();
    let response = room.gateway.serve(request).await;
    assert_eq!(response.status(), 200, "{target}");
    let mut body = response.into_body().into_data_stream();
    let first = tokio::time::timeout(Duration::from_secs(10), body.next()).await;
    assert_eq!(first.unwrap().unwrap().unwrap(), "first\n");
    body
}

#[tokio::test]
async fn w5_t13_what_goes_on_ends_with_the_callers_credential_and_right() {
    let room = Room::host().await;
    let stop = CancellationToken::new();
    let gateway = room.gateway.clone();
    let looks = stop.clone();
    tokio::spawn(async move { gateway.end_streams(Duration::from_millis(5), looks).await });

    let mut member = watch(&room, "/clusters/m1/api/v1/pods?watch=1&endless=1", "weak").await;
    let mut own = watch(&room, "/api/v1/pods?watch=1&endless=1", "admin").await;
    // Nobody's right has ended yet: many looks change nothing.
    let quiet = tokio::time::timeout(Duration::from_millis(100), member.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    room.callers.ended.lock().unwrap().push("weak".into());
    let end = tokio::time::timeout(Duration::from_secs(10), member.next()).await;
    assert!(matches!(end, Ok(Some(Err(_)))), "{end:?}");
    let quiet = tokio::time::timeout(Duration::from_millis(100), own.next()).await;
    assert!(quiet.is_err(), "another caller's goes on: {quiet:?}");
    room.callers.powerless.lock().unwrap().push("admin".into());
    let end = tokio::time::timeout(Duration::from_secs(10), own.next()).await;
    assert!(matches!(end, Ok(Some(Err(_)))), "{end:?}");
    stop.cancel();
}
