use super::*;
use crate::{cache::MemoryCache, clock::SystemClock};

fn authentication(age: &str) -> Authentication {
    let text =
        format!("authentication: {{jwtSecret: s, oauthOptions: {{accessTokenMaxAge: {age}}}}}");
    let configuration = Configuration::read(&text, &BTreeMap::new()).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let users = Arc::new(Users::default());
    for (name, state) in [("admin", "Active"), ("off", "Disabled")] {
        let mut user = User::new(name, kah_api::iam::UserSpec::default());
        user.spec.email = format!("{name}@example.org");
        user.spec.encrypted_password = bcrypt::hash("P@88w0rd", 4).unwrap();
        user.status = Some(kah_api::iam::UserStatus {
            state: state.into(),
            ..Default::default()
        });
        users.apply(user);
    }
    Authentication::new(
        &configuration,
        Arc::new(MemoryCache::new(Arc::clone(&clock))),
        users,
        clock,
    )
}

async fn refusal(on: &Authentication, header: &str) -> String {
    on.authenticate(Some(header)).await.unwrap_err().to_string()
}

#[tokio::test]
async fn j4_odd_headers_are_refused() {
    let on = authentication("2h");
    for header in ["Bearer", "Bearer  x", "Foo bar", "Basic !!", "Basic YWJj"] {
        assert_eq!(refusal(&on, header).await, "%!s(<nil>)", "{header}");
    }
    assert!(on.authenticate(Some("  ")).await.unwrap().is_anonymous());
    let long = format!("Bearer {}", "a".repeat(1 << 20));
    assert_eq!(
        refusal(&on, &long).await,
        "token contains an invalid number of segments"
    );
}

#[tokio::test]
async fn a_session_from_login_to_logout() {
    let on = authentication("2h");
    let (pair, name) = on
        .password_grant("admin@example.org", "P@88w0rd")
        .await
        .unwrap();
    assert_eq!((name.as_str(), pair.expires_in), ("admin", Some(7200)));
    let header = format!("bearer {}", pair.access);
    assert_eq!(
        on.authenticate(Some(&header)).await.unwrap().groups,
        [AUTHENTICATED]
    );
    // J2: a refresh token opens nothing.
    assert!(
        refusal(&on, &format!("Bearer {}", pair.refresh))
            .await
            .contains("refresh_token")
    );
    assert_eq!(
        on.refresh_grant(&pair.access)
            .await
            .err()
            .unwrap()
            .to_string(),
        "ivalid token type access_token want refresh_token"
    );
    assert!(on.refresh_grant(&pair.refresh).await.is_ok());
    on.revoke_user("admin").await.unwrap();
    assert_eq!(refusal(&on, &header).await, "token not found in cache");
    // The founding story: another ks-apiserver of the same secret refuses with a cache, and accepts without.
    assert_eq!(
        refusal(&authentication("2h"), &header).await,
        "token not found in cache"
    );
    assert!(
        authentication("0")
            .authenticate(Some(&header))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn passwords_are_refused_with_the_texts_of_the_original() {
    let on = authentication("2h");
    for (login, password, text) in [
        ("admin", "wrong", "incorrect password"),
        ("nobody", "P@88w0rd", "incorrect password"),
        ("admin", "", "incorrect password"),
        ("admin", "P@88w0rd\0x", "incorrect password"),
        ("off", "P@88w0rd", "account is not active"),
    ] {
        assert_eq!(
            on.password_grant(login, password)
                .await
                .err()
                .unwrap()
                .to_string(),
            text,
            "{login}"
        );
    }
}
