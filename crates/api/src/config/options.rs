//! The sections that this program acts on, with the original's defaults.

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::{ConfigError, Configuration, Finding, JwtSecret, Raw, reader::Section};
use crate::{
    image::{Image, NoImage},
    network::{Network, NoNetwork},
    time::GoDuration,
};

/// Section `authentication`.
#[derive(Debug, Clone)]
pub struct Authentication {
    /// Signs every token but id tokens.
    pub jwt_secret: JwtSecret,
    /// How far `iat` may lie in the future; not applied to `exp`.
    pub maximum_clock_skew: GoDuration,
    /// Whether a user may have several sessions.
    pub multiple_login: bool,
    /// Failed logins that block a user.
    pub authenticate_rate_limiter_max_tries: i64,
    /// Window of those failures, and length of the block.
    pub authenticate_rate_limiter_duration: GoDuration,
    /// How long login records are kept.
    pub login_history_retention_period: GoDuration,
    /// How many login records a user are kept.
    pub login_history_maximum_entries: i64,
    /// Image of the kubectl Pod.
    pub kubectl_image: String,
    /// Section `oauthOptions`.
    pub oauth_options: OauthOptions,
}

/// Section `authentication.oauthOptions`.
#[derive(Debug, Clone)]
pub struct OauthOptions {
    /// `iss` of every token.
    pub issuer: String,
    /// Life of access tokens; zero: they carry no `exp` and the cache is not asked. Members need zero.
    pub access_token_max_age: GoDuration,
    /// Added to the former for the life of refresh tokens.
    pub access_token_inactivity_timeout: GoDuration,
    /// File of the key that signs id tokens.
    pub sign_key: String,
    /// The same, inline.
    pub sign_key_data: SecretString,
    /// Identity providers.
    pub identity_providers: Vec<IdentityProvider>,
    /// Clients; none is built in.
    pub clients: Vec<OauthClient>,
}

/// An item of `identityProviders`.
#[derive(Debug, Clone)]
pub struct IdentityProvider {
    /// Unique name.
    pub name: String,
    /// For example `GitHubIdentityProvider`.
    pub kind: String,
    /// How its users become ours.
    pub mapping_method: String,
    /// Whether to skip the confirmation.
    pub disable_login_confirmation: bool,
    /// What its type wants. Holds secrets.
    pub(super) provider: Raw,
}

/// An item of `clients`.
#[derive(Debug, Clone)]
pub struct OauthClient {
    /// `client_id`.
    pub name: String,
    secret: SecretString,
    /// Where it may be redirected to.
    pub redirect_uris: Vec<String>,
    /// Shown, without effect.
    pub respond_with_challenges: bool,
    /// Shown, without effect.
    pub grant_method: String,
    /// Shown, without effect.
    pub scope_restrictions: Vec<String>,
    /// Shown, without effect.
    pub access_token_max_age: Option<GoDuration>,
    /// Shown, without effect.
    pub access_token_inactivity_timeout: Option<GoDuration>,
}

impl OauthClient {
    /// `client_secret`; compare in constant time.
    #[must_use]
    pub fn secret(&self) -> &str {
        self.secret.expose_secret()
    }
}

/// Section `multicluster`.
#[derive(Debug, Clone)]
pub struct Multicluster {
    /// Whether requests are dispatched to members.
    pub enable: bool,
    /// `host`, `member`, or something else.
    pub cluster_role: String,
    /// Name of the host's own Cluster object.
    pub host_cluster_name: String,
    /// This cluster's own name.
    pub cluster_name: String,
    /// Public address for the original's agents.
    pub proxy_publish_address: String,
    /// The Service that publishes one, `NAME[.NAMESPACE[.svc]]`.
    pub proxy_publish_service: String,
    /// Image of the original's agent.
    pub agent_image: String,
    /// How often every Cluster is looked at.
    pub cluster_controller_resync_period: GoDuration,
}

/// Section `hub`, which is ours (differences.md A7).
#[derive(Debug, Clone, Default)]
pub struct Hub {
    /// Addresses that clusters may have although they are of this machine, of its link or the like.
    pub allowed_addresses: Vec<Network>,
    /// Image of this program for agents; none: that of this release. `multicluster.agentImage` is the original's agent, another program.
    pub agent_image: Option<Image>,
}

/// Section `cache`.
#[derive(Debug, Clone)]
pub struct Cache {
    /// `InMemoryCache` or `redis`.
    pub kind: String,
    /// How often expired entries are swept.
    pub cleanup_period: GoDuration,
}

/// Section `kubernetes`.
#[derive(Debug, Clone)]
pub struct Kubernetes {
    /// File of a kubeconfig; empty: in-cluster.
    pub kubeconfig: String,
    /// Public address for kubeconfigs made for users.
    pub master: String,
}

/// Section `terminal`.
#[derive(Debug, Clone)]
pub struct Terminal {
    /// Image of the node-shell Pod.
    pub image: String,
    /// Seconds that it lives.
    pub timeout: i64,
}

/// Section `auditing`.
#[derive(Debug, Clone)]
pub struct Auditing {
    /// Whether requests are audited.
    pub enable: bool,
    /// Where events go.
    pub webhook_url: String,
}

/// An item of `gpu.kinds`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuKind {
    /// For example `nvidia.com/gpu`.
    pub resource_name: String,
    /// For example `GPU`.
    pub resource_type: String,
    /// Whether it is offered first.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
}

const TWO_HOURS: GoDuration = GoDuration::from_secs(7200);

pub(super) fn read(raw: Raw, findings: Vec<Finding>) -> Result<Configuration, ConfigError> {
    let root = Section::root(&raw.0);
    let section = root.section("authentication")?;
    let duration = |section: &Section<'_>, key: &str, seconds: i64| {
        Ok::<_, ConfigError>(
            section
                .duration(key)?
                .unwrap_or(GoDuration::from_secs(seconds)),
        )
    };
    let authentication = Authentication {
        jwt_secret: JwtSecret::new(section.text("jwtSecret", "")?),
        maximum_clock_skew: duration(&section, "maximumClockSkew", 10)?,
        multiple_login: section.flag("multipleLogin", false)?,
        authenticate_rate_limiter_max_tries: section
            .number("authenticateRateLimiterMaxTries", 5)?,
        authenticate_rate_limiter_duration: duration(
            &section,
            "authenticateRateLimiterDuration",
            1800,
        )?,
        login_history_retention_period: duration(
            &section,
            "loginHistoryRetentionPeriod",
            168 * 3600,
        )?,
        login_history_maximum_entries: section.number("loginHistoryMaximumEntries", 100)?,
        kubectl_image: section.text("kubectlImage", "kubesphere/kubectl:v1.0.0")?,
        oauth_options: oauth(&section.section("oauthOptions")?)?,
    };
    let multicluster = root.section("multicluster")?;
    let cache = root.section("cache")?;
    let kubernetes = root.section("kubernetes")?;
    let terminal = root.section("terminal")?;
    let auditing = root.section("auditing")?;
    Ok(Configuration {
        authentication,
        authorization_mode: root.section("authorization")?.text("mode", "RBAC")?,
        multicluster: Multicluster {
            enable: multicluster.flag("enable", false)?,
            cluster_role: multicluster.text("clusterRole", "")?,
            host_cluster_name: multicluster.text("hostClusterName", "host")?,
            cluster_name: multicluster.text("clusterName", "")?,
            proxy_publish_address: multicluster.text("proxyPublishAddress", "")?,
            proxy_publish_service: multicluster.text("proxyPublishService", "")?,
            agent_image: multicluster.text("agentImage", "kubesphere/tower:v1.0")?,
            cluster_controller_resync_period: duration(
                &multicluster,
                "clusterControllerResyncPeriod",
                120,
            )?,
        },
        hub: Hub {
            allowed_addresses: networks(&root.section("hub")?, "allowedAddresses")?,
            agent_image: image(&root.section("hub")?, "agentImage")?,
        },
        cache: Cache {
            kind: cache.text("type", "InMemoryCache")?,
            cleanup_period: duration(&cache.section("options")?, "cleanupPeriod", 7200)?,
        },
        kubernetes: Kubernetes {
            kubeconfig: kubernetes.text("kubeconfig", "")?,
            master: kubernetes.text("master", "")?,
        },
        terminal: Terminal {
            image: terminal.text("image", "alpine:3.15")?,
            timeout: terminal.number("timeout", 600)?,
        },
        auditing: Auditing {
            enable: auditing.flag("enable", false)?,
            webhook_url: auditing.text("webhookUrl", "")?,
        },
        monitoring_endpoint: root.section("monitoring")?.text("endpoint", "")?,
        gpu: root
            .section("gpu")?
            .list("kinds")?
            .iter()
            .map(|kind| {
                Ok(GpuKind {
                    resource_name: kind.text("resourceName", "")?,
                    resource_type: kind.text("resourceType", "")?,
                    default: kind.flag("default", false)?,
                })
            })
            .collect::<Result<_, ConfigError>>()?,
        raw: raw.clone(),
        findings,
    })
}

fn networks(section: &Section<'_>, key: &str) -> Result<Vec<Network>, ConfigError> {
    let parsed: Result<_, NoNetwork> = section
        .texts(key)?
        .iter()
        .map(|text| text.parse())
        .collect();
    parsed.map_err(|error| ConfigError::Value {
        path: format!("hub.{key}"),
        message: error.to_string(),
    })
}

fn image(section: &Section<'_>, key: &str) -> Result<Option<Image>, ConfigError> {
    let text = section.text(key, "")?;
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse();
    parsed
        .map(Some)
        .map_err(|error: NoImage| ConfigError::Value {
            path: format!("hub.{key}"),
            message: error.to_string(),
        })
}

fn oauth(section: &Section<'_>) -> Result<OauthOptions, ConfigError> {
    Ok(OauthOptions {
        issuer: section.text("issuer", "kubesphere")?,
        access_token_max_age: section.duration("accessTokenMaxAge")?.unwrap_or(TWO_HOURS),
        access_token_inactivity_timeout: section
            .duration("accessTokenInactivityTimeout")?
            .unwrap_or(TWO_HOURS),
        sign_key: section.text("signKey", "")?,
        sign_key_data: section.text("signKeyData", "")?.into(),
        identity_providers: section
            .list("identityProviders")?
            .iter()
            .map(|provider| {
                Ok(IdentityProvider {
                    name: provider.text("name", "")?,
                    kind: provider.text("type", "")?,
                    mapping_method: provider.text("mappingMethod", "")?,
                    disable_login_confirmation: provider.flag("disableLoginConfirmation", false)?,
                    provider: Raw(provider.any("provider")),
                })
            })
            .collect::<Result<_, ConfigError>>()?,
        clients: section
            .list("clients")?
            .iter()
            .map(|client| {
                Ok(OauthClient {
                    name: client.text("name", "")?,
                    secret: client.text("secret", "")?.into(),
                    redirect_uris: client.texts("redirectURIs")?,
                    respond_with_challenges: client.flag("respondWithChallenges", false)?,
                    grant_method: client.text("grantMethod", "")?,
                    scope_restrictions: client.texts("scopeRestrictions")?,
                    access_token_max_age: client.duration("accessTokenMaxAge")?,
                    access_token_inactivity_timeout: client
                        .duration("accessTokenInactivityTimeout")?,
                })
            })
            .collect::<Result<_, ConfigError>>()?,
    })
}
