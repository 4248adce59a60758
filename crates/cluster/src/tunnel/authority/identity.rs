//! Who the holder of a certificate is.

use rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

/// The agent of a member.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AgentIdentity {
    /// Name of the Cluster.
    pub cluster: String,
    /// UID of the Cluster object: a cluster that leaves and comes back under its name is another one.
    pub uid: String,
    /// How often the cluster has enrolled anew before this agent did. What was issued before the last time is good for nothing, so that a certificate
    /// which somebody took ends without the cluster leaving.
    pub generation: u64,
}

impl AgentIdentity {
    /// The one that enrols first.
    #[must_use]
    pub fn first(cluster: &str, uid: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            uid: uid.to_owned(),
            generation: 0,
        }
    }
}

/// Who holds a certificate of the authority.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The agent of a member.
    Agent(AgentIdentity),
    /// A replica of the host.
    Peer {
        /// Its name.
        replica: String,
    },
}

impl Identity {
    /// As it stands in a certificate.
    #[must_use]
    pub fn uri(&self) -> String {
        match self {
            Self::Agent(AgentIdentity {
                cluster,
                uid,
                generation: 0,
            }) => format!("kubeaihub:agent:{cluster}:{uid}"),
            Self::Agent(AgentIdentity {
                cluster,
                uid,
                generation,
            }) => format!("kubeaihub:agent:{cluster}:{uid}:{generation}"),
            Self::Peer { replica } => format!("kubeaihub:peer:{replica}"),
        }
    }

    /// Reads the only URI of a certificate whose chain was verified already.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = parse_x509_certificate(certificate).ok()?;
        let names = parsed.subject_alternative_name().ok()??;
        let mut uris = names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            });
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return None;
        };
        let words: Vec<&str> = uri.strip_prefix("kubeaihub:")?.split(':').collect();
        let identity = match words.as_slice() {
            ["agent", cluster, uid] => Self::Agent(AgentIdentity::first(cluster, uid)),
            ["agent", cluster, uid, generation] => Self::Agent(AgentIdentity {
                generation: generation.parse().ok()?,
                ..AgentIdentity::first(cluster, uid)
            }),
            ["peer", replica] => Self::Peer {
                replica: (*replica).to_owned(),
            },
            _ => return None,
        };
        // One identity has one form.
        (identity.is_plain() && identity.uri() == uri).then_some(identity)
    }

    /// Nothing in it could be read as something else.
    pub(super) fn is_plain(&self) -> bool {
        let plain = |text: &str| {
            (1..=253).contains(&text.len())
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
        };
        match self {
            Self::Agent(agent) => plain(&agent.cluster) && plain(&agent.uid),
            Self::Peer { replica } => plain(replica),
        }
    }
}
