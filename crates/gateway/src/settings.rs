//! What of `kubesphere.yaml` the gateway itself acts on, prepared once for each configuration.

use kah_api::{config::Configuration, image::Image};
use kah_cluster::{guard::AddressGuard, tower::Tower};
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
        f.debug_struct("Client")
            .field("name", &self.name)
            .finish_non_exhaustive()
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
    /// `hub.allowedAddresses`
    pub guard: AddressGuard,
    /// `hub.agentImage`
    pub agent_image: Option<Image>,
    /// What agents of the original are told.
    pub tower: Tower,
}

impl From<&Configuration> for Settings {
    fn from(configuration: &Configuration) -> Self {
        let clients = configuration.authentication.oauth_options.clients.iter();
        Self {
            multicluster: configuration.multicluster.enable,
            cluster_role: configuration.multicluster.cluster_role.clone(),
            clients: clients
                .map(|client| Client {
                    name: client.name.clone(),
                    secret: client.secret().to_owned(),
                    redirect_uris: client.redirect_uris.clone(),
                })
                .collect(),
            oauth: configuration.oauth_view(),
            configz: serde_json::to_value(configuration.configz()).unwrap_or_default(),
            gpu_kinds: serde_json::to_value(configuration.gpu_kinds()).unwrap_or_default(),
            guard: AddressGuard::new(&configuration.hub.allowed_addresses),
            agent_image: configuration.hub.agent_image.clone(),
            tower: Tower {
                address: configuration.multicluster.proxy_publish_address.clone(),
                service: configuration.multicluster.proxy_publish_service.clone(),
                image: configuration.multicluster.agent_image.clone(),
            },
        }
    }
}

impl Settings {
    /// Hosts are asked by callers; so is a cluster of its own. Anything else may stand behind a host.
    pub(crate) fn place(&self) -> Place {
        if self.multicluster || self.cluster_role == "host" {
            Place::Host
        } else {
            Place::Member
        }
    }
}
