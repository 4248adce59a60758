//! Why trust was not moved, and keys were not published.

use kah_api::cluster::Trust;
use kah_iam::federated::KeysError;

use crate::{AccessCode, SettingsError, join::JoinError, proof::ProofError, restore::RestoreError};

/// Why trust was not moved, or keys were not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// No such Cluster.
    #[error("clusters.cluster.kubesphere.io {0:?} not found")]
    Unknown(String),
    /// The cluster is the host itself.
    #[error("cluster {0} is the host itself: it trusts its own tokens")]
    IsHost(String),
    /// The member does not know callers by tokens of a host.
    #[error(
        "cluster {cluster} does not offer federated trust ({evidence}): only members that run Kube AI Hub do; it stays as it is"
    )]
    NotOffered {
        /// The Cluster's name.
        cluster: String,
        /// What shows it.
        evidence: String,
    },
    /// It is not known whether the member knows callers by tokens of a host.
    #[error("cluster {cluster} does not say what trust it offers: {evidence}")]
    Unasked {
        /// The Cluster's name.
        cluster: String,
        /// The cause, where it is known.
        code: Option<AccessCode>,
        /// What shows it.
        evidence: String,
    },
    /// The way to callers' answers and the way to the kube-apiserver lead to different clusters.
    #[error(
        "cluster {cluster} is another one than it should be: its identity is {found:?} and not {known:?}"
    )]
    Other {
        /// The Cluster's name.
        cluster: String,
        /// As it says itself.
        found: String,
        /// As is known.
        known: String,
    },
    /// Its identity is that of another Cluster, or it could not be found out whether it is.
    #[error("look whether the cluster is in the fleet under another name")]
    Known(#[source] Box<JoinError>),
    /// Another host has told the member whom to trust.
    #[error(
        "the member trusts another host, {0}, and is left alone. Where it is to belong to this one, take that away on the member, \
         `kubectl -n kubesphere-system delete configmap hub-trust`, and try again"
    )]
    Foreign(String),
    /// A move of the other direction is under way.
    #[error("trust is being moved to {} by {by}: wait for that to end", to.as_str())]
    Busy {
        /// Who asked for it.
        by: String,
        /// Which way.
        to: Trust,
    },
    /// It was to become federated by itself, and somebody has decided otherwise.
    #[error("the trust of cluster {0} was decided by somebody meanwhile; it stays as it is")]
    Decided(String),
    /// The member was told, and still refuses.
    #[error("the member does not accept the host's tokens, so nothing was moved: {evidence}")]
    NotAccepted {
        /// The cause.
        code: Option<AccessCode>,
        /// What shows it.
        evidence: String,
    },
    /// The shared secret could not be made to work.
    #[error("make the member accept the shared secret")]
    Restore(#[source] Box<RestoreError>),
    /// The member cannot be reached with what the host stores.
    #[error("reach the member's kube-apiserver: {0}")]
    Settings(SettingsError),
    /// It is not known which cluster this is.
    #[error("the identity of cluster {0} is not known: status.uid is empty")]
    NoIdentity(String),
    /// The host itself has nothing to show to a member.
    #[error("there is nothing to prove access with")]
    Proof(#[source] ProofError),
    /// The host's keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// A kube-apiserver refused, or was not reached.
    #[error("{doing}")]
    Api {
        /// What was being tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("{0}: no answer in time")]
    Silent(&'static str),
}

impl TrustError {
    /// The cause of the lost access, where it is known.
    #[must_use]
    pub fn code(&self) -> Option<AccessCode> {
        match self {
            Self::NotAccepted { code, .. } | Self::Unasked { code, .. } => *code,
            Self::Restore(error) => error.code(),
            _ => None,
        }
    }

    /// What to do, for the Cluster of this name, where the cause is known.
    #[must_use]
    pub fn advice(&self, cluster: &str) -> Option<String> {
        let code = self.code()?;
        Some(match self {
            // It was told the host's keys just now: no secret that both know has a part in it.
            Self::NotAccepted { .. } if code == AccessCode::SignatureInvalid => {
                "See in the log of the member's ks-apiserver why it does not take the keys in the ConfigMap hub-trust, and that its multicluster.clusterRole is member; then try again.".to_owned()
            }
            _ => code.remedy().text_for(cluster),
        })
    }

    fn status(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            _ => None,
        }
    }

    pub(super) fn is_conflict(&self) -> bool {
        self.status() == Some(409)
    }

    pub(super) fn is_absent(&self) -> bool {
        self.status() == Some(404)
    }
}

pub(super) fn failed(doing: &'static str) -> impl FnOnce(kube::Error) -> TrustError {
    move |source| TrustError::Api {
        doing,
        source: Box::new(source),
    }
}
