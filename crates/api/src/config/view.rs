//! What the API shows of the configuration (configuration.md §6).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Configuration, OauthClient, reader::Section};

impl Configuration {
    /// `configs/configz`: which components there are, keys sorted.
    #[must_use]
    pub fn configz(&self) -> BTreeMap<String, bool> {
        let root = Section::root(&self.raw.0);
        let has = |section: &str, keys: &[&str]| {
            root.section(section)
                .is_ok_and(|section| keys.iter().any(|key| section.has(key)))
        };
        let mut found: BTreeMap<String, bool> = [
            "authentication",
            "authorization",
            "kubernetes",
            "gateway",
            "metering",
            "terminal",
            "openpitrix",
        ]
        .into_iter()
        .map(|name| (name.to_owned(), true))
        .collect();
        let mut put = |name: &str, value: bool| {
            found.insert(name.to_owned(), value);
        };
        put("cache", !self.cache.kind.is_empty());
        put("multicluster", self.multicluster.enable);
        for name in ["devops", "sonarqube", "events", "logging", "auditing"] {
            put(name, has(name, &["host"]));
        }
        for name in [
            "monitoring",
            "notification",
            "kubeedge",
            "edgeruntime",
            "s3",
        ] {
            put(name, has(name, &["endpoint"]));
        }
        put(
            "alerting",
            has(
                "alerting",
                &["endpoint", "prometheusEndpoint", "thanosRulerEndpoint"],
            ),
        );
        put(
            "servicemesh",
            has(
                "servicemesh",
                &[
                    "istioPilotHost",
                    "servicemeshPrometheusHost",
                    "jaegerQueryHost",
                ],
            ),
        );
        put("gpu", !self.gpu_kinds().is_empty());
        let appstore = root
            .section("openpitrix")
            .and_then(|section| section.section("s3"))
            .is_ok_and(|section| section.has("endpoint"));
        put("openpitrix.appstore", appstore);
        if let Ok(network) = root.section("network") {
            put(
                "network",
                network.flag("enableNetworkPolicy", false).unwrap_or(false),
            );
            put(
                "network.ippool",
                network
                    .text("ippoolType", "none")
                    .is_ok_and(|kind| kind != "none"),
            );
            if !network.is_empty() {
                put("network.topology", network.has("weaveScopeHost"));
            }
        }
        found
    }

    /// `configs/oauth`: the live options without secrets (differences.md S11: no signing key either).
    #[must_use]
    pub fn oauth_view(&self) -> Value {
        let options = &self.authentication.oauth_options;
        let mut view = Map::new();
        put_text(&mut view, "issuer", &options.issuer);
        put_text(&mut view, "signKey", &options.sign_key);
        let providers: Vec<Value> = options
            .identity_providers
            .iter()
            .map(|provider| {
                json!({
                    "name": provider.name,
                    "mappingMethod": provider.mapping_method,
                    "disableLoginConfirmation": provider.disable_login_confirmation,
                    "type": provider.kind,
                    "provider": without_secrets(&provider.provider.0),
                })
            })
            .collect();
        if !providers.is_empty() {
            view.insert("identityProviders".to_owned(), Value::Array(providers));
        }
        let clients: Vec<Value> = options.clients.iter().map(client).collect();
        if !clients.is_empty() {
            view.insert("clients".to_owned(), Value::Array(clients));
        }
        view.insert(
            "accessTokenMaxAge".to_owned(),
            json!(options.access_token_max_age.0),
        );
        view.insert(
            "accessTokenInactivityTimeout".to_owned(),
            json!(options.access_token_inactivity_timeout.0),
        );
        Value::Object(view)
    }
}

fn client(client: &OauthClient) -> Value {
    let mut view = Map::new();
    put_text(&mut view, "name", &client.name);
    if client.respond_with_challenges {
        view.insert("respondWithChallenges".to_owned(), json!(true));
    }
    if !client.redirect_uris.is_empty() {
        view.insert("redirectURIs".to_owned(), json!(client.redirect_uris));
    }
    put_text(&mut view, "grantMethod", &client.grant_method);
    if !client.scope_restrictions.is_empty() {
        view.insert(
            "scopeRestrictions".to_owned(),
            json!(client.scope_restrictions),
        );
    }
    if let Some(age) = client.access_token_max_age {
        view.insert("accessTokenMaxAge".to_owned(), json!(age.0));
    }
    if let Some(timeout) = client.access_token_inactivity_timeout {
        view.insert("accessTokenInactivityTimeout".to_owned(), json!(timeout.0));
    }
    Value::Object(view)
}

fn put_text(view: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        view.insert(key.to_owned(), Value::String(text.to_owned()));
    }
}

/// Leaves out every key that names a secret, at any depth, within lists too.
fn without_secrets(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(key, _)| {
                    let key = key.to_lowercase();
                    !["password", "secret", "privatekey", "token"]
                        .iter()
                        .any(|word| key.contains(word) && !key.ends_with("url"))
                })
                .map(|(key, value)| (key.clone(), without_secrets(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_secrets).collect()),
        other => other.clone(),
    }
}
