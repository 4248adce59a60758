//! `kubesphere.yaml`: read as the original's running processes read it (configuration.md §1 and §3).
//!
//! Keys match in any letter case; unknown ones are kept and reported, never fatal; null is absent; of
//! duplicate keys the last wins; types are weak (YAML 1.1 booleans, numbers as text).

pub mod edit;
mod options;
mod reader;
mod schema;
mod tree;
mod view;

use std::{collections::BTreeMap, fmt};

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

pub use options::*;

/// Everything of `kubesphere.yaml`. Sections that this program does not act on are in [`Configuration::raw`].
#[derive(Debug, Clone)]
pub struct Configuration {
    /// Who may log in, and how tokens are made and checked.
    pub authentication: Authentication,
    /// `RBAC`, `AlwaysAllow` or `AlwaysDeny`; anything else is refused by [`Configuration::validate`].
    pub authorization_mode: String,
    /// Host or member.
    pub multicluster: Multicluster,
    /// What is ours alone.
    pub hub: Hub,
    /// Where tokens are remembered.
    pub cache: Cache,
    /// How to reach the cluster's own API.
    pub kubernetes: Kubernetes,
    /// Node shells.
    pub terminal: Terminal,
    /// Audit log.
    pub auditing: Auditing,
    /// `monitoring.endpoint`; may be empty (differences.md R7).
    pub monitoring_endpoint: String,
    /// Kinds of GPU.
    gpu: Vec<GpuKind>,
    /// All of the file, keys in lower case except within lists, environment applied. Holds secrets: never print it.
    raw: Raw,
    findings: Vec<Finding>,
}

/// The whole file as a value, which no debug output shows.
#[derive(Clone)]
pub(crate) struct Raw(pub(crate) serde_json::Value);

impl fmt::Debug for Raw {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[hidden]")
    }
}

/// A key that nothing reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The key with those above it, separated by dots.
    pub path: String,
    /// Line in the file, from 1.
    pub line: usize,
    /// The key that was probably meant.
    pub suggestion: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}: unknown key {}", self.line, self.path)?;
        match &self.suggestion {
            Some(key) => write!(formatter, ", did you mean {key}?"),
            None => Ok(()),
        }
    }
}

/// Why a file cannot be used. The one who wrote the file is at fault; trying again does not help. No error
/// holds a value of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No YAML, or nested or repeated beyond any sense.
    #[error("read kubesphere.yaml, line {line}: {message}")]
    Syntax {
        /// From 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A value that its key cannot take.
    #[error("read kubesphere.yaml, key {path}: {message}")]
    Value {
        /// Keys separated by dots.
        path: String,
        /// What was expected.
        message: String,
    },
    /// Values that cannot be used together; the texts are the original's.
    #[error("validate kubesphere.yaml: [{}]", .0.join(", "))]
    Invalid(Vec<String>),
}

impl Configuration {
    /// Reads the text of a file. `environment` is looked up for `KUBESPHERE_…` of every key that the file has.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`] and [`ConfigError::Value`]; call [`Configuration::validate`] for the rest.
    pub fn read(text: &str, environment: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let tree = tree::Node::parse(text)?;
        let findings = schema::unknown_keys(&tree);
        let mut raw = tree.to_value(true);
        reader::override_from(&mut raw, environment);
        options::read(Raw(raw), findings)
    }

    /// Checks what the original checks at start.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with all texts.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut texts = Vec::new();
        let authentication = &self.authentication;
        if authentication.jwt_secret.is_empty() {
            texts.push("JWT secret MUST not be empty".to_owned());
        }
        if authentication.authenticate_rate_limiter_max_tries
            > authentication.login_history_maximum_entries
        {
            texts.push(
                "authenticateRateLimiterMaxTries MUST not be greater than loginHistoryMaximumEntries".to_owned(),
            );
        }
        if !["RBAC", "AlwaysAllow", "AlwaysDeny"].contains(&self.authorization_mode.as_str()) {
            texts.push(format!(
                "authorization mode {} not support",
                self.authorization_mode
            ));
        }
        if !["InMemoryCache", "redis"].contains(&self.cache.kind.as_str()) {
            texts.push(format!(
                "cache with type {} is not supported",
                self.cache.kind
            ));
        }
        if texts.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::Invalid(texts))
        }
    }

    /// Keys that nothing reads, in the order of the file.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// `configs/gpu/kinds`.
    #[must_use]
    pub fn gpu_kinds(&self) -> &[GpuKind] {
        &self.gpu
    }
}

/// The key that signs tokens.
#[derive(Debug, Clone)]
pub struct JwtSecret(SecretString);

impl JwtSecret {
    /// Takes the text of `authentication.jwtSecret`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// Whether none is configured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.expose_secret().is_empty()
    }

    /// The bytes, for signing only.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret().as_bytes()
    }

    /// What may be compared and shown in its place: HMAC-SHA-256 under a key that is made anew for each
    /// comparison, the first 16 hexadecimal digits. Without the key nobody can try secrets against it.
    #[must_use]
    pub fn fingerprint(&self, key: &[u8]) -> String {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
        let tag = aws_lc_rs::hmac::sign(&key, self.expose());
        tag.as_ref()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

#[cfg(test)]
mod tests;
