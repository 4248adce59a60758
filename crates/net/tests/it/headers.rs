use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use kah_net::{Body, Credential};
use proptest::prelude::*;

use crate::{
    get,
    member::{Member, Reply, Seen, answer},
    settings, soon, to, upstream,
};

/// Sends these headers, with an identity added by the forwarder; returns what arrived.
async fn seen(headers: &[(&str, &str)]) -> Seen {
    let member = Member::start(None, |_| answer(200, "text/plain", "ok"))
        .await
        .expect("member");
    let mut request = get("/x");
    for (name, value) in headers {
        request.headers_mut().append(
            HeaderName::try_from(*name).expect("name"),
            HeaderValue::try_from(*value).expect("value"),
        );
    }
    let mut forward = to("/x");
    forward
        .headers
        .insert("authorization", HeaderValue::from_static("Bearer mine"));
    forward.headers.insert(
        "x-kubesphere-authorization",
        HeaderValue::from_static("Bearer caller"),
    );
    forward.client = Some([10, 0, 0, 9].into());
    soon(upstream(&member.url()).send(request, forward))
        .await
        .expect("answer");
    member.seen().remove(0)
}

fn names(seen: &Seen) -> Vec<&str> {
    let mut names: Vec<_> = seen.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

const BARE: [&str; 4] = [
    "authorization",
    "host",
    "x-forwarded-for",
    "x-kubesphere-authorization",
];

#[tokio::test]
async fn h1_h2_h3_impersonation_never_arrives() {
    let seen = seen(&[
        ("Impersonate-User", "admin"),
        ("impersonate-group", "system:masters"),
        ("IMPERSONATE-GROUP", "system:masters"),
        ("Impersonate-Uid", "1"),
        ("Impersonate-Extra-Scopes", "all"),
        ("Impersonate-Whatever", ""),
    ])
    .await;
    assert_eq!(names(&seen), BARE);
}

#[tokio::test]
async fn h4_front_proxy_headers_never_arrive() {
    let seen = seen(&[
        ("X-Remote-User", "admin"),
        ("X-Remote-Group", "system:masters"),
        ("X-Remote-Extra-A", "b"),
        ("X-Forwarded-User", "admin"),
        ("X-WebAuth-User", "admin"),
        ("Forwarded", "for=1.2.3.4"),
        ("Proxy-Authorization", "Basic x"),
        ("X-KubeSphere-Rawquery", "dryRun=All"),
        ("X-Real-IP", "1.2.3.4"),
        ("X-Client-IP", "1.2.3.4"),
        ("Cookie", "session=1"),
        ("Authorization", "Bearer forged"),
        ("X-KubeSphere-Authorization", "Bearer forged"),
    ])
    .await;
    assert_eq!(names(&seen), BARE);
    assert_eq!(seen.header("authorization"), "Bearer mine");
    assert_eq!(seen.header("x-kubesphere-authorization"), "Bearer caller");
}

#[tokio::test]
async fn h5_connection_cannot_remove_what_we_add() {
    let seen = seen(&[
        (
            "Connection",
            "Impersonate-User, Authorization, X-KubeSphere-Authorization, X-Forwarded-For, Host",
        ),
        ("Keep-Alive", "timeout=5"),
        ("X-Forwarded-For", "1.1.1.1"),
        ("X-Forwarded-For", "2.2.2.2, 3.3.3.3"),
    ])
    .await;
    assert_eq!(names(&seen), BARE);
    assert_eq!(seen.header("authorization"), "Bearer mine");
    assert_eq!(seen.header("x-kubesphere-authorization"), "Bearer caller");
    assert_eq!(
        seen.header("x-forwarded-for"),
        "1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.9"
    );
}

#[tokio::test]
async fn h6_te_upgrade_and_trailers_carry_no_names() {
    let seen = seen(&[
        ("TE", "trailers, Impersonate-User"),
        ("Trailer", "Impersonate-User"),
        ("Upgrade", "Impersonate-User"),
    ])
    .await;
    assert_eq!(names(&seen), BARE);
}

#[tokio::test]
async fn what_clients_need_arrives() {
    let sent = [
        ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"),
        ("accept-encoding", "gzip"),
        ("content-type", "application/merge-patch+json"),
        ("if-none-match", "\"1\""),
        ("range", "bytes=0-1"),
        ("user-agent", "kubectl/v1.36"),
        ("x-request-id", "1"),
        ("audit-id", "2"),
    ];
    let seen = seen(&sent).await;
    for (name, value) in sent {
        assert_eq!(seen.header(name), value, "{name}");
    }
}

#[tokio::test]
async fn credential_of_the_upstream_replaces_the_clients() {
    let member = Member::start(None, |_| answer(200, "text/plain", "ok"))
        .await
        .expect("member");
    let mut settings = settings(&member.url());
    settings.credential = Credential::bearer("stored");
    let upstream = kah_net::Upstream::new(settings).expect("upstream");
    let mut request = get("/x");
    request
        .headers_mut()
        .insert("authorization", HeaderValue::from_static("Bearer forged"));
    soon(upstream.send(request, to("/x")))
        .await
        .expect("answer");
    assert_eq!(member.seen()[0].header("authorization"), "Bearer stored");
    assert!(!format!("{upstream:?}").contains("stored"));
}

#[tokio::test]
async fn s8_answers_do_not_act_on_our_origin() {
    let member = Member::start(None, |_| {
        let mut response = Response::new(
            kah_net::empty()
                .map_err(std::io::Error::other)
                .boxed_unsync(),
        );
        for (name, value) in [
            ("set-cookie", "session=evil"),
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("strict-transport-security", "max-age=1"),
            ("clear-site-data", "\"*\""),
            ("alt-svc", "h3=\":443\""),
            ("refresh", "0;url=https://evil.example"),
            ("www-authenticate", "Basic realm=host"),
            ("service-worker-allowed", "/"),
            ("connection", "x-hidden, content-type"),
            ("x-hidden", "1"),
            ("content-type", "application/json"),
            ("audit-id", "a"),
            ("x-kubernetes-pf-flowschema-uid", "b"),
            ("warning", "299 - \"old\""),
            ("cache-control", "no-cache, private"),
        ] {
            response
                .headers_mut()
                .append(name, HeaderValue::from_static(value));
        }
        Reply::Answer(response)
    })
    .await
    .expect("member");
    let answer = soon(upstream(&member.url()).send(get("/x"), to("/x")))
        .await
        .expect("answer");
    let mut names: Vec<_> = answer.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "audit-id",
            "cache-control",
            "content-length",
            "content-type",
            "date",
            "warning",
            "x-kubernetes-pf-flowschema-uid"
        ]
    );
}

fn header_name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z][a-zA-Z0-9-]{0,20}",
        "(Impersonate|X-Remote|X-Forwarded|X-KubeSphere|Proxy)-[A-Za-z]{1,12}",
        Just("Connection".to_owned()),
        Just("Authorization".to_owned()),
        Just("Accept".to_owned()),
    ]
    // A body that does not come, and an upgrade, are other tests' business.
    .prop_filter("framing", |name| {
        !["content-length", "transfer-encoding", "expect", "upgrade"]
            .contains(&name.to_ascii_lowercase().as_str())
    })
}

#[test]
fn h8_outbound_headers_are_within_the_list_and_the_identity_is_there_once() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    let member = runtime
        .block_on(Member::start(None, |_| answer(200, "text/plain", "")))
        .expect("member");
    let upstream = upstream(&member.url());
    let headers = proptest::collection::vec((header_name(), "[ -~]{0,30}"), 0..12);
    proptest!(ProptestConfig::with_cases(128), |(headers in headers)| {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            // "upgrade" among the tokens of `Connection` asks for something else.
            let value = value.to_ascii_lowercase().replace("upgrade", "");
            map.append(HeaderName::try_from(name).expect("name"), HeaderValue::try_from(value).expect("value"));
        }
        let mut request: Request<Body> = get("/x");
        *request.headers_mut() = map;
        let mut forward = to("/x");
        forward.headers.insert("authorization", HeaderValue::from_static("Bearer caller"));
        runtime.block_on(soon(upstream.send(request, forward))).expect("answer");
        let seen = member.seen().pop().expect("seen");
        prop_assert_eq!(seen.header("authorization"), "Bearer caller");
        for name in seen.headers.keys() {
            prop_assert!(
                kah_net::request_header_passes(name) || name == "authorization" || name == "host",
                "{} arrived", name
            );
        }
    });
}
