//! Why access was not restored.

use kah_api::access::Remedy;

use super::Step;
use crate::{
    AccessCode, SettingsError, code_of_fault, fault_of, guard::GuardError,
    propagate::PropagateError,
};

/// Why access was not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// No such Cluster.
    #[error("clusters.cluster.kubesphere.io {0:?} not found")]
    Unknown(String),
    /// The cluster is the host itself.
    #[error("cluster {0} is the host itself: there is no way to it that could be lost")]
    IsHost(String),
    /// It is not decided how the member knows callers.
    #[error(
        "cluster {0} is joining, and how it knows callers is not decided: it becomes federated by itself if it offers that; `kah cluster trust {0} shared-secret` decides otherwise"
    )]
    Undecided(String),
    /// The member is a host of other members.
    #[error(
        "the cluster acts as a host of its own (multicluster.enable is true): to make it a member is a decision for people"
    )]
    ActsAsHost,
    /// A configuration cannot be read or edited.
    #[error("read kubesphere.yaml of {of}")]
    Configuration {
        /// Whose.
        of: &'static str,
        /// What is wrong with it; it quotes no value.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The host signs with nothing.
    #[error("the host has no jwtSecret that could be given to the member")]
    NoSecret,
    /// The member cannot be reached with what the host stores.
    #[error("reach the member's kube-apiserver: {0}")]
    Settings(SettingsError),
    /// A kubeconfig that was brought leads where no cluster is.
    #[error("kubeconfig: {0}")]
    Address(#[from] GuardError),
    /// A kubeconfig that was brought cannot be used.
    #[error("kubeconfig: {0}")]
    Kubeconfig(SettingsError),
    /// What was brought does not open the member.
    #[error("kubeconfig: it does not open the member: {evidence}")]
    Closed {
        /// The cause, where it is known.
        code: Option<AccessCode>,
        /// What shows it.
        evidence: String,
    },
    /// What was brought leads to another cluster than the one of this name.
    #[error(
        "kubeconfig: it leads to another cluster, whose identity is {found}; that of this one is {wanted}"
    )]
    Another {
        /// UID of the namespace kube-system there.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// What was brought leads to a cluster that has another name in the fleet.
    #[error("kubeconfig: it leads to the cluster {0}, which is in the fleet already")]
    Other(String),
    /// The member's certificate is signed by an authority that nobody has accepted yet.
    #[error(
        "the member's authority has changed: the host knows {known}, and the member shows {shown}. Compare it with the member's own, e.g. by `openssl x509 -noout -fingerprint -sha256 -in /etc/kubernetes/pki/ca.crt` there"
    )]
    Authority {
        /// SHA-256 of the one that is stored.
        known: String,
        /// SHA-256 of the one that signs what the member shows now.
        shown: String,
    },
    /// The member's certificate is not trusted, and it does not tell what signed it.
    #[error("the member's certificate is signed by an authority that it does not tell: {evidence}")]
    AuthorityUnknown {
        /// What was tried.
        evidence: String,
    },
    /// The stored credential tells no end, or is not one that could be replaced.
    #[error("the stored credential cannot be replaced: {0}")]
    NotRenewable(String),
    /// The member's kube-apiserver did not answer a write.
    #[error(
        "the member's kube-apiserver did not answer in time: run it again, it is finished or undone then"
    )]
    Silent,
    /// The host does not follow its own change of the Cluster.
    #[error("the host has not seen the new connection of the Cluster in time: try again")]
    Late,
    /// A kube-apiserver refused, or was not reached.
    #[error("{doing}")]
    Api {
        /// What was being tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// The host's keys could not be published.
    #[error("tell the member the keys of this host")]
    Keys(#[source] Box<crate::trust::TrustError>),
    /// The caller's User was not brought to the member.
    #[error("bring the user and its roles to the member")]
    User {
        /// Why the member refuses the user, where it was asked just now.
        code: Option<AccessCode>,
        /// What is in the way.
        #[source]
        source: Box<PropagateError>,
    },
    /// Another run is at it.
    #[error("access is being restored by {by}, at step {step:?}: wait for it to end")]
    Busy {
        /// Who asked for that one.
        by: String,
        /// Where it stands.
        step: Step,
    },
    /// Something else is to be done by now than what was agreed to.
    #[error("what is to be done has changed since it was agreed to; it is now: {0}")]
    Otherwise(String),
    /// It is nothing that a change on the member could cure.
    #[error("this cannot be repaired from here: {evidence}")]
    NotRepairable {
        /// The cause.
        code: Option<AccessCode>,
        /// What shows it.
        evidence: String,
    },
    /// The member still refuses; all is as it was.
    #[error("the member still refuses after the change, so everything was put back: {evidence}")]
    NotProven {
        /// The cause.
        code: Option<AccessCode>,
        /// What shows it.
        evidence: String,
    },
    /// It did not help, and the old text could not be put back.
    #[error(
        "the member still refuses, and somebody else has changed its configuration meanwhile: it was left as it is ({evidence})"
    )]
    NotUndone {
        /// What shows it.
        evidence: String,
    },
    /// The observer ended the run, as a killed process would.
    #[error("the run was ended at step {0:?}")]
    Ended(Step),
}

impl RestoreError {
    /// Whether somebody else wrote first.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code == 409))
    }

    /// Whether a kube-apiserver has said no, so that nothing was written.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if (400..500).contains(&status.code)))
    }

    /// Whether it stays so until people change something, whoever tries again.
    pub(super) fn is_for_people(&self) -> bool {
        matches!(self, Self::User { source, .. } if matches!(**source,
            PropagateError::UnknownUser(_)
                | PropagateError::NotYet { .. }
                | PropagateError::Foreign { .. }
                | PropagateError::LeftToKubeFed(_)))
    }

    /// The cause of the lost access, where it is known.
    #[must_use]
    pub fn code(&self) -> Option<AccessCode> {
        match self {
            Self::NotRepairable { code, .. }
            | Self::NotProven { code, .. }
            | Self::Closed { code, .. } => *code,
            Self::Configuration {
                of: "the member", ..
            } => Some(AccessCode::ConfigUnreadable),
            Self::ActsAsHost => Some(AccessCode::WrongRole),
            Self::Undecided(_) => Some(AccessCode::TrustUndecided),
            Self::Silent => Some(AccessCode::MemberUnreachable),
            Self::Settings(error) => Some(error.code()),
            Self::Authority { .. } | Self::AuthorityUnknown { .. } => {
                Some(AccessCode::TLSUntrusted)
            }
            Self::Another { .. } | Self::Other(_) | Self::NotRenewable(_) => {
                Some(AccessCode::CredentialRejected)
            }
            Self::Api { source, .. } => code_of(source),
            Self::User { code, source } => match &**source {
                PropagateError::Settings(error) => Some(error.code()),
                PropagateError::Api { source, .. } => code_of(source).or(*code),
                _ => *code,
            },
            _ => None,
        }
    }

    /// What a person can do instead, for the Cluster of this name.
    #[must_use]
    pub fn advice(&self, cluster: &str) -> Option<String> {
        let text = match self {
            Self::Busy { .. } => {
                "Try again in a minute; what was cut off is finished then.".to_owned()
            }
            Self::Otherwise(_) => {
                format!("Run `kah restore-access {cluster}` again and look at the new plan.")
            }
            _ => self.remedy()?.text_for(cluster),
        };
        Some(match self {
            Self::Authority { shown, .. } => text.replace("FINGERPRINT", shown),
            _ => text,
        })
    }

    /// What a person can do instead.
    #[must_use]
    pub fn remedy(&self) -> Option<Remedy> {
        const BRING: &[&str] = &["kah restore-access CLUSTER --kubeconfig FILE"];
        const ACCEPT: &[&str] = &["kah restore-access CLUSTER --accept-ca FINGERPRINT"];
        let bring = Remedy {
            text: "Give a current kubeconfig of this cluster with `kah restore-access CLUSTER --kubeconfig FILE`.",
            commands: BRING,
        };
        match self {
            Self::User { source, .. } => match &**source {
                PropagateError::LeftToKubeFed(_) => Some(Remedy {
                    text: "KubeFed brings users and roles to members on this host: see that the FederatedUser of this name is placed on this cluster, and that KubeFed reaches it.",
                    commands: &["kubectl get federatedusers.types.kubefed.io -o yaml"],
                }),
                PropagateError::Foreign { .. } => Some(Remedy {
                    text: "Have the other host let the cluster go (`kah cluster leave` there); if that host is no more, take its label hub.kubeaihub.io/host from the object on the member.",
                    commands: &[
                        "kubectl get users.iam.kubesphere.io,globalrolebindings.iam.kubesphere.io,globalroles.iam.kubesphere.io --show-labels",
                    ],
                }),
                _ => self.code().map(AccessCode::remedy),
            },
            Self::Authority { .. } => Some(Remedy {
                text: "If the new fingerprint is the member's, give it with `kah restore-access CLUSTER --accept-ca FINGERPRINT`.",
                commands: ACCEPT,
            }),
            Self::ActsAsHost => Some(Remedy {
                text: "Decide at the member: set multicluster.enable to false and multicluster.clusterRole to member there.",
                commands: &[],
            }),
            _ => match self.code()? {
                AccessCode::CredentialRejected | AccessCode::TLSUntrusted => Some(bring),
                AccessCode::ConfigUnreadable if matches!(self, Self::Settings(_)) => Some(bring),
                code => Some(code.remedy()),
            },
        }
    }
}

fn code_of(error: &kube::Error) -> Option<AccessCode> {
    match error {
        kube::Error::Api(status) if status.code == 401 => Some(AccessCode::CredentialRejected),
        error => fault_of(error).and_then(code_of_fault),
    }
}
