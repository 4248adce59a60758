//! Who the holder of a certificate is.

use rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

/// Who holds a certificate of the authority.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The agent of a member.
    Agent {
        /// Name of the Cluster.
        cluster: String,
        /// UID of the Cluster object: a cluster that leaves and comes back under its name is another one.
        uid: String,
    },
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
            Self::Agent { cluster, uid } => format!("kubeaihub:agent:{cluster}:{uid}"),
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
        let mut words = uri.strip_prefix("kubeaihub:")?.split(':');
        let identity = match (words.next()?, words.next()?, words.next(), words.next()) {
            ("agent", cluster, Some(uid), None) => Self::Agent {
                cluster: cluster.to_owned(),
                uid: uid.to_owned(),
            },
            ("peer", replica, None, None) => Self::Peer {
                replica: replica.to_owned(),
            },
            _ => return None,
        };
        identity.is_plain().then_some(identity)
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
            Self::Agent { cluster, uid } => plain(cluster) && plain(uid),
            Self::Peer { replica } => plain(replica),
        }
    }
}
