use proptest::prelude::*;

use super::*;

const FILE: &str = r#"# the host
authentication:
  authenticateRateLimiterMaxTries: 10
  authenticateRateLimiterDuration: 10m0s
  multipleLogin: True
  jwtSecret: "0123456789abcdef"   # keep it
  oauthOptions:
    accessTokenMaxage2: 1h
    accessTokenMaxAge: 0
    clients:
    - name: kubesphere
      secret: kubesphere
      redirectURIs:
      - '*'
    identityProviders:
    - name: gh
      type: GitHubIdentityProvider
      provider: { clientID: abc, clientSecret: sesame, Nested: { bindPassword: x } }
auditing: { webhookURL: "http://x", host: es }
multicluster:
  clusterRole: host
  enable: yes
multicluster:
  clusterRole: member
  enable: on
Terminal: null
"#;

fn read(text: &str) -> Configuration {
    Configuration::read(text, &BTreeMap::new()).unwrap()
}

#[test]
fn a_file_is_read_as_the_original_reads_it() {
    let found = read(FILE);
    assert_eq!(found.validate(), Ok(()));
    assert!(found.authentication.multiple_login);
    assert_eq!(
        found.authentication.jwt_secret.expose(),
        b"0123456789abcdef"
    );
    assert!(
        found
            .authentication
            .oauth_options
            .access_token_max_age
            .is_zero()
    );
    assert_eq!(
        found
            .authentication
            .oauth_options
            .access_token_inactivity_timeout
            .to_string(),
        "2h0m0s"
    );
    assert_eq!(found.multicluster.cluster_role, "member");
    assert!(found.multicluster.enable);
    assert_eq!(found.auditing.webhook_url, "http://x");
    assert_eq!(found.terminal.timeout, 600);
    let client = &found.authentication.oauth_options.clients[0];
    assert_eq!(
        (client.name.as_str(), client.secret()),
        ("kubesphere", "kubesphere")
    );
    assert_eq!(found.findings().len(), 1);
    assert_eq!(
        found.findings()[0].to_string(),
        "line 8: unknown key authentication.oauthOptions.accessTokenMaxage2, did you mean accessTokenMaxAge?"
    );
}

#[test]
fn durations_null_and_weak_types() {
    let age = |text: &str| {
        read(&format!(
            "authentication:\n  oauthOptions:\n    accessTokenMaxAge: {text}\n"
        ))
        .authentication
        .oauth_options
        .access_token_max_age
        .0
    };
    for (text, nanoseconds) in [
        ("0", 0),
        ("0s", 0),
        ("\"0\"", 0),
        ("3600", 3600),
        ("2h", 7_200_000_000_000),
        ("null", 7_200_000_000_000),
    ] {
        assert_eq!(age(text), nanoseconds, "{text}");
    }
    let error = Configuration::read("authentication: {maximumClockSkew: 1d}", &BTreeMap::new())
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("time: unknown unit \"d\" in duration \"1d\""),
        "{error}"
    );
    assert!(Configuration::read("a: [", &BTreeMap::new()).is_err());
    assert_eq!(
        read("").validate(),
        Err(ConfigError::Invalid(vec![
            "JWT secret MUST not be empty".into()
        ]))
    );
    for text in ["y", "yes", "on", "True", "1", "\"true\""] {
        assert!(
            read(&format!("multicluster: {{enable: {text}}}"))
                .multicluster
                .enable,
            "{text}"
        );
    }
}

#[test]
fn the_image_of_agents_is_not_that_of_the_originals_agent() {
    let agent_image = |text: &str| read(text).hub.agent_image.map(|it| it.to_string());
    assert_eq!(
        agent_image("multicluster: {agentImage: 'kubesphere/tower:v1.0'}"),
        None
    );
    assert_eq!(agent_image("hub: {agentImage: ''}"), None);
    let named = "hub: {agentImage: 'registry.example.org/kah:1'}";
    assert_eq!(
        agent_image(named).as_deref(),
        Some("registry.example.org/kah:1")
    );
    let refused = Configuration::read("hub: {agentImage: 'a b'}", &BTreeMap::new());
    let words = refused.unwrap_err().to_string();
    assert!(
        words.contains("hub.agentImage") && words.contains("registry.example.org"),
        "{words}"
    );
}

#[test]
fn the_environment_overrides_keys_that_are_present() {
    let environment = BTreeMap::from([
        (
            "KUBESPHERE_AUTHENTICATION_JWTSECRET".to_owned(),
            "other".to_owned(),
        ),
        (
            "KUBESPHERE_MULTICLUSTER_CLUSTERNAME".to_owned(),
            "nowhere".to_owned(),
        ),
    ]);
    let found = Configuration::read(FILE, &environment).unwrap();
    assert_eq!(found.authentication.jwt_secret.expose(), b"other");
    assert_eq!(found.multicluster.cluster_name, "");
}

#[test]
fn secrets_show_nowhere() {
    let found = read(FILE);
    let view = crate::go_json::pretty(&found.oauth_view(), 1);
    let debug = format!("{found:?}");
    for secret in ["0123456789abcdef", "sesame", "bindPassword"] {
        assert!(!view.contains(secret), "{view}");
        assert!(!debug.contains(secret), "{debug}");
    }
    assert!(view.contains("\"accessTokenMaxAge\": 0"));
    assert!(view.contains("\"clientID\": \"abc\""));
    let secret = JwtSecret::new("a");
    assert_eq!(
        secret.fingerprint(b"k"),
        JwtSecret::new("a").fingerprint(b"k")
    );
    assert_ne!(
        secret.fingerprint(b"k"),
        JwtSecret::new("b").fingerprint(b"k")
    );
    assert_ne!(secret.fingerprint(b"k"), secret.fingerprint(b"l"));
}

#[test]
fn configz_follows_the_sections() {
    let found = read(FILE).configz();
    assert_eq!(found.get("multicluster"), Some(&true));
    assert_eq!(found.get("auditing"), Some(&true));
    assert_eq!(found.get("monitoring"), Some(&false));
    assert_eq!(found.get("network.topology"), None);
}

#[test]
fn an_edit_changes_one_value() {
    let age = ["authentication", "oauthOptions", "accessTokenMaxAge"];
    let secret = ["authentication", "jwtSecret"];
    assert_eq!(
        edit::set(FILE, &age, "2h").unwrap(),
        FILE.replace("accessTokenMaxAge: 0", "accessTokenMaxAge: 2h")
    );
    assert_eq!(
        edit::set(FILE, &secret, "x").unwrap(),
        FILE.replace("0123456789abcdef", "x")
    );
    for (text, expected) in [
        (
            "",
            "authentication:\n  oauthOptions:\n    accessTokenMaxAge: 0\n",
        ),
        (
            "a: 1 # c\n",
            "authentication:\n  oauthOptions:\n    accessTokenMaxAge: 0\na: 1 # c\n",
        ),
        (
            "authentication:\n  x: 1\n",
            "authentication:\n  oauthOptions:\n    accessTokenMaxAge: 0\n  x: 1\n",
        ),
        (
            "authentication:\n  oauthOptions: null\nb: 2\n",
            "authentication:\n  oauthOptions:\n    accessTokenMaxAge: 0\nb: 2\n",
        ),
        (
            "authentication:\n  oauthOptions:\nb: 2\n",
            "authentication:\n  oauthOptions:\n    accessTokenMaxAge: 0\nb: 2\n",
        ),
        (
            "authentication: {oauthOptions: {accessTokenMaxAge: 2h}}",
            "authentication: {oauthOptions: {accessTokenMaxAge: 0}}",
        ),
        (
            "authentication: {x: 1}",
            "authentication: {oauthOptions: {accessTokenMaxAge: 0}, x: 1}",
        ),
        (
            "authentication:\n  oauthOptions:\n    accessTokenMaxAge: '2h'\n",
            "authentication:\n  oauthOptions:\n    accessTokenMaxAge: '0'\n",
        ),
        (
            "Authentication:\n  OAuthOptions:\n    accesstokenmaxage:\n",
            "Authentication:\n  OAuthOptions:\n    accesstokenmaxage: 0\n",
        ),
    ] {
        assert_eq!(
            edit::set(text, &age, "0").as_deref(),
            Ok(expected),
            "{text:?}"
        );
    }
    assert!(edit::set("authentication: []\n", &age, "0").is_err());
}

proptest! {
    #[test]
    fn an_edit_keeps_every_other_byte(secret in "[ -~]{0,40}", before in "[a-z #é]{0,20}", style in 0..3_usize) {
        let written = match style {
            0 => "old".to_owned(),
            1 => "'old'".to_owned(),
            _ => "\"old\"".to_owned(),
        };
        let head = format!("# {before}\nauthentication:\n  multipleLogin: true   # {before}\n  jwtSecret: ");
        let tail = format!("   # {before}\n\nother: [1, 2]\n");
        let found = edit::set(&format!("{head}{written}{tail}"), &["authentication", "jwtSecret"], &secret).unwrap();
        prop_assert!(found.starts_with(&head));
        prop_assert!(found.ends_with(&tail));
        let read = Configuration::read(&found, &BTreeMap::new()).unwrap();
        prop_assert_eq!(read.authentication.jwt_secret.expose(), secret.as_bytes());
    }

    #[test]
    fn any_text_is_read_without_panic(text in any::<String>()) {
        let _ = Configuration::read(&text, &BTreeMap::new());
        let _ = edit::set(&text, &["a", "b"], "c");
    }
}
