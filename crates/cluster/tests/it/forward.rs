use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt;
use kah_cluster::{
    AccessCode, CallerCredential, Form, ForwardError, MemberRefusal, REFUSAL_HEADER,
};
use serde_json::json;

use crate::{
    cluster, get, hop,
    member::{Member, Reply, Seen, answer, status},
    proxied, registry, straight, until,
};

const PROXY: &str = "/api/v1/namespaces/kubesphere-system/services/:ks-apiserver:/proxy";

/// Sends one request by each route; returns what arrived by the service proxy and what arrived straight.
async fn both(request: impl Fn() -> Request<kah_net::Body>, target: &str) -> [Seen; 2] {
    let member = Member::start(None, |_| answer(200, "application/json", "{}"))
        .await
        .expect("member");
    let registry = registry();
    registry.replace(vec![
        cluster("a", "1", proxied(&member.url())),
        cluster("b", "2", straight(&member.url())),
    ]);
    for name in ["a", "b"] {
        let member = registry.get(name).expect("member");
        let answer = member
            .forward(request(), hop(target))
            .await
            .expect("answer");
        assert_eq!(answer.status(), 200);
        assert!(!answer.headers().contains_key(REFUSAL_HEADER));
    }
    member.seen().try_into().expect("two requests")
}

#[tokio::test]
async fn both_routes_carry_the_caller_and_nobody_else() {
    let [proxied, straight] = both(get, "/kapis/x.kubesphere.io/v1/things?limit=1").await;
    assert_eq!(
        proxied.target,
        format!("{PROXY}/kapis/x.kubesphere.io/v1/things?limit=1")
    );
    assert_eq!(proxied.header("authorization"), "Bearer stored");
    assert_eq!(
        proxied.header("x-kubesphere-authorization"),
        "Bearer caller"
    );
    assert_eq!(straight.target, "/kapis/x.kubesphere.io/v1/things?limit=1");
    assert_eq!(straight.header("authorization"), "Bearer caller");
    assert_eq!(straight.header("x-kubesphere-authorization"), "");
    for seen in [proxied, straight] {
        assert_eq!(seen.header("x-forwarded-for"), "10.0.0.9");
    }
}

#[tokio::test]
async fn h1_h4_h5_h14_a_client_cannot_say_who_it_is() {
    let request = || {
        let mut request = get();
        for (name, value) in [
            ("authorization", "Bearer forged"),
            ("x-kubesphere-authorization", "Bearer forged"),
            ("x-kubesphere-rawquery", "x=y"),
            ("impersonate-user", "admin"),
            ("x-remote-user", "admin"),
            ("connection", "X-KubeSphere-Authorization, Authorization"),
        ] {
            request
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        request
    };
    let [proxied, straight] = both(request, "/api/v1/nodes?dryrun=All").await;
    assert_eq!(proxied.target, format!("{PROXY}/api/v1/nodes"));
    assert_eq!(straight.target, "/api/v1/nodes");
    assert_eq!(proxied.header("authorization"), "Bearer stored");
    assert_eq!(
        proxied.header("x-kubesphere-authorization"),
        "Bearer caller"
    );
    assert_eq!(straight.header("authorization"), "Bearer caller");
    for seen in [proxied, straight] {
        assert!(
            seen.headers
                .keys()
                .all(|name| !name.as_str().contains("impersonate")
                    && !name.as_str().contains("remote")
                    && name != "x-kubesphere-rawquery")
        );
    }
}

#[tokio::test]
async fn h9_without_an_identity_nothing_is_sent() {
    let member = Member::start(None, |_| answer(200, "text/plain", "ok"))
        .await
        .expect("member");
    let registry = registry();
    registry.replace(vec![
        cluster("a", "1", proxied(&member.url())),
        cluster("b", "2", straight(&member.url())),
    ]);
    for name in ["a", "b"] {
        for value in [&b""[..], b"   ", b"Bearer", b"Bearer  ", b"\xff\xfe x"] {
            let mut hop = hop("/kapis/x/v1/y");
            hop.caller = CallerCredential::User {
                name: "caller".into(),
                authorization: HeaderValue::from_bytes(value).expect("value"),
            };
            let error = registry
                .get(name)
                .expect("member")
                .forward(get(), hop)
                .await
                .expect_err("refused");
            assert!(matches!(error, ForwardError::Identity { .. }), "{error}");
            assert_eq!(error.status(), StatusCode::UNAUTHORIZED);
        }
    }
    assert_eq!(member.opened(), 0);
    // Said in so many words: nobody. Then nobody's identity travels.
    let mut anonymous = hop("/kapis/version");
    anonymous.caller = CallerCredential::Anonymous;
    registry
        .get("a")
        .expect("member")
        .forward(get(), anonymous)
        .await
        .expect("answer");
    assert_eq!(member.seen()[0].header("x-kubesphere-authorization"), "");
}

#[tokio::test]
async fn p1_a_path_that_climbs_is_not_sent() {
    let member = Member::start(None, |_| answer(200, "text/plain", "ok"))
        .await
        .expect("member");
    let registry = registry();
    registry.replace(vec![cluster("a", "1", proxied(&member.url()))]);
    for target in [
        "/kapis/../../x",
        "/kapis/%2e%2e/x",
        "/kapis/..%2f..%2fx",
        "/kapis/%252e%252e/x",
        "/a%5c..%5cb",
        "/a%00b",
    ] {
        let error = registry
            .get("a")
            .expect("member")
            .forward(get(), hop(target))
            .await
            .err();
        assert_eq!(error.expect(target).status(), StatusCode::BAD_REQUEST);
    }
    assert_eq!(member.opened(), 0);
}

#[tokio::test]
async fn p9_a_dry_run_stays_one() {
    let request = || {
        Request::builder()
            .method(Method::POST)
            .uri("/")
            .body(kah_net::full("{}"))
            .expect("request")
    };
    let [proxied, straight] = both(
        request,
        "/api/v1/namespaces?fieldManager=dryrun&dryRun=All&fieldValidation=Strict",
    )
    .await;
    assert_eq!(
        proxied.target,
        format!("{PROXY}/api/v1/namespaces?dryrun=All&fieldManager=dryrun&fieldValidation=Strict")
    );
    assert_eq!(
        straight.target,
        "/api/v1/namespaces?fieldManager=dryrun&dryRun=All&fieldValidation=Strict"
    );
}

#[tokio::test]
async fn refusals_are_named_and_otherwise_unchanged() {
    use AccessCode as C;
    let ks = "Unauthorized: ";
    let long = "x".repeat(64 * 1024);
    for (by_proxy, code, message, expected) in [
        (true, 401, format!("{ks}token not found in cache"), Some(C::TokenNotInCache)),
        (false, 401, format!("{ks}token not found in cache"), Some(C::TokenNotInCache)),
        (true, 401, format!("{ks}signature is invalid"), Some(C::SignatureInvalid)),
        (true, 401, format!("{ks}jwt: token is expired by 3s"), Some(C::ClockSkew)),
        (true, 401, format!("{ks}jwt: token used before issued, iat:1, now:0"), Some(C::ClockSkew)),
        (true, 401, format!("{ks}user.iam.kubesphere.io \"u\" not found"), Some(C::UserMissing)),
        (true, 401, format!("{ks}account is not active"), Some(C::UserDisabled)),
        (true, 401, "Unauthorized".into(), Some(C::CredentialRejected)),
        (false, 401, "Unauthorized".into(), None),
        (
            true,
            403,
            "services \":ks-apiserver:\" is forbidden: User \"x\" cannot get resource \"services/proxy\" in API group \"\" in the namespace \"kubesphere-system\"".into(),
            Some(C::RouteForbidden),
        ),
        (true, 403, "pods is forbidden: User \"u\" cannot list resource \"pods\"".into(), None),
        (true, 404, "services \"ks-apiserver\" not found".into(), Some(C::MemberNotReady)),
        (false, 404, "services \"ks-apiserver\" not found".into(), None),
        (true, 404, "pods \"x\" not found".into(), None),
        (true, 503, "no endpoints available for service \":ks-apiserver:\"".into(), Some(C::MemberNotReady)),
        (true, 503, "error trying to reach service: dial tcp 10.0.0.1:9090: connect: connection refused".into(), Some(C::MemberNotReady)),
        (true, 503, long, Some(C::MemberNotReady)),
        (true, 429, "Too many requests, please try again later.".into(), Some(C::MemberNotReady)),
        (false, 502, "<html>".into(), Some(C::MemberNotReady)),
        (false, 500, "of its own".into(), None),
    ] {
        let words = message.clone();
        let member = Member::start(None, move |_| {
            let Reply::Answer(mut response) = status(code, "Reason", &words) else { unreachable!() };
            // A member does not speak for the host.
            response.headers_mut().insert(REFUSAL_HEADER, HeaderValue::from_static("WrongRole"));
            Reply::Answer(response)
        })
        .await
        .expect("member");
        let registry = registry();
        let connection = if by_proxy { proxied(&member.url()) } else { straight(&member.url()) };
        registry.replace(vec![cluster("a", "1", connection)]);
        let answer = registry.get("a").expect("member").forward(get(), hop("/kapis/x/v1/y")).await.expect("answer");
        let shown = message.get(..60.min(message.len())).unwrap_or_default();
        assert_eq!(answer.status(), code, "{shown}");
        let header = answer.headers().get(REFUSAL_HEADER).map(|value| value.to_str().expect("text").to_owned());
        assert_eq!(header, expected.map(|code| code.to_string()), "{shown}");
        assert_eq!(answer.extensions().get().map(|MemberRefusal(code)| *code), expected, "{shown}");
        let body: serde_json::Value =
            serde_json::from_slice(&answer.into_body().collect().await.expect("body").to_bytes()).expect("json");
        assert_eq!(body["message"], message);
    }
}

/// A console tells a member's 401 from the host's by the header alone, also where no body can be read.
#[tokio::test]
async fn a2_a_refusal_without_readable_words_is_marked() {
    let member = Member::start(None, |seen| {
        let Reply::Answer(mut response) = status(
            401,
            "Unauthorized",
            "Unauthorized: token not found in cache",
        ) else {
            unreachable!()
        };
        if seen.target == "/encoded" {
            let encoding = HeaderValue::from_static("gzip");
            response
                .headers_mut()
                .insert(http::header::CONTENT_ENCODING, encoding);
        }
        Reply::Answer(response)
    })
    .await
    .expect("member");
    let registry = registry();
    registry.replace(vec![cluster("a", "1", straight(&member.url()))]);
    let ask = async |method: http::Method, target: &str, caller: Option<CallerCredential>| {
        let mut hop = hop(target);
        hop.caller = caller.unwrap_or(hop.caller);
        let mut request = get();
        *request.method_mut() = method;
        let member = registry.get("a").expect("member");
        let answer = member.forward(request, hop).await.expect("answer");
        assert_eq!(answer.status(), 401);
        let header = answer.headers().get(REFUSAL_HEADER);
        header.map(|value| value.to_str().expect("text").to_owned())
    };
    let (get, head) = (http::Method::GET, http::Method::HEAD);
    let named = Some(AccessCode::TokenNotInCache.to_string());
    let unread = Some(AccessCode::SignatureInvalid.to_string());
    assert_eq!(ask(get.clone(), "/plain", None).await, named);
    assert_eq!(ask(get, "/encoded", None).await, unread);
    assert_eq!(ask(head.clone(), "/plain", None).await, unread);
    let nobody = Some(CallerCredential::Anonymous);
    assert_eq!(ask(head.clone(), "/plain", nobody).await, None);
    assert_eq!(ask(head, "/oauth/token", None).await, None);
}

#[tokio::test]
async fn r9_what_gets_no_answer_has_a_code_and_a_status() {
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))
        .expect("port")
        .local_addr()
        .expect("address");
    let hangup = Member::start(None, |_| Reply::Hangup)
        .await
        .expect("member");
    let mut not_ready = cluster("ready", "3", straight("http://127.0.0.1:1"));
    not_ready.data["status"] = json!({ "conditions": [{ "type": "Ready", "status": "False", "reason": "R", "message": "M" }] });
    let registry = registry();
    registry.replace(vec![
        cluster("refused", "1", straight(&format!("http://{port}"))),
        cluster("name", "2", straight("http://no-such-name.invalid")),
        not_ready,
        cluster("hangup", "4", proxied(&hangup.url())),
        cluster("empty", "5", json!({ "type": "direct" })),
        cluster("odd", "6", json!("odd")),
        cluster(
            "tls",
            "7",
            straight(&hangup.url().replace("http:", "https:")),
        ),
    ]);
    use AccessCode as C;
    for (name, code, status, retry) in [
        ("refused", C::MemberUnreachable, 502, true),
        ("name", C::NameNotResolved, 502, true),
        ("ready", C::MemberNotReady, 503, true),
        ("hangup", C::MemberUnreachable, 502, true),
        ("empty", C::CredentialRejected, 503, true),
        ("odd", C::ConfigUnreadable, 503, true),
        ("tls", C::TLSUntrusted, 502, true),
    ] {
        let error = registry
            .get(name)
            .expect(name)
            .forward(get(), hop("/kapis/x/v1/y"))
            .await
            .expect_err(name);
        assert_eq!(
            (error.code(), error.status().as_u16()),
            (Some(code), status),
            "{name}: {}",
            error.evidence()
        );
        assert_eq!(error.retry_after().is_some(), retry, "{name}");
        assert!(error.to_string().contains(&format!("cluster {name}")));
    }
}

#[tokio::test]
async fn s3_r15_redirects_name_the_cluster_or_are_refused() {
    let member = Member::start(None, |seen| {
        let Reply::Answer(mut response) = answer(302, "text/html", "moved") else {
            unreachable!()
        };
        let to = if seen.target.contains("away") {
            "http://169.254.169.254/latest".to_owned()
        } else {
            format!("{PROXY}/kapis/y/v1/z/?a=b")
        };
        response
            .headers_mut()
            .insert("location", to.parse().expect("value"));
        Reply::Answer(response)
    })
    .await
    .expect("member");
    let registry = registry();
    registry.replace(vec![cluster("a", "1", proxied(&member.url()))]);
    let target = registry.get("a").expect("member");
    for (form, expected) in [
        (Form::Segment, "/kapis/clusters/a/y/v1/z/?a=b"),
        (Form::Prefix, "/clusters/a/kapis/y/v1/z/?a=b"),
    ] {
        let mut hop = hop("/kapis/y/v1/z");
        hop.form = form;
        let answer = target.forward(get(), hop).await.expect("answer");
        assert_eq!(
            (
                answer.status().as_u16(),
                answer.headers()["location"].as_bytes()
            ),
            (302, expected.as_bytes())
        );
    }
    let error = target
        .forward(get(), hop("/kapis/away"))
        .await
        .expect_err("refused");
    assert_eq!(
        (error.status().as_u16(), error.code().is_some()),
        (502, true)
    );
    assert_eq!(member.seen().len(), 3);
}

#[tokio::test]
async fn nothing_stays_open() {
    let member = Member::start(None, |_| Reply::Stall).await.expect("member");
    let registry = registry();
    registry.replace(vec![cluster("a", "1", proxied(&member.url()))]);
    let target = registry.get("a").expect("member");
    let waiting =
        tokio::spawn(async move { target.forward(get(), hop("/kapis/x/v1/y")).await.map(drop) });
    until("it arrives", || member.seen().len() == 1).await;
    assert_eq!(registry.open().requests, 1);
    waiting.abort();
    until("nothing stays open", || {
        registry.open() == kah_net::Open::default() && member.connections() == 0
    })
    .await;
}

/// A member that knows callers by tokens of this host.
fn federated(name: &str, uid: &str, connection: serde_json::Value) -> kube::core::DynamicObject {
    let mut object = cluster(name, name, connection);
    object.data["spec"]["trust"] = "federated".into();
    object.data["status"] = json!({ "uid": uid });
    object
}

#[tokio::test]
async fn t1_h9_a_federated_member_gets_a_token_of_its_own_and_never_the_callers() {
    use kah_iam::{Clock, SigningKeys, SystemClock};
    let member = Member::start(None, |_| answer(200, "application/json", "{}"))
        .await
        .expect("member");
    let registry = registry();
    registry.replace(vec![
        federated("a", "uid-a", proxied(&member.url())),
        federated("b", "uid-b", straight(&member.url())),
        federated("unknown", "", straight(&member.url())),
    ]);
    let ask = async |name: &str, user: &str| {
        let mut hop = hop("/kapis/x/v1/y");
        hop.caller = CallerCredential::User {
            name: user.into(),
            authorization: HeaderValue::from_static("Bearer callers-own-token"),
        };
        let mut request = get();
        // Wherever else a client may have put it.
        for name in [
            "sec-websocket-protocol",
            "x-kubesphere-authorization",
            "cookie",
        ] {
            let value = "base64url.bearer.authorization.k8s.io.callers-own-token";
            request
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        registry
            .get(name)
            .expect("member")
            .forward(request, hop)
            .await
    };
    // No key yet: nothing is sent, and the words say why.
    let error = ask("a", "alice").await.expect_err("refused");
    assert!(matches!(error, ForwardError::Unsigned { .. }), "{error}");
    assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        error.evidence().contains("no signing key yet"),
        "{}",
        error.evidence()
    );
    let keys = SigningKeys::first(SystemClock::default().now()).expect("keys");
    registry
        .signer()
        .take("kubeaihub:host", keys)
        .expect("taken");
    let error = ask("unknown", "alice").await.expect_err("refused");
    assert!(
        error.evidence().contains("status.uid"),
        "{}",
        error.evidence()
    );
    assert_eq!(member.opened(), 0);

    for (name, user) in [("a", "alice"), ("a", "alice"), ("b", "alice"), ("a", "bob")] {
        assert_eq!(ask(name, user).await.expect("answer").status(), 200);
    }
    let seen = member.seen();
    let sent: Vec<String> = seen
        .iter()
        .map(|seen| match seen.header("x-kubesphere-authorization") {
            by_proxy if !by_proxy.is_empty() => by_proxy,
            _ => seen.header("authorization"),
        })
        .collect();
    assert_eq!(seen[0].header("authorization"), "Bearer stored");
    assert!(sent.iter().all(|token| token.starts_with("Bearer ey")));
    // Used again for the same user at the same member, and only there.
    assert_eq!(sent[0], sent[1]);
    assert_ne!(sent[0], sent[2]);
    assert_ne!(sent[0], sent[3]);
    for seen in &seen {
        let all = format!("{} {:?}", seen.target, seen.headers);
        assert!(!all.contains("callers-own-token"), "{all}");
    }
    // An anonymous question carries nobody's identity.
    let mut anonymous = hop("/kapis/version");
    anonymous.caller = CallerCredential::Anonymous;
    let b = registry.get("b").expect("member");
    b.forward(get(), anonymous).await.expect("answer");
    assert_eq!(member.seen()[4].header("authorization"), "");
}

#[tokio::test]
async fn refusals_of_minted_tokens_have_their_codes() {
    for (words, code) in [
        (
            "token is signed with a key that is not trusted here",
            AccessCode::SignatureInvalid,
        ),
        (
            "signing method EdDSA is invalid",
            AccessCode::SignatureInvalid,
        ),
        ("jwt: token has a wrong iss", AccessCode::SignatureInvalid),
        ("jwt: token has a wrong aud", AccessCode::SignatureInvalid),
        ("jwt: token is expired by 20s", AccessCode::ClockSkew),
        ("jwt: token is not valid yet", AccessCode::ClockSkew),
    ] {
        let member = Member::start(None, move |_| {
            status(401, "Unauthorized", &format!("Unauthorized: {words}"))
        })
        .await
        .expect("member");
        let registry = registry();
        registry.replace(vec![cluster("a", "1", straight(&member.url()))]);
        let a = registry.get("a").expect("member");
        let answer = a
            .forward(get(), hop("/kapis/x/v1/y"))
            .await
            .expect("answer");
        let found = answer.extensions().get().map(|MemberRefusal(code)| *code);
        assert_eq!(found, Some(code), "{words}");
        let finding =
            kah_cluster::doctor::finding("a", code, &format!("401: Unauthorized: {words}"));
        assert_eq!(
            finding.remedy.contains("kah restore-access"),
            code == AccessCode::SignatureInvalid
        );
    }
}
