//! What of `kubesphere.yaml` the gateway itself acts on, prepared once for each configuration.

use serde_json::Value;

use crate::edge::Place;

/// A registered OAuth client.
#[derive(Clone, PartialEq, Eq)]
pub struct Client {
    /// `client_id`
    pub name: String,
    /// `client_secret`; an empty one matches an empty one.
    pub secret: String,
    /// Where it lives.
    pub redirect_uris: Vec<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The settings that are in force.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `multicluster.enable`: paths that name a member lead there.
    pub multicluster: bool,
    /// `multicluster.clusterRole`
    pub cluster_role: String,
    /// `authentication.oauthOptions.clients`
    pub clients: Vec<Client>,
    /// The answer of `configs/oauth`, which holds no secret.
    pub oauth: Value,
    /// The answer of `configs/configz`.
    pub configz: Value,
    /// The answer of `configs/gpu/kinds`.
    pub gpu_kinds: Value,
}

impl Settings {
    /// Hosts are asked by callers; so is a cluster of its own. Anything else may stand behind a host.
    pub(crate) fn place(&self) -> Place {
        if self.multicluster || self.cluster_role == "host" { Place::Host } else { Place::Member }
    }
}
