//! The version answer of `/kapis/version` and `/version` (gateway.md §6).

use serde::{Deserialize, Serialize};

/// What a build says about itself; key order is that of the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Version {
    /// For example `v3.4.1`.
    pub git_version: String,
    /// Major number.
    pub git_major: String,
    /// Minor number.
    pub git_minor: String,
    /// Commit, or `unknown`.
    pub git_commit: String,
    /// `clean`, `dirty` or `unknown`.
    pub git_tree_state: String,
    /// RFC 3339, or `unknown`.
    pub build_date: String,
    /// The field is called so for compatibility; it names the compiler's version.
    pub go_version: String,
    /// The compiler.
    pub compiler: String,
    /// For example `linux/amd64`.
    pub platform: String,
    /// The kube-apiserver's own answer to `/version`; left out when it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<serde_json::Value>,
}

impl Version {
    /// The version of this build: we speak the API of 3.4 and say so.
    #[must_use]
    pub fn current() -> Self {
        Self {
            git_version: "v3.4.1".into(),
            git_major: "3".into(),
            git_minor: "4".into(),
            git_commit: option_env!("KAH_GIT_COMMIT").unwrap_or("unknown").into(),
            git_tree_state: "clean".into(),
            build_date: option_env!("KAH_BUILD_DATE").unwrap_or("unknown").into(),
            go_version: concat!("kube-ai-hub/", env!("CARGO_PKG_VERSION")).into(),
            compiler: "rustc".into(),
            platform: format!("{}/{}", std::env::consts::OS, architecture()),
            kubernetes: None,
        }
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
