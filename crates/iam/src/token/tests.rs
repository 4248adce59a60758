use super::*;

const NOW: i64 = 1_800_000_000;
const ACCESS: &[TokenType] = &[TokenType::Access, TokenType::Static];

struct Fixed(jiff::Timestamp);

impl Clock for Fixed {
    fn now(&self) -> jiff::Timestamp {
        self.0
    }

    fn uptime(&self) -> f64 {
        0.48
    }
}

fn with(secret: &str, now: &str, check_issuer: bool) -> Tokens {
    Tokens::new(
        &JwtSecret::new(secret),
        "kubesphere",
        check_issuer,
        GoDuration::from_secs(10),
        Arc::new(Fixed(now.parse().unwrap())),
    )
}

fn tokens() -> Tokens {
    with("one secret", "2027-01-15T08:00:00Z", true)
}

fn good() -> Claims {
    Claims {
        iss: "kubesphere".into(),
        sub: "admin".into(),
        exp: Some(NOW + 60),
        iat: Some(NOW),
        token_type: "access_token".into(),
        username: "admin".into(),
        ..Claims::default()
    }
}

fn forge(header: &str, payload: &str, secret: &str) -> String {
    let signed = format!("{}.{}", ENGINE.encode(header), ENGINE.encode(payload));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", ENGINE.encode(tag.as_ref()))
}

fn refusal(token: &str) -> String {
    tokens().verify(token, ACCESS).unwrap_err().to_string()
}

fn issued(kind: TokenType) -> String {
    let life = GoDuration::from_secs(7200);
    tokens().issue("admin", kind, &BTreeMap::new(), life)
}

#[test]
fn a_token_has_the_originals_bytes() {
    let token = issued(TokenType::Access);
    let parts: Vec<&str> = token.split('.').collect();
    let decode = |part: &str| String::from_utf8(ENGINE.decode(part).unwrap()).unwrap();
    assert_eq!(decode(parts[0]), r#"{"alg":"HS256","typ":"JWT"}"#);
    assert_eq!(
        decode(parts[1]),
        r#"{"iss":"kubesphere","sub":"admin","exp":1800007200,"iat":1800000000,"token_type":"access_token","username":"admin"}"#
    );
    assert_eq!(token, issued(TokenType::Access), "of one second");
}

#[test]
fn what_is_issued_is_accepted() {
    let extra = BTreeMap::from([("uninitialized".to_owned(), vec!["true".to_owned()])]);
    let life = GoDuration::from_secs(1);
    let token = tokens().issue("admin", TokenType::Access, &extra, life);
    let claims = tokens().verify(&token, ACCESS).unwrap();
    assert_eq!((claims.username.as_str(), claims.extra), ("admin", extra));
}

#[test]
fn malformed_tokens_are_refused_in_gos_words() {
    let header = ENGINE.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let good = issued(TokenType::Access);
    let unsigned = good.rsplit_once('.').unwrap().0;
    for (token, text) in [
        ("", "token contains an invalid number of segments"),
        ("a.b", "token contains an invalid number of segments"),
        ("a.b.c.d", "token contains an invalid number of segments"),
        ("!!!!.b.c", "illegal base64 data at input byte 0"),
        ("a*.b.c", "illegal base64 data at input byte 1"),
        ("ab=.b.c", "illegal base64 data at input byte 2"),
        (
            &format!("{header}.%%.c"),
            "illegal base64 data at input byte 0",
        ),
        (
            &format!("{unsigned}.%"),
            "illegal base64 data at input byte 0",
        ),
        (
            "aGVsbG8.e30.x",
            "invalid character 'h' looking for beginning of value",
        ),
        (&format!("{header}..x"), "unexpected end of JSON input"),
        (&format!("{unsigned}."), "signature is invalid"),
    ] {
        assert_eq!(refusal(token), text, "{token}");
    }
}

#[test]
fn j1_algorithm_tricks_are_refused() {
    let payload = serde_json::to_string(&good()).unwrap();
    for (header, text) in [
        ("{}", "signing method (alg) is unspecified."),
        (r#"{"typ":"JWT"}"#, "signing method (alg) is unspecified."),
        (
            r#"{"alg":"nothing"}"#,
            "signing method (alg) is unavailable.",
        ),
        (r#"{"alg":"none"}"#, "signing method none is invalid"),
        (r#"{"alg":"None"}"#, "signing method (alg) is unavailable."),
        (r#"{"alg":"HS384"}"#, "signing method HS384 is invalid"),
        (r#"{"alg":"ES256"}"#, "signing method ES256 is invalid"),
        (r#"{"alg":"RS256","kid":"1"}"#, "key is of invalid type"),
        (
            r#"{"alg":"HS256","crit":["x"],"x":1}"#,
            "token header crit is not understood",
        ),
    ] {
        let token = forge(header, &payload, "one secret");
        assert_eq!(refusal(&token), text, "{header}");
    }
    for twice in [
        r#"{"alg":"HS256","alg":"none"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
    ] {
        let token = forge(twice, &payload, "one secret");
        assert!(tokens().verify(&token, ACCESS).is_err(), "{twice}");
    }
    // An embedded key, a key's name or address change nothing: the key is the configured one.
    let embedded = r#"{"alg":"HS256","jwk":{"kty":"oct","k":"b3RoZXI"},"jku":"http://127.0.0.1/","kid":"../../etc/passwd"}"#;
    let token = forge(embedded, &payload, "other");
    assert_eq!(refusal(&token), "signature is invalid");
    // A token in a token.
    let nested = format!("{:?}", issued(TokenType::Access));
    let token = forge(r#"{"alg":"HS256","cty":"JWT"}"#, &nested, "one secret");
    assert_eq!(
        refusal(&token),
        "json: cannot unmarshal token into Go value"
    );
}

#[test]
fn another_secret_is_an_invalid_signature() {
    let other = with("other", "2027-01-15T08:00:00Z", true);
    assert_eq!(refusal(&other.sign(&good())), "signature is invalid");
}

#[test]
fn j1_a_signature_has_one_spelling() {
    let token = issued(TokenType::Access);
    // 43 letters hold 256 bits and two more, which a lenient reader does not look at.
    let last = token.chars().last().unwrap();
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = letters.find(last).unwrap();
    assert_eq!(at % 4, 0, "as issued");
    for other in 1..4 {
        let letter = letters.get(at + other..=at + other).unwrap();
        let changed = format!("{}{letter}", token.get(..token.len() - 1).unwrap());
        assert_eq!(refusal(&changed), "signature is invalid", "{other}");
    }
}

#[test]
fn j2_times_and_claims_are_checked() {
    type Case = (&'static str, fn(&mut Claims), &'static str);
    let cases: [Case; 12] = [
        (
            "over",
            |c| c.exp = Some(NOW - 90),
            "jwt: token is expired by 1m30s",
        ),
        (
            "just over",
            |c| c.exp = Some(NOW),
            "jwt: token is expired by 0s",
        ),
        ("no exp", |c| c.exp = None, "jwt: token has no exp"),
        ("no iat", |c| c.iat = None, "jwt: token has no iat"),
        (
            "not yet",
            |c| c.nbf = Some(NOW + 30),
            "jwt: token is not valid yet",
        ),
        (
            "issuer",
            |c| c.iss = "other".into(),
            "jwt: token has a wrong iss",
        ),
        (
            "audience",
            |c| c.aud = vec!["x".into()],
            "jwt: token has a wrong aud",
        ),
        (
            "subject",
            |c| c.sub = "other".into(),
            "jwt: token subject and username differ",
        ),
        (
            "name",
            |c| c.username = String::new(),
            "jwt: token has no username",
        ),
        (
            "refresh",
            |c| c.token_type = "refresh_token".into(),
            "ivalid token type refresh_token want access_token",
        ),
        (
            "code",
            |c| c.token_type = "code".into(),
            "ivalid token type code want access_token",
        ),
        (
            "no type",
            |c| c.token_type = String::new(),
            "ivalid token type unknown want access_token",
        ),
    ];
    for (name, change, text) in cases {
        let mut claims = good();
        change(&mut claims);
        assert_eq!(refusal(&tokens().sign(&claims)), text, "{name}");
    }
    let mut early = good();
    early.iat = Some(NOW + 11);
    assert_eq!(
        refusal(&tokens().sign(&early)),
        "jwt: token used before issued, iat:2027-01-15 08:00:11 +0000 UTC, now:2027-01-15 08:00:00 +0000 UTC m=+0.480000000"
    );
    early.iat = Some(NOW + 10);
    let within = tokens().sign(&early);
    assert!(tokens().verify(&within, ACCESS).is_ok(), "the skew");
}

#[test]
fn a_member_takes_tokens_of_a_host_whose_issuer_it_does_not_know() {
    let mut claims = good();
    claims.iss = "https://host.example".into();
    let member = with("one secret", "2027-01-15T08:00:00Z", false);
    let token = tokens().sign(&claims);
    assert!(member.verify(&token, ACCESS).is_ok());
    assert_eq!(refusal(&token), "jwt: token has a wrong iss");
}

#[test]
fn expiry_is_told_to_the_nanosecond() {
    let mut claims = good();
    claims.exp = Some(NOW - 91);
    let token = tokens().sign(&claims);
    let later = with("one secret", "2027-01-15T07:59:59.562730594Z", true);
    assert_eq!(
        later.verify(&token, ACCESS).unwrap_err().to_string(),
        "jwt: token is expired by 1m30.562730594s"
    );
}

#[test]
fn only_a_static_token_may_be_without_an_end() {
    let fixed = r#"{"email":"x","username":"admin","token_type":"static_token"}"#;
    let token = forge(r#"{"typ":"JWT","alg":"HS256"}"#, fixed, "one secret");
    let claims = tokens().verify(&token, ACCESS).unwrap();
    assert_eq!(claims.token_type, "static_token");
    for kind in [TokenType::Access, TokenType::Refresh, TokenType::Code] {
        let token = tokens().issue("a", kind, &BTreeMap::new(), GoDuration::ZERO);
        assert_eq!(
            tokens().verify(&token, &[kind]),
            Err(TokenError::MissingClaim("exp")),
            "{kind:?}"
        );
    }
}

#[test]
fn j2_each_type_is_taken_for_itself_only() {
    let types = [
        TokenType::Access,
        TokenType::Refresh,
        TokenType::Code,
        TokenType::Id,
        TokenType::Static,
    ];
    for made in types {
        let token = issued(made);
        for wanted in types {
            assert_eq!(
                tokens().verify(&token, &[wanted]).is_ok(),
                made == wanted,
                "{made:?} as {wanted:?}"
            );
        }
    }
}

#[test]
fn j4_a_huge_token_is_refused_unread() {
    let letters = "a".repeat(1 << 20);
    assert_eq!(
        refusal(&letters),
        "token contains an invalid number of segments"
    );
    assert_eq!(
        refusal(&format!("{letters}.b.c")),
        "token is longer than 16384 bytes"
    );
}

#[test]
fn numbers_may_have_fractions_and_the_audience_may_be_one_string() {
    let token = |rest: &str| {
        let payload = format!(
            r#"{{"exp":{}.9,"iat":{NOW}.5,"iss":"kubesphere","token_type":"access_token","username":"a"{rest}}}"#,
            NOW + 1
        );
        forge(r#"{"alg":"HS256"}"#, &payload, "one secret")
    };
    let claims = tokens().verify(&token(""), ACCESS).unwrap();
    assert_eq!(claims.exp, Some(NOW + 1));
    assert_eq!(
        refusal(&token(r#","aud":"x""#)),
        "jwt: token has a wrong aud"
    );
    assert_eq!(
        refusal(&token(r#","username":"b""#)),
        "json: cannot unmarshal token into Go value",
        "one claim twice"
    );
}

#[test]
fn d1_debug_shows_no_key() {
    let shown = format!("{:?}", with("very secret", "2027-01-15T08:00:00Z", true));
    assert!(shown.contains("kubesphere") && !shown.contains("secret"));
}

proptest::proptest! {
    #[test]
    fn a_changed_token_is_never_accepted(position in 0usize..400, byte in 0u8..=127) {
        let token = issued(TokenType::Access);
        let mut bytes = token.clone().into_bytes();
        let position = position % bytes.len();
        if bytes[position] != byte {
            bytes[position] = byte;
            let changed = String::from_utf8(bytes).unwrap();
            proptest::prop_assert!(tokens().verify(&changed, ACCESS).is_err());
        }
    }

    #[test]
    fn any_text_is_refused(text in ".{0,200}", header in ".{0,40}", payload in ".{0,80}") {
        proptest::prop_assert!(tokens().verify(&text, ACCESS).is_err());
        let signed = forge(&header, &payload, "one secret");
        proptest::prop_assert!(tokens().verify(&signed, ACCESS).is_err());
    }
}
