//! What the host owns and its members hold copies of: users, roles, bindings, groups, workspaces (multicluster.md §6).
//!
//! The pure part says what a copy looks like ([`wanted`]) and what is to be done where the member holds this or that ([`decide`]); [`carry_out`]
//! does it. The reconciler in `controllers` follows the host's objects and calls these; [`ensure_user`] does it for one user at once, and
//! [`release`] takes the copies back from a member that leaves.
//!
//! Invariants:
//! * Only objects with our mark (the label [`HOST_LABEL`] with the host's identity) are ever deleted, and only those that were looked at: a deletion
//!   names the UID and the version that it saw.
//! * An object of the same name without a mark is taken over, and remembered as the member's own ([`TAKEN_OVER_ANNOTATION`]); one with the mark of
//!   another host is left alone.
//! * A password that is not hashed is copied nowhere, and the hash of one only to members that share the host's secret ([`takes_passwords`]).

mod compare;
mod copy;
mod ensure;
mod kind;
mod kubefed;
mod release;
mod write;

use std::{future::Future, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kah_api::cluster::Trust;
use kube::{Api, Client, api::DynamicObject};

use crate::SettingsError;

pub use compare::{Action, Ending, decide};
pub use copy::{Place, Wanted, wanted};
pub use ensure::{Ensured, check_user, ensure_user};
pub use kind::{KINDS, Kind, kind};
pub use kubefed::is_federated;
pub use release::{Released, release};
pub use write::{Pages, carry_out, member_client, read_copy, read_source};

/// Field manager of what we apply.
pub const FIELD_MANAGER: &str = "kubeaihub-propagation";
/// Label of a copy: the identity of the host that keeps it, which is the UID of its namespace kube-system.
pub const HOST_LABEL: &str = "hub.kubeaihub.io/host";
/// Annotation of a copy that was the member's own object before.
pub const TAKEN_OVER_ANNOTATION: &str = "hub.kubeaihub.io/taken-over";
/// What labels and annotations of ours begin with. They are never copied.
const OURS: &str = "hub.kubeaihub.io/";
/// For one answer of a kube-apiserver.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why something was not propagated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PropagateError {
    /// There is no such user on the host, or it is being deleted.
    #[error("users.iam.kubesphere.io {0:?} not found on the host")]
    UnknownUser(String),
    /// The source is not fit to be copied yet.
    #[error("{kind} {name} is not propagated yet: {reason}")]
    NotYet {
        /// Of the source.
        kind: &'static str,
        /// Of the source.
        name: String,
        /// What it waits for.
        reason: String,
    },
    /// Another host keeps it.
    #[error(
        "{kind} {name} on the member belongs to another host ({owner}); that one has to release it first"
    )]
    Foreign {
        /// Of the copy.
        kind: &'static str,
        /// Of the copy.
        name: String,
        /// The other host's identity.
        owner: String,
    },
    /// KubeFed does it.
    #[error("{0} is propagated by KubeFed on this host")]
    LeftToKubeFed(&'static str),
    /// There is no way to the member.
    #[error("reach the member's kube-apiserver: {0}")]
    Settings(SettingsError),
    /// The way leads to the host itself.
    #[error("the kubeconfig of this cluster leads to the host itself")]
    LeadsToHost,
    /// The way leads to another cluster than the Cluster object says.
    #[error(
        "the kubeconfig of this cluster leads to another one: its identity is {found}, not {expected}"
    )]
    LeadsElsewhere {
        /// `status.uid` of the Cluster.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A kube-apiserver said nothing.
    #[error("{doing}: no answer within {} s", PATIENCE.as_secs())]
    Silent {
        /// What was being tried.
        doing: String,
    },
    /// A kube-apiserver refused, or was not reached.
    #[error("{doing}")]
    Api {
        /// What was being tried.
        doing: String,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
}

impl PropagateError {
    /// Whether one object was refused, also by a webhook of the member that is broken, so that others may well be accepted.
    #[must_use]
    pub fn is_of_the_object(&self) -> bool {
        match self {
            Self::NotYet { .. } | Self::Foreign { .. } => true,
            Self::Api { source, .. } => matches!(&**source, kube::Error::Api(status)
                if !matches!(status.code, 401 | 408 | 429 | 502..=504)),
            _ => false,
        }
    }

    /// Whether somebody else changed the object meanwhile.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code == 409))
    }
}

/// Waits for the answer of a kube-apiserver, but not for ever.
async fn answered<T>(
    doing: impl FnOnce() -> String + Send,
    question: impl Future<Output = Result<T, kube::Error>> + Send,
) -> Result<T, PropagateError> {
    match tokio::time::timeout(PATIENCE, question).await {
        Err(_) => Err(PropagateError::Silent { doing: doing() }),
        Ok(Err(source)) => Err(PropagateError::Api {
            doing: doing(),
            source: Box::new(without_values(source)),
        }),
        Ok(Ok(answer)) => Ok(answer),
    }
}

/// An API server quotes the values that it finds invalid, and a password may be one.
fn without_values(error: kube::Error) -> kube::Error {
    match error {
        kube::Error::Api(mut status) if status.code == 422 => {
            let causes = status
                .details
                .iter_mut()
                .flat_map(|details| &mut details.causes);
            let fields = causes.map(|cause| {
                cause.message.clear();
                cause.field.clone()
            });
            let fields: Vec<String> = fields.collect();
            status.message = format!("invalid: {}", fields.join(", "));
            kube::Error::Api(status)
        }
        other => other,
    }
}

/// Whether the member behind this Cluster gets the hashes of users' passwords ([`share_passwords`]).
#[must_use]
pub fn takes_passwords(cluster: &DynamicObject) -> bool {
    let trust = cluster.data.pointer("/spec/trust").cloned();
    let trust = trust.map(serde_json::from_value::<Trust>).transpose();
    trust.is_ok_and(|trust| {
        share_passwords(trust.unwrap_or_default(), crate::trust::is_marked(cluster))
    })
}

/// Whether hashes of passwords go to a member of this trust: who can read them can guess passwords at leisure, and those are good at the host. A member
/// that shares the host's secret could sign for anybody anyway, and KubeSphere's may let users log in by themselves; a federated one never asks for a
/// password.
pub(crate) fn share_passwords(trust: Trust, undecided: bool) -> bool {
    trust == Trust::SharedSecret && !undecided
}

/// The host that keeps copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner(String);

impl Owner {
    /// By its identity.
    #[must_use]
    pub fn new(identity: impl Into<String>) -> Self {
        Self(identity.into())
    }

    /// Asks the host's kube-apiserver.
    ///
    /// # Errors
    /// [`PropagateError::Api`].
    pub async fn of(host: &Client) -> Result<Self, PropagateError> {
        answered(|| "read the identity of the host".into(), identity(host))
            .await
            .map(Self)
    }

    /// The identity.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The UID of namespace kube-system, which no other cluster has.
async fn identity(client: &Client) -> Result<String, kube::Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = namespaces.get("kube-system").await?;
    Ok(namespace.metadata.uid.unwrap_or_default())
}
