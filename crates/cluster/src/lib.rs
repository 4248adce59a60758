//! The fleet: which clusters there are, how each is reached, and why one cannot be.
//!
//! * [`Registry`] follows the Cluster objects and holds one [`Member`] for each.
//! * [`Member::forward`] sends a caller's request on, as multicluster.md §7 says, and names the reason where the member refuses.
//! * [`trust`] moves a member between the shared secret and tokens that this host mints for it alone.
//! * [`propagate`] says what members hold of the host's users, roles and workspaces.
//! * [`tunnel`] is the way to members that dial us; [`agent`] is their end of it.
//! * [`doctor`] turns an answer into findings for people.

mod account;
pub mod agent;
pub mod doctor;
pub mod enrol;
mod forward;
pub mod guard;
pub mod health;
mod host;
mod identity;
pub mod join;
mod kubeconfig;
mod kubernetes;
mod location;
mod member;
mod offer;
mod peek;
mod probe;
pub mod proof;
pub mod propagate;
mod refusal;
mod registry;
pub mod restore;
pub mod retry;
mod sandbox;
mod target;
pub mod tower;
pub mod trust;
pub mod tunnel;
pub mod validation;

pub use account::{AccountError, OwnKubernetes};
pub use forward::{
    CallerCredential, ForwardError, Hop, MemberRefusal, REFUSAL_HEADER, with_causes,
};
pub use host::{Host, clusters, within};
pub use identity::holder;
pub use kah_api::access::AccessCode;
pub use kubeconfig::{Kubeconfig, SettingsError};
pub use kubernetes::fault_of;
pub use location::Form;
pub use member::{Member, Readiness, Route};
pub use probe::{Answer, Heard};
pub use refusal::{Origin, code_of_answer, code_of_fault, code_of_unread};
pub use registry::Registry;
