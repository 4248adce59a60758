use http::Method;
use proptest::prelude::*;

use super::*;

/// The rows of gateway.md §2.1 that our decisions change, by request: R1 makes the two forms of
/// `/api/clusters/{c}` discovery, and the unfinished watch is a 400.
const DIFFERENT: [&str; 3] = [
    "/api/v1/watch",
    "/api/clusters/gondor/v1",
    "/api/clusters/gondor",
];

#[test]
fn examples_of_the_specification() {
    let mut checked = 0;
    for line in include_str!("examples.txt").lines() {
        let columns: Vec<&str> = line.split(' ').collect();
        let [method, path, resource_request, kubernetes, rest @ ..] = columns.as_slice() else {
            panic!("a row has too few columns: {line}");
        };
        if DIFFERENT.contains(path) {
            continue;
        }
        let target =
            parse(&method.parse().unwrap(), path).unwrap_or_else(|error| panic!("{line}: {error}"));
        let mark = |value: bool| if value { "y" } else { "n" };
        let text = |value: &str| {
            if value.is_empty() {
                "-".to_owned()
            } else {
                value.to_owned()
            }
        };
        let found = [
            text(&target.verb),
            text(target.cluster.as_deref().unwrap_or("")),
            text(&target.group),
            text(&target.version),
            text(&target.workspace),
            text(&target.namespace),
            text(&target.devops),
            text(&target.resource),
            text(&target.name),
            text(&target.subresource),
            text(target.scope.as_str()),
        ];
        assert_eq!(mark(target.is_resource), *resource_request, "R of {line}");
        assert_eq!(mark(target.is_kubernetes), *kubernetes, "K of {line}");
        assert_eq!(found.as_slice(), rest, "{line}");
        checked += 1;
    }
    assert_eq!(checked, 91);
}

#[test]
fn r1_a_cluster_and_a_version_alone_are_discovery() {
    for (path, forward) in [
        ("/api/clusters/gondor/v1", "/api/v1"),
        ("/api/clusters/gondor", "/api"),
        ("/kapi/clusters/gondor/v1", "/kapi/v1"),
        ("/apis/clusters/gondor/apps/v1", "/apis/apps/v1"),
    ] {
        let target = parse(&Method::GET, path).unwrap();
        assert_eq!(target.cluster.as_deref(), Some("gondor"), "{path}");
        assert!(!target.is_resource, "{path}");
        assert_eq!(target.verb, "GET", "{path}");
        assert_eq!(target.forward, forward);
        assert_eq!(target.path, path);
    }
    assert!(matches!(
        parse(&Method::GET, "/api/v1/watch"),
        Err(PathError::NoKind(_))
    ));
}

#[test]
fn a1_a_cluster_before_the_prefix() {
    for (path, forward) in [
        ("/clusters/m/api/v1/pods?limit=5", "/api/v1/pods?limit=5"),
        (
            "/clusters/m/apis/apps/v1/deployments",
            "/apis/apps/v1/deployments",
        ),
        ("/clusters/m/kapis/version", "/kapis/version"),
        ("/clusters/m/version", "/version"),
        ("/clusters/m/openapi/v3", "/openapi/v3"),
        ("/clusters/m/healthz", "/healthz"),
        ("/clusters/m/api", "/api"),
        ("/clusters/m/api/", "/api/"),
    ] {
        let target = parse(&Method::GET, path).unwrap();
        assert_eq!(target.cluster.as_deref(), Some("m"), "{path}");
        assert_eq!(target.cluster_form, ClusterForm::Prefix, "{path}");
        assert_eq!(target.forward, forward);
    }
    for local in ["/clusters/m", "/clusters/m/oauth/token", "/clusters"] {
        let target = parse(&Method::GET, local).unwrap();
        assert_eq!(target.cluster, None, "{local}");
        assert!(!target.is_resource, "{local}");
    }
}

#[test]
fn p1_what_was_authorised_is_what_is_sent_or_400() {
    let bad = [
        "..",
        ".",
        "%2e%2e",
        "%2E%2e",
        ".%2e",
        "%2F",
        "a%2Fb",
        "%252f",
        "a%252e%252e",
        "",
        "x;x",
        "%3Bx",
        "\\",
        "%5c",
        "%00",
        "a%00b",
        "%c0%af",
        "%c0%ae%c0%ae",
        "%e0%80%af",
        "%",
        "%4",
        "%zz",
        "%0a",
        "%7f",
        "a%3fb",
        "a%23b",
        "\u{e9}",
        " ",
    ];
    let places = [
        "/kapis/clusters/{}/version",
        "/api/clusters/{}/v1/pods",
        "/clusters/{}/api/v1/pods",
        "/api/v1/namespaces/{}/pods",
        "/api/v1/namespaces/{}/pods/p1/log",
        "/api/v1/namespaces/ns1/pods/{}/log",
        "/apis/{}/v1/things",
        "/kapis/tenant.kubesphere.io/v1alpha2/workspaces/{}/namespaces",
        "/oauth/{}/token",
        "/{}/api/v1/pods",
        "/{}",
    ];
    for place in places {
        for text in bad {
            let path = place.replace("{}", text);
            if path == "/" {
                continue;
            }
            assert!(parse(&Method::GET, &path).is_err(), "{path}");
        }
    }
    assert_eq!(parse(&Method::GET, "*"), Err(PathError::NotAbsolute));
    assert_eq!(
        parse(&Method::GET, "http://x/api"),
        Err(PathError::NotAbsolute)
    );
    assert_eq!(
        parse(&Method::GET, &format!("/{}", "a".repeat(20_000))),
        Err(PathError::TooLong)
    );
}

#[test]
fn p1_honest_names_pass_in_one_spelling() {
    for (path, name, forward) in [
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            "system:node",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
        ),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
            "system:node",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
        ),
        ("/api/v1/nodes/n1/", "n1", "/api/v1/nodes/n1/"),
        ("/%61pi/v1/n%6fdes/n1", "n1", "/api/v1/nodes/n1"),
        (
            "/api/v1/namespaces/ns1/services/%3Aks-apiserver%3A/proxy/a//b%2Fc?x=%2F..",
            ":ks-apiserver:",
            "/api/v1/namespaces/ns1/services/:ks-apiserver:/proxy/a//b%2Fc?x=%2F..",
        ),
        (
            "/api/v1/namespaces/ns1/services/s/proxy/a/",
            "s",
            "/api/v1/namespaces/ns1/services/s/proxy/a/",
        ),
        (
            "/api/v1/namespaces/ns1/services/s/proxy//",
            "s",
            "/api/v1/namespaces/ns1/services/s/proxy//",
        ),
    ] {
        let target = parse(&Method::GET, path).unwrap();
        assert_eq!(target.name, name, "{path}");
        assert_eq!(target.forward, forward, "{path}");
    }
    for path in [
        "/api/v1/namespaces/ns1/services/s/proxy/../../pods",
        "/api/v1/namespaces/ns1/services/s/proxy/a/%2e%2e/b",
        "/api/v1/namespaces/ns1/services/s/proxy/a%2f..%2fb",
        "/api/v1/namespaces/ns1/services/s/proxy/..;/b",
        "/api/v1/namespaces/ns1/services/s/proxy/a%5c..",
        "/api/v1/namespaces/ns1/services/s/proxy/%00",
        "/api/v1/proxy/namespaces/ns1/services/svc/../x",
    ] {
        assert!(parse(&Method::GET, path).is_err(), "{path}");
    }
}

#[test]
fn p2_one_cluster_a_path() {
    for path in [
        "/clusters/a/clusters/b/api/v1/pods",
        "/clusters/a/clusters/b",
        "/clusters/a/api/clusters/b/v1/pods",
        "/clusters/a/kapis/clusters/b/version",
        "/kapis/clusters/a/clusters/b/version",
        "/api/clusters/a/clusters/b/v1/pods",
        "/clusters//api",
        "/kapis/clusters//version",
        "//kapis/clusters/a/version",
        "/kapis//clusters/a/version",
    ] {
        assert!(parse(&Method::GET, path).is_err(), "{path}");
    }
    let encoded = parse(&Method::GET, "/kapis/%63lusters/a/version").unwrap();
    assert_eq!(
        (encoded.cluster.as_deref(), encoded.forward.as_str()),
        (Some("a"), "/kapis/version")
    );
    let trailing = parse(&Method::GET, "/api/clusters/a/").unwrap();
    assert_eq!(
        (trailing.cluster.as_deref(), trailing.forward.as_str()),
        (Some("a"), "/api/")
    );
    // Deeper `clusters` are resources, not prefixes.
    let deep = parse(
        &Method::GET,
        "/kapis/cluster.kubesphere.io/v1alpha1/clusters/a",
    )
    .unwrap();
    assert_eq!((deep.cluster, deep.name.as_str()), (None, "a"));
}

#[test]
fn p5_the_forms_of_watch() {
    for (request, verb, name) in [
        ("/api/v1/pods?watch=1", "watch", ""),
        ("/api/v1/pods?watch=0&watch=1", "list", ""),
        ("/api/v1/watch/pods", "watch", ""),
        ("/api/v1/watch/namespaces/ns1/pods/p1", "watch", "p1"),
        ("/api/v1/pods?fieldSelector=metadata.name=p1", "list", "p1"),
        (
            "/api/v1/pods?watch=1&fieldSelector=metadata.name%3Dp1",
            "watch",
            "p1",
        ),
        ("/api/v1/namespaces/ns1/pods/p1?watch=1", "get", "p1"),
    ] {
        let target = parse(&Method::GET, request).unwrap();
        assert_eq!(
            (target.verb.as_str(), target.name.as_str()),
            (verb, name),
            "{request}"
        );
    }
}

#[test]
fn p9_the_query_arrives_unchanged() {
    let target = parse(
        &Method::POST,
        "/clusters/m/api/v1/namespaces?dryRun=All&fieldValidation=Strict&x=%2F%2e;",
    )
    .unwrap();
    assert_eq!(
        target.forward,
        "/api/v1/namespaces?dryRun=All&fieldValidation=Strict&x=%2F%2e;"
    );
    assert!(target.dry_run);
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "api", "apis", "kapis", "kapi", "clusters", "a", "v1", "apps", "namespaces", "ns1", "pods", "p1", "proxy",
            "watch", "services", "workspaces", "devops", "status", "oauth", "version", "log", "%63lusters", "system%3Anode",
        ]).prop_map(str::to_owned),
        1 => prop::sample::select(vec![
            "", ".", "..", "%2e%2e", "%2F", "%252f", "%2e", ";x", "a;x", "\\", "%00", "%c0%af", "a%2Fb", "%", "%C3%A9",
        ]).prop_map(str::to_owned),
        1 => "[ -~]{0,6}",
    ]
}

fn request() -> impl Strategy<Value = String> {
    let query = prop::option::of(prop_oneof![
        Just("watch=1".to_owned()),
        Just("fieldSelector=metadata.name=x".to_owned()),
        Just("labelSelector=kubesphere.io/workspace=w&watch=1".to_owned()),
        "[ -~]{0,20}",
    ]);
    (prop::collection::vec(piece(), 0..10), any::<bool>(), query).prop_map(
        |(pieces, slash, query)| {
            let mut path = format!("/{}", pieces.join("/"));
            if slash {
                path.push('/');
            }
            if let Some(query) = query {
                path = format!("{path}?{query}");
            }
            path
        },
    )
}

fn method() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![
        Method::GET,
        Method::POST,
        Method::DELETE,
        Method::OPTIONS,
        Method::PUT,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_text_is_parsed_without_panic(text in any::<String>(), method in method()) {
        let _ = parse(&method, &text);
        let _ = parse(&method, &format!("/{text}"));
    }

    #[test]
    fn p1_what_is_sent_on_parses_to_what_was_authorised(request in request(), method in method()) {
        let Ok(target) = parse(&method, &request) else { return Ok(()) };
        let sent = parse(&method, &target.forward).map_err(|error| {
            TestCaseError::fail(format!("{request} is sent as {}: {error}", target.forward))
        })?;
        let expected = Target {
            cluster: None,
            cluster_form: ClusterForm::None,
            path: target.forward_path().to_owned(),
            ..target.clone()
        };
        prop_assert_eq!(&sent, &expected);
        prop_assert_eq!(&sent.forward, &target.forward);
        // No cleaner of paths on the way can make another target of it.
        for segment in target.forward_path().split('/') {
            prop_assert!(segment != "." && segment != "..");
            prop_assert!(!segment.to_ascii_lowercase().contains("%2e%2e"));
        }
        if target.subresource != "proxy" && target.verb != "proxy" {
            prop_assert!(!target.forward_path().contains("//"));
            prop_assert!(!target.forward_path().to_ascii_lowercase().contains("%2f"));
            prop_assert!(!target.forward_path().contains("%25"));
        }
    }
}
