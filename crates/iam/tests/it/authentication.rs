use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use jiff::Timestamp;
use kah_api::{
    config::Configuration,
    iam::{User, UserSpec, UserStatus},
};
use kah_iam::{Authentication, Clock, MemoryCache, TokenPair, Users};

struct Hands(AtomicI64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap()
    }

    fn uptime(&self) -> f64 {
        0.0
    }
}

struct Server {
    authentication: Authentication,
    users: Arc<Users>,
    hands: Arc<Hands>,
}

const HOST: &str = "{enable: true, clusterRole: host}";
const MEMBER: &str = "{enable: false, clusterRole: member}";

fn configuration(secret: &str, age: &str, role: &str) -> Configuration {
    let text = format!(
        "authentication: {{jwtSecret: {secret}, multipleLogin: true, oauthOptions: {{issuer: {}, accessTokenMaxAge: {age}, accessTokenInactivityTimeout: 2h}}}}\nmulticluster: {role}\n",
        if role == MEMBER {
            "of-the-member"
        } else {
            "of-the-host"
        },
    );
    Configuration::read(&text, &BTreeMap::new()).unwrap()
}

fn user(name: &str, state: &str, password: &str) -> User {
    let mut user = User::new(name, UserSpec::default());
    user.spec.email = format!("{name}@example.com");
    user.spec.groups = vec!["devs".into(), "system:masters".into()];
    if !password.is_empty() {
        user.spec.encrypted_password = bcrypt::hash(password, 4).unwrap();
    }
    user.status = Some(UserStatus {
        state: state.into(),
        ..UserStatus::default()
    });
    user
}

fn server_of(configuration: &Configuration, listed: Vec<User>) -> Server {
    let hands = Arc::new(Hands(AtomicI64::new(1_800_000_000)));
    let clock: Arc<dyn Clock> = hands.clone();
    let users = Arc::new(Users::default());
    users.replace(listed);
    let cache = Arc::new(MemoryCache::new(Arc::clone(&clock)));
    Server {
        authentication: Authentication::new(configuration, cache, Arc::clone(&users), clock),
        users,
        hands,
    }
}

fn server() -> Server {
    server_of(
        &configuration("shared", "2h", HOST),
        vec![
            user("admin", "Active", "P@88w0rd"),
            user("off", "Disabled", "P@88w0rd"),
            user("new", "", "P@88w0rd"),
            user("limited", "AuthLimitExceeded", "P@88w0rd"),
            user("mapped", "Active", ""),
        ],
    )
}

impl Server {
    async fn refusal(&self, header: &str) -> String {
        let rejected = self.authentication.authenticate(Some(header)).await;
        rejected.unwrap_err().to_string()
    }

    async fn login(&self) -> TokenPair {
        let granted = self
            .authentication
            .password_grant("admin", "P@88w0rd")
            .await;
        granted.unwrap().0
    }

    async fn header(&self) -> String {
        format!("Bearer {}", self.login().await.access)
    }

    async fn name(&self, header: &str) -> Option<String> {
        let identity = self.authentication.authenticate(Some(header)).await;
        identity.ok().map(|identity| identity.name)
    }

    async fn refreshed(&self, token: &str) -> Result<TokenPair, String> {
        let granted = self.authentication.refresh_grant(token).await;
        granted.map_err(|error| error.to_string())
    }

    fn wait(&self, seconds: i64) {
        self.hands.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

fn basic(text: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(text))
}

#[tokio::test]
async fn without_a_credential_a_caller_is_anonymous() {
    let server = server();
    for header in [None, Some(""), Some("   ")] {
        let identity = server.authentication.authenticate(header).await.unwrap();
        assert!(identity.is_anonymous());
        assert_eq!(identity.groups, ["system:unauthenticated"]);
    }
}

#[tokio::test]
async fn j4_headers_that_nobody_knows_are_refused_in_the_originals_words() {
    let server = server();
    for header in [
        "Foo bar",
        "Bearer",
        "Bearer ",
        "Bearer  token",
        "Basic !!!",
        &basic("nocolon"),
        "bearer",
    ] {
        let rejected = server.authentication.authenticate(Some(header)).await;
        let error = rejected.unwrap_err();
        assert_eq!(error.to_string(), "%!s(<nil>)", "{header}");
        assert!(!error.is_logged(), "{header}");
    }
    let long = format!("Bearer {}", "a".repeat(1 << 20));
    assert_eq!(
        server.refusal(&long).await,
        "token contains an invalid number of segments"
    );
}

#[tokio::test]
async fn h11_an_object_makes_nobody_a_part_of_the_system() {
    let reserved = ["system:admin", "system:anonymous"];
    let mut listed: Vec<User> = reserved
        .iter()
        .map(|name| user(name, "Active", "P@88w0rd"))
        .collect();
    listed.push(user("ann", "Active", "P@88w0rd"));
    let server = server_of(&configuration("secret", "2h", HOST), listed);
    for name in reserved {
        for login in [name.to_owned(), format!("{name}@example.com")] {
            let grant = server.authentication.password_grant(&login, "P@88w0rd");
            let error = grant.await.err().unwrap();
            assert_eq!(error.to_string(), "incorrect password", "{login}");
        }
    }
    server
        .users
        .apply(user("system:masters", "Active", "P@88w0rd"));
    assert_eq!(server.users.names(), ["ann"]);
    let header = basic("ann:P@88w0rd");
    let identity = server.authentication.authenticate(Some(&header)).await;
    assert_eq!(identity.unwrap().groups, ["devs", "system:authenticated"]);
}

#[tokio::test]
async fn basic_is_the_local_account_by_name_or_mail() {
    let server = server();
    for login in ["admin", "admin@example.com"] {
        let header = basic(&format!("{login}:P@88w0rd"));
        let identity = server.authentication.authenticate(Some(&header)).await;
        let identity = identity.unwrap();
        assert_eq!(identity.name, "admin");
        assert_eq!(identity.groups, ["devs", "system:authenticated"]);
    }
    for (login, text) in [
        ("admin:wrong", "incorrect password"),
        ("nobody:P@88w0rd", "incorrect password"),
        (":", "incorrect password"),
        ("admin:", "incorrect password"),
        ("admin:P@88w0rd\0x", "incorrect password"),
        ("mapped:P@88w0rd", "incorrect password"),
        ("off:P@88w0rd", "account is not active"),
        ("new:P@88w0rd", "account is not active"),
        ("limited:P@88w0rd", "auth rate limit exceeded"),
    ] {
        let header = basic(login);
        let rejected = server.authentication.authenticate(Some(&header)).await;
        let error = rejected.unwrap_err();
        assert_eq!(error.to_string(), text, "{login}");
        assert!(!error.is_logged(), "it was no token: {login}");
    }
}

#[tokio::test]
async fn j7_a_token_opens_requests_until_it_ends_or_is_revoked() {
    let server = server();
    let header = server.header().await.replacen("Bearer", "bEaReR", 1);
    assert_eq!(server.name(&header).await.as_deref(), Some("admin"));
    server.authentication.revoke_user("admin").await.unwrap();
    assert_eq!(server.refusal(&header).await, "token not found in cache");
    server.wait(7200);
    assert_eq!(server.refusal(&header).await, "jwt: token is expired by 0s");
}

#[tokio::test]
async fn the_founding_story_in_one_process() {
    let host = server();
    let header = host.header().await;
    let users = || vec![user("admin", "Active", "P@88w0rd")];
    // A member that looks every token up in its own cache, and one with another secret.
    let member = server_of(&configuration("shared", "2h", MEMBER), users());
    assert_eq!(member.refusal(&header).await, "token not found in cache");
    let stranger = server_of(&configuration("another", "0", MEMBER), users());
    assert_eq!(stranger.refusal(&header).await, "signature is invalid");
    // The cure: the age is set to 0, nothing else.
    let cured = configuration("shared", "0", MEMBER);
    member.authentication.reload(&cured);
    assert_eq!(member.name(&header).await.as_deref(), Some("admin"));
    // Not on a host: it knows its issuer.
    let other = configuration("shared", "0", "{enable: true, clusterRole: host}");
    let other = server_of(&other, users());
    let header = member.header().await;
    assert_eq!(other.refusal(&header).await, "jwt: token has a wrong iss");
}

#[tokio::test]
async fn r8_sessions_outlive_new_settings() {
    let server = server();
    let header = server.header().await;
    let shorter = configuration("shared", "1h", HOST);
    server.authentication.reload(&shorter);
    assert_eq!(server.name(&header).await.as_deref(), Some("admin"));
}

#[tokio::test]
async fn the_user_of_a_token_must_exist_and_not_be_disabled() {
    let host = server();
    let pair = host.login().await;
    let header = format!("Bearer {}", pair.access);
    let member = server_of(&configuration("shared", "0", MEMBER), vec![]);
    for (state, text) in [
        (None, r#"user.iam.kubesphere.io "admin" not found"#),
        (Some("Disabled"), "account is not active"),
    ] {
        if let Some(state) = state {
            member.users.apply(user("admin", state, ""));
        }
        let rejected = member.authentication.authenticate(Some(&header)).await;
        let error = rejected.unwrap_err();
        assert_eq!(error.to_string(), text);
        assert!(error.is_logged(), "a token's rejection: {text}");
        // Nor does such a user get new tokens.
        let refused = member.refreshed(&pair.refresh).await;
        assert_eq!(refused.err().as_deref(), Some(text));
    }
    member.users.apply(user("admin", "AuthLimitExceeded", ""));
    assert_eq!(member.name(&header).await.as_deref(), Some("admin"));
}

#[tokio::test]
async fn j2_a_refresh_token_opens_no_request_and_an_access_token_refreshes_nothing() {
    let server = server();
    let pair = server.login().await;
    let wrong = format!("Bearer {}", pair.refresh);
    let text = "ivalid token type refresh_token want access_token";
    assert_eq!(server.refusal(&wrong).await, text);
    let text = "ivalid token type access_token want refresh_token";
    let refused = server.refreshed(&pair.access).await;
    assert_eq!(refused.err().as_deref(), Some(text));

    server.wait(1);
    let next = server.refreshed(&pair.refresh).await.unwrap();
    assert!(next.access != pair.access && next.expires_in == Some(7200));
    // With several logins the old one goes on; with one it is revoked.
    assert!(server.refreshed(&pair.refresh).await.is_ok());
    let mut single = configuration("shared", "2h", HOST);
    single.authentication.multiple_login = false;
    server.authentication.reload(&single);
    server.wait(1);
    assert!(server.refreshed(&pair.refresh).await.is_ok());
    let refused = server.refreshed(&pair.refresh).await;
    assert_eq!(refused.err().as_deref(), Some("token not found in cache"));
}

#[tokio::test]
async fn j2_the_type_is_judged_before_the_cache_is_asked() {
    let server = server();
    let pair = server.login().await;
    server.authentication.revoke_user("admin").await.unwrap();
    let wrong = format!("Bearer {}", pair.refresh);
    let text = "ivalid token type refresh_token want access_token";
    assert_eq!(server.refusal(&wrong).await, text);
}

#[tokio::test]
async fn s9_a_server_without_max_age_still_issues_tokens_that_end() {
    let users = vec![user("admin", "Active", "P@88w0rd")];
    let server = server_of(&configuration("shared", "0", MEMBER), users);
    let pair = server.login().await;
    assert_eq!(pair.expires_in, Some(7200));
    let header = format!("Bearer {}", pair.access);
    assert_eq!(server.name(&header).await.as_deref(), Some("admin"));
    server.wait(7200);
    assert_eq!(server.refusal(&header).await, "jwt: token is expired by 0s");
    assert!(server.refreshed(&pair.refresh).await.is_ok());
}

#[tokio::test]
async fn an_uninitialized_user_says_so_in_the_token() {
    let mut admin = user("admin", "Active", "P@88w0rd");
    let key = "iam.kubesphere.io/uninitialized".to_owned();
    admin.metadata.annotations = Some([(key, "true".to_owned())].into());
    let server = server_of(&configuration("shared", "2h", HOST), vec![admin]);
    let pair = server.login().await;
    let payload = pair.access.split('.').nth(1).unwrap();
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap();
    let payload = String::from_utf8(payload).unwrap();
    assert!(
        payload.contains(r#""extra":{"uninitialized":["true"]}"#),
        "{payload}"
    );
}
