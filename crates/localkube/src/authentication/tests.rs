use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::service_account::{Reference, TokenKey, TokenSpec};

const NOW: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// The stored objects: (resource, namespace, name, uid).
struct Stored(Mutex<Vec<(&'static str, &'static str, &'static str, &'static str)>>);

impl Accounts for Stored {
    fn uid(&self, resource: &str, namespace: &str, name: &str) -> Option<String> {
        let stored = self.0.lock().unwrap();
        stored
            .iter()
            .find(|(r, ns, n, _)| (*r, *ns, *n) == (resource, namespace, name))
            .map(|(.., uid)| (*uid).to_owned())
    }
}

struct Fixture {
    authority: Arc<Authority>,
    stored: Arc<Stored>,
    authenticator: Authenticator,
}

fn fixture() -> Fixture {
    let authority = Arc::new(Authority::in_memory("ca", at(NOW)).unwrap());
    let stored = Arc::new(Stored(Mutex::new(vec![
        ("serviceaccounts", "t", "bob", "u1"),
        ("pods", "t", "p", "u2"),
    ])));
    let role = json!({"metadata": {"name": "imp"}, "rules": [
        {"apiGroups": [""], "resources": ["users"], "resourceNames": ["eve"], "verbs": ["impersonate"]},
        {"apiGroups": [""], "resources": ["groups"], "resourceNames": ["g"], "verbs": ["impersonate"]},
    ]});
    let binding = json!({"metadata": {"name": "imp"}, "roleRef": {"kind": "ClusterRole", "name": "imp"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "t", "name": "bob"}]});
    let policy = Policy::from_objects(&[role], &[], &[binding], &[]);
    let accounts: Arc<dyn Accounts> = Arc::clone(&stored) as _;
    let authenticator = Authenticator::new(
        Arc::clone(&authority),
        accounts,
        Arc::new(ArcSwap::from_pointee(policy)),
        Arc::new(|| at(NOW)),
    )
    .with_static_tokens(vec![StaticToken {
        token: "static".to_owned(),
        user: User {
            name: "root".to_owned(),
            groups: vec!["system:masters".to_owned()],
            ..User::default()
        },
    }]);
    Fixture {
        authority,
        stored,
        authenticator,
    }
}

fn token(key: &TokenKey, pod: bool, audiences: &[&str], issued: i64) -> String {
    let audiences: Vec<String> = audiences
        .iter()
        .map(|audience| (*audience).to_owned())
        .collect();
    let reference = |name: &str, uid: &str| Reference {
        name: name.to_owned(),
        uid: uid.to_owned(),
    };
    key.issue(
        TokenSpec {
            namespace: "t",
            account: reference("bob", "u1"),
            pod: pod.then(|| reference("p", "u2")),
            secret: None,
            audiences: &audiences,
            life: Duration::from_secs(600),
        },
        at(issued),
    )
    .unwrap()
}

fn ask(fixture: &Fixture, path: &str, headers: &[(&str, &str)]) -> Result<User, ApiError> {
    let mut request = http::Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    fixture
        .authenticator
        .authenticate(&request.body(()).unwrap().into_parts().0)
}

fn bear(fixture: &Fixture, token: &str) -> Result<User, ApiError> {
    ask(
        fixture,
        "/api",
        &[("authorization", &format!("Bearer {token}"))],
    )
}

#[test]
fn tokens_of_this_cluster_count_while_what_they_are_bound_to_lives() {
    let fixture = fixture();
    let key = fixture.authority.token_key();
    let user = bear(&fixture, &token(key, true, &[], NOW)).unwrap();
    assert_eq!(user.name, "system:serviceaccount:t:bob");
    assert_eq!(
        user.groups,
        [
            "system:serviceaccounts",
            "system:serviceaccounts:t",
            "system:authenticated"
        ]
    );
    assert!(user.extra.contains(&(
        "authentication.kubernetes.io/pod-name".to_owned(),
        vec!["p".to_owned()]
    )));

    let other = Authority::in_memory("ca", at(NOW)).unwrap();
    let good = token(key, true, &[], NOW);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let unsigned = "eyJhbGciOiJub25lIn0";
    for (what, bad) in [
        ("expired", token(key, false, &[], NOW - 601)),
        ("not yet valid", token(key, false, &[], NOW + 60)),
        (
            "another cluster's",
            token(other.token_key(), false, &[], NOW),
        ),
        ("another audience's", token(key, false, &["x"], NOW)),
        ("tampered", format!("{header}.e30.{signature}")),
        (
            "unsigned",
            format!("{unsigned}.{}.", head.split_once('.').unwrap().1),
        ),
        ("truncated", head.to_owned()),
        ("no token", "abc".to_owned()),
        ("oversized", "a".repeat(100_000)),
    ] {
        let error = bear(&fixture, &bad).unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (401, "Unauthorized"),
            "{what}"
        );
    }

    let (bound, free) = (token(key, true, &[], NOW), token(key, false, &[], NOW));
    fixture.stored.0.lock().unwrap()[1].3 = "another pod of the name";
    assert!(bear(&fixture, &bound).is_err() && bear(&fixture, &free).is_ok());
    fixture.stored.0.lock().unwrap()[0].3 = "another account of the name";
    assert!(bear(&fixture, &free).is_err());
}

#[test]
fn the_anonymous_see_little() {
    let fixture = fixture();
    for (path, allowed) in [
        ("/healthz", true),
        ("/livez", true),
        ("/readyz/ping", true),
        ("/version", true),
        ("/version/x", false),
        ("/healthzz", false),
        ("/api", false),
        ("/apis", false),
        ("/", false),
        ("/metrics", false),
        ("/api/v1/pods", false),
    ] {
        let answer = ask(&fixture, path, &[]);
        assert_eq!(answer.is_ok(), allowed, "{path}");
        if let Ok(user) = answer {
            assert_eq!(user.name, "system:anonymous");
        }
    }
    assert!(ask(&fixture, "/healthz", &[("authorization", "Basic YTpi")]).is_err());
    assert_eq!(bear(&fixture, "static").unwrap().name, "root");
}

#[test]
fn certificates_name_user_and_groups() {
    let fixture = fixture();
    let issued = fixture
        .authority
        .client_certificate("eve", &["a", "b"], at(NOW))
        .unwrap();
    use rustls::pki_types::pem::PemObject;
    let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
    let mut request = http::Request::builder().uri("/api").body(()).unwrap();
    request
        .extensions_mut()
        .insert(PeerCertificates(Arc::new(vec![der])));
    let user = fixture
        .authenticator
        .authenticate(&request.into_parts().0)
        .unwrap();
    assert_eq!(user.name, "eve");
    assert_eq!(user.groups, ["a", "b", "system:authenticated"]);
}

#[test]
fn impersonation_needs_leave_for_each_part() {
    let fixture = fixture();
    let bearer = format!(
        "Bearer {}",
        token(fixture.authority.token_key(), false, &[], NOW)
    );
    let act = |headers: &[(&str, &str)]| {
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        ask(&fixture, "/api", &all)
    };
    let eve = act(&[("impersonate-user", "eve"), ("impersonate-group", "g")]).unwrap();
    assert_eq!(
        (eve.name.as_str(), eve.groups),
        (
            "eve",
            vec!["g".to_owned(), "system:authenticated".to_owned()]
        )
    );
    for (headers, code) in [
        (vec![("impersonate-user", "root")], 403),
        (
            vec![
                ("impersonate-user", "eve"),
                ("impersonate-group", "system:masters"),
            ],
            403,
        ),
        (
            vec![("impersonate-user", "eve"), ("impersonate-uid", "1")],
            403,
        ),
        (
            vec![
                ("impersonate-user", "eve"),
                ("impersonate-extra-scopes", "x"),
            ],
            403,
        ),
        (
            vec![("impersonate-user", "system:serviceaccount:t:admin")],
            403,
        ),
        (vec![("impersonate-group", "g")], 400),
        (vec![("impersonate-extra-foo", "a")], 400),
    ] {
        assert_eq!(act(&headers).unwrap_err().code, code, "{headers:?}");
    }
    let error = act(&[("impersonate-group", "a")]).unwrap_err();
    assert_eq!(
        error.message,
        "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"a\"}, Extra:map[string][]string(nil)} without impersonating a user name"
    );
    let masters = [
        ("authorization", "Bearer static"),
        ("impersonate-user", "anyone"),
        ("impersonate-group", "x"),
    ];
    assert_eq!(ask(&fixture, "/api", &masters).unwrap().name, "anyone");
    assert!(
        ask(&fixture, "/healthz", &[("impersonate-user", "root")]).is_err(),
        "the anonymous are no one else"
    );
}
