use super::*;

struct Fixed(jiff::Timestamp);

impl Clock for Fixed {
    fn now(&self) -> jiff::Timestamp {
        self.0
    }

    fn uptime(&self) -> f64 {
        0.48
    }
}

fn at(seconds: i64, secret: &str, age: i64) -> Tokens {
    let clock = Arc::new(Fixed(jiff::Timestamp::from_second(seconds).unwrap()));
    let skew = GoDuration::from_secs(10);
    Tokens::new(
        &JwtSecret::new(secret),
        "kubesphere",
        skew,
        GoDuration::from_secs(age),
        clock,
    )
}

fn signed(tokens: &Tokens, header: &str, payload: &str) -> String {
    let text = format!("{}.{}", ENGINE.encode(header), ENGINE.encode(payload));
    let tag = hmac::sign(&tokens.key, text.as_bytes());
    format!("{text}.{}", ENGINE.encode(tag.as_ref()))
}

#[test]
fn tokens_of_one_second_are_identical_and_verify() {
    let tokens = at(1_700_000_000, "s", 7200);
    let issue = || {
        tokens.issue(
            "admin",
            TokenType::Access,
            &BTreeMap::new(),
            GoDuration::from_secs(60),
        )
    };
    assert_eq!(issue(), issue());
    let payload = issue()
        .split('.')
        .nth(1)
        .map(|part| ENGINE.decode(part).unwrap())
        .unwrap();
    assert_eq!(
        String::from_utf8(payload).unwrap(),
        r#"{"iss":"kubesphere","sub":"admin","exp":1700000060,"iat":1700000000,"token_type":"access_token","username":"admin"}"#
    );
    assert_eq!(tokens.verify(&issue()).unwrap().username, "admin");
}

#[test]
fn j1_j2_forged_and_stale_tokens_have_the_texts_of_the_original() {
    let tokens = at(1_700_000_000, "s", 7200);
    let good = r#"{"sub":"a","exp":1700000060,"iat":1700000000,"token_type":"access_token","username":"a"}"#;
    let hs256 = r#"{"alg":"HS256"}"#;
    let token = |header: &str, payload: &str| signed(&tokens, header, payload);
    for (token, text) in [
        (
            String::new(),
            "token contains an invalid number of segments",
        ),
        (
            "a.b".to_owned(),
            "token contains an invalid number of segments",
        ),
        ("a*.b.c".to_owned(), "illegal base64 data at input byte 1"),
        (token("{}", good), "signing method (alg) is unspecified."),
        (
            token(r#"{"alg":"XX"}"#, good),
            "signing method (alg) is unavailable.",
        ),
        (
            token(r#"{"alg":"none"}"#, good),
            "signing method none is invalid",
        ),
        (
            token(r#"{"alg":"HS384"}"#, good),
            "signing method HS384 is invalid",
        ),
        (token(r#"{"alg":"RS256"}"#, good), "key is of invalid type"),
        (
            token(r#"{"alg":"HS256","crit":["x"]}"#, good),
            "token header crit is not understood",
        ),
        (
            signed(&at(0, "other", 1), hs256, good),
            "signature is invalid",
        ),
        (
            token(hs256, r#"{"exp":1699999909,"iat":1,"username":"a"}"#),
            "jwt: token is expired by 1m31s",
        ),
        (
            token(
                hs256,
                r#"{"iat":1700000090,"exp":1800000000,"username":"a"}"#,
            ),
            "jwt: token used before issued, iat:2023-11-14 22:14:50 +0000 UTC, now:2023-11-14 22:13:20 +0000 UTC m=+0.480000000",
        ),
        (
            token(hs256, r#"{"iat":1,"username":"a"}"#),
            "jwt: token has no exp",
        ),
        (
            token(hs256, r#"{"exp":1800000000,"username":"a"}"#),
            "jwt: token has no iat",
        ),
        (
            token(
                hs256,
                r#"{"exp":1800000000,"iat":1,"sub":"b","username":"a"}"#,
            ),
            "jwt: token subject and username differ",
        ),
    ] {
        assert_eq!(
            tokens.verify(&token).unwrap_err().to_string(),
            text,
            "{token}"
        );
    }
    assert!(tokens.verify(&token(hs256, good)).is_ok());
    assert!(
        tokens
            .verify(&token(r#"{"alg":"HS256","alg":"none"}"#, good))
            .is_err()
    );
    let endless = signed(&tokens, hs256, r#"{"iat":1,"username":"a"}"#);
    assert!(at(1_700_000_000, "s", 0).verify(&endless).is_ok());
    let fixed = signed(
        &tokens,
        hs256,
        r#"{"email":"x","username":"admin","token_type":"static_token"}"#,
    );
    assert!(tokens.verify(&fixed).is_ok());
}
