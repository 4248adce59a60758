use std::collections::BTreeMap;

use base64::Engine;
use serde_json::{Value, json};

use super::*;
use crate::clock::Clock;

const NOW: i64 = 1_800_000_000;

struct At(i64);

impl Clock for At {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_second(self.0).unwrap()
    }

    fn uptime(&self) -> f64 {
        0.48
    }
}

fn trusting(key: &SigningKey, audience: &str) -> Trusted {
    Trusted::new(
        "kubeaihub:host",
        audience,
        [(key.kid().to_owned(), key.public())],
    )
}

fn at(trusted: &Trusted, token: &str, now: i64) -> Result<String, String> {
    trusted
        .verify(token, GoDuration::from_secs(10), &At(now))
        .map_err(|error| error.to_string())
}

fn good() -> Claims {
    Claims {
        iss: "kubeaihub:host".into(),
        sub: "alice".into(),
        aud: "a".into(),
        exp: Some(NOW + 60),
        nbf: None,
        iat: Some(NOW),
        token_type: "access_token".into(),
        username: "alice".into(),
    }
}

/// A token with any header and payload, signed with the right key.
fn forge(key: &SigningKey, header: &Value, payload: &Value) -> String {
    raw(key, &header.to_string(), &payload.to_string())
}

fn raw(key: &SigningKey, header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", ENGINE.encode(header), ENGINE.encode(payload));
    let signature = ENGINE.encode(key.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

#[test]
fn a_key_is_kept_and_read_again() {
    let key = SigningKey::generate(NOW).unwrap();
    assert!(key.kid().starts_with("1800000000-"), "{}", key.kid());
    let again = SigningKey::from_pem(key.kid(), &key.to_pem().unwrap()).unwrap();
    assert_eq!(again.public(), key.public());
    let token = again.mint("kubeaihub:host", "a", "alice", NOW);
    assert_eq!(
        at(&trusting(&key, "a"), &token, NOW).as_deref(),
        Ok("alice")
    );
    for broken in [
        "",
        "x",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
    ] {
        assert!(SigningKey::from_pem("k", broken).is_err());
    }
}

#[test]
fn t1_a_token_for_a_is_refused_at_b() {
    let key = SigningKey::generate(NOW).unwrap();
    let token = key.mint("kubeaihub:host", "a", "alice", NOW);
    assert_eq!(
        at(&trusting(&key, "a"), &token, NOW).as_deref(),
        Ok("alice")
    );
    assert_eq!(
        at(&trusting(&key, "b"), &token, NOW).unwrap_err(),
        "jwt: token has a wrong aud"
    );
}

#[test]
fn j1_headers_must_be_exactly_ours() {
    let key = SigningKey::generate(NOW).unwrap();
    let other = SigningKey::generate(NOW).unwrap();
    let trusted = trusting(&key, "a");
    let payload = serde_json::to_value(good()).unwrap();
    let kid = key.kid();
    let ours = json!({"alg": "EdDSA", "kid": kid, "typ": "JWT"});
    assert!(at(&trusted, &forge(&key, &ours, &payload), NOW).is_ok());
    for header in [
        json!({"alg": "none", "kid": kid}),
        json!({"alg": "HS256", "kid": kid}),
        json!({"alg": "RS256", "kid": kid}),
        json!({"alg": "eddsa", "kid": kid}),
        json!({"alg": "EdDSA"}),
        json!({"alg": "EdDSA", "kid": ""}),
        json!({"alg": "EdDSA", "kid": format!("../{kid}")}),
        json!({"alg": "EdDSA", "kid": [kid]}),
        json!({"alg": "EdDSA", "kid": kid, "typ": "JWE"}),
        json!({"alg": "EdDSA", "kid": kid, "cty": "JWT"}),
        json!({"alg": "EdDSA", "kid": kid, "crit": ["exp"]}),
        json!({"alg": "EdDSA", "kid": kid, "crit": []}),
        json!({"alg": "EdDSA", "kid": kid, "jwk": other.public().to_jwk(kid)}),
        json!({"alg": "EdDSA", "kid": kid, "jku": "http://evil.example/"}),
        json!({"alg": "EdDSA", "kid": kid, "x5u": "http://evil.example/"}),
        json!(["EdDSA"]),
    ] {
        assert!(
            at(&trusted, &forge(&key, &header, &payload), NOW).is_err(),
            "{header}"
        );
        assert!(
            at(&trusted, &forge(&other, &header, &payload), NOW).is_err(),
            "{header}"
        );
    }
    // Two of a name are none.
    for header in [
        format!(r#"{{"alg":"none","alg":"EdDSA","kid":"{kid}"}}"#),
        format!(r#"{{"alg":"EdDSA","kid":"x","kid":"{kid}"}}"#),
    ] {
        assert!(
            at(&trusted, &raw(&key, &header, &payload.to_string()), NOW).is_err(),
            "{header}"
        );
    }
    let signed_by_another = forge(&other, &ours, &payload);
    assert_eq!(
        at(&trusted, &signed_by_another, NOW).unwrap_err(),
        "signature is invalid"
    );
    let token = forge(&key, &ours, &payload);
    let unsigned = token.rsplit_once('.').unwrap().0;
    for token in [
        format!("{unsigned}."),
        unsigned.to_owned(),
        format!("{token}."),
        format!("{token}.x"),
        format!("{token}="),
        format!(" {token}"),
        "..".to_owned(),
        String::new(),
        "a".repeat(1 << 20),
    ] {
        assert!(at(&trusted, &token, NOW).is_err());
    }
}

#[test]
fn j2_every_claim_is_asked_for() {
    let key = SigningKey::generate(NOW).unwrap();
    let trusted = trusting(&key, "a");
    let header = json!({"alg": "EdDSA", "kid": key.kid(), "typ": "JWT"});
    let refused = |payload: &Value| at(&trusted, &forge(&key, &header, payload), NOW).is_err();
    let payload = serde_json::to_value(good()).unwrap();
    assert!(!refused(&payload));
    for name in ["iss", "sub", "aud", "exp", "iat", "token_type", "username"] {
        let mut without = payload.clone();
        without.as_object_mut().unwrap().remove(name);
        assert!(refused(&without), "without {name}");
        for value in [json!(null), json!(""), json!(1), json!([]), json!("other")] {
            let mut wrong = payload.clone();
            wrong[name] = value.clone();
            assert!(refused(&wrong), "{name}: {value}");
        }
    }
    for (name, value) in [
        ("aud", json!(["a"])),
        ("aud", json!(["a", "b"])),
        ("exp", json!(NOW)),
        ("exp", json!(NOW + 301)),
        ("exp", json!(i64::MAX)),
        ("iat", json!(i64::MIN)),
        ("iat", json!(NOW + 11)),
        ("nbf", json!(NOW + 11)),
        ("sub", json!("admin")),
        ("username", json!("admin")),
        ("token_type", json!("refresh_token")),
        ("token_type", json!("static_token")),
        ("token_type", json!("id_token")),
        ("token_type", json!("code")),
        ("iss", json!("kubeaihub:other")),
    ] {
        let mut wrong = payload.clone();
        wrong[name] = value.clone();
        assert!(refused(&wrong), "{name}: {value}");
    }
}

#[test]
fn times_are_told_in_the_words_of_other_tokens() {
    let key = SigningKey::generate(NOW).unwrap();
    let trusted = trusting(&key, "a");
    let token = key.mint("kubeaihub:host", "a", "alice", NOW);
    assert!(at(&trusted, &token, NOW - 10).is_ok() && at(&trusted, &token, NOW + 69).is_ok());
    assert_eq!(
        at(&trusted, &token, NOW + 70).unwrap_err(),
        "jwt: token is expired by 10s"
    );
    let early = at(&trusted, &token, NOW - 11).unwrap_err();
    assert!(
        early.starts_with("jwt: token used before issued, iat:"),
        "{early}"
    );
}

#[test]
fn j5_a_key_dies_with_the_set_that_leaves_it_out() {
    let (old, new) = (
        SigningKey::generate(1).unwrap(),
        SigningKey::generate(2).unwrap(),
    );
    let public = |key: &SigningKey| (key.kid().to_owned(), key.public());
    let both = Trusted::new("kubeaihub:host", "a", [public(&old), public(&new)]);
    let only = Trusted::new("kubeaihub:host", "a", [public(&new)]);
    let token = |key: &SigningKey| key.mint("kubeaihub:host", "a", "alice", NOW);
    assert!(at(&both, &token(&old), NOW).is_ok() && at(&both, &token(&new), NOW).is_ok());
    assert!(at(&only, &token(&new), NOW).is_ok());
    assert_eq!(
        at(&only, &token(&old), NOW).unwrap_err(),
        "token is signed with a key that is not trusted here"
    );
}

#[test]
fn trust_is_kept_as_text_and_is_for_one_cluster() {
    let key = SigningKey::generate(NOW).unwrap();
    let trusted = trusting(&key, "a");
    let data = trusted.to_data();
    assert_eq!(Trusted::read(&data, "a").unwrap(), trusted);
    assert_eq!(Trusted::read(&data, "b"), Err(TrustError::Audience));
    assert!(!data["keys"].contains("\"d\""), "a private half");
    for (name, value) in [
        ("issuer", ""),
        ("audience", ""),
        ("keys", ""),
        ("keys", "{}"),
        ("keys", r#"{"keys":[{"kty":"oct","k":"AAAA","kid":"x"}]}"#),
        (
            "keys",
            r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA","kid":"x"}]}"#,
        ),
    ] {
        let mut broken: BTreeMap<_, _> = data.clone();
        broken.insert(name.into(), value.into());
        assert!(Trusted::read(&broken, "a").is_err(), "{name}: {value}");
    }
}
